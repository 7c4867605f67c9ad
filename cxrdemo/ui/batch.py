"""The Batch tab: many files, one table, one CSV. Knows nothing of gradio."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cxrdemo.errors import CxrDemoError
from cxrdemo.export import rows_of, write_csv
from cxrdemo.files import read_radiograph
from cxrdemo.labels import FINDINGS, NO_FINDING
from cxrdemo.results import Analysis, MaskingMode

if TYPE_CHECKING:
    from cxrdemo.pipeline import Analyse, Pipeline

HEADERS: Final = ("File", *(label.display for label in FINDINGS), NO_FINDING.display, "Remarks")

Table = list[list[str]]
Record = dict[str, Any]


def read_files(
    pipeline: Pipeline, paths: Sequence[Path], mode: MaskingMode
) -> Iterator[tuple[Table, int, Path | None]]:
    """Reads files, each deleted once read; a bad file is a row with its reason.

    Yields:
        The table so far, the number of files read, and after the last one a CSV of all maskings.
    """
    table: Table = []
    records: list[Record] = []
    for start in range(0, len(paths), pipeline.at_once):
        group = paths[start : start + pipeline.at_once]
        for row, found in pipeline.side_by_side(partial(_read_file, mode=mode), group):
            table.append(row)
            records.extend(found)
        yield table, len(table), None
    folder = Path(tempfile.mkdtemp(prefix="cxrdemo-"))
    yield table, len(table), write_csv(records, folder / "chest-x-rays.csv")


def _read_file(
    analyse: Analyse, path: Path, *, mode: MaskingMode
) -> tuple[list[str], list[Record]]:
    """A file's row of the table and its rows of the CSV."""
    blank = [""] * (len(FINDINGS) + 1)
    try:
        analysis = analyse(read_radiograph(path))
    except CxrDemoError as error:
        return [path.name, *blank, str(error)], [{"file": path.name, "error": str(error)}]
    finally:
        path.unlink(missing_ok=True)
    doubts = " ".join(doubt.message for doubt in analysis.doubts)
    if doubts:
        # As on the Read tab, where a user may ask for the numbers all the same.
        withheld = f"Withheld: {doubts}"
        return [path.name, *blank, withheld], [{"file": path.name, "warnings": withheld}]
    return [path.name, *_cells(analysis, mode)], rows_of(path.name, analysis)


def _cells(analysis: Analysis, mode: MaskingMode) -> list[str]:
    """Probabilities, marked where above the threshold or unproven, No Finding, and remarks."""
    remarks = " ".join(analysis.warnings)
    reading = analysis.readings.get(mode)
    if reading is None:
        return [""] * (len(FINDINGS) + 1) + [remarks]
    findings = reading.findings
    cells = []
    for index, value in enumerate(findings.probabilities):
        called = analysis.verdict(mode, index)
        mark = "?" if called is None else "above" * called
        cells.append(f"{value:.2f} {mark}".strip())
    return [*cells, f"{findings.no_finding:.2f}", remarks]
