"""A checkpoint's card in Markdown, from its manifest entry alone.

No figure can be typed by hand: a card is written anew whenever its entry changes, and a test
compares the bundled cards with their entries.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.figure_names import MACRO, WITHOUT_RSNA_NORMAL, FigureName
from cxrdemo.labels import FINDING_KEYS, NO_FINDING, display_name
from cxrdemo.specs import CheckpointSpec, Estimate, OperatingPoint, Sample
from training.measures.places import CONTRASTS
from training.sets.index import SPLITS, FindingCase, LungCase
from training.sets.tables import read_table
from training.writing import replacing

UNTRAINED: Final = "SMOKE TEST: not trained"
UNRECORDED: Final = "not recorded"

INTENDED: Final = {
    "lungs": "finding the lungs in frontal chest X-rays of adults, to mask them or to be corrected "
    "by hand, in research and teaching.",
    "findings": "showing how lung masking changes what a classifier does, in research and "
    "teaching; a start for training on more data.",
}
REFUSED: Final = (
    "Refused: diagnosis, triage, exclusion of disease, any decision about a patient; lateral "
    "views, children, other body parts, photographs of films; scores as ground truth for other "
    "work."
)
FAILURES: Final = {
    "lungs": (
        "Opaque lung (effusion, consolidation, collapse) may be left out, as it is in a part of "
        "the reference masks.",
        "Where a lung is cut in two, its smaller part is dropped.",
        "Bedside films, devices over the lungs, rotated patients, children and the state after "
        "lung surgery were rare in training or absent.",
    ),
    "findings": (
        "Labels were mined from reports (ChestX-ray14); radiologists disagree with a part of "
        "them. A figure measured on them carries that noise.",
        "The patients are one hospital's and enriched for findings; probabilities carry the "
        "prevalence of the validation patients, which is far above that of practice.",
        "Devices, markers, view and bedside films go with findings and may be what a score hangs "
        "on; masking does not prove that they are not.",
        "Children, lateral views and the state after lung surgery were not tested.",
    ),
}


def write_cards(store: CheckpointStore) -> list[Path]:
    """Writes the card of every checkpoint that a folder's manifest lists; returns their paths."""
    paths = []
    for spec in store.specs:
        path = store.folder / f"{spec.name}.md"
        with replacing(path) as draft:
            draft.write_text(make_card(spec), encoding="utf-8")
        paths.append(path)
    return paths


def make_card(spec: CheckpointSpec) -> str:
    """The card of one checkpoint."""
    about = (
        "Demo weights: trained on public samples, to show the software, not to read X-rays. What "
        "they are worth stands below."
    )
    if UNTRAINED in spec.trained_on:
        about = f"**{UNTRAINED}.** These weights find nothing; every figure below is noise."
    sections = [
        f"# {spec.name}\n",
        f"Research use only. Not a medical device. {about}\n",
        _facts(spec),
        f"## Use\n\n- Intended: {INTENDED[spec.task]}\n- {REFUSED}\n",
        _data(spec),
        _finding_figures(spec) if spec.labels else _lung_figures(spec),
        *((_places(spec), _calibration(spec), _operating_points(spec)) if spec.labels else ()),
        "## Known failures\n\n" + _items((*FAILURES[spec.task], *spec.notes)),
        _origin(spec),
    ]
    return "\n".join(section for section in sections if section)


