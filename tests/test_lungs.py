import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdemo.errors import PromptError
from cxrdemo.lungs import Stroke, assess, fill_holes, paint, split_sides
from cxrdemo.phantom import Phantom
from cxrdemo.results import LungMask, Side

ROWS, COLUMNS = np.mgrid[:200, :200]


def two_lungs(*, gap: int = 20) -> np.ndarray:
    mask = np.zeros((200, 200), bool)
    mask[30:170, 30 : 100 - gap // 2] = True
    mask[30:170, 100 + gap - gap // 2 : 170] = True
    return mask


def test_the_patients_right_lung_is_on_the_image_left(phantom: Phantom) -> None:
    sides, parts = split_sides(phantom.lungs > 0)
    assert parts == 2
    np.testing.assert_array_equal(sides, phantom.lungs)


def test_specks_go_and_holes_are_filled() -> None:
    mask = two_lungs()
    clean = mask.copy()
    mask[5:8, 5:8] = True
    mask[60:70, 50:60] = False
    sides, parts = split_sides(mask)
    assert parts == 2
    np.testing.assert_array_equal(sides > 0, clean)


def test_a_third_part_goes_and_is_counted() -> None:
    mask = two_lungs()
    clean = mask.copy()
    mask[:28, 180:] = True  # dark air in a corner
    sides, parts = split_sides(mask)
    assert parts == 2
    mask[:60, 175:] = True
    sides, parts = split_sides(mask)
    assert parts == 3
    np.testing.assert_array_equal(sides > 0, clean)
    assert "two largest" in " ".join(judge(mask))


def test_lungs_that_hang_together_are_cut_at_the_narrowest_column() -> None:
    mask = two_lungs()
    mask[95:105, 90:110] = True  # a bridge
    sides, parts = split_sides(mask)
    assert parts == 1
    assert set(np.unique(sides[:, :90])) == {0, Side.RIGHT}
    assert set(np.unique(sides[:, 110:])) == {0, Side.LEFT}
    np.testing.assert_array_equal(sides > 0, mask)


@pytest.mark.parametrize(("columns", "side"), [((30, 90), Side.RIGHT), ((110, 170), Side.LEFT)])
def test_a_lone_lung_belongs_to_its_half_of_the_image(columns: tuple[int, int], side: Side) -> None:
    mask = np.zeros((200, 200), bool)
    mask[30:170, slice(*columns)] = True
    sides, _ = split_sides(mask)
    assert set(np.unique(sides)) == {0, side}


def test_an_empty_mask_has_no_sides() -> None:
    sides, parts = split_sides(np.zeros((100, 100), bool))
    assert parts == 0
    assert not sides.any()


def test_a_hole_open_to_the_frame_is_no_hole() -> None:
    mask = np.ones((20, 20), bool)
    mask[:5, 8:12] = False
    np.testing.assert_array_equal(fill_holes(mask), mask)


def judge(mask: np.ndarray, predicted_iou: float = 0.95) -> tuple[str, ...]:
    sides, parts = split_sides(mask)
    return assess(sides, components=parts, predicted_iou=predicted_iou).reasons


def test_a_good_mask_gives_no_reason() -> None:
    assert judge(two_lungs()) == ()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.zeros((200, 200), bool), "No lung"),
        (np.pad(np.ones((10, 10), bool), 95), "covers only"),
        (np.ones((200, 200), bool), "cover 100%"),
        (
            two_lungs() & (np.arange(200)[:, None] > np.where(np.arange(200) < 100, 0, 130)),
            "much larger",
        ),
        (np.roll(two_lungs(), 30, axis=0), "touch the frame \\(bottom\\)"),
    ],
)
def test_a_strange_mask_gives_its_reason(mask: np.ndarray, words: str) -> None:
    assert re.search(words, " ".join(judge(mask)))


def test_a_low_predicted_iou_is_a_reason() -> None:
    assert "rates its own mask low" in judge(two_lungs(), predicted_iou=0.5)[0]


def test_areas_and_asymmetry_are_fractions() -> None:
    sides = np.zeros((100, 100), np.uint8)
    sides[:, :30] = Side.RIGHT
    sides[:, 90:] = Side.LEFT
    quality = assess(sides, components=2, predicted_iou=1.2)
    assert (quality.right_fraction, quality.left_fraction) == (0.3, 0.1)
    assert quality.area_fraction == pytest.approx(0.4)
    assert quality.asymmetry == pytest.approx(0.5)
    assert quality.predicted_iou == 1.0
    assert quality.clipped_edges == ("top", "bottom", "left", "right")


def painted_on() -> LungMask:
    sides = np.zeros((100, 120), np.uint8)
    sides[20:80, 20:50] = Side.RIGHT
    sides[20:80, 70:100] = Side.LEFT
    quality = assess(sides, components=2, predicted_iou=0.9)
    return LungMask(sides, quality, np.zeros((32, 32), np.float32))


