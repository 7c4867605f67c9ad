"""Probabilities and thresholds of a classifier, from validation patients."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from cxrdemo.figure_names import WITHOUT_RSNA_NORMAL, FigureName
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.specs import CheckpointSpec, Estimate, LabelSpec, OperatingPoint, ScoreRatio
from training.errors import DataError
from training.measures.figures import classifier_figures, probabilities, ranking_figures
from training.measures.scoring import HEAT, Outputs
from training.measures.statistics import sigmoid

THRESHOLD_RULE: Final = "largest sensitivity + specificity on the validation patients"
HIGH_RATE: Final = 0.9
SLOPE_PRIOR: Final = 0.5
QUANTILES: Final = 101
"""Of the scores of images without the finding: per cent by per cent, both ends included."""

MIN_CASES: Final = 8
"""Fewer positives or negatives say nothing of a threshold that keeps nine in ten of them."""

WORSE_THAN_CHANCE: Final = "0.5; not calibrated: ranked worse than chance on validation"
CARD_MEASURES: Final = (
    "auroc",
    "auroc_product",
    "ap",
    "ece_raw",
    "ece",
    "brier_raw",
    "brier",
    *HEAT,
)

Column = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""Logits and truth of one finding, over the images whose label is known."""


def calibrate(
    outputs: Outputs, *, method: str = "platt", lenient: bool = False
) -> tuple[LabelSpec, ...]:
    """Calibration and operating points per finding, from validation patients.

    A finding with a dozen positives says little about its own slope. Each slope is therefore drawn
    towards the one that suits all findings together, by a Gaussian prior of `SLOPE_PRIOR` times
    that slope. A finding ranked so much worse than chance that its slope turns negative against
    the prior is refused.

    Args:
        outputs: On validation patients.
        method: A key of `METHODS`.
        lenient: Keep such a finding, uncalibrated and marked so, for experiments.

    Raises:
        DataError: Naming such a finding, or one with too few known labels.
    """
    columns = []
    for k, key in enumerate(FINDING_KEYS):
        seen = outputs.known[:, k]
        truth = outputs.scores.labels[seen, k]
        positives, negatives = int(truth.sum()), int((~truth).sum())
        if min(positives, negatives) < MIN_CASES:
            raise DataError(
                f"{key} has {positives} positive and {negatives} negative validation images; "
                f"calibration needs {MIN_CASES} of each. Give more patients to the split 'val'."
            )
        columns.append((outputs.scores.logits[seen, k], truth))
    fit, shared_slope = METHODS[method]
    shared = shared_slope(columns)
    specs = []
    for k, (key, column) in enumerate(zip(FINDING_KEYS, columns, strict=True)):
        scale, offset = fit(*column, shared) if shared > 0 else (shared, 0.0)
        if scale > 0:
            spec = _label_spec(key, column, scale, offset)
            # A temperature is not fitted to how many positives there are, so there are no odds to
            # compare with.
            if method == "platt":
                rows = np.flatnonzero(outputs.known[:, k])
                patients = [outputs.scores.patients[row] for row in rows]
                ratio = score_ratio(column, patients, scale, offset, prior=shared)
                spec = replace(spec, score_ratio=ratio)
            specs.append(spec)
        elif lenient:
            specs.append(LabelSpec(key, 1.0, 0.0, 0.5, WORSE_THAN_CHANCE))
        else:
            raise DataError(f"{key} is ranked worse than chance on validation: not published.")
    return tuple(specs)