def count_samples(
    folder: Path, cases: Sequence[FindingCase] | Sequence[LungCase]
) -> dict[str, Sample]:
    """What each split of a folder holds.

    Args:
        folder: With the `index.csv` that the cases were read from; its columns `view`, `sex` and
            `age` are used where it has them.
        cases: All cases of the folder.
    """
    table = read_table(folder / "index.csv", ())
    rows = {(row.get("image") or row["name"]).replace("\\", "/"): row for row in table}
    samples = {}
    for split in SPLITS:
        chosen = [case for case in cases if case.split == split]
        if not chosen:
            continue
        of_split = [rows[case.name] for case in chosen]
        ages = [float(row["age"]) for row in of_split if row.get("age")]
        findings = [case for case in chosen if isinstance(case, FindingCase)]
        positives = {
            key: sum(case.labels[key] == 1 for case in findings) for key in FINDING_KEYS if findings
        }
        if findings:
            positives[NO_FINDING.key] = sum(case.no_finding == 1 for case in findings)
        samples[split] = Sample(
            data=", ".join(dict.fromkeys(_set_name(row, folder) for row in of_split)),
            images=len(chosen),
            patients=len({case.person for case in chosen}),
            positives=positives,
            views=_counted(of_split, "view"),
            sexes=_counted(of_split, "sex"),
            ages=(min(ages), float(np.median(ages)), max(ages)) if ages else None,
        )
    return samples


def _set_name(row: Mapping[str, str], folder: Path) -> str:
    return row.get("set") or row.get("dataset") or folder.resolve().name


def _counted(rows: Sequence[Mapping[str, str]], column: str) -> dict[str, int]:
    return dict(sorted(Counter(row[column] for row in rows if row.get(column)).items()))


def _facts(spec: CheckpointSpec) -> str:
    height, width = spec.inputs.hw
    lines = [
        f"Architecture: {spec.architecture}, input {height} x {width} px",
        f"Trained on: {spec.trained_on}",
        f"Licence: {spec.licence}",
        f"File: `{spec.file}`, half precision, sha256 `{spec.sha256}`",
    ]
    if spec.masking is not None:
        lines.append(f"Masking: {spec.masking}")
    if spec.margin_range is not None:
        low, high = spec.margin_range
        lines.append(
            f"Loose margin: {spec.margin:.0%} of the lungs' height; trained from {low:.0%} to "
            f"{high:.0%}"
        )
    return _items(lines)


def _data(spec: CheckpointSpec) -> str:
    if not spec.samples:
        return ""
    words = {"train": "fitted to", "val": "chosen on", "test": "measured on"}
    if spec.labels:
        words["val"] = "calibrated on"
    rows = [
        (
            f"{words[split]} ({split})",
            sample.data,
            str(sample.images),
            str(sample.patients),
            _counts(sample.views, sample.images),
            _counts(sample.sexes, sample.images),
            _ages(sample),
        )
        for split, sample in spec.samples.items()
    ]
    text = "## Data\n\nSplit by patient: no patient is in two splits.\n\n"
    text += _table(("", "set", "images", "patients", "view", "sex", "age"), rows)
    keys = [key for key in (*FINDING_KEYS, NO_FINDING.key) if spec.labels]
    if keys:
        head = ("images with the label", *spec.samples)
        text += "\n" + _table(
            head,
            [
                (display_name(k), *(str(s.positives.get(k, 0)) for s in spec.samples.values()))
                for k in keys
            ],
        )
    return text


def _ages(sample: Sample) -> str:
    if sample.ages is None:
        return "unknown"
    youngest, median, oldest = sample.ages
    return f"{youngest:.0f} to {oldest:.0f}, median {median:.0f}"


def _counts(counts: Mapping[str, int], images: int) -> str:
    unknown = images - sum(counts.values())
    cells = [f"{count} {name}" for name, count in counts.items()]
    return ", ".join([*cells, f"{unknown} unknown"] if unknown else cells)


def _lung_figures(spec: CheckpointSpec) -> str:
    names = {
        "dice": "mean Dice",
        "iou": "mean IoU",
        "hd95_px": "mean HD95, px of the file",
        "hd95_mm": "mean HD95, mm",
    }
    rows = []
    for name, estimate in spec.metrics.items():
        figure = FigureName.parse(name)
        rows.append((figure.of, names[figure.measure], *_cells(estimate)))
    return (
        "## Figures on test patients\n\nOf the automatic mask at the image's own size; 95 % "
        "bootstrap intervals over patients; n images.\n\n"
        + _table(("set", "figure", "value", "95 % interval", "n"), rows)
    )


