"""Indexes of training images: who is in which split, and what is known about each image.

Two layouts of a folder with an `index.csv`; pixels come only through `cxrdemo.files`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS, NO_FINDING
from training.errors import DataError
from training.sets.tables import read_rows

SPLITS: Final = ("train", "val", "test")


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
    rows = read_rows(folder / "index.csv", ("name", "set", "patient_id", "split"))
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
    rows = read_rows(folder / "index.csv", columns)
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
