"""Calibration and operating points, and the command that gives published weights new ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import findings_spec, tiny_classifier
from test_training_evaluate import outputs
from torch import nn

from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.classifier import FindingClassifier
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.results import MaskingMode
from cxrdemo.specs import CheckpointSpec, LabelSpec, Sample
from training.__main__ import main
from training.commands import calibrate as command
from training.errors import DataError
from training.measures.calibration import MIN_CASES, WORSE_THAN_CHANCE, calibrate, with_figures
from training.measures.figures import classifier_figures, probabilities
from training.measures.scoring import Outputs
from training.reports.cards import make_card


def backwards(data: Outputs) -> Outputs:
    return replace(data, scores=replace(data.scores, logits=-data.scores.logits))


def test_calibration_brings_probabilities_to_the_prevalence() -> None:
    data = outputs(n=400)
    labels = calibrate(data)
    found = probabilities(data.scores, labels)
    np.testing.assert_allclose(found.mean(axis=0), data.scores.labels.mean(axis=0), atol=0.02)
    for column, label in enumerate(labels):
        called = found[:, column] >= label.threshold
        truth = data.scores.labels[:, column]
        youden = called[truth].mean() - called[~truth].mean()
        for other in np.linspace(0.02, 0.98, 30):
            called = found[:, column] >= other
            assert called[truth].mean() - called[~truth].mean() <= youden + 1e-9


def test_a_score_has_the_ratio_that_it_was_drawn_with() -> None:
    # `outputs` draws scores from two normal curves, so their ratio is known.
    data = outputs(n=3000)
    for column, label in enumerate(calibrate(data)):
        assert label.score_ratio is not None
        assert label.score_ratio.prevalence == data.scores.labels[:, column].mean()
        for logit in (-2.0, -0.5, 1.0, 2.5):
            found = label.score_ratio.at(1 / (1 + np.exp(-(label.scale * logit + label.offset))))
            truth = np.exp(1.5 * logit + 0.375)
            assert found.value == pytest.approx(truth, rel=0.25)
            assert found.n == 3000


def test_the_interval_of_a_ratio_is_that_of_a_bootstrap_over_patients() -> None:
    data, logits, rng = outputs(n=200, seed=3), np.array([-2.0, 0.0, 2.0]), np.random.default_rng(1)
    label = calibrate(data)[0]

    def log_ratios(label: LabelSpec) -> np.ndarray:
        assert label.score_ratio is not None
        probabilities = 1 / (1 + np.exp(-(label.scale * logits + label.offset)))
        return np.log([label.score_ratio.at(p).value for p in probabilities])

    drawn = []
    for _ in range(60):
        # Both images of a patient together.
        rows = (2 * rng.integers(100, size=100)[:, None] + np.arange(2)).ravel()
        again = replace(
            data,
            scores=replace(
                data.scores, logits=data.scores.logits[rows], labels=data.scores.labels[rows]
            ),
        )
        drawn.append(log_ratios(calibrate(again)[0]))
    expected = np.std(drawn, axis=0)
    c0, c1, c2 = label.score_ratio.variance
    x = label.scale * logits + label.offset
    np.testing.assert_allclose(np.sqrt(c0 + c1 * x + c2 * x * x), expected, rtol=0.3)


def test_a_temperature_tells_no_ratio() -> None:
    assert all(label.score_ratio is None for label in calibrate(outputs(), method="temperature"))


def test_a_temperature_keeps_even_odds_and_the_order() -> None:
    data = outputs(n=400)
    # Four times too sure: the temperature takes it back.
    sure = replace(data, scores=replace(data.scores, logits=4 * data.scores.logits))
    for label, reference in zip(
        calibrate(sure, method="temperature"), calibrate(data, method="temperature"), strict=True
    ):
        assert label.offset == 0.0
        assert label.scale == pytest.approx(reference.scale / 4, rel=1e-3)
    before, after = (
        classifier_figures(sure, labels, resamples=5)
        for labels in (
            [LabelSpec(key, 1.0, 0.0, 0.5, "") for key in FINDING_KEYS],
            calibrate(sure, method="temperature"),
        )
    )
    assert after["brier_macro"].value < before["brier_macro"].value
    assert after["auroc_macro"].value == before["auroc_macro"].value


def test_the_other_operating_points_keep_what_they_promise_on_the_patients_they_are_from() -> None:
    data = outputs(n=400)
    labels = calibrate(data)
    found = probabilities(data.scores, labels)
    for column, label in enumerate(labels):
        truth, p = data.scores.labels[:, column], found[:, column]
        assert [point.name for point in label.points] == [
            "balanced",
            "high sensitivity",
            "high specificity",
        ]
        _, sensitive, specific = label.points
        assert (p[truth] >= sensitive.threshold).mean() >= 0.9
        assert (p[~truth] < specific.threshold).mean() >= 0.9
        # The next threshold on the other side would break the promise.
        assert (p[truth] > sensitive.threshold).mean() < 0.9
        below = p[p < specific.threshold].max()
        assert (p[~truth] < below).mean() < 0.9


def test_unknown_labels_take_no_part() -> None:
    data = outputs(n=400)
    known = data.known.copy()
    known[::3] = False
    partly = calibrate(replace(data, known=known))
    rest = np.arange(400) % 3 != 0
    assert partly == calibrate(data.subset(rest))
    assert partly != calibrate(data)


def test_too_few_labels_are_refused_by_name() -> None:
    data = outputs(n=80)
    labels = data.scores.labels.copy()
    labels[:, 3] = False
    labels[: MIN_CASES - 1, 3] = True
    few = replace(data, scores=replace(data.scores, labels=labels))
    with pytest.raises(DataError, match="Edema has 7 positive and 73 negative validation images"):
        calibrate(few)


def test_a_finding_ranked_worse_than_chance_is_refused_or_marked() -> None:
    data = outputs(n=200)
    with pytest.raises(DataError, match="worse than chance"):
        calibrate(backwards(data))
    kept = calibrate(backwards(data), lenient=True)
    assert [(label.scale, label.offset, label.rule) for label in kept] == [
        (1.0, 0.0, WORSE_THAN_CHANCE)
    ] * 5
    logits = data.scores.logits.copy()
    logits[:, 1] *= -1
    one = calibrate(replace(data, scores=replace(data.scores, logits=logits)), lenient=True)
    assert [label.rule == WORSE_THAN_CHANCE for label in one] == [k == 1 for k in range(5)]


def test_every_figure_of_a_spec_is_from_test_patients() -> None:
    val, test = outputs(n=200, seed=1), outputs(n=120, seed=2)
    normal = np.arange(120) < 20
    test = replace(test, scores=replace(test.scores, rsna_normal=normal))
    labels = calibrate(val)
    spec = with_figures(findings_spec(MaskingMode.TIGHT), labels, test, resamples=30)
    found = probabilities(test.scores, labels)
    for column, label in enumerate(spec.labels):
        truth = test.scores.labels[:, column]
        for point in label.points:
            called = found[:, column] >= point.threshold
            assert point.sensitivity is not None
            assert point.specificity is not None
            assert point.sensitivity.value == pytest.approx(called[truth].mean())
            assert point.specificity.value == pytest.approx((~called[~truth]).mean())
            assert (point.sensitivity.n, point.specificity.n) == (truth.sum(), (~truth).sum())
            false_rate = called[~truth].mean()
            if false_rate == 0:
                assert point.likelihood_ratio is None
            else:
                assert point.likelihood_ratio is not None
                expected = called[truth].mean() / false_rate
                assert point.likelihood_ratio.value == pytest.approx(expected)
                assert point.likelihood_ratio.n == 120
        assert len(label.negatives) == 101
        assert label.negatives[0] == pytest.approx(found[~truth, column].min())
        assert label.negatives[-1] == pytest.approx(found[~truth, column].max())
        assert label.place(float(np.median(found[~truth, column]))) == pytest.approx(0.5, abs=0.01)
    assert spec.metrics["auroc_macro"].n == 120
    assert spec.metrics["auroc_macro_without_rsna_normal"].n == 100
    assert not [name for name in spec.metrics if name.startswith(("images", "lung_area", "sens"))]
    labels_without = test.scores.labels.copy()
    labels_without[:, 0] = False
    empty = replace(test, scores=replace(test.scores, labels=labels_without))
    with pytest.raises(DataError, match="Mass has 0 positive"):
        with_figures(findings_spec(MaskingMode.TIGHT), labels, empty, resamples=5)


def test_published_weights_get_new_figures_and_stay_as_they_are(
    phantom_sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train = {"train": Sample("elsewhere", 7, 6)}
    specs = tuple(replace(findings_spec(mode), samples=train) for mode in MaskingMode)
    CheckpointStore(tmp_path, specs).save()
    classifiers = {mode: tiny_classifier(mode) for mode in MaskingMode}
    for spec, classifier in zip(specs, classifiers.values(), strict=True):
        classifier.spec = spec
    monkeypatch.setattr(command, "load_classifiers", lambda *_, **__: classifiers)
    drawn = iter([outputs(n=200, seed=1), outputs(n=120, seed=2)] * 2)
    monkeypatch.setattr(command, "run_classifier", lambda *_: next(drawn))
    made: list[str] = []

    def classifier_on(spec: CheckpointSpec, network: nn.Module, *, device: str):
        made.append(device)
        return FindingClassifier(spec, network)

    monkeypatch.setattr(command, "FindingClassifier", classifier_on)
    monkeypatch.setattr(command, "resolve", lambda asked: f"where {asked} is")
    arguments = ["calibrate", "--data", str(phantom_sets / "nih"), "--checkpoints", str(tmp_path)]
    arguments += ["--resamples", "5", "--masking", "loose", "--device", "asked"]
    assert main(arguments) == 0
    assert made == ["where asked is"]
    printed = capsys.readouterr().out
    assert printed.count("bare sigmoid") == 2 * 6
    none, loose, tight = CheckpointStore.open(tmp_path).specs
    assert (none, tight) == (specs[0], specs[2])
    assert loose.sha256 == specs[1].sha256
    assert loose.labels[0].scale != specs[1].labels[0].scale
    assert loose.samples["train"] == train["train"]
    assert loose.samples["val"] == Sample(
        "nih", 12, 12, dict.fromkeys((*FINDING_KEYS, "No_Finding"), 2)
    )
    assert [path.name for path in tmp_path.glob("*.md")] == [f"{loose.name}.md"]
    assert (tmp_path / f"{loose.name}.md").read_text(encoding="utf-8") == make_card(loose)
    json.loads((tmp_path / "manifest.json").read_text(), parse_constant=pytest.fail)


def test_a_refused_calibration_changes_nothing(
    phantom_sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    CheckpointStore(tmp_path, tuple(findings_spec(mode) for mode in MaskingMode)).save()
    before = (tmp_path / "manifest.json").read_bytes()
    monkeypatch.setattr(
        command,
        "load_classifiers",
        lambda *_, **__: {MaskingMode.NONE: tiny_classifier(MaskingMode.NONE)},
    )
    out = ["--checkpoints", str(tmp_path), "--resamples", "5"]
    for data, masking, message in (
        ("nih", "none", "Mass has 2 positive and 10 negative validation images"),
        ("nih", "tight", "lists no classifier for masking 'tight'"),
        ("pretrain", "all", "no image of the split 'val'"),
    ):
        flags = ["--data", str(phantom_sets / data), "--masking", masking]
        assert main(["calibrate", *flags, *out]) == 3
        assert message in capsys.readouterr().err
    assert (tmp_path / "manifest.json").read_bytes() == before
    assert not list(tmp_path.glob("*.md"))
