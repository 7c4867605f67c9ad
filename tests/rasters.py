"""Raster files built in code for the tests, and the comparison of pixels."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from dicoms import ramp
from numpy.typing import NDArray
from PIL import Image

from cxrdemo.errors import CxrDemoError
from cxrdemo.files import read_radiograph

GREY_LEVEL_16 = 1 / 65535
HW = (80, 72)
GREY8 = ramp(0, 255, np.uint8)
COLOUR8 = np.stack([GREY8, GREY8[::-1], np.full_like(GREY8, 40)], axis=-1)
LUMA = np.array([0.299, 0.587, 0.114])


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(samples: NDArray[Any], colour_type: int, *extra: bytes) -> bytes:
    """A PNG of 8 or 16 bits, written by hand because no encoder at hand writes them all."""
    height, width = samples.shape[:2]
    bits = 8 * samples.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in samples)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)),
            *extra,
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def orientation_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return exif.tobytes()


def tiff(samples: NDArray[Any], *, photometric: int, sample_format: int, order: str) -> bytes:
    """A grey TIFF of one strip, written by hand for byte order, polarity and sample format."""
    height, width = samples.shape
    body = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: width,
        257: height,
        258: 8 * samples.dtype.itemsize,
        259: 1,
        262: photometric,
        273: 8 + 2 + 12 * 10 + 4,
        277: 1,
        278: height,
        279: len(body),
        339: sample_format,
    }
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (
        mark
        + struct.pack(f"{order}IH", 8, len(tags))
        + entries
        + struct.pack(f"{order}I", 0)
        + body
    )


def close(found: NDArray[np.float32], expected: Any, atol: float = GREY_LEVEL_16) -> None:
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def assert_refused(data: Any, kind: type[CxrDemoError], *words: str, **options: Any) -> None:
    with pytest.raises(kind) as caught:
        read_radiograph(data, **options)
    message = str(caught.value)
    assert type(caught.value) is kind
    assert message.startswith("Expected ")
    assert " found " in message or " could not " in message
    assert message.count(".") >= 2 or ";" in message  # what to do about it
    for word in words:
        assert word in message
