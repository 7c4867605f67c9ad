"""The elements of a DICOM header: codes, numbers, spacing, view, and what is odd about them.

Only `ELEMENTS` are parsed at all: no name, number or date of a patient enters memory.
"""

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import dictionary_description
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from cxrdemo.errors import UnsupportedImageError
from cxrdemo.files.decoding import TooCostlyHere
from cxrdemo.files.journal import Journal
from cxrdemo.quiet import recorded_warnings
from cxrdemo.radiograph import View

_OVERLAYS: Final = tuple(Tag(0x6000 + 2 * number, 0x0102) for number in range(16))
"""Overlay Bit Position of each of the sixteen overlay planes."""

PALETTE: Final = tuple(
    (
        f"{colour}PaletteColorLookupTableDescriptor",
        f"{colour}PaletteColorLookupTableData",
        f"Segmented{colour}PaletteColorLookupTableData",
    )
    for colour in ("Red", "Green", "Blue")
)
"""Of each colour the descriptor, the entries, and the entries in segments."""

ELEMENTS: Final = (
    "SOPClassUID",
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
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "WindowCenterWidthExplanation",
    "VOILUTFunction",
    "PresentationLUTShape",
    *chain.from_iterable(PALETTE),
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
    "NominalScannedPixelSpacing",
    "PixelAspectRatio",
)
"""All that is parsed of a DICOM file: how to show its pixels, and the tags worth a warning."""

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
_CHEST_WORDS: Final = (
    "CHEST", "CHST", "CXR", "LUNG", "RIB", "STERN", "THORA", "TORA", "THX", "PULM", "POUMON",
    "POITRIN", "BRUST", "BORST", "BRYST", "BROST", "PECHO", "PEITO", "PETTO", "KLATKA", "GRUD",
    "HRUD", "PLUC", "PLIC", "LONGEN", "MELLKAS", "RINTA", "KEUHKO", "GOGUS", "GOEGUES",
)  # fmt: skip
"""Parts of the words by which the chest is called in English, the Romance, Germanic and Slavic
languages, Hungarian, Finnish and Turkish."""

_NO_PARTS: Final = ("UNKNOWN", "UNDEFINED", "UNSPECIFIED", "OTHER", "NONE")
"""What stands where a body part should be named."""

_DISCRETE: Final = 0
_LINEAR: Final = 1
_INDIRECT: Final = 2
"""Kinds of segments of a palette."""

DEPARTS: Final = "The file departs from the DICOM standard in places."
"""Told instead of the library's own words, which may quote the header."""

_PLAUSIBLE_MM: Final = (0.01, 10.0)
"""Between a hundredth of a detector's pixel and a thumbnail's."""


class Header:
    """The parsed elements of one file, as plain values.

    Attributes:
        journal: Told what could not be understood.
        syntax: How the pixels are written.
        pixels_at: Where the pixel data element begins in the file; None if there is none.
    """

    def __init__(
        self, values: Mapping[str, Any], syntax: UID, pixels_at: int | None, journal: Journal
    ) -> None:
        self._values = values
        self.syntax = syntax
        self.pixels_at = pixels_at
        self.journal = journal

    def has(self, keyword: str) -> bool:
        """Whether an element is there and has a value."""
        return bool(self._values.get(keyword))

    def value(self, keyword: str) -> Any:
        """The value as parsed: a list of numbers or texts, bytes, or a list of items."""
        return self._values.get(keyword)

    def codes(self, keyword: str) -> list[str]:
        """The values of a code string; whatever is no code (PS3.5 6.2, CS) is left out."""
        found = [str(value).strip().upper() for value in self._values.get(keyword) or []]
        return [code for code in found if re.fullmatch(r"[A-Z0-9_ ]{1,16}", code)]

    def code(self, keyword: str) -> str:
        """The first code of an element; empty if there is none."""
        return next(iter(self.codes(keyword)), "")

    def numbers(self, keyword: str) -> list[float]:
        """The numbers of an element; empty if it is absent or is not understood, which is told."""
        found = self.understood(keyword)
        if not np.isfinite(found).all():
            self.journal.remark(
                f"The header's {_name(keyword)} could not be understood; it was ignored."
            )
            return []
        return found

    def understood(self, keyword: str) -> list[float]:
        """The numbers of an element; NaN or infinity for each that is not understood."""
        found = []
        for value in self._values.get(keyword) or []:
            text = str(value).replace("\0", "").strip()
            if re.fullmatch(r"[^,]*,[^,]*", text) and "." not in text:
                text = text.replace(",", ".")
                self.journal.remark(
                    f"The header writes {_name(keyword)} with a comma; it was read as a decimal"
                    " point."
                )
            try:
                found.append(float(text))
            except ValueError:
                found.append(np.nan)
        return found

    def number(self, keyword: str) -> float | None:
        """The first number of an element; None if there is none."""
        return next(iter(self.numbers(keyword)), None)

    def whole(self, keyword: str) -> int | None:
        """The first number of an element, if it is a whole one."""
        number = self.number(keyword)
        return None if number is None or number % 1 else int(number)

    def overlay_bits(self) -> list[int]:
        """The bits in which overlay planes are said to lie; 0 stands for a plane of its own."""
        return [int(bit) for bit in self._values["overlays"]]


