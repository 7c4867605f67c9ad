"""What the viewer's canvas is sent: an analysis as plain JSON types. Pure functions, no gradio.

Pictures travel as data URLs, so that no radiograph is left behind on the server's disk. Everything
that a toggle or a slider may ask for is in here, so that neither makes a request.
"""

import base64
import itertools
import time
from collections.abc import Mapping
from typing import Final, TypedDict, Unpack

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrdemo.labels import FINDINGS
from cxrdemo.lesions import KINDS
from cxrdemo.masking import margin_levels
from cxrdemo.radiograph import Radiograph, Source
from cxrdemo.rendering import (
    HEAT_COLOURS,
    HEAT_FROM,
    HEAT_FULL,
    SIDE_COLOURS,
    display_placement,
    encode_png,
    for_display,
    on_display,
)
from cxrdemo.results import (
    Analysis,
    Findings,
    HeatPlace,
    LungMask,
    MaskingMode,
    Probes,
    Reading,
    SaliencyMap,
    Side,
    bounding_box,
)
from cxrdemo.specs import CheckpointSpec, Estimate, LabelSpec, OperatingPoint

Specs = Mapping[MaskingMode, CheckpointSpec | None]

IMAGE_PX: Final = 1536
"""Longest side of the picture sent first, with 8 bits: soon there, and enough for most screens."""

FINE_PX: Final = 4096
"""Longest side of the picture sent on demand, with 16 bits: what every graphics card takes."""

LEVELS_PX: Final = 512
"""Longest side of the map of margins."""

MARGIN_STEP: Final = 0.01
MARGIN_COUNT: Final = 20
"""The margin slider: 1 % to 20 % of the lungs' height."""

PROBED_MARGINS: Final = (0.02, 0.05, 0.08, 0.11, 0.14, 0.17, 0.20)
"""Where the tightness curve is measured."""


class WindowPart(TypedDict):
    """A window of the file's header, its level and width as shares of the picture's range."""

    name: str
    level: float
    width: float


class ImagePart(TypedDict):
    """The picture that is sent first.

    Attributes:
        url: PNG, grey.
        width: Of the picture sent, in pixels.
        height: Of the picture sent, in pixels.
        native: Width and height of the image as read.
        bits: Of a sample of the file.
        spacing: Millimetres per pixel of the picture sent; None where the file gives none.
        range: The file's own values that black and white stand for; None where they are unknown.
        windows: Of the file, beside the one it was read with, where the picture can show them.
        sides: Whether the file says where the patient's right is: "header" or "assumed".
    """

    url: str
    width: int
    height: int
    native: list[int]
    bits: int
    spacing: float | None
    range: list[float] | None
    windows: list[WindowPart]
    sides: str


class FinePart(TypedDict):
    """The picture in full.

    Attributes:
        url: PNG: the upper byte of 16 bits is red, the lower one green.
        deep: That it is so.
    """

    url: str
    deep: bool


class LungsPart(TypedDict):
    """The lung mask.

    Attributes:
        levels: PNG, see `masking.margin_levels`.
        step: From one margin of the slider to the next, as a fraction of the lungs' height.
        count: Number of margins: step, 2 step, ... count * step.
        outlines: Per side closed polygons of x0, y0, x1, y1, ... in pixels of the picture.
    """

    levels: str
    step: float
    count: int
    outlines: dict[str, list[list[int]]]


class LabelPart(TypedDict):
    """What a finding is called, and what it means."""

    name: str
    meaning: str


class RatioPart(TypedDict):
    """A likelihood ratio, and its 95 % interval where that is known."""

    value: float
    low: float | None
    high: float | None


class PointPart(TypedDict):
    """An operating point; sensitivity and specificity at it in words.

    Attributes:
        ratio: Of being called with the finding to being called without it; None where the weights
            were not tested.
    """

    name: str
    threshold: float
    sensitivity: str | None
    specificity: str | None
    ratio: RatioPart | None


class HottestPart(TypedDict):
    """The hottest cell's middle in pixels of the picture, and whether and in which lung it lies.

    Attributes:
        x: From the left.
        y: From the top.
        inLungs: Whether at least half of the cell is lung; None where no lungs are known.
        side: The patient's side of the lung that its middle lies in, if any.
    """

    x: float
    y: float
    inLungs: bool | None
    side: str | None


class EvidencePart(TypedDict):
    """What one label's answer is worth.

    Attributes:
        p: Calibrated probability.
        proven: Whether the weights were shown to beat chance.
        ratio: Likelihood ratio of this very probability; None where the weights do not tell it.
        points: Operating points, the balanced one first.
    """

    p: float
    proven: bool
    ratio: RatioPart | None
    points: list[PointPart]


