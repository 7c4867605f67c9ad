"""Other edges for a lung mask: what a second segmenter, or a hand, might have drawn."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrdemo.results import bounding_box

GROWTH: Final = 0.02
SHIFT: Final = 0.01
PIECE: Final = (0.03, 0.10)
"""Of the lungs' height: largest growth or shrinking, largest shift, radius of a dropped piece."""

PIECE_CHANCE: Final = 0.1


def jitter_edges(lungs: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Grows or shrinks and shifts a mask a little, and now and then drops a piece of it.

    Weights that saw only one segmenter's edges read them as signs; these should not.

    Args:
        lungs: bool (H, W); not empty.
        rng: Source of everything random.

    Returns:
        bool (H, W); the mask itself where nothing would be left.
    """
    box = bounding_box(lungs)
    if box is None:
        raise ValueError("the lung mask is empty")
    height = box[3] - box[1]
    changed = lungs.astype(np.uint8)
    growth = round(rng.uniform(-GROWTH, GROWTH) * height)
    if growth:
        side = 2 * abs(growth) + 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        changed = np.asarray((cv2.dilate if growth > 0 else cv2.erode)(changed, disc))
    dx, dy = rng.uniform(-SHIFT, SHIFT, 2) * height
    matrix = np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]])
    size = (lungs.shape[1], lungs.shape[0])
    changed = np.ascontiguousarray(cv2.warpAffine(changed, matrix, size, flags=cv2.INTER_NEAREST))
    if rng.random() < PIECE_CHANCE:
        inside = np.flatnonzero(lungs)
        row, column = divmod(int(inside[rng.integers(inside.size)]), lungs.shape[1])
        cv2.circle(changed, (column, row), int(rng.uniform(*PIECE) * height), 0, -1)
    return changed.astype(bool) if changed.any() else lungs
