"""An analysis as JSON and CSV: records that others may rely on."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from cxrdemo.gate import Doubt
from cxrdemo.labels import NOTICE
from cxrdemo.results import Analysis, LungMask, Reading, Side

SCHEMA: Final = "cxrdemo-analysis/1"


def analysis_to_json(analysis: Analysis, doubts: Sequence[Doubt] = ()) -> dict[str, Any]:
    """Everything but the arrays, in plain JSON types; a number that does not exist is null.

    Args:
        analysis: What was found.
        doubts: Why the image may not be one that the models can read, see `gate.check`.

    Returns:
        `schema`, `notice`, `doubts`, `source`, `lungs`, `maskings`, `checkpoints`, `seconds`,
        `warnings`.
        Areas are fractions of the image, 0..1, and mm2 too where the file gives spacing.
    """
    source = analysis.radiograph.source
    spacing = analysis.radiograph.spacing_mm
    return {
        "schema": SCHEMA,
        "notice": NOTICE,
        "doubts": [{"kind": doubt.kind, "message": doubt.message} for doubt in doubts],
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
        "maskings": {str(mode): _reading(r) for mode, r in analysis.readings.items()},
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


def error_to_json(error: Exception) -> dict[str, Any]:
    """The record of a file that could not be analysed."""
    return {
        "schema": SCHEMA,
        "notice": NOTICE,
        "error": {"kind": type(error).__name__, "message": str(error)},
    }


def write_json(record: dict[str, Any], path: Path) -> None:
    """Writes a record; NaN never gets into a file."""
    text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


CSV_FIELDS: Final = (
    "file",
    "masking",
    "label",
    "probability",
    "threshold",
    "above",
    "beats_chance",
    "no_finding",
    "cam_in_lung",
    "warnings",
    "error",
)


def rows_of(name: str, analysis: Analysis) -> list[dict[str, Any]]:
    """One row per masking and label, with the fields of `CSV_FIELDS`; an absent one is empty."""
    rows = []
    for mode, reading in analysis.readings.items():
        record = _reading(reading)
        for finding in record["findings"]:
            rows.append(
                {
                    "file": name,
                    "masking": str(mode),
                    **{key: finding[key] for key in finding if key in CSV_FIELDS},
                    "no_finding": record["no_finding"]["score"],
                    "cam_in_lung": record["cam_in_lung"][finding["label"]],
                    "warnings": " ".join(analysis.warnings),
                }
            )
    return rows or [{"file": name, "warnings": " ".join(analysis.warnings)}]


def write_csv(rows: Iterable[Mapping[str, Any]], path: Path) -> Path:
    """Writes rows of `CSV_FIELDS` and gives the path back.

    A text that a spreadsheet would take for a formula is quoted with an apostrophe.
    """
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, CSV_FIELDS)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _harmless(value) for key, value in row.items()})
    return path


def _harmless(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


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
    if spacing is not None:
        pixel_mm2 = spacing[0] * spacing[1]
        record["area_mm2"] = {
            "right": int(lungs.side(Side.RIGHT).sum()) * pixel_mm2,
            "left": int(lungs.side(Side.LEFT).sum()) * pixel_mm2,
        }
    return record


def _reading(reading: Reading) -> dict[str, Any]:
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
                "above": bool(findings.above[i]),
                "beats_chance": bool(findings.beats_chance[i]),
            }
            for i, label in enumerate(findings.labels)
        ],
        "no_finding": {
            "score": findings.no_finding,
            "rule": "1 - the highest of the probabilities",
        },
        "cam_in_lung": {
            label: None if math.isnan(share) else share
            for label, share in zip(findings.labels, reading.cam_in_lung, strict=True)
        },
    }
