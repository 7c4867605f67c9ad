import io
import os
import struct
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom.data
import pytest
from dicoms import PLANTED, PLANTED_PRIVATE, build, dataset, lut_item, plant, ramp, set_frame
from dicoms import to_bytes as dicom_bytes
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from cxrdemo.errors import CxrDemoError, UnreadableImageError, UnsupportedImageError
from cxrdemo.radiograph import MIN_SIDE_PX
from cxrdemo.reading import MAX_PIXELS, read_radiograph

GREY_LEVEL_16 = 1 / 65535
HW = (80, 72)
GREY8 = ramp(0, 255, np.uint8)
COLOUR8 = np.stack([GREY8, GREY8[::-1], np.full_like(GREY8, 40)], axis=-1)
LUMA = np.array([0.299, 0.587, 0.114])


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(samples: NDArray[Any], colour_type: int, *extra: bytes) -> bytes:
    """A PNG of 8 or 16 bits, written by hand because no encoder at hand writes them all."""
    height, width = samples.shape[:2]
    bits = 8 * samples.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in samples)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)),
            *extra,
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def orientation_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return exif.tobytes()


def tiff(samples: NDArray[Any], *, photometric: int, sample_format: int, order: str) -> bytes:
    """A grey TIFF of one strip, written by hand for byte order, polarity and sample format."""
    height, width = samples.shape
    body = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: width,
        257: height,
        258: 8 * samples.dtype.itemsize,
        259: 1,
        262: photometric,
        273: 8 + 2 + 12 * 10 + 4,
        277: 1,
        278: height,
        279: len(body),
        339: sample_format,
    }
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (
        mark
        + struct.pack(f"{order}IH", 8, len(tags))
        + entries
        + struct.pack(f"{order}I", 0)
        + body
    )


def close(found: NDArray[np.float32], expected: Any, atol: float = GREY_LEVEL_16) -> None:
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


# Raster files


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_8_bit_grey_is_divided_by_255(kind: str) -> None:
    radiograph = read_radiograph(encoded(Image.fromarray(GREY8), kind))
    close(radiograph.pixels, GREY8 / 255, 1e-7)
    assert (radiograph.source.kind, radiograph.source.bit_depth) == (kind, 8)
    assert radiograph.source.warnings == ()
    assert radiograph.spacing_mm is None
    assert radiograph.view is None


@pytest.mark.parametrize(("kind", "atol"), [("JPEG", 3 / 255), ("WEBP", 5 / 255)])
def test_lossy_grey_is_near_the_original(kind: str, atol: float) -> None:
    close(
        read_radiograph(encoded(Image.fromarray(GREY8), kind, quality=95)).pixels, GREY8 / 255, atol
    )


def test_1_bit() -> None:
    bits = ramp(0, 1, np.uint8).astype(bool)
    for kind in ("PNG", "TIFF", "BMP"):
        radiograph = read_radiograph(encoded(Image.fromarray(bits), kind))
        close(radiograph.pixels, bits.astype(float), 0)
        assert radiograph.source.bit_depth == 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_depth(kind: str) -> None:
    grey = ramp(0, 65535)
    radiograph = read_radiograph(encoded(Image.fromarray(grey), kind))
    close(radiograph.pixels, grey / 65535, 1e-7)
    assert len(np.unique(radiograph.pixels)) == grey.size
    assert radiograph.source.bit_depth == 16


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("alpha", [False, True])
def test_16_bit_colour_keeps_its_depth(suffix: str, alpha: bool) -> None:
    grey = ramp(0, 65535)
    channels = [grey[::-1], np.full_like(grey, 999), grey]  # OpenCV writes blue, green, red
    if alpha:
        channels.append(np.full_like(grey, 32768))
    data = cv2.imencode(suffix, np.stack(channels, axis=-1))[1].tobytes()
    expected = (np.stack([grey, np.full_like(grey, 999), grey[::-1]], axis=-1) / 65535) @ LUMA
    close(read_radiograph(data).pixels, expected * (32768 / 65535 if alpha else 1), 1e-6)


def test_16_bit_grey_with_alpha() -> None:
    grey = ramp(0, 65535)
    alpha = np.where(grey > 30000, 65535, 0).astype(np.uint16)
    radiograph = read_radiograph(png(np.stack([grey, alpha], axis=-1), 4))
    close(radiograph.pixels, np.where(alpha, grey / 65535, 0.0), 1e-6)
    assert "Laid the transparent parts over black" in radiograph.source.steps


@pytest.mark.parametrize(
    ("highest", "full"),
    [
        (255, 255),
        (900, 1023),
        (4095, 4095),
        (4096, 16383),
        (16383, 16383),
        (16384, 65535),
        (50000, 65535),
    ],
)
def test_16_bit_range_is_the_smallest_that_holds_the_highest(highest: int, full: int) -> None:
    grey = ramp(0, highest)
    radiograph = read_radiograph(encoded(Image.fromarray(grey), "PNG"))
    close(radiograph.pixels, grey / full, 1e-6)
    said = [step for step in radiograph.source.steps if "full range" in step]
    assert len(said) == (full < 65535)


def test_8_and_16_bit_encodings_of_one_picture_agree() -> None:
    fine = ramp(0, 65535)
    coarse = (fine >> 8).astype(np.uint8)
    in_16 = read_radiograph(encoded(Image.fromarray(fine), "PNG")).pixels
    in_8 = read_radiograph(encoded(Image.fromarray(coarse), "PNG")).pixels
    close(in_8, in_16, 1 / 255)


def test_colour_becomes_luma_and_is_called_a_photograph() -> None:
    radiograph = read_radiograph(encoded(Image.fromarray(COLOUR8), "PNG"))
    close(radiograph.pixels, (COLOUR8 / 255) @ LUMA, 1e-6)
    assert "Converted colour to grey by the ITU-R 601 luma" in radiograph.source.steps
    assert radiograph.source.colourfulness > 0.5
    assert radiograph.source.warnings == ("This looks like a colour photograph, not an X-ray.",)


def test_grey_stored_as_rgb_is_exact_and_no_photograph() -> None:
    radiograph = read_radiograph(encoded(Image.fromarray(GREY8).convert("RGB"), "PNG"))
    close(radiograph.pixels, GREY8 / 255, 1e-7)
    assert radiograph.source.warnings == ()


