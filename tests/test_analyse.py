"""`cxrdemo analyse`: what is read, where results go, and what can never happen to them."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from fakes import BlindSegmenter, fake_pipeline
from patience import PATIENCE_SECONDS
from test_dicom_export import file as dicom_with_study
from test_export import validator

from cxrdemo import cli
from cxrdemo.commands import one_file, places
from cxrdemo.commands.writing import ENDINGS, PRODUCTS
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.pipeline import Pipeline

HERE = Path(__file__).resolve().parent
FAKED = (sys.executable, "-m", "faked_cli")
PATHS = {"PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}


def draw(path: Path, seed: int = 0, *, hw: tuple[int, int] = (90, 120)) -> Path:
    """Noise that no other seed gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 65536, hw, np.uint16)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return path


def read(path: Path) -> dict:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert not list(validator().iter_errors(record))
    return record


def names_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names_in(folder)}


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "from_checkpoints", lambda *_, **__: fake_pipeline())


@pytest.fixture
def analysed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were really analysed, in order."""
    names: list[str] = []
    inner = one_file.read_radiograph

    def noted(data: bytes):
        names.append(str(len(names)))
        return inner(data)

    monkeypatch.setattr(one_file, "read_radiograph", noted)
    return names


def analyse(*arguments: str | Path) -> int:
    return cli.main(["analyse", *map(str, arguments)])


# What is written.


def test_json_mask_and_figure_of_one_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert analyse(draw(tmp_path / "first.png"), "--out", out) == 0
    assert names_in(out) == ["first.png.figure.png", "first.png.json", "first.png.mask.png"]
    mask = cv2.imread(str(out / "first.png.mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (90, 120)
    assert set(np.unique(mask)) == {0, 255}
    assert cv2.imread(str(out / "first.png.figure.png")) is not None
    record = read(out / "first.png.json")
    assert record["input"]["name"] == "first.png"
    assert record["source"]["size"] == {"height": 90, "width": 120}
    assert record["source"]["bit_depth"] == 16
    assert list(record["maskings"]) == ["none", "loose", "tight"]
    assert record["lungs"]["area_fraction"]["both"] == pytest.approx((mask > 0).mean())
    for masking in record["maskings"].values():
        assert [row["label"] for row in masking["findings"]] == list(FINDING_KEYS)
        highest = max(row["probability"] for row in masking["findings"])
        assert masking["no_finding"]["score"] == pytest.approx(1 - highest)
    assert len(record["checkpoints"]) == 4


def test_what_to_write_is_chosen_and_the_json_always_is(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert analyse(draw(tmp_path / "a.png"), "--out", out, "--write", "labels,heat") == 0
    assert names_in(out) == ["a.png.heat.npz", "a.png.json", "a.png.labels.png"]
    labels = cv2.imread(str(out / "a.png.labels.png"), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(labels)) == {0, 1, 2}
    with np.load(out / "a.png.heat.npz", allow_pickle=False) as arrays:
        assert "tight/Mass" in arrays.files


def test_dicom_gets_dicom_and_another_files_failure_names_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    draw(source / "a.png")
    (source / "b.dcm").write_bytes(dicom_with_study())
    assert analyse(source, "--out", out, "--write", "json,seg,capture") == 3
    assert names_in(out) == ["a.png.json", "b.dcm.capture.dcm", "b.dcm.json", "b.dcm.seg.dcm"]
    for product in ("seg", "capture"):
        assert pydicom.dcmread(out / f"b.dcm.{product}.dcm").Modality in ("SEG", "OT")
    assert read(out / "a.png.json")["error"]["kind"] == "ExportError"
    assert "Leave seg and capture out of --write" in capsys.readouterr().err


def test_files_are_done_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, together = fake_pipeline(), threading.Barrier(2)
    monkeypatch.setattr(pipeline, "at_once", 2)
    inner = one_file.read_radiograph

    def both(data: bytes):
        together.wait(PATIENCE_SECONDS)  # for the other file's
        return inner(data)

    monkeypatch.setattr(Pipeline, "from_checkpoints", lambda *_, **__: pipeline)
    monkeypatch.setattr(one_file, "read_radiograph", both)
    for seed in range(4):
        draw(tmp_path / "in" / f"{seed}.png", seed)
    assert analyse(tmp_path / "in", "--out", tmp_path / "out", "--write", "json") == 0


def test_one_masking_alone(tmp_path: Path) -> None:
    assert analyse(draw(tmp_path / "a.png"), "--masking", "tight", "--out", tmp_path / "o") == 0
    assert list(read(tmp_path / "o" / "a.png.json")["maskings"]) == ["tight"]


# Whose result is whose.


def test_no_two_inputs_share_a_result(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    places = [
        "a/same.png",
        "a/same-2.png",
        "b/same.png",
        "b/same",
        "b/same.mask.png",
        "1.2.840.113619.1",
        "1.2.840.113619.2",
        "1.2.840.113619",
    ]
    for seed, place in enumerate(places):
        draw(source / place, seed)
    assert analyse(*(source / place for place in places), "--out", out) == 0
    hashes = set()
    for place in places:
        record = read(out / f"{place}.json")
        assert record["input"]["name"] == place
        hashes.add(record["input"]["sha256"])
        assert (out / f"{place}.mask.png").is_file()
    assert len(hashes) == len(places)


def test_a_folders_results_keep_its_shape_and_strangers_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    draw(source / "p1" / "study" / "view.png", 1)
    draw(source / "p2" / "study" / "view.png", 2)
    draw(source / "p2" / "no suffix", 3)
    draw(source / ".hidden" / "view.png", 4)
    draw(source / "p1" / "._view.png", 5)
    (source / "index.csv").write_text("a,b\n", encoding="utf-8")
    os.mkfifo(source / "pipe")
    (source / "p2" / "circle").symlink_to(source)
    assert analyse(source, "--out", out, "--write", "json") == 0
    assert names_in(out) == [
        "p1/study/view.png.json",
        "p2/no suffix.json",
        "p2/study/view.png.json",
    ]
    assert "3 files: 3 done, 2 others are no images" in capsys.readouterr().err


def test_a_suffix_that_promises_an_image_is_held_to_it(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    draw(source / "good.png")
    (source / "broken.dcm").write_bytes(b"nonsense")
    assert analyse(source, "--out", out) == 3
    assert "error" in read(out / "broken.dcm.json")
    assert "maskings" in read(out / "good.png.json")


def test_patterns_lists_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in"
    for seed, place in enumerate(["x/1.png", "x/deep/2.png", "y/3.png"]):
        draw(source / place, seed)
    monkeypatch.chdir(source)
    wanted = ["x/1.png.json", "x/deep/2.png.json", "y/3.png.json"]
    assert analyse("**/*.png", "--out", tmp_path / "a", "--write", "json") == 0
    assert names_in(tmp_path / "a") == wanted
    listing = tmp_path / "list.txt"
    listing.write_bytes(b"\xef\xbb\xbfx/1.png\r\n\nx/deep/2.png\ny\n")
    assert analyse(f"@{listing}", "--out", tmp_path / "b", "--write", "json") == 0
    assert analyse("--list", listing, "--out", tmp_path / "c", "--write", "json") == 0
    with (tmp_path / "nul").open("w+b") as stream:
        stream.write(b"x/1.png\0x/deep/2.png\0y/3.png\0")
        stream.seek(0)
        monkeypatch.setattr(sys, "stdin", os.fdopen(os.dup(stream.fileno()), encoding="utf-8"))
        assert analyse("-", "--out", tmp_path / "d", "--write", "json") == 0
        sys.stdin.close()
    for folder in "bcd":
        assert names_in(tmp_path / folder) == wanted, folder


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_list_as_windows_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    draw(tmp_path / "Thorax \u00e4.png")
    monkeypatch.chdir(tmp_path)
    listing = tmp_path / "list.txt"
    listing.write_bytes("\ufeffThorax \u00e4.png\r\n \r\n".encode(encoding))
    assert analyse(f"@{listing}", "--out", "out", "--write", "json") == 0
    assert names_in(tmp_path / "out") == ["Thorax \u00e4.png.json"]


def test_a_list_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(places, "_LONGEST_LIST", 1000)
    assert analyse("@/dev/zero", "--out", tmp_path / "out") == 2
    assert "/dev/zero cannot be read" in capsys.readouterr().err


def test_a_file_named_twice_is_read_once(tmp_path: Path, analysed: list[str]) -> None:
    image = draw(tmp_path / "in" / "a.png")
    listing = tmp_path / "list.txt"
    listing.write_text(f"{image}\n{image.parent}/../in/a.png\n", encoding="utf-8")
    assert analyse(image, image.parent, f"@{listing}", "--out", tmp_path / "out") == 0
    assert len(analysed) == 1


def test_inputs_are_never_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(["x.png.json", "scan.png", "scan.png.mask.png", "x.png"]):
        draw(tmp_path / name, seed)
    before = snapshot(tmp_path)
    code = analyse(*(tmp_path / name for name in before), "--out", tmp_path)
    after = snapshot(tmp_path)
    assert {name: after[name] for name in before} == before
    assert code == 3
    assert "would take the place of an input" in capsys.readouterr().err
    assert "maskings" in read(tmp_path / "scan.png.mask.png.json"), "the rest is done"


@pytest.mark.parametrize("flag", ["--csv", "--jsonl"])
def test_a_table_never_takes_the_place_of_a_device_a_pipe_or_the_other_table(
    tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image, pipe, link = draw(tmp_path / "a.png"), tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for table in (pipe, link, tmp_path):
        assert analyse(image, "--out", tmp_path / "out", flag, table) == 2
        assert "name an ordinary file for the table" in capsys.readouterr().err
    assert pipe.is_fifo()
    assert link.is_symlink()
    both = ("--csv", tmp_path / "t", "--jsonl", tmp_path / "." / "t")
    assert analyse(image, "--out", tmp_path / "out", *both) == 2
    assert "name the same file" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_table_never_takes_the_place_of_a_result(
    tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = draw(tmp_path / "a.png"), tmp_path / "out"
    (tmp_path / "link").symlink_to(out)
    table = tmp_path / "link" / f"a.png{ending}"
    assert analyse(image, "--out", out, "--csv", table) == 2
    assert "would take the place of a result" in capsys.readouterr().err
    assert names_in(out) == []
    assert analyse(image, "--out", out, "--csv", tmp_path / f"table{ending}") == 0


def test_a_table_is_written_through_a_link(tmp_path: Path) -> None:
    image, link = draw(tmp_path / "a.png"), tmp_path / "link.csv"
    link.symlink_to(tmp_path / "table.csv")
    assert analyse(image, "--out", tmp_path / "out", "--csv", link) == 0
    assert link.is_symlink()
    assert "a.png" in (tmp_path / "table.csv").read_text()


def test_a_link_to_an_input_is_an_input(tmp_path: Path) -> None:
    image = draw(tmp_path / "in" / "a.png")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png.json").symlink_to(image)
    before = image.read_bytes()
    assert analyse(image, "--out", out) == 3
    assert image.read_bytes() == before


def test_a_strangers_file_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png.json").write_text('{"precious": true}', encoding="utf-8")
    for force in ([], ["--force"]):
        assert analyse(draw(tmp_path / "a.png"), "--out", out, *force) == 3
        assert (out / "a.png.json").read_text(encoding="utf-8") == '{"precious": true}'


@pytest.mark.parametrize("product", ["mask", "seg", "capture"])  # the first would be written
def test_what_lies_there_without_a_record_is_a_strangers(
    tmp_path: Path, product: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image, other = draw(tmp_path / "IM0001"), draw(tmp_path / "IM0002", 1)
    stranger = tmp_path / f"IM0001{PRODUCTS[product]}"
    stranger.write_bytes(b"drawn by hand")
    for force in ([], ["--force"]):
        assert analyse(image, other, "--out", tmp_path, *force) == 3
        assert stranger.name in capsys.readouterr().err
        assert stranger.read_bytes() == b"drawn by hand"
    assert "maskings" in read(tmp_path / "IM0002.json"), "the rest is done"


def test_a_strangers_file_beside_our_record_is_neither_replaced_nor_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = draw(tmp_path / "a.png"), tmp_path / "out"
    assert analyse(image, "--out", out, "--write", "json,mask") == 0
    stranger = out / "a.png.figure.png"
    stranger.write_bytes(b"drawn by hand")
    before = snapshot(out)
    for flags in ([], ["--force"], ["--force", "--write", "json"], ["--margin", "0.1"]):
        assert analyse(image, "--out", out, *flags) == 3
        assert stranger.name in capsys.readouterr().err
        assert snapshot(out) == before
    stranger.unlink()
    assert analyse(image, "--out", out) == 0
    assert analyse(image, "--out", out, "--write", "json", "--force") == 0
    assert names_in(out) == ["a.png.json"], "what our record names is ours"


def test_an_end_at_any_moment_of_writing_leaves_what_the_next_run_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, out = draw(tmp_path / "a.png"), tmp_path / "out"
    whole = ["a.png.figure.png", "a.png.json", "a.png.mask.png"]
    move, moves = Path.replace, 0

    for last in (1, 2, 3, 4):

        def end(path: Path, target: Path, last: int = last) -> Path:
            nonlocal moves
            moves += 1
            if moves == last:
                raise KeyboardInterrupt
            return move(path, target)

        moves = 0
        with monkeypatch.context() as ending:
            ending.setattr(Path, "replace", end)
            assert analyse(image, "--out", out, "--force") == 130
        assert set(names_in(out)) <= set(whole)
        assert last == 1 or "error" in read(out / "a.png.json"), "not taken for finished"
        assert analyse(image, "--out", out) == 0
        assert names_in(out) == whole
        assert "error" not in read(out / "a.png.json")


def test_another_files_results_are_not_replaced_unasked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    one, two = draw(tmp_path / "p1" / "a.png", 1), draw(tmp_path / "p2" / "a.png", 2)
    assert analyse(one, "--out", out) == 0
    before = snapshot(out)
    assert analyse(two, "--out", out) == 3
    assert snapshot(out) == before
    assert analyse(two, "--out", out, "--force") == 0
    assert snapshot(out) != before


def test_results_beside_their_inputs_are_no_inputs_of_the_next_run(
    tmp_path: Path, analysed: list[str]
) -> None:
    draw(tmp_path / "a.png")
    for _ in range(2):
        assert analyse(tmp_path, "--out", tmp_path) == 0
        assert analyse(tmp_path, "--out", tmp_path / "sub") == 0
    assert len(analysed) == 2
    assert analyse(f"{tmp_path}/*.png", "--out", tmp_path) == 0
    assert len(analysed) == 2


# Going on.


def test_finished_work_is_not_done_again(
    tmp_path: Path, analysed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for seed in range(3):
        draw(source / f"{seed}.png", seed)
    assert analyse(source, "--out", out) == 0
    before = snapshot(out)

    def unwanted(*_: object, **__: object) -> Pipeline:
        raise AssertionError("no weights are needed where all is there")

    monkeypatch.setattr(Pipeline, "from_checkpoints", unwanted)
    assert analyse(source, "--out", out) == 0
    assert snapshot(out) == before
    assert len(analysed) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda source, out: draw(source / "0.png", 9) and [],
        lambda source, out: (out / "0.png.mask.png").unlink() or [],
        lambda source, out: ((out / "0.png.json").write_bytes(b"") and []) or [],
        lambda source, out: ["--write", "json,mask,figure,heat"],
        lambda source, out: ["--masking", "tight"],
        lambda source, out: ["--margin", "0.1"],
        lambda source, out: ["--cam", "HiResCAM"],
        lambda source, out: ["--precision", "fp32"],
        lambda source, out: ["--force"],
    ],
)
def test_what_changed_is_done_again(
    tmp_path: Path, analysed: list[str], change: Callable[[Path, Path], list[str]]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    draw(source / "0.png")
    assert analyse(source, "--out", out) == 0
    flags = change(source, out)
    assert analyse(source, "--out", out, *flags) == 0
    assert len(analysed) == 2
    assert "maskings" in read(out / "0.png.json")


def test_other_weights_do_it_again(tmp_path: Path, analysed: list[str]) -> None:
    image, out = draw(tmp_path / "a.png"), tmp_path / "out"
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        manifest = json.loads((HERE.parent / "checkpoints" / "manifest.json").read_text("utf-8"))
        if name == "two":
            manifest["checkpoints"][0]["labels"][0]["threshold"] = 0.99
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert analyse(image, "--out", out, "--checkpoints", folder) == 0
    assert len(analysed) == 2


def test_moved_inputs_with_the_same_bytes_are_recognised(
    tmp_path: Path, analysed: list[str]
) -> None:
    draw(tmp_path / "old" / "a.png")
    assert analyse(tmp_path / "old", "--out", tmp_path / "out") == 0
    (tmp_path / "old").rename(tmp_path / "new")
    assert analyse(tmp_path / "new", "--out", tmp_path / "out") == 0
    assert len(analysed) == 1


# One bad file.


def test_one_bad_file_never_stops_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    image = draw(source / "good.png")
    broken, missing, pipe = source / "broken.dcm", source / "missing.png", source / "pipe"
    broken.write_bytes(b"not an image")
    os.mkfifo(pipe)
    long = draw(source / ("n" * 251), 3)
    longer = draw(source / ("ä" * 127), 4)
    assert analyse(broken, missing, pipe, source, long, longer, image, "--out", out) == 3
    assert "maskings" in read(out / "good.png.json")
    errors = capsys.readouterr().err
    for path in (broken, missing, pipe):
        assert f"{path}: {read(out / f'{path.name}.json')['error']['message']}" in errors
    records = [read(path) for path in out.glob("*.json")]
    for name in (long.name, longer.name):
        assert sum(r["input"]["name"] == name and "maskings" in r for r in records) == 1
    assert "Traceback" not in errors


def test_names_too_long_for_a_result_are_finished_and_recognised(
    tmp_path: Path, analysed: list[str]
) -> None:
    source = tmp_path / "in"
    for end in "ab":
        draw(source / ("n" * 254 + end), ord(end))
    for _ in range(2):
        assert analyse(source, "--out", tmp_path / "out") == 0
    assert len(analysed) == 2
    assert len(names_in(tmp_path / "out")) == 6


def test_no_lungs_and_tight_alone_is_that_files_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = fake_pipeline(BlindSegmenter())
    monkeypatch.setattr(Pipeline, "from_checkpoints", lambda *_, **__: blind)
    out = tmp_path / "out"
    assert analyse(draw(tmp_path / "a.png"), "--masking", "tight", "--out", out) == 3
    assert read(out / "a.png.json")["error"]["kind"] == "NoLungsFoundError"


def test_an_unforeseen_failure_is_recorded_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(one_file, "figure_png", lambda _: 1 / 0)
    out = tmp_path / "out"
    assert analyse(draw(tmp_path / "a.png"), "--out", out) == 3
    assert read(out / "a.png.json")["error"]["kind"] == "ZeroDivisionError"
    assert "Traceback" in capsys.readouterr().err


def test_a_new_error_leaves_nothing_of_the_old_result(tmp_path: Path) -> None:
    image, out = draw(tmp_path / "a.png"), tmp_path / "out"
    everything = "json,mask,labels,figure,heat"
    assert analyse(image, "--out", out, "--write", everything) == 0
    image.write_bytes(b"spoilt")
    assert analyse(image, "--out", out, "--write", everything) == 3
    assert names_in(out) == ["a.png.json"]
    assert "error" in read(out / "a.png.json")
    draw(image)
    assert analyse(image, "--out", out) == 0
    assert names_in(out) == ["a.png.figure.png", "a.png.json", "a.png.mask.png"]


@pytest.mark.parametrize("kind", [OSError(28, "No space left on device"), OSError(13, "Denied")])
def test_a_disk_that_refuses_is_told_and_the_old_result_is_still_there(
    kind: OSError,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image, other, out = draw(tmp_path / "a.png"), draw(tmp_path / "b.png", 1), tmp_path / "out"
    assert analyse(image, "--out", out) == 0
    before = snapshot(out)
    write = Path.write_bytes

    def refuse(path: Path, data: bytes) -> int:
        write(path, data[: len(data) // 2])
        raise kind

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert analyse(image, other, "--out", out, "--force") == 3
    monkeypatch.undo()
    assert snapshot(out) == before, "whole, and no draft is left"
    errors = capsys.readouterr().err
    assert kind.strerror in errors
    assert "Traceback" not in errors


# Saying it.


@pytest.mark.parametrize("sink", ["closed", "full"])
def test_a_terminal_that_cannot_be_written_to_undoes_nothing(tmp_path: Path, sink: str) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    draw(source / os.fsdecode(b"scan-\xff\xfe.png"), 1)
    draw(source / "ä.png", 2)
    reader, closed = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    stdout = {"closed": closed, "full": full}[sink]
    done = subprocess.run(
        [*FAKED, "analyse", source, "--out", out, "--csv", tmp_path / "all.csv"],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **PATHS, "PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C.UTF-8"},
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    os.close(closed)
    os.close(full)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    records = [read(path) for path in out.glob("*.json")]
    assert len(records) == 2
    assert all("maskings" in record for record in records)
    assert len((tmp_path / "all.csv").read_text(encoding="utf-8").splitlines()) == 31


def test_nothing_but_the_folder_for_results_has_to_be_writable(tmp_path: Path) -> None:
    image, out, nowhere = draw(tmp_path / "a.png"), tmp_path / "out", "/proc/nowhere"
    places = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "TMPDIR")
    done = subprocess.run(
        [*FAKED, "analyse", image, "--out", out],
        stderr=subprocess.PIPE,
        env={**os.environ, **PATHS, **dict.fromkeys(places, nowhere)},
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert names_in(out) == ["a.png.figure.png", "a.png.json", "a.png.mask.png"]


def test_ctrl_c_finishes_what_is_in_hand_and_the_next_run_goes_on(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for seed in range(60):
        draw(source / f"{seed:02}.png", seed, hw=(900, 900))
    command = [*FAKED, "analyse", source, "--out", out]
    table = tmp_path / "all.csv"
    process = subprocess.Popen(
        [*command, "--csv", table], stderr=subprocess.PIPE, env={**os.environ, **PATHS}
    )
    while process.poll() is None and not list(out.glob("*.json")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)  # as a shell's does, to the process and to its group
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, errors
    assert b"Traceback" not in errors
    assert b"goes on from here" in errors
    done = snapshot(out)
    records = [name for name in done if name.endswith(".json")]
    assert 0 < len(records) < 60
    assert len(done) == 3 * len(records), "each finished file has all its results, and no draft"
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert {row["file"] for row in rows} == {name.removesuffix(".json") for name in records}


def test_tables_hold_every_file_in_order_failures_too(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for seed, name in enumerate(["b.png", "a.png", "c.png"]):
        draw(source / name, seed)
    (source / "b.png").write_bytes(b"broken")
    table, lines = tmp_path / "t" / "all.csv", tmp_path / "t" / "all.jsonl"
    for _ in range(2):  # the second time all but the failure comes from the first run
        assert analyse(source, "--out", out, "--csv", table, "--jsonl", lines) == 3
        rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
        assert [row["file"] for row in rows] == ["a.png"] * 15 + ["b.png"] + ["c.png"] * 15
        assert rows[15]["error"]
        records = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
        assert [record["input"]["name"] for record in records] == ["a.png", "b.png", "c.png"]
        assert records[0] == read(out / "a.png.json")
    assert names_in(tmp_path / "t") == ["all.csv", "all.jsonl"]


def test_quiet_tells_of_failures_and_the_sum_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    draw(source / "a.png")
    (source / "b.png").write_bytes(b"broken")
    assert analyse(source, "--out", out, "--quiet") == 3
    told = capsys.readouterr()
    assert told.out == ""
    assert "b.png" in told.err
    assert "2 files: 1 done, 1 failed" in told.err
    assert "a.png" not in told.err


def test_a_terminal_gets_a_bar_with_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    draw(tmp_path / "in" / "a.png")
    assert analyse(tmp_path / "in", "--out", tmp_path / "out") == 0
    told = capsys.readouterr()
    assert "1/1" in told.err
    assert told.out == ""


def test_a_cluster_loads_what_this_machine_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another folder, on one core each, hence by absolute paths; otherwise alike."""
    loaded: list[tuple] = []

    def from_checkpoints(folder: Path, **options: object) -> Pipeline:
        loaded.append((folder, options))
        return fake_pipeline()

    def share_out(address: str, make: Callable, job: one_file.Job, places: list, **_: object):
        assert (address, job.out) == ("there:6379", tmp_path / "far")
        return [one_file.do_file(make(), place, job) for place in places]

    taken: list[int] = []
    monkeypatch.setattr(Pipeline, "from_checkpoints", from_checkpoints)
    monkeypatch.setattr("cxrdemo.commands.cluster.share_out", share_out)
    monkeypatch.setattr("cxrdemo.devices.compute_on", lambda *, cores: taken.append(cores))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    manifest = json.dumps({"schema": 1, "checkpoints": []})
    (tmp_path / "weights" / "manifest.json").write_text(manifest)
    flags = (draw(tmp_path / "first.png"), "--checkpoints", "weights", "--medsam", "vit.pth")
    flags = (*flags, "--engine", "openvino", "--precision", "bf16", "--write", "json")
    assert analyse(*flags, "--out", "near") == 0
    assert taken == []
    assert analyse(*flags, "--out", "far", "--ray", "there:6379") == 0
    assert taken == [1]
    assert loaded[0] == loaded[1]
    assert loaded[0][0].is_absolute()
    assert loaded[0][1]["medsam"].is_absolute()
