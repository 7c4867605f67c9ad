import json
import os
from dataclasses import replace
from pathlib import Path

import httpx2
import huggingface_hub.constants
import pytest
import torch
from fakes import LUNGS_SPEC, findings_spec
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import save_file
from torch import nn

from cxrdemo import checkpoints
from cxrdemo.checkpoints import (
    CheckpointSpec,
    CheckpointStore,
    Estimate,
    checkpoint_folder,
    file_sha256,
    load_strictly,
    read_weights,
)
from cxrdemo.cli import main
from cxrdemo.errors import CheckpointError
from cxrdemo.results import MaskingMode

STATE = {"weight": torch.tensor([[1.5, -2.0]]), "bias": torch.tensor([0.25])}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    save_file(STATE, tmp_path / LUNGS_SPEC.file)
    spec = replace(LUNGS_SPEC, sha256=file_sha256(tmp_path / LUNGS_SPEC.file))
    store = CheckpointStore(tmp_path, (spec, *(findings_spec(mode) for mode in MaskingMode)))
    store.save()
    return store


def test_a_manifest_comes_back_as_it_was(store: CheckpointStore) -> None:
    measured = replace(store.specs[0], metrics={"dice": Estimate(0.9, 0.8, 0.95, 12)})
    replace(store, specs=(measured, *store.specs[1:])).save()
    assert CheckpointStore.open(store.folder).specs == (measured, *store.specs[1:])


def test_a_folder_without_manifest_is_an_empty_store(tmp_path: Path) -> None:
    empty = CheckpointStore.open(tmp_path)
    assert empty.specs == ()
    assert empty.lungs() is None
    assert empty.findings(MaskingMode.TIGHT) is None


def test_the_store_finds_specs_by_task_and_masking(store: CheckpointStore) -> None:
    assert store.lungs() == store.specs[0]
    found = store.findings(MaskingMode.LOOSE)
    assert found is not None
    assert found.masking is MaskingMode.LOOSE


def test_a_verified_file_is_loaded(store: CheckpointStore) -> None:
    loaded = store.load(store.specs[0])
    assert loaded.keys() == STATE.keys()
    assert torch.equal(loaded["weight"], STATE["weight"])


def test_an_altered_file_is_refused(store: CheckpointStore) -> None:
    path = store.folder / store.specs[0].file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not the one the manifest lists"):
        store.load(store.specs[0])


def test_a_missing_file_is_named(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match=r"findings-none\.safetensors is missing"):
        store.load(store.specs[1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a checkpoint manifest"),
        ("[]", "not a checkpoint manifest"),
        ('{"schema": 99, "checkpoints": []}', "has schema 99"),
        ('{"schema": 1, "checkpoints": [{"name": "x"}]}', "malformed"),
        ('{"schema": 1, "checkpoints": ["x"]}', "malformed"),
    ],
)
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        CheckpointStore.open(tmp_path)


def test_an_unknown_field_in_an_entry_is_refused() -> None:
    entry = json.loads(json.dumps(LUNGS_SPEC.to_json())) | {"colour": "red"}
    with pytest.raises(CheckpointError, match="colour"):
        CheckpointSpec.from_json(entry)


class Hostile:
    """Would run a command if unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_a_pickled_program_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save({"weight": Hostile(marker)}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match="could not be loaded safely"):
        read_weights(tmp_path / "bad.pth")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04broken"])
def test_rubbish_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="could not be loaded safely"):
        read_weights(tmp_path / name)


def test_a_pth_must_hold_a_plain_state_dict(tmp_path: Path) -> None:
    torch.save({"model": STATE, "epoch": 3}, tmp_path / "run.pth")
    with pytest.raises(CheckpointError, match="plain state dict"):
        read_weights(tmp_path / "run.pth")


def test_half_precision_comes_back_as_single(tmp_path: Path) -> None:
    save_file({k: v.half() for k, v in STATE.items()}, tmp_path / "half.safetensors")
    assert read_weights(tmp_path / "half.safetensors")["weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, r"1 missing \['bias'\]"),
        ({"extra": torch.zeros(1)}, r"1 unexpected \['extra'\]"),
        ({"weight": torch.zeros(2, 2)}, r"1 of another shape \['weight'\]"),
    ],
)
def test_weights_must_fit_exactly(change: dict[str, torch.Tensor | None], message: str) -> None:
    network = nn.Linear(2, 1)
    state = {k: v for k, v in (STATE | change).items() if v is not None}
    with pytest.raises(CheckpointError, match=message):
        load_strictly(network, state, "test")


def test_fitting_weights_are_loaded() -> None:
    network = nn.Linear(2, 1)
    load_strictly(network, STATE, "test")
    assert network(torch.tensor([[2.0, 1.0]])).item() == pytest.approx(1.25)


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    assert checkpoint_folder(tmp_path) == tmp_path
    assert checkpoint_folder("some/folder") == Path("some/folder")


@pytest.mark.parametrize("location", ["hf://name@main", "hf://a/b", "hf://a/b@", "hf://a/b/c@d"])
def test_a_hub_location_names_owner_name_and_revision(location: str) -> None:
    with pytest.raises(CheckpointError, match="Expected hf://OWNER/NAME@REVISION"):
        checkpoint_folder(location)


def test_a_hub_folder_is_verified_like_any_other(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def download(repository: str, **settings: object) -> str:
        asked.append((repository, settings))
        return str(store.folder)

    monkeypatch.setattr(checkpoints, "snapshot_download", download)
    replace(store, specs=store.specs[:1]).save()
    flags = ["checkpoints", "--checkpoints", "hf://a/b@0123abc"]
    assert main(flags) == 0
    assert "verified" in capsys.readouterr().out
    patterns = ["manifest.json", "*.safetensors", "*.md"]
    assert asked == [("a/b", {"revision": "0123abc", "allow_patterns": patterns})]
    (store.folder / store.specs[0].file).write_bytes(b"altered on the way")
    assert main(flags) == 3
    assert "not the one the manifest lists" in capsys.readouterr().err


def refusal(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    request = httpx2.Request("GET", "https://hub.test/")
    return kind("refused", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (refusal(GatedRepoError, 403), "asks for consent"),
        (refusal(RevisionNotFoundError, 404), "has no revision v1"),
        (refusal(RepositoryNotFoundError, 404), "There is no Hub repository a/b"),
        (refusal(HfHubHTTPError, 500), r"refused a/b \(HTTP 500\)"),
        (httpx2.ConnectError("no network"), "cannot be reached"),
    ],
)
def test_a_failed_download_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, message: str
) -> None:
    def download(*_: object, **__: object) -> str:
        raise failure

    monkeypatch.setattr(checkpoints, "snapshot_download", download)
    with pytest.raises(CheckpointError, match=message):
        checkpoint_folder("hf://a/b@v1")


def test_without_network_the_real_client_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="cannot be reached and a/b@v1 was not downloaded"):
        checkpoint_folder("hf://a/b@v1")
