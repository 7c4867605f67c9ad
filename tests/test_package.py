"""What is installed under the name cxrdemo."""

import subprocess
import sys

import pytest

import cxrdemo
from cxrdemo.files import read_radiograph
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import Analysis


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
