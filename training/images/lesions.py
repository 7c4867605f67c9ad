"""Synthetic nodules and masses, drawn into training images only.

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


NODULE: Final = LesionKind("Nodule", diameter=(0.035, 0.12), contrast=(0.12, 0.40))
MASS: Final = LesionKind("Mass", diameter=(0.12, 0.32), contrast=(0.18, 0.55))

WAVES: Final = 5
ROUGHNESS: Final = 0.10
"""Each of the outline's `WAVES` may deform the radius by up to this fraction over its number."""


def draw_lesion(
    pixels: NDArray[np.float32],
    lungs: NDArray[np.bool_],
    kind: LesionKind,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Adds one lesion, centred anywhere in the lungs.

    Args:
        pixels: float32 (H, W) in 0..1.
        lungs: bool (H, W); not empty.
        kind: Nodule or mass.
        rng: Source of the position, size, outline and contrast.

    Returns:
        A new float32 (H, W) array in 0..1, changed only about the lesion and nowhere darker.
    """
    box = bounding_box(lungs)
    if box is None:
        raise ValueError("the lung mask is empty")
    radius = 0.5 * rng.uniform(*kind.diameter) * (box[3] - box[1])
    inside = np.flatnonzero(lungs)
    row, column = divmod(int(inside[rng.integers(inside.size)]), lungs.shape[1])
    y, x = np.ogrid[: lungs.shape[0], : lungs.shape[1]]
    angle = np.arctan2(y - row, x - column)
    outline = np.ones(lungs.shape)
    for wave in range(2, 2 + WAVES):
        depth, phase = rng.uniform(0, ROUGHNESS), rng.uniform(0, 2 * np.pi)
        outline += depth / (wave - 1) * np.cos(wave * angle + phase)
    rho = np.hypot(y - row, x - column) / (radius * outline)
    chord = np.sqrt(np.clip(1.0 - rho**2, 0.0, 1.0))
    softness = max(0.05 * radius, 0.4)
    opacity = cv2.GaussianBlur(chord.astype(np.float32), (0, 0), softness)
    opacity *= np.float32(rng.uniform(*kind.contrast))
    return np.asarray(pixels + opacity * (1.0 - pixels), np.float32)
