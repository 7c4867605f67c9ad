"""A spec comes back as it was, and nothing that makes no sense gets past its reading."""

import dataclasses
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from fakes import LUNGS_SPEC, findings_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrdemo.errors import CheckpointError
from cxrdemo.inputs import KEPT_MEAN, InputSpec
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.results import MaskingMode
from cxrdemo.specs import (
    CheckpointSpec,
    Estimate,
    LabelSpec,
    OperatingPoint,
    Origin,
    Sample,
    ScoreRatio,
)

SHARES = st.floats(0, 1)
WORDS = st.text(max_size=20)
ESTIMATES = st.builds(
    lambda values, n: Estimate(values[1], values[0], values[2], n),
    st.lists(SHARES, min_size=3, max_size=3).map(sorted),
    st.integers(0, 10**6),
)
POINTS = st.builds(
    OperatingPoint,
    st.sampled_from(["high sensitivity", "high specificity", "screening"]),
    SHARES,
    WORDS,
    st.none() | ESTIMATES,
    st.none() | ESTIMATES,
    st.none() | ESTIMATES,
)


RATIOS = st.builds(
    # The variance of a + b x, where a and b are uncorrelated.
    lambda prevalence, a, b, n: ScoreRatio(prevalence, (a, 0.0, b), n),
    st.floats(1e-3, 0.999),
    SHARES,
    SHARES,
    st.integers(0, 10**6),
)


def labels_of(key: str) -> st.SearchStrategy[LabelSpec]:
    return st.builds(
        LabelSpec,
        st.just(key),
        st.floats(1e-6, 1e3),
        st.floats(-50, 50),
        SHARES,
        WORDS,
        st.none() | ESTIMATES,
        st.none() | ESTIMATES,
        st.lists(POINTS, max_size=3, unique_by=lambda point: point.name).map(tuple),
        st.none() | ESTIMATES,
        st.lists(SHARES, min_size=2, max_size=6).map(lambda found: tuple(sorted(found))),
        st.none() | RATIOS,
    )


INPUTS = st.builds(
    InputSpec,
    st.tuples(st.integers(32, 4096), st.integers(32, 4096)),
    st.sampled_from(["letterbox", "stretch"]),
    st.sampled_from(["area", "cubic"]),
    st.sampled_from(["fixed", "minmax"]),
    st.tuples(*[st.floats(-9, 9)] * 3),
    st.tuples(*[st.floats(1e-3, 9)] * 3),
    SHARES | st.just(KEPT_MEAN),
)
SAMPLES = st.builds(
    Sample,
    WORDS,
    st.integers(0, 999),
    st.integers(0, 999),
    st.dictionaries(WORDS, st.integers(0, 99), max_size=2),
    ages=st.none() | st.tuples(*[st.floats(0, 120)] * 3),
)
SPECS = st.builds(
    CheckpointSpec,
    name=st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True),
    task=st.just("findings"),
    architecture=WORDS,
    file=st.from_regex(r"[a-z][a-z0-9_-]{0,20}\.safetensors", fullmatch=True),
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    inputs=INPUTS,
    masking=st.sampled_from(MaskingMode),
    margin=st.floats(0, 0.5),
    margin_range=st.none() | st.just((0.02, 0.2)),
    labels=st.permutations(FINDING_KEYS).flatmap(
        lambda keys: st.tuples(*(labels_of(key) for key in keys))
    ),
    metrics=st.dictionaries(WORDS, ESTIMATES, max_size=2),
    origin=st.builds(Origin, st.dictionaries(WORDS, WORDS | st.integers() | st.none(), max_size=2)),
    samples=st.dictionaries(st.sampled_from(["train", "test"]), SAMPLES, max_size=2),
    notes=st.lists(WORDS, max_size=2).map(tuple),
    pooling=st.sampled_from(["all", "kept"]),
)


@settings(max_examples=25, deadline=None)
@given(spec=SPECS)
def test_a_spec_comes_back_as_it_was(spec: CheckpointSpec) -> None:
    assert CheckpointSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def entry(**changes: Any) -> dict[str, Any]:
    return json.loads(json.dumps(findings_spec(MaskingMode.LOOSE).to_json())) | changes


def inputs(**changes: Any) -> dict[str, Any]:
    return {"inputs": entry()["inputs"] | changes}


