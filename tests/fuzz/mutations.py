"""Files of every kind that is read, broken by chance, through whoever reads them.

Each is read, or refused with an error fit for the user; nothing else may happen. Images, and what a
checkpoint or a training set consists of: manifests, weights, indexes, boxes, masks. Run
`make fuzz N=10000`; `tests/fuzz/test_mutations.py` runs a few in `make test`. A kind and a number
name the same file on every machine: `--kinds images --first 1234 --times 1` tries that one again.
"""

import argparse
import io
import json
import multiprocessing
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ctypes import c_long
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from dicoms import build, dataset, lut_item, plant, ramp
from dicoms import to_bytes as dicom_bytes
from fakes import LUNGS_SPEC, findings_spec
from imagecodecs import jpegls_encode, ljpeg_encode, tiff_encode
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
from safetensors.torch import save
from torch import nn

from cxrdemo.checkpoints import MANIFEST_NAME, CheckpointStore, load_strictly, read_weights
from cxrdemo.errors import CheckpointError, CxrDemoError
from cxrdemo.files import read_radiograph
from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS, NO_FINDING
from cxrdemo.results import MaskingMode
from training.sets.boxes import BOXES_NAME, read_boxes
from training.sets.index import read_finding_index, read_lung_index
from training.sets.pixels import read_mask

MAX_SECONDS = 60
"""Of computing, for one small file: a hang, however much the machine does besides."""

_MAX_WAIT_SECONDS = 1800
"""Of waiting, which none of them has a reason for."""

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


_TOKENS = tuple(
    token.encode()
    for token in (
        "null", "true", "-1", "0", "1e999", "NaN", "[]", "{}", '""', '"../x"', '"/etc/passwd"',
        '"\\ud800"', '"\\u0000"', "9" * 400, '"' + "x" * 300 + '"', "=1+1", ";", "\t", '"', "é",
    )
)  # fmt: skip
"""What stands where a number, a name or a cell belongs."""

_WORD = re.compile(rb'"[^"\n]*"|-?[0-9]+(?:\.[0-9]+)?|[^,;\n\r"{}\[\]: ]+')


@cache
def image_seeds() -> dict[str, bytes]:
    """Whole images, one of each kind and encoding."""
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
    for dtype in (np.uint32, np.float64):
        files[f"{np.dtype(dtype).name} tiff"] = bytes(
            tiff_encode(ramp(0, 4_000_000, dtype), compression="deflate", byteorder=">")
        )
    return files


def _read_image(data: bytes, _: Path) -> None:
    pixels = read_radiograph(data).pixels
    assert np.isfinite(pixels).all()
    assert pixels.min() >= 0
    assert pixels.max() <= 1


@cache
def manifest_seeds() -> dict[str, bytes]:
    """The manifest of a folder of checkpoints."""
    specs = [LUNGS_SPEC, *(findings_spec(mode) for mode in MaskingMode)]
    manifest = {"schema": 1, "checkpoints": [spec.to_json() for spec in specs]}
    return {"manifest": json.dumps(manifest, indent=1).encode()}


def _read_manifest(data: bytes, folder: Path) -> None:
    (folder / MANIFEST_NAME).write_bytes(data)
    store = CheckpointStore.open(folder)
    store.lungs()
    for mode in MaskingMode:
        store.findings(mode)
    for spec in store.specs:
        try:
            store.load(spec)
        except CheckpointError:
            continue
        raise AssertionError("weights that are not there were loaded")


_NETWORK = nn.Linear(8, 4)


@cache
def weight_seeds() -> dict[str, bytes]:
    """Weights in both formats."""
    stream = io.BytesIO()
    torch.save(_NETWORK.state_dict(), stream)
    return {"a.pth": stream.getvalue(), "a.safetensors": save(_NETWORK.state_dict())}


def _read_weights(data: bytes, folder: Path) -> None:
    errors = []
    for name in weight_seeds():
        (folder / name).write_bytes(data)
        try:
            load_strictly(nn.Linear(8, 4), read_weights(folder / name), name)
        except CheckpointError as error:
            errors.append(error)
    if len(errors) == len(weight_seeds()):
        raise errors[0]


_NAMES = ("a", "b", "c")


