"""Builder of DICOM bytes for the tests: one radiograph, every option of its pixels named."""

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from imagecodecs import jpeg2k_encode
from numpy.typing import NDArray
from PIL import Image
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

PLANTED = {
    "PatientName": "Planted^Paula",
    "PatientID": "PLANTED-4711",
    "PatientBirthDate": "19010203",
    "PatientSex": "F",
    "PatientAge": "077Y",
    "AccessionNumber": "PLANTEDACC99",
    "InstitutionName": "Planted Hospital",
    "StationName": "PLANTEDSTATION",
    "DeviceSerialNumber": "PLANTEDSERIAL",
    "StudyDate": "20010203",
}
"""Values that must never leave the reader."""

PLANTED_PRIVATE = "PLANTED-PRIVATE"


def lut_item(entries: Sequence[int], *, first: int, bits: int) -> Dataset:
    """One item of a modality or VOI lookup table."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 2**16, first, bits])
    item.add_new("LUTData", "OW", struct.pack(f"<{len(entries)}H", *entries))
    item.ModalityLUTType = "US"
    return item


def dataset(
    pixels: NDArray[Any],
    *,
    photometric: str = "MONOCHROME2",
    bits_stored: int = 12,
    modality: str | None = "DX",
    window: tuple[Any, Any] | None = None,
    function: str | None = None,
    rescale: tuple[float, float] | None = None,
    padding: int | None = None,
    padding_limit: int | None = None,
    syntax: UID = ExplicitVRLittleEndian,
    frame: bytes | None = None,
    **elements: Any,
) -> Dataset:
    """A radiograph whose stored values are `pixels`, signed if their type is.

    Args:
        pixels: (H, W) or (H, W, 3), of 8 or 16 bits; the array's type sets the bits allocated.
        photometric: Photometric interpretation.
        bits_stored: Bits stored; the high bit follows.
        modality: Modality, or None to leave it out.
        window: Window centre and width, each a number or a list.
        function: VOI LUT function.
        rescale: Slope and intercept.
        padding: Pixel padding value.
        padding_limit: Pixel padding range limit.
        syntax: How the pixels are written.
        frame: The compressed pixels; None compresses them here.
        elements: Any further element by keyword; overrides what is set here.
    """
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid(
        entropy_srcs=["test"]
    )
    if modality is not None:
        ds.Modality = modality
    ds.PhotometricInterpretation = photometric
    ds.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored = bits_stored
    ds.HighBit = bits_stored - 1
    signed = pixels.dtype.kind == "i"
    ds.PixelRepresentation = int(signed)
    if window is not None:
        ds.WindowCenter, ds.WindowWidth = window
    if function is not None:
        ds.VOILUTFunction = function
    if rescale is not None:
        ds.RescaleSlope, ds.RescaleIntercept = rescale
    vr = "SS" if signed else "US"
    if padding is not None:
        ds.add_new("PixelPaddingValue", vr, padding)
    if padding_limit is not None:
        ds.add_new("PixelPaddingRangeLimit", vr, padding_limit)
    with disable_value_validation():  # a test may ask for a value that breaks the standard
        for keyword, value in elements.items():
            if keyword in ds:
                delattr(ds, keyword)  # an element remembers whether it is validated
            setattr(ds, keyword, value)
    ds.add_new("PixelData", "OW" if ds.BitsAllocated > 8 else "OB", pixels.tobytes())
    if frame is not None:
        set_frame(ds, frame, syntax)
    elif syntax == JPEGBaseline8Bit:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=95)
        set_frame(ds, stream.getvalue(), syntax)
    elif syntax == RLELossless:
        ds.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    elif syntax == JPEG2000Lossless:
        set_frame(ds, jpeg2k_encode(pixels, level=0, codecformat="j2k"), syntax)
    elif syntax.is_encapsulated:
        raise NotImplementedError("give the frame")
    else:
        ds.file_meta.TransferSyntaxUID = syntax
    return ds


def set_frame(ds: Dataset, frame: bytes, syntax: UID) -> None:
    """Replaces the pixels by one compressed frame."""
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = syntax


def plant(ds: Dataset) -> Dataset:
    """Fills in what identifies a patient, in public and private elements."""
    for keyword, value in PLANTED.items():
        setattr(ds, keyword, value)
    ds.private_block(0x0009, "PLANTED CREATOR", create=True).add_new(1, "LO", PLANTED_PRIVATE)
    return ds


def to_bytes(ds: Dataset, *, preamble: bool = True) -> bytes:
    """The file; without preamble and file meta group where an archive would leave them out."""
    syntax = ds.file_meta.TransferSyntaxUID
    stream = io.BytesIO()
    if preamble:
        with disable_value_validation():
            ds.save_as(stream, enforce_file_format=True)
    else:
        bare = Dataset(ds)
        bare.save_as(
            stream,
            implicit_vr=syntax.is_implicit_VR,
            little_endian=syntax.is_little_endian,
            enforce_file_format=False,
        )
    return stream.getvalue()


def build(pixels: NDArray[Any], **options: Any) -> bytes:
    """`dataset` as a file."""
    return to_bytes(dataset(pixels, **options))


def ramp(
    low: int, high: int, dtype: type = np.uint16, hw: tuple[int, int] = (80, 72)
) -> NDArray[Any]:
    """Values that run evenly from low to high, both included, in reading order."""
    return np.rint(np.linspace(low, high, hw[0] * hw[1])).reshape(hw).astype(dtype)
