"""Keyboard and mouse, each alone."""

import json
import re
import zipfile
from typing import Any

from playwright.sync_api import expect

from browser.tabs import DICOM, Site, Watched, drawn, numbers, upload, words
from cxrdemo.files import read_radiograph
from cxrdemo.labels import FINDINGS
from cxrdemo.results import MaskingMode


def take_it_in_full(tab: Any) -> None:
    """Zoom and a narrow window ask for the picture in full, once; nothing is asked for later."""
    told = tab.locator("[data-out=pixel]")
    for key in "++++" + 14 * "<":
        tab.keyboard.press(key)
    expect(told).to_contain_text("12 bit")
    expect(told).not_to_contain_text(" of ")
    tab.keyboard.press("r")


def test_every_key_of_the_help_sheet_does_what_it_says(tab: Any, watched: Watched) -> None:
    press = tab.keyboard.press
    take_it_in_full(tab)
    seen = len(watched.requests)
    before = drawn(tab)
    for key, layout in (("c", "compare"), ("g", "grid"), ("v", "pair")):
        press(key)
        expect(tab.locator(f".cxv[data-layout={layout}]")).to_have_count(1)
    for key, mode in (("2", "loose"), ("3", "tight"), ("1", "none")):
        press(key)
        expect(tab.locator(f".cxv[data-mode={mode}]")).to_have_count(1)
    first = tab.locator(".cxv-row[aria-checked=true] .cxv-name").inner_text()
    press("ArrowDown")
    expect(tab.locator(".cxv-row[aria-checked=true]")).not_to_contain_text(first)
    press("ArrowUp")
    expect(tab.locator(".cxv-row[aria-checked=true]")).to_contain_text(first)
    assert drawn(tab) == before
    for keys in (*"mi,.<>+wtj", ["+", "Shift+ArrowLeft"]):
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
    press("l")
    expect(tab.locator(".cxv[data-tooled]")).to_have_count(1)
    press("l")
    press("n")
    expect(tab.locator(".cxv-planting")).to_be_visible()
    press("Escape")
    expect(tab.locator(".cxv-planting")).to_be_hidden()
    press("u")
    expect(tab.locator("[data-scale=shared]")).to_have_attribute("aria-checked", "true")
    press("u")
    heat = drawn(tab, 1)
    press("h")
    assert drawn(tab, 1) != heat
    press("h")
    assert drawn(tab, 1) == heat
    press("p")
    expect(tab.locator("select[data-point]")).to_have_value("high specificity")
    expect(tab.locator(".cxv-row[data-word=below]")).to_have_count(len(FINDINGS))
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
    elsewhere = set("OFADBKZXY") | {"Enter", "Esc", "[", "]"}
    assert told == elsewhere | set("123VCGMHUI,.WTJ+-LNRSP") | {"↑", "↓"}