def _name(keyword: str) -> str:
    return str(dictionary_description(keyword))


@dataclass(frozen=True, eq=False)
class Table:
    """A lookup table.

    Attributes:
        entries: int64 (N,), not negative.
        first: The value that the first entry stands for, as the header has it.
        bits: Bits of an entry, as the header has them.
    """

    entries: NDArray[np.int64]
    first: int
    bits: int


class _Counted(io.BytesIO):
    """Bytes of which no more than a number is read."""

    def __init__(self, data: bytes | memoryview, most: float) -> None:
        super().__init__(data)
        self._left = most

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self._left -= len(found)
        if self.is_spent:
            raise TooCostlyHere
        return found

    @property
    def is_spent(self) -> bool:
        return self._left < 0


def read_header(data: bytes | memoryview, journal: Journal, max_bytes: float = math.inf) -> Header:
    """Parses what is needed of a file; the pixels stay where they are.

    The library's own words may quote the header, so they go no further than a remark.

    Raises:
        TooCostlyHere: If more than `max_bytes` of it have to be read.
    """
    stream = _Counted(data, max_bytes)
    with recorded_warnings() as caught:
        # pydicom's validation would write the values that it finds wrong, a name perhaps, to the
        # log. The switch is global; nothing of this software wants it.
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        try:
            dataset = pydicom.dcmread(
                stream,
                force=True,
                stop_before_pixels=True,
                specific_tags=[*(Tag(word) for word in ELEMENTS), *_OVERLAYS],
            )
        finally:
            # Within a sequence the library makes an error of its own of whatever is raised.
            if stream.is_spent:
                raise TooCostlyHere
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        if not syntax:
            implicit, little_endian = dataset.original_encoding
            syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
            syntax = syntax if implicit or little_endian else ExplicitVRBigEndian
        if not UID(syntax).is_transfer_syntax:
            raise UnsupportedImageError(
                "Expected pixels that are plain or compressed as JPEG, JPEG-LS, JPEG 2000 or RLE,"
                " found another compression. Export the image uncompressed."
            )
        values: dict[str, Any] = {word: _plain(dataset, word, syntax) for word in ELEMENTS}
        values["overlays"] = [
            number for tag in _OVERLAYS if tag in dataset for number in _listed(dataset[tag].value)
        ]
    if any(issubclass(warning.category, UserWarning) for warning in caught):
        journal.remark(DEPARTS)
    at = stream.tell()
    return Header(MappingProxyType(values), UID(syntax), at if at < len(data) else None, journal)


def _plain(dataset: Any, keyword: str, syntax: UID) -> Any:
    """The value of an element, out of the library's types."""
    tag = Tag(keyword)
    if tag not in dataset:
        return None
    try:
        value = dataset[tag].value
    # A text that is no number where one belongs: the bytes are taken as they are.
    except Exception:
        raw = dataset.get_item(tag).value or b""
        return raw.decode("ascii", "replace").split("\\") if isinstance(raw, bytes) else None
    if keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        return [
            table_of(item.get("LUTDescriptor"), item.get("LUTData"), syntax) for item in value or []
        ]
    if keyword == "ViewCodeSequence":
        return [str(item.get("CodeMeaning", "")) for item in value or []]
    return value if isinstance(value, bytes) else _listed(value)


def _listed(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, str) or not np.iterable(value) else list(value)


