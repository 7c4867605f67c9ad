"""Indexes of training images: who is in which split, and what is known about each image.

Two layouts of a folder with an `index.csv`; pixels come only through `cxrdemo.files`.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cxrdemo.errors import CxrDemoError
from cxrdemo.files import read_radiograph
from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS, NO_FINDING

Case = TypeVar("Case")
Kept = TypeVar("Kept")

SPLITS: Final = ("train", "val", "test")


class DataError(CxrDemoError):
    """Training data are missing or malformed; the message names the file and the remedy."""


@dataclass(frozen=True)
class LungCase:
    """One X-ray with a lung mask. `dataset` is the source's name, such as "montgomery"."""

    name: str
    dataset: str
    patient_id: str
    image: Path
    mask: Path
    split: str


@dataclass(frozen=True)
class FindingCase:
    """One X-ray with image-level labels: 1 present, 0 absent, None unknown."""

    name: str
    dataset: str
    patient_id: str
    image: Path
    labels: Mapping[str, int | None]
    no_finding: int | None
    split: str
    rsna_normal: bool = False


def read_lung_index(folder: Path) -> list[LungCase]:
    """Reads `index.csv` of a folder with `images/` and `masks/`.

    Raises:
        DataError: If a column or file is missing, or a patient is in two splits.
    """
    rows = _read_rows(folder / "index.csv", ("name", "set", "patient_id", "split"))
    masks = _files_by_stem(folder / "masks")
    images = _files_by_stem(folder / "images")
    cases = [
        LungCase(
            name=row["name"],
            dataset=row["set"],
            patient_id=row["patient_id"],
            image=_find(images, row["name"], folder / "images"),
            mask=_find(masks, row["name"], folder / "masks"),
            split=row["split"],
        )
        for row in rows
    ]
    check_splits(cases, folder)
    return cases


def read_finding_index(folder: Path) -> list[FindingCase]:
    """Reads `index.csv` of a folder with `images/`; an empty label cell means unknown.

    A set without a `split` column (data for pretraining) is all "train". A set without a patient
    id gives each image one of its own.

    Raises:
        DataError: If a column or file is missing, or a patient is in two splits.
    """
    columns = ("image", *FINDING_KEYS, *AUXILIARY_KEYS, NO_FINDING.key)
    rows = _read_rows(folder / "index.csv", columns)
    extra = [key for key in ("COVID",) if rows and key in rows[0]]
    keys = (*FINDING_KEYS, *AUXILIARY_KEYS, *extra)
    cases = []
    for row in rows:
        path = folder / "images" / row["image"]
        if not path.is_file():
            raise DataError(f"{folder / 'index.csv'} lists {row['image']}, which is not there.")
        labels = {key: _label(row, key, folder) for key in keys}
        no_finding = _label(row, NO_FINDING.key, folder)
        if no_finding == 1:
            # "No finding" says of each of them that it is absent.
            labels = {key: 0 if value is None else value for key, value in labels.items()}
        cases.append(
            FindingCase(
                name=row["image"],
                dataset=row.get("dataset") or "nih",
                patient_id=row.get("patient_id") or f"image {row['image']}",
                image=path,
                labels=labels,
                no_finding=no_finding,
                split=row.get("split") or "train",
                rsna_normal=row.get("rsna_normal") == "1",
            )
        )
    check_splits(cases, folder)
    return cases


def check_splits(cases: Sequence[LungCase] | Sequence[FindingCase], folder: Path) -> None:
    """Refuses an unknown split name and a patient in two splits.

    Raises:
        DataError: Naming the patient or the split.
    """
    seen: dict[tuple[str, str], str] = {}
    for case in cases:
        if case.split not in SPLITS:
            raise DataError(f"{folder / 'index.csv'}: split {case.split!r} is none of {SPLITS}.")
        key = (case.dataset, case.patient_id)
        if seen.setdefault(key, case.split) != case.split:
            raise DataError(
                f"{folder / 'index.csv'}: patient {case.patient_id} is in {seen[key]} and "
                f"{case.split}. Put all images of a patient into one split."
            )


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """The app's own reading of an image, as uint8 (H, W) to save memory while training.

    Raises:
        DataError: If it cannot be read, naming the file.
    """
    try:
        pixels = read_radiograph(path).pixels
    except CxrDemoError as error:
        raise DataError(f"{path}: {error} Mend the file, or take it out of the index.") from error
    return np.asarray(np.rint(pixels * 255.0), np.uint8)


def read_all(cases: Sequence[Case], read: Callable[[Case], Kept]) -> list[Kept]:
    """What a reader makes of every case, several at a time, with a progress bar.

    Raises:
        DataError: Whatever the reader raises of the first bad case; the others are not awaited.
    """
    with ThreadPoolExecutor() as pool:
        try:
            return list(tqdm(pool.map(read, cases), total=len(cases), unit="image", disable=None))
        finally:
            pool.shutdown(cancel_futures=True)


def shrink(pixels: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """The image, made smaller if its longer side exceeds a limit."""
    if max(pixels.shape) <= longest:
        return pixels
    scale = longest / max(pixels.shape)
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def fit_mask(mask: NDArray[np.bool_], hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask at another size."""
    if mask.shape == hw:
        return mask
    grey = cv2.resize(mask.astype(np.float32), (hw[1], hw[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(grey >= 0.5)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask file as bool (H, W): set where the grey value is above the middle.

    Raises:
        DataError: If the file is no image or the mask is empty.
    """
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise DataError(f"The mask {path} cannot be read. Mend it, or take it out of the index.")
    mask = np.asarray(grey) > 127
    if not mask.any():
        raise DataError(f"The mask {path} is empty. Remove it from the index.")
    return mask


def _read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"There is no {path}. Point --data at the folder that holds it.")
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path} lacks the columns {missing}; it has {reader.fieldnames}.")
        return list(reader)


def _files_by_stem(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in folder.iterdir()} if folder.is_dir() else {}


def _find(files: Mapping[str, Path], stem: str, folder: Path) -> Path:
    if stem not in files:
        raise DataError(f"There is no image named {stem} in {folder}.")
    return files[stem]


def _label(row: Mapping[str, str], key: str, folder: Path) -> int | None:
    cell = row[key].strip()
    if cell not in ("", "0", "1", "0.0", "1.0"):
        raise DataError(
            f"{folder / 'index.csv'}: {row['image']} has {cell!r} in the column {key}. Write 1, 0, "
            "or nothing for unknown."
        )
    return None if cell == "" else int(float(cell))
