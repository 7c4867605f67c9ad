"""Readers of data sets as their owners publish them: a folder becomes a list of cases.

A reader looks at names and tables only and opens no image. What a table or a mask names and the
folder lacks is listed, so that `data check` can tell it and `read_layout` can refuse it. Official
test sets stay test; every other split is drawn by patient, from the patient's name and a seed.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrdemo.errors import CxrDemoError
from cxrdemo.files import read_radiograph
from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS, NO_FINDING
from cxrdemo.placement import Placement
from training.errors import DataError
from training.sets.folders import IMAGE_SUFFIXES, files_in, without_image_suffix
from training.sets.index import FindingCase, person_of, read_finding_index, read_lung_index
from training.sets.pixels import read_mask
from training.sets.tables import read_list, read_table
from training.writing import replacing

SPLIT_SEED: Final = 0

VAL_OF_TRAIN: Final = 0.125
"""Share of patients of an official training list that become validation: 70 / 10 / 20 of NIH's."""

VAL_SHARE: Final = 0.15
TEST_SHARE: Final = 0.15
"""Of the patients of a set without an official split."""

JSRT_HW: Final = (2048, 2048)
JSRT_HIGHEST: Final = 4095
"""JSRT: 12 bits in big-endian 16-bit words without a header, and 0 is bright (Shiraishi et al.,
AJR 2000)."""

ASPECT_TOLERANCE: Final = 0.02
"""Image and mask whose aspect ratios differ by more show different fields of view."""

NIH_LABELS: Final = {
    **{key: key for key in (*FINDING_KEYS, *AUXILIARY_KEYS)},
    "No Finding": NO_FINDING.key,
}
"""Label as `Data_Entry_2017` writes it -> the project's key."""

CHEXPERT_LABELS: Final = {
    "No Finding": NO_FINDING.key,
    "Lung Lesion": "Lung_Lesion",
    "Cardiomegaly": "Cardiomegaly",
    "Edema": "Edema",
    "Consolidation": "Consolidation",
    "Pneumonia": "Pneumonia",
    "Atelectasis": "Atelectasis",
    "Pneumothorax": "Pneumothorax",
    "Pleural Effusion": "Effusion",
}
"""Label as `train.csv` writes it -> the project's key; its other labels have none."""

VINDR_LABELS: Final = {
    "no finding": NO_FINDING.key,
    "nodule/mass": "Lung_Lesion",
    "atelectasis": "Atelectasis",
    "cardiomegaly": "Cardiomegaly",
    "consolidation": "Consolidation",
    "edema": "Edema",
    "emphysema": "Emphysema",
    "infiltration": "Infiltration",
    "pleural effusion": "Effusion",
    "pleural thickening": "Pleural_Thickening",
    "pneumonia": "Pneumonia",
    "pneumothorax": "Pneumothorax",
    "pulmonary fibrosis": "Fibrosis",
}
"""Label of the image-level tables in lower case -> the project's key."""

SHOWN: Final = 3


@dataclass(frozen=True)
class LungSource:
    """One X-ray and the files that make up its lung mask, as published.

    Attributes:
        name: Unique in its set, and fit for a file name.
        dataset: Name of the layout.
        patient_id: The image's own name where the set does not tell patients apart.
        image: Whatever `read_radiograph` reads, or a raw `.IMG` file of JSRT.
        masks: One file, or one per lung; lungs bright.
        split: "train", "val" or "test".
    """

    name: str
    dataset: str
    patient_id: str
    image: Path
    masks: tuple[Path, ...]
    split: str

    @property
    def person(self) -> tuple[str, str]:
        """Who it is: equal for two images of one patient, however the id is spelled."""
        return person_of(self.dataset, self.patient_id)


