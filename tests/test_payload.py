"""What the viewer is sent of a picture, as plain values."""

import base64
from dataclasses import replace

import cv2
import numpy as np
import pytest

from cxrdemo.radiograph import Radiograph, Source
from cxrdemo.results import Analysis
from cxrdemo.ui.payload import FINE_PX, IMAGE_PX, ImagePart, fine_part, image_part

SOURCE = Source(kind="DICOM", bit_depth=12, window=(0.0, 4000.0))


def radiograph(hw: tuple[int, int] = (90, 70), source: Source = SOURCE) -> Radiograph:
    pixels = np.random.default_rng(0).random(hw).astype(np.float32)
    return Radiograph(pixels, source=source)


def decoded(url: str) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(url.split(",", 1)[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def picture(image: Radiograph) -> ImagePart:
    return image_part(Analysis(image, None, {}, (), {}, ()))["image"]


def test_the_first_picture_has_eight_bits_and_says_what_the_file_has() -> None:
    image = radiograph((2000, 1000))
    part = picture(image)
    assert (part["height"], part["width"]) == (IMAGE_PX, IMAGE_PX // 2)
    assert part["native"] == [1000, 2000]
    assert part["bits"] == 12
    assert decoded(part["url"]).shape == (IMAGE_PX, IMAGE_PX // 2)
    assert decoded(part["url"]).dtype == np.uint8


def test_the_picture_in_full_has_every_pixel_with_sixteen_bits() -> None:
    image = radiograph((1700, 80))
    blue, green, red = np.moveaxis(decoded(fine_part(image)["fine"]["url"]).astype(int), 2, 0)
    np.testing.assert_array_equal(256 * red + green, np.rint(image.pixels * 65535))
    assert not blue.any()


def test_a_picture_beyond_the_limit_of_graphics_cards_is_made_smaller() -> None:
    sent = decoded(fine_part(radiograph((FINE_PX + 904, 640)))["fine"]["url"])
    assert sent.shape[0] == FINE_PX


@pytest.mark.parametrize(
    ("window", "inverted", "expected"),
    [
        ((0.0, 4000.0), False, [0.0, 4000.0]),
        ((0.0, 4000.0), True, [4000.0, 0.0]),
        (None, True, None),
    ],
)
def test_black_and_white_are_told_in_the_files_own_values(
    window: tuple[float, float] | None, inverted: bool, expected: list[float] | None
) -> None:
    source = replace(SOURCE, window=window, inverted=inverted)
    assert picture(radiograph(source=source))["range"] == expected


def test_windows_of_the_header_are_offered_where_the_picture_can_show_them() -> None:
    windows = (
        ("NORMAL", 2000.0, 4000.0),  # applied
        ("HARDER", 1000.0, 1000.0),
        ("WIDER", 2000.0, 8000.0),
        ("BESIDE", 3900.0, 1000.0),
    )
    source = replace(SOURCE, windows=windows)
    assert picture(radiograph(source=source))["windows"] == [
        {"name": "HARDER", "level": 0.25, "width": 0.25}
    ]
    # Of a file whose low values are dense, the same values lie at the other end.
    inverted = picture(radiograph(source=replace(source, inverted=True)))["windows"]
    assert inverted == [{"name": "HARDER", "level": 0.75, "width": 0.25}]
    assert picture(radiograph(source=replace(source, window=None)))["windows"] == []


def test_it_is_told_whose_the_sides_are() -> None:
    assert picture(radiograph())["sides"] == "assumed"
    assert picture(radiograph(source=replace(SOURCE, sides="header")))["sides"] == "header"
