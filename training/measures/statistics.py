"""From arrays to numbers: rates, distances, calibration errors, and their intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import binary_calibration_error

from cxrdemo.specs import Estimate

RESAMPLES: Final = 1000
SEED: Final = 0
BINS: Final = 10
"""Of equal width, for the expected calibration error and the reliability curve."""


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
        counts: The n to page, by name.
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


def average_precision(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Average precision; NaN without positives."""
    return float(average_precision_score(truth, scores)) if truth.any() else float("nan")


def brier(truth: NDArray[np.bool_], probability: NDArray[np.float64]) -> float:
    """Brier score; NaN without images. By hand for the reason that `rates` has."""
    if truth.size == 0:
        return float("nan")
    return float(np.square(probability - truth).mean())


def rates(truth: NDArray[np.bool_], called: NDArray[np.bool_]) -> dict[str, float]:
    """Sensitivity, specificity and positive likelihood ratio, "lr".

    By hand: a thousand resamples ask for them, and scikit-learn takes hundreds of times longer.
    NaN without positives or negatives; the ratio also where no negative is called, as it has no
    upper bound there.
    """
    sensitivity = float(called[truth].mean()) if truth.any() else math.nan
    specificity = float((~called[~truth]).mean()) if not truth.all() else math.nan
    ratio = sensitivity / (1 - specificity) if specificity < 1 else math.nan
    return {"sensitivity": sensitivity, "specificity": specificity, "lr": ratio}


def known_mean(values: NDArray[np.float64]) -> float:
    """Mean of what is not NaN; NaN if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From logits to 0..1."""
    return np.asarray(1.0 / (1.0 + np.exp(-values)), np.float64)
