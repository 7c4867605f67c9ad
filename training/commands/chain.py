"""Chains of commands: planned as command lines, printed, run one after the other, resumable."""

import argparse
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Final

from cxrdemo.devices import resolve
from training.commands import classify, evaluate, masks, pretrain, publish, segment
from training.engine.record import RECORDED, recorded
from training.errors import DataError
from training.sets.index import FindingCase, LungCase
from training.writing import replacing

COMMANDS: Final[dict[str, ModuleType]] = {
    "segment": segment,
    "masks": masks,
    "pretrain": pretrain,
    "classify": classify,
    "publish": publish,
    "evaluate": evaluate,
}


@dataclass(frozen=True)
class Step:
    """One command of a chain.

    Attributes:
        name: Unique in the chain.
        command: A key of `COMMANDS`.
        flags: Its arguments.
        output: What is there when it has finished.
    """

    name: str
    command: str
    flags: tuple[str, ...]
    output: Path

    @property
    def line(self) -> str:
        """The command line that does the same."""
        return shlex.join(["python", "-m", "training", self.command, *self.flags])


def publication(run: Path, folder: Path, *flags: str) -> Step:
    """The step that publishes a run into a checkpoint folder."""
    given = ("--run", str(run), "--checkpoints", str(folder), *flags)
    return Step(f"publish-{run.name}", "publish", given, folder / "manifest.json")


def on_device(steps: Sequence[Step], device: str) -> list[Step]:
    """The same steps on a device that somebody named; "auto" is every command's own default."""
    if device == "auto":
        return list(steps)
    resolve(device)  # so that a wrong name is told before anything runs
    return [replace(step, flags=(*step.flags, "--device", device)) for step in steps]


def run_chain(steps: Sequence[Step], out: Path, *, dry: bool = False) -> None:
    """Runs what has not finished before, or only prints it.

    Args:
        steps: In order.
        out: Folder of the chain; keeps the command line of each finished step in `done`.
        dry: Print the whole plan and run nothing.

    Raises:
        DataError: If a step has finished before with other settings.
    """
    for number, step in enumerate(steps, 1):
        counted = f"[{number}/{len(steps)}]"
        if dry:
            print(f"{counted} {step.line}")
        else:
            run_step(step, out / "done", counted)


def run_step(step: Step, done: Path, number: str) -> None:
    """Prints and runs one command, unless it has finished before.

    Args:
        step: What to run.
        done: Folder that keeps the command line of each finished step.
        number: Where in the chain it is, to print.

    Raises:
        DataError: If the step has finished before with other settings.
    """
    note = done / f"{step.name}.txt"
    if note.exists() and step.output.exists():
        if note.read_text(encoding="utf-8") != step.line:
            raise DataError(
                f"The step {step.name} has finished with other settings: see {note}. Choose "
                "another --out."
            )
        print(f"{number} finished before: {step.name}", flush=True)
        return
    print(f"{number} {step.line}", flush=True)
    module = COMMANDS[step.command]
    parser = argparse.ArgumentParser(prog=step.command)
    module.add_arguments(parser)
    run_command(step.command, module, parser.parse_args(step.flags), step.flags)
    with replacing(note) as draft:
        draft.write_text(step.line, encoding="utf-8")


def run_command(
    name: str, module: ModuleType, args: argparse.Namespace, flags: Sequence[str]
) -> None:
    """Runs a command, with a record of the run where it trains.

    Args:
        name: Of the command.
        module: Of the command.
        args: Its flags, parsed.
        flags: The same as they were given.
    """
    is_training = name in RECORDED
    with recorded(args.out, name, tuple(flags)) if is_training else nullcontext():
        module.run(args)


def describe(cases: Sequence[FindingCase] | Sequence[LungCase]) -> str:
    """How many training images of which sets, for a card."""
    counts = Counter(case.dataset for case in cases if case.split == "train")
    return ", ".join(f"{count} images of {name}" for name, count in counts.items())
