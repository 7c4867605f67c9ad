"""Indexes of training images: who is in which split, and what is known about each image.

Two layouts of a folder with an `index.csv`; pixels come only through `cxrdemo.files`.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS, NO_FINDING
from training.errors import DataError
from training.sets.folders import files_in, is_file, without_image_suffix
from training.sets.tables import read_table

SPLITS: Final = ("train", "val", "test")

_MINUS: Final = "\u2212"
_QUOTES: Final = "'\"\u2018\u2019"
"""A spreadsheet marks a number that is meant as text by the first."""


@dataclass(frozen=True)
class LungCase:
    """One X-ray with a lung mask. `dataset` is the source's name, such as "montgomery"."""

    name: str
    dataset: str
    patient_id: str
    image: Path
    mask: Path
    split: str

    @property
    def person(self) -> tuple[str, str]:
        """Who it is: equal for two images of one patient, however the id is spelled."""
        return person_of(self.dataset, self.patient_id)


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

    @property
    def person(self) -> tuple[str, str]:
        """Who it is: equal for two images of one patient, however the id is spelled."""
        return person_of(self.dataset, self.patient_id)


def read_lung_index(folder: Path) -> list[LungCase]:
    """Reads `index.csv` of a folder with `images/` and `masks/`, which may have sub-folders.

    A row without a patient id is a patient of its own.

    Raises:
        DataError: If a column or file is missing, an image is listed twice, or a patient is in two
            splits.
    """
    rows = read_table(folder / "index.csv", ("name", "set", "patient_id", "split"))
    masks = _files_by_name(folder / "masks")
    images = _files_by_name(folder / "images")
    cases = [
        LungCase(
            name=row["name"],
            dataset=row["set"],
            patient_id=row["patient_id"] or f"image {row['name']}",
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

    An image may lie in a sub-folder and is then named with it. A set without a `split` column
    (data for pretraining) is all "train". A set without a patient id gives each image one of its
    own.

    Raises:
        DataError: If a column or file is missing, an image is listed twice or lies elsewhere, or a
            patient is in two splits.
    """
    columns = ("image", *FINDING_KEYS, *AUXILIARY_KEYS, NO_FINDING.key)
    rows = read_table(folder / "index.csv", columns)
    extra = [key for key in ("COVID",) if rows and key in rows[0]]
    keys = (*FINDING_KEYS, *AUXILIARY_KEYS, *extra)
    cases = []
    for row in rows:
        name = row["image"].replace("\\", "/")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{folder / 'index.csv'} lists {name}, which is not inside images/.")
        path = folder / "images" / name
        if not is_file(path):
            raise DataError(f"{folder / 'index.csv'} lists {name[:80]}, which is not there.")
        labels = {key: _label(row, key, folder) for key in keys}
        no_finding = _label(row, NO_FINDING.key, folder)
        if no_finding == 1:
            # "No finding" says of each of them that it is absent.
            labels = {key: 0 if value is None else value for key, value in labels.items()}
        cases.append(
            FindingCase(
                name=name,
                dataset=row.get("dataset") or "nih",
                patient_id=row.get("patient_id") or f"image {name}",
                image=path,
                labels=labels,
                no_finding=no_finding,
                split=row.get("split") or "train",
                rsna_normal="rsna_normal" in row and _label(row, "rsna_normal", folder) == 1,
            )
        )
    check_splits(cases, folder)
    return cases


def check_splits(cases: Sequence[LungCase] | Sequence[FindingCase], folder: Path) -> None:
    """Refuses an unknown split name, an image listed twice and a patient in two splits.

    Patients are told apart as people mean it: blanks, case, leading zeros, the ".0" and the quotes
    of a spreadsheet, the kind of a dash and characters without a width make no other patient. An id
    that a spreadsheet rounded to 1.2E+11 may stand for several, and is refused.

    Raises:
        DataError: Naming the patient, the image or the split.
    """
    seen: dict[tuple[str, str], LungCase | FindingCase] = {}
    images: set[Path] = set()
    for case in cases:
        if case.image in images:
            raise DataError(f"{folder / 'index.csv'} lists {case.name} twice. Keep one row.")
        images.add(case.image)
        if case.split not in SPLITS:
            raise DataError(f"{folder / 'index.csv'}: split {case.split!r} is none of {SPLITS}.")
        if re.fullmatch(r"\d([.,]\d+)?E\+\d+", case.patient_id, re.IGNORECASE):
            raise DataError(
                f"{folder / 'index.csv'}: the patient {case.patient_id} was rounded by a "
                "spreadsheet. Take the ids from the original again, as text."
            )
        first = seen.setdefault(case.person, case)
        if first.split != case.split:
            other = "" if first.patient_id == case.patient_id else f" (as {first.patient_id!r})"
            raise DataError(
                f"{folder / 'index.csv'}: patient {case.patient_id} is in {first.split}{other} and "
                f"{case.split}. Put all images of a patient into one split."
            )


def person_of(dataset: str, patient_id: str) -> tuple[str, str]:
    """Equal for what people take for one patient of one set, see `check_splits`."""
    return _plainly(dataset), _plainly(patient_id)


def _plainly(name: str) -> str:
    name = unicodedata.normalize("NFKC", name).casefold()
    kinds = {character: unicodedata.category(character) for character in name}
    plain = ("-" if kinds[c] == "Pd" or c == _MINUS else c for c in name if kinds[c] != "Cf")
    text = " ".join("".join(plain).strip(_QUOTES).split())
    number = re.fullmatch(r"0*(\d+)([.,]0+)?", text)
    return number[1] if number else text


def _files_by_name(folder: Path) -> dict[str, list[Path]]:
    """Files by their place in a folder, without the suffix."""
    found: dict[str, list[Path]] = {}
    for path in files_in(folder, deep=True):
        name = without_image_suffix(path.relative_to(folder).as_posix())
        found.setdefault(name, []).append(path)
    return found


def _find(files: Mapping[str, list[Path]], name: str, folder: Path) -> Path:
    found = files.get(name, [])
    if len(found) > 1:
        words = " and ".join(path.name for path in found)
        raise DataError(f"{folder} holds {words}: which of them is {name}? Remove the other.")
    if not found:
        raise DataError(f"There is no image named {name} in {folder}.")
    return found[0]


def _label(row: Mapping[str, str], key: str, folder: Path) -> int | None:
    cell = row[key]
    if cell not in ("", "0", "1", "0.0", "1.0"):
        raise DataError(
            f"{folder / 'index.csv'}: {row['image']} has {cell!r} in the column {key}. Write 1, 0, "
            "or nothing for unknown."
        )
    return None if cell == "" else int(float(cell))
