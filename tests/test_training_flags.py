"""The doors of `python -m training`: senseless numbers, and how a command ends."""

import argparse
from pathlib import Path

import pytest
from fakes import tiny_classifier

from cxrdemo.commands.numbers import number
from cxrdemo.results import MaskingMode
from training.__main__ import main
from training.commands import evaluate, masks
from training.errors import DataError
from training.images.stored_masks import mask_path
from training.measures.scoring import run_classifier
from training.sets.index import read_finding_index


@pytest.mark.parametrize(
    ("command", "flag", "value"),
    [
        ("segment --data d --out o", "--size", "-1"),
        ("segment --data d --out o", "--size", "--"),
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


def test_what_cannot_end_well_is_told_before_the_long_part(
    phantom_sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("the long part has begun")

    for name in ("run_classifier", "measure_lungs"):
        monkeypatch.setattr(evaluate, name, too_late)
    classifiers = {mode: tiny_classifier(mode) for mode in MaskingMode}
    monkeypatch.setattr(evaluate, "load_classifiers", lambda *_, **__: classifiers)
    file = tmp_path / "file"
    file.write_text("no boxes")
    out, lungs = ["--out", str(tmp_path / "out")], ["--masks", str(phantom_sets / "masks")]
    for flags, words in (
        (["--out", str(file)], f"{file} is a file. Name a folder"),
        (["--out", str(file / "deeper")], f"{file} is a file. Name a folder"),
        (out, "Masking 'loose' needs lung masks here"),
        ([*out, "--boxes", str(file)], "--boxes needs --masks"),
        ([*out, *lungs, "--boxes", str(tmp_path / "none.csv")], "There is no"),
    ):
        assert main(["evaluate", "--data", str(phantom_sets / "nih"), *flags]) == 3
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    assert not (tmp_path / "out").exists()


def test_a_missing_mask_is_told_before_an_image_is_read(
    phantom_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = read_finding_index(phantom_sets / "nih")
    for case in cases[:-1]:
        mask_path(tmp_path, case.name).symlink_to(mask_path(phantom_sets / "masks", case.name))
    monkeypatch.setattr("training.measures.scoring.read_radiograph", lambda *_: pytest.fail("read"))
    with pytest.raises(DataError, match=f"holds no mask of {cases[-1].name}"):
        run_classifier(tiny_classifier(MaskingMode.TIGHT), cases, tmp_path)


RUNS = {
    "segment": ["--data", "{sets}/lungs", "--epochs", "1"],
    "classify": ["--data", "{sets}/nih", "--masking", "none", "--epochs", "1"],
    "pretrain": ["--data", "{sets}/nih", "--epochs", "1"],
    "masks": ["--data", "{sets}/nih"],
    "evaluate": ["--data", "{sets}/nih", "--masks", "{sets}/masks"],
    "experiment": ["--data", "{sets}/nih", "--masks", "{sets}/masks", "--preset", "smoke"],
    "reproduce": ["--preset", "smoke"],
}
"""Of every command that has --device and --out, what it needs besides."""


def doors(name: str, sets: Path, *more: str | Path) -> list[str]:
    return [name, *(word.format(sets=sets) for word in RUNS[name]), *map(str, more)]


@pytest.mark.parametrize("name", RUNS)
def test_a_device_that_is_not_there_is_told_in_one_line(
    name: str, phantom_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = doors(name, phantom_sets, "--out", tmp_path / "out", "--device", "banana")
    assert main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: There is no device 'banana' here. There is cpu")


@pytest.mark.parametrize("name", RUNS)
def test_an_out_that_is_a_file_is_told_in_one_line(
    name: str, phantom_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert main(doors(name, phantom_sets, "--out", file)) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {file} is a file. Name a folder")
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "loads"),
    [
        (doors("evaluate", Path("{sets}"), "--out", "{out}"), "{evaluate}.load_classifiers"),
        (
            ["evaluate", "--data", "{sets}/lungs", "--out", "{out}"],
            "{evaluate}.Pipeline.from_checkpoints",
        ),
        (["masks", "--data", "{sets}/nih", "--out", "{out}"], "{masks}.Pipeline.from_checkpoints"),
        (["calibrate", "--data", "{sets}/nih"], "{calibrate}.load_classifiers"),
    ],
)
def test_networks_are_loaded_where_they_are_told(
    command: list[str],
    loads: str,
    phantom_sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class LoadedError(Exception):
        """Ends the command."""

    def load(*_: object, device: object, **__: object) -> None:
        raise LoadedError(device)

    modules = {name: f"training.commands.{name}" for name in ("evaluate", "masks", "calibrate")}
    monkeypatch.setattr(loads.format(**modules), load)
    monkeypatch.setattr(f"{modules[command[0]]}.resolve", lambda asked: f"where {asked} is")
    given = [word.format(sets=phantom_sets, out=tmp_path / "out") for word in command]
    with pytest.raises(LoadedError, match="where asked is"):
        main([*given, "--device", "asked"])


def test_a_size_that_the_segmenter_cannot_fill_is_told_in_one_line(
    phantom_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(phantom_sets / "lungs"), "--out", str(tmp_path / "out")]
    assert main(["segment", *flags, "--size", "100"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: A segmenter's input is a multiple of 8 px, not 100 px."
