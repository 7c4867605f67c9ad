"""What a flag takes for a number, and for a value at all."""

import argparse
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
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


def refuse_dashes(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Ends with wrong usage where a flag is given `--` for a value, as in `--margin=--`.

    The argparse of Python 3.11 drops that value and then fails for want of one.
    """
    for word in takewhile("--".__ne__, words):
        flag, is_given, value = word.partition("=")
        if flag.startswith("-") and is_given and value == "--":
            parser.error(f"argument {flag}: must be a value, got '--'")
