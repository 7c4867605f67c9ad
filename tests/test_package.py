"""What is installed under the name cxrdemo."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from environments import fresh_environment, install
from packaging.requirements import Requirement

import cxrdemo
from cxrdemo.commands import licences
from cxrdemo.files import read_radiograph
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import Analysis

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LISTS = {
    "requirements.txt": PROJECT["dependencies"],
    "training/requirements.txt": PROJECT["optional-dependencies"]["train"],
}

ASKED_FOR_WHERE_IMPORTED = {"highdicom", "openvino", "ray", "spaces"}
"""Each is named, with its extra, to whoever lacks it."""


def test_three_names_stand_at_the_top() -> None:
    assert cxrdemo.read_radiograph is read_radiograph
    assert cxrdemo.Pipeline is Pipeline
    assert cxrdemo.Analysis is Analysis
    with pytest.raises(AttributeError, match="nonsense"):
        _ = cxrdemo.nonsense


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, cxrdemo; print([m for m in ('torch', 'numpy', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def pins(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


@pytest.mark.parametrize("file", LISTS)
def test_the_pinned_versions_lie_in_the_ranges_of_the_package(file: str) -> None:
    ranges = {Requirement(text).name: Requirement(text).specifier for text in LISTS[file]}
    pinned = pins(file)
    assert pinned.keys() == ranges.keys()
    for name, version in pinned.items():
        assert version in ranges[name], name


def test_the_lock_holds_every_pin_with_hashes() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[a-zA-Z])", text)[1:]
    locked = {}
    for block in blocks:
        name, version = re.match(r"([\w.-]+)==([^\s;\\]+)", block).groups()
        locked[name.replace("_", "-")] = version
        assert "--hash=sha256:" in block, name
    for name, version in pins("requirements.txt").items():
        assert locked[name.replace("_", "-")] == version


def imported_by(package: str) -> set[str]:
    """The names at the top of all that the modules of a package import, wherever they do."""
    names: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(("package", "extras"), [("cxrdemo", ()), ("training", ("train",))])
def test_what_is_imported_is_installed(
    package: str, extras: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh environment there is what the package asks for, and what that asks for."""
    options = PROJECT["optional-dependencies"]
    asked = PROJECT["dependencies"] + [text for extra in extras for text in options[extra]]
    monkeypatch.setattr(licences, "_own_requirements", lambda: licences._names(asked))
    installed = {each.name for each in licences.needed_packages()}
    providers = metadata.packages_distributions()
    for name in imported_by(package) - {"cxrdemo", "training", *sys.stdlib_module_names}:
        if name not in ASKED_FOR_WHERE_IMPORTED:
            assert installed & set(providers[name]), name


def test_the_citation_has_what_its_format_asks_for() -> None:
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= told.keys()
    assert told["license"] == PROJECT["license"]
    for each in (told, *told["references"]):
        assert all(a.keys() & {"name", "family-names"} for a in each["authors"]), each["title"]
        assert each["type"] in ("software", "article")


def instructions(file: Path) -> list[str]:
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_image_is_made_of_what_is_there_and_serves_without_rights() -> None:
    """As far as it can be told without a daemon that builds it."""
    lines = instructions(ROOT / "Dockerfile")
    let_in = {line[1:] for line in instructions(ROOT / ".dockerignore") if line.startswith("!")}
    copied: set[str] = set()
    for line in lines:
        if line.startswith("COPY"):
            *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            copied |= set(sources)
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    assert lines.index("USER 1000") < next(i for i, x in enumerate(lines) if x.startswith("CMD"))
    # Which a running page answers: tests/test_space.py.
    (health,) = (line for line in lines if line.startswith("HEALTHCHECK"))
    assert "http://127.0.0.1:7860/gradio_api/startup-events" in health


def test_version_is_told_alike_everywhere() -> None:
    assert f"version: {cxrdemo.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"## {cxrdemo.__version__}\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is installed, because a build writes into its folder."""
    source = tmp_path_factory.mktemp("source")
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("cxrdemo", "training"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """What `pip install .` installs."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "-w", folder, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_holds_every_file_of_both_packages_and_the_command(
    wheel: zipfile.ZipFile,
) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "cxrdemo", "training"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    if not tracked:
        pytest.skip("no git checkout: what belongs to the packages is not known")
    packed = wheel.namelist()
    assert not set(tracked) - set(packed)
    entry = next(name for name in packed if name.endswith("entry_points.txt"))
    assert "cxrdemo = cxrdemo.cli:main" in wheel.read(entry).decode()
    meta = wheel.read(next(name for name in packed if name.endswith("/METADATA"))).decode()
    assert f"Version: {cxrdemo.__version__}\n" in meta
    for extra in ("train", "openvino", "dicom", "mcp", "ray", "dev"):
        assert f"Provides-Extra: {extra}\n" in meta


SERVES = """
import cxrdemo
from cxrdemo.examples import EXAMPLES
from cxrdemo.pipeline import Pipeline
from cxrdemo.ui.models import Models
from cxrdemo.ui.page import build_ui, launch_options

page, visits = build_ui(Models.of(Pipeline(None, {})))
styles = launch_options(visits)["css_paths"]
assert len(styles) == 3 and all(path.read_text() for path in styles)
scripts = list(styles[0].parent.rglob("*.js"))
assert scripts and {path.parent.name for path in scripts} == {"ui", "viewer", "table"}
examples = styles[0].parent / "examples"
assert all((examples / each.name).is_file() for each in EXAMPLES)
print(cxrdemo.__file__)
"""


@pytest.mark.parametrize("how", ["editable", "plain"])
def test_what_is_installed_finds_all_that_belongs_to_it(
    how: str, source: Path, wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    """From a folder that knows nothing of the checkout, with the checkout's dependencies."""
    python = fresh_environment(tmp_path / "environment")
    what = ("--editable", source) if how == "editable" else (wheel.filename,)
    done = install(python, "--no-index", "--no-build-isolation", *what)
    assert done.returncode == 0, done.stderr
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    place = source if how == "editable" else tmp_path / "environment"
    assert Path(run(python, "-c", SERVES)).is_relative_to(place)
    assert run(python.parent / "cxrdemo", "--version").split()[-1] == cxrdemo.__version__
