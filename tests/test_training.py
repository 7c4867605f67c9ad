"""One step of each loop, and the way from a finished run to a checkpoint the app loads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import TinyEncoder, tiny_resnet
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torchvision.models import resnet50

from cxrdemo.checkpoints import Estimate
from cxrdemo.inputs import InputSpec, normalise, place
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.masking import DEFAULT_MARGIN, apply_mask, kept_region
from cxrdemo.phantom import make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import MaskingMode, Side
from cxrdemo.segmenter import SamNetwork
from training import evaluate, publish
from training import masks as masks_command
from training.classify import ClassifySettings, ClassifyTask, known_label_loss
from training.data import DataError, FindingCase
from training.evaluate import Scores, auroc, finding_metrics, patient_bootstrap, rates_at
from training.findings import (
    OUTPUTS,
    UNKNOWN,
    Drawing,
    FindingDataset,
    doubt_overread,
    sampling_weights,
    typical_lungs,
)
from training.lesions import MASS, NODULE, LesionKind, draw_lesion
from training.runs import Draw
from training.segment import (
    SegmentSettings,
    SegmentTask,
    jittered_box,
    mask_loss,
    sample_points,
)

SEGMENT = SegmentSettings(
    data="d", out="o", architecture="sam-tinyvit-5m-512", init=None, size=64, epochs=1, batch=2,
    lr=1e-3, weight_decay=0.0, ema=0.0, patience=0, precision="fp32", devices=1, num_nodes=1,
    freeze_prompt_encoder=True, seed=0, workers=0,
)  # fmt: skip
CLASSIFY = ClassifySettings(
    data="d", extra=[], masks=None, out="o", masking="none", backbone="resnet50", init=None,
    size=64, epochs=1, images_per_epoch=4, extra_share=0.0, nodules=0.0, masses=0.0, batch=4,
    lr=1e-3, weight_decay=0.0, ema=0.0, patience=0, precision="fp32", devices=1, num_nodes=1,
    select="best", seed=0, workers=0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "RESAMPLES", 200)


@pytest.fixture
def quiet_log(monkeypatch: pytest.MonkeyPatch) -> None:
    for task in (SegmentTask, ClassifyTask):
        monkeypatch.setattr(task, "log", lambda *_, **__: None)


def sides() -> np.ndarray:
    out = np.zeros((64, 64), np.uint8)
    out[10:50, 8:28] = Side.RIGHT
    out[10:50, 36:56] = Side.LEFT
    return out


@pytest.mark.usefixtures("quiet_log")
def test_steps_of_the_segmenter_lower_the_loss_and_leave_frozen_parts_alone() -> None:
    torch.manual_seed(0)
    network = SamNetwork(TinyEncoder(), input_size=64, stride=8)
    task = SegmentTask(network, SEGMENT)
    truth = torch.from_numpy(np.stack([sides(), sides()]))
    batch = {"image": (truth > 0).float()[:, None].repeat(1, 3, 1, 1), "sides": truth}
    batch["seed"] = torch.tensor([1, 2])  # the same prompts in each step
    before = {k: v.clone() for k, v in network.state_dict().items()}
    trainable = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trainable, 1e-3)
    losses = []
    for _ in range(12):
        loss = task.training_step(batch, 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    after = network.state_dict()
    for key, value in before.items():
        if key.startswith("prompt_encoder"):
            assert torch.equal(after[key], value), key
    assert not torch.equal(
        after["image_encoder.patch.weight"], before["image_encoder.patch.weight"]
    )


def test_a_perfect_mask_costs_little_and_its_opposite_much() -> None:
    truth = torch.from_numpy(sides() > 0)[None]
    logits = torch.where(truth, 20.0, -20.0)[:, None]
    perfect = mask_loss(logits, torch.ones(1, 1), truth)
    opposite = mask_loss(-logits, torch.zeros(1, 1), truth)
    assert perfect < 0.01
    assert opposite > 5


def test_points_ask_for_the_lungs_that_hold_a_positive_one() -> None:
    for seed in range(40):
        points, adds, target = sample_points(sides(), np.random.default_rng(seed))
        rows, columns = points[:, 1].astype(int), points[:, 0].astype(int)
        np.testing.assert_array_equal(target[rows, columns], adds)
        asked = {int(s) for s in np.unique(sides()[rows[adds], columns[adds]])}
        assert asked == {int(s) for s in np.unique(sides()[target])}


def test_a_jittered_box_stays_near_the_lung_and_inside() -> None:
    box = jittered_box(sides() == Side.RIGHT, np.random.default_rng(0))
    assert box is not None
    np.testing.assert_allclose(box, [8, 10, 28, 50], atol=64 * 20 / 1024)
    assert jittered_box(np.zeros((64, 64), bool), np.random.default_rng(0)) is None


@pytest.mark.usefixtures("quiet_log")
def test_steps_of_the_classifier_lower_the_loss() -> None:
    torch.manual_seed(0)
    network = tiny_resnet(outputs=len(OUTPUTS)).train()
    task = ClassifyTask(network, CLASSIFY)
    batch = {
        "image": torch.rand(4, 3, 64, 64),
        "labels": torch.randint(0, 2, (4, len(OUTPUTS))).float(),
    }
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        loss = task.training_step(batch, 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_unknown_labels_take_no_part_in_the_loss() -> None:
    labels = torch.tensor([[1.0, UNKNOWN, 0.0]])
    logits = torch.tensor([[0.3, 0.5, -0.2]], requires_grad=True)
    loss = known_label_loss(logits, labels)
    other = known_label_loss(torch.tensor([[0.3, 99.0, -0.2]]), labels)
    assert loss.item() == pytest.approx(other.item())
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    assert known_label_loss(logits, torch.full((1, 3), UNKNOWN)).item() == 0.0


def case(name: str, path: Path, *, split: str = "train", **positive: int) -> FindingCase:
    labels = {key: positive.get(key, 0) for key in OUTPUTS}
    return FindingCase(name, "phantoms", name, path, labels, int(not positive), split)


def test_rare_findings_are_drawn_more_often_within_bounds() -> None:
    cases = [case(f"n{i}", Path()) for i in range(90)]
    cases += [case(f"p{i}", Path(), Pneumonia=1) for i in range(9)] + [
        case("f", Path(), Fibrosis=1)
    ]
    weights = sampling_weights(cases)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[-1] > weights[90] > weights[0]
    assert weights.max() <= 6 * weights.min() * (1 + 1e-9)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two phantoms as files, and their lung masks as `masks` writes them."""
    import cv2

    for seed in range(2):
        phantom = make_phantom(seed=seed, hw=(128, 112))
        picture = np.rint(phantom.radiograph.pixels * 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"p{seed}.png"), picture)
        (tmp_path / "masks").mkdir(exist_ok=True)
        cv2.imwrite(str(masks_command.mask_path(tmp_path / "masks", f"p{seed}.png")), phantom.lungs)
    return tmp_path


