"""Command `classify`: trains a network on the findings, for one masking.

A ResNet50 or any other network of torchvision or timm that the app can explain, from random
weights, a pretraining run, or ImageNet's. The five findings and, as auxiliary heads, the other
labels of ChestX-ray14; an unknown label takes no part in the loss. Further sets (`--extra`) may
join, unmasked.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from cxrdemo.checkpoints import load_strictly, read_weights
from cxrdemo.classifier import activations_of, build_network, logits_of, output_layer
from cxrdemo.inputs import InputSpec
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.results import MaskingMode
from training.engine.draws import DrawSampler, gather_rows, train_loader, val_loader
from training.engine.settings import RunSettings, add_run_arguments, settings_from
from training.engine.trainer import begin, one_cycle
from training.engine.trainer import fit as fit_run
from training.errors import DataError
from training.images.findings import (
    OUTPUTS,
    UNKNOWN,
    Drawing,
    FindingDataset,
    JointDataset,
    doubt_overread,
    sampling_weights,
    typical_lungs,
)
from training.sets.index import FindingCase, check_splits, read_finding_index

LABEL_SMOOTHING: Final = 0.05
"""Text-mined labels are wrong too often to be believed entirely."""


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(RunSettings):
    """One training run of a classifier."""

    data: str
    extra: list[str]
    masks: str | None
    masking: str
    backbone: str
    init: str | None
    size: int
    images_per_epoch: int
    extra_share: float
    nodules: float
    masses: float
    select: str


class ClassifyTask(L.LightningModule):
    """Loss, optimiser and validation of a classifier."""

    def __init__(self, network: nn.Module, settings: ClassifySettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self._found: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of `OUTPUTS`."""
        images = images.to(memory_format=torch.channels_last)
        return logits_of(self.network, activations_of(self.network, images))

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Mean binary cross-entropy over the known labels."""
        loss = known_label_loss(self(batch["image"]), batch["labels"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Collects scores; the AUROC needs them all."""
        rows = torch.stack([self(batch["image"]).float(), batch["labels"]], dim=1)
        self._found.append((batch["index"], rows))

    def on_validation_epoch_end(self) -> None:
        """Logs the AUROC per finding and their mean."""
        indices, rows = (torch.cat(parts) for parts in zip(*self._found, strict=True))
        self._found.clear()
        scores, labels = gather_rows(self, indices, rows).cpu().numpy().swapaxes(0, 1)
        values = []
        for column, key in enumerate(FINDING_KEYS):
            known = labels[:, column] != UNKNOWN
            truth = labels[known, column]
            if len(np.unique(truth)) == 2:
                values.append(roc_auc_score(truth, scores[known, column]))
                self.log(f"val_auroc_{key}", float(values[-1]), sync_dist=True)
        mean = float(np.mean(values)) if values else 0.5
        self.log("val_auroc", mean, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW with a short warm-up and a cosine decay."""
        return one_cycle(self, self.settings)


def known_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy with smoothed labels, averaged over the known ones.

    Args:
        logits: (B, K).
        labels: (B, K): 1, 0, or `UNKNOWN`.
    """
    known = labels != UNKNOWN
    target = labels.clamp(min=0) * (1 - 2 * LABEL_SMOOTHING) + LABEL_SMOOTHING
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--masking", choices=[str(m) for m in MaskingMode], required=True)
    add_shared_arguments(parser)


def add_shared_arguments(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Declares the flags that `pretrain` has too."""
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv, images/")
    parser.add_argument(
        "--extra",
        type=Path,
        action="append",
        default=[],
        help="further folder of images, used unmasked; may be given several times",
    )
    parser.add_argument("--masks", type=Path, help="folder written by `masks`")
    parser.add_argument(
        "--backbone",
        default="resnet50",
        help="resnet50, torchvision/NAME or timm/NAME, if it ends in global average pooling",
    )
    parser.add_argument(
        "--init",
        type=Path,
        help="weights to start from: of an earlier run, or ImageNet's as torchvision or timm "
        "publish them",
    )
    parser.add_argument("--size", type=int, default=224, help="input size in pixels")
    parser.add_argument("--images-per-epoch", type=int, default=2048)
    parser.add_argument(
        "--extra-share", type=float, default=0.5, help="part of the draws from --extra, 0..1"
    )
    parser.add_argument(
        "--nodules", type=float, default=0.0, help="part of the draws with a synthetic nodule, 0..1"
    )
    parser.add_argument(
        "--masses", type=float, default=0.0, help="part of the draws with a synthetic mass, 0..1"
    )
    parser.add_argument(
        "--select",
        choices=("best", "last"),
        default="best",
        help="epoch to keep: best on validation, or last, for weights to go on from",
    )
    add_run_arguments(
        parser, **{"batch": 32, "lr": 3e-4, "weight_decay": 0.05, "ema": 0.99} | defaults
    )


def run(args: argparse.Namespace) -> None:
    """Trains, then writes `network.safetensors` (see --select) and `settings.json`."""
    mode = MaskingMode(args.masking)
    fit(settings_from(ClassifySettings, args), drawn_modes=(mode,), shown_mode=mode)


def fit(
    settings: ClassifySettings, *, drawn_modes: tuple[MaskingMode, ...], shown_mode: MaskingMode
) -> None:
    """Trains on images masked in one of several ways and validates on one of them."""
    for name in ("extra_share", "nodules", "masses"):
        share = getattr(settings, name)
        if not 0 <= share <= 1:
            raise DataError(f"--{name.replace('_', '-')} is a part, 0..1, got {share}.")
    if not begin(settings):
        return
    network = start_network(settings)
    cases = read_finding_index(Path(settings.data))
    spec = InputSpec(hw=(settings.size, settings.size))
    masks = Path(settings.masks) if settings.masks else None
    val = [case for case in cases if case.split == "val"]
    validation = val_loader(
        FindingDataset(val, spec, mode=shown_mode, masks=masks), settings, len(val)
    )
    drawing = Drawing(modes=drawn_modes, nodule=settings.nodules, mass=settings.masses)
    data, weights = training_images(settings, cases, spec, drawing)
    sampler = DrawSampler(
        len(data), seed=settings.seed, weights=weights, count=settings.images_per_epoch
    )
    fit_run(
        ClassifyTask(network, settings),
        train_loader(data, settings, sampler),
        validation,
        settings,
        monitor="val_auroc",
        select=settings.select,
    )


def training_images(
    settings: ClassifySettings, cases: list[FindingCase], spec: InputSpec, drawing: Drawing
) -> tuple[JointDataset, NDArray[np.float64]]:
    """All images to train on, and the chance of each to be drawn.

    Raises:
        DataError: If there is none, or an image, mask or index is missing or malformed.
    """
    train = doubt_overread([case for case in cases if case.split == "train"])
    if not train:
        raise DataError(f"{settings.data} has no image in the split 'train'.")
    masks = Path(settings.masks) if settings.masks else None
    parts = [FindingDataset(train, spec, masks=masks, drawing=drawing)]
    weights = sampling_weights(train)
    if settings.extra:
        found = [case for folder in settings.extra for case in read_finding_index(Path(folder))]
        extra = [case for case in found if case.split == "train"]
        # A patient to validate or test on may be in another set too.
        check_splits([*cases, *extra], Path(settings.data))
        lungs = None
        if masks:
            lungs = [typical_lungs(masks, [case.name for case in train])] * len(extra)
        unmasked = replace(drawing, modes=(MaskingMode.NONE,))
        parts.append(FindingDataset(extra, spec, lungs=lungs, drawing=unmasked))
        share = settings.extra_share
        weights = np.concatenate([weights * (1 - share), sampling_weights(extra) * share])
    return JointDataset(parts), weights


def start_network(settings: ClassifySettings) -> nn.Module:
    """The network to train, with the weights it starts from.

    Raises:
        DataError: If the file is not there.
        CheckpointError: If it is not of this backbone, or there is no such backbone.
    """
    network = build_network(settings.backbone, len(OUTPUTS))
    if settings.init is not None:
        path = Path(settings.init)
        if not path.is_file():
            raise DataError(f"There is no file {path} to start from. Mend --init, or leave it out.")
        state, layer = read_weights(path), output_layer(network)
        head = state.get(f"{layer}.weight")
        if head is not None and len(head) != len(OUTPUTS):
            print(
                f"{path.name} has {len(head)} outputs of its own: the head begins afresh, with "
                f"random weights for {len(OUTPUTS)}"
            )
            own = network.state_dict()
            state |= {name: own[name] for name in (f"{layer}.weight", f"{layer}.bias")}
        load_strictly(network, state, path.name)
    return network.to(memory_format=torch.channels_last)
