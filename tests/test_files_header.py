from typing import Any

import pytest
from dicoms import PLANTED, PLANTED_PRIVATE, build, dataset, plant, ramp
from dicoms import to_bytes as dicom_bytes
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)
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
        ({"PixelSpacing": [0.15, 0.15]}, (0.15, 0.15), "from Pixel Spacing"),
        (
            {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.15, 0.15]},
            (0.15, 0.15),
            "corrected from that at the detector",
        ),
        ({"NominalScannedPixelSpacing": [0.3, 0.3]}, (0.3, 0.3), "scanned film"),
        (
            {"PixelSpacing": [1e300] * 2, "ImagerPixelSpacing": [0.2] * 2},
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
            "corrected",
        ),
        ({"ImagerPixelSpacing": [0, 0], "PixelSpacing": [0.1, 0.1]}, (0.1, 0.1), "Pixel Spacing"),
    ],
)
def test_spacing(elements: Any, expected: tuple[float, float], word: str) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), **elements))
    assert radiograph.spacing_mm == expected
    assert word in radiograph.source.steps[-1]


def test_spacing_that_is_absent_is_none() -> None:
    radiograph = read_radiograph(build(ramp(0, 4095)))
    assert radiograph.spacing_mm is None
    assert radiograph.source.warnings == ()


@pytest.mark.parametrize("spacing", [[1e300, 1e300], [0, 0], [-1, 0.2], [0.2], [0.2, 0.2, 0.2]])
def test_spacing_that_no_chest_has_is_ignored_and_told(spacing: Any) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), PixelSpacing=spacing))
    assert radiograph.spacing_mm is None
    (warning,) = radiograph.source.warnings
    assert "cannot be that of a chest X-ray" in warning


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

    monkeypatch.setattr("cxrdemo.files.header.pydicom.dcmread", spy)
    read_radiograph(dicom_bytes(plant(dataset(ramp(0, 4095)))))
    (header,) = parsed
    assert "Rows" in header
    assert not [keyword for keyword in PLANTED if keyword in header]
    assert not [element for element in header if element.tag.is_private]


@pytest.mark.parametrize(
    "word",
    [
        "CHEST", "THORAX", "TORAX", "TORACICA", "TORACE", "POITRINE", "BRUSTKORB", "CXR", "LUNGS",
        "TORAKS", "PECHO", "KLATKA PIERSIOWA", "chest pa", "RIBS", "HEMITORAX", "PLUCA", "PLICE",
        "KEUHKOT", "LONGEN", "UNKNOWN", "other",
    ],
)  # fmt: skip
def test_the_chest_is_known_by_many_names(word: str) -> None:
    assert read_radiograph(build(ramp(0, 4095), BodyPartExamined=word)).source.warnings == ()


@pytest.mark.parametrize("word", ["HAND", "KNEE", "ABDOMEN", "SKULL", "PELVIS", "LSPINE"])
def test_other_parts_are_told(word: str) -> None:
    (warning,) = read_radiograph(build(ramp(0, 4095), BodyPartExamined=word)).source.warnings
    assert "other than the chest" in warning


def test_orientation_of_a_lateral_view_makes_it_one() -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), PatientOrientation=["A", "F"]))
    assert radiograph.view == "LATERAL"
    assert "lateral view" in radiograph.source.warnings[0]


@pytest.mark.parametrize(
    ("elements", "told"),
    [
        ({"Modality": "cr"}, ()),
        ({"ViewPosition": "pa"}, ()),
        ({"PhotometricInterpretation": "monochrome2 "}, ()),
        ({"PhotometricInterpretation": "MONOCHROME 2"}, ()),
        ({"VOILUTFunction": "linear", "WindowCenter": 2048, "WindowWidth": 4096}, ()),
    ],
)
def test_code_strings_in_another_spelling(elements: Any, told: tuple[str, ...]) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), **elements))
    assert radiograph.source.warnings == told
    close(radiograph.pixels, ramp(0, 4095) / 4095, 1e-6)


def test_photometric_interpretation_in_lower_case_inverts() -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), PhotometricInterpretation="monochrome1"))
    close(radiograph.pixels, 1 - ramp(0, 4095) / 4095, 1e-6)


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        ("SamplesPerPixel", "how many samples"),
        ("PixelRepresentation", "signed"),
        ("BitsStored", "bits are stored"),
        ("BitsAllocated", "bits are allocated"),
        ("HighBit", ""),
    ],
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless])
def test_absent_elements_have_safe_defaults(absent: str, words: str, syntax: Any) -> None:
    ds = dataset(ramp(0, 4095), syntax=syntax)
    del ds[absent]
    radiograph = read_radiograph(dicom_bytes(ds))
    close(radiograph.pixels, ramp(0, 4095) / 4095, 1e-6)
    assert radiograph.source.bit_depth == 12
    told = [warning for warning in radiograph.source.warnings if "does not say" in warning]
    assert [words in warning for warning in told] == ([True] if words else [])


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"WindowCenter": "1800,5", "WindowWidth": "2600,0"}, {"window": (1800.5, 2600)}),
        (
            {"WindowCenter": "512", "WindowWidth": "1024", "RescaleSlope": "0,25"},
            {"window": (512, 1024), "rescale": (0.25, 0)},
        ),
        ({"PixelSpacing": "0,2\\0,2"}, {"PixelSpacing": [0.2, 0.2]}),
    ],
)
def test_a_comma_is_a_decimal_point(written: dict[str, str], read: Any) -> None:
    data = build(ramp(0, 4095), **{word: "8" * len(text) for word, text in written.items()})
    for text in written.values():
        size = len(text) + len(text) % 2
        data = data.replace(("8" * len(text)).ljust(size).encode(), text.ljust(size).encode(), 1)
    radiograph, expected = read_radiograph(data), read_radiograph(build(ramp(0, 4095), **read))
    close(radiograph.pixels, expected.pixels, 1e-6)
    assert radiograph.spacing_mm == expected.spacing_mm
    assert any("with a comma" in warning for warning in radiograph.source.warnings)


@pytest.mark.parametrize("text", ["NaN ", "abc ", "1e999 ", "1;5 ", "--3 "])
def test_what_is_no_number_is_ignored_and_told(text: str) -> None:
    data = build(ramp(0, 4095), WindowCenter="8" * len(text.strip()), WindowWidth="4096")
    old = ("8" * len(text.strip())).ljust(len(text) // 2 * 2).encode()
    radiograph = read_radiograph(data.replace(old, text[: len(old)].encode(), 1))
    close(radiograph.pixels, ramp(0, 4095) / 4095, 1e-6)
    told = "A window of the header could not be understood; it was ignored."
    assert radiograph.source.warnings == (told,)


def test_a_header_that_merely_names_the_deflated_syntax_is_read() -> None:
    ds = dataset(ramp(0, 4095))
    ds.add_new("AvailableTransferSyntaxUID", "UI", DeflatedExplicitVRLittleEndian)
    close(read_radiograph(dicom_bytes(ds)).pixels, ramp(0, 4095) / 4095, 1e-6)


def test_a_lost_preamble_is_told() -> None:
    data = build(ramp(0, 4095))
    radiograph = read_radiograph(data[128:])
    close(radiograph.pixels, ramp(0, 4095) / 4095, 1e-6)
    assert "without the preamble" in radiograph.source.warnings[0]
