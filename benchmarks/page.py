"""Rows on the page as a visitor meets it: the start of the server, and a file in the browser."""

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil

from benchmarks.harness import Row, Timing
from benchmarks.setting import Setting

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
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
        shown = Timing(tuple(numbers[1:]))
        rows.append(
            Row(
                f"browser: file to numbers and maps, {engine}", "-", str(shown), "<= 1.0 s",
                shown.median <= 1.0, {"numbers": numbers, "curve": curves},
                f"the tightness curve is there after {Timing(tuple(curves[1:]))}",
            )
        )  # fmt: skip
    return rows


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
