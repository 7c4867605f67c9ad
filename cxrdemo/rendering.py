"""From an analysis to pictures: RGB arrays, PNG bytes and one figure for a report.

Nothing here computes a result, and no X-ray is brightened or darkened: a pixel that carries no
outline and no heat keeps its grey value to the bit.
"""

import textwrap
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cxrdemo.labels import FINDINGS, NO_FINDING, NOTICE, SYNTHETIC, display_name
from cxrdemo.masking import apply_mask
from cxrdemo.placement import Placement
from cxrdemo.radiograph import MIN_READABLE_PX, Radiograph
from cxrdemo.results import Analysis, LungMask, MaskingMode, Reading, SaliencyMap, Side

UNPROVEN: Final = "not shown to beat chance"
"""Stands where a verdict would, for a finding that the weights do not rank better than chance."""

DOUBTFUL: Final = "doubtful image"
"""Stands where a verdict would, for an image that the models may not be able to read."""

SIDE_COLOURS: Final[Mapping[Side, tuple[int, int, int]]] = {
    Side.RIGHT: (86, 180, 233),
    Side.LEFT: (230, 159, 0),
}
"""Sky blue and orange of the Okabe-Ito palette (2008): told apart in every colour blindness."""

COLOUR_MAP: Final = "inferno"
"""Perceptually ordered, and readable without colour vision."""

HEAT_COLOURS: Final[NDArray[np.uint8]] = np.rint(
    matplotlib.colormaps[COLOUR_MAP](np.linspace(0, 1, 256))[:, :3] * 255
).astype(np.uint8)
"""uint8 (256, 3) RGB, from no heat to the shared peak."""

HEAT_FROM: Final = 0.2
"""Share of the peak up to which heat is clear: the colours down there are dark, and would veil the
X-ray where nothing was found."""

HEAT_FULL: Final = 0.65
"""Share of the peak from which heat has its full opacity."""

_LINES_PER_SIDE: Final = 400
"""An outline is one part in so many of the image's longer side: 1 px at 400, 10 px at 4000."""

_TILE_PX: Final = 256
"""Longest side of one picture in the figure."""

_DPI: Final = 100
_HEAD_PX: Final = 36
_TITLE_PX: Final = 44
_GAP_PX: Final = 10
_BAR_PX: Final = 90
_LINE_PX: Final = 13
_LEAST_CELL_PX: Final = 216
_LEAST_WIDTH_PX: Final = 1100
_SMALL_PRINT_WIDTH: Final = 190
"""Where the figure's parts lie, in pixels; the width of the small print in characters."""


def grey(radiograph: Radiograph) -> NDArray[np.uint8]:
    """The X-ray as it is, uint8 (H, W, 3)."""
    return _to_rgb(radiograph.pixels)


def mask_overlay(radiograph: Radiograph, lungs: LungMask) -> NDArray[np.uint8]:
    """The X-ray with each lung's outline in its side's colour.

    Returns:
        uint8 (H, W, 3); pixels away from an outline equal `grey`.
    """
    return _outlined(grey(radiograph), lungs)


def masked_view(radiograph: Radiograph, reading: Reading) -> NDArray[np.uint8]:
    """What the classifier was given: the kept pixels, all others of its fill. uint8 (H, W, 3)."""
    return _to_rgb(apply_mask(radiograph.pixels, reading.kept, fill=reading.fill))


