"""The page for those who hear it: axe finds nothing to complain about."""

from typing import Any

import pytest
from playwright.sync_api import expect

from browser.tabs import DESKTOP, PHONE, Watched, choose, inverted_png


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_nothing_to_complain_about(watched: Watched, theme: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is missing"
    ).Axe()
    found = []

    def look(tab: Any, state: str) -> None:
        expect(tab.locator("p.loading:visible")).to_have_count(0)
        for violation in axe.run(tab).response["violations"]:
            nodes = [node["html"][:200] for node in violation["nodes"]]
            found.append((state, violation["id"], nodes))

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
    assert found == [], found