def test_a_small_coloured_mark_is_no_photograph() -> None:
    marked = np.stack([GREY8] * 3, axis=-1)
    marked[:5, :20] = (255, 0, 0)
    radiograph = read_radiograph(encoded(Image.fromarray(marked), "PNG"))
    assert radiograph.source.warnings == ()
    assert radiograph.pixels[0, 0] == pytest.approx(0.299)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])  # WebP stores LA as RGBA
def test_alpha_is_laid_over_black(mode: str, kind: str) -> None:
    image = Image.fromarray(GREY8).convert(mode)
    alpha = np.zeros(HW, np.uint8)
    alpha[:, 36:] = 255
    alpha[40:, 36:] = 51
    image.putalpha(Image.fromarray(alpha))
    options = {"lossless": True} if kind == "WEBP" else {}
    radiograph = read_radiograph(encoded(image, kind, **options))
    close(radiograph.pixels, GREY8 / 255 * (alpha / 255), 1e-6)
    assert "Laid the transparent parts over black" in radiograph.source.steps


def test_palette_of_colours_and_transparent_entry() -> None:
    indices = ramp(0, 3, np.uint8)
    image = Image.fromarray(indices, "L")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 90, 90, 90])
    image = image if image.mode == "P" else image.convert("P")
    lumas = np.array([0, 0.299, 0.587, 90 / 255])
    close(read_radiograph(encoded(image, "PNG")).pixels, lumas[indices], 1e-6)
    lumas[1] = 0
    close(read_radiograph(encoded(image, "PNG", transparency=1)).pixels, lumas[indices], 1e-6)


