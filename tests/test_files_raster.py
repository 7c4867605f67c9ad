import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from dicoms import build, ramp
from PIL import Image
from rasters import COLOUR8, GREY8, HW, LUMA, chunk, close, encoded, orientation_exif, png

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


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0, 1176), (30000, 31000), (0, 4095), (0, 0)])
def test_colours_of_16_bits_are_scaled_as_grey_is(
    suffix: str, alpha: bool, low: int, high: int
) -> None:
    grey = ramp(low, high)
    channels = [grey, grey, grey]
    if alpha:  # what cannot be seen has no part in the range
        grey[:9], opaque = 65535, np.full_like(grey, 65535)
        opaque[:9] = 0
        channels.append(opaque)
    data = cv2.imencode(suffix, np.stack(channels, axis=-1))[1].tobytes()
    alone = cv2.imencode(".png", grey[9 * alpha :])[1].tobytes()
    pixels = read_radiograph(data).pixels
    close(pixels[9 * alpha :], read_radiograph(alone).pixels, 1e-6)
    assert not (alpha and pixels[:9].any())


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


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".bmp", ".webp", ".jpg"])
@pytest.mark.parametrize("colour", [False, True])
def test_opencv_reads_the_same(suffix: str, colour: bool) -> None:
    drawn = np.stack([GREY8, GREY8[::-1], GREY8[:, ::-1]], axis=-1) if colour else GREY8
    data = cv2.imencode(suffix, drawn)[1].tobytes()
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    expected = theirs / 255 if theirs.ndim == 2 else (theirs[..., ::-1] / 255) @ LUMA
    close(read_radiograph(data).pixels, expected, 3 / 255 if suffix == ".jpg" else 1e-6)
