"""How often the gate refuses a real radiograph, and how often it catches a wrong input.

Run `python -m benchmarks.gate --data FOLDER`, with a folder that holds `nih/` and `lungs/` as
`training/README.md` describes them. It prints the tables of `docs/gate.md`. Without `--data` only
the wrong inputs drawn by a program are tried. Every interval is exact (Clopper and Pearson), 95 %.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.stats import binomtest

from cxrdemo.files import read_radiograph
from cxrdemo.gate import check
from cxrdemo.lungs import assess
from cxrdemo.phantom import make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.radiograph import Radiograph
from cxrdemo.rendering import HEAT_COLOURS, encode_png
from cxrdemo.results import LungMask, Side
from training.sets.index import read_finding_index, read_lung_index

SEEDS: Final = (0, 1, 2)
"""Each wrong input is drawn once per seed."""

SPOILT_IMAGES: Final = 60
"""Real test images that are turned, inverted and cut by code."""

_SIZE: Final = (640, 640)

FloatImage = NDArray[np.float32]


def from_colour(rgb: NDArray[np.uint8]) -> Radiograph:
    """A colour picture as the app reads it, through a PNG file's bytes."""
    return read_radiograph(encode_png(rgb))


def from_grey(pixels: FloatImage) -> Radiograph:
    """A grey picture, 0..1."""
    return Radiograph(np.clip(pixels, 0, 1).astype(np.float32))


def chest(seed: int) -> FloatImage:
    """An upright phantom's pixels."""
    return make_phantom(seed=seed, hw=_SIZE).radiograph.pixels


def text_page(rng: Generator) -> FloatImage:
    """Dark print on a white page."""
    page = np.full(_SIZE, 245, np.uint8)
    for y in range(40, _SIZE[0] - 20, 24):
        line = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz    "), 44))
        cv2.putText(page, line, (30, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 25, 1, cv2.LINE_AA)
    return np.asarray(page / 255, np.float32)


def drawing(rng: Generator) -> FloatImage:
    """A chart: axes and lines on white."""
    page = np.full(_SIZE, 1.0, np.float32)
    cv2.line(page, (60, 580), (600, 580), 0.0, 2)
    cv2.line(page, (60, 40), (60, 580), 0.0, 2)
    for shade in (0.2, 0.4, 0.6):
        ys = 300 + np.cumsum(rng.normal(0, 20, 27))
        points = np.stack([np.arange(60, 600, 20), ys], axis=1).astype(np.int32)
        cv2.polylines(page, [points], isClosed=False, color=shade, thickness=3)
    return page


def clouds(rng: Generator, *, steepness: float = 1.2) -> FloatImage:
    """Noise with the spectrum of a photograph: amplitude falls as 1 / frequency**steepness."""
    fy, fx = np.fft.fftfreq(_SIZE[0])[:, None], np.fft.fftfreq(_SIZE[1])
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / max(_SIZE)) ** steepness
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=_SIZE)) * amplitude).real
    low, high = np.percentile(noise, (1, 99))
    return np.asarray(np.clip((noise - low) / (high - low), 0, 1), np.float32)


def photograph(rng: Generator) -> FloatImage:
    """A grey scene: clouds behind discs and boxes with edges and shade."""
    picture = clouds(rng)
    for _ in range(12):
        (x, y), size = rng.integers(40, 600, 2).tolist(), int(rng.integers(30, 120))
        shade = float(rng.random())
        if rng.random() < 0.5:
            cv2.circle(picture, (x, y), size, shade, -1)
        else:
            cv2.rectangle(picture, (x, y), (x + size, y + 2 * size), shade, -1)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.0), np.float32)


