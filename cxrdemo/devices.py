"""What a device computes fastest in: bf16 or fp16 where the hardware has it, fp32 elsewhere.

A processor without bf16 instructions runs it all the same, by converting to fp32 and back, and
several times slower than fp32 itself. So the hardware is asked, and nothing is guessed.
"""

import contextlib
from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal

import torch
from torch import nn

from cxrdemo.errors import SettingError

Precision = Literal["fp32", "bf16", "fp16"]
AskedPrecision = Literal["auto", "fp32", "bf16", "fp16"]

HALF: Final[Mapping[Precision, torch.dtype]] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The half precisions, and PyTorch's numbers for them."""

_CPU_FLAGS: Final = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")
"""bf16 arithmetic by name in `torch.cpu.get_capabilities`: x86, then Arm."""

_FIRST_CUDA_MAJOR: Final = 8
"""Ampere. Older cards emulate bf16."""

_FIRST_FP16_MAJOR: Final = 7
"""Volta and Turing, such as V100 and T4: the first with matrix units, for fp16 alone."""


def resolve(asked: str) -> torch.device:
    """The device that somebody asked for by name: the one place where a name becomes a device.

    Args:
        asked: Such as "cpu", "cuda" or "cuda:1"; "auto" takes a GPU where there is one.

    Raises:
        SettingError: If there is no such device, here or anywhere.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        return torch.device("cuda" if gpus else "cpu")
    known = ["cpu", *(["cuda"] if gpus else []), *(f"cuda:{index}" for index in range(gpus))]
    if torch.backends.mps.is_available():
        known.append("mps")
    if asked not in known:
        remedy = (
            "For a GPU install its driver and a PyTorch with CUDA. "
            if asked.startswith("cuda") and not gpus
            else ""
        )
        raise SettingError(
            f"There is no device {asked!r} here. There is {', '.join(known)}; auto takes the "
            f"fastest. {remedy}".rstrip()
        )
    return torch.device(asked)


def compute_on(*, cores: int) -> None:
    """Has this process compute on so many cores, where it shares them with others."""
    torch.set_num_threads(cores)


def has_bf16(device: torch.device | str) -> bool:
    """Whether a device multiplies bf16 numbers in hardware."""
    device = torch.device(device)
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return any(found.get(flag, False) for flag in _CPU_FLAGS)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= _FIRST_CUDA_MAJOR
    return False


def fastest_precision(device: torch.device | str) -> Precision:
    """What a device's hardware multiplies in: bf16, on a GPU that has it not fp16, or fp32."""
    device = torch.device(device)
    if has_bf16(device):
        return "bf16"
    if device.type == "cuda":
        has_fp16 = torch.cuda.get_device_capability(device)[0] >= _FIRST_FP16_MAJOR
        return "fp16" if has_fp16 else "fp32"
    return "fp32"


def precision_for(
    asked: AskedPrecision,
    device: torch.device | str,
    *,
    holds: Collection[Precision] = tuple(HALF),
) -> Precision:
    """What was asked for; "auto" asks for the fastest that holds: never slower than plain fp32.

    Args:
        asked: A precision, or "auto".
        device: Where the network computes.
        holds: Half precisions that may be taken unasked: of inference those in which the network's
            results were measured to stay, of training all, as its gradients are scaled.
    """
    if asked != "auto":
        return asked
    fastest = fastest_precision(device)
    return fastest if fastest in holds else "fp32"


def computing_in(
    precision: Precision, device: torch.device | str
) -> contextlib.AbstractContextManager[None]:
    """A context in which a network computes in a precision, half precisions by autocast."""
    dtype = HALF.get(precision)
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None)


def hold_in(precision: Precision, layers: Iterable[nn.Module]) -> None:
    """Keeps the weights of convolutions and linear layers in a precision, in place.

    Autocast would convert them anew at every call. Other layers stay in fp32, as they do under
    autocast.
    """
    if precision in HALF:
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.to(HALF[precision])
