"""Command `segment`: trains or fine-tunes the promptable lung segmenter.

Every step embeds each image once and answers several prompts: the whole image's box (both lungs),
one lung's jittered box, points, and a correction of the first answer by one click. So the same
weights serve the automatic mask and a clinician's correction.
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
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from cxrdemo.checkpoints import load_strictly, read_weights
from cxrdemo.inputs import MEDSAM_INPUT, InputSpec, normalise, place
from cxrdemo.lungs import split_sides
from cxrdemo.results import Side, bounding_box
from cxrdemo.segmenter import SamNetwork, build_tinyvit_5m, build_vit_b
from training.augment import Ranges, change_grey, draw, warp_image, warp_mask
from training.data import LungCase, read_lung_index, read_mask, read_pixels
from training.runs import checkpoint_callbacks, resume_from, save_network

BOX_JITTER: Final = 20 / 1024
"""Largest shift of a lung box's edge, as a fraction of the canvas (MedSAM: 20 px at 1024)."""

POINTS: Final = 3
"""Points per point prompt."""


@dataclass(frozen=True)
class SegmentSettings:
    """One training run of the segmenter."""

    data: str
    out: str
    architecture: str
    init: str | None
    size: int
    epochs: int
    batch: int
    lr: float
    weight_decay: float
    freeze_prompt_encoder: bool
    seed: int
    workers: int


