from typing import Any

import numpy as np
import pytest
from dicoms import build, dataset, lut_item, ramp
from dicoms import to_bytes as dicom_bytes
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRLittleEndian,
    RLELossless,
)
from rasters import HW, close

from cxrdemo.files import read_radiograph


@pytest.mark.parametrize(
    ("stored", "options", "expected"),
    [
        # LINEAR: ((x - (c - 0.5)) / (w - 1) + 0.5), clipped (PS3.3 C.11.2.1.2.1)
        (2048, {"window": (2048, 4096)}, 2048 / 4095),
        (0, {"window": (2048, 4096)}, 0.0),
        (4095, {"window": (2048, 4096)}, 1.0),
        (100, {"window": (100, 201)}, 0.5025),
        (99, {"window": (100, 1)}, 0.0),
        (100, {"window": (100, 1)}, 1.0),
        # LINEAR_EXACT: ((x - c) / w + 0.5), clipped (C.11.2.1.3.2)
        (125, {"window": (100, 200), "function": "LINEAR_EXACT"}, 0.625),
        (0, {"window": (100, 200), "function": "LINEAR_EXACT"}, 0.0),
        # SIGMOID: 1 / (1 + exp(-4 (x - c) / w)) (C.11.2.1.3.1)
        (100, {"window": (100, 200), "function": "SIGMOID"}, 0.5),
        (150, {"window": (100, 200), "function": "SIGMOID"}, 1 / (1 + np.exp(-1))),
        # The window acts on rescaled values: 2 * 600 - 1000 = 200.
        (600, {"window": (200, 101), "rescale": (2, -1000)}, 0.505),
        # The first of several windows
        (100, {"window": ([100, 9], [201, 9])}, 0.5025),
        (100, {"window": (100, 201), "photometric": "MONOCHROME1"}, 0.4975),
    ],
)
def test_table_of_hand_computed_values(
    stored: int, options: dict[str, Any], expected: float
) -> None:
    pixels = ramp(0, 4095)
    pixels[3, 5] = stored
    assert read_radiograph(build(pixels, **options)).pixels[3, 5] == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize("rescale", [None, (1, 0), (2.5, -1024), (-1, 4095)])
