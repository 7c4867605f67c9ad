"""Command `publish`: a run folder becomes a checkpoint with spec, card and manifest entry.

Weights are rounded to half precision first and measured as published. Calibration and thresholds
come from the validation patients, every figure in the card from the test patients. A checkpoint
folder can be pushed to a repository on the Hugging Face Hub.
"""

import argparse
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file

from cxrdemo.backbones import build_network, keep_outputs, output_layer
from cxrdemo.checkpoints import CheckpointStore, file_sha256, load_strictly, read_weights
from cxrdemo.classifier import FindingClassifier
from cxrdemo.commands.numbers import number
from cxrdemo.devices import resolve
from cxrdemo.figure_names import FigureName
from cxrdemo.inputs import InputSpec
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.masking import DEFAULT_MARGIN
from cxrdemo.results import MaskingMode
from cxrdemo.sam import ARCHITECTURES as SEGMENTERS
from cxrdemo.segmenter import LungSegmenter
from cxrdemo.specs import CheckpointSpec, LabelSpec, Origin
from training.commands.calibrate import (
    add_method_argument,
    add_place_arguments,
    check_place_arguments,
    places_of,
)
from training.commands.classify import input_spec
from training.commands.flags import add_device_argument
from training.engine.record import read_record
from training.engine.run_folder import RunFolder
from training.errors import DataError
from training.images.findings import MARGIN_RANGE, OUTPUTS
from training.measures.calibration import calibrate, with_figures
from training.measures.figures import lung_figures
from training.measures.scoring import measure_lungs, run_classifier
from training.measures.statistics import RESAMPLES
from training.reports.cards import UNTRAINED, count_samples, write_cards
from training.reports.hub import push
from training.sets.index import read_finding_index, read_lung_index
from training.writing import replacing

WORST_CASES: Final = 5
OWN_CHECKPOINTS: Final = Path(__file__).resolve().parents[2] / "checkpoints"
PATH_SETTINGS: Final = ("data", "extra", "masks", "boxes", "out", "init")
MACHINE_SETTINGS: Final = ("device", "logger")
"""Of the machine and not of the weights: no card tells them."""

NEEDED_WITH_RUN: Final = ("data", "trained_on", "licence")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--run", type=Path, help="folder of a finished run to publish")
    parser.add_argument("--data", type=Path, help="folder to measure on; needed with --run")
    parser.add_argument("--masks", type=Path, help="lung masks of --data, for loose and tight")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), help="folder with manifest.json"
    )
    parser.add_argument(
        "--version", type=number(int, 1), default=1, help="of the model: name.vVERSION"
    )
    parser.add_argument("--trained-on", help="data sets and counts, for the card; with --run")
    parser.add_argument("--licence", help="of the weights, for the card; with --run")
    add_method_argument(parser)
    add_place_arguments(parser)
    add_device_argument(parser)
    parser.add_argument(
        "--resamples", type=number(int, 1), help=f"of the bootstrap; default: {RESAMPLES}"
    )
    parser.add_argument(
        "--cards", action="store_true", help="write the cards of --checkpoints anew"
    )
    parser.add_argument(
        "--push-to", metavar="OWNER/NAME", help="then upload --checkpoints to this Hub repository"
    )
    parser.add_argument("--private", action="store_true", help="make the Hub repository private")
    parser.add_argument(
        "--allow-untrained",
        action="store_true",
        help="SMOKE TESTS ONLY: publish weights that find nothing, uncalibrated and marked so, "
        "into a folder that holds no other kind",
    )
    parser.add_argument(
        "--allow-worse-than-chance",
        action="store_true",
        help="EXPERIMENTS: keep a finding that validation ranks worse than chance, uncalibrated "
        "and marked so; not into the project's own folder",
    )


def run(args: argparse.Namespace) -> None:
    """Publishes one run and prints its card; writes cards; pushes the folder."""
    if args.run is None and not (args.cards or args.push_to):
        raise DataError("Say what to publish: --run, --cards or --push-to.")
    if args.run is not None:
        _publish(args)
    if args.cards:
        for path in write_cards(CheckpointStore.open(args.checkpoints)):
            print(path)
    if args.push_to:
        print(push(args.checkpoints, args.push_to, private=args.private))


