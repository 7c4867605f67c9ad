"""Tiny sets of phantoms in the index layouts, for the smoke preset and the tests."""

from pathlib import Path
from typing import Final

import cv2
import numpy as np

from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS, NO_FINDING
from cxrdemo.phantom import Phantom, make_phantom
from training.sets.index import SPLITS
from training.sets.tables import write_table

PHANTOM_HW: Final = (160, 144)
PHANTOMS_PER_CLASS: Final = 2
"""Per split: the least with which a figure and its interval exist."""


def make_phantom_sets(folder: Path) -> list[Phantom]:
    """Writes three tiny sets of phantoms in the index layouts: `lungs`, `nih` and `pretrain`.

    Every class has `PHANTOMS_PER_CLASS` patients in every split. Nodules and masses are drawn; of
    the other findings there is nothing to see but their label.

    Returns:
        The phantoms, in the order of `nih`.
    """
    classes = (*FINDING_KEYS, NO_FINDING.key)
    columns = (*FINDING_KEYS, *AUXILIARY_KEYS, NO_FINDING.key)
    people = [(split, key) for split in SPLITS for key in classes] * PHANTOMS_PER_CLASS
    rows: dict[str, list[dict[str, str | int]]] = {"lungs": [], "nih": [], "pretrain": []}
    for name in rows:
        (folder / name / "images").mkdir(parents=True, exist_ok=True)
    (folder / "lungs" / "masks").mkdir(exist_ok=True)
    phantoms = []
    for seed, (split, key) in enumerate(people):
        phantom = make_phantom(seed=seed, hw=PHANTOM_HW, nodule=key == "Nodule", mass=key == "Mass")
        phantoms.append(phantom)
        name = f"phantom-{seed:03d}.png"
        picture = np.rint(phantom.radiograph.pixels * 255.0).astype(np.uint8)
        cv2.imwrite(str(folder / "nih" / "images" / name), picture)
        row: dict[str, str | int] = {"image": name, **{c: int(c == key) for c in columns}}
        rows["nih"].append({**row, "patient_id": seed, "split": split})
        if split == "train":
            cv2.imwrite(str(folder / "pretrain" / "images" / name), picture)
            rows["pretrain"].append({**row, "dataset": "phantoms"})
        if key == NO_FINDING.key or split == "train":
            cv2.imwrite(str(folder / "lungs" / "images" / name), picture)
            lungs = np.where(phantom.lungs > 0, 255, 0).astype(np.uint8)
            cv2.imwrite(str(folder / "lungs" / "masks" / name), lungs)
            stem = Path(name).stem
            rows["lungs"].append(
                {"name": stem, "set": "phantoms", "patient_id": seed, "split": split}
            )
    for name, of_set in rows.items():
        write_table(folder / name / "index.csv", of_set)
    return phantoms
