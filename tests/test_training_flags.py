"""The doors of `python -m training`: senseless numbers, and how a command ends."""

import argparse
from pathlib import Path

import pytest

from cxrdemo.commands.numbers import number
from training.__main__ import main
from training.commands import masks


@pytest.mark.parametrize(
    ("command", "flag", "value"),
    [
        ("segment --data d --out o", "--size", "-1"),
        ("segment --data d --out o", "--epochs", "0"),
        ("segment --data d --out o", "--workers", "-1"),
        ("classify --data d --out o --masking none", "--size", "5000"),
        ("classify --data d --out o --masking none", "--batch", "0"),
        ("classify --data d --out o --masking none", "--lr", "nan"),
        ("classify --data d --out o --masking none", "--ema", "1.5"),
        ("classify --data d --out o --masking none", "--seed", "-3"),
        ("classify --data d --out o --masking none", "--nodules", "1.5"),
        ("classify --data d --out o --masking none", "--place-weight", "-1"),
        ("pretrain --data d --out o", "--patience", "-1"),
        ("masks --data d --out o", "--batch", "0"),
        ("evaluate --data d --out o", "--resamples", "0"),
        ("evaluate --data d --out o", "--planted", "-1"),
        ("publish", "--version", "0"),
        ("calibrate --data d --masks m", "--resamples", "many"),
        ("experiment --data d --out o", "--seeds", "-1"),
        ("data manifest --layout nih --data d --out o", "--digits", "8"),
    ],
)
def test_a_senseless_number_is_wrong_usage(
    command: str, flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), f"{flag}={value}"])
    assert stop.value.code == 2
    assert f"argument {flag}: must be a" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-inf", "-0.1", "1.1", "0x1"])
def test_only_a_finite_number_within_its_bounds_is_taken(text: str) -> None:
    for read in (number(float, 0, 1), number(int, 0, 1)):
        with pytest.raises(argparse.ArgumentTypeError, match="0 to 1; got"):
            read(text)
    assert number(float, 0, 1)("0.25") == 0.25
    with pytest.raises(argparse.ArgumentTypeError, match="a number, 0 or more"):
        number(float, 0)("inf")


def test_ctrl_c_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(masks, "run", stopped)
    assert main(["masks", "--data", "d", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"
