"""From a radiograph's pixels to the array a network sees: one definition for app and training.

A checkpoint's spec carries an `InputSpec`; training and app call the same two functions with it,
so they cannot disagree.
"""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from cxrdemo.placement import Interpolation, Placement, PlacementKind

MIN_INPUT_PX: Final = 32
MAX_INPUT_PX: Final = 4096
"""Sides of a canvas: below, no network has a cell left; above, nobody has the memory."""

_FARTHEST: Final = 1e6
"""Of a mean and a deviation: far beyond any network's, and single precision still holds it."""

Intensity = Literal["fixed", "minmax"]

STRICT: Final = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""How a spec is read: no unknown field, no text where a number belongs, no NaN."""

KEPT_MEAN: Final = "kept-mean"
Fill = float | Literal["kept-mean"]
"""A level, or the mean of the pixels that a masking keeps; without a masking it keeps all."""


@dataclass(frozen=True)
class InputSpec:
    """How pixels in 0..1 become a network's input.

    Attributes:
        hw: Size of the input canvas.
        placement: "letterbox" keeps the aspect ratio, "stretch" does not (MedSAM).
        interpolation: See `Placement.image`.
        intensity: "fixed" subtracts `mean` and divides by `std`. "minmax" scales the placed image
            to 0..1 by its own range (MedSAM), and ignores `mean` and `std`.
        mean: Per input channel, on the 0..1 scale.
        std: Per input channel, on the 0..1 scale.
        fill: Value of bars and of masked pixels, before mean and std are applied. "kept-mean" takes
            the strongest edge out of the picture, that of a lung on black.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    hw: tuple[int, int]
    placement: PlacementKind = "letterbox"
    interpolation: Interpolation = "area"
    intensity: Intensity = "fixed"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    fill: Fill = 0.0

    def __post_init__(self) -> None:
        if not all(MIN_INPUT_PX <= side <= MAX_INPUT_PX for side in self.hw):
            raise ValueError(f"hw must lie in {MIN_INPUT_PX}..{MAX_INPUT_PX} px, got {self.hw}")
        if not all(1 / _FARTHEST <= value <= _FARTHEST for value in self.std):
            raise ValueError(f"std must be positive, up to {_FARTHEST:g}, got {self.std}")
        if not all(abs(value) <= _FARTHEST for value in self.mean):
            raise ValueError(f"mean must lie within {_FARTHEST:g} of 0, got {self.mean}")
        if not isinstance(self.fill, str) and not 0 <= self.fill <= 1:
            raise ValueError(f"fill must lie in 0..1 or be {KEPT_MEAN!r}, got {self.fill}")


MEDSAM_INPUT = InputSpec(
    hw=(1024, 1024), placement="stretch", interpolation="cubic", intensity="minmax"
)
"""MedSAM's own preprocessing (Ma et al., 2024): a plain stretch and a min-max, not SAM's."""


def place(
    pixels: NDArray[np.float32], spec: InputSpec, *, fill: float | None = None
) -> tuple[NDArray[np.float32], Placement]:
    """Resizes (H, W) pixels in 0..1 into the input canvas.

    Args:
        pixels: float32 (H, W) in 0..1.
        spec: The checkpoint's input.
        fill: Level of the bars; None takes the spec's for an image of which all is kept.

    Returns:
        float32 of `spec.hw` in 0..1 (cubic interpolation may overshoot a little), and where the
        image lies in it.
    """
    hw = (pixels.shape[0], pixels.shape[1])
    placement = Placement.make(spec.placement, hw, spec.hw)
    if fill is None:
        fill = float(pixels.mean(dtype=np.float64)) if spec.fill == KEPT_MEAN else spec.fill
    return placement.image(pixels, fill=fill, interpolation=spec.interpolation), placement


def normalise(canvas: NDArray[np.float32], spec: InputSpec) -> NDArray[np.float32]:
    """Scales a placed image as the checkpoint expects, and repeats it over three channels.

    Args:
        canvas: float32 of `spec.hw`, as `place` returns it.
        spec: The checkpoint's input.

    Returns:
        float32 (3, H, W), contiguous.
    """
    if spec.intensity == "minmax":
        low, high = canvas.min(), canvas.max()
        # MedSAM clips the range at 1e-8, so that a constant image gives 0 and not NaN.
        scaled = (canvas - low) / max(float(high - low), 1e-8)
        return np.ascontiguousarray(np.broadcast_to(scaled, (3, *canvas.shape)), np.float32)
    mean = np.asarray(spec.mean, np.float32)[:, None, None]
    std = np.asarray(spec.std, np.float32)[:, None, None]
    return np.asarray((canvas[None] - mean) / std, np.float32)
