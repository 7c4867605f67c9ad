"""The page by touch."""

from playwright.sync_api import expect

from browser.tabs import PHONE, Watched, choose, drawn, expect_drawn, phantom_png, upload


def test_a_phone_needs_no_scrolling_sideways_and_pinches(watched: Watched) -> None:
    tab = watched.open(PHONE)
    upload(tab, phantom_png(1))
    touch = tab.context.new_cdp_session(tab)
    box = tab.locator(".cxv-film").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def finger(kind: str, *points: tuple[float, float]) -> None:
        touch.send(
            "Input.dispatchTouchEvent",
            {
                "type": kind,
                "touchPoints": [{"x": px, "y": py, "id": i} for i, (px, py) in enumerate(points)],
            },
        )

    before = drawn(tab)
    finger("touchStart", (x - 20, y), (x + 20, y))
    for reach in (30, 45, 60):
        finger("touchMove", (x - reach, y), (x + reach, y))
    finger("touchEnd")
    expect(tab.locator(".cxv[data-zoomed]")).to_have_count(1)
    zoomed = drawn(tab)
    finger("touchStart", (x, y))
    for reach in (10, 25, 40):
        finger("touchMove", (x + reach, y))
    # At rest before it lifts: the browser takes the tap after a fling for the end of the fling.
    tab.wait_for_timeout(500)
    finger("touchMove", (x + 40, y))
    finger("touchEnd")
    assert drawn(tab) not in (before, zoomed)
    # Pressed and held, the film shows itself without the heat.
    shown = drawn(tab)
    finger("touchStart", (x, y))
    tab.wait_for_timeout(600)
    held = drawn(tab)
    finger("touchEnd")
    assert held != shown
    expect_drawn(tab, shown)
    tab.locator("[data-do=sheet]").tap()
    tab.locator(".cxv-more summary").tap()
    tab.locator("[data-do=reset]").tap()
    expect_drawn(tab, before)
    for layout in ("compare", "grid", "pair"):
        tab.locator(f"button[data-layout={layout}]").tap()
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    # The open menu closes with the sheet, and moves nothing away from under the finger.
    tab.locator(".cxv-more summary").tap()
    tab.locator("[data-do=sheet]").tap()
    expect(tab.locator("[data-do=sheet]")).to_have_attribute("aria-expanded", "false")
    expect(tab.locator(".cxv-menu")).to_be_hidden()
    tab.locator("[data-do=sheet]").tap()
    targets = ".cxv button, .cxv select, .cxv input, .cxr-open button, .cxr-tabs [role=tab]"
    small = tab.evaluate(
        "s => [...document.querySelectorAll(s)].filter(b => b.checkVisibility()"
        " && (b.offsetHeight < 44 || b.offsetLeft < 0"
        " || !b.closest('.cxv-rows, .cxr-open') && b.getBoundingClientRect().right > 390))"
        ".map(b => b.outerHTML)",
        targets,
    )
    assert small == []
    right = tab.evaluate(
        "document.querySelector('[data-out=margin]').getBoundingClientRect().right"
    )
    assert right <= 390


def test_on_a_phone_the_film_stays_while_the_findings_scroll(watched: Watched) -> None:
    tab = watched.open(PHONE)
    upload(tab, phantom_png(1))
    panes, rows = tab.locator(".cxv-panes"), tab.locator(".cxv-rows")
    tab.evaluate("(down) => window.scrollBy(0, down)", panes.bounding_box()["y"] + 40)
    at, below = panes.bounding_box()["y"], rows.bounding_box()["y"]
    tab.evaluate("window.scrollBy(0, 60)")
    assert below - rows.bounding_box()["y"] > 20
    assert panes.bounding_box()["y"] == at == 0
    on_top = tab.evaluate("document.elementFromPoint(195, 60).className")
    assert on_top == "cxv-film"


def test_on_a_phone_on_its_side_film_and_findings_are_seen_together(watched: Watched) -> None:
    tab = watched.open(PHONE | {"viewport": {"width": 844, "height": 390}})
    upload(tab, phantom_png(1))
    film, row, bar = (
        tab.locator(part).first.bounding_box() for part in (".cxv-film", ".cxv-row", ".cxv-main")
    )
    assert 0 <= film["y"] < film["y"] + film["height"] <= bar["y"], "all of it at the first look"
    assert film["height"] > bar["y"] / 2
    assert row["y"] + row["height"] <= bar["y"]
    assert row["x"] > film["x"] + film["width"]
    tab.evaluate("(down) => window.scrollBy(0, down)", film["y"] + 40)
    assert tab.locator(".cxv-panes").bounding_box()["y"] == 0, "it stays"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 844


def test_on_a_phone_nothing_is_covered_and_an_error_is_in_sight(watched: Watched) -> None:
    tab = watched.open(PHONE)
    upload(tab, phantom_png(1))
    told = tab.locator(".cxr-status").first
    choose(tab, b"junk" * 100, "broken.dcm")
    expect(told).to_contain_text("Expected a chest X-ray")
    assert told.evaluate("(line) => line.scrollWidth <= line.clientWidth")
    box = told.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["y"] + box["height"] <= tab.locator(".cxv-pane").first.bounding_box()["y"]
    # The last thing on the page can be scrolled clear of the bar at the bottom.
    tab.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    last = tab.get_by_text("Remarks, and how this image was read").bounding_box()
    bar = tab.locator(".cxv-main").bounding_box()
    assert last["y"] + last["height"] <= bar["y"]
    # Of a finding's chip no word is cut off.
    cut = tab.evaluate(
        """() => [...document.querySelectorAll(".cxv-row span")]
          .filter((e) => e.textContent.trim() && e.scrollWidth > e.clientWidth + 1)
          .filter((e) => getComputedStyle(e).display !== "inline")
          .map((e) => e.textContent)"""
    )
    assert cut == []
