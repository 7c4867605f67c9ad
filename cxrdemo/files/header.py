"""The elements of a DICOM header: codes, numbers, spacing, view, and what is odd about them."""

import re
from typing import Any, Final

import numpy as np

from cxrdemo.files.journal import Journal
from cxrdemo.radiograph import View

_VIEWS: Final[dict[str, View]] = {
    "PA": "PA",
    "AP": "AP",
    "LL": "LATERAL",
    "RL": "LATERAL",
    "LAT": "LATERAL",
    "LATERAL": "LATERAL",
    "LLAT": "LATERAL",
    "RLAT": "LATERAL",
}
_CHEST_WORDS: Final = ("CHEST", "THORAX", "LUNG")
_SQUARE_TOLERANCE: Final = 0.02
"""Two sides of a pixel that differ by less deform a chest by less than 1 cm."""


def codes(header: Any, keyword: str) -> list[str]:
    """The values of a code string; whatever is no code (PS3.5 6.2, CS) is left out."""
    value = header.get(keyword)
    values = [value] if isinstance(value, str) else list(value or [])
    found = [str(value).strip().upper() for value in values]
    return [code for code in found if re.fullmatch(r"[A-Z0-9_ ]{1,16}", code)]


def code(header: Any, keyword: str) -> str:
    """The first code of an element; empty if there is none."""
    return next(iter(codes(header, keyword)), "")


def numbers(header: Any, keyword: str) -> list[float]:
    """The numbers of an element; empty if it is absent or any of them is no finite number."""
    try:
        value = header.get(keyword)
        values = np.atleast_1d(np.asarray([] if value is None else value, np.float64))
    except (ValueError, TypeError):
        return []
    return [float(number) for number in values] if np.isfinite(values).all() else []


def spacing_mm_of(header: Any, journal: Journal) -> tuple[float, float] | None:
    """Row and column spacing, in the patient where calibrated, else at the detector."""
    calibrated = bool(code(header, "PixelSpacingCalibrationType"))
    order = ["ImagerPixelSpacing", "PixelSpacing"]
    for keyword in reversed(order) if calibrated else order:
        spacing = numbers(header, keyword)
        if len(spacing) == 2 and min(spacing) > 0:
            break
    else:
        aspect = numbers(header, "PixelAspectRatio")
        if len(aspect) == 2 and min(aspect) > 0:
            _remark_on_aspect(aspect, journal)
        return None
    if keyword == "ImagerPixelSpacing":
        journal.did("Pixel spacing as at the detector (Imager Pixel Spacing)")
    else:
        how = "calibrated" if calibrated else "calibration not stated"
        journal.did(f"Pixel spacing from Pixel Spacing, {how}")
    _remark_on_aspect(spacing, journal)
    return spacing[0], spacing[1]


def _remark_on_aspect(sides: list[float], journal: Journal) -> None:
    if max(sides) / min(sides) > 1 + _SQUARE_TOLERANCE:
        journal.remark("The pixels are not square, so the image looks stretched.")


def view_of(header: Any, journal: Journal) -> View | None:
    """The projection, by View Position or else by View Code Sequence."""
    position = code(header, "ViewPosition")
    view = _VIEWS.get(position)
    if not position and header.get("ViewCodeSequence"):
        meaning = str(header.ViewCodeSequence[0].get("CodeMeaning", "")).lower()
        view = _view_in_words(re.sub("[^a-z]", "", meaning))
    if view == "LATERAL":
        journal.remark(
            "The header calls this a lateral view; a frontal one (PA or AP) is expected."
        )
    elif position in ("LLD", "RLD"):
        journal.remark("The patient was lying on the side (decubitus view).")
    elif position in ("LLO", "RLO"):
        journal.remark("The header calls this an oblique view; a frontal one is expected.")
    return view


def _view_in_words(meaning: str) -> View | None:
    if meaning in ("posteroanterior", "anteroposterior"):
        return "PA" if meaning.startswith("postero") else "AP"
    if meaning in ("lateral", "leftlateral", "rightlateral"):
        return "LATERAL"
    return None


def remark_on_header(header: Any, view: View | None, journal: Journal) -> None:
    """Remarks on what the header says of the examination that does not suit a chest X-ray."""
    if not code(header, "Modality"):
        journal.remark("The header names no modality; the image is taken for a radiograph.")
    if code(header, "PresentationIntentType") == "FOR PROCESSING":
        journal.remark(
            "The image is stored for processing, not for presentation: its contrast is raw."
        )
    body_part = code(header, "BodyPartExamined")
    if body_part and not any(word in body_part for word in _CHEST_WORDS):
        journal.remark("The header names a body part other than the chest.")
    rows, columns = [*codes(header, "PatientOrientation"), "", ""][:2]
    if rows and columns and view != "LATERAL" and (rows[0], columns[0]) != ("L", "F"):
        journal.remark(
            "The header says that the image is turned or mirrored: its left is not the patient's"
            " right, or its top is not towards the head. It was left as it is."
        )
    if code(header, "BurnedInAnnotation") == "YES":
        journal.remark("The header says that text is burned into the image; it may name a person.")


def tags_of(header: Any) -> dict[str, str]:
    """The whitelisted technical elements, display name to value."""
    syntax = header.file_meta.TransferSyntaxUID
    kilovolts = numbers(header, "KVP")
    tags = {
        "Modality": code(header, "Modality"),
        "View position": code(header, "ViewPosition"),
        "Body part": code(header, "BodyPartExamined"),
        "Patient orientation": " / ".join(codes(header, "PatientOrientation")),
        "Photometric interpretation": code(header, "PhotometricInterpretation"),
        "Bits stored": f"{int(header.BitsStored)}",
        "Transfer syntax": syntax.name,
        "Presentation intent": code(header, "PresentationIntentType"),
        "Tube voltage (kVp)": f"{kilovolts[0]:g}" if kilovolts else "",
    }
    return {name: value for name, value in tags.items() if value}
