import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dicoms import build, ramp
from imagecodecs import tiff_encode
from numpy.typing import NDArray
from PIL import Image
from rasters import COLOUR8, GREY8, HW, LUMA, chunk, close, encoded, orientation_exif, png, tiff

from cxrdemo.errors import UnreadableImageError, UnsupportedImageError
from cxrdemo.files import read_radiograph


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
        (16383, 16383),
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


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1176), (0, 40000), (2000, 3000), (60000, 65535), (100, 4095 // 2)]
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_that_do_not_fill_their_range_are_stretched(low: int, high: int, kind: str) -> None:
    grey = ramp(low, high)
    radiograph = read_radiograph(encoded(Image.fromarray(grey), kind))
    close(radiograph.pixels, (grey.astype(float) - low) / (high - low), 1e-6)
    assert any("own range" in step for step in radiograph.source.steps)


@pytest.mark.parametrize("order", ["<"])
def test_unsigned_32_bit_tiff_keeps_its_order_above_the_middle(order: str) -> None:
    grey = np.linspace(0, 4e9, GREY8.size).reshape(HW).astype(np.uint32)
    data = tiff(grey, photometric=1, sample_format=1, order=order)
    close(read_radiograph(data).pixels, grey / 4e9, 1e-6)


def test_one_transparent_value_of_16_bits_is_laid_over_black() -> None:
    grey = ramp(0, 60000)
    grey[:9] = 65535
    radiograph = read_radiograph(png(grey, 0, chunk(b"tRNS", struct.pack(">H", 65535))))
    shown = np.where(grey == 65535, 0, grey)
    close(radiograph.pixels, shown / 65535, 1e-6)
    assert "Laid the transparent parts over black" in radiograph.source.steps


def test_one_transparent_colour_of_16_bits_is_laid_over_black() -> None:
    colour = np.stack([ramp(0, 60000)] * 3, axis=-1)
    colour[:9] = (65535, 1, 2)
    key = chunk(b"tRNS", struct.pack(">3H", 65535, 1, 2))
    shown = np.where(colour[..., 0] == 65535, 0, colour[..., 0])
    close(read_radiograph(png(colour, 2, key)).pixels, shown / 65535, 1e-6)


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


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp", ".webp", ".jpg"])
@pytest.mark.parametrize("colour", [False, True])
def test_opencv_reads_the_same(suffix: str, colour: bool) -> None:
    drawn = np.stack([GREY8, GREY8[::-1], GREY8[:, ::-1]], axis=-1) if colour else GREY8
    data = cv2.imencode(suffix, drawn)[1].tobytes()
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    expected = theirs / 255 if theirs.ndim == 2 else (theirs[..., ::-1] / 255) @ LUMA
    close(read_radiograph(data).pixels, expected, 3 / 255 if suffix == ".jpg" else 1e-6)


# Half a picture in a file that ends as it should


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


def test_whole_pngs_of_all_kinds_are_not_called_cut() -> None:
    for bits in (1, 2, 4, 8):
        indices = (ramp(0, 2**bits - 1, np.uint8)).astype(np.uint8)
        image = Image.fromarray(indices).convert("P")
        data = encoded(image, "PNG", bits=bits)
        assert not any("of its pixels" in told for told in read_radiograph(data).source.warnings)
    interlaced = png_encode_interlaced(GREY8)
    close(read_radiograph(interlaced).pixels, GREY8 / 255, 1e-6)
    assert read_radiograph(interlaced).source.warnings == ()


def png_encode_interlaced(samples: NDArray[Any]) -> bytes:
    rows = b""
    for x, y, step_x, step_y in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):  # fmt: skip
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
