"""What to read: files, folders, patterns and lists, and where the results of each belong.

A result lies where its input lies below the folder that all inputs share, and is called by the
input's whole name, so no two inputs can ever share a result.
"""

import codecs
import contextlib
import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxrdemo.commands.writing import ENDINGS, is_our_record
from cxrdemo.errors import SettingError
from cxrdemo.files import looks_readable

SUFFIXES: Final = frozenset(
    (".png", ".jpg", ".jpeg", ".dcm", ".dicom", ".tif", ".tiff", ".webp", ".bmp")
)
"""A file in a folder is read if it is called so, or if its first bytes say that it is an image."""

STANDARD_INPUT: Final = "-"

_LONGEST_LIST: Final = 2**28
"""In bytes: some million names. A device would never end."""

_MARKS: Final = (
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)
"""What Windows puts before a text, and the encoding it stands for."""


@dataclass(frozen=True)
class Place:
    """One input, by its absolute path.

    Attributes:
        path: Where it lies.
        name: Its path below the folder that all inputs share, parts joined by "/". Its results
            lie at the same place below the output folder.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class Inputs:
    """What was found.

    Attributes:
        places: Each input once, in the order in which they were named; a folder's files by name.
        passed_over: Files in folders that are no images.
        unmatched: Patterns, folders and lists that gave nothing.
    """

    places: tuple[Place, ...]
    passed_over: int
    unmatched: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    root: str
    path: str


def find_inputs(arguments: Sequence[str], *, lists: Sequence[str] = (), out: Path) -> Inputs:
    """Expands what stands on the command line.

    Args:
        arguments: Files, folders (read to any depth), patterns such as "data/**/*.png", "@LIST" for
            the names in a file, one a line or parted by null bytes, and "-" for those on standard
            input.
        lists: Files of names, as after "@".
        out: The folder for the results, which is no input even if it lies in one.

    Raises:
        SettingError: If a list cannot be read.
    """
    search = _Search(os.path.realpath(out))
    for argument in arguments:
        is_list = argument.startswith("@") and not os.path.lexists(argument)
        if argument == STANDARD_INPUT or is_list:
            search.add_list(argument.removeprefix("@"))
        else:
            search.add(argument)
    for name in lists:
        search.add_list(name)
    shared = os.path.commonpath({found.root for found in search.found}) if search.found else ""
    places = {
        found.path: Place(Path(found.path), Path(os.path.relpath(found.path, shared)).as_posix())
        for found in search.found
    }
    return Inputs(tuple(places.values()), search.passed_over, tuple(search.unmatched))


class _Search:
    def __init__(self, out: str) -> None:
        self.out = out
        self.found: list[_Found] = []
        self.passed_over = 0
        self.unmatched: list[str] = []

    def add_list(self, name: str) -> None:
        listed = list(_lines(name))
        if not listed:
            self.unmatched.append("the list on standard input" if name == STANDARD_INPUT else name)
        for line in listed:
            self.add(line)

    def add(self, argument: str) -> None:
        before = len(self.found)
        if os.path.isdir(argument):
            self._add_folder(argument, root=os.path.abspath(argument))
        elif os.path.lexists(argument) or not glob.has_magic(argument):
            # A file that is not there is an input too: its failure is told like any other's.
            path = os.path.abspath(argument)
            self.found.append(_Found(os.path.dirname(path), path))
        else:
            root = _fixed_part(argument)
            for match in sorted(glob.iglob(argument, recursive=True, include_hidden=False)):
                if os.path.isdir(match):
                    # "**" gives a folder and what lies in it.
                    if "**" not in argument:
                        self._add_folder(match, root=root)
                elif not self._is_result(match):
                    self.found.append(_Found(root, os.path.abspath(match)))
        if len(self.found) == before:
            self.unmatched.append(argument)

    def _add_folder(self, folder: str, *, root: str) -> None:
        seen = {os.path.realpath(folder)}
        for parent, folders, files in os.walk(folder, followlinks=True):
            kept = []
            for name in sorted(folders):
                real = os.path.realpath(os.path.join(parent, name))
                if name.startswith(".") or real in seen or real == self.out:
                    continue  # hidden, a circle of links, or our own results
                seen.add(real)
                kept.append(name)
            folders[:] = kept
            for name in sorted(files):
                path = os.path.join(parent, name)
                if name.startswith("."):
                    continue
                is_image = os.path.splitext(name)[1].lower() in SUFFIXES or _begins_like_an_image(
                    path
                )
                if is_image and not self._is_result(path):
                    self.found.append(_Found(root, os.path.abspath(path)))
                else:
                    self.passed_over += 1

    def _is_result(self, path: str) -> bool:
        """Whether an earlier run wrote this file, beside its input perhaps."""
        if not path.endswith(ENDINGS):
            return False
        stem = next(path.removesuffix(end) for end in ENDINGS if path.endswith(end))
        return is_our_record(Path(f"{stem}.json"))


def _lines(name: str) -> Iterator[str]:
    """Names as the file system has them, whatever their bytes."""
    stdin = contextlib.nullcontext(sys.stdin.buffer) if name == STANDARD_INPUT else None
    try:
        # A pipe is welcome, such as a shell makes of <(find ...).
        with stdin or open(name, "rb") as stream:
            data = stream.read(_LONGEST_LIST + 1)
        if len(data) > _LONGEST_LIST or looks_readable(data[:132]):
            raise ValueError("an image, or endless")
        for mark, encoding in _MARKS:
            if data.startswith(mark):
                data = os.fsencode(data.removeprefix(mark).decode(encoding, "surrogateescape"))
    except (OSError, ValueError) as error:
        raise SettingError(
            f"The list {name} cannot be read. Name a text file with one path a line."
        ) from error
    parts = data.split(b"\0") if b"\0" in data else data.splitlines()
    return (os.fsdecode(part) for part in parts if part.strip())


def _fixed_part(pattern: str) -> str:
    """The folder in front of a pattern's first wildcard."""
    parts = Path(pattern).parts
    fixed = 0
    while fixed < len(parts) - 1 and not glob.has_magic(parts[fixed]):
        fixed += 1
    return os.path.abspath(os.path.join(*parts[:fixed])) if fixed else os.getcwd()


def _begins_like_an_image(path: str) -> bool:
    if not os.path.isfile(path):
        return False  # a pipe or a device would be waited for
    try:
        with open(path, "rb") as stream:
            return looks_readable(stream.read(132))
    except OSError:
        return True  # its failure is told when it is read
