"""Synthetic nodules and masses: labels whose place is known.

Real ones are few in a small public sample. A round opacity is the shadow of a ball: its attenuation
follows the chord that the ray cuts through it. Sizes are fractions of the lungs' height, which is
about 25 cm in an adult. Radiology calls an opacity of up to 3 cm a nodule, a larger one a mass.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrdemo.results import bounding_box


@dataclass(frozen=True)
class LesionKind:
    """Sizes and contrasts of one finding.

    Attributes:
        key: The finding it teaches.
        diameter: Smallest and largest, as fractions of the lungs' height.
        contrast: Smallest and largest share of the way from the local grey level to white.
    """

    key: str
    diameter: tuple[float, float]
    contrast: tuple[float, float]


NODULE: Final = LesionKind("Nodule", diameter=(0.05, 0.12), contrast=(0.2, 0.6))
MASS: Final = LesionKind("Mass", diameter=(0.12, 0.32), contrast=(0.2, 0.6))

WAVES: Final = 5
ROUGHNESS: Final = 0.10
"""Each of the outline's `WAVES` may deform the radius by up to this fraction over its number."""

VISIBLE: Final = 0.3
"""Where the opacity is above this part of its centre's, the lesion is said to be."""


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


def opacity_of(
    hw: tuple[int, ...], centre: tuple[int, int], radius: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The shadow of a ball with an uneven outline.

    Args:
        hw: Size of the image.
        centre: Row and column.
        radius: In pixels.
        rng: Source of the outline.

    Returns:
        float32 (H, W): 0 away from it, about 1 at the centre.
    """
    y, x = np.ogrid[: hw[0], : hw[1]]
    angle = np.arctan2(y - centre[0], x - centre[1])
    outline = np.ones(hw)
    for wave in range(2, 2 + WAVES):
        depth, phase = rng.uniform(0, ROUGHNESS), rng.uniform(0, 2 * np.pi)
        outline += depth / (wave - 1) * np.cos(wave * angle + phase)
    rho = np.hypot(y - centre[0], x - centre[1]) / (radius * outline)
    chord = np.sqrt(np.clip(1.0 - rho**2, 0.0, 1.0))
    softness = max(0.05 * radius, 0.4)
    return np.asarray(cv2.GaussianBlur(chord.astype(np.float32), (0, 0), softness), np.float32)


def add_opacity(
    pixels: NDArray[np.float32], opacity: NDArray[np.float32], contrast: float
) -> NDArray[np.float32]:
    """The image with an opacity, whose centre goes `contrast`, 0..1, of the way to white."""
    return np.asarray(pixels + np.float32(contrast) * opacity * (1.0 - pixels), np.float32)


def _height(lungs: NDArray[np.bool_]) -> int:
    box = bounding_box(lungs)
    if box is None:
        raise ValueError("the lung mask is empty")
    return int(box[3] - box[1])
