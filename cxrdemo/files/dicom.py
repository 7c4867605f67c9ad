"""DICOM files: what is supported, and how the stored pixels are got at."""

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from cxrdemo.errors import UnreadableImageError, UnsupportedImageError
from cxrdemo.files.codestream import Codec, Codestream, decode, look_at
from cxrdemo.files.decoding import MAX_HEADER, check_cost, check_size, decoding, to_radiograph
from cxrdemo.files.greyscale import colour_to_grey, grey_to_unit, palette_to_grey
from cxrdemo.files.header import (
    DEPARTS,
    Header,
    orientation_of,
    read_header,
    remark_on_header,
    sides_of,
    spacing_mm_of,
    tags_of,
    view_of,
    windows_of,
)
from cxrdemo.files.journal import Journal
from cxrdemo.files.missing import MORE_THAN_STATED, remark_on_missing_jpeg_data
from cxrdemo.files.stored import Stored, settle
from cxrdemo.files.upright import squared, to_standard_view
from cxrdemo.radiograph import Radiograph

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
_SPELLINGS: Final = {re.sub("[ _]", "", name): name for name in _PHOTOMETRIC}
_CODECS: Final[dict[Codec, list[UID]]] = {
    "JPEG": JPEGTransferSyntaxes,
    "JPEG-LS": JPEGLSTransferSyntaxes,
    "JPEG 2000": JPEG2000TransferSyntaxes,
    "RLE": [RLELossless],
}
_ITEM: Final = b"\xfe\xff\x00\xe0"
_FIRST_ELEMENTS: Final = frozenset(
    {(2, 0), (2, 1), (2, 2), (2, 3), (2, 0x10)}
    | {(8, n) for n in (0, 1, 5, 6, 8, 0x12, 0x13, 0x14, 0x16, 0x18, 0x20, 0x30, 0x50, 0x60)}
)
_FIRST_REPRESENTATIONS: Final = frozenset(
    {b"UL", b"OB", b"CS", b"DA", b"UI", b"SH", b"TM", b"LO", b"SQ"}
)
_LONG_REPRESENTATIONS: Final = (
    *(b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SV", b"UV", b"UC", b"UN", b"UR", b"UT", b"SQ"),
)


def is_dicom(data: bytes) -> bool:
    """Whether the bytes are DICOM, by the prefix or by a first element.

    Some archives leave out the preamble, or the prefix with it; what is left begins with the prefix
    or with one of few elements.
    """
    if data[128:132] == b"DICM" or data[:4] == b"DICM":
        return True
    if len(data) < 132:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHI", data[:8])
        opens = (group, element) in _FIRST_ELEMENTS
        if opens and (data[4:6] in _FIRST_REPRESENTATIONS or length <= 64):
            return True
    return False


@dataclass(frozen=True)
class _Layout:
    """How the pixels lie in the file, as the header has it or by default.

    Attributes:
        hw: Height and width.
        samples: Per pixel.
        allocated: Bits of a word; a sample each.
        stored: Which bits of a word count.
        photometric: What the samples mean.
    """

    hw: tuple[int, int]
    samples: int
    allocated: int
    stored: Stored
    photometric: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.hw if self.samples == 1 else (*self.hw, self.samples)


@dataclass(frozen=True, eq=False)
class _PixelData:
    """The value of the pixel data element.

    Attributes:
        value: Its bytes, where they lie in the file.
        representation: OB, OW or unknown.
        stream: The compressed frame; None if the pixels are plain.
        seen: What the stream says of itself; None for RLE and plain pixels.
    """

    value: memoryview
    representation: bytes
    stream: bytes | memoryview | None
    seen: Codestream | None


def read_dicom(data: bytes, max_cost: float) -> Radiograph:
    """Reads a DICOM file.

    Raises:
        TooCostlyHere: If decoding costs more than `max_cost`.
        UnreadableImageError: If it is broken or inconsistent.
        UnsupportedImageError: If it is no single radiograph, or of an encoding that is not read.
    """
    journal = Journal()
    with decoding("DICOM"):
        if data[:4] == b"DICM":
            journal.remark("The file begins without the preamble of 128 bytes that DICOM has.")
            data = bytes(128) + data
        # Inflating is unbounded in the library, and a radiograph is never sent this way.
        if _stated_syntax(data) == DeflatedExplicitVRLittleEndian.encode():
            raise UnsupportedImageError(
                "Expected a DICOM image, found one whose whole header is deflated. Export it with"
                " an ordinary transfer syntax."
            )
        header = read_header(data, journal, math.inf if max_cost == math.inf else MAX_HEADER)
        photometric = _check_supported(header)
        pixel_data = _pixel_data(memoryview(data), header)
        layout = _layout(header, photometric, pixel_data)
        if pixel_data.stream is not None:
            scans = 1 if pixel_data.seen is None else pixel_data.seen.scans
            check_cost(math.prod(layout.shape), scans, max_cost)
        words = _words(layout, header, pixel_data)
        stored = layout.stored
        if layout.samples == 3:
            is_ybr = photometric.startswith("YBR") and not _gives_rgb(layout, pixel_data)
            pixels, colourfulness = colour_to_grey(words, stored.bits, is_ybr, journal)
        elif photometric == "PALETTE COLOR":
            pixels, colourfulness = palette_to_grey(words, header)
        else:
            stored = settle(words, header, stored)
            is_inverted = photometric == "MONOCHROME1"
            pixels, colourfulness = grey_to_unit(words, header, stored, is_inverted), 0.0
        del words
        spacing_mm = spacing_mm_of(header)
        sides = sides_of(header, spacing_mm)
        view = view_of(header)
        remark_on_header(header)
        towards = orientation_of(header)
        turned = None
        if towards and view != "LATERAL":
            turned = to_standard_view(pixels, towards[0], towards[1], journal)
        if turned is not None:
            pixels, crossed = turned
            sides = sides[::-1] if crossed else sides
        was_turned = any("Patient Orientation" in step for step in journal.steps)
        shape = pixels.shape
        pixels, sides = squared(pixels, sides, journal)
        return to_radiograph(
            pixels,
            journal,
            kind="DICOM",
            bit_depth=stored.bits,
            colourfulness=colourfulness,
            own_grid=not was_turned and pixels.shape == shape,
            tags=MappingProxyType(tags_of(header, stored.bits)),
            spacing_mm=None if spacing_mm is None else sides,
            view=view,
            sides="assumed" if turned is None else "header",
            windows=windows_of(header),
        )


def _stated_syntax(data: bytes) -> bytes:
    """The transfer syntax in the file meta group (PS3.10 7.1); empty if there is none."""
    at = 132 if data[128:132] == b"DICM" else 0
    while data[at : at + 2] == b"\2\0":
        element, representation = data[at + 2 : at + 4], data[at + 4 : at + 6]
        long = representation in _LONG_REPRESENTATIONS
        start = at + (12 if long else 8)
        length = int.from_bytes(data[start - 4 if long else start - 2 : start], "little")
        if element == b"\x10\0":
            return data[start : start + length].rstrip(b"\0 ")
        at = start + length
    return b""


def _check_supported(header: Header) -> str:
    """Refuses what is no single radiograph in integer pixels; gives what its samples mean."""
    modality = header.code("Modality")
    if modality and modality not in _RADIOGRAPHIC:
        found = _OTHER_MODALITIES.get(modality, "another kind of examination")
        raise UnsupportedImageError(
            "Expected a radiograph (modality CR, DX or a secondary capture of one), found"
            f" {found}. Choose the chest X-ray of the study."
        )
    if header.pixels_at is None:
        if header.has("Rows") or not modality:
            raise UnreadableImageError(
                "Expected a complete DICOM image with integer pixels, found no pixels: the file is"
                " cut short or is a directory. Copy or export the image again."
            )
        raise UnsupportedImageError(
            "Expected a DICOM image, found a file without pixels, such as a report. Choose the"
            " image itself."
        )
    if (header.number("NumberOfFrames") or 1) > 1:
        raise UnsupportedImageError(
            "Expected a single image, found a DICOM file of several frames. Export the frontal"
            " radiograph as a file of its own."
        )
    photometric = _SPELLINGS.get(re.sub("[ _]", "", header.code("PhotometricInterpretation")))
    if photometric is None:
        raise UnsupportedImageError(
            "Expected a grey, palette, RGB or YBR image, found pixels of another kind or none"
            " stated. Export the radiograph as MONOCHROME2."
        )
    if header.syntax.is_encapsulated and _codec_named(header) is None:
        raise UnsupportedImageError(
            "Expected pixels that are plain or compressed as JPEG, JPEG-LS, JPEG 2000 or RLE, found"
            " another compression. Export the image uncompressed."
        )
    return photometric


def _pixel_data(data: memoryview, header: Header) -> _PixelData:
    """The pixel data element, which the parser stopped at (PS3.5 7.1, A.4)."""
    at = header.pixels_at or 0
    order = "<" if header.syntax.is_little_endian else ">"
    group, element = struct.unpack(f"{order}2H", data[at : at + 4])
    if (group, element) != (0x7FE0, 0x0010):
        raise UnsupportedImageError(
            "Expected integer pixels, found fractional ones or none. Export the radiograph as an"
            " ordinary image."
        )
    representation = bytes(data[at + 4 : at + 6])
    if header.syntax.is_implicit_VR:
        representation, start = b"OW", at + 8
    else:
        start = at + (12 if representation in _LONG_REPRESENTATIONS else 8)
    (length,) = struct.unpack(f"{order}I", data[start - 4 : start])
    value = data[start:] if length == 0xFFFFFFFF else data[start : start + length]
    # What the pixels are is told by themselves; the transfer syntax may name another.
    if length != 0xFFFFFFFF and not (header.syntax.is_encapsulated and bytes(value[:4]) == _ITEM):
        return _PixelData(value, representation, None, None)
    _, *parts = _fragments(value)  # the first is a table of offsets
    stream: bytes | memoryview = parts[0] if len(parts) == 1 else b"".join(parts)
    return _PixelData(value, representation, stream, look_at(stream))


def _fragments(value: memoryview) -> Iterator[memoryview]:
    """The items of encapsulated pixel data: the offset table, then the fragments.

    Raises:
        ValueError: If they are cut off.
    """
    at = 0
    while at + 8 <= len(value) and bytes(value[at : at + 4]) == _ITEM:
        length = int.from_bytes(value[at + 4 : at + 8], "little")
        if at + 8 + length > len(value):
            raise ValueError("the compressed pixel data are cut off")
        yield value[at + 8 : at + 8 + length]
        at += 8 + length


def _layout(header: Header, photometric: str, pixel_data: _PixelData) -> _Layout:
    """How the pixels lie, with safe defaults for what the header does not say."""

    def stated(keyword: str, words: str, default: int) -> int:
        found = header.whole(keyword)
        if found is None:
            header.journal.remark(f"The header does not say {words}; {default} was taken.")
        return default if found is None else found

    rows, columns = header.whole("Rows") or 0, header.whole("Columns") or 0
    is_colour = photometric not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    samples = stated("SamplesPerPixel", "how many samples a pixel has", 3 if is_colour else 1)
    if pixel_data.seen is not None:
        word = 8 if pixel_data.seen.bits <= 8 else 16 if pixel_data.seen.bits <= 16 else 32
    elif pixel_data.stream is not None:  # RLE has a segment for each byte of a pixel
        word = 8 * int.from_bytes(pixel_data.stream[:4], "little") // samples
    else:
        word = 8 * len(pixel_data.value) // max(1, rows * columns * samples)
    allocated = stated("BitsAllocated", "how many bits are allocated", word)
    if allocated not in (8, 16, 32):
        raise UnsupportedImageError(
            f"Expected 8, 16 or 32 bits allocated for a sample, found {allocated}. Export the image"
            " again."
        )
    check_size(rows, columns, samples=samples, bits=allocated)
    if samples != (3 if is_colour else 1):
        raise UnreadableImageError(
            "Expected as many samples a pixel as the photometric interpretation needs, found"
            " another number. The file is inconsistent; export it again."
        )
    seen_bits = allocated if pixel_data.seen is None else min(allocated, pixel_data.seen.bits)
    high_bit = header.whole("HighBit")
    if high_bit is not None and 0 <= high_bit < seen_bits:
        seen_bits = high_bit + 1
    bits = stated("BitsStored", "how many bits are stored", seen_bits)
    if not 1 <= bits <= allocated:
        header.journal.remark(
            f"The header says that {bits} of {allocated} bits are stored; {seen_bits} were taken."
        )
        bits = seen_bits
    if high_bit not in (None, bits - 1):
        raise UnsupportedImageError(
            "Expected pixel values in the lowest bits, found them in higher ones, an encoding that"
            " the DICOM standard has retired. Export the image again."
        )
    signed = stated("PixelRepresentation", "whether pixel values are signed", 0) == 1
    return _Layout((rows, columns), samples, allocated, Stored(bits, signed), photometric)


def _words(layout: _Layout, header: Header, pixel_data: _PixelData) -> NDArray[Any]:
    """The words as stored, of an unsigned type and in native order; (H, W) or (H, W, 3)."""
    if pixel_data.stream is None:
        header.journal.did(f"Read uncompressed pixels ({header.syntax.name})")
        return _plain_words(layout, header, pixel_data)
    seen = pixel_data.seen
    codec: Codec = "RLE" if seen is None else seen.codec
    if seen is not None and (seen.hw != layout.hw or seen.samples != layout.samples):
        raise UnreadableImageError(
            "Expected pixels of the size that the DICOM header states, found another size. The"
            " file is inconsistent; export it again."
        )
    header.journal.did(f"Decoded {header.syntax.name}")
    if _codec_named(header) not in (None, codec):
        header.journal.remark(
            f"The header names another compression than the pixels have; they are {codec}."
        )
    size = layout.allocated // 8 if seen is None else 1 if seen.bits <= 8 else 2
    if seen is not None and seen.bits > 16:
        raise UnsupportedImageError(
            f"Expected compressed samples of at most 16 bits, found {seen.bits}. Export the image"
            " uncompressed."
        )
    is_untold = seen is not None and not seen.knows_colour and not seen.is_lossless
    as_stored = layout.photometric == "RGB" and is_untold

    def words_of(stream: bytes | memoryview) -> NDArray[Any]:
        words = np.empty(layout.shape, f"u{size}")
        if not decode(codec, stream, colour_as_stored=as_stored, out=words):
            header.journal.remark(DEPARTS)
        return words

    words = words_of(pixel_data.stream)
    if codec == "JPEG":
        remark_on_missing_jpeg_data(pixel_data.stream, words, words_of, header.journal)
    return words


def _plain_words(layout: _Layout, header: Header, pixel_data: _PixelData) -> NDArray[Any]:
    height, width = layout.hw
    order = "<" if header.syntax.is_little_endian else ">"
    if layout.photometric == "YBR_FULL_422":
        return _words_of_422(layout, pixel_data)
    count = height * width * layout.samples
    words = np.frombuffer(pixel_data.value, f"{order}u{layout.allocated // 8}", count)
    spare = len(pixel_data.value) - words.nbytes
    if spare >= max(words.nbytes // height, 2):
        header.journal.remark(MORE_THAN_STATED)
    if layout.allocated == 8 and order == ">" and pixel_data.representation == b"OW":
        even = np.frombuffer(pixel_data.value, ">u2", (count + 1) // 2)
        words = even.astype("<u2").view(np.uint8)[:count]
    words = words.astype(words.dtype.newbyteorder("="), copy=False)
    if layout.samples == 3 and header.whole("PlanarConfiguration") == 1:
        return np.moveaxis(words.reshape(3, height, width), 0, -1)
    return words.reshape(layout.shape)


def _words_of_422(layout: _Layout, pixel_data: _PixelData) -> NDArray[Any]:
    """Two brightnesses share their colours (PS3.3 C.7.6.3.1.2)."""
    height, width = layout.hw
    if layout.allocated != 8 or width % 2:
        raise ValueError("such colours are shared by pairs of bytes")
    pairs = np.frombuffer(pixel_data.value, np.uint8, 2 * height * width)
    pairs = pairs.reshape(height, width // 2, 4)
    words = np.empty((height, width, 3), np.uint8)
    words[..., 0] = pairs[..., :2].reshape(height, width)
    words[..., 1:] = np.repeat(pairs[..., 2:], 2, axis=1)
    return words


def _codec_named(header: Header) -> Codec | None:
    return next((codec for codec, syntaxes in _CODECS.items() if header.syntax in syntaxes), None)


def _gives_rgb(layout: _Layout, pixel_data: _PixelData) -> bool:
    """Whether the decoder has already made RGB of YBR."""
    seen = pixel_data.seen
    if seen is None:
        return False
    if seen.codec == "JPEG":
        return not seen.is_lossless
    return seen.codec == "JPEG 2000" and layout.photometric in ("YBR_ICT", "YBR_RCT")
