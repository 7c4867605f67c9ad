"""Command `masks`: lung masks for every image of a finding index, by an installed segmenter.

Writes one PNG of `Side` values (0, 1, 2) per image and `quality.csv`; a second run goes on where
the first one stopped.
"""

import argparse
import csv
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cxrdemo.pipeline import Pipeline
from cxrdemo.reading import read_radiograph
from training.data import DataError, read_finding_index

QUALITY_NAME = "quality.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv, images/")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--out", type=Path, required=True, help="folder for the masks")


def run(args: argparse.Namespace) -> None:
    """Segments what has no mask yet and prints how many masks look implausible."""
    cases = read_finding_index(args.data)
    pipeline = Pipeline.from_checkpoints(args.checkpoints)
    if pipeline.segmenter_spec is None:
        raise DataError(f"{args.checkpoints} lists no lung segmenter. Train one with `segment`.")
    args.out.mkdir(parents=True, exist_ok=True)
    todo = [case for case in cases if not mask_path(args.out, case.name).exists()]
    table = args.out / QUALITY_NAME
    is_new = not table.exists()
    doubtful = 0
    with table.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        for case in tqdm(todo, unit="image"):
            lungs = pipeline.find_lungs(read_radiograph(case.image))
            if is_new:
                writer.writerow(["image", *asdict(lungs.quality)])
                is_new = False
            writer.writerow([case.name, *asdict(lungs.quality).values()])
            doubtful += not lungs.quality.is_plausible
            cv2.imwrite(str(mask_path(args.out, case.name)), lungs.sides)
    print(f"{len(todo)} new masks, {doubtful} of them with a reason for doubt ({table})")


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