@cache
def index_seeds() -> dict[str, bytes]:
    """The lists of images of the two kinds of training sets, and of boxes about findings."""
    keys = (*FINDING_KEYS, *AUXILIARY_KEYS, NO_FINDING.key)
    findings = [("image", "patient_id", "split", *keys)]
    findings += [(f"{name}.png", f"P{name}", "train", *("0" for _ in keys)) for name in _NAMES]
    lungs = [("name", "set", "patient_id", "split")]
    lungs += [(name, "montgomery", f"P{name}", "val") for name in _NAMES]
    boxes = [("image", "label", "x", "y", "width", "height")]
    boxes += [(f"{name}.png", "Nodule", "12.5", "20", "100", "80") for name in _NAMES]
    tables = {"findings": findings, "lungs": lungs, "boxes": boxes}
    return {
        name: "".join(",".join(row) + "\n" for row in rows).encode()
        for name, rows in tables.items()
    }


def _read_index(data: bytes, folder: Path) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir()
        for name in _NAMES:
            (folder / part / f"{name}.png").touch()
    (folder / "index.csv").write_bytes(data)
    (folder / BOXES_NAME).write_bytes(data)
    errors = []
    for read in (
        read_finding_index,
        read_lung_index,
        lambda each: read_boxes(each / BOXES_NAME),
    ):
        try:
            read(folder)
        except CxrDemoError as error:
            errors.append(error)
    if len(errors) == 3:
        raise errors[0]


@cache
def mask_seeds() -> dict[str, bytes]:
    """Masks of lungs, as people keep them."""
    lungs = np.zeros((80, 72), np.uint8)
    lungs[10:60, 8:30], lungs[10:60, 40:64] = 1, 2
    pictures = {
        "numbers": Image.fromarray(lungs),
        "grey": Image.fromarray((lungs > 0) * np.uint8(255)),
        "deep": Image.fromarray((lungs > 0) * np.uint16(65535)),
        "colour": Image.fromarray(np.stack([lungs * 100] * 3, axis=-1)),
        "palette": Image.fromarray(lungs * 100).convert("P"),
    }
    files = {
        f"{name} {kind}": encoded(picture, kind)
        for name, picture in pictures.items()
        for kind in ("PNG", "TIFF")
    }
    for kind in ("BMP", "GIF", "JPEG"):
        files[f"grey {kind}"] = encoded(pictures["grey"], kind)
    return files


def _read_mask(data: bytes, folder: Path) -> None:
    (folder / "mask.png").write_bytes(data)
    assert read_mask(folder / "mask.png").any()


@dataclass(frozen=True)
class Kind:
    """What is broken by chance, and who reads it.

    Attributes:
        seeds: Whole files, by name.
        read: Reads one in a folder that is empty; raises `CxrDemoError` if it is refused.
        opening: How the words of every refusal begin.
    """

    seeds: Callable[[], Mapping[str, bytes]]
    read: Callable[[bytes, Path], None]
    opening: str = ""


KINDS = {
    "images": Kind(image_seeds, _read_image, "Expected "),
    "manifests": Kind(manifest_seeds, _read_manifest),
    "weights": Kind(weight_seeds, _read_weights),
    "indexes": Kind(index_seeds, _read_index),
    "masks": Kind(mask_seeds, _read_mask),
}


def mutated(kind: str, number: int) -> tuple[str, bytes]:
    """The broken file of a number, and the name of the whole one that it was made from."""
    rng = np.random.default_rng(number)
    seeds = KINDS[kind].seeds()
    name = str(rng.choice(sorted(seeds)))
    data = bytearray(seeds[name])
    for _ in range(int(rng.integers(1, 5))):
        change = CHANGES[int(rng.integers(len(CHANGES)))]
        if kind in ("manifests", "indexes") and rng.random() < 0.7:
            change = _put_token
        change(rng, data, seeds)
    return name, bytes(data)


Seeds = Mapping[str, bytes]


def _place(rng: Generator, data: bytearray) -> int:
    """Anywhere, but half of the time in the header."""
    return int(rng.integers(max(1, len(data) if rng.random() < 0.5 else min(len(data), 900))))


def _flip(rng: Generator, data: bytearray, _: Seeds) -> None:
    if data:
        data[_place(rng, data)] = int(rng.integers(256))


