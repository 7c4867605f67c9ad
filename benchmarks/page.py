"""Rows on the page as a visitor meets it: the start of the server, and a file in the browser."""

import base64
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.harness import Row, Timing
from benchmarks.setting import Setting

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
CARD = (
    "--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--disable-background-networking",
)  # fmt: skip
"""WebGL without a graphics card: what the card would do takes time, but not the page's thread's."""

RENDERERS = {
    "a graphics card": """
        const ask = WebGL2RenderingContext.prototype.getParameter;
        WebGL2RenderingContext.prototype.getParameter = function (name) {
          const value = ask.call(this, name);
          return typeof value === "string" ? "a card" : value;
        };""",
    "canvas": "",
}
"""The viewer leaves a program that stands in for a card alone, unless it has another name."""

SCREENS = {"1440 x 900 at 1x": (1440, 900, 1), "a 4K screen at 2x": (1920, 1080, 2)}
TOGGLES = {
    "masking": "123", "finding": ["ArrowDown"], "heat": "h", "outline": "m", "invert": "i",
    "scale of the heat": "u", "turn": "t", "mirror": "j",
}  # fmt: skip
FRAME_S = 1 / 60
PORT = 7971
URL = f"http://127.0.0.1:{PORT}/"
ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def _server(engine: str) -> Iterator[psutil.Process]:
    command = [sys.executable, "-m", "cxrdemo", "serve", "--port", str(PORT), "--engine", engine]
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _until_served(limit_s: float = 120) -> float:
    start = time.perf_counter()
    while time.perf_counter() - start < limit_s:
        try:
            with urllib.request.urlopen(URL, timeout=5) as answer:
                answer.read()
                return time.perf_counter() - start
        except OSError:
            time.sleep(0.02)
    raise TimeoutError(f"no page within {limit_s} s")


def start(setting: Setting) -> list[Row]:
    """From the start of the process to the first page and to the first analysis."""
    rows = []
    client = _first_analysis if _browser_missing() is None else None
    for engine in setting.engines:
        imports, pages, analyses, sizes = [], [], [], []
        for _ in range(min(3, setting.repeats)):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import torch, gradio"], check=True)
            imports.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            with _server(engine) as process:
                _until_served()
                pages.append(time.perf_counter() - begun)
                if client:
                    client(setting)
                    analyses.append(time.perf_counter() - begun)
                    sizes.append(process.memory_info().rss / 2**30)
        share = median(p / i for p, i in zip(pages, imports, strict=True))
        detail = {"imports": imports, "pages": pages, "analyses": analyses, "rss_gb": sizes}
        note = f"imports {Timing(tuple(imports))}"
        if analyses:
            note += f"; first analysis on screen after {Timing(tuple(analyses))}, browser included"
        rows.append(
            Row(
                f"start to the first page, {engine}", "bare import torch, gradio",
                f"{share:.2f} x ({Timing(tuple(pages))})", "<= 1.2 x", share <= 1.2, detail, note,
            )
        )  # fmt: skip
        if sizes:
            rows.append(
                Row(f"server's memory after one analysis, {engine}", "-",
                    f"{max(sizes):.2f} GiB RSS", "<= 1.5 GiB", max(sizes) <= 1.5)
            )  # fmt: skip
    return rows


def browser(setting: Setting) -> list[Row]:
    """A file chosen in Chromium until its picture, numbers and curve are on the screen."""
    missing = _browser_missing()
    if missing:
        return [Row.not_run("browser: file to everything on screen", missing)]
    rows = []
    for engine in setting.engines:
        with _server(engine):
            _until_served()
            numbers, curves = _first_analysis(setting, rounds=1 + min(5, setting.repeats))
        name = f"browser: file to numbers and maps, {engine}"
        times = {"numbers": numbers, "curve": curves}
        rows.append(_on_screen(name, times, "the tightness curve is there"))
    return rows