def heat_overlay(
    radiograph: Radiograph,
    saliency: SaliencyMap,
    *,
    kept: NDArray[np.bool_],
    peak: float,
    opacity: float = 0.5,
) -> NDArray[np.uint8]:
    """The X-ray under one label's heat.

    Heat is not cut off at the lungs; where the network was given nothing, and could find nothing,
    none is drawn, see `SaliencyMap.confined`.

    Args:
        radiograph: The image.
        saliency: One label's map.
        kept: bool (H, W), what the classifier was given.
        peak: The heat drawn brightest. Use `Analysis.peak`, so that a faint map looks faint
            beside a strong one; 0 draws no heat.
        opacity: Share of the colour where the heat is at least `HEAT_FULL` of the peak, 0..1. Below
            that it falls, to 0 at `HEAT_FROM`.

    Returns:
        uint8 (H, W, 3); pixels with less heat equal `grey`.
    """
    base = grey(radiograph)
    if peak <= 0:
        return base
    scaled = np.clip(saliency.heat(kept) / np.float32(peak), 0, 1)
    # Between two colours of the table, so that a rounding apart is no step in colour.
    at = 255 * scaled
    low = np.minimum(at.astype(np.uint8), 254)
    below, over = HEAT_COLOURS[low].astype(np.float32), HEAT_COLOURS[low + 1].astype(np.float32)
    colours = below + (at - low)[..., None] * (over - below)
    shares = np.clip((scaled - HEAT_FROM) / (HEAT_FULL - HEAT_FROM), 0, 1)
    alpha = np.float32(opacity) * shares[..., None]
    under = base.astype(np.float32)
    blended: NDArray[np.float32] = under + alpha * (colours - under)
    return np.rint(blended).astype(np.uint8)


def for_display(analysis: Analysis, *, longest_px: int) -> Analysis:
    """The same analysis on a coarser pixel grid, so that drawing it costs little.

    Args:
        analysis: With an image of any size.
        longest_px: Longest side wanted; a smaller image is returned as it is.

    Returns:
        Image, lung mask, kept pixels and heat maps on one grid of the same aspect. Numbers and
        words are unchanged.
    """
    radiograph = analysis.radiograph
    if max(radiograph.hw) <= longest_px:
        return analysis
    smaller = display_placement(radiograph.hw, longest_px=longest_px)
    hw = smaller.target_hw
    pixels = np.clip(smaller.image(radiograph.pixels, fill=0.0), 0, 1)
    spacing = radiograph.spacing_mm
    if spacing is not None:
        ratio = (radiograph.hw[0] / hw[0], radiograph.hw[1] / hw[1])
        spacing = (spacing[0] * ratio[0], spacing[1] * ratio[1])
    lungs = analysis.lungs and on_display(analysis.lungs, smaller)
    readings = {
        mode: replace(
            reading,
            kept=smaller.mask(reading.kept),
            saliency=tuple(
                # The content of the classifier's canvas stays; only the grid to return to changes.
                replace(heat, placement=replace(heat.placement, source_hw=hw))
                for heat in reading.saliency
            ),
        )
        for mode, reading in analysis.readings.items()
    }
    return replace(
        analysis,
        radiograph=replace(radiograph, pixels=pixels, spacing_mm=spacing),
        lungs=lungs,
        readings=readings,
    )


def display_placement(hw: tuple[int, int], *, longest_px: int) -> Placement:
    """From an image's grid to the one it is shown on: of the same aspect, never a finer one."""
    if max(hw) <= longest_px:
        return Placement.stretch(hw, hw)
    fitted = Placement.letterbox(hw, (longest_px, longest_px)).content_hw
    return Placement.stretch(hw, (max(MIN_READABLE_PX, fitted[0]), max(MIN_READABLE_PX, fitted[1])))


def on_display(lungs: LungMask, placement: Placement) -> LungMask:
    """A lung mask on the grid that a placement leads to."""
    if placement.source_hw == placement.target_hw:
        return lungs
    return replace(lungs, sides=placement.labels(lungs.sides))


def verdict(analysis: Analysis, mode: MaskingMode, index: int) -> str:
    """Probability and threshold of one label in words, such as "0.31 (below 0.42)".

    Where `Analysis.verdict` gives none, the reason stands in its place.
    """
    findings = analysis.readings[mode].findings
    called = analysis.verdict(mode, index)
    if called is not None:
        words = f"{'above' if called else 'below'} {findings.thresholds[index]:.2f}"
    else:
        words = DOUBTFUL if analysis.doubts else UNPROVEN
    return f"{findings.probabilities[index]:.2f} ({words})"


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """PNG bytes of a uint8 (H, W) grey or (H, W, 3) RGB array."""
    # OpenCV orders the channels blue, green, red.
    channels = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    written, encoded = cv2.imencode(".png", channels)
    if not written:
        raise ValueError(f"cannot encode an array of shape {image.shape} as PNG")
    return encoded.tobytes()


