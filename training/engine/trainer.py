"""Training runs: settings, order of the images, resumption, devices and logs, for every command.

A run folder holds `settings.json`, the best and the last epoch, the logs, and at the end
`network.safetensors`. What is random in a step depends on the seed, the epoch and the place in it
alone, never on what the process did before. So a run that was killed at any moment and is given
again goes on after its last whole epoch and ends with the same weights: bit for bit on a processor,
and on GPUs but for kernels that add in no fixed order.
"""

import hashlib
import json
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from cxrdemo.devices import (
    AskedPrecision,
    Precision,
    precision_for,
    resolve,
)
from training.engine.draws import UseSampler
from training.engine.run_folder import RunFolder
from training.engine.settings import FREE_SETTINGS, RunSettings
from training.errors import DataError
from training.writing import replacing

LightningPrecision = Literal["bf16-mixed", "16-mixed", "32-true"]

LIGHTNING_WORDS: Final[Mapping[Precision, LightningPrecision]] = {
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
    "fp32": "32-true",
}
"""What `Trainer(precision=...)` calls each precision."""

WARM_UP: Final = 0.1
"""Part of the steps in which the learning rate rises."""


def _wandb(folder: Path) -> Logger:
    from lightning.pytorch.loggers import WandbLogger

    # One run of theirs for one run folder, however often it is resumed.
    return WandbLogger(project="cxrdemo", name=folder.name, id=_key(folder), save_dir=folder)


def _mlflow(folder: Path) -> Logger:
    from lightning.pytorch.loggers import MLFlowLogger

    where = os.environ.get("MLFLOW_TRACKING_URI") or f"file:{folder.resolve() / 'mlflow'}"
    return MLFlowLogger(experiment_name="cxrdemo", run_name=folder.name, tracking_uri=where)


def _logger(name: str, folder: Path) -> Logger:
    try:
        return LOGGERS[name](folder)
    except ModuleNotFoundError as error:
        raise DataError(
            f"--logger {name} needs a package that is not installed: pip install {name}."
        ) from error


def _key(folder: Path) -> str:
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]


LOGGERS: Final[Mapping[str, Callable[[Path], Logger]]] = {
    "tensorboard": lambda folder: TensorBoardLogger(folder, name="", version="tensorboard"),
    "wandb": _wandb,
    "mlflow": _mlflow,
}
"""What `--logger` names, given the run folder. The log of a run, `metrics.csv`, is kept by all."""


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes beside the file and renames, so that no moment is a bad one to be killed."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Saves a checkpoint to a local path."""
        try:
            with replacing(Path(path)) as draft:
                torch.save(checkpoint, draft)
        except RuntimeError as error:  # what torch makes of a write that the system refused
            raise DataError(_cannot_write(Path(path), error)) from error


class KeptEpoch(ModelCheckpoint):
    """Keeps one epoch of a run, also of a run whose folder was moved before it went on.

    Lightning would forget the best score then, take the next epoch for the best one, and look for
    the old one where it no longer is.
    """

    @property
    def state_key(self) -> str:
        """As Lightning names it, so that checkpoints do not depend on this class's name."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the score and the files, which lie in this run's folder wherever that is."""
        folder = str(self.dirpath)

        def here(path: str) -> str:
            return os.path.join(folder, Path(path).name) if path else path  # noqa: PTH118

        moved = {
            key: here(value) if key.endswith("_model_path") else value
            for key, value in state_dict.items()
        }
        kept = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(moved | {"dirpath": self.dirpath, "best_k_models": kept})


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