@pytest.mark.parametrize(
    ("window", "function"),
    [
        ((1900, 3000), None),
        ((1000.5, 2350.25), "LINEAR_EXACT"),
        ((1500, 900), "SIGMOID"),
        (([1900, 5], [3000, 5]), "LINEAR"),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_windows_agree_with_pydicom(rescale: Any, window: Any, function: Any, signed: bool) -> None:
    pixels = ramp(-2048, 2047, np.int16) if signed else ramp(0, 4095)
    ds = dataset(pixels, window=window, function=function, rescale=rescale)
    rescaled = apply_modality_lut(pixels, ds)
    theirs = apply_voi_lut(rescaled, ds)
    ends = apply_modality_lut(np.array([pixels.min(), pixels.max()]), ds)
    expected = (theirs - ends[0]) / (ends[1] - ends[0])
    close(read_radiograph(dicom_bytes(ds)).pixels, expected)


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("first", [0, 300, -1000])
def test_voi_tables_agree_with_pydicom(bits: int, first: int) -> None:
    pixels = ramp(-2048, 2047, np.int16)
    entries = np.rint(np.linspace(0, 1, 1500) ** 2 * (2**bits - 1)).astype(int).tolist()
    ds = dataset(pixels, VOILUTSequence=[lut_item(entries, first=first, bits=bits)])
    expected = apply_voi_lut(pixels.astype(np.int32).clip(first, 2047), ds) / (2**bits - 1)
    radiograph = read_radiograph(dicom_bytes(ds))
    close(radiograph.pixels, expected)
    assert f"Applied the VOI lookup table of {bits} bits" in radiograph.source.steps


def test_voi_table_goes_before_window_and_first_of_two_is_taken() -> None:
    pixels = ramp(0, 3)
    tables = [
        lut_item([0, 100, 200, 1023], first=0, bits=10),
        lut_item([1023, 1, 1, 0], first=0, bits=10),
    ]
    radiograph = read_radiograph(build(pixels, window=(1, 2), VOILUTSequence=tables))
    close(radiograph.pixels, np.array([0, 100, 200, 1023])[pixels] / 1023, 1e-6)
    assert "Applied the VOI lookup table of 10 bits, first of 2" in radiograph.source.steps


def test_voi_table_whose_entries_need_more_bits_than_declared() -> None:
    pixels = ramp(0, 3)
    table = lut_item([0, 1000, 2000, 4095], first=0, bits=10)
    radiograph = read_radiograph(build(pixels, VOILUTSequence=[table]))
    close(radiograph.pixels, np.array([0, 1000, 2000, 4095])[pixels] / 4095, 1e-6)


@pytest.mark.parametrize("declared", [8, 10, 16])
def test_voi_table_whose_descriptor_names_other_bits_is_scaled_by_its_entries(
    declared: int,
) -> None:
    pixels = ramp(0, 3)
    table = lut_item([0, 1000, 2000, 4095], first=0, bits=declared)
    radiograph = read_radiograph(build(pixels, VOILUTSequence=[table]))
    close(radiograph.pixels, np.array([0, 1000, 2000, 4095])[pixels] / 4095, 1e-6)
    (warning,) = radiograph.source.warnings
    assert f"entries of {declared} bits, but they use 12" in warning


@pytest.mark.parametrize(
    ("low", "kind"), [(40000, "SS"), (40000, "US"), (-300, "US"), (-300, "SS")]
)
def test_first_value_of_a_table_is_read_so_that_it_covers_the_pixels(low: int, kind: str) -> None:
    pixels = ramp(low, low + 1000, np.uint16 if low > 0 else np.int16)
    table = lut_item(list(range(1001)), first=0, bits=10)
    written = (low + 2**15) % 2**16 - 2**15 if kind == "SS" else low % 2**16
    table.add_new("LUTDescriptor", kind, [1001, written, 10])
    radiograph = read_radiograph(build(pixels, bits_stored=16, VOILUTSequence=[table]))
    close(radiograph.pixels, (pixels.astype(int) - low) / 1023, 1e-6)


def test_voi_table_of_65536_entries_is_declared_as_zero() -> None:
    pixels = ramp(0, 65535)
    table = lut_item(list(range(65536)), first=0, bits=16)
    assert table.LUTDescriptor[0] == 0
    radiograph = read_radiograph(build(pixels, bits_stored=16, VOILUTSequence=[table]))
    close(radiograph.pixels, pixels / 65535, 1e-6)


def test_voi_table_after_a_fractional_rescale_takes_the_nearest_entry() -> None:
    pixels = ramp(0, 3)
    table = lut_item([0, 100, 200, 300, 1023], first=0, bits=10)
    radiograph = read_radiograph(build(pixels, rescale=(1.3, 0), VOILUTSequence=[table]))
    # 0, 1.3, 2.6, 3.9 are nearest to entries 0, 1, 3, 4.
    close(radiograph.pixels, np.array([0, 100, 300, 1023])[pixels] / 1023, 1e-6)


def test_voi_table_of_packed_bytes() -> None:
    pixels = ramp(0, 3)
    table = lut_item([0, 0], first=0, bits=8)
    table.LUTDescriptor, table.LUTData = [4, 0, 8], bytes([0, 50, 100, 255])
    radiograph = read_radiograph(build(pixels, VOILUTSequence=[table]))
    close(radiograph.pixels, np.array([0, 50, 100, 255])[pixels] / 255, 1e-6)


def test_negative_numbers_written_as_unsigned() -> None:
    pixels = ramp(-100, 100, np.int16)
    pixels[0] = -2000
    table = lut_item(list(range(0, 201)), first=2**16 - 100, bits=8)
    ds = dataset(pixels, VOILUTSequence=[table])
    ds.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    radiograph = read_radiograph(dicom_bytes(ds))
    close(radiograph.pixels[1:], (pixels[1:] + 100.0) / 255, 1e-6)
    assert "Set the padding pixels to black" in radiograph.source.steps


def test_8_bit_voi_table_on_wide_values_does_not_wrap() -> None:
    pixels = ramp(0, 4095)
    entries = list(range(256))
    radiograph = read_radiograph(
        build(pixels, VOILUTSequence=[lut_item(entries, first=1000, bits=8)])
    )
    close(radiograph.pixels, np.clip(pixels.astype(int) - 1000, 0, 255) / 255, 1e-6)


def test_modality_table_agrees_with_pydicom_and_feeds_the_window() -> None:
    pixels = ramp(0, 4095)
    entries = np.linspace(65535, 0, 4000).astype(int).tolist()
    ds = dataset(
        pixels, window=(30000, 40000), ModalityLUTSequence=[lut_item(entries, first=50, bits=16)]
    )
    theirs = apply_voi_lut(apply_modality_lut(pixels.astype(np.int32), ds), ds)
    radiograph = read_radiograph(dicom_bytes(ds))
    close(radiograph.pixels, theirs / 65535)
    assert radiograph.source.steps[1] == "Applied the modality lookup table"


def test_without_voi_the_own_range_is_used() -> None:
    pixels = ramp(500, 2500)
    radiograph = read_radiograph(build(pixels))
    close(radiograph.pixels, (pixels - 500.0) / 2000, 1e-6)
    assert "Scaled from the image's own range, 500 to 2500" in radiograph.source.steps
    assert radiograph.source.bit_depth == 12


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [(np.uint8, 8), (np.uint16, 10), (np.uint16, 12), (np.uint16, 14), (np.uint16, 16)],
)
@pytest.mark.parametrize("voi", [False, True])
def test_monochrome1_of_inverted_data_equals_monochrome2(dtype: type, bits: int, voi: bool) -> None:
    top = 2**bits - 1
    pixels = ramp(top // 9, top, dtype)
    window = ((top + 1) / 2, top + 1) if voi else None
    plain = read_radiograph(build(pixels, bits_stored=bits, window=window))
    inverted = read_radiograph(
        build(
            (top - pixels).astype(dtype),
            bits_stored=bits,
            window=window,
            photometric="MONOCHROME1",
        )
    )
    close(inverted.pixels, plain.pixels, 1e-6)
    assert "Inverted, because the file is MONOCHROME1" in inverted.source.steps
    assert not any("Inverted" in step for step in plain.source.steps)


def test_inverse_shape_inverts_once_and_never_against_the_photometric_interpretation() -> None:
    pixels = ramp(0, 4095)
    both = read_radiograph(build(pixels, photometric="MONOCHROME1", PresentationLUTShape="INVERSE"))
    close(both.pixels, 1 - pixels / 4095, 1e-6)
    assert both.source.warnings == ()
    for photometric, shape in (("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY")):
        radiograph = read_radiograph(
            build(pixels, photometric=photometric, PresentationLUTShape=shape)
        )
        ramp_up = pixels / 4095
        close(radiograph.pixels, 1 - ramp_up if photometric == "MONOCHROME1" else ramp_up, 1e-6)
        assert "contradicts itself" in radiograph.source.warnings[0]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("voi", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_padding_is_left_out_and_black(photometric: str, voi: bool, signed: bool) -> None:
    shift = -1500 if signed else 0
    dtype = np.int16 if signed else np.uint16
    pixels = (ramp(1000, 2000, np.int32) + shift).astype(dtype)
    plain = read_radiograph(
        build(pixels, photometric=photometric, window=(1500 + shift, 900) if voi else None)
    ).pixels
    pixels[:10] = 10 + shift
    pixels[10:12] = 20 + shift
    padded = read_radiograph(
        build(
            pixels,
            photometric=photometric,
            window=(1500 + shift, 900) if voi else None,
            padding=10 + shift,
            padding_limit=20 + shift,
        )
    )
    assert not padded.pixels[:12].any()
    if voi:
        close(padded.pixels[12:], plain[12:], 1e-6)
    else:
        low, high = pixels[12:].min(), pixels[12:].max()
        expected = (pixels[12:].astype(float) - low) / (high - low)
        close(padded.pixels[12:], 1 - expected if photometric == "MONOCHROME1" else expected, 1e-6)
    assert "Set the padding pixels to black" in padded.source.steps


def test_only_padding_gives_black_and_a_warning() -> None:
    radiograph = read_radiograph(build(np.full(HW, 7, np.uint16), padding=7))
    assert not radiograph.pixels.any()
    assert "no contrast" in radiograph.source.warnings[0]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_constant_dicom_gives_no_nan(photometric: str) -> None:
    radiograph = read_radiograph(build(np.full(HW, 700, np.uint16), photometric=photometric))
    assert len(np.unique(radiograph.pixels)) == 1
    assert "no contrast" in radiograph.source.warnings[0]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_overlay_bits_above_the_stored_ones_are_cleared(syntax: Any, dtype: type) -> None:
    low, high = (-2048, 2047) if dtype == np.int16 else (0, 4095)
    pixels = ramp(low, high, dtype)
    clean = read_radiograph(build(pixels, syntax=syntax)).pixels
    overlaid = (pixels.view(np.uint16) & 0x0FFF) | (ramp(0, 15) << 12)
    close(
        read_radiograph(build(overlaid.astype(np.uint16).view(dtype), syntax=syntax)).pixels,
        clean,
        0,
    )


@pytest.mark.parametrize("window", [(2000, 0), (2000, -5)])
def test_window_without_width_is_ignored_with_a_warning(window: Any) -> None:
    pixels = ramp(0, 4095)
    radiograph = read_radiograph(build(pixels, window=window))
    close(radiograph.pixels, pixels / 4095, 1e-6)
    assert radiograph.source.warnings == ("A window of the header has no width; it was ignored.",)


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (("NaN", "4096"), "could not be understood"),
        (("2048", "x"), "could not be understood"),
        (("2048", "0"), "has no width"),
        (("-5000", "300"), "lies beside all pixel values"),
    ],
)
def test_the_first_window_of_use_is_taken_and_the_others_are_told(
    first: tuple[str, str], told: str
) -> None:
    pixels = ramp(0, 4095)
    ds = dataset(pixels)
    for name, value in zip(("WindowCenter", "WindowWidth"), first, strict=True):
        other = {"WindowCenter": "1024", "WindowWidth": "2048"}[name]
        text = f"{value}\\{other}"
        ds[name] = RawDataElement(Tag(name), "DS", len(text), text.encode(), 0, False, True)
    radiograph = read_radiograph(dicom_bytes(ds))
    close(radiograph.pixels, np.clip((pixels - 1023.5) / 2047 + 0.5, 0, 1), 1e-6)
    assert [told in warning for warning in radiograph.source.warnings] == [True]
    assert radiograph.source.windows[-1] == ("", 1024.0, 2048.0)


def test_empty_elements_are_as_absent() -> None:
    pixels = ramp(0, 4095)
    radiograph = read_radiograph(
        build(pixels, WindowCenter=None, WindowWidth=None, RescaleSlope=None, RescaleIntercept=None)
    )
    close(radiograph.pixels, pixels / 4095, 1e-6)
    assert radiograph.source.warnings == ()


def test_steps_are_told_in_order() -> None:
    data = build(
        ramp(0, 4095),
        rescale=(1, -1024),
        window=([1024, 5], [4096, 5]),
        photometric="MONOCHROME1",
        padding=0,
        ImagerPixelSpacing=[0.2, 0.2],
    )
    assert read_radiograph(data).source.steps == (
        "Read uncompressed pixels (Explicit VR Little Endian)",
        "Rescaled: slope 1, intercept -1024",
        "Window centre 1024, width 4096 (LINEAR), first of 2",
        "Inverted, because the file is MONOCHROME1",
        "Set the padding pixels to black",
        "Pixel spacing as at the detector (Imager Pixel Spacing)",
    )


@pytest.mark.parametrize(
    ("elements", "values", "missing"),
    [
        ({"RescaleSlope": 0.25}, ramp(0, 4095) * 0.25, "intercept; 0"),
        ({"RescaleIntercept": -2048}, ramp(0, 4095) - 2048.0, "slope; 1"),
        ({"RescaleSlope": None, "RescaleIntercept": -2048}, ramp(0, 4095) - 2048.0, "slope; 1"),
    ],
)
def test_half_a_rescale_pair_is_completed_and_told(
    elements: Any, values: NDArray[Any], missing: str
) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), window=(200, 800), **elements))
    close(radiograph.pixels, np.clip((values - 199.5) / 799 + 0.5, 0, 1), 1e-6)
    assert missing in radiograph.source.warnings[0]


