import io
import os
import struct
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicoms import build, dataset, ramp, set_frame
from dicoms import to_bytes as dicom_bytes
from imagecodecs import jpeg2k_encode
from PIL import Image
from pydicom import dcmread
from pydicom.pixels import pixel_array
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from rasters import (
    COLOUR8,
    GREY8,
    HW,
    assert_refused,
    chunk,
    close,
    encoded,
    png,
)

from cxrdemo import quiet
from cxrdemo.errors import CxrDemoError, UnreadableImageError, UnsupportedImageError
from cxrdemo.files import MAX_PIXELS, dicom, load, looks_readable, read_radiograph
from cxrdemo.radiograph import MIN_READABLE_PX


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("image.png", encoded(Image.fromarray(GREY8), "PNG"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "kind", "word"),
    [
        (b"", UnreadableImageError, "empty"),
        (b"\0", UnreadableImageError, "something else"),
        (b"\0" * 4096, UnreadableImageError, "something else"),
        (b"A perfectly ordinary text file.\n" * 40, UnreadableImageError, "something else"),
        (zipped(), UnsupportedImageError, "ZIP"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + b"0" * 500, UnsupportedImageError, "PDF"),
        (encoded(Image.fromarray(GREY8), "GIF"), UnsupportedImageError, "GIF"),
        (encoded(Image.fromarray(GREY8), "JPEG2000"), UnsupportedImageError, "JPEG 2000"),
        (b"\0\0\0\x20ftypavif" + b"\0" * 500, UnsupportedImageError, "AVIF"),
        (b"\0\0\0\x20ftypheic" + b"\0" * 500, UnsupportedImageError, "HEIC"),
        (b"\x89PNG\r\n\x1a\n", UnreadableImageError, "PNG"),
        (b"\xff\xd8\xff\xe0", UnreadableImageError, "JPEG"),
        (b"\0" * 128 + b"DICM", UnreadableImageError, "DICOM"),
        (b"\0" * 128 + b"DICM" + b"nonsense" * 99, UnreadableImageError, "DICOM"),
    ],
)
def test_what_is_no_radiograph(data: bytes, kind: type[CxrDemoError], word: str) -> None:
    assert_refused(data, kind, word)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "opening",
    [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"BM", b"\x08\0\x05\0CS\x0a\0"],
)
def test_random_bytes(seed: int, opening: bytes) -> None:
    noise = np.random.default_rng(seed).bytes(3000)
    with pytest.raises(CxrDemoError, match=r"^Expected "):
        read_radiograph(opening + noise)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_rasters(kind: str, share: float) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (128, 128), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    assert_refused(data[: int(len(data) * share)], UnreadableImageError)


def test_truncated_16_bit_colour() -> None:
    data = png(np.random.default_rng(3).integers(0, 65536, (80, 70, 3), dtype=np.uint16), 2)
    assert_refused(data[: len(data) // 2], UnreadableImageError, "PNG", "cut short")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_dicoms(syntax: Any, share: float) -> None:
    noise = np.random.default_rng(3).integers(0, 4096, (128, 128), dtype=np.uint16)
    data = build(noise, syntax=syntax)
    assert_refused(data[: int(len(data) * share)], UnreadableImageError, "DICOM")


@pytest.mark.parametrize("seed", range(30))
def test_flipped_header_bytes_never_escape_our_errors(seed: int) -> None:
    generator = np.random.default_rng(seed)
    data = bytearray(build(ramp(0, 4095), window=(2048, 4096), rescale=(1, 0)))
    for at in generator.integers(132, 700, 4):
        data[at] = generator.integers(256)
    try:
        radiograph = read_radiograph(bytes(data))
    except CxrDemoError as error:
        assert str(error).startswith("Expected ")  # noqa: PT017
    else:
        assert np.isfinite(radiograph.pixels).all()


def test_rle_segment_that_is_too_long_is_read_with_a_warning() -> None:
    # 45 runs of 128 bytes fill one of the two segments; one more makes the plugin in Rust panic.
    high, low = b"\x81\x07" * 46, b"\xc1\x00\x81\x09" * 30
    frame = struct.pack("<16I", 2, 64, 64 + len(high), *[0] * 13) + high + low
    ds = dataset(ramp(0, 4095), window=(2048, 4096))
    set_frame(ds, frame, RLELossless)
    radiograph = read_radiograph(dicom_bytes(ds))
    expected = np.tile(np.repeat([0x0700, 0x0709], [64, 128]), 30).reshape(HW) / 4095
    close(radiograph.pixels, expected, 1e-6)
    assert radiograph.source.warnings == ("The file departs from the DICOM standard in places.",)


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    files = [build(ramp(0, 4095)), encoded(Image.fromarray(GREY8), "PNG"), b"nothing"] * 20
    before = list(warnings.filters)

    def read(data: bytes) -> str:
        try:
            return read_radiograph(data).source.kind
        except CxrDemoError:
            return "refused"

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, files)) == ["DICOM", "PNG", "refused"] * 20
    assert warnings.filters == before


