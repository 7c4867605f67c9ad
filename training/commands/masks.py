"""Command `masks`: lung masks for every image of a finding index, by an installed segmenter.

Writes one PNG of `Side` values (0, 1, 2) per image and a table of their quality. A second run goes
on where the first one stopped; `--shard 2/8` does the second of eight parts, so that eight
processes or machines may share the work and one folder.
"""

import argparse
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from tqdm import tqdm

from cxrdemo.commands.numbers import number
from cxrdemo.devices import resolve
from cxrdemo.files import read_radiograph
from cxrdemo.pipeline import Pipeline
from cxrdemo.radiograph import Radiograph
from training.commands.flags import add_device_argument
from training.errors import DataError
from training.images.stored_masks import (
    SEGMENTER,
    add_quality,
    begin_quality,
    check_places,
    mask_path,
    quality_name,
    read_quality,
    write_sides,
)
from training.sets.index import FindingCase, read_finding_index

GPU_BATCH: Final = 8
"""Fills a GPU with the bundled segmenter; ViT-B at 1024 px fits into 16 GB with it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv, images/")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), help="folder with manifest.json"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the masks")
    parser.add_argument("--shard", default="1/1", help="part to do and number of parts, as 2/8")
    parser.add_argument(
        "--batch",
        type=number(int, 1),
        help=f"images at a time; default: 1 on a processor, {GPU_BATCH} on a GPU",
    )
    add_device_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Segments what has no mask yet and prints how many masks look implausible."""
    part, parts = parse_shard(args.shard)
    cases = read_finding_index(args.data)
    check_places(case.name for case in cases)
    cases = cases[part - 1 :: parts]
    device = resolve(args.device)
    pipeline = Pipeline.from_checkpoints(args.checkpoints, maskings=(), device=device)
    spec = pipeline.segmenter_spec
    if spec is None:
        raise DataError(f"{args.checkpoints} lists no lung segmenter. Train one with `segment`.")
    segmenter = f"{spec.name} {spec.sha256[:12]}"
    known = read_quality(args.out)
    strangers = {row[SEGMENTER] for row in known.values()} - {segmenter}
    if strangers:
        raise DataError(
            f"{args.out} holds masks by {sorted(strangers)}, and this is {segmenter}. Choose "
            "another --out, so that one set has one segmenter."
        )
    todo = [case for case in cases if case.name not in known]
    table = args.out / quality_name(part, parts)
    doubtful = size = 0
    begin_quality(table)
    batch = args.batch or (1 if device.type == "cpu" else GPU_BATCH)
    with tqdm(total=len(todo), unit="image") as bar:
        for cases_of, images in read_ahead(todo, batch):
            found = pipeline.find_lungs_of_all(images)
            for case, lungs in zip(cases_of, found, strict=True):
                size += write_sides(mask_path(args.out, case.name), lungs.sides)
                add_quality(table, case.name, lungs.quality, segmenter)
                doubtful += not lungs.quality.is_plausible
                bar.update()
    average = f" of {size / len(todo):.0f} bytes" if todo else ""
    print(f"{len(todo)} new masks{average}, {doubtful} of them with a reason for doubt ({table})")


def read_ahead(
    cases: Sequence[FindingCase], batch: int
) -> Iterator[tuple[Sequence[FindingCase], list[Radiograph]]]:
    """Batches of cases with their images; the next one is read while this one is worked on.

    Args:
        cases: All of them, in order.
        batch: How many at a time.
    """
    parts = [cases[start : start + batch] for start in range(0, len(cases), batch)]
    with ThreadPoolExecutor() as pool:
        pending: deque[list[Future[Radiograph]]] = deque()
        try:
            for number, part in enumerate(parts):
                for ahead in parts[number + len(pending) : number + 2]:
                    pending.append([pool.submit(read_radiograph, c.image) for c in ahead])
                yield part, [future.result() for future in pending.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)


def parse_shard(text: str) -> tuple[int, int]:
    """Part and number of parts, counted from 1.

    Raises:
        DataError: If it is not of the form 2/8.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise DataError(f"--shard is a part and the number of parts, such as 2/8; got {text!r}.")
    return int(match[1]), int(match[2])
