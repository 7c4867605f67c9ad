"""PNG, JPEG, WebP, TIFF and BMP: the pictures that carry nothing but their pixels."""

import io
import math
import struct
import warnings
import zlib
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cxrdemo.errors import UnreadableImageError, UnsupportedImageError
from cxrdemo.files.decoding import (
    check_cost,
    check_size,
    decoding,
    remark_on_flat_end,
    to_radiograph,
)
from cxrdemo.files.greyscale import raster_to_grey
from cxrdemo.files.journal import Journal
from cxrdemo.files.upright import EXIF_TURNS, squared
from cxrdemo.quiet import recorded_warnings
from cxrdemo.radiograph import Radiograph

_RASTER_FORMATS: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_DEEP_MODES: Final = ("I;16", "I;16L", "I;16B", "I", "F")
_ORIENTATION: Final = 274

# Of TIFF 6.0, section 8.
_WIDTH: Final = 256
_HEIGHT: Final = 257
_BITS_PER_SAMPLE: Final = 258
_COMPRESSION: Final = 259
_TIFF_PHOTOMETRIC: Final = 262
_SAMPLES_PER_PIXEL: Final = 277
_ROWS_PER_STRIP: Final = 278
_STRIP_OFFSETS: Final = 273
_STRIP_BYTES: Final = 279
_PLANAR: Final = 284
_SAMPLE_FORMAT: Final = 339


def read_raster(data: bytes, announced: str, max_cost: float) -> Radiograph:
    """Reads a picture.

    Args:
        data: The file.
        announced: The format that its first bytes name.
        max_cost: Of decoding, see `check_cost`.

    Raises:
        TooCostlyHere: If decoding costs more than `max_cost`.
        UnreadableImageError: If it is broken.
        UnsupportedImageError: If it is too large, too small, or several pictures.
    """
    journal = Journal()
    image, frames = _open(data, announced, journal)
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    # A JPEG with several pictures (MPO) is a phone's photograph with previews; the first is it.
    with decoding(kind):
        if kind != "JPEG" and frames > 1:
            raise UnsupportedImageError(
                f"Expected a single image, found a {kind} file with several pages or frames. Save"
                " the frontal radiograph as a file of its own."
            )
        check_size(
            image.height,
            image.width,
            samples=len(image.getbands()),
            bits=32 if image.mode in ("I", "F") else 16,
        )
        scans = data.count(b"\xff\xda") if kind == "JPEG" else 1
        size = image.height * image.width * len(image.getbands())
        check_cost(size, scans, max_cost)
        exif = _exif(image, journal)
        orientation = exif.get(_ORIENTATION, 1)
        bit_depth = _bits_per_sample(image, data, exif)
        journal.did(f"Decoded {kind}, {bit_depth} bits per sample")
        if kind == "PNG":
            _remark_on_missing_rows(data, journal)
        elif kind == "TIFF":
            _remark_on_strips(exif, journal)
        samples, palette = _decode(image, data, bit_depth, exif)
        if kind == "JPEG":
            remark_on_flat_end(samples, journal)
        pixels, colourfulness = raster_to_grey(samples, journal, palette=palette)
        del samples
        if _is_undone_white_is_zero(image, exif):
            np.subtract(1, pixels, out=pixels)
            journal.did("Inverted, because the file stores white as zero")
            journal.inverted = True
        own_grid = True
        if kind == "PNG":  # whose tags may lie behind the pixels
            orientation = _exif(image, journal).get(_ORIENTATION, 1)
        if orientation in EXIF_TURNS:
            journal.did("Turned upright, as the file's orientation tag orders")
            own_grid = False
            if kind != "TIFF":  # there the decoder has done it
                pixels = EXIF_TURNS[orientation](pixels)
        shape = pixels.shape
        pixels, _ = squared(pixels, _sides(image, orientation), journal)
        return to_radiograph(
            pixels,
            journal,
            kind=kind,
            bit_depth=bit_depth,
            colourfulness=colourfulness,
            own_grid=own_grid and pixels.shape == shape,
        )


