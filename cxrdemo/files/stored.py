"""Which bits of a stored word are its value, and whether it is signed.

Bits Stored and Pixel Representation say so (PS3.5 8.1.1), but some writers state them wrongly.
Where the header contradicts itself or the pixels, the rules here decide, and a remark tells it.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cxrdemo.files.header import Header, windows_of

_SAMPLED_ROWS: Final = 512
_SMOOTHER: Final = 0.8
"""A reading must make neighbours differ by less than this share to go before the header's."""

_WRAPPED: Final = 0.7
"""Neighbours that differ by more than so many standard deviations look like values that wrap around
many times; then differences are compared over the standard deviation."""

_WRAPS: Final = 4
"""Likewise how many times fewer jumps over half the range it must have."""

_MORE_IN_WINDOW: Final = 0.2
"""By how much larger the share of pixels inside the window must be."""


@dataclass(frozen=True)
class Stored:
    """How a word is read.

    Attributes:
        bits: The lowest so many bits are the value.
        signed: Whether the highest of them is a sign.
    """

    bits: int
    signed: bool

    def values(self, words: NDArray[Any]) -> NDArray[np.int64]:
        """The values of unsigned words."""
        found: NDArray[np.int64] = words.astype(np.int64) & (2**self.bits - 1)
        if self.signed:
            found[found >= 2 ** (self.bits - 1)] -= 2**self.bits
        return found


def settle(words: NDArray[Any], header: Header, stated: Stored) -> Stored:
    """Decides how the words of a grey image are read.

    Args:
        words: (H, W) of an unsigned type, as decoded.
        header: Its window, pixel value range and overlays are heard; its journal is told.
        stated: What the header says; absent elements replaced by their defaults.
    """
    bits = _bits(words, header, stated)
    rows = _sampled(words, np.arange(words.shape[0]))
    settled = Stored(bits, _is_signed(rows, header, Stored(bits, stated.signed)))
    remark = header.journal.remark
    if settled.bits != stated.bits:
        remark(
            f"The header says that {stated.bits} bits are stored, but the pixels use {bits}; all"
            f" {bits} were taken."
        )
    if settled.signed != stated.signed:
        says, are = ("signed", "unsigned") if stated.signed else ("unsigned", "signed")
        remark(
            f"The header says that pixel values are {says}, but they are {are}; so they were taken."
        )
    return settled


def _sampled(words: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    """Some of the rows, and the row below each: (2, N, W)."""
    rows = rows[:: max(1, len(rows) // _SAMPLED_ROWS)]
    rows = np.minimum(rows, words.shape[0] - 2)
    return np.stack((words[rows], words[rows + 1]))


def _bits(words: NDArray[Any], header: Header, stated: Stored) -> int:
    """The bits stored: the stated ones, unless the value range, window or pixels speak against."""
    needed = int(words.max()).bit_length()
    if needed <= stated.bits:
        return stated.bits
    rows = _sampled(words, np.flatnonzero((words >= 2**stated.bits).any(axis=1)))
    if _extends_sign(rows, stated):
        return stated.bits
    largest = header.whole("LargestImagePixelValue")
    if largest is not None and largest > 0:
        return min(needed, max(stated.bits, largest.bit_length()))
    if any(bit >= stated.bits for bit in header.overlay_bits()):
        return stated.bits
    window = _window(header)
    if window is not None and sum(window) / 2 >= 2**stated.bits:
        return needed
    # Values that are cut off wrap around, which makes neighbours differ; an overlay or rubbish in
    # the bits above makes them differ if it is kept.
    read = {
        bits: Stored(bits, stated.signed).values(rows) for bits in range(stated.bits, needed + 1)
    }
    reaches_above = rows >= 2**stated.bits
    rough = {bits: _roughness(values, reaches_above) for bits, values in read.items()}
    if rough[stated.bits] > _WRAPPED * read[stated.bits].std():
        rough = {bits: rough[bits] / max(1.0, float(read[bits].std())) for bits in read}
    best = min(rough, key=lambda bits: (rough[bits], bits))
    return best if rough[best] < _SMOOTHER * rough[stated.bits] else stated.bits


def _extends_sign(rows: NDArray[Any], stated: Stored) -> bool:
    """Whether all bits above the stored ones repeat the sign."""
    if not stated.signed:
        return False
    whole = Stored(8 * rows.dtype.itemsize, signed=True).values(rows)
    return bool((whole == stated.values(rows)).all())


def _roughness(values: NDArray[np.int64], chosen: NDArray[np.bool_]) -> float:
    """Mean difference between the chosen pixels and their neighbours, all of them (2, N, W)."""
    across = np.abs(np.diff(values, axis=2))[chosen[..., 1:] | chosen[..., :-1]]
    down = np.abs(np.diff(values, axis=0))[chosen[1:] | chosen[:-1]]
    return float(np.concatenate((across, down)).mean())


def _is_signed(rows: NDArray[Any], header: Header, stated: Stored) -> bool:
    """Whether values are signed: as stated, unless value range, pixels or window speak against.

    Unsigned pixels are taken for signed ones only where value range or window reach below zero:
    sharp edges between black and white look like a change of sign.
    """
    other = Stored(stated.bits, not stated.signed)
    as_stated, as_other = stated.values(rows), other.values(rows)
    if (as_stated == as_other).all():
        return stated.signed
    smallest, largest = (header.whole(f"{end}ImagePixelValue") for end in ("Smallest", "Largest"))
    if stated.signed and largest is not None and largest >= 2 ** (stated.bits - 1):
        return False
    if not stated.signed and smallest is not None and smallest < 0:
        return True
    wraps, wraps_other = _wraps(as_stated, stated.bits), _wraps(as_other, stated.bits)
    if stated.signed and wraps != wraps_other:
        return wraps <= _WRAPS * wraps_other
    window = _window(header)
    if window is None or wraps_other > wraps:
        return stated.signed
    inside, inside_other = (
        float(np.mean((values >= window[0]) & (values <= window[1])))
        for values in (as_stated, as_other)
    )
    return other.signed if inside_other > inside + _MORE_IN_WINDOW else stated.signed


def _wraps(values: NDArray[np.int64], bits: int) -> int:
    """Neighbours that differ by more than half of what the bits can hold."""
    far = 2 ** (bits - 1)
    return sum(int((np.abs(np.diff(values, axis=axis)) > far).sum()) for axis in (0, 2))


def _window(header: Header) -> tuple[float, float] | None:
    """The ends of the first window that can be used, in stored values."""
    windows = windows_of(header)
    if not windows or header.has("ModalityLUTSequence"):
        return None
    _, centre, width = windows[0]
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    ends = sorted(
        (end - (intercept or 0.0)) / (slope or 1.0)
        for end in (centre - width / 2, centre + width / 2)
    )
    return ends[0], ends[1]
