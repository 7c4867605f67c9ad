"""The doors of the command line: usage, settings, exit codes. `test_analyse.py` has the work."""

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import fake_pipeline
from patience import PATIENCE_SECONDS
from visitors import free_port

from cxrdemo import __version__, cli
from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.pipeline import Pipeline
from cxrdemo.settings import REPOSITORY, Settings


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "first.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 65536, (90, 120), np.uint16))
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["analyse"],
        ["analyse", "a.png"],
        ["analyse", "a.png", "--out", "o", "--masking", "medium"],
        ["analyse", "a.png", "--out", "o", "--margin", "0.9"],
        ["analyse", "a.png", "--out", "o", "--margin", "nan"],
        ["analyse", "a.png", "--out", "o", "--margin", "wide"],
        ["analyse", "a.png", "--out", "o", "--cam", "magic"],
        ["analyse", "a.png", "--out", "o", "--write", "poem"],
        ["analyse", "a.png", "--out", "o", "--write", ","],
        ["analyse", "a.png", "--out", "o", "--fast"],
        ["analyse", "a.png", "--out", "o", "--margin=--"],
        ["analyse", "a.png", "--out=--"],
        ["analyse", "a.png", "--out", "o", "--ray", ""],
        ["analyse", "a.png", "--out", "o", "--ray", " "],
        ["serve", "b.png"],
        ["serve", "--port", "99999"],
        ["serve", "--port", "0"],
        ["serve", "--port", "-1"],
        ["serve", "--port", "80.5"],
        ["serve", "--port", "http"],
        ["serve", "--port=--"],
        ["serve", "--port", "9" * 5000],
        ["space", "--to", "s", "--index", ""],
        ["space", "--to", "s", "--index", "cpu wheels"],
        ["space", "--to", "s", "--index", "https://example.org/cpu\ntorch==1"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert __version__ in capsys.readouterr().out


def one_line_of_error(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out", "{image}"], "--out"),
        (["--out", "{image}/deeper"], "--out"),
        (["--out", "{tmp}/out", "--csv", "{tmp}"], "is a folder"),
        (["--out", "{tmp}/out", "--csv", "{image}"], "take the place of an input"),
        (["--out", "{tmp}/out", "--jsonl", "{image}"], "take the place of an input"),
        (["--out", "{tmp}/out", "--list", "{tmp}/none.txt"], "cannot be read"),
        (["--out", "{tmp}/out", "@{tmp}/none.txt"], "cannot be read"),
        (["--out", "{tmp}/out", "@{image}"], "cannot be read"),
        (["--out", "{tmp}/out", "--list", "{tmp}"], "cannot be read"),
    ],
)
def test_a_door_that_is_shut_says_so_in_one_line(
    flags: list[str],
    words: str,
    image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = image.read_bytes()
    given = [flag.format(image=image, tmp=tmp_path) for flag in flags]
    assert cli.main(["analyse", str(image), *given]) == 2
    assert words in one_line_of_error(capsys)
    assert image.read_bytes() == before


@pytest.mark.parametrize(
    "command",
    [
        ["analyse", "{image}", "--out", "{tmp}/out"],
        ["checkpoints"],
        ["serve", "--host", "127.0.0.1", "--port", "{port}"],
        ["space", "--to", "{tmp}/space"],
    ],
    ids=lambda command: command[0],
)
def test_checkpoints_that_are_not_there_are_told_in_one_line(
    command: list[str], image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"image": image, "tmp": tmp_path, "port": free_port()}
    given = [word.format(**places) for word in command]
    assert cli.main([*given, "--checkpoints", str(tmp_path / "nowhere")]) == 3
    line = one_line_of_error(capsys)
    assert "no checkpoint folder 'nowhere'. Name a folder that is there" in line


@pytest.mark.parametrize("device", ["banana", "cuda", "cuda:7", "meta", ""])
@pytest.mark.parametrize("command", ["analyse", "serve"])
def test_a_device_that_is_not_there_is_told_in_one_line(
    command: str,
    device: str,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    rest = [str(image), "--out", str(tmp_path / "out")] if command == "analyse" else []
    assert cli.main([command, *rest, "--device", device]) == 2
    assert "device" in one_line_of_error(capsys).lower()


def test_a_device_that_no_cluster_has_is_told_before_one_is_asked(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--out", str(tmp_path / "out"), "--ray", "local", "--device", "banana"]
    assert cli.main(["analyse", str(image), *flags]) == 2
    assert "no device 'banana'" in one_line_of_error(capsys)


def test_agents_without_their_package_are_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    CheckpointStore(tmp_path, ()).save()
    monkeypatch.setattr("cxrdemo.commands.serve.importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("cxrdemo.commands.serve.serve", lambda **_: pytest.fail("it serves"))
    flags = ["--host", "127.0.0.1", "--port", str(free_port())]
    assert cli.main(["serve", "--mcp", *flags, "--checkpoints", str(tmp_path)]) == 2
    assert ".[mcp]" in one_line_of_error(capsys)


def test_a_port_in_use_is_told_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "cxrdemo", "serve", "--host", "127.0.0.1", "--port", port],
            cwd=Path(__file__).resolve().parent.parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "--port" in line


@pytest.mark.parametrize("host", ["203.0.113.7", "no host", "a" * 70])
def test_a_host_that_is_not_this_machine_is_told_in_one_line(
    host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", "--host", host]) == 2
    line = one_line_of_error(capsys)
    assert host in line
    assert "--host" in line


def test_nothing_to_read_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for nothing in ([], [str(empty)], [f"{tmp_path}/*.png"]):
        assert cli.main(["analyse", *nothing, "--out", str(tmp_path / "out")]) == 2
        assert "nothing to read" in capsys.readouterr().err


def test_a_variable_with_a_wrong_value_is_named(
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CXRDEMO_PRECISION", "fp8")
    assert cli.main(["analyse", str(image), "--out", str(tmp_path / "out")]) == 2
    assert "CXRDEMO_PRECISION" in one_line_of_error(capsys)


@pytest.mark.parametrize("port", ["9" * 5000, "0", "-1", "http", "\u0668\u0660"])
def test_a_port_of_the_environment_that_is_none_is_told_in_one_line(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    assert cli.main(["serve"]) == 2
    assert "GRADIO_SERVER_PORT" in one_line_of_error(capsys)


def test_a_location_of_nothing_is_the_default(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a shell's variable that is not set; the folder at hand would have no weights."""
    asked = []

    def from_checkpoints(folder: Path, **_: object) -> Pipeline:
        asked.append(folder)
        return fake_pipeline()

    monkeypatch.setattr(Pipeline, "from_checkpoints", from_checkpoints)
    assert cli.main(["analyse", str(image), "--out", str(tmp_path), "--checkpoints", ""]) == 0
    assert asked == [REPOSITORY / "checkpoints"]


def test_a_flag_comes_before_its_variable(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def from_checkpoints(folder: Path, **options: object) -> Pipeline:
        asked.update(options, folder=folder)
        return fake_pipeline()

    monkeypatch.setattr(Pipeline, "from_checkpoints", from_checkpoints)
    monkeypatch.setenv("CXRDEMO_PRECISION", "bf16")
    monkeypatch.setenv("CXRDEMO_ENGINE", "openvino")
    out = str(tmp_path / "out")
    assert cli.main(["analyse", str(image), "--out", out, "--precision", "fp32"]) == 0
    assert (asked["precision"], asked["engine"]) == ("fp32", "openvino")


def test_checkpoints_are_listed_and_an_altered_one_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = {"schema": 1, "checkpoints": []}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert cli.main(["checkpoints", "--checkpoints", str(tmp_path)]) == 0
    assert "No checkpoint is installed" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["licences"], ["checkpoints", "--checkpoints", "{tmp}"]])
def test_a_reader_that_goes_away_is_no_failure(command: list[str], tmp_path: Path) -> None:
    """As of `cxrdemo licences | head -1`."""
    CheckpointStore(tmp_path, ()).save()
    reader, closed = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "cxrdemo", *(word.format(tmp=tmp_path) for word in command)],
        cwd=REPOSITORY,
        stdout=closed,
        stderr=subprocess.PIPE,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    os.close(closed)
    assert (done.returncode, done.stderr) == (0, b"")


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (
        action.choices
        for action in cli._parser(Settings())._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return found


@pytest.mark.parametrize("name", commands())
def test_help_tells_each_default_that_says_something(name: str) -> None:
    for action in commands()[name]._actions:
        if action.default not in (None, False, [], argparse.SUPPRESS):
            assert "default: " in action.help, action.option_strings


def test_help_answers_without_pytorch() -> None:
    code = (
        "import sys\n"
        "from cxrdemo.cli import main\n"
        "try: main(['analyse', '--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