def _open(data: bytes, announced: str, journal: Journal) -> tuple[Image.Image, int]:
    """The picture with its pixels still undecoded, and how many the file holds."""
    try:
        with decoding("image"), recorded_warnings() as caught:
            image = Image.open(io.BytesIO(data), formats=_RASTER_FORMATS)
            frames = getattr(image, "n_frames", 1)
    except UnreadableImageError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise UnreadableImageError(
                f"Expected a complete {announced} file, found one whose beginning is broken or of"
                " a rare kind. Copy or export it again; if it opens elsewhere, save it from there"
                " as PNG."
            ) from error.__cause__
        raise
    _remark_on_warnings(caught, journal)
    return image, frames


def _exif(image: Image.Image, journal: Journal) -> Image.Exif:
    """The tags that are known so far."""
    with recorded_warnings() as caught:
        if image.format == "PNG":  # where asking for the tags would decode the pixels
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
        else:
            exif = image.getexif()
    _remark_on_warnings(caught, journal)
    return exif


def _remark_on_warnings(caught: list[warnings.WarningMessage], journal: Journal) -> None:
    # Deprecations and size hints do not speak of the file.
    if any(issubclass(warning.category, UserWarning) for warning in caught):
        journal.remark("The decoder found irregularities in the file.")


def _bits_per_sample(image: Image.Image, data: bytes, exif: Image.Exif) -> int:
    if image.format == "PNG":
        return data[24]  # the bit depth in IHDR, always the first chunk
    if image.format == "TIFF":
        return max(_numbers(exif, _BITS_PER_SAMPLE) or [1])
    return 1 if image.mode == "1" else 8


def _numbers(exif: Image.Exif, tag: int) -> list[int]:
    value: Any = exif.get(tag, ())
    return [int(number) for number in (value if isinstance(value, tuple) else (value,))]


def _number(exif: Image.Exif, tag: int, default: int) -> int:
    return next(iter(_numbers(exif, tag)), default)