def figure(analysis: Analysis) -> Figure:
    """One page for a report: a row per masking, the masked view and the heat of each label.

    Doubts about the image stand at the head, and then no finding has a verdict. Without a reading
    the page holds the X-ray alone and says that there is no finding. The figure
    is not known to pyplot, so nothing has to be closed. Its pictures are placed pixel by pixel:
    save it at its own resolution.
    """
    shown = for_display(analysis, longest_px=_TILE_PX)
    height, width = shown.radiograph.hw
    small_print, doubts = _small_print(analysis), _doubts(analysis)
    readings = list(shown.readings.values())
    rows, columns = max(1, len(readings)), 1 + len(FINDINGS) if readings else 1
    cell = max(width, _LEAST_CELL_PX) + _GAP_PX
    head = _HEAD_PX + _LINE_PX * len(doubts)
    foot = _LINE_PX * (small_print.count("\n") + 1) + _GAP_PX
    sheet = _Sheet(
        width=max(_LEAST_WIDTH_PX, _GAP_PX + columns * cell + _BAR_PX),
        height=head + rows * (height + _TITLE_PX) + foot,
        sides=_side_letters(analysis.radiograph),
    )
    middle = sheet.width / 2
    head_line = f"{SYNTHETIC}. {NOTICE}" if analysis.radiograph.source.synthetic else NOTICE
    sheet.write(middle, 8, head_line, size=12, color="firebrick", weight="bold", ha="center")
    sheet.write(middle, _HEAD_PX - 4, "\n".join(doubts), size=7, color="firebrick", ha="center")
    sheet.write(middle, sheet.height - foot, small_print, size=7, ha="center")
    if not readings:
        picture = _with_outline(grey(shown.radiograph), shown.lungs)
        title = "No classifier has read this image: no finding is shown."
        sheet.tile(middle, head, picture, title)
        return sheet.page
    for row, reading in enumerate(readings):
        top = head + row * (height + _TITLE_PX)
        pictures = [
            (
                _with_outline(masked_view(shown.radiograph, reading), shown.lungs),
                f"Masking: {reading.mode}\n{NO_FINDING.display} {reading.findings.no_finding:.2f}",
            )
        ]
        for index, heat in enumerate(reading.saliency):
            words = f"{display_name(heat.label)}\n{verdict(analysis, reading.mode, index)}"
            drawn = heat_overlay(shown.radiograph, heat, kept=reading.kept, peak=shown.peak)
            pictures.append((drawn, words))
        for column, (picture, title) in enumerate(pictures):
            sheet.tile(_GAP_PX + (column + 0.5) * cell, top, picture, title)
    method = readings[0].saliency[0].method
    sheet.scale(
        sheet.width - _BAR_PX,
        head + _TITLE_PX,
        height=rows * (height + _TITLE_PX) - _TITLE_PX,
        peak=shown.peak,
        words=f"{method} heat, one scale shared by all labels and maskings",
    )
    return sheet.page


def figure_rgb(analysis: Analysis) -> NDArray[np.uint8]:
    """The pixels of `figure`, uint8 (H, W, 3)."""
    canvas = FigureCanvasAgg(figure(analysis))
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3]


def figure_png(analysis: Analysis) -> bytes:
    """PNG bytes of `figure`. OpenCV packs them in a fraction of the time that `savefig` takes."""
    return encode_png(figure_rgb(analysis))


