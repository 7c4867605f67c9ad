"""What Save and Download write: under which names, and with which words."""

from typing import Any

from playwright.sync_api import expect

from browser.tabs import DICOM, Watched, settle, upload

WRITTEN = """(() => {
  // All that is written on a canvas, in order.
  window.written = [];
  const { prototype } = CanvasRenderingContext2D;
  const write = prototype.fillText;
  prototype.fillText = function (text, ...rest) {
    written.push(text);
    return write.call(this, text, ...rest);
  };
})()"""


def save(tab: Any) -> tuple[str, str]:
    """Presses Save: the file's name, and the last line that was written into the picture."""
    tab.evaluate("written.length = 0")
    with tab.expect_download() as download:
        tab.keyboard.press("s")
    caption = tab.evaluate("written.findLast((text) => text.includes('research use only'))")
    return download.value.suggested_filename, caption


def test_names_and_captions_tell_what_was_seen(watched: Watched) -> None:
    tab = watched.open(script=WRITTEN)
    upload(tab, DICOM.read_bytes(), "Ward 3, film.dcm")
    name = tab.locator(".cxv-row[aria-checked=true] .cxv-name").inner_text().lower()
    file, caption = save(tab)
    assert file == f"ward-3-film-none-{name}.png"
    parts = caption.split(" · ")
    assert parts[0] == "Ward 3, film.dcm"
    assert parts[1].startswith("threshold 0.50 (balanced")
    assert parts[2] == "heat on its own scale"
    assert parts[3].startswith("window C ")
    assert parts[4:] == ["research use only, not a medical device"]
    for key in "2u+":
        tab.keyboard.press(key)
    file, caption = save(tab)
    assert file == f"ward-3-film-loose-{name}.png"
    assert caption.startswith("Ward 3, film.dcm (part of it) · ")
    assert " · margin 8 % · heat on one shared scale · " in caption
    tab.keyboard.press("c")
    assert save(tab)[0] == f"ward-3-film-maskings-{name}.png"
    for key in "g3rh":
        tab.keyboard.press(key)
    file, caption = save(tab)
    assert file == "ward-3-film-tight.png"
    assert "heat" not in caption


def test_what_is_synthetic_says_so_in_name_and_caption(watched: Watched) -> None:
    tab = watched.open(script=WRITTEN)
    upload(tab, DICOM.read_bytes(), "film.dcm")
    tab.keyboard.press("n")
    tab.locator(".cxv-film").first.click(position={"x": 200, "y": 300})
    expect(tab.locator(".cxv-planted")).to_be_visible()
    settle(tab)
    tab.keyboard.press("Escape")
    file, caption = save(tab)
    assert file == "film-none-nodule.png"
    assert caption.startswith("SYNTHETIC · film.dcm · ")
    tab.locator(".cxv-more summary").click()
    with tab.expect_download() as download:
        tab.locator("[data-do=download]").click()
    assert download.value.suggested_filename == "film-SYNTHETIC.zip"
    # An example has no file of the reader's.
    tab.get_by_text("Synthetic nodule").click()
    expect(tab.locator(".cxr-status").first).to_contain_text("SYNTHETIC example")
    expect(tab.locator(".cxv[data-probed]:not([data-busy])")).to_have_count(1)
    file, caption = save(tab)
    assert file.startswith("chest-x-ray-none-")
    assert caption.startswith("SYNTHETIC · ")
