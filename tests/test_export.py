import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import BlindSegmenter, fake_pipeline, noise_radiograph
from jsonschema import Draft202012Validator

from cxrdemo import __version__
from cxrdemo.errors import UnreadableImageError
from cxrdemo.export import (
    CSV_FIELDS,
    SCHEMA,
    analysis_to_json,
    case_archive,
    error_to_json,
    heat_npz,
    json_bytes,
    rows_of_record,
    write_csv,
)
from cxrdemo.results import Analysis, Doubt, MaskingMode

SHA256 = "ab" * 32
HW = (160, 144)


def validator() -> Draft202012Validator:
    path = Path(__file__).resolve().parent.parent / "docs" / "analysis.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return fake_pipeline().analyse(noise_radiograph(hw=HW))


def record_of(analysis: Analysis) -> dict:
    return analysis_to_json(analysis, name="p1/scan.png", sha256=SHA256)


def test_every_record_names_app_file_and_bytes(analysis: Analysis) -> None:
    for record in (
        record_of(analysis),
        error_to_json(UnreadableImageError("no"), name="p1/scan.png", sha256=SHA256),
    ):
        assert record["schema"] == SCHEMA
        assert record["app"] == {"name": "cxrdemo", "version": __version__}
        assert record["input"] == {"name": "p1/scan.png", "sha256": SHA256}
        assert record["date"].endswith("+00:00")


@pytest.mark.parametrize(
    "make",
    [
        lambda: record_of(fake_pipeline().analyse(noise_radiograph(hw=HW))),
        lambda: record_of(fake_pipeline(BlindSegmenter()).analyse(noise_radiograph(hw=HW))),
        lambda: record_of(
            fake_pipeline().analyse(replace(noise_radiograph(hw=HW), spacing_mm=(0.2, 0.2)))
        ),
        lambda: record_of(
            fake_pipeline().analyse(noise_radiograph(hw=HW), maskings=[MaskingMode.TIGHT])
        ),
        lambda: analysis_to_json(fake_pipeline().analyse(noise_radiograph(hw=HW))),
        lambda: error_to_json(UnreadableImageError("no")),
        lambda: error_to_json(UnreadableImageError("no"), name="a", sha256=SHA256),
    ],
)
def test_records_fit_the_published_schema(make) -> None:
    assert not list(validator().iter_errors(json.loads(json_bytes(make()))))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record.pop("input"),
        lambda record: record.update(surprise=1),
        lambda record: record.update(schema="cxrdemo-analysis/1"),
        lambda record: record["input"].update(sha256="abc"),
        lambda record: record["maskings"].update(medium={}),
        lambda record: record["maskings"]["none"]["findings"][0].update(probability=1.5),
        lambda record: record.update(error={"kind": "a", "message": "b"}),
        lambda record: record.pop("doubts"),
    ],
)
def test_the_schema_refuses_what_is_no_record(analysis: Analysis, spoil) -> None:
    record = json.loads(json_bytes(record_of(analysis)))
    spoil(record)
    assert list(validator().iter_errors(record))


def test_no_record_gives_a_verdict_on_a_doubtful_image_or_by_unproven_weights(
    analysis: Analysis,
) -> None:
    reading = analysis.readings[MaskingMode.NONE]
    proven = np.array([True, False, True, True, True])
    certain = np.ones(5, np.float32)
    findings = replace(reading.findings, beats_chance=proven, probabilities=certain)
    sure = replace(
        analysis, readings={MaskingMode.NONE: replace(reading, findings=findings)}, doubts=()
    )
    doubtful = replace(sure, doubts=(Doubt("inverted", "Bones are dark."),))
    for one, expected in ((sure, [True, None, True, True, True]), (doubtful, [None] * 5)):
        record = record_of(one)
        assert [f["above"] for f in record["maskings"]["none"]["findings"]] == expected
        assert [row["above"] for row in rows_of_record(record)] == expected
    assert record["doubts"] == [{"kind": "inverted", "message": "Bones are dark."}]
    assert {row["doubts"] for row in rows_of_record(record)} == {"Bones are dark."}


def test_a_spacing_in_which_no_area_can_be_told_breaks_no_record(analysis: Analysis) -> None:
    vast = replace(analysis.radiograph, spacing_mm=(1e300, 1e300))
    record = json.loads(json_bytes(record_of(replace(analysis, radiograph=vast))))
    assert "area_mm2" not in record["lungs"]
    assert not list(validator().iter_errors(record))
    for odd in (float("inf"), float("nan"), 0.0):
        with pytest.raises(ValueError, match="spacing_mm must be positive"):
            replace(analysis.radiograph, spacing_mm=(0.2, odd))


