"""From a finished run to a checkpoint that the app loads, its card, and a repository on the Hub."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx2
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from fakes import LUNGS_SPEC, findings_spec
from huggingface_hub import ModelCard
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from safetensors.torch import save_file
from test_training_evaluate import outputs
from torchvision.models import resnet50

from cxrdemo.checkpoints import CheckpointStore, file_sha256
from cxrdemo.errors import CheckpointError
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.phantom import make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import MaskingMode
from cxrdemo.sam import build_tinyvit_5m
from cxrdemo.specs import CheckpointSpec, Estimate, Origin, Sample
from training.__main__ import main
from training.commands import publish
from training.engine import record
from training.engine.record import read_record, recorded
from training.images.findings import OUTPUTS
from training.measures.calibration import calibrate, with_figures
from training.reports.cards import count_samples, make_card
from training.reports.hub import make_licences, make_readme, push
from training.sets.index import read_finding_index, read_lung_index


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run folder, as training leaves it."""
    run = tmp_path / "run"
    with recorded(run, "classify", ("--data", "/somewhere/private/nih", "--masking", "none")):
        torch.manual_seed(0)
        network = resnet50(weights=None, num_classes=len(OUTPUTS))
        save_file(network.state_dict(), run / "network.safetensors")
        settings = {"masking": "none", "size": 64, "data": "/somewhere/private/nih"}
        (run / "settings.json").write_text(json.dumps(settings))
    return run


def test_a_run_becomes_a_checkpoint_that_the_app_loads(
    phantom_sets: Path,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(publish, "run_classifier", lambda *_: outputs(n=100))
    out = tmp_path / "checkpoints"
    arguments = [
        "--run",
        str(finished),
        "--data",
        str(phantom_sets / "nih"),
        "--checkpoints",
        str(out),
    ]
    arguments += ["--trained-on", "phantoms", "--licence", "none", "--resamples", "20"]
    assert main(["publish", *arguments]) == 0
    card = capsys.readouterr().out
    assert "| mean of the five |" in card
    assert "/somewhere" not in card
    assert "python -m training classify --data nih --masking none" in card
    loaded = Pipeline.from_checkpoints(out)
    spec = loaded.classifier_spec(MaskingMode.NONE)
    assert spec is not None
    assert [label.key for label in spec.labels] == list(FINDING_KEYS)
    assert spec.origin.seconds is not None
    assert spec.samples["test"].patients == 12
    reading = loaded.analyse(
        make_phantom(seed=0, hw=(128, 128)).radiograph, maskings=[MaskingMode.NONE]
    ).readings[MaskingMode.NONE]
    assert np.isfinite(reading.findings.logits).all()

    backwards = outputs(n=100)
    backwards = replace(
        backwards, scores=replace(backwards.scores, logits=-backwards.scores.logits)
    )
    monkeypatch.setattr(publish, "run_classifier", lambda *_: backwards)
    before = (out / "manifest.json").read_text()
    assert main(["publish", *arguments, "--version", "2"]) == 3
    assert "worse than chance" in capsys.readouterr().err
    assert (out / "manifest.json").read_text() == before
    assert not list(out.glob("*.v2.*")), "what is refused leaves nothing behind"
    lenient = ["--version", "2", "--allow-worse-than-chance"]
    assert main(["publish", *arguments, *lenient]) == 0
    assert "not calibrated: ranked worse than chance" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Say what to publish"),
        (["--run", "r"], "give --data, --trained-on, --licence too"),
        (["--run", "r", "--data", "d", "--trained-on", "x", "--licence", "y"], "no finished run"),
    ],
)
def test_an_incomplete_command_is_one_clear_error(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", *flags, "--checkpoints", str(tmp_path)]) == 3
    assert message in capsys.readouterr().err


def test_experiments_stay_out_of_the_projects_own_folder(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--run", str(finished), "--data", "d", "--trained-on", "x", "--licence", "y"]
    own = ["--checkpoints", str(publish.OWN_CHECKPOINTS)]
    assert main(["publish", *flags, *own, "--allow-worse-than-chance"]) == 3
    assert "are not published" in capsys.readouterr().err


def test_a_record_adds_up_the_sessions_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 5.0, 10.0, 17.0, 20.0, 21.0])
    monkeypatch.setattr(record.time, "monotonic", lambda: next(clock))
    with recorded(tmp_path, "segment", ("--epochs", "2")):
        assert read_record(tmp_path).unfinished == 1  # type: ignore[union-attr]
    with pytest.raises(KeyboardInterrupt), recorded(tmp_path, "segment", ("--epochs", "2")):
        raise KeyboardInterrupt
    found = read_record(tmp_path)
    assert found is not None
    assert (found.seconds, found.sessions, found.unfinished) == (12.0, 2, 0)
    assert found.command == "python -m training segment --epochs 2"
    monkeypatch.setenv("RANK", "1")
    with recorded(tmp_path, "segment", ()):
        pass
    assert read_record(tmp_path) == found
    assert read_record(tmp_path / "nowhere") is None
    monkeypatch.delenv("RANK")
    (tmp_path / "network.safetensors").write_bytes(b"")
    with recorded(tmp_path, "segment", ()):
        pass
    assert read_record(tmp_path) == found, "a finished run is not trained again"


