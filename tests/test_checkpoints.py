import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import LUNGS_SPEC, findings_spec
from safetensors.torch import save_file
from torch import nn

from cxrdemo.checkpoints import CheckpointStore, file_sha256, load_strictly, read_weights
from cxrdemo.errors import CheckpointError
from cxrdemo.results import MaskingMode
from cxrdemo.specs import Estimate

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


def test_a_folder_may_list_nothing(tmp_path: Path) -> None:
    CheckpointStore(tmp_path, ()).save()
    empty = CheckpointStore.open(tmp_path)
    assert empty.specs == ()
    assert empty.lungs() is None
    assert empty.findings(MaskingMode.TIGHT) is None


def test_another_folder_is_not_taken_for_one_that_lists_nothing(tmp_path: Path) -> None:
    """A wrong name would end in results without a finding, and in success."""
    other = tmp_path / "films"
    other.mkdir()
    for folder, words in (
        (tmp_path / "typo", "There is no checkpoint folder 'typo'"),
        (Path("hf://a/b@c"), "There is no checkpoint folder"),
        (Path("x" * 5000), "There is no checkpoint folder"),
        (other, "The checkpoint folder 'films' has no manifest.json"),
    ):
        with pytest.raises(CheckpointError, match=words):
            CheckpointStore.open(folder)
    # A folder to publish into may be a new one.
    assert CheckpointStore.open_or_begin(other) == CheckpointStore(other, ())
    with pytest.raises(CheckpointError, match="There is no checkpoint folder"):
        CheckpointStore.open_or_begin(tmp_path / "typo")


@pytest.mark.parametrize(
    "text", ["[]", "7", "{", '{"schema": 1}', '{"schema": 1, "checkpoints": {}}']
)
def test_another_file_of_that_name_is_no_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    for read in (CheckpointStore.open, CheckpointStore.open_or_begin):
        with pytest.raises(CheckpointError, match=r"manifest\.json is not a checkpoint manifest"):
            read(tmp_path)


def test_a_manifest_that_would_never_end_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(CheckpointError, match="not an ordinary file"):
        CheckpointStore.open(tmp_path)
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointError, match="not an ordinary file"):
        read_weights(tmp_path / "pipe.pth")
    with pytest.raises(CheckpointError, match="not an ordinary file"):
        read_weights(Path("x" * 5000))


def test_a_name_listed_twice_is_refused(store: CheckpointStore) -> None:
    replace(store, specs=(*store.specs, store.specs[0])).save()
    with pytest.raises(CheckpointError, match=f"lists {LUNGS_SPEC.name} 2 times"):
        CheckpointStore.open(store.folder)


def test_which_of_two_checkpoints_is_meant_is_not_guessed(store: CheckpointStore) -> None:
    none = findings_spec(MaskingMode.NONE)
    twice = (replace(none, name="other-none.v1"), replace(LUNGS_SPEC, name="other-lungs.v1"))
    both = replace(store, specs=(*store.specs, *twice))
    with pytest.raises(CheckpointError, match=r"classifier for masking 'none': .*other-none\.v1"):
        both.findings(MaskingMode.NONE)
    with pytest.raises(CheckpointError, match=r"more than one segmenter .*other-lungs\.v1"):
        both.lungs()


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
        ('{"schema": 1, "checkpoints": {"name": "x"}}', "no list"),
        ("[" * 100_000, "not a checkpoint manifest"),
        ("\udcff", "not a checkpoint manifest"),
        ('{"schema": 1, "checkpoints": [{"name": "x"}]}', "entry 'x' is malformed"),
        ('{"schema": 1, "checkpoints": ["x"]}', "malformed"),
        ('{"schema": 1, "checkpoints": [null]}', "malformed"),
    ],
)
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=message):
        CheckpointStore.open(tmp_path)


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


@pytest.mark.parametrize("seed", range(60))
def test_broken_weights_are_a_clear_error_or_load(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path / f"broken{('.pth', '.safetensors')[seed % 2]}"
    if seed % 2:
        save_file(STATE, path)
    else:
        torch.save(STATE, path)
    content = bytearray(path.read_bytes())
    for at in rng.integers(0, len(content), 1 + seed % 7):
        content[at] = rng.integers(0, 256)
    path.write_bytes(content[: rng.integers(1, len(content))] if seed % 5 == 0 else content)
    try:
        state = read_weights(path)
    except CheckpointError:
        return
    assert all(isinstance(values, torch.Tensor) for values in state.values())


@pytest.mark.parametrize(
    "odd",
    [
        {1: torch.zeros(1)},
        {"weight": [1.0]},
        [torch.zeros(1)],
        torch.zeros(1),
        OrderedDict(weight="text"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, odd: object) -> None:
    torch.save(odd, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="plain state dict"):
        read_weights(tmp_path / "odd.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    save_file(
        {"fine": torch.ones(2), "weight": torch.tensor([1.0, value])}, tmp_path / "a.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights, in \['weight'\]"):
        read_weights(tmp_path / "a.safetensors")


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


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_network_outlives_the_file_of_its_weights(tmp_path: Path, name: str) -> None:
    """Were the file only mapped, cutting it short in place would end the process."""
    save_file(STATE, tmp_path / "weights.safetensors")
    torch.save(STATE, tmp_path / "weights.pth")
    network = nn.Linear(2, 1)
    load_strictly(network, read_weights(tmp_path / name), "test")
    os.truncate(tmp_path / name, 0)
    assert network(torch.tensor([[2.0, 1.0]])).item() == pytest.approx(1.25)


def test_fitting_weights_are_loaded() -> None:
    network = nn.Linear(2, 1)
    load_strictly(network, STATE, "test")
    assert network(torch.tensor([[2.0, 1.0]])).item() == pytest.approx(1.25)
