"""Command `segment`: trains or fine-tunes the promptable lung segmenter.

Every step embeds each image once and answers several prompts: the whole image's box (both lungs),
one lung's jittered box, points, and a correction of the first answer by one click. So the same
weights serve the automatic mask and a clinician's correction.
"""

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cxrdemo.checkpoints import load_strictly, read_weights
from cxrdemo.commands.numbers import number
from cxrdemo.inputs import MAX_INPUT_PX, MIN_INPUT_PX
from cxrdemo.results import Side, bounding_box
from cxrdemo.sam import ARCHITECTURES, TINYVIT_5M, TINYVIT_PX, SamNetwork
from training.engine.draws import UseSampler, gather_rows, train_loader, val_loader
from training.engine.settings import RunSettings, add_run_arguments, settings_from
from training.engine.trainer import begin, fit, one_cycle
from training.errors import DataError
from training.images.lungs import LungDataset
from training.sets.index import read_lung_index

BOX_JITTER: Final = 20 / 1024
"""Largest shift of a lung box's edge, as a fraction of the canvas (MedSAM: 20 px at 1024)."""

POINTS: Final = 3
"""Points per point prompt."""

PROMPT_STREAM: Final = 1
"""Sets the prompts' random numbers apart from those of the same draw's augmentation."""


@dataclass(frozen=True, kw_only=True)
class SegmentSettings(RunSettings):
    """One training run of the segmenter."""

    data: str
    architecture: str
    init: str | None
    size: int
    freeze_prompt_encoder: bool


class SegmentTask(L.LightningModule):
    """Loss, optimiser and validation of the segmenter."""

    def __init__(self, network: SamNetwork, settings: SegmentSettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        if settings.freeze_prompt_encoder:
            network.prompt_encoder.requires_grad_(False)
        self._found: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """Mean loss over the images of a batch and their prompts."""
        embeddings = self.network.image_encoder(
            batch["image"].to(memory_format=torch.channels_last)
        )
        seeds = batch["seed"].tolist()
        losses = [
            self._image_loss(embedding[None], sides.cpu().numpy(), seed)
            for embedding, sides, seed in zip(embeddings, batch["sides"], seeds, strict=True)
        ]
        loss: Tensor = torch.stack(losses).mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Dice of the automatic mask on the canvas."""
        embeddings = self.network.image_encoder(batch["image"])
        size = float(batch["image"].shape[-1])
        found = []
        for embedding, sides in zip(embeddings, batch["sides"], strict=True):
            box = torch.tensor([[0.0, 0.0, size, size]], device=self.device)
            logits, _iou = self.network.decode(embedding[None], boxes=box)
            predicted = _to_canvas(logits, sides.shape) > 0
            truth = sides > 0
            found.append(2 * (predicted[0] & truth).sum() / (predicted.sum() + truth.sum()))
        self._found.append((batch["index"], torch.stack(found)))

    def on_validation_epoch_end(self) -> None:
        """Logs the mean Dice."""
        indices, dice = (torch.cat(parts) for parts in zip(*self._found, strict=True))
        self._found.clear()
        mean = gather_rows(self, indices, dice).mean()
        self.log("val_dice", mean, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW with a short warm-up and a cosine decay."""
        return one_cycle(self, self.settings)

    def _image_loss(self, embedding: Tensor, sides: NDArray[np.uint8], seed: int) -> Tensor:
        """Loss of one image over a whole-image box, one lung's box, and points or a correction."""
        rng = np.random.default_rng([seed, PROMPT_STREAM])
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
    predicted = upsampled.detach() > 0
    union = (predicted | truth).sum((1, 2)).clamp(min=1)
    actual = (predicted & truth).sum((1, 2)) / union
    shape: Tensor = _dice_and_bce()(upsampled[:, None], target[:, None])
    return shape + F.mse_loss(iou[:, 0].float(), actual)


@functools.cache
def _dice_and_bce() -> nn.Module:
    """MONAI's loss; imported here, as it takes seconds that no other command should wait for."""
    from monai.losses.dice import DiceCELoss

    return cast(nn.Module, DiceCELoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0))


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv and masks")
    parser.add_argument(
        "--architecture",
        choices=sorted(ARCHITECTURES),
        default=TINYVIT_5M,
        help="of the image encoder",
    )
    parser.add_argument("--init", type=Path, help="weights to start from (.pth or .safetensors)")
    parser.add_argument(
        "--size",
        type=number(int, MIN_INPUT_PX, MAX_INPUT_PX),
        default=TINYVIT_PX,
        help="TinyViT input size in pixels",
    )
    parser.add_argument(
        "--freeze-prompt-encoder", action="store_true", help="keep it as --init has it"
    )
    add_run_arguments(parser, batch=8, lr=5e-4, weight_decay=0.01, ema=0.0)


def run(args: argparse.Namespace) -> None:
    """Trains, then writes `network.safetensors` (best epoch by validation) and `settings.json`."""
    settings = settings_from(SegmentSettings, args)
    if not begin(settings):
        return
    network = start_network(settings)
    spec = ARCHITECTURES[settings.architecture].inputs(settings.size)
    cases = read_lung_index(Path(settings.data))
    val, train = ([c for c in cases if c.split == split] for split in ("val", "train"))
    if not train:
        raise DataError(f"{settings.data} has no image in the split 'train'.")
    validation = val_loader(LungDataset(val, spec, augment=False), settings, len(val))
    training = train_loader(
        LungDataset(train, spec, augment=True),
        settings,
        UseSampler(len(train), seed=settings.seed),
    )
    # Points and corrections take turns, so a step may leave a part of the prompt encoder out.
    task = SegmentTask(network, settings)
    fit(task, training, validation, settings, monitor="val_dice", some_unused=True)


def start_network(settings: SegmentSettings) -> SamNetwork:
    """The network to train, with the weights it starts from.

    Raises:
        DataError: If the file is not there.
        CheckpointError: If it is not of this architecture.
    """
    architecture = ARCHITECTURES[settings.architecture]
    network = architecture.build(architecture.inputs(settings.size).hw[0])
    if settings.init is not None:
        path = Path(settings.init)
        if not path.is_file():
            raise DataError(f"There is no file {path} to start from. Mend --init, or leave it out.")
        load_strictly(network, read_weights(path), path.name)
    return network
