"""An analysis as JSON, CSV, arrays and one ZIP: records that others may rely on.

The JSON is described by docs/analysis.schema.json, against which the tests check it.
"""

import csv
import io
import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cxrdemo import __version__
from cxrdemo.labels import NOTICE, SYNTHETIC
from cxrdemo.rendering import encode_png, figure_png
from cxrdemo.results import Analysis, LungMask, MaskingMode, Side

SCHEMA: Final = "cxrdemo-analysis/2"


def analysis_to_json(analysis: Analysis, *, name: str = "", sha256: str = "") -> dict[str, Any]:
    """Everything but the arrays, in plain JSON types; a number that does not exist is null.

    Args:
        analysis: What was found.
        name: Of the file, as the user would recognise it; empty if it is not known.
        sha256: Of the file's bytes, lower-case hex; empty if it is not known.

    Returns:
        `schema`, `notice`, `app`, `date`, `input`, `doubts`, `source`, `lungs`, `maskings`,
        `checkpoints`, `seconds`, `warnings`.
        Areas are fractions of the image, 0..1, and mm2 too where the file gives spacing.
    """
    source = analysis.radiograph.source
    spacing = analysis.radiograph.spacing_mm
    return {
        **_head(name, sha256),
        "doubts": [{"kind": doubt.kind, "message": doubt.message} for doubt in analysis.doubts],
        "source": {
            "kind": source.kind,
            "bit_depth": source.bit_depth,
            "size": {"height": analysis.radiograph.hw[0], "width": analysis.radiograph.hw[1]},
            "spacing_mm": None if spacing is None else {"row": spacing[0], "column": spacing[1]},
            "view": analysis.radiograph.view,
            "steps": list(source.steps),
            "tags": dict(source.tags),
        },
        "lungs": None if analysis.lungs is None else _lungs(analysis.lungs, spacing),
        "maskings": {str(mode): _reading(analysis, mode) for mode in analysis.readings},
        "checkpoints": [
            {
                "role": use.role,
                "name": use.name,
                "sha256": use.sha256,
                "precision": use.precision,
            }
            for use in analysis.checkpoints
        ],
        "seconds": {stage: round(value, 4) for stage, value in analysis.seconds.items()},
        "warnings": list(analysis.warnings),
    }


def error_to_json(error: Exception, *, name: str = "", sha256: str = "") -> dict[str, Any]:
    """The record of a file that could not be analysed."""
    return {
        **_head(name, sha256),
        "error": {"kind": type(error).__name__, "message": str(error)},
    }


def _head(name: str, sha256: str) -> dict[str, Any]:
    """What every record begins with: what it is, who wrote it when, and of which file."""
    return {
        "schema": SCHEMA,
        "notice": NOTICE,
        "app": {"name": "cxrdemo", "version": __version__},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": {"name": name or None, "sha256": sha256 or None},
    }


def json_bytes(record: Mapping[str, Any], *, indent: int | None = 1) -> bytes:
    """A record as UTF-8 text; NaN never gets into it.

    A name that is not UTF-8 on the disk keeps its odd bytes as escapes of JSON.

    Args:
        record: Of an analysis or of an error.
        indent: None puts everything on one line, as JSON Lines wants it.
    """
    text = json.dumps(record, indent=indent, allow_nan=False, ensure_ascii=False)
    if not _is_text(text):
        text = json.dumps(record, indent=indent, allow_nan=False)
    return (text + "\n").encode()


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


CSV_FIELDS: Final = (
    "file",
    "sha256",
    "masking",
    "label",
    "probability",
    "threshold",
    "above",
    "beats_chance",
    "no_finding",
    "cam_in_lung",
    "hottest_x",
    "hottest_y",
    "hottest_in_lungs",
    "margin",
    "doubts",
    "warnings",
    "error",
)


def rows_of(name: str, analysis: Analysis) -> list[dict[str, Any]]:
    """`rows_of_record` of an analysis that is not written as JSON."""
    return rows_of_record(analysis_to_json(analysis, name=name))


