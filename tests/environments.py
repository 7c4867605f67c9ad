"""Environments of their own for what is installed, with the packages of this one in them."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path


def fresh_environment(folder: Path) -> Path:
    """The Python of a new environment, which finds this one's packages and no project's folder."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder / "bin" / "python"


def install(python: Path, *what: str | Path) -> subprocess.CompletedProcess[str]:
    """`pip install` in an environment: what is there already is compared, and not fetched."""
    command = [sys.executable, "-m", "pip", "--python", python, "--quiet", "install", *what]
    return subprocess.run(command, capture_output=True, text=True, cwd=python.parent)
