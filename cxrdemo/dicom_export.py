"""Results as DICOM, to lie beside the radiograph in an archive: segmentation and figure.

Written by highdicom (the extra `dicom`). Both belong to the patient and study of the radiograph and
repeat what its header says of them, which nothing else here does: they are written on request, and
stay where the radiograph may be.
"""

import io
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from cxrdemo import __version__
from cxrdemo.errors import ExportError
from cxrdemo.labels import NOTICE
from cxrdemo.rendering import figure_rgb
from cxrdemo.results import Analysis, Side

MAKER: Final = "cxrdemo"

_STRUCTURE: Final = Code("123037004", "SCT", "Anatomical Structure")
_LUNGS: Final = {
    Side.RIGHT: Code("3341006", "SCT", "Right lung"),
    Side.LEFT: Code("44029006", "SCT", "Left lung"),
}
_SEGMENTATION_SERIES: Final = 9001
_CAPTURE_SERIES: Final = 9002


def segmentation(data: bytes, analysis: Analysis) -> bytes:
    """The lungs as a DICOM Segmentation of the radiograph, segment 1 right, 2 left.

    Args:
        data: The DICOM file that was analysed.
        analysis: What was found in it, with lungs.

    Raises:
        ExportError: If the file is no DICOM, the image no longer has its pixel grid, or its header
            lacks what a segmentation must repeat.
    """
    highdicom = _highdicom()
    source = _source(data, analysis)
    lungs = analysis.lungs
    if lungs is None:
        raise ExportError("There is no lung mask to write as a DICOM segmentation.")
    if not analysis.radiograph.source.own_grid:
        raise ExportError(
            "A DICOM segmentation lies on the pixels of its radiograph, and this one was turned, "
            "mirrored, cropped or resampled to be read. Take the label mask instead."
        )
    segmenter = next((use for use in analysis.checkpoints if use.role == "lungs"), None)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=segmenter.name if segmenter else MAKER,
        family=Code("123109", "DCM", "Artificial Intelligence"),
        version=__version__,
    )
    segments = [
        highdicom.seg.SegmentDescription(
            segment_number=int(side),
            segment_label=code.meaning,
            segmented_property_category=_STRUCTURE,
            segmented_property_type=code,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for side, code in _LUNGS.items()
    ]
    return _written(
        lambda: highdicom.seg.Segmentation(
            source_images=[source],
            pixel_array=np.ascontiguousarray(lungs.sides)[None],
            segmentation_type="BINARY",
            segment_descriptions=segments,
            omit_empty_frames=False,
            content_description=NOTICE,
            **_origin(highdicom, _SEGMENTATION_SERIES, "Lungs"),
        )
    )


def capture(data: bytes, analysis: Analysis) -> bytes:
    """The figure as a DICOM Secondary Capture in the radiograph's study.

    Args:
        data: The DICOM file that was analysed.
        analysis: What was found in it.

    Raises:
        ExportError: If the file is no DICOM, or its header lacks what a capture must repeat.
    """
    highdicom = _highdicom()
    source = _source(data, analysis)
    return _written(
        lambda: highdicom.sc.SCImage.from_ref_dataset(
            ref_dataset=source,
            pixel_array=np.ascontiguousarray(figure_rgb(analysis)),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            patient_orientation=("L", "F"),
            **_origin(highdicom, _CAPTURE_SERIES, "Masking, findings and heat"),
        )
    )


def _highdicom() -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise ExportError(
            "Writing DICOM needs highdicom: in the clone, give `pip install '.[dicom]'`."
        ) from error
    # Both quote the header, a patient's name perhaps, in what they warn of.
    for library in ("highdicom", "pydicom"):
        warnings.filterwarnings("ignore", module=library)
    return highdicom


def _source(data: bytes, analysis: Analysis) -> Dataset:
    if analysis.radiograph.source.kind != "DICOM":
        raise ExportError(
            f"DICOM is written for DICOM input alone; this is {analysis.radiograph.source.kind}. "
            "Leave seg and capture out of --write for it."
        )
    return pydicom.dcmread(io.BytesIO(data), force=True)


def _origin(highdicom: Any, series: int, description: str) -> dict[str, Any]:
    return {
        "series_instance_uid": highdicom.UID(),
        "series_number": series,
        "sop_instance_uid": highdicom.UID(),
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": __version__,
        "device_serial_number": MAKER,
        "series_description": f"{description} (research use only)",
    }


def _written(make: Callable[[], Any]) -> bytes:
    """The file of a data set; a header that lacks what it needs is the input's failure."""
    try:
        made = make()
        stream = io.BytesIO()
        made.save_as(stream)
    # They raise anything at all on an odd header, and quote it; only the kind is told.
    except Exception as error:
        raise ExportError(
            "The radiograph's header lacks what a DICOM result must repeat of it "
            f"({type(error).__name__}). Leave seg and capture out of --write for it."
        ) from error
    return stream.getvalue()
