"""What is known about a checkpoint: pure data, validated as a whole before anything is loaded.

A spec comes from a manifest that anybody may have written. What it says is checked once, here, so
that nothing above has to; a message names the field.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, ClassVar, Final, Literal, Self, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cxrdemo.errors import CheckpointError
from cxrdemo.inputs import STRICT, InputSpec
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.results import MAX_MARGIN, MaskingMode

CHANCE: Final = 0.5
"""AUROC of a score that knows nothing."""

Z_95: Final = 1.959964
"""A normal variable lies within so many standard deviations in 95 of 100 cases."""

_LEAST: Final = 1e-6
"""A probability of 0 or 1 would have no odds."""

MAX_TOLD: Final = 3
"""So many faults of one entry are told."""

_LONGEST_NAME: Final = 255
"""Bytes of a name that every file system takes."""

Task = Literal["lungs", "findings"]
PromptKind = Literal["whole-image", "lung-boxes"]
Pooling = Literal["all", "kept"]

BALANCED: Final = "balanced"
HIGH_SENSITIVITY: Final = "high sensitivity"
HIGH_SPECIFICITY: Final = "high specificity"


@dataclass(frozen=True)
class Estimate:
    """A measured figure with its 95 % interval and its n."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        # NaN is no figure, but may be measured; no manifest takes it.
        _check(not self.low > self.high, "low", "must not exceed high", self.low)
        _check(self.n >= 0, "n", "must not be negative", self.n)

    @classmethod
    def from_json(cls, written: Mapping[str, float | None]) -> Self:
        """Reads a figure of a `metrics.json`, where null stands for what is not defined."""
        value, low, high = (
            math.nan if (number := written[key]) is None else float(number)
            for key in ("value", "low", "high")
        )
        return cls(value, low, high, int(written["n"] or 0))

    def words(self, digits: int = 3, *, count: bool = True) -> str:
        """Value, interval and, if wanted, n: "0.713 (0.662 to 0.769, n=350)"."""
        if math.isnan(self.value):
            return f"not defined (n={self.n})" if count else "not defined"
        value, low, high = (f"{number:.{digits}f}" for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high}{f', n={self.n}' if count else ''})"


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold on the calibrated scale, and what it was measured to do on test patients.

    Attributes:
        name: Such as "balanced".
        threshold: At or above it a finding is called.
        rule: How the threshold was chosen, in words.
        sensitivity: n is the number of positives.
        specificity: n is the number of negatives.
        likelihood_ratio: Positive likelihood ratio, sensitivity / (1 - specificity); n is the
            number of images.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: str
    threshold: float
    rule: str
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None
    likelihood_ratio: Estimate | None = None

    def __post_init__(self) -> None:
        _check(0 <= self.threshold <= 1, "threshold", "must lie in 0..1", self.threshold)


