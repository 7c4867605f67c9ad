"""Command `publish`: a run folder becomes a checkpoint with spec, card and manifest entry.

Weights are rounded to half precision first and measured as published. Calibration and thresholds
come from the validation patients, every figure in the card from the test patients.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from cxrdemo.checkpoints import (
    CheckpointSpec,
    CheckpointStore,
    Estimate,
    LabelSpec,
    OperatingPoint,
    file_sha256,
    load_strictly,
    read_weights,
)
from cxrdemo.classifier import FindingClassifier, build_network, keep_outputs, output_layer
from cxrdemo.inputs import InputSpec
from cxrdemo.labels import FINDING_KEYS, display_name
from cxrdemo.masking import DEFAULT_MARGIN
from cxrdemo.results import MaskingMode
from cxrdemo.segmenter import ARCHITECTURES as SEGMENTERS
from cxrdemo.segmenter import LungSegmenter
from training.data import DataError, read_finding_index, read_lung_index
from training.evaluate import (
    Scores,
    dice_scores,
    finding_metrics,
    patient_bootstrap,
    probabilities,
    rates_at,
    score_images,
)
from training.findings import MARGIN_RANGE, OUTPUTS
from training.segment import input_spec

THRESHOLD_RULE = "largest sensitivity + specificity on the validation patients"
HIGH_RATE = 0.9
SLOPE_PRIOR = 0.5
WORST_CASES = 5
UNTRAINED = "SMOKE TEST: not trained"
OWN_CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
PATH_SETTINGS = ("data", "extra", "masks", "out", "init")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--data", type=Path, required=True, help="folder to measure on")
    parser.add_argument("--masks", type=Path, help="lung masks of --data, for loose and tight")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--trained-on", required=True, help="data sets and counts, for the card")
    parser.add_argument("--licence", required=True, help="of the weights, for the card")
    parser.add_argument("--resamples", type=int, help="of the bootstrap; default: 1000")
    parser.add_argument(
        "--allow-untrained",
        action="store_true",
        help="SMOKE TESTS ONLY: publish weights that find nothing, uncalibrated and marked so, "
        "into a folder that holds no other kind",
    )


def run(args: argparse.Namespace) -> None:
    """Publishes one run and prints its figures."""
    settings_path = args.run / "settings.json"
    weights_path = args.run / "network.safetensors"
    if not settings_path.is_file() or not weights_path.is_file():
        raise DataError(f"{args.run} is no finished run: settings.json or the weights are missing.")
    settings = json.loads(settings_path.read_text(encoding="utf-8"))
    args.checkpoints.mkdir(parents=True, exist_ok=True)
    if args.allow_untrained:
        _refuse_to_mix(args.checkpoints)
    publish = _publish_classifier if "masking" in settings else _publish_segmenter
    spec, notes = publish(args, settings, read_weights(weights_path))
    # Moved only now: what was refused above leaves nothing behind.
    shutil.move(args.run / spec.file, args.checkpoints / spec.file)
    store = CheckpointStore.open(args.checkpoints)
    others = tuple(s for s in store.specs if s.name.split(".")[0] != spec.name.split(".")[0])
    replace(store, specs=tuple(sorted((*others, spec), key=lambda s: s.name))).save()
    card = args.checkpoints / f"{spec.name}.md"
    card.write_text(make_card(spec, settings, notes), encoding="utf-8")
    print(card.read_text(encoding="utf-8"))


def _refuse_to_mix(folder: Path) -> None:
    """Keeps smoke-test weights out of every folder that somebody may take for real.

    Raises:
        DataError: If it is the project's own, or lists weights of another kind.
    """
    others = [s for s in CheckpointStore.open(folder).specs if UNTRAINED not in s.trained_on]
    if folder.resolve() == OWN_CHECKPOINTS or others:
        raise DataError(f"Untrained weights are not published into {folder}. Name another folder.")


def calibrate(scores: Scores) -> tuple[LabelSpec, ...]:
    """Platt scaling and an operating point per finding, from validation patients.

    A finding with a dozen positives says little about its own slope. Each slope is therefore drawn
    towards the one that suits all findings together, by a Gaussian prior of `SLOPE_PRIOR` times
    that slope. A finding ranked so much worse than chance that its slope turns negative against
    the prior is refused.

    Raises:
        DataError: Naming such a finding.
    """
    columns = [(scores.logits[:, c], scores.labels[:, c]) for c in range(len(FINDING_KEYS))]
    shared = _shared_slope(columns)
    specs = []
    for key, (logit, truth) in zip(FINDING_KEYS, columns, strict=True):
        scale, offset = _platt(logit, truth, prior=shared)
        if scale <= 0 or shared <= 0:
            raise DataError(f"{key} is ranked worse than chance on validation: not published.")
        probability = 1.0 / (1.0 + np.exp(-(scale * logit + offset)))
        false_rate, true_rate, thresholds = roc_curve(truth, probability, drop_intermediate=False)
        # The first point of the curve calls nothing positive and has an infinite threshold.
        best = 1 + int(np.argmax((true_rate - false_rate)[1:]))
        sensitive = int(np.argmax(true_rate >= HIGH_RATE))
        specific = max(1, int(np.flatnonzero(1 - false_rate >= HIGH_RATE)[-1]))
        others = tuple(
            OperatingPoint(f"high {rate}", float(thresholds[at]), _high_rule(rate, bound))
            for rate, bound, at in (
                ("sensitivity", "highest", sensitive),
                ("specificity", "lowest", specific),
            )
        )
        threshold = float(thresholds[best])
        specs.append(LabelSpec(key, scale, offset, threshold, THRESHOLD_RULE, others=others))
    return tuple(specs)


def _high_rule(rate: str, bound: str) -> str:
    return f"the {bound} threshold with a {rate} of {HIGH_RATE:.0%} on the validation patients"


def _shared_slope(columns: Sequence[tuple[NDArray[np.float64], NDArray[np.bool_]]]) -> float:
    """One slope for all findings, each with its own offset."""
    each = np.eye(len(columns))
    design = np.concatenate(
        [
            np.column_stack([logit, np.repeat(each[i : i + 1], len(logit), axis=0)])
            for i, (logit, _) in enumerate(columns)
        ]
    )
    truth = np.concatenate([truth for _, truth in columns])
    fit = LogisticRegression(C=100.0, fit_intercept=False, max_iter=1000).fit(design, truth)
    return float(fit.coef_[0, 0])


def _platt(
    logit: NDArray[np.float64], truth: NDArray[np.bool_], *, prior: float
) -> tuple[float, float]:
    """Slope and offset of largest posterior."""

    def loss(values: NDArray[np.float64]) -> float:
        score = values[0] * logit + values[1]
        likelihood = (np.logaddexp(0.0, score) - truth * score).sum()
        return float(likelihood + 0.5 * ((values[0] - prior) / (SLOPE_PRIOR * prior)) ** 2)

    start = np.array([prior, 0.0])
    scale, offset = minimize(loss, start, method="Nelder-Mead").x
    return float(scale), float(offset)


def make_card(spec: CheckpointSpec, settings: Mapping[str, Any], notes: Sequence[str]) -> str:
    """The checkpoint's card in Markdown; every figure comes from the spec."""
    about = (
        "Demo weights: trained from scratch on small public samples, to show the software, not to "
        "read X-rays."
    )
    if UNTRAINED in spec.trained_on:
        about = f"**{UNTRAINED}.** These weights find nothing; every figure below is noise."
    lines = [
        f"# {spec.name}",
        "",
        f"Research use only. Not a medical device. {about}",
        "",
        f"- Architecture: {spec.architecture}, input {spec.inputs.hw[0]} x {spec.inputs.hw[1]} px",
        f"- Trained on: {spec.trained_on}",
        f"- Licence: {spec.licence}",
        f"- sha256: `{spec.sha256}`",
    ]
    if spec.masking is not None:
        lines.append(f"- Masking: {spec.masking}")
    if spec.margin_range is not None:
        low, high = spec.margin_range
        lines.append(
            f"- Loose margin: {spec.margin:.0%} of the lungs' height; trained from "
            f"{low:.0%} to {high:.0%}"
        )
    lines += ["", "## Figures on test patients", ""]
    lines += ["| figure | value | 95 % interval | n |", "|---|---|---|---|"]
    lines += [f"| {name} | {_cells(estimate)} |" for name, estimate in spec.metrics.items()]
    if spec.labels:
        lines += ["", "## Operating points", ""]
        lines += [f"- {point.name}: {point.rule}" for point in spec.labels[0].points]
        lines += ["", "| finding | point | threshold | sensitivity | specificity |"]
        lines += ["|---|---|---|---|---|"]
        lines += [
            f"| {display_name(label.key)} | {point.name} | {point.threshold:.3f} | "
            f"{_words(point.sensitivity)} | {_words(point.specificity)} |"
            for label in spec.labels
            for point in label.points
        ]
    lines += ["", *(f"- {note}" for note in notes)]
    # Folders by name alone: where they lay on one machine means nothing elsewhere.
    shown = {k: _name(v) if k in PATH_SETTINGS else v for k, v in settings.items()}
    lines += ["", "## Settings", "", "```json", json.dumps(shown, indent=1), "```", ""]
    return "\n".join(lines)


