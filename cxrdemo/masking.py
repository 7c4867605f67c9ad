"""Which pixels a masking keeps, and what a network is given of them. numpy and OpenCV, no torch.

The paper (arXiv 2512.23089) leaves the width of its loose mask open. Ours is a margin given as a
fraction of the height of the lungs' bounding box, so that it scales with the patient.
"""

from dataclasses import dataclass
from typing import Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrdemo.errors import GridMismatchError, NoLungsFoundError
from cxrdemo.inputs import KEPT_MEAN, Fill, InputSpec, place
from cxrdemo.placement import Placement
from cxrdemo.results import MAX_MARGIN, MaskingMode, bounding_box

DEFAULT_MARGIN: Final = 0.08
"""About 20 mm in an adult, whose lungs are about 25 cm high on a frontal image."""

GRID_PX: Final = 1024
"""Longest side of the grid on which a margin is measured: four times finer than the classifiers see
and sixteen times cheaper than an image of 4000 pixels."""

NO_LUNGS: Final = (
    "No lungs were found, so there is nothing to mask. Use masking 'none', or check that the image "
    "is a frontal chest X-ray."
)

NOTHING_KEPT: Final = (
    "The masking keeps nothing of this image that the classifier could see, so there is nothing to "
    "read. Correct the lung mask, or use masking 'none'."
)


class Surroundings:
    """How far everything lies from the lungs: measured once, asked for any number of margins.

    Distances are taken on a grid of at most `GRID_PX`, so a margin costs the same for an image of
    any size; images up to that size are their own grid.
    """

    def __init__(self, lungs: NDArray[np.bool_]) -> None:
        """Measures the distances.

        Args:
            lungs: bool (H, W), both lungs.

        Raises:
            NoLungsFoundError: If the mask is empty.
        """
        box = bounding_box(lungs)
        if box is None:
            raise NoLungsFoundError(NO_LUNGS)
        hw = (lungs.shape[0], lungs.shape[1])
        scale = min(1.0, GRID_PX / max(hw))
        grid_hw = (max(1, round(hw[0] * scale)), max(1, round(hw[1] * scale)))
        self._lungs = lungs
        self._placement = Placement.stretch(hw, grid_hw)
        self._distance = _distance_to(self._placement.mask(lungs) if scale < 1.0 else lungs)
        self._height_px = (box[3] - box[1]) * scale

    def within(self, margin: float) -> NDArray[np.bool_]:
        """What a loose margin keeps, bool (H, W): the lungs widened by it, and closed.

        A margin wider by 1.5 px of the grid or more keeps all that the smaller one did. Between
        closer ones a few pixels at the edge of what is closed may go again, for a circle of pixels
        grows by whole ones. A margin of 0 keeps the lungs alone.

        Args:
            margin: As a fraction of the height of the lungs' bounding box, 0..0.5.

        Raises:
            ValueError: If the margin is out of range.
        """
        if not 0.0 <= margin <= MAX_MARGIN:
            raise ValueError(f"margin must lie in 0..{MAX_MARGIN}, got {margin}")
        if margin == 0.0:
            return self._lungs.copy()
        kept = _widened(self._distance, margin * self._height_px)
        if kept.shape == self._lungs.shape:
            return kept
        # A bilinear grid keeps larger margins around smaller ones; the lungs are kept to the pixel.
        return (self._placement.undo_map(kept.astype(np.float32)) >= 0.5) | self._lungs


def kept_region(
    lungs: NDArray[np.bool_], *, mode: MaskingMode, margin: float = DEFAULT_MARGIN
) -> NDArray[np.bool_]:
    """Pixels that a masking keeps.

    NONE keeps all. TIGHT keeps the lungs. LOOSE keeps every pixel within the margin of a lung, and
    closes gaps up to two margins wide, so that the perihilar, retrocardiac and pleural borders
    survive. For several margins of one mask, `Surroundings` measures once.

    Args:
        lungs: bool (H, W), both lungs.
        mode: Which region to keep.
        margin: Width of the loose margin, as a fraction of the height of the lungs' bounding box,
            0..0.5; continuous, and ignored unless the mode is LOOSE.

    Returns:
        bool (H, W). For one lung mask TIGHT is a subset of LOOSE, LOOSE of NONE, and LOOSE grows
        with the margin, see `Surroundings.within`.

    Raises:
        NoLungsFoundError: If the mask is empty and the mode is not NONE.
        ValueError: If the margin is out of range.
    """
    if mode is MaskingMode.NONE:
        return np.ones(lungs.shape, bool)
    if mode is MaskingMode.LOOSE:
        return Surroundings(lungs).within(margin)
    if not lungs.any():
        raise NoLungsFoundError(NO_LUNGS)
    return lungs.copy()


def margin_levels(lungs: NDArray[np.bool_], *, step: float, count: int) -> NDArray[np.uint8]:
    """From which loose margin on each pixel is kept: all margins of a slider in one map.

    Args:
        lungs: bool (H, W), both lungs.
        step: Distance of two margins, as a fraction of the lungs' height.
        count: Number of margins: step, 2 step, ... count * step; at most 254.

    Returns:
        uint8 (H, W): 0 in the lungs, k where a margin of k * step is the first to keep the pixel,
        count + 1 where none does. `kept_region` at k * step is where the level is at most k, if a
        step is at least 1.5 px of the grid, see `Surroundings.within`.

    Raises:
        NoLungsFoundError: If the mask is empty.
    """
    surroundings = Surroundings(lungs)
    levels = np.full(lungs.shape, count + 1, np.uint8)
    for level in range(count, 0, -1):
        levels[surroundings.within(level * step)] = level
    levels[lungs] = 0
    return levels


