"""`cxrdemo analyse`: many files, side by side, on one machine or many; resumable."""

import argparse
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cxrdemo import __version__
from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.commands.one_file import (
    Analyse,
    Job,
    Outcome,
    Status,
    do_file,
    is_finished,
    settings_hash,
)
from cxrdemo.commands.places import Inputs, Place, find_inputs
from cxrdemo.commands.speaking import Progress, complain
from cxrdemo.commands.writing import ENDINGS, PRODUCTS, Results, written_whole
from cxrdemo.errors import CxrDemoError, SettingError
from cxrdemo.export import json_bytes, rows_of_record, write_csv
from cxrdemo.hub import checkpoint_folder
from cxrdemo.results import ALL_MASKINGS, MaskingMode

if TYPE_CHECKING:
    from cxrdemo.pipeline import Pipeline

DONE: Final = 0
FAILED: Final = 3
INTERRUPTED: Final = 128
"""Plus the signal's number, as shells have it: 130 for Ctrl-C."""

_WORDS: Final[Mapping[Status, str]] = {
    "done": "done",
    "there": "already done",
    "failed": "failed",
    "left": "not begun",
}
_LISTED_FAILURES: Final = 10
_ONE_SIGNAL: Final = 1.0
"""In seconds: `timeout` and some shells send a signal to a process and once more to its group."""

_HASHED_AT_ONCE: Final = 4


def run(args: argparse.Namespace) -> int:
    """Analyses everything that was named.

    Returns:
        0 if all was done, now or by an earlier run; 3 if some file failed; 130 after Ctrl-C.

    Raises:
        SettingError: If there is nothing to read, or nowhere to write to.
        CheckpointError: If a checkpoint is missing, altered or does not fit.
    """
    started = time.monotonic()
    _check_outputs(args)
    inputs = find_inputs(args.inputs, lists=args.list, out=args.out)
    for name in inputs.unmatched:
        complain(f"{name}: nothing to read there")
    if not inputs.places:
        raise SettingError("There is nothing to read. Name image files, folders or patterns.")
    folder = checkpoint_folder(args.checkpoints)
    job = _job(args, inputs, folder)
    progress = Progress(len(inputs.places), quiet=args.quiet)
    with _signals_noted() as stop:
        outcomes = _outcomes(args, job, folder, inputs.places, progress, stop)
        progress.close()
        failed_tables = _write_tables(args, job, outcomes)
    _summarise(outcomes, inputs, args.out, time.monotonic() - started)
    if stop.is_set():
        return INTERRUPTED + stop.signal
    failed = inputs.unmatched or any(outcome.status == "failed" for outcome in outcomes)
    return FAILED if failed or failed_tables else DONE


def _check_outputs(args: argparse.Namespace) -> None:
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            f"--out {args.out} cannot be used as a folder for the results: {error.strerror}."
        ) from error
    tables = [os.path.realpath(path) for path in (args.csv, args.jsonl) if path is not None]
    for path in tables:
        # A device or pipe would be replaced by a file of its name.
        if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - any name
            raise SettingError(
                f"{path} is a folder, device or pipe; name an ordinary file for the table."
            )
    if len(set(tables)) < len(tables):
        raise SettingError("--csv and --jsonl name the same file; give each its own.")


def _job(args: argparse.Namespace, inputs: Inputs, folder: Path) -> Job:
    maskings = ALL_MASKINGS if args.masking == "all" else (MaskingMode(args.masking),)
    weights = [(spec.name, repr(spec)) for spec in CheckpointStore.open(folder).specs]
    parts = (
        __version__,
        weights,
        str(args.medsam),
        args.engine,
        args.precision,
        maskings,
        args.margin,
        args.cam,
    )
    real = frozenset(os.path.realpath(place.path) for place in inputs.places)
    for table in (args.csv, args.jsonl):
        if table is not None and os.path.realpath(table) in real:
            raise SettingError(f"The table {table} would take the place of an input.")
        if table is not None and _is_a_result(os.path.realpath(table), args.out, inputs):
            raise SettingError(f"The table {table} would take the place of a result.")
    return Job(
        out=args.out,
        maskings=maskings,
        margin=args.margin,
        method=args.cam,
        write=frozenset(args.write),
        settings=settings_hash(parts),
        inputs=real,
        force=args.force,
    )


def _is_a_result(path: str, out: Path, inputs: Inputs) -> bool:
    """Whether a result of this run may lie at a real path."""
    folder = Path(os.path.realpath(out))
    return path.endswith(ENDINGS) and any(
        path == str(Results(folder, place.name).path(product))
        for place in inputs.places
        for product in PRODUCTS
    )


class _Stop(threading.Event):
    """Set once a signal asked for an end."""

    signal = int(signal.SIGINT)
    since = 0.0