def with_figures(
    spec: CheckpointSpec,
    labels: Sequence[LabelSpec],
    test: Outputs,
    *,
    resamples: int | None = None,
) -> CheckpointSpec:
    """A spec with new calibration, and every figure of it measured on test patients.

    Raises:
        DataError: If a finding has no positive or no negative test image.
    """
    figures = classifier_figures(test, labels, resamples=resamples)
    for k, key in enumerate(FINDING_KEYS):
        truth = test.scores.labels[test.known[:, k], k]
        if truth.all() or not truth.any():
            raise DataError(
                f"{key} has {int(truth.sum())} positive and {int((~truth).sum())} negative test "
                "images: nothing can be measured. Give patients of both kinds to the split 'test'."
            )
    metrics = {
        name: figure
        for name, figure in figures.items()
        # A card has no room for what is not defined, such as where heat lies without masks.
        if FigureName.parse(name).measure in CARD_MEASURES
        and figure.n
        and not math.isnan(figure.value)
    }
    clean = ~test.scores.rsna_normal
    if not clean.all():
        metrics |= {
            str(replace(FigureName.parse(name), subset=WITHOUT_RSNA_NORMAL)): figure
            for name, figure in ranking_figures(
                test.subset(clean), labels, resamples=resamples
            ).items()
        }
    scores = probabilities(test.scores, labels)
    measured = tuple(
        _with_rates(label, figures, scores[test.known[:, k] & ~test.scores.labels[:, k], k])
        for k, label in enumerate(labels)
    )
    return replace(spec, labels=measured, metrics=metrics)


def _with_rates(
    label: LabelSpec, figures: Mapping[str, Estimate], negatives: NDArray[np.float64]
) -> LabelSpec:
    """What each operating point does, and how the images without the finding score."""

    def at(point: str) -> dict[str, Any]:
        sensitivity, specificity, ratio = (
            figures[str(FigureName(measure, label.key, point))]
            for measure in ("sensitivity", "specificity", "lr")
        )
        return {
            "sensitivity": sensitivity,
            "specificity": specificity,
            # Where no negative is called it has no upper bound, and is left out.
            "likelihood_ratio": None if math.isnan(ratio.value) else ratio,
        }

    others = tuple(replace(point, **at(point.name)) for point in label.others)
    places = np.quantile(negatives, np.linspace(0, 1, QUANTILES))
    return replace(label, **at(""), others=others, negatives=tuple(float(p) for p in places))


def _label_spec(key: str, column: Column, scale: float, offset: float) -> LabelSpec:
    """The calibration of one finding and its three operating points."""
    logit, truth = column
    probability = 1.0 / (1.0 + np.exp(-(scale * logit + offset)))
    false_rate, true_rate, thresholds = roc_curve(truth, probability, drop_intermediate=False)
    # The first point of the curve calls nothing positive and has an infinite threshold.
    best = 1 + int(np.argmax((true_rate - false_rate)[1:]))
    sensitive = int(np.argmax(true_rate >= HIGH_RATE))
    specific = max(1, int(np.flatnonzero(1 - false_rate >= HIGH_RATE)[-1]))
    # Thresholds fall along the curve. A point that its rule would put beyond the balanced one stays
    # there, where its rate is higher still.
    others = tuple(
        OperatingPoint(f"high {rate}", float(thresholds[at]), _high_rule(rate, bound, side))
        for rate, bound, side, at in (
            ("sensitivity", "highest", "above", max(sensitive, best)),
            ("specificity", "lowest", "below", min(specific, best)),
        )
    )
    return LabelSpec(key, scale, offset, float(thresholds[best]), THRESHOLD_RULE, others=others)


def _high_rule(rate: str, bound: str, side: str) -> str:
    return (
        f"the {bound} threshold, not {side} the balanced one, with a {rate} of {HIGH_RATE:.0%} on "
        "the validation patients"
    )


def _platt(
    logit: NDArray[np.float64], truth: NDArray[np.bool_], prior: float
) -> tuple[float, float]:
    """Slope and offset of largest posterior."""

    def loss(values: NDArray[np.float64]) -> float:
        return _negative_log_posterior(values[0], values[1], logit, truth, prior)

    scale, offset = minimize(loss, np.array([prior, 0.0]), method="Nelder-Mead").x
    return float(scale), float(offset)


