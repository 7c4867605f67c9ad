"""The viewer in the browser: its markup, its styles, and its script joined from the sheets here.

Gradio runs the script as the body of a function of `element`, `props`, `trigger` and `watch`, so
the sheets are joined in order, without a bundler. The pure ones know no page and no state; tests
run them in node.
"""

from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent

SHEETS: Final = (
    "geometry.js",
    "pixels.js",
    "evidence.js",
    "measure.js",
    "shader.js",
    "findings.js",
    "editing.js",
    "panes.js",
    "pointer.js",
    "hands.js",
    "viewer.js",
)
"""In order: the last one holds the state and starts the viewer."""

HTML: Final = (_FOLDER / "viewer.html").read_text(encoding="utf-8")

SCRIPT: Final = "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in SHEETS)

STYLES: Final = _FOLDER / "viewer.css"
