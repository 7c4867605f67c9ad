"""What the page shows of an image, and what it holds back."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from browser.tabs import (
    DESKTOP,
    DICOM,
    PHONE,
    Site,
    Watched,
    choose,
    film,
    inverted_png,
    numbers,
    upload,
    words,
)
from cxrdemo.files import read_radiograph
from cxrdemo.labels import FINDINGS
from cxrdemo.results import Analysis, MaskingMode


def test_a_dicom_without_suffix_shows_the_numbers_of_every_masking(tab: Any, site: Site) -> None:
    expect(tab.get_by_text("not a medical device").first).to_be_visible()
    expect(tab.locator("body")).to_have_class(re.compile("dark"))
    assert tab.evaluate("document.documentElement.scrollHeight") <= 900
    # The title stands on the line of the tabs.
    title, first = (
        tab.locator(what).first.bounding_box()
        for what in (".cxr-header h1", ".cxr-tabs [role=tab]")
    )
    middles = [box["y"] + box["height"] / 2 for box in (title, first)]
    assert abs(middles[0] - middles[1]) < 4
    analysis = site.pipeline.analyse(read_radiograph(DICOM))
    for key, mode in zip("123", MaskingMode, strict=True):
        tab.keyboard.press(key)
        expect(numbers(tab)).to_have_text(words(analysis, mode))
    expect(tab.locator("[data-out=margin]")).to_contain_text("mm")


def white_ring(tab: Any, pane: int) -> list[float]:
    """Left, top, right and bottom of what is white on a pane's marks, above the scale bar."""
    return tab.evaluate(
        """async (pane) => {
          await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          const marks = document.querySelectorAll(".cxv-marks")[pane], { width, height } = marks;
          const upper = height - 40;
          const { data } = marks.getContext("2d").getImageData(0, 0, width, upper);
          const at = [];
          for (let i = 0; i < width * upper; i++) {
            const isWhite = [0, 1, 2, 3].every((c) => data[4 * i + c] > 245);
            if (isWhite) at.push([i % width, Math.floor(i / width)]);
          }
          const [x, y] = [0, 1].map((axis) => at.map((point) => point[axis]));
          return [Math.min(...x), Math.min(...y), Math.max(...x), Math.max(...y)];
        }""",
        pane,
    )


def test_the_ring_and_the_words_below_say_where_the_heat_lies(tab: Any, site: Site) -> None:
    analysis = site.pipeline.analyse(read_radiograph(DICOM))
    side = analysis.radiograph.hw[0]
    for key, mode in zip("123", MaskingMode, strict=True):
        tab.keyboard.press(key)
        name = tab.locator(".cxv-row[aria-checked=true] .cxv-name").inner_text()
        index = [label.display for label in FINDINGS].index(name)
        place, chance = analysis.readings[mode].places[index], analysis.readings[mode].chance
        chips = tab.locator(".cxv-chip")
        where = (
            "hottest spot in the" if place.hottest_in_lungs else "hottest spot outside the lungs"
        )
        expect(chips.first).to_contain_text(where)
        told = f"{place.in_lungs:.0%} in the lungs (even heat: {chance:.0%})".replace("%", " %")
        expect(chips.last).to_have_text(told)
        size = tab.locator(".cxv-marks").nth(1).evaluate("(c) => [c.width, c.height]")
        left, top, right, bottom = white_ring(tab, 1)
        scale = min(size) / side
        expected = [
            along / 2 + scale * (at - side / 2)
            for along, at in zip(size, place.hottest, strict=True)
        ]
        assert [(left + right + 1) / 2, (top + bottom + 1) / 2] == pytest.approx(expected, abs=2)
        assert right - left == pytest.approx(bottom - top, abs=2)


LONGEST = {
    "moderately against \N{MULTIPLICATION SIGN}0.2": False,
    "moderate evidence \N{MULTIPLICATION SIGN}6.6": True,
}

