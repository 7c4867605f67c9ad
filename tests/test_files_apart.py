import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicoms import build, ramp
from PIL import Image
from rasters import COLOUR8, GREY8, chunk, close, encoded

from cxrdemo.errors import CxrDemoError, UnreadableImageError, UnsupportedImageError
from cxrdemo.files import apart, read_here, read_radiograph
from cxrdemo.files.apart import MAX_MEMORY, read_apart
from cxrdemo.files.decoding import MAX_COST, TooCostlyHere

ROOT = Path(__file__).resolve().parent.parent


def zero_png(side: int, bits: int, colour_type: int, *extra: bytes) -> bytes:
    """A PNG of zeros: small to send, large to hold."""
    row = 1 + side * bits * {0: 1, 2: 3, 3: 1, 6: 4}[colour_type] // 8
    packer = zlib.compressobj(1)
    packed = [packer.compress(bytes(row * 64)) for _ in range(side // 64)]
    packed += [packer.compress(bytes(row * (side % 64))), packer.flush()]
    head = struct.pack(">IIBBBBB", side, side, bits, colour_type, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", head),
            *extra,
            chunk(b"IDAT", b"".join(packed)),
            chunk(b"IEND", b""),
        ]
    )


def test_a_file_read_apart_is_the_same() -> None:
    data = build(
        ramp(0, 4095),
        window=(2048, 4096),
        rescale=(1, 0),
        ViewPosition="PA",
        PatientOrientation=["R", "F"],
        PixelSpacing=[0.2, 0.2],
    )
    here, there = read_here(data), read_apart(data)
    close(there.pixels, here.pixels, 0)
    assert there.source == here.source
    assert (there.spacing_mm, there.view) == (here.spacing_mm, here.view)


@pytest.mark.parametrize("data", [b"nothing", encoded(Image.fromarray(GREY8), "PNG")[:-900]])
def test_an_error_is_the_same_apart(data: bytes) -> None:
    with pytest.raises(CxrDemoError) as here:
        read_here(data)
    with pytest.raises(type(here.value)) as there:
        read_apart(data)
    assert str(there.value) == str(here.value)


def test_what_takes_too_long_is_cut_off() -> None:
    # A progressive JPEG whose last pass is repeated, as only an attacker would.
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", progressive=True, quality=50)
    last = data[data.rindex(b"\xff\xda") : -2]
    bomb = data[:-2] + last * 600 + b"\xff\xd9"
    with pytest.raises(TooCostlyHere):
        read_here(bomb, max_cost=MAX_COST)
    with pytest.raises(UnsupportedImageError, match="takes longer"):
        read_apart(bomb, max_seconds=1)


def test_what_takes_too_much_memory_is_refused() -> None:
    with pytest.raises(UnsupportedImageError, match="fits into memory"):
        read_apart(zero_png(9000, 8, 0), max_memory=150 * 2**20)


def with_items(data: bytes, tag: tuple[int, int], count: int, *, is_open: bool = False) -> bytes:
    """A DICOM file with a sequence of empty items before its pixels, whose length may be open."""
    at = data.rindex(b"\xe0\x7f\x10\0")
    head = struct.pack("<HH2sHI", *tag, b"SQ", 0, 0xFFFFFFFF if is_open else 8 * count)
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if is_open else b""
    return data[:at] + head + items + end + data[at:]


def test_a_header_of_countless_items_is_parsed_apart_and_cut_off() -> None:
    plain = build(ramp(0, 4095), window=(2048, 4096), rescale=(1, 0))
    view_codes, of_no_interest = (0x54, 0x220), (0x55, 0x1010)
    close(read_here(with_items(plain, view_codes, 20)).pixels, read_here(plain).pixels, 0)
    bomb = with_items(plain, view_codes, 1_000_000)
    for costly in (bomb, with_items(plain, of_no_interest, 1_000_000, is_open=True)):
        with pytest.raises(TooCostlyHere):
            read_here(costly, max_cost=MAX_COST)
        with pytest.raises(UnsupportedImageError, match="takes longer"):
            read_apart(costly, max_seconds=1)
    with pytest.raises(CxrDemoError, match="Expected"):
        read_apart(bomb, max_memory=100 * 2**20)
    read_here(with_items(plain, of_no_interest, 1_000_000), max_cost=MAX_COST)


@pytest.mark.parametrize(
    ("ended", "kind"), [(signal.SIGSEGV, UnreadableImageError), (signal.SIGKILL, CxrDemoError)]
)
def test_a_decoder_that_crashes_takes_nothing_with_it(
    ended: signal.Signals, kind: type[CxrDemoError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(command: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
        code = f"import os, sys; os.kill(os.getpid(), {int(ended)})"
        return run([sys.executable, "-c", code], **options)

    run = subprocess.run
    monkeypatch.setattr(apart.subprocess, "run", crash)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(kind, match="Expected a file that can be decoded"):
        read_apart(encoded(Image.fromarray(GREY8), "PNG"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_ordinary_files_are_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart.subprocess, "run", None)
    for image in (Image.fromarray(GREY8), Image.fromarray(COLOUR8)):
        for kind in ("PNG", "JPEG", "TIFF", "WEBP", "BMP"):
            read_radiograph(encoded(image, kind))
    read_radiograph(encoded(Image.fromarray(COLOUR8), "JPEG", progressive=True))


MEASURE = """
import sys
from pathlib import Path
from cxrdemo.files import read_here
def peak():
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
before = peak()
hw = read_here(Path(sys.argv[1]).read_bytes()).hw
print(*hw, peak() - before)
"""


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("palette", lambda: zero_png(9999, 8, 3, chunk(b"PLTE", bytes(range(6)) * 128))),
        ("colour of 16 bits", lambda: zero_png(6300, 16, 6)),
    ],
)
def test_the_largest_files_fit_into_memory(name: str, data: Any, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(data())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    height, width, peak = (int(number) for number in done.stdout.split())
    assert height == width
    assert height * width > 39e6
    assert peak < MAX_MEMORY, name
