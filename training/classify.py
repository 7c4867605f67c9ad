"""Command `classify`: trains a ResNet50 on the findings, for one masking.

The five findings and, as auxiliary heads, the other labels of ChestX-ray14; an unknown label takes
no part in the loss. Further sets (`--extra`) may join, unmasked, to pretrain.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, Dataset, WeightedRandomSampler
from torchvision.models import ResNet, resnet50

from cxrdemo.checkpoints import load_strictly, read_weights
from cxrdemo.classifier import activations_of, logits_of
from cxrdemo.inputs import InputSpec
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.results import MaskingMode
from training.data import read_finding_index
from training.findings import (
    OUTPUTS,
    UNKNOWN,
    Drawing,
    FindingDataset,
    doubt_overread,
    sampling_weights,
    typical_lungs,
)
from training.runs import checkpoint_callbacks, resume_from, save_network

LABEL_SMOOTHING: Final = 0.05
"""Text-mined labels are wrong too often to be believed entirely."""


@dataclass(frozen=True)
class ClassifySettings:
    """One training run of a classifier."""

    data: str
    extra: str | None
    masks: str | None
    out: str
    masking: str
    init: str | None
    size: int
    epochs: int
    images_per_epoch: int
    extra_share: float
    nodules: float
    masses: float
    batch: int
    lr: float
    weight_decay: float
    select: str
    seed: int
    workers: int


class ClassifyTask(L.LightningModule):
    """Loss, optimiser and validation of a classifier."""

    def __init__(self, network: ResNet, settings: ClassifySettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of `OUTPUTS`."""
        images = images.to(memory_format=torch.channels_last)
        return logits_of(self.network, activations_of(self.network, images))

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Mean binary cross-entropy over the known labels."""
        loss = known_label_loss(self(batch["image"]), batch["labels"])
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Collects scores; the AUROC needs them all."""
        self._scores.append(self(batch["image"]).float().cpu())
        self._labels.append(batch["labels"].cpu())

    def on_validation_epoch_end(self) -> None:
        """Logs the AUROC per finding and their mean."""
        scores, labels = torch.cat(self._scores).numpy(), torch.cat(self._labels).numpy()
        self._scores.clear()
        self._labels.clear()
        values = []
        for column, key in enumerate(FINDING_KEYS):
            if len(np.unique(labels[:, column])) == 2:  # the sanity check sees too few images
                values.append(roc_auc_score(labels[:, column], scores[:, column]))
                self.log(f"val_auroc_{key}", float(values[-1]))
        self.log("val_auroc", float(np.mean(values)) if values else 0.5, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW with a short warm-up and a cosine decay."""
        optimiser = torch.optim.AdamW(
            self.network.parameters(), self.settings.lr, weight_decay=self.settings.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.settings.lr, total_steps=steps, pct_start=0.1
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


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


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags that `pretrain` has too."""
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv, images/")
    parser.add_argument("--extra", type=Path, help="further folder of images, used unmasked")
    parser.add_argument("--masks", type=Path, help="folder written by `masks`")
    parser.add_argument("--out", type=Path, required=True, help="run folder; resumed if it exists")
    parser.add_argument("--init", type=Path, help="weights of an earlier run to start from")
    parser.add_argument("--size", type=int, default=224, help="input size in pixels")
    parser.add_argument("--epochs", type=int, default=20)
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
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--lr", type=float, default=3e-4, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument(
        "--select",
        choices=("best", "last"),
        default="best",
        help="epoch to keep: best on validation, or last, for weights to go on from",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="data loading processes")


def run(args: argparse.Namespace) -> None:
    """Trains, then writes `network.safetensors` (see --select) and `settings.json`."""
    mode = MaskingMode(args.masking)
    fit(args, drawn_modes=(mode,), shown_mode=mode)


def fit(
    args: argparse.Namespace, *, drawn_modes: tuple[MaskingMode, ...], shown_mode: MaskingMode
) -> None:
    """Trains on images masked in one of several ways and validates on one of them."""
    values: dict[str, Any] = {
        k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "command"
    }
    settings = ClassifySettings(**{"masking": str(shown_mode), **values})
    L.seed_everything(settings.seed, workers=True)
    spec = InputSpec(hw=(settings.size, settings.size))
    cases = read_finding_index(args.data)
    train = doubt_overread([case for case in cases if case.split == "train"])
    val = [case for case in cases if case.split == "val"]
    drawing = Drawing(modes=drawn_modes, nodule=settings.nodules, mass=settings.masses)
    training_set: Dataset[dict[str, Tensor]] = FindingDataset(
        train, spec, masks=args.masks, drawing=drawing
    )
    weights = sampling_weights(train)
    if args.extra:
        extra = read_finding_index(args.extra)
        lungs = None
        if args.masks:
            lungs = [typical_lungs(args.masks, [case.name for case in train])] * len(extra)
        unmasked = replace(drawing, modes=(MaskingMode.NONE,))
        more = FindingDataset(extra, spec, lungs=lungs, drawing=unmasked)
        training_set = ConcatDataset([training_set, more])
        share = settings.extra_share
        weights = np.concatenate([weights * (1 - share), sampling_weights(extra) * share])
    sampler = WeightedRandomSampler(weights.tolist(), settings.images_per_epoch)
    common: dict[str, Any] = {
        "batch_size": settings.batch,
        "num_workers": settings.workers,
        "persistent_workers": settings.workers > 0,
    }
    train_loader = DataLoader(training_set, sampler=sampler, drop_last=True, **common)
    val_loader = DataLoader(FindingDataset(val, spec, mode=shown_mode, masks=args.masks), **common)
    network = resnet50(weights=None, num_classes=len(OUTPUTS))
    if args.init:
        load_strictly(network, read_weights(args.init), args.init.name)
    network = network.to(memory_format=torch.channels_last)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    best, last = checkpoint_callbacks(args.out, "val_auroc")
    trainer = L.Trainer(
        max_epochs=settings.epochs,
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        callbacks=[best, last, EMAWeightAveraging(decay=0.99)],
        logger=CSVLogger(args.out, name="", version="", flush_logs_every_n_steps=1),
        log_every_n_steps=10,
        enable_progress_bar=False,
    )
    trainer.fit(
        ClassifyTask(network, settings),
        train_loader,
        val_loader,
        ckpt_path=resume_from(args.out),
    )
    chosen = best if settings.select == "best" else last
    save_network(Path(chosen.best_model_path), args.out)
    print(f"best val_auroc {best.best_model_score:.4f}, kept the {settings.select} epoch")
