"""Command `calibrate`: probabilities and thresholds of published classifiers, from a folder's own.

Calibration and operating points come from the validation patients of --data, every figure from its
test patients; manifest entry and card are written anew, the weights stay as they are. `publish`
calibrates with the same functions.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.classifier import FindingClassifier
from cxrdemo.commands.numbers import number
from cxrdemo.devices import resolve
from cxrdemo.figure_names import FigureName
from cxrdemo.labels import FINDING_KEYS, display_name
from cxrdemo.results import MaskingMode
from cxrdemo.specs import CheckpointSpec, Estimate
from training.commands.flags import add_device_argument
from training.errors import DataError
from training.measures.calibration import METHODS, calibrate, with_figures
from training.measures.figures import classifier_figures
from training.measures.places import IMAGES, place_figures
from training.measures.scoring import load_classifiers, run_classifier
from training.measures.statistics import RESAMPLES
from training.reports.cards import count_samples, write_cards
from training.sets.boxes import BOXES_NAME, read_boxes
from training.sets.index import FindingCase, read_finding_index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--data", type=Path, required=True, help="folder with index.csv, images/")
    parser.add_argument("--masks", type=Path, help="lung masks of --data, for loose and tight")
    parser.add_argument(
        "--checkpoints", type=Path, default=Path("checkpoints"), help="folder with manifest.json"
    )
    parser.add_argument(
        "--masking",
        choices=[*(str(mode) for mode in MaskingMode), "all"],
        default="all",
        help="which classifiers (default: every one that the folder lists)",
    )
    add_method_argument(parser)
    add_place_arguments(parser)
    add_device_argument(parser)
    parser.add_argument(
        "--resamples", type=number(int, 1), help=f"of the bootstrap; default: {RESAMPLES}"
    )


def add_method_argument(parser: argparse.ArgumentParser) -> None:
    """Declares the flag that `publish` has too."""
    parser.add_argument(
        "--method",
        choices=tuple(METHODS),
        default="platt",
        help="platt: slope and offset per finding; temperature: slope alone (default: %(default)s)",
    )


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags on places that `publish` and `evaluate` have too."""
    parser.add_argument(
        "--planted",
        type=number(int, 0),
        default=IMAGES,
        help="images to plant lesions into, to see whether heat shows the place; 0 for none "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--boxes",
        type=Path,
        help=f"boxes about findings (default: {BOXES_NAME} of --data, if it is there)",
    )


def check_place_arguments(args: argparse.Namespace) -> None:
    """Refuses boxes that cannot be read, or asked for in vain, before the long part.

    Raises:
        DataError: Naming the table or the flag.
    """
    if args.boxes is not None:
        if args.masks is None:
            raise DataError("--boxes needs --masks, which tell where the lungs are.")
        read_boxes(args.boxes)


def places_of(
    classifier: FindingClassifier, cases: Sequence[FindingCase], args: argparse.Namespace
) -> dict[str, Estimate]:
    """Figures on places as the flags of `add_place_arguments` ask; none without lung masks."""
    if args.masks is None:
        return {}
    boxes = args.boxes
    if boxes is None and (args.data / BOXES_NAME).is_file():
        boxes = args.data / BOXES_NAME
    return place_figures(
        classifier, cases, args.masks, boxes=boxes, images=args.planted, resamples=args.resamples
    )


def run(args: argparse.Namespace) -> None:
    """Calibrates anew and prints the errors before and after."""
    check_place_arguments(args)
    cases = read_finding_index(args.data)
    for split in ("val", "test"):
        if not any(case.split == split for case in cases):
            raise DataError(
                f"{args.data / 'index.csv'} lists no image of the split {split!r}. Calibration "
                "needs patients to fit on (val) and others to measure on (test)."
            )
    samples = count_samples(args.data, cases)
    device = resolve(args.device)
    measured: dict[str, CheckpointSpec] = {}
    for mode, classifier in load_classifiers(args.checkpoints, device=device).items():
        if args.masking not in (str(mode), "all"):
            continue
        val, test = (
            run_classifier(classifier, [c for c in cases if c.split == split], args.masks)
            for split in ("val", "test")
        )
        spec = classifier.spec
        labels = calibrate(val, method=args.method)
        new = with_figures(spec, labels, test, resamples=args.resamples)
        again = FindingClassifier(new, classifier.network, device=device)
        tests = [c for c in cases if c.split == "test"]
        new = replace(new, metrics={**new.metrics, **places_of(again, tests, args)})
        old = classifier_figures(test, spec.by_finding, resamples=args.resamples)
        _print_errors(spec.name, old, new.metrics)
        # The training patients stay those of the weights, whatever the folder holds.
        kept = {split: s for split, s in spec.samples.items() if split == "train"}
        measured[spec.name] = replace(
            new, samples=kept | {split: samples[split] for split in ("val", "test")}
        )
    if not measured:
        raise DataError(f"{args.checkpoints} lists no classifier for masking {args.masking!r}.")
    store = CheckpointStore.open(args.checkpoints)
    # Only now: what was refused above leaves the folder as it was.
    store = replace(store, specs=tuple(measured.get(spec.name, spec) for spec in store.specs))
    store.save()
    write_cards(replace(store, specs=tuple(measured.values())))


def _print_errors(name: str, before: Mapping[str, Estimate], after: Mapping[str, Estimate]) -> None:
    print(f"{name}: test patients, 95 % intervals over patients")
    for key in (*FINDING_KEYS, "macro"):
        for measure, words in (("ece", "ECE"), ("brier", "Brier")):
            figures = (
                ("bare sigmoid", before[str(FigureName(f"{measure}_raw", key))]),
                ("before", before[str(FigureName(measure, key))]),
                ("after", after[str(FigureName(measure, key))]),
            )
            cells = "; ".join(f"{word} {f.words(count=False)}" for word, f in figures)
            print(f"  {display_name(key)} {words}, n={figures[0][1].n}: {cells}")