def table_of(descriptor: Any, data: Any, syntax: UID) -> Table:
    """A lookup table out of its descriptor and data (PS3.3 C.11.1.1).

    Raises:
        ValueError: If there is no such table, or an empty one.
    """
    numbers = [int(number) for number in _listed(descriptor)]
    if len(numbers) != 3 or data is None:
        raise ValueError("a lookup table without descriptor or data")
    declared, first, bits = numbers
    declared = declared % 2**16 or 2**16  # 65536 entries are written as 0
    if isinstance(data, bytes):
        order = "<" if syntax.is_little_endian else ">"
        wide = len(data) >= 2 * declared
        data = np.frombuffer(
            data[: len(data) // 2 * 2] if wide else data, f"{order}u2" if wide else "u1"
        )
    entries = np.atleast_1d(np.asarray(data, np.int64))[:declared] % 2**16
    if not entries.size:
        raise ValueError("a lookup table without entries")
    return Table(entries, first, bits % 2**16)


def palette_table(header: Header, descriptor: str, data: str, segmented: str) -> Table:
    """The table of one colour, out of its entries or their segments (PS3.3 C.7.6.3.1.5, C.7.9.2).

    Args:
        header: Of the file.
        descriptor: Keyword of its descriptor.
        data: Keyword of its entries.
        segmented: Keyword of its entries in segments.

    Raises:
        ValueError: If there is no such table, or its segments are broken.
    """
    segments = header.value(segmented)
    if header.has(data) or not isinstance(segments, bytes):
        return table_of(header.value(descriptor), header.value(data), header.syntax)
    declared, _, bits = (int(number) for number in _listed(header.value(descriptor)))
    order = "<" if header.syntax.is_little_endian else ">"
    size = 1 if bits == 8 else 2
    words = np.frombuffer(segments[: len(segments) // size * size], f"{order}u{size}")
    entries = _expanded(words.tolist(), size, declared % 2**16 or 2**16)
    return table_of(header.value(descriptor), entries, header.syntax)


def _expanded(words: list[int], size: int, declared: int) -> list[int]:
    """The entries that segments stand for (PS3.3 C.7.9.2).

    Args:
        words: The segments.
        size: Of a word, in bytes.
        declared: How many entries are wanted.

    Raises:
        IndexError, ValueError: If they are broken.
    """
    entries: list[int] = []

    def expand(at: int, most: float, *, may_refer: bool) -> None:
        while most > 0 and at + 1 < len(words) and len(entries) < declared:
            kind, count = words[at : at + 2]
            at += 2
            if kind == _DISCRETE:
                entries.extend(words[at : at + count])
                at += count
            elif kind == _LINEAR:
                line = np.linspace(entries[-1], words[at], count + 1)
                entries.extend(np.rint(line[1:]).astype(int).tolist())
                at += 1
            elif kind == _INDIRECT and may_refer:  # to other segments, by their place in bytes
                parts = words[at : at + 4 // size]
                place = sum(part << (8 * size * number) for number, part in enumerate(parts))
                expand(place // size, count, may_refer=False)
                at += 4 // size
            else:
                raise ValueError("a segment of an unknown kind")
            most -= 1

    expand(0, np.inf, may_refer=True)
    return entries


def spacing_mm_of(header: Header) -> tuple[float, float] | None:
    """Distance of rows and of columns in mm, or None where the header does not tell it.

    Pixel Spacing goes first: where it differs from Imager Pixel Spacing it was corrected to the
    patient (PS3.3 10.7.1.3), where it does not there is nothing to choose.
    """
    for keyword, told in (
        ("PixelSpacing", "from Pixel Spacing"),
        ("ImagerPixelSpacing", "as at the detector (Imager Pixel Spacing)"),
        ("NominalScannedPixelSpacing", "of the scanned film (Nominal Scanned Pixel Spacing)"),
    ):
        spacing = header.numbers(keyword)
        if not spacing:
            continue
        low, high = _PLAUSIBLE_MM
        if len(spacing) != 2 or min(spacing) < low or max(spacing) > high:
            header.journal.remark(
                f"The header's {_name(keyword)} cannot be that of a chest X-ray; it was ignored."
            )
            continue
        if keyword == "PixelSpacing":
            detector = header.numbers("ImagerPixelSpacing")
            if len(detector) == 2 and detector != spacing:
                told += ", which was corrected from that at the detector"
        header.journal.did(f"Pixel spacing {told}")
        return spacing[0], spacing[1]
    return None


def sides_of(header: Header, spacing_mm: tuple[float, float] | None) -> tuple[float, float]:
    """Height and width of a pixel, in mm or as a ratio; equal if nothing is told."""
    if spacing_mm is not None:
        return spacing_mm
    aspect = header.numbers("PixelAspectRatio")  # vertical, then horizontal (PS3.3 C.7.6.3.1.7)
    if len(aspect) == 2 and min(aspect) > 0:
        return aspect[0], aspect[1]
    if aspect:
        header.journal.remark("The header's Pixel Aspect Ratio makes no sense; it was ignored.")
    return 1.0, 1.0


def view_of(header: Header) -> View | None:
    """The projection: by View Position, by View Code Sequence, else by Patient Orientation."""
    position = header.code("ViewPosition")
    view = _VIEWS.get(position)
    if not position and header.has("ViewCodeSequence"):
        view = _view_in_words(re.sub("[^a-z]", "", header.value("ViewCodeSequence")[0].lower()))
    if view is None and any(direction[0] in "AP" for direction in orientation_of(header)):
        view = "LATERAL"
    if view == "LATERAL":
        header.journal.remark(
            "The header calls this a lateral view; a frontal one (PA or AP) is expected."
        )
    elif position in ("LLD", "RLD"):
        header.journal.remark("The patient was lying on the side (decubitus view).")
    elif position in ("LLO", "RLO"):
        header.journal.remark("The header calls this an oblique view; a frontal one is expected.")
    return view


def _view_in_words(meaning: str) -> View | None:
    if meaning in ("posteroanterior", "anteroposterior"):
        return "PA" if meaning.startswith("postero") else "AP"
    if meaning in ("lateral", "leftlateral", "rightlateral"):
        return "LATERAL"
    return None


def windows_of(header: Header) -> tuple[tuple[str, float, float], ...]:
    """The header's windows that can be used: explanation, centre and width; the others are told.

    Of the explanations only codes are passed on.
    """
    remark = header.journal.remark
    centres, widths = header.understood("WindowCenter"), header.understood("WindowWidth")
    if not (centres and widths):
        if centres or widths:
            remark("The header states half a window; it was ignored.")
        return ()
    words = [str(text).strip() for text in header.value("WindowCenterWidthExplanation") or []]
    words = [text if re.fullmatch("[A-Z0-9_ ]{1,16}", text) else "" for text in words]
    words += [""] * len(centres)
    found = []
    for text, centre, width in zip(words, centres, widths, strict=False):
        if not np.isfinite((centre, width)).all():
            remark("A window of the header could not be understood; it was ignored.")
        elif width <= 0:
            remark("A window of the header has no width; it was ignored.")
        else:
            found.append((text, centre, width))
    if len(centres) != len(widths):
        remark("The header states half a window; it was ignored.")
    return tuple(found)


def orientation_of(header: Header) -> list[str]:
    """Where rows and columns run to, as in ["L", "F"]; empty unless both are told."""
    given = [text for text in map(str, header.value("PatientOrientation") or []) if text.strip()]
    found = header.codes("PatientOrientation")
    if len(given) == len(found) == 2 and all(re.fullmatch("[LRAPHF]+", to) for to in found):
        return found
    if given:
        header.journal.remark(
            "The header's patient orientation could not be understood; it was ignored."
        )
    return []


def remark_on_header(header: Header) -> None:
    """Remarks on what the header says of the examination that does not suit a chest X-ray."""
    remark = header.journal.remark
    if not header.code("Modality"):
        remark("The header names no modality; the image is taken for a radiograph.")
    if header.code("PresentationIntentType") == "FOR PROCESSING":
        remark("The image is stored for processing, not for presentation: its contrast is raw.")
    body_part = header.code("BodyPartExamined")
    is_named = body_part and body_part not in _NO_PARTS
    if is_named and not any(word in body_part for word in _CHEST_WORDS):
        remark("The header names a body part other than the chest.")
    if header.code("BurnedInAnnotation") == "YES":
        remark("The header says that text is burned into the image; it may name a person.")


def tags_of(header: Header, bits_stored: int) -> dict[str, str]:
    """The whitelisted technical elements, display name to value."""
    kilovolts = header.number("KVP")
    tags = {
        "Modality": header.code("Modality"),
        "View position": header.code("ViewPosition"),
        "Body part": header.code("BodyPartExamined"),
        "Patient orientation": " / ".join(header.codes("PatientOrientation")),
        "Photometric interpretation": header.code("PhotometricInterpretation"),
        "Bits stored": str(bits_stored),
        "Transfer syntax": header.syntax.name,
        "Presentation intent": header.code("PresentationIntentType"),
        "Tube voltage (kVp)": "" if kilovolts is None else f"{kilovolts:g}",
    }
    return {name: value for name, value in tags.items() if value}
