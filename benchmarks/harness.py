"""How everything here is measured: interleaved repeats, medians, spread, and ratios.

A shared machine is now fast, now slow. So what is compared runs in turns within one process, and
what is reported is a ratio; seconds are given beside it, with the machine they were measured on.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final, Self

import numpy as np
import psutil
import torch

PACKAGES: Final = ("torch", "torchvision", "timm", "openvino", "grad-cam", "segment-anything",
                   "gradio", "numpy", "opencv-python-headless", "pydicom")  # fmt: skip
FLAGS: Final = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@dataclass(frozen=True)
class Timing:
    """Repeated wall times of one thing.

    Attributes:
        seconds: In the order in which they were measured, the warm-up left out.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the repeats took no longer."""
        return median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """First and third quartile."""
        low, high = np.percentile(self.seconds, (25, 75))
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.spread
        return f"{_short(self.median)} ({_short(low)}-{_short(high)}, n={len(self.seconds)})"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        work: What is done.
        reference: What it is compared with, in the same run.
        result: The measured figure in words: a ratio, seconds, a share.
        goal: What was set out for.
        reached: None where the goal does not apply to this machine, or nothing was set out for.
        detail: Further figures for the JSON file.
        note: What a reader must know to believe the figure.
    """

    work: str
    reference: str
    result: str
    goal: str
    reached: bool | None
    detail: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def not_run(cls, work: str, reason: str) -> Self:
        """A row that could not be measured here, and why."""
        return cls(work, "-", "not run", "-", None, note=reason)


def interleaved(
    parts: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 1
) -> dict[str, Timing]:
    """Times several things in turns: first, second, ..., first, second, ...

    Args:
        parts: Name to what is timed.
        repeats: Rounds that count.
        warm_up: Rounds before them that do not.
    """
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(warm_up + repeats):
        for name, run in parts.items():
            start = time.perf_counter()
            run()
            if turn >= warm_up:
                taken[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(seconds)) for name, seconds in taken.items()}


def ratio(reference: Timing, ours: Timing) -> float:
    """How many times faster, as the median over the rounds: what slows a round slows both."""
    pairs = zip(reference.seconds, ours.seconds, strict=True)
    return median(slow / fast for slow, fast in pairs)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    found = torch.cpu.get_capabilities()
    model = Path("/proc/cpuinfo")
    lines = model.read_text(encoding="utf-8").splitlines() if model.exists() else []
    return {
        "cpu": next((x.split(":")[1].strip() for x in lines if "model name" in x), "unknown"),
        "cores": psutil.cpu_count(logical=False),
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in FLAGS if found.get(flag)],
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": psutil.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }  # fmt: skip


def to_json(rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """All that a run found, as plain JSON types."""
    return {"machine": about, "rows": [asdict(row) for row in rows]}


def table(rows: Sequence[Row]) -> str:
    """The rows for a terminal."""
    words = {True: "yes", False: "NO", None: "-"}
    header = ("work", "reference", "result", "goal", "reached")
    cells = [header, *((r.work, r.reference, r.result, r.goal, words[r.reached]) for r in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    notes = [f"  {row.work}: {row.note}" for row in rows if row.note]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *notes])


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:
        return "not installed"