def _finding_figures(spec: CheckpointSpec) -> str:
    named = {
        **{FigureName("", key): display_name(key) for key in FINDING_KEYS},
        FigureName("", MACRO): "mean of the five",
        FigureName("", NO_FINDING.key): "No Finding, 1 - highest",
        FigureName("_product", NO_FINDING.key): "No Finding, product of complements",
    }
    columns = {
        "AUROC": FigureName("auroc"),
        "AUROC without `rsna_normal`": FigureName("auroc", subset=WITHOUT_RSNA_NORMAL),
        "average precision": FigureName("ap"),
    }

    def figure(row: FigureName, column: FigureName) -> Estimate | None:
        name = replace(column, measure=column.measure + row.measure, of=row.of)
        return spec.metrics.get(str(name))

    used = {w: c for w, c in columns.items() if any(figure(row, c) for row in named)}
    rows = [
        (words, *(_in_words(figure(row, column), 3) for column in used.values()))
        for row, words in named.items()
        if any(figure(row, column) for column in used.values())
    ]
    text = (
        "## Figures on test patients\n\nWith 95 % bootstrap intervals over patients; n images with "
        "the finding, of the mean n images. 0.5 is a chance AUROC; the chance average precision "
        "is the share of positives.\n\n" + _table(("finding", *used), rows)
    )
    if any(FigureName.parse(name).subset for name in spec.metrics):
        text += (
            "\n`rsna_normal` images were read as normal by the RSNA challenge's radiologists, "
            "whatever their label says.\n"
        )
    unproven = [
        display_name(label.key) for label in spec.by_finding if not spec.beats_chance(label.key)
    ]
    if unproven:
        text += (
            f"\n**Not shown to beat chance: {', '.join(unproven)}.** The app gives no verdict on "
            "them.\n"
        )
    return text


def _places(spec: CheckpointSpec) -> str:
    """Where heat lies, whether it shows planted lesions, and boxes."""
    heat = {
        "hottest_in_kept": "hottest cell in what was given",
        "hottest_in_lungs": "hottest cell in the lungs",
        "heat_in_kept": "heat in what was given",
        "cam_in_lung": "heat in the lungs",
    }
    shown = [name for name in heat if str(FigureName(name, MACRO)) in spec.metrics]
    if not shown:
        return ""
    rows = [
        (
            "mean of the five" if key == "macro" else display_name(key),
            *(_in_words(spec.metrics.get(str(FigureName(name, key))), 2) for name in shown),
        )
        for key in (*FINDING_KEYS, "macro")
    ]
    text = (
        "## Where the heat lies, on test patients\n\nOf Grad-CAM maps with any heat, n maps (of "
        "the mean n images). A cell is in a region from half of it on.\n\n"
        + _table(("finding", *(heat[name] for name in shown)), rows)
    )
    planted = [key for key in FINDING_KEYS if str(FigureName("planted_hit", key)) in spec.metrics]
    if planted:
        measures = {
            "planted_hit": "hottest cell on it",
            "planted_rise": "median rise of the logit",
            "planted_crossing": "newly called",
            "control_rise": "rise, planted beside the lungs",
            "control_crossing": "newly called, beside the lungs",
        }
        names = [FigureName.parse(name) for name in spec.metrics]
        conditions = sorted(n.at for n in names if (n.measure, n.of) == ("planted_hit", planted[0]))
        rows = [
            (
                display_name(key),
                condition or f"all, contrast {CONTRASTS[-1]:g}",
                *(
                    _in_words(spec.metrics[name], 2)
                    if (name := str(FigureName(measure, key, condition))) in spec.metrics
                    else ""
                    for measure in measures
                ),
            )
            for key in planted
            for condition in conditions
        ]
        text += (
            "\nLesions planted into test images without mass or nodule, drawn as in training; n "
            "trials. On it: within half a cell.\n\n"
            + _table(("planted", "which", *measures.values()), rows)
        )
    boxes = [key for key in FINDING_KEYS if str(FigureName("box_hit", key)) in spec.metrics]
    lines = [
        f"{display_name(key)}: hottest cell on the box "
        f"{_in_words(spec.metrics[str(FigureName('box_hit', key))], 2)}; a random kept cell "
        f"{spec.metrics[str(FigureName('box_chance', key))].value:.2f}"
        for key in boxes
    ]
    if lines:
        text += "\nBoxes that radiologists drew, with exact intervals; n boxes:\n\n" + _items(lines)
    return text


