"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import DataError


def check_folder(path: Path) -> None:
    """Refuses, before the long part, a folder to write to that cannot be one.

    Raises:
        DataError: If it is a file, or lies beneath one.
    """
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        raise DataError(f"{there} is a file. Name a folder for what is written.")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a draft beside a file, which takes the file's place when the block has ended.

    Whenever the process is killed, or the disk is full, the file is the old one or the new one. A
    draft that a killed process left is overwritten by the next one; readers of folders pass over
    it, as its name begins with a dot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last, as some writers choose the format by it.
    draft = path.with_name(f".part-{path.name}")
    try:
        yield draft
        with draft.open("rb") as stream:
            os.fsync(stream.fileno())  # else a crash may keep the new name and lose the content
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