def _publish_segmenter(
    args: argparse.Namespace, settings: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> tuple[CheckpointSpec, list[str]]:
    architecture = settings["architecture"]
    name = f"lungs-{architecture.removeprefix('sam-')}.v{args.version}"
    spec = _write(args, name, "lungs", architecture, state, input_spec(architecture, 512))
    network = SEGMENTERS[architecture]()
    load_strictly(network, read_weights(args.run / spec.file), name)
    segmenter = LungSegmenter(spec, network)
    cases = [case for case in read_lung_index(args.data) if case.split == "test"]
    dice = dice_scores(segmenter, cases)
    metrics = {}
    for dataset in dict.fromkeys(case.dataset for case in cases):
        rows = np.array([i for i, case in enumerate(cases) if case.dataset == dataset])
        values = dice[rows]
        patients = [cases[i].patient_id for i in rows]
        metrics[f"dice_{dataset}"] = patient_bootstrap(
            patients, partial(_mean_of, values), n=len(rows)
        )
    worst = [
        f"Among the worst: {cases[i].name}, Dice {dice[i]:.3f}"
        for i in np.argsort(dice)[:WORST_CASES]
    ]
    return replace(spec, metrics=metrics), worst


def _publish_classifier(
    args: argparse.Namespace, settings: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> tuple[CheckpointSpec, list[str]]:
    mode, size = MaskingMode(settings["masking"]), settings["size"]
    backbone = settings.get("backbone", "resnet50")
    name = f"findings-{backbone.rpartition('/')[2]}-{size}-{mode}.v{args.version}"
    network = build_network(backbone, len(FINDING_KEYS))
    rows = [OUTPUTS.index(key) for key in FINDING_KEYS]
    kept = keep_outputs(state, rows, layer=output_layer(network))
    spec = _write(args, name, "findings", backbone, kept, InputSpec(hw=(size, size)))
    # The class wants labels; the real ones follow from its own output below.
    blank = tuple(LabelSpec(key, 1.0, 0.0, 0.5, UNTRAINED) for key in FINDING_KEYS)
    spec = replace(spec, masking=mode, labels=blank)
    if mode is MaskingMode.LOOSE:
        spec = replace(spec, margin=DEFAULT_MARGIN, margin_range=MARGIN_RANGE)
    load_strictly(network, read_weights(args.run / spec.file), name)
    classifier = FindingClassifier(spec, network)
    cases = read_finding_index(args.data)
    val, test = (
        score_images(classifier, [c for c in cases if c.split == split], args.masks)
        for split in ("val", "test")
    )
    labels = blank if args.allow_untrained else calibrate(val)
    calibrated = probabilities(test, labels)
    metrics = finding_metrics(test, calibrated, resamples=args.resamples)
    clean = ~test.rsna_normal
    metrics |= {
        f"{key}_without_rsna_normal": estimate
        for key, estimate in finding_metrics(
            test.subset(clean), calibrated[clean], resamples=args.resamples
        ).items()
    }
    rates = partial(rates_at, test, calibrated, resamples=args.resamples)
    measured = []
    for column, label in enumerate(labels):
        sensitivity, specificity = rates(column, label.threshold)
        others = []
        for point in label.others:
            found = rates(column, point.threshold)
            others.append(replace(point, sensitivity=found[0], specificity=found[1]))
        measured.append(
            replace(label, sensitivity=sensitivity, specificity=specificity, others=tuple(others))
        )
    calibration = (
        f"Calibrated on {len(val.patients)} validation images, whose findings are far commoner "
        "than in practice: probabilities carry that prevalence."
    )
    notes = [
        "Not calibrated." if args.allow_untrained else calibration,
        "Labels were mined from reports (ChestX-ray14); radiologists disagree with a part of them.",
        "`rsna_normal` images were read as normal by the RSNA challenge's radiologists, whatever "
        "their label says.",
    ]
    return replace(spec, labels=tuple(measured), metrics=metrics), notes


def _write(
    args: argparse.Namespace,
    name: str,
    task: Any,
    architecture: str,
    state: Mapping[str, torch.Tensor],
    inputs: InputSpec,
) -> CheckpointSpec:
    """Writes the weights in half precision into the run folder and begins their spec."""
    file = f"{name}.safetensors"
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file(half, args.run / file)
    return CheckpointSpec(
        name=name,
        task=task,
        architecture=architecture,
        file=file,
        sha256=file_sha256(args.run / file),
        inputs=inputs,
        trained_on=f"{UNTRAINED}; {args.trained_on}" if args.allow_untrained else args.trained_on,
        licence=args.licence,
    )


def _name(value: Any) -> Any:
    """A path, or each path of a list, by its name alone."""
    if isinstance(value, list):
        return [_name(item) for item in value]
    return Path(value).name if value else value


def _mean_of(values: NDArray[np.float64], drawn: NDArray[np.intp]) -> float:
    return float(values[drawn].mean())


def _cells(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} | {estimate.low:.3f} to {estimate.high:.3f} | {estimate.n}"


def _words(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not measured"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f}, n={estimate.n})"
