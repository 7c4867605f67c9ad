"""The table of the Batch tab in the browser: its markup, its script and its styles."""

from pathlib import Path
from typing import Final

_FOLDER: Final = Path(__file__).parent

HTML: Final = (_FOLDER / "table.html").read_text(encoding="utf-8")

SHEETS: Final = (_FOLDER.parent / "viewer" / "evidence.js", _FOLDER / "table.js")
"""What a number is worth is told as on the Read tab."""

SCRIPT: Final = "\n".join(sheet.read_text(encoding="utf-8") for sheet in SHEETS)

STYLES: Final = _FOLDER / "table.css"
