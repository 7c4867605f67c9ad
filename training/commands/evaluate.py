"""Command `evaluate`: what checkpoints are worth on patients they have not seen.

Reads any folder in one of the two index layouts, runs a manifest's checkpoints through the app's
own classes and writes `metrics.json` and `report.html`. Every figure has its n and a 95 % bootstrap
interval over patients. `publish` and `calibrate` measure their cards with the same functions.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch

from cxrdemo.classifier import FindingClassifier
from cxrdemo.commands.numbers import number
from cxrdemo.devices import resolve
from cxrdemo.errors import CheckpointError
from cxrdemo.figure_names import WITHOUT_RSNA_NORMAL
from cxrdemo.files import read_radiograph
from cxrdemo.labels import FINDING_KEYS, NO_FINDING, display_name
from cxrdemo.pipeline import Pipeline
from cxrdemo.rendering import grey, heat_overlay
from cxrdemo.results import MaskingMode
from cxrdemo.saliency import explain
from cxrdemo.specs import CheckpointSpec, Estimate
from training.commands.calibrate import add_place_arguments, check_place_arguments, places_of
from training.commands.flags import add_device_argument
from training.engine.record import drawn_images
from training.errors import DataError
from training.images.stored_masks import read_quality, read_sides, reasons_of
from training.measures.figures import (
    classifier_figures,
    json_ready,
    lung_figures,
    paired_differences,
    probabilities,
    ranking_figures,
    scored_columns,
)
from training.measures.scoring import (
    Outputs,
    check_has_masks,
    kept_by,
    load_classifiers,
    lungs_of,
    measure_lungs,
    outside,
    run_classifier,
)
from training.measures.statistics import BINS, RESAMPLES, sigmoid
from training.reports import page as report
from training.sets.index import SPLITS, FindingCase, LungCase, read_finding_index, read_lung_index
from training.sets.pixels import read_mask
from training.sets.tables import read_table
from training.writing import replacing

WORST_CASES: Final = 10
POOR_DICE: Final = 0.8
"""Every image below is listed, however many there are."""

SHOWN_DOUBTS: Final = 24
METRICS_NAME: Final = "metrics.json"
REPORT_NAME: Final = "report.html"

Case = TypeVar("Case", FindingCase, LungCase)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv, images/")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), help="folder with manifest.json"
    )
    parser.add_argument("--masks", type=Path, help="lung masks of --data, written by `masks`")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which images")
    parser.add_argument("--out", type=Path, required=True, help="folder for metrics and report")
    parser.add_argument(
        "--task", choices=("lungs", "findings"), help="default: what the columns of the index say"
    )
    add_place_arguments(parser)
    parser.add_argument(
        "--resamples", type=number(int, 1), default=RESAMPLES, help="of the bootstrap"
    )
    add_device_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Measures, then writes `metrics.json` and `report.html`."""
    task = args.task or _task_of(args.data)
    measure = _evaluate_lungs if task == "lungs" else _evaluate_findings
    facts, figures, columns, sections = measure(args)
    facts = {
        "task": task,
        "data": args.data.resolve().name,
        "split": args.split,
        **facts,
        "bootstrap resamples": args.resamples,
        "device": str(resolve(args.device)),
        "threads": torch.get_num_threads(),
    }
    written = {"schema": 1, **facts, "figures": json_ready(figures)}
    # The metrics come last: a chain takes them for the sign that all is there.
    page = report.make_page(f"Evaluation: {task}", facts, figures, columns, sections)
    with replacing(args.out / REPORT_NAME) as draft:
        draft.write_text(page, encoding="utf-8")
    with replacing(args.out / METRICS_NAME) as draft:
        draft.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(f"{args.out / METRICS_NAME}\n{args.out / REPORT_NAME}")


Measured = tuple[
    dict[str, Any], dict[str, dict[str, Estimate]], tuple[str, ...], list[report.Section]
]
"""Facts, figures by group, columns of the tables, further sections of the page."""


def _evaluate_lungs(args: argparse.Namespace) -> Measured:
    pipeline = Pipeline.from_checkpoints(args.checkpoints, maskings=(), device=resolve(args.device))
    spec = pipeline.segmenter_spec
    if spec is None:
        raise CheckpointError(f"{args.checkpoints} lists no lung segmenter.")
    cases = _of_split(read_lung_index(args.data), args)
    results = measure_lungs(pipeline.find_lungs, cases)
    figures = {"lungs": lung_figures(results, resamples=args.resamples)}
    facts = {
        "images": len(cases),
        "patients": len({case.person for case in cases}),
        "images without any lung found": sum(result.dice == 0.0 for result in results),
        "checkpoints": _named({"lungs": spec}),
    }
    ranked = sorted(results, key=lambda result: result.dice)
    worst = ranked[: max(WORST_CASES, sum(result.dice < POOR_DICE for result in ranked))]
    facts[f"lowest Dice (all below {POOR_DICE}, at least {WORST_CASES})"] = {
        f"{result.case.dataset} {result.case.name}": round(result.dice, 3) for result in worst
    }
    pictures = []
    for result in worst:
        radiograph = read_radiograph(result.case.image)
        words = (
            f"{result.case.name} ({result.case.dataset}): Dice {result.dice:.3f}, "
            f"HD95 {result.hd95_px:.1f} px"
        )
        pictures.append(
            report.outlines(
                radiograph.pixels,
                read_mask(result.case.mask),
                pipeline.find_lungs(radiograph).inside,
                words,
            )
        )
    text = "Solid: reference. Dashed: automatic mask."
    sections = [report.Section(f"The {len(worst)} lowest Dice", text, tuple(pictures))]
    return facts, figures, tuple(dict.fromkeys(case.dataset for case in cases)), sections


