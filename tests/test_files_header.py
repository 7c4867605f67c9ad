from typing import Any

import pytest
from dicoms import PLANTED, PLANTED_PRIVATE, build, dataset, plant, ramp
from dicoms import to_bytes as dicom_bytes
from pydicom import dcmread
from pydicom.dataset import Dataset
from rasters import assert_refused, close

from cxrdemo.errors import CxrDemoError, UnsupportedImageError
from cxrdemo.files import read_radiograph


@pytest.mark.parametrize("modality", ["CR", "DX", "SC", "OT", "RG", "RF"])
def test_radiographic_modalities_are_read(modality: str) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), modality=modality))
    assert radiograph.source.tags["Modality"] == modality
    assert radiograph.source.warnings == ()


@pytest.mark.parametrize(
    ("modality", "words"),
    [("CT", "CT"), ("MR", "MR"), ("US", "ultrasound"), ("MG", "mammography"), ("SR", "report")],
)
def test_other_modalities_are_refused_by_name(modality: str, words: str) -> None:
    with pytest.raises(UnsupportedImageError, match=f"found .*{words}.* Choose the chest X-ray"):
        read_radiograph(build(ramp(0, 4095), modality=modality))


def test_absent_modality_is_read_with_a_warning() -> None:
    assert read_radiograph(build(ramp(0, 4095), modality=None)).source.warnings == (
        "The header names no modality; the image is taken for a radiograph.",
    )


@pytest.mark.parametrize(
    ("elements", "expected", "word"),
    [
        ({"ImagerPixelSpacing": [0.2, 0.2]}, (0.2, 0.2), "detector"),
        ({"PixelSpacing": [0.15, 0.15]}, (0.15, 0.15), "calibration not stated"),
        (
            {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.15, 0.15]},
            (0.2, 0.2),
            "detector",
        ),
        (
            {
                "ImagerPixelSpacing": [0.2, 0.2],
                "PixelSpacing": [0.15, 0.15],
                "PixelSpacingCalibrationType": "GEOMETRY",
            },
            (0.15, 0.15),
            "calibrated",
        ),
        ({"ImagerPixelSpacing": [0, 0], "PixelSpacing": [0.1, 0.1]}, (0.1, 0.1), "Pixel Spacing"),
    ],
)
def test_spacing(elements: Any, expected: tuple[float, float], word: str) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), **elements))
    assert radiograph.spacing_mm == expected
    assert word in radiograph.source.steps[-1]


@pytest.mark.parametrize("elements", [{}, {"PixelSpacing": [0, 0]}, {"PixelSpacing": [-1, 0.2]}])
def test_spacing_that_is_absent_or_nonsense_is_none(elements: Any) -> None:
    assert read_radiograph(build(ramp(0, 4095), **elements)).spacing_mm is None


@pytest.mark.parametrize(
    ("elements", "warns"),
    [
        ({"PixelSpacing": [0.1, 0.2]}, True),
        ({"PixelSpacing": [0.1, 0.1005]}, False),
        ({"PixelAspectRatio": [4, 3]}, True),
        ({"PixelAspectRatio": [1, 1]}, False),
    ],
)
def test_pixels_that_are_not_square_are_warned_of(elements: Any, warns: bool) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), **elements))
    assert any("not square" in warning for warning in radiograph.source.warnings) == warns
    if "PixelSpacing" in elements:
        assert radiograph.spacing_mm == tuple(elements["PixelSpacing"])  # row first


@pytest.mark.parametrize(
    ("position", "view", "word"),
    [
        ("PA", "PA", ""),
        ("AP", "AP", ""),
        ("LL", "LATERAL", "lateral"),
        ("RL", "LATERAL", "lateral"),
        ("LATERAL", "LATERAL", "lateral"),
        ("LLD", None, "decubitus"),
        ("RLO", None, "oblique"),
        ("XX", None, ""),
    ],
)
def test_view(position: str, view: str | None, word: str) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), ViewPosition=position))
    assert radiograph.view == view
    assert [word in warning for warning in radiograph.source.warnings] == ([True] if word else [])


@pytest.mark.parametrize(
    ("meaning", "view"),
    [
        ("postero-anterior", "PA"),
        ("Antero-posterior", "AP"),
        ("left lateral", "LATERAL"),
        ("x", None),
    ],
)
def test_view_by_code(meaning: str, view: str | None) -> None:
    code = Dataset()
    code.CodeMeaning = meaning
    assert read_radiograph(build(ramp(0, 4095), ViewCodeSequence=[code])).view == view


