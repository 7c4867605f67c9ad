"""The viewer's pure sheets, tested in node; tests/test_browser*.py drive the whole page."""

import shutil
import subprocess
from pathlib import Path

import pytest
from patience import PATIENCE_SECONDS

from cxrdemo.ui import viewer

TESTS = sorted((Path(__file__).parent / "viewer").glob("*.test.mjs"))
NODE = shutil.which("node")

needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")


def run_node(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(NODE), *words], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )


@needs_node
@pytest.mark.parametrize("script", TESTS, ids=lambda script: script.stem)
def test_in_node(script: Path) -> None:
    done = subprocess.run(
        [NODE, "--test", script], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0" in done.stdout, done.stdout
    assert "# pass 0" not in done.stdout, "the file holds no test"


@needs_node
def test_the_joined_script_is_one_function_body(tmp_path: Path) -> None:
    body = tmp_path / "viewer.js"
    body.write_text(f"function body(element, props, trigger, watch) {{\n{viewer.SCRIPT}\n}}\n")
    done = subprocess.run(
        [NODE, "--check", body], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr


def test_every_sheet_is_part_of_the_script() -> None:
    folder = Path(viewer.__file__).parent
    assert set(viewer.SHEETS) == {path.name for path in folder.glob("*.js")}
