"""What a run folder holds: the best and the last epoch, and the network that came of it."""

from pathlib import Path
from typing import Final

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import save_file

LAST_NAME: Final = "last"


def checkpoint_callbacks(folder: Path, monitor: str) -> tuple[ModelCheckpoint, ModelCheckpoint]:
    """Keeps the best epoch by a validation figure, and the last one to resume from.

    Two callbacks, because `ModelCheckpoint(save_last=True)` writes the last epoch only when a best
    one is written (Lightning 2.6).
    """
    best = ModelCheckpoint(
        folder, "best", monitor=monitor, mode="max", enable_version_counter=False
    )
    last = ModelCheckpoint(folder, LAST_NAME, enable_version_counter=False)
    return best, last


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
    save_file(weights, folder / "network.safetensors")
