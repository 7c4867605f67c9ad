"""Command `evaluate`: what checkpoints are worth on patients they have not seen.

Reads any folder in one of the two index layouts, runs a manifest's checkpoints through the app's
own classes and writes `metrics.json` and `report.html`. Every figure has its n and a 95 % bootstrap
interval over patients. `publish` and `calibrate` measure their cards with the same functions.
"""

import argparse
import ast
import csv
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import binary_calibration_error
from tqdm import tqdm

from cxrdemo.checkpoints import (
    CheckpointSpec,
    CheckpointStore,
    Estimate,
    LabelSpec,
    load_strictly,
)
from cxrdemo.classifier import FindingClassifier, build_network
from cxrdemo.errors import CheckpointError
from cxrdemo.files import read_radiograph
from cxrdemo.labels import FINDING_KEYS, NO_FINDING, display_name
from cxrdemo.masking import DEFAULT_MARGIN, apply_mask, kept_region
from cxrdemo.pipeline import Pipeline, cam_in_lung
from cxrdemo.radiograph import Radiograph
from cxrdemo.rendering import grey, heat_overlay
from cxrdemo.results import LungMask, MaskingMode
from cxrdemo.saliency import explain
from training import report
from training.cards import WITHOUT_RSNA_NORMAL
from training.data import (
    SPLITS,
    DataError,
    FindingCase,
    LungCase,
    read_finding_index,
    read_lung_index,
    read_mask,
)
from training.masks import read_quality, read_sides
from training.record import drawn_images

RESAMPLES: Final = 1000
SEED: Final = 0
BINS: Final = 10
"""Of equal width, for the expected calibration error and the reliability curve."""

WORST_CASES: Final = 10
POOR_DICE: Final = 0.8
"""Every image below is listed, however many there are."""

SHOWN_DOUBTS: Final = 24
METRICS_NAME: Final = "metrics.json"
REPORT_NAME: Final = "report.html"

ALONE: Final = ("auroc", "ap", "sensitivity", "specificity", "ece_raw", "ece", "brier_raw", "brier")
"""Measures of one finding. The last four take the probability before and after calibration."""

Case = TypeVar("Case", FindingCase, LungCase)
Region = Callable[[NDArray[np.bool_]], NDArray[np.bool_]]
"""From a lung mask (H, W) to the pixels (H, W) that a classifier is given."""


@dataclass(frozen=True, eq=False)
class Scores:
    """A classifier's raw output on a set of images.

    Attributes:
        logits: float64 (N, K), K findings.
        labels: bool (N, K).
        no_finding: bool (N,), the source calls the image normal.
        patients: N patient ids.
        rsna_normal: bool (N,), read as normal by the RSNA's radiologists.
    """

    logits: NDArray[np.float64]
    labels: NDArray[np.bool_]
    no_finding: NDArray[np.bool_]
    patients: tuple[str, ...]
    rsna_normal: NDArray[np.bool_]

    def subset(self, chosen: NDArray[np.bool_]) -> "Scores":
        """The images for which `chosen` (N,) is set."""
        patients = tuple(p for p, is_in in zip(self.patients, chosen, strict=True) if is_in)
        return Scores(
            self.logits[chosen],
            self.labels[chosen],
            self.no_finding[chosen],
            patients,
            self.rsna_normal[chosen],
        )


@dataclass(frozen=True, eq=False)
class Outputs:
    """All that is measured of one classifier on a set of images.

    Attributes:
        scores: Raw output and labels.
        known: bool (N, K + 1), the source says whether the finding is there; No Finding last.
        cam_in_lung: float64 (N, K), share of each map's heat inside the lungs; NaN where there is
            no heat or no mask.
        lung_area: float64 (N,), share of the image that is lung: what heat spread evenly would
            give. NaN without a mask.
        seconds: float64 (N,), for scoring one image that is read and masked.
    """

    scores: Scores
    known: NDArray[np.bool_]
    cam_in_lung: NDArray[np.float64]
    lung_area: NDArray[np.float64]
    seconds: NDArray[np.float64]

    def subset(self, chosen: NDArray[np.bool_]) -> "Outputs":
        """The images for which `chosen` (N,) is set."""
        return Outputs(
            self.scores.subset(chosen),
            self.known[chosen],
            self.cam_in_lung[chosen],
            self.lung_area[chosen],
            self.seconds[chosen],
        )


