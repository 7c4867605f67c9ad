"""The script that CI runs, with stand-ins for what it calls."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "run"


def run_ci(folder: Path, *, make: str, present: tuple[str, ...]) -> subprocess.CompletedProcess:
    tools = folder / "tools"
    tools.mkdir()
    programs = dict.fromkeys(present, "exit 0")
    programs |= {"make": make, "apt-get": f'echo "$@" >> {folder}/installed'}
    for name, body in programs.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    for name in ("bash", "dirname", "mktemp", "tee", "grep", "rm", "env"):
        (tools / name).symlink_to(Path("/usr/bin") / name)
    return subprocess.run(
        ["/usr/bin/bash", SCRIPT],
        env={"PATH": str(tools), "HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("make", "code"),
    [
        ("echo '5 passed'", 0),
        ("echo 'SKIPPED [1] tests/test_files.py:9: CXRDEMO_DATA is not set'", 0),
        ("echo 'SKIPPED [8] tests/test_browser.py:83: Chromium is not installed'", 1),
        ("echo 'SKIPPED [2] tests/test_viewer_scripts.py:14: node is not installed'", 1),
        ("echo 'SKIPPED [1] tests/test_space.py:9: this environment is not the pinned one: x'", 1),
        ("echo '1 failed'; exit 2", 2),
    ],
)
def test_ci_fails_where_a_test_failed_or_a_browser_test_was_skipped(
    make: str, code: int, tmp_path: Path
) -> None:
    done = run_ci(tmp_path, make=make, present=("chromium", "node"))
    assert done.returncode == code, done.stderr
    assert not (tmp_path / "installed").exists()


def test_ci_installs_what_is_missing(tmp_path: Path) -> None:
    assert run_ci(tmp_path, make="echo ok", present=("node",)).returncode == 0
    installed = (tmp_path / "installed").read_text(encoding="utf-8")
    assert "chromium" in installed
    assert "nodejs" not in installed
