"""Command `reproduce`: the whole chain from data to an evaluated checkpoint folder.

Segmenter, masks, pretraining, a classifier per masking, and their evaluation, by the same commands
that can be given one by one; each is printed before it runs. A second run goes on where the first
one stopped.

Presets: `smoke` makes a few phantoms and proves the wiring in about two minutes; its weights
find nothing but lungs. `bundled` is the recipe of the bundled weights.
`comparison` is that of the two backbones in `docs/experiments.md`, for `experiment`.
`paper` fine-tunes MedSAM's ViT-B and ImageNet's ResNet50 on the full ChestX-ray14; the reference
(arXiv 2512.23089) leaves most settings open, so these are ours.
"""

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cxrdemo.classifier import FindingClassifier
from cxrdemo.files import read_radiograph
from cxrdemo.masking import DEFAULT_MARGIN, kept_region
from cxrdemo.results import MaskingMode
from training.commands import evaluate
from training.commands.chain import Step, describe, on_device, publication, run_chain
from training.commands.flags import add_device_argument
from training.engine.run_folder import RunFolder
from training.engine.starts import STARTS
from training.errors import DataError
from training.images.stored_masks import QUALITY_NAME, read_sides
from training.measures.scoring import kept_by, load_classifiers
from training.sets.boxes import BOXES_NAME
from training.sets.index import FindingCase, read_finding_index, read_lung_index
from training.sets.phantoms import make_phantom_sets
from training.sets.pixels import read_mask

LEAST_DICE: Final = 0.6
"""Of the smoke preset's masks with the phantoms' lungs; a quick training reaches 0.8 or so."""


@dataclass(frozen=True)
class Preset:
    """The settings of one whole chain, as flags of its commands.

    Attributes:
        segment: Stages of the segmenter; each starts from the weights of the one before.
        pretrain: Of the network that the classifiers start from; None to start from --imagenet.
        classify: The same for all maskings.
        backbone: Of the classifiers.
        start: A key of `engine.starts.STARTS` that the backbone begins from; None for random
            weights, or those of --imagenet.
        measure: Of every `publish` and `evaluate`.
        licence: Of the weights, for the cards.
        needs_weights: Whether --medsam and --imagenet must be given.
        makes_data: Whether the data are phantoms made here; their weights count as untrained.
    """

    segment: tuple[tuple[str, ...], ...]
    pretrain: tuple[str, ...] | None
    classify: tuple[str, ...]
    licence: str
    backbone: str = "resnet50"
    start: str | None = None
    measure: tuple[str, ...] = ()
    needs_weights: bool = False
    makes_data: bool = False