def test_decoding_holds_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    held = []

    def spy(*arguments: Any, **options: Any) -> bool:
        held.append(quiet._lock.locked())
        return bool(decode(*arguments, **options))

    decode = dicom.decode
    monkeypatch.setattr(dicom, "decode", spy)
    read_radiograph(build(ramp(0, 4095), syntax=RLELossless))
    assert held == [False]


def test_decompression_bombs() -> None:
    for side in (11_000, 60_000):
        bomb = b"".join(
            [
                b"\x89PNG\r\n\x1a\n",
                chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
                chunk(b"IDAT", zlib.compress(b"\0" * 1000)),
                chunk(b"IEND", b""),
            ]
        )
        assert_refused(bomb, UnsupportedImageError, "megapixels")


@pytest.mark.parametrize(
    ("pixels", "photometric", "side", "most"),
    [
        (ramp(0, 9), "MONOCHROME2", 10_001, "100 megapixels"),
        (COLOUR8, "RGB", 6_400, "40 megapixels"),
        (ramp(0, 9, np.uint32), "MONOCHROME2", 4_500, "20 megapixels"),
    ],
)
def test_the_limit_depends_on_what_a_pixel_takes(
    pixels: Any, photometric: str, side: int, most: str
) -> None:
    data = build(pixels, photometric=photometric, bits_stored=8, Rows=side, Columns=side)
    assert_refused(data, UnsupportedImageError, most)


def test_huge_dicom_header() -> None:
    ds = dataset(ramp(0, 4095))
    ds.Rows = ds.Columns = 65535
    assert ds.Rows * ds.Columns > MAX_PIXELS
    assert_refused(dicom_bytes(ds), UnsupportedImageError, "megapixels")


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGBaseline8Bit])
def test_compressed_picture_of_another_size_than_the_header(syntax: Any) -> None:
    big = np.zeros((300, 200), np.uint8)
    frame = (
        jpeg2k_encode(big, level=0, codecformat="j2k")
        if syntax == JPEG2000Lossless
        else encoded(Image.fromarray(big), "JPEG")
    )
    ds = dataset(GREY8, bits_stored=8)
    set_frame(ds, frame, syntax)
    assert_refused(dicom_bytes(ds), UnreadableImageError, "another size")


def test_deflated_dicom_is_refused_before_inflating() -> None:
    ds = dataset(ramp(0, 4095))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert_refused(dicom_bytes(ds), UnsupportedImageError, "deflated")


def test_video_dicom() -> None:
    ds = dataset(GREY8, bits_stored=8)
    set_frame(ds, b"\0\0\1\xb3" * 50, MPEG2MPML)
    assert_refused(dicom_bytes(ds), UnsupportedImageError, "another compression")


def test_multi_frame_dicom() -> None:
    pixels = np.concatenate([ramp(0, 4095)] * 2)
    ds = dataset(pixels, NumberOfFrames=2)
    ds.Rows //= 2
    assert_refused(dicom_bytes(ds), UnsupportedImageError, "several frames")


def test_one_frame_said_explicitly_is_fine() -> None:
    pixels = ramp(0, 4095)
    close(read_radiograph(build(pixels, NumberOfFrames=1)).pixels, pixels / 4095, 1e-6)


def test_dicom_without_pixels() -> None:
    ds = dataset(ramp(0, 4095))
    del ds.PixelData
    assert_refused(dicom_bytes(ds), UnreadableImageError, "no pixels")
    del ds.Rows
    assert_refused(dicom_bytes(ds), UnsupportedImageError, "without pixels")


