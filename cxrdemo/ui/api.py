"""What programs may ask of the server, over HTTP or as tools of an agent (MCP): docs/api.md.

Each function is described to its callers by its own signature and docstring. Nothing that is sent
is kept, and pictures travel in the answer, so that nothing of it is left on the disk.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import gradio as gr
from gradio.events import api
from gradio.utils import get_upload_folder

from cxrdemo.errors import PromptError, UnreadableImageError
from cxrdemo.export import analysis_to_json, json_bytes, label_mask_png
from cxrdemo.files import MAX_BYTES, read_radiograph
from cxrdemo.labels import FINDING_KEYS, display_name
from cxrdemo.rendering import encode_png, heat_overlay
from cxrdemo.results import ALL_MASKINGS, MAX_MARGIN, Analysis, MaskingMode
from cxrdemo.ui.line import Line
from cxrdemo.ui.models import Models
from cxrdemo.ui.uploads import take
from cxrdemo.ui.visit import decoding, in_words

ENDPOINTS: Final = ("analyze", "segment", "explain")

Masking = Literal["none", "loose", "tight"]


def add_endpoints(models: Models, line: Line) -> None:
    """Adds the endpoints to the page that is being built; callers wait in the visitors' line."""
    options: dict[str, Any] = {"concurrency_id": "visitors", "concurrency_limit": None}
    for function in _functions(models, line):
        api(function, api_name=function.__name__, **options)


def _functions(models: Models, line: Line) -> tuple[Callable[..., dict[str, Any]], ...]:
    def analyzed(
        file: object,
        content: bytes,
        request: gr.Request,
        maskings: tuple[MaskingMode, ...],
        margin: float | None,
    ) -> tuple[Analysis, dict[str, Any]]:
        """The analysis of a file, and its record."""
        with decoding:
            radiograph = read_radiograph(content)
        with line.join(str(request.session_hash)) as place:
            for _ in place.wait():
                pass
            analysis = models.pipeline().analyse(radiograph, maskings=maskings, margin=margin)
        digest = hashlib.sha256(content).hexdigest()
        record = analysis_to_json(analysis, name=_name(file), sha256=digest)
        # Numbers of numpy's types would reach the caller as text.
        return analysis, json.loads(json_bytes(record))

    def analyze(
        file: gr.FileData,
        request: gr.Request,
        masking: Literal["all", "none", "loose", "tight"] = "all",
        margin: float = 0.08,
    ) -> dict[str, Any]:
        """Reads one frontal chest X-ray for Mass, Nodule, Pneumonia, Edema and Fibrosis.

        Gives calibrated probabilities, thresholds, the quality of the lung mask, and where the heat
        of each finding lies. Research use only, not a medical device: decide nothing about a
        patient by it. Where `doubts` is not empty the image may not be one that the models can
        read; there, and where weights were not shown to beat chance, `above` is null.

        Args:
            file: De-identified DICOM, PNG, JPEG, TIFF, WebP or BMP; from an agent as a data: URL.
            masking: What the classifier sees: none (whole image), loose or tight (lungs), or all.
            margin: Width of the loose margin as a fraction of the lungs' height, 0 to 0.5.

        Returns:
            The record of an analysis, see its JSON Schema in docs/.
        """
        with _errors_in_words():
            content = _content(file)
            return analyzed(file, content, request, _maskings(masking), _margin(margin))[1]

    def segment(file: gr.FileData, request: gr.Request) -> dict[str, Any]:
        """Finds both lungs in one frontal chest X-ray, and tells how plausible the mask is.

        Args:
            file: De-identified DICOM, PNG, JPEG, TIFF, WebP or BMP; from an agent as a data: URL.

        Returns:
            `lungs` (areas, quality, warnings; null if none were found), `doubts`, and `mask`: a PNG
            as data URL at the image's own size, 0 outside, 1 the patient's right lung, 2 the left.
        """
        with _errors_in_words():
            content = _content(file)
            analysis, record = analyzed(file, content, request, (MaskingMode.NONE,), None)
            lungs = analysis.lungs
            return {
                "notice": record["notice"],
                "input": record["input"],
                "doubts": record["doubts"],
                "lungs": record["lungs"],
                "mask": None if lungs is None else _data_url(label_mask_png(lungs)),
            }

    def explain(
        file: gr.FileData,
        request: gr.Request,
        finding: str,
        masking: Masking = "none",
        margin: float = 0.08,
        picture: bool = True,
    ) -> dict[str, Any]:
        """Tells where on a frontal chest X-ray the evidence for one finding comes from (Grad-CAM).

        Heat shows which places raised one classifier's logit; it does not outline a lesion.

        Args:
            file: De-identified DICOM, PNG, JPEG, TIFF, WebP or BMP; from an agent as a data: URL.
            finding: One of Mass, Nodule, Pneumonia, Edema, Fibrosis.
            masking: What the classifier sees: none (the whole image), loose or tight (the lungs).
            margin: Width of the loose margin as a fraction of the lungs' height, 0 to 0.5.
            picture: Whether the X-ray under the heat is returned too.

        Returns:
            `finding` (probability, threshold, above), `heat` (its grid and where it is hottest),
            and `picture`: a PNG as data URL at the image's own size, or null.
        """
        with _errors_in_words():
            content = _content(file)
            key = _finding(finding)
            mode = _one_masking(masking)
            wants_picture = _yes_or_no(picture)
            analysis, record = analyzed(file, content, request, (mode,), _margin(margin))
            reading = analysis.readings.get(mode)
            if reading is None:
                raise UnreadableImageError(
                    f"Masking '{mode}' could not be read: {' '.join(analysis.warnings)}"
                )
            index = reading.findings.labels.index(key)
            told = record["maskings"][str(mode)]
            shown = None
            if wants_picture:
                heat = reading.saliency[index]
                drawn = heat_overlay(analysis.radiograph, heat, kept=reading.kept, peak=heat.peak)
                shown = _data_url(encode_png(drawn))
            return {
                "notice": record["notice"],
                "input": record["input"],
                "doubts": record["doubts"],
                "finding": told["findings"][index],
                "heat": told.get("heat", {}).get(key),
                "picture": shown,
            }

    return analyze, segment, explain