def test_samples_are_counted_by_split_patient_view_sex_and_age(
    tmp_path: Path, phantom_sets: Path
) -> None:
    found = count_samples(phantom_sets / "lungs", read_lung_index(phantom_sets / "lungs"))
    assert found["test"] == Sample("phantoms", 2, 2)
    for name in ("images", "masks"):
        (tmp_path / name).symlink_to(phantom_sets / "lungs" / name)
    cases = read_lung_index(phantom_sets / "lungs")
    lines = ["name,set,patient_id,split,view,sex,age"]
    lines += [f"{cases[0].name},here,a,train,PA,F,30", f"{cases[1].name},here,a,train,AP,,40.0"]
    lines += [f"{cases[2].name},there,b,train,PA,M,"]
    (tmp_path / "index.csv").write_text("\n".join(lines) + "\n")
    assert count_samples(tmp_path, read_lung_index(tmp_path)) == {
        "train": Sample(
            "here, there", 3, 2, {}, {"AP": 1, "PA": 2}, {"F": 1, "M": 1}, (30.0, 35.0, 40.0)
        )
    }
    nih = count_samples(phantom_sets / "nih", read_finding_index(phantom_sets / "nih"))
    assert nih["val"].positives == dict.fromkeys((*FINDING_KEYS, "No_Finding"), 2)


def measured_store(folder: Path) -> CheckpointStore:
    """A segmenter and a classifier with every kind of figure, and files to match."""
    data = outputs(n=120)
    spec = findings_spec(MaskingMode.LOOSE)
    spec = with_figures(spec, calibrate(data), data, resamples=20)
    samples = {"test": Sample("here", 120, 60, {"Mass": 4}, {"PA": 7}, {}, (18.0, 50.0, 90.0))}
    origin = Origin({"size": 64}, "python -m training classify", "abc123", "a CPU", 7200.0)
    figures = {"dice_here": Estimate(0.9, 0.8, 0.95, 12), "hd95_px_here": Estimate(9.0, 8, 10, 12)}
    specs = (
        replace(spec, samples=samples, origin=origin, trained_on="phantoms", licence="none"),
        replace(LUNGS_SPEC, metrics=figures, notes=("Among the worst: x, Dice 0.100",)),
    )
    for one in specs:
        save_file({"a": torch.zeros(1)}, folder / one.file)
    specs = tuple(replace(one, sha256=file_sha256(folder / one.file)) for one in specs)
    store = CheckpointStore(folder, specs)
    store.save()
    return store


def test_a_card_says_all_that_its_entry_knows(tmp_path: Path) -> None:
    store = measured_store(tmp_path)
    spec, lungs = CheckpointStore.open(tmp_path).specs
    assert (spec, lungs) == store.specs
    card = make_card(spec)
    for label in spec.labels:
        figure = spec.metrics[f"auroc_{label.key}"]
        interval = f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f}, n={figure.n})"
        assert f"| {label.key} | {interval} |" in card
        for point in label.points:
            alike = [p.name for p in label.points if p.threshold == point.threshold]
            assert f"| {label.key} | {' = '.join(alike)} | {point.threshold:.3f} |" in card
    for words in (
        "Intended:", "Refused:", "no patient is in two splits", "7 PA, 113 unknown",
        "18 to 90, median 50", "2.00 h wall clock", "abc123", "a CPU", spec.sha256,
        "Labels were mined from reports", "## Calibration on test patients", '"size": 64',
        "product of complements",
    ):  # fmt: skip
        assert words in card, words
    assert "Among the worst: x" in make_card(lungs)
    assert "| here | mean Dice | 0.900 | 0.800 to 0.950 | 12 |" in make_card(lungs)
    assert "not recorded" in make_card(lungs)
    assert "nan" not in card.lower().replace("finan", "")


def test_operating_points_of_one_threshold_are_told_as_one(tmp_path: Path) -> None:
    spec = measured_store(tmp_path).specs[0]
    label = spec.labels[0]
    same = replace(label.others[0], threshold=label.threshold)
    card = make_card(replace(spec, labels=(replace(label, others=(same,)), *spec.labels[1:])))
    assert f"| {label.key} | balanced = {same.name} | {label.threshold:.3f} |" in card
    assert card.count(f"| {label.key} | {same.name} |") == 0


