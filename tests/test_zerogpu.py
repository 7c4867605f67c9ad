"""A Space that rents its GPU: what is asked is answered by a fork.

With a stand-in for `spaces`, and with the real package, which elsewhere forks nothing.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from environments import fresh_environment, install
from patience import PATIENCE_SECONDS

from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.errors import SettingError
from cxrdemo.settings import ZEROGPU
from cxrdemo.ui.serve import serve

HERE = Path(__file__).resolve().parent
LIBRARIES = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def with_spaces(folder: Path) -> Path:
    """The Python of an environment with the real package, which gradio imports where it is.

    So it has no place in the one of all tests: elsewhere than on ZeroGPU nobody has it.
    """
    python = fresh_environment(folder)
    done = install(python, "--no-deps", "--retries", "0", "spaces==0.51.3")
    if done.returncode:
        pytest.skip(f"`spaces` could not be installed: {done.stderr.strip().splitlines()[-1]}")
    return python


@pytest.mark.parametrize("package", ["a stand-in", "the real one"])
def test_a_rented_pipeline_answers_as_a_plain_one_does(package: str, tmp_path: Path) -> None:
    # A script's folder comes first among those that are searched.
    script, folders, python = HERE / "zerogpu" / "questions.py", [HERE.parent, HERE], sys.executable
    if package == "the real one":
        script, python = Path(shutil.copy(script, tmp_path)), with_spaces(tmp_path / "environment")
    done = subprocess.run(
        [python, script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, folders), *LIBRARIES])},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr


def test_elsewhere_the_device_is_refused_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spaces", None)
    CheckpointStore(tmp_path, ()).save()
    with pytest.raises(SettingError, match="`spaces`; it is not installed here"):
        serve(checkpoints=tmp_path, device=ZEROGPU)
    with pytest.raises(SettingError, match="openvino computes on the CPU"):
        serve(checkpoints=tmp_path, device=ZEROGPU, engine="openvino")
