"""Command `experiment`: lung masking x backbone x seed, the reference's table.

For every backbone and seed: pretraining where the preset has it, a classifier per masking, their
publication and evaluation, by the same commands as `reproduce`, each printed and none run twice.
Then one table: `experiment.md`, `experiment.json` and `experiment.html`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from cxrdemo.commands.numbers import number
from cxrdemo.figure_names import MACRO, WITHOUT_RSNA_NORMAL, FigureName
from cxrdemo.labels import FINDING_KEYS, NO_FINDING, display_name
from cxrdemo.results import MaskingMode
from cxrdemo.specs import Estimate
from training.commands import evaluate
from training.commands.chain import Step, describe, on_device, publication, run_chain
from training.commands.flags import add_device_argument
from training.commands.reproduce import PRESETS, Preset
from training.engine.record import drawn_images, read_record
from training.engine.run_folder import RunFolder
from training.engine.starts import STARTS
from training.errors import DataError
from training.images.stored_masks import QUALITY_NAME
from training.measures.figures import json_ready
from training.reports import page as report
from training.sets.boxes import BOXES_NAME
from training.sets.index import read_finding_index
from training.writing import replacing

MEAN: Final = str(FigureName("auroc", MACRO))

COLUMNS: Final = {
    MEAN: "macro AUROC",
    **{str(FigureName("auroc", key)): display_name(key) for key in FINDING_KEYS},
    str(FigureName("auroc", NO_FINDING.key)): "No Finding, 1 - highest",
    str(FigureName("auroc_product", NO_FINDING.key)): "No Finding, product",
}
"""Figures of the table, in order."""


@dataclass(frozen=True)
class Row:
    """One trained classifier.

    Attributes:
        backbone: Architecture.
        seed: Of its training.
        masking: Of its images.
        figures: By the names of `COLUMNS`, on test patients.
        seconds: Wall-clock time of its training, start and validation counted; None if unknown.
        images_per_second: Training images drawn per second of that time.
    """

    backbone: str
    seed: int
    masking: str
    figures: Mapping[str, Estimate]
    seconds: float | None
    images_per_second: float | None


@dataclass(frozen=True)
class Group:
    """The classifiers of one backbone and seed: what is compared on the same resamples."""

    backbone: str
    seed: int
    out: Path

    @property
    def name(self) -> str:
        """Fit for a folder."""
        return f"{self.backbone.replace('/', '-')}-seed{self.seed}"

    def run(self, mode: MaskingMode) -> Path:
        """The run folder of one masking."""
        return self.out / "runs" / f"{self.name}-{mode}"

    @property
    def checkpoints(self) -> Path:
        """The checkpoint folder."""
        return self.out / "checkpoints" / self.name

    @property
    def evaluation(self) -> Path:
        """The folder of metrics and page."""
        return self.out / "evaluation" / self.name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--data", type=Path, required=True, help="folder of findings, index.csv")
    parser.add_argument("--extra", type=Path, help="further folder, for presets that pretrain")
    parser.add_argument("--masks", type=Path, help="lung masks of --data; default: made first")
    parser.add_argument(
        "--checkpoints",
        type=Path,
        default=Path("checkpoints"),
        help="folder of the segmenter that makes the masks",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument(
        "--preset", choices=tuple(PRESETS), default="paper", help="settings of the training"
    )
    parser.add_argument(
        "--backbones", nargs="+", default=["resnet50"], metavar="NAME", help="as of `classify`"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=number(int, 0), default=[0], help="one training each"
    )
    parser.add_argument(
        "--maskings",
        nargs="+",
        choices=[str(mode) for mode in MaskingMode],
        default=[str(mode) for mode in MaskingMode],
        help="which to compare",
    )
    parser.add_argument(
        "--init",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="published weights to start a backbone from, such as "
        "resnet50=resnet50-11ad3fa6.pth; default: from scratch",
    )
    add_device_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="print every command; train nothing")


def run(args: argparse.Namespace) -> None:
    """Runs what is not finished and writes the table of all."""
    out = args.out.resolve()
    modes = [mode for mode in MaskingMode if str(mode) in args.maskings]
    groups = [Group(name, seed, out) for name in args.backbones for seed in args.seeds]
    starts = _starts(args.init, args.backbones)
    steps = plan(
        PRESETS[args.preset],
        args.data.resolve(),
        groups,
        modes,
        extra=args.extra.resolve() if args.extra else None,
        mask_folder=args.masks.resolve() if args.masks else None,
        segmenter=args.checkpoints.resolve(),
        starts=starts,
    )
    run_chain(on_device(steps, args.device), out, dry=args.dry_run)
    if args.dry_run:
        return
    facts = {
        "data": args.data.resolve().name,
        "preset": args.preset,
        "settings": " ".join(PRESETS[args.preset].classify),
        "start": "; ".join(
            f"{name} from {_begun(PRESETS[args.preset], name, starts)}" for name in args.backbones
        ),
    }
    for path in write_table(out, facts, groups, modes):
        print(path)


def plan(
    preset: Preset,
    data: Path,
    groups: Sequence[Group],
    modes: Sequence[MaskingMode],
    *,
    segmenter: Path,
    extra: Path | None = None,
    mask_folder: Path | None = None,
    starts: Mapping[str, Path] | None = None,
) -> list[Step]:
    """The commands in order.

    Args:
        preset: Settings of pretraining, training and measuring.
        data: Folder of findings.
        groups: Backbones and seeds.
        modes: Maskings.
        segmenter: Checkpoint folder, to make masks with.
        extra: Further images for the pretraining.
        mask_folder: Of `data`; None to make them.
        starts: Weights to start from, by backbone.

    Raises:
        DataError: If an index is missing or malformed.
    """
    steps: list[Step] = []
    if mask_folder is None:
        mask_folder = groups[0].out / "masks"
        made = ("--data", str(data), "--checkpoints", str(segmenter), "--out", str(mask_folder))
        steps.append(Step("masks", "masks", made, mask_folder / QUALITY_NAME))
    measured: tuple[str, ...] = ("--data", str(data), "--masks", str(mask_folder))
    trained_on = describe(read_finding_index(data))
    if extra is not None:
        trained_on += "; pretrained on " + describe(read_finding_index(extra))
    # A table of experiments shows what failed too.
    marked = "--allow-untrained" if preset.makes_data else "--allow-worse-than-chance"
    boxes = data / BOXES_NAME
    for group in groups:
        start = (starts or {}).get(group.backbone)
        begun = trained_on
        shared: tuple[str, ...] = (*measured, "--seed", str(group.seed))
        shared += ("--backbone", group.backbone)
        if boxes.is_file():
            shared += ("--boxes", str(boxes))
        if extra is not None:
            shared += ("--extra", str(extra))
        if preset.pretrain is not None:
            folder = group.out / "runs" / f"{group.name}-pretrain"
            init: tuple[str, ...] = ("--init", str(start)) if start else ()
            if start is None and preset.start is not None:
                learnt = _learnt(group.backbone)
                init = ("--start", learnt)
                begun += f"; begun from {STARTS[learnt].words}"
            start = RunFolder(folder).network
            flags = (*shared, *init, "--out", str(folder), *preset.pretrain)
            steps.append(Step(f"pretrain-{group.name}", "pretrain", flags, start))
        words = ("--trained-on", begun, "--licence", preset.licence, *preset.measure, marked)
        for mode in modes:
            target = group.run(mode)
            init = ("--init", str(start)) if start else ()
            flags = ("--masking", str(mode), *shared, *init, "--out", str(target))
            output = RunFolder(target).network
            name = f"classify-{target.name}"
            steps.append(Step(name, "classify", (*flags, *preset.classify), output))
            steps.append(publication(target, group.checkpoints, *measured, *words))
        given = ("--task", "findings", *measured, "--checkpoints", str(group.checkpoints))
        given = (*given, "--out", str(group.evaluation), *preset.measure)
        output = group.evaluation / evaluate.METRICS_NAME
        steps.append(Step(f"evaluate-{group.name}", "evaluate", given, output))
    return steps


def write_table(
    out: Path, facts: Mapping[str, Any], groups: Sequence[Group], modes: Sequence[MaskingMode]
) -> list[Path]:
    """Writes Markdown, JSON and HTML of what the groups' evaluations found; returns their paths."""
    rows: list[Row] = []
    differences: dict[str, Estimate] = {}
    for group in groups:
        path = group.evaluation / evaluate.METRICS_NAME
        figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
        rows += [_row(group, mode, figures[str(mode)]) for mode in modes]
        for suffix in ("", f"_{WITHOUT_RSNA_NORMAL}"):
            found = figures.get(f"differences{suffix}", {})
            differences |= {
                f"{group.name}: {name}{suffix}": Estimate.from_json(v) for name, v in found.items()
            }
    tables = [
        report.Table("Test patients", *_figure_table(rows)),
        report.Table("Training", *_time_table(rows)),
    ]
    if differences:
        tables.append(report.Table("Paired differences", *_difference_table(differences)))
    if len({row.seed for row in rows}) > 1:
        tables.insert(1, report.Table("Mean over seeds (lowest to highest)", *_seed_table(rows)))
    note = (
        "Research use only. Figures are AUROCs with 95 % bootstrap intervals over test patients; n "
        "images with the finding, for the mean n images. Differences are of maskings on the same "
        "resamples. Time is wall clock with start and validation."
    )
    markdown = f"# Experiment: masking x backbone\n\n{note}\n\n"
    markdown += "".join(f"- {name}: {value}\n" for name, value in facts.items())
    markdown += "".join(f"\n## {t.title}\n\n{report.markdown_table(t)}" for t in tables)
    written = {
        "schema": 1,
        **facts,
        "rows": [{**asdict(row), "figures": json_ready({"": row.figures})[""]} for row in rows],
        "differences": json_ready({"": differences})[""],
    }
    forest = report.forest(
        [(f"{r.backbone}, {r.masking}, seed {r.seed}", r.figures[MEAN]) for r in rows],
        caption="Macro AUROC on test patients, 95 % interval",
    )
    sections = [report.Section(t.title, "", (), table=t) for t in tables]
    sections.insert(1, report.Section("Macro AUROC", note, (forest,)))
    page = report.make_page("Experiment: masking x backbone", facts, {}, (), sections)
    paths = [out / f"experiment.{suffix}" for suffix in ("md", "json", "html")]
    texts = (markdown, json.dumps(written, indent=1, allow_nan=False) + "\n", page)
    for path, text in zip(paths, texts, strict=True):
        with replacing(path) as draft:
            draft.write_text(text, encoding="utf-8")
    return paths


