"""DICOM files: what is supported, and how the stored pixels are got at."""

import io
import struct
from types import MappingProxyType
from typing import Any, Final

import pydicom
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from cxrdemo.errors import UnreadableImageError, UnsupportedImageError
from cxrdemo.files.decoding import check_size, decoding, departed, to_radiograph
from cxrdemo.files.greyscale import colour_to_grey, grey_to_unit
from cxrdemo.files.header import (
    code,
    numbers,
    remark_on_header,
    spacing_mm_of,
    tags_of,
    view_of,
)
from cxrdemo.files.journal import Journal
from cxrdemo.radiograph import Radiograph

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


def is_dicom(data: bytes) -> bool:
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


def read_dicom(data: bytes) -> Radiograph:
    """Reads a DICOM file.

    Raises:
        UnreadableImageError: If it is broken or inconsistent.
        UnsupportedImageError: If it is no single radiograph, or of an encoding that is not read.
    """
    with decoding("DICOM") as caught:
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
        journal = Journal()
        stored = _decode_dicom(header, journal)
        if stored.ndim == 3 or code(header, "PhotometricInterpretation") == "PALETTE COLOR":
            pixels, colourfulness = colour_to_grey(stored, header, journal)
        else:
            pixels, colourfulness = grey_to_unit(stored, header, journal), 0.0
        spacing_mm = spacing_mm_of(header, journal)
        view = view_of(header, journal)
        remark_on_header(header, view, journal)
        tags = tags_of(header)
        bit_depth = int(header.BitsStored)
        if departed(caught):
            # The library's own words may quote the header, so they go no further.
            journal.remark("The file departs from the DICOM standard in places.")
    return to_radiograph(
        pixels,
        journal,
        kind="DICOM",
        bit_depth=bit_depth,
        colourfulness=colourfulness,
        tags=MappingProxyType(tags),
        spacing_mm=spacing_mm,
        view=view,
    )


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
    modality = code(header, "Modality")
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
    if (numbers(header, "NumberOfFrames") or [1])[0] > 1:
        raise UnsupportedImageError(
            "Expected a single image, found a DICOM file of several frames. Export the frontal"
            " radiograph as a file of its own."
        )
    if code(header, "PhotometricInterpretation") not in _PHOTOMETRIC:
        raise UnsupportedImageError(
            "Expected a grey, palette, RGB or YBR image, found pixels of another kind or none"
            " stated. Export the radiograph as MONOCHROME2."
        )
    high_bit = (numbers(header, "HighBit") or [header.BitsStored - 1])[0]
    if high_bit != header.BitsStored - 1:
        raise UnsupportedImageError(
            "Expected pixel values in the lowest bits, found them in higher ones, an encoding that"
            " the DICOM standard has retired. Export the image again."
        )
    check_size(int(header.Rows), int(header.Columns))


def _decode_dicom(header: Any, journal: Journal) -> NDArray[Any]:
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
        journal.did(f"Decoded {syntax.name}")
    else:
        journal.did(f"Read uncompressed pixels ({syntax.name})")
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