class LungDataset(Dataset[dict[str, Tensor]]):
    """Images and sides on the segmenter's canvas; kept in memory as uint8 at native size."""

    def __init__(self, cases: Sequence[LungCase], spec: InputSpec, *, augment: bool) -> None:
        self.cases = cases
        self._spec = spec
        self._augment = augment
        self._pixels = [read_pixels(case.image) for case in cases]
        self._masks = [read_mask(case.mask) for case in cases]

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Image (3, h, w) and sides (h, w) as uint8 with `Side` values."""
        pixels, mask = self._pixels[index].astype(np.float32) / 255.0, self._masks[index]
        if self._augment:
            rng = np.random.default_rng(int(torch.randint(2**31, ()).item()))
            change = draw(rng, mask.shape, Ranges())
            pixels = change_grey(warp_image(pixels, change), change)
            mask = warp_mask(mask, change)
        canvas, placement = place(pixels, self._spec)
        sides, _ = split_sides(placement.mask(mask))
        return {
            "image": torch.from_numpy(normalise(canvas, self._spec)),
            "sides": torch.from_numpy(sides),
        }


class SegmentTask(L.LightningModule):
    """Loss, optimiser and validation of the segmenter."""

    def __init__(self, network: SamNetwork, settings: SegmentSettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        if settings.freeze_prompt_encoder:
            network.prompt_encoder.requires_grad_(False)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Mean loss over the images of a batch and their prompts."""
        embeddings = self.network.image_encoder(
            batch["image"].to(memory_format=torch.channels_last)
        )
        losses = [
            self._image_loss(embedding[None], sides.cpu().numpy())
            for embedding, sides in zip(embeddings, batch["sides"], strict=True)
        ]
        loss: Tensor = torch.stack(losses).mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Dice of the automatic mask on the canvas."""
        embeddings = self.network.image_encoder(batch["image"])
        size = float(batch["image"].shape[-1])
        for embedding, sides in zip(embeddings, batch["sides"], strict=True):
            box = torch.tensor([[0.0, 0.0, size, size]], device=self.device)
            logits, _iou = self.network.decode(embedding[None], boxes=box)
            predicted = _to_canvas(logits, sides.shape) > 0
            truth = sides > 0
            dice = 2 * (predicted[0] & truth).sum() / (predicted.sum() + truth.sum())
            self.log("val_dice", dice, batch_size=1, on_epoch=True, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """AdamW with a short warm-up and a cosine decay."""
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            parameters, lr=self.settings.lr, weight_decay=self.settings.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.settings.lr, total_steps=steps, pct_start=0.1
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _image_loss(self, embedding: Tensor, sides: NDArray[np.uint8]) -> Tensor:
        """Loss of one image over a whole-image box, one lung's box, and points or a correction."""
        rng = np.random.default_rng(int(torch.randint(2**31, ()).item()))
        size = sides.shape[-1]
        side = rng.choice([Side.RIGHT, Side.LEFT])
        boxes = [np.array([0.0, 0.0, size, size], np.float32)]
        targets = [sides > 0]
        lung_box = jittered_box(sides == side, rng)
        if lung_box is not None:
            boxes.append(lung_box)
            targets.append(sides == side)
        logits, iou = self.network.decode(
            embedding, boxes=torch.from_numpy(np.stack(boxes)).to(self.device)
        )
        loss = mask_loss(logits, iou, torch.from_numpy(np.stack(targets)).to(self.device))
        if rng.random() < 0.5:
            loss = loss + self._point_loss(embedding, sides, rng)
        else:
            loss = loss + self._correction_loss(embedding, logits[:1], sides > 0, rng)
        return loss

    def _point_loss(
        self, embedding: Tensor, sides: NDArray[np.uint8], rng: np.random.Generator
    ) -> Tensor:
        """Points in a lung ask for that lung; points in both ask for both."""
        points, adds, target = sample_points(sides, rng)
        logits, iou = self.network.decode(embedding, points=self._point_tensors(points, adds))
        return mask_loss(logits, iou, torch.from_numpy(target[None]).to(self.device))

    def _correction_loss(
        self,
        embedding: Tensor,
        logits: Tensor,
        truth: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> Tensor:
        """One click on a wrong pixel, with the answer so far as the previous mask."""
        previous = logits.detach()
        predicted = (_to_canvas(previous, truth.shape)[0] > 0).cpu().numpy()
        wrong = np.argwhere(predicted != truth)
        if len(wrong) == 0:
            return torch.zeros((), device=self.device)
        row, column = wrong[rng.integers(len(wrong))]
        points = np.array([[column + 0.5, row + 0.5]], np.float32)
        adds = np.array([truth[row, column]])
        logits, iou = self.network.decode(
            embedding, points=self._point_tensors(points, adds), masks=previous.float()
        )
        return mask_loss(logits, iou, torch.from_numpy(truth[None]).to(self.device))

    def _point_tensors(
        self, points: NDArray[np.float32], adds: NDArray[np.bool_]
    ) -> tuple[Tensor, Tensor]:
        return (
            torch.from_numpy(points[None]).to(self.device),
            torch.from_numpy(adds[None].astype(np.int64)).to(self.device),
        )


def mask_loss(logits: Tensor, iou: Tensor, truth: Tensor) -> Tensor:
    """BCE + Dice of the masks, plus the squared error of the predicted IoU (SAM).

    Args:
        logits: (B, 1, h, w), upsampled here to the truth's size.
        iou: Predicted IoU (B, 1).
        truth: bool (B, H, W).
    """
    upsampled = _to_canvas(logits.float(), truth.shape[-2:])
    target = truth.float()
    bce = F.binary_cross_entropy_with_logits(upsampled, target)
    probability = upsampled.sigmoid()
    overlap = (probability * target).sum((1, 2))
    dice = 1 - (2 * overlap + 1) / (probability.sum((1, 2)) + target.sum((1, 2)) + 1)
    predicted = upsampled.detach() > 0
    union = (predicted | truth).sum((1, 2)).clamp(min=1)
    actual = (predicted & truth).sum((1, 2)) / union
    return bce + dice.mean() + F.mse_loss(iou[:, 0].float(), actual)


def jittered_box(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32] | None:
    """XYXY box of a mask with each edge moved at random, inside the canvas; None if empty."""
    box = bounding_box(mask)
    if box is None:
        return None
    size = mask.shape[-1]
    jitter = rng.uniform(-BOX_JITTER, BOX_JITTER, 4) * size
    return np.asarray(np.clip(np.array(box) + jitter, 0, size), np.float32)


def sample_points(
    sides: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Draws positive and negative points and the mask they ask for.

    Returns:
        Points (N, 2) on the canvas, adds (N,), target (H, W): the lungs that hold a positive point.
    """
    side = rng.choice([Side.RIGHT, Side.LEFT])
    target = sides == side if (sides == side).any() and rng.random() < 0.5 else sides > 0
    lungs = [m for m in (target & (sides == s) for s in Side) if m.any()]
    chosen = [_random_pixel(mask, rng) for mask in lungs]
    adds = [True] * len(chosen)
    while len(chosen) < POINTS:
        add = bool(rng.random() < 0.5)
        pool = target if add else ~target
        if not pool.any():
            pool, add = ~pool, not add
        chosen.append(_random_pixel(pool, rng))
        adds.append(add)
    return np.array(chosen, np.float32), np.array(adds), target


def _random_pixel(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    pixels = np.flatnonzero(mask)
    row, column = np.unravel_index(pixels[rng.integers(len(pixels))], mask.shape)
    return float(column) + 0.5, float(row) + 0.5


def _to_canvas(logits: Tensor, hw: Sequence[int]) -> Tensor:
    """Upsamples (B, 1, h, w) logits to (B, H, W)."""
    return F.interpolate(logits, size=tuple(hw), mode="bilinear")[:, 0]


def input_spec(architecture: str, size: int) -> InputSpec:
    """The preprocessing of an architecture."""
    return MEDSAM_INPUT if architecture == "sam-vit-b-1024" else InputSpec(hw=(size, size))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv and masks")
    parser.add_argument("--out", type=Path, required=True, help="run folder; resumed if it exists")
    parser.add_argument(
        "--architecture",
        choices=("sam-tinyvit-5m-512", "sam-vit-b-1024"),
        default="sam-tinyvit-5m-512",
    )
    parser.add_argument("--init", type=Path, help="weights to start from (.pth or .safetensors)")
    parser.add_argument("--size", type=int, default=512, help="TinyViT input size in pixels")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--lr", type=float, default=5e-4, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--freeze-prompt-encoder", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="data loading processes")


def run(args: argparse.Namespace) -> None:
    """Trains, then writes `network.safetensors` (best epoch by validation) and `settings.json`."""
    values: dict[str, Any] = {
        k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "command"
    }
    settings = SegmentSettings(**values)
    L.seed_everything(settings.seed, workers=True)
    spec = input_spec(settings.architecture, settings.size)
    cases = read_lung_index(args.data)
    splits = {s: [c for c in cases if c.split == s] for s in ("train", "val")}
    network = (
        build_vit_b()
        if settings.architecture == "sam-vit-b-1024"
        else build_tinyvit_5m(settings.size)
    )
    if args.init:
        load_strictly(network, read_weights(args.init), args.init.name)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    loaders = {
        name: DataLoader(
            LungDataset(part, spec, augment=name == "train"),
            batch_size=settings.batch,
            shuffle=name == "train",
            drop_last=name == "train",
            num_workers=settings.workers,
            persistent_workers=settings.workers > 0,
        )
        for name, part in splits.items()
    }
    best, last = checkpoint_callbacks(args.out, "val_dice")
    trainer = L.Trainer(
        max_epochs=settings.epochs,
        precision="bf16-mixed",
        gradient_clip_val=1.0,
        callbacks=[best, last],
        logger=CSVLogger(args.out, name="", version=""),
        log_every_n_steps=10,
    )
    task = SegmentTask(network, settings)
    trainer.fit(task, loaders["train"], loaders["val"], ckpt_path=resume_from(args.out))
    save_network(Path(best.best_model_path), args.out)
    print(f"best val_dice {best.best_model_score:.4f} -> {args.out / 'network.safetensors'}")