def _calibration(spec: CheckpointSpec) -> str:
    measures = ("ece_raw", "ece", "brier_raw", "brier")
    keys = [key for key in (*FINDING_KEYS, "macro") if str(FigureName("ece", key)) in spec.metrics]
    if not keys:
        return ""
    rows = [
        (
            "mean of the five" if key == "macro" else display_name(key),
            *(
                _in_words(spec.metrics.get(str(FigureName(measure, key))), 3, count=False)
                for measure in measures
            ),
        )
        for key in keys
    ]
    n = spec.metrics[str(FigureName("ece", keys[0]))].n
    return (
        f"## Calibration on test patients\n\nExpected calibration error and Brier score before "
        f"(bare sigmoid) and after calibration; n = {n} images. Resampling raises an ECE a little, "
        "so a small one may lie below its interval.\n\n"
        + _table(("finding", "ECE before", "ECE after", "Brier before", "Brier after"), rows)
    )


def _operating_points(spec: CheckpointSpec) -> str:
    rules = "".join(f"- {point.name}: {point.rule}\n" for point in spec.by_finding[0].points)
    rows = [
        (
            display_name(label.key),
            " = ".join(point.name for point in alike),
            f"{alike[0].threshold:.3f}",
            _in_words(alike[0].sensitivity, 2),
            _in_words(alike[0].specificity, 2),
            _in_words(alike[0].likelihood_ratio, 1, count=False),
        )
        for label in spec.labels
        for alike in _coinciding(label.points)
    ]
    return (
        "## Operating points\n\nThresholds from validation patients, rates from test patients.\n\n"
        f"{rules}\n"
        + _table(
            ("finding", "point", "threshold", "sensitivity", "specificity", "likelihood ratio"),
            rows,
        )
    )


def _coinciding(points: Sequence[OperatingPoint]) -> list[list[OperatingPoint]]:
    """Points in order, those of one threshold together."""
    return [
        [p for p in points if p.threshold == t] for t in dict.fromkeys(p.threshold for p in points)
    ]


def _origin(spec: CheckpointSpec) -> str:
    origin = spec.origin
    time = UNRECORDED if origin.seconds is None else f"{origin.seconds / 3600:.2f} h wall clock"
    text = "## How it was made\n\n" + _items(
        (
            f"Training time of the last run: {time}",
            f"Hardware: {origin.hardware or UNRECORDED}",
            f"Commit: {origin.commit or UNRECORDED}",
            f"Command: {f'`{origin.command}`' if origin.command else UNRECORDED}",
        )
    )
    if origin.settings:
        text += f"\n```json\n{json.dumps(origin.settings, indent=1)}\n```\n"
    return text


def _items(lines: Sequence[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(estimate: Estimate) -> tuple[str, str, str]:
    return (
        f"{estimate.value:.3f}",
        f"{estimate.low:.3f} to {estimate.high:.3f}",
        str(estimate.n),
    )


def _in_words(estimate: Estimate | None, digits: int, *, count: bool = True) -> str:
    return "not measured" if estimate is None else estimate.words(digits, count=count)
