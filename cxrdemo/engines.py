"""What runs a network: PyTorch, or OpenVINO where it is installed and asked for.

OpenVINO computes the same function of the same weights with fewer passes over memory. Converting a
network costs many seconds, so the result is kept on disk, under a name that changes with the
weights and with either library.
"""

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from cxrdemo.devices import Precision
from cxrdemo.quiet import recorded_warnings

Engine = Literal["torch", "openvino"]

Part = Callable[..., Any]
"""A costly part of a network, from tensors to a tensor or a tuple of them: an image encoder, a mask
decoder, or all of a classifier below its pooling."""

ANY_LENGTH: Final = -1
"""An axis of an input whose length may change from call to call."""

_LIBRARIES: Final = ("openvino", "torch", "torchvision", "timm", "segment-anything")
"""Another version of any of them may give another graph."""

_PRECISION_HINTS: Final[Mapping[Precision, str]] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}

_compiling: Final = threading.Lock()
"""The tracer serves one thread. And OpenVINO 2026.4 sets the process's locale while it compiles,
and then back: of two at once the later would bring back the other's, and leave ASCII for ever."""

_log = logging.getLogger(__name__)


def usable_engine(asked: Engine, device: torch.device | str) -> tuple[Engine, str]:
    """The engine that will run, and why it is not the one asked for; no reason if it is.

    The reason is logged, and meant to be shown with every result.
    """
    if asked == "torch":
        return asked, ""
    reason = ""
    if torch.device(device).type != "cpu":
        reason = f"Engine openvino runs on the CPU alone, not on {device}; PyTorch computed instead"
    elif _installed("openvino") is None:
        reason = (
            "Engine openvino is not installed (`pip install openvino==2026.4.1`); PyTorch computed "
            "instead"
        )
    if not reason:
        return asked, ""
    reason += ". The results are the same, but slower."
    _log.warning(reason)
    return "torch", reason


def cache_folder() -> Path:
    """Where converted networks are kept: `$XDG_CACHE_HOME/cxrdemo`, or `~/.cache/cxrdemo`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cxrdemo"


def compile_part(
    part: Part,
    network: nn.Module,
    *,
    shapes: Sequence[tuple[int, ...]],
    key: str,
    precision: Precision = "fp32",
    folder: Path | None = None,
) -> Part:
    """Converts a part of a network to OpenVINO, or takes what an earlier conversion left on disk.

    Args:
        part: What to run; it calls `network`.
        network: In evaluation mode, frozen, on the CPU.
        shapes: Of its inputs, fp32; an axis may be of `ANY_LENGTH`.
        key: Identifies weights, architecture and part, such as by a sha256.
        precision: What it computes in.
        folder: Where converted networks are kept; None takes `cache_folder()`.

    Returns:
        A function of the same inputs to the same outputs, fp32 on the CPU; not for several threads
        at once.
    """
    folder = cache_folder() if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    libraries = "-".join(f"{name}{version(name)}" for name in _LIBRARIES)
    sizes = "-".join("x".join("n" if n == ANY_LENGTH else str(n) for n in s) for s in shapes)
    path = folder / f"{key}-{sizes}-{libraries}.xml"
    with _compiling:
        if not path.exists():
            _log.info("Converting %s for OpenVINO, once", key)
            _convert(_Traced(part, network), shapes, path)
        compiled: Any = _core().compile_model(
            path,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[precision],
                # OpenVINO 2026.4 takes what it compiled for one precision for another, and crashes.
                "CACHE_DIR": str(folder / precision),
            },
        )

    def run(*inputs: Tensor) -> Any:
        # OpenVINO would copy what lies otherwise, with one thread.
        outputs = compiled([part.float().contiguous().numpy() for part in inputs]).to_tuple()
        tensors = tuple(torch.from_numpy(output) for output in outputs)
        return tensors[0] if len(tensors) == 1 else tensors

    return run


@cache
def _core() -> Any:
    """One for the process, for ever.

    Where the processor has AMX, each core of OpenVINO 2026.4 gives the thread a stack for signals.
    When two go in the order they came, a stack already freed stays registered, and the next signal
    ends the process.
    """
    import openvino

    return openvino.Core()


def _convert(module: nn.Module, shapes: Sequence[tuple[int, ...]], path: Path) -> None:
    import openvino

    # Two of what may be any number: one could be taken for an axis that is always one.
    example = tuple(torch.zeros([2 if n == ANY_LENGTH else n for n in shape]) for shape in shapes)
    # The tracer warns of every branch on a shape, which is fixed here, and that it is old.
    with recorded_warnings():
        model = openvino.convert_model(module, example_input=example)
    inputs = zip(model.inputs, shapes, strict=True)
    model.reshape({place: openvino.PartialShape(list(shape)) for place, shape in inputs})
    with tempfile.TemporaryDirectory(dir=path.parent) as draft:
        whole = Path(draft) / path.name
        openvino.save_model(model, whole, compress_to_fp16=False)
        # The description last: where it is, the weights are there too.
        whole.with_suffix(".bin").replace(path.with_suffix(".bin"))
        whole.replace(path)


class _Traced(nn.Module):
    """A part as a module, which is what the converter takes."""

    def __init__(self, part: Part, network: nn.Module) -> None:
        super().__init__()
        self._part = part
        self.network = network

    def forward(self, *inputs: Tensor) -> Any:
        return self._part(*inputs)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
