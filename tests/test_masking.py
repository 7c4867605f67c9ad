from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cxrdemo.errors import GridMismatchError, NoLungsFoundError
from cxrdemo.inputs import KEPT_MEAN, InputSpec
from cxrdemo.masking import (
    Surroundings,
    apply_mask,
    cell_weights,
    fill_level,
    is_sparse,
    kept_region,
    margin_levels,
    masked_input,
)
from cxrdemo.phantom import Phantom
from cxrdemo.placement import Placement
from cxrdemo.results import MaskingMode


@pytest.fixture(scope="module")
def lungs(phantom: Phantom) -> np.ndarray:
    return phantom.lungs > 0


def test_none_keeps_everything_even_without_lungs() -> None:
    assert kept_region(np.zeros((70, 70), bool), mode=MaskingMode.NONE).all()


def test_tight_is_the_mask_itself_and_a_copy(lungs: np.ndarray) -> None:
    kept = kept_region(lungs, mode=MaskingMode.TIGHT)
    np.testing.assert_array_equal(kept, lungs)
    assert kept is not lungs


@st.composite
def some_lungs(draw: st.DrawFn) -> np.ndarray:
    """Ellipses and single pixels, anywhere."""
    mask = np.zeros((draw(st.integers(64, 140)), draw(st.integers(64, 140))), np.uint8)
    place = st.tuples(st.integers(0, mask.shape[1] - 1), st.integers(0, mask.shape[0] - 1))
    axes = st.tuples(st.integers(0, 30), st.integers(0, 30))
    for centre in draw(st.lists(place, min_size=1, max_size=6)):
        cv2.ellipse(mask, centre, draw(axes), draw(st.integers(0, 90)), 0, 360, 1, -1)
    return mask.astype(bool)


@settings(max_examples=200, deadline=None)
@given(lungs=some_lungs(), margin=st.floats(0, 0.5), more=st.floats(1.5, 5))
def test_tight_is_within_loose_and_loose_grows_with_the_margin(
    lungs: np.ndarray, margin: float, more: float
) -> None:
    rows = np.flatnonzero(lungs.any(axis=1))
    height = rows[-1] - rows[0] + 1
    wider = min(0.5, margin + more / height)
    loose = kept_region(lungs, mode=MaskingMode.LOOSE, margin=margin)
    assert not (lungs & ~loose).any()
    assume((wider - margin) * height > 1.42)
    assert not (loose & ~kept_region(lungs, mode=MaskingMode.LOOSE, margin=wider)).any()


def test_a_margin_of_zero_is_tight(lungs: np.ndarray) -> None:
    loose = kept_region(lungs, mode=MaskingMode.LOOSE, margin=0.0)
    np.testing.assert_array_equal(loose, lungs)


def test_the_margin_is_a_fraction_of_the_lungs_height() -> None:
    mask = np.zeros((300, 300), bool)
    mask[100:200, 140:160] = True  # 100 px high
    loose = kept_region(mask, mode=MaskingMode.LOOSE, margin=0.08)
    columns = np.flatnonzero(loose[150])
    assert (columns[0], columns[-1]) == (132, 167)  # 8 px to each side


def test_the_margin_is_continuous() -> None:
    mask = np.zeros((400, 400), bool)
    mask[50:350, 150:250] = True
    sizes = [
        kept_region(mask, mode=MaskingMode.LOOSE, margin=m).sum()
        for m in np.linspace(0.05, 0.06, 8)
    ]
    assert len(set(sizes)) > 4


