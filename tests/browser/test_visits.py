"""Files that follow one another, and visitors beside one another."""

import base64
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from patience import PATIENCE_SECONDS, until
from playwright.sync_api import expect

from browser.tabs import Site, Watched, choose, numbers, phantom_png, upload, words
from cxrdemo.files import read_radiograph
from cxrdemo.labels import FINDINGS
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import Analysis, MaskingMode
from cxrdemo.ui import visit as visit_module

READ = ".cxv[data-probed]:not([data-busy]):not([data-empty])"


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
            assert self.go.wait(PATIENCE_SECONDS)
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
    assert brake.reached.wait(PATIENCE_SECONDS)
    tab.get_by_text("Stop", exact=True).first.click()
    expect(tab.locator("p.cxr-status").first).to_have_text("Stopped.")
    expect(tab.get_by_role("status").filter(has_text="Stopped.")).to_have_count(1)
    expect(tab.locator(".cxv-none")).to_have_text("Stopped.")
    brake.go.set()
    tab.wait_for_timeout(1500)
    expect(numbers(tab)).to_have_count(0)
    expect(tab.locator(".cxv-none")).to_have_text("Stopped.")
    assert probed == []
    # Nothing can be asked about a half-read image, and the next one is read as ever.
    monkeypatch.undo()
    upload(tab, phantom_png(2))
    expect(numbers(tab)).to_have_count(len(FINDINGS) + 1)


def test_a_second_image_takes_the_place_of_one_that_is_being_read(
    watched: Watched, brake: Brake, site: Site
) -> None:
    tab = watched.open()
    second = phantom_png(2)
    choose(tab, phantom_png(1))
    assert brake.reached.wait(PATIENCE_SECONDS)
    choose(tab, second)
    # The file is read aside; its findings wait for those of the first image.
    status = tab.locator("p.cxr-status").first
    expect(status).to_have_text("Waiting: 1 reading before yours.")
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


def test_what_changes_is_said_aloud(watched: Watched) -> None:
    tab = watched.open()
    said = tab.locator(".cxv-live[aria-live=polite]")
    expect(said).to_have_text("")
    upload(tab, phantom_png(1))
    chosen = tab.locator(".cxv-row[aria-checked=true]")
    for key, name in (("1", "whole image"), ("2", "loose"), ("3", "tight")):
        tab.keyboard.press(key)
        expect(tab.locator("[data-out=mode]")).to_have_text(name)
        finding, p = chosen.locator(".cxv-name").inner_text(), chosen.locator("b").inner_text()
        expect(said).to_contain_text(f"{name}. {finding} {p}, ")
    choose(tab, b"junk" * 100, "broken.dcm")
    alert = tab.get_by_role("alert").filter(has_text="Expected a chest X-ray")
    expect(alert).to_have_count(1)
    # Or the same words about the next image would not be said again.
    sentence = said.inner_text()
    tab.get_by_text("Clear", exact=True).click()
    expect(said).to_have_text("")
    upload(tab, phantom_png(1))
    expect(said).to_have_text(sentence)


def test_an_empty_page_says_what_to_do_and_offers_nothing_else(watched: Watched) -> None:
    tab = watched.open()

    def expect_empty() -> None:
        expect(tab.locator(".cxv-welcome")).to_be_visible()
        expect(tab.locator(".cxv-welcome")).to_contain_text("drop it here, or paste it")
        for part in (".cxv-panes", ".cxv-side", ".cxv-legend", ".cxr-stop"):
            expect(tab.locator(part).first).to_be_hidden()

    def fill_of(button: str) -> str:
        return tab.locator(button).evaluate("(node) => getComputedStyle(node).backgroundColor")

    expect_empty()
    for key in ("s", "f", "n", "l", "]", "+", "p", "w", "y", "ArrowDown", "Enter"):
        tab.keyboard.press(key)
    expect_empty()
    # Clear is no louder than what opens something.
    assert fill_of(".cxr-clear") == "rgba(0, 0, 0, 0)"
    assert fill_of(".cxr-drop") != "rgba(0, 0, 0, 0)"
    upload(tab, phantom_png(1))
    expect(tab.locator(".cxv-welcome")).to_be_hidden()
    expect(tab.locator(".cxr-stop")).to_be_hidden()
    tab.get_by_text("Clear", exact=True).click()
    expect_empty()


def test_a_file_dragged_over_the_page_is_asked_for(watched: Watched) -> None:
    tab = watched.open()
    drag = """([kind, selector, isFile]) => {
        const data = new DataTransfer();
        data.items.add(...(isFile ? [new File(["x"], "a.png")] : ["words", "text/plain"]));
        const event = new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: data });
        document.querySelector(selector).dispatchEvent(event);
        return getComputedStyle(document.querySelector(".cxv"), "::after").content;
    }"""
    for selector in (".cxr-header", ".cxv-body", "body"):
        assert tab.evaluate(drag, ["dragover", selector, True]) == '"Drop to read"'
        assert tab.evaluate(drag, ["dragleave", selector, True]) == "none"
    # Words that are dragged are none.
    assert tab.evaluate(drag, ["dragover", ".cxr-header", False]) == "none"


def test_a_file_may_be_dropped_anywhere_pasted_and_opened_twice(
    watched: Watched, site: Site
) -> None:
    tab = watched.open()
    content = phantom_png(3)
    # Long before it is wanted: the browser is told to hand dialogs over by and by.
    tab.on(
        "filechooser",
        lambda chooser: chooser.set_files(
            {"name": "a.png", "mimeType": "image/png", "buffer": content}
        ),
    )
    hand_over = """([bytes, selector, kind]) => {
        const data = new DataTransfer();
        data.items.add(new File([Uint8Array.from(atob(bytes), c => c.charCodeAt(0))], "a.png"));
        const event = kind === "drop"
          ? new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: data })
          : new ClipboardEvent(kind, { bubbles: true, cancelable: true, clipboardData: data });
        document.querySelector(selector).dispatchEvent(event);
    }"""
    expected = words(site.pipeline.analyse(read_radiograph(content)), MaskingMode.NONE)
    for selector, kind in ((".cxv-side", "drop"), (".cxr-header", "drop"), ("body", "paste")):
        tab.evaluate(hand_over, [base64.b64encode(content).decode(), selector, kind])
        expect(tab.locator(READ)).to_have_count(1)
        expect(numbers(tab)).to_have_text(expected)
        tab.get_by_text("Clear", exact=True).click()
        expect(tab.locator(".cxv[data-empty]")).to_have_count(1)
    for _ in range(2):
        tab.keyboard.press("o")
        expect(tab.locator(READ)).to_have_count(1)
        expect(numbers(tab)).to_have_text(expected)
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

    def are_gone() -> bool:
        gc.collect()
        return all(image() is None for image in images)

    assert until(are_gone)  # what is being read ends between two stages