@pytest.mark.parametrize("mode", list(MaskingMode))
def test_a_training_item_is_what_the_app_feeds_its_network(images: Path, mode: MaskingMode) -> None:
    spec = InputSpec(hw=(64, 64))
    dataset = FindingDataset(
        [case("p0.png", images / "p0.png", Mass=1)],
        spec,
        mode=mode,
        masks=images / "masks",
    )
    item = dataset[Draw(0, 0)]
    from cxrdemo.reading import read_radiograph

    pixels = read_radiograph(images / "p0.png").pixels
    lungs = masks_command.read_sides(images / "masks", "p0.png") > 0
    kept = kept_region(lungs, mode=mode, margin=DEFAULT_MARGIN)
    canvas, _ = place(apply_mask(pixels, kept, fill=spec.fill), spec)
    np.testing.assert_array_equal(item["image"].numpy(), normalise(canvas, spec))
    assert item["labels"][0] == 1.0


@pytest.mark.parametrize("kind", [NODULE, MASS])
def test_a_lesion_is_bright_round_within_its_size_and_centred_in_the_lungs(
    kind: LesionKind,
) -> None:
    phantom = make_phantom(seed=3, hw=(256, 224))
    lungs = phantom.lungs > 0
    rows = np.flatnonzero(lungs.any(axis=1))
    height = rows[-1] - rows[0] + 1
    for seed in range(20):
        rng = np.random.default_rng(seed)
        changed = draw_lesion(phantom.radiograph.pixels, lungs, kind, rng)
        added = changed - phantom.radiograph.pixels
        assert added.min() >= 0.0
        assert changed.max() <= 1.0
        y, x = np.nonzero(added > 0.02)
        assert lungs[
            int(y.mean()) - 9 : int(y.mean()) + 10, int(x.mean()) - 9 : int(x.mean()) + 10
        ].any()
        diameter = np.sqrt(4 * len(y) / np.pi) / height
        assert 0.6 * kind.diameter[0] < diameter < 1.3 * kind.diameter[1]


