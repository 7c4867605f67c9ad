"""Rows on the whole analysis of one file, on many files, and on memory."""

import json
import multiprocessing
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import psutil
import torch

from benchmarks import plain
from benchmarks.harness import Row, interleaved, ratio
from benchmarks.setting import Setting
from cxrdemo.files import read_radiograph
from cxrdemo.gate import check
from cxrdemo.labels import FINDINGS
from cxrdemo.pipeline import Pipeline
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import ALL_MASKINGS, Analysis, LungMask
from cxrdemo.settings import REPOSITORY
from cxrdemo.ui.batch import Batch
from cxrdemo.ui.line import Line
from cxrdemo.ui.models import Models
from cxrdemo.ui.payload import PROBED_MARGINS, findings_part, image_part, lungs_part

T = TypeVar("T")


class Clock:
    """Seconds by stage, over any number of rounds."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def __call__(self, stage: str, run: Callable[[], T]) -> T:
        """Runs a stage and notes how long it took."""
        start = time.perf_counter()
        result = run()
        self.seconds[stage].append(time.perf_counter() - start)
        return result

    def medians(self, rounds: int) -> dict[str, float]:
        """Of the last rounds, in ms."""
        return {k: round(median(v[-rounds:]) * 1000, 1) for k, v in self.seconds.items()}


def whole(setting: Setting) -> list[Row]:
    """One DICOM file from bytes to what the browser is sent."""
    data = setting.dicom
    clocks: dict[str, Clock] = defaultdict(Clock)
    parts: dict[str, Callable[[], object]] = {
        "plain": lambda: _plainly(setting, data, clocks["plain"])
    }
    for name, pipeline in setting.pipelines.items():
        parts[name] = partial(_ours, pipeline, data, clocks[name])
    times = interleaved(parts, repeats=setting.repeats)
    stages = {name: clock.medians(setting.repeats) for name, clock in clocks.items()}
    rows = []
    size = " x ".join(str(side) for side in setting.radiograph.hw)
    for name in setting.pipelines:
        words = ", ".join(f"{k} {v:.0f}" for k, v in stages[name].items())
        rows.append(
            Row(
                f"whole analysis of {size}, {name}",
                "the plain way",
                f"{times[name]}, {ratio(times['plain'], times[name]):.1f} x",
                "<= 0.4 s", times[name].median <= 0.4,
                {"stages_ms": stages, **{k: v.seconds for k, v in times.items()}},
                f"ms: {words}; the plain way takes {times['plain']}",
            )
        )  # fmt: skip
    return rows


def probes(setting: Setting) -> list[Row]:
    """The tightness curve and the image without its lungs."""
    radiograph = setting.radiograph
    plain_networks = setting.plain
    lungs = {name: p.find(radiograph).lungs for name, p in setting.pipelines.items()}

    @torch.inference_mode()
    def plainly() -> None:
        inside = plain_networks.lungs(radiograph.pixels)
        images = [plain.loose(inside, margin) for margin in PROBED_MARGINS]
        loose, none = ALL_MASKINGS[1], ALL_MASKINGS[0]
        for kept, mode in (*((k, loose) for k in images), (~inside, none)):
            filled = plain_networks.filled(radiograph.pixels, kept, mode)
            shown = plain_networks.as_inputs({mode: filled})
            plain_networks.classifiers[mode](shown[mode])

    parts: dict[str, Callable[[], object]] = {"plain": plainly}
    for name, pipeline in setting.pipelines.items():
        parts[name] = partial(_probe, pipeline, radiograph, lungs[name])
    times = interleaved(parts, repeats=min(5, setting.repeats))
    return [
        Row(
            f"probes (8 readings), {name}", "the plain way",
            f"{times[name]}, {ratio(times['plain'], times[name]):.1f} x", "-", None,
            {k: v.seconds for k, v in times.items()},
        )
        for name in setting.pipelines
    ]  # fmt: skip


def _probe(pipeline: Pipeline, radiograph: Radiograph, lungs: LungMask) -> None:
    """All questions, one after the other."""
    for _ in pipeline.probe(radiograph, lungs, PROBED_MARGINS):
        pass


def files(setting: Setting, count: int = 24) -> list[Row]:
    """The Batch tab's way against reading and analysing file after file."""
    rows = []
    for name, pipeline in setting.pipelines.items():

        def one_by_one(paths: list[Path], pipeline: Pipeline = pipeline) -> None:
            for path in paths:
                pipeline.analyse(read_radiograph(path))

        def together(paths: list[Path], pipeline: Pipeline = pipeline) -> None:
            files = Batch(Models.of(pipeline), Line(), "benchmark")
            files.add([str(path) for path in paths])
            for _ in files.read():
                pass
            files.clear()

        with tempfile.TemporaryDirectory() as folder:
            parts = {
                "one by one": lambda: one_by_one(_copies(setting, Path(folder), count)),
                "batch": lambda: together(_copies(setting, Path(folder), count)),
            }
            times = interleaved(parts, repeats=min(3, setting.repeats), warm_up=0)
        faster = ratio(times["one by one"], times["batch"])
        rows.append(
            Row(
                f"batch of {count} files, {name}", "one by one",
                f"{faster:.2f} x ({times['batch']})", ">= 1.5 x", faster >= 1.5,
                {k: v.seconds for k, v in times.items()},
            )
        )  # fmt: skip
    return rows


