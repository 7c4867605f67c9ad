"""Command `classify`: trains a ResNet50 on the findings, for one masking.

The five findings and, as auxiliary heads, the other labels of ChestX-ray14; an unknown label takes
no part in the loss. Further sets (`--extra`) may join, unmasked, to pretrain.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, Dataset, WeightedRandomSampler
from torchvision.models import ResNet, resnet50

from cxrdemo.checkpoints import load_strictly, read_weights
from cxrdemo.classifier import activations_of, logits_of
from cxrdemo.inputs import InputSpec, normalise, place
from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS
from cxrdemo.masking import DEFAULT_MARGIN, apply_mask, kept_region
from cxrdemo.results import MaskingMode
from training.augment import Ranges, change_grey, draw, warp_image
from training.data import FindingCase, read_finding_index, read_pixels
from training.masks import read_sides
from training.runs import checkpoint_callbacks, resume_from, save_network

OUTPUTS: Final = (*FINDING_KEYS, *AUXILIARY_KEYS, "COVID")
MARGIN_RANGE: Final = (0.02, 0.20)
"""Loose margins drawn in training, as fractions of the lungs' height."""

UNKNOWN: Final = -1.0
LABEL_SMOOTHING: Final = 0.05
"""Text-mined labels are wrong too often to be believed entirely."""

MAX_SAMPLING_WEIGHT: Final = 6.0


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
    batch: int
    lr: float
    weight_decay: float
    select: str
    seed: int
    workers: int


class FindingDataset(Dataset[dict[str, Tensor]]):
    """Masked images on the classifier's canvas and their labels; pixels in memory as uint8."""

    def __init__(
        self,
        cases: Sequence[FindingCase],
        spec: InputSpec,
        *,
        mode: MaskingMode,
        masks: Path | None,
        augment: bool,
    ) -> None:
        self.cases = cases
        self._spec = spec
        self._mode = mode
        self._augment = augment
        self._pixels = [read_pixels(case.image) for case in cases]
        self._lungs: list[NDArray[np.bool_]] | None = None
        if mode is not MaskingMode.NONE:
            if masks is None:
                raise ValueError("masking 'loose' and 'tight' need --masks")
            self._lungs = [read_sides(masks, case.name) > 0 for case in cases]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Image (3, h, w) and labels (K,): 1, 0, or `UNKNOWN`."""
        pixels = self._pixels[index].astype(np.float32) / 255.0
        rng = np.random.default_rng(int(torch.randint(2**31, ()).item()))
        kept = None
        if self._lungs is not None and self._lungs[index].any():
            margin = rng.uniform(*MARGIN_RANGE) if self._augment else DEFAULT_MARGIN
            kept = kept_region(self._lungs[index], mode=self._mode, margin=margin)
        if self._augment:
            change = draw(rng, pixels.shape, Ranges())
            pixels = change_grey(pixels, change)
            if kept is not None:
                pixels = apply_mask(pixels, kept, fill=self._spec.fill)
            pixels = warp_image(pixels, change)
        elif kept is not None:
            pixels = apply_mask(pixels, kept, fill=self._spec.fill)
        canvas, _ = place(pixels, self._spec)
        labels = self.cases[index].labels
        values = [labels.get(key) for key in OUTPUTS]
        return {
            "image": torch.from_numpy(normalise(canvas, self._spec)),
            "labels": torch.tensor([UNKNOWN if v is None else float(v) for v in values]),
        }


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


def sampling_weights(cases: Sequence[FindingCase]) -> NDArray[np.float64]:
    """Draws images with rare findings more often: weight 1 / prevalence, bounded; sums to 1."""
    labels = np.array([[case.labels[key] or 0 for key in FINDING_KEYS] for case in cases])
    prevalence = np.maximum(labels.mean(axis=0), 1e-3)
    weights = np.maximum(1.0, (labels / prevalence).max(axis=1) * 0.2)
    weights = np.minimum(weights, MAX_SAMPLING_WEIGHT)
    return np.asarray(weights / weights.sum(), np.float64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv, images/")
    parser.add_argument("--extra", type=Path, help="further folder for pretraining, unmasked")
    parser.add_argument("--masks", type=Path, help="folder written by `masks`")
    parser.add_argument("--out", type=Path, required=True, help="run folder; resumed if it exists")
    parser.add_argument("--masking", choices=[str(m) for m in MaskingMode], required=True)
    parser.add_argument("--init", type=Path, help="weights of an earlier run to start from")
    parser.add_argument("--size", type=int, default=224, help="input size in pixels")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images-per-epoch", type=int, default=2048)
    parser.add_argument(
        "--extra-share", type=float, default=0.5, help="part of the draws from --extra, 0..1"
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
    values: dict[str, Any] = {
        k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "command"
    }
    settings = ClassifySettings(**values)
    L.seed_everything(settings.seed, workers=True)
    mode = MaskingMode(settings.masking)
    spec = InputSpec(hw=(settings.size, settings.size))
    cases = read_finding_index(args.data)
    train = [case for case in cases if case.split == "train"]
    val = [case for case in cases if case.split == "val"]
    training_set: Dataset[dict[str, Tensor]] = FindingDataset(
        train, spec, mode=mode, masks=args.masks, augment=True
    )
    weights = sampling_weights(train)
    if args.extra:
        extra = read_finding_index(args.extra)
        more = FindingDataset(extra, spec, mode=MaskingMode.NONE, masks=None, augment=True)
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
    val_loader = DataLoader(
        FindingDataset(val, spec, mode=mode, masks=args.masks, augment=False), **common
    )
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