def labels(index: int = 0, **changes: Any) -> dict[str, Any]:
    found = entry()["labels"]
    found[index] |= changes
    return {"labels": found}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        (inputs(hw=[100_000, 100_000]), "hw must lie in 32..4096"),
        (inputs(hw=[-5, 224]), "hw must lie in"),
        (inputs(hw=[224]), "inputs.hw"),
        (inputs(hw=["224", 224]), "inputs.hw"),
        (inputs(std=[0.0, 0.2, 0.2]), "std must be positive"),
        (inputs(std=[-0.1, 0.2, 0.2]), "std must be positive"),
        (inputs(std=[1e-300, 0.2, 0.2]), "std must be positive"),
        (inputs(std=[1e300, 0.2, 0.2]), "std must be positive"),
        (inputs(mean=[math.nan, 0.2, 0.2]), "inputs.mean.0"),
        (inputs(mean=[1e300, 0.2, 0.2]), "mean must lie within"),
        (inputs(mean=[0.4, 0.2]), "inputs.mean"),
        (inputs(mean=[0.4, 0.2, 0.2, 0.2]), "inputs.mean"),
        (inputs(fill=2.0), "fill must lie in 0..1"),
        (inputs(fill="mean"), "inputs.fill"),
        (inputs(placement="crop"), "inputs.placement"),
        (inputs(colour="red"), "inputs.colour"),
        (labels(scale=-1.0), "scale must be positive"),
        (labels(scale=math.nan), "labels.0.scale"),
        (labels(offset=math.inf), "labels.0.offset"),
        (labels(1, threshold=math.nan), "labels.1.threshold"),
        (labels(threshold=1.5), "threshold must lie in 0..1"),
        (labels(1, key="Mass"), "labels must be each of Mass, Nodule"),
        (labels(key="Scoliosis"), "labels must be each of Mass, Nodule"),
        (labels(negatives=[0.5, 0.4]), "negatives must rise"),
        (labels(negatives=[0.5]), "negatives must rise"),
        (labels(others=[{"name": "balanced", "threshold": 0.1, "rule": ""}]), "different names"),
        (labels(likelihood_ratio={"value": 2, "low": 3, "high": 1, "n": 9}), "low must not exceed"),
        ({"labels": []}, "labels must be each of"),
        ({"labels": entry()["labels"] * 2}, "labels must be each of"),
        ({"labels": None}, "labels"),
        ({"masking": None}, "masking must be named"),
        ({"masking": "medium"}, "masking"),
        ({"masking": ["none", "tight"]}, "masking"),
        ({"task": "hearts"}, "task"),
        ({"task": None}, "task"),
        ({"pooling": "most"}, "pooling"),
        ({"margin": 0.7}, "margin must lie in 0..0.5"),
        ({"margin": -0.1}, "margin must lie in 0..0.5"),
        ({"margin_range": [0.3, 0.1]}, "margin_range must rise"),
        ({"margin_range": [0.1]}, "margin_range"),
        ({"sha256": "abc"}, "sha256 must be 64"),
        ({"sha256": "A" * 64}, "sha256 must be 64"),
        ({"file": "../weights.safetensors"}, "file must be a plain file name"),
        ({"file": "/etc/passwd"}, "file must be a plain file name"),
        ({"file": "C:\\weights.safetensors"}, "file must be a plain file name"),
        ({"file": "a\\b.safetensors"}, "file must be a plain file name"),
        ({"file": ".."}, "file must be a plain file name"),
        ({"file": "x" * 256}, "file must be a plain file name"),
        ({"file": ""}, "file must be a plain file name"),
        ({"file": "a\0b"}, "file must be a plain file name"),
        ({"name": "../../x"}, "name must be a plain file name"),
        (
            {"metrics": {"auroc_Mass": {"value": math.nan, "low": 0, "high": 1, "n": 3}}},
            "auroc_Mass",
        ),
        ({"metrics": {"auroc_Mass": 0.7}}, "metrics.auroc_Mass"),
        ({"metrics": [1]}, "metrics"),
        ({"samples": {"test": {"data": "a", "images": "3", "patients": 2}}}, "samples.test.images"),
        ({"notes": "one"}, "notes"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        CheckpointSpec.from_json(entry(**changes))
    assert field in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", ["name", "task", "architecture", "file", "sha256", "inputs"])
def test_what_is_needed_is_named(missing: str) -> None:
    short = entry()
    del short[missing]
    with pytest.raises(CheckpointError, match=f"{missing}: Field required"):
        CheckpointSpec.from_json(short)


@pytest.mark.parametrize("odd", [None, [], "x", 3, {}, {"name": ["x"]}])
def test_what_is_no_entry_at_all_is_refused(odd: Any) -> None:
    with pytest.raises(CheckpointError, match="malformed"):
        CheckpointSpec.from_json(odd)


def test_a_segmenters_canvas_is_square() -> None:
    with pytest.raises(ValueError, match="must be square for lungs"):
        replace(LUNGS_SPEC, inputs=InputSpec(hw=(64, 96)))


def label(**changes: Any) -> LabelSpec:
    return replace(LabelSpec("Mass", 1.0, 0.0, 0.4, "rule"), **changes)


def point(name: str, threshold: float) -> OperatingPoint:
    return OperatingPoint(name, threshold, "its own rule")


def test_operating_points_rise_from_sensitive_to_specific() -> None:
    kept = label(others=(point("high sensitivity", 0.2), point("high specificity", 0.6)))
    assert [p.threshold for p in kept.points] == [0.4, 0.2, 0.6]
    # The balanced point is more sensitive than the one, and more specific than the other.
    belied = label(others=(point("high sensitivity", 0.5), point("high specificity", 0.1)))
    assert [(p.name, p.threshold) for p in belied.points] == [
        ("balanced", 0.4),
        ("high sensitivity", 0.4),
        ("high specificity", 0.4),
    ]
    assert {p.rule for p in belied.points} == {"rule"}


def test_a_score_has_its_place_among_those_without_the_finding() -> None:
    known = label(negatives=(0.1, 0.2, 0.2, 0.4, 0.8))
    assert [known.place(p) for p in (0.05, 0.1, 0.8, 0.9)] == [0, 0, 1, 1]
    assert known.place(0.15) == pytest.approx(0.125)
    assert known.place(0.3) == pytest.approx(0.625)
    assert label().place(0.3) is None


def test_a_scores_ratio_is_its_odds_over_those_of_the_sample() -> None:
    ratio = ScoreRatio(0.2, (0.04, 0.0, 0.01), 250)
    even = ratio.at(0.2)
    assert (even.value, even.n) == (pytest.approx(1.0), 250)
    assert ratio.at(0.5).value == pytest.approx(4.0)
    # At even odds x is 0, and the standard deviation is that of the first coefficient.
    assert ratio.at(0.5).high / 4.0 == pytest.approx(math.exp(1.96 * 0.2), rel=1e-3)
    assert ratio.at(0.5).low * ratio.at(0.5).high == pytest.approx(16.0)
    widths = [ratio.at(p).high / ratio.at(p).low for p in (0.5, 0.9, 0.99)]
    assert widths == sorted(widths)
    for end in (0.0, 1.0):
        assert 0 < ratio.at(end).low < ratio.at(end).high < math.inf


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prevalence": 0.0}, "prevalence must lie between 0 and 1"),
        ({"prevalence": 1.0}, "prevalence must lie between 0 and 1"),
        ({"variance": (-1.0, 0.0, 0.0)}, "variance must be 0 or more at every score"),
        ({"variance": (0.1, 5.0, 0.1)}, "variance must be 0 or more at every score"),
    ],
)
def test_a_ratio_that_makes_no_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(ScoreRatio(0.2, (0.04, 0.0, 0.01), 250), **changes)


def test_a_figure_is_told_and_read_back_in_one_way() -> None:
    figure = Estimate(0.7134, 0.6621, 0.7689, 350)
    assert figure.words() == "0.713 (0.662 to 0.769, n=350)"
    assert figure.words(2, count=False) == "0.71 (0.66 to 0.77)"
    assert Estimate.from_json(dataclasses.asdict(figure)) == figure
    empty = Estimate.from_json({"value": None, "low": None, "high": None, "n": 0})
    assert math.isnan(empty.value)
    assert (empty.words(), empty.words(count=False)) == ("not defined (n=0)", "not defined")
