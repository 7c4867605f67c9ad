"""Images and labels as a classifier in training sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cxrdemo.inputs import InputSpec, normalise
from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS
from cxrdemo.lesions import MASS, NODULE
from cxrdemo.masking import DEFAULT_MARGIN, cell_weights, kept_region, masked_input
from cxrdemo.placement import Placement
from cxrdemo.results import MaskingMode
from training.engine.draws import Use
from training.engine.losses import UNKNOWN
from training.errors import DataError
from training.images.augment import Ranges, change_grey, random_change, warp_image, warp_mask
from training.images.edges import jitter_edges
from training.images.lesions import draw_lesion
from training.images.stored_masks import check_places, read_sides
from training.sets.boxes import Box
from training.sets.index import FindingCase
from training.sets.pixels import fit_mask, read_all, read_pixels, shrink

OUTPUTS: Final = (*FINDING_KEYS, *AUXILIARY_KEYS, "COVID")

MARGIN_RANGE: Final = (0.02, 0.20)
"""Loose margins drawn in training, as fractions of the lungs' height."""

MAX_SAMPLING_WEIGHT: Final = 6.0
DEFAULT_RANGES: Final = Ranges()
WORKING_SCALE: Final = 1.5
"""Training images are kept at this many times the canvas: enough detail, and quick to change."""


NOWHERE: Final = -1
"""The output whose place is known, where none is."""

LEAST_PLACE: Final = 0.05
"""A place that covers less of every cell than this is too little to teach."""


@dataclass(frozen=True)
class Augmentation:
    """What is drawn anew each time a training image is used.

    Attributes:
        modes: Maskings to draw from, with equal chances.
        ranges: Geometry and grey levels.
        nodule: Chance of a synthetic nodule, 0..1.
        mass: Chance of a synthetic mass, 0..1, where no nodule was drawn.
        decoy: Chance of a nodule or mass outside the lungs, which changes no label, where none was
            drawn inside them; only where a masking keeps such places.
        jitter: Whether the edges of the lungs are changed before they mask.
        boxes: Known places of real findings, by image name.
    """

    modes: tuple[MaskingMode, ...]
    ranges: Ranges = DEFAULT_RANGES
    nodule: float = 0.0
    mass: float = 0.0
    decoy: float = 0.0
    jitter: bool = False
    boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """One use of an image, before it is placed on the canvas.

    Attributes:
        pixels: float32 (H, W) in 0..1.
        kept: bool (H, W), what the masking keeps.
        labels: By key.
        lungs: bool (H, W) where heat may be; None where anywhere.
        place: bool (H, W), where the finding `placed` is; None where unknown.
        placed: Key of that finding.
    """

    pixels: NDArray[np.float32]
    kept: NDArray[np.bool_]
    labels: Mapping[str, int | None]
    lungs: NDArray[np.bool_] | None = None
    place: NDArray[np.bool_] | None = None
    placed: str = ""


