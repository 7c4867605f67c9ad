"""What is installed under the name cxrdemo."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import cxrdemo
from cxrdemo.files import read_radiograph
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import Analysis

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LISTS = {
    "requirements.txt": PROJECT["dependencies"],
    "training/requirements.txt": PROJECT["optional-dependencies"]["train"],
}


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


def test_version_is_told_alike_everywhere() -> None:
    assert f"version: {cxrdemo.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"## {cxrdemo.__version__}\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """What `pip install .` installs, built from a copy, because a build writes into its folder."""
    source = tmp_path_factory.mktemp("source")
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("cxrdemo", "training"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "-w", source, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = source.glob("*.whl")
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
