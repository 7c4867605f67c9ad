"""Masks of a whole set: in parts, resumed, and by one segmenter."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import LUNGS_SPEC, EllipseSegmenter, fake_pipeline, noise_radiograph, tiny_segmenter

from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS
from cxrdemo.lungs import assess
from cxrdemo.pipeline import Pipeline
from training.__main__ import main
from training.errors import DataError
from training.images.stored_masks import (
    QUALITY_NAME,
    add_quality,
    begin_quality,
    mask_path,
    read_quality,
    read_sides,
    reasons_of,
    write_sides,
)

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
    monkeypatch.setattr(Pipeline, "from_checkpoints", lambda *_, **__: fake_pipeline())
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
    monkeypatch.setattr(Pipeline, "from_checkpoints", lambda *_, **__: fake_pipeline(other))
    assert main(flags(data, tmp_path / "out")) == 3
    assert "holds masks by ['lungs-tiny-64.v0 000000000000']" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_a_senseless_part_is_refused(
    data: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(data, tmp_path / "out", "--shard", text)) == 3
    assert "such as 2/8" in capsys.readouterr().err


def rename_images(data: Path, names: list[str]) -> None:
    """The same images under other names, in the folder and in the index."""
    index = data / "index.csv"
    text = index.read_text()
    for old, new in zip(NAMES, names, strict=True):
        (data / "images" / new).parent.mkdir(parents=True, exist_ok=True)
        (data / "images" / old).rename(data / "images" / new)
        text = text.replace(f"{old},", f"{new},")
    index.write_text(text)


def test_each_image_has_a_mask_of_its_own_at_its_own_place(data: Path, tmp_path: Path) -> None:
    names = [f"patient{n}/study1/view1_frontal.png" for n in range(4)] + ["1.2.840.113"]
    rename_images(data, names)
    out = tmp_path / "out"
    assert main(flags(data, out)) == 0
    found = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert found == {*names[:4], "1.2.840.113.png"}
    assert set(read_quality(out)) == set(names)


def test_images_that_would_share_a_mask_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rename_images(data, ["i0.png", "i1.png", "i2.png", "a/i3.png", "a/i3.JPG"])
    assert main(flags(data, tmp_path / "out")) == 3
    assert "a/i3.png and a/i3.JPG differ in their suffix alone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:20],
        lambda whole: whole[: whole.index(b"\n") + 1],
        lambda whole: whole[:-9],
        lambda whole: whole[:-1],
        lambda whole: whole[:-40] + b"\0" * 40,
        lambda whole: whole + b'i9.png,"[',
    ],
    ids=["empty", "torn head", "head alone", "torn row", "no end of line", "zeros", "begun row"],
)
def test_a_torn_table_is_mended_by_the_same_command(
    data: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    out = tmp_path / "out"
    assert main(flags(data, out)) == 0
    table = out / QUALITY_NAME
    whole = read_quality(out)
    table.write_bytes(damage(table.read_bytes()))
    assert main(flags(data, out)) == 0
    assert read_quality(out) == whole
    assert main(flags(data, out)) == 0
    assert len(table.read_text().splitlines()) == 1 + len(NAMES), "no row twice, no row torn"


def test_reasons_come_back_as_they_were(tmp_path: Path) -> None:
    reasons = ('One lung is "much" larger.', "It's cut, at the edge.")
    empty = assess(np.zeros((9, 9), np.uint8), components=0, predicted_iou=0.5)
    quality = replace(empty, reasons=reasons)
    table = tmp_path / QUALITY_NAME
    begin_quality(table)
    add_quality(table, "a.png", quality, "s")
    write_sides(mask_path(tmp_path, "a.png"), np.ones((9, 9), np.uint8))
    row = read_quality(tmp_path)["a.png"]
    assert reasons_of(row) == list(reasons)
    assert reasons_of({**row, "reasons": str(reasons)}) == list(reasons), "of earlier versions"


def test_a_broken_mask_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no mask of a\.png"):
        read_sides(tmp_path, "a.png")
    (tmp_path / "a.png").write_bytes(b"half")
    with pytest.raises(DataError, match="is no mask that `masks` wrote"):
        read_sides(tmp_path, "a.png")
    cv2.imwrite(str(tmp_path / "a.png"), np.full((9, 9), 255, np.uint8))
    with pytest.raises(DataError, match="is no mask that `masks` wrote"):
        read_sides(tmp_path, "a.png")


def test_batches_give_what_one_at_a_time_gives(data: Path, tmp_path: Path) -> None:
    assert main(flags(data, tmp_path / "one")) == 0
    assert main(flags(data, tmp_path / "two", "--batch", "2", "--device", "cpu")) == 0
    assert read_quality(tmp_path / "one") == read_quality(tmp_path / "two")
    for name in NAMES:
        np.testing.assert_array_equal(
            read_sides(tmp_path / "one", name), read_sides(tmp_path / "two", name)
        )


def test_the_encoder_takes_several_images_at_once() -> None:
    segmenter = tiny_segmenter()
    images = [noise_radiograph(hw=hw, seed=seed) for seed, hw in enumerate([(80, 72), (64, 96)])]
    together = segmenter.embed_all(images)
    for image, found in zip(images, together, strict=True):
        alone = segmenter.embed(image)
        assert found.placement == alone.placement
        np.testing.assert_allclose(found.features, alone.features, rtol=1e-5, atol=1e-5)


def test_a_device_that_is_not_there_is_one_clear_error(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(data, tmp_path / "out", "--device", "banana")) == 2
    assert "There is no device 'banana' here. There is cpu" in capsys.readouterr().err