def _starts(given: Sequence[str], backbones: Sequence[str]) -> dict[str, Path]:
    """Published weights to start from, by backbone."""
    starts = {}
    for words in given:
        backbone, _, file = words.partition("=")
        if backbone not in backbones:
            raise DataError(f"--init names {backbone!r}, which is none of {list(backbones)}.")
        if not Path(file).is_file():
            raise DataError(f"--init {words}: there is no file {file!r}.")
        starts[backbone] = Path(file).resolve()
    return starts


def _begun(preset: Preset, backbone: str, starts: Mapping[str, Path]) -> str:
    """What a backbone begins from, in words."""
    if backbone in starts:
        return starts[backbone].name
    has_learnt = preset.pretrain is not None and preset.start is not None
    return STARTS[_learnt(backbone)].words if has_learnt else "random weights"


def _learnt(backbone: str) -> str:
    """The learnt weights that fit a backbone, for presets that begin from such.

    Raises:
        DataError: If there are none, as a table of learnt and random starts compares neither.
    """
    for name, start in STARTS.items():
        if backbone in start.backbones:
            return name
    raise DataError(
        f"This preset begins from learnt weights, and there are none for {backbone}. Give some as "
        f"--init {backbone}=FILE."
    )


def _row(group: Group, mode: MaskingMode, figures: Mapping[str, Any]) -> Row:
    run = group.run(mode)
    record = read_record(run)
    settings = RunFolder(run).read_settings()
    # A session that was killed took time that nobody counted.
    seconds = record.seconds if record is not None and not record.unfinished else None
    drawn = drawn_images(settings)
    return Row(
        backbone=group.backbone,
        seed=group.seed,
        masking=str(mode),
        figures={name: Estimate.from_json(figures[name]) for name in COLUMNS},
        seconds=seconds,
        images_per_second=drawn / seconds if drawn and seconds else None,
    )


