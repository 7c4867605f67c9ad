"""The page in a system's own colours, enlarged, and on paper."""

import re
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import expect

from browser.tabs import DICOM, Watched, settle, upload


def seen(tab: Any, locator: Any) -> np.ndarray:
    """RGB of an element as it is on the screen."""
    data = np.frombuffer(locator.screenshot(), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Contrast ratio of two colours, as WCAG defines it."""

    def luminance(rgb: np.ndarray) -> float:
        share = rgb / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_in_forced_colours_bars_thresholds_and_choices_are_seen(tab: Any) -> None:
    tab.emulate_media(forced_colors="active")
    for text in ("h1", ".cxr-badge", ".cxr-status", ".cxv-row b", ".cxv-main button[data-mode]"):
        levels = seen(tab, tab.locator(text).first)[3:-3, 3:-3].reshape(-1, 3)
        assert apart(levels.min(axis=0), levels.max(axis=0)) >= 7, text
    rows = tab.locator(".cxv-row[role=radio]")
    for row in rows.all():
        track = row.locator(".cxv-track")
        picture = seen(tab, track)
        area = track.bounding_box()

        def at(mark: Any, area: Any = area, picture: Any = picture) -> tuple[slice, slice]:
            box = mark.bounding_box()
            x, y = round(box["x"] - area["x"]), round(box["y"] - area["y"])
            return (
                slice(max(0, y), y + round(box["height"])),
                slice(max(0, x), x + round(box["width"])),
            )

        bare = np.ones(picture.shape[:2], bool)
        for dot in track.locator("u").all():
            bare[at(dot)] = False
        middle = picture.shape[0] // 2
        zone = np.zeros_like(bare)
        zone[at(track.locator("i"))] = True
        reached = np.median(picture[middle][(bare & zone)[middle]], axis=0)
        below = np.median(picture[middle][(bare & ~zone)[middle]], axis=0)
        assert apart(reached, below) >= 3, "the zone above the threshold"
        ring = at(track.locator("u[data-chosen]"))[1]
        for dot in track.locator("u:not([data-chosen])").all():
            rows_of, columns_of = at(dot)
            if columns_of.start - 2 < ring.stop and columns_of.stop + 2 > ring.start:
                continue  # under the ring of the chosen masking
            line = picture[(rows_of.start + rows_of.stop) // 2]
            core = line[(columns_of.start + columns_of.stop) // 2]
            assert apart(core, line[columns_of.start - 1]) >= 3, "a dot beside its rim"
    edges = {
        chosen: seen(tab, tab.locator(f".cxv-row[aria-checked={chosen}]").first)[20, 2]
        for chosen in ("true", "false")
    }
    assert apart(edges["true"], edges["false"]) >= 3
    on, off = (
        seen(tab, tab.locator(f".cxv-main button[data-mode={mode}]"))[:3].mean(axis=(0, 1))
        for mode in ("none", "tight")
    )
    assert np.abs(on - off).max() > 30


def test_enlarged_twice_the_film_stays_beside_the_findings(watched: Watched) -> None:
    """1440 x 900 at 200 %."""
    size = {"width": 720, "height": 450}
    options = {"viewport": size, "device_scale_factor": 2, "reduced_motion": "reduce"}
    tab = watched.open(options)
    upload(tab, DICOM.read_bytes())
    assert tab.evaluate("document.documentElement.scrollWidth") <= size["width"]
    for number in (4, 0):
        row = tab.locator(".cxv-row").nth(number)
        row.evaluate("(row) => row.scrollIntoView({ block: 'end' })")
        for seen_in_full in (row, tab.locator(".cxv-film").first):
            box = seen_in_full.bounding_box()
            assert box["height"] >= 40
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= size["height"]
            assert seen_in_full.evaluate(
                "(e, [x, y]) => e.contains(document.elementFromPoint(x, y))",
                [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2],
            )
        at = row.bounding_box()
        tab.mouse.click(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
        expect(row).to_have_attribute("aria-checked", "true")
        settle(tab)  # the chosen row is scrolled to, in a frame to come


def test_on_paper_there_is_one_page_to_read(tab: Any) -> None:
    tab.emulate_media(media="print")
    for size in ("A4", "Letter"):
        pages = re.findall(rb"/Type\s*/Page[^s]", tab.pdf(format=size))
        assert len(pages) == 1, size
    expect(tab.locator("button:visible, input:visible, select:visible")).to_have_count(5)
    for shown in (".cxr-badge", ".cxv-film", ".cxv-title", ".cxv-row b"):
        expect(tab.locator(shown).first).to_be_visible()
    # The film is printed in the shape of its canvas, and lies under the marks only if they agree.
    shapes = tab.evaluate(
        """() => [...document.querySelectorAll(".cxv-pane")].map((pane) => {
          const [film, marks] = pane.querySelectorAll("canvas");
          return [film.width / film.height, marks.width / marks.height,
                  getComputedStyle(film).objectFit, getComputedStyle(marks).objectFit];
        })"""
    )
    assert len(shapes) == 2
    for film, marks, *fits in shapes:
        assert film == pytest.approx(marks, rel=0.01)
        assert fits == ["contain", "contain"]
    # What is not printed is the dark background: no text may be pale.
    pale = tab.evaluate(
        """() => [...document.querySelectorAll("main *")].filter((e) =>
            e.checkVisibility() && !e.closest(".cxv-pane") &&
            [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) &&
            getComputedStyle(e).color.match(/\\d+/g).slice(0, 3).map(Number)
              .reduce((a, b) => a + b) > 3 * 118)
          .map((e) => `${e.className}: ${e.textContent.slice(0, 40)}`)"""
    )
    assert pale == []


def test_the_page_brings_its_own_icon(watched: Watched) -> None:
    """Under a sub-path what lies at the root of the host is somebody else's."""
    icon = watched.open().locator("head link[rel=icon]")
    address = icon.get_attribute("href")
    assert address.startswith("data:")
    draw = (
        "async (e) => { const i = new Image(); i.src = e.href; await i.decode(); return i.width; }"
    )
    assert icon.evaluate(draw) > 0
