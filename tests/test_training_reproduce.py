"""The whole chain: its plans, its resumption, and one run of it on phantoms."""

import argparse
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.errors import SettingError
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.phantom import make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import ALL_MASKINGS, MaskingMode
from training.__main__ import main
from training.commands import publish
from training.commands.chain import COMMANDS, Step, on_device, run_step
from training.commands.reproduce import PRESETS, plan
from training.errors import DataError
from training.sets.index import read_finding_index, read_lung_index

ROOT = Path(__file__).resolve().parent.parent


def parsed(step: Step) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    COMMANDS[step.command].add_arguments(parser)
    return parser.parse_args(step.flags)


def test_the_phantom_sets_have_every_class_in_every_split(phantom_sets: Path) -> None:
    cases = read_finding_index(phantom_sets / "nih")
    for split in ("train", "val", "test"):
        part = [case for case in cases if case.split == split]
        for key in FINDING_KEYS:
            patients = {case.patient_id for case in part if case.labels[key] == 1}
            assert len(patients) >= 2
        assert sum(case.no_finding == 1 for case in part) >= 2
        assert any(case.split == split for case in read_lung_index(phantom_sets / "lungs"))
    assert {case.split for case in read_finding_index(phantom_sets / "pretrain")} == {"train"}


@pytest.mark.parametrize("name", PRESETS)
def test_every_step_is_a_command_line_that_its_command_takes(name: str, phantom_sets: Path) -> None:
    steps = plan(PRESETS[name], phantom_sets, Path("/out"), medsam=Path("/weights/medsam.pth"))
    assert len({step.name for step in steps}) == len(steps)
    for step in steps:
        parsed(step)
        words = shlex.split(step.line)
        assert words[:4] == ["python", "-m", "training", step.command]
        assert tuple(words[4:]) == step.flags
    kinds = [step.command for step in steps]
    assert kinds.count("classify") == 3
    assert kinds.count("publish") == 4
    assert kinds[-2:] == ["evaluate", "evaluate"]
    marked = [step for step in steps if "--allow-untrained" in step.flags]
    assert len(marked) == (4 if name == "smoke" else 0)


def test_the_bundled_recipe(phantom_sets: Path) -> None:
    steps = {
        step.name: parsed(step) for step in plan(PRESETS["bundled"], phantom_sets, Path("/out"))
    }
    first, second, third = (steps[f"segment-{number}"] for number in (1, 2, 3))
    assert (first.size, first.epochs, first.init) == (256, 10, None)
    assert (second.size, second.init) == (512, Path("/out/segment-1/network.safetensors"))
    assert (third.size, third.epochs, third.batch) == (512, 4, 6)
    assert third.init == Path("/out/segment-2/network.safetensors")
    assert steps["publish-segment-3"].run == Path("/out/segment-3")
    pretrain = steps["pretrain"]
    assert (pretrain.epochs, pretrain.images_per_epoch, pretrain.select) == (5, 1280, "last")
    assert (pretrain.backbone, pretrain.start) == ("resnet50-dilated", "chest-ct")
    assert pretrain.extra == [phantom_sets / "pretrain"]
    for mode in ALL_MASKINGS:
        run = steps[f"classify-{mode}"]
        assert (run.masking, run.epochs, run.images_per_epoch) == (str(mode), 3, 640)
        assert (run.backbone, run.start) == ("resnet50-dilated", None)
        assert run.init == Path("/out/pretrain/network.safetensors")
        assert run.out == steps[f"publish-{mode}"].run == Path(f"/out/{mode}")


