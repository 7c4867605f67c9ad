from dataclasses import fields
from pathlib import Path

import pytest

from cxrdemo import settings
from cxrdemo.errors import SettingError
from cxrdemo.settings import Settings


def test_nothing_set_is_the_default() -> None:
    assert Settings.from_environment({"HOME": "/"}) == Settings()
    assert Settings.from_environment({"CXRDEMO_DEVICE": " "}) == Settings(), "empty is not set"


def test_every_setting_has_its_variable() -> None:
    found = Settings.from_environment(
        {
            "CXRDEMO_CHECKPOINTS": "hf://a/b@c",
            "CXRDEMO_DEVICE": "cuda",
            "CXRDEMO_ENGINE": "openvino",
            "CXRDEMO_PRECISION": "fp32",
            "CXRDEMO_MEDSAM": "/weights/medsam_vit_b.pth",
            "CXRDEMO_MAX_BATCH": "12",
            "CXRDEMO_PASSWORD": "let me in",
            "CXRDEMO_MCP": "1",
        }
    )
    medsam = Path("/weights/medsam_vit_b.pth")
    expected = ("hf://a/b@c", "cuda", "openvino", "fp32", medsam, 12, "let me in", True)
    assert found == Settings(*expected)
    assert found.checkpoint_location == "hf://a/b@c"


def test_every_variable_is_told_to_who_hosts() -> None:
    page = (settings.REPOSITORY / "docs" / "hosting.md").read_text(encoding="utf-8")
    for field in fields(Settings):
        assert f"| `CXRDEMO_{field.name.upper()}` |" in page


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CXRDEMO_ENGINE", "steam"),
        ("CXRDEMO_PRECISION", "fp8"),
        ("CXRDEMO_MCP", "yes"),
        ("CXRDEMO_MAX_BATCH", "0"),
        ("CXRDEMO_MAX_BATCH", "-3"),
        ("CXRDEMO_MAX_BATCH", "many"),
        ("CXRDEMO_MAX_BATCH", "\u00b2"),
        ("CXRDEMO_MAX_BATCH", "\u0663"),
        ("CXRDEMO_MAX_BATCH", "1_0"),
        ("CXRDEMO_MAX_BATCH", "nan"),
        ("CXRDEMO_MAX_BATCH", "10001"),
        ("CXRDEMO_MAX_BATCH", "9" * 5000),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=name) as refusal:
        Settings.from_environment({name: value})
    assert len(str(refusal.value)) < 200


def test_a_number_may_have_zeros_before_it() -> None:
    assert Settings.from_environment({"CXRDEMO_MAX_BATCH": "007"}).max_batch == 7


def test_without_checkpoints_anywhere_the_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "REPOSITORY", tmp_path)
    with pytest.raises(SettingError, match="CXRDEMO_CHECKPOINTS"):
        _ = Settings().checkpoint_location
