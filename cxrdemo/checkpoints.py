"""A folder of checkpoints: its manifest, and the safe loading of weights.

Weights are data, not programs: safetensors, or `torch.load(weights_only=True)` for files that
others published as `.pth`. Bundled files are checked against the sha256 in the manifest. There is
no fallback: what does not fit raises `CheckpointError`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from cxrdemo.errors import CheckpointError
from cxrdemo.results import MaskingMode
from cxrdemo.specs import CheckpointSpec

if TYPE_CHECKING:
    import torch

MANIFEST_NAME: Final = "manifest.json"
MANIFEST_SCHEMA: Final = 1
MAX_MANIFEST_BYTES: Final = 64 * 2**20
"""A thousand times what ten checkpoints take."""


@dataclass(frozen=True)
class CheckpointStore:
    """A folder with a manifest.

    Attributes:
        folder: Where the files are.
        specs: What the manifest lists, in its order.
    """

    folder: Path
    specs: tuple[CheckpointSpec, ...]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads the manifest of a folder.

        Raises:
            CheckpointError: If there is no such folder, or it has no manifest, or one that cannot
                be understood.
        """
        # Neither pathlib nor a resolved path takes every name that may be given.
        named = f"checkpoint folder {os.path.basename(os.path.abspath(folder))[:80]!r}"  # noqa: PTH100, PTH119
        remedy = "or one on the Hugging Face Hub as hf://OWNER/NAME@REVISION."
        if not os.path.isdir(folder):  # noqa: PTH112
            raise CheckpointError(f"There is no {named}. Name a folder that is there, {remedy}")
        path = folder / MANIFEST_NAME
        if not os.path.lexists(path):
            raise CheckpointError(
                f"The {named} has no {MANIFEST_NAME}. Name the folder that has one, {remedy}"
            )
        entries = _entries(path)
        specs = tuple(CheckpointSpec.from_json(entry) for entry in entries)
        names = Counter(spec.name for spec in specs)
        for name, count in names.items():
            if count > 1:
                raise CheckpointError(f"{MANIFEST_NAME} lists {name} {count} times. Keep one.")
        return cls(folder, specs)

    @classmethod
    def open_or_begin(cls, folder: Path) -> Self:
        """The same of a folder to publish into, which may list nothing yet.

        Raises:
            CheckpointError: If there is no such folder, or its manifest cannot be understood.
        """
        if os.path.isdir(folder) and not os.path.lexists(folder / MANIFEST_NAME):  # noqa: PTH112
            return cls(folder, ())
        return cls.open(folder)

    def save(self) -> None:
        """Writes the manifest, replacing it in one step."""
        manifest = {
            "schema": MANIFEST_SCHEMA,
            "checkpoints": [spec.to_json() for spec in self.specs],
        }
        path = self.folder / MANIFEST_NAME
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        draft.replace(path)

    def lungs(self) -> CheckpointSpec | None:
        """The segmenter that finds the lungs by itself, or None.

        Raises:
            CheckpointError: If several are listed.
        """
        return _only(
            (s for s in self.specs if s.task == "lungs" and s.prompt == "whole-image"),
            "segmenter that finds the lungs by itself",
        )

    def findings(self, mode: MaskingMode) -> CheckpointSpec | None:
        """The classifier trained for a masking, or None.

        Raises:
            CheckpointError: If several are listed.
        """
        return _only(
            (s for s in self.specs if s.task == "findings" and s.masking is mode),
            f"classifier for masking '{mode}'",
        )

    def load(self, spec: CheckpointSpec) -> dict[str, torch.Tensor]:
        """Verifies a listed file against its sha256 and loads it as fp32 tensors on the CPU.

        Raises:
            CheckpointError: If the file is missing, altered or unreadable.
        """
        path = self.folder / spec.file
        if not path.is_file():
            raise CheckpointError(
                f"The checkpoint {spec.name} is listed, but its file {spec.file} is missing. "
                "Restore it from the repository or train it with `python -m training`."
            )
        found = file_sha256(path)
        if found != spec.sha256:
            raise CheckpointError(
                f"The file {spec.file} is not the one the manifest lists: sha256 {found[:12]}..., "
                f"expected {spec.sha256[:12]}... Restore the file; it is not loaded."
            )
        return read_weights(path)


