"""Synthetic nodules and masses, whose place and size are known.

For training, which sees few real ones, and for the reader, who may put one into the image at hand
and see what the models make of it. A round opacity is the shadow of a ball: its attenuation follows
the chord that the ray cuts through it. Sizes are fractions of the lungs' height, which is about
25 cm in an adult. Radiology calls an opacity of up to 3 cm a nodule, a larger one a mass.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrdemo.errors import NoLungsFoundError, PromptError
from cxrdemo.labels import SYNTHETIC
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import LungMask, bounding_box


@dataclass(frozen=True)
class LesionKind:
    """Sizes and contrasts of one finding.

    Attributes:
        key: The finding it stands for.
        diameter: Smallest and largest, as fractions of the lungs' height.
        contrast: Smallest and largest share of the way from the local grey level to white.
    """

    key: str
    diameter: tuple[float, float]
    contrast: tuple[float, float]


NODULE: Final = LesionKind("Nodule", diameter=(0.05, 0.12), contrast=(0.2, 0.6))
MASS: Final = LesionKind("Mass", diameter=(0.12, 0.32), contrast=(0.2, 0.6))

KINDS: Final = {"nodule": NODULE, "mass": MASS}

WAVES: Final = 5
ROUGHNESS: Final = 0.10
"""Each of the outline's `WAVES` may deform the radius by up to this fraction over its number."""

_REACH: Final = 1.0 + sum(ROUGHNESS / number for number in range(1, 1 + WAVES))
"""No part of an outline lies farther out than so many radii."""

VISIBLE: Final = 0.3
"""Where the opacity is above this part of its centre's, the lesion is said to be."""


def opacity_of(
    hw: tuple[int, ...], centre: tuple[float, float], radius: float, rng: np.random.Generator
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
    waves = [(rng.uniform(0, ROUGHNESS), rng.uniform(0, 2 * np.pi)) for _ in range(WAVES)]
    softness = max(0.05 * radius, 0.4)
    # The blur's kernel ends four sigmas out; beyond that nothing is drawn.
    reach = math.ceil(_REACH * radius + 4 * softness) + 2
    rows, columns = (
        slice(max(0, math.floor(at) - reach), min(size, math.ceil(at) + reach + 1))
        for at, size in zip(centre, hw, strict=True)
    )
    opacity = np.zeros(hw, np.float32)
    y, x = np.ogrid[rows, columns]
    if not (y.size and x.size):
        return opacity
    angle = np.arctan2(y - centre[0], x - centre[1])
    outline = np.ones(angle.shape)
    for number, (depth, phase) in enumerate(waves, start=1):
        outline += depth / number * np.cos((number + 1) * angle + phase)
    rho = np.hypot(y - centre[0], x - centre[1]) / (radius * outline)
    chord = np.sqrt(np.clip(1.0 - rho**2, 0.0, 1.0))
    opacity[rows, columns] = cv2.GaussianBlur(chord.astype(np.float32), (0, 0), softness)
    return opacity


def add_opacity(
    pixels: NDArray[np.float32], opacity: NDArray[np.float32], contrast: float
) -> NDArray[np.float32]:
    """The image with an opacity, whose centre goes `contrast`, 0..1, of the way to white."""
    return np.asarray(pixels + np.float32(contrast) * opacity * (1.0 - pixels), np.float32)


def plant(
    radiograph: Radiograph,
    lungs: LungMask | None,
    kind: str,
    centre: tuple[float, float],
    *,
    diameter: float,
    contrast: float,
) -> Radiograph:
    """The radiograph with one lesion drawn into it, marked as synthetic in its steps and remarks.

    Args:
        radiograph: Of a patient, or synthetic itself.
        lungs: Its lungs, whose height is the measure of sizes.
        kind: A key of `KINDS`.
        centre: (x, y) in pixels of the radiograph; outside the lungs too, where a lesion should
            change nothing.
        diameter: As a fraction of the lungs' height, within the kind's range.
        contrast: Share of the way from the local grey level to white, above 0, at most 1.

    Returns:
        A new radiograph. The same question gives the same pixels.

    Raises:
        NoLungsFoundError: If no lungs are known.
        PromptError: If the kind, place, size or contrast makes no sense.
    """
    if kind not in KINDS:
        raise PromptError(f"A lesion is one of {', '.join(KINDS)}; {kind!r} is none.")
    box = None if lungs is None else bounding_box(lungs.inside)
    if box is None:
        raise NoLungsFoundError(
            "No lungs were found, so there is no measure for a lesion's size. Outline the lungs "
            "first."
        )
    (x, y), (height, width) = centre, radiograph.hw
    if not (0 <= x < width and 0 <= y < height):
        raise PromptError(f"The place ({x:g}, {y:g}) lies outside the image of {width} x {height}.")
    low, high = KINDS[kind].diameter
    if not low <= diameter <= high:
        raise PromptError(
            f"A {kind} has a diameter of {low:.0%} to {high:.0%} of the lungs' height, not "
            f"{diameter:.0%}."
        )
    if not 0 < contrast <= 1:
        raise PromptError(
            f"A lesion's contrast lies above 0 and at most at 1, not at {contrast:g}."
        )
    radius = 0.5 * diameter * (box[3] - box[1])
    opacity = opacity_of(radiograph.hw, (y, x), radius, np.random.default_rng(0))
    drawn = (
        f"{SYNTHETIC}: a {kind} of {diameter:.0%} of the lungs' height and a contrast of "
        f"{contrast:.2f} was drawn at ({x:.0f}, {y:.0f})"
    )
    source = radiograph.source
    return replace(
        radiograph,
        pixels=np.clip(add_opacity(radiograph.pixels, opacity, contrast), 0.0, 1.0),
        source=replace(
            source,
            steps=(*source.steps, drawn),
            warnings=(f"{drawn}. What is found here is about no patient.", *source.warnings),
            synthetic=True,
        ),
    )
