"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
