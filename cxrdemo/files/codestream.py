"""Compressed pixels: what a stream claims before memory is given to it, and its samples."""

import struct
from dataclasses import dataclass
from typing import Any, Final, Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray

Codec = Literal["JPEG", "JPEG-LS", "JPEG 2000", "RLE"]

_START_OF_FRAME: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_LOSSLESS: Final = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""


@dataclass(frozen=True)
class Codestream:
    """What a stream says before its first sample.

    Attributes:
        codec: By its first bytes; RLE has none of its own.
        hw: Height and width.
        samples: Per pixel.
        bits: Of a sample.
        is_lossless: Of JPEG: whether samples are predicted, so that no colour is converted.
        knows_colour: Of JPEG: whether a marker tells how its colours are meant.
        scans: Of JPEG: passes over the picture.
    """

    codec: Codec
    hw: tuple[int, int]
    samples: int
    bits: int
    is_lossless: bool = False
    knows_colour: bool = False
    scans: int = 1


def look_at(stream: bytes | memoryview) -> Codestream | None:
    """What a JPEG, JPEG-LS or JPEG 2000 stream claims; None if it is none of them.

    Raises:
        IndexError, struct.error: If it is cut off before it says.
    """
    if stream[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":  # a JP2 file around the stream
        at = bytes(stream[:4096]).find(b"\xff\x4f\xff\x51")
        stream = stream[at:] if at > 0 else b""
    if stream[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: SOC, then SIZ
        right, bottom, left, top = struct.unpack(">4I", stream[8:24])
        samples, depth = struct.unpack(">HB", stream[40:43])
        return Codestream("JPEG 2000", (bottom - top, right - left), samples, depth % 128 + 1)
    return _look_at_jpeg(stream) if stream[:2] == b"\xff\xd8" else None


def _look_at_jpeg(stream: bytes | memoryview) -> Codestream | None:
    at, knows_colour = 2, False
    while stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        body = bytes(stream[at + 4 : at + 16])
        knows_colour |= marker == 0xE0 and body.startswith(b"JFIF")
        knows_colour |= marker == 0xEE and body.startswith(b"Adobe")
        if marker in _START_OF_FRAME:
            bits, height, width, samples = struct.unpack(">BHHB", body[:6])
            return Codestream(
                "JPEG-LS" if marker == 0xF7 else "JPEG",
                (height, width),
                samples,
                bits,
                marker in _LOSSLESS,
                knows_colour,
                bytes(stream).count(b"\xff\xda"),
            )
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None


def decode(
    codec: Codec, stream: bytes | memoryview, *, colour_as_stored: bool, out: NDArray[Any]
) -> bool:
    """Decodes a stream.

    Args:
        codec: Its kind.
        stream: The whole of it.
        colour_as_stored: Of JPEG: keep the components as they are, where the stream does not tell.
        out: (H, W) or (H, W, samples) of the stream's own size and depth; written.

    Returns:
        Whether the stream is as its standard has it, as far as can be told.

    Raises:
        Exception: Whatever the decoder raises on broken bytes.
    """
    if codec == "RLE":
        return _decode_rle(stream, out)
    if codec == "JPEG":
        if bytes(stream[-64:]).rstrip(b"\0").find(b"\xff\xd9") < 0:
            raise ValueError("no end of image: the stream is cut off")
        space = "RGB" if colour_as_stored else None
        imagecodecs.jpeg8_decode(bytes(stream), colorspace=space, outcolorspace=space, out=out)
    elif codec == "JPEG-LS":
        imagecodecs.jpegls_decode(bytes(stream), out=out)
    else:
        imagecodecs.jpeg2k_decode(bytes(stream), numthreads=1, out=out)
    return True


def _decode_rle(stream: bytes | memoryview, out: NDArray[Any]) -> bool:
    """PackBits, one segment for each byte of each sample, the highest byte first (PS3.5 G)."""
    count, *starts = struct.unpack("<16I", stream[:64])
    size, samples = out.dtype.itemsize, 1 if out.ndim == 2 else out.shape[2]
    if count != size * samples:
        raise ValueError("the number of segments is not that of the bytes of a pixel")
    planes = out.view(np.uint8).reshape(*out.shape[:2], samples, size)
    ends = [*starts[1:count], len(stream)]
    tidy = True
    for number, (start, end) in enumerate(zip(starts, ends, strict=False)):
        plane, fits = _unpacked(bytes(stream[start:end]), out.shape[0] * out.shape[1])
        tidy &= fits
        byte = number % size
        place = size - 1 - byte if np.little_endian else byte
        planes[:, :, number // size, place] = plane.reshape(out.shape[:2])
    return tidy


def _unpacked(packed: bytes, size: int) -> tuple[NDArray[np.uint8], bool]:
    """The bytes that PackBits data expand to, and whether there are no more of them.

    Raises:
        ValueError: If there are fewer.
    """
    try:
        plane = np.frombuffer(imagecodecs.packbits_decode(packed, out=size), np.uint8)
        fits = True
    # Too long, or broken at its end: it is unpacked run by run as far as is needed.
    except RuntimeError:
        plane, fits = _unpacked_by_runs(packed, size), False
    if plane.size < size:
        raise ValueError("a run-length segment is cut off")
    return plane, fits


def _unpacked_by_runs(packed: bytes, size: int) -> NDArray[np.uint8]:
    plane, filled, at = np.empty(size, np.uint8), 0, 0
    while at + 1 < len(packed) and filled < size:
        head = packed[at]
        if head == 128:
            at += 1
            continue
        count = min(head + 1 if head < 128 else 257 - head, size - filled)
        given = packed[at + 1 : at + 1 + count] if head < 128 else packed[at + 1 : at + 2] * count
        plane[filled : filled + len(given)] = np.frombuffer(given, np.uint8)
        filled += len(given)
        at += 2 + head if head < 128 else 2
    return plane[:filled]
