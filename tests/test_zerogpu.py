"""A Space that rents its GPU: what is asked is answered by a fork.

With a stand-in for `spaces`, and with the real package, which elsewhere forks nothing.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.errors import SettingError
from cxrdemo.settings import ZEROGPU
from cxrdemo.ui.serve import serve

HERE = Path(__file__).resolve().parent
LIBRARIES = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


@pytest.mark.parametrize("package", ["a stand-in", "the real one"])
def test_a_rented_pipeline_answers_as_a_plain_one_does(package: str, tmp_path: Path) -> None:
    # A script's folder comes first among those that are searched.
    script, folders = HERE / "zerogpu" / "questions.py", [HERE.parent, HERE]
    if package == "the real one":
        if importlib.util.find_spec("spaces") is None:
            pytest.skip("the package `spaces` is not installed")
        script = Path(shutil.copy(script, tmp_path))
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, folders), *LIBRARIES])},
        capture_output=True,
        text=True,
        timeout=200,
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