@dataclass(frozen=True)
class Listing:
    """What a reader found.

    Attributes:
        cases: All `LungSource` or all `FindingCase`.
        missing: Files that a table or a mask names and the folder lacks.
        notes: What a user should know of the set, in words.
    """

    cases: tuple[LungSource, ...] | tuple[FindingCase, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A published arrangement of files.

    Attributes:
        expects: What the folder must hold, in words.
        read: The reader, given the folder and the seed of the split.
    """

    expects: str
    read: Callable[[Path, int], Listing]


def read_layout(
    name: str, folder: Path, *, seed: int = SPLIT_SEED, partial: bool = False
) -> Listing:
    """Reads a folder in a layout of `LAYOUTS`.

    Args:
        name: Key of `LAYOUTS`.
        folder: Where the set was unpacked.
        seed: Of the drawn splits; the same seed gives the same splits on every machine.
        partial: Leave out what is named and not there, instead of refusing.

    Raises:
        DataError: If a file or column is missing, or a patient is in two splits.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Point --data at the unpacked set.")
    layout = LAYOUTS[name]
    listing = layout.read(folder, seed)
    if listing.missing and not (partial and listing.cases):
        raise DataError(missing_words(folder, listing))
    if not listing.cases:
        raise DataError(f"{folder} holds no image of the layout {name}. Expected {layout.expects}.")
    return listing


def missing_words(folder: Path, listing: Listing) -> str:
    """Names the first missing files and the remedy."""
    shown = ", ".join(listing.missing[:SHOWN]) + (", ..." if len(listing.missing) > SHOWN else "")
    return (
        f"{folder} lacks {len(listing.missing)} files that it names: {shown}. Unpack all archives "
        "of the set, or give --partial to leave them out."
    )


def read_nih(folder: Path, seed: int) -> Listing:
    """NIH ChestX-ray14: `Data_Entry_2017*.csv`, the two official lists, and the images.

    Images lie in `images_001/images` to `images_012/images`, or all in `images`. A label that the
    table does not name is absent (0), as its authors mean it. Source: Wang et al., CVPR 2017.
    """
    tables = sorted(folder.glob("Data_Entry_2017*.csv"))
    if not tables:
        raise DataError(f"There is no Data_Entry_2017.csv in {folder}. Fetch it from the NIH.")
    # The corrected table of 2020 sorts behind that of 2017.
    table = tables[-1]
    rows = read_table(table, ("Image Index", "Finding Labels", "Patient ID"))
    train_val = read_list(folder / "train_val_list.txt")
    test = read_list(folder / "test_list.txt")
    _check_lists(folder, rows, train_val, test)
    images = _files_by_name(folder, ("images", *(f"images_{i:03d}/images" for i in range(1, 13))))
    cases, missing = [], []
    for row in rows:
        name, patient = row["Image Index"], row["Patient ID"]
        if name not in images:
            missing.append(name)
            continue
        labels = _nih_labels(row["Finding Labels"], table, name)
        cases.append(
            FindingCase(
                name=name,
                dataset="nih",
                patient_id=patient,
                image=images[name],
                labels={key: labels[key] for key in (*FINDING_KEYS, *AUXILIARY_KEYS)},
                no_finding=labels[NO_FINDING.key],
                split="test" if name in test else draw_split(patient, seed, val=VAL_OF_TRAIN),
            )
        )
    return Listing(tuple(cases), tuple(missing), ("test_list.txt is the test split, unchanged",))


def read_chexpert(folder: Path, seed: int) -> Listing:
    """CheXpert: `train.csv`, `valid.csv`, and the images where their column `Path` says.

    What a report does not mention, or calls uncertain (-1), is unknown. "Lung Lesion" is neither a
    nodule nor a mass, but its absence is that of both. Lateral images are left out. The official
    validation images, read by three radiologists, are the test; validation patients are drawn from
    the rest. Source: Irvin et al., AAAI 2019.
    """
    cases: list[FindingCase] = []
    missing: list[str] = []
    lateral = 0
    for official in ("train", "valid"):
        table = folder / f"{official}.csv"
        for row in read_table(table, ("Path", "Frontal/Lateral", *CHEXPERT_LABELS)):
            # Paths begin with the name of the archive: CheXpert-v1.0-small/train/patient00001/...
            _, found, place = f"/{row['Path']}".partition(f"/{official}/")
            patient = place.split("/")[0]
            if not found or not patient.startswith("patient"):
                raise DataError(f"{table} has the path {row['Path']!r}. Fetch the table again.")
            if row["Frontal/Lateral"] != "Frontal":
                lateral += 1
                continue
            name = f"{official}/{place}"
            if not (folder / name).is_file():
                missing.append(name)
                continue
            labels = {
                key: _chexpert_label(row[words], table, name)
                for words, key in CHEXPERT_LABELS.items()
            }
            lesion = labels.pop("Lung_Lesion")
            no_finding = labels.pop(NO_FINDING.key)
            cases.append(
                FindingCase(
                    name=name,
                    dataset="chexpert",
                    patient_id=patient,
                    image=folder / name,
                    labels=_all_labels(labels, lesion=lesion),
                    no_finding=no_finding,
                    split="test"
                    if official == "valid"
                    else draw_split(patient, seed, val=VAL_OF_TRAIN),
                )
            )
    notes = (
        f"{lateral} lateral images are left out",
        "valid.csv is the test split; what a report does not mention is unknown",
    )
    return Listing(tuple(cases), tuple(missing), notes)


def read_vindr(folder: Path, seed: int) -> Listing:
    """VinDr-CXR: `annotations/image_labels_{train,test}.csv`, images in `train` and `test`.

    Images are DICOM, or were converted to another kind under the same name. Of the three readers of
    a training image the majority counts. "Nodule/Mass" is known to be neither where it is absent.
    Patients are not told apart. Source: Nguyen et al., Scientific Data 2022.
    """
    cases: list[FindingCase] = []
    missing: list[str] = []
    for official in ("train", "test"):
        table = folder / "annotations" / f"image_labels_{official}.csv"
        votes: dict[str, list[dict[str, str]]] = {}
        for row in read_table(table, ("image_id",)):
            plain = {key.casefold(): value for key, value in row.items()}
            lacking = [words for words in VINDR_LABELS if words not in plain]
            if lacking:
                raise DataError(f"{table} lacks the columns {lacking}. Fetch the table again.")
            votes.setdefault(row["image_id"], []).append(plain)
        images = {
            without_image_suffix(path.name): path
            for path in files_in(folder / official, IMAGE_SUFFIXES, deep=True)
        }
        for name, rows in votes.items():
            if name not in images:
                missing.append(f"{official}/{name}.dicom")
                continue
            labels: dict[str, int | None] = {
                key: int(2 * sum(_vindr_vote(row[words], table, name) for row in rows) > len(rows))
                for words, key in VINDR_LABELS.items()
            }
            lesion = labels.pop("Lung_Lesion")
            no_finding = labels.pop(NO_FINDING.key)
            cases.append(
                FindingCase(
                    name=images[name].relative_to(folder).as_posix(),
                    dataset="vindr",
                    patient_id=f"image {name}",
                    image=images[name],
                    labels=_all_labels(labels, lesion=lesion),
                    no_finding=no_finding,
                    split="test"
                    if official == "test"
                    else draw_split(name, seed, val=VAL_OF_TRAIN),
                )
            )
    notes = (
        "image_labels_test.csv is the test split, unchanged",
        "patients are not told apart: each image counts as one, so splits may share a patient",
    )
    return Listing(tuple(cases), tuple(missing), notes)


def read_montgomery(folder: Path, seed: int) -> Listing:
    """Montgomery County: `CXR_png` and `ManualMask/{leftMask,rightMask}`, or united `masks`.

    Source: Jaeger et al. 2014, Candemir et al. 2014.
    """
    root = _root(folder, "CXR_png", ("MontgomerySet",))
    halves = [root / "ManualMask" / side for side in ("leftMask", "rightMask")]
    parts = halves if halves[0].is_dir() else [root / "masks"]
    missing, cases = [], []
    masks_of = [_by_stem(part) for part in parts]
    for stem, image in _by_stem(root / "CXR_png").items():
        gone = [
            _relative(part / image.name, folder)
            for part, found in zip(parts, masks_of, strict=True)
            if stem not in found
        ]
        missing += gone
        if not gone:
            masks = tuple(found[stem] for found in masks_of)
            cases.append(_one_patient_each("montgomery", image.stem, image, masks, seed))
    return Listing(tuple(cases), tuple(missing), ("each image counts as a patient of its own",))


def read_shenzhen(folder: Path, seed: int) -> Listing:
    """Shenzhen: `CXR_png` and `mask` or `masks` with `NAME_mask.png`; 96 images have no mask.

    Source: Jaeger et al. 2014; masks by Stirenko et al., arXiv 1803.01199.
    """
    root = _root(folder, "CXR_png", ("ChinaSet_AllFiles",))
    masks = _first_folder(root, ("mask", "masks"))
    images = _by_stem(root / "CXR_png")
    missing, cases = [], []
    for key, mask in _by_stem(masks).items():
        if not key.endswith("_mask"):
            continue
        image = images.get(key.removesuffix("_mask"))
        if image is not None:
            cases.append(_one_patient_each("shenzhen", image.stem, image, (mask,), seed))
        else:
            missing.append(f"CXR_png/{mask.stem[: -len('_mask')]}.png")
    notes = (
        f"{len(images) - len(cases)} images have no mask and are left out",
        "each image counts as a patient of its own",
    )
    return Listing(tuple(cases), tuple(missing), notes)


def read_jsrt(folder: Path, seed: int) -> Listing:
    """JSRT images (`JPC*.IMG`, or converted to `.png`) and SCR masks (`left lung`, `right lung`).

    The folders may lie at any depth, such as `fold1/masks/left lung`. Sources: Shiraishi et al.,
    AJR 2000; van Ginneken et al., Medical Image Analysis 2006.
    """
    images: dict[str, Path] = {}
    halves: tuple[dict[str, Path], dict[str, Path]] = ({}, {})
    for path in files_in(folder, deep=True):
        if not path.name.upper().startswith("JPC"):
            continue
        place, suffix = path.parent.name.lower(), path.suffix.lower()
        if place in ("left lung", "right lung"):
            halves[place == "right lung"][path.stem.upper()] = path
        elif suffix in (".img", ".png"):
            # Where both are there, the published file sorts first and is kept.
            images.setdefault(path.stem.upper(), path)
    missing, cases = [], []
    for stem, image in images.items():
        gone = [
            f"{side} lung/{stem}.gif"
            for side, half in zip(("left", "right"), halves, strict=True)
            if stem not in half
        ]
        missing += gone
        if not gone:
            masks = tuple(half[stem] for half in halves)
            cases.append(_one_patient_each("jsrt", stem, image, masks, seed))
    missing += [f"{stem}.IMG" for stem in sorted(halves[0].keys() - images.keys())]
    return Listing(tuple(cases), tuple(missing), ("each image counts as a patient of its own",))


def read_rsua(folder: Path, seed: int) -> Listing:
    """RSUA of Airlangga University: per class a folder `images` beside a folder `masks`.

    A mask is named as its image with "Images" replaced by "Mask"; here both words are dropped and
    the rest must agree, as the spelling varies. 256 x 256 px. Source: doi 10.17632/2jg8vfdmpm.1.
    """
    missing, cases = [], []
    for images in sorted(path for path in folder.rglob("*") if path.name.lower() == "images"):
        masks = _keyed_images(_first_folder(images.parent, ("masks", "Masks", "mask", "Mask")))
        group = re.sub(r"\W+", "_", images.parent.name).strip("_").lower()
        for key, image in _keyed_images(images).items():
            if key in masks:
                name = f"{group}__{re.sub(r'[^0-9A-Za-z]+', '_', image.stem).strip('_')}"
                cases.append(_one_patient_each("rsua", name, image, (masks[key],), seed))
            else:
                missing.append(f"the mask of {_relative(image, folder)}")
    notes = (
        "patients are not told apart: each image counts as one, so splits may share a patient",
        "labels were not checked by its authors, masks were",
    )
    return Listing(tuple(cases), tuple(missing), notes)


def read_lung_folder(folder: Path, seed: int) -> Listing:
    """The project's own lung folder: `index.csv`, `images/`, `masks/`; its splits are kept."""
    del seed
    return Listing(
        tuple(
            LungSource(c.name, c.dataset, c.patient_id, c.image, (c.mask,), c.split)
            for c in read_lung_index(folder)
        )
    )


def read_finding_folder(folder: Path, seed: int) -> Listing:
    """The project's own finding folder: `index.csv`, `images/`; its splits are kept."""
    del seed
    return Listing(tuple(read_finding_index(folder)))


LAYOUTS: Final[Mapping[str, Layout]] = {
    "nih": Layout(
        "Data_Entry_2017*.csv, train_val_list.txt, test_list.txt, images/ or images_001/images/",
        read_nih,
    ),
    "chexpert": Layout("train.csv, valid.csv, train/, valid/", read_chexpert),
    "vindr": Layout("annotations/image_labels_{train,test}.csv, train/, test/", read_vindr),
    "montgomery": Layout(
        "CXR_png/ and ManualMask/{leftMask,rightMask}/, or masks/", read_montgomery
    ),
    "shenzhen": Layout("CXR_png/ and mask/ or masks/ with *_mask.png", read_shenzhen),
    "jsrt": Layout("JPC*.IMG or .png, and SCR's 'left lung', 'right lung'", read_jsrt),
    "rsua": Layout("per class images/ and masks/", read_rsua),
    "lungs": Layout("index.csv, images/, masks/", read_lung_folder),
    "findings": Layout("index.csv, images/", read_finding_folder),
}
"""Every layout that `data` reads."""


def draw_split(
    patient: str, seed: int, *, val: float = VAL_SHARE, test: float = 0.0
) -> Literal["train", "val", "test"]:
    """The split of a patient: depends on name and seed alone, so no other file can move it.

    Args:
        patient: Any text that tells patients of a set apart.
        seed: Another seed draws other splits.
        val: Share of patients for validation, 0..1.
        test: Share of patients for the test, 0..1.
    """
    digest = hashlib.sha256(f"{seed}:{patient}".encode()).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    if place < test:
        return "test"
    return "val" if place < test + val else "train"


def read_source_image(path: Path) -> NDArray[np.uint16]:
    """An image as uint16 (H, W), 65535 the densest tissue; raw JSRT files too.

    Raises:
        DataError: If it cannot be read; the message names the file.
    """
    if path.suffix.lower() == ".img":
        return _read_jsrt_raw(path)
    try:
        pixels = read_radiograph(path).pixels
    except CxrDemoError as error:
        raise DataError(f"The image {path} cannot be read. {error}") from error
    return np.asarray(np.rint(pixels * 65535.0), np.uint16)


def read_united_mask(source: LungSource, hw: tuple[int, int]) -> NDArray[np.bool_]:
    """All masks of a case united, bool (H, W) on the image's grid.

    Raises:
        DataError: If one cannot be read, is empty, or has another aspect ratio than the image.
    """
    united = np.zeros(hw, bool)
    for path in source.masks:
        mask = read_mask(path)
        height, width = mask.shape
        if abs(height * hw[1] / (width * hw[0]) - 1.0) > ASPECT_TOLERANCE:
            raise DataError(
                f"The mask {path} is {width} x {height}, its image {hw[1]} x {hw[0]}: they do not "
                "show the same field. Use the mask that belongs to this image."
            )
        united |= mask if mask.shape == hw else Placement.stretch((height, width), hw).mask(mask)
    return united


def write_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    """Writes a mask as the project's lung folders hold it: 255 in the lungs, 0 elsewhere."""
    with replacing(path) as draft:
        cv2.imwrite(str(draft), mask.astype(np.uint8) * 255)


def _one_patient_each(
    dataset: str, name: str, image: Path, masks: tuple[Path, ...], seed: int
) -> LungSource:
    split = draw_split(f"{dataset} {name}", seed, test=TEST_SHARE)
    return LungSource(name, dataset, name, image, masks, split)


def _nih_labels(cell: str, table: Path, name: str) -> dict[str, int]:
    labels = dict.fromkeys(NIH_LABELS.values(), 0)
    for word in cell.split("|"):
        if word not in NIH_LABELS:
            raise DataError(f"{table}: {name} has the unknown label {word!r}. Fetch it again.")
        labels[NIH_LABELS[word]] = 1
    return labels


def _chexpert_label(cell: str, table: Path, name: str) -> int | None:
    if cell not in ("", "1", "0", "-1", "1.0", "0.0", "-1.0"):
        raise DataError(f"{table}: {name} has the unknown label {cell!r}. Fetch the table again.")
    return None if cell in ("", "-1", "-1.0") else int(float(cell))


def _vindr_vote(cell: str, table: Path, name: str) -> int:
    if cell not in ("1", "0", "1.0", "0.0"):
        raise DataError(f"{table}: {name} has the unknown label {cell!r}. Fetch the table again.")
    return int(float(cell))


def _all_labels(known: Mapping[str, int | None], *, lesion: int | None) -> dict[str, int | None]:
    """All labels of the project; those that a set has no word for are unknown.

    Args:
        known: What the set says, by the project's key.
        lesion: Whether there is a nodule or mass, without telling which.
    """
    neither = 0 if lesion == 0 else None
    return {
        key: neither if key in ("Nodule", "Mass") else known.get(key)
        for key in (*FINDING_KEYS, *AUXILIARY_KEYS)
    }


def _check_lists(
    folder: Path, rows: Sequence[Mapping[str, str]], train_val: set[str], test: set[str]
) -> None:
    """Refuses official lists that share an image or a patient, or that leave an image out."""
    patients: dict[str, str] = {}
    names: set[str] = set()
    for row in rows:
        name, patient = row["Image Index"], row["Patient ID"]
        if name in names:
            raise DataError(f"{folder}: the table lists {name} twice. Fetch the official table.")
        names.add(name)
        found = [split for split, names in (("train", train_val), ("test", test)) if name in names]
        if len(found) != 1:
            where = "both lists" if found else "neither list"
            raise DataError(
                f"{folder}: {name} is in {where} of train_val_list.txt and test_list.txt. Fetch "
                "the official lists."
            )
        if patients.setdefault(patient, found[0]) != found[0]:
            raise DataError(
                f"{folder}: patient {patient} is in train_val_list.txt and test_list.txt. Fetch "
                "the official lists, which keep patients apart."
            )


def _read_jsrt_raw(path: Path) -> NDArray[np.uint16]:
    words = np.fromfile(path, dtype=">u2")
    if path.stat().st_size != 2 * JSRT_HW[0] * JSRT_HW[1]:
        raise DataError(
            f"The image {path} has {path.stat().st_size} bytes, a raw JSRT image has "
            f"{2 * JSRT_HW[0] * JSRT_HW[1]}. Unpack it again."
        )
    if words.max() > JSRT_HIGHEST:
        raise DataError(f"The image {path} exceeds 12 bits: it is no raw JSRT image.")
    dense = (JSRT_HIGHEST - words.reshape(JSRT_HW).astype(np.float64)) / JSRT_HIGHEST
    return np.asarray(np.rint(dense * 65535.0), np.uint16)


def _files_by_name(folder: Path, places: Sequence[str]) -> dict[str, Path]:
    return {path.name: path for place in places for path in files_in(folder / place, deep=True)}


def _by_stem(folder: Path) -> dict[str, Path]:
    """PNG files by name in lower case without the suffix, from sub-folders too.

    Raises:
        DataError: If two have one name.
    """
    found: dict[str, Path] = {}
    for path in files_in(folder, (".png",), deep=True):
        other = found.setdefault(path.stem.lower(), path)
        if other != path:
            raise DataError(f"{other} and {path} have the same name. Remove or rename one of them.")
    return found


def _keyed_images(folder: Path) -> dict[str, Path]:
    """Bitmaps by name without the words that tell images from masks.

    Raises:
        DataError: If two of a folder cannot be told apart that way.
    """
    found: dict[str, Path] = {}
    for path in files_in(folder, (".bmp", ".png")):
        key = re.sub(r"images?|masks?", "", path.stem.lower()).strip(" _-")
        if key in found:
            raise DataError(f"{found[key]} and {path} have the same number. Rename one of them.")
        found[key] = path
    return found


def _root(folder: Path, wanted: str, names: Sequence[str]) -> Path:
    """The folder that holds `wanted`: the given one, or that of the archive inside it."""
    for root in (folder, *(folder / name for name in names)):
        if (root / wanted).is_dir():
            return root
    raise DataError(f"There is no folder {wanted} in {folder}. Point --data at its parent.")


def _first_folder(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DataError(f"{root} has no folder {' or '.join(names)}. Unpack the masks there.")


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