@dataclass(frozen=True)
class ScoreRatio:
    """The likelihood ratio of a calibrated probability itself, not of its being called.

    It is the odds that the probability stands for over the odds of the images that the calibration
    was fitted to: what a score does to anybody's own odds.

    Attributes:
        prevalence: Share of positives among those images, between 0 and 1.
        variance: c0, c1, c2. The logarithm of the ratio at log-odds x of the probability has the
            variance c0 + c1 x + c2 x x, over patients.
        n: How many images.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    prevalence: float
    variance: tuple[float, float, float]
    n: int

    def __post_init__(self) -> None:
        _check(0 < self.prevalence < 1, "prevalence", "must lie between 0 and 1", self.prevalence)
        c0, c1, c2 = self.variance
        is_variance = c0 >= 0 and c2 >= 0 and c1 * c1 <= 4 * c0 * c2 * (1 + 1e-6) + 1e-9
        _check(is_variance, "variance", "must be 0 or more at every score", self.variance)

    def at(self, probability: float) -> Estimate:
        """The ratio of a probability on the calibrated scale, with its 95 % interval."""
        x = _log_odds(min(max(probability, _LEAST), 1 - _LEAST))
        c0, c1, c2 = self.variance
        log_ratio = x - _log_odds(self.prevalence)
        reach = Z_95 * math.sqrt(max(0.0, c0 + x * (c1 + x * c2)))
        low, value, high = (math.exp(log_ratio + by) for by in (-reach, 0.0, reach))
        return Estimate(value, low, high, self.n)


@dataclass(frozen=True)
class LabelSpec:
    """One output of a classifier: calibration and operating points, both from validation data.

    Attributes:
        key: Label key, see `labels.py`.
        scale: Slope of the Platt calibration: probability = sigmoid(scale * logit + offset).
        offset: Intercept of the Platt calibration.
        threshold: Operating point on the calibrated scale.
        rule: How the threshold was chosen, in words.
        sensitivity: Measured at the threshold on test patients; n is the number of positives.
        specificity: Measured at the threshold on test patients; n is the number of negatives.
        others: Further operating points to choose from, such as one of high sensitivity.
        likelihood_ratio: Positive likelihood ratio at the threshold on test patients; n is the
            number of images.
        negatives: Calibrated scores of test patients without the finding at evenly spaced
            quantiles, the lowest and the highest of them included; empty if not measured.
        score_ratio: Likelihood ratio of any probability; None if the calibration does not give it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    key: str
    scale: float
    offset: float
    threshold: float
    rule: str
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None
    others: tuple[OperatingPoint, ...] = ()
    likelihood_ratio: Estimate | None = None
    negatives: tuple[float, ...] = ()
    score_ratio: ScoreRatio | None = None

    def __post_init__(self) -> None:
        _check(self.scale > 0, "scale", "must be positive", self.scale)
        _check(0 <= self.threshold <= 1, "threshold", "must lie in 0..1", self.threshold)
        names = [BALANCED, *(point.name for point in self.others)]
        _check(len(set(names)) == len(names), "others", "must have different names", names)
        rises = all(one <= next_one for one, next_one in pairwise(self.negatives))
        within = all(0 <= value <= 1 for value in self.negatives)
        _check(
            rises and within and len(self.negatives) != 1,
            "negatives",
            "must rise within 0..1, from the lowest score to the highest",
            self.negatives[:3],
        )

    @property
    def points(self) -> tuple[OperatingPoint, ...]:
        """Every operating point; the first is the default one.

        Their names keep what they promise: where the default point already lies below the one of
        high sensitivity, or above the one of high specificity, it stands under that name too.
        """
        default = OperatingPoint(
            BALANCED,
            self.threshold,
            self.rule,
            self.sensitivity,
            self.specificity,
            self.likelihood_ratio,
        )
        return (default, *(self._in_order(point, default) for point in self.others))

    @staticmethod
    def _in_order(point: OperatingPoint, default: OperatingPoint) -> OperatingPoint:
        belied = (point.name == HIGH_SENSITIVITY and point.threshold > default.threshold) or (
            point.name == HIGH_SPECIFICITY and point.threshold < default.threshold
        )
        return dataclasses.replace(default, name=point.name) if belied else point

    def place(self, probability: float) -> float | None:
        """Share of test patients without the finding who score lower, 0..1; None if not measured.

        Args:
            probability: On the calibrated scale.
        """
        if not self.negatives:
            return None
        above = bisect_left(self.negatives, probability)
        if above in (0, len(self.negatives)):
            return float(above > 0)
        low, high = self.negatives[above - 1], self.negatives[above]
        steps = above - 1 + (probability - low) / (high - low)
        return steps / (len(self.negatives) - 1)


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

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

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

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

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
        architecture: A key of `sam.ARCHITECTURES`, or what `backbones.build_network` takes.
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

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

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
        for name in ("name", "file"):
            text = getattr(self, name)
            _check(_is_file_name(text), name, "must be a plain file name", text)
        is_sha256 = re.fullmatch("[0-9a-f]{64}", self.sha256) is not None
        _check(is_sha256, "sha256", "must be 64 lower-case hex digits", self.sha256)
        known = get_args(Pooling)
        _check(self.pooling in known, "pooling", f"must be one of {known}", self.pooling)
        low, high = self.margin_range or (0.0, MAX_MARGIN)
        rises = 0 <= low <= high <= MAX_MARGIN
        _check(rises, "margin_range", f"must rise within 0..{MAX_MARGIN}", self.margin_range)
        in_range = 0 <= self.margin <= MAX_MARGIN
        _check(in_range, "margin", f"must lie in 0..{MAX_MARGIN}", self.margin)
        if self.task == "findings":
            _check(self.masking is not None, "masking", "must be named for findings", self.masking)
            keys = sorted(label.key for label in self.labels)
            each = f"must be each of {', '.join(FINDING_KEYS)} once"
            _check(keys == sorted(FINDING_KEYS), "labels", each, keys)
        else:
            height, width = self.inputs.hw
            _check(height == width, "inputs.hw", "must be square for lungs", self.inputs.hw)

    def auroc(self, key: str) -> Estimate | None:
        """Area under the ROC curve of one label on test patients, or None if never measured."""
        return self.metrics.get(f"auroc_{key}")

    def beats_chance(self, key: str) -> bool:
        """Whether the 95 % interval of a label's AUROC lies above 0.5; False if not measured."""
        measured = self.auroc(key)
        return measured is not None and measured.low > CHANCE

    @property
    def by_finding(self) -> tuple[LabelSpec, ...]:
        """The labels in the order of `labels.FINDINGS`, whatever the order of the outputs."""
        return tuple(sorted(self.labels, key=lambda label: FINDING_KEYS.index(label.key)))

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `from_json` turns back into an equal spec."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(entry: Any) -> CheckpointSpec:
        """Reads one manifest entry.

        Raises:
            CheckpointError: If a field is missing, unknown or of the wrong kind.
        """
        try:
            return _SPECS.validate_json(json.dumps(entry))
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".lstrip(": ")
                for fault in error.errors(include_url=False)[:MAX_TOLD]
            )
        except (TypeError, ValueError, RecursionError) as error:
            faults = str(error)
        name = entry.get("name") if isinstance(entry, Mapping) else None
        raise CheckpointError(f"The manifest's entry {name!r} is malformed: {faults}.")


_SPECS: Final = TypeAdapter(CheckpointSpec)


def _check(holds: bool, name: str, rule: str, found: object) -> None:
    if not holds:
        raise ValueError(f"{name} {rule}, got {found!r}")


def _log_odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _is_file_name(text: str) -> bool:
    """Whether a name stays in its folder, on every system."""
    return (
        PurePosixPath(text).name == text
        and PureWindowsPath(text).name == text
        and text.isprintable()
        and text not in ("", ".", "..")
        and len(text.encode()) <= _LONGEST_NAME
    )