def test_heat_is_told_with_its_cells_and_its_place(analysis: Analysis) -> None:
    record = json.loads(json_bytes(record_of(analysis)))
    for mode, reading in analysis.readings.items():
        told = record["maskings"][str(mode)]["heat"]
        assert list(told) == list(reading.findings.labels)
        for heat, place in zip(reading.saliency, reading.places, strict=True):
            one = told[heat.label]
            np.testing.assert_allclose(one.pop("grid"), heat.grid, rtol=1e-5)
            assert one.pop("hottest") == (list(place.hottest) if place.hottest else None)
            assert one == {
                "in_kept": place.in_kept,
                "in_lungs": place.in_lungs,
                "hottest_in_kept": place.hottest_in_kept,
                "hottest_in_lungs": place.hottest_in_lungs,
            }
            assert record["maskings"][str(mode)]["cam_in_lung"][heat.label] == place.in_lungs


def test_a_name_that_is_no_utf8_survives_as_json() -> None:
    name = b"scan-\xff.png".decode("utf-8", "surrogateescape")
    stored = json_bytes(error_to_json(UnreadableImageError("no"), name=name))
    assert json.loads(stored.decode("utf-8"))["input"]["name"] == name


def test_csv_has_a_row_per_masking_and_label_with_file_and_hash(
    analysis: Analysis, tmp_path: Path
) -> None:
    rows = rows_of_record(record_of(analysis))
    assert len(rows) == 15
    for row in rows:
        assert set(row) <= set(CSV_FIELDS)
        assert row["file"] == "p1/scan.png"
        assert row["sha256"] == SHA256
    tight = analysis.readings[MaskingMode.TIGHT]
    row = next(r for r in rows if (r["masking"], r["label"]) == ("tight", "Edema"))
    assert row["probability"] == pytest.approx(float(tight.findings.probabilities[3]))
    hottest = record_of(analysis)["maskings"]["tight"]["heat"]["Edema"]["hottest"]
    assert (row["hottest_x"], row["hottest_y"]) == (hottest or (None, None))
    failed = error_to_json(UnreadableImageError("=broken"), name="b.png")
    path = write_csv([*rows, *rows_of_record(failed)], tmp_path / "a.csv")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 15 + 1
    assert lines[-1].startswith("b.png,")
    assert lines[-1].endswith("'=broken"), "no spreadsheet takes it for a formula"


def opened(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def picture(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def test_case_archive_holds_everything_but_the_image(analysis: Analysis) -> None:
    parts = opened(case_archive(analysis, name="scan.png", sha256=SHA256))
    assert list(parts) == ["analysis.json", "figure.png", "mask.png", "labels.png", "heat.npz"]
    record = json.loads(parts["analysis.json"])
    assert not list(validator().iter_errors(record))
    assert record["input"] == {"name": "scan.png", "sha256": SHA256}
    assert analysis.lungs is not None
    np.testing.assert_array_equal(picture(parts["labels.png"]), analysis.lungs.sides)
    np.testing.assert_array_equal(picture(parts["mask.png"]), analysis.lungs.inside * 255)
    assert picture(parts["figure.png"]).ndim == 3


def test_case_archive_without_lungs_or_readings_leaves_them_out(analysis: Analysis) -> None:
    blind = fake_pipeline(BlindSegmenter()).analyse(noise_radiograph(hw=HW))
    assert list(opened(case_archive(blind))) == ["analysis.json", "figure.png", "heat.npz"]
    unread = replace(analysis, readings={}, lungs=None)
    assert list(opened(case_archive(unread))) == ["analysis.json", "figure.png"]


def test_heat_comes_back_with_its_place(analysis: Analysis) -> None:
    with np.load(io.BytesIO(heat_npz(analysis)), allow_pickle=False) as arrays:
        for mode, reading in analysis.readings.items():
            for heat in reading.saliency:
                np.testing.assert_array_equal(arrays[f"{mode}/{heat.label}"], heat.grid)
            placement = reading.saliency[0].placement
            np.testing.assert_array_equal(arrays[f"{mode}/placement"][0], HW)
            np.testing.assert_array_equal(
                arrays[f"{mode}/placement"][2:], [placement.content_hw, placement.offset_hw]
            )
        assert len(arrays.files) == 3 * 6
