"""Command `classify`: trains a network on the findings, for one masking.

A ResNet50 or any other network of torchvision or timm that the app can explain, from random
weights, a pretraining run, or ImageNet's. The five findings and, as auxiliary heads, the other
labels of ChestX-ray14; an unknown label takes no part in the loss. Further sets (`--extra`) may
join, unmasked.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from cxrdemo.backbones import activations_of, build_network, grid_of, logits_of, output_layer
from cxrdemo.checkpoints import load_strictly, read_weights
from cxrdemo.commands.numbers import number
from cxrdemo.inputs import KEPT_MEAN, MAX_INPUT_PX, MIN_INPUT_PX, InputSpec
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.lesions import MASS, NODULE
from cxrdemo.results import MaskingMode
from cxrdemo.specs import Pooling
from training.engine.draws import UseSampler, gather_rows, train_loader, val_loader
from training.engine.losses import (
    LABEL_SMOOTHING,
    UNKNOWN,
    beyond_loss,
    evidence_of,
    known_label_loss,
    place_loss,
)
from training.engine.settings import RunSettings, add_run_arguments, settings_from
from training.engine.starts import STARTS, begin_from
from training.engine.trainer import begin, one_cycle
from training.engine.trainer import fit as fit_run
from training.errors import DataError
from training.images.augment import Ranges
from training.images.findings import (
    OUTPUTS,
    Augmentation,
    FindingDataset,
    JointDataset,
    doubt_overread,
    sampling_weights,
    typical_lungs,
)
from training.sets.boxes import read_boxes
from training.sets.index import FindingCase, check_splits, read_finding_index


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(RunSettings):
    """One training run of a classifier.

    Attributes:
        data: Folder of findings.
        extra: Further folders, used unmasked.
        masks: Folder of lung masks.
        boxes: File of boxes about findings.
        masking: Of the images.
        backbone: See `classifier.build_network`.
        start: A key of `engine.starts.STARTS`: learnt weights out of an ordinary package.
        init: File of weights to start from.
        size: Of the input, in pixels.
        fill: "kept-mean" or "black", of removed pixels and bars.
        pooling: "kept" or "all" cells.
        images_per_epoch: Drawn.
        extra_share: Part of the draws that come from `extra`.
        nodules: Part of the draws with a synthetic nodule.
        masses: Part of the draws with a synthetic mass.
        decoys: Part of the draws with such a lesion outside the lungs, unlabelled.
        jitter_edges: Whether the masks' edges are changed at random.
        mirror: Part of the draws that are mirrored.
        place_weight: Of the loss on where a finding whose place is known is seen.
        beyond_weight: Of the loss on evidence outside the lungs.
        select: "best" or "last" epoch.
    """

    data: str
    extra: list[str]
    masks: str | None
    boxes: str | None
    masking: str
    backbone: str
    start: str | None
    init: str | None
    size: int
    fill: str
    pooling: Pooling
    images_per_epoch: int
    extra_share: float
    nodules: float
    masses: float
    decoys: float
    jitter_edges: bool
    mirror: float
    place_weight: float
    beyond_weight: float
    select: str

    @property
    def inputs(self) -> InputSpec:
        """How its images become a network's input, in training and in the app."""
        return input_spec(self.size, self.fill)