def apply_mask(
    pixels: NDArray[np.float32], kept: NDArray[np.bool_], *, fill: float
) -> NDArray[np.float32]:
    """Gives every pixel outside the kept region the checkpoint's fill value.

    Args:
        pixels: float32 (H, W) in 0..1.
        kept: bool (H, W).
        fill: Value of the removed pixels, exactly.

    Returns:
        float32 (H, W): a new array whose kept pixels are unchanged, or `pixels` itself if all are
        kept.

    Raises:
        GridMismatchError: If the two differ in size.
    """
    if pixels.shape != kept.shape:
        raise GridMismatchError(f"The mask is {kept.shape}, the image {pixels.shape}.")
    if kept.all():
        return pixels
    # Zeros cost nothing until they are written.
    masked = np.zeros(pixels.shape, np.float32)
    if fill:
        masked.fill(fill)
    return cast(NDArray[np.float32], cv2.copyTo(pixels, kept.view(np.uint8), masked))


def fill_level(pixels: NDArray[np.float32], kept: NDArray[np.bool_], fill: Fill) -> float:
    """The level, 0..1, that a checkpoint's fill gives removed pixels and bars.

    It follows from the kept pixels alone, so nothing of what is removed can reach a network.

    Args:
        pixels: float32 (H, W) in 0..1.
        kept: bool (H, W), not empty.
        fill: Of the checkpoint's `InputSpec`.
    """
    return float(cv2.mean(pixels, kept.view(np.uint8))[0]) if fill == KEPT_MEAN else fill


@dataclass(frozen=True, eq=False)
class MaskedInput:
    """What a network is given of a masked image.

    Attributes:
        canvas: float32 of the spec's size, in 0..1, for `inputs.normalise`.
        placement: Where the image lies in the canvas.
        fill: Level of the removed pixels and of the bars.
    """

    canvas: NDArray[np.float32]
    placement: Placement
    fill: float


def masked_input(
    pixels: NDArray[np.float32], kept: NDArray[np.bool_], spec: InputSpec
) -> MaskedInput:
    """Masks an image and places it: the one way to a classifier, in app and training.

    Args:
        pixels: float32 (H, W) in 0..1.
        kept: bool (H, W), see `kept_region`.
        spec: The checkpoint's input.

    Raises:
        NoLungsFoundError: If nothing is kept.
        GridMismatchError: If the two differ in size.
    """
    if not kept.any():
        raise NoLungsFoundError(NOTHING_KEPT)
    if pixels.shape != kept.shape:
        raise GridMismatchError(f"The mask is {kept.shape}, the image {pixels.shape}.")
    level = fill_level(pixels, kept, spec.fill)
    canvas, placement = place(apply_mask(pixels, kept, fill=level), spec, fill=level)
    return MaskedInput(canvas, placement, level)


def cell_weights(shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each cell of a network's last activations counts in a mean over the kept region.

    A cell counts from the half on that is kept: max(0, 2 share - 1). The edge of a mask is the
    strongest in the picture, and in cells that are mostly removed there is nothing else. Where no
    cell is mostly kept, each counts by its share, see `is_sparse`.

    Args:
        shares: float32 (..., h, w), `Placement.shares` of the kept region; one grid per image.

    Returns:
        float32 (..., h, w), 0..1.

    Raises:
        NoLungsFoundError: If nothing is kept of an image.
    """
    if not shares.any(axis=(-2, -1)).all():
        raise NoLungsFoundError(NOTHING_KEPT)
    mostly = np.maximum(np.float32(0), 2 * shares - 1)
    return np.where(is_sparse(shares)[..., None, None], shares, mostly).astype(np.float32)


def is_sparse(shares: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether so little is kept that no cell is mostly kept: bool (...) of `cell_weights`."""
    return np.asarray(shares.max(axis=(-2, -1)) <= 0.5)


def _widened(distance: NDArray[np.float32], margin_px: float) -> NDArray[np.bool_]:
    """The lungs widened by a margin and closed, from the distance to them."""
    # Everything within 2 margins, minus everything within 1 margin of what is left out: that is
    # the widened mask, closed. Distances are Euclidean and subpixel, so the margin is continuous.
    # Nothing farther off than 3 margins has a say.
    reached = (distance <= 3.0 * margin_px + 1.0).view(np.uint8)
    left, top, width, height = cv2.boundingRect(reached)
    box = slice(top, top + height), slice(left, left + width)
    kept = distance <= margin_px
    kept[box] |= _distance_to(distance[box] > 2.0 * margin_px) > margin_px
    return kept


def _distance_to(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Euclidean distance in pixels from each pixel to the region; 0 inside; inf if it is empty."""
    if not region.any():
        return np.full(region.shape, np.inf, np.float32)
    distance = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return cast(NDArray[np.float32], distance)


def margin_remarks(margin: float, *, trained: tuple[float, float] | None) -> tuple[str, ...]:
    """What a reading at a loose margin must be warned of.

    Args:
        margin: As a fraction of the lungs' height.
        trained: The least and the greatest margin seen in training; None if that is not known.

    Returns:
        One remark in words for the user, or none.
    """
    if trained is None or trained[0] <= margin <= trained[1]:
        return ()
    low, high = trained
    return (
        f"The loose margin of {margin:.0%} lies outside the {low:.0%} to {high:.0%} seen in "
        "training.",
    )
