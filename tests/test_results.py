from dataclasses import replace

import numpy as np
import pytest
from fakes import fake_pipeline, noise_radiograph

from cxrdemo.placement import Placement
from cxrdemo.results import CanvasRegion, HeatPlace, MaskingMode, SaliencyMap

SOURCE = (100, 50)
LETTERBOX = Placement.letterbox(SOURCE, (64, 64))
"""The image lies in the columns 16 to 48 of 64."""


def a_map(grid: np.ndarray, placement: Placement = LETTERBOX) -> SaliencyMap:
    return SaliencyMap("Mass", "Grad-CAM", grid.astype(np.float32), placement)


def one_hot(row: int, column: int, hw: tuple[int, int] = (8, 8)) -> np.ndarray:
    grid = np.zeros(hw, np.float32)
    grid[row, column] = 1.0
    return grid


def upper_half() -> np.ndarray:
    half = np.zeros(SOURCE, bool)
    half[:50] = True
    return half


def region(pixels: np.ndarray, hw: tuple[int, int] = (8, 8)) -> CanvasRegion:
    return CanvasRegion.of(pixels, LETTERBOX, hw)


EVERYTHING = region(np.ones(SOURCE, bool))
UPPER = region(upper_half())


def test_even_heat_is_shared_by_area() -> None:
    place = a_map(np.ones((8, 8))).locate(EVERYTHING, UPPER)
    assert place.in_kept == pytest.approx(1.0)
    assert place.in_lungs == pytest.approx(0.5)


def test_heat_in_one_place_is_told_with_its_pixel() -> None:
    place = a_map(one_hot(0, 3)).locate(EVERYTHING, UPPER)
    # The centre of the cell lies at (28, 4) of the canvas: 12 and 4 pixels into the image.
    assert place.hottest == pytest.approx((12 / 32 * 50, 4 / 64 * 100), abs=0.01)
    assert place == HeatPlace(place.hottest, 1.0, 1.0, True, True)
    below = a_map(one_hot(7, 3)).locate(EVERYTHING, UPPER)
    assert (below.in_lungs, below.hottest_in_lungs) == (0.0, False)
    assert below.hottest_in_kept is True


def test_half_of_the_hottest_cell_is_enough() -> None:
    edge = np.zeros(SOURCE, bool)
    edge[:44] = True  # 28.16 rows of the canvas: half of the cells of the fourth row
    region_at_edge = region(edge)
    assert region_at_edge.shares[3, 3] == pytest.approx(0.52, abs=0.01)
    assert a_map(one_hot(3, 3)).locate(region_at_edge, None).hottest_in_kept is True
    edge[42:] = False
    assert a_map(one_hot(3, 3)).locate(region(edge), None).hottest_in_kept is False


def test_heat_on_a_bar_beside_the_image_is_not_in_the_image() -> None:
    place = a_map(one_hot(4, 0)).locate(EVERYTHING, UPPER)
    assert place.hottest == pytest.approx((0.0, 36 / 64 * 100), abs=0.01)
    assert place.hottest_in_kept is False
    assert place.in_kept is None, "none of the heat lies in the image"


def test_confined_heat_is_counted_only_where_it_is_drawn() -> None:
    # One cell at the rim of what was kept: drawn, it spreads over both sides.
    spread, kept = a_map(one_hot(4, 3)), region(~upper_half())
    assert spread.locate(kept, kept).in_lungs == pytest.approx(0.875, abs=0.01)
    confined = replace(spread, confined=True)
    assert confined.locate(kept, kept).in_lungs == confined.locate(kept, kept).in_kept == 1.0
    assert not confined.heat(~upper_half())[:50].any()
    assert spread.heat(~upper_half())[:50].any()


def test_a_map_of_zeros_lies_nowhere() -> None:
    nowhere = a_map(np.zeros((8, 8)))
    assert nowhere.hottest is None
    assert nowhere.locate(EVERYTHING, UPPER) == HeatPlace()


def test_without_lungs_only_the_kept_pixels_are_told() -> None:
    place = a_map(one_hot(2, 4)).locate(EVERYTHING, None)
    assert place.in_kept == pytest.approx(1.0)
    assert place.in_lungs is place.hottest_in_lungs is None


@pytest.mark.parametrize("hw", [(64, 64), (7, 7), (14, 14), (12, 5)])
def test_grids_of_any_size_are_located(hw: tuple[int, int]) -> None:
    place = a_map(one_hot(hw[0] // 4, hw[1] // 2, hw)).locate(
        region(np.ones(SOURCE, bool), hw), region(upper_half(), hw)
    )
    assert place.hottest is not None
    assert place.hottest[1] == pytest.approx((hw[0] // 4 + 0.5) / hw[0] * 100, abs=0.01)
    assert place.hottest_in_lungs is True
    assert place.in_lungs is not None
    assert place.in_lungs > 0.9


def test_a_reading_tells_the_place_of_each_map() -> None:
    analysis = fake_pipeline().analyse(noise_radiograph())
    assert analysis.lungs is not None
    for reading in analysis.readings.values():
        for heat, place in zip(reading.saliency, reading.places, strict=True):
            kept, lungs = (
                CanvasRegion.of(pixels, heat.placement, heat.hw)
                for pixels in (reading.kept, analysis.lungs.inside)
            )
            assert place == heat.locate(kept, lungs)
    none = analysis.readings[MaskingMode.NONE]
    assert all(p.in_kept is None or p.in_kept == pytest.approx(1.0) for p in none.places)


def test_a_map_must_be_finite_and_not_negative() -> None:
    for bad in (np.full((2, 2), np.nan), np.full((2, 2), -1.0), np.zeros(4)):
        with pytest.raises(ValueError, match="grid must be"):
            a_map(bad)


def test_findings_have_one_number_per_label() -> None:
    analysis = fake_pipeline().analyse(noise_radiograph())
    findings = analysis.readings[MaskingMode.NONE].findings
    with pytest.raises(ValueError, match="thresholds must have shape"):
        replace(findings, thresholds=np.zeros(4, np.float32))
