"""The parts of the page that show an analysis, as HTML. Pure functions, no gradio.

Every text that may come from a file is escaped here, and pictures travel as data URLs, so that no
radiograph is left behind on the server's disk.
"""

from collections.abc import Mapping
from html import escape
from typing import Final

from cxrdemo import __version__
from cxrdemo.figure_names import FigureName
from cxrdemo.labels import FINDING_KEYS, NOTICE, SYNTHETIC, display_name
from cxrdemo.results import Analysis, MaskingMode
from cxrdemo.specs import CheckpointSpec, Estimate

HEADER: Final = f"""
<header class="cxr-header">
  <h1>Chest X-ray viewer</h1>
  <p class="cxr-badge" role="note">{NOTICE}</p>
  <p class="cxr-hint">Upload de-identified images only</p>
</header>
"""

PHANTOM: Final = f"{SYNTHETIC}: a computed phantom, not a patient."
"""The remark on a bundled example."""


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


def note(text: str, *, is_error: bool = False) -> str:
    """One line of status, or the reason why something failed."""
    words = escape(text)
    # The line may be too narrow for all of it; of an error the rest is scrolled to, by keys too.
    kind, more = (" cxr-error", 'role="alert" tabindex="0"') if is_error else ("", 'role="status"')
    return f'<p class="cxr-status{kind}" {more} title="{words}">{words}</p>'


def ahead(count: int) -> str:
    """That others are served first."""
    return f"Waiting: {count} {'reading' if count == 1 else 'readings'} before yours."


def status(analysis: Analysis | None) -> str:
    """One line: what was opened, whether something is unusual, and how long it took."""
    if analysis is None:
        return note("Drop a frontal chest X-ray anywhere, or open a synthetic example.")
    source = analysis.radiograph.source
    height, width = analysis.radiograph.hw
    parts = [f"{source.kind}, {width} x {height} px", f"{sum(analysis.seconds.values()):.1f} s"]
    remarks = [warning for warning in analysis.warnings if warning != PHANTOM]
    if len(remarks) > 1:
        remarks = [f"{remarks[0]} And {len(remarks) - 1} more below."]
    if source.synthetic:  # the first remark is its story, which is more than its format
        return note(" · ".join([f"{SYNTHETIC} example", *remarks, *parts]))
    return note(" · ".join([*parts, *remarks]))


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
    return (
        f"{_warnings(analysis.warnings)}"
        f'<dl class="cxr-facts">{rows}</dl><ol class="cxr-steps">{steps}</ol>'
        f"{_provenance(analysis)}"
    )


def _warnings(warnings: tuple[str, ...]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<ul class="cxr-warnings" aria-label="Warnings">{items}</ul>'


def about(
    segmenter: CheckpointSpec | None, classifiers: Mapping[MaskingMode, CheckpointSpec | None]
) -> str:
    """What the page can and cannot do, with every checkpoint's measured figures."""
    installed = {mode: spec for mode, spec in classifiers.items() if spec}
    return (
        '<article class="cxr-article" tabindex="0" aria-label="About"><h2>What this is</h2>'
        "<p>A research demonstration, not a medical device. It must not be used to diagnose, to "
        "exclude or to decide anything about a patient. Upload de-identified images only; an "
        "upload is deleted as soon as it is read, the files of a batch and what was made of any "
        "image when the tab closes or the server ends.</p>"
        "<h2>What the numbers mean</h2>"
        "<p>A probability is calibrated on validation patients of one hospital. Where patients "
        "are healthier or sicker than there, it is off. A threshold was chosen on the same "
        "patients; sensitivity and specificity at it were measured on others. Where the interval "
        "of the AUROC reaches 0.5, no verdict is given. No Finding is 1 - the highest of the five "
        "and knows nothing of any other disease.</p>"
        f"{_figures_of_findings(installed)}{_figures_of_lungs(segmenter)}"
        "<h2>What heat means</h2>"
        "<p>Grad-CAM shows on a coarse grid which places raised one logit of one classifier. It "
        "does not outline a lesion, and heat in the lungs is no proof of a right reason. Masking "
        "does not prove that shortcuts are gone: compare the outside-lung probe.</p>"
        "<h2>What it cannot read</h2>"
        "<p>Lateral views, children, other body parts, photographs of films. The masking follows "
        "Miao et al., arXiv 2512.23089 (2025); margins, fill and formulas are our own choice.</p>"
        f'<p class="cxr-small">cxrdemo {__version__}</p></article>'
    )


def _figures_of_findings(specs: Mapping[MaskingMode, CheckpointSpec]) -> str:
    if not specs:
        return "<p>No classifier is installed.</p>"
    names = ("whole image" if mode is MaskingMode.NONE else str(mode) for mode in specs)
    head = "".join(f"<th scope=col>{name}</th>" for name in names)
    rows = "".join(
        f"<tr><th scope=row>{escape(display_name(key))}</th>"
        + "".join(f"<td>{_interval(spec.auroc(key))}</td>" for spec in specs.values())
        + "</tr>"
        for key in (*FINDING_KEYS, "macro")
    )
    return (
        "<h2>How good the findings are</h2><table><caption>AUROC on test patients, 95 % interval, "
        "n images with the finding (macro: the mean of the five, n images)</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _figures_of_lungs(spec: CheckpointSpec | None) -> str:
    if spec is None:
        return "<p>No lung segmenter is installed.</p>"
    rows = "".join(
        f"<tr><th scope=row>{escape(_set_name(name))}</th><td>{_interval(figure)}</td></tr>"
        for name, figure in spec.metrics.items()
        if FigureName.parse(name).measure == "dice"
    )
    return (
        "<h2>How good the lung mask is</h2><table><caption>Mean Dice on test patients, 95 % "
        f"interval, n images</caption><tbody>{rows}</tbody></table>"
    )


def _set_name(metric: str) -> str:
    key = FigureName.parse(metric).of
    return {"openist": "OpenIST"}.get(key, key.capitalize())


def _interval(estimate: Estimate | None) -> str:
    return "not measured" if estimate is None else estimate.words()


def _provenance(analysis: Analysis) -> str:
    """Checkpoints and seconds, in one line of small print."""
    used = "; ".join(f"{use.role}: {use.name}" for use in analysis.checkpoints) or "none"
    seconds = ", ".join(f"{stage} {value:.2f}" for stage, value in analysis.seconds.items())
    return f'<p class="cxr-small">Checkpoints: {escape(used)}. Seconds: {escape(seconds)}.</p>'
