"""Reading: the bytes of a picture or of a DICOM file become a `Radiograph`.

The kind of file is told by its content, never by its name. Nothing is flipped, inverted or cropped
beyond what the file's own header orders; what was done is told in `Source.steps`, what looks
unusual in `Source.warnings`. No patient data leaves this module: of a DICOM file only the elements
that are used are parsed at all.
"""

import io
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import cv2
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_rescale, apply_windowing
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from cxrdemo.errors import CxrDemoError, UnreadableImageError, UnsupportedImageError
from cxrdemo.radiograph import MIN_SIDE_PX, Radiograph, Source, View

MAX_BYTES: Final = 256 * 2**20
"""A 100-megapixel radiograph of 16 bits, uncompressed, fits."""

MAX_PIXELS: Final = 100_000_000
"""Five times the largest flat-panel detector (about 20 megapixels), and 400 MB as float32."""

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

_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601, section 2.5.1."""

_COLOURED_SPREAD: Final = 0.1
_COLOURED_SHARE: Final = 0.05
"""A pixel is coloured if its channels differ by more than the first; a picture, if more than the
second share of its pixels are. Annotations in colour stay below, photographs lie far above."""

_FULL_RANGE_BITS: Final = (8, 10, 12, 14, 16)
_KINDS_READ: Final = "Expected a chest X-ray as DICOM, PNG, JPEG, TIFF, WebP or BMP"

_SIGNATURES: Final = (
    (b"\x89PNG", "PNG", True),
    (b"\xff\xd8\xff", "JPEG", True),
    (b"II*\0", "TIFF", True),
    (b"MM\0*", "TIFF", True),
    (b"RIFF", "WebP", True),
    (b"BM", "BMP", True),
    (b"GIF8", "a GIF picture", False),
    (b"%PDF", "a PDF document", False),
    (b"PK\x03\x04", "a ZIP archive or office document", False),
    (b"\x1f\x8b", "a gzip archive", False),
    (b"7z\xbc\xaf", "a 7z archive", False),
    (b"Rar!", "a RAR archive", False),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture outside DICOM", False),
)
"""First bytes, what they announce, and whether it is a format this module reads."""

_ELEMENTS: Final = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
    *(
        f"{prefix}{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for prefix, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
    ),
    "Modality",
    "ViewPosition",
    "ViewCodeSequence",
    "BodyPartExamined",
    "PatientOrientation",
    "KVP",
    "PresentationIntentType",
    "BurnedInAnnotation",
    "ImagerPixelSpacing",
    "PixelSpacing",
    "PixelSpacingCalibrationType",
    "PixelAspectRatio",
]
"""All that is parsed of a DICOM file: how to show its pixels, and the tags worth a warning."""

_RADIOGRAPHIC: Final = ("CR", "DX", "RG", "RF", "SC", "OT")
_OTHER_MODALITIES: Final = {
    "CT": "computed tomography (CT)",
    "MR": "magnetic resonance (MR)",
    "US": "ultrasound (US)",
    "MG": "mammography (MG)",
    "NM": "nuclear medicine (NM)",
    "PT": "positron emission tomography (PT)",
    "XA": "angiography (XA)",
    "IO": "intra-oral radiography (IO)",
    "PX": "panoramic radiography (PX)",
    "ES": "endoscopy (ES)",
    "SM": "slide microscopy (SM)",
    "ECG": "electrocardiography (ECG)",
    "SR": "a structured report (SR)",
    "PR": "a presentation state (PR)",
    "SEG": "a segmentation (SEG)",
    "DOC": "a document (DOC)",
}
_VIEWS: Final[dict[str, View]] = {
    "PA": "PA",
    "AP": "AP",
    "LL": "LATERAL",
    "RL": "LATERAL",
    "LAT": "LATERAL",
    "LATERAL": "LATERAL",
    "LLAT": "LATERAL",
    "RLAT": "LATERAL",
}
_PHOTOMETRIC: Final = (
    "MONOCHROME1",
    "MONOCHROME2",
    "PALETTE COLOR",
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_ICT",
    "YBR_RCT",
)
_START_OF_FRAME: Final = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_FIRST_ELEMENTS: Final = frozenset(
    {(2, 0), (2, 1), (8, 0), (8, 1), (8, 5), (8, 8), (8, 0x12), (8, 0x16), (8, 0x18)}
)
_FIRST_REPRESENTATIONS: Final = frozenset({b"UL", b"OB", b"CS", b"DA", b"UI"})
_CHEST_WORDS: Final = ("CHEST", "THORAX", "LUNG")
_SQUARE_TOLERANCE: Final = 0.02
"""Two sides of a pixel that differ by less deform a chest by less than 1 cm."""

# The switches for warnings and for pydicom's validation are global, so that two threads which turn
# them at once may leave them turned for ever.
_LIBRARY_LOCK: Final = threading.Lock()


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
    data = _load(source, max_bytes)
    return _read_dicom(data) if _is_dicom(data) else _read_raster(data)


def _load(source: Path | bytes, max_bytes: int) -> bytes:
    try:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if size > max_bytes:
            raise UnsupportedImageError(
                f"Expected a file of at most {max_bytes / 2**20:.0f} MB, found"
                f" {size / 2**20:.0f} MB. Export a single image, or compress it without loss."
            )
        data = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise UnreadableImageError(
            "Expected a file, but it could not be opened. Check that it still exists, that it is"
            " not a folder, and that you may read it."
        ) from error
    if not data:
        raise UnreadableImageError(
            f"{_KINDS_READ}, found an empty file. The copy or upload may have been cut off; try"
            " again."
        )
    return data


@contextmanager
def _decoding(kind: str) -> Iterator[list[warnings.WarningMessage]]:
    """Collects the warnings of a decoder and turns whatever it raises into our own error."""
    # pydicom's validation would write the values that it finds wrong, a name perhaps, to the log.
    with _LIBRARY_LOCK, disable_value_validation(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield caught
        except CxrDemoError:
            raise
        except Image.DecompressionBombError as error:
            raise _too_large() from error
        # Decoders raise anything at all on broken bytes; nothing is swallowed here.
        except Exception as error:
            raise UnreadableImageError(
                f"Expected a complete {kind} file, found one that is broken or cut short. Copy or"
                " export it again; if it opens elsewhere, save it from there as PNG."
            ) from error


def _user_warnings(caught: list[warnings.WarningMessage]) -> bool:
    """Whether a decoder warned about the file; its deprecations and size hints do not count."""
    return any(issubclass(warning.category, UserWarning) for warning in caught)


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise _too_large()
    if min(height, width) < MIN_SIDE_PX:
        raise UnsupportedImageError(
            f"Expected an image of at least {MIN_SIDE_PX} pixels a side, found {width} x {height}."
            " Use the original, not a thumbnail."
        )


def _too_large() -> UnsupportedImageError:
    return UnsupportedImageError(
        f"Expected an image of at most {MAX_PIXELS // 1_000_000} megapixels, found a larger one."
        " Export the radiograph at its native resolution."
    )


def _read_raster(data: bytes) -> Radiograph:
    try:
        with _decoding("image"):
            image = Image.open(io.BytesIO(data), formats=_RASTER_FORMATS)
    except UnreadableImageError as error:
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise _not_an_image(data) from error.__cause__
        raise
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    _check_size(image.height, image.width)
    with _decoding(kind) as caught:
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
    steps = [f"Decoded {kind}, {bit_depth} bits per sample"]
    remarks: list[str] = []
    if _user_warnings(caught):
        remarks.append("The decoder found irregularities in the file.")
    if orientation in _UPRIGHT:
        steps.append("Turned upright, as the file's orientation tag orders")
        if kind != "TIFF":  # there both decoders turn it themselves
            samples = _UPRIGHT[orientation](samples)
    pixels, colourfulness = _to_grey(samples, steps, remarks)
    if white_is_zero:
        pixels = 1.0 - pixels
        steps.append("Inverted, because the file stores white as zero")
    source = Source(
        kind, bit_depth, tuple(steps), warnings=tuple(remarks), colourfulness=colourfulness
    )
    return _radiograph(pixels, source)


def _radiograph(
    pixels: NDArray[np.float32],
    source: Source,
    spacing_mm: tuple[float, float] | None = None,
    view: View | None = None,
) -> Radiograph:
    if pixels.min() == pixels.max():
        blank = "The image contains no contrast: every pixel has the same value."
        source = replace(source, warnings=(*source.warnings, blank))
    return Radiograph(np.ascontiguousarray(pixels, np.float32), spacing_mm, view, source)


def _not_an_image(data: bytes) -> CxrDemoError:
    """The error for bytes that no decoder recognises, worded by what they announce themselves."""
    for signature, name, is_read in _SIGNATURES:
        if data.startswith(signature):
            if is_read:
                return UnreadableImageError(
                    f"Expected a complete {name} file, found one whose beginning is broken or of a"
                    " rare kind. Copy or export it again; if it opens elsewhere, save it from there"
                    " as PNG."
                )
            return UnsupportedImageError(
                f"{_KINDS_READ}, found {name}. Take the image out of it, or export the radiograph"
                " in one of these formats."
            )
    return UnreadableImageError(
        f"{_KINDS_READ}, found something else. Export the radiograph in one of these formats."
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


def _to_grey(
    samples: NDArray[Any], steps: list[str], remarks: list[str]
) -> tuple[NDArray[np.float32], float]:
    """Samples of any kind as grey in 0..1, with the alpha laid over black; and `colourfulness`."""
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    alpha = None
    if channels in (2, 4):
        alpha = samples[..., -1].astype(np.float32) / np.iinfo(samples.dtype).max
        samples = samples[..., :-1]
    values = _to_unit(samples, steps, remarks)
    grey, colourfulness = (values, 0.0) if values.ndim == 2 else _luma(values, steps, remarks)
    if alpha is not None and alpha.min() < 1.0:
        grey *= alpha
        steps.append("Laid the transparent parts over black")
    return grey, colourfulness


def _to_unit(samples: NDArray[Any], steps: list[str], remarks: list[str]) -> NDArray[np.float32]:
    """Scales samples to 0..1 by the range of their type, or by their own if it is open-ended."""
    if samples.dtype == np.uint8:
        return samples.astype(np.float32) / np.float32(255)
    if samples.dtype.kind == "u" and samples.dtype.itemsize == 2:
        highest = int(samples.max())
        bits = next(bits for bits in _FULL_RANGE_BITS if highest < 2**bits)
        if bits < 16:
            steps.append(f"Scaled by the full range of {bits} bits, as no value needs more")
        return samples.astype(np.float32) / np.float32(2**bits - 1)
    return _min_max(samples, np.isfinite(samples), steps, remarks)


def _min_max(
    values: NDArray[Any], valid: NDArray[np.bool_], steps: list[str], remarks: list[str]
) -> NDArray[np.float32]:
    """Stretches the valid values to 0..1; the rest, and a constant image, become 0."""
    if not valid.all():
        remarks.append("Some pixels hold no value; they are shown black.")
    wide = np.where(valid, values, np.nan).astype(np.float64)
    low, high = (np.nanmin(wide), np.nanmax(wide)) if valid.any() else (0.0, 0.0)
    if high == low:
        return np.zeros(values.shape, np.float32)
    steps.append(f"Scaled from the image's own range, {low:g} to {high:g}")
    return np.nan_to_num((wide - low) / (high - low)).astype(np.float32)


def _luma(
    colour: NDArray[np.float32], steps: list[str], remarks: list[str]
) -> tuple[NDArray[np.float32], float]:
    """Grey from colour, 0..1, and `Source.colourfulness`."""
    if colour.shape[2] == 1:
        return colour[..., 0], 0.0
    spread = colour.max(axis=2) - colour.min(axis=2)
    if not spread.any():
        steps.append("Took one of three equal colour channels")
        return colour[..., 0], 0.0
    colourfulness = float(np.mean(spread > _COLOURED_SPREAD))
    if colourfulness > _COLOURED_SHARE:
        remarks.append("This looks like a colour photograph, not an X-ray.")
    steps.append("Converted colour to grey by the ITU-R 601 luma")
    # The weights sum to one, but not after rounding.
    grey: NDArray[np.float32] = np.clip(colour @ _LUMA, 0.0, 1.0)
    return grey, colourfulness


def _is_dicom(data: bytes) -> bool:
    """Whether the bytes are DICOM, by the prefix or by a first element.

    Some archives leave out the preamble and the prefix; their files begin with one of few elements.
    """
    if data[128:132] == b"DICM":
        return True
    if len(data) < 132:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHI", data[:8])
        opens = (group, element) in _FIRST_ELEMENTS
        if opens and (data[4:6] in _FIRST_REPRESENTATIONS or length <= 64):
            return True
    return False


def _read_dicom(data: bytes) -> Radiograph:
    with _decoding("DICOM") as caught:
        # Inflating is unbounded in the library, and a radiograph is never sent this way.
        if DeflatedExplicitVRLittleEndian.encode() in data:
            raise UnsupportedImageError(
                "Expected a DICOM image, found one whose whole header is deflated. Export it with"
                " an ordinary transfer syntax."
            )
        # Only these elements are parsed: no name, number or date of a patient enters memory.
        header = pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=list(_ELEMENTS))
        _set_transfer_syntax(header)
        _check_supported(header)
        steps: list[str] = []
        remarks: list[str] = []
        stored = _decode_dicom(header, steps)
        if stored.ndim == 3 or _code(header, "PhotometricInterpretation") == "PALETTE COLOR":
            pixels, colourfulness = _colour_to_grey(stored, header, steps, remarks)
        else:
            pixels, colourfulness = _grey_to_unit(stored, header, steps, remarks), 0.0
        spacing_mm = _spacing_mm(header, steps, remarks)
        view = _view(header, remarks)
        _remark_on_header(header, view, remarks)
        tags = _tags(header)
        bit_depth = int(header.BitsStored)
        if _user_warnings(caught):
            # The library's own words may quote the header, so they go no further.
            remarks.append("The file departs from the DICOM standard in places.")
    source = Source(
        "DICOM",
        bit_depth,
        tuple(steps),
        MappingProxyType(tags),
        tuple(remarks),
        colourfulness,
    )
    return _radiograph(pixels, source, spacing_mm, view)


def _set_transfer_syntax(header: Any) -> None:
    """Names the encoding of a file that has no file meta group, as the parser found it."""
    if header.file_meta.get("TransferSyntaxUID"):
        return
    implicit, little_endian = header.original_encoding
    if implicit:
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    elif little_endian:
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    else:
        header.file_meta.TransferSyntaxUID = ExplicitVRBigEndian


def _check_supported(header: Any) -> None:
    modality = _code(header, "Modality")
    if modality and modality not in _RADIOGRAPHIC:
        found = _OTHER_MODALITIES.get(modality, "another kind of examination")
        raise UnsupportedImageError(
            "Expected a radiograph (modality CR, DX or a secondary capture of one), found"
            f" {found}. Choose the chest X-ray of the study."
        )
    if "PixelData" not in header:
        if "Rows" in header or not modality:
            raise UnreadableImageError(
                "Expected a complete DICOM image with integer pixels, found no pixels: the file is"
                " cut short or is a directory. Copy or export the image again."
            )
        raise UnsupportedImageError(
            "Expected a DICOM image, found a file without pixels, such as a report. Choose the"
            " image itself."
        )
    if (_numbers(header, "NumberOfFrames") or [1])[0] > 1:
        raise UnsupportedImageError(
            "Expected a single image, found a DICOM file of several frames. Export the frontal"
            " radiograph as a file of its own."
        )
    if _code(header, "PhotometricInterpretation") not in _PHOTOMETRIC:
        raise UnsupportedImageError(
            "Expected a grey, palette, RGB or YBR image, found pixels of another kind or none"
            " stated. Export the radiograph as MONOCHROME2."
        )
    high_bit = (_numbers(header, "HighBit") or [header.BitsStored - 1])[0]
    if high_bit != header.BitsStored - 1:
        raise UnsupportedImageError(
            "Expected pixel values in the lowest bits, found them in higher ones, an encoding that"
            " the DICOM standard has retired. Export the image again."
        )
    _check_size(int(header.Rows), int(header.Columns))


def _decode_dicom(header: Any, steps: list[str]) -> NDArray[Any]:
    """The pixels as stored, unused bits cleared; (H, W), or (H, W, 3) RGB."""
    syntax = header.file_meta.TransferSyntaxUID
    try:
        get_decoder(syntax)
    except NotImplementedError as error:
        raise UnsupportedImageError(
            "Expected pixels that are plain or compressed as JPEG, JPEG-LS, JPEG 2000 or RLE, found"
            " another compression. Export the image uncompressed."
        ) from error
    if syntax.is_encapsulated:
        hw = _codestream_hw(get_frame(header.PixelData, 0, number_of_frames=1))
        if hw not in (None, (header.Rows, header.Columns)):
            raise UnreadableImageError(
                "Expected pixels of the size that the DICOM header states, found another size. The"
                " file is inconsistent; export it again."
            )
        steps.append(f"Decoded {syntax.name}")
    else:
        steps.append(f"Read uncompressed pixels ({syntax.name})")
    # The RLE plugin in Rust panics on broken bytes, past every `except Exception`.
    plugin = "pydicom" if syntax == RLELossless else ""
    stored: NDArray[Any] = pixel_array(header, decoding_plugin=plugin)
    return stored


def _codestream_hw(frame: bytes) -> tuple[int, int] | None:
    """Height and width a JPEG or JPEG 2000 stream claims, read before memory is given to it."""
    if frame[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: SOC, then SIZ
        right, bottom, left, top = struct.unpack(">4I", frame[8:24])
        return bottom - top, right - left
    if frame[:2] != b"\xff\xd8":
        return None
    at = 2
    while frame[at] == 0xFF:
        if frame[at + 1] in _START_OF_FRAME:
            height, width = struct.unpack(">2H", frame[at + 5 : at + 9])
            return height, width
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _colour_to_grey(
    stored: NDArray[Any], header: Any, steps: list[str], remarks: list[str]
) -> tuple[NDArray[np.float32], float]:
    """Grey from colour, 0..1, and `Source.colourfulness`."""
    if stored.ndim == 2:
        colour = apply_color_lut(stored, header)
        full = np.iinfo(colour.dtype).max
        steps.append("Looked up the palette's colours")
    else:
        colour, full = stored, 2 ** int(header.BitsStored) - 1
        if _code(header, "PhotometricInterpretation").startswith("YBR"):
            steps.append("Converted YBR to RGB")
    return _luma(colour.astype(np.float32) / np.float32(full), steps, remarks)


def _grey_to_unit(
    stored: NDArray[Any], header: Any, steps: list[str], remarks: list[str]
) -> NDArray[np.float32]:
    """Modality transform, VOI transform and inversion, in the order of the standard (PS3.4 N.2).

    Each maps one grey value to another, so the values that occur are transformed, and not every
    pixel: a tenth of the time, and the same numbers.
    """
    if stored.dtype.itemsize > 2:
        return _levels_to_unit(stored, header, steps, remarks)
    codes = np.ascontiguousarray(stored).view(f"u{stored.dtype.itemsize}")
    count = 256**stored.dtype.itemsize
    present = np.flatnonzero(cv2.calcHist([codes], [0], None, [count], [0, count]))
    table = np.zeros(count, np.float32)
    levels = present.astype(codes.dtype).view(stored.dtype)
    table[present] = _levels_to_unit(levels, header, steps, remarks)
    return cast(NDArray[np.float32], cv2.LUT(codes, table))


def _levels_to_unit(
    levels: NDArray[Any], header: Any, steps: list[str], remarks: list[str]
) -> NDArray[np.float32]:
    padding = _padding(levels, header)
    values = _apply_modality(levels, header, steps, remarks)
    unit = _apply_voi(values, ~padding, header, steps, remarks)
    if _is_inverted(header, steps, remarks):
        unit = 1.0 - unit
    if padding.any():
        unit[padding] = 0.0
        steps.append("Set the padding pixels to black")
    return unit.astype(np.float32)


def _padding(stored: NDArray[Any], header: Any) -> NDArray[np.bool_]:
    """Pixels outside the exposed field, by Pixel Padding Value and Range Limit (PS3.3 C.7.5.1)."""
    limits = [
        int(value)
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")
        for value in _numbers(header, keyword)[:1]
    ]
    if not _numbers(header, "PixelPaddingValue"):
        return np.zeros(stored.shape, np.bool_)
    if stored.dtype.kind == "i":
        # Some writers store a negative value in the unsigned representation.
        modulus = 2 ** int(header.BitsAllocated)
        limits = [value - modulus if value >= modulus // 2 else value for value in limits]
    return (stored >= min(limits)) & (stored <= max(limits))


def _apply_modality(
    stored: NDArray[Any], header: Any, steps: list[str], remarks: list[str]
) -> NDArray[np.float64]:
    if header.get("ModalityLUTSequence"):
        steps.append("Applied the modality lookup table")
        return _look_up(stored.astype(np.float64), header.ModalityLUTSequence[0], header)[0]
    slope, intercept = _numbers(header, "RescaleSlope"), _numbers(header, "RescaleIntercept")
    if slope and intercept and slope[0] == 0:
        remarks.append("The header's rescale slope is zero; it was ignored.")
    elif slope and intercept:
        steps.append(f"Rescaled: slope {slope[0]:g}, intercept {intercept[0]:g}")
        rescaled: NDArray[np.float64] = apply_rescale(stored, header)
        return rescaled
    return stored.astype(np.float64)


def _apply_voi(
    values: NDArray[np.float64],
    valid: NDArray[np.bool_],
    header: Any,
    steps: list[str],
    remarks: list[str],
) -> NDArray[np.float64]:
    """Values of interest in 0..1: by the first table, else the first window, else min-max."""
    if header.get("VOILUTSequence"):
        tables = header.VOILUTSequence
        entries, bits = _look_up(values, tables[0], header)
        steps.append(f"Applied the VOI lookup table of {bits} bits{_first_of(len(tables))}")
        full = 2**bits - 1
        if entries.max() < full / 4:
            remarks.append("The VOI lookup table uses little of its range: the image is dark.")
        unit: NDArray[np.float64] = entries / full
        return unit
    centres, widths = _numbers(header, "WindowCenter"), _numbers(header, "WindowWidth")
    function = _code(header, "VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        remarks.append("The header's VOI function is unknown; the window is taken as LINEAR.")
        function = "LINEAR"
    if centres and widths:
        centre, width = centres[0], widths[0]
        if width >= 1 or (width > 0 and function != "LINEAR"):
            steps.append(
                f"Window centre {centre:g}, width {width:g} ({function}){_first_of(len(centres))}"
            )
            return _apply_window(values, centre, width, function)
        remarks.append("The header's window has no width; it was ignored.")
    low_to_high = _min_max(values, valid, steps, [])
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


def _is_inverted(header: Any, steps: list[str], remarks: list[str]) -> bool:
    """Whether low values are dense: both elements state the same inversion (PS3.3 C.8.11.3)."""
    by_photometric = _code(header, "PhotometricInterpretation") == "MONOCHROME1"
    shape = _code(header, "PresentationLUTShape")
    if shape in ("IDENTITY", "INVERSE") and (shape == "INVERSE") != by_photometric:
        remarks.append(
            "The header contradicts itself about which end of the scale is white; check that bone"
            " is bright."
        )
    if by_photometric:
        steps.append("Inverted, because the file is MONOCHROME1")
    elif shape == "INVERSE":
        steps.append("Inverted, because the presentation LUT shape is INVERSE")
    return by_photometric or shape == "INVERSE"


def _spacing_mm(header: Any, steps: list[str], remarks: list[str]) -> tuple[float, float] | None:
    """Row and column spacing, in the patient where calibrated, else at the detector."""
    calibrated = bool(_code(header, "PixelSpacingCalibrationType"))
    order = ["ImagerPixelSpacing", "PixelSpacing"]
    for keyword in reversed(order) if calibrated else order:
        spacing = _numbers(header, keyword)
        if len(spacing) == 2 and min(spacing) > 0:
            break
    else:
        aspect = _numbers(header, "PixelAspectRatio")
        if len(aspect) == 2 and min(aspect) > 0:
            _remark_on_aspect(aspect, remarks)
        return None
    if keyword == "ImagerPixelSpacing":
        steps.append("Pixel spacing as at the detector (Imager Pixel Spacing)")
    else:
        how = "calibrated" if calibrated else "calibration not stated"
        steps.append(f"Pixel spacing from Pixel Spacing, {how}")
    _remark_on_aspect(spacing, remarks)
    return spacing[0], spacing[1]


def _remark_on_aspect(sides: list[float], remarks: list[str]) -> None:
    if max(sides) / min(sides) > 1 + _SQUARE_TOLERANCE:
        remarks.append("The pixels are not square, so the image looks stretched.")


def _view(header: Any, remarks: list[str]) -> View | None:
    position = _code(header, "ViewPosition")
    view = _VIEWS.get(position)
    if not position and header.get("ViewCodeSequence"):
        meaning = str(header.ViewCodeSequence[0].get("CodeMeaning", "")).lower()
        view = _view_in_words(re.sub("[^a-z]", "", meaning))
    if view == "LATERAL":
        remarks.append(
            "The header calls this a lateral view; a frontal one (PA or AP) is expected."
        )
    elif position in ("LLD", "RLD"):
        remarks.append("The patient was lying on the side (decubitus view).")
    elif position in ("LLO", "RLO"):
        remarks.append("The header calls this an oblique view; a frontal one is expected.")
    return view


def _view_in_words(meaning: str) -> View | None:
    if meaning in ("posteroanterior", "anteroposterior"):
        return "PA" if meaning.startswith("postero") else "AP"
    if meaning in ("lateral", "leftlateral", "rightlateral"):
        return "LATERAL"
    return None


def _remark_on_header(header: Any, view: View | None, remarks: list[str]) -> None:
    if not _code(header, "Modality"):
        remarks.append("The header names no modality; the image is taken for a radiograph.")
    if _code(header, "PresentationIntentType") == "FOR PROCESSING":
        remarks.append(
            "The image is stored for processing, not for presentation: its contrast is raw."
        )
    body_part = _code(header, "BodyPartExamined")
    if body_part and not any(word in body_part for word in _CHEST_WORDS):
        remarks.append("The header names a body part other than the chest.")
    rows, columns = [*_codes(header, "PatientOrientation"), "", ""][:2]
    if rows and columns and view != "LATERAL" and (rows[0], columns[0]) != ("L", "F"):
        remarks.append(
            "The header says that the image is turned or mirrored: its left is not the patient's"
            " right, or its top is not towards the head. It was left as it is."
        )
    if _code(header, "BurnedInAnnotation") == "YES":
        remarks.append("The header says that text is burned into the image; it may name a person.")


def _tags(header: Any) -> dict[str, str]:
    syntax = header.file_meta.TransferSyntaxUID
    kilovolts = _numbers(header, "KVP")
    tags = {
        "Modality": _code(header, "Modality"),
        "View position": _code(header, "ViewPosition"),
        "Body part": _code(header, "BodyPartExamined"),
        "Patient orientation": " / ".join(_codes(header, "PatientOrientation")),
        "Photometric interpretation": _code(header, "PhotometricInterpretation"),
        "Bits stored": f"{int(header.BitsStored)}",
        "Transfer syntax": syntax.name,
        "Presentation intent": _code(header, "PresentationIntentType"),
        "Tube voltage (kVp)": f"{kilovolts[0]:g}" if kilovolts else "",
    }
    return {name: value for name, value in tags.items() if value}


def _codes(header: Any, keyword: str) -> list[str]:
    """The values of a code string; whatever is no code (PS3.5 6.2, CS) is left out."""
    value = header.get(keyword)
    values = [value] if isinstance(value, str) else list(value or [])
    codes = [str(value).strip().upper() for value in values]
    return [code for code in codes if re.fullmatch(r"[A-Z0-9_ ]{1,16}", code)]


def _code(header: Any, keyword: str) -> str:
    return next(iter(_codes(header, keyword)), "")


def _numbers(header: Any, keyword: str) -> list[float]:
    """The numbers of an element; empty if it is absent or any of them is no finite number."""
    try:
        value = header.get(keyword)
        values = np.atleast_1d(np.asarray([] if value is None else value, np.float64))
    except (ValueError, TypeError):
        return []
    return [float(number) for number in values] if np.isfinite(values).all() else []
