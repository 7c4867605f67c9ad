"""Images and labels as a classifier in training sees them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cxrdemo.inputs import InputSpec, normalise, place
from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS
from cxrdemo.masking import DEFAULT_MARGIN, apply_mask, fill_level, kept_region
from cxrdemo.results import MaskingMode
from training.engine.draws import Draw
from training.errors import DataError
from training.images.augment import Ranges, change_grey, draw, warp_image
from training.images.lesions import MASS, NODULE, draw_lesion
from training.images.stored_masks import check_places, read_sides
from training.sets.index import FindingCase
from training.sets.pixels import fit_mask, read_all, read_pixels, shrink

OUTPUTS: Final = (*FINDING_KEYS, *AUXILIARY_KEYS, "COVID")
UNKNOWN: Final = -1.0

MARGIN_RANGE: Final = (0.02, 0.20)
"""Loose margins drawn in training, as fractions of the lungs' height."""

MAX_SAMPLING_WEIGHT: Final = 6.0
DEFAULT_RANGES: Final = Ranges()
WORKING_SCALE: Final = 1.5
"""Training images are kept at this many times the canvas: enough detail, and quick to change."""


@dataclass(frozen=True)
class Drawing:
    """What is drawn anew each time a training image is used.

    Attributes:
        modes: Maskings to draw from, with equal chances.
        ranges: Geometry and grey levels.
        nodule: Chance of a synthetic nodule, 0..1.
        mass: Chance of a synthetic mass, 0..1, where no nodule was drawn.
    """

    modes: tuple[MaskingMode, ...]
    ranges: Ranges = DEFAULT_RANGES
    nodule: float = 0.0
    mass: float = 0.0


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
        drawing: Drawing | None = None,
    ) -> None:
        """Reads every image and mask once, so that a bad one is found now.

        Args:
            cases: What to read.
            spec: The classifier's input.
            mode: Masking where nothing is drawn.
            masks: Folder written by `masks`; needed for masking and for lesions.
            lungs: Lung masks to use instead of that folder, one per case, of any size.
            drawing: What to draw at random; None for the image as the app would see it.

        Raises:
            DataError: If an image or mask is missing or unreadable, or masks are not given.
        """
        if masks is None and lungs is None:
            modes = drawing.modes if drawing else (mode,)
            if set(modes) != {MaskingMode.NONE}:
                raise DataError("Masking 'loose' and 'tight' need --masks, written by `masks`.")
            if drawing and (drawing.nodule or drawing.mass):
                raise DataError("Synthetic lesions need --masks, written by `masks`.")
        if masks is not None:
            check_places(case.name for case in cases)
        self.cases = cases
        self._spec = spec
        self._mode = mode
        self._drawing = drawing
        self._masks = masks
        self._lungs = lungs
        self._limit = round(WORKING_SCALE * max(spec.hw))
        kept = read_all(range(len(cases)), self._read_and_keep)
        self._kept = [item for item in kept if item is not None]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, draw_of: Draw) -> dict[str, Tensor]:
        """Image (3, h, w), labels (K,): 1, 0, or `UNKNOWN`, and index ()."""
        index = draw_of.index
        grey, lungs = self._kept[index].open() if self._kept else self._read(index)
        pixels = grey.astype(np.float32) / 255.0
        labels = dict(self.cases[index].labels)
        if lungs is not None and not lungs.any():
            lungs = None  # no lungs found: there is nothing to mask
        mode, margin, change = self._mode, DEFAULT_MARGIN, None
        if self._drawing is not None:
            drawing = self._drawing
            rng = np.random.default_rng(draw_of.seed)
            change = draw(rng, pixels.shape, drawing.ranges)
            mode = drawing.modes[rng.integers(len(drawing.modes))]
            margin = rng.uniform(*MARGIN_RANGE)
            chance = rng.random()
            if lungs is not None and chance < drawing.nodule + drawing.mass:
                kind = NODULE if chance < drawing.nodule else MASS
                pixels = draw_lesion(pixels, lungs, kind, rng)
                labels[kind.key] = 1
            pixels = change_grey(pixels, change)
        if lungs is not None:
            kept = kept_region(lungs, mode=mode, margin=margin)
            pixels = apply_mask(pixels, kept, fill=fill_level(pixels, kept, self._spec.fill))
        if change is not None:
            pixels = warp_image(pixels, change)
        canvas, _ = place(pixels, self._spec)
        values = [labels.get(key) for key in OUTPUTS]
        return {
            "image": torch.from_numpy(normalise(canvas, self._spec)),
            "labels": torch.tensor([UNKNOWN if v is None else float(v) for v in values]),
            "index": torch.tensor(index),
        }

    def _read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Pixels and, where they are known, the lungs at the same size."""
        case = self.cases[index]
        pixels = read_pixels(case.image)
        if self._drawing is not None:
            pixels = shrink(pixels, self._limit)
        hw = (pixels.shape[0], pixels.shape[1])
        if self._lungs is not None:
            return pixels, fit_mask(self._lungs[index], hw)
        if self._masks is not None:
            return pixels, fit_mask(read_sides(self._masks, case.name) > 0, hw)
        return pixels, None

    def _read_and_keep(self, index: int) -> "_Kept | None":
        pixels, lungs = self._read(index)
        if self._drawing is None:
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

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def __getitem__(self, draw_of: Draw) -> dict[str, Tensor]:
        index = draw_of.index
        for part in self._parts:
            if index < len(part):
                return part[Draw(index, draw_of.seed)]
            index -= len(part)
        raise IndexError(draw_of.index)


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
