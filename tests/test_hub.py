from dataclasses import replace
from pathlib import Path

import httpx2
import huggingface_hub.constants
import pytest
import torch
from fakes import LUNGS_SPEC
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import save_file

from cxrdemo import hub
from cxrdemo.checkpoints import MANIFEST_NAME, CheckpointStore, file_sha256
from cxrdemo.cli import main
from cxrdemo.errors import CheckpointError
from cxrdemo.hub import HUB_PATTERNS, checkpoint_folder


def test_a_manifest_is_among_what_is_downloaded() -> None:
    assert MANIFEST_NAME in HUB_PATTERNS


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    assert checkpoint_folder(tmp_path) == tmp_path
    assert checkpoint_folder("some/folder") == Path("some/folder")


@pytest.mark.parametrize("location", ["hf://name@main", "hf://a/b", "hf://a/b@", "hf://a/b/c@d"])
def test_a_hub_location_names_owner_name_and_revision(location: str) -> None:
    with pytest.raises(CheckpointError, match="Expected hf://OWNER/NAME@REVISION"):
        checkpoint_folder(location)
    with pytest.raises(CheckpointError, match="Expected hf://OWNER/NAME@REVISION"):
        checkpoint_folder(Path(location))


def test_a_hub_folder_is_verified_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"weight": torch.ones(1)}, tmp_path / LUNGS_SPEC.file)
    spec = replace(LUNGS_SPEC, sha256=file_sha256(tmp_path / LUNGS_SPEC.file))
    store = CheckpointStore(tmp_path, (spec,))
    store.save()
    asked = []

    def download(repository: str, **settings: object) -> str:
        asked.append((repository, settings))
        return str(store.folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
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

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(CheckpointError, match=message):
        checkpoint_folder("hf://a/b@v1")


def test_without_network_the_real_client_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="cannot be reached and a/b@v1 was not downloaded"):
        checkpoint_folder("hf://a/b@v1")