def _publish(args: argparse.Namespace) -> None:
    missing = [f"--{name.replace('_', '-')}" for name in NEEDED_WITH_RUN if not getattr(args, name)]
    if missing:
        raise DataError(f"With --run, give {', '.join(missing)} too.")
    run = RunFolder(args.run)
    if not run.settings.is_file() or not run.has_finished:
        raise DataError(f"{args.run} is no finished run: settings.json or the weights are missing.")
    check_place_arguments(args)
    settings = run.read_settings()
    args.checkpoints.mkdir(parents=True, exist_ok=True)
    if args.allow_untrained:
        _refuse_to_mix(args.checkpoints)
    if args.allow_worse_than_chance and args.checkpoints.resolve() == OWN_CHECKPOINTS:
        raise DataError(f"Weights worse than chance are not published into {args.checkpoints}.")
    publish = _publish_classifier if "masking" in settings else _publish_segmenter
    spec = replace(
        publish(args, settings, read_weights(run.network)), origin=_origin(args.run, settings)
    )
    # Only now: what was refused above leaves nothing behind.
    store, spec = list_checkpoint(args.checkpoints, spec, args.run / spec.file)
    for path in write_cards(replace(store, specs=(spec,))):
        print(path.read_text(encoding="utf-8"))


def list_checkpoint(
    folder: Path, spec: CheckpointSpec, weights: Path
) -> tuple[CheckpointStore, CheckpointSpec]:
    """Takes weights into a checkpoint folder, in place of another version of the same model.

    Whenever this is killed, the folder is the old one or the new one: the manifest changes in one
    step, after the new file is there whole and before the old one goes. So the new one has a name
    that the manifest lists for no other content.

    Args:
        folder: With a manifest, or without one.
        spec: Of the weights; its `file` is the name that is wanted.
        weights: The file, which is moved.

    Returns:
        The folder's store, and the spec with the name that the file was given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = CheckpointStore.open_or_begin(folder)
    taken = {s.file for s in store.specs if s.sha256 != spec.sha256}
    if spec.file in taken:
        spec = replace(spec, file=f"{spec.name}.{spec.sha256[:12]}.safetensors")
    with replacing(folder / spec.file) as draft:
        shutil.copyfile(weights, draft)
    replaced = [s for s in store.specs if s.name == spec.name and s.file != spec.file]
    others = [s for s in store.specs if _model(s) != _model(spec)]
    store = replace(store, specs=tuple(sorted((*others, spec), key=lambda s: s.name)))
    store.save()
    weights.unlink()
    # Another version's file stays: it has a name of its own.
    for old in replaced:
        (folder / old.file).unlink(missing_ok=True)
    return store, spec


def _model(spec: CheckpointSpec) -> tuple[str, MaskingMode | None]:
    """Of which a folder lists one: the segmenter, or the classifier of a masking."""
    return spec.task, spec.masking


def _origin(run: Path, settings: Mapping[str, Any]) -> Origin:
    """How a run was made. Folders by name alone: where they lay means nothing elsewhere."""
    shown = {
        k: _name(v) if k in PATH_SETTINGS else v
        for k, v in settings.items()
        if k not in MACHINE_SETTINGS
    }
    record = read_record(run)
    if record is None:
        return Origin(shown)
    words = [Path(word).name if "/" in word else word for word in shlex.split(record.command)]
    hardware = record.hardware
    if record.unfinished:
        hardware += f"; time without that of {record.unfinished} killed sessions"
    return Origin(shown, shlex.join(words), record.commit, hardware, record.seconds)


def _name(value: Any) -> Any:
    """A path, or each path of a list, by its name alone."""
    if isinstance(value, list):
        return [_name(item) for item in value]
    return Path(value).name if value else value


def _refuse_to_mix(folder: Path) -> None:
    """Keeps smoke-test weights out of every folder that somebody may take for real.

    Raises:
        DataError: If it is the project's own, or lists weights of another kind.
    """
    listed = CheckpointStore.open_or_begin(folder).specs
    others = [s for s in listed if UNTRAINED not in s.trained_on]
    if folder.resolve() == OWN_CHECKPOINTS or others:
        raise DataError(f"Untrained weights are not published into {folder}. Name another folder.")


def _publish_segmenter(
    args: argparse.Namespace, settings: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> CheckpointSpec:
    architecture = settings["architecture"]
    inputs = SEGMENTERS[architecture].inputs(settings["size"])
    # The architecture's name ends with its usual size; these weights may be of another one.
    family = architecture.removeprefix("sam-").rpartition("-")[0]
    name = f"lungs-{family}-{inputs.hw[0]}.v{args.version}"
    spec = _write(args, name, "lungs", architecture, state, inputs)
    network = SEGMENTERS[architecture].build(inputs.hw[0])
    load_strictly(network, read_weights(args.run / spec.file), name)
    segmenter = LungSegmenter(spec, network, device=resolve(args.device))
    cases = read_lung_index(args.data)
    results = measure_lungs(
        lambda image: segmenter.find_lungs(segmenter.embed(image)),
        [case for case in cases if case.split == "test"],
    )
    figures = lung_figures(results, resamples=args.resamples)
    worst = sorted(results, key=lambda result: result.dice)[:WORST_CASES]
    return replace(
        spec,
        metrics={
            name: figure
            for name, figure in figures.items()
            # A set that states no pixel spacing has no distance in mm.
            if FigureName.parse(name).measure != "images_per_second" and not np.isnan(figure.value)
        },
        samples=count_samples(args.data, cases),
        notes=tuple(f"Among the worst: {r.case.name}, Dice {r.dice:.3f}" for r in worst),
    )


def _publish_classifier(
    args: argparse.Namespace, settings: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> CheckpointSpec:
    mode, size = MaskingMode(settings["masking"]), settings["size"]
    backbone = settings.get("backbone", "resnet50")
    name = f"findings-{backbone.rpartition('/')[2]}-{size}-{mode}.v{args.version}"
    network = build_network(backbone, len(FINDING_KEYS))
    rows = [OUTPUTS.index(key) for key in FINDING_KEYS]
    kept = keep_outputs(state, rows, layer=output_layer(network))
    inputs = input_spec(size, settings.get("fill", "black"))
    # A classifier wants labels; the real ones follow from its own output below.
    blank = tuple(LabelSpec(key, 1.0, 0.0, 0.5, UNTRAINED) for key in FINDING_KEYS)
    pooling = settings.get("pooling", "all")
    known = {"masking": mode, "labels": blank, "pooling": pooling}
    spec = _write(args, name, "findings", backbone, kept, inputs, **known)
    if mode is MaskingMode.LOOSE:
        spec = replace(spec, margin=DEFAULT_MARGIN, margin_range=MARGIN_RANGE)
    load_strictly(network, read_weights(args.run / spec.file), name)
    device = resolve(args.device)
    classifier = FindingClassifier(spec, network, device=device)
    cases = read_finding_index(args.data)
    val, test = (
        run_classifier(classifier, [c for c in cases if c.split == split], args.masks)
        for split in ("val", "test")
    )
    labels = blank
    if not args.allow_untrained:
        labels = calibrate(val, method=args.method, lenient=args.allow_worse_than_chance)
    spec = replace(spec, samples=count_samples(args.data, cases))
    spec = with_figures(spec, labels, test, resamples=args.resamples)
    tests = [c for c in cases if c.split == "test"]
    places = places_of(FindingClassifier(spec, network, device=device), tests, args)
    return replace(spec, metrics={**spec.metrics, **places})


def _write(
    args: argparse.Namespace,
    name: str,
    task: Any,
    architecture: str,
    state: Mapping[str, torch.Tensor],
    inputs: InputSpec,
    **known: Any,
) -> CheckpointSpec:
    """Writes the weights in half precision into the run folder and begins their spec.

    Further fields of the spec may be `known`.
    """
    file = f"{name}.safetensors"
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file(half, args.run / file)
    return CheckpointSpec(
        name=name,
        task=task,
        architecture=architecture,
        file=file,
        sha256=file_sha256(args.run / file),
        inputs=inputs,
        trained_on=f"{UNTRAINED}; {args.trained_on}" if args.allow_untrained else args.trained_on,
        licence=args.licence,
        **known,
    )