def test_a_drawn_lesion_sets_its_label_and_survives_the_masking(images: Path) -> None:
    cases = [case("p0.png", images / "p0.png"), case("p1.png", images / "p1.png")]
    for mode in MaskingMode:
        drawing = Drawing(modes=(mode,), mass=1.0)
        dataset = FindingDataset(
            cases, InputSpec(hw=(64, 64)), masks=images / "masks", drawing=drawing
        )
        for index in range(2):
            labels = dataset[Draw(index, index)]["labels"]
            assert labels[OUTPUTS.index("Mass")] == 1.0
            assert labels[OUTPUTS.index("Nodule")] == 0.0
    assert cases[0].labels["Mass"] == 0  # the index itself is not changed


def test_lesions_and_masking_need_masks(images: Path) -> None:
    cases = [case("p0.png", images / "p0.png")]
    for drawing in (
        Drawing(modes=(MaskingMode.NONE,), nodule=0.1),
        Drawing(modes=tuple(MaskingMode)),
    ):
        with pytest.raises(DataError, match="--masks"):
            FindingDataset(cases, InputSpec(hw=(64, 64)), drawing=drawing)


def test_what_radiologists_read_as_normal_is_unknown_and_not_positive() -> None:
    plain = case("a", Path(), Nodule=1)
    doubted = replace(case("b", Path(), Nodule=1), rsna_normal=True)
    kept, changed = doubt_overread([plain, doubted])
    assert kept.labels["Nodule"] == 1
    assert changed.labels["Nodule"] is None
    assert changed.labels["Mass"] == 0


def test_typical_lungs_lie_where_the_masks_agree(images: Path) -> None:
    found = typical_lungs(images / "masks", ["p0.png", "p1.png"])
    assert found.shape == (64, 64)
    assert 0.1 < found.mean() < 0.6
    assert not found[:3].any()


