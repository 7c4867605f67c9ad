"""Hearing a library's warnings, without another thread losing its own."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_lock: Final = threading.Lock()


@contextmanager
def recorded_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Collects all warnings raised inside, instead of showing them.

    The filters are global: two threads that change them at once may leave them changed for ever, so
    they take turns here. What is slow belongs outside, unless it happens once.
    """
    with _lock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
