"""Tables of the sets: CSV and lists."""

import csv
from collections.abc import Sequence
from pathlib import Path

from training.errors import DataError


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of an index that must have some columns.

    Raises:
        DataError: If it is not there or lacks a column.
    """
    if not path.is_file():
        raise DataError(f"There is no {path}. Point --data at the folder that holds it.")
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path} lacks the columns {missing}; it has {reader.fieldnames}.")
        return list(reader)


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file that must have some columns.

    Raises:
        DataError: If it is not there, is no text, or lacks a column.
    """
    if not path.is_file():
        raise DataError(f"There is no {path}. Check the path, or make it first.")
    try:
        # Some copies went through a spreadsheet and begin with a byte order mark.
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path} lacks the columns {missing}; it has {reader.fieldnames}.")
            return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV text. Fetch it again.") from error


def read_list(path: Path) -> set[str]:
    """The words of a text file, one a line.

    Raises:
        DataError: If it is not there.
    """
    if not path.is_file():
        raise DataError(f"There is no {path}. Fetch the official list from the NIH.")
    return set(path.read_text(encoding="utf-8").split())
