"""The page without a segmenter or a classifier: what is there is shown, what is not is said."""

from contextlib import ExitStack
from typing import Any

import pytest
from fakes import PhantomSegmenter, known_phantoms, tiny_classifier
from playwright.sync_api import expect
from visitors import free_port

from browser.tabs import DICOM, Site, Watched, choose, served
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import MaskingMode

NO_MASK = "There is no lung mask."
NO_CLASSIFIER = "There is no classifier for it."


def opened(site: Site, pipeline: Pipeline, stack: ExitStack) -> tuple[Any, Watched]:
    page, url = stack.enter_context(served(pipeline, free_port()))
    watched = Watched(Site(url, page, pipeline, site.browser), stack)
    tab = watched.open()
    choose(tab, DICOM.read_bytes())
    expect(tab.locator(".cxr-status").first).to_contain_text(" px · ")
    expect(tab.locator(".cxv:not([data-busy])")).to_have_count(1)
    return tab, watched


@pytest.mark.parametrize(
    ("has_lungs", "has", "missing", "reasons"),
    [
        pytest.param(
            False, MaskingMode.NONE, "lung segmenter, classifier for masking 'loose'",
            {"1": None, "2": NO_MASK, "3": NO_MASK}, id="no segmenter",
        ),
        pytest.param(
            True, MaskingMode.TIGHT, "missing: classifier for masking 'none', classifier for",
            {"1": NO_CLASSIFIER, "2": NO_CLASSIFIER, "3": None}, id="one classifier",
        ),
        pytest.param(
            False, None, "lung segmenter, classifier for masking 'none'",
            {"1": NO_CLASSIFIER, "2": NO_MASK, "3": NO_MASK}, id="nothing",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_and_the_rest_is_shown(
    site: Site, has_lungs: bool, has: MaskingMode | None, missing: str, reasons: dict[str, str]
) -> None:
    segmenter = PhantomSegmenter(known_phantoms()) if has_lungs else None
    pipeline = Pipeline(segmenter, {} if has is None else {has: tiny_classifier(has)})
    with ExitStack() as stack:
        tab, watched = opened(site, pipeline, stack)
        expect(tab.get_by_role("note").filter(has_text="missing")).to_contain_text(missing)
        for key, reason in reasons.items():
            tab.keyboard.press(key)
            rows = tab.locator(".cxv-rows [role=radio]:visible")
            if reason is None:
                expect(rows).to_have_count(5)
                expect(tab.locator(".cxv-none")).to_be_hidden()
            else:
                expect(tab.locator(".cxv-none")).to_contain_text(reason)
                expect(rows).to_have_count(0)
        tab.keyboard.press("c")  # side by side all the same
        expect(tab.locator(".cxv-film:visible")).to_have_count(3)
        assert watched.complaints == []