def test_the_papers_way_starts_from_the_given_weights(
    phantom_sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {
        step.name: parsed(step)
        for step in plan(
            PRESETS["paper"],
            phantom_sets,
            tmp_path,
            medsam=Path("/medsam.pth"),
            imagenet=Path("/resnet50.pth"),
        )
    }
    assert steps["segment-1"].init == Path("/medsam.pth")
    assert steps["segment-1"].freeze_prompt_encoder
    assert "pretrain" not in steps
    assert steps["classify-none"].init == Path("/resnet50.pth")
    arguments = [
        "reproduce",
        "--preset",
        "paper",
        "--out",
        str(tmp_path),
        "--data",
        str(phantom_sets),
    ]
    assert main(arguments) == 3
    assert "--medsam" in capsys.readouterr().err


def test_the_bundled_recipe_is_what_the_cards_record(phantom_sets: Path) -> None:
    specs = CheckpointStore.open(publish.OWN_CHECKPOINTS).specs
    if not specs:
        pytest.skip("no bundled checkpoints in this checkout")
    steps = {s.name: parsed(s) for s in plan(PRESETS["bundled"], phantom_sets, Path("/out"))}
    for spec in specs:
        step = steps["segment-3" if spec.masking is None else f"classify-{spec.masking}"]
        recorded = {
            key: value
            for key, value in spec.origin.settings.items()
            # Paths are the user's; the number of loading processes changes no weight.
            if key not in (*publish.PATH_SETTINGS, "workers")
        }
        assert recorded
        assert {key: getattr(step, key) for key in recorded} == recorded


def test_the_papers_plan_starts_from_the_published_layouts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Downloads as their owners lay them out -> `data import` -> `reproduce`, paths alone given."""
    nih, rsua = tmp_path / "nih", tmp_path / "rsua" / "Data Chest X-Ray RSUA (Validated)"
    grey = np.full((64, 64), 90, np.uint8)
    table = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender"]
    official = {"train_val": [], "test": []}
    labels = ("Mass|Effusion", "Nodule", "Pneumonia", "Edema", "Fibrosis", "No Finding")
    for patient in range(1, 25):
        name = f"{patient:08d}_000.png"
        folder = nih / f"images_{1 + patient % 3:03d}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), grey)
        table.append(f"{name},{labels[patient % 6]},0,{patient},50,F")
        official["test" if patient % 4 == 0 else "train_val"].append(name)
    (nih / "Data_Entry_2017.csv").write_text("\n".join(table) + "\n")
    for part, names in official.items():
        (nih / f"{part}_list.txt").write_text("\n".join(names) + "\n")
    for kind in ("Covid", "Non_Covid", "Pneumonia"):
        for part in ("images", "masks"):
            (rsua / kind / part).mkdir(parents=True)
        for number in range(1, 7):
            cv2.imwrite(str(rsua / kind / "images" / f"{kind} Images ({number}).bmp"), grey)
            mask = np.zeros_like(grey)
            mask[16:48, 8:28] = mask[16:48, 36:56] = 255
            cv2.imwrite(str(rsua / kind / "masks" / f"{kind} Mask ({number}).bmp"), mask)
    for layout, source, target in (("nih", nih, "nih"), ("rsua", rsua.parent, "lungs")):
        flags = [
            "--layout",
            layout,
            "--data",
            str(source),
            "--out",
            str(tmp_path / "data" / target),
        ]
        assert main(["data", "import", *flags]) == 0
    for name in ("medsam_vit_b.pth", "resnet50.pth"):
        (tmp_path / name).write_bytes(b"weights")
    capsys.readouterr()
    flags = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--dry-run"]
    flags += ["--medsam", str(tmp_path / "medsam_vit_b.pth")]
    flags += ["--imagenet", str(tmp_path / "resnet50.pth")]
    assert main(["reproduce", "--preset", "paper", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [shlex.split(line)[4] for line in lines] == [
        "segment", "publish", "masks",
        *("classify", "publish") * 3,
        "evaluate", "evaluate",
    ]  # fmt: skip
    for line in lines:
        words = shlex.split(line)
        parsed(Step("", words[4], tuple(words[5:]), Path()))
    assert "images of rsua" in lines[1]
    assert not (tmp_path / "out").exists(), "a dry run makes nothing"


def test_presets_ask_for_data_unless_they_make_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "--preset", "bundled", "--out", str(tmp_path)]) == 3
    assert "needs --data" in capsys.readouterr().err
    out = ["--out", str(tmp_path), "--data", str(tmp_path)]
    assert main(["reproduce", "--preset", "smoke", *out]) == 3
    assert "Leave out --data" in capsys.readouterr().err


class CountingCommand:
    """Stands for a command; writes its output each time it runs."""

    def __init__(self) -> None:
        self.runs = 0

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--out", type=Path)
        parser.add_argument("--epochs", type=int, default=1)

    def run(self, args: argparse.Namespace) -> None:
        self.runs += 1
        args.out.write_text("done")


def test_a_finished_step_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = CountingCommand()
    monkeypatch.setitem(COMMANDS, "count", command)
    output = tmp_path / "output"
    step = Step("one", "count", ("--out", str(output)), output)
    for _ in range(2):
        run_step(step, tmp_path / "done", "[1/1]")
    assert command.runs == 1
    printed = capsys.readouterr().out
    assert printed.count(step.line) == 1
    assert "finished before" in printed
    output.unlink()
    run_step(step, tmp_path / "done", "[1/1]")
    assert command.runs == 2
    other = Step("one", "count", (*step.flags, "--epochs", "2"), output)
    with pytest.raises(DataError, match="other settings"):
        run_step(other, tmp_path / "done", "[1/1]")


def test_untrained_weights_are_kept_out_of_real_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_file({"a": torch.zeros(1)}, run / "network.safetensors")
    (run / "settings.json").write_text("{}")
    flags = ["publish", "--run", str(run), "--data", "d", "--trained-on", "x", "--licence", "y"]
    real = tmp_path / "real"
    real.mkdir()
    store = CheckpointStore.open(publish.OWN_CHECKPOINTS)
    folders = [publish.OWN_CHECKPOINTS]
    if store.specs:  # a checkout may leave the weights out
        CheckpointStore(real, store.specs).save()
        folders.append(real)
    for folder in folders:
        before = (folder / "manifest.json").read_bytes() if store.specs else b""
        assert main([*flags, "--allow-untrained", "--checkpoints", str(folder)]) == 3
        assert "Untrained weights are not published" in capsys.readouterr().err
        if store.specs:
            assert (folder / "manifest.json").read_bytes() == before


def test_the_smoke_preset_runs_the_whole_chain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # In a process of its own: a command's threads, seeds and warnings are not this session's.
    words = ["reproduce", "--preset", "smoke", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "training", *words],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("] python -m training") == 12  # cards name commands too
    assert "proved: masks hold the lungs" in done.stdout
    assert main(words) == 0  # trains nothing any more
    assert capsys.readouterr().out.count("finished before") == 12
    folder = tmp_path / "checkpoints"
    for card in folder.glob("*.md"):
        assert publish.UNTRAINED in card.read_text(encoding="utf-8")
    for task in ("lungs", "findings"):
        for name in ("metrics.json", "report.html"):
            assert (tmp_path / "evaluation" / task / name).stat().st_size > 0
    pipeline = Pipeline.from_checkpoints(folder)
    assert pipeline.is_complete
    analysis = pipeline.analyse(make_phantom(seed=0, hw=(160, 144)).radiograph)
    assert analysis.readings
    swap_maskings(folder)
    assert main(words) == 3
    assert "was trained with masking" in capsys.readouterr().err
    for path in (tmp_path / "masks").glob("*.png"):
        cv2.imwrite(str(path), np.zeros_like(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))
    assert main(words) == 3
    assert "do not hold the phantoms' lungs: mean Dice 0.00" in capsys.readouterr().err


def swap_maskings(folder: Path) -> None:
    """Lists the weights of tight as those of loose, and the reverse."""
    store = CheckpointStore.open(folder)
    other = {MaskingMode.LOOSE: MaskingMode.TIGHT, MaskingMode.TIGHT: MaskingMode.LOOSE}
    specs = [replace(s, masking=other.get(s.masking, s.masking)) for s in store.specs]
    replace(store, specs=tuple(specs)).save()


def test_a_chain_runs_where_it_is_told(phantom_sets: Path) -> None:
    steps = plan(PRESETS["smoke"], phantom_sets, Path("/out"))
    assert on_device(steps, "auto") == steps
    for step in on_device(steps, "cpu"):
        assert parsed(step).device == "cpu"
    with pytest.raises(SettingError, match="no device 'banana' here"):
        on_device(steps, "banana")
