"""Samples as stored become grey values in 0..1, 1 dense.

Rasters by the range of their type; DICOM by modality transform, VOI transform and inversion, in
the order of the standard (PS3.4 N.2). docs/reading-files.md tells which rule decides what.

All is done over tables of values or over strips of rows: beside the samples there is never more
than one float32 image of their size.
"""

import math
from collections.abc import Callable
from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrdemo.files.header import PALETTE, Header, Table, palette_table, windows_of
from cxrdemo.files.journal import Journal
from cxrdemo.files.stored import Stored

_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601, section 2.5.1."""

_COLOURED_SPREAD: Final = 0.1
_COLOURED_SHARE: Final = 0.05
"""A pixel is coloured if its channels differ by more than the first; a picture, if more than the
second share of its pixels are. Annotations in colour stay below, photographs lie far above."""

_FULL_RANGE_BITS: Final = (8, 10, 12, 14, 16)
_FILLED_SHARE: Final = 0.75
"""Values that fill less than this share of the smallest range of bits are stretched instead."""

_STRIP_PIXELS: Final = 2**20

_NOT_FOR_DISPLAY: Final = (
    "1.2.840.10008.5.1.4.1.1.12.1",
    "1.2.840.10008.5.1.4.1.1.12.2",
)
"""X-ray angiography and radiofluoroscopy: their modality table leads back to X-ray intensity."""

Grey = NDArray[np.float32]


def raster_to_grey(
    samples: NDArray[Any], journal: Journal, *, palette: NDArray[np.float32] | None = None
) -> tuple[Grey, float]:
    """Samples of a picture as grey in 0..1, with the alpha laid over black; and `colourfulness`.

    Args:
        samples: (H, W) grey or indices, or (H, W, C) with 2 to 4 channels of colour or alpha.
        journal: Told what was done.
        palette: float32 (N, 4), the RGBA of each index in 0..1.
    """
    if palette is not None:
        return _through_palette(samples, palette, journal)
    if samples.ndim == 2:
        return _range_to_unit(samples, journal), 0.0
    if samples.shape[2] == 2:
        grey, alpha = samples[..., 0], samples[..., 1]
        if not alpha.all():  # what cannot be seen has no part in the range
            grey = np.where(alpha > 0, grey, grey.dtype.type(0))
        return _over_black(_range_to_unit(grey, journal), alpha, journal), 0.0
    low, high = _ends_of_colours(samples, journal)
    grey, colourfulness = _luma(
        samples.shape[:2], lambda rows: _between(samples[rows, :, :3], low, high), journal
    )
    if samples.shape[2] == 4:
        grey = _over_black(grey, samples[..., 3], journal)
    return grey, colourfulness


def _over_black(grey: Grey, alpha: NDArray[Any], journal: Journal) -> Grey:
    full = np.iinfo(alpha.dtype).max
    if alpha.min() < full:
        for rows in _strips(grey.shape):
            grey[rows] *= alpha[rows] / np.float32(full)
        journal.did("Laid the transparent parts over black")
    return grey


def _range_to_unit(samples: NDArray[Any], journal: Journal) -> Grey:
    """Scales grey samples to 0..1: 8 bits by their type, more by what they fill of it."""
    if samples.dtype == np.uint8:
        journal.window = (0.0, 255.0)
        return cast(Grey, np.divide(samples, np.float32(255), dtype=np.float32))
    if samples.dtype == np.uint16:
        low, high = int(samples.min()), int(samples.max())
        full = _filled_range(low, high, journal)
        if full is None:
            return _stretched(samples, low, high, journal)
        journal.window = (0.0, float(full))
        return cast(Grey, np.divide(samples, np.float32(full), dtype=np.float32))
    if samples.dtype.kind != "f":
        return _stretched(samples, int(samples.min()), int(samples.max()), journal)
    valid = np.isfinite(samples)
    if valid.all():
        return _stretched(samples, float(samples.min()), float(samples.max()), journal)
    journal.remark("Some pixels hold no value; they are shown black.")
    known = samples[valid]
    ends = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    stretched = _stretched(np.where(valid, samples, ends[0]), *ends, journal)
    stretched[~valid] = 0.0
    return stretched


def _filled_range(low: int, high: int, journal: Journal) -> int | None:
    """The end of the smallest range of bits that holds the values; None if they do not fill it."""
    bits = next(bits for bits in _FULL_RANGE_BITS if high < 2**bits)
    if high - low < _FILLED_SHARE * (2**bits - 1):
        return None
    if bits < 16:
        journal.did(f"Scaled by the full range of {bits} bits, as no value needs more")
    return int(2**bits) - 1


def _ends_of_colours(samples: NDArray[Any], journal: Journal) -> tuple[int, int]:
    """The values of (H, W, 3 or 4) colours that become 0 and 1, by the rules of grey ones."""
    if samples.dtype == np.uint8:
        return 0, 255
    low, high = 2**16, 0
    for rows in _strips(samples.shape):
        strip = samples[rows]
        seen = strip[strip[..., 3] > 0, :3] if strip.shape[-1] == 4 else strip
        if seen.size:
            low, high = min(low, int(seen.min())), max(high, int(seen.max()))
    full = _filled_range(low, high, journal)
    if full is not None:
        return 0, full
    if low < high:
        journal.did(f"Scaled from the image's own range, {low} to {high}")
    return min(low, high), max(high, low + 1)


def _between(samples: NDArray[Any], low: int, high: int) -> Grey:
    """Samples as their place between two values, 0..1."""
    place: Grey = np.subtract(samples, np.float32(low), dtype=np.float32)
    place /= np.float32(high - low)
    return np.clip(place, 0, 1, out=place)


def _stretched(samples: NDArray[Any], low: float, high: float, journal: Journal) -> Grey:
    """Stretches low..high to 0..1; a constant image becomes 0."""
    grey = np.zeros(samples.shape, np.float32)
    if high > low:
        journal.did(f"Scaled from the image's own range, {low:g} to {high:g}")
        journal.window = (float(low), float(high))
        # The distance of two numbers may be beyond what 64 bits hold; that of their halves is not.
        part = 1.0 if math.isfinite(high - low) else 0.5
        for rows in _strips(samples.shape):
            values = part * samples[rows].astype(np.float64)
            grey[rows] = (values - part * low) / (part * high - part * low)
    return grey


def _through_palette(
    indices: NDArray[Any], palette: NDArray[np.float32], journal: Journal
) -> tuple[Grey, float]:
    table = np.zeros((256, 4), np.float32)
    table[: len(palette)] = palette[:256]
    counts = _counts(indices)
    luma, colourfulness = _luma_of(table[:, :3], counts, journal)
    if (table[counts > 0, 3] < 1).any():
        luma = luma * table[:, 3]
        journal.did("Laid the transparent parts over black")
    return cast(Grey, cv2.LUT(indices, luma)), colourfulness


def colour_to_grey(
    samples: NDArray[Any], bits: int, is_ybr: bool, journal: Journal
) -> tuple[Grey, float]:
    """Grey from the (H, W, 3) samples of a DICOM file, and `colourfulness`."""
    used = int(samples.max()).bit_length()
    if used > bits:
        journal.remark(
            f"The header says that {bits} bits are stored, but the pixels use {used}; all {used}"
            " were taken."
        )
        bits = used
    low, high = 0, 2**bits - 1
    if is_ybr:
        journal.did("Converted YBR to RGB")
    elif bits > 8:
        low, high = _ends_of_colours(samples, journal)

    def colours(rows: slice) -> NDArray[np.float32]:
        strip = _between(samples[rows], low, high)
        return _ybr_to_rgb(strip, bits) if is_ybr else strip

    return _luma(samples.shape[:2], colours, journal)


def _ybr_to_rgb(ybr: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """PS3.3 C.7.6.3.1.2, YBR_FULL, in units of the full range."""
    y, middle = ybr[..., 0], np.float32(2 ** (bits - 1) / (2**bits - 1))
    blue, red = ybr[..., 1] - middle, ybr[..., 2] - middle
    green = y - 0.344136 * blue - 0.714136 * red
    rgb = np.stack((y + 1.402 * red, green, y + 1.772 * blue), axis=-1)
    return cast(Grey, np.clip(rgb, 0, 1).astype(np.float32))


def palette_to_grey(indices: NDArray[Any], header: Header) -> tuple[Grey, float]:
    """Grey from the indices of a DICOM palette, and `colourfulness` (PS3.3 C.7.6.3.1.5).

    Raises:
        ValueError: If the palette is missing or broken.
    """
    tables = [palette_table(header, *keywords) for keywords in PALETTE]
    # Entries of 8 bits may be written as words, or an 8-bit value into the word's upper byte.
    highest = max(int(table.entries.max()) for table in tables)
    full = 2 ** (8 if highest < 256 else 16) - 1
    codes = np.arange(256 ** min(indices.dtype.itemsize, 2))
    colours = np.stack([table.entries[_index(table, codes)] for table in tables], axis=-1)
    counts = _counts(indices)
    header.journal.did("Looked up the palette's colours")
    luma, colourfulness = _luma_of((colours / full).astype(np.float32), counts, header.journal)
    return cast(Grey, cv2.LUT(np.ascontiguousarray(indices), luma)), colourfulness


def _luma(
    hw: tuple[int, ...], colours: Callable[[slice], NDArray[np.float32]], journal: Journal
) -> tuple[Grey, float]:
    """Grey from colour, 0..1, and `Source.colourfulness`; strip by strip."""
    grey = np.empty(hw, np.float32)
    coloured, differ = 0, False
    for rows in _strips(hw):
        strip = colours(rows)
        spread = strip.max(axis=2) - strip.min(axis=2)
        if not spread.any():
            grey[rows] = strip[..., 0]
            continue
        differ = True
        coloured += int((spread > _COLOURED_SPREAD).sum())
        # The weights sum to one, but not after rounding.
        luma = np.clip(strip @ _LUMA, 0, 1)
        grey[rows] = np.where(spread > 0, luma, strip[..., 0])
    return grey, _told(coloured / grey.size, differ, journal)


def _luma_of(
    colours: NDArray[np.float32], counts: NDArray[Any], journal: Journal
) -> tuple[Grey, float]:
    """Likewise for the (N, 3) colours of a palette and the number of pixels of each."""
    spread = np.where(counts > 0, colours.max(axis=1) - colours.min(axis=1), 0)
    grey = np.where(spread > 0, np.clip(colours @ _LUMA, 0, 1), colours[:, 0]).astype(np.float32)
    share = float(counts[spread > _COLOURED_SPREAD].sum() / counts.sum())
    return grey, _told(share, bool(spread.any()), journal)


def _counts(words: NDArray[Any]) -> NDArray[np.float32]:
    """How often each value of an unsigned type of 8 or 16 bits occurs."""
    count = 256**words.dtype.itemsize
    words = np.ascontiguousarray(words)
    return cast(Grey, cv2.calcHist([words], [0], None, [count], [0, count]).ravel())


def _told(colourfulness: float, differ: bool, journal: Journal) -> float:
    if not differ:
        journal.did("Took one of three equal colour channels")
        return 0.0
    if colourfulness > _COLOURED_SHARE:
        journal.remark("This looks like a colour photograph, not an X-ray.")
    journal.did("Converted colour to grey by the ITU-R 601 luma")
    return colourfulness


def _strips(shape: tuple[int, ...]) -> list[slice]:
    """Strips of rows of about a million pixels."""
    rows = max(1, _STRIP_PIXELS // shape[1])
    return [slice(start, start + rows) for start in range(0, shape[0], rows)]


def grey_to_unit(words: NDArray[Any], header: Header, stored: Stored, is_inverted: bool) -> Grey:
    """Modality transform, VOI transform and inversion of the words of a grey DICOM image.

    Each maps one grey value to another, so the words that occur are transformed, and not every
    pixel: a tenth of the time, and the same numbers.
    """
    if words.dtype.itemsize > 2:
        return _values_to_unit(words, header, stored, is_inverted)
    words = np.ascontiguousarray(words)
    counts = _counts(words)
    present = np.flatnonzero(counts)
    table = np.zeros(counts.size, np.float32)
    table[present] = _values_to_unit(present, header, stored, is_inverted)
    return cast(Grey, cv2.LUT(words, table))


def _values_to_unit(words: NDArray[Any], header: Header, stored: Stored, is_inverted: bool) -> Grey:
    values = stored.values(words)
    padding = _padding(values, header)
    rescaled = _apply_modality(values, header)
    unit = _apply_voi(rescaled, ~padding, header, 0 if stored.signed else stored.bits)
    if _contradicts(header, is_inverted):
        header.journal.remark(
            "The header contradicts itself about which end of the scale is white; the photometric"
            " interpretation was followed. Check that bone is bright."
        )
    if is_inverted:
        unit = 1.0 - unit
        header.journal.did("Inverted, because the file is MONOCHROME1")
        header.journal.inverted = True
    if padding.any():
        unit[padding] = 0.0
        header.journal.did("Set the padding pixels to black")
    return unit.astype(np.float32)


def _contradicts(header: Header, is_inverted: bool) -> bool:
    """Whether Presentation LUT Shape speaks against the photometric interpretation.

    Both state one inversion (PS3.3 C.8.11.3.1.2).
    """
    shape = header.code("PresentationLUTShape")
    return shape in ("IDENTITY", "INVERSE") and (shape == "INVERSE") != is_inverted


def _padding(values: NDArray[np.int64], header: Header) -> NDArray[np.bool_]:
    """Pixels outside the exposed field, by Pixel Padding Value and Range Limit (PS3.3 C.7.5.1)."""
    value, limit = header.whole("PixelPaddingValue"), header.whole("PixelPaddingRangeLimit")
    if value is None:
        return np.zeros(values.shape, np.bool_)
    limits = [value, value if limit is None else limit]
    # Some writers store a negative value in the unsigned representation, or the reverse.
    if values.min() < 0:
        limits = [end - 2**16 if end >= 2**15 else end for end in limits]
    elif max(limits) < 0:
        limits = [end + 2**16 for end in limits]
    return (values >= min(limits)) & (values <= max(limits))


def _apply_modality(values: NDArray[np.int64], header: Header) -> NDArray[np.float64]:
    journal = header.journal
    if header.has("ModalityLUTSequence"):
        is_fluoroscopy = header.code("Modality") in ("RF", "XA")
        if is_fluoroscopy or (header.value("SOPClassUID") or [""])[0] in _NOT_FOR_DISPLAY:
            journal.did("Left out the modality lookup table, which is not for display here")
            return values.astype(np.float64)
        table = header.value("ModalityLUTSequence")[0]
        journal.did("Applied the modality lookup table")
        mapped: NDArray[np.float64] = table.entries[_index(table, values)].astype(np.float64)
        return mapped
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    if slope is None and intercept is None:
        return values.astype(np.float64)
    if slope == 0:
        journal.remark("The header's rescale slope is zero; the rescale was ignored.")
        return values.astype(np.float64)
    if slope is None or intercept is None:
        missing, taken = ("slope", 1) if slope is None else ("intercept", 0)
        journal.remark(f"The header states no rescale {missing}; {taken} was taken.")
    slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    journal.did(f"Rescaled: slope {slope:g}, intercept {intercept:g}")
    return np.asarray(values * slope + intercept, np.float64)


def _apply_voi(
    values: NDArray[np.float64], valid: NDArray[np.bool_], header: Header, bits: int
) -> NDArray[np.float64]:
    """Values of interest in 0..1: by the first table, else the first window of use, or min-max."""
    journal = header.journal
    if header.has("VOILUTSequence"):
        return _apply_voi_table(values, header)
    windows = windows_of(header)
    for number, (_, centre, width) in enumerate(windows, 1):
        function = _function(header, width)
        unit = windowed(values, centre, width, function)
        seen = values[valid] if valid.any() else values
        if seen.min() == seen.max() or np.ptp(unit[valid]) > 0:
            journal.window = _ends(centre, width, function)
            which = _which_of(len(windows), number)
            journal.did(f"Window centre {centre:g}, width {width:g} ({function}){which}")
            return unit
        journal.remark("A window of the header lies beside all pixel values; it was ignored.")
    if not valid.any():
        return np.zeros(values.shape)
    low, high, told = _range(float(values[valid].min()), float(values[valid].max()), header, bits)
    if high == low:
        return np.zeros(values.shape)
    journal.did(f"Scaled from {told}, {low:g} to {high:g}")
    journal.window = (low, high)
    stretched: NDArray[np.float64] = np.clip((values - low) / (high - low), 0.0, 1.0)
    return stretched


def _range(low: float, high: float, header: Header, bits: int) -> tuple[float, float, str]:
    """The ends of the grey scale where the header names no window, and whose they are.

    The image's own, unless it nearly fills that of 8 bits, which are meant to be shown as they are,
    or the one that the header states.
    """
    if any(map(header.has, ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"))):
        return low, high, "the image's own range"
    smallest = header.number("SmallestImagePixelValue")
    largest = header.number("LargestImagePixelValue")
    given = [(0.0, 255.0, "the range of 8 bits")] if bits == 8 else []
    if smallest is not None and largest is not None:
        given.append((smallest, largest, "the range that the header states"))
    for start, end, told in given:
        if start <= low and high <= end and high - low >= _FILLED_SHARE * (end - start) > 0:
            return start, end, told
    return low, high, "the image's own range"


def _apply_voi_table(values: NDArray[np.float64], header: Header) -> NDArray[np.float64]:
    tables: list[Table] = header.value("VOILUTSequence")
    table = tables[0]
    # The entries tell their bits better than the descriptor: some writers declare 16 and use 12,
    # others declare fewer than they use.
    bits = max(1, int(table.entries.max()).bit_length())
    if bits != table.bits:
        header.journal.remark(
            f"The VOI lookup table is said to have entries of {table.bits} bits, but they use"
            f" {bits}; it was scaled by what they use."
        )
    header.journal.did(f"Applied the VOI lookup table of {bits} bits{_which_of(len(tables))}")
    unit: NDArray[np.float64] = table.entries[_index(table, values)] / (2**bits - 1)
    return unit


def _function(header: Header, width: float) -> str:
    """What the header's windows are, LINEAR, LINEAR_EXACT or SIGMOID, as far as `width` allows."""
    remark = header.journal.remark
    function = header.code("VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        remark("The header's VOI function is unknown; the window is taken as LINEAR.")
        function = "LINEAR"
    if width < 1 and function == "LINEAR":
        remark("The header's window is narrower than LINEAR allows; it is taken as LINEAR_EXACT.")
        function = "LINEAR_EXACT"
    return function


def _ends(centre: float, width: float, function: str) -> tuple[float, float] | None:
    """The values that become 0 and 1; None of a curve that has no such ends."""
    if function == "SIGMOID":
        return None
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return centre - width / 2, centre + width / 2


def _which_of(count: int, number: int = 1) -> str:
    return f", {'first' if number == 1 else f'number {number}'} of {count}" if count > 1 else ""


def windowed(
    values: NDArray[np.float64], centre: float, width: float, function: str
) -> NDArray[np.float64]:
    """A window's result in 0..1 (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: After the modality transform.
        centre: Window Center.
        width: Window Width; at least 1 if LINEAR, else above 0.
        function: LINEAR, LINEAR_EXACT or SIGMOID.
    """
    if function == "SIGMOID":
        with np.errstate(over="ignore"):  # far below, exp() overflows and the result is 0
            return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)), np.float64)
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:  # a step; LINEAR of width 1
        return (values > centre).astype(np.float64)
    unit: NDArray[np.float64] = np.clip((values - centre) / width + 0.5, 0.0, 1.0)
    return unit


def _index(table: Table, values: NDArray[Any]) -> NDArray[np.intp]:
    """Which entry each value takes: the nearest, and the ends beyond (PS3.3 C.11.1.1.1).

    The first value mapped may be written with the wrong sign; it is read so that the table covers
    the values.
    """
    size, low, high = table.entries.size, float(values.min()), float(values.max())

    def covered(first: int) -> float:
        return min(high, first + size - 1) - max(low, first)

    first = max((table.first, table.first - 2**16, table.first + 2**16), key=covered)
    index: NDArray[np.intp] = np.clip(np.rint(values) - first, 0, size - 1).astype(np.intp)
    return index
