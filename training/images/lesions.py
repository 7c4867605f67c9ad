"""Lesions at random places: labels whose place is known."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrdemo.lesions import VISIBLE, LesionKind, add_opacity, opacity_of
from cxrdemo.results import bounding_box


@dataclass(frozen=True, eq=False)
class Lesion:
    """An image with one lesion in it.

    Attributes:
        pixels: float32 (H, W) in 0..1, changed only about the lesion and nowhere darker.
        place: bool (H, W), where the lesion is, see `VISIBLE`.
    """

    pixels: NDArray[np.float32]
    place: NDArray[np.bool_]


def draw_lesion(
    pixels: NDArray[np.float32],
    lungs: NDArray[np.bool_],
    kind: LesionKind,
    rng: np.random.Generator,
    *,
    centres: NDArray[np.bool_] | None = None,
    beyond: bool = False,
) -> Lesion | None:
    """Adds one lesion.

    Args:
        pixels: float32 (H, W) in 0..1.
        lungs: bool (H, W); not empty. Their height is the measure of sizes.
        kind: Nodule or mass.
        rng: Source of the position, size, outline and contrast.
        centres: bool (H, W), where the centre may lie; None for the lungs.
        beyond: Keep it clear of the lungs, as a control that means nothing.

    Returns:
        The lesion, or None if there is no place for it.
    """
    height = _height(lungs)
    radius = 0.5 * rng.uniform(*kind.diameter) * height
    contrast = rng.uniform(*kind.contrast)
    allowed = lungs if centres is None else centres
    if beyond:
        clear = cv2.distanceTransform((~lungs).astype(np.uint8), cv2.DIST_L2, 5)
        # The outline's waves reach beyond the radius.
        allowed = allowed & (clear > 1.2 * radius)
    inside = np.flatnonzero(allowed)
    if not inside.size:
        return None
    centre = divmod(int(inside[rng.integers(inside.size)]), lungs.shape[1])
    opacity = opacity_of(pixels.shape, centre, radius, rng)
    return Lesion(add_opacity(pixels, opacity, contrast), opacity > VISIBLE)


def _height(lungs: NDArray[np.bool_]) -> int:
    box = bounding_box(lungs)
    if box is None:
        raise ValueError("the lung mask is empty")
    return int(box[3] - box[1])
