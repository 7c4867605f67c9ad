"""What a raw lung mask is made of: cleaning, the patient's sides, and plausibility. No torch.

The bounds below are ours, chosen on the training and validation masks of Montgomery, Shenzhen and
OpenIST: they lie outside what those masks show, so that a reason means "unlike any of them".
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrdemo.errors import PromptError
from cxrdemo.results import LungMask, MaskQuality, Side

MIN_LUNG_PX_FRACTION: Final = 0.001
"""Where no part reaches this share of the image there is no lung."""

SPECK_OF_LARGEST: Final = 0.10
"""Parts smaller than this share of the largest are noise."""

MERGED_ASPECT: Final = 0.95
"""A part wider than this times its height holds both lungs; one lung alone is taller than wide."""

MIN_LUNG_FRACTION: Final = 0.03
MAX_LUNGS_FRACTION: Final = 0.60
MAX_ASYMMETRY: Final = 0.45
MIN_PREDICTED_IOU: Final = 0.80

Line = tuple[tuple[float, float], tuple[float, float]]
"""Its two ends, (x, y) each."""


@dataclass(frozen=True)
class Stroke:
    """A disc drawn along a line, in pixels of the image.

    Attributes:
        points: (x, y) of the line's corners, one at least; a single one is a disc.
        radius: Of the disc.
        add: Whether what it covers is lung, or is not.
    """

    points: tuple[tuple[float, float], ...]
    radius: float
    add: bool

    def __post_init__(self) -> None:
        """Checks the numbers, which come from a hand.

        Raises:
            PromptError: If there is no point, or a number that is none.
        """
        numbers = (self.radius, *(value for point in self.points for value in point))
        if not self.points or not all(map(math.isfinite, numbers)) or self.radius <= 0:
            raise PromptError("Expected a stroke with a point at least, and a brush size above 0.")

    def parts(self, hw: tuple[int, int]) -> Iterator[tuple[Line, tuple[slice, slice]]]:
        """Its straight lines, each with the rows and columns of an image that it can reach."""
        corners = self.points if len(self.points) > 1 else self.points * 2
        for start, end in pairwise(corners):
            columns, rows = (
                slice(
                    min(size, max(0, math.floor(min(a, b) - self.radius))),
                    min(size, max(0, math.ceil(max(a, b) + self.radius))),
                )
                for a, b, size in zip(start, end, hw[::-1], strict=True)
            )
            yield (start, end), (rows, columns)

    def cost(self, hw: tuple[int, int]) -> int:
        """How many pixels of an image `paint` looks at, the same ones over and over counted."""
        return sum(
            (rows.stop - rows.start) * (columns.stop - columns.start)
            for _, (rows, columns) in self.parts(hw)
        )


def paint(lungs: LungMask, strokes: Sequence[Stroke]) -> LungMask:
    """A mask on which every stroke is obeyed to the pixel, in order, and judged anew.

    A pixel is covered where its centre lies within the radius of the stroke's line. What is added
    belongs to the lung that it touches, to the nearer one if it touches both; where it touches
    none, to the side of the body's midline on which it lies.
    """
    if not strokes:
        return lungs
    sides = lungs.sides.copy()
    for stroke in strokes:
        covered = _covered(stroke, (sides.shape[0], sides.shape[1]))
        if stroke.add:
            _add(sides, covered & (sides == 0))
        else:
            sides[covered] = 0
    areas = cv2.connectedComponentsWithStats((sides > 0).view(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    parts = int((areas >= SPECK_OF_LARGEST * areas.max(initial=0)).sum())
    quality = assess(sides, components=parts, predicted_iou=lungs.quality.predicted_iou)
    return replace(lungs, sides=sides, quality=quality)


def split_sides(mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], int]:
    """Cleans a raw mask and tells the patient's right lung from the left.

    The two largest parts stay and their holes are filled. A whole part goes to one side; one part
    that is as wide as two lungs is cut at the narrowest column of the middle half of its box, and
    then stands for both.

    Args:
        mask: bool (H, W), both lungs, as thresholded.

    Returns:
        uint8 (H, W) with `Side` values, and the number of parts, specks not counted.
    """
    sides = np.zeros(mask.shape, np.uint8)
    # What lies outside the mask's box is not looked at.
    x0, y0, width, height = cv2.boundingRect(mask.view(np.uint8))
    shown = slice(y0, y0 + height), slice(x0, x0 + width)
    if not width:
        return sides, 0
    _, parts, stats, centres = cv2.connectedComponentsWithStats(mask[shown].view(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0  # the background
    if areas.max() < MIN_LUNG_PX_FRACTION * mask.size:
        return sides, 0
    found = int((areas >= SPECK_OF_LARGEST * areas.max()).sum())
    by_size = np.argsort(-areas)[: min(found, 2)]
    _, _, width, height, _ = stats[by_size[0]]
    if width > MERGED_ASPECT * height:
        box, lungs = _filled_part(parts, int(by_size[0]), stats)
        quarter = width // 4
        cut = quarter + int(np.argmin(lungs[:, quarter : width - quarter].sum(axis=0)))
        sides[shown][box][:, :cut][lungs[:, :cut]] = Side.RIGHT
        sides[shown][box][:, cut:][lungs[:, cut:]] = Side.LEFT
        return sides, found
    # A lone lung is judged by the image's midline, for want of a better one.
    midline = centres[by_size, 0].mean() if len(by_size) == 2 else mask.shape[1] / 2 - x0
    for part in by_size:
        box, lung = _filled_part(parts, int(part), stats)
        sides[shown][box][lung] = Side.RIGHT if centres[part, 0] < midline else Side.LEFT
    return sides, found


def _covered(stroke: Stroke, hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centres lie within a stroke's radius of its line, bool (H, W)."""
    covered = np.zeros(hw, bool)
    for ((x0, y0), (x1, y1)), (rows, columns) in stroke.parts(hw):
        y, x = (axis + 0.5 for axis in np.ogrid[: hw[0], : hw[1]])
        y, x = y[rows], x[:, columns]
        along, down = x1 - x0, y1 - y0
        length2 = along**2 + down**2
        # Where on the line, 0..1, the nearest point of it lies.
        at = np.clip(((x - x0) * along + (y - y0) * down) / length2, 0, 1) if length2 else 0.0
        distance2 = (x - x0 - at * along) ** 2 + (y - y0 - at * down) ** 2
        covered[rows, columns] |= distance2 <= stroke.radius**2
    return covered


