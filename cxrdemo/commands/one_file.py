"""What is done with one file, on this machine or on another: read, analyse, write.

Whatever goes wrong is this file's failure alone, told in its record and in its outcome.
"""

import hashlib
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cxrdemo.commands.places import Place
from cxrdemo.commands.writing import Results, hash_of, named_by
from cxrdemo.dicom_export import capture, segmentation
from cxrdemo.errors import CxrDemoError, ExportError
from cxrdemo.export import (
    analysis_to_json,
    error_to_json,
    heat_npz,
    json_bytes,
    label_mask_png,
    mask_png,
)
from cxrdemo.files import load, read_radiograph
from cxrdemo.rendering import figure_png
from cxrdemo.results import Analysis, MaskingMode

Analyse = Callable[..., Analysis]
"""`Pipeline.analyse`."""

_BEGUN: Final = ExportError(
    "The run was ended while the results were written. The same command does it anew."
)


@dataclass(frozen=True)
class Job:
    """What is done with every file alike; a value that can be sent to another machine.

    Attributes:
        out: The folder for the results.
        maskings: What to read.
        margin: Loose margin as a fraction of the lungs' height, or None for the checkpoint's.
        method: Saliency method.
        write: Names of `writing.PRODUCTS`.
        settings: A hash of all that can change a result: settings, checkpoints, version.
        inputs: Real paths of all that is read in this run, which nothing is written over.
        force: Whether to do finished work anew, and to replace another file's results.
    """

    out: Path
    maskings: tuple[MaskingMode, ...]
    margin: float | None
    method: str
    write: frozenset[str]
    settings: str
    inputs: frozenset[str] = frozenset()
    force: bool = False


Status = Literal["done", "there", "failed", "left"]


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        place: The input.
        status: "done", "there" (finished by an earlier run), "failed" or "left" (not begun).
        reason: Why it failed, in words.
        remarks: Doubts and warnings.
        details: A traceback, if the failure is a fault of ours.
        record: Of a failure, whether or not it could be written.
    """

    place: Place
    status: Status
    reason: str = ""
    remarks: tuple[str, ...] = ()
    details: str = ""
    record: Mapping[str, Any] | None = None


def is_finished(place: Place, job: Job) -> bool:
    """Whether an earlier run did all this with the very same bytes, settings and checkpoints."""
    results = Results(job.out, place.name)
    record = results.record()
    if job.force or record is None or "error" in record or "run" not in record:
        return False
    if record["run"]["settings"] != job.settings:
        return False
    wanted = job.write - {"json"}
    if record.get("lungs") is None:
        wanted -= {"mask", "labels", "seg"}
    if not record.get("maskings"):
        wanted -= {"heat"}
    if not wanted <= named_by(record):
        return False
    if not all(results.path(product).is_file() for product in wanted):
        return False
    try:
        return bool(record["input"]["sha256"] == hashlib.sha256(load(place.path)).hexdigest())
    except CxrDemoError:
        return False


def do_file(analyse: Analyse, place: Place, job: Job) -> Outcome:
    """Reads, analyses and writes one file. Raises nothing.

    Args:
        analyse: Such as `Pipeline.analyse`.
        place: The input.
        job: What to do.
    """
    results = Results(job.out, place.name)
    sha256 = ""
    try:
        data = load(place.path)
        sha256 = hashlib.sha256(data).hexdigest()
        _check_free(results, place, sha256, job)
        radiograph = read_radiograph(data)
        analysis = analyse(radiograph, maskings=job.maskings, margin=job.margin, method=job.method)
        products = _products(data, analysis, job.write)
        record = analysis_to_json(analysis, name=place.name, sha256=sha256)
        record = _of_this_run(record, place, job, wrote=products)
        begun = error_to_json(_BEGUN, name=place.name, sha256=sha256)
        begun = _of_this_run(begun, place, job, wrote=results.written() | products.keys())
        results.write({**products, "json": json_bytes(record)}, begun=json_bytes(begun))
    # One bad file never stops the others, whatever is the matter with it.
    except Exception as error:
        return _failure(error, results, place, sha256, job)
    remarks = [f"doubtful input: {doubt.message}" for doubt in analysis.doubts]
    remarks += [f"warning: {warning}" for warning in analysis.warnings]
    return Outcome(place, "done", remarks=tuple(remarks))


def _products(data: bytes, analysis: Analysis, wanted: frozenset[str]) -> dict[str, bytes]:
    makers: dict[str, Callable[[], bytes]] = {
        "figure": lambda: figure_png(analysis),
        "capture": lambda: capture(data, analysis),
    }
    lungs = analysis.lungs
    if lungs is not None:
        makers["mask"] = lambda: mask_png(lungs)
        makers["labels"] = lambda: label_mask_png(lungs)
        makers["seg"] = lambda: segmentation(data, analysis)
    if analysis.readings:
        makers["heat"] = lambda: heat_npz(analysis)
    return {name: make() for name, make in makers.items() if name in wanted}


def _failure(error: Exception, results: Results, place: Place, sha256: str, job: Job) -> Outcome:
    """Puts the reason where the results would be, and takes away what an earlier run left there."""
    # An unforeseen error is our fault, so its traceback is shown as well.
    details = "" if isinstance(error, CxrDemoError) else traceback.format_exc()
    reason = str(error) or type(error).__name__
    record = error_to_json(error, name=place.name, sha256=sha256)
    try:
        _check_free(results, place, sha256, job)
        begun = _of_this_run(record, place, job, wrote=results.written())
        record = _of_this_run(record, place, job, wrote=())
        results.write({"json": json_bytes(record)}, begun=json_bytes(begun))
    except Exception as second:
        if str(second) != reason:
            reason += f" Nor could this be recorded: {second}"
    return Outcome(place, "failed", reason=reason, details=details, record=record)


def _check_free(results: Results, place: Place, sha256: str, job: Job) -> None:
    results.check_free(inputs=job.inputs, place=_where(place), sha256=sha256, force=job.force)


def _of_this_run(
    record: dict[str, Any], place: Place, job: Job, *, wrote: Iterable[str]
) -> dict[str, Any]:
    run = {"settings": job.settings, "place": _where(place), "wrote": sorted(wrote)}
    return {**record, "run": run}


def _where(place: Place) -> str:
    """Of the input's own path, so that its folders' names go into no record."""
    return hash_of(str(place.path))[:32]


def settings_hash(parts: Sequence[object]) -> str:
    """A hash of all that can change a result."""
    return hash_of(repr(tuple(parts)))[:32]
