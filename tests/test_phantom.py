import subprocess
import sys
from functools import cache

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_voi_lut

from cxrdemo.examples import EXAMPLES, draw_example, write_examples
from cxrdemo.files import read_radiograph
from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS
from cxrdemo.phantom import FIELD_MM, Phantom, make_phantom
from cxrdemo.results import Side

SEEDS = range(6)
SIZE = 384


@cache
def phantom(seed: int, *findings: str, hw: tuple[int, int] = (SIZE, SIZE)) -> Phantom:
    return make_phantom(seed=seed, hw=hw, **dict.fromkeys(findings, True))


def difference(seed: int, *findings: str) -> np.ndarray:
    """What a finding adds to the picture."""
    return phantom(seed, *findings).radiograph.pixels - phantom(seed).radiograph.pixels


def test_same_seed_gives_the_same_phantom() -> None:
    again = make_phantom(seed=3, hw=(SIZE, SIZE), nodule=True, effusion=True)
    first = phantom(3, "nodule", "effusion")
    np.testing.assert_array_equal(again.radiograph.pixels, first.radiograph.pixels)
    np.testing.assert_array_equal(again.lungs, first.lungs)


def test_other_seeds_give_other_people() -> None:
    areas = {int((phantom(seed).lungs > 0).sum()) for seed in SEEDS}
    assert len(areas) == len(SEEDS)


@pytest.mark.parametrize("hw", [(256, 256), (512, 400), (300, 512)])
def test_any_size_holds_the_whole_chest(hw: tuple[int, int]) -> None:
    drawn = phantom(5, hw=hw)
    assert drawn.radiograph.hw == drawn.lungs.shape == hw
    assert drawn.radiograph.spacing_mm == pytest.approx((FIELD_MM / min(hw),) * 2)
    check_lungs(drawn.lungs)
    area_mm2 = (drawn.lungs > 0).sum() * (FIELD_MM / min(hw)) ** 2
    assert area_mm2 == pytest.approx(
        (phantom(5).lungs > 0).sum() * (FIELD_MM / SIZE) ** 2, rel=0.03
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("findings", [(), ("effusion",)])
def test_lungs_are_two_plausible_parts(seed: int, findings: tuple[str, ...]) -> None:
    lungs = phantom(seed, *findings).lungs
    check_lungs(lungs)
    assert 0.15 < np.mean(lungs > 0) < 0.45


def check_lungs(lungs: np.ndarray) -> None:
    """One connected part on each side, of similar size, clear of the frame."""
    assert lungs.dtype == np.uint8
    assert set(np.unique(lungs)) == {0, Side.RIGHT, Side.LEFT}
    parts = {side: lungs == side for side in (Side.RIGHT, Side.LEFT)}
    for part in parts.values():
        assert cv2.connectedComponents(part.astype(np.uint8))[0] == 2
    assert np.nonzero(parts[Side.RIGHT])[1].max() < np.nonzero(parts[Side.LEFT])[1].min()
    centre = lungs.shape[1] / 2
    assert np.nonzero(parts[Side.RIGHT])[1].mean() < centre
    assert np.nonzero(parts[Side.LEFT])[1].mean() > centre
    # The heart lies in the left half, so the right lung is the larger.
    assert 0.8 < parts[Side.RIGHT].sum() / parts[Side.LEFT].sum() < 1.5
    rim = np.ones(lungs.shape, bool)
    rim[1:-1, 1:-1] = False
    assert not lungs[rim].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_greys_are_those_of_a_displayed_radiograph(seed: int) -> None:
    drawn = phantom(seed)
    pixels, lungs = drawn.radiograph.pixels, drawn.lungs > 0
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0.0
    assert pixels.max() <= 1.0
    rows, columns = np.nonzero(lungs)
    between = np.zeros_like(lungs)
    middle = round(columns.mean())
    between[int(np.median(rows)) : int(np.percentile(rows, 90)), middle - 6 : middle + 6] = True
    assert 0.18 < pixels[lungs].mean() < 0.42
    assert 0.72 < pixels[between & ~lungs].mean() < 0.95
    assert pixels[:20, :20].mean() < 0.1  # air over the shoulder


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("finding", "low_mm", "high_mm"), [("nodule", 8, 20), ("mass", 35, 60)])
def test_blob_is_bright_and_local_and_of_the_stated_size(
    seed: int, finding: str, low_mm: float, high_mm: float
) -> None:
    change = difference(seed, finding)
    lungs = phantom(seed, finding).lungs
    np.testing.assert_array_equal(lungs, phantom(seed).lungs)
    # The faintest tenth is the blur around it.
    blob = change > 0.1 * np.percentile(change[change != 0], 95)
    assert cv2.connectedComponents(blob.astype(np.uint8))[0] == 2
    diameter_mm = 2 * np.sqrt(blob.sum() / np.pi) * FIELD_MM / SIZE
    assert low_mm <= diameter_mm <= high_mm
    assert change[blob].mean() > 0.03
    assert len(np.unique(lungs[change > 0.02])) == 1
    assert np.all(lungs[change > 0.02] > 0)
    reach_px = round(7.0 * SIZE / FIELD_MM)
    near = cv2.dilate(blob.astype(np.uint8), np.ones((2 * reach_px + 1,) * 2, np.uint8))
    assert not change[near == 0].any()


