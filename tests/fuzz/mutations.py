"""Files of every kind that is read, broken by chance, through the reader.

Each is read, or refused with an error fit for the user; nothing else may happen. Run
`make fuzz N=10000`; `tests/fuzz/test_mutations.py` runs a few in `make test`. A number names the
same file on every machine: `--first 1234 --times 1` tries that one again.
"""

import argparse
import multiprocessing
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import c_long
from functools import cache
from types import FrameType
from typing import Any

import numpy as np
from dicoms import build, dataset, lut_item, plant, ramp
from dicoms import to_bytes as dicom_bytes
from imagecodecs import jpegls_encode, ljpeg_encode
from numpy.random import Generator
from PIL import Image
from pydicom.uid import (
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from rasters import COLOUR8, GREY8, encoded

from cxrdemo.errors import CxrDemoError
from cxrdemo.files import read_radiograph

MAX_SECONDS = 60
"""For one small file, on a machine that does other things as well: a hang."""

_BATCH = 250
_EXTREMES = (
    b"\0\0",
    b"\1\0",
    b"\0\1",
    b"\xff\xff",
    b"\xff\x7f",
    b"\0\x80",
    b"NaN ",
    b"-1e9",
    b"\\",
)


@cache
def seeds() -> dict[str, bytes]:
    """Whole files, one of each kind and encoding."""
    grey12, table = ramp(0, 4095), lut_item(list(range(0, 4096, 4)), first=0, bits=12)
    usual: dict[str, Any] = {
        "window": (2048, 4096),
        "rescale": (1, 0),
        "PatientOrientation": ["L", "F"],
        "PixelSpacing": [0.2, 0.2],
    }
    files = {
        "plain": build(grey12, **usual),
        "implicit": build(grey12, syntax=ImplicitVRLittleEndian, **usual),
        "without preamble": dicom_bytes(dataset(grey12, **usual), preamble=False),
        "planted": dicom_bytes(plant(dataset(grey12, **usual))),
        "tables": build(grey12, VOILUTSequence=[table], ModalityLUTSequence=[table]),
        "rle": build(grey12, syntax=RLELossless, **usual),
        "jpeg": build(GREY8, bits_stored=8, syntax=JPEGBaseline8Bit),
        "jpeg 2000": build(grey12, syntax=JPEG2000Lossless),
        "jpeg-ls": build(grey12, syntax=JPEGLSLossless, frame=bytes(jpegls_encode(grey12))),
        "lossless jpeg": build(
            grey12,
            syntax=JPEGLosslessSV1,
            frame=bytes(ljpeg_encode(grey12, bitspersample=12)),
        ),
        "colour": build(COLOUR8, photometric="RGB", bits_stored=8, modality="SC"),
    }
    pictures = {
        "grey": Image.fromarray(GREY8),
        "colour": Image.fromarray(COLOUR8),
        "deep": Image.fromarray(ramp(0, 65535)),
        "palette": Image.fromarray(COLOUR8).convert("P"),
        "alpha": Image.fromarray(GREY8).convert("LA"),
    }
    for name, picture in pictures.items():
        files[f"{name} png"] = encoded(picture, "PNG")
        files[f"{name} tiff"] = encoded(picture, "TIFF")
        if name in ("grey", "colour"):
            files[f"{name} webp"] = encoded(picture, "WEBP")
            files[f"{name} bmp"] = encoded(picture, "BMP")
            files[f"{name} jpeg"] = encoded(picture, "JPEG")
            files[f"{name} progressive"] = encoded(picture, "JPEG", progressive=True)
            files[f"{name} lzw"] = encoded(picture, "TIFF", compression="tiff_lzw")
    return files


def mutated(number: int) -> tuple[str, bytes]:
    """The broken file of a number, and the kind it was made from."""
    rng = np.random.default_rng(number)
    kind = str(rng.choice(sorted(seeds())))
    data = bytearray(seeds()[kind])
    for _ in range(int(rng.integers(1, 5))):
        change = CHANGES[int(rng.integers(len(CHANGES)))]
        change(rng, data)
    return kind, bytes(data)


def _place(rng: Generator, data: bytearray) -> int:
    """Anywhere, but half of the time in the header."""
    return int(rng.integers(max(1, len(data) if rng.random() < 0.5 else min(len(data), 900))))


def _flip(rng: Generator, data: bytearray) -> None:
    if data:
        data[_place(rng, data)] = int(rng.integers(256))


def _put_extreme(rng: Generator, data: bytearray) -> None:
    at, value = _place(rng, data), _EXTREMES[int(rng.integers(len(_EXTREMES)))]
    data[at : at + len(value)] = value


def _cut_off(rng: Generator, data: bytearray) -> None:
    del data[_place(rng, data) :]


def _cut_out(rng: Generator, data: bytearray) -> None:
    at = _place(rng, data)
    del data[at : at + int(rng.integers(1, 300))]


def _repeat(rng: Generator, data: bytearray) -> None:
    at = _place(rng, data)
    data[at:at] = data[at : at + int(rng.integers(1, 300))] * int(rng.integers(1, 4))


def _insert_noise(rng: Generator, data: bytearray) -> None:
    at = _place(rng, data)
    data[at:at] = rng.bytes(int(rng.integers(1, 40)))


def _splice(rng: Generator, data: bytearray) -> None:
    other = seeds()[str(rng.choice(sorted(seeds())))]
    at = _place(rng, data)
    data[at:] = other[min(at, len(other)) :]


CHANGES: tuple[Callable[[Generator, bytearray], None], ...] = (
    _flip, _flip, _flip, _put_extreme, _put_extreme, _cut_off, _cut_out, _repeat, _insert_noise,
    _splice,
)  # fmt: skip


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {MAX_SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(MAX_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(number: int) -> str:
    """What reading the file of a number led to: "read", an error's name, or what must not be."""
    kind, data = mutated(number)
    try:
        with _alarm():
            radiograph = read_radiograph(data)
    except CxrDemoError as error:
        if isinstance(error.__cause__, TimeoutError):
            return f"HANG: {number} ({kind})"
        well = str(error).startswith("Expected ")
        return type(error).__name__ if well else f"UNCLEAR: {number} ({kind}): {error}"
    except BaseException as error:
        return f"ESCAPED: {number} ({kind}): {error!r}"
    return "read" if np.isfinite(radiograph.pixels).all() else f"NOT FINITE: {number} ({kind})"


def _try_all(first: int, times: int, at: Any, answers: Any) -> None:
    found: Counter[str] = Counter()
    for number in range(first, first + times):
        at.value = number
        found[outcome(number)] += 1
    answers.put(found)


def main(arguments: list[str] | None = None) -> int:
    """Tries files in processes of their own, so that a crash is seen, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args(arguments)
    context = multiprocessing.get_context("fork")
    found: Counter[str] = Counter()
    end = asked.first + asked.times
    for first in range(asked.first, end, _BATCH):
        at, answers = context.Value(c_long, first), context.SimpleQueue()
        times = min(_BATCH, end - first)
        process = context.Process(target=_try_all, args=(first, times, at, answers))
        process.start()
        process.join()
        if process.exitcode == 0:
            found.update(answers.get())
        else:
            found[
                f"CRASH: {at.value} (exit {process.exitcode}); the rest of its batch left out"
            ] += 1
    print(f"{asked.times} broken files from {len(seeds())} whole ones, first {asked.first}")
    for name, count in sorted(found.items(), key=lambda item: -item[1]):
        print(f"{count:7d}  {name}")
    return int(any(":" in name for name in found))


if __name__ == "__main__":
    sys.exit(main())