@contextmanager
def _errors_in_words() -> Iterator[None]:
    """Turns every failure into a message for the caller that names no file."""
    try:
        yield
    except Exception as error:
        raise gr.Error(in_words(error), print_exception=False) from error


def _content(file: object) -> bytes:
    """The bytes of a file that was uploaded, or sent as a data URL.

    Raises:
        UnreadableImageError: If it is neither. Nothing is fetched from an address.
    """
    fields = file if isinstance(file, dict) else {"path": file}
    for text in (fields.get("url"), fields.get("path")):
        if isinstance(text, str) and text.startswith("data:"):
            return _decoded(text)
    path = fields.get("path")
    if isinstance(path, str) and path:
        uploads = os.path.realpath(get_upload_folder())
        # A null byte is in no path.
        if "\0" not in path and Path(os.path.realpath(path)).is_relative_to(uploads):
            return take(path)
    raise UnreadableImageError(
        "Expected an uploaded file or a data URL (data:application/octet-stream;base64,...). "
        "Nothing is fetched from an address: send the file itself."
    )


def _decoded(url: str) -> bytes:
    head, _, text = url.partition(",")
    if not head.endswith(";base64") or len(text) > 4 * MAX_BYTES // 3 + 4:
        raise UnreadableImageError("Expected a data URL in base64 of 256 MB at most.")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # of characters beyond ASCII it is no binascii.Error
        raise UnreadableImageError("The data URL is no valid base64.") from error


def _name(file: object) -> str:
    name = file.get("orig_name") if isinstance(file, dict) else None
    return Path(name).name if isinstance(name, str) else ""


def _maskings(text: object) -> tuple[MaskingMode, ...]:
    return ALL_MASKINGS if text == "all" else (_one_masking(text),)


def _one_masking(text: object) -> MaskingMode:
    if text in list(ALL_MASKINGS):
        return MaskingMode(str(text))
    raise PromptError(
        f"Expected a masking out of {', '.join(ALL_MASKINGS)}, got {str(text)[:40]!r}."
    )


def _margin(margin: object) -> float:
    is_number = isinstance(margin, (int, float)) and not isinstance(margin, bool)
    if is_number and 0.0 <= float(str(margin)) <= MAX_MARGIN:
        return float(str(margin))
    raise PromptError(f"Expected a margin between 0 and {MAX_MARGIN}, got {str(margin)[:40]!r}.")


def _yes_or_no(picture: object) -> bool:
    if isinstance(picture, bool):
        return picture
    raise PromptError(f"Expected true or false for picture, got {str(picture)[:40]!r}.")


def _finding(text: object) -> str:
    """A finding's key, from its key or its name in any case."""
    asked = str(text).strip().casefold()
    for key in FINDING_KEYS:
        if asked in (key.casefold(), display_name(key).casefold()):
            return key
    raise PromptError(
        f"Expected a finding out of {', '.join(FINDING_KEYS)}, got {str(text)[:40]!r}."
    )


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