def test_retired_high_bit() -> None:
    assert_refused(build(ramp(0, 4095), HighBit=15), UnsupportedImageError, "higher")


@pytest.mark.parametrize("elements", [{"Rows": 0}, {"Columns": 10}])
def test_senseless_dicom_sizes(elements: Any) -> None:
    assert_refused(build(ramp(0, 4095), **elements), UnsupportedImageError, "64 pixels")


def test_more_rows_than_pixels() -> None:
    assert_refused(build(ramp(0, 4095), Rows=500), UnreadableImageError, "DICOM")


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
def test_several_pages_or_frames(kind: str) -> None:
    pages = [Image.fromarray(GREY8), Image.fromarray(GREY8[::-1].copy())]
    data = encoded(pages[0], kind, save_all=True, append_images=pages[1:])
    assert_refused(data, UnsupportedImageError, "several pages or frames")


def test_smallest_side() -> None:
    enough = np.zeros((MIN_READABLE_PX, MIN_READABLE_PX), np.uint8)
    enough[0, 0] = 255
    assert read_radiograph(encoded(Image.fromarray(enough), "PNG")).hw == (MIN_READABLE_PX,) * 2
    short = enough[1:]
    assert_refused(
        encoded(Image.fromarray(short), "PNG"), UnsupportedImageError, "64 pixels a side", "64 x 63"
    )
    assert_refused(build(short, bits_stored=8), UnsupportedImageError, "64 x 63")


def test_size_limit_of_files(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(GREY8), "PNG")
    path = tmp_path / "secret-name.png"
    path.write_bytes(data)
    for source in (data, path):
        assert read_radiograph(source, max_bytes=len(data)).hw == HW
        assert_refused(source, UnsupportedImageError, "at most", max_bytes=len(data) - 1)


def test_missing_file_and_folder_are_refused_without_their_name(tmp_path: Path) -> None:
    for path in (tmp_path / "secret-name.png", tmp_path):
        assert_refused(path, UnreadableImageError, "could not be opened")
        with pytest.raises(UnreadableImageError) as caught:
            read_radiograph(path)
        assert str(path) not in str(caught.value)
        assert "secret" not in str(caught.value)


def test_special_files_are_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for path in (
        tmp_path / "pipe",
        tmp_path / "link",
        tmp_path / "loop",
        Path("/dev/zero"),
        Path("/dev/null"),
        Path("nul\0byte"),
        tmp_path / ("long" * 99),
    ):
        assert_refused(path, UnreadableImageError, "could not be opened", "ordinary file")


def test_a_file_that_grows_past_the_limit_while_it_is_read_is_refused() -> None:
    # Its stated size is 0, as that of everything there.
    assert_refused(Path("/proc/self/maps"), UnsupportedImageError, "at most", max_bytes=100)


def test_what_is_read_and_what_is_not_is_told_by_the_beginning() -> None:
    for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
        assert looks_readable(encoded(Image.fromarray(GREY8), kind)[:132])
    assert looks_readable(build(ramp(0, 4095))[:132])
    for other in (b"", b"{", zipped()[:132], encoded(Image.fromarray(GREY8), "GIF")[:132]):
        assert not looks_readable(other)


def test_the_loaded_bytes_are_those_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "chest"
    path.write_bytes(encoded(Image.fromarray(GREY8), "PNG"))
    close(read_radiograph(load(path)).pixels, read_radiograph(path).pixels, 0)


@pytest.mark.real_data
def test_real_dicom() -> None:
    folder = os.environ.get("CXRDEMO_DATA")
    if not folder:
        pytest.skip("CXRDEMO_DATA names no folder of real images")
    path = Path(folder) / "dicom" / "rsna_cr.dcm"
    if not path.exists():
        pytest.skip("no dicom/rsna_cr.dcm in CXRDEMO_DATA")
    ds = dcmread(path)
    radiograph = read_radiograph(path)
    stored = pixel_array(ds).astype(float)
    close(radiograph.pixels, stored / 255, 1 / 255)  # two decoders of JPEG may round differently
    assert radiograph.view == "PA"
    assert radiograph.spacing_mm == (0.168, 0.168)
    assert str(ds.PatientID) not in repr(radiograph.source)
