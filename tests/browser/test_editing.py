"""Correcting the lungs."""

import threading
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from browser.tabs import Site, drawn, expect_drawn, numbers, settle, words
from cxrdemo.examples import EXAMPLES
from cxrdemo.results import Analysis, MaskingMode


@pytest.fixture
def corrections(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the pipeline is asked to correct."""
    asked: list[dict[str, Any]] = []
    correct = site.pipeline.correct

    def record(found: Any, **prompt: Any) -> Any:
        asked.append(prompt)
        return correct(found, **prompt)

    monkeypatch.setattr(site.pipeline, "correct", record)
    return asked


def wait_for_answer(tab: Any, corrections: list[dict[str, Any]], count: int) -> None:
    for _ in range(300):
        if len(corrections) == count:
            break
        tab.wait_for_timeout(100)
    expect(tab.locator(".cxv[data-busy]")).to_have_count(0)
    assert len(corrections) == count


def test_a_mask_is_corrected_with_the_keyboard_alone(tab: Any, corrections: list) -> None:
    side = EXAMPLES[1].side_px
    press = tab.keyboard.press
    outline = drawn(tab)
    tab.get_by_text("Synthetic normal").focus()
    press("f")
    press("p")
    press("ArrowLeft")
    press("Enter")
    wait_for_answer(tab, corrections, 1)
    assert corrections[0]["add"] is True
    assert corrections[0]["click"] == pytest.approx((0.49 * side, 0.5 * side), abs=1)
    press("d")
    press("ArrowUp")
    press("Enter")
    wait_for_answer(tab, corrections, 2)
    assert corrections[1]["add"] is False
    press("k")
    press("Enter")
    for _ in range(12):
        press("ArrowRight")
        press("ArrowDown")
    press("Enter")
    wait_for_answer(tab, corrections, 3)
    x0, y0, x1, y1 = corrections[2]["box"]
    assert (x1 - x0, y1 - y0) == pytest.approx((0.12 * side, 0.12 * side), abs=2)
    for key in ("z", "x"):
        press(key)
        settle(tab)
    press("a")
    expect(tab.locator("[data-sign=add]")).to_have_attribute("aria-checked", "true")
    press("Escape")
    expect(tab.locator(".cxv-fix")).to_be_hidden()
    expect_drawn(tab, outline)


def test_a_mask_is_corrected_with_the_mouse_alone(tab: Any, corrections: list) -> None:
    outline = drawn(tab)
    tab.locator(".cxv-main [data-do=edit]").click()
    tab.locator("[data-tool=click]").click()
    pane = tab.locator(".cxv-film").first
    pane.click(position={"x": 150, "y": 200})
    wait_for_answer(tab, corrections, 1)
    tab.locator("[data-sign=remove]").click()
    pane.click(position={"x": 200, "y": 250})
    wait_for_answer(tab, corrections, 2)
    assert [c["add"] for c in corrections] == [True, False]
    tab.locator("[data-tool=box]").click()
    area = pane.bounding_box()
    tab.mouse.move(area["x"] + 100, area["y"] + 100)
    tab.mouse.down()
    tab.mouse.move(area["x"] + 220, area["y"] + 300, steps=3)
    tab.mouse.up()
    wait_for_answer(tab, corrections, 3)
    assert "box" in corrections[2]
    tab.locator("[data-do=undo]").click()
    settle(tab)
    tab.locator("[data-do=automatic]").click()
    settle(tab)
    tab.locator(".cxv-fix [data-do=edit]").click()
    expect_drawn(tab, outline)


def near(tab: Any, x: float, y: float) -> tuple[int, int]:
    """Pixels of the colours of + and of the minus sign on the first pane, about a point of it."""
    return tuple(
        tab.evaluate(
            """([x, y]) => {
              const marks = document.querySelector(".cxv-marks");
              const { data } = marks.getContext("2d").getImageData(x - 10, y - 10, 21, 21);
              return [[127, 208, 255], [255, 157, 157]].map((colour) => {
                let count = 0;
                for (let i = 0; i < data.length; i += 4) {
                  count += colour.every((c, j) => Math.abs(data[i + j] - c) < 8);
                }
                return count;
              });
            }""",
            [x, y],
        )
    )


def test_clicks_are_marked_at_once_wait_their_turn_and_are_undone(
    tab: Any, site: Site, corrections: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, correct = threading.Event(), site.pipeline.correct

    def wait_and_correct(found: Any, **prompt: Any) -> Any:
        assert go.wait(30)
        return correct(found, **prompt)

    monkeypatch.setattr(site.pipeline, "correct", wait_and_correct)
    tab.locator(".cxv-main [data-do=edit]").click()
    tab.locator("[data-tool=click]").click()
    pane = tab.locator(".cxv-film").first
    added, removed = (150, 200), (300, 320)
    pane.click(position={"x": added[0], "y": added[1]})
    pane.click(position={"x": removed[0], "y": removed[1]}, button="right")
    pane.hover(position={"x": 60, "y": 60})  # the cross at the pointer lies over a mark
    drawn(tab)
    try:
        plus, minus = near(tab, *added), near(tab, *removed)
        assert plus[0] > 20 > plus[1]
        assert minus[1] > 10 > minus[0]
    finally:
        go.set()
    wait_for_answer(tab, corrections, 2)
    assert [asked["add"] for asked in corrections] == [True, False]
    for gone, left in ((removed, added), (added, None)):
        tab.locator("[data-do=undo]").click()
        settle(tab)
        assert sum(near(tab, *gone)) == 0
        assert left is None or sum(near(tab, *left)) > 20


def test_the_brush_adds_or_removes_and_the_findings_follow(
    tab: Any, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Analysis] = []
    analyse = site.pipeline.analyse

    def analyse_and_remember(*args: Any, **options: Any) -> Analysis:
        answers.append(analyse(*args, **options))
        return answers[-1]

    monkeypatch.setattr(site.pipeline, "analyse", analyse_and_remember)
    tab.keyboard.press("3")
    tab.locator(".cxv-main [data-do=edit]").click()
    tab.locator("[data-tool=brush]").click()
    tab.locator("[data-slide=brush]").fill("15")
    drawn(tab)  # the bar of the tools has another height
    area = tab.locator(".cxv-film").first.bounding_box()
    scale = min(area["width"], area["height"]) / EXAMPLES[1].side_px
    middle = (area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)

    def paint(start: tuple[int, int], end: tuple[int, int], button: str = "left") -> None:
        """Drags from one pixel of the image to another."""
        half = EXAMPLES[1].side_px / 2
        ends = [
            [m + scale * (p - half) for m, p in zip(middle, at, strict=True)] for at in (start, end)
        ]
        tab.mouse.move(*ends[0])
        tab.mouse.down(button=button)
        tab.mouse.move(*ends[1], steps=8)
        tab.mouse.up(button=button)

    def expect_answer(count: int) -> np.ndarray:
        for _ in range(300):
            if len(answers) == count:
                break
            tab.wait_for_timeout(100)
        expect(numbers(tab)).to_have_text(words(answers[count - 1], MaskingMode.TIGHT))
        settle(tab)
        return answers[count - 1].lungs.inside

    before, outline = numbers(tab).all_text_contents(), drawn(tab)
    paint((240, 250), (336, 250))  # over the mediastinum
    added = expect_answer(1)
    assert added[250, 240:336].all()
    assert numbers(tab).all_text_contents() != before
    tab.keyboard.down("Alt")
    paint((150, 280), (210, 280))
    tab.keyboard.up("Alt")
    assert not expect_answer(2)[280, 150:210].any()
    paint((380, 280), (440, 280), "right")
    assert not expect_answer(3)[280, 380:440].any()
    for count in (4, 5, 6):
        tab.locator("[data-do=undo]").click()
        inside = expect_answer(count)
        assert (inside == added).all() == (count == 5)
    expect(numbers(tab)).to_have_text(before)
    tab.mouse.move(1, 1)
    expect_drawn(tab, outline)