def _evaluate_findings(args: argparse.Namespace) -> Measured:
    check_place_arguments(args)
    classifiers = load_classifiers(args.checkpoints, device=resolve(args.device))
    cases = _of_split(read_finding_index(args.data), args)
    for mode in classifiers:
        check_has_masks(mode, args.masks)
    # First, so that a table of another version is told before the long part.
    doubts = None if args.masks is None else _doubts(args.masks, cases)
    outputs = {mode: run_classifier(c, cases, args.masks) for mode, c in classifiers.items()}
    masked = []
    if args.masks is not None:
        # An image without a mask would be given whole, lungs and all.
        masked = [c for c in cases if (read_sides(args.masks, c.name) > 0).any()]
    probes: dict[str, Outputs] = {}
    if masked and MaskingMode.NONE in classifiers:
        whole = classifiers[MaskingMode.NONE]
        for name, mode in (
            ("outside_lung_probe", MaskingMode.TIGHT),
            ("outside_loose_probe", MaskingMode.LOOSE),
        ):
            probes[name] = run_classifier(whole, masked, args.masks, region=outside(mode))
    rsna_normal = next(iter(outputs.values())).scores.rsna_normal
    subsets = [("", np.ones(len(cases), bool))]
    if rsna_normal.any() and not rsna_normal.all():
        subsets.append((f"_{WITHOUT_RSNA_NORMAL}", ~rsna_normal))
    figures: dict[str, dict[str, Estimate]] = {}
    specs = {mode: c.spec.by_finding for mode, c in classifiers.items()}
    for suffix, chosen in subsets:
        parts = {mode: output.subset(chosen) for mode, output in outputs.items()}
        for mode, part in parts.items():
            figures[f"{mode}{suffix}"] = classifier_figures(
                part, classifiers[mode].spec.by_finding, resamples=args.resamples
            )
        if len(parts) > 1:
            figures[f"differences{suffix}"] = paired_differences(
                parts, specs, resamples=args.resamples
            )
    for mode, classifier in classifiers.items():
        if places := places_of(classifier, cases, args):
            figures[f"places_{mode}"] = places
    for name, probe in probes.items():
        figures[name] = ranking_figures(probe, specs[MaskingMode.NONE], resamples=args.resamples)
    facts = {
        "images": len(cases),
        "patients": len({case.person for case in cases}),
        "images that radiologists read as normal (rsna_normal)": int(rsna_normal.sum()),
        "images with a lung mask": len(masked),
        "checkpoints": _named({str(mode): c.spec for mode, c in classifiers.items()}),
    }
    sections = [_training(classifiers)]
    sections += [_curves(mode, outputs[mode], c.spec) for mode, c in classifiers.items()]
    sections += [_examples(classifiers, outputs, cases, args.masks)]
    if args.masks is not None:
        facts["lung masks with a reason for doubt"] = (
            "no quality table" if doubts is None else f"{len(doubts)} of {len(cases)}"
        )
        if doubts:
            facts["reasons for doubt"] = doubts
            sections.append(_doubtful_masks(doubts, cases, args.masks))
    return facts, figures, (*FINDING_KEYS, NO_FINDING.key, "macro"), sections


def _training(classifiers: Mapping[MaskingMode, FindingClassifier]) -> report.Section:
    """How long each masking's training took, as far as it was recorded."""
    rows = []
    for mode, classifier in classifiers.items():
        origin = classifier.spec.origin
        images, seconds = drawn_images(origin.settings), origin.seconds
        rows.append(
            [
                str(mode),
                f"{seconds / 60:.1f}" if seconds else "not recorded",
                str(images) if images else "not recorded",
                f"{images / seconds:.1f}" if images and seconds else "not recorded",
                origin.hardware or "not recorded",
            ]
        )
    head = ("masking", "minutes", "images drawn", "images per second", "hardware")
    text = "Wall clock of the last training run, start and validation counted."
    return report.Section("Training", text, (), report.Table("Training", head, rows))