def _figure_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    head = ["backbone", "masking", "seed", *COLUMNS.values()]
    return head, [
        [r.backbone, r.masking, str(r.seed), *(r.figures[name].words() for name in COLUMNS)]
        for r in rows
    ]


def _seed_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    head = ["backbone", "masking", "seeds", *COLUMNS.values()]
    cells = []
    for backbone, masking in dict.fromkeys((r.backbone, r.masking) for r in rows):
        chosen = [r for r in rows if (r.backbone, r.masking) == (backbone, masking)]
        line = [backbone, masking, str(len(chosen))]
        for name in COLUMNS:
            values = [r.figures[name].value for r in chosen]
            line.append(f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        cells.append(line)
    return head, cells


def _time_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    head = ["backbone", "masking", "seed", "training time, min", "training images per s"]
    return head, [
        [
            r.backbone,
            r.masking,
            str(r.seed),
            "not recorded" if r.seconds is None else f"{r.seconds / 60:.1f}",
            "not recorded" if r.images_per_second is None else f"{r.images_per_second:.1f}",
        ]
        for r in rows
    ]


def _difference_table(
    differences: Mapping[str, Estimate],
) -> tuple[list[str], list[list[str]]]:
    return ["difference", "value"], [[n, v.words()] for n, v in differences.items()]
