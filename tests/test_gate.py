"""The gate on what it must refuse and on what it must let through; docs/gate.md has the figures."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.gate import (
    bordered,
    chest,
    from_grey,
    real_images,
    refusals,
    screenshot,
    two_films,
    wrong_inputs,
    wrong_masks,
)
from cxrdemo.errors import GridMismatchError
from cxrdemo.files import read_radiograph
from cxrdemo.framing import area_of
from cxrdemo.gate import (
    LATERAL_IOU,
    MIN_JUDGED_PX,
    MIN_LUNGS,
    MIN_RATING,
    ONE_SIDED,
    check,
)
from cxrdemo.lungs import assess
from cxrdemo.phantom import Phantom, make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.radiograph import Radiograph, remedied
from cxrdemo.results import LungMask

NOT_A_CHEST = {"not-a-chest-x-ray", "inverted", "rotated", "lateral", "clipped", "mask"}
"""What has no lungs may be refused for any of these; it is refused."""

EXPECTED = {
    "photograph in colour": {"colour"},
    "X-ray in false colours": {"colour"},
    "thumbnail of 128 px": {"small"},
    "blank": {"dark"},
    "page of text": {"not-a-chest-x-ray"},
    "chart": {"dark", "not-a-chest-x-ray"},
    "noise": {"not-a-chest-x-ray"},
    "header says lateral": {"lateral"},
    "lateral-looking drawing": {"lateral"},
    "screenshot of a viewer": {"framed"},
    "two films, a gap between": {"framed"},
    "two films without a gap": {"framed"},
    "wide black borders": {"framed"},
    "phantom: grey values inverted": {"inverted"},
    "phantom: turned by 90 degrees, head left": {"rotated"},
    "phantom: turned by 90 degrees, head right": {"rotated"},
    "phantom: upside down": {"rotated"},
    "phantom: tilted by 30 degrees": {"rotated"},
    "phantom: a quarter cut off at one side": {"clipped"},
    "phantom: cut above the diaphragms": {"clipped"},
    "phantom: too dark": {"dark"},
    "phantom: over-exposed": {"dark"},
    "mask: empty": {"not-a-chest-x-ray"},
    "mask: a speck": {"not-a-chest-x-ray"},
    "mask: one lung": {"lateral"},
    "mask: right, but rated low": {"mask"},
}


MENDED = (
    "phantom: grey values inverted",
    "phantom: turned by 90 degrees, head left",
    "phantom: turned by 90 degrees, head right",
    "phantom: upside down",
)
"""The remedy that is offered gives the upright phantom back."""


@pytest.mark.checkpoints
def test_every_wrong_input_is_refused_for_its_reason(bundled_pipeline: Pipeline) -> None:
    for name, radiograph in wrong_inputs(seed=0):
        # Most pictures need no look for lungs, which is what takes time.
        doubts = check(radiograph, None) or check(
            radiograph, bundled_pipeline.find_lungs(radiograph)
        )
        assert doubts, name
        assert doubts[0].kind in EXPECTED.get(name, NOT_A_CHEST), name
        assert len(doubts[0].message.split()) > 8
        if name in MENDED:
            assert doubts[0].remedy is not None, name
            np.testing.assert_allclose(
                remedied(radiograph, doubts[0].remedy).pixels, chest(0), atol=1e-6
            )


def test_every_wrong_mask_is_refused_for_its_reason() -> None:
    for name, radiograph, lungs in wrong_masks(seed=0):
        doubts = check(radiograph, lungs)
        assert doubts, name
        assert doubts[0].kind in EXPECTED.get(name, NOT_A_CHEST), name


@pytest.mark.checkpoints
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_upright_phantom_is_accepted(bundled_pipeline: Pipeline, seed: int) -> None:
    radiograph = make_phantom(seed=seed, hw=(640, 640)).radiograph
    assert check(radiograph, bundled_pipeline.find_lungs(radiograph)) == ()


def test_without_a_segmenter_only_pixels_and_header_are_judged(phantom: Phantom) -> None:
    assert check(phantom.radiograph, None) == ()
    (doubt,) = check(replace(phantom.radiograph, view="LATERAL"), None)
    assert doubt.kind == "lateral"
    (doubt,) = check(from_grey(phantom.radiograph.pixels[:100]), None)
    assert doubt.kind == "small"


def test_colour_is_a_doubt_from_a_share_of_a_tenth(phantom: Phantom) -> None:
    def coloured(share: float) -> Radiograph:
        source = replace(phantom.radiograph.source, colourfulness=share)
        return replace(phantom.radiograph, source=source)

    assert check(coloured(0.09), None) == ()
    (doubt,) = check(coloured(0.5), None)
    assert doubt.kind == "colour"
    assert "50%" in doubt.message


def test_a_mask_of_another_size_is_an_error() -> None:
    _, radiograph, lungs = next(wrong_masks(seed=0))
    smaller = from_grey(np.ascontiguousarray(radiograph.pixels[:, :600]))
    with pytest.raises(GridMismatchError):
        check(smaller, lungs)


@pytest.mark.real_data
@pytest.mark.checkpoints
def test_few_real_images_are_refused(bundled_pipeline: Pipeline, data_folder: Path) -> None:
    paths = sorted(real_images(data_folder)["NIH ChestX-ray14, test"])[::15]
    assert len(paths) >= 20
    assert len(refusals(bundled_pipeline, paths)) <= 2


@pytest.mark.real_data
@pytest.mark.checkpoints
@pytest.mark.parametrize("name", ["00000099_013", "00001153_004", "00023104_000"])
def test_one_short_or_opaque_lung_tilts_no_upright_chest(
    bundled_pipeline: Pipeline, data_folder: Path, name: str
) -> None:
    radiograph = read_radiograph(data_folder / "nih" / "images" / f"{name}.jpg")
    doubts = check(radiograph, bundled_pipeline.find_lungs(radiograph))
    assert "rotated" not in [doubt.kind for doubt in doubts]


FILM = chest(3)


def intersection_over_union(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    x0, y0, x1, y1 = (
        np.maximum(one[:2], other[:2]).tolist() + np.minimum(one[2:], other[2:]).tolist()
    )
    both = max(0, x1 - x0) * max(0, y1 - y0)
    return both / (area_of(one) + area_of(other) - both)  # type: ignore[arg-type]


def test_the_film_of_a_screenshot_is_offered_as_a_crop() -> None:
    radiograph = from_grey(screenshot(FILM))
    (doubt,) = check(radiograph, None)
    assert doubt.kind == "framed"
    assert doubt.remedy is not None
    assert doubt.remedy.crop is not None
    assert intersection_over_union(doubt.remedy.crop, (380, 80, 1020, 720)) > 0.95
    assert check(remedied(radiograph, doubt.remedy), None) == ()


@pytest.mark.parametrize("gap", [0, 40, 200])
def test_of_two_films_the_one_with_the_lungs_is_offered(gap: int) -> None:
    radiograph = from_grey(two_films(FILM, chest(4), gap))
    true = make_phantom(seed=4, hw=(640, 640)).lungs
    sides = np.zeros(radiograph.hw, np.uint8)
    sides[:, -640:] = true
    quality = assess(sides, components=2, predicted_iou=0.95)
    (doubt,) = check(radiograph, LungMask(sides, quality, np.zeros((32, 32), np.float32)))
    assert doubt.kind == "framed"
    assert "two films" in doubt.message
    assert doubt.remedy is not None
    assert doubt.remedy.crop is not None
    right = (640 + gap, 0, 1280 + gap, 640)
    assert intersection_over_union(doubt.remedy.crop, right) > 0.85


@pytest.mark.parametrize(
    ("share", "doubted"), [(0.0, False), (0.1, False), (0.14, True), (0.3, True)]
)
def test_borders_are_a_doubt_once_the_film_fills_half_the_picture(
    share: float, doubted: bool
) -> None:
    grainy = FILM + np.random.default_rng(0).normal(0, 0.01, FILM.shape)
    doubts = check(from_grey(bordered(np.clip(grainy, 0.02, 1).astype(np.float32), share)), None)
    assert [doubt.kind for doubt in doubts] == (["framed"] if doubted else [])


@pytest.mark.parametrize("aspect", [1.6, 1.8, 2.2])
def test_one_wide_chest_is_no_pair_of_films(aspect: float) -> None:
    wide = np.asarray(cv2.resize(FILM, (round(640 * aspect), 640)), np.float32)
    assert check(from_grey(wide), None) == ()


@pytest.mark.parametrize(("side", "doubted"), [(MIN_JUDGED_PX - 1, True), (MIN_JUDGED_PX, False)])
def test_the_smallest_side(side: int, doubted: bool) -> None:
    small = np.asarray(cv2.resize(FILM, (side, side), interpolation=cv2.INTER_AREA))
    assert [doubt.kind for doubt in check(from_grey(small), None)] == (["small"] if doubted else [])


@pytest.mark.parametrize(("spread", "doubted"), [(0.23, True), (0.27, False)])
def test_the_least_spread_of_grey_values(spread: float, doubted: bool) -> None:
    low, high = np.percentile(FILM, (5, 95))
    flat = 0.4 + (np.clip(FILM, low, high) - low) * np.float32(spread / (high - low))
    assert [doubt.kind for doubt in check(from_grey(flat), None)] == (["dark"] if doubted else [])


def with_mask(**changes: float) -> tuple[str, ...]:
    """The doubts of an upright phantom with its true lungs, rated otherwise."""
    phantom = make_phantom(seed=3, hw=(640, 640))
    quality = assess(phantom.lungs, components=2, predicted_iou=changes.pop("rating", 0.95))
    mask = LungMask(phantom.lungs, replace(quality, **changes), np.zeros((32, 32), np.float32))
    return tuple(doubt.kind for doubt in check(from_grey(FILM), mask))


def test_bounds_of_the_mask_just_inside_and_outside() -> None:
    assert with_mask(rating=MIN_RATING + 0.001) == ()
    assert with_mask(rating=MIN_RATING - 0.001) == ("mask",)
    assert with_mask(area_fraction=MIN_LUNGS + 0.001) == ()
    assert with_mask(area_fraction=MIN_LUNGS - 0.001) == ("not-a-chest-x-ray",)
    assert with_mask(asymmetry=ONE_SIDED - 0.001) == ()
    assert with_mask(asymmetry=ONE_SIDED + 0.001, rating=LATERAL_IOU + 0.001) == ("lateral",)