@pytest.mark.parametrize(("kind", "atol"), [("TIFF", 1 / 255), ("JPEG", 6 / 255)])
def test_cmyk(kind: str, atol: float) -> None:
    image = Image.fromarray(GREY8).convert("CMYK")  # only black ink
    assert image.mode == "CMYK"
    options = {"quality": 95} if kind == "JPEG" else {}
    close(read_radiograph(encoded(image, kind, **options)).pixels, GREY8 / 255, atol)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.full((96, 64), 20, np.uint8)
    upright[:48, :32] = 240
    upright[48:, :32] = 120
    # The stored picture is the upright one turned the opposite way.
    stored = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.T,
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    radiograph = read_radiograph(encoded(image, kind, exif=orientation_exif(orientation)))
    close(radiograph.pixels, upright / 255, 12 / 255)
    turned = any("orientation" in step for step in radiograph.source.steps)
    assert turned == (orientation != 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_16_bit_colour(orientation: int) -> None:
    colour = np.stack([ramp(0, 65535), ramp(0, 30000), ramp(9, 60000)], axis=-1)
    exif = chunk(b"eXIf", orientation_exif(orientation).removeprefix(b"Exif\0\0"))
    same_in_8_bits = png((colour >> 8).astype(np.uint8), 2, exif)
    deep = read_radiograph(png(colour, 2, exif)).pixels
    close(deep, read_radiograph(same_in_8_bits).pixels, 1.5 / 255)


@pytest.mark.parametrize("order", ["<", ">"])
def test_float_tiff_is_scaled_from_its_own_range(order: str) -> None:
    values = ramp(0, 5759, np.float32) * 0.5 - 100
    data = tiff(values, photometric=1, sample_format=3, order=order)
    radiograph = read_radiograph(data)
    close(radiograph.pixels, np.linspace(0, 1, values.size).reshape(HW), 1e-6)
    assert "Scaled from the image's own range, -100 to 2779.5" in radiograph.source.steps
    assert radiograph.source.bit_depth == 32


def test_float_tiff_with_gaps_is_black_there() -> None:
    values = ramp(10, 20, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    radiograph = read_radiograph(tiff(values, photometric=1, sample_format=3, order="<"))
    assert radiograph.pixels[0, :3].tolist() == [0, 0, 0]
    assert radiograph.pixels[-1, -1] == 1
    assert radiograph.source.warnings == ("Some pixels hold no value; they are shown black.",)


def test_signed_tiff() -> None:
    values = ramp(-500, 1500, np.int16)
    radiograph = read_radiograph(tiff(values, photometric=1, sample_format=2, order="<"))
    close(radiograph.pixels, (values + 500.0) / 2000, 1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_with_white_as_zero_is_inverted(dtype: type) -> None:
    values = ramp(0, np.iinfo(dtype).max, dtype)
    radiograph = read_radiograph(tiff(values, photometric=0, sample_format=1, order="<"))
    close(radiograph.pixels, 1 - values / np.iinfo(dtype).max, 1e-6)


def test_big_endian_16_bit_tiff() -> None:
    values = ramp(0, 65535)
    radiograph = read_radiograph(tiff(values, photometric=1, sample_format=1, order=">"))
    close(radiograph.pixels, values / 65535, 1e-6)


def test_phone_photograph_with_a_preview_is_read_as_jpeg() -> None:
    pages = [Image.fromarray(GREY8), Image.fromarray(GREY8[::-1].copy())]
    data = encoded(pages[0], "MPO", save_all=True, append_images=pages[1:], quality=95)
    radiograph = read_radiograph(data)
    assert radiograph.source.kind == "JPEG"
    close(radiograph.pixels, GREY8 / 255, 4 / 255)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_image_keeps_its_value_and_warns(value: int) -> None:
    radiograph = read_radiograph(encoded(Image.fromarray(np.full(HW, value, np.uint8)), "PNG"))
    close(radiograph.pixels, np.full(HW, value / 255), 1e-7)
    assert "no contrast" in radiograph.source.warnings[0]


def test_suffix_is_irrelevant(tmp_path: Path) -> None:
    contents = {
        "PNG": encoded(Image.fromarray(GREY8), "PNG"),
        "TIFF": encoded(Image.fromarray(GREY8), "TIFF"),
        "DICOM": build(GREY8, bits_stored=8),
    }
    for kind, data in contents.items():
        for suffix in (".jpg", ".dcm", ".txt", ""):
            path = tmp_path / f"image{suffix}"
            path.write_bytes(data)
            radiograph = read_radiograph(path)
            assert radiograph.source.kind == kind
            close(radiograph.pixels, GREY8 / 255, 1e-6)


# DICOM: grey values


@pytest.mark.parametrize(
    ("stored", "options", "expected"),
    [
        # LINEAR: ((x - (c - 0.5)) / (w - 1) + 0.5), clipped (PS3.3 C.11.2.1.2.1)
        (2048, {"window": (2048, 4096)}, 2048 / 4095),
        (0, {"window": (2048, 4096)}, 0.0),
        (4095, {"window": (2048, 4096)}, 1.0),
        (100, {"window": (100, 201)}, 0.5025),
        (99, {"window": (100, 1)}, 0.0),
        (100, {"window": (100, 1)}, 1.0),
        # LINEAR_EXACT: ((x - c) / w + 0.5), clipped (C.11.2.1.3.2)
        (125, {"window": (100, 200), "function": "LINEAR_EXACT"}, 0.625),
        (0, {"window": (100, 200), "function": "LINEAR_EXACT"}, 0.0),
        # SIGMOID: 1 / (1 + exp(-4 (x - c) / w)) (C.11.2.1.3.1)
        (100, {"window": (100, 200), "function": "SIGMOID"}, 0.5),
        (150, {"window": (100, 200), "function": "SIGMOID"}, 1 / (1 + np.exp(-1))),
        # The window acts on rescaled values: 2 * 600 - 1000 = 200.
        (600, {"window": (200, 101), "rescale": (2, -1000)}, 0.505),
        # The first of several windows
        (100, {"window": ([100, 9], [201, 9])}, 0.5025),
        (100, {"window": (100, 201), "photometric": "MONOCHROME1"}, 0.4975),
    ],
)
def test_table_of_hand_computed_values(
    stored: int, options: dict[str, Any], expected: float
) -> None:
    pixels = ramp(0, 4095)
    pixels[3, 5] = stored
    assert read_radiograph(build(pixels, **options)).pixels[3, 5] == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize("rescale", [None, (1, 0), (2.5, -1024), (-1, 4095)])
@pytest.mark.parametrize(
    ("window", "function"),
    [
        ((1900, 3000), None),
        ((700.5, 350.25), "LINEAR_EXACT"),
        ((1500, 900), "SIGMOID"),
        (([1900, 5], [3000, 5]), "LINEAR"),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_windows_agree_with_pydicom(rescale: Any, window: Any, function: Any, signed: bool) -> None:
    pixels = ramp(-2048, 2047, np.int16) if signed else ramp(0, 4095)
    ds = dataset(pixels, window=window, function=function, rescale=rescale)
    rescaled = apply_modality_lut(pixels, ds)
    theirs = apply_voi_lut(rescaled, ds)
    ends = apply_modality_lut(np.array([pixels.min(), pixels.max()]), ds)
    expected = (theirs - ends[0]) / (ends[1] - ends[0])
    close(read_radiograph(dicom_bytes(ds)).pixels, expected)


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("first", [0, 300, -1000])
def test_voi_tables_agree_with_pydicom(bits: int, first: int) -> None:
    pixels = ramp(-2048, 2047, np.int16)
    entries = np.rint(np.linspace(0, 1, 1500) ** 2 * (2**bits - 1)).astype(int).tolist()
    ds = dataset(pixels, VOILUTSequence=[lut_item(entries, first=first, bits=bits)])
    expected = apply_voi_lut(pixels.astype(np.int32).clip(first, 2047), ds) / (2**bits - 1)
    radiograph = read_radiograph(dicom_bytes(ds))
    close(radiograph.pixels, expected)
    assert f"Applied the VOI lookup table of {bits} bits" in radiograph.source.steps


def test_voi_table_goes_before_window_and_first_of_two_is_taken() -> None:
    pixels = ramp(0, 3)
    tables = [
        lut_item([0, 100, 200, 1023], first=0, bits=10),
        lut_item([1023, 1, 1, 0], first=0, bits=10),
    ]
    radiograph = read_radiograph(build(pixels, window=(1, 2), VOILUTSequence=tables))
    close(radiograph.pixels, np.array([0, 100, 200, 1023])[pixels] / 1023, 1e-6)
    assert "Applied the VOI lookup table of 10 bits, first of 2" in radiograph.source.steps


def test_voi_table_whose_entries_need_more_bits_than_declared() -> None:
    pixels = ramp(0, 3)
    table = lut_item([0, 1000, 2000, 4095], first=0, bits=10)
    radiograph = read_radiograph(build(pixels, VOILUTSequence=[table]))
    close(radiograph.pixels, np.array([0, 1000, 2000, 4095])[pixels] / 4095, 1e-6)


def test_voi_table_that_uses_little_of_its_range_is_warned_of() -> None:
    pixels = ramp(0, 3)
    table = lut_item([0, 1000, 2000, 4095], first=0, bits=16)
    radiograph = read_radiograph(build(pixels, VOILUTSequence=[table]))
    close(radiograph.pixels, np.array([0, 1000, 2000, 4095])[pixels] / 65535, 1e-6)
    (warning,) = radiograph.source.warnings
    assert "uses little of its range" in warning


def test_voi_table_of_65536_entries_is_declared_as_zero() -> None:
    pixels = ramp(0, 65535)
    table = lut_item(list(range(65536)), first=0, bits=16)
    assert table.LUTDescriptor[0] == 0
    radiograph = read_radiograph(build(pixels, bits_stored=16, VOILUTSequence=[table]))
    close(radiograph.pixels, pixels / 65535, 1e-6)


def test_voi_table_after_a_fractional_rescale_takes_the_nearest_entry() -> None:
    pixels = ramp(0, 3)
    table = lut_item([0, 100, 200, 300, 1023], first=0, bits=10)
    radiograph = read_radiograph(build(pixels, rescale=(1.3, 0), VOILUTSequence=[table]))
    # 0, 1.3, 2.6, 3.9 are nearest to entries 0, 1, 3, 4.
    close(radiograph.pixels, np.array([0, 100, 300, 1023])[pixels] / 1023, 1e-6)


def test_voi_table_of_packed_bytes() -> None:
    pixels = ramp(0, 3)
    table = lut_item([0, 0], first=0, bits=8)
    table.LUTDescriptor, table.LUTData = [4, 0, 8], bytes([0, 50, 100, 255])
    radiograph = read_radiograph(build(pixels, VOILUTSequence=[table]))
    close(radiograph.pixels, np.array([0, 50, 100, 255])[pixels] / 255, 1e-6)


def test_negative_numbers_written_as_unsigned() -> None:
    pixels = ramp(-100, 100, np.int16)
    pixels[0] = -2000
    table = lut_item(list(range(0, 201)), first=2**16 - 100, bits=8)
    ds = dataset(pixels, VOILUTSequence=[table])
    ds.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    radiograph = read_radiograph(dicom_bytes(ds))
    close(radiograph.pixels[1:], (pixels[1:] + 100.0) / 255, 1e-6)
    assert "Set the padding pixels to black" in radiograph.source.steps


def test_8_bit_voi_table_on_wide_values_does_not_wrap() -> None:
    pixels = ramp(0, 4095)
    entries = list(range(256))
    radiograph = read_radiograph(
        build(pixels, VOILUTSequence=[lut_item(entries, first=1000, bits=8)])
    )
    close(radiograph.pixels, np.clip(pixels.astype(int) - 1000, 0, 255) / 255, 1e-6)


def test_modality_table_agrees_with_pydicom_and_feeds_the_window() -> None:
    pixels = ramp(0, 4095)
    entries = np.linspace(65535, 0, 4000).astype(int).tolist()
    ds = dataset(
        pixels, window=(30000, 40000), ModalityLUTSequence=[lut_item(entries, first=50, bits=16)]
    )
    theirs = apply_voi_lut(apply_modality_lut(pixels.astype(np.int32), ds), ds)
    radiograph = read_radiograph(dicom_bytes(ds))
    close(radiograph.pixels, theirs / 65535)
    assert radiograph.source.steps[1] == "Applied the modality lookup table"


def test_without_voi_the_own_range_is_used() -> None:
    pixels = ramp(500, 2500)
    radiograph = read_radiograph(build(pixels))
    close(radiograph.pixels, (pixels - 500.0) / 2000, 1e-6)
    assert "Scaled from the image's own range, 500 to 2500" in radiograph.source.steps
    assert radiograph.source.bit_depth == 12


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [(np.uint8, 8), (np.uint16, 10), (np.uint16, 12), (np.uint16, 14), (np.uint16, 16)],
)
@pytest.mark.parametrize("voi", [False, True])
def test_monochrome1_of_inverted_data_equals_monochrome2(dtype: type, bits: int, voi: bool) -> None:
    top = 2**bits - 1
    pixels = ramp(top // 9, top, dtype)
    window = ((top + 1) / 2, top + 1) if voi else None
    plain = read_radiograph(build(pixels, bits_stored=bits, window=window))
    inverted = read_radiograph(
        build(
            (top - pixels).astype(dtype),
            bits_stored=bits,
            window=window,
            photometric="MONOCHROME1",
        )
    )
    close(inverted.pixels, plain.pixels, 1e-6)
    assert "Inverted, because the file is MONOCHROME1" in inverted.source.steps
    assert not any("Inverted" in step for step in plain.source.steps)


def test_inverse_shape_inverts_once() -> None:
    pixels = ramp(0, 4095)
    both = read_radiograph(build(pixels, photometric="MONOCHROME1", PresentationLUTShape="INVERSE"))
    close(both.pixels, 1 - pixels / 4095, 1e-6)
    assert both.source.warnings == ()
    shape_only = read_radiograph(build(pixels, PresentationLUTShape="INVERSE"))
    close(shape_only.pixels, 1 - pixels / 4095, 1e-6)
    assert "contradicts itself" in shape_only.source.warnings[0]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("voi", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_padding_is_left_out_and_black(photometric: str, voi: bool, signed: bool) -> None:
    shift = -1500 if signed else 0
    dtype = np.int16 if signed else np.uint16
    pixels = (ramp(1000, 2000, np.int32) + shift).astype(dtype)
    plain = read_radiograph(
        build(pixels, photometric=photometric, window=(1500 + shift, 900) if voi else None)
    ).pixels
    pixels[:10] = 10 + shift
    pixels[10:12] = 20 + shift
    padded = read_radiograph(
        build(
            pixels,
            photometric=photometric,
            window=(1500 + shift, 900) if voi else None,
            padding=10 + shift,
            padding_limit=20 + shift,
        )
    )
    assert not padded.pixels[:12].any()
    if voi:
        close(padded.pixels[12:], plain[12:], 1e-6)
    else:
        low, high = pixels[12:].min(), pixels[12:].max()
        expected = (pixels[12:].astype(float) - low) / (high - low)
        close(padded.pixels[12:], 1 - expected if photometric == "MONOCHROME1" else expected, 1e-6)
    assert "Set the padding pixels to black" in padded.source.steps


def test_only_padding_gives_black_and_a_warning() -> None:
    radiograph = read_radiograph(build(np.full(HW, 7, np.uint16), padding=7))
    assert not radiograph.pixels.any()
    assert "no contrast" in radiograph.source.warnings[0]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_constant_dicom_gives_no_nan(photometric: str) -> None:
    radiograph = read_radiograph(build(np.full(HW, 700, np.uint16), photometric=photometric))
    assert len(np.unique(radiograph.pixels)) == 1
    assert "no contrast" in radiograph.source.warnings[0]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_overlay_bits_above_the_stored_ones_are_cleared(syntax: Any, dtype: type) -> None:
    low, high = (-2048, 2047) if dtype == np.int16 else (0, 4095)
    pixels = ramp(low, high, dtype)
    clean = read_radiograph(build(pixels, syntax=syntax)).pixels
    overlaid = (pixels.view(np.uint16) & 0x0FFF) | (ramp(0, 15) << 12)
    close(
        read_radiograph(build(overlaid.astype(np.uint16).view(dtype), syntax=syntax)).pixels,
        clean,
        0,
    )


@pytest.mark.parametrize("window", [(2000, 0), (2000, -5)])
def test_window_without_width_is_ignored_with_a_warning(window: Any) -> None:
    pixels = ramp(0, 4095)
    radiograph = read_radiograph(build(pixels, window=window))
    close(radiograph.pixels, pixels / 4095, 1e-6)
    assert radiograph.source.warnings == ("The header's window has no width; it was ignored.",)


def test_empty_elements_are_as_absent() -> None:
    pixels = ramp(0, 4095)
    radiograph = read_radiograph(
        build(pixels, WindowCenter=None, WindowWidth=None, RescaleSlope=None, RescaleIntercept=None)
    )
    close(radiograph.pixels, pixels / 4095, 1e-6)
    assert radiograph.source.warnings == ()


def test_steps_are_told_in_order() -> None:
    data = build(
        ramp(0, 4095),
        rescale=(1, -1024),
        window=([1024, 5], [4096, 5]),
        photometric="MONOCHROME1",
        padding=0,
        ImagerPixelSpacing=[0.2, 0.2],
    )
    assert read_radiograph(data).source.steps == (
        "Read uncompressed pixels (Explicit VR Little Endian)",
        "Rescaled: slope 1, intercept -1024",
        "Window centre 1024, width 4096 (LINEAR), first of 2",
        "Inverted, because the file is MONOCHROME1",
        "Set the padding pixels to black",
        "Pixel spacing as at the detector (Imager Pixel Spacing)",
    )


# DICOM: encodings


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless]
)
@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 12), (np.uint16, 16)])
def test_lossless_encodings_are_exact(syntax: Any, dtype: type, bits: int) -> None:
    pixels = ramp(0, 2**bits - 1, dtype)
    radiograph = read_radiograph(build(pixels, bits_stored=bits, syntax=syntax))
    close(radiograph.pixels, pixels / (2**bits - 1), 1e-6)
    assert radiograph.source.tags["Transfer syntax"] == syntax.name


def test_signed_jpeg_2000() -> None:
    pixels = ramp(-2048, 2047, np.int16)
    radiograph = read_radiograph(build(pixels, syntax=JPEG2000Lossless, window=(0, 4096)))
    close(radiograph.pixels, (pixels + 2048.0) / 4095, 1e-6)


def test_big_endian() -> None:
    pixels = ramp(0, 4095)
    ds = dataset(pixels, window=(2048, 4096))
    ds.PixelData = pixels.byteswap().tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    close(read_radiograph(dicom_bytes(ds)).pixels, pixels / 4095, 1e-6)


def test_jpeg_baseline() -> None:
    radiograph = read_radiograph(build(GREY8, bits_stored=8, syntax=JPEGBaseline8Bit))
    close(radiograph.pixels, GREY8 / 255, 4 / 255)
    assert radiograph.source.steps[0] == "Decoded JPEG Baseline (Process 1)"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("SC_rgb_jpeg_gdcm.dcm", "JPEG Lossless"),
        ("SC_rgb_jls_lossy_line.dcm", "JPEG-LS"),
        ("MR_small_jpeg_ls_lossless.dcm", "JPEG-LS Lossless"),
        ("JPGExtended.dcm", "JPEG Extended"),
        ("SC_rgb_jpeg_dcmtk.dcm", "JPEG Baseline"),
        ("SC_rgb_gdcm_KY.dcm", "JPEG 2000"),
        ("SC_ybr_full_422_uncompressed.dcm", "uncompressed"),
        ("SC_rgb_rle_16bit.dcm", "RLE"),
    ],
)
def test_encodings_that_only_ship_with_pydicom(name: str, word: str) -> None:
    path = Path(pydicom.data.__file__).parent / "test_files" / name
    if not path.exists():
        pytest.skip(f"{name} does not ship with this pydicom")
    ds = dcmread(path)
    ds.Modality = "OT"
    stored = pixel_array(ds).astype(float)
    if stored.ndim == 3:
        expected = (stored / (2**ds.BitsStored - 1)) @ LUMA
    elif "WindowCenter" in ds:
        theirs = apply_voi_lut(apply_modality_lut(stored, ds), ds)
        low = -(2 ** (ds.BitsStored - 1)) if ds.PixelRepresentation else 0
        ends = apply_modality_lut(np.array([low, low + 2**ds.BitsStored - 1.0]), ds)
        expected = (theirs - ends[0]) / (ends[1] - ends[0])
    else:
        expected = (stored - stored.min()) / (stored.max() - stored.min())
    radiograph = read_radiograph(dicom_bytes(ds))
    assert word in radiograph.source.steps[0]
    close(radiograph.pixels, expected)


