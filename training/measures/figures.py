"""Every figure of a set by name, with n and interval."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cxrdemo.figure_names import MACRO, FigureName
from cxrdemo.labels import FINDING_KEYS, NO_FINDING
from cxrdemo.results import MaskingMode
from cxrdemo.specs import Estimate, LabelSpec
from training.measures.scoring import LungResult, Outputs, Scores
from training.measures.statistics import (
    auroc,
    average_precision,
    bootstrap,
    brier,
    calibration_error,
    known_mean,
    rates,
    sigmoid,
)

ALONE: Final = ("auroc", "ap", "sensitivity", "specificity", "ece_raw", "ece", "brier_raw", "brier")
"""Measures of one finding. The last four take the probability before and after calibration."""


def probabilities(scores: Scores, labels: Sequence[LabelSpec]) -> NDArray[np.float64]:
    """Calibrated probabilities, (N, K)."""
    scale = np.array([label.scale for label in labels])
    offset = np.array([label.offset for label in labels])
    return sigmoid(scale * scores.logits + offset)


def classifier_figures(
    outputs: Outputs, labels: Sequence[LabelSpec], *, resamples: int | None = None
) -> dict[str, Estimate]:
    """Every figure of one classifier, named `measure_Finding` and `measure_macro`.

    Per finding, over the images whose label is known: `ALONE`, and `lr`, the positive likelihood
    ratio at its threshold; over all images with any heat: `HEAT`. A macro mean is
    over the findings that have both positives and negatives. `auroc_No_Finding` scores an image by
    1 - its highest probability, `auroc_product_No_Finding` by the product of the complements.
    Rates at another operating point than the default one are named by it, such as
    `sensitivity at high specificity_Mass`.
    """
    scores, known = outputs.scores, outputs.known
    raw, calibrated = sigmoid(scores.logits), probabilities(scores, labels)
    scored = scored_columns(outputs)
    # The default operating point has no words of its own in a figure's name.
    thresholds = [
        {p.name if i else "": p.threshold for i, p in enumerate(label.points)} for label in labels
    ]

    def statistics(rows: NDArray[np.intp]) -> dict[str, float]:
        values: dict[str, float] = {}
        for k, key in enumerate(FINDING_KEYS):
            seen = rows[known[rows, k]]
            truth = scores.labels[seen, k]
            of_label = {
                "ap": average_precision(truth, scores.logits[seen, k]),
                "ece_raw": calibration_error(truth, raw[seen, k]),
                "ece": calibration_error(truth, calibrated[seen, k]),
                "brier_raw": brier(truth, raw[seen, k]),
                "brier": brier(truth, calibrated[seen, k]),
            }
            of_label |= {name: known_mean(heat[rows, k]) for name, heat in outputs.heat.items()}
            for point, threshold in thresholds[k].items():
                called = rates(truth, calibrated[seen, k] >= threshold)
                of_label |= {
                    FigureName(rate, at=point).row: value for rate, value in called.items()
                }
            values |= {str(FigureName(row, key)): value for row, value in of_label.items()}
        values |= _aurocs(outputs, calibrated, rows)
        for measure in (*ALONE, *outputs.heat):
            each = [values[str(FigureName(measure, FINDING_KEYS[k]))] for k in scored]
            values[str(FigureName(measure, MACRO))] = float(np.mean(each)) if each else float("nan")
        values["lung_area"] = known_mean(outputs.lung_area[rows])
        values["images_per_second"] = float(1.0 / outputs.seconds[rows].mean())
        return values

    normals = int((scores.no_finding & known[:, -1]).sum())
    images = len(scores.patients)
    counts = {str(FigureName(measure, MACRO)): images for measure in (*ALONE, *outputs.heat)} | {
        str(FigureName("auroc", NO_FINDING.key)): normals,
        str(FigureName("auroc_product", NO_FINDING.key)): normals,
        "lung_area": int((~np.isnan(outputs.lung_area)).sum()),
        "images_per_second": images,
    }
    for k, key in enumerate(FINDING_KEYS):
        seen = int(known[:, k].sum())
        positives = int((scores.labels[:, k] & known[:, k]).sum())
        counts |= {str(FigureName(measure, key)): seen for measure in ALONE}
        counts |= {str(FigureName(measure, key)): positives for measure in ("auroc", "ap")}
        for at in thresholds[k]:
            counts |= {
                str(FigureName("sensitivity", key, at)): positives,
                str(FigureName("specificity", key, at)): seen - positives,
                str(FigureName("lr", key, at)): seen,
            }
        for name, heat in outputs.heat.items():
            counts[str(FigureName(name, key))] = int((~np.isnan(heat[:, k])).sum())
    return bootstrap(scores.patients, statistics, counts, resamples=resamples)


def ranking_figures(
    outputs: Outputs, labels: Sequence[LabelSpec], *, resamples: int | None = None
) -> dict[str, Estimate]:
    """AUROC per finding (n: positives), their mean (n: images), and No Finding's (n: normals).

    The same figures as those of `classifier_figures` that begin with `auroc`.
    """
    calibrated = probabilities(outputs.scores, labels)
    return bootstrap(
        outputs.scores.patients,
        lambda rows: _aurocs(outputs, calibrated, rows),
        _auroc_counts(outputs),
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
            _less(a, b, name): each[a][name] - each[b][name] for a, b in pairs for name in each[a]
        }

    counts = {_less(a, b, name): n for a, b in pairs for name, n in _auroc_counts(first).items()}
    return bootstrap(first.scores.patients, statistics, counts, resamples=resamples)


def _less(one: MaskingMode, other: MaskingMode, name: str) -> str:
    """The name of a figure's difference between two maskings."""
    figure = FigureName.parse(name)
    return str(replace(figure, measure=f"{figure.measure}_{one}_less_{other}"))


