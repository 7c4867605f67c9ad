"""Nothing on the page jumps."""

from typing import Any

from playwright.sync_api import expect

from browser.tabs import DICOM, Watched, choose, settle, upload

# What a reader's eye or pointer rests on.
PARTS = (
    ".cxr-open button:not(.cxr-stop), .cxv-main button, .cxv-main input, .cxv-main select,"
    " .cxv-panes, .cxv-film, .cxv-side, .cxv-rows, .cxv-row, .cxv-folds, .cxv-legend"
)

SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    // As browsers count: not what follows a press within half a second. The status may take a
    // second line in the room it has.
    if (!entry.hadRecentInput) {
      const moved = entry.sources.map(({ node }) => `${node?.className ?? node?.nodeName}`);
      shifts.push(...moved.filter((name) => !name.includes("cxr-status")));
    }
  }
}).observe({ type: "layout-shift", buffered: true });
"""


def boxes(tab: Any) -> dict[str, list[float]]:
    """Left, top, width and height of every part that is seen, by number and class."""
    return tab.evaluate(
        """(parts) => Object.fromEntries([...document.querySelectorAll(parts)]
          .filter((part) => part.checkVisibility({ visibilityProperty: true }))
          .map((part, i) => {
            const { x, y, width, height } = part.getBoundingClientRect();
            const name = `${i} ${part.className} ${part.title}`;
            return [name, [x, y, width, height].map(Math.round)];
          }))""",
        PARTS,
    )


def test_no_part_moves_while_a_reader_tries_everything(watched: Watched) -> None:
    tab = watched.open(script=SHIFTS)
    expect(tab.locator(".cxr-choices button", has_text="Synthetic").last).to_be_visible()
    settle(tab)
    tab.evaluate("shifts.length = 0")  # of the page being put together
    upload(tab, DICOM.read_bytes())
    before = boxes(tab)
    assert len(before) > 30
    # Maskings, heat, outlines, scale, findings, a margin's question and its answer.
    for key in ("2", "3", "1", "h", "h", "m", "m", "u", "u", "ArrowDown", "ArrowUp", "2", "]", "1"):
        tab.keyboard.press(key)
        settle(tab)
        assert boxes(tab) == before, key
    for fold in ("margin", "numbers", "good"):
        tab.locator(f"[data-fold={fold}]").click()
        assert boxes(tab) == before, fold
    tab.wait_for_timeout(600)  # what follows counts as unasked for
    choose(tab, b"junk" * 100, "broken.dcm")
    expect(tab.locator("p.cxr-error")).to_contain_text("Expected a chest X-ray")
    assert boxes(tab) == before
    assert tab.evaluate("shifts") == []