def test_what_does_not_beat_chance_is_named(tmp_path: Path) -> None:
    spec, _ = measured_store(tmp_path).specs
    assert "Not shown to beat chance" not in make_card(spec)
    low = {"auroc_Nodule": Estimate(0.55, 0.45, 0.65, 9)}
    card = make_card(replace(spec, metrics={**spec.metrics, **low}))
    assert "**Not shown to beat chance: Nodule.**" in card


def test_cards_can_be_written_anew(tmp_path: Path) -> None:
    store = measured_store(tmp_path)
    assert main(["publish", "--cards", "--checkpoints", str(tmp_path)]) == 0
    for spec in store.specs:
        assert (tmp_path / f"{spec.name}.md").read_text(encoding="utf-8") == make_card(spec)


class FakeHub:
    """Records what would be uploaded; the folder is read while it exists."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.made: list[tuple[str, bool]] = []
        self.files: dict[str, bytes] = {}

    def whoami(self) -> dict[str, str]:
        if self.failure:
            raise self.failure
        return {"name": "someone"}

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.made.append((repository, private))

    def upload_folder(self, *, repo_id: str, folder_path: Path, **_: object) -> SimpleNamespace:
        assert repo_id == self.made[-1][0]
        self.files = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        return SimpleNamespace(oid="0123abc")


def test_a_folder_is_pushed_whole_with_front_matter(tmp_path: Path) -> None:
    store, hub = measured_store(tmp_path), FakeHub()
    assert push(tmp_path, "someone/lungs", private=True, api=hub) == "hf://someone/lungs@0123abc"  # type: ignore[arg-type]
    assert hub.made == [("someone/lungs", True)]
    names = {"README.md", "LICENSE.md", "manifest.json"}
    for spec in store.specs:
        names |= {spec.file, f"{spec.name}.md"}
        assert hub.files[spec.file] == (tmp_path / spec.file).read_bytes()
    assert hub.files.keys() == names
    readme = ModelCard(hub.files["README.md"].decode())
    assert readme.data.license == "other"
    values = {(r.metric_type, r.metric_value) for r in readme.data.eval_results}
    macro = store.specs[0].metrics["auroc_macro"].value
    assert values == {("auroc", round(macro, 3)), ("dice", 0.9)}
    assert "Not a medical device" in readme.text
    assert store.specs[0].sha256 in readme.text
    # What was uploaded is a folder that the app's own store takes.
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in hub.files.items():
        (copy / name).write_bytes(content)
    again = CheckpointStore.open(copy)
    assert again.load(again.specs[0]).keys() == {"a"}


def test_the_hubs_readme_says_of_each_set_what_was_measured_on_it(tmp_path: Path) -> None:
    """Read back as the Hub reads it: it merges results of one type of data set."""
    store = measured_store(tmp_path)
    dice = {
        f"dice_{name}": Estimate(value, value - 0.01, value + 0.01, n)
        for name, value, n in (("montgomery", 0.968, 21), ("openist", 0.976, 41))
    }
    classifier = store.specs[0]
    segmenter = replace(store.specs[1], metrics=dice, licence="CC BY-NC-SA 4.0")
    store = replace(store, specs=(classifier, segmenter))
    card = ModelCard(make_readme(store, "someone/weights"))
    index = card.data.to_dict()["model-index"]
    assert [entry["name"] for entry in index] == ["weights"]
    found = {
        (result["dataset"]["name"], result["dataset"]["type"], metric["type"]): metric["value"]
        for result in index[0]["results"]
        for metric in result["metrics"]
    }
    macro = round(classifier.metrics["auroc_macro"].value, 3)
    assert found == {
        ("here", "here", "auroc"): macro,
        ("montgomery", "montgomery", "dice"): 0.968,
        ("openist", "openist", "dice"): 0.976,
    }
    assert all(result["dataset"]["split"] == "test" for result in index[0]["results"])
    data = card.data
    assert (data.license, data.license_link) == ("other", "LICENSE.md")
    assert data.license_name
    assert data.pipeline_tag == "image-classification"
    assert f"`{segmenter.file}`: CC BY-NC-SA 4.0" in make_licences(store)
    alone = ModelCard(make_readme(replace(store, specs=(segmenter,)), "someone/weights"))
    assert alone.data.pipeline_tag == "image-segmentation"


def refused(status: int) -> HfHubHTTPError:
    request = httpx2.Request("POST", "https://hub.test/")
    return HfHubHTTPError("refused", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (LocalTokenNotFoundError(), "Nobody is logged in"),
        (refused(403), r"refused the upload to a/b \(HTTP 403\)"),
        (httpx2.ConnectError("no network"), "cannot be reached"),
    ],
)
def test_a_failed_push_says_what_to_do(tmp_path: Path, failure: Exception, message: str) -> None:
    measured_store(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        push(tmp_path, "a/b", api=FakeHub(failure))  # type: ignore[arg-type]


def test_an_altered_or_empty_folder_is_not_pushed(tmp_path: Path) -> None:
    hub = FakeHub()
    with pytest.raises(CheckpointError, match=r"has no manifest\.json"):
        push(tmp_path, "a/b", api=hub)  # type: ignore[arg-type]
    CheckpointStore(tmp_path, ()).save()
    with pytest.raises(CheckpointError, match="nothing to upload"):
        push(tmp_path, "a/b", api=hub)  # type: ignore[arg-type]
    store = measured_store(tmp_path)
    (tmp_path / store.specs[0].file).write_bytes(b"altered")
    with pytest.raises(CheckpointError, match="not the one the manifest lists"):
        push(tmp_path, "a/b", api=hub)  # type: ignore[arg-type]
    assert not hub.made


def test_the_real_client_without_token_or_network_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured_store(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    flags = ["publish", "--checkpoints", str(tmp_path), "--push-to", "a/b"]
    assert main(flags) == 3
    assert "cannot be reached" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main(flags) == 3
    assert "Nobody is logged in" in capsys.readouterr().err


def weights_file(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.full((3,), float(seed))}, path)
    return path


def model(name: str, path: Path) -> CheckpointSpec:
    modes = [mode for mode in MaskingMode if f"-{mode}." in name]
    spec = findings_spec(modes[0] if modes else MaskingMode.NONE)
    return replace(spec, name=name, file=f"{name}.safetensors", sha256=file_sha256(path))


def test_a_folder_lists_one_model_of_each_masking(tmp_path: Path) -> None:
    names = [f"findings-resnet50.a1_in1k-224-{mode}.v1" for mode in MaskingMode]
    other = "findings-resnet50-dilated-192-none.v2"  # of another backbone and size
    for number, name in enumerate([*names, other]):
        draft = weights_file(tmp_path / "run" / f"{name}.safetensors", number)
        publish.list_checkpoint(tmp_path / "out", model(name, draft), draft)
    listed = [spec.name for spec in CheckpointStore.open(tmp_path / "out").specs]
    assert listed == sorted([other, *names[1:]])


@pytest.mark.parametrize("moment", ["save", "copyfile", "unlink"])
def test_a_publication_killed_at_any_moment_leaves_a_folder_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The same name is published again with other weights."""
    out, name = tmp_path / "out", "findings-tiny-64-none.v1"
    draft = weights_file(tmp_path / "run" / f"{name}.safetensors", 1)
    publish.list_checkpoint(out, model(name, draft), draft)
    draft = weights_file(draft, 2)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        owner = {"save": CheckpointStore, "copyfile": publish.shutil, "unlink": Path}[moment]
        patch.setattr(owner, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            publish.list_checkpoint(out, model(name, draft), draft)
    store = CheckpointStore.open(out)
    found = float(store.load(store.specs[0])["w"][0])
    assert found == (2.0 if moment == "unlink" else 1.0)
    assert draft.exists(), "the same command can be given again"
    publish.list_checkpoint(out, model(name, draft), draft)
    store = CheckpointStore.open(out)
    assert float(store.load(store.specs[0])["w"][0]) == 2.0
    assert len(list(out.glob("*.safetensors"))) == 1


def test_a_segmenter_is_published_at_the_size_it_was_trained_at(
    phantom_sets: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    torch.manual_seed(0)
    save_file(build_tinyvit_5m(64).state_dict(), run / "network.safetensors")
    settings = {"architecture": "sam-tinyvit-5m-512", "size": 64, "data": "lungs"}
    (run / "settings.json").write_text(json.dumps(settings))
    flags = ["--run", str(run), "--data", str(phantom_sets / "lungs"), "--resamples", "5"]
    out = tmp_path / "out"
    flags += ["--checkpoints", str(out), "--trained-on", "phantoms", "--licence", "none"]
    assert main(["publish", *flags]) == 0
    (spec,) = CheckpointStore.open(out).specs
    assert (spec.name, spec.inputs.hw) == ("lungs-tinyvit-5m-64.v1", (64, 64))
    pipeline = Pipeline.from_checkpoints(out)
    image = make_phantom(seed=0, hw=(128, 112)).radiograph
    assert pipeline.find(image).lungs.logits.shape == (32, 32), "an 8 x 8 grid, times four"
