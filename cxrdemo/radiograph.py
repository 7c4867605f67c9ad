"""Radiograph, the one image type, and the remedies that a user may ask for.

It holds no patient data: `Source` records how the pixels were obtained and a short whitelist of
technical tags, nothing else.
"""

import copyreg
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cxrdemo.errors import RemedyError

View = Literal["PA", "AP", "LATERAL"]
Turn = Literal[0, 90, 180, 270]

MIN_READABLE_PX: Final = 64
"""Below this no lung is resolved; the reader refuses, with a message."""


def _read_only(values: dict[str, str]) -> MappingProxyType[str, str]:
    return MappingProxyType(values)


# A radiograph is a value, and may be asked about in another process; Python pickles no such view.
copyreg.pickle(MappingProxyType, lambda view: (_read_only, (dict(view),)))


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
        own_grid: Whether the pixel grid is still the file's own: false once the image was mirrored,
            turned, cropped or resampled.
        window: The file's own values, after its modality transform, that pixels of 0 and of 1 stand
            for before any inversion; None where colours or a curve lie between.
        inverted: Whether dark and bright changed places after that.
        sides: Whether the header says where the patient's right is, or the usual view is assumed.
        windows: Of a DICOM header: explanation or "", centre and width of those that can be
            used; the first that shows anything is applied.
        synthetic: Whether the image was drawn, or something was drawn into it.
    """

    kind: str
    bit_depth: int
    steps: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    warnings: tuple[str, ...] = ()
    colourfulness: float = 0.0
    own_grid: bool = True
    window: tuple[float, float] | None = None
    inverted: bool = False
    sides: Literal["header", "assumed"] = "assumed"
    windows: tuple[tuple[str, float, float], ...] = ()
    synthetic: bool = False


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
        if min(pixels.shape) < MIN_READABLE_PX:
            raise ValueError(
                f"pixels must be at least {MIN_READABLE_PX} px a side, got {pixels.shape}"
            )
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0.0 and high <= 1.0):  # also false for NaN
            raise ValueError(f"pixels must lie in 0..1, found {low:g}..{high:g}")
        if not all(0 < side < math.inf for side in self.spacing_mm or ()):
            raise ValueError(f"spacing_mm must be positive, got {self.spacing_mm}")
        frozen = pixels.view()
        frozen.flags.writeable = False
        object.__setattr__(self, "pixels", frozen)

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


_TURNS: Final[dict[str, Turn]] = {"turn-right": 90, "turn-half": 180, "turn-left": 270}


@dataclass(frozen=True)
class Remedy:
    """What may be done to a radiograph so that it becomes an upright chest with bright bone.

    Applied in the order of the attributes. `str` and `parse` give it a name for a page's button:
    "turn-right", "turn-half", "turn-left", "mirror", "invert", "crop-X0-Y0-X1-Y1", or several of
    them joined by "+".

    Attributes:
        crop: XYXY in pixels of the image it is applied to; None keeps all.
        turn: Degrees clockwise.
        mirror: Left and right change places.
        invert: Dark and bright change places.
    """

    crop: tuple[int, int, int, int] | None = None
    turn: Turn = 0
    mirror: bool = False
    invert: bool = False

    def __post_init__(self) -> None:
        """Refuses what cannot be applied to any image.

        Raises:
            RemedyError: If the turn is no quarter turn or the box is none.
        """
        if self.turn not in (0, 90, 180, 270):
            raise RemedyError("Expected a turn by 90, 180 or 270 degrees, found another angle.")
        if self.crop is not None:
            x0, y0, x1, y1 = self.crop
            if not (0 <= x0 < x1 and 0 <= y0 < y1):
                raise RemedyError("Expected a box to crop to, found one without an inside.")

    def __str__(self) -> str:
        parts = [] if self.crop is None else ["-".join(("crop", *map(str, self.crop)))]
        parts += [name for name, degrees in _TURNS.items() if degrees == self.turn]
        parts += ["mirror"] * self.mirror + ["invert"] * self.invert
        return "+".join(parts)

    @classmethod
    def parse(cls, name: str) -> Self:
        """The remedy of a name.

        Raises:
            RemedyError: If it names none.
        """
        asked: dict[str, Any] = {}
        for part in name.split("+"):
            box = re.fullmatch("crop-([0-9]{1,6})-([0-9]{1,6})-([0-9]{1,6})-([0-9]{1,6})", part)
            if box:
                new: dict[str, Any] = {"crop": tuple(int(side) for side in box.groups())}
            elif part in _TURNS:
                new = {"turn": _TURNS[part]}
            elif part in ("mirror", "invert"):
                new = {part: True}
            else:
                new = {}
            if not new or new.keys() & asked.keys():
                raise RemedyError(
                    "Expected turn-left, turn-right, turn-half, mirror, invert or a crop, found"
                    " something else."
                )
            asked |= new
        return cls(**asked)


def remedied(radiograph: Radiograph, remedy: Remedy) -> Radiograph:
    """The radiograph after a remedy that the user chose, with each step told in its source.

    Args:
        radiograph: Stays as it is.
        remedy: What to do.

    Raises:
        RemedyError: If the crop leaves the image or keeps too little of it.
    """
    pixels, spacing, steps = radiograph.pixels, radiograph.spacing_mm, []
    if remedy.crop is not None:
        x0, y0, x1, y1 = remedy.crop
        if y1 > pixels.shape[0] or x1 > pixels.shape[1]:
            raise RemedyError("Expected a box inside the image, found one that leaves it.")
        if min(x1 - x0, y1 - y0) < MIN_READABLE_PX:
            raise RemedyError(
                f"Expected a box of at least {MIN_READABLE_PX} pixels a side, found {x1 - x0} x"
                f" {y1 - y0}. Choose a larger one."
            )
        pixels = pixels[y0:y1, x0:x1]
        steps.append(f"Cropped to columns {x0} to {x1} and rows {y0} to {y1}, as you asked")
    if remedy.turn:
        pixels = np.rot90(pixels, -remedy.turn // 90)
        if spacing is not None and remedy.turn != 180:
            spacing = spacing[::-1]
        steps.append(f"Turned by {remedy.turn} degrees clockwise, as you asked")
    if remedy.mirror:
        pixels = pixels[:, ::-1]
        steps.append("Mirrored left to right, as you asked")
    if remedy.invert:
        pixels = np.float32(1) - pixels
        steps.append("Inverted dark and bright, as you asked")
    source = replace(
        radiograph.source,
        steps=(*radiograph.source.steps, *steps),
        own_grid=radiograph.source.own_grid and remedy in (Remedy(), Remedy(invert=True)),
        inverted=radiograph.source.inverted != remedy.invert,
    )
    return Radiograph(np.ascontiguousarray(pixels), spacing, radiograph.view, source)