def begin(settings: RunSettings) -> bool:
    """Opens a run folder and seeds everything; False if the run in it has finished.

    Raises:
        DataError: If the folder holds a run with other settings.
    """
    folder = RunFolder(Path(settings.out))
    wanted = json.loads(json.dumps(asdict(settings)))
    begun = any(path.exists() for path in (folder.best, folder.last, folder.network))
    if folder.settings.exists() and begun:
        found = folder.read_settings()
        differing = {
            key: f"{found.get(key)} -> {wanted.get(key)}"
            for key in sorted((found.keys() | wanted.keys()) - FREE_SETTINGS)
            if found.get(key) != wanted.get(key)
        }
        if differing:
            raise DataError(
                f"{folder.path} holds a run with other settings: {differing}. Give those, or "
                "another --out."
            )
        if folder.has_finished:
            _say(f"{folder.network} is there: this run has finished before")
            return False
    _write_settings(folder.settings, wanted)
    L.seed_everything(settings.seed, workers=True, verbose=False)
    return True


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
    run = RunFolder(Path(settings.out))
    folder = run.path
    best = KeptEpoch(
        folder, run.best.stem, monitor=monitor, mode="max", enable_version_counter=False
    )
    last = KeptEpoch(folder, run.last.stem, enable_version_counter=False)
    on_terminal = sys.stdout.isatty()
    callbacks: list[L.Callback] = [best, last, StepSeeds(settings.seed)]
    callbacks.append(RichProgressBar() if on_terminal else EpochLines())
    if settings.ema:
        callbacks.append(EMAWeightAveraging(decay=settings.ema))
    if settings.patience:
        callbacks.append(EarlyStopping(monitor, patience=settings.patience, mode="max"))
    device = resolve(settings.device)
    index = cast(int | None, device.index)  # None where any will do
    has_gpu = device.type == "cuda"
    precision = precision_of(settings.precision, str(device))
    loggers = [_logger(name, folder) for name in settings.logger if name != "csv"]
    _keep_earlier_metrics(run)
    trainer = L.Trainer(
        max_epochs=settings.epochs,
        accelerator="gpu" if has_gpu else device.type,
        devices=settings.devices if index is None else [index],
        num_nodes=settings.num_nodes,
        strategy=DDPStrategy(find_unused_parameters=some_unused) if settings.world > 1 else "auto",
        sync_batchnorm=settings.world > 1 and has_gpu,  # torch has none for processors
        use_distributed_sampler=False,  # the samplers here share out by themselves
        precision=precision,
        gradient_clip_val=1.0,
        callbacks=callbacks,
        logger=[CSVLogger(folder, name="", version="", flush_logs_every_n_steps=1), *loggers],
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
    folder = RunFolder(Path(settings.out))
    resumed, stored = resume_from(folder)
    if resumed is not None:
        # Lightning starts the loading processes before it tells the sampler the epoch.
        cast(UseSampler, training.sampler).set_epoch(stored["epoch"] + 1)
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
        chosen = Path((best if select == "best" else last).best_model_path)
        if select == "last" and stored and stored["epoch"] + 1 >= (trainer.max_epochs or 0):
            # Nothing was left to train, so what was gone on from is the last epoch: the best one,
            # if the process was ended between the writing of the two.
            chosen = cast(Path, resumed)
        save_network(chosen, folder)
        _say(
            f"best {monitor} {float(best.best_model_score or 0):.4f}, kept the {select} epoch: "
            f"{folder.network}"
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


def precision_of(wanted: str, device: str) -> LightningPrecision:
    """Lightning's word for a precision; says in one line what "auto" has chosen.

    Raises:
        DataError: If the device cannot train in it.
    """
    if wanted == "fp16" and not device.startswith("cuda"):
        raise DataError(f"--precision fp16 is for GPUs, and this run is on {device}. Take auto.")
    chosen = precision_for(cast(AskedPrecision, wanted), device)
    word = LIGHTNING_WORDS[chosen]
    if wanted == "auto":
        reason = "has bf16" if chosen == "bf16" else "has no bf16"
        _say(f"precision {word}: {device} {reason} in hardware")
    return word


def resume_from(folder: RunFolder) -> tuple[Path | None, dict[str, Any]]:
    """The last epoch of an interrupted run and what it holds, or None and nothing for a new run.

    Where the last epoch cannot be read, such as on a disk that lost its end, the best one is taken
    and this is said; what came after it is trained again, to the same weights.

    Raises:
        DataError: If neither can be read.
    """
    broken: list[Path] = []
    for path in (folder.last, folder.best):
        if not path.exists():
            continue
        try:
            # Memory-mapped: only what is looked at is read.
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if broken:
                _say(f"{broken[0]} is broken: going on from {path.name} instead")
            return path, cast(dict[str, Any], stored)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError):
            broken.append(path)
    if broken:
        raise DataError(
            f"{' and '.join(str(path) for path in broken)} cannot be read, so this run cannot go "
            "on. Restore one of them, or delete the folder to begin anew."
        )
    return None, {}


def save_network(checkpoint: Path, folder: RunFolder) -> None:
    """Writes the network's weights of a Lightning checkpoint as `network.safetensors`."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    weights = {
        name.removeprefix("network."): value.contiguous()
        for name, value in state.items()
        if name.startswith("network.")
    }
    try:
        with replacing(folder.network) as draft:
            save_file(weights, draft)
    except SafetensorError as error:
        raise DataError(_cannot_write(folder.network, error)) from error


@rank_zero_only
def _write_settings(path: Path, values: dict[str, Any]) -> None:
    with replacing(path) as draft:
        draft.write_text(json.dumps(values, indent=1), encoding="utf-8")


@rank_zero_only
def _keep_earlier_metrics(folder: RunFolder) -> None:
    """Renames the log of an interrupted run, which `CSVLogger` would delete."""
    if folder.metrics.exists():
        number = 1
        while (kept := folder.path / f"metrics.{number}.csv").exists():
            number += 1
        folder.metrics.rename(kept)


def _cannot_write(path: Path, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    return (
        f"{path} cannot be written ({reason}). Is the disk full? Make room and give the same "
        "command again: it goes on after the last whole epoch."
    )


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)