def disc(x: float, y: float, radius: float, hw: tuple[int, int] = (100, 120)) -> np.ndarray:
    rows, columns = np.indices(hw) + 0.5
    return np.hypot(columns - x, rows - y) <= radius


strokes = st.builds(
    Stroke,
    st.lists(st.tuples(st.floats(-30, 150), st.floats(-30, 130)), min_size=1, max_size=4).map(
        tuple
    ),
    st.floats(0.1, 30),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(drawn=st.lists(strokes, max_size=4))
def test_every_stroke_is_obeyed_in_order(drawn: list[Stroke]) -> None:
    lungs = painted_on()
    expected = lungs.inside.copy()
    rows, columns = np.indices(expected.shape) + 0.5
    for stroke in drawn:
        corners = np.array(stroke.points)
        # Along each line by steps far finer than a pixel.
        for one, other in zip(corners, [*corners[1:], corners[-1]], strict=True):
            delta = other - one
            at = np.zeros(expected.shape)
            if delta @ delta:  # of the smallest numbers it is 0
                at = ((columns - one[0]) * delta[0] + (rows - one[1]) * delta[1]) / (delta @ delta)
            nearest = one + np.clip(at, 0, 1)[..., None] * delta
            away = np.hypot(columns - nearest[..., 0], rows - nearest[..., 1])
            expected[away <= stroke.radius] = stroke.add
    found = paint(lungs, drawn)
    assert (found.inside != expected).mean() < 2e-4, "but for the last bit of a distance"
    if all(stroke.add for stroke in drawn):
        np.testing.assert_array_equal(found.sides[lungs.inside], lungs.sides[lungs.inside])
    areas = [found.side(side).mean() for side in Side]
    assert (found.quality.right_fraction, found.quality.left_fraction) == pytest.approx(areas)


def test_a_disc_is_in_or_out_to_the_pixel() -> None:
    lungs = painted_on()
    added = paint(lungs, [Stroke(((60.0, 50.0),), 5.0, True)])
    np.testing.assert_array_equal(added.inside, lungs.inside | disc(60, 50, 5))
    removed = paint(lungs, [Stroke(((35.0, 50.0),), 7.3, False)])
    np.testing.assert_array_equal(removed.inside, lungs.inside & ~disc(35, 50, 7.3))


def test_what_is_added_belongs_to_the_lung_it_touches() -> None:
    lungs = painted_on()
    right = paint(lungs, [Stroke(((50.0, 50.0), (58.0, 50.0)), 4.0, True)])
    assert set(right.sides[disc(58, 50, 3)]) == {Side.RIGHT}, "nearer to the left lung's side"
    across = paint(lungs, [Stroke(((48.0, 50.0), (72.0, 50.0)), 3.0, True)])
    assert across.sides[50, 55] == Side.RIGHT
    assert across.sides[50, 66] == Side.LEFT


def test_what_touches_no_lung_lies_on_its_side_of_the_body() -> None:
    alone = painted_on()
    shifted = np.zeros_like(alone.sides)
    shifted[20:80, 60:80] = Side.RIGHT
    shifted[20:80, 95:115] = Side.LEFT
    for sides, x, side in (
        (alone.sides, 55.0, Side.RIGHT),
        (alone.sides, 65.0, Side.LEFT),
        (shifted, 84.0, Side.RIGHT),  # left of the midline at 87, right of the image's
        (np.zeros_like(alone.sides), 40.0, Side.RIGHT),
        (np.zeros_like(alone.sides), 90.0, Side.LEFT),
    ):
        found = paint(replace(alone, sides=sides), [Stroke(((x, 90.0),), 2.0, True)])
        assert found.sides[90, int(x)] == side


def test_a_painted_mask_is_judged_anew() -> None:
    lungs = painted_on()
    assert lungs.quality.is_plausible
    gone = paint(lungs, [Stroke(((35.0, 20.0), (35.0, 80.0)), 40.0, False)])
    assert "One lung is much larger" in " ".join(gone.quality.reasons)
    nothing = paint(lungs, [Stroke(((60.0, 50.0),), 200.0, False)])
    assert nothing.is_empty
    assert "No lung was found." in nothing.quality.reasons
    assert paint(lungs, []) is lungs


@pytest.mark.parametrize(
    ("points", "radius"),
    [
        ((), 3.0),
        (((1.0, 2.0),), 0.0),
        (((1.0, 2.0),), -1.0),
        (((float("nan"), 2.0),), 3.0),
        (((1.0, 2.0),), float("inf")),
    ],
)
def test_a_stroke_without_sense_is_refused(points: tuple, radius: float) -> None:
    with pytest.raises(PromptError, match="Expected a stroke"):
        Stroke(points, radius, True)
