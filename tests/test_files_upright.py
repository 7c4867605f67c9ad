from typing import Any

import numpy as np
import pytest
from dicoms import build, ramp
from PIL import Image
from rasters import close, encoded, orientation_exif

from cxrdemo.files import read_radiograph

STANDARD = np.zeros((96, 70), np.uint16)
STANDARD[:10, :10] = 4095  # upper left: the patient's right, towards the head
STANDARD[-20:, -20:] = 2000  # lower right


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (["L", "F"], STANDARD),
        (["R", "F"], np.fliplr(STANDARD)),
        (["L", "H"], np.flipud(STANDARD)),
        (["R", "H"], np.rot90(STANDARD, 2)),
        (["F", "L"], STANDARD.T),
        (["H", "L"], np.rot90(STANDARD, -1)),
        (["F", "R"], np.rot90(STANDARD, 1)),
        (["H", "R"], np.rot90(STANDARD, 2).T),
        (["RP", "FA"], np.fliplr(STANDARD)),
    ],
)
def test_patient_orientation_brings_the_standard_view(orientation: Any, stored: Any) -> None:
    stored = np.ascontiguousarray(stored)
    radiograph = read_radiograph(
        build(stored, PatientOrientation=orientation, ImagerPixelSpacing=[0.2, 0.2])
    )
    close(radiograph.pixels, STANDARD / 4095, 1e-6)
    moved = orientation != ["L", "F"]
    assert any("as Patient Orientation" in step for step in radiograph.source.steps) == moved
    assert any("standard view" in warning for warning in radiograph.source.warnings) == moved
    assert radiograph.source.own_grid != moved
    assert radiograph.spacing_mm == (0.2, 0.2)


@pytest.mark.parametrize(
    ("orientation", "words"),
    [
        (["L", "L"], "not that of a frontal view"),
        (["F", "H"], "not that of a frontal view"),
        (["R"], "could not be understood"),
        (["R", ""], "could not be understood"),
        (["R", "F", "X"], "could not be understood"),
        (["RIGHT", "FOOT"], "could not be understood"),
        (["R!", "F"], "could not be understood"),
    ],
)
def test_an_orientation_that_is_none_is_ignored_and_told(orientation: Any, words: str) -> None:
    radiograph = read_radiograph(build(STANDARD, PatientOrientation=orientation))
    close(radiograph.pixels, STANDARD / 4095, 1e-6)
    (warning,) = radiograph.source.warnings
    assert words in warning
    assert radiograph.source.sides == "assumed"


def test_an_empty_orientation_is_as_absent() -> None:
    assert read_radiograph(build(STANDARD, PatientOrientation=["", ""])).source.warnings == ()


def test_a_lateral_view_is_not_turned() -> None:
    radiograph = read_radiograph(build(STANDARD, PatientOrientation=["R", "F"], ViewPosition="LL"))
    close(radiograph.pixels, STANDARD / 4095, 1e-6)


@pytest.mark.parametrize(
    ("elements", "hw", "spacing"),
    [
        ({"ImagerPixelSpacing": [0.4, 0.2]}, (160, 72), (0.2, 0.2)),
        ({"ImagerPixelSpacing": [0.2, 0.3]}, (80, 108), (0.2, 0.2)),
        ({"PixelSpacing": [0.4, 0.2]}, (160, 72), (0.2, 0.2)),
        ({"NominalScannedPixelSpacing": [0.4, 0.2]}, (160, 72), (0.2, 0.2)),
        ({"PixelAspectRatio": [2, 1]}, (160, 72), None),
        ({"PixelAspectRatio": [3, 4]}, (80, 96), None),
        (
            {"ImagerPixelSpacing": [0.4, 0.2], "PatientOrientation": ["F", "L"]},
            (72, 160),
            (0.2, 0.2),
        ),
    ],
)
def test_pixels_become_square(elements: Any, hw: tuple[int, int], spacing: Any) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), **elements))
    assert radiograph.hw == hw
    assert radiograph.spacing_mm == spacing
    assert "Resampled" in radiograph.source.steps[-1]
    assert any("not square" in warning for warning in radiograph.source.warnings)
    assert not radiograph.source.own_grid


def test_resampling_keeps_the_picture_where_it_is() -> None:
    pixels = np.tile(np.repeat([0, 4095], 36).astype(np.uint16), (80, 1))
    radiograph = read_radiograph(build(pixels, PixelAspectRatio=[2, 1]))
    close(radiograph.pixels, np.tile(pixels[0] / 4095, (160, 1)), 1e-6)


@pytest.mark.parametrize(
    "elements", [{"PixelSpacing": [0.1, 0.1015]}, {"PixelAspectRatio": [1, 1]}, {}]
)
def test_square_pixels_stay_as_they_are(elements: Any) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), **elements))
    close(radiograph.pixels, ramp(0, 4095) / 4095, 1e-6)
    assert radiograph.source.warnings == ()
    assert radiograph.source.own_grid


@pytest.mark.parametrize(
    ("ratio", "words"),
    [([1, 500], "many times longer"), ([0, 1], "makes no sense"), ([2], "makes no sense")],
)
def test_a_senseless_shape_of_pixels_is_ignored_and_told(ratio: Any, words: str) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), PixelAspectRatio=ratio))
    assert radiograph.hw == (80, 72)
    (warning,) = radiograph.source.warnings
    assert words in warning


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "BMP"])
def test_pictures_scanned_with_two_densities_become_square(kind: str) -> None:
    grey = Image.fromarray(ramp(0, 255, np.uint8))
    radiograph = read_radiograph(encoded(grey, kind, dpi=(200, 100)))
    assert radiograph.hw == (160, 72)
    assert any("not square" in warning for warning in radiograph.source.warnings)
    assert read_radiograph(encoded(grey, kind, dpi=(100, 100))).hw == (80, 72)


def test_densities_turn_with_the_picture() -> None:
    grey = Image.fromarray(ramp(0, 255, np.uint8))
    for kind in ("PNG", "TIFF", "JPEG"):
        data = encoded(grey, kind, dpi=(200, 100), exif=orientation_exif(6))
        assert read_radiograph(data).hw == (72, 160)
