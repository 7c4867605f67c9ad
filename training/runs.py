"""Training runs: settings, order of the images, resumption, devices and logs, for every command.

A run folder holds `settings.json`, the best and the last epoch, the logs, and at the end
`network.safetensors`. What is random in a step depends on the seed, the epoch and the place in it
alone, never on what the process did before. So a run that was killed at any moment and is given
again goes on after its last whole epoch and ends with the same weights: bit for bit on a processor,
and on GPUs but for kernels that add in no fixed order.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset, Sampler

from cxrdemo.devices import training_precision
from training.data import DataError

NETWORK_NAME: Final = "network.safetensors"
SETTINGS_NAME: Final = "settings.json"
METRICS_NAME: Final = "metrics.csv"
LAST_NAME: Final = "last"

FREE_SETTINGS: Final = frozenset({"workers", "data", "extra", "masks", "init", "out"})
"""May differ when a run is resumed: where things lie, and what changes no number."""

WARM_UP: Final = 0.1
"""Part of the steps in which the learning rate rises."""


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
        precision: "auto", "fp32" or "bf16".
        devices: Per node.
        num_nodes: Machines.
        seed: Of everything random.
        workers: Data loading processes per device.
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

    @property
    def world(self) -> int:
        """Number of processes that train together."""
        return self.devices * self.num_nodes


AnySettings = TypeVar("AnySettings", bound=RunSettings)


@dataclass(frozen=True)
class Draw:
    """One use of an image: which one, and the seed of all that is random about this use."""

    index: int
    seed: int


class DrawSampler(Sampler[Draw]):
    """The draws of an epoch, shared out among the processes of a run.

    With weights, images are drawn with replacement; without, each comes once. Process r of n takes
    every n-th draw from r on, so that a step sees the same images however many processes share it.
    A remainder that does not go round is left out, as all processes must take as many steps.
    """

    def __init__(
        self, size: int, *, seed: int, weights: NDArray[np.float64] | None = None, count: int = 0
    ) -> None:
        """Args: number of images, seed, chance of each (sums to 1), draws per epoch if weighted."""
        self._size = size
        self._seed = seed
        self._weights = weights
        self._count = count if weights is not None else size
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count // _rank_and_world()[1]

    def __iter__(self) -> Iterator[Draw]:
        rank, world = _rank_and_world()
        rng = np.random.default_rng([self._seed, self._epoch])
        if self._weights is None:
            indices = rng.permutation(self._size)
        else:
            indices = rng.choice(self._size, self._count, p=self._weights)
        seeds = rng.integers(2**63, size=self._count)
        for place in range(rank, len(self) * world, world):
            yield Draw(int(indices[place]), int(seeds[place]))


class EvenSampler(Sampler[Draw]):
    """Every image in order, shared out; the first come again where it does not go round.

    `gather_rows` drops what came twice.
    """

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return -(-self._size // _rank_and_world()[1])

    def __iter__(self) -> Iterator[Draw]:
        rank, world = _rank_and_world()
        for place in range(rank, len(self) * world, world):
            yield Draw(place % self._size, 0)


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the file and renames, so that no moment is a bad one to be killed."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Saves a checkpoint to a local path."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        torch.save(checkpoint, part)
        part.replace(target)


class StepSeeds(L.Callback):
    """Seeds dropout and its like for each step anew, so that a resumed run goes on alike."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Seeds torch from the run's seed, the step and the process."""
        words = [self._seed, trainer.global_step, trainer.global_rank]
        torch.manual_seed(int(np.random.default_rng(words).integers(2**63)))


class EpochLines(L.Callback):
    """Prints one line per epoch, where there is no terminal for a progress bar."""

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, _: L.LightningModule) -> None:
        """Prints what the epoch logged."""
        figures = "  ".join(f"{k} {float(v):.4f}" for k, v in trainer.callback_metrics.items())
        print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {figures}", flush=True)


