"""The files of a run's folder, each named here and nowhere else."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import DataError


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its settings, epochs, logs and weights.

    Attributes:
        path: The folder; it need not be there.
    """

    path: Path

    @property
    def settings(self) -> Path:
        """What the run was told."""
        return self.path / "settings.json"

    @property
    def record(self) -> Path:
        """How it was made: command, commit, hardware, time."""
        return self.path / "record.json"

    @property
    def metrics(self) -> Path:
        """The log of the latest session."""
        return self.path / "metrics.csv"

    @property
    def last(self) -> Path:
        """All that the next epoch needs, after the last whole one."""
        return self.path / "last.ckpt"

    @property
    def best(self) -> Path:
        """The same after the epoch that was best on validation."""
        return self.path / "best.ckpt"

    @property
    def network(self) -> Path:
        """The weights; there when the run has finished."""
        return self.path / "network.safetensors"

    @property
    def has_finished(self) -> bool:
        """Whether there is nothing more to train."""
        return self.network.exists()

    def read_settings(self) -> dict[str, Any]:
        """What the run was told, by name.

        Raises:
            DataError: If the file is missing or broken.
        """
        return read_json(self.settings)


def read_json(path: Path) -> dict[str, Any]:
    """A dictionary that was written as JSON.

    Raises:
        DataError: If the file is missing or broken.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"There is no {path}: {path.parent} is not what it should be.") from error
    except ValueError as error:
        raise DataError(f"{path} is broken: {error}. Delete it, or restore it.") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} is broken: it holds no dictionary. Delete it, or restore it.")
    return found
