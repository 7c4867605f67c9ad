"""PNG, JPEG, WebP, TIFF and BMP: the pictures that carry nothing but their pixels."""

import io
import math
import warnings
from dataclasses import dataclass
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cxrdemo.errors import UnreadableImageError, UnsupportedImageError
from cxrdemo.files import tiff
from cxrdemo.files.decoding import check_cost, check_size, decoding, to_radiograph
from cxrdemo.files.greyscale import raster_to_grey
from cxrdemo.files.journal import Journal
from cxrdemo.files.missing import remark_on_missing_jpeg_data, remark_on_missing_png_rows
from cxrdemo.files.upright import EXIF_TURNS, squared
from cxrdemo.quiet import recorded_warnings
from cxrdemo.radiograph import Radiograph

_RASTER_FORMATS: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_DEEP_MODES: Final = ("I;16", "I;16L", "I;16B", "I")
_ORIENTATION: Final = 274


@dataclass(frozen=True, eq=False)
class _Picture:
    """A decoded picture, as it lies in its file.

    Attributes:
        kind: Such as "PNG".
        bit_depth: Of a sample.
        samples: (H, W) grey or indices, or (H, W, C) with 2 to 4 channels of colour or alpha.
        palette: float32 (N, 4), RGBA in 0..1, if the samples are indices.
        is_white_zero: Whether the samples still have to be inverted.
        orientation: Of EXIF; 1 is upright.
        is_turned: Whether the decoder has followed the orientation already.
        sides: Height and width of a pixel as stored, in any unit; equal if nothing is told.
    """

    kind: str
    bit_depth: int
    samples: NDArray[Any]
    palette: NDArray[np.float32] | None
    is_white_zero: bool
    orientation: int
    is_turned: bool
    sides: tuple[float, float]


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
    with decoding(announced):
        directory = _tiff_directory(data, journal) if announced == "TIFF" else None
        if directory is not None and directory.is_deep:
            picture = _decode_deep_tiff(data, directory, max_cost, journal)
        else:
            picture = _decode_by_pillow(data, announced, directory, max_cost, journal)
        return _finished(picture, journal)


def _finished(picture: _Picture, journal: Journal) -> Radiograph:
    """A picture in grey, upright, with square pixels."""
    pixels, colourfulness = raster_to_grey(picture.samples, journal, palette=picture.palette)
    if picture.is_white_zero:
        np.subtract(1, pixels, out=pixels)
        journal.did("Inverted, because the file stores white as zero")
        journal.inverted = True
    sides = picture.sides
    is_upright = picture.orientation not in EXIF_TURNS
    if not is_upright:
        journal.did("Turned upright, as the file's orientation tag orders")
        if not picture.is_turned:
            pixels = EXIF_TURNS[picture.orientation](pixels)
        sides = sides[::-1] if picture.orientation in (5, 6, 7, 8) else sides
    shape = pixels.shape
    pixels, _ = squared(pixels, sides, journal)
    return to_radiograph(
        pixels,
        journal,
        kind=picture.kind,
        bit_depth=picture.bit_depth,
        colourfulness=colourfulness,
        own_grid=is_upright and pixels.shape == shape,
    )


def _check_one_picture(kind: str, several: bool) -> None:
    if several:
        raise UnsupportedImageError(
            f"Expected a single image, found a {kind} file with several pages or frames. Save"
            " the frontal radiograph as a file of its own."
        )


def _tiff_directory(data: bytes, journal: Journal) -> tiff.Directory:
    with recorded_warnings() as caught:
        directory = tiff.read_directory(data)
    _remark_on_warnings(caught, journal)
    return directory


def _decode_deep_tiff(
    data: bytes, directory: tiff.Directory, max_cost: float, journal: Journal
) -> _Picture:
    _check_one_picture("TIFF", directory.pages)
    height, width = directory.hw
    check_size(height, width, samples=directory.samples, bits=directory.bits)
    tiff.check_supported(directory)
    check_cost(height * width * directory.samples, 1, max_cost)
    journal.did(f"Decoded TIFF, {directory.bits} bits per sample")
    tiff.remark_on_missing_parts(directory, journal)
    return _Picture(
        "TIFF",
        directory.bits,
        tiff.decode_deep(data, directory),
        None,
        directory.photometric == 0,
        directory.orientation,
        False,
        directory.sides,
    )


