"""Checkpoints: the manifest, what a spec says, and the safe loading of weights.

Weights are data, not programs: safetensors, or `torch.load(weights_only=True)` for files that
others published as `.pth`. Bundled files are checked against the sha256 in the manifest. There is
no fallback: what does not fit raises `CheckpointError`. A folder may lie on the Hugging Face Hub:
its revision is named, and its files are checked against its manifest like any others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, get_args

import httpx2
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cxrdemo.errors import CheckpointError
from cxrdemo.inputs import InputSpec
from cxrdemo.results import MaskingMode

if TYPE_CHECKING:
    import torch

MANIFEST_NAME: Final = "manifest.json"
MANIFEST_SCHEMA: Final = 1

HUB_SCHEME: Final = "hf://"
HUB_PATTERNS: Final = (MANIFEST_NAME, "*.safetensors", "*.md")
"""What of a Hub repository is uploaded and downloaded; never a pickle."""

HUB_UNREACHABLE: Final = (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx2.TransportError)
"""What the Hub's client raises without a network (it speaks HTTP through httpx2)."""

CHANCE: Final = 0.5
"""AUROC of a score that knows nothing."""

Task = Literal["lungs", "findings"]
PromptKind = Literal["whole-image", "lung-boxes"]
Pooling = Literal["all", "kept"]


@dataclass(frozen=True)
class Estimate:
    """A measured figure with its 95 % interval and its n."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the calibrated scale, and what it was measured to do on test patients.

    Attributes:
        name: Such as "balanced".
        threshold: At or above it a finding is called.
        rule: How the threshold was chosen, in words.
        sensitivity: n is the number of positives.
        specificity: n is the number of negatives.
    """

    name: str
    threshold: float
    rule: str
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None


@dataclass(frozen=True)
class LabelSpec:
    """One output of a classifier: calibration and operating point, both from validation data.

    Attributes:
        key: Label key, see `labels.py`.
        scale: Slope of the Platt calibration: probability = sigmoid(scale * logit + offset).
        offset: Intercept of the Platt calibration.
        threshold: Operating point on the calibrated scale.
        rule: How the threshold was chosen, in words.
        sensitivity: Measured at the threshold on test patients; n is the number of positives.
        specificity: Measured at the threshold on test patients; n is the number of negatives.
        others: Further operating points to choose from, such as one of high sensitivity.
    """

    key: str
    scale: float
    offset: float
    threshold: float
    rule: str
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None
    others: tuple[OperatingPoint, ...] = ()

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """Every operating point; the first is the default one."""
        default = OperatingPoint(
            "balanced", self.threshold, self.rule, self.sensitivity, self.specificity
        )
        return (default, *self.others)


