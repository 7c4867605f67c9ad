"""Saying what happens, so that saying it can never undo what was done.

Standard output may be closed, on a full disk, or unable to write a file's name; the results are on
the disk all the same.
"""

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final, TextIO

_LOCK: Final = threading.Lock()


def say(text: str) -> None:
    """One line for standard output."""
    with _LOCK:
        _write(sys.stdout, text)


def complain(text: str) -> None:
    """One line for standard error."""
    with _LOCK:
        _write(sys.stderr, text)


def refusal(error: OSError) -> str:
    """What the system refused, and what to do: one line."""
    where = f"{error.filename}: " if error.filename else ""
    remedy = "Mend that and give the same command again."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "Make room and give the same command again: it goes on where it stopped."
    return f"{where}{error.strerror or error}. {remedy}"


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(line + "\n")
        stream.flush()
    except (OSError, ValueError):  # closed by the reader, full, or closed by us
        _silence(stream)


def _silence(stream: TextIO) -> None:
    """Sends all that follows nowhere, what Python still flushes at its end included."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Progress:
    """A bar on a terminal; otherwise a line for each file, or nothing if asked to be quiet."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        """Starts at 0.

        Args:
            total: Files in all.
            quiet: Whether to tell of failures alone.
        """
        self._quiet = quiet
        self._bar: Any = None
        if not quiet and total and sys.stderr is not None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, file=sys.stderr, unit="file", dynamic_ncols=True)

    def finished(self, line: str, *, good: bool) -> None:
        """One more file is through."""
        with self._without_bar():
            if not good:
                complain(line)
            elif self._bar is None and not self._quiet:
                say(line)
        if self._bar is not None:
            with _LOCK:
                self._bar.update()

    def remark(self, line: str) -> None:
        """A doubt or a warning about one file."""
        if not self._quiet:
            with self._without_bar():
                complain(line)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()

    @contextlib.contextmanager
    def _without_bar(self) -> Iterator[None]:
        if self._bar is None:
            yield
        else:
            with self._bar.external_write_mode(file=sys.stderr):
                yield