def _decode_by_pillow(
    data: bytes,
    announced: str,
    directory: tiff.Directory | None,
    max_cost: float,
    journal: Journal,
) -> _Picture:
    if directory is not None:
        tiff.check_supported(directory)
    image, frames = _open(data, announced, journal)
    # A JPEG with several pictures (MPO) is a phone's photograph with previews; the first is it.
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    _check_one_picture(kind, kind != "JPEG" and frames > 1)
    samples = len(image.getbands())
    check_size(image.height, image.width, samples=samples, bits=16)
    scans = data.count(b"\xff\xda") if kind == "JPEG" else 1
    check_cost(image.height * image.width * samples, scans, max_cost)
    orientation = _orientation(image, journal)
    bit_depth = _bits_per_sample(image, data, directory)
    journal.did(f"Decoded {kind}, {bit_depth} bits per sample")
    if kind == "PNG":
        remark_on_missing_png_rows(data, journal)
    elif directory is not None:
        tiff.remark_on_missing_parts(directory, journal)
    decoded, palette = _decode(image, data, bit_depth)
    if kind == "JPEG":
        remark_on_missing_jpeg_data(data, decoded, _pillow_samples, journal)
    elif kind == "PNG":  # whose tags may lie behind the pixels
        orientation = _orientation(image, journal)
    # Of TIFFs Pillow has followed the orientation.
    return _Picture(
        kind, bit_depth, decoded, palette, False, orientation, kind == "TIFF", _sides(image)
    )


def _open(data: bytes, announced: str, journal: Journal) -> tuple[Image.Image, int]:
    """The picture with its pixels still undecoded, and how many the file holds."""
    try:
        with recorded_warnings() as caught:
            image = Image.open(io.BytesIO(data), formats=_RASTER_FORMATS)
            frames = getattr(image, "n_frames", 1)
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"Expected a complete {announced} file, found one whose beginning is broken or of"
            " a rare kind. Copy or export it again; if it opens elsewhere, save it from there"
            " as PNG."
        ) from error
    _remark_on_warnings(caught, journal)
    return image, frames


def _orientation(image: Image.Image, journal: Journal) -> int:
    """The orientation by the tags that are known so far; 1 is upright."""
    with recorded_warnings() as caught:
        if image.format == "PNG":  # where asking for the tags would decode the pixels
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
        else:
            exif = image.getexif()
        orientation = exif.get(_ORIENTATION, 1)
    _remark_on_warnings(caught, journal)
    return orientation if orientation in EXIF_TURNS else 1


def _remark_on_warnings(caught: list[warnings.WarningMessage], journal: Journal) -> None:
    # Deprecations and size hints do not speak of the file.
    if any(issubclass(warning.category, UserWarning) for warning in caught):
        journal.remark("The decoder found irregularities in the file.")


def _bits_per_sample(image: Image.Image, data: bytes, directory: tiff.Directory | None) -> int:
    if directory is not None:
        return directory.bits
    if image.format == "PNG":
        return data[24]  # the bit depth in IHDR, always the first chunk
    return 1 if image.mode == "1" else 8


def _decode(
    image: Image.Image, data: bytes, bit_depth: int
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """The samples as stored, and the palette (N, 4) RGBA in 0..1 if they are indices.

    The samples are (H, W) grey or indices, or (H, W, C) with 2 to 4 channels of colour or alpha.
    """
    mode = image.mode
    if bit_depth == 16 and mode in ("RGB", "RGBA", "LA"):
        return _decode_deep_png(image, data), None  # Pillow cuts it down to 8 bits
    image.load()
    if mode in _DEEP_MODES:
        samples = np.asarray(image)
        samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
        key = image.info.get("transparency")
        return (samples if key is None else _keyed(samples, key)), None
    if mode == "P":
        return np.asarray(image), _palette(image)
    transparent = image.has_transparency_data
    wanted = "L" if mode in ("1", "L", "La", "LA") else "RGB"
    wanted += "A" if transparent else ""
    return np.asarray(image if mode == wanted else image.convert(wanted)), None


def _pillow_samples(data: bytes) -> NDArray[Any]:
    """The samples of a JPEG as `_decode` gives them."""
    image = Image.open(io.BytesIO(data), formats=_RASTER_FORMATS)
    return _decode(image, data, 8)[0]


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


def _decode_deep_png(image: Image.Image, data: bytes) -> NDArray[Any]:
    """Colour or alpha of 16 bits."""
    samples = imagecodecs.png_decode(data)
    key = image.info.get("transparency")
    # The decoder may have made alpha of the key itself.
    return samples if key is None or samples.shape[-1] in (2, 4) else _keyed(samples, key)


def _keyed(samples: NDArray[Any], key: int | tuple[int, ...]) -> NDArray[Any]:
    """Samples with an alpha channel that makes one value transparent (PNG, 11.3.2.1)."""
    opaque = samples != np.asarray(key)
    if samples.ndim == 3:
        opaque = opaque.any(axis=-1)
    alpha = opaque * samples.dtype.type(np.iinfo(samples.dtype).max)
    return np.dstack((samples, alpha))


def _sides(image: Image.Image) -> tuple[float, float]:
    """Height and width of a pixel, in any unit; equal if nothing is told."""
    for name in ("dpi", "aspect", "jfif_density"):
        across, down = (float(number) for number in image.info.get(name, (0, 0)))
        if across > 0 and down > 0 and math.isfinite(across + down):
            return 1 / down, 1 / across
    return 1.0, 1.0