def limb(rng: Generator) -> FloatImage:
    """A limb in air: a soft cylinder with two bones."""
    x = np.linspace(-1, 1, _SIZE[1], dtype=np.float32)
    soft = np.sqrt(np.clip(1 - (x / 0.45) ** 2, 0, None)) * 0.5
    bones = sum(np.exp(-(((x - centre) / 0.07) ** 2)) for centre in (-0.17, 0.17))
    picture = np.tile(soft + 0.35 * bones, (_SIZE[0], 1)) + rng.normal(0, 0.01, _SIZE)
    return np.asarray(picture, np.float32)


def lateral_chest(rng: Generator) -> FloatImage:
    """Looks like a lateral view: one lung field between sternum and spine, heart in front."""
    y, x = np.mgrid[-1 : 1 : _SIZE[0] * 1j, -1 : 1 : _SIZE[1] * 1j]
    shift = rng.uniform(-0.05, 0.05)
    body = 0.75 * (np.hypot((x - shift) / 0.8, y / 1.3) < 1)
    lung = np.hypot((x - shift) / 0.5, (y + 0.1) / (0.72 + rng.uniform(-0.05, 0.05))) < 1
    heart = np.hypot((x - shift + 0.25) / 0.25, (y - 0.3) / 0.25) < 1
    spine = np.abs(x - shift - 0.52 - 0.06 * np.sin(3 * y)) < 0.09
    picture = body - 0.5 * lung + 0.3 * heart + 0.25 * spine
    soft = cv2.GaussianBlur(picture, (0, 0), 5) + rng.normal(0, 0.01, _SIZE)
    return np.asarray(soft, np.float32)


def tilted(pixels: FloatImage, degrees: float) -> FloatImage:
    """Turned about the centre inside its frame; what comes in from outside is black."""
    height, width = pixels.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(pixels, turn, (width, height)), np.float32)


