import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS
from training.__main__ import COMMANDS, main
from training.errors import DataError
from training.images.augment import Ranges, change_grey, draw, warp_image, warp_mask
from training.sets.index import read_finding_index, read_lung_index
from training.sets.pixels import read_mask, read_pixels

ALL_LABELS = (*FINDING_KEYS, *AUXILIARY_KEYS, "No_Finding")


def write_index(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "index.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def finding_rows() -> list[dict[str, str]]:
    empty = dict.fromkeys(ALL_LABELS, "")
    return [
        {"image": "a.png", "patient_id": "1", "split": "train", **empty, "Mass": "1.0"},
        {"image": "b.png", "patient_id": "2", "split": "test", **empty, "No_Finding": "1"},
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name in ("a", "b"):
        picture = np.full((80, 80), 51, np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), picture)
        picture[20:60, 20:60] = 255
        cv2.imwrite(str(tmp_path / "masks" / f"{name}.png"), picture)
    return tmp_path


def test_an_empty_cell_is_unknown_and_no_finding_means_absent(folder: Path) -> None:
    write_index(folder, finding_rows())
    first, second = read_finding_index(folder)
    assert first.labels["Mass"] == 1
    assert first.labels["Edema"] is None
    assert all(value == 0 for value in second.labels.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patient_id": "1"}, "patient 1 is in train and test"),
        ({"split": "holdout"}, "'holdout' is none of"),
        ({"image": "c.png"}, r"lists c\.png, which is not there"),
    ],
)
def test_a_bad_index_is_refused_by_name(folder: Path, change: dict[str, str], message: str) -> None:
    rows = finding_rows()
    rows[1] |= change
    write_index(folder, rows)
    with pytest.raises(DataError, match=message):
        read_finding_index(folder)


def test_a_missing_column_and_a_missing_index_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"There is no .*index\.csv"):
        read_finding_index(folder)
    write_index(folder, [{"image": "a.png"}])
    with pytest.raises(DataError, match="lacks the columns"):
        read_finding_index(folder)


def test_lung_cases_need_their_masks(folder: Path) -> None:
    rows = [
        {"name": name, "set": "phantoms", "patient_id": name, "split": "train"}
        for name in ("a", "b")
    ]
    write_index(folder, rows)
    cases = read_lung_index(folder)
    assert read_mask(cases[0].mask).sum() == 40 * 40
    assert (read_pixels(cases[0].image) == 51).all()
    cases[1].mask.unlink()
    with pytest.raises(DataError, match="no image named b"):
        read_lung_index(folder)


@pytest.mark.parametrize(
    ("content", "message"), [(np.zeros((70, 70), np.uint8), "is empty"), (None, "cannot be read")]
)
def test_an_empty_or_broken_mask_is_named(
    tmp_path: Path, content: np.ndarray | None, message: str
) -> None:
    path = tmp_path / "mask.png"
    if content is None:
        path.write_bytes(b"broken")
    else:
        cv2.imwrite(str(path), content)
    with pytest.raises(DataError, match=message):
        read_mask(path)


def test_bad_data_ends_a_command_with_one_line_and_code_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["segment", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(arguments) == 3
    message = capsys.readouterr().err
    assert message.startswith("error: There is no ")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    "words", [*([name] for name in COMMANDS), *(["data", a] for a in ("check", "fetch", "import"))]
)
def test_help_needs_no_data(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    assert f"usage: python -m training {' '.join(words)} " in capsys.readouterr().out


def test_no_patient_is_in_two_splits_of_the_real_sets(data_folder: Path) -> None:
    for cases in (
        read_finding_index(data_folder / "nih"),
        read_lung_index(data_folder / "lungs"),
    ):
        by_split = {
            split: {(case.dataset, case.patient_id) for case in cases if case.split == split}
            for split in ("train", "val", "test")
        }
        assert all(by_split.values())
        assert not by_split["train"] & by_split["test"]
        assert not by_split["train"] & by_split["val"]
        assert not by_split["val"] & by_split["test"]


def test_geometry_moves_image_and_mask_alike() -> None:
    change = draw(np.random.default_rng(3), (120, 100), Ranges())
    mask = np.zeros((120, 100), bool)
    mask[30:80, 25:70] = True
    moved = warp_mask(mask, change)
    picture = warp_image(mask.astype(np.float32), change)
    assert np.abs(moved - picture).max() <= 0.5
    assert (moved != mask).any()


def test_the_same_change_gives_the_same_pixels_and_stays_in_range() -> None:
    pixels = np.random.default_rng(0).random((90, 90), np.float32)
    change = draw(np.random.default_rng(1), (90, 90), Ranges(brightness=0.8))
    first, second = change_grey(pixels, change), change_grey(pixels, change)
    np.testing.assert_array_equal(first, second)
    assert first.min() >= 0.0
    assert first.max() <= 1.0
