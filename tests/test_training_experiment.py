"""The table of masking x backbone x seed: its plan, its resumption, and what it says."""

import argparse
import json
from pathlib import Path

import pytest
from test_training_evaluate import LABELS, outputs

from cxrdemo.labels import FINDING_KEYS
from cxrdemo.pipeline import ALL_MASKINGS
from cxrdemo.results import MaskingMode
from training.__main__ import main
from training.commands import chain
from training.commands.chain import COMMANDS
from training.commands.experiment import Group, plan, write_table
from training.commands.reproduce import PRESETS
from training.engine.record import recorded
from training.engine.starts import STARTS
from training.errors import DataError
from training.measures.figures import classifier_figures, json_ready, paired_differences


def test_every_backbone_and_seed_gets_its_own_chain(phantom_sets: Path) -> None:
    groups = [
        Group(backbone, seed, Path("/out"))
        for backbone in ("resnet50", "torchvision/densenet121")
        for seed in (0, 1)
    ]
    steps = plan(
        PRESETS["paper"],
        phantom_sets / "nih",
        groups,
        ALL_MASKINGS,
        segmenter=Path("/checkpoints"),
        starts={"resnet50": Path("/weights/resnet50.pth")},
    )
    assert len({step.name for step in steps}) == len(steps) == 1 + 4 * (3 + 3 + 1)
    assert steps[0].command == "masks"
    for step in steps:
        if step.command == "classify":
            is_resnet = "resnet50" in step.name
            backbone = step.flags[step.flags.index("--backbone") + 1]
            assert backbone == ("resnet50" if is_resnet else "torchvision/densenet121")
            assert ("/weights/resnet50.pth" in step.flags) == is_resnet
            seed = step.flags[step.flags.index("--seed") + 1]
            assert f"-seed{seed}-" in step.name
        if step.command == "publish":
            assert "--allow-worse-than-chance" in step.flags
    folders = {
        step.flags[step.flags.index("--checkpoints") + 1]
        for step in steps
        if step.command in ("publish", "evaluate")
    }
    assert folders == {str(group.checkpoints) for group in groups}


def test_pretraining_comes_first_where_the_preset_has_it(phantom_sets: Path) -> None:
    group = Group("resnet50", 3, Path("/out"))
    steps = plan(
        PRESETS["bundled"],
        phantom_sets / "nih",
        [group],
        (MaskingMode.TIGHT,),
        segmenter=Path("/checkpoints"),
        extra=phantom_sets / "pretrain",
        mask_folder=phantom_sets / "masks",
    )
    assert [step.command for step in steps] == ["pretrain", "classify", "publish", "evaluate"]
    parser = argparse.ArgumentParser()
    COMMANDS["classify"].add_arguments(parser)
    args = parser.parse_args(steps[1].flags)
    assert args.init == steps[0].output
    assert (args.seed, args.masking) == (3, "tight")


def test_two_learnt_backbones_are_each_begun_from_their_own_weights(phantom_sets: Path) -> None:
    fit = {"resnet50-dilated": "chest-ct", "efficientnet-lite0-dilated": "imagenet-lite0"}
    given = {
        "segmenter": Path("/checkpoints"),
        "mask_folder": phantom_sets / "masks",
    }
    groups = [Group(backbone, 0, Path("/out")) for backbone in fit]
    steps = plan(PRESETS["bundled"], phantom_sets / "nih", groups, ALL_MASKINGS, **given)
    begun = [step for step in steps if step.command == "pretrain"]
    assert [step.flags[step.flags.index("--start") + 1] for step in begun] == list(fit.values())
    for step in steps:
        if step.command in ("pretrain", "classify"):
            parser = argparse.ArgumentParser()
            COMMANDS[step.command].add_arguments(parser)
            args = parser.parse_args(step.flags)
            assert args.backbone.replace("/", "-") in step.name
            assert (args.start is None) == (step.command == "classify")
    other = [Group("torchvision/densenet121", 0, Path("/out"))]
    with pytest.raises(DataError, match="--init torchvision/densenet121=FILE"):
        plan(PRESETS["bundled"], phantom_sets / "nih", other, ALL_MASKINGS, **given)
    mine = plan(
        PRESETS["bundled"],
        phantom_sets / "nih",
        other,
        ALL_MASKINGS,
        starts={"torchvision/densenet121": Path("/dense.pth")},
        **given,
    )
    assert "/dense.pth" in mine[0].flags
    assert "--start" not in mine[0].flags


