"""Reading a costly file in a process of its own, which can be cut off.

A decoder is foreign code on foreign bytes: it may take all memory, never end, or crash. What is
large or decoded in many passes is therefore read here; the rest stays in the caller's process,
because a new one takes half a second to start. Nothing touches the disk: bytes and pixels travel
through anonymous memory, the rest as JSON.
"""

import json
import mmap
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from cxrdemo import errors
from cxrdemo.errors import CxrDemoError, UnreadableImageError, UnsupportedImageError
from cxrdemo.radiograph import Radiograph, Source

MAX_SECONDS: Final = 10
"""Of computing, however many others compute at the same time."""

MAX_MEMORY: Final = 1536 * 2**20
"""Beyond what the libraries take: a hundred megapixels need 0.7 GB."""

_MAX_WAIT_SECONDS: Final = 120
"""After which a process that neither computes nor ends is killed."""

_ROOT: Final = Path(__file__).resolve().parents[2]


def read_apart(
    data: bytes, *, max_seconds: int = MAX_SECONDS, max_memory: int = MAX_MEMORY
) -> Radiograph:
    """Reads the bytes of a file in a process of its own.

    Args:
        data: The file.
        max_seconds: Of computing, after which it is cut off.
        max_memory: In bytes, beyond what the libraries take.

    Raises:
        UnreadableImageError: As in reading, and if the decoder crashes.
        UnsupportedImageError: As in reading, and if a limit is passed.
    """
    given, taken = os.memfd_create("file"), os.memfd_create("pixels")
    try:
        with open(given, "wb", closefd=False) as stream:
            stream.write(data)
        answer = _ask(given, taken, max_seconds, max_memory)
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"])
        height, width = answer["hw"]
        memory = mmap.mmap(taken, 4 * height * width, prot=mmap.PROT_READ)
    finally:
        os.close(given)
        os.close(taken)
    source = {name: _tupled(value) for name, value in answer["source"].items()}
    source["tags"] = MappingProxyType(source["tags"])
    spacing = answer["spacing_mm"]
    return Radiograph(
        np.frombuffer(memory, np.float32).reshape(height, width),
        None if spacing is None else (spacing[0], spacing[1]),
        answer["view"],
        Source(**source),
    )


def _tupled(value: Any) -> Any:
    """Tuples for the lists that JSON makes of them."""
    return tuple(_tupled(each) for each in value) if isinstance(value, list) else value


def _ask(given: int, taken: int, max_seconds: int, max_memory: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "cxrdemo.files", given, taken, max_seconds, max_memory]
    try:
        done = subprocess.run(
            [str(word) for word in command],
            pass_fds=(given, taken),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            timeout=_MAX_WAIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _cut_off(max_seconds) from error
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise _cut_off(max_seconds)
    if done.returncode != 0:
        raise UnreadableImageError(
            "Expected a file that can be decoded, found one on which the decoder failed. Copy or"
            " export it again; if it opens elsewhere, save it from there as PNG."
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _cut_off(max_seconds: int) -> UnsupportedImageError:
    return UnsupportedImageError(
        f"Expected a file that can be decoded within {max_seconds} seconds, found one that takes"
        " longer. Save it again from an image program, in grey and at its native resolution."
    )


def serve(read: Callable[[bytes], Radiograph], arguments: list[str]) -> None:
    """What the process of its own does: one file, one answer."""
    given, taken, max_seconds, max_memory = (int(word) for word in arguments)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + max_memory,) * 2)
    spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(
        resource.RLIMIT_CPU, (int(spent) + max_seconds, int(spent) + max_seconds + 1)
    )
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer: dict[str, Any]
    try:
        with open(given, "rb", closefd=False) as stream:
            stream.seek(0)
            radiograph = read(stream.read())
        with open(taken, "wb", closefd=False) as pixels:
            radiograph.pixels.tofile(pixels)
        answer = {
            "hw": radiograph.hw,
            "spacing_mm": radiograph.spacing_mm,
            "view": radiograph.view,
            "source": {each.name: getattr(radiograph.source, each.name) for each in fields(Source)}
            | {"tags": dict(radiograph.source.tags)},
        }
    except CxrDemoError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    sys.stdout.write(json.dumps(answer))
