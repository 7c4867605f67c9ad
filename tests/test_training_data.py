import csv
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from rasters import chunk

from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS
from training.__main__ import COMMANDS, main
from training.errors import DataError
from training.images.augment import Ranges, change_grey, random_change, warp_image, warp_mask
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
        ({"patient_id": "1.23457E+11"}, "was rounded by a spreadsheet"),
        ({"rsna_normal": "yes"}, "'yes' in the column rsna_normal"),
    ],
)
def test_a_bad_index_is_refused_by_name(folder: Path, change: dict[str, str], message: str) -> None:
    rows = [row | {"rsna_normal": ""} for row in finding_rows()]
    rows[1] |= change
    write_index(folder, rows)
    with pytest.raises(DataError, match=message):
        read_finding_index(folder)


@pytest.mark.parametrize(
    ("cell", "is_normal"), [("1", True), ("1.0", True), ("0", False), ("", False)]
)
def test_what_radiologists_read_as_normal_is_read_as_labels_are(
    folder: Path, cell: str, is_normal: bool
) -> None:
    write_index(folder, [row | {"rsna_normal": cell} for row in finding_rows()])
    assert {case.rsna_normal for case in read_finding_index(folder)} == {is_normal}


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
    change = random_change(np.random.default_rng(3), (120, 100), Ranges())
    mask = np.zeros((120, 100), bool)
    mask[30:80, 25:70] = True
    moved = warp_mask(mask, change)
    picture = warp_image(mask.astype(np.float32), change)
    assert np.abs(moved - picture).max() <= 0.5
    assert (moved != mask).any()


def test_an_image_is_mirrored_as_often_as_asked_and_its_mask_with_it() -> None:
    still = Ranges(0.0, (1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    mask = np.zeros((60, 80), bool)
    mask[10:50, 5:30] = True
    for chance, expected in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)):
        mirrored = 0
        for seed in range(200):
            change = random_change(
                np.random.default_rng(seed), mask.shape, replace(still, mirror=chance)
            )
            moved = warp_mask(mask, change)
            picture = warp_image(mask.astype(np.float32), change) > 0.5
            np.testing.assert_array_equal(moved, picture)
            is_mirrored = bool(moved[30, 60])
            # One column at most: a pixel's centre is turned about the middle of the image.
            expected_mask = mask[:, ::-1] if is_mirrored else mask
            assert (moved != expected_mask).sum() <= 2 * 40
            mirrored += is_mirrored
        assert abs(mirrored / 200 - expected) < 0.12


def test_the_same_change_gives_the_same_pixels_and_stays_in_range() -> None:
    pixels = np.random.default_rng(0).random((90, 90), np.float32)
    change = random_change(np.random.default_rng(1), (90, 90), Ranges(brightness=0.8))
    first, second = change_grey(pixels, change), change_grey(pixels, change)
    np.testing.assert_array_equal(first, second)
    assert first.min() >= 0.0
    assert first.max() <= 1.0


@pytest.mark.parametrize(
    ("encoding", "separator"),
    [("utf-8-sig", ","), ("cp1252", ","), ("utf-16", ","), ("cp1252", ";"), ("utf-8", "\t")],
)
def test_an_index_that_went_through_a_spreadsheet_is_read(
    folder: Path, encoding: str, separator: str
) -> None:
    rows = finding_rows()
    rows[0] |= {"patient_id": " Jürgen ", "split": "train "}
    write_index(folder, rows)
    text = (folder / "index.csv").read_text(encoding="utf-8").replace(",", separator)
    (folder / "index.csv").write_bytes(text.encode(encoding))
    first, _ = read_finding_index(folder)
    assert (first.name, first.patient_id, first.split) == ("a.png", "Jürgen", "train")
    assert first.labels["Mass"] == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: text.rindex("b.png") + 7], "line 3 has 2 cells, the head has"),
        (lambda text: text.replace("image,", "split,", 1), "lacks the columns"),
        (lambda text: text + text.splitlines(keepends=True)[1], r"lists a\.png twice"),
        (lambda text: text.replace("a.png", "../a.png"), "which is not inside images/"),
        (lambda text: text.replace("a.png", "/etc/hosts"), "which is not inside images/"),
        (lambda text: text.replace("patient_id", "Mass", 1), r"columns \['Mass'\] twice"),
        (lambda text: "\x01\x02" + text, "is no CSV text"),
        (lambda text: text.replace("a.png", "a" * 300 + ".png"), "which is not there"),
    ],
)
def test_a_damaged_index_is_refused_in_words(
    folder: Path, damage: Callable[[str], str], message: str
) -> None:
    write_index(folder, finding_rows())
    path = folder / "index.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=message):
        read_finding_index(folder)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("P0", "P0 "),
        ("P0", "p0"),
        ("Smith  J", "smith j"),
        ("007", "7"),
        ("12", "12.0"),
        ("\uff211", "A1"),
        ("P-0", "P\u20110"),
        ("P0", "P0\u200b"),
        ("P-0", "P\u22120"),
        ("007", "'007"),
        ("12", "12,0"),
    ],
)
def test_a_patient_is_known_however_the_id_is_spelled(folder: Path, one: str, other: str) -> None:
    rows = finding_rows()
    rows[0]["patient_id"], rows[1]["patient_id"] = one, other
    write_index(folder, rows)
    with pytest.raises(DataError, match=r"is in train.* and test"):
        read_finding_index(folder)
    rows[1]["split"] = "train"
    write_index(folder, rows)
    assert len({case.person for case in read_finding_index(folder)}) == 1


