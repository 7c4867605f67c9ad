"""What a raw lung mask is made of: cleaning, the patient's sides, and plausibility. No torch.

The bounds below are ours, chosen on the training and validation masks of Montgomery, Shenzhen and
OpenIST: they lie outside what those masks show, so that a reason means "unlike any of them".
"""

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrdemo.results import MaskQuality, Side

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