@dataclass(frozen=True, eq=False)
class LungResult:
    """One automatic mask against the reference.

    Attributes:
        case: Of which image.
        dice: 0..1.
        iou: 0..1.
        hd95_px: 95th percentile Hausdorff distance in pixels of the file; NaN if nothing was found.
        hd95_mm: The same in mm; NaN also where the file states no pixel spacing.
        seconds: For finding the lungs in an image that is read.
    """

    case: LungCase
    dice: float
    iou: float
    hd95_px: float
    hd95_mm: float
    seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv, images/")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--masks", type=Path, help="lung masks of --data, written by `masks`")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--out", type=Path, required=True, help="folder for metrics and report")
    parser.add_argument(
        "--task", choices=("lungs", "findings"), help="default: what the columns of the index say"
    )
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap")


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
        "threads": torch.get_num_threads(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    written = {"schema": 1, **facts, "figures": json_ready(figures)}
    (args.out / METRICS_NAME).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    page = report.make_page(f"Evaluation: {task}", facts, figures, columns, sections)
    (args.out / REPORT_NAME).write_text(page, encoding="utf-8")
    print(f"{args.out / METRICS_NAME}\n{args.out / REPORT_NAME}")


def run_classifier(
    classifier: FindingClassifier,
    cases: Sequence[FindingCase],
    masks: Path | None,
    *,
    region: Region | None = None,
) -> Outputs:
    """Runs the app's classifier over images and keeps what is to be measured.

    Args:
        classifier: Of any masking.
        cases: The images.
        masks: Folder written by `masks`, or None for a classifier of whole images.
        region: What the classifier is given, from the lungs; None for what it was trained on. An
            image in which no lungs were found is given whole.

    Raises:
        DataError: If a mask is needed and not there, or does not fit its image, or the
            checkpoint's findings are not the app's.
    """
    if classifier.labels != FINDING_KEYS:
        raise DataError(f"{classifier.spec.name} has other findings than {FINDING_KEYS}.")
    if masks is None and (classifier.mode is not MaskingMode.NONE or region is not None):
        raise DataError(
            f"Masking '{classifier.mode}' needs lung masks here. Write them with "
            "`python -m training masks` and give the folder as --masks."
        )
    logits, shares, areas, seconds = [], [], [], []
    for case in tqdm(cases, unit="image", desc=str(classifier.mode)):
        pixels = read_radiograph(case.image).pixels
        lungs = None if masks is None else _lungs_of(case, masks, pixels.shape)
        pixels = _given(classifier, pixels, lungs, region=region)
        start = time.perf_counter()
        findings, evidence = classifier.classify(pixels)
        seconds.append(time.perf_counter() - start)
        logits.append(findings.logits)
        on_canvas = None if lungs is None else evidence.placement.mask(lungs)
        shares.append([cam_in_lung(heat, on_canvas) for heat in explain(classifier, evidence)])
        areas.append(float("nan") if lungs is None else float(lungs.mean()))
    scores = Scores(
        logits=np.array(logits, np.float64),
        labels=np.array([[case.labels[key] == 1 for key in FINDING_KEYS] for case in cases]),
        no_finding=np.array([case.no_finding == 1 for case in cases]),
        # Two sets may number their patients alike.
        patients=tuple(f"{case.dataset} {case.patient_id}" for case in cases),
        rsna_normal=np.array([case.rsna_normal for case in cases]),
    )
    return Outputs(
        scores=scores,
        known=np.array([_known(case) for case in cases]),
        cam_in_lung=np.array(shares, np.float64),
        lung_area=np.array(areas, np.float64),
        seconds=np.array(seconds, np.float64),
    )


def bootstrap(
    patients: Sequence[str],
    statistics: Callable[[NDArray[np.intp]], Mapping[str, float]],
    counts: Mapping[str, int],
    *,
    resamples: int | None = None,
) -> dict[str, Estimate]:
    """Statistics with 95 % percentile intervals, resampling patients with all their images.

    Args:
        patients: Patient of each image.
        statistics: Takes image indices, which may repeat, and gives numbers by name; NaN where one
            is not defined, such as an AUROC without positives. Such resamples are left out of that
            figure's interval.
        counts: The n to report, by name.
        resamples: How many; None for `RESAMPLES`.
    """
    groups = [np.flatnonzero(np.array(patients) == p) for p in dict.fromkeys(patients)]
    rng = np.random.default_rng(SEED)
    measured = statistics(np.arange(len(patients)))
    drawn_values: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(RESAMPLES if resamples is None else resamples):
        drawn = rng.integers(len(groups), size=len(groups))
        for name, value in statistics(np.concatenate([groups[i] for i in drawn])).items():
            if not math.isnan(value):
                drawn_values[name].append(value)
    estimates = {}
    for name, value in measured.items():
        low, high = float("nan"), float("nan")
        if drawn_values[name] and not math.isnan(value):
            low, high = (float(v) for v in np.percentile(drawn_values[name], [2.5, 97.5]))
        estimates[name] = Estimate(float(value), low, high, counts[name])
    return estimates


def auroc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Area under the ROC curve; NaN without positives or negatives."""
    if labels.all() or not labels.any():
        return float("nan")
    # The rank sum, ties sharing their mean rank: scikit-learn's value in a tenth of its time, which
    # counts in thousands of resamples.
    positives = int(labels.sum())
    above = rankdata(scores)[labels].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (labels.size - positives)))


def probabilities(scores: Scores, labels: Sequence[LabelSpec]) -> NDArray[np.float64]:
    """Calibrated probabilities, (N, K)."""
    scale = np.array([label.scale for label in labels])
    offset = np.array([label.offset for label in labels])
    return _sigmoid(scale * scores.logits + offset)


def classifier_figures(
    outputs: Outputs, labels: Sequence[LabelSpec], *, resamples: int | None = None
) -> dict[str, Estimate]:
    """Every figure of one classifier, named `measure_Finding` and `measure_macro`.

    Per finding, over the images whose label is known: `ALONE`, and `cam_in_lung`. A macro mean is
    over the findings that have both positives and negatives. `auroc_No_Finding` scores an image by
    1 - its highest probability, `auroc_product_No_Finding` by the product of the complements.
    Rates at another operating point than the default one are named by it, such as
    `sensitivity at high specificity_Mass`.
    """
    scores, known = outputs.scores, outputs.known
    raw, calibrated = _sigmoid(scores.logits), probabilities(scores, labels)
    scored = _scored_columns(outputs)
    # The default operating point has no words of its own in a figure's name.
    thresholds = [
        {f" at {p.name}" if i else "": p.threshold for i, p in enumerate(label.points)}
        for label in labels
    ]

    def statistics(rows: NDArray[np.intp]) -> dict[str, float]:
        values: dict[str, float] = {}
        for k, key in enumerate(FINDING_KEYS):
            seen = rows[known[rows, k]]
            truth = scores.labels[seen, k]
            of_label = {
                "ap": _average_precision(truth, scores.logits[seen, k]),
                "ece_raw": calibration_error(truth, raw[seen, k]),
                "ece": calibration_error(truth, calibrated[seen, k]),
                "brier_raw": _brier(truth, raw[seen, k]),
                "brier": _brier(truth, calibrated[seen, k]),
                "cam_in_lung": _known_mean(outputs.cam_in_lung[rows, k]),
            }
            for measure, threshold in thresholds[k].items():
                rates = _rates(truth, calibrated[seen, k] >= threshold)
                of_label |= {f"{rate}{measure}": value for rate, value in rates.items()}
            values |= {f"{measure}_{key}": value for measure, value in of_label.items()}
        values |= {f"auroc_{k}": v for k, v in _aurocs(outputs, calibrated, rows).items()}
        for measure in (*ALONE, "cam_in_lung"):
            each = [values[f"{measure}_{FINDING_KEYS[k]}"] for k in scored]
            values[f"{measure}_macro"] = float(np.mean(each)) if each else float("nan")
        values["lung_area"] = _known_mean(outputs.lung_area[rows])
        values["images_per_second"] = float(1.0 / outputs.seconds[rows].mean())
        return values

    normals = int((scores.no_finding & known[:, -1]).sum())
    images = len(scores.patients)
    counts = {f"{measure}_macro": images for measure in (*ALONE, "cam_in_lung")} | {
        "auroc_No_Finding": normals,
        "auroc_product_No_Finding": normals,
        "lung_area": int((~np.isnan(outputs.lung_area)).sum()),
        "images_per_second": images,
    }
    for k, key in enumerate(FINDING_KEYS):
        seen = int(known[:, k].sum())
        positives = int((scores.labels[:, k] & known[:, k]).sum())
        counts |= {f"{measure}_{key}": seen for measure in ALONE}
        counts |= {f"{measure}_{key}": positives for measure in ("auroc", "ap")}
        for at in thresholds[k]:
            counts |= {f"sensitivity{at}_{key}": positives}
            counts |= {f"specificity{at}_{key}": seen - positives}
        counts[f"cam_in_lung_{key}"] = int((~np.isnan(outputs.cam_in_lung[:, k])).sum())
    return bootstrap(scores.patients, statistics, counts, resamples=resamples)


def ranking_figures(
    outputs: Outputs, labels: Sequence[LabelSpec], *, resamples: int | None = None
) -> dict[str, Estimate]:
    """AUROC per finding (n: positives), their mean (n: images), and No Finding's (n: normals).

    The same figures as those of `classifier_figures` that begin with `auroc`.
    """
    calibrated = probabilities(outputs.scores, labels)
    counts = {f"auroc_{name}": n for name, n in _auroc_counts(outputs).items()}
    return bootstrap(
        outputs.scores.patients,
        lambda rows: {f"auroc_{k}": v for k, v in _aurocs(outputs, calibrated, rows).items()},
        counts,
        resamples=resamples,
    )


def paired_differences(
    outputs: Mapping[MaskingMode, Outputs],
    labels: Mapping[MaskingMode, Sequence[LabelSpec]],
    *,
    resamples: int | None = None,
) -> dict[str, Estimate]:
    """AUROCs of each masking less those of each earlier one, on the same resamples.

    Per finding (n: positives), their mean (n: images) and No Finding (n: normals), named such as
    `auroc_tight_less_none_macro`.

    Args:
        outputs: On the same images in the same order.
        labels: Of each masking's checkpoint.
        resamples: See `bootstrap`.
    """
    pairs = [(b, a) for a, b in itertools.combinations(outputs, 2)]
    calibrated = {mode: probabilities(one.scores, labels[mode]) for mode, one in outputs.items()}
    first = next(iter(outputs.values()))

    def statistics(rows: NDArray[np.intp]) -> dict[str, float]:
        each = {mode: _aurocs(one, calibrated[mode], rows) for mode, one in outputs.items()}
        return {
            f"auroc_{a}_less_{b}_{name}": each[a][name] - each[b][name]
            for a, b in pairs
            for name in each[a]
        }

    counts = {
        f"auroc_{a}_less_{b}_{name}": n
        for a, b in pairs
        for name, n in _auroc_counts(first).items()
    }
    return bootstrap(first.scores.patients, statistics, counts, resamples=resamples)


def calibration_error(truth: NDArray[np.bool_], probability: NDArray[np.float64]) -> float:
    """Expected calibration error (L1) over `BINS` bins of equal width; NaN without images."""
    if truth.size == 0:
        return float("nan")
    return float(
        binary_calibration_error(
            torch.from_numpy(probability),
            torch.from_numpy(truth.astype(np.int64)),
            n_bins=BINS,
            validate_args=False,
        )
    )


def hd95(
    one: NDArray[np.bool_], other: NDArray[np.bool_], spacing: tuple[float, float] = (1.0, 1.0)
) -> float:
    """Symmetric 95th percentile Hausdorff distance between two masks' edges.

    The larger of the two directed 95th percentiles, as in MONAI; an edge pixel is one of the mask
    with a neighbour outside it in its row or column.

    Args:
        one: bool (H, W).
        other: bool (H, W).
        spacing: Row and column distance of pixel centres; its unit is the result's.

    Returns:
        The distance, NaN if a mask is empty.
    """
    if not one.any() or not other.any():
        return float("nan")
    edges = [mask & ~binary_erosion(mask) for mask in (one, other)]
    directed = [
        np.percentile(distance_transform_edt(~edges[1 - i], sampling=spacing)[edges[i]], 95)
        for i in range(2)
    ]
    return float(max(directed))


def measure_lungs(
    find_lungs: Callable[[Radiograph], LungMask], cases: Sequence[LungCase]
) -> list[LungResult]:
    """The automatic mask of every case against the reference, at the image's own size.

    Raises:
        DataError: If a reference does not fit its image.
    """
    results = []
    for case in tqdm(cases, unit="image", desc="lungs"):
        radiograph, truth = read_radiograph(case.image), read_mask(case.mask)
        if truth.shape != radiograph.hw:
            raise DataError(f"{case.mask} is {truth.shape}, its image {radiograph.hw} pixels.")
        start = time.perf_counter()
        predicted = find_lungs(radiograph).inside
        seconds = time.perf_counter() - start
        spacing = radiograph.spacing_mm
        shared = int((predicted & truth).sum())
        results.append(
            LungResult(
                case=case,
                dice=2 * shared / int(predicted.sum() + truth.sum()),
                iou=shared / int((predicted | truth).sum()),
                hd95_px=hd95(predicted, truth),
                hd95_mm=math.nan if spacing is None else hd95(predicted, truth, spacing),
                seconds=seconds,
            )
        )
    return results


def lung_figures(
    results: Sequence[LungResult], *, resamples: int | None = None
) -> dict[str, Estimate]:
    """Mean of each measure per data set, named `measure_set` (n: images it is defined for)."""
    figures: dict[str, Estimate] = {}
    for dataset in dict.fromkeys(result.case.dataset for result in results):
        chosen = [result for result in results if result.case.dataset == dataset]
        values = {
            f"{measure}_{dataset}": np.array([getattr(result, measure) for result in chosen])
            for measure in ("dice", "iou", "hd95_px", "hd95_mm")
        }
        seconds = np.array([result.seconds for result in chosen])

        def statistics(
            rows: NDArray[np.intp],
            values: Mapping[str, NDArray[np.float64]] = values,
            seconds: NDArray[np.float64] = seconds,
            speed: str = f"images_per_second_{dataset}",
        ) -> dict[str, float]:
            means = {name: _known_mean(value[rows]) for name, value in values.items()}
            return {**means, speed: float(1.0 / seconds[rows].mean())}

        counts = {name: int((~np.isnan(value)).sum()) for name, value in values.items()}
        counts[f"images_per_second_{dataset}"] = len(chosen)
        patients = [result.case.patient_id for result in chosen]
        figures |= bootstrap(patients, statistics, counts, resamples=resamples)
    return figures


def load_classifiers(folder: Path) -> dict[MaskingMode, FindingClassifier]:
    """The classifiers that a checkpoint folder's manifest lists, in the order of the maskings.

    Raises:
        CheckpointError: If there is none, or one is missing, altered or does not fit.
    """
    store = CheckpointStore.open(folder)
    loaded = {}
    for mode in MaskingMode:
        spec = store.findings(mode)
        if spec is None:
            continue
        network = build_network(spec.architecture, len(spec.labels))
        load_strictly(network, store.load(spec), spec.name)
        loaded[mode] = FindingClassifier(spec, network)
    if not loaded:
        raise CheckpointError(f"{folder} lists no classifier. Train one with `classify`.")
    return loaded


Measured = tuple[
    dict[str, Any], dict[str, dict[str, Estimate]], tuple[str, ...], list[report.Section]
]
"""Facts, figures by group, columns of the tables, further sections of the report."""


def _evaluate_lungs(args: argparse.Namespace) -> Measured:
    pipeline = Pipeline.from_checkpoints(args.checkpoints)
    spec = pipeline.segmenter_spec
    if spec is None:
        raise CheckpointError(f"{args.checkpoints} lists no lung segmenter.")
    cases = _of_split(read_lung_index(args.data), args)
    results = measure_lungs(pipeline.find_lungs, cases)
    figures = {"lungs": lung_figures(results, resamples=args.resamples)}
    facts = {
        "images": len(cases),
        "patients": len({(case.dataset, case.patient_id) for case in cases}),
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
    classifiers = load_classifiers(args.checkpoints)
    cases = _of_split(read_finding_index(args.data), args)
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
        subsets.append((WITHOUT_RSNA_NORMAL, ~rsna_normal))
    figures: dict[str, dict[str, Estimate]] = {}
    specs = {mode: c.spec.labels for mode, c in classifiers.items()}
    for suffix, chosen in subsets:
        parts = {mode: output.subset(chosen) for mode, output in outputs.items()}
        for mode, part in parts.items():
            figures[f"{mode}{suffix}"] = classifier_figures(
                part, classifiers[mode].spec.labels, resamples=args.resamples
            )
        if len(parts) > 1:
            figures[f"differences{suffix}"] = paired_differences(
                parts, specs, resamples=args.resamples
            )
    for name, probe in probes.items():
        figures[name] = ranking_figures(probe, specs[MaskingMode.NONE], resamples=args.resamples)
    facts = {
        "images": len(cases),
        "patients": len({(case.dataset, case.patient_id) for case in cases}),
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
    for k in _scored_columns(first):
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
    lungs = None if masks is None else _lungs_of(case, masks, radiograph.pixels.shape)
    heats, titles = [], []
    for mode, classifier in classifiers.items():
        findings, evidence = classifier.classify(_given(classifier, radiograph.pixels, lungs))
        heats.append(explain(classifier, evidence)[column])
        titles.append(f"{mode}: {findings.probabilities[column]:.2f}")
    peak = max(heat.peak for heat in heats)
    shown = [heat_overlay(radiograph, heat, peak=peak) for heat in heats]
    return report.panel(grey(radiograph), lungs, list(zip(titles, shown, strict=True)), caption)


def _doubts(masks: Path, cases: Sequence[FindingCase]) -> dict[str, list[str]] | None:
    """What the record of `masks` holds against each mask; None if there is no record."""
    rows = read_quality(masks)
    if not rows:
        return None
    # Written as the tuple of words that it is in `MaskQuality`.
    reasons = {name: list(ast.literal_eval(row["reasons"])) for name, row in rows.items()}
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


def _given(
    classifier: FindingClassifier,
    pixels: NDArray[np.float32],
    lungs: NDArray[np.bool_] | None,
    *,
    region: Region | None = None,
) -> NDArray[np.float32]:
    """What a classifier is given of an image; all of it where no lungs are known."""
    if lungs is None:
        return pixels
    kept = region or inside(classifier.mode, classifier.spec.margin or DEFAULT_MARGIN)
    return apply_mask(pixels, kept(lungs), fill=classifier.spec.inputs.fill)


def inside(mode: MaskingMode, margin: float) -> Region:
    """The region that a masking keeps."""

    def region(lungs: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return kept_region(lungs, mode=mode, margin=margin)

    return region


def outside(mode: MaskingMode) -> Region:
    """The region that a masking takes away, at the default margin."""

    def region(lungs: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return ~kept_region(lungs, mode=mode, margin=DEFAULT_MARGIN)

    return region


def _curves(mode: MaskingMode, outputs: Outputs, spec: CheckpointSpec) -> report.Section:
    raw, calibrated = _sigmoid(outputs.scores.logits), probabilities(outputs.scores, spec.labels)
    curves = []
    for k in _scored_columns(outputs):
        seen = outputs.known[:, k]
        truth = outputs.scores.labels[seen, k]
        curves.append(report.LabelCurve(FINDING_KEYS[k], truth, raw[seen, k], calibrated[seen, k]))
    text = (
        "All images. Reliability: share of positives against mean probability in "
        f"{BINS} bins of equal width; dotted before calibration, solid after."
    )
    pictures = (
        (
            report.curves(
                curves, bins=BINS, caption=f"{mode}: ROC, precision-recall and reliability"
            ),
        )
        if curves
        else ()
    )
    return report.Section(f"Curves, masking {mode}", text, pictures)


def _task_of(folder: Path) -> str:
    """What the index is of: an index of findings names its images `image`.

    Raises:
        DataError: If there is no index.
    """
    path = folder / "index.csv"
    if not path.is_file():
        raise DataError(f"There is no {path}. Point --data at the folder that holds it.")
    with path.open(newline="", encoding="utf-8") as stream:
        return "findings" if "image" in next(csv.reader(stream), []) else "lungs"


def _of_split(cases: Sequence[Case], args: argparse.Namespace) -> list[Case]:
    chosen = [case for case in cases if case.split == args.split]
    if not chosen:
        raise DataError(f"{args.data / 'index.csv'} lists no image of the split {args.split!r}.")
    return chosen


def _lungs_of(case: FindingCase, masks: Path, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """The stored lung mask, bool (H, W), or None where no lungs were found."""
    lungs = read_sides(masks, case.name) > 0
    if lungs.shape != shape:
        raise DataError(f"The mask of {case.name} is {lungs.shape}, its image {shape} pixels.")
    return lungs if lungs.any() else None


def _known(case: FindingCase) -> list[bool]:
    """Whether each finding's label is known, and No Finding's, which a finding also decides."""
    found = [case.labels[key] for key in FINDING_KEYS]
    return [*(value is not None for value in found), case.no_finding is not None or 1 in found]


def _scored_columns(outputs: Outputs) -> list[int]:
    """Findings with positives and negatives among the known labels."""
    labels, known = outputs.scores.labels, outputs.known
    return [k for k in range(len(FINDING_KEYS)) if len(np.unique(labels[known[:, k], k])) == 2]


def _aurocs(
    outputs: Outputs, calibrated: NDArray[np.float64], rows: NDArray[np.intp]
) -> dict[str, float]:
    """AUROC by finding, their mean, and No Finding's, scored in both ways."""
    values = {key: _known_auroc(outputs, k, rows) for k, key in enumerate(FINDING_KEYS)}
    each = [values[FINDING_KEYS[k]] for k in _scored_columns(outputs)]
    seen = rows[outputs.known[rows, -1]]
    normal, chances = outputs.scores.no_finding[seen], calibrated[seen]
    return values | {
        "macro": float(np.mean(each)) if each else math.nan,
        NO_FINDING.key: auroc(normal, 1.0 - chances.max(axis=1)),
        f"product_{NO_FINDING.key}": auroc(normal, (1.0 - chances).prod(axis=1)),
    }


def _auroc_counts(outputs: Outputs) -> dict[str, int]:
    """The n of what `_aurocs` gives."""
    positives = (outputs.scores.labels & outputs.known[:, :-1]).sum(axis=0)
    normals = int((outputs.scores.no_finding & outputs.known[:, -1]).sum())
    return {key: int(positives[k]) for k, key in enumerate(FINDING_KEYS)} | {
        "macro": len(outputs.scores.patients),
        NO_FINDING.key: normals,
        f"product_{NO_FINDING.key}": normals,
    }


def _known_auroc(outputs: Outputs, column: int, rows: NDArray[np.intp]) -> float:
    seen = rows[outputs.known[rows, column]]
    return auroc(outputs.scores.labels[seen, column], outputs.scores.logits[seen, column])


def _average_precision(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    return float(average_precision_score(truth, scores)) if truth.any() else float("nan")


def _brier(truth: NDArray[np.bool_], probability: NDArray[np.float64]) -> float:
    if truth.size == 0:
        return float("nan")
    return float(np.square(probability - truth).mean())


def _rates(truth: NDArray[np.bool_], called: NDArray[np.bool_]) -> dict[str, float]:
    """Sensitivity and specificity; NaN without positives or negatives."""
    return {
        "sensitivity": float(called[truth].mean()) if truth.any() else float("nan"),
        "specificity": float((~called[~truth]).mean()) if not truth.all() else float("nan"),
    }


def _known_mean(values: NDArray[np.float64]) -> float:
    """Mean of what is not NaN; NaN if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-values)), np.float64)


def _named(specs: Mapping[str, CheckpointSpec]) -> dict[str, dict[str, str]]:
    return {
        role: {"name": spec.name, "sha256": spec.sha256, "trained_on": spec.trained_on}
        for role, spec in specs.items()
    }


def json_ready(
    figures: Mapping[str, Mapping[str, Estimate]],
) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Figures as dictionaries; JSON has no NaN, so what is not defined is null."""
    return {
        group: {
            name: {k: None if math.isnan(v) else v for k, v in asdict(estimate).items()}
            for name, estimate in of_group.items()
        }
        for group, of_group in figures.items()
    }
