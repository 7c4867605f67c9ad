"""The Batch tab: many files of one visitor, one table, one CSV. Knows nothing of gradio."""

from __future__ import annotations

import base64
import hashlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

import numpy as np

from cxrdemo.errors import CxrDemoError, UnreadableImageError
from cxrdemo.export import analysis_to_json, rows_of_record, write_csv
from cxrdemo.files import MAX_BYTES, load, read_radiograph
from cxrdemo.labels import FINDINGS, NO_FINDING
from cxrdemo.rendering import encode_png, for_display
from cxrdemo.results import Analysis, MaskingMode
from cxrdemo.settings import Settings
from cxrdemo.ui import panels
from cxrdemo.ui.payload import EvidencePart, evidence_part
from cxrdemo.ui.turn import Turn
from cxrdemo.ui.uploads import discard

if TYPE_CHECKING:
    from cxrdemo.pipeline import Pipeline
    from cxrdemo.specs import CheckpointSpec
    from cxrdemo.ui.line import Line
    from cxrdemo.ui.models import Models

MAX_BATCH_BYTES: Final = 8 * MAX_BYTES
"""What the files of one batch may take on the disk together."""

THUMBNAIL_PX: Final = 48

COLUMNS: Final = (*(label.display for label in FINDINGS), NO_FINDING.display)

State = Literal["waiting", "read", "withheld", "failed"]

Record = dict[str, Any]


class ShownRow(TypedDict):
    """A row as the table is sent it.

    Attributes:
        id: Names the row in what the table asks.
        name: The file's own name.
        state: "withheld" is a doubtful image whose numbers were not asked for.
        remarks: Why there is no number, or what to look at twice.
        thumbnail: A data URL, or null.
        maskings: By masking, a number per finding and one for No Finding; empty unless read.
    """

    id: str
    name: str
    state: State
    remarks: str
    thumbnail: str | None
    maskings: dict[str, list[EvidencePart]]


class Download(TypedDict):
    """A file for the browser to save.

    Attributes:
        name: What it is called.
        url: A data URL: nothing of it is left on the server's disk.
    """

    name: str
    url: str


class TableShown(TypedDict):
    """What the table is sent.

    Attributes:
        run: Names this answer.
        columns: Headings of the numbers, in the order of each row's.
        rows: The files, in the order in which they were added.
        csv: To be saved at once, or null.
    """

    run: str
    columns: list[str]
    rows: list[ShownRow]
    csv: Download | None


@dataclass(frozen=True, eq=False)
class File:
    """One file of a batch.

    Attributes:
        id: Its name here, and on the disk.
        name: Its own name.
        size: In bytes.
        state: What became of it.
        remarks: In words for the user.
        thumbnail: A data URL, or None.
        maskings: Numbers by masking.
        records: Rows of the CSV.
    """

    id: str
    name: str
    size: int
    state: State = "waiting"
    remarks: str = ""
    thumbnail: str | None = None
    maskings: dict[str, list[EvidencePart]] | None = None
    records: tuple[Record, ...] = ()


