"""Where findings are: cells, places, boxes, edges, and the losses that teach them."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from fakes import tiny_resnet

from cxrdemo.backbones import activations_of, build_network, logits_of, output_layer
from cxrdemo.inputs import KEPT_MEAN, InputSpec
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.lesions import MASS, NODULE
from cxrdemo.masking import DEFAULT_MARGIN, cell_weights, kept_region, masked_input
from cxrdemo.phantom import make_phantom
from cxrdemo.results import MaskingMode
from training.commands.classify import begin_at_shares, label_shares
from training.engine import starts
from training.engine.draws import Use
from training.engine.losses import LABEL_SMOOTHING, beyond_loss, evidence_of, place_loss
from training.errors import DataError
from training.images.augment import Ranges
from training.images.edges import jitter_edges
from training.images.findings import NOWHERE, OUTPUTS, Augmentation, FindingDataset
from training.images.lesions import draw_lesion
from training.images.stored_masks import mask_path
from training.sets.boxes import Box, read_boxes
from training.sets.index import FindingCase

SPEC = InputSpec(hw=(64, 64), fill=KEPT_MEAN)
GRID = (8, 8)
STILL = Ranges(0.0, (1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def case(name: str, path: Path, **positive: int) -> FindingCase:
    labels = {key: positive.get(key, 0) for key in OUTPUTS}
    return FindingCase(name, "phantoms", name, path, labels, int(not positive), "train")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One phantom as a file, and its lung mask."""
    path = tmp_path_factory.mktemp("places")
    phantom = make_phantom(seed=0, hw=(128, 112))
    cv2.imwrite(str(path / "p.png"), np.rint(phantom.radiograph.pixels * 255).astype(np.uint8))
    (path / "masks").mkdir()
    cv2.imwrite(str(mask_path(path / "masks", "p.png")), phantom.lungs)
    return path


def dataset(
    folder: Path, augmentation: Augmentation | None, mode: MaskingMode, spec: InputSpec = SPEC
) -> FindingDataset:
    return FindingDataset(
        [case("p.png", folder / "p.png")],
        spec,
        mode=mode,
        masks=folder / "masks",
        augmentation=augmentation,
        grid_hw=GRID,
    )


