"""Masks and chains are ended at every write there is, and the disk is full at every write."""

import builtins
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training_masks import data, flags  # noqa: F401  # a fixture

from training.__main__ import main
from training.engine.run_folder import RunFolder
from training.engine.trainer import AtomicCheckpoints, save_network
from training.errors import DataError
from training.writing import replacing


class Killed(BaseException):
    """Stands for SIGKILL: nothing that handles errors may handle it."""


class Writes:
    """Counts what a process does to files, and ends it at one of these moments."""

    def __init__(self, end_at: int, ending: Callable[[], BaseException]) -> None:
        self.count = 0
        self.end_at = end_at
        self.ending = ending
        self.over = False

    def check(self) -> None:
        """Called before each change; a process that has ended changes nothing any more."""
        if self.over:
            raise self.ending()
        self.count += 1
        if self.count == self.end_at:
            self.over = isinstance(self.ending(), Killed)
            raise self.ending()


@contextmanager
def ending_at(
    number: int, ending: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch, root: Path
) -> Iterator[Writes]:
    """Ends the work below a folder at its n-th write, of which half is done."""
    writes = Writes(number, ending)
    really_open, replace, unlink = io.open, os.replace, os.unlink

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        stream = really_open(file, mode, *args, **kwargs)
        mine = isinstance(file, str | Path) and Path(file).is_relative_to(root)
        if not mine or not set(mode) & set("wax"):
            return stream
        write = stream.write

        def halfway(content: Any) -> Any:
            try:
                writes.check()
            except BaseException:
                write(content[: len(content) // 2])
                stream.flush()
                raise
            return write(content)

        stream.write = halfway
        return stream

    def renamed(source: Any, target: Any, **kwargs: Any) -> None:
        writes.check()
        replace(source, target, **kwargs)

    def removed(path: Any, **kwargs: Any) -> None:
        if not writes.over:
            unlink(path, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        patch.setattr(os, "replace", renamed)
        patch.setattr(os, "unlink", removed)
        yield writes


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but drafts, whose names begin with a dot."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def rows(files: dict[str, bytes]) -> dict[str, Any]:
    """The same with a table as a set: what was done again comes last in it."""
    return {n: sorted(c.splitlines()) if n.endswith(".csv") else c for n, c in files.items()}


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("ending", [Killed, full_disk], ids=["killed", "full disk"])
def test_masks_survive_an_end_at_every_write(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ending: Callable[[], BaseException],
) -> None:
    index = data / "index.csv"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:3]))
    assert main(flags(data, tmp_path / "whole")) == 0
    expected = rows(contents(tmp_path / "whole"))
    moments = 0
    while True:
        out = tmp_path / f"out{moments}"
        with ending_at(moments + 1, ending, monkeypatch, out) as writes:
            if ending is Killed:
                try:
                    code = main(flags(data, out))
                except Killed:
                    code = None
            else:
                code = main(flags(data, out))
        if writes.count <= moments:
            assert code == 0, "every moment was tried"
            break
        moments += 1
        if ending is not Killed:
            assert code == 3
            assert "Make room and give the same command again" in capsys.readouterr().err
        assert main(flags(data, out)) == 0, moments
        assert rows(contents(out)) == expected, moments
    assert moments == 2 + 3 * 2, "the head of the table, and each mask with its row"


def test_a_draft_takes_the_files_place_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "a.png"
    with replacing(path) as draft:
        draft.write_text("one")
        assert draft.suffix == ".png"
        assert not path.exists()

    def fail() -> None:
        with replacing(path) as draft:
            draft.write_text("tw")
            raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        fail()
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="files have no limit of size there")
def test_a_disk_that_takes_no_checkpoint_is_told_and_leaves_the_old_one(tmp_path: Path) -> None:
    """Files longer than 100 kB are refused by the system itself, as a full disk refuses them."""
    import resource

    folder = RunFolder(tmp_path)
    small, large = ({"state_dict": {"network.w": torch.zeros(n)}} for n in (1000, 100_000))
    AtomicCheckpoints().save_checkpoint(small, folder.last)
    AtomicCheckpoints().save_checkpoint(large, folder.best)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DataError, match=r"last\.ckpt cannot be written .* Is the disk full"):
            AtomicCheckpoints().save_checkpoint(large, folder.last)
        with pytest.raises(DataError, match=r"network\.safetensors cannot be written"):
            save_network(folder.best, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    kept = torch.load(folder.last, weights_only=True)["state_dict"]["network.w"]
    assert torch.equal(kept, torch.zeros(1000))
