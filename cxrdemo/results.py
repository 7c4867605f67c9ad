"""What the pipeline returns: small frozen records of numpy arrays, checked at construction.

Sides are the patient's: the patient's right lung lies on the left of a frontal image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cxrdemo.errors import GridMismatchError
from cxrdemo.placement import Placement
from cxrdemo.radiograph import Radiograph, Remedy

GRAD_CAM: Final = "Grad-CAM"

METHODS: Final = (GRAD_CAM, "Grad-CAM++", "HiResCAM", "Eigen-CAM", "Layer-CAM")
"""Saliency methods on offer. Eigen-CAM ignores the label."""


class MaskingMode(StrEnum):
    """Which pixels a classifier is given. TIGHT is a subset of LOOSE, LOOSE of NONE."""

    NONE = "none"
    LOOSE = "loose"
    TIGHT = "tight"


ALL_MASKINGS: Final = tuple(MaskingMode)
"""NONE, LOOSE and TIGHT, in the order in which they are always shown."""


MAX_MARGIN: Final = 0.5
"""Of the lungs' height. Beyond it a loose masking keeps nearly everything, and the word "mask"
means nothing."""


class Side(IntEnum):
    """Value of a lung's pixels in `LungMask.sides`."""

    RIGHT = 1
    LEFT = 2


DoubtKind = Literal[
    "small", "dark", "colour", "not-a-chest-x-ray", "framed", "inverted", "rotated", "lateral",
    "clipped", "mask",
]  # fmt: skip


@dataclass(frozen=True)
class Doubt:
    """One reason why the models may not be able to read an image, see `gate.check`.

    Attributes:
        kind: Which rule.
        message: What is seen and what to do, in words for the user.
        remedy: What would mend it, where that can be told; offered, never applied unasked.
    """

    kind: DoubtKind
    message: str
    remedy: Remedy | None = None


@dataclass(frozen=True)
class MaskQuality:
    """How plausible a lung mask is, in numbers and in words.

    Attributes:
        predicted_iou: The network's own estimate of the mask's IoU, 0..1, uncalibrated.
        area_fraction: Both lungs over the image, 0..1.
        right_fraction: Patient's right lung over the image, 0..1.
        left_fraction: Patient's left lung over the image, 0..1.
        components: Connected parts, specks below a tenth of the largest not counted.
        clipped_edges: Frame edges that a lung touches: "top", "bottom", "left", "right".
        asymmetry: |right - left| / (right + left) of the areas; 0 equal, 1 one lung only.
        reasons: Why a person should look twice; empty if nothing is unusual.
    """

    predicted_iou: float
    area_fraction: float
    right_fraction: float
    left_fraction: float
    components: int
    clipped_edges: tuple[str, ...]
    asymmetry: float
    reasons: tuple[str, ...]

    @property
    def is_plausible(self) -> bool:
        """Whether no reason for doubt was found."""
        return not self.reasons


@dataclass(frozen=True, eq=False)
class LungMask:
    """Lung pixels on the radiograph's grid.

    Attributes:
        sides: uint8 (H, W): 0 outside, `Side.RIGHT`, `Side.LEFT`. Read-only.
        quality: How plausible the mask is.
        logits: float32 (h, w) over the segmenter's canvas, before cleaning; the input for a
            correction ("previous mask").
    """

    sides: NDArray[np.uint8]
    quality: MaskQuality
    logits: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.sides.ndim != 2 or self.sides.dtype != np.uint8:
            raise ValueError(f"sides must be uint8 (H, W), got {self.sides.dtype}")
        frozen = self.sides.view()
        frozen.flags.writeable = False
        object.__setattr__(self, "sides", frozen)

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Both lungs united, bool (H, W)."""
        return self.sides > 0

    def side(self, side: Side) -> NDArray[np.bool_]:
        """One lung, bool (H, W)."""
        return np.equal(self.sides, side)

    @property
    def is_empty(self) -> bool:
        """Whether there is no lung pixel at all."""
        return not self.sides.any()


def bounding_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """XYXY box of a mask's pixels, right and bottom exclusive, or None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True, eq=False)
class Findings:
    """What one classifier says about one image.

    Attributes:
        labels: K label keys, in the order of `labels.FINDINGS`.
        logits: float32 (K,), as the network gives them.
        probabilities: float32 (K,), calibrated, 0..1; one per label, they do not sum to 1.
        thresholds: float32 (K,), operating points on the calibrated scale.
        mode: The masking whose weights gave these numbers.
        beats_chance: bool (K,), whether these weights were shown to rank the finding better than
            chance on test patients (95 % interval of the AUROC above 0.5).
    """

    labels: tuple[str, ...]
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    thresholds: NDArray[np.float32]
    mode: MaskingMode
    beats_chance: NDArray[np.bool_]

    def __post_init__(self) -> None:
        for name in ("logits", "probabilities", "thresholds", "beats_chance"):
            shape, expected = getattr(self, name).shape, (len(self.labels),)
            if shape != expected:
                raise ValueError(f"{name} must have shape {expected}, got {shape}")

    @property
    def no_finding(self) -> float:
        """1 - max over the findings of the calibrated probability."""
        return float(1.0 - self.probabilities.max())

    @property
    def above(self) -> NDArray[np.bool_]:
        """Whether each probability reaches its threshold, bool (K,).

        A comparison of numbers; whether it may be told is for `Analysis.verdict` to say.
        """
        return self.probabilities >= self.thresholds


