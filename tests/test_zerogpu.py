"""A Space that rents its GPU: what is asked is answered by a fork. With a stand-in for `spaces`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.errors import SettingError
from cxrdemo.settings import ZEROGPU
from cxrdemo.ui.serve import serve

HERE = Path(__file__).resolve().parent


def test_a_rented_pipeline_answers_as_a_plain_one_does() -> None:
    path = os.pathsep.join(map(str, (HERE.parent, HERE, HERE / "zerogpu")))
    done = subprocess.run(
        [sys.executable, HERE / "zerogpu" / "questions.py"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr


def test_elsewhere_the_device_is_refused_with_a_reason(tmp_path: Path) -> None:
    CheckpointStore(tmp_path, ()).save()
    with pytest.raises(SettingError, match="`spaces`; it is not installed here"):
        serve(checkpoints=tmp_path, device=ZEROGPU)
    with pytest.raises(SettingError, match="openvino computes on the CPU"):
        serve(checkpoints=tmp_path, device=ZEROGPU, engine="openvino")
