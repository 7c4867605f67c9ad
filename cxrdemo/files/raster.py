"""PNG, JPEG, WebP, TIFF and BMP: the pictures that carry nothing but their pixels."""

import io
from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cxrdemo.errors import UnreadableImageError, UnsupportedImageError
from cxrdemo.files.decoding import check_size, decoding, departed, to_radiograph
from cxrdemo.files.greyscale import to_grey
from cxrdemo.files.journal import Journal
from cxrdemo.radiograph import Radiograph

_RASTER_FORMATS: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_DEEP_MODES: Final = ("I;16", "I;16L", "I;16B", "I", "F")
_BITS_PER_SAMPLE: Final = 258
_TIFF_PHOTOMETRIC: Final = 262
_ORIENTATION: Final = 274
_UPRIGHT: Final[dict[int, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    2: lambda samples: samples[:, ::-1],
    3: lambda samples: samples[::-1, ::-1],
    4: lambda samples: samples[::-1],
    5: lambda samples: samples.swapaxes(0, 1),
    6: lambda samples: samples[::-1].swapaxes(0, 1),
    7: lambda samples: samples[::-1, ::-1].swapaxes(0, 1),
    8: lambda samples: samples[:, ::-1].swapaxes(0, 1),
}
"""What each value of the EXIF orientation tag asks for."""


def read_raster(data: bytes, announced: str) -> Radiograph:
    """Reads a picture.

    Args:
        data: The file.
        announced: The format that its first bytes name.

    Raises:
        UnreadableImageError: If it is broken.
        UnsupportedImageError: If it is too large, too small, or several pictures.
    """
    try:
        with decoding("image"):
            image = Image.open(io.BytesIO(data), formats=_RASTER_FORMATS)
    except UnreadableImageError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise UnreadableImageError(
                f"Expected a complete {announced} file, found one whose beginning is broken or of"
                " a rare kind. Copy or export it again; if it opens elsewhere, save it from there"
                " as PNG."
            ) from error.__cause__
        raise
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    check_size(image.height, image.width)
    with decoding(kind) as caught:
        # A JPEG with several pictures (MPO) is a phone's photograph with previews; the first is it.
        if kind != "JPEG" and getattr(image, "n_frames", 1) > 1:
            raise UnsupportedImageError(
                f"Expected a single image, found a {kind} file with several pages or frames. Save"
                " the frontal radiograph as a file of its own."
            )
        bit_depth = _bits_per_sample(image, data)
        orientation = image.getexif().get(_ORIENTATION, 1)
        white_is_zero = _is_undone_white_is_zero(image)
        samples = _decode_raster(image, data, bit_depth)
    journal = Journal()
    journal.did(f"Decoded {kind}, {bit_depth} bits per sample")
    if departed(caught):
        journal.remark("The decoder found irregularities in the file.")
    if orientation in _UPRIGHT:
        journal.did("Turned upright, as the file's orientation tag orders")
        if kind != "TIFF":  # there both decoders turn it themselves
            samples = _UPRIGHT[orientation](samples)
    pixels, colourfulness = to_grey(samples, journal)
    if white_is_zero:
        pixels = 1.0 - pixels
        journal.did("Inverted, because the file stores white as zero")
    return to_radiograph(
        pixels, journal, kind=kind, bit_depth=bit_depth, colourfulness=colourfulness
    )


def _bits_per_sample(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG":
        return data[24]  # the bit depth in IHDR, always the first chunk
    if image.format == "TIFF":
        bits: Any = image.getexif().get(_BITS_PER_SAMPLE, 1)
        return int(max(bits)) if isinstance(bits, tuple) else int(bits)
    return 1 if image.mode == "1" else 8


def _is_undone_white_is_zero(image: Image.Image) -> bool:
    """Whether a TIFF stores white as zero in a depth where Pillow leaves that to the caller."""
    if image.format != "TIFF" or image.mode not in _DEEP_MODES:
        return False
    return bool(image.getexif().get(_TIFF_PHOTOMETRIC) == 0)


def _decode_raster(image: Image.Image, data: bytes, bit_depth: int) -> NDArray[Any]:
    """The samples as stored: (H, W) grey, or (H, W, C) with 2 to 4 channels of colour or alpha."""
    image.load()
    mode = image.mode
    if mode in _DEEP_MODES:
        samples = np.asarray(image)
        return samples.astype(samples.dtype.newbyteorder("="), copy=False)
    if bit_depth == 16 and mode in ("RGB", "RGBA"):
        # Pillow cuts 16-bit colour down to 8; it has decoded only to prove the file complete.
        return _decode_deep_colour(data)
    transparent = image.has_transparency_data
    if mode in ("1", "L", "La", "LA"):
        return np.asarray(image.convert("LA" if transparent else "L"))
    return np.asarray(image.convert("RGBA" if transparent else "RGB"))


def _decode_deep_colour(data: bytes) -> NDArray[Any]:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.ndim != 3:
        raise ValueError("OpenCV cannot decode the colours")
    order = cv2.COLOR_BGRA2RGBA if decoded.shape[2] == 4 else cv2.COLOR_BGR2RGB
    samples: NDArray[Any] = cv2.cvtColor(decoded, order)
    return samples
