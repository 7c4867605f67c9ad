"""The Batch tab in the browser: a list of files is read, looked at, and gone through."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from browser.tabs import PHONE, Watched, inverted_png, phantom_png, words
from cxrdemo.files import read_radiograph
from cxrdemo.labels import FINDINGS
from cxrdemo.results import MaskingMode


def read_list(watched: Watched, **files: bytes) -> Any:
    """A tab with a list that was read to its end."""
    tab = watched.open()
    tab.get_by_role("tab", name="Batch").click()
    tab.locator(".cxr-list-drop input[type=file]").set_input_files(
        [
            {"name": f"{name}.png", "mimeType": "image/png", "buffer": content}
            for name, content in files.items()
        ]
    )
    expect(tab.locator(".cxb tbody tr")).to_have_count(len(files))
    expect(tab.locator(".cxb tr[data-state=waiting]")).to_have_count(len(files))
    tab.get_by_role("button", name="Read all").click()
    expect(tab.locator(".cxb tr[data-state=waiting]")).to_have_count(0)
    return tab


def column(tab: Any, number: int) -> list[str]:
    return tab.locator(f".cxb tbody tr td:nth-of-type({number + 1}) span").all_text_contents()


def test_the_place_to_drop_gives_way_to_the_table(watched: Watched) -> None:
    tab = watched.open()
    tab.get_by_role("tab", name="Batch").click()
    drop = tab.locator(".cxr-list-drop")
    assert drop.bounding_box()["height"] > 120
    file = {"name": "a.png", "mimeType": "image/png", "buffer": phantom_png(1)}
    drop.locator("input[type=file]").set_input_files([file])
    expect(tab.locator(".cxb tbody tr")).to_have_count(1)
    assert drop.bounding_box()["height"] < 60
    tab.get_by_role("button", name="Clear the list").click()
    expect(tab.locator(".cxb[data-empty]")).to_have_count(1)
    assert drop.bounding_box()["height"] > 120


@pytest.mark.parametrize("width", [1100, 920])
def test_no_button_of_the_first_row_is_cut_off(watched: Watched, width: int) -> None:
    tab = watched.open({"viewport": {"width": width, "height": 800}})
    for button in tab.locator(".cxr-open button").all():
        box = button.bounding_box()
        assert box is None or box["x"] + box["width"] <= width


def test_a_list_is_sorted_switched_saved_and_gone_through(watched: Watched, tmp_path: Path) -> None:
    tab = read_list(watched, a=phantom_png(1), b=phantom_png(2), c=b"junk" * 100)
    assert "Expected a chest X-ray" in tab.locator(".cxb tr[data-state=failed]").inner_text()
    expect(tab.locator(".cxb tbody img")).to_have_count(2)
    seen = len(watched.requests)
    whole = column(tab, 0)
    assert len(whole) == 2

    # Bold is what reaches its threshold; only some of that is worth a colour.
    read = [watched.site.pipeline.analyse(read_radiograph(phantom_png(seed))) for seed in (1, 2)]
    verdicts = [a.verdict(MaskingMode.NONE, i) for a in read for i in range(len(FINDINGS))]
    expect(tab.locator(".cxb td[data-called]")).to_have_count(verdicts.count(True))
    expect(tab.locator(".cxb td[data-news]:not([data-called])")).to_have_count(0)

    # A heading sorts by number, highest first, then lowest; rows without a number come last.
    heading = tab.locator(".cxb thead button").nth(1)
    heading.click()
    assert column(tab, 0) == sorted(whole, key=float, reverse=True)
    expect(tab.locator(".cxb thead th").nth(1)).to_have_attribute("aria-sort", "descending")
    heading.click()
    assert column(tab, 0) == sorted(whole, key=float)
    expect(tab.locator(".cxb tbody tr").last).to_have_attribute("data-state", "failed")
    heading.click()
    assert column(tab, 0) == whole

    # The masking is switched, and differences are shown, without another reading.
    tab.locator("[data-show=tight]").click()
    tight = column(tab, 0)
    assert tight != whole
    tab.keyboard.press("ArrowRight")
    expect(tab.locator("[data-show=loose-none]")).to_have_attribute("aria-checked", "true")
    tab.keyboard.press("ArrowRight")
    shown = [float(text.replace("\N{MINUS SIGN}", "-")) for text in column(tab, 0)]
    expected = [float(t) - float(w) for t, w in zip(tight, whole, strict=True)]
    assert shown == pytest.approx(expected, abs=0.011)
    assert watched.went_out(seen) == []

    # A second "Read all" loses nothing.
    tab.get_by_role("button", name="Read all").click()
    expect(tab.locator("p.cxr-status:visible").last).to_contain_text("3 of 3 files read")
    expect(tab.locator(".cxb tr[data-state=read]")).to_have_count(2)

    with tab.expect_download() as download:
        tab.locator(".cxb [data-do=csv]").click()
    download.value.save_as(tmp_path / "list.csv")
    with (tmp_path / "list.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 2 * 3 * len(FINDINGS) + 1

    # A row opens on the Read tab; the arrow keys go through the list.
    tab.locator(".cxb-open", has_text="a.png").click()
    expect(tab.locator(".cxv-main")).to_be_visible()
    expect(tab.get_by_text("1 of 3 in the list")).to_be_visible()
    expect(tab.locator(".cxv[data-probed]:not([data-busy])")).to_have_count(1)
    tab.locator("body").press("ArrowRight")
    expect(tab.get_by_text("2 of 3 in the list")).to_be_visible()
    expect(tab.locator(".cxv[data-probed]:not([data-busy])")).to_have_count(1)
    tab.get_by_role("button", name="Previous").click()
    expect(tab.get_by_text("1 of 3 in the list")).to_be_visible()


def test_a_doubtful_file_of_a_list_shows_its_numbers_on_request(watched: Watched) -> None:
    tab = read_list(watched, a=phantom_png(1), b=inverted_png(1))
    held = tab.locator(".cxb tbody tr", has_text="b.png")
    expect(held).to_have_attribute("data-state", "withheld")
    expect(held).to_contain_text("inverted")
    expect(held.locator(".cxb-number span")).to_have_count(0)
    held.get_by_role("button", name="Show the numbers anyway").click()
    read = watched.site.pipeline.analyse(read_radiograph(inverted_png(1)))
    expect(held.locator(".cxb-number span")).to_have_text(words(read, MaskingMode.NONE))
    expect(held).to_contain_text("inverted")
    expect(held.get_by_role("button", name="Show the numbers anyway")).to_have_count(0)


def test_axe_finds_nothing_to_complain_about_in_a_list(
    watched: Watched, look: Callable[[Any, str], None]
) -> None:
    tab = read_list(watched, a=phantom_png(1), b=b"junk" * 100)
    look(tab, "list")
    tab.set_viewport_size(PHONE["viewport"])
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