def _decode(
    image: Image.Image, data: bytes, bit_depth: int, exif: Image.Exif
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """The samples as stored, and the palette (N, 4) RGBA in 0..1 if they are indices.

    The samples are (H, W) grey or indices, or (H, W, C) with 2 to 4 channels of colour or alpha.
    """
    mode = image.mode
    if bit_depth == 16 and mode in ("RGB", "RGBA", "LA"):
        return _decode_deep(image, data, exif), None  # Pillow cuts it down to 8 bits
    image.load()
    if mode in _DEEP_MODES:
        samples = np.asarray(image)
        samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
        if mode == "I" and exif and _number(exif, _SAMPLE_FORMAT, 1) == 1 and bit_depth == 32:
            samples = samples.view(np.uint32)  # which Pillow takes for signed
        key = image.info.get("transparency")
        return (samples if key is None else _keyed(samples, key)), None
    if mode == "P":
        return np.asarray(image), _palette(image)
    transparent = image.has_transparency_data
    wanted = "L" if mode in ("1", "L", "La", "LA") else "RGB"
    wanted += "A" if transparent else ""
    return np.asarray(image if mode == wanted else image.convert(wanted)), None


def _palette(image: Image.Image) -> NDArray[np.float32]:
    colours = np.array(image.getpalette("RGB"), np.float32).reshape(-1, 3) / np.float32(255)
    alpha = np.ones((len(colours), 1), np.float32)
    key = image.info.get("transparency")
    if isinstance(key, bytes):
        given = np.frombuffer(key, np.uint8)[: len(alpha)]
        alpha[: len(given), 0] = given / np.float32(255)
    elif isinstance(key, int) and key < len(alpha):
        alpha[key] = 0
    return np.concatenate((colours, alpha), axis=1)


def _decode_deep(image: Image.Image, data: bytes, exif: Image.Exif) -> NDArray[Any]:
    """Colour or alpha of 16 bits."""
    if image.format == "PNG":
        samples = imagecodecs.png_decode(data)
        key = image.info.get("transparency")
        # The decoder may have made alpha of the key itself.
        return samples if key is None or samples.shape[-1] in (2, 4) else _keyed(samples, key)
    samples = imagecodecs.tiff_decode(data)
    if _number(exif, _PLANAR, 1) == 2 and samples.shape[0] in (2, 3, 4):
        samples = np.moveaxis(samples, 0, -1)
    orientation = exif.get(_ORIENTATION, 1)  # which Pillow follows for all other kinds of TIFF
    return EXIF_TURNS[orientation](samples) if orientation in EXIF_TURNS else samples


def _keyed(samples: NDArray[Any], key: int | tuple[int, ...]) -> NDArray[Any]:
    """Samples with an alpha channel that makes one value transparent (PNG, 11.3.2.1)."""
    opaque = samples != np.asarray(key)
    if samples.ndim == 3:
        opaque = opaque.any(axis=-1)
    alpha = opaque * samples.dtype.type(np.iinfo(samples.dtype).max)
    return np.dstack((samples, alpha))


def _is_undone_white_is_zero(image: Image.Image, exif: Image.Exif) -> bool:
    """Whether a TIFF stores white as zero in a depth where Pillow leaves that to the caller."""
    if image.format != "TIFF" or image.mode not in _DEEP_MODES:
        return False
    return bool(exif.get(_TIFF_PHOTOMETRIC) == 0)


def _sides(image: Image.Image, orientation: int) -> tuple[float, float]:
    """Height and width of a pixel once it is upright, in any unit; equal if nothing is told."""
    for name in ("dpi", "aspect", "jfif_density"):
        across, down = (float(number) for number in image.info.get(name, (0, 0)))
        if across > 0 and down > 0 and math.isfinite(across + down):
            sides = 1 / down, 1 / across
            return sides[::-1] if orientation in (5, 6, 7, 8) else sides
    return 1.0, 1.0


_ADAM7: Final = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip
"""First column and row, and the steps of both, of each pass (PNG, 8.2)."""


def _remark_on_missing_rows(data: bytes, journal: Journal) -> None:
    """Remarks on a PNG whose pixels end early though the file ends as it should.

    The decoder shows what is missing as black.
    """
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    bits *= {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for x, y, step_x, step_y in passes:
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        expected += rows * (1 + -(-columns * bits // 8)) if columns > 0 else 0
    found = _inflated_size(data, expected)
    if found < expected:
        journal.remark(
            f"The file holds only {found / expected:.0%} of its pixels; the rest is shown black."
        )


def _inflated_size(data: bytes, enough: int) -> int:
    """The bytes that the pixels of a PNG inflate to, counted up to `enough`."""
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
        return enough  # broken, which the decoder tells
    return found


def _remark_on_strips(exif: Image.Exif, journal: Journal) -> None:
    """Remarks on a TIFF whose strips hold more or fewer rows than its height."""
    offsets, height = _numbers(exif, _STRIP_OFFSETS), _number(exif, _HEIGHT, 0)
    if not offsets or height < 1:
        return
    planes = _number(exif, _SAMPLES_PER_PIXEL, 1) if _number(exif, _PLANAR, 1) == 2 else 1
    strips = planes * -(-height // max(1, min(height, _number(exif, _ROWS_PER_STRIP, height))))
    wrong = strips != len(offsets)
    if _number(exif, _COMPRESSION, 1) == 1:
        bits = sum(_numbers(exif, _BITS_PER_SAMPLE) or [1])
        row = -(-_number(exif, _WIDTH, 0) * bits // 8)
        wrong |= planes == 1 and abs(sum(_numbers(exif, _STRIP_BYTES)) - row * height) >= row > 0
    if wrong:
        journal.remark(
            "The file holds more or fewer rows than it states: a part of the image may be missing."
        )
