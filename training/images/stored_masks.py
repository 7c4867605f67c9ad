"""Folders of lung masks written by `masks`: a PNG of `Side` values per image, and their quality."""

import csv
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrdemo.results import MaskQuality
from training.errors import DataError

QUALITY_NAME: Final = "quality.csv"
SEGMENTER: Final = "segmenter"
COLUMNS: Final = ("image", *(field.name for field in fields(MaskQuality)), SEGMENTER)


def quality_name(part: int, parts: int) -> str:
    """Each part has a table of its own, as two processes must not write one file."""
    return QUALITY_NAME if parts == 1 else f"quality.{part}-of-{parts}.csv"


def read_quality(folder: Path) -> dict[str, Mapping[str, str]]:
    """Rows of all tables in a folder of masks, by image; only of masks that are there."""
    found: dict[str, Mapping[str, str]] = {}
    for table in sorted(folder.glob("quality*.csv")):
        with table.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise DataError(
                    f"{table} has the columns {reader.fieldnames}, expected {list(COLUMNS)}. It is "
                    "of another version: choose another --out."
                )
            rows = list(reader)
        found |= {row["image"]: row for row in rows if mask_path(folder, row["image"]).exists()}
    return found


def mask_path(folder: Path, image_name: str) -> Path:
    """Where the mask of an image is kept."""
    return folder / f"{Path(image_name).stem}.png"


def read_sides(folder: Path, image_name: str) -> NDArray[np.uint8]:
    """The stored mask, uint8 (H, W) with `Side` values.

    Raises:
        DataError: If it is not there.
    """
    sides = cv2.imread(str(mask_path(folder, image_name)), cv2.IMREAD_UNCHANGED)
    if sides is None:
        raise DataError(f"{folder} holds no mask of {image_name}. Run `masks` first.")
    return np.asarray(sides, np.uint8)


def write_sides(path: Path, sides: NDArray[np.uint8]) -> int:
    """Writes a mask in one step; the bytes it takes."""
    draft = path.with_name(f"draft-{path.name}")
    if not cv2.imwrite(str(draft), sides, [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise DataError(f"{draft} cannot be written. Is the disk full?")
    draft.replace(path)
    return path.stat().st_size
