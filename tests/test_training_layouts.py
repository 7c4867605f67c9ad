import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.__main__ import main
from training.commands.data import compare, import_cases, open_all, read_manifest, write_manifest
from training.errors import DataError
from training.sets.index import FindingCase, read_finding_index, read_lung_index
from training.sets.layouts import (
    CHEXPERT_LABELS,
    LAYOUTS,
    VINDR_LABELS,
    Listing,
    LungSource,
    draw_split,
    read_layout,
    read_source_image,
)
from training.sets.pixels import read_mask, read_pixels
from training.sets.tables import read_table

HW = (90, 80)
MANIFESTS = Path(__file__).resolve().parent.parent / "training" / "sets" / "manifests"


def picture(path: Path, *, value: int = 60, hw: tuple[int, int] = HW) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(hw, value, np.uint8)).save(path)
    return path


def lung(path: Path, columns: slice, *, hw: tuple[int, int] = HW) -> Path:
    """A mask that covers some columns of the middle rows, in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(hw, np.uint8)
    mask[hw[0] // 3 : 2 * hw[0] // 3, columns] = 255
    Image.fromarray(mask).save(path)
    return path


def lung_cases(listing: Listing) -> list[LungSource]:
    return [case for case in listing.cases if isinstance(case, LungSource)]


def finding_cases(listing: Listing) -> list[FindingCase]:
    return [case for case in listing.cases if isinstance(case, FindingCase)]


def write_csv(path: Path, rows: list[dict[str, str]], *, mark: str = "") -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        stream.write(mark)
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def nih_rows() -> list[dict[str, str]]:
    labels = ["Mass|Pleural_Thickening", "No Finding", *["Edema"] * 40, "Nodule"]
    patients = ["1", "1", *[str(10 + i) for i in range(40)], "99"]
    return [
        {
            "Image Index": f"{int(patient):08d}_{i:03d}.png",
            "Finding Labels": label,
            "Patient ID": patient,
            "View Position": "PA",
        }
        for i, (label, patient) in enumerate(zip(labels, patients, strict=True))
    ]


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    """43 images of 42 patients in two of the twelve folders; the last patient is the test."""
    folder = tmp_path / "nih"
    names = [row["Image Index"] for row in nih_rows()]
    for i, name in enumerate(names):
        picture(folder / f"images_{1 + i % 2:03d}" / "images" / name)
    write_csv(folder / "Data_Entry_2017.csv", nih_rows(), mark="\ufeff")
    (folder / "train_val_list.txt").write_text("\n".join(names[:-1]))
    (folder / "test_list.txt").write_text(names[-1])
    return folder


@pytest.fixture
def montgomery(tmp_path: Path) -> Path:
    folder = tmp_path / "montgomery"
    for name in ("MCUCXR_0001_0.png", "MCUCXR_0002_1.png"):
        root = folder / "MontgomerySet"
        picture(root / "CXR_png" / name)
        lung(root / "ManualMask" / "leftMask" / name, slice(45, 70))
        lung(root / "ManualMask" / "rightMask" / name, slice(10, 35))
    return folder


@pytest.fixture
def jsrt(tmp_path: Path) -> Path:
    folder = tmp_path / "jsrt"
    raw = np.full((2048, 2048), 4095, ">u2")
    raw[:, 1024:] = 0
    folder.mkdir()
    raw.tofile(folder / "JPCLN001.IMG")
    masks = folder / "scr" / "fold1" / "masks"
    lung(masks / "left lung" / "JPCLN001.gif", slice(600, 900), hw=(1024, 1024))
    lung(masks / "right lung" / "JPCLN001.gif", slice(100, 400), hw=(1024, 1024))
    lung(masks / "heart" / "JPCLN001.gif", slice(400, 600), hw=(1024, 1024))
    return folder


def test_nih_keeps_the_official_test_and_cuts_validation_by_patient(nih: Path) -> None:
    cases = finding_cases(read_layout("nih", nih))
    assert len(cases) == 43
    assert [case.name for case in cases if case.split == "test"] == ["00000099_042.png"]
    assert {case.split for case in cases} == {"train", "val", "test"}
    assert cases[0].split == cases[1].split
    assert [c.split for c in finding_cases(read_layout("nih", nih))] == [c.split for c in cases]
    assert [c.split for c in finding_cases(read_layout("nih", nih, seed=1))] != [
        c.split for c in cases
    ]


def test_nih_labels_become_the_projects_keys(nih: Path) -> None:
    first, second, *_ = finding_cases(read_layout("nih", nih))
    assert {key for key, value in first.labels.items() if value} == {"Mass", "Pleural_Thickening"}
    assert first.no_finding == 0
    assert second.no_finding == 1
    assert set(second.labels.values()) == {0}
    assert first.image.parent.parent.name == "images_001"


def test_nih_in_one_folder_and_with_the_corrected_table(nih: Path) -> None:
    for path in list(nih.glob("images_*/images/*")):
        (nih / "images").mkdir(exist_ok=True)
        path.rename(nih / "images" / path.name)
    rows = nih_rows()
    rows[0]["Finding Labels"] = "Hernia"
    write_csv(nih / "Data_Entry_2017_v2020.csv", rows)
    first = finding_cases(read_layout("nih", nih))[0]
    assert first.labels["Hernia"] == 1
    assert first.labels["Mass"] == 0


def test_missing_nih_images_are_named_or_left_out(
    nih: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nih / "images_001" / "images" / "00000001_000.png").unlink()
    with pytest.raises(DataError, match=r"lacks 1 files.*00000001_000\.png.*--partial"):
        read_layout("nih", nih)
    assert len(read_layout("nih", nih, partial=True).cases) == 42
    command = ["data", "check", "--layout", "nih", "--data", str(nih)]
    assert main(command) == 3
    captured = capsys.readouterr()
    assert "missing: 00000001_000.png" in captured.out
    assert captured.err.count("\n") == 1
    assert main([*command, "--partial"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Finding Labels": "Masses"}, "unknown label 'Masses'"),
        ({"Patient ID": "99"}, r"patient 99 is in train_val_list\.txt and test_list\.txt"),
        ({"Image Index": "new.png"}, "new.png is in neither list"),
    ],
)
def test_a_bad_nih_table_is_refused(nih: Path, change: dict[str, str], message: str) -> None:
    rows = nih_rows()
    rows[5] |= change
    write_csv(nih / "Data_Entry_2017.csv", rows)
    with pytest.raises(DataError, match=message):
        read_layout("nih", nih)


def test_nih_files_that_are_not_there_or_not_tables_are_named(nih: Path) -> None:
    names = (nih / "train_val_list.txt").read_text()
    (nih / "test_list.txt").write_text(names)
    with pytest.raises(DataError, match="in both lists"):
        read_layout("nih", nih)
    (nih / "test_list.txt").unlink()
    with pytest.raises(DataError, match=r"There is no .*test_list\.txt"):
        read_layout("nih", nih)
    write_csv(nih / "Data_Entry_2017.csv", [{"Image Index": "a.png"}])
    with pytest.raises(DataError, match=r"lacks the columns \['Finding Labels', 'Patient ID'\]"):
        read_layout("nih", nih)
    (nih / "Data_Entry_2017.csv").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(DataError, match="is no CSV text"):
        read_layout("nih", nih)
    (nih / "Data_Entry_2017.csv").unlink()
    with pytest.raises(DataError, match=r"There is no Data_Entry_2017\.csv"):
        read_layout("nih", nih)
    with pytest.raises(DataError, match="There is no folder"):
        read_layout("nih", nih / "elsewhere")


def test_montgomery_masks_are_united_on_import(montgomery: Path, tmp_path: Path) -> None:
    listing = read_layout("montgomery", montgomery)
    out = tmp_path / "lungs"
    assert import_cases(listing, out) == 2
    cases = read_lung_index(out)
    assert [case.name for case in cases] == ["MCUCXR_0001_0", "MCUCXR_0002_1"]
    assert [case.split for case in cases] == [case.split for case in listing.cases]
    columns = read_mask(cases[0].mask).any(axis=0)
    assert columns[10:35].all()
    assert columns[45:70].all()
    assert columns.sum() == 50
    assert (read_pixels(cases[0].image) == 60).all()
    assert cases[0].image.is_symlink()
    with pytest.raises(DataError, match=r"holds an index\.csv already"):
        import_cases(listing, out)
    import_cases(listing, tmp_path / "copied", copy=True)
    assert not read_lung_index(tmp_path / "copied")[0].image.is_symlink()


def test_montgomery_with_united_masks_and_without_one(montgomery: Path) -> None:
    root = montgomery / "MontgomerySet"
    (root / "ManualMask" / "rightMask" / "MCUCXR_0002_1.png").unlink()
    with pytest.raises(DataError, match=r"MontgomerySet/ManualMask/rightMask/MCUCXR_0002_1\.png"):
        read_layout("montgomery", montgomery)
    (root / "ManualMask" / "leftMask").rename(root / "masks")
    (case, _) = lung_cases(read_layout("montgomery", root))
    assert [mask.parent.name for mask in case.masks] == ["masks"]


@pytest.mark.parametrize("masks", ["mask", "masks"])
def test_shenzhen_leaves_out_images_without_a_mask(tmp_path: Path, masks: str) -> None:
    picture(tmp_path / "CXR_png" / "CHNCXR_0001_0.png")
    picture(tmp_path / "CXR_png" / "CHNCXR_0002_0.png")
    lung(tmp_path / masks / "CHNCXR_0001_0_mask.png", slice(10, 70))
    listing = read_layout("shenzhen", tmp_path)
    assert [case.name for case in listing.cases] == ["CHNCXR_0001_0"]
    assert listing.notes[0].startswith("1 images have no mask")
    lung(tmp_path / masks / "CHNCXR_0009_1_mask.png", slice(10, 70))
    with pytest.raises(DataError, match=r"CXR_png/CHNCXR_0009_1\.png"):
        read_layout("shenzhen", tmp_path)


def test_jsrt_raw_images_are_turned_and_masks_enlarged(jsrt: Path, tmp_path: Path) -> None:
    out = tmp_path / "lungs"
    import_cases(read_layout("jsrt", jsrt), out)
    (case,) = read_lung_index(out)
    pixels, mask = read_pixels(case.image), read_mask(case.mask)
    assert pixels.shape == mask.shape == (2048, 2048)
    assert (pixels[:, :1024] == 0).all()
    assert (pixels[:, 1024:] == 255).all()
    columns: NDArray[np.bool_] = mask.any(axis=0)
    assert columns[200:800].all()
    assert columns[1200:1800].all()
    assert columns.sum() == 1200


def test_bad_jsrt_files_are_named(jsrt: Path) -> None:
    raw = jsrt / "JPCLN001.IMG"
    np.full((2048, 2048), 5000, ">u2").tofile(raw)
    with pytest.raises(DataError, match=r"JPCLN001\.IMG exceeds 12 bits"):
        read_source_image(raw)
    raw.write_bytes(b"\0\0" * 100)
    with pytest.raises(DataError, match=r"JPCLN001\.IMG has 200 bytes"):
        read_source_image(raw)
    raw.rename(jsrt / "JPCLN002.IMG")
    with pytest.raises(DataError, match=r"lacks 3 files.*left lung/JPCLN002\.gif"):
        read_layout("jsrt", jsrt)


def test_rsua_matches_masks_whatever_the_spelling(tmp_path: Path) -> None:
    for group, image, mask in (
        ("Covid", "Images_Covid (1).bmp", "Mask_Covid (1).bmp"),
        ("Covid", "Images_Covid (11).bmp", "Mask_Covid (11).bmp"),
        ("Non_Covid ", "Images Non_Covid (1).bmp", "mask Non_Covid (1).bmp"),
    ):
        picture(tmp_path / "Validated" / group / "images" / image)
        lung(tmp_path / "Validated" / group / "masks" / mask, slice(10, 70))
    cases = lung_cases(read_layout("rsua", tmp_path))
    assert sorted(case.name for case in cases) == [
        "covid__Images_Covid_1",
        "covid__Images_Covid_11",
        "non_covid__Images_Non_Covid_1",
    ]
    assert all(case.image.stem[-4:] == case.masks[0].stem[-4:] for case in cases)
    (tmp_path / "Validated" / "Covid" / "masks" / "Mask_Covid (1).bmp").unlink()
    with pytest.raises(DataError, match=r"the mask of .*Images_Covid \(1\)\.bmp"):
        read_layout("rsua", tmp_path)
    with pytest.raises(DataError, match="holds no image of the layout rsua"):
        read_layout("rsua", tmp_path / "Validated" / "Covid" / "images")


@pytest.mark.parametrize(
    ("hw", "columns", "message"),
    [
        (HW, slice(0, 0), "is empty"),
        ((90, 120), slice(10, 70), "do not show the same field"),
        (None, slice(0, 0), "cannot be read"),
    ],
)
def test_deep_names_every_bad_mask(
    montgomery: Path,
    hw: tuple[int, int] | None,
    columns: slice,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert open_all(read_layout("montgomery", montgomery)) == []
    mask = montgomery / "MontgomerySet" / "ManualMask" / "leftMask" / "MCUCXR_0001_0.png"
    if hw is None:
        mask.write_bytes(b"broken")
    else:
        lung(mask, columns, hw=hw)
    command = ["data", "check", "--layout", "montgomery", "--data", str(montgomery)]
    assert main(command) == 0
    assert main([*command, "--deep"]) == 3
    captured = capsys.readouterr()
    assert f"The mask {mask}" in captured.out
    assert message in captured.out
    assert "error: 1 of 2 images or masks are bad" in captured.err


def test_deep_names_an_image_that_cannot_be_read(nih: Path) -> None:
    broken = nih / "images_001" / "images" / "00000001_000.png"
    broken.write_bytes(b"broken")
    (message,) = open_all(read_layout("nih", nih))
    assert str(broken) in message


def test_nih_can_be_imported(nih: Path, tmp_path: Path) -> None:
    listing = read_layout("nih", nih)
    import_cases(listing, tmp_path / "out")
    cases = read_finding_index(tmp_path / "out")
    assert [(c.name, c.patient_id, c.split, c.labels, c.no_finding) for c in cases] == [
        (c.name, c.patient_id, c.split, c.labels, c.no_finding) for c in finding_cases(listing)
    ]


def test_a_patient_in_two_splits_ends_the_check(
    montgomery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_cases(read_layout("montgomery", montgomery), tmp_path / "lungs")
    rows = read_table(tmp_path / "lungs" / "index.csv", ("patient_id", "split"))
    for row, split in zip(rows, ("train", "test"), strict=True):
        row |= {"patient_id": "7", "split": split}
    write_csv(tmp_path / "lungs" / "index.csv", rows)
    assert main(["data", "check", "--layout", "lungs", "--data", str(tmp_path / "lungs")]) == 3
    assert "patient 7 is in train and test" in capsys.readouterr().err


def test_the_table_counts_images_patients_and_labels(
    nih: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", "--layout", "nih", "--data", str(nih), "--deep"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["test", "1", "1"] in lines
    assert ["nih", "38", "4", "1"] in lines
    assert ["Nodule", "0", "(0)", "0", "(0)", "1", "(0)"] in lines
    assert ["No_Finding", "1", "(0)", "0", "(0)", "0", "(0)"] in lines
    assert ["all", "43", "images", "can", "be", "read"] in lines


def test_splits_depend_on_the_patient_and_the_seed_alone() -> None:
    drawn = [draw_split(str(i), 0, val=0.2, test=0.3) for i in range(4000)]
    assert drawn.count("val") / 4000 == pytest.approx(0.2, abs=0.03)
    assert drawn.count("test") / 4000 == pytest.approx(0.3, abs=0.03)
    assert drawn[:9] == [draw_split(str(i), 0, val=0.2, test=0.3) for i in range(9)]
    assert draw_split("1", 0, val=0.0) == "train"


@pytest.mark.parametrize("digits", [64, 16])
def test_a_manifest_finds_what_is_missing_altered_or_extra(
    montgomery: Path, tmp_path: Path, digits: int
) -> None:
    path = tmp_path / "manifest.csv"
    listing = read_layout("montgomery", montgomery)
    assert write_manifest(listing, montgomery, path, digits=digits) == 2
    assert {len(entry.digest) for entry in read_manifest(path)} == {digits}
    assert len(read_manifest(path)) == 6
    assert compare(path, montgomery).is_none
    images = montgomery / "MontgomerySet" / "CXR_png"
    picture(images / "MCUCXR_0001_0.png", value=61)
    picture(images / "MCUCXR_0003_0.png")
    (montgomery / "MontgomerySet/ManualMask/leftMask/MCUCXR_0002_1.png").unlink()
    difference = compare(path, montgomery)
    assert difference.altered == ("MontgomerySet/CXR_png/MCUCXR_0001_0.png",)
    assert difference.extra == ("MontgomerySet/CXR_png/MCUCXR_0003_0.png",)
    assert difference.missing == ("MontgomerySet/ManualMask/leftMask/MCUCXR_0002_1.png",)


def test_a_manifest_by_command(
    nih: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nih.csv"
    make = ["data", "manifest", "--layout", "nih", "--data", str(nih), "--out", str(path)]
    check = ["data", "check", "--manifest", str(path), "--data", str(nih)]
    assert main(make) == 0
    assert main(check) == 0
    first = read_table(path, ("file", "sha256"))[0]
    assert first["patient_id"] == "1"
    assert first["Mass"] == "1"
    assert first["Edema"] == "0"
    assert "Hernia" not in first
    (nih / first["file"]).unlink()
    assert main(check) == 3
    captured = capsys.readouterr()
    assert f"missing: {first['file']}" in captured.out
    assert "1 missing, 0 altered, 0 extra" in captured.err
    assert main(["data", "check", "--manifest", str(nih / "Data_Entry_2017.csv"), *check[4:]]) == 3
    assert main(["data", "check", "--data", str(nih)]) == 3


@pytest.mark.parametrize("action", ["check", "fetch", "import", "manifest"])
def test_help_of_every_action_needs_no_data(
    action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["data", action, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert action == "fetch" or all(name in text for name in LAYOUTS)


@pytest.mark.parametrize(
    ("name", "layout"), [("nih", "findings"), ("lungs", "lungs"), ("pretrain", "findings")]
)
def test_the_committed_manifests_list_the_real_sets(
    name: str, layout: str, data_folder: Path
) -> None:
    listed = {entry.file for entry in read_manifest(MANIFESTS / f"{name}.csv")}
    listing = read_layout(layout, data_folder / name)
    assert {f"images/{case.image.name}" for case in listing.cases} <= listed


@pytest.mark.parametrize("name", ["nih", "lungs", "pretrain"])
def test_no_patient_of_a_committed_manifest_is_in_two_splits(name: str) -> None:
    rows = read_table(MANIFESTS / f"{name}.csv", ("set", "patient_id", "split"))
    splits: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row["patient_id"]:
            splits.setdefault((row["set"], row["patient_id"]), set()).add(row["split"])
    assert splits
    assert all(len(found) == 1 for found in splits.values())


def test_a_mask_file_is_black_and_white(montgomery: Path, tmp_path: Path) -> None:
    import_cases(read_layout("montgomery", montgomery), tmp_path / "lungs")
    grey = cv2.imread(str(tmp_path / "lungs" / "masks" / "MCUCXR_0001_0.png"), cv2.IMREAD_UNCHANGED)
    assert grey.shape == HW
    assert set(np.unique(grey)) == {0, 255}


def chexpert_row(path: str, **labels: str) -> dict[str, str]:
    row = {"Path": f"CheXpert-v1.0-small/{path}", "Sex": "Female", "Age": "68", "AP/PA": "AP"}
    row |= {"Frontal/Lateral": "Lateral" if "lateral" in path else "Frontal"}
    row |= dict.fromkeys((*CHEXPERT_LABELS, "Lung Opacity", "Fracture"), "")
    return row | {key.replace("_", " "): value for key, value in labels.items()}


@pytest.fixture
def chexpert(tmp_path: Path) -> Path:
    folder = tmp_path / "CheXpert-v1.0-small"
    rows = [
        chexpert_row("train/patient00001/study1/view1_frontal.jpg", Edema="1.0", Pneumonia="-1.0"),
        chexpert_row("train/patient00001/study1/view2_lateral.jpg", Edema="1.0"),
        chexpert_row("train/patient00002/study1/view1_frontal.jpg", Lung_Lesion="0.0"),
        chexpert_row("train/patient00003/study1/view1_frontal.jpg", No_Finding="1.0"),
        chexpert_row("train/patient00003/study2/view1_frontal.jpg", Lung_Lesion="1.0"),
    ]
    official = [chexpert_row("valid/patient64541/study1/view1_frontal.jpg", Pleural_Effusion="1.0")]
    for row in (*rows, *official):
        picture(folder / row["Path"].split("/", 1)[1])
    write_csv(folder / "train.csv", rows)
    write_csv(folder / "valid.csv", official)
    return folder


def test_chexpert_tells_unknown_from_absent_and_keeps_patients_together(chexpert: Path) -> None:
    listing = read_layout("chexpert", chexpert)
    cases = finding_cases(listing)
    assert [case.name.split("/")[:2] for case in cases] == [
        ["train", "patient00001"],
        ["train", "patient00002"],
        ["train", "patient00003"],
        ["train", "patient00003"],
        ["valid", "patient64541"],
    ]
    assert listing.notes[0] == "1 lateral images are left out"
    first, second, third, fourth, official = cases
    assert (first.labels["Edema"], first.labels["Pneumonia"], first.labels["Mass"]) == (
        1,
        None,
        None,
    )
    assert (second.labels["Nodule"], second.labels["Mass"], second.labels["Edema"]) == (0, 0, None)
    assert third.no_finding == 1
    assert fourth.labels["Mass"] is None, "a lesion is a nodule or a mass"
    assert third.split == fourth.split in ("train", "val")
    assert (official.split, official.labels["Effusion"]) == ("test", 1)


def test_chexpert_is_imported_with_its_folders(chexpert: Path, tmp_path: Path) -> None:
    """Images of many patients share a file name."""
    out = tmp_path / "out"
    command = ["data", "import", "--layout", "chexpert", "--data", str(chexpert), "--out", str(out)]
    assert main(command) == 0
    cases = read_finding_index(out)
    assert len({case.image for case in cases}) == 5
    assert cases[0].image == out / "images" / "train/patient00001/study1/view1_frontal.jpg"
    assert cases[2].labels["Mass"] == 0, "No Finding says of each that it is absent"
    (chexpert / "train/patient00002/study1/view1_frontal.jpg").unlink()
    with pytest.raises(DataError, match="lacks 1 files that it names: train/patient00002"):
        read_layout("chexpert", chexpert)


def vindr_row(name: str, **labels: str) -> dict[str, str]:
    columns = [words.capitalize() for words in VINDR_LABELS] + ["Aortic enlargement"]
    row = {"image_id": name, "rad_id": "R1", **dict.fromkeys(columns, "0")}
    return row | {key.replace("__", "/").replace("_", " "): v for key, v in labels.items()}


def test_vindr_takes_the_majority_of_its_readers(tmp_path: Path) -> None:
    votes = [("1", "1", "0"), ("1", "0", "0")]
    rows = [
        vindr_row("aa", Pneumonia=one, Pulmonary_fibrosis=other, **{"Nodule/mass": "0"})
        for one, other in zip(*votes, strict=True)
    ]
    rows += [vindr_row("bb", **{"Nodule/mass": "1"})] * 3
    (tmp_path / "annotations").mkdir()
    write_csv(tmp_path / "annotations" / "image_labels_train.csv", rows)
    write_csv(tmp_path / "annotations" / "image_labels_test.csv", [vindr_row("cc", No_finding="1")])
    for place in ("train/aa.png", "train/bb.PNG", "test/cc.png", "train/._aa.png"):
        picture(tmp_path / place)
    first, second, third = finding_cases(read_layout("vindr", tmp_path))
    assert (first.labels["Pneumonia"], first.labels["Fibrosis"]) == (1, 0)
    assert (first.labels["Nodule"], second.labels["Nodule"]) == (0, None)
    assert first.labels["Hernia"] is None, "a label the set does not have"
    assert (second.name, third.split, third.no_finding) == ("train/bb.PNG", "test", 1)
    (tmp_path / "test" / "cc.png").unlink()
    with pytest.raises(DataError, match=r"test/cc\.dicom"):
        read_layout("vindr", tmp_path)


def test_what_systems_leave_beside_images_is_passed_over(montgomery: Path) -> None:
    images = montgomery / "MontgomerySet" / "CXR_png"
    (images / "._MCUCXR_0001_0.png").write_bytes(b"\0\5\x16\7")
    (images / "Thumbs.db").write_bytes(b"")
    (images / "deeper").mkdir()
    (images / "MCUCXR_0001_0.png").rename(images / "deeper" / "MCUCXR_0001_0.PNG")
    cases = lung_cases(read_layout("montgomery", montgomery))
    names = sorted(case.image.name for case in cases)
    assert names == ["MCUCXR_0001_0.PNG", "MCUCXR_0002_1.png"]
    picture(images / "MCUCXR_0001_0.png")
    with pytest.raises(DataError, match="have the same name"):
        read_layout("montgomery", montgomery)


def test_an_image_that_the_table_lists_twice_is_refused(nih: Path) -> None:
    table = nih / "Data_Entry_2017.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join([*lines, lines[1]]))
    with pytest.raises(DataError, match=r"the table lists .* twice"):
        read_layout("nih", nih)
