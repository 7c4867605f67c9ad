"""TIFF: what its directory says, and by libtiff the samples that Pillow would not keep whole."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from cxrdemo.errors import UnsupportedImageError
from cxrdemo.files.journal import Journal

# Of TIFF 6.0, section 8.
_WIDTH: Final = 256
_HEIGHT: Final = 257
_BITS_PER_SAMPLE: Final = 258
_COMPRESSION: Final = 259
_PHOTOMETRIC: Final = 262
_STRIP_OFFSETS: Final = 273
_ORIENTATION: Final = 274
_SAMPLES_PER_PIXEL: Final = 277
_ROWS_PER_STRIP: Final = 278
_STRIP_BYTES: Final = 279
_TILE_WIDTH: Final = 322
_TILE_HEIGHT: Final = 323
_TILE_OFFSETS: Final = 324
_TILE_BYTES: Final = 325
_RESOLUTIONS: Final = (282, 283)
_PLANAR: Final = 284
_EXTRA_SAMPLES: Final = 338
_SAMPLE_FORMAT: Final = 339

_UNSIGNED: Final = 1
_COMPLEX: Final = (5, 6)
_UNASSOCIATED_ALPHA: Final = 2
_RGB: Final = 2
_GREY_OR_RGB: Final = (0, 1, _RGB)
_MOST_SAMPLES: Final = 16

_STRANGE_COMPRESSIONS: Final = {
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34892: "lossy JPEG of a raw photograph",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""What other programs put into a TIFF, by the number in its directory."""


@dataclass(frozen=True)
class Directory:
    """What the first directory of a TIFF says of its picture.

    Attributes:
        hw: Height and width.
        bits: Of a sample.
        samples: Per pixel.
        sample_format: 1 unsigned, 2 signed, 3 fractions, 5 and 6 complex (section 19).
        photometric: 0 white is zero, 1 black is zero, 2 RGB; more kinds in section 8.
        compression: Its number.
        planes: Whether samples lie in planes of their own.
        extra: What each sample beyond those of the photometric kind is.
        orientation: Of EXIF; 1 is upright.
        sides: Height and width of a pixel, in any unit.
        pages: Whether more directories follow.
        parts: Where the strips or tiles begin.
        part_bytes: How long each of them is.
        part_hw: Height and width of a tile, and of all strips but the last.
    """

    hw: tuple[int, int]
    bits: int
    samples: int
    sample_format: int
    photometric: int
    compression: int
    planes: bool
    extra: tuple[int, ...]
    orientation: int
    sides: tuple[float, float]
    pages: bool
    parts: tuple[int, ...]
    part_bytes: tuple[int, ...]
    part_hw: tuple[int, int]

    @property
    def is_deep(self) -> bool:
        """Whether samples are more than Pillow keeps: 16 bits and more, signed, or fractions."""
        in_words = self.bits in (16, 32, 64) or (self.bits == 8 and self.sample_format != _UNSIGNED)
        return in_words and self.photometric in _GREY_OR_RGB


def read_directory(data: bytes) -> Directory:
    """The first directory of a TIFF.

    Raises:
        Exception: Whatever the parser raises on broken bytes.
    """
    is_big = data[2:3] == b"+"  # BigTIFF has addresses of 8 bytes
    tags = ImageFileDirectory_v2(data[: 16 if is_big else 8])
    stream, start = io.BytesIO(data), tags.next
    stream.seek(start)
    tags.load(stream)
    bits = _numbers(tags, _BITS_PER_SAMPLE) or (1,)
    height, width = _number(tags, _HEIGHT, 0), _number(tags, _WIDTH, 0)
    part_hw = min(height, _number(tags, _ROWS_PER_STRIP, height)), width
    if _TILE_OFFSETS in tags:
        part_hw = _number(tags, _TILE_HEIGHT, 0), _number(tags, _TILE_WIDTH, 0)
    return Directory(
        hw=(height, width),
        bits=max(bits),
        samples=_number(tags, _SAMPLES_PER_PIXEL, len(bits)),
        sample_format=_number(tags, _SAMPLE_FORMAT, _UNSIGNED),
        photometric=_number(tags, _PHOTOMETRIC, 0),
        compression=_number(tags, _COMPRESSION, 1),
        planes=_number(tags, _PLANAR, 1) == 2,
        extra=_numbers(tags, _EXTRA_SAMPLES),
        orientation=_number(tags, _ORIENTATION, 1),
        sides=_sides(tags),
        pages=tags.next not in (0, start),  # where the parser gave up it stays at the start
        parts=_numbers(tags, _TILE_OFFSETS) or _numbers(tags, _STRIP_OFFSETS),
        part_bytes=_numbers(tags, _TILE_BYTES) or _numbers(tags, _STRIP_BYTES),
        part_hw=(max(1, part_hw[0]), max(1, part_hw[1])),
    )


