"""What is kept of a training run beside its weights: command, commit, hardware and time."""

import json
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from training.engine.run_folder import RunFolder, read_json
from training.errors import DataError
from training.writing import replacing

RECORDED: Final = ("segment", "pretrain", "classify")
"""Commands whose --out is a run folder."""

ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Record:
    """How a run was made.

    Attributes:
        command: The command line.
        commit: Of the code, with "+ changes" if files differ from it; empty outside a repository.
        hardware: Processor, cores and GPUs.
        seconds: Wall-clock time of all its sessions, start and validation counted.
        sessions: How often it was started.
        unfinished: Sessions that were killed, whose time is not in `seconds`.
    """

    command: str
    commit: str
    hardware: str
    seconds: float = 0.0
    sessions: int = 0
    unfinished: int = 0


def read_record(folder: Path) -> Record | None:
    """The record of a run folder, or None if there is none.

    Raises:
        DataError: If it is broken.
    """
    path = RunFolder(folder).record
    if not path.is_file():
        return None
    try:
        return Record(**read_json(path))
    except TypeError as error:
        raise DataError(f"{path} is no record of this version: {error}. Delete it.") from error


def drawn_images(settings: Mapping[str, Any]) -> int | None:
    """Training images that a classifier's run drew; None if its settings do not say.

    A run that may stop early draws fewer than its settings tell.
    """
    if settings.get("patience") or not {"epochs", "images_per_epoch"} <= settings.keys():
        return None
    return int(settings["epochs"] * settings["images_per_epoch"])


@contextmanager
def recorded(folder: Path, command: str, flags: tuple[str, ...]) -> Iterator[None]:
    """Times one session of a run and adds it to the folder's record.

    The record is there from the start, so that a session that is killed is at least counted. Of
    the processes of a distributed run only the first writes.
    """
    if RunFolder(folder).has_finished:
        yield  # The run has finished before: nothing is trained, and nothing is to be recorded.
        return
    if any(os.environ.get(name, "0") != "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK")):
        yield
        return
    before = read_record(folder)
    record = Record(
        command=shlex.join(["python", "-m", "training", command, *flags]),
        commit=_commit(),
        hardware=_hardware(),
        seconds=before.seconds if before else 0.0,
        sessions=(before.sessions if before else 0) + 1,
        unfinished=(before.unfinished if before else 0) + 1,
    )
    _write(folder, record)
    start = time.monotonic()
    try:
        yield
    finally:
        seconds = record.seconds + time.monotonic() - start
        _write(folder, replace(record, seconds=seconds, unfinished=record.unfinished - 1))


def _write(folder: Path, record: Record) -> None:
    with replacing(RunFolder(folder).record) as draft:
        draft.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def _commit() -> str:
    """The commit of this very code, if it lies in a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit} + changes" if _git("status", "--porcelain", "-uno") else commit
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _hardware() -> str:
    parts = [f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"]
    counts: dict[str, int] = {}
    for index in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(index)
        counts[name] = counts.get(name, 0) + 1
    return ", ".join([*parts, *(f"{count} x {name}" for name, count in counts.items())])