class FindingDataset(Dataset[dict[str, Tensor]]):
    """Masked images on the classifier's canvas and their labels.

    Images to draw from are kept in memory, small and as uint8, their masks as bits: the 86,524 of
    ChestX-ray14 take 11 GB at 224 px. Others are read again at each use, at their native size.
    """

    def __init__(
        self,
        cases: Sequence[FindingCase],
        spec: InputSpec,
        *,
        mode: MaskingMode = MaskingMode.NONE,
        masks: Path | None = None,
        lungs: Sequence[NDArray[np.bool_]] | None = None,
        augmentation: Augmentation | None = None,
        grid_hw: tuple[int, int] | None = None,
        pools_kept: bool = True,
    ) -> None:
        """Reads every image and mask once, so that a bad one is found now.

        Args:
            cases: What to read.
            spec: The classifier's input.
            mode: Masking where nothing is drawn.
            masks: Folder written by `masks`; needed for masking and for lesions.
            lungs: Rough lung masks to use instead of that folder, one per case, of any size: good
                enough to draw lesions in.
            augmentation: What to draw at random; None for the image as the app would see it.
            grid_hw: Cells of the network's last activations, see `classifier.grid_of`; None where
                nobody asks for them.
            pools_kept: Whether the network averages over the kept cells alone.

        Raises:
            DataError: If an image or mask is missing or unreadable, or masks are not given.
        """
        if masks is None and lungs is None:
            modes = augmentation.modes if augmentation else (mode,)
            if set(modes) != {MaskingMode.NONE}:
                raise DataError("Masking 'loose' and 'tight' need --masks, written by `masks`.")
            if augmentation and (augmentation.nodule or augmentation.mass):
                raise DataError("Synthetic lesions need --masks, written by `masks`.")
        if masks is not None:
            check_places(case.name for case in cases)
        self.cases = cases
        self._spec = spec
        self._mode = mode
        self._augmentation = augmentation
        self._masks = masks
        self._lungs = lungs
        self._grid_hw = grid_hw
        self._pools_kept = pools_kept
        self._limit = round(WORKING_SCALE * max(spec.hw))
        kept = read_all(range(len(cases)), self._read_and_keep)
        self._kept = [item for item in kept if item is not None]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, use: Use) -> dict[str, Tensor]:
        """One image as the network is given it.

        Returns:
            "image" (3, H, W), "labels" (K,): 1, 0, or `UNKNOWN`, and "index" (). With a grid also
            "weights" (1, h, w), what each cell counts; "beyond" (h, w), how far each cell lies
            outside the lungs, 0..1, 0 everywhere if nothing is held against it; "place" (h, w), how
            much of each cell is the finding whose index is "placed" (), or `NOWHERE`.
        """
        index = use.index
        grey, lungs = self._kept[index].open() if self._kept else self._read(index)
        pixels = grey.astype(np.float32) / 255.0
        if lungs is not None and not lungs.any():
            lungs = None  # no lungs found: there is nothing to mask
        labels = self.cases[index].labels
        if self._augmentation is not None:
            rng = np.random.default_rng(use.seed)
            drawn = self._draw(self.cases[index], pixels, lungs, self._augmentation, rng)
        elif lungs is None:
            drawn = _Drawn(pixels, np.ones(pixels.shape, bool), labels)
        else:
            kept = kept_region(lungs, mode=self._mode, margin=DEFAULT_MARGIN)
            drawn = _Drawn(pixels, kept, labels)
        given = masked_input(drawn.pixels, drawn.kept, self._spec)
        values = [drawn.labels.get(key) for key in OUTPUTS]
        item = {
            "image": torch.from_numpy(normalise(given.canvas, self._spec)),
            "labels": torch.tensor([UNKNOWN if v is None else float(v) for v in values]),
            "index": torch.tensor(index),
        }
        if self._grid_hw is None:
            return item
        return item | self._cells(drawn, given.placement, self._grid_hw)

    def _draw(
        self,
        case: FindingCase,
        pixels: NDArray[np.float32],
        lungs: NDArray[np.bool_] | None,
        augmentation: Augmentation,
        rng: np.random.Generator,
    ) -> _Drawn:
        """Everything that is random about one use of an image."""
        change = random_change(rng, pixels.shape, augmentation.ranges)
        mode = augmentation.modes[rng.integers(len(augmentation.modes))]
        margin, chance = rng.uniform(*MARGIN_RANGE), rng.random()
        labels, place, placed = dict(case.labels), None, ""
        kept = np.ones(pixels.shape, bool)
        if lungs is not None and mode is not MaskingMode.NONE:
            edged = jitter_edges(lungs, rng) if augmentation.jitter else lungs
            kept = kept_region(edged, mode=mode, margin=margin)
        real = augmentation.nodule + augmentation.mass
        if lungs is not None and chance < real:
            kind = NODULE if chance < augmentation.nodule else MASS
            lesion = draw_lesion(pixels, lungs, kind, rng, centres=lungs & kept)
            if lesion is not None:
                pixels, place, placed = lesion.pixels, lesion.place, kind.key
                labels[kind.key] = 1
        elif lungs is not None and chance < real + augmentation.decoy and self._lungs is None:
            kind = NODULE if rng.random() < 0.5 else MASS
            lesion = draw_lesion(pixels, lungs, kind, rng, centres=kept, beyond=True)
            if lesion is not None:
                pixels = lesion.pixels
        elif case.name in augmentation.boxes:
            boxes = augmentation.boxes[case.name]
            box = boxes[rng.integers(len(boxes))]
            place, placed = box.region((pixels.shape[0], pixels.shape[1])), box.label
        pixels = warp_image(change_grey(pixels, change), change)
        kept = warp_mask(kept, change)
        if not kept.any():
            kept[:] = True  # a scrap of a mask that the change moved out of the picture
        # Rough lungs hold nothing against heat beside them, and a tight mask leaves no such place.
        holds = lungs is not None and self._lungs is None and mode is not MaskingMode.TIGHT
        return _Drawn(
            pixels=pixels,
            kept=kept,
            labels=labels,
            lungs=warp_mask(lungs, change) if holds and lungs is not None else None,
            place=None if place is None else warp_mask(place, change),
            placed=placed,
        )

    def _cells(
        self, drawn: _Drawn, placement: Placement, grid_hw: tuple[int, int]
    ) -> dict[str, Tensor]:
        """What an item says about each cell of the grid."""
        weights = cell_weights(placement.shares(drawn.kept, grid_hw))
        if not self._pools_kept:
            weights = np.ones_like(weights)
        beyond, place, placed = np.zeros_like(weights), np.zeros_like(weights), NOWHERE
        if drawn.lungs is not None:
            # A cell that is half lung is the lungs'.
            beyond = 1 - np.minimum(1, 2 * placement.shares(drawn.lungs, grid_hw))
        if drawn.place is not None:
            shares = placement.shares(drawn.place, grid_hw) * (weights > 0)
            if shares.max() >= LEAST_PLACE:
                place, placed = shares / shares.max(), OUTPUTS.index(drawn.placed)
        return {
            "weights": torch.from_numpy(weights)[None],
            "beyond": torch.from_numpy(np.asarray(beyond, np.float32)),
            "place": torch.from_numpy(np.asarray(place, np.float32)),
            "placed": torch.tensor(placed),
        }

    def _read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Pixels and, where they are known, the lungs at the same size."""
        case = self.cases[index]
        pixels = read_pixels(case.image)
        if self._augmentation is not None:
            pixels = shrink(pixels, self._limit)
        hw = (pixels.shape[0], pixels.shape[1])
        if self._lungs is not None:
            return pixels, fit_mask(self._lungs[index], hw)
        if self._masks is not None:
            return pixels, fit_mask(read_sides(self._masks, case.name) > 0, hw)
        return pixels, None

    def _read_and_keep(self, index: int) -> "_Kept | None":
        pixels, lungs = self._read(index)
        if self._augmentation is None:
            return None
        return _Kept(pixels, None if lungs is None else np.packbits(lungs))


@dataclass(frozen=True, eq=False)
class _Kept:
    """An image in memory: pixels uint8 (H, W), and the lungs as bits or None."""

    pixels: NDArray[np.uint8]
    bits: NDArray[np.uint8] | None

    def open(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Pixels and lungs, bool (H, W)."""
        if self.bits is None:
            return self.pixels, None
        flat = np.unpackbits(self.bits, count=self.pixels.size)
        return self.pixels, flat.reshape(self.pixels.shape).astype(bool)