def test_rgb_secondary_capture() -> None:
    data = build(COLOUR8, photometric="RGB", bits_stored=8, modality="SC")
    radiograph = read_radiograph(data)
    close(radiograph.pixels, (COLOUR8 / 255) @ LUMA, 1e-6)
    assert "This looks like a colour photograph, not an X-ray." in radiograph.source.warnings
    assert radiograph.source.colourfulness > 0.5


def test_ybr_secondary_capture() -> None:
    ybr = np.stack([GREY8, np.full_like(GREY8, 128), np.full_like(GREY8, 128)], axis=-1)
    radiograph = read_radiograph(build(ybr, photometric="YBR_FULL", bits_stored=8, modality="OT"))
    close(radiograph.pixels, GREY8 / 255, 1e-6)
    assert "Converted YBR to RGB" in radiograph.source.steps
    assert radiograph.source.warnings == ()


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_secondary_capture(bits: int) -> None:
    indices = ramp(0, 3, np.uint8)
    full = 2**bits - 1
    table = [0, full // 3, full // 2, full]
    packed = struct.pack("<4H" if bits == 16 else "<4B", *table)
    elements: dict[str, Any] = {}
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, bits]
        elements[f"{colour}PaletteColorLookupTableData"] = packed
    ds = dataset(indices, photometric="PALETTE COLOR", bits_stored=8, modality="OT", **elements)
    radiograph = read_radiograph(dicom_bytes(ds))
    close(radiograph.pixels, np.array(table)[indices] / full, 1e-6)
    assert "Looked up the palette's colours" in radiograph.source.steps


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_file_without_preamble(syntax: Any) -> None:
    pixels = ramp(0, 4095)
    ds = dataset(pixels)
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = pixels.byteswap().tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    data = dicom_bytes(ds, preamble=False)
    assert data[128:132] != b"DICM"
    close(read_radiograph(data).pixels, pixels / 4095, 1e-6)


