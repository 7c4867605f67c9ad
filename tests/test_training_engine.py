"""What every training run relies on: order of the images, resumption, devices, logs, refusals."""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar
from safetensors.torch import load_file, save_file

from cxrdemo import devices
from cxrdemo.backbones import build_network, grid_of, output_layer
from cxrdemo.errors import CxrDemoError
from cxrdemo.inputs import InputSpec
from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS
from cxrdemo.results import MaskingMode
from training.__main__ import COMMANDS, main
from training.commands import classify, pretrain, segment
from training.engine import draws
from training.engine import trainer as engine
from training.engine.draws import EvenSampler, Use, UseSampler, gather_rows
from training.engine.run_folder import RunFolder
from training.engine.settings import settings_from
from training.engine.trainer import AtomicCheckpoints
from training.errors import DataError
from training.images.findings import OUTPUTS, Augmentation, FindingDataset
from training.images.stored_masks import read_sides
from training.sets.pixels import read_pixels

ROOT = Path(__file__).resolve().parent.parent
OBSERVED = ROOT / "tests" / "observed_training.py"
LABELS = (*FINDING_KEYS, *AUXILIARY_KEYS, "No_Finding")

# Lightning's advice on speed, and what torch tells Lightning of its own way of looking at trees.
quietly = pytest.mark.filterwarnings(
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning",
    "ignore:.*LeafSpec.*:FutureWarning",
)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ellipses in noise, in both layouts and with masks: 12 to train on, 6 to validate."""
    folder = tmp_path_factory.mktemp("phantoms")
    rows = []
    for name in ("images", "masks", "sides"):
        (folder / name).mkdir()
    for seed in range(18):
        name = f"p{seed:02d}.png"
        sides = np.zeros((72, 64), np.uint8)
        cv2.ellipse(sides, (18, 36), (10, 24), 0, 0, 360, 1, -1)
        cv2.ellipse(sides, (46, 36), (10, 24), 0, 0, 360, 2, -1)
        rng = np.random.default_rng(seed)
        picture = np.where(sides > 0, 60, 180) + rng.integers(0, 60, sides.shape)
        cv2.imwrite(str(folder / "images" / name), picture.astype(np.uint8))
        cv2.imwrite(str(folder / "sides" / name), sides)
        cv2.imwrite(str(folder / "masks" / name), (sides > 0).astype(np.uint8) * 255)
        labels = {
            key: int(seed % len(LABELS) == i or seed % 3 == i % 3) for i, key in enumerate(LABELS)
        }
        split = "train" if seed < 12 else "val"
        rows.append({"image": name, "name": name[:-4], "set": "phantoms", "patient_id": seed})
        rows[-1] |= {"split": split, **labels, "No_Finding": 0}
    write_rows(folder / "index.csv", rows)
    return folder


def classify_flags(data: Path, out: Path, **more: object) -> list[str]:
    """A run of a tiny network with dropout, on masked and changed images."""
    flags = {
        "masking": "loose", "data": data, "masks": data / "sides", "out": out, "size": 32,
        "backbone": "torchvision/mobilenet_v3_small", "images_per_epoch": 24, "batch": 8,
        "epochs": 2, "nodules": 0.3, "lr": 1e-3, "ema": 0.9, "workers": 0, "precision": "fp32",
        "pooling": "all",
    } | more  # fmt: skip
    words = [[f"--{key.replace('_', '-')}", str(value)] for key, value in flags.items()]
    return ["classify", *(word for pair in words for word in pair)]


def observed(folder: Path, kill_at: int, command: list[str], *launcher: str) -> int:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, *launcher, str(OBSERVED), str(folder), str(kill_at), *command]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


@quietly
def test_a_run_killed_at_any_moment_ends_with_the_weights_of_an_uninterrupted_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(classify_flags(data, whole)) == 0
    # Three steps make an epoch: it dies in the middle of the second one.
    code = observed(tmp_path / "watched", 4, classify_flags(data, broken))
    assert code == -signal.SIGKILL
    assert not (broken / "network.safetensors").exists()
    early = (broken / "metrics.csv").read_text()
    # Another number of loading processes must change nothing.
    assert main(classify_flags(data, broken, workers=1)) == 0
    assert (broken / "metrics.1.csv").read_text() == early, "the earlier log is kept"
    assert (broken / "metrics.csv").exists()
    assert list((broken / "tensorboard").iterdir())

    expected, found = (
        torch.load(folder / "last.ckpt", weights_only=True) for folder in (whole, broken)
    )
    for part in ("state_dict", "current_model_state", "averaging_state"):
        for name, value in expected[part].items():
            assert torch.equal(found[part][name], value), (part, name)
    for ours, theirs in zip(
        found["optimizer_states"][0]["state"].values(),
        expected["optimizer_states"][0]["state"].values(),
        strict=True,
    ):
        for name, value in theirs.items():
            assert torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(value)), name
    assert found["lr_schedulers"][0]["last_epoch"] == 6
    assert found["lr_schedulers"] == expected["lr_schedulers"]
    published = [load_file(folder / "network.safetensors") for folder in (whole, broken)]
    assert published[0].keys() == published[1].keys()
    assert all(torch.equal(published[1][name], value) for name, value in published[0].items())

    # The averaged weights are published, the raw ones are only there to go on from.
    best = torch.load(whole / "best.ckpt", weights_only=True)
    for name, value in published[0].items():
        assert torch.equal(best["state_dict"][f"network.{name}"], value)
    raw, averaged = (
        best[p]["network.features.0.0.weight"] for p in ("current_model_state", "state_dict")
    )
    assert not torch.equal(raw, averaged)

    capsys.readouterr()
    assert main(classify_flags(data, broken)) == 0
    assert "has finished before" in capsys.readouterr().out
    assert main(classify_flags(data, broken, lr=2e-3)) == 3
    assert "other settings: {'lr': '0.001 -> 0.002'}" in capsys.readouterr().err


def test_two_processes_share_every_step_and_end_with_equal_weights(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = classify_flags(data, out, devices=2)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert observed(tmp_path / "watched", -1, command, *launcher) == 0
    first, second = (json.loads((tmp_path / "watched" / f"{r}.json").read_text()) for r in (0, 1))
    assert first["weights"] == second["weights"]
    settings = json.loads((out / "settings.json").read_text())
    cases = classify.doubt_overread(
        [case for case in classify.read_finding_index(data) if case.split == "train"]
    )
    sampler = UseSampler(
        12, seed=settings["seed"], weights=classify.sampling_weights(cases), count=24
    )
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        alone = [draw.index for draw in sampler]
        parts = [first["drawn"][str(epoch)], second["drawn"][str(epoch)]]
        assert [alone[0::2], alone[1::2]] == parts
    rows = read_rows(out / "metrics.csv")
    assert sum(bool(row["val_auroc"]) for row in rows) == 2, "one process writes the log"
    network = build_network("torchvision/mobilenet_v3_small", len(OUTPUTS))
    network.load_state_dict(load_file(out / "network.safetensors"))


@pytest.mark.parametrize("weighted", [False, True])
def test_processes_share_the_draws_of_an_epoch(
    monkeypatch: pytest.MonkeyPatch, weighted: bool
) -> None:
    weights = np.arange(1.0, 12.0) / 66 if weighted else None
    sampler = UseSampler(11, seed=3, weights=weights, count=11)
    sampler.set_epoch(2)
    alone = list(sampler)
    assert list(sampler) == alone, "the epoch alone decides"
    parts = []
    for rank in range(2):
        monkeypatch.setattr(draws, "_rank_and_world", lambda rank=rank: (rank, 2))
        parts.append(list(sampler))
        assert len(parts[-1]) == len(sampler) == 5
    assert [draw for pair in zip(*parts, strict=True) for draw in pair] == alone[:10]
    assert len({draw.seed for draw in alone}) == 11
    if not weighted:
        assert sorted(draw.index for draw in alone) == list(range(11))
    sampler.set_epoch(3)
    monkeypatch.undo()
    assert list(sampler) != alone


def test_validation_images_come_in_order_and_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = EvenSampler(5)
    assert [draw.index for draw in sampler] == [0, 1, 2, 3, 4]
    found = []
    for rank in range(2):
        monkeypatch.setattr(draws, "_rank_and_world", lambda rank=rank: (rank, 2))
        found.append([draw.index for draw in sampler])
    assert found == [[0, 2, 4], [1, 3, 0]]


def test_what_came_twice_counts_once() -> None:
    class Task:
        class trainer:  # noqa: N801  # Lightning's name
            world_size = 2

        def all_gather(self, values: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return values

    indices = torch.tensor([[0, 2, 4], [1, 3, 0]])
    rows = gather_rows(Task(), indices, indices.float()[..., None])  # type: ignore[arg-type]
    assert rows.flatten().tolist() == [0, 1, 2, 3, 4]


@quietly
def test_it_stops_when_validation_gets_no_better_and_is_then_finished(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = classify_flags(data, tmp_path, epochs=9, lr=1e-12, patience=1, images_per_epoch=8)
    flags += ["--ema", "0", "--weight-decay", "0"]
    assert main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert 2 <= len(epochs) < 9
    assert "train_loss" in epochs[0]
    assert "val_auroc" in epochs[0]
    assert main(flags) == 0
    assert "has finished before" in capsys.readouterr().out
    # Ended between the last epoch and the writing of the network: no further epoch.
    network = tmp_path / "network.safetensors"
    before = network.read_bytes()
    network.unlink()
    assert main(flags) == 0
    assert "\nepoch " not in capsys.readouterr().out
    assert network.read_bytes() == before


def test_a_checkpoint_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"epoch": 1}, path)

    def dies(_: object, target: Path) -> None:
        target.write_bytes(b"half a che")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(OSError, match="no space"):
        AtomicCheckpoints().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_the_hardware_chooses_the_precision_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "has_bf16", lambda _: False)
    assert engine.precision_of("auto", "cpu") == "32-true"
    assert capsys.readouterr().out == "precision 32-true: cpu has no bf16 in hardware\n"
    assert engine.precision_of("bf16", "cpu") == "bf16-mixed"
    assert engine.precision_of("fp32", "cuda") == "32-true"
    assert engine.precision_of("fp16", "cuda:0") == "16-mixed"
    with pytest.raises(DataError, match="--precision fp16 is for GPUs"):
        engine.precision_of("fp16", "cpu")


def parsed(command: str, flags: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    COMMANDS[command].add_arguments(parser)
    return parser.parse_args(flags)


def test_imagenets_weights_get_a_fresh_head_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "timm/test_resnet"
    theirs = build_network(name, 1000)
    path = tmp_path / "imagenet.safetensors"
    save_file(theirs.state_dict(), path)
    flags = classify_flags(tmp_path, tmp_path, backbone=name, init=path)[1:]
    settings = settings_from(classify.ClassifySettings, parsed("classify", flags))
    ours = classify.start_network(settings)
    assert "imagenet.safetensors has 1000 outputs of its own" in capsys.readouterr().out
    layer = output_layer(ours)
    for key, value in ours.state_dict().items():
        if key.startswith(f"{layer}."):
            assert len(value) == len(OUTPUTS)
        else:
            assert torch.equal(value, theirs.state_dict()[key]), key
    other = build_network("timm/test_convnext", 1000)
    save_file(other.state_dict(), path)
    with pytest.raises(CxrDemoError, match=r"imagenet\.safetensors do not fit the architecture"):
        classify.start_network(settings)


def spoil_index(folder: Path) -> None:
    text = (folder / "index.csv").read_text()
    (folder / "index.csv").write_text(text.replace("Edema", "Oedema", 1))


def spoil_label(folder: Path) -> None:
    rows = read_rows(folder / "index.csv")
    rows[1]["Edema"] = "maybe"
    write_rows(folder / "index.csv", rows)


def drop_validation(folder: Path) -> None:
    rows = [r for r in read_rows(folder / "index.csv") if r["split"] == "train"]
    write_rows(folder / "index.csv", rows)


def spoil_image(folder: Path) -> None:
    (folder / "images" / "p03.png").write_bytes(b"\x89PNG but not for long")


def drop_image(folder: Path) -> None:
    (folder / "images" / "p03.png").unlink()


def drop_sides(folder: Path) -> None:
    (folder / "sides" / "p03.png").unlink()


def leak_patient(folder: Path) -> None:
    """Another set, given as --extra, trains on a patient to validate on."""
    rows = read_rows(folder / "index.csv")
    write_rows(folder / "extra" / "index.csv", [{**rows[-1], "split": "train"}])


def empty_mask(folder: Path) -> None:
    cv2.imwrite(str(folder / "masks" / "p03.png"), np.zeros((72, 64), np.uint8))


@pytest.mark.parametrize(
    ("command", "spoil", "words"),
    [
        ("classify", spoil_index, ("index.csv", "lacks the columns ['Edema']")),
        ("classify", spoil_label, ("index.csv", "p01.png has 'maybe' in the column Edema")),
        ("classify", leak_patient, ("patient 17 is in val and train", "into one split")),
        ("classify", drop_validation, ("No image is in the split 'val'",)),
        ("classify", spoil_image, ("p03.png", "Mend the file, or take it out of the index")),
        ("classify", drop_image, ("index.csv lists p03.png, which is not there",)),
        ("classify", drop_sides, ("no mask of p03.png", "Run `masks` first")),
        ("segment", spoil_image, ("p03.png", "Mend the file, or take it out of the index")),
        ("segment", empty_mask, ("p03.png is empty", "Mend it, or take it")),
        ("segment", drop_validation, ("No image is in the split 'val'",)),
    ],
)
def test_bad_data_is_named_with_its_remedy_before_training_starts(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    spoil: Callable[[Path], None],
    words: tuple[str, ...],
) -> None:

    def never(*_: object, **__: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(classify, "fit_run", never)
    monkeypatch.setattr(segment, "fit", never)
    monkeypatch.setattr(segment, "start_network", lambda _: None)
    network = build_network("timm/test_resnet", len(OUTPUTS))
    monkeypatch.setattr(classify, "start_network", lambda _: network)
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    shutil.copytree(data, folder / "extra")
    spoil(folder)
    flags = classify_flags(folder, tmp_path / "out", extra=folder / "extra")
    if command == "segment":
        flags = ["segment", "--data", str(folder), "--out", str(tmp_path / "out"), "--size", "64"]
    assert main(flags) == 3
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 3}, "cannot be shared out among 3 processes"),
        ({"images_per_epoch": 4}, "less than one --batch of 8"),
        ({"nodules": 0.6, "decoys": 0.5}, "--nodules, --masses and --decoys are parts of the same"),
        ({"pooling": "kept"}, "has one cell for an input of 32 px"),
        ({"boxes": "/nowhere/boxes.csv"}, "There is no /nowhere/boxes.csv"),
        ({"start": "imagenet-lite0"}, "--start imagenet-lite0 fits the backbones"),
        ({"init": "/nowhere/weights.pth"}, "There is no file /nowhere/weights.pth"),
        ({"backbone": "timm/vit_tiny_patch16_224"}, "does not end in global average pooling"),
    ],
)
def test_senseless_flags_are_refused(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    message: str,
) -> None:
    assert main(classify_flags(data, tmp_path / "out", **changes)) == 3
    assert message in capsys.readouterr().err


def test_one_step_touches_what_it_should_and_nothing_else(data: Path, tmp_path: Path) -> None:
    network = build_network("timm/test_resnet", len(OUTPUTS)).train()
    flags = classify_flags(data, tmp_path, backbone="timm/test_resnet")[1:]
    settings = settings_from(classify.ClassifySettings, parsed("classify", flags))
    task = classify.ClassifyTask(network, settings)
    task.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (4, len(OUTPUTS))).float()
    cells = torch.ones(4, 1, *grid_of(network, (64, 64)))
    batch = {"image": torch.rand(4, 3, 64, 64), "labels": labels, "weights": cells}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    losses = []
    for _ in range(4):  # the norms that close a block begin at 0, and let nothing learn at first
        losses.append(task.training_step(batch, 0))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[1] < losses[0]
    assert losses[-1] < losses[1]
    after = network.state_dict()
    frozen = [name for name, value in before.items() if torch.equal(after[name], value)]
    assert not frozen, "every weight learns, and every running mean and variance moves"


def test_begin_refuses_nothing_in_a_new_folder(tmp_path: Path) -> None:
    flags = classify_flags(tmp_path, tmp_path / "out")[1:]
    settings = settings_from(classify.ClassifySettings, parsed("classify", flags))
    assert engine.begin(settings)
    stored = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert classify.ClassifySettings(**stored) == settings
    with pytest.raises(DataError, match="cannot be shared out"):
        settings_from(classify.ClassifySettings, parsed("classify", flags), devices=5)


@quietly
def test_pretraining_without_labels_learns_to_describe_views_alike(
    data: Path, tmp_path: Path
) -> None:
    flags = classify_flags(data, tmp_path / "run", backbone="timm/test_resnet", epochs=1)
    del flags[1:3]  # pretraining has no --masking
    more = tmp_path / "more"
    shutil.copytree(data, more)
    flags = ["pretrain", "--task", "views", "--extra", str(more), *flags[1:]]
    assert main(flags) == 0
    row = read_rows(tmp_path / "run" / "metrics.csv")
    assert any(r["val_agreement"] for r in row)
    # What came of it is what `classify --init` takes.
    init = tmp_path / "run" / "network.safetensors"
    more = classify_flags(data, tmp_path, backbone="timm/test_resnet", init=init)[1:]
    settings = settings_from(classify.ClassifySettings, parsed("classify", more))
    classify.start_network(settings)

    task = pretrain.ViewsTask(
        build_network("timm/test_resnet", len(OUTPUTS)),
        settings_from(pretrain.PretrainSettings, parsed("pretrain", flags[1:]), masking="none"),
    )
    task.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    torch.manual_seed(0)
    first = torch.rand(8, 3, 32, 32)
    batch = {"first": first, "second": 0.7 * first + 0.1}
    optimiser = torch.optim.AdamW(task.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss = task.training_step(batch, 0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert task._compare(batch)[1] > 0.3, "all images are described alike"


def test_images_kept_in_memory_are_the_files(data: Path) -> None:
    cases = [case for case in classify.read_finding_index(data) if case.split == "train"]
    spec, augmentation = InputSpec(hw=(64, 64)), Augmentation(modes=(MaskingMode.TIGHT,))
    kept = FindingDataset(cases, spec, masks=data / "sides", augmentation=augmentation)
    for index, case in enumerate(cases):
        pixels, lungs = kept._kept[index].open()
        np.testing.assert_array_equal(pixels, read_pixels(case.image))
        np.testing.assert_array_equal(lungs, read_sides(data / "sides", case.name) > 0)
    first, again = kept[Use(2, 5)]["image"], kept[Use(2, 5)]["image"]
    assert torch.equal(first, again)
    assert not torch.equal(first, kept[Use(2, 6)]["image"])


def test_a_progress_bar_is_for_terminals(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = classify_flags(data, tmp_path)[1:]
    settings = settings_from(classify.ClassifySettings, parsed("classify", flags))
    for on_terminal, kind in ((True, RichProgressBar), (False, engine.EpochLines)):
        monkeypatch.setattr(sys.stdout, "isatty", lambda answer=on_terminal: answer)
        trainer, _, _ = engine.build_trainer(settings, "val_auroc")
        shown = [c for c in trainer.callbacks if isinstance(c, RichProgressBar | engine.EpochLines)]
        assert [type(c) for c in shown] == [kind]


def test_a_truncated_last_epoch_gives_way_to_the_best_one_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    assert engine.resume_from(folder) == (None, {})
    for path, epoch in ((folder.best, 3), (folder.last, 5)):
        torch.save({"epoch": epoch, "w": torch.zeros(1000)}, path)
    assert engine.resume_from(folder)[1]["epoch"] == 5
    folder.last.write_bytes(folder.last.read_bytes()[:-100])
    path, stored = engine.resume_from(folder)
    assert (path, stored["epoch"]) == (folder.best, 3)
    assert "last.ckpt is broken: going on from best.ckpt instead" in capsys.readouterr().out
    folder.best.write_bytes(b"")
    with pytest.raises(DataError, match=r"last\.ckpt and .*best\.ckpt cannot be read"):
        engine.resume_from(folder)


@quietly
@pytest.mark.parametrize("select", ["best", "last"])
@pytest.mark.parametrize("is_cut_short", [False, True])
def test_a_run_ended_before_its_last_epoch_was_written_keeps_the_best_one_which_is_the_same(
    data: Path, tmp_path: Path, select: str, is_cut_short: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best epoch is written first; of one epoch it is the last one too."""
    flags = classify_flags(data, tmp_path, epochs=1, images_per_epoch=8, select=select)
    assert main(flags) == 0
    folder = RunFolder(tmp_path)
    expected = folder.network.read_bytes()
    folder.network.unlink()
    if is_cut_short:
        folder.last.write_bytes(folder.last.read_bytes()[:1000])
    else:
        folder.last.unlink()
    assert main([*flags, "--lr", "0.5"]) == 3
    assert "other settings" in capsys.readouterr().err
    assert main(flags) == 0
    assert folder.network.read_bytes() == expected


