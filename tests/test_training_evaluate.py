"""What `evaluate` measures, against scikit-learn and by hand, and what it writes."""

import csv
import json
import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fakes import BlindSegmenter, fake_pipeline, tiny_classifier
from monai.metrics import compute_hausdorff_distance
from scipy.spatial.distance import directed_hausdorff
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import MaskingMode
from cxrdemo.specs import Estimate, LabelSpec
from training.__main__ import main
from training.commands import evaluate
from training.errors import DataError
from training.images.stored_masks import COLUMNS, QUALITY_NAME, mask_path
from training.measures.figures import (
    ALONE,
    classifier_figures,
    lung_figures,
    paired_differences,
    ranking_figures,
)
from training.measures.scoring import (
    HEAT,
    Outputs,
    Scores,
    measure_lungs,
    outside,
    run_classifier,
)
from training.measures.statistics import bootstrap, calibration_error, hd95
from training.reports.page import cell
from training.sets.index import FindingCase, LungCase, read_finding_index, read_lung_index

LABELS = tuple(LabelSpec(key, 1.3, -0.4, 0.4, "test") for key in FINDING_KEYS)
BARE = tuple(LabelSpec(key, 1.0, 0.0, 0.5, "test") for key in FINDING_KEYS)


def outputs(*, n: int = 80, seed: int = 0) -> Outputs:
    rng = np.random.default_rng(seed)
    labels = rng.random((n, len(FINDING_KEYS))) < 0.3
    scores = Scores(
        logits=labels * 1.5 + rng.normal(size=labels.shape) - 1.0,
        labels=labels,
        no_finding=~labels.any(axis=1),
        patients=tuple(str(i // 2) for i in range(n)),
        rsna_normal=np.zeros(n, bool),
    )
    return Outputs(
        scores=scores,
        known=np.ones((n, len(FINDING_KEYS) + 1), bool),
        heat={name: rng.random(labels.shape) for name in HEAT},
        lung_area=np.full(n, 0.25),
        seconds=np.full(n, 0.1),
    )


def four(logits: list[float], positive: list[bool]) -> Outputs:
    """Four patients with one image each; every finding alike."""
    count = len(FINDING_KEYS)
    truth = np.array(positive)
    scores = Scores(
        logits=np.array(logits)[:, None].repeat(count, 1),
        labels=truth[:, None].repeat(count, 1),
        no_finding=~truth,
        patients=("a", "b", "c", "d"),
        rsna_normal=np.zeros(4, bool),
    )
    return Outputs(
        scores,
        np.ones((4, count + 1), bool),
        {name: np.full((4, count), 0.5) for name in HEAT},
        np.ones(4),
        np.ones(4),
    )


def test_figures_are_scikit_learns() -> None:
    data = outputs()
    figures = classifier_figures(data, LABELS, resamples=100)
    raw = 1.0 / (1.0 + np.exp(-data.scores.logits))
    calibrated = 1.0 / (1.0 + np.exp(0.4 - 1.3 * data.scores.logits))
    for k, key in enumerate(FINDING_KEYS):
        truth = data.scores.labels[:, k]
        expected = {
            "auroc": roc_auc_score(truth, raw[:, k]),
            "ap": average_precision_score(truth, raw[:, k]),
            "brier_raw": brier_score_loss(truth, raw[:, k]),
            "brier": brier_score_loss(truth, calibrated[:, k]),
            **{name: heat[:, k].mean() for name, heat in data.heat.items()},
        }
        for measure, value in expected.items():
            estimate = figures[f"{measure}_{key}"]
            assert estimate.value == pytest.approx(value), measure
            assert estimate.low < value < estimate.high, measure
        assert figures[f"auroc_{key}"].n == truth.sum()
        assert figures[f"specificity_{key}"].n == (~truth).sum()
        assert figures[f"brier_{key}"].n == 80
    normal = data.scores.no_finding
    highest, product = 1 - calibrated.max(axis=1), (1 - calibrated).prod(axis=1)
    assert figures["auroc_No_Finding"].value == pytest.approx(roc_auc_score(normal, highest))
    assert figures["auroc_product_No_Finding"].value == pytest.approx(
        roc_auc_score(normal, product)
    )
    for measure in (*ALONE, *HEAT):
        each = [figures[f"{measure}_{key}"].value for key in FINDING_KEYS]
        assert figures[f"{measure}_macro"].value == pytest.approx(np.mean(each))
    assert figures["images_per_second"].value == pytest.approx(10.0)
    assert figures["lung_area"].value == 0.25


def test_rates_and_calibration_by_hand() -> None:
    # Probabilities 0.95, 0.95, 0.05, 0.05; the second is no positive. Two bins of two images:
    # |0.95 - 0.5| / 2 + |0.05 - 0| / 2 = 0.25.
    logit = math.log(0.95 / 0.05)
    figures = classifier_figures(
        four([logit, logit, -logit, -logit], [True, False, False, False]), BARE, resamples=50
    )
    assert figures["sensitivity_Mass"].value == 1.0
    assert figures["specificity_Mass"].value == pytest.approx(2 / 3)
    assert figures["ece_Mass"].value == pytest.approx(0.25)
    assert figures["ece_raw_Mass"].value == pytest.approx(0.25)
    squares = (0.05**2 + 0.95**2 + 0.05**2 + 0.05**2) / 4
    assert figures["brier_Mass"].value == pytest.approx(squares)
    assert (figures["sensitivity_Mass"].n, figures["specificity_Mass"].n) == (1, 3)
    assert math.isnan(calibration_error(np.zeros(0, bool), np.zeros(0)))


def test_calibration_is_measured_before_and_after() -> None:
    # Every second image is positive and the logit says nothing: 0.95 is overconfident, 0.5 is not.
    data = four([math.log(19.0)] * 4, [True, False, True, False])
    flat = tuple(replace(label, scale=1e-9, offset=0.0) for label in BARE)
    figures = classifier_figures(data, flat, resamples=20)
    assert figures["ece_raw_Edema"].value == pytest.approx(0.45)
    assert figures["ece_Edema"].value == pytest.approx(0.0, abs=1e-6)


def test_the_bootstrap_draws_patients_and_leaves_out_what_is_not_defined() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=30), 10)
    drawn: list[np.ndarray] = []

    def statistics(rows: np.ndarray) -> dict[str, float]:
        drawn.append(rows)
        odd = len(drawn) % 2 == 1
        return {"mean": float(values[rows].mean()), "rare": 1.0 if odd else math.nan}

    patients = [str(i // 10) for i in range(300)]
    found = bootstrap(patients, statistics, {"mean": 300, "rare": 3}, resamples=60)
    for rows in drawn:
        images, counts = np.unique(rows, return_counts=True)
        of_patient = dict(zip(images, counts, strict=True))
        for image, count in of_patient.items():
            whole = [of_patient.get(i, 0) for i in range(image // 10 * 10, image // 10 * 10 + 10)]
            assert set(whole) == {count}
    assert found["mean"].value == pytest.approx(values.mean())
    assert found["rare"] == Estimate(1.0, 1.0, 1.0, 3)
    never = bootstrap(["a"], lambda _: {"x": math.nan}, {"x": 0}, resamples=5)["x"]
    assert math.isnan(never.value)
    assert math.isnan(never.low)


def test_what_the_source_does_not_say_is_not_counted() -> None:
    data = outputs()
    unknown = np.arange(80) % 3 == 0
    known = data.known.copy()
    known[unknown, 0] = False
    labels = data.scores.labels.copy()
    labels[unknown, 0] = False  # as an unknown label is stored
    partly = replace(data, known=known, scores=replace(data.scores, labels=labels))
    figures = classifier_figures(partly, LABELS, resamples=20)
    truth, logits = data.scores.labels[~unknown, 0], data.scores.logits[~unknown, 0]
    assert figures["auroc_Mass"].value == pytest.approx(roc_auc_score(truth, logits))
    assert figures["auroc_Mass"].n == truth.sum()
    assert figures["brier_Mass"].n == (~unknown).sum()
    # A finding that the set knows nothing about drops out of the macro mean and is not defined.
    known[:, 0] = False
    figures = classifier_figures(partly, LABELS, resamples=20)
    assert math.isnan(figures["auroc_Mass"].value)
    each = [figures[f"auroc_{key}"].value for key in FINDING_KEYS[1:]]
    assert figures["auroc_macro"].value == pytest.approx(np.mean(each))
    assert ranking_figures(partly, LABELS, resamples=20)["auroc_macro"].value == pytest.approx(
        np.mean(each)
    )


def test_a_masking_differs_from_another_on_the_same_resamples() -> None:
    data = outputs()
    better = replace(
        data, scores=replace(data.scores, logits=data.scores.logits + data.scores.labels)
    )
    modes = {MaskingMode.NONE: data, MaskingMode.LOOSE: data, MaskingMode.TIGHT: better}
    found = paired_differences(modes, dict.fromkeys(modes, LABELS), resamples=50)
    assert found["auroc_loose_less_none_macro"] == Estimate(0.0, 0.0, 0.0, 80)
    difference = found["auroc_tight_less_none_macro"]
    # Paired: the interval is narrower than either masking's own.
    own = classifier_figures(data, LABELS, resamples=50)["auroc_macro"]
    assert 0 < difference.low < difference.value < difference.high
    assert difference.high - difference.low < own.high - own.low


def square(left: int, *, top: int = 20) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[top : top + 20, left : left + 20] = True
    return mask


def test_distances_of_shifted_masks_by_hand() -> None:
    one, other = square(10), square(13)
    assert hd95(one, one) == 0.0
    assert hd95(one, other) == pytest.approx(3.0)
    assert hd95(one, other, (0.5, 2.0)) == pytest.approx(6.0)
    assert hd95(one, square(10, top=24), (0.5, 2.0)) == pytest.approx(2.0)
    # A single stray pixel moves the largest distance, not the 95th percentile.
    stray = one.copy()
    stray[0, 63] = True
    edges = [np.argwhere(m) for m in (stray, one)]
    assert directed_hausdorff(*edges)[0] > 30
    assert hd95(stray, one) == 0.0
    assert math.isnan(hd95(one, np.zeros((64, 64), bool)))


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # their own
def test_distances_are_monais() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        one, other = (cv2.GaussianBlur(rng.random((48, 40)), (0, 0), 5) > 0.5 for _ in range(2))
        theirs = compute_hausdorff_distance(
            *(torch.from_numpy(mask)[None, None].float() for mask in (one, other)),
            percentile=95, spacing=(0.4, 0.7), include_background=True,
        )  # fmt: skip
        assert hd95(one, other, (0.4, 0.7)) == pytest.approx(float(theirs), rel=1e-5)


def test_lungs_that_were_not_found_do_not_better_the_mean(
    phantom_sets: Path,
) -> None:
    (case,) = read_lung_index(phantom_sets / "lungs")[:1]
    (result,) = measure_lungs(fake_pipeline(BlindSegmenter()).find_lungs, [case])
    assert (result.dice, result.iou) == (0.0, 0.0)
    assert result.hd95_px == pytest.approx(math.hypot(160, 144))


def test_masks_are_compared_at_the_images_own_size(phantom_sets: Path, tmp_path: Path) -> None:
    cases = [
        LungCase(
            name=str(i),
            dataset="phantoms",
            patient_id=str(i),
            image=phantom_sets / "nih" / "images" / f"phantom-{i:03d}.png",
            mask=phantom_sets / "masks" / f"phantom-{i:03d}.png",
            split="test",
        )
        for i in range(2)
    ]
    for case in cases:
        reference = cv2.imread(str(case.mask), cv2.IMREAD_UNCHANGED) > 0
        cv2.imwrite(str(tmp_path / f"reference-{case.name}.png"), reference * np.uint8(255))
    cases = [replace(c, mask=tmp_path / f"reference-{c.name}.png") for c in cases]
    pipeline = fake_pipeline()
    results = measure_lungs(pipeline.find_lungs, cases)
    for result in results:
        assert 0.3 < result.dice < 1.0
        assert result.iou == pytest.approx(result.dice / (2 - result.dice))
        assert math.isnan(result.hd95_mm)  # a PNG states no spacing
    figures = lung_figures(results, resamples=20)
    assert figures["dice_phantoms"].value == pytest.approx(np.mean([r.dice for r in results]))
    assert figures["dice_phantoms"].n == 2
    assert figures["hd95_mm_phantoms"].n == 0
    assert math.isnan(figures["hd95_mm_phantoms"].value)


def test_the_probe_sees_nothing_of_the_lungs(phantom_sets: Path, tmp_path: Path) -> None:
    cases = read_finding_index(phantom_sets / "nih")[:3]
    changed: list[FindingCase] = []
    for case in cases:
        pixels = cv2.imread(str(case.image), cv2.IMREAD_UNCHANGED)
        lungs = (
            cv2.imread(str(mask_path(phantom_sets / "masks", case.name)), cv2.IMREAD_UNCHANGED) > 0
        )
        noise = np.random.default_rng(0).integers(1, 255, pixels.shape, np.uint8)
        cv2.imwrite(str(tmp_path / case.name), np.where(lungs, noise, pixels))
        changed.append(replace(case, image=tmp_path / case.name))
    classifier, masks = tiny_classifier(MaskingMode.NONE), phantom_sets / "masks"
    for mode in (MaskingMode.TIGHT, MaskingMode.LOOSE):
        one, other = (
            run_classifier(classifier, c, masks, region=outside(mode)) for c in (cases, changed)
        )
        np.testing.assert_array_equal(one.scores.logits, other.scores.logits)
    seen = [run_classifier(classifier, c, masks).scores.logits for c in (cases, changed)]
    assert not np.array_equal(*seen)


def test_heat_and_lungs_are_shares(phantom_sets: Path) -> None:
    cases = read_finding_index(phantom_sets / "nih")[:3]
    found = run_classifier(tiny_classifier(MaskingMode.TIGHT), cases, phantom_sets / "masks")
    for heat in found.heat.values():
        assert np.nanmin(heat) >= 0.0
        assert np.nanmax(heat) <= 1.0
    assert 0.1 < found.lung_area.mean() < 0.6
    without = run_classifier(tiny_classifier(MaskingMode.NONE), cases, None)
    assert np.isnan(without.heat["cam_in_lung"]).all()
    assert np.nanmin(without.heat["heat_in_kept"]) == 1.0
    assert (found.seconds > 0).all()


def test_missing_masks_are_one_clear_error(phantom_sets: Path, tmp_path: Path) -> None:
    cases = read_finding_index(phantom_sets / "nih")[:2]
    for mode in (MaskingMode.LOOSE, MaskingMode.TIGHT):
        with pytest.raises(DataError, match="--masks"):
            run_classifier(tiny_classifier(mode), cases, None)
        with pytest.raises(DataError, match=f"no mask of {cases[0].name}"):
            run_classifier(tiny_classifier(mode), cases, tmp_path)
    cv2.imwrite(str(mask_path(tmp_path, cases[0].name)), np.ones((80, 72), np.uint8))
    with pytest.raises(DataError, match="its image"):
        run_classifier(tiny_classifier(MaskingMode.TIGHT), cases[:1], tmp_path)


@pytest.mark.parametrize("flags", [[], ["--split", "val"]])
def test_findings_become_metrics_and_a_report(
    phantom_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    classifiers = {mode: tiny_classifier(mode) for mode in MaskingMode}
    monkeypatch.setattr(evaluate, "load_classifiers", lambda *_, **__: classifiers)
    cases = read_finding_index(phantom_sets / "nih")
    overread = [replace(c, rsna_normal=i % 12 == 5) for i, c in enumerate(cases)]
    monkeypatch.setattr(evaluate, "read_finding_index", lambda _: overread)
    arguments = ["--data", str(phantom_sets / "nih"), "--masks", str(phantom_sets / "masks")]
    assert (
        main(
            [
                "evaluate",
                *arguments,
                "--out",
                str(tmp_path),
                "--resamples",
                "5",
                "--planted",
                "2",
                *flags,
            ]
        )
        == 0
    )
    metrics = check_written(tmp_path)
    assert metrics["split"] == (flags[1] if flags else "test")
    assert metrics["images"] == metrics["patients"] == 12
    assert set(metrics["figures"]) >= {
        "none", "loose", "tight", "differences", "outside_lung_probe", "outside_loose_probe",
        "places_none", "places_loose", "places_tight",
    }  # fmt: skip
    assert metrics["figures"]["places_tight"]["planted_hit_Mass"]["n"] == 2
    assert metrics["figures"]["tight"]["auroc_Mass"]["n"] == 2
    assert metrics["lung masks with a reason for doubt"] == "no quality table"
    page = (tmp_path / evaluate.REPORT_NAME).read_text(encoding="utf-8")
    for key in FINDING_KEYS:
        assert f"{key}, highest scored positive" in page
        assert f"{key}, lowest scored positive" in page
    # Tiny classifiers were never trained, and the report says that nobody knows for how long.
    assert page.count("not recorded") >= 3


def test_images_read_as_normal_are_left_out_where_the_index_tells(
    phantom_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        evaluate,
        "load_classifiers",
        lambda *_, **__: {MaskingMode.NONE: tiny_classifier(MaskingMode.NONE)},
    )
    cases = [c for c in read_finding_index(phantom_sets / "nih") if c.split == "test"]
    overread = [replace(c, rsna_normal=i < 3) for i, c in enumerate(cases)]
    monkeypatch.setattr(evaluate, "read_finding_index", lambda _: overread)
    arguments = ["--data", str(phantom_sets / "nih"), "--out", str(tmp_path), "--resamples", "5"]
    assert main(["evaluate", *arguments]) == 0
    figures = check_written(tmp_path)["figures"]
    assert figures["none"]["auroc_macro"]["n"] == 12
    assert figures["none_without_rsna_normal"]["auroc_macro"]["n"] == 9
    # Without masks there is nothing to say about lungs, and no probe.
    assert figures["none"]["cam_in_lung_Mass"] == {
        "value": None, "low": None, "high": None, "n": 0,
    }  # fmt: skip
    assert "outside_lung_probe" not in figures


def test_doubtful_masks_are_counted_and_shown(
    phantom_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        evaluate,
        "load_classifiers",
        lambda *_, **__: {MaskingMode.NONE: tiny_classifier(MaskingMode.NONE)},
    )
    cases = [c for c in read_finding_index(phantom_sets / "nih") if c.split == "test"]
    masks = tmp_path / "masks"
    masks.mkdir()
    for case in cases:
        source = mask_path(phantom_sets / "masks", case.name)
        mask_path(masks, case.name).symlink_to(source)
    with (masks / QUALITY_NAME).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for index, case in enumerate(cases):
            reasons = ("One lung is much larger.",) if index < 2 else ()
            writer.writerow({"image": case.name, "reasons": reasons})
    arguments = ["--data", str(phantom_sets / "nih"), "--masks", str(masks), "--resamples", "2"]
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "out")]) == 0
    metrics = check_written(tmp_path / "out")
    assert metrics["lung masks with a reason for doubt"] == "2 of 12"
    assert metrics["reasons for doubt"] == {c.name: ["One lung is much larger."] for c in cases[:2]}
    page = (tmp_path / "out" / evaluate.REPORT_NAME).read_text(encoding="utf-8")
    assert page.count(f"{cases[0].name}: One lung is much larger.") == 2  # alt text and caption


def test_lungs_become_metrics_and_a_report(
    phantom_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "from_checkpoints", lambda *_, **__: fake_pipeline())
    arguments = ["--data", str(phantom_sets / "lungs"), "--out", str(tmp_path), "--resamples", "5"]
    assert main(["evaluate", *arguments]) == 0
    metrics = check_written(tmp_path)
    assert metrics["task"] == "lungs"
    assert metrics["figures"]["lungs"]["dice_phantoms"]["n"] == metrics["images"] == 2
    page = (tmp_path / evaluate.REPORT_NAME).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    worst = next(value for name, value in metrics.items() if name.startswith("lowest Dice"))
    assert len(worst) == 2
    assert list(worst.values()) == sorted(worst.values())


def check_written(folder: Path) -> dict:
    """Every figure is in both files, and the page asks nothing of any server."""
    metrics = json.loads((folder / evaluate.METRICS_NAME).read_text(encoding="utf-8"))
    page = (folder / evaluate.REPORT_NAME).read_text(encoding="utf-8")
    for group, of_group in metrics["figures"].items():
        assert f"<h2>{group}</h2>" in page
        for name, figure in of_group.items():
            assert set(figure) == {"value", "low", "high", "n"}
            values = {k: math.nan if v is None else v for k, v in figure.items()}
            assert cell(Estimate(**values)) in page, name
    bare = re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+", "", page)
    assert "://" not in bare
    assert not re.search(r"<(script|link|iframe|object)|@import|url\(", bare)
    assert all(source == "" for source in re.findall(r'src="([^"]*)"', bare))
    assert "Not a medical device" in unescape(page)
    return metrics


def test_bad_input_is_one_clear_error(
    phantom_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    CheckpointStore(empty, ()).save()
    out = ["--out", str(tmp_path / "out"), "--checkpoints", str(empty)]
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "index.csv").write_text("image,Mass\na.png,1\n")
    for data, message in (
        (tmp_path / "nowhere", "There is no"),
        (phantom_sets / "nih", "lists no classifier"),
        (phantom_sets / "lungs", "lists no lung segmenter"),
        (broken, "lists no classifier"),
    ):
        assert main(["evaluate", "--data", str(data), *out]) == 3
        errors = capsys.readouterr().err.strip().splitlines()
        assert len(errors) == 1
        assert message in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_missing_column_and_an_empty_split_are_named(
    phantom_sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        evaluate,
        "load_classifiers",
        lambda *_, **__: {MaskingMode.NONE: tiny_classifier(MaskingMode.NONE)},
    )
    (tmp_path / "index.csv").write_text("image,Mass\na.png,1\n")
    out = ["--out", str(tmp_path / "out")]
    assert main(["evaluate", "--data", str(tmp_path), *out]) == 3
    assert "lacks the columns" in capsys.readouterr().err
    pretrain = ["--data", str(phantom_sets / "pretrain")]
    assert main(["evaluate", *pretrain, *out]) == 3
    assert "no image of the split 'test'" in capsys.readouterr().err