# DICOM: header


@pytest.mark.parametrize("modality", ["CR", "DX", "SC", "OT", "RG", "RF"])
def test_radiographic_modalities_are_read(modality: str) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), modality=modality))
    assert radiograph.source.tags["Modality"] == modality
    assert radiograph.source.warnings == ()


@pytest.mark.parametrize(
    ("modality", "words"),
    [("CT", "CT"), ("MR", "MR"), ("US", "ultrasound"), ("MG", "mammography"), ("SR", "report")],
)
def test_other_modalities_are_refused_by_name(modality: str, words: str) -> None:
    with pytest.raises(UnsupportedImageError, match=f"found .*{words}.* Choose the chest X-ray"):
        read_radiograph(build(ramp(0, 4095), modality=modality))


def test_absent_modality_is_read_with_a_warning() -> None:
    assert read_radiograph(build(ramp(0, 4095), modality=None)).source.warnings == (
        "The header names no modality; the image is taken for a radiograph.",
    )


@pytest.mark.parametrize(
    ("elements", "expected", "word"),
    [
        ({"ImagerPixelSpacing": [0.2, 0.2]}, (0.2, 0.2), "detector"),
        ({"PixelSpacing": [0.15, 0.15]}, (0.15, 0.15), "calibration not stated"),
        (
            {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.15, 0.15]},
            (0.2, 0.2),
            "detector",
        ),
        (
            {
                "ImagerPixelSpacing": [0.2, 0.2],
                "PixelSpacing": [0.15, 0.15],
                "PixelSpacingCalibrationType": "GEOMETRY",
            },
            (0.15, 0.15),
            "calibrated",
        ),
        ({"ImagerPixelSpacing": [0, 0], "PixelSpacing": [0.1, 0.1]}, (0.1, 0.1), "Pixel Spacing"),
    ],
)
def test_spacing(elements: Any, expected: tuple[float, float], word: str) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), **elements))
    assert radiograph.spacing_mm == expected
    assert word in radiograph.source.steps[-1]