def _numbers(tags: Mapping[int, Any], tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    return tuple(int(number) for number in (value if isinstance(value, tuple) else (value,)))


def _number(tags: Mapping[int, Any], tag: int, default: int) -> int:
    return next(iter(_numbers(tags, tag)), default)


def _sides(tags: Mapping[int, Any]) -> tuple[float, float]:
    across, down = (float(tags.get(tag, 0)) for tag in _RESOLUTIONS)
    if across > 0 and down > 0 and math.isfinite(across + down):
        return 1 / down, 1 / across
    return 1.0, 1.0


def check_supported(directory: Directory) -> None:
    """Refuses what nothing here decodes.

    Raises:
        UnsupportedImageError: If so.
    """
    strange = _STRANGE_COMPRESSIONS.get(directory.compression)
    if strange is not None:
        raise UnsupportedImageError(
            f"Expected a TIFF that is plain or compressed by LZW, Deflate or JPEG, found {strange}"
            " inside. Save it without compression, or as PNG."
        )
    if not directory.is_deep:
        return
    if directory.sample_format in _COMPLEX:
        raise UnsupportedImageError(
            "Expected a TIFF of grey values, found complex numbers. Export the radiograph as an"
            " ordinary image."
        )
    is_colour = directory.photometric == _RGB
    if is_colour and (directory.bits != 16 or directory.sample_format != _UNSIGNED):
        raise UnsupportedImageError(
            "Expected colours of 8 or 16 bits, found a TIFF with deeper or signed ones. Export the"
            " radiograph in grey."
        )
    if not 1 + 2 * is_colour <= directory.samples <= _MOST_SAMPLES:
        raise UnsupportedImageError(
            f"Expected a TIFF with one grey or three colour samples a pixel, found"
            f" {directory.samples}. Export the radiograph in grey."
        )


def decode_deep(data: bytes, directory: Directory) -> NDArray[Any]:
    """The samples of a deep TIFF: (H, W), or (H, W, C) with 2 to 4 channels of colour and alpha.

    Of further samples only an alpha is kept, which a fourth of colour is unless it is told
    otherwise, and not one that the colours are multiplied by already (section 18).

    Raises:
        Exception: Whatever the decoder raises on broken bytes.
    """
    samples = imagecodecs.tiff_decode(data)
    if directory.samples == 1:
        samples = samples.reshape(directory.hw)
    elif directory.planes:
        samples = np.moveaxis(samples.reshape(directory.samples, *directory.hw), 0, -1)
    else:
        samples = samples.reshape(*directory.hw, directory.samples)
    if directory.samples == 1:
        return samples
    colours = 3 if directory.photometric == _RGB else 1
    is_alpha = not directory.extra or directory.extra[0] == _UNASSOCIATED_ALPHA
    kept = colours + (is_alpha and directory.sample_format == _UNSIGNED)
    return samples[..., 0] if kept == 1 else samples[..., :kept]


def remark_on_missing_parts(directory: Directory, journal: Journal) -> None:
    """Remarks on strips or tiles that hold more or less than the picture."""
    if not directory.parts or directory.hw[0] < 1:
        return
    height, width = directory.hw
    planes = directory.samples if directory.planes else 1
    parts = planes * -(-height // directory.part_hw[0]) * -(-width // directory.part_hw[1])
    wrong = parts != len(directory.parts) or 0 in directory.part_bytes or 0 in directory.parts
    if directory.compression == 1 and planes == 1 and directory.part_hw[1] == width:
        row = -(-width * directory.bits * directory.samples // 8)
        wrong |= abs(sum(directory.part_bytes) - row * height) >= row > 0
    if wrong:
        journal.remark(
            "The file holds more or fewer rows than it states: a part of the image may be missing."
        )
