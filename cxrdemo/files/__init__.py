"""Files: the bytes of a picture or of a DICOM file become a `Radiograph`.

The kind of file is told by its content, never by its name. Nothing is flipped, inverted or cropped
beyond what the file's own header orders; what was done is told in `Source.steps`, what looks
unusual in `Source.warnings`. No patient data leaves this room: of a DICOM file only the elements
that are used are parsed at all.
"""

import math
import os
import stat
from pathlib import Path
from typing import Final, NoReturn

from cxrdemo.errors import UnreadableImageError, UnsupportedImageError
from cxrdemo.files.apart import read_apart
from cxrdemo.files.decoding import MAX_COST, MAX_PIXELS, TooCostlyHere
from cxrdemo.files.dicom import is_dicom, read_dicom
from cxrdemo.files.raster import read_raster
from cxrdemo.radiograph import Radiograph

__all__ = ["MAX_BYTES", "MAX_PIXELS", "load", "looks_readable", "read_radiograph"]

MAX_BYTES: Final = 256 * 2**20
"""A 100-megapixel radiograph of 16 bits, uncompressed, fits."""

_KINDS_READ: Final = "Expected a chest X-ray as DICOM, PNG, JPEG, TIFF, WebP or BMP"

_RASTERS: Final = (
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"RIFF", "WebP"),
    (b"BM", "BMP"),
)
"""First bytes of the pictures that are read."""

_STRANGERS: Final = (
    (b"\0\x05\x16\x07", "a Mac's companion of a file, which holds no picture itself"),
    (b"8BPS", "a Photoshop document"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture outside DICOM"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"NRRD", "an NRRD volume"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture outside DICOM"),
)
"""First bytes of what is often sent instead, and its name."""

_BRANDS: Final = (
    ((b"avif", b"avis"), "an AVIF picture"),
    ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC picture"),
)
"""Brands of files in boxes (ISO 14496-12), and their name."""


def read_radiograph(source: Path | bytes, *, max_bytes: int = MAX_BYTES) -> Radiograph:
    """Reads one chest X-ray from a file or from its bytes.

    Args:
        source: Where the file lies, or its content.
        max_bytes: Size above which a file is refused unread.

    Returns:
        The radiograph at its native size; 1 is dense.

    Raises:
        UnreadableImageError: If the file is missing, empty, broken or no image.
        UnsupportedImageError: If it is intact but is not a single radiograph of a size this
            software handles.
    """
    data = load(source, max_bytes)
    try:
        return read_here(data, max_cost=MAX_COST)
    except TooCostlyHere:
        return read_apart(data)


def read_here(data: bytes, *, max_cost: float = math.inf) -> Radiograph:
    """Reads the bytes of a file in this process, whatever that takes.

    Raises:
        TooCostlyHere: If decoding costs more than `max_cost`.
        UnreadableImageError: As `read_radiograph`.
        UnsupportedImageError: As `read_radiograph`.
    """
    if is_dicom(data):
        return read_dicom(data, max_cost)
    announced = _announced(data)
    if announced is not None:
        return read_raster(data, announced, max_cost)
    _refuse(data)


def looks_readable(beginning: bytes) -> bool:
    """Whether a file that begins so is of a kind that is read; 132 bytes are enough to tell."""
    return is_dicom(beginning) or _announced(beginning) is not None


def _announced(data: bytes) -> str | None:
    return next((name for signature, name in _RASTERS if data.startswith(signature)), None)


def load(source: Path | bytes, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a file, which `read_radiograph` takes as well as its path.

    Only an ordinary file is opened: a pipe would be waited for, and a device has no end.

    Args:
        source: Where the file lies, or its content.
        max_bytes: Size above which it is refused unread.

    Raises:
        UnreadableImageError: If it is missing, empty, or no ordinary file.
        UnsupportedImageError: If it is larger than `max_bytes`.
    """
    data = source if isinstance(source, bytes) else _load_file(source, max_bytes)
    if len(data) > max_bytes:
        raise _too_many_bytes(len(data), max_bytes)
    if not data:
        raise UnreadableImageError(
            f"{_KINDS_READ}, found an empty file. The copy or upload may have been cut off; try"
            " again."
        )
    return data


def _load_file(path: Path, max_bytes: int) -> bytes:
    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # a pipe would keep the opening waiting

    try:
        with open(path, "rb", opener=without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise OSError("no ordinary file")
            if found.st_size > max_bytes:
                raise _too_many_bytes(found.st_size, max_bytes)
            return file.read(max_bytes + 1)
    # A path with a null byte is no OSError but a ValueError.
    except (OSError, ValueError) as error:
        raise UnreadableImageError(
            "Expected a file, but it could not be opened. Check that it still exists, that it is"
            " an ordinary file and not a folder, pipe or device, and that you may read it."
        ) from error


def _too_many_bytes(size: int, max_bytes: int) -> UnsupportedImageError:
    return UnsupportedImageError(
        f"Expected a file of at most {max_bytes / 2**20:.0f} MB, found {size / 2**20:.0f} MB."
        " Export a single image, or compress it without loss."
    )


def _refuse(data: bytes) -> NoReturn:
    """Refuses bytes of no kind that is read, worded by what they announce themselves."""
    name = _stranger(data)
    if name is not None:
        raise UnsupportedImageError(
            f"{_KINDS_READ}, found {name}. Take the image out of it, or export the radiograph in"
            " one of these formats."
        )
    raise UnreadableImageError(
        f"{_KINDS_READ}, found something else. Export the radiograph in one of these formats."
    )


def _stranger(data: bytes) -> str | None:
    """What the first bytes announce, if it is nothing that is read."""
    if data[4:8] == b"ftyp":
        # The major brand may be a general one, with the particular ones behind it.
        brands = [data[8:12], *(data[at : at + 4] for at in range(16, min(64, len(data)), 4))]
        for known, name in _BRANDS:
            if any(brand in known for brand in brands):
                return name
        return "a video or another file of its kind"
    return next((name for signature, name in _STRANGERS if data.startswith(signature)), None)
