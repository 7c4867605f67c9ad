import contextlib
import io
import sys
from dataclasses import replace

import highdicom
import numpy as np
import pydicom
import pytest
from dicoms import PLANTED, dataset, plant, ramp, to_bytes
from fakes import BlindSegmenter, fake_pipeline, noise_radiograph
from pydicom.config import disable_value_validation
from pydicom.uid import JPEG2000Lossless, generate_uid

from cxrdemo.dicom_export import capture, segmentation
from cxrdemo.errors import ExportError
from cxrdemo.files import read_radiograph
from cxrdemo.labels import NOTICE
from cxrdemo.rendering import figure_rgb
from cxrdemo.results import Side

HW = (160, 144)


def file(**options: object) -> bytes:
    name = options.pop("PatientName", None)
    ds = plant(dataset(ramp(0, 4095, hw=HW), **options))
    if name:
        with disable_value_validation():
            del ds.PatientName
            ds.PatientName = name
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.StudyID, ds.StudyTime = "1", "101010"
    ds.ReferringPhysicianName = ""
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    return to_bytes(ds)


def analysed(data: bytes):
    return fake_pipeline().analyse(read_radiograph(data))


@pytest.mark.parametrize("options", [{}, {"syntax": JPEG2000Lossless}])
def test_a_segmentation_comes_back_pixel_by_pixel_and_names_its_radiograph(options) -> None:
    data = file(**options)
    analysis = analysed(data)
    assert analysis.lungs is not None
    back = highdicom.seg.segread(io.BytesIO(segmentation(data, analysis)))
    source = pydicom.dcmread(io.BytesIO(data))
    assert back.StudyInstanceUID == source.StudyInstanceUID
    assert back.PatientID == PLANTED["PatientID"]
    assert back.ContentDescription == NOTICE
    for side, name in ((Side.RIGHT, "Right lung"), (Side.LEFT, "Left lung")):
        (number,) = back.get_segment_numbers(segment_label=name)
        assert number == side
        pixels = back.get_pixels_by_source_instance(
            [source.SOPInstanceUID], segment_numbers=[number]
        )
        np.testing.assert_array_equal(pixels[0, ..., 0] > 0, analysis.lungs.side(side))


def test_a_capture_is_the_figure_in_the_study_of_its_radiograph() -> None:
    data = file()
    analysis = analysed(data)
    back = pydicom.dcmread(io.BytesIO(capture(data, analysis)))
    np.testing.assert_array_equal(back.pixel_array, figure_rgb(analysis))
    assert back.StudyInstanceUID == pydicom.dcmread(io.BytesIO(data)).StudyInstanceUID
    assert "research use only" in back.SeriesDescription


def test_what_is_no_dicom_is_refused_with_the_reason() -> None:
    analysis = fake_pipeline().analyse(noise_radiograph(hw=HW))
    for make in (segmentation, capture):
        with pytest.raises(ExportError, match="DICOM input alone"):
            make(b"\x89PNG", analysis)


def test_a_radiograph_that_left_its_grid_has_no_segmentation() -> None:
    data = file()
    analysis = analysed(data)
    source = replace(analysis.radiograph.source, own_grid=False)
    moved = replace(analysis, radiograph=replace(analysis.radiograph, source=source))
    with pytest.raises(ExportError, match="turned, mirrored, cropped or resampled"):
        segmentation(data, moved)


def test_no_lungs_are_no_segmentation() -> None:
    data = file()
    blind = fake_pipeline(BlindSegmenter()).analyse(read_radiograph(data))
    with pytest.raises(ExportError, match="no lung mask"):
        segmentation(data, blind)


def test_a_header_without_a_study_is_the_inputs_failure() -> None:
    ds = dataset(ramp(0, 4095, hw=HW))
    data = to_bytes(ds)
    with pytest.raises(ExportError, match="header lacks"):
        segmentation(data, analysed(data))


@pytest.mark.parametrize("name", ["planted-paula", "A" * 80, "Planted^Paula^x^y^z^v"])
def test_no_header_value_reaches_a_warning_or_an_error(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = file(PatientName=name)
    analysis = analysed(data)
    for make in (segmentation, capture):
        with contextlib.suppress(ExportError):  # whose words name the kind of error alone
            make(data, analysis)  # a warning would be an error here
    assert name not in capsys.readouterr().err


def test_without_highdicom_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = file()
    analysis = analysed(data)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ExportError, match=r"\.\[dicom\]"):
        segmentation(data, analysis)