@pytest.mark.parametrize("name", ["settings.json", "record.json"])
def test_a_broken_file_of_a_run_is_named(
    data: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"")
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / name).write_text('{"a"')
    assert main(classify_flags(data, tmp_path)) == 3
    assert f"{tmp_path / name} is broken" in capsys.readouterr().err


def test_figures_go_where_they_are_asked_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trainer(name: str, *loggers: str) -> Any:
        flags = [*classify_flags(data, tmp_path / name)[1:], "--logger", *loggers]
        settings = settings_from(classify.ClassifySettings, parsed("classify", flags))
        return engine.build_trainer(settings, "val_auroc")[0]

    assert [type(x).__name__ for x in trainer("a", "csv").loggers] == ["CSVLogger"]
    names = [type(x).__name__ for x in trainer("b", "csv", "tensorboard").loggers]
    assert names == ["CSVLogger", "TensorBoardLogger"]

    def not_there(_: Path) -> None:
        raise ModuleNotFoundError("No module named 'wandb'")

    monkeypatch.setitem(engine.LOGGERS, "wandb", not_there)
    with pytest.raises(DataError, match=r"--logger wandb needs a package .* pip install wandb"):
        trainer("c", "wandb")


def test_a_run_whose_folder_was_moved_still_knows_its_best_epoch(
    data: Path, tmp_path: Path
) -> None:
    def keepers(name: str) -> tuple[Any, Any]:
        flags = classify_flags(data, tmp_path / name)[1:]
        settings = settings_from(classify.ClassifySettings, parsed("classify", flags))
        return engine.build_trainer(settings, "val_auroc")[1:]

    before, last = keepers("before")
    path = str(tmp_path / "before" / "best.ckpt")
    before.best_model_path = before.kth_best_model_path = path
    before.best_model_score = before.kth_value = torch.tensor(0.8)
    before.best_k_models = {path: torch.tensor(0.8)}
    stored = {keeper.state_key: keeper.state_dict() for keeper in (before, last)}
    assert len(stored) == 2
    assert all(key.startswith("ModelCheckpoint{") for key in stored)
    after, _ = keepers("after")
    after.load_state_dict(stored[after.state_key])
    moved = str(tmp_path / "after" / "best.ckpt")
    assert after.best_model_path == after.kth_best_model_path == moved
    assert after.best_k_models == {moved: torch.tensor(0.8)}
    assert float(after.best_model_score) == pytest.approx(0.8)
