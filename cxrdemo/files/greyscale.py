"""Samples as stored become grey values in 0..1, 1 dense.

Rasters by the range of their type; DICOM by modality transform, VOI transform and inversion.
"""

from typing import Any, Final, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut, apply_rescale, apply_windowing

from cxrdemo.files.header import code, numbers
from cxrdemo.files.journal import Journal

_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601, section 2.5.1."""

_COLOURED_SPREAD: Final = 0.1
_COLOURED_SHARE: Final = 0.05
"""A pixel is coloured if its channels differ by more than the first; a picture, if more than the
second share of its pixels are. Annotations in colour stay below, photographs lie far above."""

_FULL_RANGE_BITS: Final = (8, 10, 12, 14, 16)


def to_grey(samples: NDArray[Any], journal: Journal) -> tuple[NDArray[np.float32], float]:
    """Samples of any kind as grey in 0..1, with the alpha laid over black; and `colourfulness`."""
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    alpha = None
    if channels in (2, 4):
        alpha = samples[..., -1].astype(np.float32) / np.iinfo(samples.dtype).max
        samples = samples[..., :-1]
    values = _to_unit(samples, journal)
    grey, colourfulness = (values, 0.0) if values.ndim == 2 else _luma(values, journal)
    if alpha is not None and alpha.min() < 1.0:
        grey *= alpha
        journal.did("Laid the transparent parts over black")
    return grey, colourfulness


def _to_unit(samples: NDArray[Any], journal: Journal) -> NDArray[np.float32]:
    """Scales samples to 0..1 by the range of their type, or by their own if it is open-ended."""
    if samples.dtype == np.uint8:
        return samples.astype(np.float32) / np.float32(255)
    if samples.dtype.kind == "u" and samples.dtype.itemsize == 2:
        highest = int(samples.max())
        bits = next(bits for bits in _FULL_RANGE_BITS if highest < 2**bits)
        if bits < 16:
            journal.did(f"Scaled by the full range of {bits} bits, as no value needs more")
        return samples.astype(np.float32) / np.float32(2**bits - 1)
    valid = np.isfinite(samples)
    if not valid.all():
        journal.remark("Some pixels hold no value; they are shown black.")
    return _min_max(samples, valid, journal)


def _min_max(
    values: NDArray[Any], valid: NDArray[np.bool_], journal: Journal
) -> NDArray[np.float32]:
    """Stretches the valid values to 0..1; the rest, and a constant image, become 0."""
    wide = np.where(valid, values, np.nan).astype(np.float64)
    low, high = (np.nanmin(wide), np.nanmax(wide)) if valid.any() else (0.0, 0.0)
    if high == low:
        return np.zeros(values.shape, np.float32)
    journal.did(f"Scaled from the image's own range, {low:g} to {high:g}")
    return np.nan_to_num((wide - low) / (high - low)).astype(np.float32)


def _luma(colour: NDArray[np.float32], journal: Journal) -> tuple[NDArray[np.float32], float]:
    """Grey from colour, 0..1, and `Source.colourfulness`."""
    if colour.shape[2] == 1:
        return colour[..., 0], 0.0
    spread = colour.max(axis=2) - colour.min(axis=2)
    if not spread.any():
        journal.did("Took one of three equal colour channels")
        return colour[..., 0], 0.0
    colourfulness = float(np.mean(spread > _COLOURED_SPREAD))
    if colourfulness > _COLOURED_SHARE:
        journal.remark("This looks like a colour photograph, not an X-ray.")
    journal.did("Converted colour to grey by the ITU-R 601 luma")
    # The weights sum to one, but not after rounding.
    grey: NDArray[np.float32] = np.clip(colour @ _LUMA, 0.0, 1.0)
    return grey, colourfulness


def colour_to_grey(
    stored: NDArray[Any], header: Any, journal: Journal
) -> tuple[NDArray[np.float32], float]:
    """Grey from colour, 0..1, and `Source.colourfulness`."""
    if stored.ndim == 2:
        colour = apply_color_lut(stored, header)
        full = np.iinfo(colour.dtype).max
        journal.did("Looked up the palette's colours")
    else:
        colour, full = stored, 2 ** int(header.BitsStored) - 1
        if code(header, "PhotometricInterpretation").startswith("YBR"):
            journal.did("Converted YBR to RGB")
    return _luma(colour.astype(np.float32) / np.float32(full), journal)


def grey_to_unit(stored: NDArray[Any], header: Any, journal: Journal) -> NDArray[np.float32]:
    """Modality transform, VOI transform and inversion, in the order of the standard (PS3.4 N.2).

    Each maps one grey value to another, so the values that occur are transformed, and not every
    pixel: a tenth of the time, and the same numbers.
    """
    if stored.dtype.itemsize > 2:
        return _levels_to_unit(stored, header, journal)
    codes = np.ascontiguousarray(stored).view(f"u{stored.dtype.itemsize}")
    count = 256**stored.dtype.itemsize
    present = np.flatnonzero(cv2.calcHist([codes], [0], None, [count], [0, count]))
    table = np.zeros(count, np.float32)
    levels = present.astype(codes.dtype).view(stored.dtype)
    table[present] = _levels_to_unit(levels, header, journal)
    return cast(NDArray[np.float32], cv2.LUT(codes, table))


def _levels_to_unit(levels: NDArray[Any], header: Any, journal: Journal) -> NDArray[np.float32]:
    padding = _padding(levels, header)
    values = _apply_modality(levels, header, journal)
    unit = _apply_voi(values, ~padding, header, journal)
    if _is_inverted(header, journal):
        unit = 1.0 - unit
    if padding.any():
        unit[padding] = 0.0
        journal.did("Set the padding pixels to black")
    return unit.astype(np.float32)


def _padding(stored: NDArray[Any], header: Any) -> NDArray[np.bool_]:
    """Pixels outside the exposed field, by Pixel Padding Value and Range Limit (PS3.3 C.7.5.1)."""
    limits = [
        int(value)
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        for value in numbers(header, keyword)[:1]
    ]
    if not numbers(header, "PixelPaddingValue"):
        return np.zeros(stored.shape, np.bool_)
    if stored.dtype.kind == "i":
        # Some writers store a negative value in the unsigned representation.
        modulus = 2 ** int(header.BitsAllocated)
        limits = [value - modulus if value >= modulus // 2 else value for value in limits]
    return (stored >= min(limits)) & (stored <= max(limits))


def _apply_modality(stored: NDArray[Any], header: Any, journal: Journal) -> NDArray[np.float64]:
    if header.get("ModalityLUTSequence"):
        journal.did("Applied the modality lookup table")
        return _look_up(stored.astype(np.float64), header.ModalityLUTSequence[0], header)[0]
    slope, intercept = numbers(header, "RescaleSlope"), numbers(header, "RescaleIntercept")
    if slope and intercept and slope[0] == 0:
        journal.remark("The header's rescale slope is zero; it was ignored.")
    elif slope and intercept:
        journal.did(f"Rescaled: slope {slope[0]:g}, intercept {intercept[0]:g}")
        rescaled: NDArray[np.float64] = apply_rescale(stored, header)
        return rescaled
    return stored.astype(np.float64)


def _apply_voi(
    values: NDArray[np.float64],
    valid: NDArray[np.bool_],
    header: Any,
    journal: Journal,
) -> NDArray[np.float64]:
    """Values of interest in 0..1: by the first table, else the first window, else min-max."""
    if header.get("VOILUTSequence"):
        tables = header.VOILUTSequence
        entries, bits = _look_up(values, tables[0], header)
        journal.did(f"Applied the VOI lookup table of {bits} bits{_first_of(len(tables))}")
        full = 2**bits - 1
        if entries.max() < full / 4:
            journal.remark("The VOI lookup table uses little of its range: the image is dark.")
        unit: NDArray[np.float64] = entries / full
        return unit
    centres, widths = numbers(header, "WindowCenter"), numbers(header, "WindowWidth")
    function = code(header, "VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        journal.remark("The header's VOI function is unknown; the window is taken as LINEAR.")
        function = "LINEAR"
    if centres and widths:
        centre, width = centres[0], widths[0]
        if width >= 1 or (width > 0 and function != "LINEAR"):
            journal.did(
                f"Window centre {centre:g}, width {width:g} ({function}){_first_of(len(centres))}"
            )
            return _apply_window(values, centre, width, function)
        journal.remark("The header's window has no width; it was ignored.")
    low_to_high = _min_max(values, valid, journal)
    return low_to_high.astype(np.float64)


def _first_of(count: int) -> str:
    return f", first of {count}" if count > 1 else ""


def _apply_window(
    values: NDArray[np.float64], centre: float, width: float, function: str
) -> NDArray[np.float64]:
    # pydicom stretches to the range of the header's bits; one unsigned bit makes that 0..1.
    window = Dataset()
    window.PhotometricInterpretation = "MONOCHROME2"
    window.BitsStored, window.PixelRepresentation = 1, 0
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = centre, width, function
    with np.errstate(over="ignore"):  # far below a sigmoid, exp() overflows and the result is 0
        unit: NDArray[np.float64] = apply_windowing(values, window)
    clipped: NDArray[np.float64] = np.clip(unit, 0.0, 1.0)
    return clipped


def _look_up(
    values: NDArray[np.float64], item: Any, header: Any
) -> tuple[NDArray[np.float64], int]:
    """Table entries of the values, and the bits of an entry.

    Written here because pydicom's functions wrap an 8-bit table's index at 256, and refuse modality
    tables of 10 to 15 bits.
    """
    declared, first, bits = (int(number) for number in item.LUTDescriptor)
    declared = declared % 2**16 or 2**16  # 65536 entries are written as 0
    if first >= 2**15 and values.min() < 0:
        first -= 2**16  # a negative number in an unsigned element
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data, f"{order}u2" if len(data) >= 2 * declared else "u1")
    table = np.atleast_1d(np.asarray(data, np.int64))[:declared] % 2**16
    index = np.clip(np.rint(values) - first, 0, table.size - 1).astype(np.intp)
    # Some writers declare fewer bits than their entries need.
    return table[index].astype(np.float64), max(bits, int(table.max()).bit_length())


def _is_inverted(header: Any, journal: Journal) -> bool:
    """Whether low values are dense: both elements state the same inversion (PS3.3 C.8.11.3)."""
    by_photometric = code(header, "PhotometricInterpretation") == "MONOCHROME1"
    shape = code(header, "PresentationLUTShape")
    if shape in ("IDENTITY", "INVERSE") and (shape == "INVERSE") != by_photometric:
        journal.remark(
            "The header contradicts itself about which end of the scale is white; check that bone"
            " is bright."
        )
    if by_photometric:
        journal.did("Inverted, because the file is MONOCHROME1")
    elif shape == "INVERSE":
        journal.did("Inverted, because the presentation LUT shape is INVERSE")
    return by_photometric or shape == "INVERSE"
