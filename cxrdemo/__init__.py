"""Chest X-ray demo: lung masking, findings and Grad-CAM, side by side. Research use only.

from pathlib import Path
from cxrdemo import Pipeline, read_radiograph

pipeline = Pipeline.from_checkpoints(Path("checkpoints"))
analysis = pipeline.analyse(read_radiograph(Path("scan.dcm")))
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxrdemo.files import read_radiograph
    from cxrdemo.pipeline import Pipeline
    from cxrdemo.results import Analysis

__version__ = "0.2.0"

__all__ = ["Analysis", "Pipeline", "__version__", "read_radiograph"]

_HOMES = {
    "Analysis": "cxrdemo.results",
    "Pipeline": "cxrdemo.pipeline",
    "read_radiograph": "cxrdemo.files",
}


def __getattr__(name: str) -> Any:
    """Imports a name when it is first asked for, so that `import cxrdemo` loads no PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
