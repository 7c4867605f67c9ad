"""Parts that are missing in a file that ends as it should: told, for the decoders do not tell.

What is cut off without a proper end is refused by the decoders; so are JPEG-LS, RLE, WebP and the
strips of a TIFF that end early.
"""

import random
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cxrdemo.files.journal import Journal

MORE_THAN_STATED: Final = (
    "The file holds more pixels than its header states; only those stated are shown."
)

_FLAT_ROWS: Final = 8
_FLAT_SHARE: Final = 0.02
"""So many equal rows at the end, and such a share of all, are no longer chance."""

_NEAR_BLACK: Final = 0.04
"""Of the range of grey: a compressed bar is not quite black or white, and what lies beside it is
blacker."""

_FILLING: Final = bytes(byte % 255 for byte in random.Random(0).randbytes(4096))
"""Noise without a marker in it, long enough to show wherever a decoder takes it for pixels."""

_MARKER: Final = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
"""What ends the coded data of a scan: any marker but those to restart at (ITU-T T.81, B.1.1)."""

_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")
_ALONE: Final = frozenset({0x01, 0xD8})
"""Markers without a length."""

_START_OF_SCAN: Final = 0xDA
_END_OF_IMAGE: Final = 0xD9
_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_HUFFMAN: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC3})
_PROGRESSIVE: Final = frozenset({0xC2})
_COEFFICIENTS: Final = 64

_ADAM7: Final = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip
"""First column and row, and the steps of both, of each pass (PNG, 8.2)."""


def remark_on_missing_png_rows(data: bytes, journal: Journal) -> None:
    """Remarks on a PNG whose pixels end early, or go on, though the file ends as it should.

    The decoder shows what is missing as black, and nothing of what lies beyond the stated height.
    """
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    bits *= {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for x, y, step_x, step_y in passes:
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        expected += rows * (1 + -(-columns * bits // 8)) if columns > 0 else 0
    beyond = expected + 1 + -(-width * bits // 8)  # by a row; less is an encoder's carelessness
    found = _inflated_size(data, beyond)
    if found is not None and found >= beyond:
        journal.remark(MORE_THAN_STATED)
    if found is not None and found < expected:
        journal.remark(
            f"The file holds only {found / expected:.0%} of its pixels; the rest is shown black."
        )


def _inflated_size(data: bytes, enough: int) -> int | None:
    """The bytes that the pixels of a PNG inflate to, counted until they are enough.

    None if they are broken, which the decoder tells.
    """
    inflater, found, at = zlib.decompressobj(), 0, 8
    try:
        while at + 8 <= len(data) and found < enough and not inflater.eof:
            length = int.from_bytes(data[at : at + 4], "big")
            packed = data[at + 8 : at + 8 + length] if data[at + 4 : at + 8] == b"IDAT" else b""
            while packed and found < enough and not inflater.eof:
                found += len(inflater.decompress(packed, 2**20))
                packed = inflater.unconsumed_tail
            at += 12 + length
    except zlib.error:
        return None
    return found


@dataclass(frozen=True)
class _Scans:
    """The passes of a JPEG over its picture.

    Attributes:
        are_all: Whether they bring every coefficient of every component to its last bit.
        end: Where the data of the last one end.
        restarts: Markers to restart at in the last one.
    """

    are_all: bool
    end: int
    restarts: int


def remark_on_missing_jpeg_data(
    stream: bytes | memoryview,
    samples: NDArray[Any],
    decode: Callable[[bytes], NDArray[Any]],
    journal: Journal,
) -> None:
    """Remarks on passes of a JPEG that are missing, and on a last one that ends early.

    The decoder leaves the picture coarse, or fills it up with an even grey. Noise behind the data
    tells whether they were all: a decoder that is done passes over it, another takes it for pixels.

    Args:
        stream: The file or frame.
        samples: What it was decoded to; (H, W) or (H, W, C).
        decode: The same decoder, for the bytes of another stream.
        journal: Told what is missing.
    """
    stream = bytes(stream)
    scans = _scans(stream)
    if scans is not None:
        if not scans.are_all:
            journal.remark(
                "The last passes of this JPEG are missing: the file may have been cut short, and"
                " fine detail is lost."
            )
        filled = decode(stream[: scans.end] + _filling_after(scans.restarts) + stream[scans.end :])
        differ = np.flatnonzero((filled != samples).reshape(len(samples), -1).any(axis=1))
        if differ.size:
            journal.remark(
                f"The data of this JPEG end early: the file was cut short, and the lower"
                f" {1 - differ[0] / len(samples):.0%} of the image is missing or coarser."
            )
            return
    _remark_on_flat_end(samples, journal)


def _filling_after(restarts: int) -> bytes:
    """Noise, with the markers in it that a decoder would look for next."""
    if not restarts:
        return _FILLING
    marks = (bytes((0xFF, 0xD0 + number % 8)) for number in range(restarts, restarts + 8))
    return _FILLING + b"".join(mark + _FILLING for mark in marks)


def _scans(stream: bytes) -> _Scans | None:
    """The passes of a JPEG that is coded by Huffman's method; None of anything else.

    Arithmetic coding leaves out zeros at its end, so that nothing may be put there.
    """
    at, lowest, is_progressive, found = 2, {}, False, None
    while marker := _MARKER.search(stream, at):
        kind, at = marker[0][-1], marker.end()
        if kind == _END_OF_IMAGE:
            break
        if kind in _ALONE:
            continue
        body = stream[at + 2 : at + int.from_bytes(stream[at : at + 2], "big")]
        at += 2 + len(body)
        if kind in _FRAMES:
            if kind not in _HUFFMAN:
                return None
            is_progressive = kind in _PROGRESSIVE
            lowest = {
                component: [99] * _COEFFICIENTS for component in body[6 : 6 + 3 * body[5] : 3]
            }
        elif kind == _START_OF_SCAN:
            count = body[0]
            first, last, precision = body[1 + 2 * count : 4 + 2 * count]
            if not is_progressive:
                first, last, precision = 0, _COEFFICIENTS - 1, 0
            for component in body[1 : 1 + 2 * count : 2]:
                for number in range(first, min(last + 1, _COEFFICIENTS)):
                    lowest[component][number] = precision % 16
            data_end = _MARKER.search(stream, at)
            end = len(stream) if data_end is None else data_end.start()
            found, at = (end, len(_RESTART.findall(stream, at, end))), end
    if found is None:
        return None
    return _Scans(not any(map(any, lowest.values())), *found)


def _remark_on_flat_end(samples: NDArray[Any], journal: Journal) -> None:
    """Remarks on rows at the end that hold one grey: a decoder's filling for what is missing.

    Black and white bars, as around many pictures, are passed over.
    """
    last = samples[-1, -1]
    least = max(_FLAT_ROWS, round(_FLAT_SHARE * samples.shape[0]))
    if (samples[-least:] != last).any():
        return
    low, high = (float(end) for end in (samples.min(), samples.max()))
    if abs(2 * float(np.mean(last)) - low - high) >= (1 - 2 * _NEAR_BLACK) * (high - low):
        return
    varied = np.flatnonzero((samples != last).reshape(samples.shape[0], -1).any(axis=1))
    share = 1 - (varied[-1] + 1) / samples.shape[0]
    journal.remark(
        f"The lower {share:.0%} of the image is one even grey: the file may have been cut short."
    )
