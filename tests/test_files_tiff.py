"""TIFF: every type of sample, and what else only a TIFF has."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from dicoms import ramp
from imagecodecs import tiff_encode
from PIL import Image
from rasters import HW, LUMA, assert_refused, close, tiff

from cxrdemo.errors import UnreadableImageError, UnsupportedImageError
from cxrdemo.files import read_radiograph

SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize(
    "dtype",
    ["i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"],
)
def test_samples_of_every_type_keep_their_order(dtype: str, photometric: int, order: str) -> None:
    kind, full = np.dtype(dtype).kind, 0.6 * 2 ** (8 * np.dtype(dtype).itemsize)
    low, high = {"u": (0, full), "i": (-full / 2, full / 2), "f": (-100, 2779.5)}[kind]
    values = np.linspace(low, high, HW[0] * HW[1]).reshape(HW).astype(dtype)
    data = tiff(values, photometric=photometric, sample_format=SAMPLE_FORMATS[kind], order=order)
    radiograph = read_radiograph(data)
    known = values.astype(float)
    expected = (known - known.min()) / (known.max() - known.min())
    close(radiograph.pixels, 1 - expected if photometric == 0 else expected, 1e-6)
    assert radiograph.source.bit_depth == 8 * np.dtype(dtype).itemsize
    assert any("own range" in step for step in radiograph.source.steps)
    assert radiograph.source.warnings == ()


def test_fractions_farther_apart_than_a_number_can_tell() -> None:
    values = np.linspace(-1.0, 1.0, HW[0] * HW[1]).reshape(HW) * np.finfo(float).max
    data = tiff(values, photometric=1, sample_format=3, order="<")
    close(read_radiograph(data).pixels, np.linspace(0, 1, values.size).reshape(HW), 1e-6)


@pytest.mark.parametrize("compression", ["none", "deflate", "lzw", "zstd", "lzma", "packbits"])
@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_deep_samples_of_every_compression(compression: str, tile: Any) -> None:
    grey = np.linspace(0, 4e9, HW[0] * HW[1]).reshape(HW).astype(np.uint32)
    data = bytes(tiff_encode(grey, compression=compression, tile=tile))
    close(read_radiograph(data).pixels, grey / 4e9, 1e-6)


@pytest.mark.parametrize("options", [{"bigtiff": True}, {"predictor": 2, "compression": "lzw"}])
def test_big_addresses_and_differences(options: Any) -> None:
    grey = ramp(0, 65535)
    close(read_radiograph(bytes(tiff_encode(grey, **options))).pixels, grey / 65535, 1e-6)


@pytest.mark.parametrize(
    ("extra", "share"), [("unassalpha", 0.5), ("assocalpha", 1.0), ("unspecified", 1.0)]
)
@pytest.mark.parametrize("colour", [False, True])
def test_a_further_sample_is_alpha_only_where_it_is_said_to_be(
    extra: str, share: float, colour: bool
) -> None:
    grey = ramp(0, 65535)
    channels = [grey] * (3 if colour else 1) + [np.full_like(grey, 32768)]
    options = {"photometric": "rgb" if colour else "minisblack", "planarconfig": "contig"}
    data = bytes(tiff_encode(np.stack(channels, axis=-1), extrasample=extra, **options))
    close(read_radiograph(data).pixels, share * grey / 65535, 1e-5)


def test_deep_tiff_is_turned_upright() -> None:
    grey = ramp(0, 65535)
    data = bytearray(tiff(grey, photometric=1, sample_format=1, order="<"))
    entry = data.index(struct.pack("<HHI", 278, 4, 1))  # rows per strip, which one strip can miss
    data[entry : entry + 12] = struct.pack("<HHII", 274, 4, 1, 6)
    radiograph = read_radiograph(bytes(data))
    close(radiograph.pixels, np.rot90(grey, -1) / 65535, 1e-6)
    assert not radiograph.source.own_grid


def test_what_no_radiograph_is_made_of_is_named() -> None:
    numbers = ramp(0, 1000, np.uint32)
    plain = tiff(numbers, photometric=1, sample_format=6, order="<")
    assert_refused(plain, UnsupportedImageError, "complex numbers")
    deep = bytes(tiff_encode(np.stack([numbers] * 3, axis=-1), photometric="rgb"))
    assert_refused(deep, UnsupportedImageError, "deeper or signed")
    for number, name in ((34712, "JPEG 2000"), (50001, "WebP"), (50002, "JPEG XL")):
        for samples in (numbers, ramp(0, 255, np.uint8)):
            data = bytearray(tiff(samples, photometric=1, sample_format=1, order="<"))
            entry = data.index(struct.pack("<HHI", 259, 4, 1))
            data[entry + 8 : entry + 12] = struct.pack("<I", number)
            assert_refused(bytes(data), UnsupportedImageError, name)


def test_deep_pages_and_sizes_are_refused() -> None:
    pages = np.stack([ramp(0, 4_000_000, np.uint32)] * 2)
    assert_refused(bytes(tiff_encode(pages)), UnsupportedImageError, "several pages")
    data = bytearray(tiff(ramp(0, 4_000_000, np.uint32), photometric=1, sample_format=1, order=">"))
    for tag in (256, 257):
        entry = data.index(struct.pack(">HHI", tag, 4, 1))
        data[entry + 8 : entry + 12] = struct.pack(">I", 60_000)
    assert_refused(bytes(data), UnsupportedImageError, "megapixels")


@pytest.mark.parametrize("entry", [0, 5])
def test_a_directory_that_cannot_be_parsed_is_called_broken(entry: int) -> None:
    data = bytearray(tiff(ramp(0, 65535), photometric=1, sample_format=1, order="<"))
    at = 10 + 12 * entry + 4
    data[at : at + 4] = struct.pack("<I", 2**32 - 1)  # how many numbers are said to follow
    assert_refused(bytes(data), UnreadableImageError, "TIFF", "broken")


@pytest.mark.parametrize("compression", ["none", "deflate", "lzw", "zstd", "packbits"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_strip_that_ends_early_is_told_or_refused(
    compression: str, dtype: type, share: float
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128)).astype(dtype)
    data = bytearray(tiff_encode(noise, compression=compression, rowsperstrip=32))
    lengths = Image.open(io.BytesIO(data)).tag_v2[279]  # type: ignore[attr-defined]
    word = "<4I" if bytes(data).find(struct.pack("<4I", *lengths)) >= 0 else "<4H"
    at = data.index(struct.pack(word, *lengths))
    cut = (*lengths[:3], int(share * lengths[3]))
    data[at : at + struct.calcsize(word)] = struct.pack(word, *cut)
    try:
        (warning,) = read_radiograph(bytes(data)).source.warnings
    except UnreadableImageError:
        return
    assert "more or fewer rows" in warning


@pytest.mark.parametrize("damage", ["missing", "height", None])
def test_tiles_that_are_missing_are_told(damage: str | None) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128), dtype=np.uint8)
    data = bytearray(tiff_encode(noise, tile=(64, 64)))
    lengths = struct.pack("<4H", *Image.open(io.BytesIO(data)).tag_v2[325])  # type: ignore[attr-defined]
    if damage == "missing":
        data = data.replace(lengths, lengths[:4] + bytes(4))
    if damage == "height":
        entry = data.index(struct.pack("<HHI", 257, 3, 1))
        data[entry + 8 : entry + 10] = struct.pack("<H", 200)
    warnings = read_radiograph(bytes(data)).source.warnings
    assert any("more or fewer rows" in text for text in warnings) == (damage is not None)


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


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_with_white_as_zero_is_inverted(dtype: type) -> None:
    values = ramp(0, np.iinfo(dtype).max, dtype)
    radiograph = read_radiograph(tiff(values, photometric=0, sample_format=1, order="<"))
    close(radiograph.pixels, 1 - values / np.iinfo(dtype).max, 1e-6)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("compression", ["none", "deflate", "lzw"])
def test_16_bit_colour_tiff_in_planes(planar: bool, compression: str) -> None:
    colour = np.stack([ramp(0, 65535), ramp(0, 65535)[::-1], ramp(9, 9)], axis=-1)
    samples = np.ascontiguousarray(np.moveaxis(colour, -1, 0)) if planar else colour
    data = bytes(
        tiff_encode(
            samples,
            photometric="rgb",
            planarconfig="separate" if planar else "contig",
            compression=compression,
        )
    )
    close(read_radiograph(data).pixels, (colour / 65535) @ LUMA, 1e-6)


@pytest.mark.parametrize("height", [40, 79, 81, 160])
def test_tiff_of_a_false_height_is_told_or_refused(height: int) -> None:
    data = bytearray(tiff(ramp(0, 65535), photometric=1, sample_format=1, order="<"))
    entry = data.index(struct.pack("<HHI", 257, 4, 1))
    data[entry + 8 : entry + 12] = struct.pack("<I", height)
    try:
        radiograph = read_radiograph(bytes(data))
    except UnsupportedImageError:
        assert height == 40  # too small to be read at all
    except UnreadableImageError:
        assert height > 80
    else:
        assert "more or fewer rows" in radiograph.source.warnings[0]
