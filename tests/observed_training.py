"""Runs a training command in a process of its own and watches it: FOLDER KILL_AT COMMAND...

Each process writes to FOLDER/RANK.json which images it drew, epoch by epoch, and a hash of the
weights it ended with. At the step KILL_AT (-1 for never) it kills itself without any warning.
"""

import hashlib
import json
import os
import signal
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from cores import threads

from training.__main__ import main
from training.commands.classify import ClassifyTask

FOLDER, KILL_AT = Path(sys.argv[1]), int(sys.argv[2])
drawn: dict[int, list[int]] = defaultdict(list)
step = ClassifyTask.training_step


def watched_step(task: ClassifyTask, batch: dict[str, torch.Tensor], number: int) -> torch.Tensor:
    if task.trainer.global_step == KILL_AT:
        os.kill(os.getpid(), signal.SIGKILL)
    drawn[task.trainer.current_epoch] += batch["index"].tolist()
    return step(task, batch, number)


def at_the_end(task: ClassifyTask) -> None:
    digest = hashlib.sha256()
    for parameter in task.network.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    found: dict[str, Any] = {"drawn": drawn, "weights": digest.hexdigest()}
    (FOLDER / f"{task.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    if "RANK" not in os.environ:  # alone: with as many threads as the test itself
        torch.set_num_threads(threads())
    ClassifyTask.training_step = watched_step  # type: ignore[method-assign]
    ClassifyTask.on_train_end = at_the_end  # type: ignore[method-assign]
    sys.exit(main(sys.argv[3:]))
