"""The page in a real Chromium: what a reader sees and can do, by mouse, keyboard and touch.

One server over small fakes and one browser serve the whole file. Every test's tab fails it on a
console error, and on any request that leaves the host.
"""

import base64
import gc
import re
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
import pytest
from fakes import EllipseSegmenter, closing_event_loops, findings_spec, tiny_resnet
from visitors import free_port

from cxrdemo.checkpoints import Estimate, OperatingPoint
from cxrdemo.classifier import FindingClassifier
from cxrdemo.examples import EXAMPLES
from cxrdemo.files import read_radiograph
from cxrdemo.labels import FINDINGS
from cxrdemo.phantom import make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.radiograph import Radiograph
from cxrdemo.rendering import encode_png, grey, heat_overlay, masked_view
from cxrdemo.results import Analysis, Doubt, MaskingMode
from cxrdemo.ui import page as page_module
from cxrdemo.ui import visit as visit_module
from cxrdemo.ui.models import Models
from cxrdemo.ui.page import build_ui, launch_options

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DICOM = Path(page_module.__file__).parent / "examples" / "synthetic-nodule.dcm"
DESKTOP = {"viewport": {"width": 1440, "height": 900}}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
    # Gradio's queue statistics use what pandas 4 will drop.
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
]

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect


@dataclass
class Site:
    url: str
    page: gr.Blocks
    pipeline: Pipeline
    browser: Any


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    expect.set_options(timeout=30_000)
    pipeline = Pipeline(EllipseSegmenter(), {mode: _classifier(mode) for mode in MaskingMode})
    with ExitStack() as stack:
        stack.enter_context(closing_event_loops())
        page, visits = build_ui(Models.of(pipeline))
        stack.callback(visits.end_all)
        options = {"server_port": free_port(), "quiet": True, **launch_options()}
        _, url, _ = page.launch(prevent_thread_lock=True, **options)
        stack.callback(page.close, verbose=False)
        playwright = stack.enter_context(sync_api.sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        stack.callback(browser.close)
        yield Site(url, page, pipeline, browser)


def _classifier(mode: MaskingMode) -> FindingClassifier:
    """A fake with two operating points, the second one never reached."""
    spec = findings_spec(mode)
    labels = tuple(
        replace(
            label,
            sensitivity=Estimate(0.7, 0.6, 0.8, 20),
            specificity=Estimate(0.6, 0.5, 0.7, 200),
            others=(OperatingPoint("high specificity", 0.999, "test"),),
        )
        for label in spec.labels
    )
    seed = list(MaskingMode).index(mode)
    return FindingClassifier(replace(spec, labels=labels), tiny_resnet(seed=seed))


@pytest.fixture(autouse=True)
def _accept_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fakes' two ellipses are no lungs, and the gate would say so."""
    monkeypatch.setattr("cxrdemo.pipeline.check", lambda *_: ())


class Watched:
    """Opens tabs, and remembers what they asked for and complained about."""

    def __init__(self, site: Site, stack: ExitStack) -> None:
        self.site, self._stack = site, stack
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def open(self, options: dict[str, Any] = DESKTOP, *, query: str = "") -> Any:
        context = self.site.browser.new_context(**options)
        self._stack.callback(context.close)
        tab = context.new_page()
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("console", self._on_console)
        tab.goto(self.site.url + query)
        expect(tab.locator(".cxv-panes")).to_be_visible()
        return tab

    def _on_console(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def went_out(self, since: int = 0, *, local: tuple[str, ...] = ()) -> list[str]:
        inside = ("data:", "blob:", *local)
        return [address for address in self.requests[since:] if not address.startswith(inside)]


@pytest.fixture
def watched(site: Site) -> Iterator[Watched]:
    with ExitStack() as stack:
        tabs = Watched(site, stack)
        yield tabs
        assert tabs.complaints == []
        assert tabs.went_out(local=(site.url,)) == []


@pytest.fixture
def tab(watched: Watched) -> Any:
    """A desktop tab with an image read to its end."""
    tab = watched.open()
    upload(tab, DICOM.read_bytes())
    return tab


def upload(tab: Any, content: bytes, name: str = "export") -> None:
    """Chooses a file, and waits until everything about it is there."""
    choose(tab, content, name)
    expect(tab.locator(".cxv-status, .cxr-status").first).to_contain_text(" px · ")
    expect(tab.locator(".cxv-curve")).to_be_visible()
    expect(tab.locator(".cxv[data-busy]")).to_have_count(0)


def choose(tab: Any, content: bytes, name: str = "export") -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    tab.locator(".cxr-open input[type=file]").set_input_files(file)


def phantom_png(seed: int) -> bytes:
    return encode_png(grey(make_phantom(seed=seed, hw=(400, 360)).radiograph))


def numbers(tab: Any) -> Any:
    return tab.locator(".cxv-row b")


def words(analysis: Analysis, mode: MaskingMode) -> list[str]:
    found = analysis.readings[mode].findings
    return [f"{p:.2f}" for p in (*found.probabilities, found.no_finding)]


def drawn(tab: Any, pane: int = 0) -> str:
    """What a pane shows, after the next frame."""
    return tab.evaluate(
        "i => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done("
        "document.querySelectorAll('.cxv-pane canvas')[i].toDataURL()))))",
        pane,
    )


def expect_drawn(tab: Any, expected: str) -> None:
    """A pane's size may take some frames to settle when a bar goes."""
    for _ in range(50):
        if drawn(tab) == expected:
            return
        tab.wait_for_timeout(50)
    raise AssertionError("the first pane does not show what it showed before")


def settle(tab: Any) -> None:
    """Waits for the answer to a question just asked; a frame passes before it is marked."""
    drawn(tab)
    expect(tab.locator(".cxv[data-busy]")).to_have_count(0)


def saved(tab: Any, pane: int, height: int) -> np.ndarray:
    """The picture that Save writes of a pane, without its caption."""
    tab.locator(".cxv-pane canvas").nth(pane).click(position={"x": 5, "y": 5})
    with tab.expect_download() as download:
        tab.keyboard.press("s")
    return cv2.imread(str(download.value.path()))[:height, :, ::-1].astype(int)


def test_a_dicom_without_suffix_shows_the_numbers_of_every_masking(tab: Any, site: Site) -> None:
    expect(tab.get_by_text("not a medical device").first).to_be_visible()
    expect(tab.locator("body")).to_have_class(re.compile("dark"))
    assert tab.evaluate("document.documentElement.scrollHeight") <= 900
    analysis = site.pipeline.analyse(read_radiograph(DICOM))
    for key, mode in zip("123", MaskingMode, strict=True):
        tab.keyboard.press(key)
        expect(numbers(tab)).to_have_text(words(analysis, mode))
    expect(tab.locator("[data-out=margin]")).to_contain_text("mm")


def test_the_canvas_draws_what_the_server_would(watched: Watched, site: Site) -> None:
    tab = watched.open()
    pixels = make_phantom(seed=5, hw=(400, 360)).radiograph.pixels
    png = cv2.imencode(".png", np.rint(pixels * 65535).astype(np.uint16))[1].tobytes()
    upload(tab, png, "sixteen-bit.png")
    radiograph = read_radiograph(png)
    assert radiograph.source.bit_depth == 16
    height = radiograph.hw[0]
    analysis = site.pipeline.analyse(radiograph)
    seen = len(watched.requests)
    tab.keyboard.press("m")
    for key, mode in zip("123", MaskingMode, strict=True):
        tab.keyboard.press(key)
        reading = analysis.readings[mode]
        # The mask's edge is interpolated there and not here: 3 px around it are left out.
        edge = cv2.morphologyEx(
            reading.kept.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8)
        )
        off = np.abs(saved(tab, 0, height) - masked_view(radiograph, reading))[edge == 0]
        assert off.max() <= 2
        index = int(np.argmax([heat.peak for heat in reading.saliency]))
        tab.locator(".cxv-row").nth(index).click()
        opacity = 0.5 * (1.0 if reading.findings.above[index] else 0.4)
        heat = heat_overlay(
            radiograph, reading.saliency[index], peak=analysis.peak, opacity=opacity
        )
        assert np.abs(saved(tab, 1, height) - heat).max() <= 2
    assert np.abs(heat - grey(radiograph).astype(int)).max() > 10
    assert watched.went_out(seen) == []
    # R/L stand on every pane, and nothing in millimetres where the file gives no spacing.
    expect(tab.locator(".cxv-r")).to_have_text(["R", "R"])
    expect(tab.locator("[data-out=margin]")).to_have_text("8 %")


def test_every_key_of_the_help_sheet_does_what_it_says(tab: Any, watched: Watched) -> None:
    press = tab.keyboard.press
    seen = len(watched.requests)
    before = drawn(tab)
    for key, layout in (("c", "compare"), ("g", "grid"), ("v", "pair")):
        press(key)
        expect(tab.locator(f".cxv[data-layout={layout}]")).to_have_count(1)
    for key, mode in (("2", "loose"), ("3", "tight"), ("1", "none")):
        press(key)
        expect(tab.locator(f".cxv[data-mode={mode}]")).to_have_count(1)
    first = tab.locator(".cxv-row[aria-checked=true] .cxv-line span").inner_text()
    press("ArrowDown")
    expect(tab.locator(".cxv-row[aria-checked=true]")).not_to_contain_text(first)
    press("ArrowUp")
    expect(tab.locator(".cxv-row[aria-checked=true]")).to_contain_text(first)
    assert drawn(tab) == before
    for keys in (["m"], ["i"], [","], ["."], ["<"], [">"], ["+"], ["+", "Shift+ArrowLeft"]):
        for key in keys:
            press(key)
        changed = drawn(tab)
        assert changed != before, keys
        press("r")
        assert drawn(tab) == before, keys
    press("+")
    expect(tab.locator(".cxv[data-zoomed]")).to_have_count(1)
    press("-")
    expect(tab.locator(".cxv[data-zoomed]")).to_have_count(0)
    heat = drawn(tab, 1)
    press("h")
    assert drawn(tab, 1) != heat
    press("h")
    assert drawn(tab, 1) == heat
    expect(tab.locator(".cxv-line em").first).not_to_contain_text("0.999")
    press("p")
    expect(tab.locator("select[data-point]")).to_have_value("high specificity")
    expect(tab.locator(".cxv-row[data-word=above]")).to_have_count(0)
    press("p")
    with tab.expect_download():
        press("s")
    press("?")
    expect(tab.locator(".cxv-help")).to_be_visible()
    told = set(tab.locator(".cxv-help dl kbd").all_text_contents())
    press("Escape")
    expect(tab.locator(".cxv-help")).to_be_hidden()
    assert watched.went_out(seen) == []
    # The margin's keys ask the server, so do those of the correction; others have tests below.
    press("]")
    press("]")
    press("[")
    expect(tab.locator("[data-out=margin]")).to_contain_text("9 %")
    elsewhere = set("OFADBZXY") | {"Enter", "Esc", "[", "]"}
    assert told == elsewhere | set("123VCGMHI,.+-RSP") | {"↑", "↓"}


def test_the_mouse_alone_reaches_everything(tab: Any, watched: Watched, site: Site) -> None:
    pane = tab.locator(".cxv-pane canvas").first
    box = pane.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    seen = len(watched.requests)
    before = drawn(tab)

    def drag(dx: int, dy: int, button: str = "left") -> None:
        tab.mouse.move(x, y)
        tab.mouse.down(button=button)
        tab.mouse.move(x + dx, y + dy, steps=3)
        tab.mouse.up(button=button)

    drag(60, 40)
    assert drawn(tab) == before, "nothing to move before the picture is zoomed"
    tab.mouse.move(x, y)
    tab.mouse.wheel(0, -300)
    expect(tab.locator(".cxv[data-zoomed]")).to_have_count(1)
    zoomed = drawn(tab)
    drag(60, 40)
    assert drawn(tab) not in (before, zoomed)
    pane.dblclick()
    assert drawn(tab) == before
    drag(80, -50, "right")
    assert tab.locator("[data-slide=width]").input_value() != "100"
    assert tab.locator("[data-slide=level]").input_value() != "50"
    assert drawn(tab) != before
    tab.locator("[data-do=reset]").click()
    assert drawn(tab) == before
    for slide, pane_index in (("level", 0), ("width", 0), ("opacity", 1)):
        shown = drawn(tab, pane_index)
        tab.locator(f"[data-slide={slide}]").fill("30")
        assert drawn(tab, pane_index) != shown
    tab.locator("[data-do=reset]").click()
    for toggle in ("outline", "heat", "invert"):
        button = tab.locator(f"[data-toggle={toggle}]")
        state = button.get_attribute("aria-pressed")
        button.click()
        expect(button).not_to_have_attribute("aria-pressed", str(state))
        button.click()
        expect(button).to_have_attribute("aria-pressed", str(state))
    for layout, panes in (("compare", 3), ("grid", 1 + len(FINDINGS)), ("pair", 2)):
        tab.locator(f"button[data-layout={layout}]").click()
        expect(tab.locator(".cxv-pane")).to_have_count(panes)
    tab.locator("select[data-point]").select_option("high specificity")
    expect(tab.locator(".cxv-row[data-word=above]")).to_have_count(0)
    with tab.expect_download():
        tab.locator("[data-do=save]").click()
    tab.locator("[data-do=help]").click()
    tab.locator(".cxv-help button").click()
    expect(tab.locator(".cxv-help")).to_be_hidden()
    assert watched.went_out(seen) == []

    # A margin let go of: the loose numbers follow.
    tab.locator("button[data-mode=loose]").click()
    tab.locator("[data-slide=margin]").fill("14")
    wider = site.pipeline.analyse(read_radiograph(DICOM), margin=0.14)
    expect(numbers(tab)).to_have_text(words(wider, MaskingMode.LOOSE))
    tab.get_by_text("Light / dark").click()
    expect(tab.locator("body")).not_to_have_class(re.compile("dark"))
    tab.get_by_text("Clear", exact=True).click()
    expect(tab.locator(".cxv[data-empty]")).to_have_count(1)


@pytest.fixture
def corrections(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the pipeline is asked to correct."""
    asked: list[dict[str, Any]] = []
    correct = site.pipeline.correct

    def record(found: Any, **prompt: Any) -> Any:
        asked.append(prompt)
        return correct(found, **prompt)

    monkeypatch.setattr(site.pipeline, "correct", record)
    return asked


def wait_for_answer(tab: Any, corrections: list[dict[str, Any]], count: int) -> None:
    for _ in range(300):
        if len(corrections) == count:
            break
        tab.wait_for_timeout(100)
    expect(tab.locator(".cxv[data-busy]")).to_have_count(0)
    assert len(corrections) == count


def test_a_mask_is_corrected_with_the_keyboard_alone(tab: Any, corrections: list) -> None:
    side = EXAMPLES[1].side_px
    press = tab.keyboard.press
    outline = drawn(tab)
    tab.get_by_text("Synthetic normal").focus()
    press("f")
    press("ArrowLeft")
    press("Enter")
    wait_for_answer(tab, corrections, 1)
    assert corrections[0]["add"] is True
    assert corrections[0]["click"] == pytest.approx((0.49 * side, 0.5 * side), abs=1)
    press("d")
    press("ArrowUp")
    press("Enter")
    wait_for_answer(tab, corrections, 2)
    assert corrections[1]["add"] is False
    press("b")
    press("Enter")
    for _ in range(12):
        press("ArrowRight")
        press("ArrowDown")
    press("Enter")
    wait_for_answer(tab, corrections, 3)
    x0, y0, x1, y1 = corrections[2]["box"]
    assert (x1 - x0, y1 - y0) == pytest.approx((0.12 * side, 0.12 * side), abs=2)
    for key in ("z", "x"):
        press(key)
        settle(tab)
    press("a")
    expect(tab.locator("[data-tool=add]")).to_have_attribute("aria-checked", "true")
    press("Escape")
    expect(tab.locator(".cxv-fix")).to_be_hidden()
    expect_drawn(tab, outline)


def test_a_mask_is_corrected_with_the_mouse_alone(tab: Any, corrections: list) -> None:
    outline = drawn(tab)
    tab.locator("[data-toggle=fix]").click()
    pane = tab.locator(".cxv-pane canvas").first
    pane.click(position={"x": 150, "y": 200})
    wait_for_answer(tab, corrections, 1)
    tab.locator("[data-tool=remove]").click()
    pane.click(position={"x": 200, "y": 250})
    wait_for_answer(tab, corrections, 2)
    assert [c["add"] for c in corrections] == [True, False]
    tab.locator("[data-tool=box]").click()
    area = pane.bounding_box()
    tab.mouse.move(area["x"] + 100, area["y"] + 100)
    tab.mouse.down()
    tab.mouse.move(area["x"] + 220, area["y"] + 300, steps=3)
    tab.mouse.up()
    wait_for_answer(tab, corrections, 3)
    assert "box" in corrections[2]
    tab.locator("[data-do=undo]").click()
    settle(tab)
    tab.locator("[data-do=automatic]").click()
    settle(tab)
    tab.locator("[data-toggle=fix]").click()
    expect_drawn(tab, outline)


def test_a_phone_needs_no_scrolling_sideways_and_pinches(watched: Watched) -> None:
    tab = watched.open(PHONE)
    upload(tab, phantom_png(1))
    touch = tab.context.new_cdp_session(tab)
    box = tab.locator(".cxv-pane canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def finger(kind: str, *points: tuple[float, float]) -> None:
        touch.send(
            "Input.dispatchTouchEvent",
            {
                "type": kind,
                "touchPoints": [{"x": px, "y": py, "id": i} for i, (px, py) in enumerate(points)],
            },
        )

    before = drawn(tab)
    finger("touchStart", (x - 20, y), (x + 20, y))
    for reach in (30, 45, 60):
        finger("touchMove", (x - reach, y), (x + reach, y))
    finger("touchEnd")
    expect(tab.locator(".cxv[data-zoomed]")).to_have_count(1)
    zoomed = drawn(tab)
    finger("touchStart", (x, y))
    for reach in (10, 25, 40):
        finger("touchMove", (x + reach, y))
    # At rest before it lifts: the browser takes the tap after a fling for the end of the fling.
    tab.wait_for_timeout(500)
    finger("touchMove", (x + 40, y))
    finger("touchEnd")
    assert drawn(tab) not in (before, zoomed)
    tab.locator("[data-do=reset]").tap()
    assert drawn(tab) == before
    for layout in ("compare", "grid", "pair"):
        tab.locator(f"button[data-layout={layout}]").tap()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.locator("[data-toggle=fix]").tap()
    targets = ".cxv button, .cxv select, .cxv input, .cxr-open button"
    small = tab.evaluate(
        "s => [...document.querySelectorAll(s)].filter(b => b.offsetParent"
        " && (b.offsetHeight < 44 || b.offsetLeft < 0 || b.getBoundingClientRect().right > 390))"
        ".map(b => b.outerHTML)",
        targets,
    )
    assert small == []
    right = tab.evaluate(
        "document.querySelector('[data-out=margin]').getBoundingClientRect().right"
    )
    assert right <= 390


def test_two_visitors_with_different_images_keep_apart(watched: Watched, site: Site) -> None:
    tabs = [watched.open(), watched.open()]
    files = [phantom_png(1), phantom_png(2)]
    for tab, file in zip(tabs, files, strict=True):
        choose(tab, file)
    wide = [site.pipeline.analyse(read_radiograph(file)) for file in files]
    assert words(wide[0], MaskingMode.NONE) != words(wide[1], MaskingMode.NONE)
    for tab, analysis in zip(tabs, wide, strict=True):
        expect(numbers(tab)).to_have_text(words(analysis, MaskingMode.NONE))
        expect(tab.locator(".cxv[data-busy]")).to_have_count(0)
    for tab, margin in zip(tabs, (0.12, 0.05), strict=True):
        tab.keyboard.press("2")
        tab.locator("[data-slide=margin]").fill(str(round(100 * margin)))
    for tab, file, margin in zip(tabs, files, (0.12, 0.05), strict=True):
        analysis = site.pipeline.analyse(read_radiograph(file), margin=margin)
        expect(numbers(tab)).to_have_text(words(analysis, MaskingMode.LOOSE))


class Brake:
    """Holds the pipeline before the findings until released."""

    def __init__(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        analyse = site.pipeline.analyse

        def wait_and_analyse(*args: Any, **options: Any) -> Analysis:
            self.reached.set()
            assert self.go.wait(30)
            return analyse(*args, **options)

        monkeypatch.setattr(site.pipeline, "analyse", wait_and_analyse)


@pytest.fixture
def brake(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Brake]:
    brake = Brake(site, monkeypatch)
    yield brake
    brake.go.set()


def test_stop_stops_and_no_late_result_is_shown(
    watched: Watched, brake: Brake, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed = []
    monkeypatch.setattr(site.pipeline, "probe", lambda *_: probed.append(1) or iter(()))
    tab = watched.open()
    choose(tab, phantom_png(1))
    expect(tab.locator(".cxv-none")).to_have_text("Reading the findings…")
    assert brake.reached.wait(30)
    tab.get_by_text("Stop", exact=True).first.click()
    expect(tab.locator("p.cxr-status").first).to_have_text("Stopped.")
    expect(tab.locator(".cxv-none")).to_have_text("This image was not read to its end.")
    brake.go.set()
    tab.wait_for_timeout(1500)
    expect(numbers(tab)).to_have_count(0)
    expect(tab.locator(".cxv-none")).to_have_text("This image was not read to its end.")
    assert probed == []
    # Nothing can be asked about a half-read image, and the next one is read as ever.
    monkeypatch.undo()
    monkeypatch.setattr("cxrdemo.pipeline.check", lambda *_: ())
    upload(tab, phantom_png(2))
    expect(numbers(tab)).to_have_count(len(FINDINGS) + 1)


def test_a_second_image_takes_the_place_of_one_that_is_being_read(
    watched: Watched, brake: Brake, site: Site
) -> None:
    tab = watched.open()
    second = phantom_png(2)
    choose(tab, phantom_png(1))
    assert brake.reached.wait(30)
    choose(tab, second)
    expect(tab.locator("p.cxr-status").first).to_have_text("Reading the file…")
    brake.go.set()
    shown = words(site.pipeline.analyse(read_radiograph(second)), MaskingMode.NONE)
    expect(numbers(tab)).to_have_text(shown)
    expect(tab.locator(".cxv[data-busy]")).to_have_count(0)
    expect(numbers(tab)).to_have_text(shown)


def test_a_broken_file_is_told_in_words_and_the_image_before_stays(tab: Any) -> None:
    before = numbers(tab).all_text_contents()
    choose(tab, b"junk" * 100, "broken.dcm")
    expect(tab.locator("p.cxr-error")).to_contain_text("Expected a chest X-ray")
    assert numbers(tab).all_text_contents() == before
    expect(tab.locator("p.cxr-status").first).not_to_contain_text("Reading")
    tab.keyboard.press("2")
    tab.keyboard.press("]")
    expect(tab.locator(".cxv-rows[data-stale]")).to_have_count(0)
    expect(tab.locator("[data-out=margin]")).to_contain_text("9 %")


def test_a_file_may_be_dropped_anywhere_and_opened_twice(watched: Watched, site: Site) -> None:
    tab = watched.open()
    content = phantom_png(3)
    drop = """([bytes, selector]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob(bytes), c => c.charCodeAt(0))], "a.png"));
        const options = { bubbles: true, cancelable: true, dataTransfer: data };
        document.querySelector(selector).dispatchEvent(new DragEvent("drop", options));
    }"""
    expected = words(site.pipeline.analyse(read_radiograph(content)), MaskingMode.NONE)
    for selector in (".cxv-side", ".cxr-header"):
        tab.evaluate(drop, [base64.b64encode(content).decode(), selector])
        expect(numbers(tab)).to_have_text(expected)
        expect(tab.locator(".cxv[data-busy]")).to_have_count(0)
        tab.get_by_text("Clear", exact=True).click()
        expect(tab.locator(".cxv[data-empty]")).to_have_count(1)
    tab.on(
        "filechooser",
        lambda chooser: chooser.set_files(
            {"name": "a.png", "mimeType": "image/png", "buffer": content}
        ),
    )
    for _ in range(2):
        tab.keyboard.press("o")
        expect(numbers(tab)).to_have_text(expected)
        expect(tab.locator(".cxv[data-busy]")).to_have_count(0)
        tab.get_by_text("Clear", exact=True).click()
        expect(tab.locator(".cxv[data-empty]")).to_have_count(1)


def test_a_closed_tab_leaves_no_image_behind(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = []

    def read_and_remember(content: bytes) -> Radiograph:
        radiograph = read_radiograph(content)
        images.append(weakref.ref(radiograph))
        return radiograph

    monkeypatch.setattr(visit_module, "read_radiograph", read_and_remember)
    tab = watched.open()
    upload(tab, phantom_png(1))
    # A tab of the test before may have had one in the queue still.
    assert any(image() is not None for image in images)
    tab.close()
    for _ in range(300):  # what is being read ends between two stages
        gc.collect()
        if all(image() is None for image in images):
            break
        time.sleep(0.1)
    assert all(image() is None for image in images)


def test_a_doubtful_image_shows_its_numbers_on_request(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubt = Doubt("inverted", "Bones are dark.")
    monkeypatch.setattr("cxrdemo.pipeline.check", lambda *_: (doubt,))
    tab = watched.open()
    choose(tab, phantom_png(1))
    expect(tab.locator(".cxv-accept")).to_be_visible()
    expect(numbers(tab)).to_have_count(0)
    tab.keyboard.press("y")
    expect(numbers(tab)).to_have_count(len(FINDINGS) + 1)
    expect(tab.locator(".cxv-doubts")).to_contain_text("Shown in spite of a doubt")
    expect(tab.locator(".cxv-doubts")).to_contain_text(doubt.message)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_nothing_to_complain_about(
    watched: Watched, theme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is missing"
    ).Axe()
    doubt = Doubt("inverted", "Bones are dark.")
    monkeypatch.setattr("cxrdemo.pipeline.check", lambda *_: (doubt,))
    found = []

    def look(tab: Any, state: str) -> None:
        expect(tab.locator("p.loading:visible")).to_have_count(0)
        for violation in axe.run(tab).response["violations"]:
            nodes = [node["html"][:200] for node in violation["nodes"]]
            found.append((state, violation["id"], nodes))

    tab = watched.open(PHONE if theme == "light" else DESKTOP, query=f"?__theme={theme}")
    look(tab, "empty")
    choose(tab, phantom_png(1))
    expect(tab.locator(".cxv-accept")).to_be_visible()
    look(tab, "refused")
    tab.locator(".cxv-accept").click()
    expect(tab.locator(".cxv-curve")).to_be_visible()
    tab.keyboard.press("f")
    look(tab, "mask correction")
    tab.keyboard.press("?")
    look(tab, "help")
    tab.keyboard.press("Escape")
    for name in ("Batch", "About"):
        tab.get_by_role("tab", name=name).click()
        look(tab, name)
    assert found == [], found
