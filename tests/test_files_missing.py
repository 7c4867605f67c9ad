"""Parts that are missing in files that end as they should: told, or the file is refused."""

import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from dicoms import build, ramp
from imagecodecs import jpeg2k_encode, jpegls_encode, ljpeg_encode
from numpy.typing import NDArray
from PIL import Image
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)
from rasters import GREY8, assert_refused, chunk, close, encoded, png

from cxrdemo.errors import UnreadableImageError
from cxrdemo.files import read_radiograph

END_OF_IMAGE = b"\xff\xd9"


def film(side: int = 128, seed: int = 0) -> NDArray[np.uint8]:
    """Soft shapes with a little noise, as a compressor expects them."""
    rng = np.random.default_rng(seed)
    soft = cv2.resize(rng.integers(20, 230, (8, 8)).astype(np.uint8), (side, side))
    return np.clip(soft + rng.normal(0, 4, (side, side)), 1, 254).astype(np.uint8)


def scans_of(data: bytes) -> list[int]:
    """Where each pass of a JPEG begins."""
    return [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]


@pytest.mark.parametrize("colour_type", [0, 2, 4, 6])
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_png_without_its_last_rows_is_told(colour_type: int, share: float) -> None:
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    samples = np.stack([GREY8] * channels, axis=-1) if channels > 1 else GREY8
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    whole = png(samples, colour_type)
    cut = zlib.compress(rows[: int(len(rows) * share)])
    data = whole[:33] + chunk(b"IDAT", cut) + chunk(b"IEND", b"")
    assert read_radiograph(whole).source.warnings == ()
    (warning,) = read_radiograph(data).source.warnings
    assert f"only {int(len(rows) * share) / len(rows):.0%} of its pixels" in warning


@pytest.mark.parametrize(("height", "told"), [(127, True), (70, True), (128, False)])
def test_a_png_that_holds_more_rows_than_it_states_is_told(height: int, told: bool) -> None:
    whole = png(film(), 0)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 128, height, 8, 0, 0, 0, 0))
    radiograph = read_radiograph(whole[:8] + head + whole[8 + len(head) :])
    assert radiograph.hw == (height, 128)
    assert any("more pixels" in text for text in radiograph.source.warnings) == told


def test_whole_pngs_of_all_kinds_are_not_called_cut() -> None:
    for bits in (1, 2, 4, 8):
        indices = (ramp(0, 2**bits - 1, np.uint8)).astype(np.uint8)
        image = Image.fromarray(indices).convert("P")
        data = encoded(image, "PNG", bits=bits)
        assert not any("of its pixels" in told for told in read_radiograph(data).source.warnings)
    interlaced = png_encode_interlaced(GREY8)
    close(read_radiograph(interlaced).pixels, GREY8 / 255, 1e-6)
    assert read_radiograph(interlaced).source.warnings == ()


ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip


def png_encode_interlaced(samples: NDArray[Any], passes: int = 7) -> bytes:
    rows = b""
    for x, y, step_x, step_y in ADAM7[:passes]:
        rows += b"".join(b"\0" + row.tobytes() for row in samples[y::step_y, x::step_x])
    height, width = samples.shape
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", head),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_cut_and_ended_properly_is_told(mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    data = encoded(Image.fromarray(noise).convert(mode), "JPEG", quality=90)
    assert read_radiograph(data).source.warnings == ()
    (warning,) = read_radiograph(data[: len(data) // 2] + b"\xff\xd9").source.warnings
    assert "cut short" in warning


def test_black_and_white_bars_are_no_sign_of_a_cut() -> None:
    for tone in (0, 255):
        framed = np.random.default_rng(0).integers(10, 240, (160, 128), dtype=np.uint8)
        framed[0, 0], framed[1, 0], framed[120:] = 0, 255, tone
        data = encoded(Image.fromarray(framed), "JPEG", quality=100)
        assert read_radiograph(data).source.warnings == ()


def test_a_compressed_bar_that_is_not_quite_black_is_no_sign_of_a_cut() -> None:
    picture = film()
    picture[45:] = 0  # within a block of the compression
    data = encoded(Image.fromarray(picture).convert("RGB"), "JPEG", quality=23)
    radiograph = read_radiograph(data)
    assert radiograph.pixels.min() < radiograph.pixels[-1, -1]
    assert radiograph.source.warnings == ()


@pytest.mark.parametrize("passes", range(1, 7))
def test_an_interlaced_png_without_its_last_passes_is_told(passes: int) -> None:
    data = png_encode_interlaced(GREY8, passes)
    (warning,) = read_radiograph(data).source.warnings
    assert "of its pixels" in warning


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_progressive_jpeg_without_its_last_passes_is_told(mode: str) -> None:
    data = encoded(Image.fromarray(film()).convert(mode), "JPEG", progressive=True, quality=90)
    assert read_radiograph(data).source.warnings == ()
    _, *later = scans_of(data)
    assert len(later) > 3
    for at in later:
        (warning,) = read_radiograph(data[:at] + END_OF_IMAGE).source.warnings
        assert "last passes of this JPEG are missing" in warning


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_progressive_jpeg_whose_last_pass_ends_early_is_told(share: float) -> None:
    data = encoded(Image.fromarray(film()), "JPEG", progressive=True, quality=90)
    last = scans_of(data)[-1] + 10
    cut = data[: last + int(share * (len(data) - last))]
    (warning,) = read_radiograph(cut + END_OF_IMAGE).source.warnings
    assert "missing or coarser" in warning


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 4}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_ends_early_is_told_however_little_is_missing(options: Any, dark: bool) -> None:
    picture = film()
    picture[64:] = 0 if dark else picture[64:]  # what is missing may look like a border
    data = encoded(Image.fromarray(picture), "JPEG", quality=90, **options)
    assert read_radiograph(data).source.warnings == ()
    start = scans_of(data)[0] + 10
    for share in (0.3, 0.6, 0.97):
        cut = data[: start + int(share * (len(data) - start))]
        (warning,) = read_radiograph(cut + END_OF_IMAGE).source.warnings
        assert "the file was cut short" in warning, share


def test_a_jpeg_cut_where_it_restarts_is_told() -> None:
    data = encoded(Image.fromarray(film()), "JPEG", quality=90, restart_marker_rows=1)
    assert read_radiograph(data).source.warnings == ()
    (warning,) = read_radiograph(data[: data.rindex(b"\xff\xd4")] + END_OF_IMAGE).source.warnings
    assert "the file was cut short" in warning


@pytest.mark.parametrize("syntax", [JPEGBaseline8Bit, JPEGLosslessSV1])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_in_dicom_is_told_likewise(syntax: Any, progressive: bool) -> None:
    picture = film()
    if syntax == JPEGLosslessSV1:
        frame = bytes(ljpeg_encode(picture, bitspersample=8))
    else:
        frame = encoded(Image.fromarray(picture), "JPEG", quality=90, progressive=progressive)
    whole = build(picture, bits_stored=8, syntax=syntax, frame=frame)
    assert read_radiograph(whole).source.warnings == ()
    cut = frame[: int(0.9 * len(frame)) // 2 * 2] + END_OF_IMAGE
    (warning,) = read_radiograph(
        build(picture, bits_stored=8, syntax=syntax, frame=cut)
    ).source.warnings
    assert "the file was cut short" in warning


@pytest.mark.parametrize("share", [0.3, 0.95])
def test_other_compressions_that_end_early_are_refused(share: float) -> None:
    picture = film()
    for syntax, frame in (
        (JPEGLSLossless, bytes(jpegls_encode(picture))),
        (JPEG2000Lossless, bytes(jpeg2k_encode(picture, level=0, codecformat="j2k"))),
    ):
        cut = frame[: int(share * len(frame)) // 2 * 2] + END_OF_IMAGE
        data = build(picture, bits_stored=8, syntax=syntax, frame=cut)
        assert_refused(data, UnreadableImageError, "cut short")
    for options in ({"lossless": True}, {"quality": 80}):
        webp = encoded(Image.fromarray(picture), "WEBP", **options)
        cut_webp = bytearray(webp[: int(share * len(webp)) // 2 * 2])
        cut_webp[4:8] = struct.pack("<I", len(cut_webp) - 8)
        cut_webp[16:20] = struct.pack("<I", len(cut_webp) - 20)
        assert_refused(bytes(cut_webp), UnreadableImageError, "cut short")