def drop(setting: Setting) -> list[Row]:
    """A file dropped on the page until its picture, and its numbers, are seen; the page's clock."""
    missing = _browser_missing()
    if missing:
        return [Row.not_run("browser: drop to picture", missing)]
    rows = []
    for engine in setting.engines:
        pictures, numbers = [], []
        with _server(engine), _chromium(FLAGS) as chromium:
            _until_served()
            for _ in range(1 + setting.repeats):
                tab = chromium.new_page(viewport={"width": 1440, "height": 900})
                tab.goto(URL)
                tab.locator(".cxv-main").wait_for(timeout=60_000)
                tab.evaluate(DROP, base64.b64encode(setting.dicom).decode())
                tab.wait_for_function("timed.numbers", timeout=300_000)
                pictures.append(tab.evaluate("timed.picture / 1000"))
                numbers.append(tab.evaluate("timed.numbers / 1000"))
                tab.close()
        times = {"pictures": pictures, "numbers": numbers}
        rows.append(
            _on_screen(f"browser: drop to picture, {engine}", times, "its numbers are there")
        )
    return rows


def _on_screen(name: str, times: dict[str, list[float]], later: str) -> Row:
    """When what counts was on the screen, and a note on when the rest was; the first round apart.

    Args:
        name: Of the row.
        times: Seconds of each round until what counts was seen, then until the rest was.
        later: Words for the rest.
    """
    first, rest = (Timing(tuple(seconds[1:])) for seconds in times.values())
    note = f"{later} after {rest}"
    return Row(name, "-", str(first), "<= 1.0 s", first.median <= 1.0, times, note)


def gestures(setting: Setting) -> list[Row]:
    """What a toggle and a step of a drag cost the page's thread, and how many frames they take."""
    missing = _browser_missing()
    if missing:
        return [Row.not_run("browser: toggles and drags", missing)]
    rows = []
    with _server("torch"), _chromium(CARD) as chromium:
        _until_served()
        for (screen, (width, height, ratio)), (drawn, script) in product(
            SCREENS.items(), RENDERERS.items()
        ):
            context = chromium.new_context(
                viewport={"width": width, "height": height}, device_scale_factor=ratio
            )
            tab = context.new_page()
            tab.add_init_script(script)
            _read_once(tab, setting)
            costs = {name: _cost(tab, steps) for name, steps in _steps(tab).items()}
            context.close()
            medians = {name: median(cpus) for name, (cpus, _) in costs.items()}
            slowest = max(medians, key=lambda name: medians[name])
            every = tuple(cpu for cpus, _ in costs.values() for cpu in cpus)
            frames = [count for _, counts in costs.values() for count in counts]
            rows.append(
                Row(
                    f"browser: a toggle or a step of a drag, {screen}, by {drawn}", "-",
                    f"{Timing(every)} of the page's thread", f"each <= {1000 * FRAME_S:.1f} ms",
                    medians[slowest] <= FRAME_S,
                    {name: {"cpu_s": cpus, "frames": n} for name, (cpus, n) in costs.items()},
                    f"slowest: {slowest}, {Timing(tuple(costs[slowest][0]))}; drawn within"
                    f" {median(frames):.0f} frame(s), at most {max(frames)}",
                )
            )  # fmt: skip
    return rows


def _steps(tab: Any) -> dict[str, list[Callable[[], object]]]:
    """What is done, by name: each a list of single steps."""

    def press(key: str) -> Callable[[], object]:
        return lambda: tab.keyboard.press(key)

    steps = {name: [press(key) for _ in range(4) for key in keys] for name, keys in TOGGLES.items()}
    box = tab.locator(".cxv-film").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(before: list[Callable[[], object]]) -> list[Callable[[], object]]:
        moves = [lambda i=i: tab.mouse.move(x + 5 * i, y + 3 * i) for i in range(1, 9)]
        return [*before, lambda: tab.mouse.move(x, y), tab.mouse.down, *moves, tab.mouse.up]

    steps["window"] = drag([])
    steps["zoom"] = [lambda: tab.mouse.wheel(0, -60)] * 8
    steps["pan"] = drag([])
    return steps


