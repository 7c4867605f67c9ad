import re

import numpy as np
import pytest

from cxrdemo.lungs import assess, fill_holes, split_sides
from cxrdemo.phantom import Phantom
from cxrdemo.results import Side

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
