"""The page for those who hear it: axe finds nothing to complain about."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from browser.tabs import DESKTOP, DICOM, PHONE, Watched, choose, inverted_png, settle, upload


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_nothing_to_complain_about(
    watched: Watched, look: Callable[[Any, str], None], theme: str
) -> None:
    tab = watched.open(PHONE if theme == "light" else DESKTOP, query=f"?__theme={theme}")
    look(tab, "empty")
    choose(tab, inverted_png(1))
    expect(tab.locator(".cxv-accept")).to_be_visible()
    look(tab, "refused")
    tab.locator(".cxv-accept").click()
    expect(tab.locator(".cxv[data-probed]")).to_have_count(1)
    tab.keyboard.press("f")
    look(tab, "mask correction")
    tab.keyboard.press("?")
    look(tab, "help")
    tab.keyboard.press("Escape")
    for name in ("Batch", "About"):
        tab.get_by_role("tab", name=name).click()
        look(tab, name)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(PHONE, id="phone"),
        pytest.param(
            {"viewport": {"width": 720, "height": 450}, "device_scale_factor": 2}, id="200 %"
        ),
        pytest.param(DESKTOP | {"forced_colors": "active"}, id="forced colours"),
    ],
)
def test_axe_finds_nothing_in_any_layout(
    watched: Watched, look: Callable[[Any, str], None], options: dict[str, Any]
) -> None:
    tab = watched.open(options)
    upload(tab, DICOM.read_bytes())
    for key, layout in (("c", "compare"), ("g", "grid"), ("v", "pair")):
        tab.keyboard.press(key)
        expect(tab.locator(f".cxv[data-layout={layout}]")).to_have_count(1)
        look(tab, layout)
    tab.keyboard.press("n")
    tab.locator(".cxv-pane").first.click()
    expect(tab.locator(".cxv-planted")).to_contain_text("SYNTHETIC")
    settle(tab)
    look(tab, "planted lesion")
    choose(tab, b"junk" * 100, "broken.dcm")
    expect(tab.locator("p.cxr-error")).to_be_visible()
    look(tab, "error")
