"""Whether heat shows the place: of lesions planted at a known one, and of boxes that somebody drew.

A planted lesion has no label noise, and hundreds of trials cost nothing but time: the one figure on
places that small data allow. It says what the weights make of round opacities drawn as in training,
in images that training never saw; of real findings the boxes say what their number allows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.stats import binomtest
from tqdm import tqdm

from cxrdemo.classifier import FindingClassifier
from cxrdemo.figure_names import FigureName
from cxrdemo.files import read_radiograph
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.lesions import MASS, NODULE, VISIBLE, LesionKind, add_opacity, opacity_of
from cxrdemo.results import SaliencyMap
from cxrdemo.saliency import explain
from cxrdemo.specs import Estimate
from training.measures.scoring import kept_by, lungs_of
from training.measures.statistics import bootstrap, known_mean
from training.sets.boxes import Box, read_boxes
from training.sets.index import FindingCase

PLANTED: Final[Mapping[LesionKind, tuple[float, float, float]]] = {
    NODULE: (0.06, 0.09, 0.12),
    MASS: (0.15, 0.22, 0.30),
}
"""Diameters, as fractions of the lungs' height: smallest, where small ends, largest."""

CONTRASTS: Final = (0.2, 0.45)
"""Share of the way from the local grey to white, at the centre; the last gives the main figure."""

SEED: Final = 77
IMAGES: Final = 100
"""Images that lesions are planted into, at most."""


@dataclass(frozen=True)
class Trial:
    """One lesion planted into one image.

    Attributes:
        key: The finding that it is.
        patient: Whose image.
        contrast: One of `CONTRASTS`.
        is_small: Whether its diameter is in the lower half.
        is_inside: Whether it lies in the lungs; otherwise it is a control, which means nothing.
        rise: Of the finding's logit, over the same image without it.
        crossed: Whether the finding is called now; NaN if it was called before.
        hit: Whether the hottest cell of the finding's map lies on it, see `lies_on`; NaN for a
            control.
    """

    key: str
    patient: str
    contrast: float
    is_small: bool
    is_inside: bool
    rise: float
    crossed: float
    hit: float


def lies_on(heat: SaliencyMap, region: NDArray[np.bool_]) -> bool:
    """Whether the centre of a map's hottest cell lies in a region, or within half a cell of it.

    Args:
        heat: Of one finding.
        region: bool (H, W) of the image; not empty.
    """
    if heat.hottest is None:
        return False
    rows, columns = heat.hw
    height, width = heat.placement.target_hw
    cell = np.array([[0, 0], [width / columns, height / rows]], np.float32)
    half = 0.5 * float(np.ptp(heat.placement.undo_points(cell), axis=0).max())
    return _distance(region, heat.hottest) <= half


def plant_lesions(
    classifier: FindingClassifier,
    cases: Sequence[FindingCase],
    masks: Path,
    *,
    images: int = IMAGES,
) -> list[Trial]:
    """Plants lesions into images that have neither a mass nor a nodule.

    Into each a nodule and a mass of random size and place, at every contrast, and one of each clear
    of the lungs. The same images, places and outlines for every classifier.

    Args:
        classifier: Of any masking.
        cases: To choose from.
        masks: Folder written by `masks`.
        images: At most so many of them.
    """
    free = [c for c in cases if c.labels[NODULE.key] == 0 and c.labels[MASS.key] == 0]
    order = np.random.default_rng(SEED).permutation(len(free))
    trials: list[Trial] = []
    used = 0
    for index in tqdm(order, unit="image", desc=f"planted, {classifier.mode}"):
        if used == images:
            break
        case = free[index]
        pixels = read_radiograph(case.image).pixels
        lungs = lungs_of(case, masks, pixels.shape)
        if lungs is not None:
            trials += _plant(classifier, case, pixels, lungs, int(index))
            used += 1
    return trials


def place_figures(
    classifier: FindingClassifier,
    cases: Sequence[FindingCase],
    masks: Path,
    *,
    boxes: Path | None,
    images: int = IMAGES,
    resamples: int | None = None,
) -> dict[str, Estimate]:
    """What `planted_figures` and `box_figures` say of a classifier; of what is not there, nothing.

    Args:
        classifier: Of any masking; its thresholds say what is called.
        cases: Images to measure on.
        masks: Folder written by `masks`.
        boxes: File of boxes, which may have some of other images too; None for no pointing game.
        images: To plant lesions into, at most.
        resamples: See `bootstrap`.
    """
    figures = planted_figures(
        plant_lesions(classifier, cases, masks, images=images), resamples=resamples
    )
    if boxes is not None:
        figures |= box_figures(classifier, cases, masks, read_boxes(boxes))
    return {name: figure for name, figure in figures.items() if not math.isnan(figure.value)}


