"""How the tests open the page, choose files, and see what is drawn."""

import base64
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np
from patience import until
from playwright.sync_api import expect

from cxrdemo import ui
from cxrdemo.phantom import make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.rendering import encode_png, grey
from cxrdemo.results import Analysis, MaskingMode
from cxrdemo.ui.models import Models
from cxrdemo.ui.page import build_ui, launch_options

EXAMPLES_FOLDER = Path(ui.__file__).parent / "examples"
DICOM = EXAMPLES_FOLDER / "synthetic-nodule.dcm"
DESKTOP = {"viewport": {"width": 1440, "height": 900}}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}


@dataclass
class Site:
    url: str
    page: gr.Blocks
    pipeline: Pipeline
    browser: Any


@contextmanager
def served(pipeline: Pipeline, port: int) -> Iterator[tuple[gr.Blocks, str]]:
    """The page and its address, until its server is stopped."""
    page, visits = build_ui(Models.of(pipeline))
    options = {"server_port": port, "quiet": True, **launch_options(visits)}
    _, url, _ = page.launch(prevent_thread_lock=True, **options)
    try:
        yield page, url
    finally:
        page.close(verbose=False)
        visits.end_all()


class Watched:
    """Opens tabs, and remembers what they asked for and complained about."""

    def __init__(self, site: Site, stack: ExitStack) -> None:
        self.site, self._stack = site, stack
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def open(self, options: dict[str, Any] = DESKTOP, *, query: str = "", script: str = "") -> Any:
        """A tab of the page; `script` runs in it before anything of the page's does."""
        context = self.site.browser.new_context(**options)
        self._stack.callback(context.close)
        tab = context.new_page()
        tab.on("request", lambda request: self.requests.append(request.url))
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.on("console", self._on_console)
        if script:
            tab.add_init_script(script)
        tab.goto(self.site.url + query)
        expect(tab.locator(".cxv-main")).to_be_visible()
        return tab

    def _on_console(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def went_out(self, since: int = 0, *, local: tuple[str, ...] = ()) -> list[str]:
        inside = ("data:", "blob:", *local)
        return [address for address in self.requests[since:] if not address.startswith(inside)]


def upload(tab: Any, content: bytes, name: str = "export") -> None:
    """Chooses a file, and waits until everything about it is there."""
    choose(tab, content, name)
    expect(tab.locator(".cxr-status").first).to_contain_text(" px · ")
    expect(tab.locator(".cxv[data-probed]:not([data-busy])")).to_have_count(1)


def choose(tab: Any, content: bytes, name: str = "export") -> None:
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    tab.locator(".cxr-open input[type=file]").set_input_files(file)


def phantom_png(seed: int) -> bytes:
    return encode_png(grey(make_phantom(seed=seed, hw=(400, 360)).radiograph))


def inverted_png(seed: int) -> bytes:
    """What the gate doubts."""
    return encode_png(255 - grey(make_phantom(seed=seed, hw=(400, 360)).radiograph))


def numbers(tab: Any) -> Any:
    return tab.locator(".cxv-row b")


def words(analysis: Analysis, mode: MaskingMode) -> list[str]:
    found = analysis.readings[mode].findings
    return [f"{p:.2f}" for p in (*found.probabilities, found.no_finding)]


def drawn(tab: Any, pane: int = 0) -> str:
    """What a pane shows, after the next frame."""
    return tab.evaluate(
        "i => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done("
        "['film', 'marks'].map((name) => document.querySelectorAll('.cxv-' + name)[i].toDataURL())"
        ".join()))))",
        pane,
    )


def film(tab: Any, pane: int = 0) -> np.ndarray:
    """RGB of a pane's film, after the next frame."""
    url = drawn(tab, pane).split(",data:")[0]
    data = np.frombuffer(base64.b64decode(url.split(",", 1)[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def expect_drawn(tab: Any, expected: str) -> None:
    """Not at once: a finger's tap is told late, and a size takes some frames to settle."""
    assert until(lambda: drawn(tab) == expected), "the first pane does not show what it showed"


def settle(tab: Any) -> None:
    """Waits for the answer to a question just asked; a frame passes before it is marked."""
    drawn(tab)
    expect(tab.locator(".cxv[data-busy]")).to_have_count(0)


def saved(tab: Any, hw: tuple[int, int]) -> list[np.ndarray]:
    """The pictures of the two panes that Save writes side by side, without their captions."""
    with tab.expect_download() as download:
        tab.keyboard.press("s")
    height, width = hw
    both = cv2.imread(str(download.value.path()))[:height, :, ::-1].astype(int)
    return [both[:, :width], both[:, width:]]