def _put_extreme(rng: Generator, data: bytearray, _: Seeds) -> None:
    at, value = _place(rng, data), _EXTREMES[int(rng.integers(len(_EXTREMES)))]
    data[at : at + len(value)] = value


def _put_token(rng: Generator, data: bytearray, _: Seeds) -> None:
    words = list(_WORD.finditer(bytes(data)))
    if words:
        word = words[int(rng.integers(len(words)))]
        data[word.start() : word.end()] = _TOKENS[int(rng.integers(len(_TOKENS)))]


def _cut_off(rng: Generator, data: bytearray, _: Seeds) -> None:
    del data[_place(rng, data) :]


def _cut_out(rng: Generator, data: bytearray, _: Seeds) -> None:
    at = _place(rng, data)
    del data[at : at + int(rng.integers(1, 300))]


def _repeat(rng: Generator, data: bytearray, _: Seeds) -> None:
    at = _place(rng, data)
    data[at:at] = data[at : at + int(rng.integers(1, 300))] * int(rng.integers(1, 4))


def _insert_noise(rng: Generator, data: bytearray, _: Seeds) -> None:
    at = _place(rng, data)
    data[at:at] = rng.bytes(int(rng.integers(1, 40)))


def _splice(rng: Generator, data: bytearray, seeds: Seeds) -> None:
    other = seeds[str(rng.choice(sorted(seeds)))]
    at = _place(rng, data)
    data[at:] = other[min(at, len(other)) :]


CHANGES: tuple[Callable[[Generator, bytearray, Seeds], None], ...] = (
    _flip, _flip, _flip, _put_extreme, _put_extreme, _cut_off, _cut_out, _repeat, _insert_noise,
    _splice,
)  # fmt: skip


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {MAX_SECONDS} s of computing, or waiting without end")

    before = {each: signal.signal(each, ring) for each in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, _MAX_WAIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for each, handler in before.items():
            signal.signal(each, handler)


def outcome(kind: str, number: int) -> str:
    """What reading the file of a number led to: "read", an error's name, or what must not be."""
    name, data = mutated(kind, number)
    which = f"{kind} {number} ({name})"
    try:
        with _alarm(), tempfile.TemporaryDirectory() as folder:
            KINDS[kind].read(data, Path(folder))
    except CxrDemoError as error:
        if isinstance(error.__cause__, TimeoutError):
            return f"HANG: {which}"
        well = str(error).startswith(KINDS[kind].opening) and "Traceback" not in str(error)
        return type(error).__name__ if well else f"UNCLEAR: {which}: {error}"
    except BaseException as error:
        return f"ESCAPED: {which}: {error!r}"
    return "read"


def _try_all(kind: str, first: int, times: int, at: Any, answers: Any) -> None:
    found: Counter[str] = Counter()
    for number in range(first, first + times):
        at.value = number
        found[outcome(kind, number)] += 1
    answers.put(found)


def try_in_batches(kind: str, first: int, times: int) -> Counter[str]:
    """Outcomes and their numbers; tried in processes of their own, so that a crash is seen."""
    context = multiprocessing.get_context("fork")
    found: Counter[str] = Counter()
    end = first + times
    for start in range(first, end, _BATCH):
        at, answers = context.Value(c_long, start), context.SimpleQueue()
        count = min(_BATCH, end - start)
        process = context.Process(target=_try_all, args=(kind, start, count, at, answers))
        process.start()
        process.join()
        if process.exitcode == 0:
            found.update(answers.get())
        else:
            crash = f"CRASH: {kind} {at.value} (exit {process.exitcode})"
            found[f"{crash}; the rest of its batch left out"] += 1
    return found


def main(arguments: list[str] | None = None) -> int:
    """Tries files and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=2000, help="of each kind")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    asked = parser.parse_args(arguments)
    is_fine = True
    for kind in asked.kinds:
        found = try_in_batches(kind, asked.first, asked.times)
        print(f"{asked.times} broken {kind} from {len(KINDS[kind].seeds())} whole ones", flush=True)
        for name, count in sorted(found.items(), key=lambda item: -item[1]):
            print(f"{count:7d}  {name}", flush=True)
            is_fine &= ":" not in name
    return int(not is_fine)


if __name__ == "__main__":
    sys.exit(main())
