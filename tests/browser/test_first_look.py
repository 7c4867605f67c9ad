"""What the page shows of an image, and what it holds back."""

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from browser.tabs import DICOM, Site, Watched, choose, numbers, phantom_png, words
from cxrdemo.files import read_radiograph
from cxrdemo.labels import FINDINGS
from cxrdemo.results import Doubt, MaskingMode


def test_a_dicom_without_suffix_shows_the_numbers_of_every_masking(tab: Any, site: Site) -> None:
    expect(tab.get_by_text("not a medical device").first).to_be_visible()
    expect(tab.locator("body")).to_have_class(re.compile("dark"))
    assert tab.evaluate("document.documentElement.scrollHeight") <= 900
    analysis = site.pipeline.analyse(read_radiograph(DICOM))
    for key, mode in zip("123", MaskingMode, strict=True):
        tab.keyboard.press(key)
        expect(numbers(tab)).to_have_text(words(analysis, mode))
    expect(tab.locator("[data-out=margin]")).to_contain_text("mm")


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
    expect(tab.locator(".cxv-doubts")).to_contain_text("Shown despite a warning")
    expect(tab.locator(".cxv-doubts")).to_contain_text(doubt.message)
