"""How often something beside the lungs fools each masking, and where it does so the most.

Run `python -m benchmarks.shortcut`. A mass is planted wholly outside the loose region of an upright
phantom, at places, sizes and contrasts drawn by chance. It prints for each masking how many of them
are newly called a mass, with an exact interval (Clopper and Pearson, 95 %; several places share a
phantom, so the true one is wider), and the placements by which the whole image is fooled the most
and the masked ones are not, from which `cxrdemo/examples.py` takes its shortcut: the values are
`Example`'s. The same options and weights give the same answer.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from benchmarks.gate import share
from cxrdemo.examples import Example, draw_example
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.lesions import MASS
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import ALL_MASKINGS, Analysis, MaskingMode, bounding_box

FIRST_SEED: Final = 100
CONTRASTS: Final = (0.5, 0.75, 1.0)
MASS_INDEX: Final = FINDING_KEYS.index(MASS.key)

_SIDE_PX: Final = 768
_CLEARANCE: Final = 0.10
"""From the lungs to the mass, over the lungs' height: beyond the default loose margin of 8 %."""

_NOTICE: Final = (0.10, 0.35)
"""Height and width of the corner that the notice is in, over the image's side."""


@dataclass(frozen=True)
class Trial:
    """One placement, and which maskings call a mass; before: without it."""

    example: Example
    before: frozenset[MaskingMode]
    called: frozenset[MaskingMode]
    whole: float

    @property
    def is_shortcut(self) -> bool:
        """Whether the whole image is fooled, and it alone."""
        return not self.before and self.called == {MaskingMode.NONE}


def placements(example: Example, count: int) -> Iterator[Example]:
    """The example with a mass beside its lungs, in `count` ways; fewer where there is no room."""
    inside = draw_example(example).lungs > 0
    box = bounding_box(inside)
    assert box is not None, "a phantom has lungs"
    height = box[3] - box[1]
    away = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5) / height
    rng = np.random.default_rng([example.seed, 1])
    side = example.side_px
    for _ in range(count):
        diameter = round(float(rng.uniform(*MASS.diameter)), 2)
        free = away > _CLEARANCE + 0.6 * diameter
        free[: round(_NOTICE[0] * side), : round(_NOTICE[1] * side)] = False
        edge = int(0.5 * diameter * height)
        inner = np.zeros_like(free)
        inner[edge:-edge, edge:-edge] = True
        rows, columns = np.nonzero(free & inner)
        if rows.size:
            pick = int(rng.integers(rows.size))
            centre = (round(int(columns[pick]) / side, 2), round(int(rows[pick]) / side, 2))
            contrast = float(rng.choice(CONTRASTS))
            yield replace(
                example, lesion="mass", diameter=diameter, centre=centre, contrast=contrast
            )


def trials(pipeline: Pipeline, seeds: Sequence[int], places: int) -> Iterator[Trial]:
    """Every placement in every phantom that the gate accepts."""
    for seed in seeds:
        plain = Example("phantom", seed=seed, side_px=_SIDE_PX)
        before = pipeline.analyse(draw_example(plain).radiograph)
        if before.doubts:
            continue
        for example in placements(plain, places):
            after = pipeline.analyse(draw_example(example).radiograph)
            if not after.doubts:
                whole = after.readings[MaskingMode.NONE].findings.probabilities[MASS_INDEX]
                yield Trial(example, _called(before), _called(after), float(whole))


def _called(analysis: Analysis) -> frozenset[MaskingMode]:
    return frozenset(mode for mode in ALL_MASKINGS if analysis.verdict(mode, MASS_INDEX))


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shortcut", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--phantoms", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--places", type=int, default=12, help="each (default: %(default)s)")
    args = parser.parse_args(argv)
    pipeline = Pipeline.from_checkpoints(args.checkpoints)
    seeds = range(FIRST_SEED, FIRST_SEED + args.phantoms)
    found = list(trials(pipeline, seeds, args.places))
    for mode in ALL_MASKINGS:
        open_to = [trial for trial in found if mode not in trial.before]
        fooled = sum(mode in trial.called for trial in open_to)
        print(f"{mode}: newly called in {share(fooled, len(open_to))}")
    shortcuts = [trial for trial in found if trial.is_shortcut]
    print(f"whole image alone fooled: {len(shortcuts)} of {len(found)}")
    for trial in sorted(shortcuts, key=lambda trial: trial.whole, reverse=True)[:5]:
        print(f"{trial.whole:.3f}  {trial.example}")


if __name__ == "__main__":
    main()