class FindingPart(EvidencePart):
    """One label's answer.

    Attributes:
        inLung: Share of the heat that lies in the lungs; None where there is no heat or no mask.
        hottest: Where the heat peaks; None where there is none.
        auroc: On test patients, in words.
        negatives: Quantiles, at equal steps from 0 to 1, of the probability of test patients
            without the finding; empty where they are not known.
    """

    inLung: float | None
    hottest: HottestPart | None
    auroc: str | None
    negatives: list[float]


class HeatPart(TypedDict):
    """Raw cells row by row, and the image's place on them: x, y, width, height as shares."""

    rows: int
    columns: int
    cells: list[float]
    content: list[float]


class MaskingPart(TypedDict):
    """One masking's answer; findings and heat in the order of the labels.

    Attributes:
        margin: Of the loose masking.
        fill: What the network was given in place of the removed pixels, 0..1.
        chance: Share of the lungs in heat that is even over all that counts; None without lungs.
        confined: Whether heat can only lie in what was kept, see `SaliencyMap.confined`.
    """

    margin: float
    fill: float
    chance: float | None
    confined: bool
    noFinding: float
    findings: list[FindingPart]
    heat: list[HeatPart]
    method: str


class PlantedPart(TypedDict):
    """The image with a synthetic lesion in it, and the answers to that picture.

    Attributes:
        kind: A key of `lesions.KINDS`.
        x: Of its middle, in pixels of the picture sent.
        y: Of its middle, likewise.
        diameter: In pixels of the picture sent.
        image: The picture.
        peak: Largest heat of all labels and maskings.
        maskings: Answers per masking.
    """

    kind: str
    x: float
    y: float
    diameter: float
    image: ImagePart
    peak: float
    maskings: dict[str, MaskingPart] | None


class ProbesPart(TypedDict):
    """Probabilities per margin, and those with the lungs removed."""

    margins: list[float]
    curves: list[list[float]]
    outside: list[float] | None


class DoubtPart(TypedDict):
    """Why the image may not be what the models can read, and the remedy's name, if there is one."""

    message: str
    remedy: str | None


class Payload(TypedDict, total=False):
    """What the viewer may be sent. A payload adds to those before it of the same study.

    Attributes:
        run: Number of this payload, higher than those of all before it: the viewer looks at each,
            and at none from before a Clear or a Stop, which may come after it.
        study: Identity of the image. Another one starts anew, and then the picture must be there.
        clear: Back to the empty page.
        failed: No answer will come to what was asked.
        reason: Why, in words.
        gone: That the image is no longer here, so that it has to be sent again.
        stage: What is being done, in words; None when all is there.
        synthetic: Whether the image is a computed one.
        doubts: Why the image may not be what the models can read.
        withheld: Whether the numbers are held back for them.
        corrections: How many corrections of the mask can be undone.
        case: A ZIP that was asked for, as a data URL.
        image: The picture.
        fine: The same in full, once it was asked for.
        colours: 256 x RGB from no heat to the peak.
        ramp: Shares of the peak up to which heat is clear, and from which it has its full opacity.
        sideColours: RGB of each side's outline.
        lesions: Smallest and largest diameter of what can be planted, by the lungs' height.
        lungs: The mask; None where there is none.
        peak: Largest heat of all labels and maskings.
        maskings: Answers per masking; None while withheld.
        labels: The findings, in order.
        probes: What the answers hang on; None before it is known.
        planted: The image with a lesion planted; None where there is none.
    """

    run: int
    study: str
    clear: bool
    failed: bool
    reason: str
    gone: bool
    stage: str | None
    synthetic: bool
    doubts: list[DoubtPart]
    withheld: bool
    corrections: int
    case: str
    image: ImagePart
    fine: FinePart
    colours: list[int]
    ramp: list[float]
    sideColours: dict[str, list[int]]
    lesions: dict[str, list[float]]
    lungs: LungsPart | None
    peak: float
    maskings: dict[str, MaskingPart] | None
    labels: list[LabelPart]
    probes: ProbesPart | None
    planted: PlantedPart | None