@pytest.mark.parametrize("mode", list(MaskingMode))
def test_cells_count_in_training_as_they_do_in_the_app(folder: Path, mode: MaskingMode) -> None:
    item = dataset(folder, None, mode)[Use(0, 0)]
    pixels = cv2.imread(str(folder / "p.png"), cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255
    lungs = cv2.imread(str(mask_path(folder / "masks", "p.png")), cv2.IMREAD_UNCHANGED) > 0
    kept = kept_region(lungs, mode=mode, margin=DEFAULT_MARGIN)
    given = masked_input(pixels, kept, SPEC)
    expected = cell_weights(given.placement.shares(kept, GRID))
    np.testing.assert_array_equal(item["weights"][0].numpy(), expected)
    assert item["placed"] == NOWHERE
    assert not item["beyond"].any()


@pytest.mark.parametrize("mode", list(MaskingMode))
def test_a_lesions_cells_are_where_the_image_has_changed(folder: Path, mode: MaskingMode) -> None:
    plain = Augmentation(modes=(mode,), ranges=STILL)
    with_mass = replace(plain, mass=1.0)
    black = replace(SPEC, fill=0.0)  # a lesion changes the mean, and with it what is filled
    for seed in range(5):
        before = dataset(folder, plain, mode, black)[Use(0, seed)]
        after = dataset(folder, with_mass, mode, black)[Use(0, seed)]
        if after["placed"] == NOWHERE:
            continue
        assert after["placed"] == OUTPUTS.index("Mass")
        # The same seed draws the same margin, so what is kept is the same.
        torch.testing.assert_close(after["weights"], before["weights"])
        changed = (after["image"][0] - before["image"][0]).clamp(min=0)
        by_cell = torch.nn.functional.avg_pool2d(changed[None], 8)[0] * (after["weights"][0] > 0)
        row, column = divmod(int(by_cell.argmax()), GRID[1])
        assert after["place"][row, column] > 0.3
        assert after["place"].max() == 1
        assert not (after["place"] * (after["weights"][0] == 0)).any()


def test_only_lungs_that_are_known_hold_heat_beside_them_against_an_image(folder: Path) -> None:
    for mode, expected in ((MaskingMode.NONE, True), (MaskingMode.LOOSE, True),
                           (MaskingMode.TIGHT, False)):  # fmt: skip
        item = dataset(folder, Augmentation(modes=(mode,), ranges=STILL), mode)[Use(0, 1)]
        assert bool(item["beyond"].any()) is expected
    lungs = cv2.imread(str(mask_path(folder / "masks", "p.png")), cv2.IMREAD_UNCHANGED) > 0
    rough = FindingDataset(
        [case("p.png", folder / "p.png")],
        SPEC,
        lungs=[lungs],
        augmentation=Augmentation(modes=(MaskingMode.NONE,), mass=0.5, decoy=0.5),
        grid_hw=GRID,
    )
    for seed in range(8):
        assert not rough[Use(0, seed)]["beyond"].any()


def test_a_decoy_lies_clear_of_the_lungs_and_changes_no_label(folder: Path) -> None:
    plain = Augmentation(modes=(MaskingMode.NONE,), ranges=STILL)
    before = dataset(folder, plain, MaskingMode.NONE)
    after = dataset(folder, replace(plain, decoy=1.0), MaskingMode.NONE)
    changed = 0
    for seed in range(6):
        one, other = before[Use(0, seed)], after[Use(0, seed)]
        torch.testing.assert_close(one["labels"], other["labels"])
        assert other["placed"] == NOWHERE
        difference = torch.nn.functional.avg_pool2d((other["image"] - one["image"])[:1], 8)[0]
        inside = one["beyond"] == 0
        assert difference[inside].abs().max() < 0.5 * difference.abs().max() + 1e-6
        changed += bool(difference.abs().max() > 0.05)
    assert changed >= 3


def test_a_control_keeps_clear_of_the_lungs_or_is_none() -> None:
    phantom = make_phantom(seed=1, hw=(128, 112))
    lungs = phantom.lungs > 0
    for seed in range(10):
        lesion = draw_lesion(
            phantom.radiograph.pixels,
            lungs,
            NODULE,
            np.random.default_rng(seed),
            centres=np.ones_like(lungs),
            beyond=True,
        )
        assert lesion is not None
        assert not (lesion.place & lungs).any()
    nowhere = np.zeros_like(lungs)
    assert draw_lesion(
        phantom.radiograph.pixels, lungs, MASS, np.random.default_rng(0), centres=nowhere
    ) is None  # fmt: skip


def test_a_box_of_a_real_finding_is_its_place(folder: Path) -> None:
    box = Box("Pneumonia", 0.25, 0.25, 0.25, 0.25)
    augmentation = Augmentation(modes=(MaskingMode.NONE,), ranges=STILL, boxes={"p.png": (box,)})
    item = dataset(folder, augmentation, MaskingMode.NONE)[Use(0, 0)]
    assert item["placed"] == OUTPUTS.index("Pneumonia")
    # 128 x 112 px on 64 x 64: half size, and 4 px of bar on the left.
    expected = np.zeros((64, 64))
    expected[16:32, 4 + 16 : 4 + 32] = 1
    shares = cv2.resize(expected, GRID, interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(item["place"].numpy(), shares, atol=0.02)


@pytest.mark.parametrize("name", ["resnet50", "resnet50-dilated", "timm/test_resnet"])
def test_the_mean_of_the_evidence_is_the_logit_less_the_bias(name: str) -> None:
    network = build_network(name, 3).eval()
    layer = network.get_submodule(output_layer(network))
    torch.manual_seed(1)
    torch.nn.init.normal_(layer.weight, std=0.1)  # type: ignore[arg-type]
    with torch.inference_mode():
        activations = activations_of(network, torch.rand(2, 3, 96, 96))
        weights = torch.rand(2, 1, *activations.shape[-2:])
        evidence = evidence_of(network, activations)
        logits = logits_of(network, activations, weights)
    shares = weights / weights.sum((-2, -1), keepdim=True)
    torch.testing.assert_close(
        (evidence * shares).sum((2, 3)), logits - layer.bias, rtol=1e-3, atol=1e-4
    )


def test_a_step_on_places_moves_the_hottest_cell_there() -> None:
    evidence = torch.zeros(2, 3, 4, 4, requires_grad=True)
    weights = torch.ones(2, 1, 4, 4)
    weights[:, :, :, 0] = 0
    place = torch.zeros(2, 4, 4)
    place[0, 2, 3] = 1
    placed = torch.tensor([1, NOWHERE])
    loss = place_loss(evidence, weights, place, placed)
    assert loss.item() == pytest.approx(
        np.log(12) / 2, rel=1e-4
    )  # 12 cells count, one of two has a place
    loss.backward()
    assert evidence.grad is not None
    assert int((-evidence.grad[0, 1]).argmax()) == 2 * 4 + 3
    assert not evidence.grad[0, 1, :, 0].any(), "cells that do not count take no part"
    assert not evidence.grad[1].any()
    assert not evidence.grad[0, [0, 2]].any()
    assert place_loss(evidence, weights, place, torch.tensor([NOWHERE, NOWHERE])).item() == 0


def test_heat_outside_is_a_share_that_falls_when_it_moves_in() -> None:
    weights, beyond = torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2)
    beyond[0, 0] = 1
    out = torch.tensor([[[[50.0, 50.0], [0.0, 0.0]]]])
    both = torch.tensor([[[[50.0, -9.0], [50.0, -9.0]]]])
    assert beyond_loss(out, weights, beyond).item() == pytest.approx(1, abs=0.01)
    assert beyond_loss(both, weights, beyond).item() == pytest.approx(0.5, abs=0.01)
    assert beyond_loss(out.flip(2), weights, beyond).item() == 0
    assert beyond_loss(-out, weights, beyond).item() == 0, "what speaks against is no heat"


def test_jittered_edges_stay_near_and_differ() -> None:
    lungs = make_phantom(seed=0, hw=(256, 224)).lungs > 0
    height = np.flatnonzero(lungs.any(axis=1)).size
    overlaps = []
    for seed in range(20):
        other = jitter_edges(lungs, np.random.default_rng(seed))
        assert other.shape == lungs.shape
        overlaps.append(2 * (other & lungs).sum() / (other.sum() + lungs.sum()))
        near = cv2.dilate(lungs.astype(np.uint8), np.ones((3, 3)), iterations=height // 20) > 0
        assert not (other & ~near).any()
    assert 0.8 < min(overlaps) < 0.96
    assert len(set(overlaps)) > 10
    speck = np.zeros((64, 64), bool)
    speck[30, 30] = True
    for seed in range(20):
        assert jitter_edges(speck, np.random.default_rng(seed)).any()


def box_file(folder: Path, row: str, *, head: str = "image,label,x,y,width,height") -> Path:
    path = folder / "boxes.csv"
    path.write_text(f"{head}\n{row}\n")
    return path


def test_boxes_are_fractions_of_the_longest_side(tmp_path: Path) -> None:
    cases = [case("a.png", tmp_path)]
    path = box_file(tmp_path, "a.png,Infiltrate,256,512,128,64")
    assert read_boxes(path, cases) == {"a.png": (Box("Infiltration", 0.25, 0.5, 0.125, 0.0625),)}
    head = "image,label,x,y,width,height,original_px"
    path = box_file(tmp_path, "a.png,Mass,256,512,128,64,2048", head=head)
    assert read_boxes(path, cases) == {"a.png": (Box("Mass", 0.125, 0.25, 0.0625, 0.03125),)}
    assert Box("Mass", 0.125, 0.25, 0.25, 0.5).region((80, 60)).sum() == 20 * 40


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("b.png,Mass,1,1,1,1", "line 2: b.png is not in the set's index"),
        ("a.png,Lump,1,1,1,1", "the label 'Lump'"),
        ("a.png,Mass,1000,1,100,1", "does not lie in an image whose longest side is 1024 px"),
        ("a.png,Mass,-1,1,100,1", "does not lie in"),
        ("a.png,Mass,1,1,0,1", "does not lie in"),
        ("a.png,Mass,nan,1,1,1", "does not lie in"),
        ("a.png,Mass,one,1,1,1", "must be numbers"),
    ],
)
def test_a_bad_box_is_named_with_its_line(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(DataError, match=r"boxes\.csv") as error:
        read_boxes(box_file(tmp_path, row), [case("a.png", tmp_path)])
    assert words in str(error.value)


@pytest.mark.parametrize("side", ["-1024", "0", "inf", "nan", "long"])
def test_a_senseless_length_of_the_original_is_refused(tmp_path: Path, side: str) -> None:
    sign = "-" if side.startswith("-") else ""
    row = f"a.png,Mass,{sign}10,{sign}10,{sign}100,{sign}100,{side}"
    path = box_file(tmp_path, row, head="image,label,x,y,width,height,original_px")
    with pytest.raises(DataError, match="line 2"):
        read_boxes(path, [case("a.png", tmp_path)])


def fake_ct() -> dict[str, torch.Tensor]:
    """A 3D ResNet-152's names and shapes; each block's kernels hold its own number."""
    flat = build_network("resnet50", 2).state_dict()
    state = {
        name: value[:, :, None].repeat(1, 1, 3, 1, 1) / 3 if value.ndim == 4 else value
        for name, value in flat.items()
        if not name.startswith(("layer", "fc."))
    }
    for stage, blocks in ((1, 3), (2, 8), (3, 36), (4, 3)):
        for block in range(blocks):
            like = f"layer{stage}.{min(block, 1)}."
            for name, value in flat.items():
                if name.startswith(like):
                    deep = value[:, :, None].repeat(1, 1, 1, 1, 1) if value.ndim == 4 else value
                    filled = torch.full_like(deep, block)
                    state[f"layer{stage}.{block}.{name.removeprefix(like)}"] = filled.to(
                        torch.bfloat16 if deep.is_floating_point() else deep.dtype
                    )
    return state


def fake_lite0() -> dict[str, torch.Tensor]:
    """EfficientNet-lite0's own names for timm's shapes."""
    network = build_network("timm/tf_efficientnet_lite0", 2)
    places = [(s, b) for s, blocks in enumerate(starts.LITE_STAGES) for b in range(blocks)]
    state = {}
    for name, value in network.state_dict().items():
        parts = name.split(".")
        if parts[0] == "blocks":
            names = starts.LITE_FIRST if parts[1] == "0" else starts.LITE_BLOCK
            theirs = {ours: their for their, ours in names.items()}
            number = places.index((int(parts[1]), int(parts[2])))
            state[f"_blocks.{number}.{theirs[parts[3]]}.{'.'.join(parts[4:])}"] = value
        else:
            theirs = {ours: their for their, ours in starts.LITE_TOP.items()}
            state[".".join([theirs[parts[0]], *parts[1:]])] = value
    return state


FAKES: Mapping[str, tuple[str, Callable[[], dict[str, torch.Tensor]]]] = {
    "chest-ct": ("resnet50-dilated", fake_ct),
    "imagenet-lite0": ("timm/tf_efficientnet_lite0", fake_lite0),
}


def patched(monkeypatch: pytest.MonkeyPatch, name: str, read: Callable[[], object]) -> None:
    start = replace(starts.STARTS[name], read=read)
    monkeypatch.setattr(starts, "STARTS", {**starts.STARTS, name: start})


@pytest.mark.parametrize("name", FAKES)
def test_a_learnt_start_gives_every_weight_but_the_heads(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    backbone, fake = FAKES[name]
    stored = fake()
    patched(monkeypatch, name, lambda: stored)
    network = build_network(backbone, 5)
    head = output_layer(network)
    before = {k: v.clone() for k, v in network.state_dict().items() if k.startswith(head)}
    starts.begin_from(network, name, backbone)
    after = network.state_dict()
    for key, value in before.items():
        assert torch.equal(after[key], value)
    if name == "chest-ct":
        for stage, blocks in starts.BLOCKS.items():
            for block, theirs in enumerate(blocks):
                assert after[f"layer{stage}.{block}.conv2.weight"].unique().item() == theirs
        summed = stored["conv1.weight"].sum(2)
        torch.testing.assert_close(after["conv1.weight"], summed)
    else:
        torch.testing.assert_close(
            after["blocks.1.0.conv_pw.weight"], stored["_blocks.1._expand_conv.weight"]
        )


@pytest.mark.parametrize("name", FAKES)
def test_a_start_that_does_not_fit_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    backbone, fake = FAKES[name]
    stored = fake()
    lost = next(key for key in stored if "bn" in key and key.endswith("weight"))
    network = build_network(backbone, 5)

    def missing() -> object:
        raise ModuleNotFoundError("No module named 'weights'")

    def broken() -> object:
        raise RuntimeError("joined file does not match its SHA-256")

    for read, words in (
        (lambda: {k: v for k, v in stored.items() if k != lost}, "holds other tensors"),
        (lambda: {**stored, "_strange.weight": torch.ones(1)}, "holds other tensors"),
        (lambda: {**stored, lost: stored[lost][:1]}, "holds other tensors"),
        (missing, "pip install"),
        (broken, "SHA-256"),
    ):
        patched(monkeypatch, name, read)
        with pytest.raises(DataError, match=words):
            starts.begin_from(network, name, backbone)
    with pytest.raises(DataError, match="fits the backbones"):
        starts.begin_from(network, name, "torchvision/densenet121")


def test_an_installed_package_is_asked_for_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": fake_ct()}, path)
    package = SimpleNamespace(path=lambda name: path if name == "astra" else None)
    monkeypatch.setattr(starts, "import_module", lambda _: package)
    network = build_network("resnet50", 5)
    starts.begin_from(network, "chest-ct", "resnet50")
    assert network.state_dict()["layer2.2.conv1.weight"].unique().item() == starts.BLOCKS[2][2]


def test_a_new_head_begins_at_the_labels_shares_and_a_learnt_one_stays() -> None:
    cases = [case("a", Path(), Mass=1), case("b", Path()), case("c", Path())]
    unknown = replace(cases[2], labels={**cases[2].labels, "Mass": None})
    weights = np.array([0.25, 0.25, 0.5])
    augmentation = Augmentation(modes=(MaskingMode.NONE,), nodule=0.2)
    shares = label_shares([*cases[:2], unknown], weights, augmentation)
    assert shares[OUTPUTS.index("Mass")] == pytest.approx(0.5)
    assert shares[OUTPUTS.index("Nodule")] == pytest.approx(0.2)
    network = tiny_resnet(len(OUTPUTS))
    begin_at_shares(network, shares)
    assert network.fc.bias[OUTPUTS.index("Mass")].item() == pytest.approx(0, abs=1e-6)
    lowest = np.log(LABEL_SMOOTHING / (1 - LABEL_SMOOTHING))
    assert network.fc.bias.min().item() == pytest.approx(lowest, rel=1e-5)


def test_findings_come_first_among_the_outputs() -> None:
    """`beyond_loss` is asked of the first outputs, which must be the findings."""
    assert OUTPUTS[: len(FINDING_KEYS)] == FINDING_KEYS
    assert tiny_resnet(len(OUTPUTS)).fc.out_features == len(OUTPUTS)