def rows_of_record(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per masking and label, with the fields of `CSV_FIELDS`; an absent one is empty.

    Args:
        record: Of an analysis or of an error; either has one row at least.
    """
    common = {
        "file": record["input"]["name"],
        "sha256": record["input"]["sha256"],
        "doubts": " ".join(doubt["message"] for doubt in record.get("doubts", ())),
        "warnings": " ".join(record.get("warnings", ())),
        "error": record.get("error", {}).get("message"),
    }
    rows = [
        {
            **common,
            "masking": mode,
            **{key: value for key, value in finding.items() if key in CSV_FIELDS},
            "no_finding": reading["no_finding"]["score"],
            "cam_in_lung": reading["cam_in_lung"][finding["label"]],
            **_hottest(reading["heat"][finding["label"]]),
            "margin": reading["margin"],
        }
        for mode, reading in record.get("maskings", {}).items()
        for finding in reading["findings"]
    ]
    return rows or [common]


def _hottest(heat: Mapping[str, Any]) -> dict[str, Any]:
    x, y = heat["hottest"] or (None, None)
    return {"hottest_x": x, "hottest_y": y, "hottest_in_lungs": heat["hottest_in_lungs"]}


def write_csv(rows: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """Writes rows of `CSV_FIELDS` and gives the path back.

    A text that a spreadsheet would take for a formula is quoted with an apostrophe.
    """
    # A file's name may hold bytes that are no text.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.DictWriter(stream, CSV_FIELDS)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _harmless(value) for key, value in row.items()})
    return path


def _harmless(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


def mask_png(lungs: LungMask) -> bytes:
    """PNG of both lungs at the image's size: 255 inside, 0 outside."""
    return encode_png(lungs.inside.astype(np.uint8) * np.uint8(255))


def label_mask_png(lungs: LungMask) -> bytes:
    """PNG of the sides at the image's size: 0 outside, 1 the patient's right lung, 2 the left."""
    return encode_png(lungs.sides)


def heat_npz(analysis: Analysis) -> bytes:
    """The raw heat of every masking and label, for `numpy.load`.

    Returns:
        A `.npz` of `<masking>/<label>`, float32 (h, w) >= 0 over the classifier's canvas, and
        `<masking>/placement`, int64 (4, 2) of heights and widths: the image's size, the canvas's,
        that of the image inside the canvas, and its offset there.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for mode, reading in analysis.readings.items():
        for heat in reading.saliency:
            arrays[f"{mode}/{heat.label}"] = heat.grid
            where = heat.placement
            arrays[f"{mode}/placement"] = np.array(
                [where.source_hw, where.target_hw, where.content_hw, where.offset_hw], np.int64
            )
    stream = io.BytesIO()
    # The stubs take the names of the arrays for `allow_pickle`.
    np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def case_archive(analysis: Analysis, *, name: str = "", sha256: str = "") -> bytes:
    """All that is known about one image, in one ZIP. The image itself is not in it.

    Args:
        analysis: What was found.
        name: Of the file.
        sha256: Of the file's bytes.

    Returns:
        A ZIP of `analysis.json` and `figure.png`; with lungs `mask.png` and `labels.png`; with
        readings `heat.npz`. The same analysis gives the same bytes but for the date.
    """
    parts = {
        "analysis.json": json_bytes(analysis_to_json(analysis, name=name, sha256=sha256)),
        "figure.png": figure_png(analysis),
    }
    if analysis.lungs is not None:
        parts["mask.png"] = mask_png(analysis.lungs)
        parts["labels.png"] = label_mask_png(analysis.lungs)
    if analysis.readings:
        parts["heat.npz"] = heat_npz(analysis)
    # A mask and a grid of numbers have no room for the word.
    mark = f"{SYNTHETIC}-" if analysis.radiograph.source.synthetic else ""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content in parts.items():
            archive.writestr(zipfile.ZipInfo(mark + file), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _lungs(lungs: LungMask, spacing: tuple[float, float] | None) -> dict[str, Any]:
    quality = lungs.quality
    areas: dict[str, Any] = {
        "both": quality.area_fraction,
        "right": quality.right_fraction,
        "left": quality.left_fraction,
    }
    record = {
        "area_fraction": areas,
        "quality": {
            "predicted_iou": quality.predicted_iou,
            "components": quality.components,
            "clipped_edges": list(quality.clipped_edges),
            "asymmetry": quality.asymmetry,
            "is_plausible": quality.is_plausible,
        },
        "warnings": list(quality.reasons),
    }
    # A file may state a spacing that no area can be told in.
    pixel_mm2 = math.inf if spacing is None else spacing[0] * spacing[1]
    if math.isfinite(pixel_mm2 * lungs.sides.size):
        record["area_mm2"] = {
            "right": int(lungs.side(Side.RIGHT).sum()) * pixel_mm2,
            "left": int(lungs.side(Side.LEFT).sum()) * pixel_mm2,
        }
    return record


def _reading(analysis: Analysis, mode: MaskingMode) -> dict[str, Any]:
    reading = analysis.readings[mode]
    findings = reading.findings
    return {
        "margin": reading.margin,
        "kept_fraction": float(np.mean(reading.kept)),
        "findings": [
            {
                "label": label,
                "logit": float(findings.logits[i]),
                "probability": float(findings.probabilities[i]),
                "threshold": float(findings.thresholds[i]),
                "above": analysis.verdict(mode, i),
                "beats_chance": bool(findings.beats_chance[i]),
            }
            for i, label in enumerate(findings.labels)
        ],
        "no_finding": {
            "score": findings.no_finding,
            "rule": "1 - the highest of the probabilities",
        },
        "cam_in_lung": {
            label: place.in_lungs
            for label, place in zip(findings.labels, reading.places, strict=True)
        },
        "heat": {
            heat.label: {"grid": _cells(heat.grid), **asdict(place)}
            for heat, place in zip(reading.saliency, reading.places, strict=True)
        },
    }


def _cells(grid: NDArray[np.float32]) -> list[list[float]]:
    """Rows of a map, to the digits that it has."""
    return [[float(f"{value:.6g}") for value in row] for row in grid]