class Batch:
    """The files of one visitor, kept on the disk until the tab is closed."""

    def __init__(
        self, models: Models, line: Line, key: str, *, max_files: int | None = None
    ) -> None:
        """No file yet.

        Args:
            models: The models of the page.
            line: Where all visitors wait.
            key: The visitor's name in that line.
            max_files: How many files it may hold; None takes what the settings say.
        """
        self._models, self._line, self._key = models, line, key
        self.max_files: Final = max_files or Settings.from_environment().max_batch
        self._turn = Turn()
        self._files: dict[str, File] = {}
        self._folder: Path | None = None
        self._open = ""
        self._order: list[str] = []

    def add(self, paths: Sequence[str]) -> str:
        """Takes uploads over, and tells what was not taken.

        Args:
            paths: Of uploads, which are no longer there afterwards.

        Returns:
            A sentence, or nothing if all were taken.
        """
        left_out = 0
        for path in map(Path, paths):
            size = path.stat().st_size if path.is_file() else 0
            held = sum(file.size for file in self._files.values())
            if len(self._files) >= self.max_files or held + size > MAX_BATCH_BYTES:
                left_out += 1
                discard(path)
                continue
            file = File(secrets.token_hex(8), path.name, size)
            if path.is_file():
                shutil.move(path, self._path(file.id))
            discard(path)
            self._files[file.id] = file
        if not left_out:
            return ""
        return (
            f"{left_out} files were not taken: a list holds {self.max_files} files and "
            f"{MAX_BATCH_BYTES // 2**30} GB at most. Read these first, then clear the list."
        )

    def read(self) -> Iterator[str]:
        """Reads what was not read yet, file after file; others are served in between.

        Yields:
            How far it is, in words; `rows` has changed meanwhile.
        """
        ticket = self._turn.start()
        start, done = time.monotonic(), 0
        if not self._unread():
            yield self._progress() if self._files else "Add some files first."
        while not ticket.is_off() and (unread := self._unread()):
            with self._line.join(self._key, again=done > 0) as place:
                for ahead in place.wait(ticket.is_off):
                    yield f"{self._progress()} {panels.ahead(ahead)}"
                if ticket.is_off():
                    return
                pipeline = self._models.pipeline()
                # Several at a time only as long as nobody waits for them.
                group = unread[: 1 if self._line.is_wanted else pipeline.at_once]
                read = pipeline.side_by_side(partial(self._read, pipeline), group)
                for file in read:
                    if file.id in self._files:
                        self._files[file.id] = file
            done += len(group)
            seconds = (time.monotonic() - start) / done * len(self._unread())
            yield self._progress() + (f" {_about(seconds)} left." if self._unread() else "")

    def payload(self, *, with_csv: bool = False) -> TableShown:
        """The table as it stands.

        Args:
            with_csv: Whether a CSV of it is sent along, for the browser to save.
        """
        shown: TableShown = {
            "run": secrets.token_hex(4),
            "columns": list(COLUMNS),
            "rows": self._rows(),
            "csv": None,
        }
        if with_csv:
            content = base64.b64encode(self.csv()).decode("ascii")
            shown["csv"] = {
                "name": "chest-x-rays.csv",
                "url": f"data:text/csv;charset=utf-8;base64,{content}",
            }
        return shown

    def _rows(self) -> list[ShownRow]:
        return [
            {
                "id": file.id,
                "name": file.name,
                "state": file.state,
                "remarks": file.remarks,
                "thumbnail": file.thumbnail,
                "maskings": (file.maskings or {}) if file.state == "read" else {},
            }
            for file in list(self._files.values())
        ]

    def accept(self, name: str) -> None:
        """Shows the numbers of a doubtful image all the same; its doubt stays in sight."""
        file = self._files.get(name)
        if file is not None and file.state == "withheld":
            self._files[name] = replace(file, state="read")

    def csv(self) -> bytes:
        """The table in all maskings; withheld numbers only where they were asked for."""
        records: list[Record] = []
        for file in list(self._files.values()):
            if file.state == "read":
                records.extend(file.records)
            elif file.state == "withheld":
                records.append({"file": file.name, "doubts": file.remarks})
            elif file.state == "failed":
                records.append({"file": file.name, "error": file.remarks})
        with tempfile.TemporaryDirectory(prefix="cxrdemo-csv-") as folder:
            return write_csv(records, Path(folder) / "chest-x-rays.csv").read_bytes()

    def open(self, name: str, order: object = None) -> None:
        """Marks a file as the one to look at.

        Args:
            name: Its id.
            order: The ids as the table shows them; None leaves the order in which `step` goes.
        """
        if name in self._files:
            self._open = name
        if isinstance(order, list):
            self._order = [str(other) for other in order]

    def step(self, by: int) -> None:
        """Goes to a neighbour of the open file, if there is one."""
        at = self.place[0] - 1 + by
        if 0 <= at < len(self._in_order()):
            self._open = self._in_order()[at]

    @property
    def place(self) -> tuple[int, int]:
        """Which file is open, counted from 1 (0 if none is), and how many there are."""
        order = self._in_order()
        return (order.index(self._open) + 1 if self._open in order else 0), len(order)

    def opened(self) -> bytes:
        """The content of the open file.

        Raises:
            UnreadableImageError: If none is open, or it is gone.
        """
        try:
            if self._open not in self._files:
                raise FileNotFoundError
            return self._path(self._open).read_bytes()
        except OSError as error:
            raise UnreadableImageError(
                "This file is no longer in the list. Please add it again."
            ) from error

    def stop(self) -> str:
        """Ends reading after the file that is being read; says so."""
        self._turn.end()
        return f"Stopped. {self._progress()}"

    def clear(self) -> str:
        """Empties the list, and deletes its files; says so."""
        self._turn.end()
        self._files = {}
        self._open, self._order = "", []
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        return "The list is empty."

    def __len__(self) -> int:
        return len(self._files)

    def _in_order(self) -> list[str]:
        known = [name for name in self._order if name in self._files]
        return [*known, *(name for name in self._files if name not in known)]

    def _unread(self) -> list[File]:
        return [file for file in list(self._files.values()) if file.state == "waiting"]

    def _progress(self) -> str:
        total = len(self._files)
        return f"{total - len(self._unread())} of {total} files read."

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="cxrdemo-batch-"))
        return self._folder

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _read(self, pipeline: Pipeline, file: File) -> File:
        """A file with what was found in it; a bad one with its reason."""
        try:
            content = load(self._path(file.id))
            analysis = pipeline.analyse(read_radiograph(content))
        except CxrDemoError as error:
            return replace(file, state="failed", remarks=str(error))
        except OSError:
            return replace(file, state="failed", remarks="The file is no longer there.")
        doubts = " ".join(doubt.message for doubt in analysis.doubts)
        remarks = " ".join(analysis.warnings)
        return replace(
            file,
            # As on the Read tab, where a user may ask for the numbers all the same.
            state="withheld" if doubts else "read",
            remarks=f"Doubtful: {doubts} {remarks}".strip() if doubts else remarks,
            thumbnail=_thumbnail(analysis),
            maskings=_numbers(analysis, self._models.findings),
            records=tuple(
                rows_of_record(
                    analysis_to_json(
                        analysis, name=file.name, sha256=hashlib.sha256(content).hexdigest()
                    )
                )
            ),
        )


def _numbers(
    analysis: Analysis, specs: Mapping[MaskingMode, CheckpointSpec | None]
) -> dict[str, list[EvidencePart]]:
    table: dict[str, list[EvidencePart]] = {}
    for mode, reading in analysis.readings.items():
        found = reading.findings
        spec = specs.get(mode)
        labels = {label.key: label for label in spec.labels} if spec else {}
        row = []
        for key in (label.key for label in FINDINGS):
            index = found.labels.index(key)
            cell = evidence_part(found, index, labels.get(key))
            # A table has no room for every doubt: where there is one, there is no verdict.
            cell["proven"] = analysis.verdict(mode, index) is not None
            row.append(cell)
        none: EvidencePart = {"p": found.no_finding, "proven": False, "ratio": None, "points": []}
        table[str(mode)] = [*row, none]
    return table


def _thumbnail(analysis: Analysis) -> str:
    small = for_display(analysis, longest_px=THUMBNAIL_PX).radiograph.pixels
    png = encode_png(np.rint(small * 255).astype(np.uint8))
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _about(seconds: float) -> str:
    """Such as "About 3 min"."""
    return f"About {seconds / 60:.0f} min" if seconds >= 90 else f"About {max(1, round(seconds))} s"
