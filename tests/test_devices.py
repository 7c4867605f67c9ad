from types import MappingProxyType

import pytest
import torch
from torch import nn

from cxrdemo import devices
from cxrdemo.devices import (
    HALF,
    Precision,
    computing_in,
    has_bf16,
    hold_in,
    precision_for,
    resolve,
)
from cxrdemo.errors import SettingError


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
        ({"neon": True, "bf16": True}, True),
        ({}, False),
    ],
)
def test_a_processor_computes_in_bf16_only_where_it_has_it(
    flags: dict, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: MappingProxyType(flags))
    assert has_bf16("cpu") is expected
    assert precision_for("auto", "cpu") == ("bf16" if expected else "fp32")


@pytest.mark.parametrize(
    ("capability", "fastest"),
    [((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")],
)
def test_a_gpu_computes_in_bf16_from_ampere_on_and_in_fp16_before(
    capability: tuple[int, int], fastest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bf16(torch.device("cuda", 0)) is (fastest == "bf16")
    assert precision_for("auto", "cuda:0") == fastest
    for holds in ((), ("bf16",), ("fp16",)):
        expected = fastest if fastest in holds else "fp32"
        assert precision_for("auto", "cuda:0", holds=holds) == expected
        assert precision_for("fp32", "cuda:0", holds=holds) == "fp32"
        assert precision_for("fp16", "cuda:0", holds=holds) == "fp16"


def test_a_device_is_taken_by_name_or_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve("auto") == resolve("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "banana", "", "meta"):
        with pytest.raises(SettingError, match=f"no device '{name}' here. There is cpu"):
            resolve(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve("auto") == torch.device("cuda")
    assert resolve("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(SettingError, match="There is cpu, cuda, cuda:0, cuda:1;"):
        resolve("cuda:2")


def test_any_other_device_computes_in_fp32() -> None:
    assert precision_for("auto", "mps") == "fp32"


def test_a_precision_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision_for("bf16", "mps") == "bf16"
    monkeypatch.setattr(devices, "has_bf16", lambda _: True)
    assert precision_for("auto", "cpu") == "bf16"
    assert precision_for("auto", "cpu", holds=()) == "fp32"
    assert precision_for("bf16", "cpu", holds=()) == "bf16"
    assert precision_for("fp32", "cpu") == "fp32"


@pytest.mark.parametrize(("precision", "dtype"), HALF.items())
def test_weights_of_convolutions_and_linear_layers_are_kept_in_half(
    precision: Precision, dtype: torch.dtype
) -> None:
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)
    ).eval()
    hold_in("fp32", layers)
    assert {p.dtype for p in layers.parameters()} == {torch.float32}
    hold_in(precision, layers)
    found = {name: p.dtype for name, p in layers.named_parameters()}
    assert found["0.weight"] == found["3.bias"] == dtype
    assert found["1.weight"] == torch.float32
    with computing_in(precision, "cpu"):
        assert layers(torch.rand(1, 3, 3, 3)).dtype == dtype


@pytest.mark.parametrize(
    ("asked", "gpus", "given"),
    [("auto", 0, "cpu"), ("auto", 1, "cuda"), ("cpu", 1, "cpu"), ("cuda:1", 2, "cuda:1")],
)
def test_a_device_that_is_there_is_given(
    asked: str, gpus: int, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert str(resolve(asked)) == given


@pytest.mark.parametrize(("asked", "gpus"), [("cuda", 0), ("cuda:2", 2), ("mps", 1), ("gpu", 1)])
def test_a_device_that_is_not_there_is_refused_with_a_remedy(
    asked: str, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    with pytest.raises(SettingError, match="auto takes the fastest"):
        resolve(asked)