@pytest.mark.parametrize("half", ["WindowCenter", "WindowWidth"])
def test_half_a_window_is_ignored_and_told(half: str) -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), **{half: 1000}))
    close(radiograph.pixels, ramp(0, 4095) / 4095, 1e-6)
    assert radiograph.source.warnings == ("The header states half a window; it was ignored.",)


def test_a_window_beside_all_pixels_is_ignored_and_told() -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), window=(-5000, 300)))
    close(radiograph.pixels, ramp(0, 4095) / 4095, 1e-6)
    assert "beside all pixel values" in radiograph.source.warnings[0]


def test_a_window_narrower_than_linear_allows_is_exact() -> None:
    radiograph = read_radiograph(build(ramp(0, 4095), window=(0.2, 0.4), rescale=(0.0001, 0)))
    close(radiograph.pixels, np.clip(ramp(0, 4095) * 0.0001 / 0.4, 0, 1), 1e-6)
    assert "LINEAR_EXACT" in radiograph.source.warnings[0]


@pytest.mark.parametrize(
    ("elements", "applied"),
    [
        ({"Modality": "RF"}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.12.1"}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.12.2"}, False),
        ({"Modality": "DX"}, True),
    ],
)
def test_the_modality_table_of_fluoroscopy_is_not_for_display(elements: Any, applied: bool) -> None:
    table = lut_item([0, 10, 20, 4095], first=0, bits=12)
    pixels = ramp(0, 3)
    radiograph = read_radiograph(build(pixels, ModalityLUTSequence=[table], **elements))
    shown = np.array([0, 10, 20, 4095])[pixels] / 4095 if applied else pixels / 3
    close(radiograph.pixels, shown, 1e-6)
    assert any("not for display" in step for step in radiograph.source.steps) != applied


