"""Tables of the sets: every CSV file and list is read here, and written here."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from training.errors import DataError
from training.writing import replacing

_MARKS: Final = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""What spreadsheets put before a text, and the encoding it stands for."""

_SEPARATORS: Final = (",", ";", "\t")


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file that must have some columns; blanks around a cell are dropped.

    Copies that went through a spreadsheet are read too: with a byte order mark, in Windows' western
    encoding, or parted by semicolons or tabs.

    Raises:
        DataError: If it is not there, is no text, lacks a column, has one twice, or a row has more
            or fewer cells than the head, as where a file was cut short.
    """
    text = read_text(path)
    head_line = text.split("\n", 1)[0]
    separator = next((s for s in _SEPARATORS if s in head_line), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader]
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: {error}. Mend it, or fetch it again."
        ) from error
    lines = [(number, cells) for number, cells in lines if any(cells)]
    head = lines[0][1] if lines else []
    missing = [column for column in columns if column not in head]
    if missing:
        raise DataError(f"{path} lacks the columns {missing}; it has {head}.")
    twice = sorted({name for name in head if name and head.count(name) > 1})
    if twice:
        raise DataError(f"{path} has the columns {twice} twice. Keep one of each.")
    rows = []
    for number, cells in lines[1:]:
        while len(cells) > len(head) and not cells[-1]:
            cells.pop()
        if len(cells) != len(head):
            raise DataError(
                f"{path}, line {number} has {len(cells)} cells, the head has {len(head)}. The file "
                "was cut short there, or a cell with a comma is not in quotes. Mend it, or fetch "
                "it again."
            )
        rows.append(dict(zip(head, cells, strict=True)))
    return rows


def read_list(path: Path) -> set[str]:
    """The words of a text file, one a line.

    Raises:
        DataError: If it is not there or no text.
    """
    return set(read_text(path).split())


def read_text(path: Path) -> str:
    """A text in UTF-8, with or without a byte order mark, in UTF-16 with one, or in Windows-1252.

    Raises:
        DataError: If it is not there or no text.
    """
    if not path.is_file():
        raise DataError(f"There is no {path}. Check the path, or make it first.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. May you read it?") from error
    marked = next((code for mark, code in _MARKS.items() if content.startswith(mark)), None)
    for encoding in (marked,) if marked else ("utf-8", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        # Bytes of another kind of file decode to control characters.
        if not re.search(r"[\0-\x08\x0e-\x1f]", text):
            return text
    raise DataError(f"{path} is no CSV text. Save it as CSV in UTF-8, or fetch it again.")


def write_table(path: Path, rows: Sequence[Mapping[str, str | int]]) -> None:
    """Writes rows of equal columns, at least one, whole or not at all."""
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
