"""Which image comes when, and how the processes of a run share them out."""

from collections.abc import Iterator
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, Sampler

from training.engine.settings import RunSettings
from training.errors import DataError


@dataclass(frozen=True)
class Use:
    """One use of an image: which one, and the seed of all that is random about this use."""

    index: int
    seed: int


class UseSampler(Sampler[Use]):
    """The uses of images in an epoch, shared out among the processes of a run.

    With weights, images are drawn with replacement; without, each comes once. Process r of n takes
    every n-th use from r on, so that a step sees the same images however many processes share it.
    A remainder that does not go round is left out, as all processes must take as many steps.
    """

    def __init__(
        self, size: int, *, seed: int, weights: NDArray[np.float64] | None = None, count: int = 0
    ) -> None:
        """Args: number of images, seed, chance of each (sums to 1), uses per epoch if weighted."""
        self._size = size
        self._seed = seed
        self._weights = weights
        self._count = count if weights is not None else size
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count // _rank_and_world()[1]

    def __iter__(self) -> Iterator[Use]:
        rank, world = _rank_and_world()
        rng = np.random.default_rng([self._seed, self._epoch])
        if self._weights is None:
            indices = rng.permutation(self._size)
        else:
            indices = rng.choice(self._size, self._count, p=self._weights)
        seeds = rng.integers(2**63, size=self._count)
        for place in range(rank, len(self) * world, world):
            yield Use(int(indices[place]), int(seeds[place]))


class EvenSampler(Sampler[Use]):
    """Every image in order, shared out; the first come again where it does not go round.

    `gather_rows` drops what came twice.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return -(-self._size // _rank_and_world()[1])

    def __iter__(self) -> Iterator[Use]:
        rank, world = _rank_and_world()
        for place in range(rank, len(self) * world, world):
            yield Use(place % self._size, 0)


def train_loader(
    data: Dataset[dict[str, Tensor]], settings: RunSettings, sampler: UseSampler
) -> DataLoader[dict[str, Tensor]]:
    """Batches of drawn images.

    Raises:
        DataError: If an epoch has fewer images than a batch.
    """
    if len(sampler) < settings.batch:
        raise DataError(
            f"An epoch has {len(sampler)} images, which is less than one --batch of "
            f"{settings.batch}. Choose a smaller batch, or more images."
        )
    return _loader(data, settings, sampler, drop_last=True)


def val_loader(
    data: Dataset[dict[str, Tensor]], settings: RunSettings, size: int
) -> DataLoader[dict[str, Tensor]]:
    """Batches of all validation images.

    Raises:
        DataError: If there is none.
    """
    if size == 0:
        raise DataError("No image is in the split 'val', and the best epoch is chosen on it.")
    return _loader(data, settings, EvenSampler(size), drop_last=False)


def gather_rows(task: L.LightningModule, indices: Tensor, values: Tensor) -> Tensor:
    """What all processes found for the validation images, one row per image, in their order.

    Args:
        task: In a running trainer.
        indices: Image of each row (N,), the same N in every process.
        values: (N, ...).
    """
    if task.trainer.world_size > 1:
        indices, values = (x.flatten(0, 1) for x in task.all_gather((indices, values)))
    _, first = np.unique(indices.cpu().numpy(), return_index=True)
    return values[torch.from_numpy(first).to(values.device)]


def _loader(
    data: Dataset[dict[str, Tensor]],
    settings: RunSettings,
    sampler: UseSampler | EvenSampler,
    *,
    drop_last: bool,
) -> DataLoader[dict[str, Tensor]]:
    return DataLoader(
        data,
        batch_size=settings.batch // settings.world,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _rank_and_world() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
