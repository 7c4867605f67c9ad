"""Random geometry and grey-level changes, split into augmentation parameters and applying them.

A mirror image is drawn only where asked: a classifier of findings that know no side may gain by it,
but a segmenter that names the lungs by side must not see one.
"""

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ranges:
    """How far each parameter may go, drawn uniformly.

    Attributes:
        degrees: Rotation, +-.
        scale: Smallest and largest zoom.
        shift: Translation as a fraction of the size, +-.
        stretch: Extra zoom of one axis, +- fraction.
        gamma: Natural logarithm of the exponent, +-.
        contrast: Gain about the middle grey, +- fraction.
        brightness: Offset, +-.
        noise: Largest standard deviation of added Gaussian noise.
        blur_px: Largest sigma of a Gaussian blur.
        mirror: Chance of a mirror image, 0..1.
    """

    degrees: float = 10.0
    scale: tuple[float, float] = (0.85, 1.15)
    shift: float = 0.06
    stretch: float = 0.08
    gamma: float = 0.35
    contrast: float = 0.25
    brightness: float = 0.10
    noise: float = 0.03
    blur_px: float = 0.8
    mirror: float = 0.0


@dataclass(frozen=True)
class Change:
    """One draw: an affine matrix (2, 3) from source to target pixels, and grey-level changes."""

    matrix: NDArray[np.float64]
    gamma: float
    contrast: float
    brightness: float
    noise: float
    blur_px: float
    seed: int


def random_change(rng: np.random.Generator, hw: tuple[int, int], ranges: Ranges) -> Change:
    """Draws the parameters of one change for an image of `hw`."""
    height, width = hw
    angle = np.deg2rad(rng.uniform(-ranges.degrees, ranges.degrees))
    zoom = rng.uniform(*ranges.scale)
    squeeze = 1.0 + rng.uniform(-ranges.stretch, ranges.stretch)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    side = -1.0 if ranges.mirror and rng.random() < ranges.mirror else 1.0
    linear = rotation @ np.diag([side * zoom * squeeze, zoom / squeeze])
    centre = np.array([width / 2, height / 2])
    shift = rng.uniform(-ranges.shift, ranges.shift, 2) * (width, height)
    offset = centre - linear @ centre + shift
    return Change(
        matrix=np.column_stack([linear, offset]),
        gamma=float(np.exp(rng.uniform(-ranges.gamma, ranges.gamma))),
        contrast=1.0 + rng.uniform(-ranges.contrast, ranges.contrast),
        brightness=rng.uniform(-ranges.brightness, ranges.brightness),
        noise=rng.uniform(0.0, ranges.noise),
        blur_px=rng.uniform(0.0, ranges.blur_px),
        seed=int(rng.integers(2**31)),
    )


def warp_image(pixels: NDArray[np.float32], change: Change) -> NDArray[np.float32]:
    """Applies the geometry to an image; what comes from outside is black."""
    return _warp(pixels, change, cv2.INTER_LINEAR)


def warp_mask(mask: NDArray[np.bool_], change: Change) -> NDArray[np.bool_]:
    """Applies the geometry to a mask."""
    return np.greater_equal(_warp(mask.astype(np.float32), change, cv2.INTER_LINEAR), 0.5)


def change_grey(pixels: NDArray[np.float32], change: Change) -> NDArray[np.float32]:
    """Applies gamma, contrast, brightness, blur and noise; stays in 0..1."""
    grey = np.power(pixels, np.float32(change.gamma))
    grey = (grey - 0.5) * np.float32(change.contrast) + np.float32(0.5 + change.brightness)
    if change.blur_px > 0.3:  # a smaller sigma changes nothing
        grey = cast(NDArray[np.float32], cv2.GaussianBlur(grey, (0, 0), change.blur_px))
    noise = np.random.default_rng(change.seed).standard_normal(grey.shape, np.float32)
    return np.clip(grey + noise * np.float32(change.noise), 0.0, 1.0)


def _warp(array: NDArray[np.float32], change: Change, flags: int) -> NDArray[np.float32]:
    height, width = array.shape
    return cast(
        NDArray[np.float32], cv2.warpAffine(array, change.matrix, (width, height), flags=flags)
    )