def test_the_mouse_alone_reaches_everything(tab: Any, watched: Watched, site: Site) -> None:
    pane = tab.locator(".cxv-film").first
    box = pane.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    take_it_in_full(tab)
    seen = len(watched.requests)
    before = drawn(tab)

    def drag(dx: int, dy: int, button: str = "left") -> None:
        tab.mouse.move(x, y)
        tab.mouse.down(button=button)
        tab.mouse.move(x + dx, y + dy, steps=3)
        tab.mouse.up(button=button)

    drag(60, 40)
    assert drawn(tab) != before, "the window changes before the picture is zoomed"
    expect(tab.locator("[data-preset]")).to_have_value("own")
    tab.keyboard.press("r")
    assert drawn(tab) == before
    tab.mouse.move(x, y)
    tab.mouse.wheel(0, -300)
    expect(tab.locator(".cxv[data-zoomed]")).to_have_count(1)
    zoomed = drawn(tab)
    drag(60, 40)
    assert drawn(tab) not in (before, zoomed)
    tab.locator(".cxv-more summary").click()
    tab.locator("[data-do=reset]").click()
    tab.keyboard.press("Escape")
    assert drawn(tab) == before
    pane.dblclick()
    expect(tab.locator(".cxv-pane:visible")).to_have_count(1)
    pane.dblclick()
    expect(tab.locator(".cxv-pane:visible")).to_have_count(2)
    assert drawn(tab) == before
    tab.locator("[data-preset]").select_option("lungs")
    assert drawn(tab) != before
    tab.locator("[data-preset]").select_option("file")
    assert drawn(tab) == before
    drag(80, -50, "right")
    assert tab.locator("[data-slide=width]").input_value() != "100"
    assert tab.locator("[data-slide=level]").input_value() != "50"
    assert drawn(tab) != before
    tab.locator(".cxv-more summary").click()
    tab.locator("[data-do=reset]").click()
    assert drawn(tab) == before
    for slide, pane_index in (("level", 0), ("width", 0), ("opacity", 1)):
        shown = drawn(tab, pane_index)
        tab.locator(f"[data-slide={slide}]").fill("30")
        assert drawn(tab, pane_index) != shown
    tab.locator("[data-do=reset]").click()
    for toggle in ("invert", "outline", "heat"):
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
    expect(tab.locator(".cxv-row[data-word=below]")).to_have_count(len(FINDINGS))
    for fold in ("margin", "numbers", "good"):
        tab.locator(f"[data-fold={fold}]").click()
        expect(tab.locator(f"#cxv-{fold}")).to_be_visible()
    tab.locator(".cxv-more summary").click()
    with tab.expect_download():
        tab.locator("[data-do=save]").click()
    tab.locator(".cxv-more summary").click()
    tab.locator("[data-do=help]").click()
    tab.locator(".cxv-help button").click()
    expect(tab.locator(".cxv-help")).to_be_hidden()
    assert watched.went_out(seen) == []

    # The case as one file, which the server packs.
    tab.locator(".cxv-more summary").click()
    with tab.expect_download() as download:
        tab.locator("[data-do=download]").click()
    assert download.value.suggested_filename == "export.zip"
    with zipfile.ZipFile(download.value.path()) as case:
        record = json.loads(case.read("analysis.json"))
        assert {"figure.png", "mask.png", "labels.png", "heat.npz"} <= set(case.namelist())
    found = record["maskings"]["none"]["findings"]
    shown_here = numbers(tab).all_text_contents()
    assert [f"{finding['probability']:.2f}" for finding in found] == shown_here[: len(found)]

    # A margin let go of: the loose numbers follow.
    tab.locator("button[data-mode=loose]").click()
    tab.locator("[data-slide=margin]").fill("14")
    wider = site.pipeline.analyse(read_radiograph(DICOM), margin=0.14)
    expect(numbers(tab)).to_have_text(words(wider, MaskingMode.LOOSE))
    tab.get_by_text("Light / dark").click()
    expect(tab.locator("body")).not_to_have_class(re.compile("dark"))
    tab.get_by_text("Clear", exact=True).click()
    expect(tab.locator(".cxv[data-empty]")).to_have_count(1)


def test_single_key_shortcuts_can_be_switched_off_and_stay_so(watched: Watched) -> None:
    tab = watched.open()
    upload(tab, DICOM.read_bytes())
    switch, loose = tab.locator("[data-toggle=keys]"), tab.locator(".cxv[data-mode=loose]")
    tab.locator(".cxv-more summary").click()
    switch.click()
    tab.keyboard.press("Escape")
    tab.keyboard.press("2")
    tab.keyboard.press("c")
    first = tab.locator(".cxv-row[aria-checked=true] .cxv-name").inner_text()
    tab.keyboard.press("ArrowDown")  # is no character, and still chooses
    expect(tab.locator(".cxv-row[aria-checked=true] .cxv-name")).not_to_have_text(first)
    expect(loose).to_have_count(0)
    expect(tab.locator(".cxv[data-layout=pair]")).to_have_count(1)
    tab.reload()
    upload(tab, DICOM.read_bytes())
    tab.keyboard.press("2")
    expect(tab.locator("[data-toggle=keys]")).to_have_attribute("aria-pressed", "false")
    expect(loose).to_have_count(0)
    tab.locator(".cxv-more summary").click()
    switch.click()
    tab.keyboard.press("Escape")
    tab.keyboard.press("2")
    expect(loose).to_have_count(1)


def test_arrows_go_round_within_a_group_and_one_stop_leads_into_it(tab: Any) -> None:
    for name in ("What the network is given", "Panes"):
        group = tab.get_by_role("radiogroup", name=name)
        choices = group.get_by_role("radio")
        count = choices.count()
        assert group.locator("[tabindex='0']").count() == 1
        group.locator("[aria-checked=true]").focus()
        start = group.locator("[aria-checked=true]").inner_text()
        seen = []
        for _ in range(count):
            tab.keyboard.press("ArrowRight")
            chosen = group.locator("[aria-checked=true]")
            expect(chosen).to_be_focused()
            seen.append(chosen.inner_text())
        assert len(set(seen)) == count
        assert seen[-1] == start
        tab.keyboard.press("ArrowLeft")
        expect(group.locator("[aria-checked=true]")).to_have_text(seen[-2])
        tab.keyboard.press("ArrowRight")
