"""What is pushed to a Space, and whether it starts as a Space starts it: `python app.py`."""

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from environments import fresh_environment, install
from huggingface_hub import SpaceHardware
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from patience import PATIENCE_SECONDS

from cxrdemo import cli, settings
from cxrdemo.commands import space as space_command

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def no_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty manifest: a page that says what is missing, and no 160 MB to copy."""
    folder = tmp_path_factory.mktemp("checkpoints")
    manifest = {"schema": 1, "checkpoints": []}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, no_checkpoints: Path) -> Path:
    folder = tmp_path_factory.mktemp("spaces") / "space"
    assert cli.main(["space", "--to", str(folder), "--checkpoints", str(no_checkpoints)]) == 0
    return folder


def front_matter(folder: Path) -> dict:
    _, head, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head)


def test_front_matter_is_complete_and_names_what_is_there(space: Path) -> None:
    matter = front_matter(space)
    assert matter["sdk"] == "gradio"
    assert f"gradio=={matter['sdk_version']}\n" in (space / "requirements.txt").read_text("utf-8")
    assert (space / matter["app_file"]).is_file()
    assert (space / matter["thumbnail"]).is_file()
    assert len(matter["short_description"]) <= 60
    # The segmenter's terms are not those of the code.
    assert matter["license"] == "other"
    assert matter["license_name"]
    assert (space / matter["license_link"]).is_file()
    assert matter["tags"]


def test_every_link_and_picture_of_its_card_is_there(space: Path) -> None:
    text = (space / "README.md").read_text(encoding="utf-8")
    places = re.findall(r"\]\(([^)]+)\)|src=\"([^\"]+)\"", text)
    local = [a or b for a, b in places if "://" not in a + b]
    assert {"docs/viewer.png", "docs/compare.png", "docs/phone.png", "LICENSE"} <= set(local)
    for place in local:
        path, _, heading = place.partition("#")
        assert (space / path).exists(), place
        if heading:
            assert f"## {heading.replace('-', ' ')}" in text.lower(), place


def test_every_binary_file_is_in_large_file_storage(space: Path) -> None:
    patterns = [
        line.split()[0]
        for line in (space / ".gitattributes").read_text(encoding="utf-8").splitlines()
    ]
    for path in space.rglob("*"):
        if path.is_file() and b"\0" in path.read_bytes():
            assert any(path.match(pattern) for pattern in patterns), path


def test_nothing_is_pushed_that_the_app_does_not_need(space: Path) -> None:
    assert {path.name for path in space.iterdir()} == {
        ".gitattributes", "CITATION.cff", "LICENSE", "README.md", "app.py", "checkpoints",
        "cxrdemo", "docs", "requirements.txt",
    }  # fmt: skip
    assert not list(space.rglob("__pycache__"))


def test_a_second_assembly_replaces_and_drops_what_was_dropped(
    space: Path, no_checkpoints: Path, tmp_path: Path
) -> None:
    space = shutil.copytree(space, tmp_path / "space")  # the others' stays as it is
    (space / "cxrdemo" / "dropped.py").write_text("", encoding="utf-8")
    args = ["space", "--to", str(space), "--checkpoints", str(no_checkpoints)]
    assert cli.main([*args, "--index", "https://example.org/cpu"]) == 0
    assert not (space / "cxrdemo" / "dropped.py").exists()
    first = (space / "requirements.txt").read_text(encoding="utf-8").splitlines()[0]
    assert first == "--extra-index-url https://example.org/cpu"


def test_other_peoples_folders_are_left_alone(tmp_path: Path, no_checkpoints: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    file = tmp_path / "thesis.tex"
    for target in (tmp_path, ROOT, ROOT / "space", file, file / "space", Path("/dev/null/space")):
        args = ["space", "--to", str(target), "--checkpoints", str(no_checkpoints)]
        assert cli.main(args) == 2, target
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert not (ROOT / "space").exists()


def test_a_disk_that_refuses_is_told_in_one_line(
    tmp_path: Path,
    no_checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "app.py")

    monkeypatch.setattr("cxrdemo.commands.space.shutil.copy", full)
    folder = tmp_path / "space"
    assert cli.main(["space", "--to", str(folder), "--checkpoints", str(no_checkpoints)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: app.py: No space left on device. Make room")


def test_weights_of_a_model_repository_are_preloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxrdemo.commands.space.checkpoint_folder", lambda _: ROOT / "checkpoints")
    folder = tmp_path / "space"
    location = "hf://owner/weights@abc123"
    assert cli.main(["space", "--to", str(folder), "--checkpoints", location]) == 0
    matter = front_matter(folder)
    assert matter["models"] == ["owner/weights"]
    repository, files, revision = matter["preload_from_hub"][0].split(" ")
    assert (repository, revision) == ("owner/weights", "abc123")
    manifest = json.loads((ROOT / "checkpoints" / "manifest.json").read_text(encoding="utf-8"))
    listed = [entry["file"] for entry in manifest["checkpoints"]]
    assert files.split(",") == ["manifest.json", *listed]
    assert not (folder / "checkpoints").exists()
    app = (folder / "app.py").read_text(encoding="utf-8")
    assert f'os.environ.setdefault("CXRDEMO_CHECKPOINTS", {location!r})' in app
    compile(app, "app.py", "exec")


def test_a_zerogpu_space_has_versions_that_zerogpu_has(
    tmp_path: Path, no_checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "space"
    args = ["space", "--to", str(folder), "--checkpoints", str(no_checkpoints)]
    args += ["--hardware", "zerogpu"]
    assert cli.main([*args, "--index", "https://example.org/cpu"]) == 2
    assert "a GPU needs the plain ones" in capsys.readouterr().err
    assert not folder.exists()
    assert cli.main(args) == 0
    matter = front_matter(folder)
    assert matter["suggested_hardware"] == SpaceHardware.ZERO_A10G
    assert matter["python_version"] in ("3.10.13", "3.12.12")
    wanted = [Requirement(line) for line in requirements(folder)]
    pins = {each.name: str(each.specifier).removeprefix("==") for each in wanted}
    assert pins["torch"] in ("2.8.0", "2.9.1", "2.10.0", "2.11.0")
    assert "spaces" in pins
    # As for any other Space, and within what the package says that it works with.
    plain = {Requirement(line).name: Requirement(line) for line in requirements(ROOT)}
    assert pins.keys() == {*plain, "spaces"}
    assert {name for name in plain if pins[name] not in plain[name].specifier} == {
        "torch", "torchvision",
    }  # fmt: skip
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for each in map(Requirement, project["dependencies"]):
        assert pins[each.name] in each.specifier, each
    assert matter["python_version"] in SpecifierSet(project["requires-python"])
    app = (folder / "app.py").read_text(encoding="utf-8")
    assert "os.environ.setdefault(\"CXRDEMO_DEVICE\", 'zerogpu')" in app
    compile(app, "app.py", "exec")


def test_what_a_space_can_be_assembled_for_is_told_by_the_command_line() -> None:
    assert tuple(space_command.HARDWARE) == settings.HARDWARE
    flavours = {hardware.flavour for hardware in space_command.HARDWARE.values()}
    assert flavours <= {flavour.value for flavour in SpaceHardware}


def requirements(folder: Path) -> list[str]:
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def installed(space: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which a Space's requirements were installed."""
    for each in map(Requirement, requirements(space)):
        if metadata.version(each.name) not in each.specifier:
            pytest.skip(f"this environment is not the pinned one: {each} is asked for")
    python = fresh_environment(tmp_path_factory.mktemp("environment"))
    # All are there, with all that they ask for in turn; of what is missing the name is told.
    done = install(python, "--no-index", "-r", space / "requirements.txt")
    assert done.returncode == 0, done.stderr
    return python


def test_it_starts_bare_and_serves_under_a_sub_path_behind_a_proxy(
    space: Path, installed: Path
) -> None:
    port = free_port()
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ROOT_PATH": "/viewer",
    }
    process = subprocess.Popen(
        [installed, "app.py"],
        cwd=space,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/",
            headers={"X-Forwarded-Host": "films.example.org", "X-Forwarded-Proto": "https"},
        )
        page = ""
        while not page:
            assert process.poll() is None, process.stdout and process.stdout.read()
            try:
                page = urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).read().decode()
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        assert "Chest X-ray viewer" in page
        assert "https://films.example.org/viewer" in page
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/gradio_api/startup-events", timeout=PATIENCE_SECONDS
        ) as health:
            assert health.status == 200
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)
