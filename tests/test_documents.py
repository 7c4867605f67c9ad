"""The documents: what they show runs, and what they point at is there."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.fixture
def as_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a reader of the documents may stand."""
    if not (ROOT / "checkpoints" / "manifest.json").exists():
        pytest.skip("no bundled checkpoints in this checkout")
    for name in ("checkpoints", "cxrdemo"):
        (tmp_path / name).symlink_to(ROOT / name)
    example = ROOT / "cxrdemo" / "ui" / "examples" / "synthetic-nodule.dcm"
    (tmp_path / "scan.dcm").symlink_to(example)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.checkpoints
@pytest.mark.usefixtures("as_a_reader")
def test_the_readmes_python_runs_in_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(capsys.readouterr().out.splitlines()) == 15
    assert names["right_lung"].any()


@pytest.mark.checkpoints
@pytest.mark.usefixtures("as_a_reader")
def test_the_notebook_runs_from_top_to_bottom() -> None:
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "kept without outputs"
            exec("".join(cell["source"]), names)
    assert names["record"]["maskings"].keys() == {"none", "loose", "tight"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


def test_every_promise_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    promises = [line for line in text.splitlines() if re.match(r"\| (?!promise)", line)]
    assert len(promises) > 50
    for promise in promises:
        file, named = "", re.findall(r"`([\w/]+\.py)?::(test_\w+)`", promise.rpartition(" | ")[2])
        assert named, promise
        for other, test in named:
            file = other or file
            code = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {test}\(", code, re.MULTILINE), f"{file}::{test}"


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
