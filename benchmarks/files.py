"""What the largest files that are read cost: seconds of computing and peak memory, each apart."""

import io
import json
import signal
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from benchmarks.harness import Row
from benchmarks.setting import Setting

MAX_SECONDS: Final = 10.0
MAX_GIGABYTES: Final = 1.5

_CUT_OFF_SECONDS: Final = 60
"""Of computing, after which a file is given up: the row then says so."""

_MEASURE: Final = f"""
import json, resource, sys, time
from pathlib import Path
from cxrdemo.files import read_here
before = time.process_time()
resource.setrlimit(resource.RLIMIT_CPU, (int(before) + {_CUT_OFF_SECONDS},) * 2)
hw = read_here(Path(sys.argv[1]).read_bytes()).hw
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({{"megapixels": hw[0] * hw[1] / 1e6, "seconds": time.process_time() - before,
                  "gigabytes": peak / 1e9}}))
"""


def large(setting: Setting) -> list[Row]:
    """One row per kind of file."""
    return [_measured(name, make) for name, make in FILES.items()]


def _measured(name: str, make: Callable[[], bytes]) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large"
        path.write_bytes(make())
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE, str(path)], capture_output=True, text=True
        )
    if done.returncode in (-signal.SIGKILL, -signal.SIGXCPU):
        reason = f"given up after {_CUT_OFF_SECONDS} s of computing, or for its memory"
        return Row.not_run(f"reading {name}", reason)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout)
    return Row(
        f"reading {found['megapixels']:.0f} megapixels, {name}",
        "the limit",
        f"{found['seconds']:.1f} s, {found['gigabytes']:.2f} GB",
        f"{MAX_SECONDS:.0f} s, {MAX_GIGABYTES} GB",
        found["seconds"] <= MAX_SECONDS and found["gigabytes"] <= MAX_GIGABYTES,
        found,
        "seconds of computing of one process",
    )


def _zero_png(side: int, bits: int, colour_type: int, extra: bytes = b"") -> bytes:
    """A PNG of zeros: small to send, large to hold."""
    row = bytes(1 + side * bits * {0: 1, 3: 1, 6: 4}[colour_type] // 8)
    packer = zlib.compressobj(1)
    packed = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    head = struct.pack(">IIBBBBB", side, side, bits, colour_type, 0, 0, 0)
    chunks = (_chunk(b"IHDR", head), extra, _chunk(b"IDAT", packed), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _ramp_file(kind: str, dtype: type, **options: object) -> bytes:
    along = np.arange(9999, dtype=np.uint16)
    samples = (along[:, None] + along) % 251
    stream = io.BytesIO()
    Image.fromarray(samples.astype(dtype)).save(stream, kind, **options)
    return stream.getvalue()


FILES: Final[dict[str, Callable[[], bytes]]] = {
    "PNG, 16 bits": lambda: _zero_png(9999, 16, 0),
    "PNG, palette": lambda: _zero_png(9999, 8, 3, _chunk(b"PLTE", bytes(768))),
    "PNG, 16-bit RGBA": lambda: _zero_png(6300, 16, 6),
    "JPEG": lambda: _ramp_file("JPEG", np.uint8),
    "progressive JPEG": lambda: _ramp_file("JPEG", np.uint8, progressive=True),
    "TIFF, 16 bits, deflated": lambda: _ramp_file("TIFF", np.uint16, compression="tiff_deflate"),
}