class JointDataset(Dataset[dict[str, Tensor]]):
    """Several sets as one, in order; indices within an item are those of its own set."""

    def __init__(self, parts: Sequence[FindingDataset]) -> None:
        self._parts = parts
        self.cases = [case for part in parts for case in part.cases]

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def __getitem__(self, use: Use) -> dict[str, Tensor]:
        index = use.index
        for part in self._parts:
            if index < len(part):
                return part[Use(index, use.seed)]
            index -= len(part)
        raise IndexError(use.index)


def doubt_overread(cases: Sequence[FindingCase]) -> list[FindingCase]:
    """Makes findings unknown that radiologists, who read the very image as normal, did not see."""
    return [
        FindingCase(
            **{
                **case.__dict__,
                "labels": {k: None if v == 1 else v for k, v in case.labels.items()},
            }
        )
        if case.rsna_normal
        else case
        for case in cases
    ]


def typical_lungs(masks: Path, names: Sequence[str]) -> NDArray[np.bool_]:
    """Where most of a set's images have lung, bool (64, 64) over the whole image.

    A place for synthetic lesions in images whose own lungs are not known.
    """
    found = [cv2.resize((read_sides(masks, n) > 0).astype(np.float32), (64, 64)) for n in names]
    return np.asarray(np.mean(found, axis=0) > 0.6)


def sampling_weights(cases: Sequence[FindingCase]) -> NDArray[np.float64]:
    """Draws images with rare findings more often: weight 1 / prevalence, bounded; sums to 1."""
    labels = np.array([[case.labels[key] or 0 for key in FINDING_KEYS] for case in cases])
    prevalence = np.maximum(labels.mean(axis=0), 1e-3)
    weights = np.maximum(1.0, (labels / prevalence).max(axis=1) * 0.2)
    weights = np.minimum(weights, MAX_SAMPLING_WEIGHT)
    return np.asarray(weights / weights.sum(), np.float64)