@pytest.mark.parametrize(
    ("one", "other"), [("P1", "P10"), ("1", "10"), ("0", "00 1"), ("a b", "ab")]
)
def test_other_patients_stay_others(folder: Path, one: str, other: str) -> None:
    rows = finding_rows()
    rows[0]["patient_id"], rows[1]["patient_id"] = one, other
    write_index(folder, rows)
    assert len({case.person for case in read_finding_index(folder)}) == 2


def test_images_may_lie_in_sub_folders_beside_what_systems_leave(folder: Path) -> None:
    for kind in ("images", "masks"):
        (folder / kind / "p1" / "study").mkdir(parents=True)
        (folder / kind / "a.png").rename(folder / kind / "p1" / "study" / "view1.PNG")
        (folder / kind / "._b.png").write_bytes(b"\0\5\x16\7")
        (folder / kind / ".part-b.png").write_bytes(b"a draft")
    names = ("p1/study/view1", "b")
    rows = [{"name": n, "set": "phantoms", "patient_id": n, "split": "train"} for n in names]
    write_index(folder, rows)
    assert [case.image.name for case in read_lung_index(folder)] == ["view1.PNG", "b.png"]
    (folder / "images" / "b.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"b\.jpg and b\.png: which of them is b"):
        read_lung_index(folder)


def squares(values: np.ndarray) -> np.ndarray:
    picture = np.zeros((40, 40), np.uint8)
    picture[10:30, 5:15], picture[10:30, 25:35] = values
    return picture


def palette_of(picture: np.ndarray, colours: list[int]) -> Image.Image:
    image = Image.fromarray(picture)
    image.putpalette(colours)
    return image


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(squares(np.array([255, 255]))),
        Image.fromarray(squares(np.array([1, 1]))),
        Image.fromarray(squares(np.array([1, 2]))),
        Image.fromarray(squares(np.array([9, 9]))),
        Image.fromarray(squares(np.array([100, 100]))),
        Image.fromarray(squares(np.array([255, 255])) > 0),
        Image.fromarray(squares(np.array([1, 1])).astype(np.uint16) * 65535),
        Image.fromarray(squares(np.array([1, 1])).astype(np.uint16) * 4095),
        Image.fromarray(squares(np.array([1, 2])).astype(np.uint16)),
        Image.fromarray(squares(np.array([200, 200]))[..., None] * np.uint8([1, 0, 0])),
        palette_of(squares(np.array([1, 2])), [0, 0, 0, 128, 0, 0, 0, 60, 0]),
        palette_of(squares(np.array([1, 1])), [0, 0, 0, 255, 255, 255]),
        palette_of(squares(np.array([9, 9])), [v for i in range(10) for v in [28 * i] * 3]),
    ],
    ids=[
        "255", "01", "012", "09", "0100", "bits", "16bit", "12of16bit", "16bit012", "red",
        "palette", "bw", "greypalette",
    ],
)  # fmt: skip
def test_masks_of_every_kind_are_read(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(
        read_mask(tmp_path / "mask.png"), squares(np.array([255, 255])) > 0
    )


def bomb(tmp_path: Path) -> None:
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    parts = (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), chunk(b"IDAT", b""), chunk(b"IEND", b""))
    (tmp_path / "mask.png").write_bytes(b"".join(parts))


def program(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit\n")


@pytest.mark.parametrize(
    "make",
    [
        bomb,
        program,
        lambda folder: os.mkfifo(folder / "mask.png"),
        lambda folder: (folder / "mask.png").symlink_to("/dev/zero"),
        lambda folder: (folder / "mask.png").write_bytes(b""),
        lambda folder: None,
    ],
    ids=["bomb", "program", "pipe", "device", "empty", "missing"],
)
def test_what_is_no_mask_is_refused_in_words(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_mask(tmp_path / "mask.png")


def test_faint_grey_is_no_lung(tmp_path: Path) -> None:
    Image.fromarray(squares(np.array([255, 90]))).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    assert mask[10:30, 5:15].all()
    assert mask.sum() == 200


def test_help_tells_each_default_that_says_something(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["segment", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "(default: 20)",
        "(default: sam-tinyvit-5m-512)",
        "(default: 0.0005)",
        "(default: auto)",
    ):
        assert words in text
    assert "default: None" not in text
    assert "default: False" not in text