def memory(setting: Setting, count: int = 500) -> list[Row]:
    """Resident memory of a process of its own that analyses one image after another."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        sizes = pool.apply(_sizes, (setting.dicom, count))
    growth = sizes[-1] / sizes[9] - 1
    return [
        Row(
            f"memory after {count} analyses, torch", "after 10",
            f"{growth:+.1%}, {sizes[-1]:.2f} GiB", "within 5 %, <= 1.5 GiB",
            abs(growth) <= 0.05 and sizes[-1] <= 1.5, {"rss_gib": sizes},
            f"the pipeline without the page, whose size is in the row on the start; most "
            f"{max(sizes):.2f} GiB",
        )
    ]  # fmt: skip


def _sizes(dicom: bytes, count: int) -> list[float]:
    """Resident GiB after each analysis, as the page does it."""
    pipeline = Pipeline.from_checkpoints(REPOSITORY / "checkpoints", precision="auto")
    process = psutil.Process()
    sizes = []
    for _ in range(count):
        _ours(pipeline, dicom, Clock())
        sizes.append(process.memory_info().rss / 2**30)
    return sizes


def _copies(setting: Setting, folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number}.dcm" for number in range(count)]
    for path in paths:
        path.write_bytes(setting.dicom)
    return paths


def _ours(pipeline: Pipeline, data: bytes, clock: Clock) -> None:
    """As the page does it."""
    radiograph = clock("decode", lambda: read_radiograph(data))
    bare = Analysis(radiograph, None, {}, (), {}, ())
    picture = clock("picture", lambda: image_part(bare))
    found = clock("lungs", lambda: pipeline.find(radiograph))
    clock("gate", lambda: check(radiograph, found.lungs))
    outlines = clock("outlines", lambda: lungs_part(replace(bare, lungs=found.lungs)))
    analysis = clock("findings and maps", lambda: pipeline.analyse(radiograph, lungs=found.lungs))
    specs = {mode: pipeline.classifier_spec(mode) for mode in ALL_MASKINGS}
    clock("payload", lambda: json.dumps(picture | outlines | findings_part(analysis, specs)))


def _plainly(setting: Setting, data: bytes, clock: Clock) -> None:
    """The same steps with `benchmarks.plain`."""
    networks = setting.plain
    pixels = clock("decode", lambda: plain.read(data))
    clock("picture", lambda: plain.picture(pixels))
    lungs = clock("lungs", lambda: networks.lungs(pixels))
    clock("gate", lambda: np.percentile(pixels, (5, 50, 95)))
    clock("outlines", lambda: [plain.loose(lungs, 0.01 * step) for step in (1, 10, 20)])
    masked = clock("masking", lambda: networks.masked(pixels, lungs))
    inputs = networks.as_inputs(masked)
    maps = clock(
        "findings and maps",
        lambda: {
            mode: plain.grad_cams(networks.classifiers[mode], inputs[mode], len(FINDINGS))
            for mode in ALL_MASKINGS
        },
    )
    clock("payload", lambda: json.dumps({m: [x.tolist() for x in maps[m]] for m in maps}))
