"""The table of the Batch tab in the browser: its markup, its script and its styles."""

from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent

HTML: Final = (_FOLDER / "table.html").read_text(encoding="utf-8")

SCRIPT: Final = (_FOLDER / "table.js").read_text(encoding="utf-8")

STYLES: Final = _FOLDER / "table.css"
