"""Command `pretrain`: trains a network on all sets and all maskings at once, to start others from.

`--task findings`: the same loss and labels as `classify`; each image is masked in one of the three
ways, drawn anew. `--task views`: no labels at all; two changed views of one image shall be
described alike (SimSiam: Chen & He, CVPR 2021). The bundled weights came of the former.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from cxrdemo.backbones import activations_of
from cxrdemo.results import MaskingMode
from training.commands import classify
from training.engine.draws import Use, UseSampler, gather_rows, train_loader, val_loader
from training.engine.settings import settings_from
from training.engine.trainer import begin, fit, one_cycle
from training.images.augment import Ranges
from training.images.findings import Augmentation, FindingDataset, JointDataset
from training.sets.index import read_finding_index

PROJECTION: Final = 512
BOTTLENECK: Final = 128
"""Widths of the two small networks; a quarter of the paper's, as the images are few."""


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(classify.ClassifySettings):
    """One pretraining run. `task` is "findings" or "views"."""

    task: str


class TwoViews(Dataset[dict[str, Tensor]]):
    """Two draws of each image; labels are left out."""

    def __init__(self, data: FindingDataset | JointDataset) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, use: Use) -> dict[str, Tensor]:
        """Images "first" and "second" (3, h, w), and index ()."""
        index = use.index
        first, second = self._data[use], self._data[Use(index, use.seed + 1)]
        return {
            "first": first["image"],
            "second": second["image"],
            "index": torch.tensor(index),
        }


class ViewsTask(L.LightningModule):
    """SimSiam: one view's description, through a predictor, points where the other's does.

    The other's takes no gradient, which keeps all images from being described alike (section 4 of
    the paper). `spread` tells whether that happened: 1 for descriptions in all directions, 0 for
    one and the same.
    """

    def __init__(self, network: nn.Module, settings: PretrainSettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        with torch.inference_mode():
            probe = torch.zeros(1, 3, settings.size, settings.size)
            channels = activations_of(network.eval(), probe).shape[1]
        network.train()
        self.projector = nn.Sequential(
            nn.Linear(channels, PROJECTION, bias=False),
            nn.BatchNorm1d(PROJECTION),
            nn.ReLU(),
            nn.Linear(PROJECTION, PROJECTION, bias=False),
            nn.BatchNorm1d(PROJECTION, affine=False),
        )
        self.predictor = nn.Sequential(
            nn.Linear(PROJECTION, BOTTLENECK, bias=False),
            nn.BatchNorm1d(BOTTLENECK),
            nn.ReLU(),
            nn.Linear(BOTTLENECK, PROJECTION),
        )
        self._found: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Descriptions (B, D)."""
        images = images.to(memory_format=torch.channels_last)
        pooled = activations_of(self.network, images).mean((2, 3))
        described: Tensor = self.projector(pooled)
        return described

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Mean cosine distance, 0..2."""
        agreement, spread = self._compare(batch)
        loss = 1 - agreement.mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True)
        self.log("spread", spread, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Collects the agreement of each image's views."""
        self._found.append((batch["index"], self._compare(batch)[0]))

    def on_validation_epoch_end(self) -> None:
        """Logs the mean agreement, -1..1."""
        indices, agreement = (torch.cat(parts) for parts in zip(*self._found, strict=True))
        self._found.clear()
        mean = gather_rows(self, indices, agreement).mean()
        self.log("val_agreement", mean, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW with a short warm-up and a cosine decay."""
        return one_cycle(self, self.settings)

    def _compare(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cosine of each image's views (B,), and the spread of all descriptions."""
        first, second = self(batch["first"]).float(), self(batch["second"]).float()
        agreement = 0.5 * (
            F.cosine_similarity(self.predictor(first).float(), second.detach())
            + F.cosine_similarity(self.predictor(second).float(), first.detach())
        )
        directions = F.normalize(first.detach())
        spread = directions.std(dim=0, correction=0).mean() * PROJECTION**0.5
        return agreement, spread


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--task", choices=("findings", "views"), default="findings")
    classify.add_shared_arguments(parser, select="last")


def run(args: argparse.Namespace) -> None:
    """Trains, then writes `network.safetensors` and `settings.json`; validates unmasked."""
    settings = settings_from(PretrainSettings, args, masking=str(MaskingMode.NONE))
    modes = tuple(MaskingMode) if args.masks else (MaskingMode.NONE,)
    if settings.task == "findings":
        classify.fit(settings, drawn_modes=modes, shown_mode=MaskingMode.NONE)
    elif begin(settings):
        fit_views(settings, modes)


def fit_views(settings: PretrainSettings, modes: tuple[MaskingMode, ...]) -> None:
    """Trains without labels; the head keeps its random weights."""
    network = classify.start_network(settings)
    cases = read_finding_index(Path(settings.data))
    val = [case for case in cases if case.split == "val"]
    ranges = Ranges(mirror=settings.mirror)
    unmasked = Augmentation(modes=(MaskingMode.NONE,), ranges=ranges)
    validation = TwoViews(FindingDataset(val, settings.inputs, augmentation=unmasked))
    # No lesions here: one that is in one view alone would have to be overlooked.
    data, weights = classify.training_images(
        settings, cases, Augmentation(modes=modes, ranges=ranges)
    )
    sampler = UseSampler(
        len(data), seed=settings.seed, weights=weights, count=settings.images_per_epoch
    )
    fit(
        ViewsTask(network, settings),
        train_loader(TwoViews(data), settings, sampler),
        val_loader(validation, settings, len(val)),
        settings,
        monitor="val_agreement",
        select=settings.select,
        some_unused=True,  # the head
    )
