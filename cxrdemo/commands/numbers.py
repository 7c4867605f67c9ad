"""What a flag takes for a number."""

import argparse
import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

Number = TypeVar("Number", int, float)

_WORDS: Final[Mapping[type, str]] = {int: "a whole number", float: "a number"}


def number(kind: type[Number], low: float, high: float = math.inf) -> Callable[[str], Number]:
    """For argparse's `type`: reads a finite number, and refuses others in one line.

    Args:
        kind: `int` for whole numbers, or `float`.
        low: The lowest that is taken.
        high: The highest that is taken.
    """

    def read(text: str) -> Number:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if low <= value <= high and value != math.inf:
                return value
        bounds = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
        raise argparse.ArgumentTypeError(f"must be {_WORDS[kind]}, {bounds}; got {text[:40]!r}")

    return read