def _entries(path: Path) -> list[Any]:
    """What a manifest lists, each entry still unread.

    Raises:
        CheckpointError: If the file is no manifest.
    """
    # A named pipe would never answer.
    if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
        raise CheckpointError(f"{MANIFEST_NAME} is not an ordinary file of a manifest's size.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise TypeError("it is no JSON object")
        schema, entries = manifest["schema"], manifest["checkpoints"]
        if not isinstance(entries, list):
            raise TypeError("its checkpoints are no list")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{MANIFEST_NAME} is not a checkpoint manifest: {error}.") from error
    if schema != MANIFEST_SCHEMA:
        raise CheckpointError(
            f"{MANIFEST_NAME} has schema {schema}; this version reads {MANIFEST_SCHEMA}."
        )
    return entries


def _only(found: Iterable[CheckpointSpec], wanted: str) -> CheckpointSpec | None:
    specs = tuple(found)
    if len(specs) > 1:
        names = " and ".join(spec.name for spec in specs)
        raise CheckpointError(
            f"{MANIFEST_NAME} lists more than one {wanted}: {names}. Which of them is meant cannot "
            "be told: keep one, or put the others into a folder of their own."
        )
    return specs[0] if specs else None


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Loads a state dict without running any code from the file.

    Args:
        path: A `.safetensors` file, or a `.pth` / `.pt` pickle of tensors alone, such as the
            published `medsam_vit_b.pth` and torchvision's.

    Returns:
        Name to tensor on the CPU; half-precision tensors come back as fp32.

    Raises:
        CheckpointError: If the file cannot be read or holds anything but tensors.
    """
    # Imported here, so that manifest and specs are read, and the page drawn, without it.
    import torch
    from safetensors.torch import load_file

    if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises for names that are too long
        raise CheckpointError(f"The checkpoint {path.name[:80]} is not an ordinary file.")
    try:
        if path.suffix == ".safetensors":
            found: object = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
        state = _as_state_dict(found)
        broken = [k for k, v in (state or {}).items() if not torch.isfinite(v).all()]
    except Exception as error:  # broken bytes fail in every way there is
        raise CheckpointError(
            f"The checkpoint file {path.name} could not be loaded safely. Expected safetensors, or "
            f"a .pth file that holds tensors alone. ({type(error).__name__})"
        ) from error
    if state is None:
        raise CheckpointError(
            f"The checkpoint file {path.name} does not hold a plain state dict of tensors."
        )
    if broken:
        raise CheckpointError(
            f"The checkpoint file {path.name} holds NaN or infinite weights, in {broken[:3]}."
        )
    return state


def _as_state_dict(found: object) -> dict[str, torch.Tensor] | None:
    """Names to tensors, those of half precision widened; None if it is anything else."""
    import torch

    if not isinstance(found, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in found.items()
    ):
        return None
    return {k: v.float() if v.is_floating_point() else v for k, v in found.items()}


def load_strictly(network: torch.nn.Module, state: Mapping[str, torch.Tensor], name: str) -> None:
    """Puts weights into a network; every key and shape must fit.

    Raises:
        CheckpointError: Naming the first keys that are missing, unexpected or of another shape.
    """
    own = network.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    misshapen = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or unexpected or misshapen:
        raise CheckpointError(
            f"The weights {name} do not fit the architecture: "
            f"{len(missing)} missing {missing[:3]}, {len(unexpected)} unexpected "
            f"{unexpected[:3]}, {len(misshapen)} of another shape {sorted(misshapen)[:3]}."
        )
    network.load_state_dict(dict(state), strict=True)


def file_sha256(path: Path) -> str:
    """The sha256 of a file, lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
