"""The HTML page of an evaluation: tables, curves and outlines in one file that loads nothing.

Pictures are embedded, dark on light, so that the page prints and can be mailed. It draws what it is
given and computes no figure.
"""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve, roc_curve

from cxrdemo.figure_names import WITHOUT_RSNA_NORMAL, FigureName
from cxrdemo.labels import display_name
from cxrdemo.results import MaskingMode
from cxrdemo.specs import Estimate
from training.measures.places import CONTRASTS

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#6a6a6a")
"""Of the findings' curves: Okabe and Ito's, which colour-blind readers tell apart."""

TRUE_COLOUR: Final = "#56b4e9"
PREDICTED_COLOUR: Final = "#e69f00"

NOTES: Final = {
    "auroc": "Area under the ROC curve; 0.5 is chance.",
    "auroc_product": "No Finding scored by the product of the complements, and not 1 - highest.",
    "ap": "Average precision; chance is the share of positives.",
    "sensitivity": "At the checkpoint's threshold; n positives.",
    "specificity": "At the checkpoint's threshold; n negatives.",
    "ece_raw": "Expected calibration error of the bare sigmoid of the logit.",
    "ece": "The same after the checkpoint's calibration.",
    "brier_raw": "Mean squared error of the bare sigmoid of the logit.",
    "brier": "The same after the checkpoint's calibration.",
    "cam_in_lung": "Mean share of a Grad-CAM map's heat that lies inside the lung mask.",
    "heat_in_kept": "The same share, in what the classifier was given.",
    "hottest_in_lungs": "How often at least half of the hottest cell is lung, over images with "
    "heat.",
    "hottest_in_kept": "How often at least half of the hottest cell was given to the classifier.",
    "lr": "Positive likelihood ratio at the checkpoint's threshold; n images.",
    "planted_hit": "Planted lesions with the hottest cell on them, or within half a cell.",
    "planted_rise": "Median rise of the logit by a planted lesion.",
    "planted_crossing": "Images not called before that are called with a planted lesion.",
    "control_rise": "Median rise by a lesion planted clear of the lungs, which should do nothing.",
    "control_crossing": "Images not called before that are called with such a control.",
    "box_hit": "Boxes with the finding's hottest cell on them, or within half a cell; exact "
    "interval over boxes.",
    "box_chance": "What a random kept cell would reach, and its range over the boxes.",
    "lung_area": "Share of the image that is lung: what heat spread evenly would give.",
    "images_per_second": "Of the network with its own resizing, one image at a time, with "
    "whatever else the machine was doing; reading and masking not counted.",
    "dice": "At the file's own size.",
    "iou": "At the file's own size.",
    "hd95_px": "95th percentile Hausdorff distance in pixels of the file.",
    **{
        f"{rate} at high {which}": f"At the threshold of high {which}; n {of}."
        for which in ("sensitivity", "specificity")
        for rate, of in (("sensitivity", "positives"), ("specificity", "negatives"))
    },
    "hd95_mm": "The same in mm; only where the file states its pixel spacing.",
}
"""What a row of a table means."""

GROUPS: Final = {
    "differences": "Paired: both maskings on the same resampled patients.",
    "outside_lung_probe": "The classifier for whole images is given only what lies OUTSIDE the "
    "lung mask. Above 0.5 it ranks by something else than the lungs: markers, devices, build, "
    "position; or by opacity that the mask leaves out, so see outside_loose_probe too.",
    **{
        f"places_{mode}": "Whether heat shows the place of lesions planted into images without "
        f"mass or nodule, and of boxes that somebody drew. Contrast {CONTRASTS[-1]:g}, where none "
        "is named."
        for mode in MaskingMode
    },
    "outside_loose_probe": "The same, without a margin around the lungs as well.",
}
"""What a group of figures means."""

STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #bbb; }
table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border: 1px solid #ccc; }
th { background: #f3f3f3; } .interval, .note { color: #555; font-size: 11px; font-weight: normal; }
.interval { white-space: nowrap; } .wide { overflow-x: auto; } img { max-width: 100%; }
pre { white-space: pre-wrap; margin: 0; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; }
.small figure { width: 19rem; } .panels figure { width: 36rem; }
figcaption { font-size: 12px; color: #333; }
@media print { body { max-width: none; margin: 0; } table { font-size: 8pt; }
  figure, tr { break-inside: avoid; } @page { size: A4 landscape; margin: 12mm; } }
"""


@dataclass(frozen=True)
class Picture:
    """An embedded picture: its bytes, their media type, and the words under it."""

    data: bytes
    media_type: str
    caption: str


@dataclass(frozen=True)
class Table:
    """A table of words: its title, its head, and rows of as many cells."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of the page after the figures."""

    title: str
    text: str
    pictures: tuple[Picture, ...]
    table: Table | None = None
    wide: bool = False


@dataclass(frozen=True, eq=False)
class LabelCurve:
    """One finding's truth, bool (N,), and probabilities (N,) before and after calibration."""

    key: str
    truth: NDArray[np.bool_]
    raw: NDArray[np.float64]
    calibrated: NDArray[np.float64]


def make_page(
    title: str,
    facts: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, Estimate]],
    columns: Sequence[str],
    sections: Sequence[Section],
) -> str:
    """The whole page.

    Args:
        title: Of the page.
        facts: What was measured, by name.
        figures: By group, then by `measure_column` or bare name.
        columns: Suffixes of figure names that become columns of a group's table.
        sections: What follows the tables.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        "<p>Research use only. Not a medical device. Each figure with its 95 % bootstrap interval "
        "over patients and its n.</p>",
        _facts_table(facts),
    ]
    for group, of_group in figures.items():
        stem = group.removesuffix(f"_{WITHOUT_RSNA_NORMAL}")
        parts.append(f"<h2>{escape(group)}</h2>")
        parts += [f"<p>{escape(GROUPS[stem])}</p>"] if stem in GROUPS else []
        parts.append(_figures_table(of_group, columns))
    for section in sections:
        kind = "pictures"
        if len(section.pictures) > 1:
            kind += " panels" if section.wide else " small"
        parts += [
            f"<h2>{escape(section.title)}</h2>",
            f"<p>{escape(section.text)}</p>",
            "" if section.table is None else _word_table(section.table),
            f'<div class="{kind}">{"".join(map(_embedded, section.pictures))}</div>',
        ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def cell(estimate: Estimate) -> str:
    """A figure as the tables show it: value, interval, n."""
    if math.isnan(estimate.value):
        return f'not defined <span class="interval">n = {estimate.n}</span>'
    return (
        f'{estimate.value:.3f}<br><span class="interval">{estimate.low:.3f} to '
        f"{estimate.high:.3f}<br>n = {estimate.n}</span>"
    )


def markdown_table(table: Table) -> str:
    """The table in Markdown, without its title."""
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def forest(rows: Sequence[tuple[str, Estimate]], *, caption: str) -> Picture:
    """Named figures with their intervals, one above the other; what is not defined is left out."""
    shown = [(name, e) for name, e in rows if not math.isnan(e.value)]
    figure = Figure(figsize=(8.0, 0.9 + 0.34 * max(1, len(shown))), layout="constrained")
    axes = figure.subplots()
    for place, (_, e) in enumerate(shown):
        axes.plot([e.low, e.high], [place, place], color=COLOURS[0], linewidth=1.5)
        axes.plot([e.value], [place], "o", color=COLOURS[0], markersize=5)
    axes.axvline(0.5, color="#999999", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [name for name, _ in shown], fontsize=8)
    axes.set(ylim=(len(shown) - 0.5, -0.5))
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    return _drawn(figure, "svg", caption)


def curves(labels: Sequence[LabelCurve], *, bins: int, caption: str) -> Picture:
    """ROC, precision-recall and reliability, a colour per finding."""
    figure = Figure(figsize=(13.0, 4.4), layout="constrained")
    roc, precision, reliability = figure.subplots(1, 3)
    for label, colour in zip(labels, COLOURS, strict=False):
        false_rate, true_rate, _ = roc_curve(label.truth, label.raw)
        name = f"{display_name(label.key)} ({int(label.truth.sum())})"
        roc.plot(false_rate, true_rate, color=colour, label=name)
        precise, recalled, _ = precision_recall_curve(label.truth, label.raw)
        # The last point, recall 0 at precision 1, is a convention and no measurement.
        precision.plot(recalled[:-1], precise[:-1], color=colour, drawstyle="steps-post")
        for chance, style in ((label.raw, ":"), (label.calibrated, "-")):
            share, mean = calibration_curve(label.truth, chance, n_bins=bins)
            reliability.plot(mean, share, style, color=colour, marker="o", markersize=3)
    for axes, x, y in (
        (roc, "1 - specificity", "sensitivity"),
        (precision, "sensitivity (recall)", "precision"),
        (reliability, "mean probability", "share of positives"),
    ):
        axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.grid(color="#dddddd", linewidth=0.6)
    for axes in (roc, reliability):
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    roc.legend(title="finding (positives)", fontsize=8, title_fontsize=8, loc="lower right")
    return _drawn(figure, "svg", caption)


def outlines(
    pixels: NDArray[np.float32],
    truth: NDArray[np.bool_],
    predicted: NDArray[np.bool_],
    caption: str,
) -> Picture:
    """An X-ray with the outlines of two masks.

    Args:
        pixels: float32 (H, W) in 0..1.
        truth: bool (H, W), drawn solid.
        predicted: bool (H, W), drawn dashed; may be empty.
        caption: Under the picture.
    """
    height, width = pixels.shape
    figure = Figure(figsize=(4.0, 4.0 * height / width), dpi=130)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(pixels, cmap="gray", vmin=0.0, vmax=1.0)
    for mask, colour, style in (
        (truth, TRUE_COLOUR, "solid"),
        (predicted, PREDICTED_COLOUR, "dashed"),
    ):
        if mask.any() and not mask.all():
            axes.contour(
                mask.astype(np.float32), levels=[0.5], colors=colour, linestyles=style, linewidths=1
            )
    axes.axis("off")
    return _drawn(figure, "png", caption)


def panel(
    image: NDArray[np.uint8],
    lungs: NDArray[np.bool_] | None,
    others: Sequence[tuple[str, NDArray[np.uint8]]],
    caption: str,
) -> Picture:
    """An X-ray with its lungs' outline, and named pictures of it beside.

    Args:
        image: uint8 (H, W, 3).
        lungs: bool (H, W), or None.
        others: Titles and pictures, uint8 (H, W, 3) each.
        caption: Under the panel.
    """
    height, width, _ = image.shape
    columns = 1 + len(others)
    figure = Figure(figsize=(2.4 * columns, 2.4 * height / width + 0.3), dpi=110)
    figure.subplots_adjust(0, 0, 1, 0.9, 0.02, 0)
    grid = figure.subplots(1, columns, squeeze=False)[0]
    for axes, (title, picture) in zip(grid, (("image", image), *others), strict=True):
        axes.imshow(picture)
        axes.set_title(title, fontsize=8)
        axes.axis("off")
    if lungs is not None and not lungs.all():
        levels = lungs.astype(np.float32)
        grid[0].contour(levels, levels=[0.5], colors=TRUE_COLOUR, linewidths=1)
    return _drawn(figure, "png", caption)


def _drawn(figure: Figure, kind: str, caption: str) -> Picture:
    stream = io.BytesIO()
    figure.savefig(stream, format=kind)
    return Picture(stream.getvalue(), {"svg": "image/svg+xml", "png": "image/png"}[kind], caption)


def _embedded(picture: Picture) -> str:
    # SVG too goes in as base64: as markup it would bring the web addresses of its vocabularies.
    data = base64.b64encode(picture.data).decode("ascii")
    words = escape(picture.caption)
    return (
        f'<figure><img alt="{words}" src="data:{picture.media_type};base64,{data}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


def _facts_table(facts: Mapping[str, Any]) -> str:
    rows = []
    for name, value in facts.items():
        shown = value if isinstance(value, str) else json.dumps(value, indent=1)
        shown = "not known" if value is None else escape(shown)
        if isinstance(value, dict):
            shown = f"<pre>{shown}</pre>"
        rows.append(f"<tr><th>{escape(name)}</th><td>{shown}</td></tr>")
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _word_table(table: Table) -> str:
    head = "".join(f"<th>{escape(word)}</th>" for word in table.head)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(word)}</td>' for word in row)}</tr>" for row in table.rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'


def _figures_table(figures: Mapping[str, Estimate], columns: Sequence[str]) -> str:
    """A row per measure, a column per finding or set; what is of neither in a column of its own."""
    table: dict[str, dict[str, Estimate]] = {}
    for name, estimate in figures.items():
        figure = FigureName.parse(name)
        column, measure = (figure.of, figure.row) if figure.of in columns else ("", name)
        table.setdefault(measure, {})[column] = estimate
    used = [c for c in ("", *columns) if any(c in row for row in table.values())]
    head = "".join(f"<th>{escape(display_name(column)) or 'all'}</th>" for column in used)
    body = []
    for measure, row in table.items():
        note = NOTES.get(measure, "")
        cells = "".join(f"<td>{cell(row[c]) if c in row else ''}</td>" for c in used)
        body.append(
            f"<tr><th>{escape(measure)}<br>"
            f'<span class="note">{escape(note)}</span></th>{cells}</tr>'
        )
    return f'<div class="wide"><table><tr><th>figure</th>{head}</tr>{"".join(body)}</table></div>'