@dataclass(frozen=True)
class Sample:
    """Images that weights were fitted to, calibrated on or measured on.

    Attributes:
        data: Name of the folder or sets.
        images: How many.
        patients: How many.
        positives: Images with each label, by label key; classifiers only.
        views: Images by view; those of unknown view are not counted.
        sexes: Images by the patient's sex; those of unknown sex are not counted.
        ages: Youngest, median and oldest in years, or None if no age is known.
    """

    data: str
    images: int
    patients: int
    positives: Mapping[str, int] = field(default_factory=dict)
    views: Mapping[str, int] = field(default_factory=dict)
    sexes: Mapping[str, int] = field(default_factory=dict)
    ages: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Origin:
    """How weights were made; what was not recorded is empty or None.

    Attributes:
        settings: Of the last training run.
        command: Its command line.
        commit: Of the code.
        hardware: What it ran on, in words.
        seconds: Wall-clock time of the last training run, start and validation counted.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    commit: str = ""
    hardware: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class CheckpointSpec:
    """All that the code above a checkpoint needs to know about it.

    Attributes:
        name: Task-architecture-size-mode.version, such as "findings-resnet50-224-tight.v2".
        task: "lungs" or "findings".
        architecture: A key of `segmenter.ARCHITECTURES`, or what `classifier.build_network` takes.
        file: File name beside the manifest.
        sha256: Of the file, lower-case hex.
        inputs: Preprocessing.
        prompt: Segmenters: what finds both lungs without a user. "whole-image" for a lung
            fine-tune, "lung-boxes" for weights that must be shown each lung's box.
        masking: Classifiers: the masking the weights were trained for.
        margin: Classifiers with loose masking: the default margin.
        margin_range: Classifiers with loose masking: the margins seen in training.
        labels: Classifiers: outputs in order.
        pooling: Classifiers: the cells that the mean over the last activations was trained on.
            "all" of them, removed ones too, or "kept" ones, see `masking.cell_weights`.
        trained_on: Data sets and counts, in words.
        licence: Of the weights, and what the data ask for.
        metrics: Figures on test patients by name.
        origin: How the weights were made.
        samples: What they were fitted to, calibrated on and measured on, by split.
        notes: What the card says beside the figures, such as the worst cases.
    """

    name: str
    task: Task
    architecture: str
    file: str
    sha256: str
    inputs: InputSpec
    prompt: PromptKind = "whole-image"
    masking: MaskingMode | None = None
    margin: float = 0.0
    margin_range: tuple[float, float] | None = None
    labels: tuple[LabelSpec, ...] = ()
    trained_on: str = ""
    licence: str = ""
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    origin: Origin = Origin()
    samples: Mapping[str, Sample] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    pooling: Pooling = "all"

    def __post_init__(self) -> None:
        if self.pooling not in get_args(Pooling):
            raise CheckpointError(
                f"The checkpoint {self.name} names the pooling {self.pooling!r}; known are "
                f"{list(get_args(Pooling))}."
            )

    def auroc(self, key: str) -> Estimate | None:
        """Area under the ROC curve of one label on test patients, or None if never measured."""
        return self.metrics.get(f"auroc_{key}")

    def beats_chance(self, key: str) -> bool:
        """Whether the 95 % interval of a label's AUROC lies above 0.5; False if not measured."""
        measured = self.auroc(key)
        return measured is not None and measured.low > CHANCE

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `from_json` turns back into an equal spec."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Self:
        """Reads one manifest entry.

        Raises:
            CheckpointError: If a field is missing, unknown or of the wrong kind.
        """
        try:
            values = dict(entry)
            inputs = {k: _tuple(v) for k, v in values["inputs"].items()}
            values["inputs"] = InputSpec(**inputs)
            if values.get("masking") is not None:
                values["masking"] = MaskingMode(values["masking"])
            if values.get("margin_range") is not None:
                values["margin_range"] = _tuple(values["margin_range"])
            values["labels"] = tuple(_label_spec(label) for label in values.get("labels", ()))
            values["metrics"] = {k: Estimate(**v) for k, v in values.get("metrics", {}).items()}
            values["origin"] = Origin(**values.get("origin", {}))
            values["samples"] = {
                split: Sample(**{k: _tuple(v) for k, v in sample.items()})
                for split, sample in values.get("samples", {}).items()
            }
            values["notes"] = tuple(values.get("notes", ()))
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"A manifest entry is malformed: {error!r}.") from error


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
        """Reads the manifest of a folder; a folder without one is an empty store.

        Raises:
            CheckpointError: If the manifest cannot be understood.
        """
        path = folder / MANIFEST_NAME
        if not path.exists():
            return cls(folder, ())
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            schema, entries = manifest["schema"], manifest["checkpoints"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{MANIFEST_NAME} is not a checkpoint manifest: {error}."
            ) from error
        if schema != MANIFEST_SCHEMA:
            raise CheckpointError(
                f"{MANIFEST_NAME} has schema {schema}; this version reads {MANIFEST_SCHEMA}."
            )
        return cls(folder, tuple(CheckpointSpec.from_json(entry) for entry in entries))

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
        """The first segmenter that finds the lungs by itself, or None."""
        return next(
            (s for s in self.specs if s.task == "lungs" and s.prompt == "whole-image"), None
        )

    def findings(self, mode: MaskingMode) -> CheckpointSpec | None:
        """The first classifier trained for a masking, or None."""
        return next((s for s in self.specs if s.task == "findings" and s.masking is mode), None)

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


def checkpoint_folder(location: Path | str) -> Path:
    """The folder of a location: a path as it is, or a Hub repository once it is downloaded.

    Args:
        location: A folder, or "hf://OWNER/NAME@REVISION". The revision, best a commit hash, must
            be named: what runs tomorrow is then what was tried today. A commit that was downloaded
            before needs no network.

    Raises:
        CheckpointError: If the location is malformed, the repository or revision is not there or
            not open to this user, or the Hub cannot be reached.
    """
    text = str(location)
    if not text.startswith(HUB_SCHEME):
        return Path(location)
    repository, _, revision = text.removeprefix(HUB_SCHEME).partition("@")
    if repository.count("/") != 1 or not revision:
        raise CheckpointError(
            f"Expected hf://OWNER/NAME@REVISION with a commit hash or tag, got {text}."
        )
    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(HUB_PATTERNS))
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"The Hub repository {repository} asks for consent first. Give it on its page, then "
            "log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"The Hub repository {repository} has no revision {revision}."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"There is no Hub repository {repository}, or it is private and this machine is not "
            "logged in (`hf auth login`)."
        ) from error
    except HUB_UNREACHABLE as error:
        raise CheckpointError(
            f"The Hugging Face Hub cannot be reached and {repository}@{revision} was not "
            "downloaded before. Go online once, or name a local folder."
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(
            f"The Hugging Face Hub refused {repository} (HTTP {error.response.status_code})."
        ) from error


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
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"The checkpoint file {path.name} could not be loaded safely. Expected safetensors, or "
            f"a .pth file that holds tensors alone. ({type(error).__name__})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CheckpointError(
            f"The checkpoint file {path.name} does not hold a plain state dict of tensors."
        )
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


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


def _label_spec(entry: Mapping[str, Any]) -> LabelSpec:
    values = _with_estimates(entry)
    others = values.get("others", ())
    values["others"] = tuple(OperatingPoint(**_with_estimates(point)) for point in others)
    return LabelSpec(**values)


def _with_estimates(entry: Mapping[str, Any]) -> dict[str, Any]:
    values = dict(entry)
    for name in ("sensitivity", "specificity"):
        if values.get(name) is not None:
            values[name] = Estimate(**values[name])
    return values


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
