"""What every training run is told."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from cxrdemo.commands.numbers import number
from training.errors import DataError

FREE_SETTINGS: Final = frozenset(
    {"workers", "data", "extra", "masks", "boxes", "init", "out", "device", "logger"}
)
"""May differ when a run is resumed: where things lie, and what changes no number."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What every training run has.

    Attributes:
        out: Run folder.
        epochs: At most.
        batch: Images per step, on all devices together.
        lr: Peak learning rate.
        weight_decay: Of AdamW.
        ema: Decay of the averaged weights per step; 0 for none.
        patience: Epochs without improvement on validation before it stops; 0 to never stop.
        precision: "auto", "fp32", "bf16" or "fp16".
        devices: Per node.
        num_nodes: Machines.
        seed: Of everything random.
        workers: Data loading processes per device.
        device: Where it trains, as `cxrdemo.devices.resolve` takes it.
        logger: Keys of `trainer.LOGGERS`, beside the CSV log that every run keeps.
    """

    out: str
    epochs: int
    batch: int
    lr: float
    weight_decay: float
    ema: float
    patience: int
    precision: str
    devices: int
    num_nodes: int
    seed: int
    workers: int
    device: str = "auto"
    logger: Sequence[str] = ("tensorboard",)

    @property
    def world(self) -> int:
        """Number of processes that train together."""
        return self.devices * self.num_nodes


AnySettings = TypeVar("AnySettings", bound=RunSettings)


def add_run_arguments(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Declares the flags of `RunSettings`; defaults of a command by name."""
    parser.add_argument("--out", type=Path, required=True, help="run folder; resumed if it exists")
    group = parser.add_argument_group("run")
    group.add_argument("--epochs", type=number(int, 1), default=20, help="at most")
    group.add_argument(
        "--batch", type=number(int, 1), help="images per step, on all devices together"
    )
    group.add_argument("--lr", type=number(float, 0), help="peak learning rate")
    group.add_argument("--weight-decay", type=number(float, 0), help="of AdamW")
    group.add_argument(
        "--ema", type=number(float, 0, 1), help="decay of the averaged weights; 0 for none"
    )
    group.add_argument(
        "--patience",
        type=number(int, 0),
        default=0,
        help="stop after so many epochs without improvement on validation; 0 for never",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="auto: mixed bf16 where the hardware has it, mixed fp16 on GPUs that have that alone",
    )
    group.add_argument(
        "--devices", type=number(int, 1), default=1, help="GPUs (or CPU processes) per node"
    )
    group.add_argument(
        "--num-nodes", type=number(int, 1), default=1, help="machines that train together"
    )
    group.add_argument("--seed", type=number(int, 0), default=0, help="of everything random")
    group.add_argument(
        "--workers", type=number(int, 0), default=1, help="data loading processes per device"
    )
    group.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, or auto for GPUs where there are some"
    )
    group.add_argument(
        "--logger",
        nargs="+",
        choices=("csv", "tensorboard", "wandb", "mlflow"),
        default=["tensorboard"],
        help="where figures go beside metrics.csv; wandb and mlflow must be installed",
    )
    parser.set_defaults(**defaults)


def settings_from(kind: type[AnySettings], args: argparse.Namespace, **more: Any) -> AnySettings:
    """Settings of a command from its flags; paths become text.

    Raises:
        DataError: If the processes cannot share out a batch.
    """
    given = {**vars(args), **more}
    settings = kind(**{f.name: _plain(given[f.name]) for f in fields(kind)})
    if settings.batch % settings.world:
        raise DataError(
            f"--batch {settings.batch} cannot be shared out among {settings.world} processes. "
            "Choose a multiple."
        )
    return settings


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
