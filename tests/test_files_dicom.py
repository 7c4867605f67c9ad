import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from dicoms import build, dataset, ramp
from dicoms import to_bytes as dicom_bytes
from imagecodecs import jpeg2k_encode, jpeg8_encode, jpegls_encode, ljpeg_encode
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from rasters import COLOUR8, GREY8, GREY_LEVEL_16, LUMA, assert_refused, close, encoded

from cxrdemo.errors import UnreadableImageError, UnsupportedImageError
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
    for keyword in ("SmallestImagePixelValue", "LargestImagePixelValue"):
        ds.pop(keyword, None)  # of the image before it was compressed
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
    # pydicom rounds colours to whole numbers on the way.
    close(radiograph.pixels, expected, 1 / 255 if "ybr" in name else GREY_LEVEL_16)


def test_rgb_secondary_capture() -> None:
    data = build(COLOUR8, photometric="RGB", bits_stored=8, modality="SC")
    radiograph = read_radiograph(data)
    close(radiograph.pixels, (COLOUR8 / 255) @ LUMA, 1e-6)
    assert "This looks like a colour photograph, not an X-ray." in radiograph.source.warnings
    assert radiograph.source.colourfulness > 0.5


def test_colours_of_16_bits_that_use_12_are_not_dark_and_more_than_stated_do_not_wrap() -> None:
    grey = ramp(0, 4095)
    colours = np.stack([grey] * 3, axis=-1)
    for stated, told in ((16, False), (12, False), (10, True)):
        data = build(colours, photometric="RGB", bits_stored=stated, modality="SC")
        radiograph = read_radiograph(data)
        close(radiograph.pixels, grey / 4095, 1e-6)
        assert any("all 12 were taken" in text for text in radiograph.source.warnings) == told


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


def segmented(segments: list[int], entries: int, bits: int) -> Dataset:
    """A palette image whose three colours are the same segments (PS3.3 C.7.9.2)."""
    packed = struct.pack(f"<{len(segments)}{'B' if bits == 8 else 'H'}", *segments)
    elements: dict[str, Any] = {}
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [entries, 0, bits]
        elements[f"Segmented{colour}PaletteColorLookupTableData"] = packed + b"\0" * (
            len(packed) % 2
        )
    indices = ramp(0, entries - 1, np.uint8)
    return dataset(indices, photometric="PALETTE COLOR", bits_stored=8, modality="OT", **elements)