_RUNS: Final = itertools.count(time.time_ns() // 1000)
"""Begins at the time in microseconds, so that a server's numbers follow those of the one before."""


def payload(**parts: Unpack[Payload]) -> Payload:
    """A payload with a number of its own."""
    return {"run": next(_RUNS), **parts}


def image_part(analysis: Analysis) -> Payload:
    """The picture and what does not change with the mask. Sent once per upload.

    The grey levels are those of `rendering.grey`, losslessly.
    """
    source = analysis.radiograph
    shown = for_display(analysis, longest_px=IMAGE_PX).radiograph
    height, width = shown.hw
    return {
        "image": {
            "url": _data_url(np.rint(shown.pixels * 255).astype(np.uint8)),
            "width": width,
            "height": height,
            "native": list(source.hw[::-1]),
            "bits": source.source.bit_depth,
            "spacing": None if shown.spacing_mm is None else shown.spacing_mm[0],
            "range": _range(source.source),
            "windows": _windows(source.source),
            "sides": source.source.sides,
        },
        "colours": HEAT_COLOURS.ravel().tolist(),
        "ramp": [HEAT_FROM, HEAT_FULL],
        "lesions": {name: list(kind.diameter) for name, kind in KINDS.items()},
        "sideColours": {str(int(side)): list(colour) for side, colour in SIDE_COLOURS.items()},
    }


def _range(source: Source) -> list[float] | None:
    """Values of black and white: of a file whose low values are dense, the higher one is black."""
    if source.window is None:
        return None
    return list(source.window[::-1] if source.inverted else source.window)


def _windows(source: Source) -> list[WindowPart]:
    """The header's other windows, without those that reach beyond what the picture has kept."""
    ends = _range(source)
    if ends is None or ends[0] == ends[1]:
        return []
    black, span = ends[0], ends[1] - ends[0]
    found: list[WindowPart] = [
        {"name": name, "level": (centre - black) / span, "width": abs(width / span)}
        for name, centre, width in source.windows[1:]
    ]
    slack = 0.005
    return [
        window
        for window in found
        if slack < window["width"] < 1
        and window["level"] - window["width"] / 2 >= -slack
        and window["level"] + window["width"] / 2 <= 1 + slack
    ]


def fine_part(radiograph: Radiograph) -> Payload:
    """The picture at its native size, up to `FINE_PX`, with 16 bits. Sent when it is asked for."""
    pixels = radiograph.pixels
    placement = display_placement(radiograph.hw, longest_px=FINE_PX)
    if placement.source_hw != placement.target_hw:
        pixels = np.clip(placement.image(pixels, fill=0.0), 0, 1)
    levels = np.rint(pixels * (2**16 - 1)).astype(np.uint16)
    # A browser's canvas has 8 bits per channel.
    channels = (levels >> 8, levels & 255, np.zeros_like(levels))
    return {"fine": {"url": _data_url(np.dstack(channels).astype(np.uint8)), "deep": True}}


def lungs_part(analysis: Analysis) -> Payload:
    """The outlines of both lungs and the map of margins; null where there is no mask."""
    if analysis.lungs is None:
        return {"lungs": None}
    fine, coarse = (
        display_placement(analysis.radiograph.hw, longest_px=size) for size in (IMAGE_PX, LEVELS_PX)
    )
    shown, inside = on_display(analysis.lungs, fine), on_display(analysis.lungs, coarse).inside
    if not inside.any():
        return {"lungs": None}
    return {
        "lungs": {
            "levels": _data_url(margin_levels(inside, step=MARGIN_STEP, count=MARGIN_COUNT)),
            "step": MARGIN_STEP,
            "count": MARGIN_COUNT,
            "outlines": {str(int(side)): _outlines(shown, side) for side in Side},
        }
    }


def doubts_part(analysis: Analysis) -> list[DoubtPart]:
    """The doubts, in order."""
    return [
        {"message": doubt.message, "remedy": str(doubt.remedy) if doubt.remedy else None}
        for doubt in analysis.doubts
    ]


def case_part(archive: bytes) -> Payload:
    """A ZIP for the visitor's disk."""
    coded = base64.b64encode(archive).decode("ascii")
    return {"case": f"data:application/zip;base64,{coded}"}


def findings_part(analysis: Analysis, specs: Specs) -> Payload:
    """Numbers and heat of every masking that was read."""
    return {
        "peak": analysis.peak,
        "maskings": {
            str(mode): _masking(analysis, reading, specs.get(mode))
            for mode, reading in analysis.readings.items()
        },
        "labels": [{"name": label.display, "meaning": label.meaning} for label in FINDINGS],
    }


def planted_part(
    analysis: Analysis, specs: Specs, *, kind: str, centre: tuple[float, float], diameter: float
) -> Payload:
    """The answers to an image with a lesion planted in it.

    Args:
        analysis: Of that image.
        specs: The classifiers'.
        kind: A key of `lesions.KINDS`.
        centre: (x, y) in pixels of the radiograph.
        diameter: As a fraction of the lungs' height.
    """
    image = image_part(analysis)["image"]
    found = findings_part(analysis, specs)
    scale = image["width"] / analysis.radiograph.hw[1]
    box = None if analysis.lungs is None else bounding_box(analysis.lungs.inside)
    height = 0 if box is None else box[3] - box[1]
    return {
        "planted": {
            "kind": kind,
            "x": scale * centre[0],
            "y": scale * centre[1],
            "diameter": scale * diameter * height,
            "image": image,
            "peak": found["peak"],
            "maskings": found["maskings"],
        }
    }


def probes_part(probes: Probes | None) -> Payload:
    """The tightness curve and the outside-lung probe; null before they are known."""
    if probes is None:
        return {"probes": None}
    outside = probes.outside
    return {
        "probes": {
            "margins": [margin for margin, _ in probes.curve],
            "curves": [found.probabilities.tolist() for _, found in probes.curve],
            "outside": None if outside is None else outside.probabilities.tolist(),
        }
    }


def evidence_part(findings: Findings, index: int, label: LabelSpec | None) -> EvidencePart:
    """What the answer at an index is worth, by what the weights tell of its label."""
    return {
        "p": float(findings.probabilities[index]),
        "proven": bool(findings.beats_chance[index]),
        "ratio": _score_ratio(label, findings.probabilities[index]),
        "points": _points(label) if label else [],
    }


def _masking(analysis: Analysis, reading: Reading, spec: CheckpointSpec | None) -> MaskingPart:
    findings = reading.findings
    labels = {label.key: label for label in spec.labels} if spec else {}
    return {
        "margin": reading.margin,
        "fill": reading.fill,
        "chance": reading.chance,
        "confined": reading.saliency[0].confined,
        "noFinding": findings.no_finding,
        "findings": [
            {
                **evidence_part(findings, index, labels.get(key)),
                "inLung": reading.places[index].in_lungs,
                "hottest": _hottest(analysis, reading.places[index]),
                "auroc": _words(spec.auroc(key)) if spec else None,
                "negatives": list(labels[key].negatives) if key in labels else [],
            }
            for index, key in enumerate(findings.labels)
        ],
        "heat": [_heat(saliency) for saliency in reading.saliency],
        "method": reading.saliency[0].method,
    }


def _hottest(analysis: Analysis, place: HeatPlace) -> HottestPart | None:
    if place.hottest is None:
        return None
    x, y = place.hottest
    height, width = analysis.radiograph.hw
    shown = display_placement((height, width), longest_px=IMAGE_PX).target_hw
    side = 0
    if analysis.lungs and place.hottest_in_lungs:
        side = analysis.lungs.sides[min(height - 1, int(y)), min(width - 1, int(x))]
    return {
        "x": x * shown[1] / width,
        "y": y * shown[0] / height,
        "inLungs": place.hottest_in_lungs,
        "side": Side(side).name.lower() if side else None,
    }


def _points(label: LabelSpec) -> list[PointPart]:
    """The operating points a checkpoint offers, the balanced one first."""
    return [
        {
            "name": point.name,
            "threshold": point.threshold,
            "sensitivity": _words(point.sensitivity),
            "specificity": _words(point.specificity),
            "ratio": _ratio(point),
        }
        for point in label.points
    ]


def _score_ratio(label: LabelSpec | None, probability: float) -> RatioPart | None:
    if label is None or label.score_ratio is None:
        return None
    ratio = label.score_ratio.at(float(probability))
    return {"value": ratio.value, "low": ratio.low, "high": ratio.high}


def _ratio(point: OperatingPoint) -> RatioPart | None:
    """How much more often patients with the finding are called than those without."""
    ratio, sensitivity, specificity = (
        point.likelihood_ratio,
        point.sensitivity,
        point.specificity,
    )
    if ratio is not None:
        return {"value": ratio.value, "low": ratio.low, "high": ratio.high}
    if sensitivity is None or specificity is None or specificity.value >= 1.0:
        return None
    return {"value": sensitivity.value / (1.0 - specificity.value), "low": None, "high": None}


def _heat(saliency: SaliencyMap) -> HeatPart:
    """Raw cells, and where the image lies on them: x, y, width, height as shares of the grid."""
    placement = saliency.placement
    (top, left), (height, width) = placement.offset_hw, placement.content_hw
    rows, columns = placement.target_hw
    return {
        "rows": saliency.grid.shape[0],
        "columns": saliency.grid.shape[1],
        "cells": [float(f"{value:.6g}") for value in saliency.grid.ravel()],
        "content": [left / columns, top / rows, width / columns, height / rows],
    }


def _outlines(lungs: LungMask, side: Side) -> list[list[int]]:
    """Closed polygons of one lung, each as x0, y0, x1, y1, ... in pixels of the picture sent."""
    contours, _ = cv2.findContours(
        lungs.side(side).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_TC89_L1
    )
    return [[int(v) for v in contour.ravel()] for contour in contours if len(contour) > 2]


def _words(estimate: Estimate | None) -> str | None:
    return None if estimate is None else estimate.words(2)


def _data_url(image: NDArray[np.uint8]) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode('ascii')}"
