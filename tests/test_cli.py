import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import BlindSegmenter, fake_pipeline

from cxrdemo import cli
from cxrdemo.export import SCHEMA
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.pipeline import Pipeline


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 65536, (90, 120), np.uint16)
    path = tmp_path / "first.png"
    cv2.imwrite(str(path), pixels)
    return path


@pytest.fixture
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pipeline, "from_checkpoints", lambda *_, **__: fake_pipeline())


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("_fakes")
def test_analyse_writes_three_files(image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(["analyse", str(image), "--out", str(out)]) == 0
    mask = cv2.imread(str(out / "first.mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (90, 120)
    assert set(np.unique(mask)) == {0, 255}
    assert cv2.imread(str(out / "first.figure.png")) is not None
    record = read(out / "first.json")
    assert record["schema"] == SCHEMA
    assert record["source"]["size"] == {"height": 90, "width": 120}
    assert record["source"]["bit_depth"] == 16
    assert list(record["maskings"]) == ["none", "loose", "tight"]
    assert record["lungs"]["area_fraction"]["both"] == pytest.approx((mask > 0).mean())
    for masking in record["maskings"].values():
        assert [row["label"] for row in masking["findings"]] == list(FINDING_KEYS)
        for row in masking["findings"]:
            assert row["above"] is None, "the image is too small to be judged"
        highest = max(row["probability"] for row in masking["findings"])
        assert masking["no_finding"]["score"] == pytest.approx(1 - highest)
        assert masking["cam_in_lung"].keys() == set(FINDING_KEYS)
    assert len(record["checkpoints"]) == 4
    assert all(len(use["sha256"]) == 64 for use in record["checkpoints"])


@pytest.mark.usefixtures("_fakes")
def test_one_masking_alone(image: Path, tmp_path: Path) -> None:
    assert cli.main(["analyse", str(image), "--masking", "tight", "--out", str(tmp_path)]) == 0
    assert list(read(tmp_path / "first.json")["maskings"]) == ["tight"]


@pytest.mark.usefixtures("_fakes")
def test_one_bad_file_never_stops_the_others(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, missing = tmp_path / "broken.dcm", tmp_path / "missing.png"
    broken.write_bytes(b"not an image")
    out = tmp_path / "out"
    code = cli.main(["analyse", str(broken), str(missing), str(image), "--out", str(out)])
    assert code == 3
    assert "maskings" in read(out / "first.json")
    errors = capsys.readouterr().err
    for path in (broken, missing):
        message = read(out / f"{path.stem}.json")["error"]["message"]
        assert f"{path}: {message}" in errors


@pytest.mark.usefixtures("_fakes")
def test_files_of_one_stem_do_not_overwrite_each_other(image: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "first.png"
    other.parent.mkdir()
    cv2.imwrite(str(other), np.zeros((70, 80), np.uint8) + np.arange(80, dtype=np.uint8))
    out = tmp_path / "out"
    assert cli.main(["analyse", str(image), str(other), "--out", str(out)]) == 0
    assert read(out / "first.json")["source"]["size"]["width"] == 120
    assert read(out / "first-2.json")["source"]["size"]["width"] == 80


def test_no_lungs_and_tight_alone_is_that_files_failure(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = fake_pipeline(BlindSegmenter())
    monkeypatch.setattr(Pipeline, "from_checkpoints", lambda *_, **__: blind)
    code = cli.main(["analyse", str(image), "--masking", "tight", "--out", str(tmp_path)])
    assert code == 3
    assert read(tmp_path / "first.json")["error"]["kind"] == "NoLungsFoundError"


def test_an_unforeseen_failure_of_one_file_is_recorded_too(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = fake_pipeline()
    monkeypatch.setattr(faulty, "analyse", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(Pipeline, "from_checkpoints", lambda *_, **__: faulty)
    assert cli.main(["analyse", str(image), "--out", str(tmp_path)]) == 3
    assert read(tmp_path / "first.json")["error"]["kind"] == "ZeroDivisionError"


def test_without_checkpoints_it_says_so_and_shows_no_finding(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    out = tmp_path / "out"
    args = ["analyse", str(image), "--checkpoints", str(empty), "--out", str(out)]
    assert cli.main(args) == 0
    assert "no finding is shown" in capsys.readouterr().err
    record = read(out / "first.json")
    assert record["maskings"] == {}
    assert record["lungs"] is None
    assert not (out / "first.mask.png").exists()
    assert cli.main(["checkpoints", "--checkpoints", str(empty)]) == 0
    assert "No checkpoint is installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["analyse"],
        ["analyse", "a.png"],
        ["analyse", "a.png", "--out", "o", "--masking", "medium"],
        ["analyse", "a.png", "--out", "o", "--margin", "0.9"],
        ["analyse", "a.png", "--out", "o", "--margin", "wide"],
        ["analyse", "a.png", "--out", "o", "--cam", "magic"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
