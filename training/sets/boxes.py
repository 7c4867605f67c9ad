"""Boxes about findings that somebody drew: `boxes.csv`, as ChestX-ray14's BBox_List_2017.

Columns `image, label, x, y, width, height`, in pixels of the original image; of a set whose images
were made smaller, `original_px` says how long its longest side was (1024 if there is no such
column, as in ChestX-ray14).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS
from training.errors import DataError
from training.sets.index import FindingCase
from training.sets.tables import read_table

BOXES_NAME: Final = "boxes.csv"
COLUMNS: Final = ("image", "label", "x", "y", "width", "height")
ORIGINAL_PX: Final = 1024.0
SPELLINGS: Final = {"Infiltrate": "Infiltration"}
"""The box list's own names of labels."""


@dataclass(frozen=True)
class Box:
    """One box, in fractions of the image's longest side from its upper left corner."""

    label: str
    x: float
    y: float
    width: float
    height: float

    def region(self, hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Pixels (H, W) of an image of that size that the box touches."""
        side = max(hw)
        inside = np.zeros(hw, bool)
        top, left = math.floor(self.y * side), math.floor(self.x * side)
        bottom = math.ceil((self.y + self.height) * side)
        right = math.ceil((self.x + self.width) * side)
        inside[max(0, top) : bottom, max(0, left) : right] = True
        return inside


def read_boxes(
    path: Path, cases: Sequence[FindingCase] | None = None
) -> dict[str, tuple[Box, ...]]:
    """The boxes of a set, by image name.

    Args:
        path: The file.
        cases: All images of the set; None if some of them are not at hand.

    Raises:
        DataError: If the file is missing or malformed, or has a box of an image that the set does
            not list, of a label that nobody knows, or outside its image.
    """
    names = None if cases is None else {case.name for case in cases}
    found: dict[str, tuple[Box, ...]] = {}
    for number, row in enumerate(read_table(path, COLUMNS), 2):
        where = f"{path}, line {number}"
        name, label = row["image"], SPELLINGS.get(row["label"], row["label"])
        if names is not None and name not in names:
            raise DataError(f"{where}: {name} is not in the set's index.csv. Take the row out.")
        if label not in (*FINDING_KEYS, *AUXILIARY_KEYS):
            raise DataError(f"{where}: nothing is known of the label {row['label']!r}.")
        found[name] = (*found.get(name, ()), _box(row, label, where))
    return found


def _box(row: Mapping[str, str], label: str, where: str) -> Box:
    try:
        side = float(row.get("original_px") or ORIGINAL_PX)
        x, y, width, height = (float(row[key]) / side for key in COLUMNS[2:])
    except (ValueError, ZeroDivisionError):
        raise DataError(f"{where}: x, y, width and height must be numbers of pixels.") from None
    if not (
        side > 0
        and x >= 0
        and y >= 0
        and width > 0
        and height > 0
        and max(x + width, y + height) <= 1
    ):
        raise DataError(
            f"{where}: the box does not lie in an image whose longest side is {side:g} px. "
            "Correct it, or name the original's longest side in a column original_px."
        )
    return Box(label, x, y, width, height)