@pytest.mark.parametrize("elements", [{}, {"PixelSpacing": [0, 0]}, {"PixelSpacing": [-1, 0.2]}])
def test_spacing_that_is_absent_or_nonsense_is_none(elements: Any) -> None:
    assert read_radiograph(build(ramp(0, 4095), **elements)).spacing_mm is None


@pytest.mark.parametrize(
    ("elements", "warns"),
    [
        ({"PixelSpacing": [0.1, 0.2]}, True),
        ({"PixelSpacing": [0.1, 0.1005]}, False),
        ({"PixelAspectRatio": [4, 3]}, True),
        ({"PixelAspectRatio": [1, 1]}, False),
    ],
)
def test_pixels_that_are_not_square_are_warned_of(elements: Any, warns: bool) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), **elements))
    assert any("not square" in warning for warning in radiograph.source.warnings) == warns
    if "PixelSpacing" in elements:
        assert radiograph.spacing_mm == tuple(elements["PixelSpacing"])  # row first


@pytest.mark.parametrize(
    ("position", "view", "word"),
    [
        ("PA", "PA", ""),
        ("AP", "AP", ""),
        ("LL", "LATERAL", "lateral"),
        ("RL", "LATERAL", "lateral"),
        ("LATERAL", "LATERAL", "lateral"),
        ("LLD", None, "decubitus"),
        ("RLO", None, "oblique"),
        ("XX", None, ""),
    ],
)
def test_view(position: str, view: str | None, word: str) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), ViewPosition=position))
    assert radiograph.view == view
    assert [word in warning for warning in radiograph.source.warnings] == ([True] if word else [])


@pytest.mark.parametrize(
    ("meaning", "view"),
    [
        ("postero-anterior", "PA"),
        ("Antero-posterior", "AP"),
        ("left lateral", "LATERAL"),
        ("x", None),
    ],
)
def test_view_by_code(meaning: str, view: str | None) -> None:
    code = Dataset()
    code.CodeMeaning = meaning
    assert read_radiograph(build(ramp(0, 4095), ViewCodeSequence=[code])).view == view


@pytest.mark.parametrize(
    ("orientation", "warns"),
    [(["L", "F"], False), ("", False), (["R", "F"], True), (["L", "H"], True), (["F", "L"], True)],
)
def test_orientation_is_warned_of_and_never_applied(orientation: Any, warns: bool) -> None:
    pixels = ramp(0, 4095)
    radiograph = read_radiograph(build(pixels, PatientOrientation=orientation))
    assert any("turned or mirrored" in warning for warning in radiograph.source.warnings) == warns
    close(radiograph.pixels, pixels / 4095, 1e-6)


def test_lateral_view_faces_forward_without_a_second_warning() -> None:
    radiograph = read_radiograph(
        build(ramp(0, 4095), ViewPosition="LL", PatientOrientation=["A", "F"])
    )
    assert len(radiograph.source.warnings) == 1


@pytest.mark.parametrize(
    ("elements", "word"),
    [
        ({"PresentationIntentType": "FOR PROCESSING"}, "for processing"),
        ({"BodyPartExamined": "HAND"}, "other than the chest"),
        ({"BurnedInAnnotation": "YES"}, "burned into"),
        ({"RescaleSlope": 0, "RescaleIntercept": 5}, "slope is zero"),
    ],
)
def test_unusual_header_is_warned_of(elements: Any, word: str) -> None:
    (warning,) = read_radiograph(build(ramp(0, 4095), **elements)).source.warnings
    assert word in warning


@pytest.mark.parametrize(
    "elements",
    [
        {"PresentationIntentType": "FOR PRESENTATION"},
        {"BodyPartExamined": "CHEST"},
        {"BurnedInAnnotation": "NO"},
    ],
)
def test_usual_header_is_not_warned_of(elements: Any) -> None:
    assert read_radiograph(build(ramp(0, 4095), **elements)).source.warnings == ()


