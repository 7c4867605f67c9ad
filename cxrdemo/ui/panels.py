"""The parts of the page that show an analysis, as HTML. Pure functions, no gradio.

Every text that may come from a file is escaped here, and pictures travel as data URLs, so that no
radiograph is left behind on the server's disk.
"""

import base64
import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cxrdemo.checkpoints import CheckpointSpec, Estimate, LabelSpec
from cxrdemo.labels import FINDINGS, NO_FINDING, display_name
from cxrdemo.rendering import (
    HEAT_COLOURS,
    NOTICE,
    UNPROVEN,
    encode_png,
    for_display,
    grey,
    heat_overlay,
    mask_overlay,
    masked_view,
    verdict,
)
from cxrdemo.results import Analysis, MaskingMode, Reading, bounding_box

HEADER: Final = f"""
<header class="cxr-header">
  <h1>Chest X-ray viewer</h1>
  <p class="cxr-badge" role="note">{NOTICE}</p>
  <p class="cxr-hint">Upload de-identified images only</p>
</header>
"""

SYNTHETIC: Final = "SYNTHETIC: a computed phantom, not a patient."
"""The remark that marks an analysis of a bundled example."""

_PICTURE_PX: Final = 768
_TILE_PX: Final = 384
"""Longest sides: about twice what a 1440 px wide screen gives a picture and a heat map."""


def missing_parts(
    segmenter: CheckpointSpec | None, classifiers: Mapping[MaskingMode, CheckpointSpec | None]
) -> str:
    """A notice that names the checkpoints that are not installed; empty if none is missing."""
    missing = [] if segmenter else ["lung segmenter"]
    missing += [
        f"classifier for masking '{mode}'" for mode, spec in classifiers.items() if not spec
    ]
    if not missing:
        return ""
    return (
        '<div class="cxr-warnings" role="note"><p><strong>Checkpoints are missing:</strong> '
        f"{escape(', '.join(missing))}. What they would show is left empty; nothing is made up. "
        "Put the checkpoint folder in place, or name another with <code>--checkpoints</code>."
        "</p></div>"
    )


def welcome() -> str:
    """What stands in the place of a result before there is one."""
    return (
        '<section class="cxr-welcome"><h2>No image yet</h2>'
        "<p>Drop a frontal chest X-ray (DICOM, PNG or JPEG) or open a synthetic example.</p>"
        "<p>You will see the lung mask, the image as the classifier is given it, the probability "
        f"of {escape(_enumerate(label.display for label in FINDINGS))}, and a heat map "
        "of where each comes from.</p></section>"
    )


def status(analysis: Analysis) -> str:
    """One line: what was opened, and how long it took."""
    source = analysis.radiograph.source
    height, width = analysis.radiograph.hw
    kind = f"{source.kind}, {width} x {height} px, read in {sum(analysis.seconds.values()):.1f} s"
    synthetic = "<strong>SYNTHETIC</strong> example. " if SYNTHETIC in source.warnings else ""
    return f'<p class="cxr-status" role="status">{synthetic}{escape(kind)}</p>'


def result(analysis: Analysis, mode: MaskingMode, spec: CheckpointSpec | None) -> str:
    """Everything an analysis has to show for one masking.

    Args:
        analysis: At native resolution.
        mode: The masking to show.
        spec: Of the classifier for that masking, for its measured operating points.
    """
    reading = analysis.readings.get(mode)
    shown = for_display(analysis, longest_px=_PICTURE_PX)
    return (
        f"{_warnings(analysis.warnings)}"
        '<div class="cxr-result">'
        f'<div class="cxr-pictures">{_mask_picture(shown)}{_masked_picture(shown, mode)}</div>'
        f"{_probabilities(analysis, mode, spec)}"
        f"{_heat_maps(analysis, reading) if reading else ''}"
        "</div>"
        f"{_provenance(analysis)}"
    )