def _cost(tab: Any, steps: list[Callable[[], object]]) -> tuple[list[float], list[int]]:
    """CPU seconds of the page's thread, and frames until the last pane was drawn, per step."""
    session = tab.context.new_cdp_session(tab)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def used() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))

    tab.evaluate(COUNT_FRAMES)
    costs, frames = [], []
    for step in steps:
        tab.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => { counted.start(); done(); }))"
        )
        before = used()
        step()
        tab.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        costs.append(used() - before)
        drawn = tab.evaluate("counted.framesUntilDrawn()")
        if drawn:
            frames.append(drawn)
    session.detach()
    return costs, frames or [0]


DROP = """(base64) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], "phantom.dcm"));
  const timed = window.timed = {};
  const rows = document.querySelector(".cxv-rows");
  const screen = ImageBitmapRenderingContext.prototype, transfer = screen.transferFromImageBitmap;
  const begun = performance.now();
  const seen = (what) => requestAnimationFrame((now) => { timed[what] ??= now - begun; });
  screen.transferFromImageBitmap = function (bitmap) {
    transfer.call(this, bitmap);
    if (bitmap) seen("picture");
  };
  new MutationObserver(() => {
    if (rows.querySelectorAll(".cxv-row b").length === 6) seen("numbers");
  }).observe(rows, { childList: true, subtree: true });
  document.body.dispatchEvent(
    new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data })
  );
}"""
"""Drops a file on the page; milliseconds until its picture and numbers are painted, in `timed`."""

COUNT_FRAMES = """() => {
  if (window.counted) return;
  let frame = 0, asked = null, last = null;
  const tick = () => { frame++; requestAnimationFrame(tick); };
  requestAnimationFrame(tick);
  for (const kind of ["keydown", "pointermove", "wheel"]) {
    addEventListener(kind, () => { asked ??= frame; }, { capture: true, passive: true });
  }
  const shown = ImageBitmapRenderingContext.prototype;
  const transfer = shown.transferFromImageBitmap;
  shown.transferFromImageBitmap = function (bitmap) {
    last = frame;
    return transfer.call(this, bitmap);
  };
  window.counted = {
    start() { asked = last = null; },
    framesUntilDrawn: () => (asked === null || last === null ? null : Math.max(1, last - asked)),
  };
}"""
"""Counts the frames from an event to the last pane drawn for it."""


@contextmanager
def _chromium(flags: tuple[str, ...]) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(flags))
        try:
            yield chromium
        finally:
            chromium.close()


def _read_once(tab: Any, setting: Setting) -> None:
    from playwright.sync_api import expect

    tab.goto(URL)
    upload = tab.locator(".cxr-open input[type=file]")
    upload.wait_for(state="attached", timeout=60_000)
    file = {"name": "phantom.dcm", "mimeType": "application/dicom", "buffer": setting.dicom}
    upload.set_input_files(file)
    expect(tab.locator(".cxv[data-probed]")).to_have_count(1, timeout=120_000)
    expect(tab.locator(".cxv[data-busy]")).to_have_count(0, timeout=120_000)


def _browser_missing() -> str | None:
    if not CHROMIUM.exists():
        return f"there is no {CHROMIUM}"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    return None


def _first_analysis(setting: Setting, rounds: int = 1) -> tuple[list[float], list[float]]:
    """Seconds until the numbers, and until the curve, for a file chosen `rounds` times."""
    from playwright.sync_api import expect, sync_playwright

    numbers, curves = [], []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "phantom.dcm"
        path.write_bytes(setting.dicom)
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        for _ in range(rounds):
            tab = chromium.new_page(viewport={"width": 1440, "height": 900})
            tab.goto(URL)
            upload = tab.locator(".cxr-open input[type=file]")
            upload.wait_for(state="attached", timeout=60_000)
            begun = time.perf_counter()
            upload.set_input_files(path)
            expect(tab.locator(".cxv-row b")).to_have_count(6, timeout=120_000)
            numbers.append(time.perf_counter() - begun)
            expect(tab.locator(".cxv-curve")).to_be_visible(timeout=120_000)
            curves.append(time.perf_counter() - begun)
            tab.close()
        chromium.close()
    return numbers, curves