def planted_figures(
    trials: Sequence[Trial], *, resamples: int | None = None
) -> dict[str, Estimate]:
    """Figures of planted lesions, named `measure_Finding`; n trials, intervals over patients.

    `planted_hit` is the share whose hottest cell lies on the lesion, `planted_rise` the median rise
    of the logit, `planted_crossing` the share that becomes called; `control_*` the same of lesions
    beside the lungs. Alone they are of the highest of `CONTRASTS`; the others are named by size and
    contrast, such as `planted_hit at contrast 0.2, small_Mass`.
    """
    groups: dict[tuple[str, str, str], list[int]] = {}
    for row, trial in enumerate(trials):
        size = "small" if trial.is_small else "large"
        of = "planted" if trial.is_inside else "control"
        if trial.contrast == CONTRASTS[-1]:
            groups.setdefault((of, trial.key, ""), []).append(row)
        if trial.is_inside:
            condition = f"contrast {trial.contrast:g}, {size}"
            groups.setdefault((of, trial.key, condition), []).append(row)
    columns = {
        measure: np.array([getattr(trial, measure) for trial in trials], np.float64)
        for measure in ("rise", "crossed", "hit")
    }
    members = {group: np.isin(np.arange(len(trials)), rows) for group, rows in groups.items()}

    def named(measure: str, group: tuple[str, str, str]) -> str:
        of, key, condition = group
        return str(FigureName(f"{of}_{measure}", key, condition))

    def statistics(rows: NDArray[np.intp]) -> dict[str, float]:
        values = {}
        for group, member in members.items():
            chosen = rows[member[rows]]
            values[named("rise", group)] = _median(columns["rise"][chosen])
            values[named("crossing", group)] = known_mean(columns["crossed"][chosen])
            if group[0] == "planted":
                values[named("hit", group)] = known_mean(columns["hit"][chosen])
        return values

    counts = {}
    for group, member in members.items():
        counts[named("rise", group)] = counts[named("hit", group)] = int(member.sum())
        counts[named("crossing", group)] = int((~np.isnan(columns["crossed"][member])).sum())
    if not trials:
        return {}
    return bootstrap([t.patient for t in trials], statistics, counts, resamples=resamples)


def box_figures(
    classifier: FindingClassifier,
    cases: Sequence[FindingCase],
    masks: Path,
    boxes: Mapping[str, tuple[Box, ...]],
) -> dict[str, Estimate]:
    """The pointing game on boxes of the findings, n boxes, with exact intervals.

    `box_hit_Finding` is the share of boxes with the finding's hottest cell on them, see `lies_on`;
    `box_chance_Finding` what a random cell among those that count would reach.
    """
    hits: dict[str, list[bool]] = {}
    chances: dict[str, list[float]] = {}
    for case in cases:
        known = [box for box in boxes.get(case.name, ()) if box.label in FINDING_KEYS]
        if not known:
            continue
        pixels = read_radiograph(case.image).pixels
        kept = kept_by(classifier, pixels.shape, lungs_of(case, masks, pixels.shape))
        _, evidence = classifier.classify(pixels, kept)
        maps = explain(classifier, evidence)
        for box in known:
            heat = maps[FINDING_KEYS.index(box.label)]
            region = box.region((pixels.shape[0], pixels.shape[1]))
            hits.setdefault(box.label, []).append(lies_on(heat, region))
            chances.setdefault(box.label, []).append(_chance(heat, kept, region))
    found = {}
    for key, values in hits.items():
        n = len(values)
        interval = binomtest(sum(values), n).proportion_ci(method="exact")
        found[str(FigureName("box_hit", key))] = Estimate(
            sum(values) / n, interval.low, interval.high, n
        )
        spread = chances[key]
        found[str(FigureName("box_chance", key))] = Estimate(
            float(np.mean(spread)), min(spread), max(spread), n
        )
    return found


def _plant(
    classifier: FindingClassifier,
    case: FindingCase,
    pixels: NDArray[np.float32],
    lungs: NDArray[np.bool_],
    index: int,
) -> list[Trial]:
    rng = np.random.default_rng([SEED, index])
    kept = kept_by(classifier, pixels.shape, lungs)
    before, _ = classifier.classify(pixels, kept)
    clear = distance_transform_edt(~lungs)
    rows = np.flatnonzero(lungs.any(axis=1))
    height = int(rows[-1] - rows[0] + 1)
    trials = []
    for kind, (smallest, middle, largest) in PLANTED.items():
        diameter = rng.uniform(smallest, largest)
        radius = 0.5 * diameter * height
        k = FINDING_KEYS.index(kind.key)
        for is_inside in (True, False):
            # Clear of the lungs by the waves of its outline too.
            places = np.flatnonzero(lungs if is_inside else clear > 1.2 * radius)
            if not places.size:
                continue
            at = divmod(int(places[rng.integers(places.size)]), lungs.shape[1])
            opacity = opacity_of(pixels.shape, at, radius, rng)
            for contrast in CONTRASTS if is_inside else CONTRASTS[-1:]:
                changed = add_opacity(pixels, opacity, contrast)
                findings, evidence = classifier.classify(changed, kept)
                called = findings.probabilities >= findings.thresholds
                was = before.probabilities >= before.thresholds
                hit = math.nan
                if is_inside:
                    hit = float(lies_on(explain(classifier, evidence)[k], opacity > VISIBLE))
                trials.append(
                    Trial(
                        key=kind.key,
                        patient=" ".join(case.person),
                        contrast=contrast,
                        is_small=diameter < middle,
                        is_inside=is_inside,
                        rise=float(findings.logits[k] - before.logits[k]),
                        crossed=math.nan if was[k] else float(called[k]),
                        hit=hit,
                    )
                )
    return trials


def _chance(heat: SaliencyMap, kept: NDArray[np.bool_], region: NDArray[np.bool_]) -> float:
    """The share of the mostly kept cells that would count as a hit."""
    shares = heat.placement.shares(kept, heat.hw)
    cells = np.argwhere(shares > 0.5)
    if not len(cells):
        return math.nan
    hits = 0
    for row, column in cells:
        grid = np.zeros(heat.hw, np.float32)
        grid[row, column] = 1
        hits += lies_on(SaliencyMap(heat.label, heat.method, grid, heat.placement), region)
    return hits / len(cells)


def _distance(region: NDArray[np.bool_], point: tuple[float, float]) -> float:
    """From a point (x, y) to the nearest pixel of a region."""
    rows, columns = np.nonzero(region)
    beside_x = np.maximum(0, np.abs(columns + 0.5 - point[0]) - 0.5)
    beside_y = np.maximum(0, np.abs(rows + 0.5 - point[1]) - 0.5)
    return float(np.hypot(beside_x, beside_y).min())


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if values.size else math.nan
