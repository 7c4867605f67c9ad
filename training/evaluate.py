"""What a checkpoint is worth: figures on patients it has not seen, each with n and an interval.

Models run through the app's own classes, on the weights as published (rounded to half precision).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from cxrdemo.checkpoints import Estimate
from cxrdemo.classifier import FindingClassifier
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.masking import DEFAULT_MARGIN, apply_mask, kept_region
from cxrdemo.reading import read_radiograph
from cxrdemo.results import MaskingMode
from cxrdemo.segmenter import LungSegmenter
from training.data import FindingCase, LungCase, read_mask
from training.masks import read_sides

RESAMPLES: Final = 1000
SEED: Final = 0


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


def score_images(
    classifier: FindingClassifier, cases: Sequence[FindingCase], masks: Path | None
) -> Scores:
    """Runs the app's classifier over images, masked as it was trained, at the default margin."""
    logits = []
    for case in tqdm(cases, unit="image", desc=str(classifier.mode)):
        pixels = read_radiograph(case.image).pixels
        if classifier.mode is not MaskingMode.NONE:
            if masks is None:
                raise ValueError("masking 'loose' and 'tight' need lung masks")
            lungs = read_sides(masks, case.name) > 0
            if lungs.any():
                kept = kept_region(lungs, mode=classifier.mode, margin=DEFAULT_MARGIN)
                pixels = apply_mask(pixels, kept, fill=classifier.spec.inputs.fill)
        logits.append(classifier.classify(pixels)[0].logits)
    return Scores(
        logits=np.array(logits, np.float64),
        labels=np.array([[case.labels[key] == 1 for key in FINDING_KEYS] for case in cases]),
        no_finding=np.array([case.no_finding == 1 for case in cases]),
        patients=tuple(case.patient_id for case in cases),
        rsna_normal=np.array([case.rsna_normal for case in cases]),
    )


def patient_bootstrap(
    patients: Sequence[str], statistic: Callable[[NDArray[np.intp]], float], *, n: int
) -> Estimate:
    """A statistic with its 95 % percentile interval, resampling patients with all their images.

    Args:
        patients: Patient of each image.
        statistic: Takes image indices, which may repeat, and gives a number; NaN where it is not
            defined, such as an AUROC without positives. Such resamples are left out.
        n: The count to report with the figure.
    """
    groups = [np.flatnonzero(np.array(patients) == p) for p in dict.fromkeys(patients)]
    rng = np.random.default_rng(SEED)
    values = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(groups), size=len(groups))
        values.append(statistic(np.concatenate([groups[i] for i in drawn])))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Estimate(statistic(np.arange(len(patients))), float(low), float(high), n)


def auroc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Area under the ROC curve; NaN without positives or negatives."""
    if labels.all() or not labels.any():
        return float("nan")
    return float(roc_auc_score(labels, scores))


def finding_metrics(scores: Scores, probabilities: NDArray[np.float64]) -> dict[str, Estimate]:
    """AUROC per finding (n: positives), their mean (n: images), and No Finding's (n: normals).

    Args:
        scores: On test patients.
        probabilities: Calibrated, (N, K); No Finding is 1 - the highest of a row.
    """

    def of_finding(column: int, rows: NDArray[np.intp]) -> float:
        return auroc(scores.labels[rows, column], scores.logits[rows, column])

    def macro(rows: NDArray[np.intp]) -> float:
        return float(np.mean([of_finding(k, rows) for k in range(len(FINDING_KEYS))]))

    def no_finding(rows: NDArray[np.intp]) -> float:
        return auroc(scores.no_finding[rows], 1.0 - probabilities[rows].max(axis=1))

    metrics = {"auroc_macro": patient_bootstrap(scores.patients, macro, n=len(scores.patients))}
    for column, key in enumerate(FINDING_KEYS):
        positives = int(scores.labels[:, column].sum())
        metrics[f"auroc_{key}"] = patient_bootstrap(
            scores.patients, partial(of_finding, column), n=positives
        )
    metrics["auroc_No_Finding"] = patient_bootstrap(
        scores.patients, no_finding, n=int(scores.no_finding.sum())
    )
    return metrics


def rates_at(
    scores: Scores, probabilities: NDArray[np.float64], column: int, threshold: float
) -> tuple[Estimate, Estimate]:
    """Sensitivity (n: positives) and specificity (n: negatives) of one finding at a threshold."""
    truth, called = scores.labels[:, column], probabilities[:, column] >= threshold

    def sensitivity(rows: NDArray[np.intp]) -> float:
        positive = truth[rows]
        return float(called[rows][positive].mean()) if positive.any() else float("nan")

    def specificity(rows: NDArray[np.intp]) -> float:
        negative = ~truth[rows]
        return float((~called[rows][negative]).mean()) if negative.any() else float("nan")

    return (
        patient_bootstrap(scores.patients, sensitivity, n=int(truth.sum())),
        patient_bootstrap(scores.patients, specificity, n=int((~truth).sum())),
    )


def dice_scores(segmenter: LungSegmenter, cases: Sequence[LungCase]) -> NDArray[np.float64]:
    """Dice of the automatic mask at the image's own size, per case, (N,)."""
    values = []
    for case in tqdm(cases, unit="image", desc="lungs"):
        predicted = segmenter.find_lungs(segmenter.embed(read_radiograph(case.image))).inside
        truth = read_mask(case.mask)
        values.append(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))
    return np.array(values, np.float64)