@dataclass(frozen=True, eq=False)
class CanvasRegion:
    """Pixels of an image as a classifier's canvas and its cells show them.

    Attributes:
        canvas: bool, the region on the canvas.
        shares: float32 (h, w), 0..1, how much of each cell lies in it.
    """

    canvas: NDArray[np.bool_]
    shares: NDArray[np.float32]

    @classmethod
    def of(cls, pixels: NDArray[np.bool_], placement: Placement, grid_hw: tuple[int, int]) -> Self:
        """Takes a region of the image, bool (H, W), to the canvas that a placement leads to."""
        return cls(placement.mask(pixels), placement.shares(pixels, grid_hw))


@dataclass(frozen=True)
class HeatPlace:
    """Where the heat of one map lies; all None where the map is all zero.

    Attributes:
        hottest: (x, y) of the centre of the hottest cell in pixels of the image; where that lies on
            a bar beside the image, the nearest point of the image.
        in_kept: Share of the heat in what the classifier was given, 0..1; bars are left out.
        in_lungs: Share of the heat in the lungs, likewise; None also where no lungs are known.
        hottest_in_kept: Whether at least half of the hottest cell was given to the classifier.
        hottest_in_lungs: Whether at least half of it is lung; None also where none are known.
    """

    hottest: tuple[float, float] | None = None
    in_kept: float | None = None
    in_lungs: float | None = None
    hottest_in_kept: bool | None = None
    hottest_in_lungs: bool | None = None


