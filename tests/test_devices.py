from types import MappingProxyType

import pytest
import torch

from cxrdemo.devices import fastest_precision, has_bf16, training_precision


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
    assert fastest_precision("cpu") == ("bf16" if expected else "fp32")
    assert training_precision("cpu") == ("bf16-mixed" if expected else "32-true")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True)])
def test_a_gpu_computes_in_bf16_from_ampere_on(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bf16(torch.device("cuda", 0)) is expected


def test_any_other_device_computes_in_fp32() -> None:
    assert fastest_precision("mps") == "fp32"