def test_loose_closes_the_gap_between_the_lungs(lungs: np.ndarray) -> None:
    middle = slice(lungs.shape[1] // 2 - 2, lungs.shape[1] // 2 + 2)
    loose = kept_region(lungs, mode=MaskingMode.LOOSE, margin=0.15)
    assert loose[lungs.shape[0] // 2, middle].all()


@pytest.mark.parametrize("mode", [MaskingMode.LOOSE, MaskingMode.TIGHT])
def test_an_empty_mask_is_refused_with_the_remedy(mode: MaskingMode) -> None:
    with pytest.raises(NoLungsFoundError, match="Use masking 'none'"):
        kept_region(np.zeros((70, 70), bool), mode=mode)


@pytest.mark.parametrize("margin", [-0.01, 0.51, float("nan")])
def test_a_margin_out_of_range_is_refused(lungs: np.ndarray, margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        kept_region(lungs, mode=MaskingMode.LOOSE, margin=margin)


def test_removed_pixels_equal_the_fill_and_kept_ones_stay() -> None:
    pixels = np.random.default_rng(0).random((70, 70), np.float32)
    before = pixels.copy()
    kept = pixels > 0.5
    masked = apply_mask(pixels, kept, fill=0.25)
    assert (masked[~kept] == 0.25).all()
    np.testing.assert_array_equal(masked[kept], pixels[kept])
    np.testing.assert_array_equal(pixels, before)
    assert masked.dtype == np.float32


def test_sizes_must_agree() -> None:
    with pytest.raises(GridMismatchError):
        apply_mask(np.zeros((70, 70), np.float32), np.ones((70, 71), bool), fill=0)


def test_margin_levels_hold_every_margin_of_a_slider(lungs: np.ndarray) -> None:
    levels = margin_levels(lungs, step=0.02, count=10)
    np.testing.assert_array_equal(levels == 0, lungs)
    for level in (1, 4, 10):
        kept = kept_region(lungs, mode=MaskingMode.LOOSE, margin=0.02 * level)
        np.testing.assert_array_equal(levels <= level, kept)
    assert levels.max() == 11


def test_margin_levels_need_lungs() -> None:
    with pytest.raises(NoLungsFoundError):
        margin_levels(np.zeros((70, 70), bool), step=0.01, count=20)


def large_lungs(phantom: Phantom, height: int) -> np.ndarray:
    """The phantom's lungs, smoothly enlarged."""
    width = round(height * phantom.lungs.shape[1] / phantom.lungs.shape[0])
    placement = Placement.stretch((height, width), phantom.lungs.shape)
    return placement.undo_map((phantom.lungs > 0).astype(np.float32)) >= 0.5


@pytest.mark.parametrize("margin", [0.02, 0.08, 0.2])
def test_a_large_image_is_measured_on_a_coarser_grid_to_the_same_effect(
    phantom: Phantom, margin: float
) -> None:
    lungs = large_lungs(phantom, 2500)
    height = np.flatnonzero(lungs.any(axis=1)).size
    distance = cv2.distanceTransform((~lungs).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    left_out = (distance > 2 * margin * height).astype(np.uint8)
    closed = cv2.distanceTransform(1 - left_out, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    plain = (closed > margin * height) | (distance <= margin * height)
    kept = Surroundings(lungs).within(margin)
    assert kept.shape == lungs.shape
    assert (kept & plain).sum() / (kept | plain).sum() > 0.995


@pytest.mark.parametrize("fill", [0.0, 0.3])
def test_an_array_may_lie_in_memory_in_any_order(fill: float) -> None:
    random = np.random.default_rng(0)
    pixels, kept = random.random((5, 4), np.float32), random.random((5, 4)) < 0.5
    expected = np.where(kept, pixels, np.float32(fill))
    for image in (np.asfortranarray(pixels), pixels[::-1].copy()[::-1]):
        np.testing.assert_array_equal(apply_mask(image, kept, fill=fill), expected)


@pytest.mark.parametrize("margin", [0.01, 0.08, 0.2])
def test_looking_only_near_the_lungs_changes_no_pixel(lungs: np.ndarray, margin: float) -> None:
    reach = margin * np.flatnonzero(lungs.any(axis=1)).size
    distance = cv2.distanceTransform((~lungs).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near = (distance <= 2 * reach).astype(np.uint8)
    assert not near.all()
    closed = cv2.distanceTransform(near, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > reach
    plain = closed | (distance <= reach)
    np.testing.assert_array_equal(Surroundings(lungs).within(margin), plain)


def test_a_large_image_keeps_its_lungs_to_the_pixel_and_grows_with_the_margin(
    phantom: Phantom,
) -> None:
    lungs = large_lungs(phantom, 1500)
    surroundings = Surroundings(lungs)
    kept = [surroundings.within(margin) for margin in (0.0, 0.001, 0.01, 0.08, 0.09)]
    np.testing.assert_array_equal(kept[0], lungs)
    for smaller, larger in pairwise(kept):
        assert not (smaller & ~larger).any()


def test_a_small_image_is_its_own_grid(lungs: np.ndarray) -> None:
    kept = kept_region(lungs, mode=MaskingMode.LOOSE, margin=0.08)
    np.testing.assert_array_equal(kept, Surroundings(lungs).within(0.08))
    one_px = 1 / np.flatnonzero(lungs.any(axis=1)).size
    grown = Surroundings(lungs).within(one_px)
    cross = cv2.dilate(lungs.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))
    assert not (cross.astype(bool) & ~grown).any()


@given(seed=st.integers(0, 2**32 - 1), fraction=st.floats(0.01, 0.99))
def test_a_mean_fill_follows_from_the_kept_pixels_alone(seed: int, fraction: float) -> None:
    rng = np.random.default_rng(seed)
    pixels, others = rng.random((2, 70, 83), np.float32)
    kept = rng.random(pixels.shape) < fraction
    kept[0, 0] = True
    level = fill_level(pixels, kept, KEPT_MEAN)
    assert level == fill_level(np.where(kept, pixels, others), kept, KEPT_MEAN)
    assert level == pytest.approx(pixels[kept].mean(dtype=np.float64), abs=1e-6)
    assert fill_level(pixels, kept, 0.25) == 0.25


def test_removed_pixels_and_bars_get_the_same_level() -> None:
    spec = InputSpec(hw=(64, 64), fill=KEPT_MEAN)
    pixels = np.random.default_rng(0).random((70, 140)).astype(np.float32)
    kept = np.zeros(pixels.shape, bool)
    kept[20:50, 30:60] = True
    given = masked_input(pixels, kept, spec)
    assert given.canvas[0, 0] == np.float32(given.fill)
    assert given.canvas[32, 60] == pytest.approx(given.fill, abs=1e-6)
    assert given.fill == pytest.approx(pixels[kept].mean(), abs=1e-6)
    assert abs(given.canvas[30, 20] - given.fill) > 1e-3


def test_a_masking_that_keeps_nothing_is_refused() -> None:
    pixels = np.zeros((70, 70), np.float32)
    with pytest.raises(NoLungsFoundError, match="keeps nothing"):
        masked_input(pixels, np.zeros((70, 70), bool), InputSpec(hw=(64, 64)))
    with pytest.raises(GridMismatchError):
        masked_input(pixels, np.ones((70, 71), bool), InputSpec(hw=(64, 64)))


def test_cells_count_from_the_half_on_that_is_kept() -> None:
    shares = np.array([[0.0, 0.3], [0.75, 1.0]], np.float32)
    np.testing.assert_array_equal(cell_weights(shares), [[0, 0], [0.5, 1]])
    assert not is_sparse(shares)


def test_where_no_cell_is_mostly_kept_each_counts_by_its_share() -> None:
    sparse = np.array([[0.0, 0.3], [0.5, 0.1]], np.float32)
    batch = np.stack([sparse, np.ones((2, 2), np.float32)])
    weights = cell_weights(batch)
    np.testing.assert_array_equal(weights[0], sparse)
    np.testing.assert_array_equal(weights[1], 1)
    assert is_sparse(batch).tolist() == [True, False]
    with pytest.raises(NoLungsFoundError, match="keeps nothing"):
        cell_weights(np.stack([sparse, np.zeros((2, 2), np.float32)]))
