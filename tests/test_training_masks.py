"""Masks of a whole set: in parts, resumed, and by one segmenter."""

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import LUNGS_SPEC, EllipseSegmenter, fake_pipeline

from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS
from cxrdemo.pipeline import Pipeline
from training.__main__ import main
from training.images.stored_masks import QUALITY_NAME, mask_path, read_quality, read_sides

NAMES = [f"i{number}.png" for number in range(5)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in NAMES:
        noise = rng.integers(0, 255, (80, 72), np.uint8)
        cv2.imwrite(str(folder / "images" / name), noise)
    columns = ("image", *FINDING_KEYS, *AUXILIARY_KEYS, "No_Finding")
    with (folder / "index.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows({"image": name} for name in NAMES)
    monkeypatch.setattr(Pipeline, "from_checkpoints", lambda _: fake_pipeline())
    return folder


def flags(data: Path, out: Path, *more: str) -> list[str]:
    return ["masks", "--data", str(data), "--out", str(out), *more]


def test_parts_together_make_what_one_process_makes(data: Path, tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert main(flags(data, whole)) == 0
    for part in ("2/2", "1/2"):
        assert main(flags(data, shared, "--shard", part)) == 0
    tables = [(shared / f"quality.{n}-of-2.csv").read_text().splitlines() for n in (1, 2)]
    assert [len(table) - 1 for table in tables] == [3, 2]
    assert read_quality(shared) == read_quality(whole)
    assert set(read_quality(whole)) == set(NAMES)
    for name in NAMES:
        sides = read_sides(shared, name)
        np.testing.assert_array_equal(sides, read_sides(whole, name))
        assert set(np.unique(sides)) == {0, 1, 2}
    assert not list(shared.glob("draft*"))


def test_a_second_run_does_what_is_missing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(flags(data, out)) == 0
    assert "5 new masks" in capsys.readouterr().out
    mask_path(out, NAMES[2]).unlink()
    # A mask without its row: the process was ended between the two.
    table = out / QUALITY_NAME
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    assert main(flags(data, out)) == 0
    assert "2 new masks" in capsys.readouterr().out
    assert set(read_quality(out)) == set(NAMES)
    assert main(flags(data, out, "--shard", "1/3")) == 0
    assert "0 new masks" in capsys.readouterr().out


def test_masks_of_two_segmenters_are_not_mixed(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(flags(data, tmp_path / "out")) == 0
    other = EllipseSegmenter(replace(LUNGS_SPEC, sha256="f" * 64))
    monkeypatch.setattr(Pipeline, "from_checkpoints", lambda _: fake_pipeline(other))
    assert main(flags(data, tmp_path / "out")) == 3
    assert "holds masks by ['lungs-tiny-64.v0 000000000000']" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_a_senseless_part_is_refused(
    data: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(data, tmp_path / "out", "--shard", text)) == 3
    assert "such as 2/8" in capsys.readouterr().err