@contextmanager
def _signals_noted() -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM let the files in hand be finished; one more, later, ends at once."""
    stop = _Stop()

    def note(number: int, _: Any) -> None:
        now = time.monotonic()
        if not stop.is_set():
            stop.signal, stop.since = number, now
            stop.set()
        elif now - stop.since > _ONE_SIGNAL:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python takes signals in the main thread alone
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _outcomes(
    args: argparse.Namespace,
    job: Job,
    folder: Path,
    places: Sequence[Place],
    progress: Progress,
    stop: _Stop,
) -> list[Outcome]:
    """What became of every input, in their order."""

    def tell(outcome: Outcome) -> Outcome:
        _tell(outcome, progress)
        return outcome

    with ThreadPoolExecutor(_HASHED_AT_ONCE) as pool:
        finished = pool.map(lambda place: not stop.is_set() and is_finished(place, job), places)
        known = {
            place: tell(Outcome(place, "there"))
            for place, is_there in zip(places, finished, strict=True)
            if is_there
        }
    todo = [place for place in places if place not in known]
    if todo and not stop.is_set():
        work = _on_a_cluster if args.ray else _here
        for outcome in work(args, job, folder, todo, tell, stop):
            known[outcome.place] = outcome
    return [known.get(place, Outcome(place, "left")) for place in places]


def _here(
    args: argparse.Namespace,
    job: Job,
    folder: Path,
    places: Sequence[Place],
    tell: Callable[[Outcome], Outcome],
    stop: _Stop,
) -> Sequence[Outcome]:
    """Does the files on this machine, as many side by side as its cores allow."""
    pipeline = _loader(args, folder)()

    def work(place: Place) -> Outcome:
        if stop.is_set():
            return Outcome(place, "left")
        return tell(do_file(pipeline.analyse, place, job))

    return pipeline.side_by_side(work, places)


def _on_a_cluster(
    args: argparse.Namespace,
    job: Job,
    folder: Path,
    places: Sequence[Place],
    tell: Callable[[Outcome], Outcome],
    stop: _Stop,
) -> Sequence[Outcome]:
    """Shares the files out to the workers of a Ray cluster."""
    from cxrdemo.commands.cluster import share_out
    from cxrdemo.devices import resolve

    uses_gpu = args.device.startswith("cuda")
    if not uses_gpu:  # which the workers alone may have
        resolve(args.device)
    return share_out(
        args.ray,
        partial(_analyse_in_worker, _loader(args, folder)),
        replace(job, out=job.out.resolve()),
        places,
        uses_gpu=uses_gpu,
        tell=tell,
        should_stop=stop.is_set,
    )


def _loader(args: argparse.Namespace, folder: Path) -> "Callable[[], Pipeline]":
    """What loads the weights as the flags say, in this process or in a worker elsewhere."""
    return partial(
        _load,
        folder.resolve(),
        device=args.device,
        medsam=args.medsam and args.medsam.resolve(),
        precision=args.precision,
        engine=args.engine,
    )


def _load(folder: Path, *, device: str, **options: Any) -> "Pipeline":
    # Imported here, so that a run in which all is there already needs no PyTorch.
    from cxrdemo.devices import resolve
    from cxrdemo.pipeline import Pipeline

    return Pipeline.from_checkpoints(folder, device=resolve(device), **options)


def _analyse_in_worker(load: "Callable[[], Pipeline]") -> Analyse:
    """Loads the weights in a worker, which computes on one core or one GPU."""
    from cxrdemo.devices import compute_on

    compute_on(cores=1)
    return load().analyse


def _tell(outcome: Outcome, progress: Progress) -> None:
    path = outcome.place.path
    for remark in outcome.remarks:
        progress.remark(f"{path}: {remark}")
    if outcome.details:
        complain(outcome.details)
    words = outcome.reason or _WORDS[outcome.status]
    progress.finished(f"{path}: {words}", good=outcome.status != "failed")


def _write_tables(args: argparse.Namespace, job: Job, outcomes: Sequence[Outcome]) -> bool:
    """Writes what was asked for of CSV and JSON Lines; whether one failed."""
    failed = False
    for path, write in ((args.csv, _write_csv), (args.jsonl, _write_jsonl)):
        if path is not None:
            try:
                # Through a link, which stays.
                with written_whole(Path(os.path.realpath(path))) as draft:
                    write(_records(job, outcomes), draft)
            except CxrDemoError as error:
                complain(f"error: {error}")
                failed = True
    return failed


def _write_csv(records: Iterator[dict[str, Any]], path: Path) -> None:
    write_csv((row for record in records for row in rows_of_record(record)), path)


def _write_jsonl(records: Iterator[dict[str, Any]], path: Path) -> None:
    with path.open("wb") as stream:
        for record in records:
            stream.write(json_bytes(record, indent=None))


def _records(job: Job, outcomes: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    """The records of this run, from the disk, one at a time: they may be many."""
    for outcome in outcomes:
        if outcome.status == "left":
            continue
        record = outcome.record or Results(job.out, outcome.place.name).record()
        if record is not None:
            yield dict(record)


def _summarise(outcomes: Sequence[Outcome], inputs: Inputs, out: Path, seconds: float) -> None:
    counts = Counter(outcome.status for outcome in outcomes)
    told = [f"{counts[status]} {_WORDS[status]}" for status in _WORDS if counts[status]]
    if inputs.passed_over:
        told.append(f"{inputs.passed_over} others are no images")
    complain(f"{_files(len(outcomes))}: {', '.join(told)}; {seconds:.1f} s. Results: {out}")
    failures = [outcome for outcome in outcomes if outcome.status == "failed"]
    if len(outcomes) > 1:
        for outcome in failures[:_LISTED_FAILURES]:
            complain(f"  failed: {outcome.place.path}: {outcome.reason}")
        if len(failures) > _LISTED_FAILURES:
            complain(f"  and {len(failures) - _LISTED_FAILURES} more")
    if counts["left"]:
        complain("Interrupted. The same command goes on from here.")


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
