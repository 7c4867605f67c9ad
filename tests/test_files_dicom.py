import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from dicoms import build, dataset, ramp
from dicoms import to_bytes as dicom_bytes
from pydicom import dcmread
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from rasters import COLOUR8, GREY8, LUMA, close

from cxrdemo.files import read_radiograph


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless]
)
@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 12), (np.uint16, 16)])
def test_lossless_encodings_are_exact(syntax: Any, dtype: type, bits: int) -> None:
    pixels = ramp(0, 2**bits - 1, dtype)
    radiograph = read_radiograph(build(pixels, bits_stored=bits, syntax=syntax))
    close(radiograph.pixels, pixels / (2**bits - 1), 1e-6)
    assert radiograph.source.tags["Transfer syntax"] == syntax.name


def test_signed_jpeg_2000() -> None:
    pixels = ramp(-2048, 2047, np.int16)
    radiograph = read_radiograph(build(pixels, syntax=JPEG2000Lossless, window=(0, 4096)))
    close(radiograph.pixels, (pixels + 2048.0) / 4095, 1e-6)


def test_big_endian() -> None:
    pixels = ramp(0, 4095)
    ds = dataset(pixels, window=(2048, 4096))
    ds.PixelData = pixels.byteswap().tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    close(read_radiograph(dicom_bytes(ds)).pixels, pixels / 4095, 1e-6)


def test_jpeg_baseline() -> None:
    radiograph = read_radiograph(build(GREY8, bits_stored=8, syntax=JPEGBaseline8Bit))
    close(radiograph.pixels, GREY8 / 255, 4 / 255)
    assert radiograph.source.steps[0] == "Decoded JPEG Baseline (Process 1)"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("SC_rgb_jpeg_gdcm.dcm", "JPEG Lossless"),
        ("SC_rgb_jls_lossy_line.dcm", "JPEG-LS"),
        ("MR_small_jpeg_ls_lossless.dcm", "JPEG-LS Lossless"),
        ("JPGExtended.dcm", "JPEG Extended"),
        ("SC_rgb_jpeg_dcmtk.dcm", "JPEG Baseline"),
        ("SC_rgb_gdcm_KY.dcm", "JPEG 2000"),
        ("SC_ybr_full_422_uncompressed.dcm", "uncompressed"),
        ("SC_rgb_rle_16bit.dcm", "RLE"),
    ],
)
def test_encodings_that_only_ship_with_pydicom(name: str, word: str) -> None:
    path = Path(pydicom.data.__file__).parent / "test_files" / name
    if not path.exists():
        pytest.skip(f"{name} does not ship with this pydicom")
    ds = dcmread(path)
    ds.Modality = "OT"
    stored = pixel_array(ds).astype(float)
    if stored.ndim == 3:
        expected = (stored / (2**ds.BitsStored - 1)) @ LUMA
    elif "WindowCenter" in ds:
        theirs = apply_voi_lut(apply_modality_lut(stored, ds), ds)
        low = -(2 ** (ds.BitsStored - 1)) if ds.PixelRepresentation else 0
        ends = apply_modality_lut(np.array([low, low + 2**ds.BitsStored - 1.0]), ds)
        expected = (theirs - ends[0]) / (ends[1] - ends[0])
    else:
        expected = (stored - stored.min()) / (stored.max() - stored.min())
    radiograph = read_radiograph(dicom_bytes(ds))
    assert word in radiograph.source.steps[0]
    close(radiograph.pixels, expected)


def test_rgb_secondary_capture() -> None:
    data = build(COLOUR8, photometric="RGB", bits_stored=8, modality="SC")
    radiograph = read_radiograph(data)
    close(radiograph.pixels, (COLOUR8 / 255) @ LUMA, 1e-6)
    assert "This looks like a colour photograph, not an X-ray." in radiograph.source.warnings
    assert radiograph.source.colourfulness > 0.5


def test_ybr_secondary_capture() -> None:
    ybr = np.stack([GREY8, np.full_like(GREY8, 128), np.full_like(GREY8, 128)], axis=-1)
    radiograph = read_radiograph(build(ybr, photometric="YBR_FULL", bits_stored=8, modality="OT"))
    close(radiograph.pixels, GREY8 / 255, 1e-6)
    assert "Converted YBR to RGB" in radiograph.source.steps
    assert radiograph.source.warnings == ()


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_secondary_capture(bits: int) -> None:
    indices = ramp(0, 3, np.uint8)
    full = 2**bits - 1
    table = [0, full // 3, full // 2, full]
    packed = struct.pack("<4H" if bits == 16 else "<4B", *table)
    elements: dict[str, Any] = {}
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, bits]
        elements[f"{colour}PaletteColorLookupTableData"] = packed
    ds = dataset(indices, photometric="PALETTE COLOR", bits_stored=8, modality="OT", **elements)
    radiograph = read_radiograph(dicom_bytes(ds))
    close(radiograph.pixels, np.array(table)[indices] / full, 1e-6)
    assert "Looked up the palette's colours" in radiograph.source.steps


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_file_without_preamble(syntax: Any) -> None:
    pixels = ramp(0, 4095)
    ds = dataset(pixels)
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = pixels.byteswap().tobytes()
    ds.file_meta.TransferSyntaxUID = syntax
    data = dicom_bytes(ds, preamble=False)
    assert data[128:132] != b"DICM"
    close(read_radiograph(data).pixels, pixels / 4095, 1e-6)