def how_read(analysis: Analysis) -> str:
    """How the file became a radiograph: format, steps, spacing, view and technical tags."""
    radiograph, source = analysis.radiograph, analysis.radiograph.source
    spacing = radiograph.spacing_mm
    facts = {
        "File": f"{source.kind}, {source.bit_depth} bits per sample",
        "Size": f"{radiograph.hw[1]} x {radiograph.hw[0]} px",
        "Pixel spacing": f"{spacing[0]:.3g} x {spacing[1]:.3g} mm" if spacing else "not stated",
        "View": radiograph.view or "not stated",
        **source.tags,
    }
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()
    )
    steps = "".join(f"<li>{escape(step)}</li>" for step in source.steps)
    return f'<dl class="cxr-facts">{rows}</dl><ol class="cxr-steps">{steps}</ol>'


def _warnings(warnings: tuple[str, ...]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<ul class="cxr-warnings" aria-label="Warnings">{items}</ul>'


def _mask_picture(shown: Analysis) -> str:
    if shown.lungs is None:
        return _picture(grey(shown.radiograph), "X-ray", "X-ray", "no lung mask")
    legend = (
        '<span class="cxr-right">patient&rsquo;s right</span> '
        '<span class="cxr-left">patient&rsquo;s left</span>'
    )
    image = mask_overlay(shown.radiograph, shown.lungs)
    return _picture(image, "X-ray with the outline of both lungs", "Lung mask", legend)


def _masked_picture(shown: Analysis, mode: MaskingMode) -> str:
    reading = shown.readings.get(mode)
    if reading is None:
        return (
            f'<figure class="cxr-picture cxr-absent"><p>Masking &ldquo;{mode}&rdquo; gave '
            "no result. The remarks above say why.</p></figure>"
        )
    return _picture(
        # All three channels are equal, and one is a third of the bytes.
        masked_view(shown.radiograph, reading)[..., 0],
        f"X-ray as the classifier is given it, masking {mode}",
        f"Masking: {mode}",
        escape(_kept_in_words(shown, reading)),
    )


def _kept_in_words(shown: Analysis, reading: Reading) -> str:
    """What a masking keeps; the margin in mm only where the file gives a spacing."""
    if reading.mode is MaskingMode.NONE:
        return "the whole image"
    if reading.mode is MaskingMode.TIGHT:
        return "the lungs alone"
    words = f"the lungs and {reading.margin:.0%} of their height around"
    box = bounding_box(shown.lungs.inside) if shown.lungs else None
    if box and shown.radiograph.spacing_mm:
        millimetres = reading.margin * (box[3] - box[1]) * shown.radiograph.spacing_mm[0]
        words += f", {millimetres:.0f} mm at the detector"
    return words


def _picture(image: NDArray[np.uint8], alt: str, title: str, caption: str) -> str:
    """A picture with its side markers; title and caption are HTML."""
    return (
        '<figure class="cxr-picture"><div class="cxr-frame">'
        f'<img src="{_data_url(image)}" alt="{escape(alt)}">'
        '<span class="cxr-marker cxr-marker-r" title="Patient&rsquo;s right">R</span>'
        '<span class="cxr-marker cxr-marker-l" title="Patient&rsquo;s left">L</span></div>'
        f"<figcaption><strong>{title}</strong> <small>{caption}</small></figcaption></figure>"
    )


def _probabilities(analysis: Analysis, mode: MaskingMode, spec: CheckpointSpec | None) -> str:
    reading = analysis.readings.get(mode)
    if reading is None:
        return (
            '<section class="cxr-panel" aria-label="Probabilities"><h2>Probability</h2>'
            f"<p>No finding is shown for masking '{mode}'.</p></section>"
        )
    rows = "".join(
        _probability_row(
            analysis,
            reading,
            index,
            spec.labels[index] if spec else None,
            spec.auroc(key) if spec else None,
        )
        for index, key in enumerate(reading.findings.labels)
    )
    no_finding = reading.findings.no_finding
    compared = _compared(
        {other: r.findings.no_finding for other, r in analysis.readings.items()}, mode
    )
    return (
        f'<section class="cxr-panel" aria-label="Probabilities, masking {mode}">'
        f"<h2>Probability <small>masking {mode}</small></h2>{rows}"
        '<div class="cxr-row cxr-derived" data-label="No_Finding">'
        f'<div class="cxr-line"><span>{NO_FINDING.display}</span><b>{no_finding:.2f}</b></div>'
        f'{compared}<p class="cxr-small">derived: 1 - the highest of the five</p></div></section>'
    )


def _probability_row(
    analysis: Analysis,
    reading: Reading,
    index: int,
    label: LabelSpec | None,
    auroc: Estimate | None,
) -> str:
    findings = reading.findings
    name = display_name(findings.labels[index])
    value, threshold = float(findings.probabilities[index]), float(findings.thresholds[index])
    if findings.beats_chance[index]:
        word = "above" if findings.above[index] else "below"
        judged = f"{word} {threshold:.2f}"
    else:
        word, judged = "unproven", UNPROVEN
    compared = _compared(
        {mode: float(r.findings.probabilities[index]) for mode, r in analysis.readings.items()},
        reading.mode,
    )
    return (
        f'<div class="cxr-row {word}" data-label="{escape(findings.labels[index])}">'
        f'<div class="cxr-line"><span>{escape(name)}</span>'
        f"<em>{judged}</em><b>{value:.2f}</b></div>"
        f'<div class="cxr-bar" aria-hidden="true"><i style="width:{value:.1%}"></i>'
        f'<u style="left:{threshold:.1%}"></u></div>'
        f"{compared}{_measured(label, auroc)}</div>"
    )


def _compared(values: Mapping[MaskingMode, float], chosen: MaskingMode) -> str:
    """The three maskings' values side by side, the chosen one marked."""
    parts = (
        f"<span{' class=cxr-chosen' if mode is chosen else ''}>{mode} {value:.2f}</span>"
        for mode, value in values.items()
    )
    return f'<p class="cxr-small cxr-compared">{" ".join(parts)}</p>'


def _measured(label: LabelSpec | None, auroc: Estimate | None) -> str:
    """What the weights and their threshold were measured to do on test patients."""
    lines = []
    if auroc is not None:
        lines.append(f"on test patients: AUROC {_interval(auroc)}")
    if label is not None:
        rates = {"sensitivity": label.sensitivity, "specificity": label.specificity}
        words = [f"{name} {_interval(found)}" for name, found in rates.items() if found]
        if words:
            lines.append(f"at this threshold: {', '.join(words)}")
    return "".join(f'<p class="cxr-small">{escape(line)}</p>' for line in lines)


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f}-{estimate.high:.2f}, n={estimate.n})"