def test_tags_are_the_whitelist_and_nothing_else() -> None:
    ds = dataset(
        ramp(0, 4095),
        ViewPosition="PA",
        BodyPartExamined="CHEST",
        PatientOrientation=["L", "F"],
        PresentationIntentType="FOR PRESENTATION",
        KVP=125,
    )
    assert read_radiograph(dicom_bytes(plant(ds))).source.tags == {
        "Modality": "DX",
        "View position": "PA",
        "Body part": "CHEST",
        "Patient orientation": "L / F",
        "Photometric interpretation": "MONOCHROME2",
        "Bits stored": "12",
        "Transfer syntax": "Explicit VR Little Endian",
        "Presentation intent": "FOR PRESENTATION",
        "Tube voltage (kVp)": "125",
    }


def everything_told(data: bytes, caplog: pytest.LogCaptureFixture, capfd: Any) -> str:
    try:
        radiograph = read_radiograph(data)
        told = repr((radiograph, radiograph.source, radiograph.view, radiograph.spacing_mm))
    except CxrDemoError as error:
        told = f"{error!r} {error.__cause__!r} {error.__context__!r}"
    return told + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"modality": "CT"},
        {"Modality": "PLANTED^NAME"},
        {"PhotometricInterpretation": "PLANTED^COLOURS"},
        {"BodyPartExamined": "Planted^Paula"},
        {"ViewPosition": "Planted^Paula"},
        {"NumberOfFrames": 2},
        {"WindowCenter": 1234567890.125, "WindowWidth": 1},
        {"cut": 2000},
    ],
)
def test_no_patient_data_leaves(
    elements: Any, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    elements = dict(elements)
    cut = elements.pop("cut", None)
    data = dicom_bytes(plant(dataset(ramp(0, 4095), **elements)))[:cut]
    data = data.replace(b"1234567890.125", b"Planted^Paula ")  # a name where a number belongs
    planted = [*PLANTED.values(), PLANTED_PRIVATE, "Planted^Paula", "PLANTED^"]
    assert sum(value.encode() in data for value in planted) >= len(PLANTED) + 1
    told = everything_told(data, caplog, capfd).lower()
    for value in planted:
        if len(value) > 1:  # "F" says nothing
            assert value.lower() not in told


def test_header_values_that_break_the_standard_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = build(ramp(0, 4095)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.PLANTED.2.1\0")
    assert_refused(data, UnsupportedImageError, "another compression")
    assert caplog.text == ""


def test_identifying_elements_are_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Dataset] = []

    def spy(*arguments: Any, **options: Any) -> Dataset:
        parsed.append(dcmread(*arguments, **options))
        return parsed[-1]

    monkeypatch.setattr("cxrdemo.reading.pydicom.dcmread", spy)
    read_radiograph(dicom_bytes(plant(dataset(ramp(0, 4095)))))
    (header,) = parsed
    assert "Rows" in header
    assert not [keyword for keyword in PLANTED if keyword in header]
    assert not [element for element in header if element.tag.is_private]


# Refusals


def assert_refused(data: Any, kind: type[CxrDemoError], *words: str, **options: Any) -> None:
    with pytest.raises(kind) as caught:
        read_radiograph(data, **options)
    message = str(caught.value)
    assert type(caught.value) is kind
    assert message.startswith("Expected ")
    assert " found " in message or " could not " in message
    assert message.count(".") >= 2 or ";" in message  # what to do about it
    for word in words:
        assert word in message


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("image.png", encoded(Image.fromarray(GREY8), "PNG"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "kind", "word"),
    [
        (b"", UnreadableImageError, "empty"),
        (b"\0", UnreadableImageError, "something else"),
        (b"\0" * 4096, UnreadableImageError, "something else"),
        (b"A perfectly ordinary text file.\n" * 40, UnreadableImageError, "something else"),
        (zipped(), UnsupportedImageError, "ZIP"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + b"0" * 500, UnsupportedImageError, "PDF"),
        (encoded(Image.fromarray(GREY8), "GIF"), UnsupportedImageError, "GIF"),
        (encoded(Image.fromarray(GREY8), "JPEG2000"), UnsupportedImageError, "JPEG 2000"),
        (b"\x89PNG\r\n\x1a\n", UnreadableImageError, "PNG"),
        (b"\xff\xd8\xff\xe0", UnreadableImageError, "JPEG"),
        (b"\0" * 128 + b"DICM", UnreadableImageError, "DICOM"),
        (b"\0" * 128 + b"DICM" + b"nonsense" * 99, UnreadableImageError, "DICOM"),
    ],
)
def test_what_is_no_radiograph(data: bytes, kind: type[CxrDemoError], word: str) -> None:
    assert_refused(data, kind, word)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "opening",
    [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"BM", b"\x08\0\x05\0CS\x0a\0"],
)
def test_random_bytes(seed: int, opening: bytes) -> None:
    noise = np.random.default_rng(seed).bytes(3000)
    with pytest.raises(CxrDemoError, match=r"^Expected "):
        read_radiograph(opening + noise)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_rasters(kind: str, share: float) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (128, 128), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    assert_refused(data[: int(len(data) * share)], UnreadableImageError)


def test_truncated_16_bit_colour() -> None:
    data = png(np.random.default_rng(3).integers(0, 65536, (80, 70, 3), dtype=np.uint16), 2)
    assert_refused(data[: len(data) // 2], UnreadableImageError, "PNG", "cut short")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_dicoms(syntax: Any, share: float) -> None:
    noise = np.random.default_rng(3).integers(0, 4096, (128, 128), dtype=np.uint16)
    data = build(noise, syntax=syntax)
    assert_refused(data[: int(len(data) * share)], UnreadableImageError, "DICOM")


@pytest.mark.parametrize("seed", range(30))
def test_flipped_header_bytes_never_escape_our_errors(seed: int) -> None:
    generator = np.random.default_rng(seed)
    data = bytearray(build(ramp(0, 4095), window=(2048, 4096), rescale=(1, 0)))
    for at in generator.integers(132, 700, 4):
        data[at] = generator.integers(256)
    try:
        radiograph = read_radiograph(bytes(data))
    except CxrDemoError as error:
        assert str(error).startswith("Expected ")  # noqa: PT017
    else:
        assert np.isfinite(radiograph.pixels).all()


def test_rle_segment_that_is_too_long_is_read_with_a_warning() -> None:
    # 45 runs of 128 bytes fill one of the two segments; one more makes the plugin in Rust panic.
    high, low = b"\x81\x07" * 46, b"\xc1\x00\x81\x09" * 30
    frame = struct.pack("<16I", 2, 64, 64 + len(high), *[0] * 13) + high + low
    ds = dataset(ramp(0, 4095), window=(2048, 4096))
    set_frame(ds, frame, RLELossless)
    radiograph = read_radiograph(dicom_bytes(ds))
    expected = np.tile(np.repeat([0x0700, 0x0709], [64, 128]), 30).reshape(HW) / 4095
    close(radiograph.pixels, expected, 1e-6)
    assert radiograph.source.warnings == ("The file departs from the DICOM standard in places.",)


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    files = [build(ramp(0, 4095)), encoded(Image.fromarray(GREY8), "PNG"), b"nothing"] * 20
    before = list(warnings.filters)

    def read(data: bytes) -> str:
        try:
            return read_radiograph(data).source.kind
        except CxrDemoError:
            return "refused"

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, files)) == ["DICOM", "PNG", "refused"] * 20
    assert warnings.filters == before


