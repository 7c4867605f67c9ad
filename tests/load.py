"""Many visitors at once: `make load` (CLIENTS=20 MINUTES=5), with the bundled weights.

Each client opens files, moves the margin, reads a list, or calls the interface, over and over.
Every answer is compared with the one that the same file gives to a visitor who is alone.
"""

import argparse
import contextlib
import json
import os
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio_client import Client
from patience import until
from visitors import Visitor, free_port

from cxrdemo.files import read_radiograph
from cxrdemo.phantom import make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.rendering import encode_png, grey
from cxrdemo.ui import viewer
from cxrdemo.ui.models import Models
from cxrdemo.ui.page import build_ui, launch_options
from cxrdemo.ui.serve import folder_of_its_own
from cxrdemo.ui.visit import Visits

KINDS = ("image", "image", "image", "list", "interface")
"""What the clients do, one after the other: three of five open single images."""

LIST_FILES = 4
MARGIN = 0.12
TOLERANCE = 2e-3
"""Of a probability: two images side by side are summed in another order than one."""


@dataclass
class Report:
    """What was seen.

    Attributes:
        alone: Seconds of one image from file to findings, for a visitor who is alone.
        seconds: By kind of question, how long each answer took.
        answered: By client, how many answers it got.
        wrong: Answers that are not the solo answer.
        refused: How often a client was told that the server is busy.
        failed: Other errors, in words.
        memory: Resident bytes, at times.
        left: Files on the disk after all have gone.
    """

    alone: float = 0.0
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    answered: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    failed: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def words(self) -> Iterator[str]:
        """For people, a line each."""
        total = sum(self.answered.values())
        yield f"answers: {total}, wrong: {len(self.wrong)}, failed: {len(self.failed)}"
        yield f"refused as busy: {self.refused}; files left on the disk: {len(self.left)}"
        counts = sorted(self.answered.values())
        if counts:
            yield f"answers per client: {counts[0]} to {counts[-1]}"
        yield f"one image and its probes, alone: {self.alone:.2f} s"
        for kind, seconds in sorted(self.seconds.items()):
            middle, worst = statistics.median(seconds), max(seconds)
            yield f"{kind}: n {len(seconds)}, median {middle:.1f} s, longest {worst:.1f} s"
        if self.memory:
            after = self.memory[len(self.memory) // 4 :]
            yield (
                f"memory: {after[0] >> 20} MB after a quarter of the time, "
                f"{after[-1] >> 20} MB at the end, {max(self.memory) >> 20} MB at most"
            )
        yield from (f"! {text}" for text in (*self.wrong, *self.failed)[:10])


class Site:
    """A page that is served, and the answers it must give."""

    def __init__(
        self, url: str, page: gr.Blocks, visits: Visits, pipeline: Pipeline, files: Sequence[bytes]
    ) -> None:
        self.url, self.page, self.visits = url, page, visits
        self.files = files
        blocks = list(page.blocks.values())
        self.open = next(b for b in blocks if isinstance(b, gr.UploadButton))
        self.list = next(b for b in blocks if isinstance(b, gr.File))
        self.read = next(b for b in blocks if isinstance(b, gr.Button) and b.value == "Read all")
        self.viewer = next(b for b in blocks if getattr(b, "html_template", "") == viewer.HTML)
        self.alone = [numbers_alone(pipeline, content, None) for content in files]
        self.moved = [numbers_alone(pipeline, content, MARGIN) for content in files]


Numbers = dict[str, list[float]]


def numbers_alone(pipeline: Pipeline, content: bytes, margin: float | None) -> Numbers:
    analysis = pipeline.analyse(read_radiograph(content), margin=margin)
    return {
        str(mode): reading.findings.probabilities.tolist()
        for mode, reading in analysis.readings.items()
    }


def same(shown: Numbers, expected: Numbers) -> bool:
    return shown.keys() == expected.keys() and all(
        np.allclose(shown[mode], expected[mode], atol=TOLERANCE) for mode in expected
    )


@contextlib.contextmanager
def served(pipeline: Pipeline, files: Sequence[bytes]) -> Iterator[Site]:
    page, visits = build_ui(Models.of(pipeline))
    options = {"server_port": free_port(), "quiet": True, **launch_options(visits)}
    _, url, _ = page.launch(prevent_thread_lock=True, **options)
    try:
        yield Site(url, page, visits, pipeline, files)
    finally:
        visits.end_all()
        page.close(verbose=False)


def put_under_load(site: Site, *, clients: int, seconds: float, rounds: int = 10**6) -> Report:
    """Lets clients ask until the time is over, or for some rounds each."""
    report, end = Report(), time.monotonic() + seconds
    with site_visitor(site) as visitor:
        start = time.monotonic()
        open_image(site, visitor, 0)
        report.alone = time.monotonic() - start
    lock, over = threading.Lock(), threading.Event()

    def client(number: int) -> None:
        kind = KINDS[number % len(KINDS)]
        ask = {"image": ask_image, "list": ask_list, "interface": ask_interface}[kind]
        with site_visitor(site) as visitor:
            for turn in range(rounds):
                if time.monotonic() > end:
                    return
                which = (number + turn) % len(site.files)
                start = time.monotonic()
                try:
                    answers = ask(site, visitor, which)
                except Exception as error:
                    with lock:
                        if "busy" in str(error):
                            report.refused += 1
                        else:
                            report.failed.append(f"{kind}: {type(error).__name__}: {error}")
                    time.sleep(1)
                    continue
                with lock:
                    report.seconds[kind].append(time.monotonic() - start)
                    report.answered[number] += 1
                    report.wrong += [
                        f"client {number}, {kind}, file {which}: {what}"
                        for what, is_right in answers.items()
                        if not is_right
                    ]

    def watch() -> None:
        while not over.wait(min(1.0, seconds / 20)):
            report.memory.append(resident_bytes())

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    over.set()
    watching.join()
    return report


def site_visitor(site: Site) -> Visitor:
    return Visitor(site.url, site.page)


def open_image(site: Site, visitor: Visitor, which: int) -> dict[str, Any]:
    """The viewer's last payload about an image, which is read to its end."""
    file = visitor.upload(site.files[which], f"{which}.png")
    return _last_payload(visitor.fire(site.open, "upload", file))


def _last_payload(answers: Iterator[list[Any]]) -> dict[str, Any]:
    """Read to the end: what is left in a visitor's stream would be lost to the next question."""
    payload: dict[str, Any] = {}
    for shown in answers:
        payload = shown[0][0] if shown[0] else payload
    if payload.get("failed"):
        raise RuntimeError(payload["reason"])
    if not payload.get("maskings"):
        raise RuntimeError("no findings were shown")
    return payload


def numbers_of(payload: dict[str, Any]) -> Numbers:
    return {
        mode: [finding["p"] for finding in reading["findings"]]
        for mode, reading in payload["maskings"].items()
    }


def ask_image(site: Site, visitor: Visitor, which: int) -> dict[str, bool]:
    """An image, and then its loose masking at another margin."""
    with site.visits.of(visitor.session) as visit:
        list(visit.clear())  # the margin of the image before would stay
    payload = open_image(site, visitor, which)
    right = {"image": same(numbers_of(payload), site.alone[which])}
    detail = {"study": payload["study"], "margin": MARGIN}
    after = _last_payload(visitor.fire(site.viewer, "margin_changed", detail=detail))
    right["margin"] = same(numbers_of(after), site.moved[which])
    return right


def ask_list(site: Site, visitor: Visitor, which: int) -> dict[str, bool]:
    """A list of files, added to the one before."""
    numbers = [(which + step) % len(site.files) for step in range(LIST_FILES)]
    with site.visits.of(visitor.session) as visit:
        visit.batch.clear()
    files = [visitor.upload(site.files[n], f"{n}-{step}.png") for step, n in enumerate(numbers)]
    list(visitor.fire(site.list, "upload", files))
    *_, ([table], words) = visitor.fire(site.read, "click")
    if "busy" in words:
        raise RuntimeError(words)
    right = {}
    for row in table["rows"]:
        shown = {mode: [c["p"] for c in cells[:-1]] for mode, cells in row["maskings"].items()}
        right[row["name"]] = same(shown, site.alone[int(row["name"].partition("-")[0])])
    return right if len(right) == LIST_FILES else {"all rows": False}


def ask_interface(site: Site, visitor: Visitor, which: int) -> dict[str, bool]:
    """The interface for programs."""
    text = {"url": visitor.data_url(site.files[which])}
    client = _client(site, visitor)
    record = client.predict(text, api_name="/analyze")
    shown = {
        mode: [finding["probability"] for finding in reading["findings"]]
        for mode, reading in record["maskings"].items()
    }
    return {"record": same(shown, site.alone[which])}


_clients: dict[str, Client] = {}


def _client(site: Site, visitor: Visitor) -> Client:
    if visitor.session not in _clients:
        _clients[visitor.session] = Client(site.url, verbose=False)
    return _clients[visitor.session]


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def phantoms(count: int, side: int) -> list[bytes]:
    return [
        encode_png(grey(make_phantom(seed=seed, hw=(side, side)).radiograph))
        for seed in range(1, count + 1)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--out", type=Path, help="write the figures as JSON too")
    args = parser.parse_args()
    pipeline = Pipeline.from_checkpoints(args.checkpoints)
    with folder_of_its_own() as folder, served(pipeline, phantoms(6, 1024)) as site:
        report = put_under_load(site, clients=args.clients, seconds=60 * args.minutes)

        def left() -> list[str]:
            return [str(p) for p in folder.rglob("*") if p.is_file() and p.stat().st_size]

        until(lambda: not left())  # heartbeats end a moment after their tab
        report.left = left()
    for line in report.words():
        print(line)
    if args.out:
        args.out.write_text(json.dumps({**report.__dict__, "seconds": dict(report.seconds)}))
    if report.wrong or report.failed or report.left:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