@pytest.mark.parametrize(
    ("orientation", "warns"),
    [(["L", "F"], False), ("", False), (["R", "F"], True), (["L", "H"], True), (["F", "L"], True)],
)
def test_orientation_is_warned_of_and_never_applied(orientation: Any, warns: bool) -> None:
    pixels = ramp(0, 4095)
    radiograph = read_radiograph(build(pixels, PatientOrientation=orientation))
    assert any("turned or mirrored" in warning for warning in radiograph.source.warnings) == warns
    close(radiograph.pixels, pixels / 4095, 1e-6)


def test_lateral_view_faces_forward_without_a_second_warning() -> None:
    radiograph = read_radiograph(
        build(ramp(0, 4095), ViewPosition="LL", PatientOrientation=["A", "F"])
    )
    assert len(radiograph.source.warnings) == 1


@pytest.mark.parametrize(
    ("elements", "word"),
    [
        ({"PresentationIntentType": "FOR PROCESSING"}, "for processing"),
        ({"BodyPartExamined": "HAND"}, "other than the chest"),
        ({"BurnedInAnnotation": "YES"}, "burned into"),
        ({"RescaleSlope": 0, "RescaleIntercept": 5}, "slope is zero"),
    ],
)
def test_unusual_header_is_warned_of(elements: Any, word: str) -> None:
    (warning,) = read_radiograph(build(ramp(0, 4095), **elements)).source.warnings
    assert word in warning


@pytest.mark.parametrize(
    "elements",
    [
        {"PresentationIntentType": "FOR PRESENTATION"},
        {"BodyPartExamined": "CHEST"},
        {"BurnedInAnnotation": "NO"},
    ],
)
def test_usual_header_is_not_warned_of(elements: Any) -> None:
    assert read_radiograph(build(ramp(0, 4095), **elements)).source.warnings == ()


def test_tags_are_the_whitelist_and_nothing_else() -> None:
    ds = dataset(
        ramp(0, 4095),
        ViewPosition="PA",
        BodyPartExamined="CHEST",
        PatientOrientation=["L", "F"],
        PresentationIntentType="FOR PRESENTATION",
        KVP=125,
    )
    assert read_radiograph(dicom_bytes(plant(ds))).source.tags == {
        "Modality": "DX",
        "View position": "PA",
        "Body part": "CHEST",
        "Patient orientation": "L / F",
        "Photometric interpretation": "MONOCHROME2",
        "Bits stored": "12",
        "Transfer syntax": "Explicit VR Little Endian",
        "Presentation intent": "FOR PRESENTATION",
        "Tube voltage (kVp)": "125",
    }


def everything_told(data: bytes, caplog: pytest.LogCaptureFixture, capfd: Any) -> str:
    try:
        radiograph = read_radiograph(data)
        told = repr((radiograph, radiograph.source, radiograph.view, radiograph.spacing_mm))
    except CxrDemoError as error:
        told = f"{error!r} {error.__cause__!r} {error.__context__!r}"
    return told + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"modality": "CT"},
        {"Modality": "PLANTED^NAME"},
        {"PhotometricInterpretation": "PLANTED^COLOURS"},
        {"BodyPartExamined": "Planted^Paula"},
        {"ViewPosition": "Planted^Paula"},
        {"NumberOfFrames": 2},
        {"WindowCenter": 1234567890.125, "WindowWidth": 1},
        {"cut": 2000},
    ],
)
def test_no_patient_data_leaves(
    elements: Any, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    elements = dict(elements)
    cut = elements.pop("cut", None)
    data = dicom_bytes(plant(dataset(ramp(0, 4095), **elements)))[:cut]
    data = data.replace(b"1234567890.125", b"Planted^Paula ")  # a name where a number belongs
    planted = [*PLANTED.values(), PLANTED_PRIVATE, "Planted^Paula", "PLANTED^"]
    assert sum(value.encode() in data for value in planted) >= len(PLANTED) + 1
    told = everything_told(data, caplog, capfd).lower()
    for value in planted:
        if len(value) > 1:  # "F" says nothing
            assert value.lower() not in told


def test_header_values_that_break_the_standard_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = build(ramp(0, 4095)).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.PLANTED.2.1\0")
    assert_refused(data, UnsupportedImageError, "another compression")
    assert caplog.text == ""


def test_identifying_elements_are_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Dataset] = []

    def spy(*arguments: Any, **options: Any) -> Dataset:
        parsed.append(dcmread(*arguments, **options))
        return parsed[-1]

    monkeypatch.setattr("cxrdemo.files.dicom.pydicom.dcmread", spy)
    read_radiograph(dicom_bytes(plant(dataset(ramp(0, 4095)))))
    (header,) = parsed
    assert "Rows" in header
    assert not [keyword for keyword in PLANTED if keyword in header]
    assert not [element for element in header if element.tag.is_private]
