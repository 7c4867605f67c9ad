"""How one looks at the film: windows, panes, poses, lengths; with a graphics card and without."""

import io
import re
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from playwright.sync_api import expect

from browser.tabs import DICOM, Watched, choose, drawn, film, phantom_png, upload

CARD = """(() => {
  // The program that stands in for a graphics card here gives itself another name.
  const ask = WebGL2RenderingContext.prototype.getParameter;
  WebGL2RenderingContext.prototype.getParameter = function (name) {
    const value = ask.call(this, name);
    window.card = this;
    return typeof value === "string" ? "a card" : value;
  };
})()"""

FILMS = """(() => {
  window.films = [];
  const { prototype } = ImageBitmapRenderingContext;
  const show = prototype.transferFromImageBitmap;
  prototype.transferFromImageBitmap = function (bitmap) {
    if (bitmap) films.push(bitmap.width * bitmap.height);
    show.call(this, bitmap);
  };
})()"""


def drag(tab: Any, pane: int, dx: int, dy: int, button: str = "left") -> None:
    box = tab.locator(".cxv-film").nth(pane).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.mouse.down(button=button)
    tab.mouse.move(x + dx, y + dy, steps=3)
    tab.mouse.up(button=button)


def test_a_lost_card_is_stood_in_for_and_shows_the_same(watched: Watched) -> None:
    tab = watched.open(script=CARD)
    upload(tab, DICOM.read_bytes())
    tab.keyboard.press("2")
    tab.locator(".cxv-row").first.click()
    expect(tab.locator(".cxv[data-renderer=webgl]")).to_have_count(1)
    by_card = [film(tab, pane) for pane in (0, 1)]
    tab.evaluate("window.lose = card.getExtension('WEBGL_lose_context'); lose.loseContext()")
    expect(tab.locator(".cxv[data-renderer='2d']")).to_have_count(1)
    for pane, expected in enumerate(by_card):
        assert np.abs(film(tab, pane) - expected).max() <= 2
    assert by_card[0].std() > 20
    assert np.abs(by_card[0] - by_card[1]).max() > 50
    tab.evaluate("lose.restoreContext()")
    expect(tab.locator(".cxv[data-renderer=webgl]")).to_have_count(1)
    np.testing.assert_array_equal(film(tab), by_card[0])


def test_dragging_changes_the_window_and_moves_a_zoomed_film(tab: Any) -> None:
    preset, told = tab.locator("[data-preset]"), tab.locator("[data-out=pixel]")
    before = film(tab)
    drag(tab, 0, 60, 40)
    assert np.abs(film(tab) - before).max() > 10
    expect(preset).to_have_value("own")
    expect(told).to_have_text(re.compile(r"C -?\d+ W \d+"))
    for name in ("lungs", "bone", "inverted"):
        shown = film(tab)
        preset.select_option(name)
        assert np.abs(film(tab) - shown).max() > 10, name
    # What is told of the window is that of now, not that of the drag.
    expect(told).to_have_text(re.compile(r"C -?\d+ W \d+ inverted"))
    preset.select_option("file")
    assert np.abs(film(tab) - before).max() <= 1  # of 12 bits meanwhile, not of 8
    # Zoomed, the same drag moves; the second button still changes the window.
    tab.keyboard.press("+")
    zoomed = film(tab)
    drag(tab, 0, 60, 40)
    expect(preset).to_have_value("file")
    moved = film(tab)
    assert np.abs(moved - zoomed).max() > 10
    drag(tab, 0, 60, 40, "right")
    expect(preset).to_have_value("own")
    tab.keyboard.press("r")
    assert np.abs(film(tab) - before).max() <= 1


def test_the_windows_of_the_files_header_are_offered_and_go_with_it(watched: Watched) -> None:
    dataset = pydicom.dcmread(DICOM)
    first, second = (dataset.WindowCenter, dataset.WindowWidth), (900, 500)
    dataset.WindowCenter, dataset.WindowWidth = map(list, zip(first, second, strict=True))
    dataset.WindowCenterWidthExplanation = ["USUAL", "NARROW"]
    content = io.BytesIO()
    dataset.save_as(content)
    tab = watched.open()
    upload(tab, content.getvalue())
    preset = tab.locator("[data-preset]")
    own = preset.locator("option[data-own]")
    expect(own).to_have_text(["narrow"])  # the first is the one it is read with
    read = film(tab)
    preset.select_option(label="narrow")
    narrow = film(tab)
    assert np.abs(narrow - read).max() > 60
    height, width, _ = narrow.shape
    top = (height - width) // 2  # the image is square, and as wide as its pane
    square = narrow[top : top + width]
    stored = dataset.pixel_array
    expected = np.mean((stored <= 650) | (stored >= 1150))
    assert np.mean(np.isin(square, (0, 255))) == pytest.approx(expected, abs=0.03)
    choose(tab, phantom_png(0))
    expect(own).to_have_count(0)
    expect(preset).to_have_value("file")


