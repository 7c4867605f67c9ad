from typing import Any

import numpy as np
import pytest
from dicoms import build, dataset, to_bytes
from imagecodecs import jpeg2k_encode, jpegls_encode, ljpeg_encode
from numpy.typing import NDArray
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from rasters import close

from cxrdemo.files import read_radiograph


def chest(top: int, low: int = 0) -> NDArray[Any]:
    """A smooth picture with a few sharp edges, as a radiograph is, from low to top."""
    y, x = np.mgrid[0:96, 0:120]
    wave = 0.5 + 0.25 * np.sin(x / 17) + 0.25 * np.cos(y / 13)
    wave[10:20, 90:110] = 1.0
    wave[:4] = 0.0
    return low + np.rint(wave * (top - low)).astype(np.int64)


def shown(pixels: NDArray[Any]) -> NDArray[Any]:
    return (pixels - pixels.min()) / np.ptp(pixels)


@pytest.mark.parametrize(("stated", "used"), [(10, 12), (8, 16), (12, 14), (15, 16), (12, 13)])
@pytest.mark.parametrize("evidence", ["pixels", "largest", "window"])
def test_bits_stored_smaller_than_the_pixels_use(stated: int, used: int, evidence: str) -> None:
    pixels = chest(2**used - 1)
    elements: dict[str, Any] = {}
    if evidence == "largest":
        elements = {"SmallestImagePixelValue": 0, "LargestImagePixelValue": 2**used - 1}
    elif evidence == "window":
        elements = {"window": (2 ** (used - 1), 2**used)}
    radiograph = read_radiograph(build(pixels.astype(np.uint16), bits_stored=stated, **elements))
    close(radiograph.pixels, pixels / (2**used - 1))
    assert f"{stated} bits are stored, but the pixels use {used}" in radiograph.source.warnings[0]
    assert radiograph.source.bit_depth == used


@pytest.mark.parametrize("rubbish", ["ones", "overlay", "noise", "stripes"])
@pytest.mark.parametrize("voi", [False, True])
def test_what_lies_above_the_stored_bits_is_cleared(rubbish: str, voi: bool) -> None:
    pixels = chest(4095)
    above = {
        "ones": np.full(pixels.shape, 15),
        "overlay": (np.indices(pixels.shape).sum(axis=0) % 23 < 2).astype(int),
        "noise": np.random.default_rng(0).integers(0, 16, pixels.shape),
        "stripes": np.indices(pixels.shape)[0] // 8 % 2,
    }[rubbish]
    words = (pixels | above << 12).astype(np.uint16)
    window = (2048, 4096) if voi else None
    radiograph = read_radiograph(build(words, window=window))
    close(radiograph.pixels, pixels / 4095)
    assert radiograph.source.warnings == ()


@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1],
)
def test_overlay_bits_are_cleared_whatever_the_encoding(syntax: Any) -> None:
    pixels = chest(4095)
    text = np.zeros(pixels.shape, np.int64)
    text[40:60:3, 20:70:2] = 1
    words = (pixels | text << 12).astype(np.uint16)
    frame = {
        JPEG2000Lossless: lambda: jpeg2k_encode(words, level=0, codecformat="j2k"),
        JPEGLSLossless: lambda: jpegls_encode(words),
        JPEGLosslessSV1: lambda: ljpeg_encode(words, bitspersample=16),
    }.get(syntax)
    if frame is None:
        data = build(words, window=(2048, 4096), syntax=syntax)
    else:
        data = build(words, window=(2048, 4096), syntax=syntax, frame=frame())
    radiograph = read_radiograph(data)
    close(radiograph.pixels, pixels / 4095)
    assert radiograph.source.warnings == ()


def test_an_overlay_that_the_header_names_is_cleared_whatever_the_pixels_look_like() -> None:
    smooth = chest(2**14 - 1)  # with all of its bits, that is
    ds = dataset(smooth.astype(np.uint16), bits_stored=12)
    close(read_radiograph(to_bytes(ds)).pixels, shown(smooth))
    ds.add_new((0x6002, 0x0102), "US", 12)
    close(read_radiograph(to_bytes(ds)).pixels, shown(smooth % 2**12))


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("evidence", ["pixels", "largest", "window"])
def test_unsigned_pixels_that_the_header_calls_signed(bits: int, evidence: str) -> None:
    pixels = chest(2**bits - 1)
    elements: dict[str, Any] = {"PixelRepresentation": 1}
    if evidence == "largest" and bits < 16:  # as a signed number it cannot say so of 16 bits
        elements["LargestImagePixelValue"] = 2**bits - 1
    elif evidence == "window":
        elements["window"] = (2 ** (bits - 1), 2**bits)
    radiograph = read_radiograph(build(pixels.astype(np.uint16), bits_stored=bits, **elements))
    close(radiograph.pixels, pixels / (2**bits - 1))
    assert "signed, but they are unsigned" in radiograph.source.warnings[0]


@pytest.mark.parametrize("window", [None, (0, 3000), (900, 700), (-1500, 900)])
@pytest.mark.parametrize("bits", [12, 16])
def test_signed_pixels_are_left_signed(window: Any, bits: int) -> None:
    pixels = chest(2 ** (bits - 1) - 1, -(2 ** (bits - 1)))
    radiograph = read_radiograph(build(pixels.astype(np.int16), bits_stored=bits, window=window))
    assert radiograph.source.warnings == ()
    if window is None:
        close(radiograph.pixels, shown(pixels))


@pytest.mark.parametrize("evidence", ["smallest", "window"])
def test_signed_pixels_that_the_header_calls_unsigned(evidence: str) -> None:
    pixels = chest(900, -1000)
    window = (-50, 1901) if evidence == "window" else None
    ds = dataset(pixels.astype(np.int16).view(np.uint16), bits_stored=16, window=window)
    if evidence == "smallest":
        ds.add_new("SmallestImagePixelValue", "SS", -1000)
    radiograph = read_radiograph(to_bytes(ds))
    close(radiograph.pixels, (pixels + 1000) / 1900, 1e-3)
    assert "unsigned, but they are signed" in " ".join(radiograph.source.warnings)


def test_sharp_edges_of_an_unsigned_image_are_no_change_of_sign() -> None:
    pixels = chest(4095)
    pixels[30:60, 30:60] = np.indices((30, 30)).sum(axis=0) % 2 * 4095  # a marker, black on white
    radiograph = read_radiograph(build(pixels.astype(np.uint16)))
    close(radiograph.pixels, pixels / 4095)
    assert radiograph.source.warnings == ()


@pytest.mark.parametrize("stored", [0, 17, 40])
def test_an_impossible_number_of_bits_is_replaced_and_told(stored: int) -> None:
    pixels = chest(4095)
    data = build(pixels.astype(np.uint16), BitsStored=stored, HighBit=11)
    radiograph = read_radiograph(data)
    close(radiograph.pixels, pixels / 4095)
    assert "12 were taken" in radiograph.source.warnings[0]


def test_a_lossy_encoding_that_overshoots_does_not_wrap() -> None:
    pixels = chest(4095)
    pixels[15, 95:100] = 4098  # beyond 12 bits, where the picture is white
    radiograph = read_radiograph(build(pixels.astype(np.uint16), window=(2048, 4096)))
    close(radiograph.pixels, np.minimum(pixels, 4095) / 4095)
    assert "the pixels use 13" in radiograph.source.warnings[0]