@dataclass(frozen=True, eq=False)
class SaliencyMap:
    """Where one label's logit comes from, on the grid the network really has.

    Attributes:
        label: Label key.
        method: Such as "Grad-CAM".
        grid: float32 (h, w) >= 0 over the classifier's canvas, unscaled; 0 is "none". Scaling for
            display is the renderer's decision.
        placement: Where the radiograph lies in that canvas.
        confined: Whether only what was kept can hold heat, as the weights pool over it alone. Heat
            is then drawn and counted there and nowhere else: a bilinear map spreads the cells at
            the rim beyond it. Of other weights heat on removed pixels is real, and shown.
    """

    label: str
    method: str
    grid: NDArray[np.float32]
    placement: Placement
    confined: bool = False

    def __post_init__(self) -> None:
        if self.grid.ndim != 2 or not np.isfinite(self.grid).all() or self.grid.min() < 0:
            raise ValueError("grid must be a finite (h, w) array of values >= 0")

    @property
    def hw(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.grid.shape[0], self.grid.shape[1]

    def heat(self, kept: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The map on the radiograph's grid as it is drawn and counted, float32 (H, W), unscaled.

        Args:
            kept: bool (H, W), what the classifier was given: where heat lies if it is confined.
        """
        heat = self.placement.undo_map(self.grid)
        return np.where(kept, heat, np.float32(0)) if self.confined else heat

    @property
    def peak(self) -> float:
        """Largest value of the grid, >= 0."""
        return float(self.grid.max())

    @property
    def hottest(self) -> tuple[float, float] | None:
        """Where the hottest cell lies in the image, see `HeatPlace`; None for a map of zeros."""
        if self.peak == 0.0:
            return None
        (row, column), (rows, columns) = self._hottest_cell, self.hw
        height, width = self.placement.target_hw
        centre = np.array([[(column + 0.5) / columns * width, (row + 0.5) / rows * height]])
        at = self.placement.undo_points(centre.astype(np.float32))[0]
        x, y = np.clip(at, 0, self.placement.source_hw[::-1])
        return float(x), float(y)

    def locate(self, kept: CanvasRegion, lungs: CanvasRegion | None) -> HeatPlace:
        """Tells where the heat lies.

        Args:
            kept: What the classifier was given.
            lungs: Both lungs, or None where none are known.
        """
        if self.peak == 0.0:
            return HeatPlace()
        canvas_hw = self.placement.target_hw
        # As it is drawn.
        heat = Placement.stretch(canvas_hw, canvas_hw).undo_map(self.grid)
        if self.confined:
            heat = np.where(kept.canvas, heat, np.float32(0))
        whole = float(heat[self.placement.content].sum(dtype=np.float64))

        def share(region: CanvasRegion | None) -> float | None:
            if region is None or whole == 0.0:
                return None
            return min(1.0, float(heat[region.canvas].sum(dtype=np.float64)) / whole)

        def holds(region: CanvasRegion | None) -> bool | None:
            return None if region is None else bool(region.shares[self._hottest_cell] >= 0.5)

        return HeatPlace(self.hottest, share(kept), share(lungs), holds(kept), holds(lungs))

    @property
    def _hottest_cell(self) -> tuple[int, int]:
        row, column = np.unravel_index(self.grid.argmax(), self.grid.shape)
        return int(row), int(column)


@dataclass(frozen=True, eq=False)
class Reading:
    """One masking's answer: what was kept, what the matching classifier says, and why.

    Attributes:
        mode: The masking.
        margin: Width of the loose margin as a fraction of the lungs' height; 0 unless LOOSE.
        kept: bool (H, W), the pixels the classifier was given.
        fill: Level, 0..1, that it was given in place of the others.
        findings: Logits, probabilities, thresholds.
        saliency: One map per label, in the order of `findings.labels`.
        places: Where the heat of each map lies, in the same order.
        chance: Share of the lungs in heat that is even over all that counts, 0..1: what
            `HeatPlace.in_lungs` is of a map that knows no places. None where no lungs are known.
    """

    mode: MaskingMode
    margin: float
    kept: NDArray[np.bool_]
    fill: float
    findings: Findings
    saliency: tuple[SaliencyMap, ...]
    places: tuple[HeatPlace, ...]
    chance: float | None


@dataclass(frozen=True, eq=False)
class Probes:
    """What the answers hang on.

    Attributes:
        curve: Loose margin, as a fraction of the lungs' height, and what is found at it.
        outside: What the weights for NONE say with the lungs removed: an image unlike any
            that they were trained on, so a probe and no finding. None if there are no such weights.
    """

    curve: tuple[tuple[float, Findings], ...]
    outside: Findings | None


@dataclass(frozen=True)
class CheckpointUse:
    """Which checkpoint took part in an analysis."""

    name: str
    sha256: str
    role: str
    precision: str


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything the pipeline found out about one radiograph: all that UI, CLI and export see.

    Attributes:
        radiograph: The image.
        lungs: The lung mask, or None if no segmenter took part or no lung was found.
        readings: One per masking that was asked for and could be done.
        checkpoints: The weights that took part.
        seconds: Wall time per stage.
        warnings: In words for the user: reading, mask, skipped maskings.
        doubts: Why the models may not be able to read the image, strongest first.
    """

    radiograph: Radiograph
    lungs: LungMask | None
    readings: Mapping[MaskingMode, Reading]
    checkpoints: tuple[CheckpointUse, ...]
    seconds: Mapping[str, float]
    warnings: tuple[str, ...]
    doubts: tuple[Doubt, ...] = ()

    def __post_init__(self) -> None:
        if self.lungs is not None and self.lungs.sides.shape != self.radiograph.pixels.shape:
            raise GridMismatchError(
                f"The lung mask is {self.lungs.sides.shape}, the image {self.radiograph.hw}."
            )

    @property
    def peak(self) -> float:
        """Largest saliency over all labels and maskings: the shared scale of the heat maps."""
        return max((m.peak for r in self.readings.values() for m in r.saliency), default=0.0)

    def verdict(self, mode: MaskingMode, index: int) -> bool | None:
        """Whether a finding is called; the one place that decides what is withheld.

        Args:
            mode: A masking that was read.
            index: Of the finding, in the order of its labels.

        Returns:
            None where nothing may be said: the image is doubtful, or the weights were not shown to
            rank the finding better than chance.
        """
        findings = self.readings[mode].findings
        if self.doubts or not findings.beats_chance[index]:
            return None
        return bool(findings.above[index])
