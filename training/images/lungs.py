"""Images and lung masks as the segmenter in training sees them."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cxrdemo.inputs import InputSpec, normalise, place
from cxrdemo.lungs import split_sides
from training.engine.draws import Use
from training.images.augment import Ranges, change_grey, random_change, warp_image, warp_mask
from training.sets.index import LungCase
from training.sets.pixels import fit_mask, read_all, read_mask, read_pixels, shrink

WORKING_SCALE: Final = 2
"""Training images are kept at up to this many times the canvas."""


class LungDataset(Dataset[dict[str, Tensor]]):
    """Images and sides on the segmenter's canvas.

    Images to change at random are kept in memory, at most `WORKING_SCALE` times the canvas; others
    are read again at each use, at their native size.
    """

    def __init__(self, cases: Sequence[LungCase], spec: InputSpec, *, augment: bool) -> None:
        """Reads every image and mask once, so that a bad one is found now."""
        self.cases = cases
        self._spec = spec
        self._augment = augment
        kept = read_all(cases, self._read)
        self._kept = kept if augment else None

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, use: Use) -> dict[str, Tensor]:
        """Image (3, h, w), sides (h, w) as uint8 with `Side` values, index () and seed ()."""
        index = use.index
        grey, mask = self._kept[index] if self._kept else self._read(self.cases[index])
        pixels = grey.astype(np.float32) / 255.0
        if self._augment:
            rng = np.random.default_rng(use.seed)
            change = random_change(rng, mask.shape, Ranges())
            pixels = change_grey(warp_image(pixels, change), change)
            mask = warp_mask(mask, change)
        canvas, placement = place(pixels, self._spec)
        sides, _ = split_sides(placement.mask(mask))
        return {
            "image": torch.from_numpy(normalise(canvas, self._spec)),
            "sides": torch.from_numpy(sides),
            "index": torch.tensor(index),
            "seed": torch.tensor(use.seed),
        }

    def _read(self, case: LungCase) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        pixels, mask = read_pixels(case.image), read_mask(case.mask)
        if self._augment:
            pixels = shrink(pixels, WORKING_SCALE * max(self._spec.hw))
        return pixels, fit_mask(mask, (pixels.shape[0], pixels.shape[1]))