def without_left_quarter(pixels: FloatImage) -> FloatImage:
    """Cut through the patient's right lung."""
    return np.ascontiguousarray(pixels[:, pixels.shape[1] // 4 :])


def without_lower_part(pixels: FloatImage) -> FloatImage:
    """Cut above both diaphragms."""
    return np.ascontiguousarray(pixels[: int(0.55 * pixels.shape[0])])


def one_half(pixels: FloatImage) -> FloatImage:
    """One side of the chest only."""
    return np.ascontiguousarray(pixels[:, pixels.shape[1] // 2 :])


SPOIL: Final[dict[str, Callable[[FloatImage], FloatImage]]] = {
    "grey values inverted": lambda p: 1 - p,
    "turned by 90 degrees, head left": lambda p: np.ascontiguousarray(np.rot90(p)),
    "turned by 90 degrees, head right": lambda p: np.ascontiguousarray(np.rot90(p, -1)),
    "upside down": lambda p: np.ascontiguousarray(np.rot90(p, 2)),
    "tilted by 30 degrees": lambda p: tilted(p, 30),
    "a quarter cut off at one side": without_left_quarter,
    "cut above the diaphragms": without_lower_part,
    "half of the chest": one_half,
    "too dark": lambda p: p * np.float32(0.15),
    "over-exposed": lambda p: np.float32(0.9) + p * np.float32(0.1),
}
"""What can be wrong with an image that was right: float32 (H, W) in and out."""


def wrong_inputs(seed: int) -> Iterator[tuple[str, Radiograph]]:
    """Pictures that the models must not read, each with a name; drawn by a program."""
    rng = np.random.default_rng(seed)
    upright = chest(seed)
    yield "photograph in colour", from_colour(coloured(rng))
    yield "X-ray in false colours", from_colour(HEAT_COLOURS[np.rint(upright * 255).astype(int)])
    yield "thumbnail of 128 px", from_grey(np.asarray(cv2.resize(upright, (128, 128))))
    yield "blank", from_grey(np.full(_SIZE, 0.5, np.float32))
    yield "page of text", from_grey(text_page(rng))
    yield "chart", from_grey(drawing(rng))
    yield "noise", from_grey(rng.random(_SIZE, np.float32))
    yield "clouds", from_grey(clouds(rng, steepness=1.6))
    yield "photograph in grey", from_grey(photograph(rng))
    yield "limb", from_grey(limb(rng))
    yield "lateral-looking drawing", from_grey(lateral_chest(rng))
    yield "header says lateral", replace(from_grey(upright), view="LATERAL")
    yield "screenshot of a viewer", from_grey(screenshot(upright))
    yield "two films, a gap between", from_grey(two_films(upright, chest(seed + 50), 90))
    yield "two films without a gap", from_grey(two_films(upright, chest(seed + 50), 0))
    yield "wide black borders", from_grey(bordered(upright, 0.2))
    for name, spoil in SPOIL.items():
        yield f"phantom: {name}", from_grey(spoil(upright))


def screenshot(film: FloatImage) -> FloatImage:
    """A film in a viewer's window, with panels and lines around it."""
    picture = np.full((900, 1400), 0.18, np.float32)
    picture[:60], picture[-60:], picture[60:-60, :220] = 0.85, 0.6, 0.3
    picture[80:720, 380:1020] = film
    return picture


def two_films(film: FloatImage, other: FloatImage, gap: int) -> FloatImage:
    """Two films side by side on black."""
    between = np.zeros((film.shape[0], gap), np.float32)
    return np.concatenate((film, between, other), axis=1)


def bordered(film: FloatImage, share: float) -> FloatImage:
    """A film within black borders, each a share of the picture's side."""
    wide = round(film.shape[0] * share / (1 - 2 * share))
    return np.pad(film, wide)


def coloured(rng: Generator) -> NDArray[np.uint8]:
    """A scene in three unrelated colours, uint8 (H, W, 3)."""
    return np.rint(np.stack([photograph(rng) for _ in range(3)], axis=-1) * 255).astype(np.uint8)


def wrong_masks(seed: int) -> Iterator[tuple[str, Radiograph, LungMask]]:
    """Masks that no pair of lungs has, on an upright phantom."""
    rng = np.random.default_rng(seed)
    radiograph = from_grey(chest(seed))
    y, x = np.mgrid[0 : 1 : _SIZE[0] * 1j, 0 : 1 : _SIZE[1] * 1j]
    nothing = np.zeros(_SIZE, np.uint8)
    yield "mask: empty", radiograph, _mask(nothing, parts=0, rating=0.1)
    speck = nothing.copy()
    speck[np.hypot(x - rng.uniform(0.3, 0.7), y - 0.5) < 0.05] = Side.RIGHT
    yield "mask: a speck", radiograph, _mask(speck, parts=1, rating=0.9)
    one = nothing.copy()
    one[np.hypot((x - 0.3) / 0.14, (y - 0.5) / 0.3) < 1] = Side.RIGHT
    yield "mask: one lung", radiograph, _mask(one, parts=1, rating=0.9)
    ragged = nothing.copy()
    grain = cv2.GaussianBlur(rng.random(_SIZE, np.float32), (0, 0), 12)
    ragged[(grain > np.median(grain)) & (y > 0.2) & (y < 0.8)] = Side.RIGHT
    ragged[(ragged > 0) & (x > 0.5)] = Side.LEFT
    yield "mask: ragged", radiograph, _mask(ragged, parts=9, rating=0.7)
    true = make_phantom(seed=seed, hw=_SIZE).lungs
    yield "mask: right, but rated low", radiograph, _mask(true, parts=2, rating=0.5)


def _mask(sides: NDArray[np.uint8], *, parts: int, rating: float) -> LungMask:
    quality = assess(sides, components=parts, predicted_iou=rating)
    return LungMask(sides, quality, np.zeros((32, 32), np.float32))


def share(count: int, n: int) -> str:
    """Such as "6 of 350, 1.7 % (0.6 to 3.7)"."""
    interval = binomtest(count, n).proportion_ci(0.95, method="exact")
    low, high = 100 * interval.low, 100 * interval.high
    return f"{count} of {n}, {100 * count / n:.1f} % ({low:.1f} to {high:.1f})"


def real_images(data: Path) -> dict[str, list[Path]]:
    """Images that no rule was to refuse: "set, split" -> files."""
    groups: dict[str, list[Path]] = {}
    for split in ("test", "val"):
        for case in read_finding_index(data / "nih"):
            if case.split == split:
                groups.setdefault(f"NIH ChestX-ray14, {split}", []).append(case.image)
        for lung_case in read_lung_index(data / "lungs"):
            if lung_case.split == split:
                name = f"{lung_case.dataset.capitalize()}, {split}"
                groups.setdefault(name, []).append(lung_case.image)
    return groups


def refusals(pipeline: Pipeline, paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """The files that the gate refuses, with its first reason's kind."""
    found: list[tuple[Path, str]] = []
    for path in paths:
        radiograph = read_radiograph(path)
        doubts = check(radiograph, pipeline.find_lungs(radiograph))
        if doubts:
            found.append((path, doubts[0].kind))
    return found


def _print_row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def _kinds(kinds: Iterable[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in Counter(kinds).most_common())


def report_false_alarms(pipeline: Pipeline, groups: dict[str, list[Path]], *, names: bool) -> None:
    """Prints how many of the real images are refused, by set."""
    _print_row("real images", "refused", "reasons")
    _print_row("---", "---", "---")
    for group, paths in groups.items():
        refused = refusals(pipeline, paths)
        _print_row(group, share(len(refused), len(paths)), _kinds(kind for _, kind in refused))
        if names:
            print(*(f"{path.name}: {kind}" for path, kind in refused), sep="\n")


def report_spoilt(pipeline: Pipeline, paths: Sequence[Path]) -> None:
    """Prints how many spoilt real images are caught, by what was done to them."""
    _print_row("real image, then", "caught", "reasons given")
    _print_row("---", "---", "---")
    for name, spoil in SPOIL.items():
        kinds = []
        for path in paths:
            radiograph = read_radiograph(path)
            radiograph = replace(radiograph, pixels=spoil(radiograph.pixels))
            kinds += [d.kind for d in check(radiograph, pipeline.find_lungs(radiograph))[:1]]
        _print_row(name, share(len(kinds), len(paths)), _kinds(kinds))


def report_drawn(pipeline: Pipeline) -> None:
    """Prints which of the pictures and masks drawn by a program are caught."""
    caught: dict[str, list[str]] = {}
    for seed in SEEDS:
        cases: list[tuple[str, Radiograph, LungMask]] = [
            (name, radiograph, pipeline.find_lungs(radiograph))
            for name, radiograph in wrong_inputs(seed)
        ]
        for name, radiograph, lungs in (*cases, *wrong_masks(seed)):
            kinds = caught.setdefault(name, [])
            kinds += [doubt.kind for doubt in check(radiograph, lungs)[:1]]
    _print_row("drawn by a program", "caught", "reasons given")
    _print_row("---", "---", "---")
    for name, kinds in caught.items():
        _print_row(name, f"{len(kinds)} of {len(SEEDS)}", _kinds(kinds))
    always = sum(len(kinds) == len(SEEDS) for kinds in caught.values())
    print(f"\n{always} of {len(caught)} kinds are caught with every seed.")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser: Any = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--data", type=Path, help="folder with nih/ and lungs/")
    parser.add_argument("--names", action="store_true", help="also name every refused real image")
    args = parser.parse_args(argv)
    pipeline = Pipeline.from_checkpoints(args.checkpoints)
    report_drawn(pipeline)
    if args.data:
        groups = real_images(args.data)
        print()
        report_false_alarms(pipeline, groups, names=args.names)
        print()
        test = sorted(groups["NIH ChestX-ray14, test"])
        rng = np.random.default_rng(0)
        chosen = rng.choice(len(test), min(SPOILT_IMAGES, len(test)), replace=False)
        report_spoilt(pipeline, [test[index] for index in sorted(chosen)])


if __name__ == "__main__":
    main()