class _Sheet:
    """A figure whose every part has its place in pixels, from the top left corner.

    A layout that matplotlib finds by itself costs four times what the analysis does.
    """

    def __init__(self, *, width: int, height: int, sides: tuple[str, str]) -> None:
        self.width, self.height, self.sides = width, height, sides
        self.page = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)

    def write(self, x: float, y: float, words: str, *, size: float, **style: Any) -> None:
        """Plain words; a "$" from a file is no formula."""
        style.setdefault("va", "top")
        at = (x / self.width, 1 - y / self.height)
        self.page.text(*at, words, fontsize=size, parse_math=False, **style)

    def tile(self, middle: float, y: float, picture: NDArray[np.uint8], title: str) -> None:
        """A title of up to two lines, and below it a picture with the markers of its sides.

        The patient's right is on the left of a frontal X-ray.
        """
        height, width = picture.shape[:2]
        x = middle - width / 2
        self.write(middle, y + _TITLE_PX - 4, title, size=9, ha="center", va="bottom")
        top = y + _TITLE_PX
        self.page.figimage(picture, xo=round(x), yo=round(self.height - top - height))
        places = ((x + 6, "left"), (x + width - 6, "right"))
        for letter, (at, edge) in zip(self.sides, places, strict=True):
            marker = {"color": "white", "weight": "bold", "va": "bottom", "ha": edge}
            self.write(at, top + height - 6, letter, size=10, **marker)

    def scale(self, x: float, y: float, *, height: int, peak: float, words: str) -> None:
        """The colours of the heat from 0 to its peak."""
        level = np.rint(np.linspace(255, 0, height)).astype(np.uint8)
        bar = np.repeat(HEAT_COLOURS[level][:, None], 14, axis=1)
        self.page.figimage(bar, xo=round(x), yo=round(self.height - y - height))
        for share in (0.0, 0.5, 1.0):
            at = y + height * (1 - share)
            self.write(x + 20, at, f"{share * peak:.3g}", size=8, va="center")
        self.write(x + 60, y + height / 2, words, size=8, va="center", rotation=90)


def _side_letters(radiograph: Radiograph) -> tuple[str, str]:
    """What stands at the patient's right and left, with a "?" where the file does not tell."""
    mark = "?" if radiograph.source.sides == "assumed" else ""
    return f"R{mark}", f"L{mark}"


def _to_rgb(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    levels = np.rint(pixels * 255).astype(np.uint8)
    return np.repeat(levels[..., None], 3, axis=2)


def _outlined(image: NDArray[np.uint8], lungs: LungMask) -> NDArray[np.uint8]:
    drawn = image.copy()
    width = max(1, round(max(image.shape) / _LINES_PER_SIDE))
    for side, colour in SIDE_COLOURS.items():
        contours, _ = cv2.findContours(
            lungs.side(side).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(drawn, contours, -1, colour, width, cv2.LINE_AA)
    return drawn


def _with_outline(image: NDArray[np.uint8], lungs: LungMask | None) -> NDArray[np.uint8]:
    return image if lungs is None else _outlined(image, lungs)


def _doubts(analysis: Analysis) -> list[str]:
    """Why the image may not be one that the models can read, in wrapped lines."""
    messages = [f"Doubtful image: {doubt.message}" for doubt in analysis.doubts]
    return [line for message in messages for line in textwrap.wrap(message, _SMALL_PRINT_WIDTH)]


def _small_print(analysis: Analysis) -> str:
    """How to read the page, checkpoints and warnings, wrapped."""
    probabilities = (
        "Probabilities are calibrated, each with its threshold. "
        f"{NO_FINDING.display} is derived: 1 - the highest of the five."
    )
    checkpoints = "; ".join(f"{use.role}: {use.name}" for use in analysis.checkpoints) or "none"
    lungs = "" if analysis.lungs else "There is no lung mask."
    lines = [probabilities, f"Checkpoints: {checkpoints}", lungs, *analysis.warnings]
    return "\n".join(textwrap.fill(line, _SMALL_PRINT_WIDTH) for line in lines if line)
