"""What runs a network: PyTorch, or OpenVINO where it is installed and asked for.

OpenVINO computes the same function of the same weights with fewer passes over memory. Converting a
network costs many seconds, so the result is kept on disk, under a name that changes with the
weights and with either library.
"""

import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from cxrdemo.devices import Precision

Engine = Literal["torch", "openvino"]
ENGINES: Final[tuple[Engine, ...]] = ("torch", "openvino")

Part = Callable[[Tensor], Tensor]
"""The costly part of a network: an image encoder, or all of a classifier below its pooling."""

_LIBRARIES: Final = ("openvino", "torch", "torchvision", "timm")
"""Another version of any of them may give another graph."""

_converting: Final = threading.Lock()
"""The tracer serves one thread."""

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
    input_hw: tuple[int, int],
    key: str,
    precision: Precision = "fp32",
    folder: Path | None = None,
) -> Part:
    """Converts a part of a network to OpenVINO, or takes what an earlier conversion left on disk.

    Args:
        part: What to run, for one image (1, 3, H, W); it calls `network`.
        network: In evaluation mode, frozen, on the CPU.
        input_hw: Size of the image.
        key: Identifies weights and architecture, such as a sha256.
        precision: What it computes in.
        folder: Where converted networks are kept; None takes `cache_folder()`.

    Returns:
        A function of the same image to the same output, fp32 on the CPU; not for several threads at
        once.
    """
    folder = cache_folder() if folder is None else folder
    folder.mkdir(parents=True, exist_ok=True)
    libraries = "-".join(f"{name}{version(name)}" for name in _LIBRARIES)
    path = folder / f"{key}-{input_hw[0]}x{input_hw[1]}-{libraries}.xml"
    with _converting:
        if not path.exists():
            _log.info("Converting %s for OpenVINO, once", key)
            _convert(_Traced(part, network), input_hw, path)
    compiled: Any = _core().compile_model(
        path,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            # OpenVINO 2026.4 takes what it compiled for one precision for another, and crashes.
            "CACHE_DIR": str(folder / precision),
        },
    )

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(compiled([images.numpy()])[0])

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


def _convert(module: nn.Module, input_hw: tuple[int, int], path: Path) -> None:
    import openvino

    example = torch.zeros(1, 3, *input_hw)
    with warnings.catch_warnings():
        # The tracer warns of every branch on a shape, which is fixed here, and that it is old.
        for category in (torch.jit.TracerWarning, FutureWarning):  # type: ignore[attr-defined]
            warnings.simplefilter("ignore", category)
        model = openvino.convert_model(module, example_input=example)
    model.reshape([1, 3, *input_hw])
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

    def forward(self, images: Tensor) -> Tensor:
        return self._part(images)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