class ClassifyTask(L.LightningModule):
    """Loss, optimiser and validation of a classifier."""

    def __init__(self, network: nn.Module, settings: ClassifySettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self._found: list[tuple[Tensor, Tensor]] = []

    def forward(self, images: Tensor, weights: Tensor) -> Tensor:
        """Logits (B, K) of `OUTPUTS`."""
        return self._look(images, weights)[0]

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The labels' loss, and where asked for those of the places."""
        settings, weights = self.settings, batch["weights"]
        logits, activations = self._look(batch["image"], weights)
        loss = known_label_loss(logits, batch["labels"])
        parts = {"label_loss": loss}
        if settings.place_weight or settings.beyond_weight:
            evidence = evidence_of(self.network, activations)
            parts["place_loss"] = place_loss(evidence, weights, batch["place"], batch["placed"])
            findings = evidence[:, : len(FINDING_KEYS)]
            parts["beyond_loss"] = beyond_loss(findings, weights, batch["beyond"])
            loss = loss + settings.place_weight * parts["place_loss"]
            loss = loss + settings.beyond_weight * parts["beyond_loss"]
        for name, part in (parts | {"train_loss": loss}).items():
            self.log(name, part, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Collects scores; the AUROC needs them all."""
        rows = torch.stack([self(batch["image"], batch["weights"]).float(), batch["labels"]], dim=1)
        self._found.append((batch["index"], rows))

    def on_validation_epoch_end(self) -> None:
        """Logs the AUROC per finding and their mean.

        By hand, because torchmetrics' `MultilabelAUROC` gives 0 for a finding without positives,
        which is not measured, and counts twice what several processes repeat to even their shares.
        """
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

    def _look(self, images: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and activations (B, C, h, w), not weighted."""
        activations = activations_of(self.network, images.to(memory_format=torch.channels_last))
        return logits_of(self.network, activations, weights), activations


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument(
        "--masking", choices=[str(m) for m in MaskingMode], required=True, help="what is kept"
    )
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
    begun = parser.add_mutually_exclusive_group()
    begun.add_argument(
        "--init",
        type=Path,
        help="weights to start from: of an earlier run, or ImageNet's as torchvision or timm "
        "publish them",
    )
    begun.add_argument(
        "--start",
        choices=tuple(STARTS),
        help="learnt weights out of a package, see training/requirements-starts.txt",
    )
    parser.add_argument(
        "--size",
        type=number(int, MIN_INPUT_PX, MAX_INPUT_PX),
        default=224,
        help="input size in pixels",
    )
    parser.add_argument(
        "--fill",
        choices=(KEPT_MEAN, "black"),
        default=KEPT_MEAN,
        help="of removed pixels and bars (default: %(default)s)",
    )
    parser.add_argument(
        "--pooling",
        choices=get_args(Pooling),
        default="kept",
        help="cells that the network averages over (default: %(default)s)",
    )
    parser.add_argument("--boxes", type=Path, help="boxes.csv: places of findings in --data")
    parser.add_argument(
        "--images-per-epoch",
        type=number(int, 1),
        default=2048,
        help="drawn, the rare ones more often",
    )
    parser.add_argument(
        "--extra-share",
        type=number(float, 0, 1),
        default=0.5,
        help="part of the draws from --extra, 0..1",
    )
    parser.add_argument(
        "--nodules",
        type=number(float, 0, 1),
        default=0.0,
        help="part of the draws with a synthetic nodule, 0..1",
    )
    parser.add_argument(
        "--masses",
        type=number(float, 0, 1),
        default=0.0,
        help="part of the draws with a synthetic mass, 0..1",
    )
    parser.add_argument(
        "--decoys",
        type=number(float, 0, 1),
        default=0.0,
        help="part of the draws with a synthetic lesion outside the lungs, unlabelled, 0..1",
    )
    parser.add_argument(
        "--jitter-edges", action="store_true", help="change the edges of the masks at random"
    )
    parser.add_argument(
        "--mirror",
        type=number(float, 0, 1),
        default=0.0,
        help="part of the draws that are mirrored, 0..1: no finding here knows its side",
    )
    parser.add_argument(
        "--place-weight",
        type=number(float, 0),
        default=0.0,
        help="of the loss on where lesions and boxes are seen; 0 for none",
    )
    parser.add_argument(
        "--beyond-weight",
        type=number(float, 0),
        default=0.0,
        help="of the loss on evidence outside the lungs, for none and loose; 0 for none",
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
    check_settings(settings)
    if not begin(settings):
        return
    network = start_network(settings)
    cases = read_finding_index(Path(settings.data))
    masks = Path(settings.masks) if settings.masks else None
    val = [case for case in cases if case.split == "val"]
    grid_hw = grid_of(network, settings.inputs.hw)
    if grid_hw == (1, 1) and settings.pooling == "kept":
        raise DataError(
            f"{settings.backbone} has one cell for an input of {settings.size} px, which tells no "
            "places apart. Choose a larger --size, or --pooling all."
        )
    shown = FindingDataset(
        val,
        settings.inputs,
        mode=shown_mode,
        masks=masks,
        grid_hw=grid_hw,
        pools_kept=settings.pooling == "kept",
    )
    validation = val_loader(shown, settings, len(val))
    boxes = read_boxes(Path(settings.boxes), cases) if settings.boxes else {}
    augmentation = Augmentation(
        modes=drawn_modes,
        ranges=Ranges(mirror=settings.mirror),
        nodule=settings.nodules,
        mass=settings.masses,
        decoy=settings.decoys,
        jitter=settings.jitter_edges,
        boxes=boxes,
    )
    data, weights = training_images(settings, cases, augmentation, grid_hw)
    if not has_learnt_head(settings):
        begin_at_shares(network, label_shares(data.cases, weights, augmentation))
    sampler = UseSampler(
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


def check_settings(settings: ClassifySettings) -> None:
    """Refuses flags that make no sense together.

    Raises:
        DataError: Naming the flag.
    """
    lesions = settings.nodules + settings.masses + settings.decoys
    if lesions > 1:
        raise DataError(
            f"--nodules, --masses and --decoys are parts of the same draws, and sum to {lesions:g}."
        )
    if settings.beyond_weight and not settings.masks:
        raise DataError("--beyond-weight needs --masks, which tell where the lungs are.")


def input_spec(size: int, fill: str) -> InputSpec:
    """A classifier's input of `size` x `size` px, filled as --fill says."""
    return InputSpec(hw=(size, size), fill=KEPT_MEAN if fill == KEPT_MEAN else 0.0)


def training_images(
    settings: ClassifySettings,
    cases: list[FindingCase],
    augmentation: Augmentation,
    grid_hw: tuple[int, int] | None = None,
) -> tuple[JointDataset, NDArray[np.float64]]:
    """All images to train on, and the chance of each to be drawn.

    Args:
        settings: Of the run.
        cases: Of all splits.
        augmentation: What is random about a use of an image.
        grid_hw: Cells of the network's last activations; None where nobody asks for them.

    Raises:
        DataError: If there is none, or an image, mask or index is missing or malformed.
    """
    train = doubt_overread([case for case in cases if case.split == "train"])
    if not train:
        raise DataError(f"{settings.data} has no image in the split 'train'.")
    masks = Path(settings.masks) if settings.masks else None
    spec, pools_kept = settings.inputs, settings.pooling == "kept"
    parts = [
        FindingDataset(
            train,
            spec,
            masks=masks,
            augmentation=augmentation,
            grid_hw=grid_hw,
            pools_kept=pools_kept,
        )
    ]
    weights = sampling_weights(train)
    if settings.extra:
        found = [case for folder in settings.extra for case in read_finding_index(Path(folder))]
        extra = [case for case in found if case.split == "train"]
        # A patient to validate or test on may be in another set too.
        check_splits([*cases, *extra], Path(settings.data))
        lungs = None
        if masks:
            lungs = [typical_lungs(masks, [case.name for case in train])] * len(extra)
        # Boxes are about the images of --data, and others may be named like them.
        unmasked = replace(augmentation, modes=(MaskingMode.NONE,), boxes={})
        parts.append(
            FindingDataset(
                extra,
                spec,
                lungs=lungs,
                augmentation=unmasked,
                grid_hw=grid_hw,
                pools_kept=pools_kept,
            )
        )
        share = settings.extra_share
        weights = np.concatenate([weights * (1 - share), sampling_weights(extra) * share])
    return JointDataset(parts), weights


def label_shares(
    cases: Sequence[FindingCase], weights: NDArray[np.float64], augmentation: Augmentation
) -> NDArray[np.float64]:
    """How often each output's label is 1 where it is known, among the draws: (K,).

    Args:
        cases: To draw from.
        weights: Chance of each.
        augmentation: Whose lesions are labels too.
    """
    rows = [[case.labels.get(key) for key in OUTPUTS] for case in cases]
    labels = np.array([[np.nan if value is None else value for value in row] for row in rows])
    known = ~np.isnan(labels) * weights[:, None]
    shares = np.nansum(labels * weights[:, None], axis=0) / np.maximum(known.sum(axis=0), 1e-9)
    for kind, drawn in ((NODULE, augmentation.nodule), (MASS, augmentation.mass)):
        column = OUTPUTS.index(kind.key)
        shares[column] += (1 - shares[column]) * drawn
    return np.asarray(shares, np.float64)


def begin_at_shares(network: nn.Module, shares: NDArray[np.float64]) -> None:
    """Sets a new head's bias to the labels' own shares.

    What the activations then say is evidence for or against, as seen from the usual image. From a
    bias of 0 rare findings would teach them to speak against everywhere, and maps would be empty.
    """
    smoothed = torch.from_numpy(shares) * (1 - 2 * LABEL_SMOOTHING) + LABEL_SMOOTHING
    layer = cast(nn.Linear, network.get_submodule(output_layer(network)))
    with torch.no_grad():
        layer.bias.copy_(torch.logit(smoothed).float())


def has_learnt_head(settings: ClassifySettings) -> bool:
    """Whether the weights to start from bring a head with these outputs."""
    if settings.init is None:
        return False
    network = build_network(settings.backbone, len(OUTPUTS))
    head = read_weights(Path(settings.init)).get(f"{output_layer(network)}.weight")
    return head is not None and len(head) == len(OUTPUTS)


def start_network(settings: ClassifySettings) -> nn.Module:
    """The network to train, with the weights it starts from.

    Raises:
        DataError: If the file or package is not there, or does not fit.
        CheckpointError: If the file is not of this backbone, or there is no such backbone.
    """
    network = build_network(settings.backbone, len(OUTPUTS))
    if settings.start is not None:
        begin_from(network, settings.start, settings.backbone)
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
