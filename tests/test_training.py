"""One step of each loop, and what the loops are fed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import TinyEncoder, tiny_resnet

from cxrdemo.inputs import InputSpec, normalise, place
from cxrdemo.lesions import MASS, NODULE, LesionKind
from cxrdemo.masking import DEFAULT_MARGIN, apply_mask, kept_region
from cxrdemo.phantom import make_phantom
from cxrdemo.results import MaskingMode, Side
from cxrdemo.sam import SamNetwork
from training.commands.classify import ClassifySettings, ClassifyTask, training_images
from training.commands.segment import (
    SegmentSettings,
    SegmentTask,
    jittered_box,
    mask_loss,
    sample_points,
)
from training.engine.draws import Use
from training.engine.losses import UNKNOWN, known_label_loss
from training.errors import DataError
from training.images.findings import (
    NOWHERE,
    OUTPUTS,
    Augmentation,
    FindingDataset,
    doubt_overread,
    sampling_weights,
    typical_lungs,
)
from training.images.lesions import draw_lesion
from training.images.stored_masks import mask_path, read_sides
from training.sets.boxes import Box
from training.sets.index import FindingCase, read_finding_index

SEGMENT = SegmentSettings(
    data="d", out="o", architecture="sam-tinyvit-5m-512", init=None, size=64, epochs=1, batch=2,
    lr=1e-3, weight_decay=0.0, ema=0.0, patience=0, precision="fp32", devices=1, num_nodes=1,
    freeze_prompt_encoder=True, seed=0, workers=0,
)  # fmt: skip
CLASSIFY = ClassifySettings(
    data="d", extra=[], masks=None, out="o", masking="none", backbone="resnet50", init=None,
    start=None, boxes=None, fill="kept-mean", pooling="kept", decoys=0.0, jitter_edges=False,
    mirror=0.0, place_weight=0.0, beyond_weight=0.0,
    size=64, epochs=1, images_per_epoch=4, extra_share=0.0, nodules=0.0, masses=0.0, batch=4,
    lr=1e-3, weight_decay=0.0, ema=0.0, patience=0, precision="fp32", devices=1, num_nodes=1,
    select="best", seed=0, workers=0,
)  # fmt: skip


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


@pytest.mark.usefixtures("quiet_log")
def test_every_kind_of_prompt_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    settings = replace(SEGMENT, freeze_prompt_encoder=False)
    task = SegmentTask(SamNetwork(TinyEncoder(), input_size=64, stride=8), settings)
    truth = torch.from_numpy(np.stack([sides()] * 4))
    batch = {"image": (truth > 0).float()[:, None].repeat(1, 3, 1, 1), "sides": truth}
    batch["seed"] = torch.arange(4)
    seen = []
    decode = task.network.decode

    def watched(embedding: torch.Tensor, **prompts: Any) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(prompts)
        return decode(embedding, **prompts)

    monkeypatch.setattr(task.network, "decode", watched)
    task.training_step(batch, 0).backward()
    boxes = [p["boxes"] for p in seen if "boxes" in p]
    assert len(boxes) == 4
    for whole, lung in boxes:
        assert whole.tolist() == [0, 0, 64, 64]
        near = [[8, 10, 28, 50], [36, 10, 56, 50]]
        assert min(np.abs(lung.numpy() - np.array(box)).max() for box in near) <= 64 * 20 / 1024
    assert len({tuple(lung.tolist()) for _, lung in boxes}) == 4, "every box is jittered anew"
    clicks = [p for p in seen if "masks" in p]
    points = [p["points"] for p in seen if "points" in p and "masks" not in p]
    assert clicks
    assert points
    assert len(clicks) + len(points) == 4
    assert {int(add) for _, adds in points for add in adds.flatten()} == {0, 1}
    for prompt in clicks:
        assert prompt["masks"].shape == (1, 1, 32, 32)
        assert prompt["points"][0].shape == (1, 1, 2)
    left_out = [n for n, p in task.network.prompt_encoder.named_parameters() if p.grad is None]
    assert not left_out, "with --freeze-prompt-encoder left away, all of it learns"


def test_dice_and_bce_are_the_formulas() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(2, 1, 64, 64)).astype(np.float32))
    truth = torch.from_numpy(np.stack([sides() > 0, sides() == Side.LEFT]))
    p, t = logits[:, 0].double().sigmoid(), truth.double()
    dice = (2 * (p * t).sum((1, 2)) + 1) / (p.sum((1, 2)) + t.sum((1, 2)) + 1)
    bce = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    overlap = ((logits[:, 0] > 0) & truth).sum((1, 2)) / ((logits[:, 0] > 0) | truth).sum((1, 2))
    loss = mask_loss(logits, overlap[:, None].float(), truth)
    assert loss.item() == pytest.approx(float(bce + (1 - dice).mean()), rel=1e-5)


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
        "weights": torch.ones(4, 1, 2, 2),
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
        cv2.imwrite(str(mask_path(tmp_path / "masks", f"p{seed}.png")), phantom.lungs)
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
    item = dataset[Use(0, 0)]
    from cxrdemo.files import read_radiograph

    pixels = read_radiograph(images / "p0.png").pixels
    lungs = read_sides(images / "masks", "p0.png") > 0
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
        lesion = draw_lesion(phantom.radiograph.pixels, lungs, kind, rng)
        assert lesion is not None
        changed = lesion.pixels
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
        augmentation = Augmentation(modes=(mode,), mass=1.0)
        dataset = FindingDataset(
            cases, InputSpec(hw=(64, 64)), masks=images / "masks", augmentation=augmentation
        )
        for index in range(2):
            labels = dataset[Use(index, index)]["labels"]
            assert labels[OUTPUTS.index("Mass")] == 1.0
            assert labels[OUTPUTS.index("Nodule")] == 0.0
    assert cases[0].labels["Mass"] == 0  # the index itself is not changed


def test_lesions_and_masking_need_masks(images: Path) -> None:
    cases = [case("p0.png", images / "p0.png")]
    for augmentation in (
        Augmentation(modes=(MaskingMode.NONE,), nodule=0.1),
        Augmentation(modes=tuple(MaskingMode)),
    ):
        with pytest.raises(DataError, match="--masks"):
            FindingDataset(cases, InputSpec(hw=(64, 64)), augmentation=augmentation)


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


def test_a_box_is_of_an_image_of_the_set_it_was_drawn_on(phantom_sets: Path) -> None:
    cases = read_finding_index(phantom_sets / "nih")
    extra = read_finding_index(phantom_sets / "pretrain")
    box = (Box("Pneumonia", 0.2, 0.2, 0.5, 0.5),)
    boxes = {case.name: box for case in (*cases, *extra)}
    augmentation = Augmentation(modes=(MaskingMode.NONE,), boxes=boxes)
    settings = replace(CLASSIFY, data="nih", extra=[str(phantom_sets / "pretrain")])
    data, _ = training_images(settings, cases, augmentation, (2, 2))
    own = sum(case.split == "train" for case in cases)
    assert data[Use(0, 0)]["placed"] == OUTPUTS.index("Pneumonia")
    assert data[Use(own, 0)]["placed"] == NOWHERE
