"""Command `data`: checks, fetches, imports and lists data sets.

`check` reads a set and tells what is there; `fetch` downloads one; `import` turns a published
layout into the folder that the other commands read; `manifest` lists every image with its labels,
split and hash, so that a folder can be checked against it later.
"""

import argparse
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import cv2
from tqdm import tqdm

from cxrdemo.checkpoints import file_sha256
from cxrdemo.commands.numbers import number
from cxrdemo.errors import CxrDemoError
from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS, NO_FINDING
from training.commands.flags import Defaults
from training.errors import DataError
from training.sets.fetch import fetch, read_downloads
from training.sets.folders import files_in
from training.sets.index import SPLITS, FindingCase
from training.sets.layouts import (
    LAYOUTS,
    SPLIT_SEED,
    Listing,
    LungSource,
    missing_words,
    read_layout,
    read_source_image,
    read_united_mask,
    write_mask,
)
from training.sets.tables import read_table, write_table
from training.writing import check_folder, replacing

HASH_DIGITS: Final = 64
MIN_HASH_DIGITS: Final = 16
"""64 bits: two of a million images agree by chance once in 37 million sets."""

SEPARATOR: Final = "|"
SHOWN: Final = 20


class Entry(NamedTuple):
    """One file that a manifest lists: its path in the folder and the beginning of its sha256."""

    file: str
    digest: str


