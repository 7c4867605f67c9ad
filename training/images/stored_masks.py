"""Folders of lung masks written by `masks`: a PNG of `Side` values per image, and their quality.

A mask lies where its image lies in the set, sub-folders included, so that four patients'
`view1_frontal.png` have four masks.
"""

import ast
import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrdemo.results import MaskQuality, Side
from training.errors import DataError
from training.sets.folders import without_image_suffix
from training.writing import replacing

QUALITY_NAME: Final = "quality.csv"
SEGMENTER: Final = "segmenter"
COLUMNS: Final = ("image", *(field.name for field in fields(MaskQuality)), SEGMENTER)


def quality_name(part: int, parts: int) -> str:
    """Each part has a table of its own, as two processes must not write one file."""
    return QUALITY_NAME if parts == 1 else f"quality.{part}-of-{parts}.csv"


def read_quality(folder: Path) -> dict[str, Mapping[str, str]]:
    """Rows of all tables in a folder of masks, by image; only of masks that are there.

    A row that a killed process, or a full disk, left unfinished does not count.

    Raises:
        DataError: If a table is of another version.
    """
    found: dict[str, Mapping[str, str]] = {}
    for table in sorted(folder.glob("quality*.csv")):
        rows = csv.DictReader(io.StringIO(_whole_lines(table), newline=""), COLUMNS)
        found |= {row["image"]: row for row in rows if mask_path(folder, row["image"]).exists()}
    return found


def begin_quality(table: Path) -> None:
    """Makes a table ready to be added to: with a head, and without an unfinished last row.

    Raises:
        DataError: If it is of another version.
    """
    with replacing(table) as draft:
        lines = _whole_lines(table) if table.exists() else ""
        draft.write_text(",".join(COLUMNS) + "\r\n" + lines, encoding="utf-8", newline="")


def add_quality(table: Path, image_name: str, quality: MaskQuality, segmenter: str) -> None:
    """Adds the row of one mask; the row comes after the mask, so what is in the table is whole."""
    cells = {"image": image_name, **asdict(quality), SEGMENTER: segmenter}
    cells["reasons"] = json.dumps(quality.reasons)
    with table.open("a", newline="", encoding="utf-8") as stream:
        csv.DictWriter(stream, COLUMNS).writerow(cells)


def reasons_of(row: Mapping[str, str]) -> list[str]:
    """Why a mask is doubted, in words; nothing if it is not."""
    cell = row["reasons"]
    # Tables of earlier versions hold the words as Python writes a tuple.
    found = json.loads(cell) if cell.startswith("[") else ast.literal_eval(cell)
    return [str(reason) for reason in found]


def check_places(image_names: Iterable[str]) -> None:
    """Refuses images that would share one mask.

    Raises:
        DataError: Naming two of them.
    """
    seen: dict[Path, str] = {}
    for name in image_names:
        other = seen.setdefault(mask_path(Path(), name), name)
        if other != name:
            raise DataError(
                f"{other} and {name} differ in their suffix alone, so they would share one mask. "
                "Rename one of them, or put it into another folder."
            )


def check_masks(folder: Path, image_names: Iterable[str]) -> None:
    """Refuses a folder that lacks the mask of an image, before the long part.

    Raises:
        DataError: Naming the image.
    """
    for name in image_names:
        if not mask_path(folder, name).is_file():
            raise DataError(f"{folder} holds no mask of {name}. Run `masks` first.")


def mask_path(folder: Path, image_name: str) -> Path:
    """Where the mask of an image is kept: at the image's own place."""
    return folder / f"{without_image_suffix(image_name)}.png"


def read_sides(folder: Path, image_name: str) -> NDArray[np.uint8]:
    """The stored mask, uint8 (H, W) with `Side` values.

    Raises:
        DataError: If it is not there, or is no picture of sides.
    """
    check_masks(folder, [image_name])
    path = mask_path(folder, image_name)
    sides = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if sides is None or sides.ndim != 2 or sides.max() > max(Side):
        raise DataError(
            f"{path} is no mask that `masks` wrote: it is broken, or holds other values than "
            "0, 1 (right) and 2 (left). Delete it and run `masks` again."
        )
    return np.asarray(sides, np.uint8)


def write_sides(path: Path, sides: NDArray[np.uint8]) -> int:
    """Writes a mask in one step; the bytes it takes."""
    _, code = cv2.imencode(".png", sides, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    with replacing(path) as draft:
        draft.write_bytes(code.tobytes())
    return len(code)


def _whole_lines(table: Path) -> str:
    """The finished rows of a table, without its head.

    Raises:
        DataError: If it is of another version.
    """
    text = table.read_bytes().decode("utf-8", errors="replace")
    # A row that its process could not finish has no end of line, or not all cells.
    lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
    if not lines:
        return ""
    head = next(csv.reader(lines[:1]))
    if tuple(head) != COLUMNS:
        raise DataError(
            f"{table} has the columns {head}, expected {list(COLUMNS)}. It is of another version: "
            "choose another --out."
        )
    whole = [line for line in lines[1:] if len(next(csv.reader([line]))) == len(COLUMNS)]
    return "".join(whole)