def _heat_maps(analysis: Analysis, reading: Reading) -> str:
    tiles_of = for_display(analysis, longest_px=_TILE_PX)
    shown = tiles_of.readings[reading.mode]
    tiles = "".join(
        _picture(
            heat_overlay(tiles_of.radiograph, heat, peak=analysis.peak),
            f"Heat map of {display_name(heat.label)}, masking {reading.mode}",
            escape(display_name(heat.label)),
            f"{verdict(reading.findings, index)}{_share_in_lungs(reading.cam_in_lung[index])}",
        )
        for index, heat in enumerate(shown.saliency)
    )
    rows, columns = shown.saliency[0].grid.shape
    return (
        '<section class="cxr-heat" aria-label="Heat maps">'
        f'<div class="cxr-scale"><h2>{escape(shown.saliency[0].method)}</h2>'
        f'<span>no heat</span><img src="{_data_url(HEAT_COLOURS[None])}" alt="">'
        "<span>most heat</span><small>One scale shared by all labels and maskings; "
        f"{rows} x {columns} cells, interpolated.</small></div>"
        f'<div class="cxr-tiles">{tiles}</div></section>'
    )


def _share_in_lungs(share: float) -> str:
    return "" if math.isnan(share) else f"<br>{share:.0%} of heat in lungs"


def _provenance(analysis: Analysis) -> str:
    """Checkpoints and seconds, in one line of small print."""
    used = "; ".join(f"{use.role}: {use.name}" for use in analysis.checkpoints) or "none"
    seconds = ", ".join(f"{stage} {value:.2f}" for stage, value in analysis.seconds.items())
    return f'<p class="cxr-small">Checkpoints: {escape(used)}. Seconds: {escape(seconds)}.</p>'


def _data_url(image: NDArray[np.uint8]) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode('ascii')}"


def _enumerate(names: Iterable[str]) -> str:
    """Such as "Mass, Nodule and Edema"."""
    *first, last = names
    return f"{', '.join(first)} and {last}"