def test_findings_do_not_move_each_other() -> None:
    for seed in SEEDS:
        both = phantom(seed, "nodule", "mass")
        assert both.findings == ("Nodule", "Mass")
        nodule, mass = difference(seed, "nodule"), difference(seed, "mass")
        assert not np.any((nodule != 0) & (mass != 0))
        change = both.radiograph.pixels - phantom(seed).radiograph.pixels
        np.testing.assert_allclose(change, nodule + mass, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_effusion_whitens_one_costophrenic_angle_and_leaves_the_mask(seed: int) -> None:
    wet, dry = phantom(seed, "effusion").lungs, phantom(seed).lungs
    lost = (dry > 0) & (wet == 0)
    np.testing.assert_array_equal(wet[~lost], dry[~lost])
    assert len(np.unique(dry[lost])) == 1
    assert 0.01 < lost.sum() / (dry > 0).sum() < 0.15
    change = difference(seed, "effusion")
    assert change[lost].mean() > 0.15
    lowest = np.nonzero(dry == dry[lost][0])[0].max()
    assert lost[lowest].any()


def test_findings_are_label_keys() -> None:
    planted = phantom(0, "nodule", "mass", "effusion").findings
    assert planted == ("Nodule", "Mass", "Effusion")
    assert set(planted) <= {*FINDING_KEYS, *AUXILIARY_KEYS}
    assert phantom(0).findings == ()


def test_source_says_that_it_is_synthetic() -> None:
    radiograph = phantom(0).radiograph
    assert radiograph.view == "PA"
    assert radiograph.source.kind == "phantom"
    assert "not an image of a person" in radiograph.source.steps[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples") / "new"
    write_examples(folder)
    return folder


def test_examples_are_reproducible_and_small(folder, tmp_path) -> None:
    command = [sys.executable, "-W", "error", "-m", "cxrdemo.examples", str(tmp_path)]
    subprocess.run(command, check=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in folder.iterdir()} == {e.name for e in EXAMPLES}
    for name in names:
        data = (folder / name).read_bytes()
        assert data == (tmp_path / name).read_bytes()
        assert len(data) < 700_000


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_read_back_as_drawn(example, folder) -> None:
    drawn = draw_example(example).radiograph
    read = read_radiograph(folder / example.name)
    error = np.abs(read.pixels - drawn.pixels)
    if example.name.endswith(".jpg"):
        assert error.mean() < 0.02
    else:
        assert error.max() <= (1 / 2048 if example.name.endswith(".dcm") else 1 / 255)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_notice_lies_outside_the_lungs(example) -> None:
    marked = draw_example(example)
    plain = draw_example(example, marked=False)
    notice = marked.radiograph.pixels != plain.radiograph.pixels
    assert notice.sum() > 300
    assert not marked.lungs[notice].any()
    # Legible: white on air.
    assert np.median(plain.radiograph.pixels[notice]) < 0.1


def test_dicom_is_a_complete_monochrome1_radiograph(folder) -> None:
    example = next(example for example in EXAMPLES if example.name.endswith(".dcm"))
    drawn = draw_example(example).radiograph
    dicom = pydicom.dcmread(folder / example.name)
    assert str(dicom.PatientName) == "SYNTHETIC^PHANTOM"
    assert dicom.SOPClassUID.name.startswith("Digital X-Ray Image Storage - For Presentation")
    assert dicom.file_meta.MediaStorageSOPInstanceUID == dicom.SOPInstanceUID
    assert all(
        uid.is_valid
        for uid in (dicom.SOPInstanceUID, dicom.StudyInstanceUID, dicom.SeriesInstanceUID)
    )
    assert dicom.PhotometricInterpretation == "MONOCHROME1"
    assert (dicom.BitsAllocated, dicom.BitsStored, dicom.HighBit) == (16, 12, 11)
    assert tuple(dicom.ImagerPixelSpacing) == pytest.approx(drawn.spacing_mm, abs=1e-6)
    shown = apply_voi_lut(dicom.pixel_array, dicom) / 4095
    np.testing.assert_allclose(1 - shown, drawn.pixels, atol=1 / 2048)