def test_a_double_click_shows_one_pane_alone(tab: Any) -> None:
    panes = tab.locator(".cxv-pane:visible")
    expect(panes).to_have_count(2)
    tab.locator(".cxv-film").nth(1).dblclick()
    expect(panes).to_have_count(1)
    expect(panes.locator(".cxv-title")).to_contain_text("Grad-CAM")
    tab.locator(".cxv-film:visible").dblclick()
    expect(panes).to_have_count(2)


def test_a_turned_and_mirrored_view_moves_the_letters_and_the_pixels(tab: Any) -> None:
    right, left = tab.locator(".cxv-r").first, tab.locator(".cxv-l").first
    before = film(tab)
    for turns, edge in enumerate(("top", "right", "bottom", "left"), start=1):
        tab.keyboard.press("t")
        expect(right).to_have_attribute("data-at", edge)
        if turns == 2:
            half = film(tab)
            assert np.abs(half - before[::-1, ::-1]).mean() < 1
    np.testing.assert_array_equal(film(tab), before)
    tab.keyboard.press("j")
    expect(right).to_have_attribute("data-at", "right")
    expect(left).to_have_attribute("data-at", "left")
    assert np.abs(film(tab) - before[:, ::-1]).mean() < 1


def test_sides_that_the_file_does_not_tell_are_assumed_and_can_be_swapped(
    watched: Watched,
) -> None:
    tab = watched.open()
    upload(tab, DICOM.read_bytes())
    expect(tab.locator(".cxv-r").first).to_have_text("R")
    upload(tab, phantom_png(3), "photo.png")
    right = tab.locator(".cxv-r").first
    expect(right).to_have_text("R?")
    expect(right).to_have_attribute("data-at", "left")
    tab.locator(".cxv-more summary").click()
    tab.locator("[data-do=swap]").click()
    expect(right).to_have_attribute("data-at", "right")
    expect(right).to_have_text("R")


def test_a_length_and_a_pixel_are_told(tab: Any) -> None:
    box = tab.locator(".cxv-film").first.bounding_box()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(tab.locator("[data-out=pixel]")).to_have_text(re.compile(r"^\d+, \d+: -?\d+$"))
    before = drawn(tab)
    tab.keyboard.press("l")
    drag(tab, 0, 80, 60)
    measured = drawn(tab)
    assert measured != before
    tab.keyboard.press("Escape")
    assert drawn(tab) == before


def test_without_a_card_a_large_film_is_drawn_roughly_first_and_sharp_at_rest(
    watched: Watched,
) -> None:
    size = {"width": 1800, "height": 1300}
    tab = watched.open({"viewport": size, "device_scale_factor": 2}, script=FILMS)
    upload(tab, DICOM.read_bytes())
    expect(tab.locator(".cxv[data-renderer='2d']")).to_have_count(1)
    at_rest = "films.length && films.at(-1) > 2e6"
    tab.wait_for_function(at_rest)
    tab.evaluate("films.length = 0")
    tab.keyboard.press("i")
    tab.wait_for_function(at_rest)
    assert tab.evaluate("films[0]") <= 400_000


def test_the_picture_in_full_is_fetched_once_it_shows_more(watched: Watched) -> None:
    """A window so narrow that 8 bits are too few, of a file that has 16."""
    tab = watched.open()
    ramp = np.tile(np.linspace(0, 1, 320), (360, 1))
    png = cv2.imencode(".png", np.rint(ramp * 65535).astype(np.uint16))[1].tobytes()
    choose(tab, png, "ramp.png")
    tab.locator(".cxv-accept").click()
    expect(tab.locator(".cxv[data-probed]:not([data-busy])")).to_have_count(1)
    told = tab.locator("[data-out=pixel]")
    tab.keyboard.press("m")
    tab.mouse.move(1, 1)
    tab.locator("[data-slide=width]").evaluate(
        "(slide) => { slide.value = 5; slide.dispatchEvent(new Event('input')); }"
    )
    expect(told).to_have_text(re.compile("320 . 360 px, 16 bit"))
    row = film(tab)[film(tab).shape[0] // 2, :, 0]
    shown = row[(row > 0) & (row < 255)]
    # A twentieth of the range: 16 columns of the ramp, 13 levels of 8 bits, drawn smoothly.
    assert len(np.unique(shown)) > 20