def _examples(
    classifiers: Mapping[MaskingMode, FindingClassifier],
    outputs: Mapping[MaskingMode, Outputs],
    cases: Sequence[FindingCase],
    masks: Path | None,
) -> report.Section:
    """For each finding its best and its worst scored positive image, with every masking's heat."""
    first = next(iter(outputs.values()))
    pictures = []
    for k in scored_columns(first):
        positive = np.flatnonzero(first.scores.labels[:, k] & first.known[:, k])
        logits = np.mean([output.scores.logits[positive, k] for output in outputs.values()], axis=0)
        chosen = dict.fromkeys((int(positive[logits.argmax()]), int(positive[logits.argmin()])))
        for row, word in zip(chosen, ("highest", "lowest"), strict=False):
            words = f"{display_name(FINDING_KEYS[k])}, {word} scored positive: {cases[row].name}"
            pictures.append(_example(classifiers, cases[row], masks, k, words))
    text = (
        "Positive by the label. Left the image with its lungs, then the heat of the finding for "
        "each masking on one scale, and the calibrated probability."
    )
    return report.Section("Examples", text, tuple(pictures), wide=True)


def _example(
    classifiers: Mapping[MaskingMode, FindingClassifier],
    case: FindingCase,
    masks: Path | None,
    column: int,
    caption: str,
) -> report.Picture:
    radiograph = read_radiograph(case.image)
    lungs = None if masks is None else lungs_of(case, masks, radiograph.pixels.shape)
    found, titles = [], []
    for mode, classifier in classifiers.items():
        kept = kept_by(classifier, radiograph.hw, lungs)
        findings, evidence = classifier.classify(radiograph.pixels, kept)
        found.append((explain(classifier, evidence)[column], kept))
        titles.append(f"{mode}: {findings.probabilities[column]:.2f}")
    peak = max(heat.peak for heat, _ in found)
    shown = [heat_overlay(radiograph, heat, kept=kept, peak=peak) for heat, kept in found]
    return report.panel(grey(radiograph), lungs, list(zip(titles, shown, strict=True)), caption)


def _doubts(masks: Path, cases: Sequence[FindingCase]) -> dict[str, list[str]] | None:
    """What the record of `masks` holds against each mask; None if there is no record."""
    rows = read_quality(masks)
    if not rows:
        return None
    reasons = {name: reasons_of(row) for name, row in rows.items()}
    return {case.name: reasons[case.name] for case in cases if reasons.get(case.name)}


def _doubtful_masks(
    doubts: Mapping[str, Sequence[str]], cases: Sequence[FindingCase], masks: Path
) -> report.Section:
    chosen = [case for case in cases if case.name in doubts]
    # Evenly over the set, and not its first ones.
    step = max(1, math.ceil(len(chosen) / SHOWN_DOUBTS))
    pictures = []
    for case in chosen[::step]:
        pixels = read_radiograph(case.image).pixels
        lungs = read_sides(masks, case.name) > 0
        words = f"{case.name}: {' '.join(doubts[case.name])}"
        pictures.append(report.outlines(pixels, lungs, np.zeros_like(lungs), words))
    text = f"{len(doubts)} of {len(cases)} images; {len(pictures)} of them are shown."
    return report.Section("Lung masks with a reason for doubt", text, tuple(pictures))


def _curves(mode: MaskingMode, outputs: Outputs, spec: CheckpointSpec) -> report.Section:
    raw, calibrated = sigmoid(outputs.scores.logits), probabilities(outputs.scores, spec.by_finding)
    curves = []
    for k in scored_columns(outputs):
        seen = outputs.known[:, k]
        truth = outputs.scores.labels[seen, k]
        curves.append(report.LabelCurve(FINDING_KEYS[k], truth, raw[seen, k], calibrated[seen, k]))
    text = (
        "All images. Reliability: share of positives against mean probability in "
        f"{BINS} bins of equal width; dotted before calibration, solid after."
    )
    caption = f"{mode}: ROC, precision-recall and reliability"
    pictures = (report.curves(curves, bins=BINS, caption=caption),) if curves else ()
    return report.Section(f"Curves, masking {mode}", text, pictures)


def _task_of(folder: Path) -> str:
    """What the index is of: an index of findings names its images `image`.

    Raises:
        DataError: If there is no index.
    """
    rows = read_table(folder / "index.csv", ())
    return "findings" if rows and "image" in rows[0] else "lungs"


def _of_split(cases: Sequence[Case], args: argparse.Namespace) -> list[Case]:
    chosen = [case for case in cases if case.split == args.split]
    if not chosen:
        raise DataError(f"{args.data / 'index.csv'} lists no image of the split {args.split!r}.")
    return chosen


def _named(specs: Mapping[str, CheckpointSpec]) -> dict[str, dict[str, str]]:
    return {
        role: {"name": spec.name, "sha256": spec.sha256, "trained_on": spec.trained_on}
        for role, spec in specs.items()
    }