@pytest.mark.parametrize("bits", [8, 16])
def test_segmented_palette_agrees_with_pydicom(bits: int) -> None:
    top = 2**bits - 1
    ds = segmented([0, 3, 5, 9, 2, 1, 100, top, 1, 7, top, 0, 2, 1, 0], 112, bits)
    theirs = apply_color_lut(ds.pixel_array, ds)[..., 0]
    close(read_radiograph(dicom_bytes(ds)).pixels, theirs / top, 1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_segmented_palette_may_refer_to_its_own_segments(bits: int) -> None:
    # Two entries, a line of three to 50, and both once more: the line then starts at the second.
    place = [0, 0, 0, 0] if bits == 8 else [0, 0]
    ds = segmented([0, 2, 20, 255, 1, 3, 150, 2, 2, *place], 10, bits)
    table = np.array([20, 255, 220, 185, 150] * 2)
    full = 255 if bits == 8 else 65535
    expected = table[ds.pixel_array] / (255 if table.max() < 256 else full)
    close(read_radiograph(dicom_bytes(ds)).pixels, expected, 1e-6)


@pytest.mark.parametrize(
    "segments",
    [
        [1, 3, 50],  # a line from nowhere
        [7, 1, 0, 0],  # an unknown kind
        [0, 2, 20, 30, 1, 3],  # a line to nowhere
        [0, 1, 9, 2, 1, 3, 0, 0, 0],  # a reference to a reference
        [],
    ],
)
def test_a_segmented_palette_that_is_broken_is_refused(segments: list[int]) -> None:
    assert_refused(dicom_bytes(segmented(segments, 10, 8)), UnreadableImageError, "DICOM")


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


def textured(bits: int) -> NDArray[Any]:
    """A smooth picture with some grain, that fills its bits."""
    y, x = np.mgrid[0:96, 0:120]
    grain = np.random.default_rng(0).normal(0, 0.01, x.shape)
    wave = np.clip(0.5 + 0.25 * np.sin(x / 17) + 0.24 * np.cos(y / 13) + grain, 0, 1)
    return np.rint(wave * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


FRAMES: dict[str, Any] = {
    "jpeg-lossless": (JPEGLosslessSV1, lambda a, bits: ljpeg_encode(a, bitspersample=bits)),
    "jpeg-ls": (JPEGLSLossless, lambda a, bits: jpegls_encode(a)),
    "jpeg-ls near": (JPEGLSNearLossless, lambda a, bits: jpegls_encode(a, level=2)),
    "jpeg 2000": (JPEG2000Lossless, lambda a, bits: jpeg2k_encode(a, level=0, codecformat="j2k")),
    "jpeg 2000 lossy": (JPEG2000, lambda a, bits: jpeg2k_encode(a, level=40, codecformat="j2k")),
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_a_second_decoder_gives_the_same_pixels(name: str, bits: int) -> None:
    syntax, encode = FRAMES[name]
    pixels = textured(bits)
    window = (2 ** (bits - 1), 2**bits)
    ds = dataset(
        pixels, bits_stored=bits, syntax=syntax, frame=bytes(encode(pixels, bits)), window=window
    )
    theirs = pixel_array(ds, decoding_plugin="gdcm").astype(float)
    radiograph = read_radiograph(dicom_bytes(ds))
    close(radiograph.pixels, np.clip(theirs / (2**bits - 1), 0, 1), 1.01 / 65535)
    if "lossy" not in name and "near" not in name:
        np.testing.assert_array_equal(theirs, pixels)


def test_lossless_jpeg_whose_differences_wrap() -> None:
    # The difference of 250 and 5 is written as 11 by encoders that count modulo 256.
    pixels = np.tile(np.array([5, 250], np.uint8), (80, 40))
    lossless = bytes(ljpeg_encode(pixels, bitspersample=8))
    radiograph = read_radiograph(
        build(pixels, bits_stored=8, syntax=JPEGLosslessSV1, frame=lossless)
    )
    close(radiograph.pixels, pixels / 255, 1e-6)


def test_jpeg_of_12_bits() -> None:
    pixels = textured(12)
    frame = bytes(jpeg8_encode(pixels, bitspersample=12, level=95))
    radiograph = read_radiograph(
        build(pixels, syntax=JPEGExtended12Bit, frame=frame, window=(2048, 4096))
    )
    close(radiograph.pixels, pixels / 4095, 0.02)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "RGB"])
def test_colour_jpeg_agrees_with_pillow(subsampling: str, photometric: str) -> None:
    colour = np.stack([textured(8), textured(8)[::-1], textured(8)[:, ::-1]], axis=-1)
    frame = encoded(Image.fromarray(colour), "JPEG", quality=90, subsampling=subsampling)
    theirs = np.asarray(Image.open(io.BytesIO(frame)).convert("RGB")) / 255
    data = build(
        colour,
        bits_stored=8,
        photometric=photometric,
        syntax=JPEGBaseline8Bit,
        frame=frame,
        modality="SC",
    )
    close(read_radiograph(data).pixels, theirs @ LUMA, 3 / 255)


def test_pixels_compressed_otherwise_than_the_header_says_are_read_and_told() -> None:
    pixels = textured(12)
    frame = bytes(jpegls_encode(pixels))
    radiograph = read_radiograph(
        build(pixels, syntax=JPEG2000Lossless, frame=frame, window=(2048, 4096))
    )
    close(radiograph.pixels, pixels / 4095)
    assert "another compression" in radiograph.source.warnings[0]


def test_a_frame_in_several_fragments() -> None:
    pixels = textured(12)
    frame = bytes(jpegls_encode(pixels))
    ds = dataset(pixels, syntax=JPEGLSLossless, frame=frame, window=(2048, 4096))
    ds.PixelData = encapsulate([frame], fragments_per_frame=3)
    close(read_radiograph(dicom_bytes(ds)).pixels, pixels / 4095)


def test_more_pixels_than_the_header_states_are_told() -> None:
    pixels = np.concatenate([ramp(0, 4095)] * 2)
    radiograph = read_radiograph(build(pixels, Rows=80))
    close(radiograph.pixels, ramp(0, 4095) / 4095, 1e-6)
    assert "more pixels than its header states" in radiograph.source.warnings[0]


@pytest.mark.parametrize("name", ["jpeg", "jpeg-lossless"])
def test_a_stream_cut_in_half_and_ended_properly_is_told(name: str) -> None:
    pixels = textured(8)
    if name == "jpeg":
        syntax, frame = JPEGBaseline8Bit, encoded(Image.fromarray(pixels), "JPEG", quality=95)
    else:
        syntax, frame = JPEGLosslessSV1, bytes(ljpeg_encode(pixels, bitspersample=8))
    cut = frame[: len(frame) // 2]
    radiograph = read_radiograph(
        build(pixels, bits_stored=8, syntax=syntax, frame=cut + b"\xff\xd9")
    )
    assert any("cut short" in warning for warning in radiograph.source.warnings)
    assert_refused(
        build(pixels, bits_stored=8, syntax=syntax, frame=cut), UnreadableImageError, "cut short"
    )


@pytest.mark.parametrize("allocated", [1, 12, 64])
def test_words_of_a_rare_size_are_refused(allocated: int) -> None:
    data = build(ramp(0, 4095), BitsAllocated=allocated, HighBit=11)
    assert_refused(data, UnsupportedImageError, f"found {allocated}")


def test_32_bits_allocated() -> None:
    pixels = ramp(0, 2**20, np.uint32)
    radiograph = read_radiograph(build(pixels, bits_stored=24))
    close(radiograph.pixels, pixels / 2**20, 1e-6)