def lung_figures(
    results: Sequence[LungResult], *, resamples: int | None = None
) -> dict[str, Estimate]:
    """Mean of each measure per data set, named `measure_set` (n: images it is defined for)."""
    figures: dict[str, Estimate] = {}
    for dataset in dict.fromkeys(result.case.dataset for result in results):
        chosen = [result for result in results if result.case.dataset == dataset]
        values = {
            str(FigureName(measure, dataset)): np.array(
                [getattr(result, measure) for result in chosen]
            )
            for measure in ("dice", "iou", "hd95_px", "hd95_mm")
        }
        seconds = np.array([result.seconds for result in chosen])

        def statistics(
            rows: NDArray[np.intp],
            values: Mapping[str, NDArray[np.float64]] = values,
            seconds: NDArray[np.float64] = seconds,
            speed: str = str(FigureName("images_per_second", dataset)),
        ) -> dict[str, float]:
            means = {name: known_mean(value[rows]) for name, value in values.items()}
            return {**means, speed: float(1.0 / seconds[rows].mean())}

        counts = {name: int((~np.isnan(value)).sum()) for name, value in values.items()}
        counts[f"images_per_second_{dataset}"] = len(chosen)
        patients = [" ".join(result.case.person) for result in chosen]
        figures |= bootstrap(patients, statistics, counts, resamples=resamples)
    return figures


def scored_columns(outputs: Outputs) -> list[int]:
    """Findings with positives and negatives among the known labels."""
    labels, known = outputs.scores.labels, outputs.known
    return [k for k in range(len(FINDING_KEYS)) if len(np.unique(labels[known[:, k], k])) == 2]


def _aurocs(
    outputs: Outputs, calibrated: NDArray[np.float64], rows: NDArray[np.intp]
) -> dict[str, float]:
    """AUROC of each finding, their mean, and No Finding's, scored in both ways, by name."""
    found = [_known_auroc(outputs, k, rows) for k in range(len(FINDING_KEYS))]
    each = [found[k] for k in scored_columns(outputs)]
    seen = rows[outputs.known[rows, -1]]
    normal, chances = outputs.scores.no_finding[seen], calibrated[seen]
    values = {
        **{FigureName("auroc", key): found[k] for k, key in enumerate(FINDING_KEYS)},
        FigureName("auroc", MACRO): float(np.mean(each)) if each else math.nan,
        FigureName("auroc", NO_FINDING.key): auroc(normal, 1.0 - chances.max(axis=1)),
        FigureName("auroc_product", NO_FINDING.key): auroc(normal, (1.0 - chances).prod(axis=1)),
    }
    return {str(name): value for name, value in values.items()}


def _auroc_counts(outputs: Outputs) -> dict[str, int]:
    """The n of what `_aurocs` gives."""
    positives = (outputs.scores.labels & outputs.known[:, :-1]).sum(axis=0)
    normals = int((outputs.scores.no_finding & outputs.known[:, -1]).sum())
    counts = {
        **{FigureName("auroc", key): int(positives[k]) for k, key in enumerate(FINDING_KEYS)},
        FigureName("auroc", MACRO): len(outputs.scores.patients),
        FigureName("auroc", NO_FINDING.key): normals,
        FigureName("auroc_product", NO_FINDING.key): normals,
    }
    return {str(name): count for name, count in counts.items()}


def _known_auroc(outputs: Outputs, column: int, rows: NDArray[np.intp]) -> float:
    seen = rows[outputs.known[rows, column]]
    return auroc(outputs.scores.labels[seen, column], outputs.scores.logits[seen, column])


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
