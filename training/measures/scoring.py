"""The app's own classes run over a set; what they gave, to be measured."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cxrdemo.assembly import Assembly
from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.classifier import FindingClassifier
from cxrdemo.errors import CheckpointError
from cxrdemo.files import read_radiograph
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.masking import DEFAULT_MARGIN, kept_region
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import CanvasRegion, LungMask, MaskingMode
from cxrdemo.saliency import explain
from training.errors import DataError
from training.images.stored_masks import check_masks, check_places, read_sides
from training.measures.statistics import hd95
from training.sets.index import FindingCase, LungCase
from training.sets.pixels import read_mask

Region = Callable[[NDArray[np.bool_]], NDArray[np.bool_]]
"""From a lung mask (H, W) to the pixels (H, W) that a classifier is given."""


HEAT: Final[Mapping[str, str]] = {
    "cam_in_lung": "in_lungs",
    "heat_in_kept": "in_kept",
    "hottest_in_lungs": "hottest_in_lungs",
    "hottest_in_kept": "hottest_in_kept",
}
"""Measures of where a map's heat lies, and the fields of `HeatPlace` they are."""


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
        heat: By each of `HEAT`, float64 (N, K): shares and whether, of each map; NaN where there is
            no heat or no mask.
        lung_area: float64 (N,), share of the image that is lung: what heat spread evenly would
            give. NaN without a mask.
        seconds: float64 (N,), for scoring one image that is read and masked.
    """

    scores: Scores
    known: NDArray[np.bool_]
    heat: Mapping[str, NDArray[np.float64]]
    lung_area: NDArray[np.float64]
    seconds: NDArray[np.float64]

    def subset(self, chosen: NDArray[np.bool_]) -> "Outputs":
        """The images for which `chosen` (N,) is set."""
        return Outputs(
            self.scores.subset(chosen),
            self.known[chosen],
            {name: values[chosen] for name, values in self.heat.items()},
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
        hd95_px: 95th percentile Hausdorff distance in pixels of the file; the image's diagonal if
            nothing was found, so that a failure does not better the mean.
        hd95_mm: The same in mm; NaN also where the file states no pixel spacing.
        seconds: For finding the lungs in an image that is read.
    """

    case: LungCase
    dice: float
    iou: float
    hd95_px: float
    hd95_mm: float
    seconds: float


def check_has_masks(mode: MaskingMode, masks: Path | None, *, region: Region | None = None) -> None:
    """Refuses a masking, or a region about the lungs, without lung masks.

    Raises:
        DataError: Saying how masks are made.
    """
    if masks is None and (mode is not MaskingMode.NONE or region is not None):
        raise DataError(
            f"Masking '{mode}' needs lung masks here. Write them with "
            "`python -m training masks` and give the folder as --masks."
        )


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
    check_has_masks(classifier.mode, masks, region=region)
    if masks is not None:
        check_places(case.name for case in cases)
        check_masks(masks, (case.name for case in cases))
    logits, places, areas, seconds = [], [], [], []
    for case in tqdm(cases, unit="image", desc=str(classifier.mode)):
        pixels = read_radiograph(case.image).pixels
        lungs = None if masks is None else lungs_of(case, masks, pixels.shape)
        kept = kept_by(classifier, pixels.shape, lungs, region=region)
        start = time.perf_counter()
        findings, evidence = classifier.classify(pixels, kept)
        seconds.append(time.perf_counter() - start)
        logits.append(findings.logits)
        maps = explain(classifier, evidence)
        where = (evidence.placement, maps[0].hw)
        given = CanvasRegion.of(kept, *where)
        lung = None if lungs is None else CanvasRegion.of(lungs, *where)
        places.append([heat.locate(given, lung) for heat in maps])
        areas.append(float("nan") if lungs is None else float(lungs.mean()))
    scores = Scores(
        logits=np.array(logits, np.float64),
        labels=np.array([[case.labels[key] == 1 for key in FINDING_KEYS] for case in cases]),
        no_finding=np.array([case.no_finding == 1 for case in cases]),
        # Two sets may number their patients alike.
        patients=tuple(" ".join(case.person) for case in cases),
        rsna_normal=np.array([case.rsna_normal for case in cases]),
    )
    return Outputs(
        scores=scores,
        known=np.array([_known(case) for case in cases]),
        heat={
            name: np.array([[getattr(p, field) for p in row] for row in places], np.float64)
            for name, field in HEAT.items()
        },
        lung_area=np.array(areas, np.float64),
        seconds=np.array(seconds, np.float64),
    )


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
                hd95_px=_distance(predicted, truth, (1.0, 1.0)),
                hd95_mm=math.nan if spacing is None else _distance(predicted, truth, spacing),
                seconds=seconds,
            )
        )
    return results


def _distance(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: tuple[float, float]
) -> float:
    """HD95, and the largest distance there is in the image where nothing was found."""
    if not predicted.any():
        height, width = truth.shape
        return math.hypot(height * spacing[0], width * spacing[1])
    return hd95(predicted, truth, spacing)


def load_classifiers(
    folder: Path, *, device: torch.device | str = "cpu"
) -> dict[MaskingMode, FindingClassifier]:
    """The classifiers that a checkpoint folder's manifest lists, in the order of the maskings.

    Args:
        folder: With a manifest.
        device: Where they run.

    Raises:
        CheckpointError: If there is none, or one is missing, altered or does not fit.
    """
    store = CheckpointStore.open(folder)
    assembly = Assembly(store, device)
    found = {mode: store.findings(mode) for mode in MaskingMode}
    loaded = {mode: assembly.classifier(spec) for mode, spec in found.items() if spec}
    if not loaded:
        raise CheckpointError(f"{folder} lists no classifier. Train one with `classify`.")
    return loaded


def kept_by(
    classifier: FindingClassifier,
    hw: tuple[int, ...],
    lungs: NDArray[np.bool_] | None,
    *,
    region: Region | None = None,
) -> NDArray[np.bool_]:
    """What a classifier is given of an image of `hw`; all of it where no lungs are known."""
    if lungs is None:
        return np.ones(hw, bool)
    kept = region or inside(classifier.mode, classifier.spec.margin or DEFAULT_MARGIN)
    return kept(lungs)


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


def lungs_of(case: FindingCase, masks: Path, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """The stored lung mask, bool (H, W), or None where no lungs were found."""
    lungs = read_sides(masks, case.name) > 0
    if lungs.shape != shape:
        raise DataError(f"The mask of {case.name} is {lungs.shape}, its image {shape} pixels.")
    return lungs if lungs.any() else None


def _known(case: FindingCase) -> list[bool]:
    """Whether each finding's label is known, and No Finding's, which a finding also decides."""
    found = [case.labels[key] for key in FINDING_KEYS]
    return [*(value is not None for value in found), case.no_finding is not None or 1 in found]