@dataclass(frozen=True)
class Difference:
    """How a folder differs from a manifest; paths relative to the folder, sorted."""

    missing: tuple[str, ...]
    altered: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def is_none(self) -> bool:
        """Whether folder and manifest agree."""
        return not (self.missing or self.altered or self.extra)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the actions and their flags."""
    actions = parser.add_subparsers(dest="action", required=True)
    layouts = "; ".join(f"{name}: {layout.expects}" for name, layout in LAYOUTS.items())

    check = actions.add_parser(
        "check", help="what is there, what is missing, counts per split", formatter_class=Defaults
    )
    _add_source(check, layouts, required=False)
    check.add_argument("--manifest", type=Path, help="compare with this list instead of a layout")
    check.add_argument("--deep", action="store_true", help="open every image and mask")

    get = actions.add_parser(
        "fetch", help="download a set, or tell where to get it", formatter_class=Defaults
    )
    get.add_argument("name", choices=sorted(read_downloads()), help="what to download")
    get.add_argument("--out", type=Path, required=True, help="folder for the files")
    get.add_argument("--accept-licence", action="store_true", help="accept the printed notice")

    take = actions.add_parser(
        "import",
        help="turn a published layout into a training folder",
        formatter_class=Defaults,
    )
    _add_source(take, layouts, required=True)
    take.add_argument("--out", type=Path, required=True, help="new folder with index.csv")
    take.add_argument("--copy", action="store_true", help="copy the images instead of linking")

    listing = actions.add_parser(
        "manifest",
        help="list every image with labels, split and hash",
        formatter_class=Defaults,
    )
    _add_source(listing, layouts, required=True)
    listing.add_argument("--out", type=Path, required=True, help="CSV file to write")
    listing.add_argument(
        "--digits",
        type=number(int, MIN_HASH_DIGITS, HASH_DIGITS),
        default=HASH_DIGITS,
        help=f"hex digits of each sha256 to keep, {MIN_HASH_DIGITS} to {HASH_DIGITS}",
    )


def run(args: argparse.Namespace) -> None:
    """Does one action."""
    if args.action == "check" and args.manifest is not None:
        _print_difference(compare(args.manifest, args.data), args.data, args.manifest)
    elif args.action == "check":
        if args.layout is None:
            raise DataError(f"Give --layout, one of {', '.join(LAYOUTS)}, or --manifest.")
        _check(args)
    elif args.action == "fetch":
        _fetch(args)
    elif args.action == "import":
        listing = read_layout(args.layout, args.data, seed=args.seed, partial=args.partial)
        print(f"{import_cases(listing, args.out, copy=args.copy)} images imported into {args.out}")
    else:
        check_folder(args.out.parent)
        listing = read_layout(args.layout, args.data, seed=args.seed, partial=args.partial)
        count = write_manifest(listing, args.data, args.out, digits=args.digits)
        print(f"{args.out}: {count} images")


def describe(listing: Listing) -> str:
    """Counts of images and patients by split and set, positives by label; plain text."""
    lines = [_row("split", ("images", "patients"))]
    for split in SPLITS:
        chosen = [case for case in listing.cases if case.split == split]
        patients = {case.person for case in chosen}
        lines.append(_row(split, (len(chosen), len(patients))))
    lines += ["", _row("set", SPLITS)]
    counts = Counter((case.dataset, case.split) for case in listing.cases)
    for dataset in dict.fromkeys(case.dataset for case in listing.cases):
        lines.append(_row(dataset, [counts[dataset, split] for split in SPLITS]))
    findings = _findings(listing)
    if findings:
        lines += ["", _row("label: positive (unknown)", SPLITS)]
        for key in (*findings[0].labels, NO_FINDING.key):
            cells = []
            for split in SPLITS:
                values = [_label(case, key) for case in findings if case.split == split]
                cells.append(f"{values.count(1)} ({values.count(None)})")
            lines.append(_row(key, cells))
    return "\n".join([*lines, *(f"note: {note}" for note in listing.notes)])


def open_all(listing: Listing) -> list[str]:
    """Opens every image and mask; what is wrong with each, in words."""
    wrong = []
    for case in tqdm(listing.cases, unit="image"):
        try:
            pixels = read_source_image(case.image)
            if isinstance(case, LungSource):
                read_united_mask(case, (pixels.shape[0], pixels.shape[1]))
        except CxrDemoError as error:
            wrong.append(str(error))
    return wrong


def import_cases(listing: Listing, out: Path, *, copy: bool = False) -> int:
    """Writes the folder that `read_lung_index` or `read_finding_index` reads.

    Images are linked, or copied; raw ones become 16-bit PNG. Masks are united, brought to the
    image's size and written as PNG. The index comes last, so that a broken import is not usable.

    Returns:
        How many images.

    Raises:
        DataError: If the folder is in use, or an image or mask cannot be read.
    """
    if (out / "index.csv").exists():
        raise DataError(f"{out} holds an index.csv already. Name a new folder.")
    rows = []
    for case in tqdm(listing.cases, unit="image"):
        if isinstance(case, LungSource):
            pixels = read_source_image(case.image)
            mask = read_united_mask(case, (pixels.shape[0], pixels.shape[1]))
            write_mask(out / "masks" / f"{case.name}.png", mask)
            if case.image.suffix.lower() == ".img":
                with replacing(out / "images" / f"{case.name}.png") as draft:
                    cv2.imwrite(str(draft), pixels)
            else:
                _place(case.image, out / "images" / f"{case.name}{case.image.suffix}", copy=copy)
            rows.append({"name": case.name, "set": case.dataset} | _patient_and_split(case))
        else:
            _place(case.image, out / "images" / case.name, copy=copy)
            keys = (*FINDING_KEYS, *AUXILIARY_KEYS, NO_FINDING.key)
            labels = {key: _cell(_label(case, key)) for key in keys}
            rows.append({"image": case.name, "dataset": case.dataset} | labels)
            rows[-1] |= _patient_and_split(case)
    write_table(out / "index.csv", rows)
    return len(rows)


def write_manifest(listing: Listing, folder: Path, path: Path, *, digits: int = HASH_DIGITS) -> int:
    """Lists every image with set, patient, split, labels and hash; no pixels.

    Labels that no image of the set has are left out; an empty cell is unknown. Several masks of
    one image are joined by `SEPARATOR`. Hashes cut short are told by the column's name.

    Returns:
        How many images.
    """
    findings = _findings(listing)
    keys = [*findings[0].labels, NO_FINDING.key] if findings else []
    keys = [key for key in keys if any(_label(case, key) == 1 for case in findings)]
    overread = any(case.rsna_normal for case in findings)
    hashed = _hash_column(digits)
    rows = []
    for case in tqdm(listing.cases, unit="image"):
        row = {"file": _relative(case.image, folder), "set": case.dataset}
        row |= _patient_and_split(case)
        if isinstance(case, FindingCase):
            if case.patient_id == f"image {case.name}":
                row["patient_id"] = ""
            row |= {key: _cell(_label(case, key)) for key in keys}
            if overread:
                row["rsna_normal"] = str(int(case.rsna_normal))
        row[hashed] = file_sha256(case.image)[:digits]
        if isinstance(case, LungSource):
            row["mask"] = SEPARATOR.join(_relative(mask, folder) for mask in case.masks)
            row[f"mask_{hashed}"] = SEPARATOR.join(
                file_sha256(mask)[:digits] for mask in case.masks
            )
        rows.append(row)
    write_table(path, rows)
    return len(rows)


def read_manifest(path: Path) -> list[Entry]:
    """Every image and mask that a manifest lists.

    Raises:
        DataError: If it is no manifest.
    """
    entries = []
    for row in read_table(path, ("file",)):
        hashed = next((column for column in row if column.startswith("sha256")), None)
        if hashed is None:
            raise DataError(f"{path} has no column of hashes: it is no manifest.")
        entries.append(Entry(row["file"], row[hashed]))
        if row.get("mask"):
            files, digests = row["mask"].split(SEPARATOR), row[f"mask_{hashed}"].split(SEPARATOR)
            entries += [Entry(*pair) for pair in zip(files, digests, strict=True)]
    if not entries:
        raise DataError(f"{path} lists no file.")
    return entries


def compare(manifest: Path, folder: Path) -> Difference:
    """Compares by content; extra is what lies beside listed files and is not listed.

    Raises:
        DataError: If the folder or the manifest is not there.
    """
    entries = read_manifest(manifest)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. Point --data at the set.")
    missing, altered = [], []
    for entry in tqdm(entries, unit="file"):
        if not (folder / entry.file).is_file():
            missing.append(entry.file)
        elif not file_sha256(folder / entry.file).startswith(entry.digest):
            altered.append(entry.file)
    listed = {entry.file for entry in entries}
    places = {(folder / file).parent for file in listed}
    there = {_relative(path, folder) for place in places for path in files_in(place)}
    # Beside images that lie in the folder itself there are tables, which no manifest lists.
    extra = {file for file in there - listed if Path(file).suffix not in (".csv", ".txt")}
    return Difference(tuple(sorted(missing)), tuple(sorted(altered)), tuple(sorted(extra)))


def _add_source(parser: argparse.ArgumentParser, layouts: str, *, required: bool) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked set")
    parser.add_argument("--layout", choices=LAYOUTS, required=required, help=layouts)
    parser.add_argument(
        "--seed",
        type=number(int, 0),
        default=SPLIT_SEED,
        help="of splits that the set does not fix",
    )
    parser.add_argument(
        "--partial", action="store_true", help="leave out what the set names and is not there"
    )


def _check(args: argparse.Namespace) -> None:
    listing = read_layout(args.layout, args.data, seed=args.seed, partial=True)
    patients = {case.person for case in listing.cases}
    print(f"{args.data} as {args.layout}: {len(listing.cases)} images, {len(patients)} patients")
    print(describe(listing))
    if listing.missing:
        _print_files("missing", listing.missing)
    if args.deep:
        wrong = open_all(listing)
        if wrong:
            print("\n".join(wrong[:SHOWN]))
            raise DataError(f"{len(wrong)} of {len(listing.cases)} images or masks are bad.")
        print(f"all {len(listing.cases)} images can be read")
    if listing.missing and not args.partial:
        raise DataError(missing_words(args.data, listing))


def _fetch(args: argparse.Namespace) -> None:
    download = read_downloads()[args.name]
    print(download.notice)
    if download.files and not args.accept_licence:
        raise DataError("Read the notice above and give --accept-licence to download.")
    fetch(download, args.out)


def _print_difference(difference: Difference, folder: Path, manifest: Path) -> None:
    for word in ("missing", "altered", "extra"):
        files: tuple[str, ...] = getattr(difference, word)
        if files:
            _print_files(word, files)
    if not difference.is_none:
        raise DataError(
            f"{folder} is not what {manifest} lists: {len(difference.missing)} missing, "
            f"{len(difference.altered)} altered, {len(difference.extra)} extra. Restore the files, "
            "or list the folder anew."
        )
    print(f"{folder} is what {manifest} lists: {len(read_manifest(manifest))} files")


def _print_files(word: str, files: Sequence[str]) -> None:
    print("\n".join(f"{word}: {file}" for file in files[:SHOWN]))
    if len(files) > SHOWN:
        print(f"{word}: and {len(files) - SHOWN} more")


def _place(source: Path, target: Path, *, copy: bool) -> None:
    if copy:
        with replacing(target) as draft:
            shutil.copyfile(source, draft)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(source.resolve())
    except OSError as error:
        raise DataError(f"{target} cannot be linked here. Give --copy.") from error


def _findings(listing: Listing) -> list[FindingCase]:
    return [case for case in listing.cases if isinstance(case, FindingCase)]


def _label(case: FindingCase, key: str) -> int | None:
    return case.no_finding if key == NO_FINDING.key else case.labels[key]


def _cell(value: int | None) -> str:
    return "" if value is None else str(value)


def _patient_and_split(case: LungSource | FindingCase) -> dict[str, str]:
    return {"patient_id": case.patient_id, "split": case.split}


def _hash_column(digits: int) -> str:
    return "sha256" if digits == HASH_DIGITS else f"sha256_first_{digits}"


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _row(name: str, cells: Iterable[str | int]) -> str:
    return f"{name:<28}" + "".join(f"{cell!s:>14}" for cell in cells)