def score_ratio(
    column: Column, patients: Sequence[str], scale: float, offset: float, *, prior: float
) -> ScoreRatio:
    """The likelihood ratio of a score, and how sure it is, from the images it was fitted to.

    The variance is the sandwich of `_platt` and of the prevalence together, summed by patient
    (Liang & Zeger, Biometrika 1986): what a bootstrap over patients gives, without the resamples.

    Args:
        column: Logits and truth, n images.
        patients: Of each image.
        scale: As `_platt` has fitted it.
        offset: Likewise.
        prior: The slope that it was drawn towards.
    """
    logit, truth = column
    n, prevalence = len(truth), float(truth.mean())
    probability = sigmoid(scale * logit + offset)
    design = np.column_stack([logit, np.ones(n)])
    curvature = design.T @ (design * (probability * (1 - probability))[:, None])
    curvature[0, 0] += (SLOPE_PRIOR * prior) ** -2
    # By how much each image moves slope and offset, and the log-odds of the prevalence.
    moves = design * (truth - probability)[:, None] @ np.linalg.inv(curvature)
    moves[:, 1] -= (truth - prevalence) / (n * prevalence * (1 - prevalence))
    _, group = np.unique(patients, return_inverse=True)
    groups = int(group.max()) + 1
    summed = np.zeros((groups, 2))
    np.add.at(summed, group, moves)
    covariance = summed.T @ summed * (groups / max(1, groups - 1))
    # From the logit to the log-odds x of the probability: logit = (x - offset) / scale.
    change = np.array([[-offset / scale, 1.0], [1.0 / scale, 0.0]])
    (c0, half), (_, c2) = change @ covariance @ change.T
    return ScoreRatio(prevalence, (float(c0), float(2 * half), float(c2)), n)


def _temperature(
    logit: NDArray[np.float64], truth: NDArray[np.bool_], prior: float
) -> tuple[float, float]:
    """Slope (1 / temperature) of largest posterior; no offset."""

    def loss(values: NDArray[np.float64]) -> float:
        return _negative_log_posterior(values[0], 0.0, logit, truth, prior)

    return float(minimize(loss, np.array([prior]), method="Nelder-Mead").x[0]), 0.0


def _negative_log_posterior(
    scale: float,
    offset: float,
    logit: NDArray[np.float64],
    truth: NDArray[np.bool_],
    prior: float,
) -> float:
    score = scale * logit + offset
    likelihood = (np.logaddexp(0.0, score) - truth * score).sum()
    return float(likelihood + 0.5 * ((scale - prior) / (SLOPE_PRIOR * prior)) ** 2)


def _slope_with_offsets(columns: Sequence[Column]) -> float:
    """One slope for all findings, each with its own offset."""
    each = np.eye(len(columns))
    design = np.concatenate(
        [
            np.column_stack([logit, np.repeat(each[i : i + 1], len(logit), axis=0)])
            for i, (logit, _) in enumerate(columns)
        ]
    )
    return _logistic_slope(design, columns)


def _slope_alone(columns: Sequence[Column]) -> float:
    """One slope for all findings."""
    return _logistic_slope(np.concatenate([logit for logit, _ in columns])[:, None], columns)


def _logistic_slope(design: NDArray[np.float64], columns: Sequence[Column]) -> float:
    truth = np.concatenate([truth for _, truth in columns])
    fit = LogisticRegression(C=100.0, fit_intercept=False, max_iter=1000).fit(design, truth)
    return float(fit.coef_[0, 0])


METHODS: Final[
    Mapping[
        str,
        tuple[
            Callable[[NDArray[np.float64], NDArray[np.bool_], float], tuple[float, float]],
            Callable[[Sequence[Column]], float],
        ],
    ]
] = {"platt": (_platt, _slope_with_offsets), "temperature": (_temperature, _slope_alone)}
"""How one finding is fitted, and the slope of all together that it is drawn towards."""