class FakeTraining:
    """Stands for training, publication and evaluation: writes what they leave behind."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.runs = 0

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        COMMANDS_BEFORE[self.kind].add_arguments(parser)

    def run(self, args: argparse.Namespace) -> None:
        self.runs += 1
        if self.kind == "publish":
            args.checkpoints.mkdir(parents=True, exist_ok=True)
            (args.checkpoints / "manifest.json").write_text("{}")
            return
        args.out.mkdir(parents=True, exist_ok=True)
        if self.kind == "evaluate":
            parts = {mode: outputs(seed=i) for i, mode in enumerate(MaskingMode)}
            figures = {str(m): classifier_figures(o, LABELS, resamples=5) for m, o in parts.items()}
            figures["differences"] = paired_differences(
                parts, dict.fromkeys(parts, LABELS), resamples=5
            )
            written = {"figures": json_ready(figures)}
            (args.out / "metrics.json").write_text(json.dumps(written))
        else:
            settings = {"epochs": args.epochs, "images_per_epoch": args.images_per_epoch}
            (args.out / "settings.json").write_text(json.dumps(settings))
            (args.out / "network.safetensors").write_bytes(b"")


COMMANDS_BEFORE = dict(COMMANDS)


def test_the_table_has_a_row_per_classifier_and_nothing_runs_twice(
    phantom_sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fakes = {kind: FakeTraining(kind) for kind in ("pretrain", "classify", "publish", "evaluate")}
    for kind, fake in fakes.items():
        monkeypatch.setitem(chain.COMMANDS, kind, fake)
    arguments = ["experiment", "--preset", "smoke", "--data", str(phantom_sets / "nih")]
    arguments += [
        "--masks",
        str(phantom_sets / "masks"),
        "--out",
        str(tmp_path),
        "--seeds",
        "0",
        "1",
    ]
    assert main([*arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("python -m training classify") == 6
    assert not any(fake.runs for fake in fakes.values())
    for _ in range(2):
        assert main(arguments) == 0
    assert (fakes["classify"].runs, fakes["evaluate"].runs) == (6, 2)
    written = json.loads((tmp_path / "experiment.json").read_text(), parse_constant=pytest.fail)
    rows = written["rows"]
    assert {(row["masking"], row["seed"]) for row in rows} == {
        (str(mode), seed) for mode in MaskingMode for seed in (0, 1)
    }
    expected = classifier_figures(outputs(seed=1), LABELS, resamples=5)["auroc_macro"]
    loose = next(row for row in rows if row["masking"] == "loose")
    assert loose["figures"]["auroc_macro"]["value"] == pytest.approx(expected.value)
    assert loose["seconds"] > 0
    assert loose["images_per_second"] == pytest.approx(16 / loose["seconds"])
    assert "resnet50-seed0: auroc_tight_less_none_macro" in written["differences"]
    markdown = (tmp_path / "experiment.md").read_text(encoding="utf-8")
    page = (tmp_path / "experiment.html").read_text(encoding="utf-8")
    value = f"{expected.value:.3f} ({expected.low:.3f} to {expected.high:.3f}, n=80)"
    for text in (markdown, page):
        assert text.count(value) == 2
        for words in ("Mean over seeds", "training images per s", "No Finding, product"):
            assert words in text
        assert all(key in text for key in FINDING_KEYS)
    assert "://" not in page.replace("data:image", "")


@pytest.mark.parametrize(
    ("preset", "backbone", "start"),
    [
        ("smoke", "resnet50", "random weights"),
        ("comparison", "resnet50-dilated", STARTS["chest-ct"].words),
        ("comparison", "efficientnet-lite0-dilated", STARTS["imagenet-lite0"].words),
    ],
)
def test_the_table_tells_what_a_backbone_began_from(
    phantom_sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    preset: str,
    backbone: str,
    start: str,
) -> None:
    for kind in ("pretrain", "classify", "publish", "evaluate"):
        monkeypatch.setitem(chain.COMMANDS, kind, FakeTraining(kind))
    data, masks = str(phantom_sets / "nih"), str(phantom_sets / "masks")
    arguments = ["experiment", "--preset", preset, "--data", data, "--masks", masks]
    assert main([*arguments, "--out", str(tmp_path), "--backbones", backbone]) == 0
    written = json.loads((tmp_path / "experiment.json").read_text(), parse_constant=pytest.fail)
    assert written["start"] == f"{backbone} from {start}"


def test_a_run_whose_time_is_not_known_says_so(phantom_sets: Path, tmp_path: Path) -> None:
    group = Group("resnet50", 0, tmp_path)
    fake = FakeTraining("evaluate")
    fake.run(argparse.Namespace(out=group.evaluation))
    run = group.run(MaskingMode.NONE)
    FakeTraining("classify").run(argparse.Namespace(out=run, epochs=1, images_per_epoch=4))
    path, *_ = write_table(tmp_path, {}, [group], [MaskingMode.NONE])
    assert "| resnet50 | none | 0 | not recorded | not recorded |" in path.read_text()
    (run / "network.safetensors").unlink()
    with recorded(run, "classify", ()):
        pass
    write_table(tmp_path, {}, [group], [MaskingMode.NONE])
    assert "not recorded" not in path.read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["vgg=w.pth"], "which is none of"),
        (["resnet50=nowhere.pth"], "there is no file"),
    ],
)
def test_bad_weights_are_refused_before_anything_runs(
    phantom_sets: Path,
    tmp_path: Path,
    given: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["experiment", "--data", str(phantom_sets / "nih"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--init", *given]) == 3
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