def _add(sides: NDArray[np.uint8], added: NDArray[np.bool_]) -> None:
    """Gives new pixels a side, in place."""
    count, parts = cv2.connectedComponents(added.view(np.uint8))
    near = np.ones((3, 3), np.uint8)
    for part in range(1, count):
        new = parts == part
        around = cv2.dilate(new.view(np.uint8), near) > 0
        touched = [side for side in Side if (sides[around] == side).any()]
        if len(touched) == 2:
            away = [_distance_to(sides == side) for side in Side]
            sides[new] = np.where(away[0] <= away[1], Side.RIGHT, Side.LEFT)[new]
        elif touched:
            sides[new] = touched[0]
        else:
            middle = float(np.flatnonzero(new.any(axis=0)).mean())
            sides[new] = Side.RIGHT if middle < _midline(sides) else Side.LEFT


def _midline(sides: NDArray[np.uint8]) -> float:
    """Column between the lungs; the middle of the image where one of them is not there."""
    middles = [np.flatnonzero((sides == side).any(axis=0)) for side in Side]
    if all(columns.size for columns in middles):
        return float(np.mean([columns.mean() for columns in middles]))
    return float(sides.shape[1] / 2)


def _distance_to(lung: NDArray[np.bool_]) -> NDArray[Any]:
    return np.asarray(cv2.distanceTransform((~lung).view(np.uint8), cv2.DIST_L2, 5))


def _filled_part(
    parts: NDArray[Any], part: int, stats: NDArray[Any]
) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """A part's bounding box, and the part in it with its holes filled."""
    left, top, width, height, _ = stats[part]
    box = slice(top, top + height), slice(left, left + width)
    return box, fill_holes(parts[box] == part)


def fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Sets every unset region that does not touch the frame."""
    outside = np.pad(mask.astype(np.uint8), 1)
    cv2.floodFill(outside, None, (0, 0), 2)
    return np.not_equal(outside[1:-1, 1:-1], 2)


def assess(sides: NDArray[np.uint8], *, components: int, predicted_iou: float) -> MaskQuality:
    """Judges a mask by its areas, parts, symmetry and distance from the frame.

    Args:
        sides: uint8 (H, W) with `Side` values.
        components: Parts before cleaning.
        predicted_iou: The network's own estimate, uncalibrated.
    """
    x, y, width, height = cv2.boundingRect(sides)
    shown = sides[y : y + height, x : x + width]
    right = np.count_nonzero(shown == Side.RIGHT) / sides.size
    left = np.count_nonzero(shown == Side.LEFT) / sides.size
    total = right + left
    asymmetry = abs(right - left) / total if total else 0.0
    edges = {"top": sides[0], "bottom": sides[-1], "left": sides[:, 0], "right": sides[:, -1]}
    clipped = tuple(name for name, line in edges.items() if line.any())
    reasons = []
    if total == 0:
        reasons.append("No lung was found.")
    else:
        for name, fraction in (("right", right), ("left", left)):
            if fraction < MIN_LUNG_FRACTION:
                reasons.append(
                    f"The patient's {name} lung covers only {fraction:.1%} of the image."
                )
        if total > MAX_LUNGS_FRACTION:
            reasons.append(f"The lungs cover {total:.0%} of the image.")
        if asymmetry > MAX_ASYMMETRY:
            reasons.append("One lung is much larger than the other.")
        if components > 2:
            reasons.append(f"The mask fell into {components} parts; the two largest were kept.")
        if clipped:
            reasons.append(f"The lungs touch the frame ({', '.join(clipped)}).")
        if predicted_iou < MIN_PREDICTED_IOU:
            reasons.append(f"The segmenter rates its own mask low ({predicted_iou:.2f}).")
    return MaskQuality(
        predicted_iou=min(max(predicted_iou, 0.0), 1.0),
        area_fraction=total,
        right_fraction=right,
        left_fraction=left,
        components=components,
        clipped_edges=clipped,
        asymmetry=asymmetry,
        reasons=tuple(reasons),
    )