@pytest.mark.parametrize(
    ("low", "high", "stated", "shown"),
    [
        (10, 3900, (0, 4095), (0, 4095)),
        (10, 1500, (0, 4095), (10, 1500)),
        (10, 3900, (0, 3000), (10, 3900)),
        (10, 3900, (5, 5), (10, 3900)),
    ],
)
def test_the_stated_range_of_values_counts_where_the_pixels_fill_it(
    low: int, high: int, stated: tuple[int, int], shown: tuple[int, int]
) -> None:
    elements = {"SmallestImagePixelValue": stated[0], "LargestImagePixelValue": stated[1]}
    radiograph = read_radiograph(build(ramp(low, high), **elements))
    expected = (ramp(low, high) - float(shown[0])) / (shown[1] - shown[0])
    close(radiograph.pixels, expected, 1e-6)


def test_8_bits_that_nearly_fill_their_range_are_shown_as_they_are() -> None:
    grey = ramp(3, 252, np.uint8)
    close(read_radiograph(build(grey, bits_stored=8)).pixels, grey / 255, 1e-6)
    narrow = ramp(90, 160, np.uint8)
    close(read_radiograph(build(narrow, bits_stored=8)).pixels, (narrow - 90.0) / 70, 1e-6)


@pytest.mark.parametrize(
    ("options", "window", "inverted"),
    [
        ({"window": (2048, 4096)}, (0.0, 4095.0), False),
        ({"window": (100, 200), "function": "LINEAR_EXACT"}, (0.0, 200.0), False),
        ({"window": (100, 200), "function": "SIGMOID"}, None, False),
        ({"photometric": "MONOCHROME1"}, (0.0, 4095.0), True),
        ({"rescale": (2, -10)}, (-10.0, 8180.0), False),
        ({"VOILUTSequence": [lut_item([0, 9, 1023], first=0, bits=10)]}, None, False),
    ],
)
def test_the_values_at_the_ends_of_the_grey_scale_are_told(
    options: Any, window: Any, inverted: bool
) -> None:
    source = read_radiograph(build(ramp(0, 4095), **options)).source
    assert source.window == window
    assert source.inverted == inverted


def test_all_windows_of_the_header_are_told_but_no_free_text() -> None:
    source = read_radiograph(
        build(
            ramp(0, 4095),
            window=([2048, 900, 5], [4096, 300, 7]),
            WindowCenterWidthExplanation=["NORMAL", "Planted^Paula", "SOFT"],
        )
    ).source
    assert source.windows == (("NORMAL", 2048, 4096), ("", 900, 300), ("SOFT", 5, 7))


def test_whether_the_header_tells_the_sides() -> None:
    assert read_radiograph(build(ramp(0, 9))).source.sides == "assumed"
    told = read_radiograph(build(ramp(0, 9), PatientOrientation=["R", "F"])).source
    assert told.sides == "header"