def test_decompression_bombs() -> None:
    for side in (11_000, 60_000):
        bomb = b"".join(
            [
                b"\x89PNG\r\n\x1a\n",
                chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
                chunk(b"IDAT", zlib.compress(b"\0" * 1000)),
                chunk(b"IEND", b""),
            ]
        )
        assert_refused(bomb, UnsupportedImageError, "megapixels")


def test_huge_dicom_header() -> None:
    ds = dataset(ramp(0, 4095))
    ds.Rows = ds.Columns = 65535
    assert ds.Rows * ds.Columns > MAX_PIXELS
    assert_refused(dicom_bytes(ds), UnsupportedImageError, "megapixels")


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGBaseline8Bit])
def test_compressed_picture_of_another_size_than_the_header(syntax: Any) -> None:
    big = np.zeros((300, 200), np.uint8)
    frame = (
        encode_array(big) if syntax == JPEG2000Lossless else encoded(Image.fromarray(big), "JPEG")
    )
    ds = dataset(GREY8, bits_stored=8)
    set_frame(ds, frame, syntax)
    assert_refused(dicom_bytes(ds), UnreadableImageError, "another size")


def test_deflated_dicom_is_refused_before_inflating() -> None:
    ds = dataset(ramp(0, 4095))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert_refused(dicom_bytes(ds), UnsupportedImageError, "deflated")


def test_video_dicom() -> None:
    ds = dataset(GREY8, bits_stored=8)
    set_frame(ds, b"\0\0\1\xb3" * 50, MPEG2MPML)
    assert_refused(dicom_bytes(ds), UnsupportedImageError, "another compression")


def test_multi_frame_dicom() -> None:
    pixels = np.concatenate([ramp(0, 4095)] * 2)
    ds = dataset(pixels, NumberOfFrames=2)
    ds.Rows //= 2
    assert_refused(dicom_bytes(ds), UnsupportedImageError, "several frames")


def test_one_frame_said_explicitly_is_fine() -> None:
    pixels = ramp(0, 4095)
    close(read_radiograph(build(pixels, NumberOfFrames=1)).pixels, pixels / 4095, 1e-6)


def test_dicom_without_pixels() -> None:
    ds = dataset(ramp(0, 4095))
    del ds.PixelData
    assert_refused(dicom_bytes(ds), UnreadableImageError, "no pixels")
    del ds.Rows
    assert_refused(dicom_bytes(ds), UnsupportedImageError, "without pixels")


def test_retired_high_bit() -> None:
    assert_refused(build(ramp(0, 4095), HighBit=15), UnsupportedImageError, "higher")


@pytest.mark.parametrize("elements", [{"Rows": 0}, {"Columns": 10}])
def test_senseless_dicom_sizes(elements: Any) -> None:
    assert_refused(build(ramp(0, 4095), **elements), UnsupportedImageError, "64 pixels")


def test_more_rows_than_pixels() -> None:
    assert_refused(build(ramp(0, 4095), Rows=500), UnreadableImageError, "DICOM")


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
def test_several_pages_or_frames(kind: str) -> None:
    pages = [Image.fromarray(GREY8), Image.fromarray(GREY8[::-1].copy())]
    data = encoded(pages[0], kind, save_all=True, append_images=pages[1:])
    assert_refused(data, UnsupportedImageError, "several pages or frames")


def test_smallest_side() -> None:
    enough = np.zeros((MIN_SIDE_PX, MIN_SIDE_PX), np.uint8)
    enough[0, 0] = 255
    assert read_radiograph(encoded(Image.fromarray(enough), "PNG")).hw == (MIN_SIDE_PX,) * 2
    short = enough[1:]
    assert_refused(
        encoded(Image.fromarray(short), "PNG"), UnsupportedImageError, "64 pixels a side", "64 x 63"
    )
    assert_refused(build(short, bits_stored=8), UnsupportedImageError, "64 x 63")


def test_size_limit_of_files(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(GREY8), "PNG")
    path = tmp_path / "secret-name.png"
    path.write_bytes(data)
    for source in (data, path):
        assert read_radiograph(source, max_bytes=len(data)).hw == HW
        assert_refused(source, UnsupportedImageError, "at most", max_bytes=len(data) - 1)


def test_missing_file_and_folder_are_refused_without_their_name(tmp_path: Path) -> None:
    for path in (tmp_path / "secret-name.png", tmp_path):
        assert_refused(path, UnreadableImageError, "could not be opened")
        with pytest.raises(UnreadableImageError) as caught:
            read_radiograph(path)
        assert str(path) not in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.real_data
def test_real_dicom() -> None:
    folder = os.environ.get("CXRDEMO_DATA")
    if not folder:
        pytest.skip("CXRDEMO_DATA names no folder of real images")
    path = Path(folder) / "dicom" / "rsna_cr.dcm"
    if not path.exists():
        pytest.skip("no dicom/rsna_cr.dcm in CXRDEMO_DATA")
    ds = dcmread(path)
    radiograph = read_radiograph(path)
    stored = pixel_array(ds).astype(float)
    close(radiograph.pixels, (stored - stored.min()) / (stored.max() - stored.min()))
    assert radiograph.view == "PA"
    assert radiograph.spacing_mm == (0.168, 0.168)
    assert str(ds.PatientID) not in repr(radiograph.source)