STICKING_OUT = """([words, isNews]) => [...document.querySelectorAll('.cxv-row em')].filter(em => {
  const row = em.closest('.cxv-row');
  row.dataset.word = 'moderate';
  row.toggleAttribute('data-news', isNews);
  em.textContent = words;
  const isBeyond = em.getBoundingClientRect().right > row.getBoundingClientRect().right;
  return isBeyond || em.scrollWidth > em.clientWidth + 1;
}).map((em) => em.closest('.cxv-row').textContent)"""


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_longest_words_of_evidence_fit_their_rows(
    watched: Watched, screen: dict[str, Any]
) -> None:
    tab = watched.open(screen)
    upload(tab, DICOM.read_bytes())
    for key in "pc":  # in a pair, and in three maskings
        tab.keyboard.press(key)
        assert tab.locator(".cxv-row em").count() >= len(FINDINGS)
        for longest in LONGEST.items():
            assert tab.evaluate(STICKING_OUT, list(longest)) == []


def test_a_doubtful_image_shows_its_numbers_on_request(watched: Watched) -> None:
    tab = watched.open()
    choose(tab, inverted_png(1))
    expect(tab.locator(".cxv-accept")).to_be_visible()
    expect(numbers(tab)).to_have_count(0)
    tab.keyboard.press("y")
    expect(numbers(tab)).to_have_count(len(FINDINGS) + 1)
    expect(tab.locator(".cxv-doubts")).to_contain_text("Shown despite a warning")
    expect(tab.locator(".cxv-doubts")).to_contain_text("seem inverted")


def calm(site: Site, monkeypatch: pytest.MonkeyPatch, all_at: dict[MaskingMode, float]) -> None:
    """Has every finding of a masking at one probability."""
    analyse = site.pipeline.analyse

    def calmly(*args: Any, **options: Any) -> Analysis:
        analysis = analyse(*args, **options)
        readings = {}
        for mode, reading in analysis.readings.items():
            alike = np.full(5, all_at[mode], np.float32)
            readings[mode] = replace(
                reading, findings=replace(reading.findings, probabilities=alike)
            )
        return replace(analysis, readings=readings)

    monkeypatch.setattr(site.pipeline, "analyse", calmly)


def test_what_stands_out_under_another_masking_is_told(
    watched: Watched, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm(site, monkeypatch, dict.fromkeys(MaskingMode, 0.99) | {MaskingMode.NONE: 0.01})
    tab = watched.open()
    upload(tab, DICOM.read_bytes())
    looks = tab.locator(".cxv-looks")
    expect(looks).to_contain_text("Nothing stands out here, but")
    expect(looks).to_contain_text("under tight.")
    expect(tab.locator(".cxv-row[aria-checked=true]")).to_have_count(0)
    tab.keyboard.press("ArrowDown")
    expect(looks).to_contain_text("Outside-lung probe")
    expect(looks).to_contain_text("does not come from the lungs.")
    assert looks.evaluate("box => box.scrollHeight <= box.clientHeight"), "all of it is in sight"
    tab.keyboard.press("3")
    expect(looks).not_to_contain_text("Nothing stands out")


def test_where_nothing_is_called_there_is_no_heat(
    watched: Watched, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm(site, monkeypatch, dict.fromkeys(MaskingMode, 0.01))
    tab = watched.open()
    upload(tab, DICOM.read_bytes())
    expect(tab.locator(".cxv-row[aria-checked=true]")).to_have_count(0)
    expect(tab.locator(".cxv-looks")).to_contain_text("Nothing stands out")
    expect(tab.locator(".cxv-chip")).to_have_count(0)
    np.testing.assert_array_equal(film(tab, 1), film(tab, 0))
    # Heat is still there for whoever asks for it, be it none for some finding.
    seen = []
    for _ in FINDINGS:
        tab.keyboard.press("ArrowDown")
        seen.append(np.abs(film(tab, 1) - film(tab, 0)).max())
    assert max(seen) > 10