def add_run_arguments(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Declares the flags of `RunSettings`; defaults of a command by name."""
    parser.add_argument("--out", type=Path, required=True, help="run folder; resumed if it exists")
    group = parser.add_argument_group("run")
    group.add_argument("--epochs", type=int, default=20)
    group.add_argument("--batch", type=int, help="images per step, on all devices together")
    group.add_argument("--lr", type=float, help="peak learning rate")
    group.add_argument("--weight-decay", type=float)
    group.add_argument("--ema", type=float, help="decay of the averaged weights; 0 for none")
    group.add_argument(
        "--patience",
        type=int,
        default=0,
        help="stop after so many epochs without improvement on validation; 0 for never",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: mixed bf16 where the hardware has it",
    )
    group.add_argument("--devices", type=int, default=1, help="GPUs (or CPU processes) per node")
    group.add_argument("--num-nodes", type=int, default=1)
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--workers", type=int, default=1, help="data loading processes per device")
    parser.set_defaults(**defaults)


def settings_from(kind: type[AnySettings], args: argparse.Namespace, **more: Any) -> AnySettings:
    """Settings of a command from its flags; paths become text.

    Raises:
        DataError: If a number makes no sense.
    """
    given = {**vars(args), **more}
    settings = kind(**{f.name: _plain(given[f.name]) for f in fields(kind)})
    for name in ("epochs", "batch", "devices", "num_nodes"):
        if getattr(settings, name) < 1:
            flag = name.replace("_", "-")
            raise DataError(f"--{flag} must be 1 or more, got {getattr(settings, name)}.")
    if settings.batch % settings.world:
        raise DataError(
            f"--batch {settings.batch} cannot be shared out among {settings.world} processes. "
            "Choose a multiple."
        )
    return settings


def begin(settings: RunSettings) -> bool:
    """Opens a run folder and seeds everything; False if the run in it has finished.

    Raises:
        DataError: If the folder holds a run with other settings.
    """
    folder = Path(settings.out)
    path = folder / SETTINGS_NAME
    wanted = json.loads(json.dumps(asdict(settings)))
    if path.exists() and (resume_from(folder) or (folder / NETWORK_NAME).exists()):
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = {
            key: f"{found.get(key)} -> {wanted.get(key)}"
            for key in sorted((found.keys() | wanted.keys()) - FREE_SETTINGS)
            if found.get(key) != wanted.get(key)
        }
        if differing:
            raise DataError(
                f"{folder} holds a run with other settings: {differing}. Give those, or another "
                "--out."
            )
        if (folder / NETWORK_NAME).exists():
            _say(f"{folder / NETWORK_NAME} is there: this run has finished before")
            return False
    _write_settings(path, wanted)
    L.seed_everything(settings.seed, workers=True, verbose=False)
    return True


def train_loader(
    data: Dataset[dict[str, Tensor]], settings: RunSettings, sampler: DrawSampler
) -> DataLoader[dict[str, Tensor]]:
    """Batches of drawn images.

    Raises:
        DataError: If an epoch has fewer images than a batch.
    """
    if len(sampler) < settings.batch:
        raise DataError(
            f"An epoch has {len(sampler)} images, which is less than one --batch of "
            f"{settings.batch}. Choose a smaller batch, or more images."
        )
    return _loader(data, settings, sampler, drop_last=True)


def val_loader(
    data: Dataset[dict[str, Tensor]], settings: RunSettings, size: int
) -> DataLoader[dict[str, Tensor]]:
    """Batches of all validation images.

    Raises:
        DataError: If there is none.
    """
    if size == 0:
        raise DataError("No image is in the split 'val', and the best epoch is chosen on it.")
    return _loader(data, settings, EvenSampler(size), drop_last=False)


def build_trainer(
    settings: RunSettings, monitor: str, *, some_unused: bool = False
) -> tuple[L.Trainer, ModelCheckpoint, ModelCheckpoint]:
    """The trainer of every command, and its keepers of the best and the last epoch.

    Two keepers, because `ModelCheckpoint(save_last=True)` writes the last epoch only when a best
    one is written (Lightning 2.6).

    Args:
        settings: Of the run.
        monitor: Validation figure; higher is better.
        some_unused: Whether a step may leave weights without a gradient, which costs time on
            several devices.
    """
    folder = Path(settings.out)
    best = ModelCheckpoint(
        folder, "best", monitor=monitor, mode="max", enable_version_counter=False
    )
    last = ModelCheckpoint(folder, LAST_NAME, enable_version_counter=False)
    on_terminal = sys.stdout.isatty()
    callbacks: list[L.Callback] = [best, last, StepSeeds(settings.seed)]
    callbacks.append(RichProgressBar() if on_terminal else EpochLines())
    if settings.ema:
        callbacks.append(EMAWeightAveraging(decay=settings.ema))
    if settings.patience:
        callbacks.append(EarlyStopping(monitor, patience=settings.patience, mode="max"))
    has_gpu = torch.cuda.is_available()
    precision = precision_of(settings.precision, "cuda" if has_gpu else "cpu")
    _keep_earlier_metrics(folder)
    trainer = L.Trainer(
        max_epochs=settings.epochs,
        accelerator="auto",
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=DDPStrategy(find_unused_parameters=some_unused) if settings.world > 1 else "auto",
        sync_batchnorm=settings.world > 1 and has_gpu,  # torch has none for processors
        use_distributed_sampler=False,  # the samplers here share out by themselves
        precision=precision,
        gradient_clip_val=1.0,
        callbacks=callbacks,
        logger=[
            CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1),
            TensorBoardLogger(folder, name="", version="tensorboard"),
        ],
        plugins=[AtomicCheckpoints()],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=on_terminal,
        enable_model_summary=False,
    )
    return trainer, best, last


def fit(
    task: L.LightningModule,
    training: DataLoader[dict[str, Tensor]],
    validation: DataLoader[dict[str, Tensor]],
    settings: RunSettings,
    *,
    monitor: str,
    select: str = "best",
    some_unused: bool = False,
) -> None:
    """Trains, going on where an earlier run stopped, and writes `network.safetensors`.

    Args:
        task: With the network as its `network`.
        training: From `train_loader`.
        validation: From `val_loader`.
        settings: Of the run.
        monitor: Validation figure; higher is better.
        select: Which epoch to keep, "best" or "last".
        some_unused: See `build_trainer`.
    """
    folder = Path(settings.out)
    resumed = resume_from(folder)
    stored: dict[str, Any] = {}
    if resumed is not None:
        stored = torch.load(resumed, map_location="cpu", weights_only=True, mmap=True)
        # Lightning starts the loading processes before it tells the sampler the epoch.
        cast(DrawSampler, training.sampler).set_epoch(stored["epoch"] + 1)
        _say(f"going on after epoch {stored['epoch'] + 1} of {settings.epochs}: {resumed}")
    trainer, best, last = build_trainer(settings, monitor, some_unused=some_unused)
    if stored and any(s.get("stopped_epoch") for s in stored["callbacks"].values()):
        # It had stopped early already, and was ended before it wrote its network.
        trainer.fit_loop.max_epochs = stored["epoch"] + 1
    with warnings.catch_warnings():
        # A run folder is never empty, and the earlier log was moved out of the way.
        for message in ("Experiment logs directory", "Checkpoint directory"):
            warnings.filterwarnings("ignore", message=message)
        trainer.fit(task, training, validation, ckpt_path=resumed, weights_only=True)
    if trainer.is_global_zero:
        chosen = best if select == "best" else last
        save_network(Path(chosen.best_model_path), folder)
        _say(
            f"best {monitor} {float(best.best_model_score or 0):.4f}, kept the {select} epoch: "
            f"{folder / NETWORK_NAME}"
        )


def one_cycle(task: L.LightningModule, settings: RunSettings) -> Any:
    """AdamW over what is not frozen, with a short warm-up and a cosine decay."""
    parameters = [p for p in task.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        settings.lr,
        total_steps=int(task.trainer.estimated_stepping_batches),
        pct_start=WARM_UP,
    )
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def gather_rows(task: L.LightningModule, indices: Tensor, values: Tensor) -> Tensor:
    """What all processes found for the validation images, one row per image, in their order.

    Args:
        task: In a running trainer.
        indices: Image of each row (N,), the same N in every process.
        values: (N, ...).
    """
    if task.trainer.world_size > 1:
        indices, values = (x.flatten(0, 1) for x in task.all_gather((indices, values)))
    _, first = np.unique(indices.cpu().numpy(), return_index=True)
    return values[torch.from_numpy(first).to(values.device)]


def precision_of(wanted: str, device: str) -> Literal["bf16-mixed", "32-true"]:
    """Lightning's word for a precision; says in one line what "auto" has chosen."""
    if wanted == "auto":
        chosen = training_precision(device)
        reason = "has bf16" if chosen == "bf16-mixed" else "has no bf16"
        _say(f"precision {chosen}: {device} {reason} in hardware")
        return chosen
    return "bf16-mixed" if wanted == "bf16" else "32-true"


def resume_from(folder: Path) -> Path | None:
    """The last epoch of an interrupted run, or None for a new one."""
    path = folder / f"{LAST_NAME}.ckpt"
    return path if path.exists() else None


def save_network(checkpoint: Path, folder: Path) -> None:
    """Writes the network's weights of a Lightning checkpoint as `network.safetensors`."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    weights = {
        name.removeprefix("network."): value.contiguous()
        for name, value in state.items()
        if name.startswith("network.")
    }
    draft = folder / f"{NETWORK_NAME}.part"
    save_file(weights, draft)
    draft.replace(folder / NETWORK_NAME)


def _loader(
    data: Dataset[dict[str, Tensor]],
    settings: RunSettings,
    sampler: DrawSampler | EvenSampler,
    *,
    drop_last: bool,
) -> DataLoader[dict[str, Tensor]]:
    return DataLoader(
        data,
        batch_size=settings.batch // settings.world,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


@rank_zero_only
def _write_settings(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.part")
    draft.write_text(json.dumps(values, indent=1), encoding="utf-8")
    draft.replace(path)


@rank_zero_only
def _keep_earlier_metrics(folder: Path) -> None:
    """Renames the log of an interrupted run, which `CSVLogger` would delete."""
    path = folder / METRICS_NAME
    if path.exists():
        number = 1
        while (kept := folder / f"metrics.{number}.csv").exists():
            number += 1
        path.rename(kept)


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)


def _rank_and_world() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