def scores(*, n: int = 60, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    labels = rng.random((n, len(FINDING_KEYS))) < 0.3
    return Scores(
        logits=labels * 1.5 + rng.normal(size=labels.shape),
        labels=labels,
        no_finding=~labels.any(axis=1),
        patients=tuple(str(i // 2) for i in range(n)),
        rsna_normal=np.zeros(n, bool),
    )


def test_figures_are_scikit_learns_with_an_interval_round_them() -> None:
    data = scores()
    probabilities = publish.probabilities(data, publish.calibrate(data))
    metrics = finding_metrics(data, probabilities)
    values = []
    for column, key in enumerate(FINDING_KEYS):
        expected = roc_auc_score(data.labels[:, column], data.logits[:, column])
        estimate = metrics[f"auroc_{key}"]
        assert estimate.value == pytest.approx(expected)
        assert estimate.low < expected < estimate.high
        assert estimate.n == data.labels[:, column].sum()
        values.append(expected)
    assert metrics["auroc_macro"].value == pytest.approx(np.mean(values))
    assert metrics["auroc_macro"].n == 60


def test_resampling_is_by_patient() -> None:
    # Ten images of each patient agree, so the interval must be as wide as for one image each.
    values = np.repeat(np.random.default_rng(0).normal(size=30), 10)
    one = np.random.default_rng(0).normal(size=30)
    patients = [str(i // 10) for i in range(300)]
    many = patient_bootstrap(patients, lambda rows: float(values[rows].mean()), n=300)
    few = patient_bootstrap([str(i) for i in range(30)], lambda rows: float(one[rows].mean()), n=30)
    assert many == Estimate(pytest.approx(few.value), many.low, many.high, 300)
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.05)


def test_auroc_without_positives_is_not_a_number() -> None:
    assert np.isnan(auroc(np.zeros(4, bool), np.arange(4.0)))


def test_rates_are_counted_at_the_threshold() -> None:
    data = Scores(
        logits=np.zeros((4, 5)),
        labels=np.array([[True], [True], [False], [False]]).repeat(5, 1),
        no_finding=np.array([False, False, True, True]),
        patients=("a", "b", "c", "d"),
        rsna_normal=np.zeros(4, bool),
    )
    probability = np.array([[0.9], [0.5], [0.5], [0.1]]).repeat(5, 1)
    sensitivity, specificity = rates_at(data, probability, 0, 0.5)
    assert (sensitivity.value, specificity.value) == (1.0, 0.5)
    assert (sensitivity.n, specificity.n) == (2, 2)


def test_calibration_brings_probabilities_to_the_prevalence() -> None:
    data = scores(n=400)
    labels = publish.calibrate(data)
    probabilities = publish.probabilities(data, labels)
    np.testing.assert_allclose(probabilities.mean(axis=0), data.labels.mean(axis=0), atol=0.02)
    for column, label in enumerate(labels):
        called = probabilities[:, column] >= label.threshold
        truth = data.labels[:, column]
        youden = called[truth].mean() - called[~truth].mean()
        for other in np.linspace(0.02, 0.98, 30):
            called = probabilities[:, column] >= other
            assert called[truth].mean() - called[~truth].mean() <= youden + 1e-9


def test_the_other_operating_points_keep_what_they_promise_on_the_patients_they_are_from() -> None:
    data = scores(n=400)
    labels = publish.calibrate(data)
    probabilities = publish.probabilities(data, labels)
    for column, label in enumerate(labels):
        truth, p = data.labels[:, column], probabilities[:, column]
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


def test_a_finding_ranked_worse_than_chance_is_not_published() -> None:
    data = scores()
    backwards = replace(data, logits=-data.logits)
    with pytest.raises(publish.DataError, match="worse than chance"):
        publish.calibrate(backwards)


def test_a_run_becomes_a_checkpoint_that_the_app_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    torch.manual_seed(0)
    network = resnet50(weights=None, num_classes=len(OUTPUTS))
    save_file(network.state_dict(), run / "network.safetensors")
    (run / "settings.json").write_text(
        json.dumps({"masking": "none", "size": 64, "data": "/somewhere/private/nih"})
    )
    cases = [case(f"{i}", Path(), split=split) for split in ("val", "test") for i in range(2)]
    monkeypatch.setattr(publish, "read_finding_index", lambda _: cases)
    monkeypatch.setattr(publish, "score_images", lambda *_: scores())
    out = tmp_path / "checkpoints"
    arguments = ["--run", str(run), "--data", "d", "--checkpoints", str(out)]
    arguments += ["--trained-on", "phantoms", "--licence", "none"]
    from training.__main__ import main

    assert main(["publish", *arguments]) == 0
    card = capsys.readouterr().out
    assert "| auroc_macro |" in card
    assert "n=" in card
    assert "/somewhere" not in card
    loaded = Pipeline.from_checkpoints(out)
    spec = loaded.classifier_spec(MaskingMode.NONE)
    assert spec is not None
    assert [label.key for label in spec.labels] == list(FINDING_KEYS)
    reading = loaded.analyse(
        make_phantom(seed=0, hw=(128, 128)).radiograph, maskings=[MaskingMode.NONE]
    ).readings[MaskingMode.NONE]
    assert np.isfinite(reading.findings.logits).all()
    backwards = scores()
    backwards = replace(backwards, logits=-backwards.logits)
    monkeypatch.setattr(publish, "score_images", lambda *_: backwards)
    before = (out / "manifest.json").read_text()
    assert main(["publish", *arguments, "--version", "2"]) == 3
    assert "worse than chance" in capsys.readouterr().err
    assert (out / "manifest.json").read_text() == before
    assert not list(out.glob("*.v2.*")), "what is refused leaves nothing behind"