def _flags(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


PRESETS: Final[Mapping[str, Preset]] = {
    "smoke": Preset(
        # As long as it takes to find a phantom's lungs: masks without lungs would prove nothing.
        segment=(_flags("--size 64 --epochs 8 --batch 4 --lr 2e-3 --workers 0"),),
        pretrain=_flags(
            "--size 64 --epochs 1 --images-per-epoch 16 --extra-share 0.4 --batch 8 --lr 1e-3 "
            "--nodules 0.12 --masses 0.08 --workers 0"
        ),
        classify=_flags(
            "--size 64 --epochs 1 --images-per-epoch 16 --extra-share 0.15 --batch 8 --lr 2e-4 "
            "--nodules 0.08 --masses 0.06 --decoys 0.06 --jitter-edges --place-weight 0.2 "
            "--beyond-weight 0.5 --select last --workers 0"
        ),
        measure=_flags("--resamples 20 --planted 2"),
        licence="none: not for use",
        makes_data=True,
    ),
    "bundled": Preset(
        segment=(
            _flags("--size 256 --epochs 10"),
            _flags("--size 512 --epochs 1 --lr 1.5e-4"),
            _flags("--size 512 --epochs 4 --lr 3e-4 --batch 6"),
        ),
        pretrain=_flags(
            "--size 192 --epochs 5 --images-per-epoch 1280 --extra-share 0.25 --batch 32 --lr 3e-4 "
            "--ema 0.98 --nodules 0.2 --masses 0.2 --decoys 0.08 --jitter-edges --place-weight 0.2 "
            "--beyond-weight 0.5 --precision fp32 --workers 0"
        ),
        classify=_flags(
            "--size 192 --epochs 3 --images-per-epoch 640 --extra-share 0 --batch 32 --lr 1.5e-4 "
            "--ema 0.95 --nodules 0.2 --masses 0.2 --decoys 0.08 --jitter-edges --place-weight 0.2 "
            "--beyond-weight 0.5 --select best --precision fp32 --workers 0"
        ),
        backbone="resnet50-dilated",
        start="chest-ct",
        licence="Research use. See the terms of each data set.",
    ),
    # Two backbones at equal budgets: a longer start, whose last epoch every classifier begins from.
    "comparison": Preset(
        segment=(_flags("--size 256 --epochs 10"),),
        pretrain=_flags(
            "--size 192 --epochs 6 --images-per-epoch 2560 --extra-share 0.25 --batch 32 --lr 3e-4 "
            "--ema 0.98 --nodules 0.2 --masses 0.2 --decoys 0.08 --jitter-edges --place-weight 0.2 "
            "--beyond-weight 0.5 --workers 0"
        ),
        classify=_flags(
            "--size 192 --epochs 2 --images-per-epoch 640 --extra-share 0 --batch 32 --lr 1.5e-4 "
            "--ema 0.95 --nodules 0.2 --masses 0.2 --decoys 0.08 --jitter-edges --place-weight 0.2 "
            "--beyond-weight 0.5 --select last --workers 0"
        ),
        backbone="resnet50-dilated",
        start="chest-ct",
        licence="Research use. See the terms of each data set.",
    ),
    "paper": Preset(
        segment=(
            _flags(
                "--architecture sam-vit-b-1024 --freeze-prompt-encoder --epochs 20 --batch 2 "
                "--lr 1e-4 --weight-decay 0.01 --workers 8"
            ),
        ),
        pretrain=None,
        classify=_flags(
            "--size 224 --epochs 10 --images-per-epoch 65536 --batch 64 --lr 1e-4 "
            "--weight-decay 0.01 --select best --workers 8"
        ),
        licence="Research use. See the terms of each data set, of MedSAM's weights and of "
        "torchvision's.",
        needs_weights=True,
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--preset", choices=tuple(PRESETS), required=True, help="which chain")
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with lungs/, nih/ and, if wanted, pretrain/; not for smoke",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--medsam", type=Path, help="medsam_vit_b.pth, for preset paper")
    parser.add_argument(
        "--imagenet", type=Path, help="torchvision's resnet50-*.pth, for preset paper"
    )
    add_device_argument(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="read the indexes and print every command; train nothing",
    )


def run(args: argparse.Namespace) -> None:
    """Runs what is not finished; the checkpoints lie in OUT/checkpoints at the end."""
    preset, out = PRESETS[args.preset], args.out.resolve()
    if preset.makes_data:
        if args.data is not None:
            raise DataError(f"The preset {args.preset} makes its own data. Leave out --data.")
        data = out / "data"
        if not data.exists():
            draft = out / "draft-data"
            make_phantom_sets(draft)
            draft.rename(data)
    elif args.data is None:
        raise DataError(f"The preset {args.preset} needs --data.")
    else:
        data = args.data.resolve()
    if preset.needs_weights:
        for flag, path in (("--medsam", args.medsam), ("--imagenet", args.imagenet)):
            if path is None or not path.is_file():
                raise DataError(f"The preset {args.preset} needs a file as {flag}, got {path}.")
    weights = {
        name: path.resolve()
        for name, path in (("medsam", args.medsam), ("imagenet", args.imagenet))
        if path is not None
    }
    steps = plan(preset, data, out, **weights)
    run_chain(on_device(steps, args.device), out, dry=args.dry_run)
    if args.dry_run:
        return
    if preset.makes_data:
        print(prove(data, out))
    print(f"{out / 'checkpoints'}\n{out / 'evaluation'}")


def prove(data: Path, out: Path) -> str:
    """What a finished chain on phantoms must show, whatever its weights are worth.

    The masks hold the phantoms' lungs; each classifier is the one that was trained with the
    masking it is listed for; and it is blind to what that masking takes away, and to no more.

    Args:
        data: Folder of the phantom sets.
        out: Folder of the chain.

    Returns:
        The proof in one line.

    Raises:
        DataError: Naming what does not hold.
    """
    overlaps = []
    for case in read_lung_index(data / "lungs"):
        found, truth = read_sides(out / "masks", case.image.name) > 0, read_mask(case.mask)
        overlaps.append(2 * (found & truth).sum() / max(1, int(found.sum() + truth.sum())))
    overlap = float(np.mean(overlaps))
    if overlap < LEAST_DICE:
        raise DataError(f"The masks do not hold the phantoms' lungs: mean Dice {overlap:.2f}.")
    first = read_finding_index(data / "nih")[0]
    image = read_radiograph(first.image).pixels
    lungs = read_sides(out / "masks", first.name) > 0
    tight, loose = (
        kept_region(lungs, mode=mode, margin=DEFAULT_MARGIN)
        for mode in (MaskingMode.TIGHT, MaskingMode.LOOSE)
    )
    # Where something may change without a classifier's answer changing.
    unseen = {MaskingMode.NONE: None, MaskingMode.LOOSE: ~loose, MaskingMode.TIGHT: ~tight}
    seen = {MaskingMode.NONE: ~loose, MaskingMode.LOOSE: loose & ~tight, MaskingMode.TIGHT: tight}
    for mode, classifier in load_classifiers(out / "checkpoints").items():
        trained = classifier.spec.origin.settings["masking"]
        if trained != str(mode):
            raise DataError(f"{classifier.spec.name} was trained with masking '{trained}'.")

        def answer(
            changed: NDArray[np.bool_] | None, classifier: FindingClassifier = classifier
        ) -> NDArray[np.float32]:
            pixels = image if changed is None else np.where(changed, 1.0 - image, image)
            kept = kept_by(classifier, pixels.shape, lungs)
            findings, _ = classifier.classify(pixels.astype(np.float32), kept)
            return findings.logits

        usual = answer(None)
        if not np.array_equal(answer(unseen[mode]), usual):
            raise DataError(f"The classifier for '{mode}' sees what its masking takes away.")
        if np.array_equal(answer(seen[mode]), usual):
            raise DataError(f"The classifier for '{mode}' does not see what its masking keeps.")
    return f"proved: masks hold the lungs (mean Dice {overlap:.2f}), and each masking is its own"


def plan(
    preset: Preset,
    data: Path,
    out: Path,
    *,
    medsam: Path | None = None,
    imagenet: Path | None = None,
) -> list[Step]:
    """The chain's commands in order.

    Args:
        preset: Their settings.
        data: Folder with `lungs/`, `nih/` and perhaps `pretrain/`.
        out: Folder for all that is made.
        medsam: Weights that the first stage of the segmenter starts from, for presets that ask.
        imagenet: Weights that the classifiers start from, for presets that do not pretrain.

    Raises:
        DataError: If an index is missing or malformed.
    """
    lungs, nih, extra = data / "lungs", data / "nih", data / "pretrain"
    folder, mask_folder = out / "checkpoints", out / "masks"
    has_extra = preset.pretrain is not None and (extra / "index.csv").is_file()
    boxes = nih / BOXES_NAME
    finding_cases: list[FindingCase] = read_finding_index(nih)
    extra_cases = read_finding_index(extra) if has_extra else []
    marked = ("--allow-untrained",) if preset.makes_data else ()
    words = ("--licence", preset.licence, *preset.measure, *marked)

    steps: list[Step] = []
    init = medsam if preset.needs_weights else None
    for number, settings in enumerate(preset.segment, 1):
        target = out / f"segment-{number}"
        begin = ("--init", str(init)) if init else ()
        flags = ("--data", str(lungs), "--out", str(target), *begin, *settings)
        init = RunFolder(target).network
        steps.append(Step(target.name, "segment", flags, init))
    of_lungs = ("--trained-on", describe(read_lung_index(lungs)), "--data", str(lungs))
    steps.append(publication(target, folder, *of_lungs, *words))
    flags = ("--data", str(nih), "--checkpoints", str(folder), "--out", str(mask_folder))
    steps.append(Step("masks", "masks", flags, mask_folder / QUALITY_NAME))
    measured = ("--data", str(nih), "--masks", str(mask_folder))
    shared: tuple[str, ...] = (*measured, "--backbone", preset.backbone)
    if boxes.is_file():
        shared = (*shared, "--boxes", str(boxes))
    if has_extra:
        shared = (*shared, "--extra", str(extra))
    start = imagenet
    if preset.pretrain is not None:
        start = RunFolder(out / "pretrain").network
        learnt = ("--start", preset.start) if preset.start else ()
        flags = (*shared, *learnt, "--out", str(start.parent), *preset.pretrain)
        steps.append(Step("pretrain", "pretrain", flags, start))
    trained_on = describe(finding_cases)
    if extra_cases:
        trained_on += "; pretrained on " + describe(extra_cases)
    if preset.start:
        trained_on += f"; begun from {STARTS[preset.start].words}"
    for mode in MaskingMode:
        target = out / str(mode)
        begin = ("--init", str(start)) if start else ()
        flags = ("--masking", str(mode), *shared, *begin, "--out", str(target))
        output = RunFolder(target).network
        steps.append(Step(f"classify-{mode}", "classify", (*flags, *preset.classify), output))
        steps.append(publication(target, folder, "--trained-on", trained_on, *measured, *words))
    for task, given in (("lungs", ("--data", str(lungs))), ("findings", measured)):
        target = out / "evaluation" / task
        flags = ("--task", task, *given, "--checkpoints", str(folder), "--out", str(target))
        output = target / evaluate.METRICS_NAME
        steps.append(Step(f"evaluate-{task}", "evaluate", (*flags, *preset.measure), output))
    return steps
