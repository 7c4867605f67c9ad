from dataclasses import replace

import cv2
import numpy as np
import pytest
from fakes import BlindSegmenter, fake_pipeline, noise_radiograph

from cxrdemo.errors import NoLungsFoundError, PromptError
from cxrdemo.lesions import KINDS, MASS, NODULE, VISIBLE, opacity_of, plant
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import LungMask

HW = (160, 144)


@pytest.fixture(scope="module")
def lungs() -> LungMask:
    """96 px high."""
    return fake_pipeline().find_lungs(noise_radiograph(hw=HW))


def grey_image() -> Radiograph:
    return Radiograph(np.full(HW, 0.4, np.float32))


def planted(lungs: LungMask | None, **changes: object) -> Radiograph:
    asked = {"kind": "mass", "centre": (43.0, 80.0), "diameter": 0.25, "contrast": 0.45} | changes
    return plant(grey_image(), lungs, asked.pop("kind"), asked.pop("centre"), **asked)


def test_a_lesion_is_where_and_as_large_and_bright_as_asked(lungs: LungMask) -> None:
    change = planted(lungs).pixels - 0.4
    assert change.min() >= 0.0, "nowhere darker"
    assert change.max() == pytest.approx(0.45 * 0.6, rel=0.05)
    place = change > VISIBLE * change.max()
    diameter = 2 * np.sqrt(place.sum() / np.pi)
    assert diameter == pytest.approx(0.25 * 96, rel=0.15)
    y, x = (np.flatnonzero(place.any(axis=axis)).mean() for axis in (1, 0))
    assert (x, y) == pytest.approx((43, 80), abs=2)
    assert not change[:50].any()


def test_the_same_question_gives_the_same_pixels(lungs: LungMask) -> None:
    assert planted(lungs).pixels.tobytes() == planted(lungs).pixels.tobytes()
    other = planted(lungs, centre=(44.0, 80.0))
    assert other.pixels.tobytes() != planted(lungs).pixels.tobytes()


def test_a_planted_lesion_is_told_wherever_the_image_goes(lungs: LungMask) -> None:
    image = grey_image()
    image = replace(image, source=replace(image.source, steps=("read",), warnings=("odd",)))
    found = plant(image, lungs, "nodule", (43, 80), diameter=0.1, contrast=0.3)
    assert found.source.steps[0] == "read"
    assert found.source.steps[1].startswith("SYNTHETIC: a nodule of 10%")
    assert found.source.warnings[0].startswith("SYNTHETIC: a nodule")
    assert found.source.synthetic
    assert not image.source.synthetic
    assert found.source.warnings[1] == "odd"
    analysis = fake_pipeline().analyse(found)
    assert any(warning.startswith("SYNTHETIC") for warning in analysis.warnings)
    np.testing.assert_array_equal(image.pixels, np.float32(0.4)), "the image itself is as it was"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "tumour"}, "one of nodule, mass"),
        ({"centre": (-1.0, 80.0)}, "outside the image of 144 x 160"),
        ({"centre": (43.0, 160.0)}, "outside the image"),
        ({"centre": (float("nan"), 80.0)}, "outside the image"),
        ({"diameter": 0.05}, "diameter of 12% to 32%"),
        ({"diameter": float("nan")}, "diameter of"),
        ({"contrast": 0.0}, "contrast lies above 0"),
        ({"contrast": 1.5}, "contrast lies above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    lungs: LungMask, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        planted(lungs, **changes)


def test_without_lungs_there_is_no_measure() -> None:
    blind = fake_pipeline(BlindSegmenter()).find_lungs(noise_radiograph(hw=HW))
    for lungs in (None, blind):
        with pytest.raises(NoLungsFoundError, match="no measure"):
            planted(lungs)


@pytest.mark.parametrize("centre", [(50.0, 60.0), (0.0, 0.0), (119.0, 3.0), (60.5, 99.0)])
@pytest.mark.parametrize("radius", [2.0, 9.0, 30.0])
def test_drawing_only_about_the_lesion_changes_nothing(
    centre: tuple[float, float], radius: float
) -> None:
    hw = (120, 100)
    found = opacity_of(hw, centre, radius, np.random.default_rng(3))
    # The same on a canvas so large that its edges are out of reach, drawn as a whole.
    rng, pad = np.random.default_rng(3), 120
    y, x = np.ogrid[: hw[0] + 2 * pad, : hw[1] + 2 * pad]
    y, x = y - pad - centre[0], x - pad - centre[1]
    outline = np.ones((y.size, x.size))
    for wave in range(2, 7):
        depth, phase = rng.uniform(0, 0.1), rng.uniform(0, 2 * np.pi)
        outline += depth / (wave - 1) * np.cos(wave * np.arctan2(y, x) + phase)
    chord = np.sqrt(np.clip(1.0 - (np.hypot(y, x) / (radius * outline)) ** 2, 0.0, 1.0))
    whole = cv2.GaussianBlur(chord.astype(np.float32), (0, 0), max(0.05 * radius, 0.4))
    inner = whole[pad:-pad, pad:-pad]
    # At the image's edge the blur mirrors what is there, so a little differs.
    margin = 8
    np.testing.assert_allclose(
        found[margin:-margin, margin:-margin], inner[margin:-margin, margin:-margin], atol=1e-6
    )


def test_kinds_cover_sizes_without_a_gap() -> None:
    assert KINDS["nodule"] is NODULE
    assert KINDS["mass"] is MASS
    assert NODULE.diameter[1] == MASS.diameter[0]
