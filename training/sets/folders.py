"""Which files of a folder are meant."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

IMAGE_SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".dcm", ".dicom", ".img"}
)
"""In lower case."""

_FOREIGN: Final = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


def files_in(folder: Path, suffixes: Collection[str] = (), *, deep: bool = False) -> list[Path]:
    """The files of a folder in order, none if there is no such folder.

    Passed over is what systems put beside files: names that begin with a dot (such as the `._`
    files of macOS, and drafts), `__MACOSX`, `Thumbs.db`.

    Args:
        folder: Where to look.
        suffixes: In lower case, such as ".png"; files may have them in any case. None for all.
        deep: Whether to look into sub-folders.
    """
    found = sorted(folder.rglob("*") if deep else folder.glob("*"))
    return [
        path
        for path in found
        if (not suffixes or path.suffix.lower() in suffixes)
        and not any(
            part.startswith(".") or part in _FOREIGN for part in path.relative_to(folder).parts
        )
        and path.is_file()
    ]


def is_file(path: Path) -> bool:
    """Whether there is such a file; False, too, for a name that no file system takes."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib raises for names that are too long


def without_image_suffix(name: str) -> str:
    """A file's name or path without ".png" and its like; other dots are part of the name.

    So "1.2.840.113" stays what it is, and does not become "1.2.840".
    """
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES and stem else name
