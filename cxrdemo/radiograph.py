"""Radiograph, the one image type. Everything after reading works on it.

It holds no patient data: `Source` records how the pixels were obtained and a short whitelist of
technical tags, nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

View = Literal["PA", "AP", "LATERAL"]

MIN_SIDE_PX: Final = 64
"""Below this no lung is resolved; the reader refuses, with a message."""


@dataclass(frozen=True)
class Source:
    """How the pixels of a radiograph were obtained. Contains no patient data.

    Attributes:
        kind: Container format, such as "DICOM", "PNG" or "JPEG".
        bit_depth: Bits stored per sample in the file.
        steps: What the reader did, in order, in words for the user.
        tags: Whitelisted technical header fields, display name to value.
        warnings: What looks unusual and may mislead, in words for the user.
        colourfulness: Share of pixels, 0..1, whose colour channels differ by more than a tenth of
            their range; 0 for a grey image.
    """

    kind: str
    bit_depth: int
    steps: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    warnings: tuple[str, ...] = ()
    colourfulness: float = 0.0


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One frontal chest X-ray at its native resolution.

    Attributes:
        pixels: float32 (H, W), 0..1, 1 is the densest tissue (bone is bright). Read-only.
        spacing_mm: Row and column distance of pixel centres in mm, or None where the file does not
            say. Never guessed.
        view: Projection as the header states it, or None.
        source: How the pixels were obtained.
    """

    pixels: NDArray[np.float32]
    spacing_mm: tuple[float, float] | None = None
    view: View | None = None
    source: Source = field(default_factory=lambda: Source(kind="array", bit_depth=32))

    def __post_init__(self) -> None:
        """Checks the contract once, so that nothing downstream has to.

        Raises:
            ValueError: If the array is not float32 (H, W), is too small, or leaves 0..1.
        """
        pixels = self.pixels
        if pixels.ndim != 2 or pixels.dtype != np.float32:
            raise ValueError(f"pixels must be float32 (H, W), got {pixels.dtype} {pixels.shape}")
        if min(pixels.shape) < MIN_SIDE_PX:
            raise ValueError(f"pixels must be at least {MIN_SIDE_PX} px a side, got {pixels.shape}")
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0.0 and high <= 1.0):  # also false for NaN
            raise ValueError(f"pixels must lie in 0..1, found {low:g}..{high:g}")
        if self.spacing_mm is not None and min(self.spacing_mm) <= 0:
            raise ValueError(f"spacing_mm must be positive, got {self.spacing_mm}")
        frozen = pixels.view()
        frozen.flags.writeable = False
        object.__setattr__(self, "pixels", frozen)

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]
