"""What the page keeps from image to image and from visit to visit, and what it does not."""

from playwright.sync_api import expect

from browser.tabs import DICOM, Watched, choose, drawn, phantom_png, upload


def test_settings_outlive_a_reload_and_no_image_does(watched: Watched) -> None:
    tab = watched.open()
    upload(tab, DICOM.read_bytes())
    for key in "3u":
        tab.keyboard.press(key)
    tab.locator("[data-fold=numbers]").click()
    tab.get_by_text("Light / dark").click()
    drawn(tab)
    tab.reload()
    expect(tab.locator("button[data-mode=tight]")).to_have_attribute("aria-checked", "true")
    expect(tab.locator("[data-scale=shared]")).to_have_attribute("aria-checked", "true")
    expect(tab.locator("body.dark")).to_have_count(0)
    expect(tab.locator(".cxv[data-empty]")).to_have_count(1)
    expect(tab.locator(".cxv-welcome")).to_contain_text("Please open it again")
    kept = tab.evaluate("JSON.stringify(localStorage)")
    assert "data:image" not in kept
    assert len(kept) < 2000


def test_clear_while_a_margin_waits_leaves_nothing_to_fail(watched: Watched) -> None:
    """A choice of finding ends with Clear too: the next image opens on its own strongest one."""
    tab = watched.open()
    upload(tab, DICOM.read_bytes())
    strongest = tab.locator(".cxv-row[aria-checked=true] .cxv-name").inner_text()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("2")
    tab.keyboard.press("]")
    tab.get_by_text("Clear", exact=True).click()
    expect(tab.locator(".cxv[data-empty]")).to_have_count(1)
    tab.wait_for_timeout(800)  # the margin's key would have asked by now
    tab.keyboard.press("1")
    upload(tab, DICOM.read_bytes())
    expect(tab.locator(".cxv-row[aria-checked=true] .cxv-name")).to_have_text(strongest)


def test_a_planted_lesion_is_told_before_and_after_and_goes_with_one_click(
    watched: Watched,
) -> None:
    tab = watched.open()
    choose(tab, phantom_png(1))
    expect(tab.locator(".cxv[data-probed]:not([data-busy])")).to_have_count(1)
    before = drawn(tab)
    tab.keyboard.press("n")
    expect(tab.locator("[data-do=unplant]")).to_be_disabled()
    area = tab.locator(".cxv-pane").first.bounding_box()
    tab.mouse.click(area["x"] + 0.32 * area["width"], area["y"] + 0.5 * area["height"])
    expect(tab.locator(".cxv-planted")).to_contain_text("SYNTHETIC")
    expect(tab.locator(".cxv-row[aria-checked=true] .cxv-name")).to_have_text("Nodule")
    expect(tab.locator(".cxv-title").first).to_contain_text("SYNTHETIC")
    expect(tab.locator(".cxv-place").first).to_contain_text("without it")
    assert drawn(tab) != before
    tab.locator("[data-do=unplant]").click()
    expect(tab.locator(".cxv-planted")).to_be_hidden()
