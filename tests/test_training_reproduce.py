"""The whole chain: its plans, its resumption, and one run of it on phantoms."""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet50

from cxrdemo.checkpoints import CheckpointStore, load_strictly, read_weights
from cxrdemo.phantom import make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import ALL_MASKINGS
from training import publish, reproduce
from training.__main__ import main
from training.data import DataError, read_finding_index, read_lung_index
from training.findings import OUTPUTS
from training.reproduce import COMMANDS, PRESETS, Step, make_phantom_sets, plan, run_step

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_phantom_sets(folder)
    return folder


def parsed(step: Step) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    COMMANDS[step.command].add_arguments(parser)
    return parser.parse_args(step.flags)


def test_the_phantom_sets_have_every_class_in_every_split(data: Path) -> None:
    cases = read_finding_index(data / "nih")
    for split in ("train", "val", "test"):
        part = [case for case in cases if case.split == split]
        for key in reproduce.FINDING_KEYS:
            patients = {case.patient_id for case in part if case.labels[key] == 1}
            assert len(patients) >= 2
        assert sum(case.no_finding == 1 for case in part) >= 2
        assert any(case.split == split for case in read_lung_index(data / "lungs"))
    assert {case.split for case in read_finding_index(data / "pretrain")} == {"train"}


@pytest.mark.parametrize("name", PRESETS)
def test_every_step_is_a_command_line_that_its_command_takes(name: str, data: Path) -> None:
    steps = plan(PRESETS[name], data, Path("/out"), medsam=Path("/weights/medsam.pth"))
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


def test_the_bundled_recipe(data: Path) -> None:
    steps = {step.name: parsed(step) for step in plan(PRESETS["bundled"], data, Path("/out"))}
    first, second, third = (steps[f"segment-{number}"] for number in (1, 2, 3))
    assert (first.size, first.epochs, first.init) == (256, 10, None)
    assert (second.size, second.init) == (512, Path("/out/segment-1/network.safetensors"))
    assert (third.size, third.epochs, third.batch) == (512, 4, 6)
    assert third.init == Path("/out/segment-2/network.safetensors")
    assert steps["publish-segment-3"].run == Path("/out/segment-3")
    pretrain = steps["pretrain"]
    assert (pretrain.epochs, pretrain.images_per_epoch, pretrain.select) == (22, 3072, "last")
    assert pretrain.extra == data / "pretrain"
    for mode in ALL_MASKINGS:
        run = steps[f"classify-{mode}"]
        assert (run.masking, run.epochs, run.images_per_epoch) == (str(mode), 5, 1024)
        assert run.init == Path("/out/pretrain/network.safetensors")
        assert run.out == steps[f"publish-{mode}"].run == Path(f"/out/{mode}")


def test_the_papers_way_starts_from_the_given_weights(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = {
        step.name: parsed(step)
        for step in plan(PRESETS["paper"], data, tmp_path, medsam=Path("/medsam.pth"))
    }
    assert steps["segment-1"].init == Path("/medsam.pth")
    assert steps["segment-1"].freeze_prompt_encoder
    assert "pretrain" not in steps
    assert steps["classify-none"].init == tmp_path / "imagenet.safetensors"
    arguments = ["reproduce", "--preset", "paper", "--out", str(tmp_path), "--data", str(data)]
    assert main(arguments) == 3
    assert "--medsam" in capsys.readouterr().err


def test_a_fresh_head_fits_the_classifiers_network(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = resnet50(weights=None)
    torch.save(source.state_dict(), tmp_path / "imagenet.pth")
    reproduce.fit_head(tmp_path / "imagenet.pth", tmp_path / "fitted.safetensors")
    state = read_weights(tmp_path / "fitted.safetensors")
    load_strictly(resnet50(weights=None, num_classes=len(OUTPUTS)), state, "fitted")
    assert torch.equal(state["layer4.2.conv3.weight"], source.layer4[2].conv3.weight)


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


def test_the_smoke_preset_runs_the_whole_chain(tmp_path: Path) -> None:
    # In a process of its own: a command's threads, seeds and warnings are not this session's.
    command = [sys.executable, "-m", "training", "reproduce", "--preset", "smoke"]
    command += ["--out", str(tmp_path)]
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        outputs.append(done.stdout)
    assert outputs[0].count("python -m training") == 12
    assert outputs[1].count("finished before") == 12
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
