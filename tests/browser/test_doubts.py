"""Doubtful pictures, by the gate as it is shipped: what is said of them, and what cures them."""

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from benchmarks.gate import screenshot
from browser.tabs import Site, Watched, choose, film, numbers, words
from cxrdemo.files import read_radiograph
from cxrdemo.labels import FINDINGS
from cxrdemo.phantom import make_phantom
from cxrdemo.rendering import encode_png
from cxrdemo.results import MaskingMode

UPRIGHT = make_phantom(seed=1, hw=(400, 360)).radiograph.pixels
LARGE = make_phantom(seed=1, hw=(640, 640)).radiograph.pixels


def png(pixels: np.ndarray) -> bytes:
    return encode_png(np.rint(pixels * 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("picture", "reason", "cure"),
    [
        (np.rot90(UPRIGHT), "lie on its side", "Turn it right"),
        (np.rot90(UPRIGHT, -1), "lie on its side", "Turn it left"),
        (np.rot90(UPRIGHT, 2), "stand on its head", "Turn it by 180°"),
        (1 - UPRIGHT, "seem inverted", "Invert it"),
        (screenshot(LARGE), "as in a screenshot", "Crop it to the film"),
    ],
    ids=["head left", "head right", "upside down", "inverted", "screenshot"],
)
def test_every_cure_is_one_click(
    watched: Watched, site: Site, picture: np.ndarray, reason: str, cure: str
) -> None:
    tab = watched.open()
    choose(tab, png(picture))
    expect(tab.locator(".cxv-doubts")).to_contain_text(reason)
    expect(numbers(tab)).to_have_count(0)
    expect(tab.locator(".cxv-cure")).to_have_text([cure])
    tab.locator(".cxv-cure").click()
    expect(tab.locator(".cxv[data-probed]:not([data-busy])")).to_have_count(1)
    expect(tab.locator(".cxv-doubts")).to_be_hidden()
    expect(numbers(tab)).to_have_count(len(FINDINGS) + 1)
    if cure.startswith("Crop"):
        told = tab.locator(".cxr-status").first.inner_text()
        width, height = (int(side) for side in told.split(", ")[1].split(" px")[0].split(" x "))
        assert abs(width - 640) + abs(height - 640) < 30
    else:
        cured = site.pipeline.analyse(read_radiograph(png(UPRIGHT)))
        assert not cured.doubts
        assert numbers(tab).all_text_contents() == words(cured, MaskingMode.NONE)
    tab.get_by_text("Remarks, and how this image was read").click()
    expect(tab.locator(".cxr-steps")).to_contain_text("as you asked")


def test_what_the_gate_does_not_see_is_cured_from_the_menu(tab: Any) -> None:
    before = film(tab)
    tab.get_by_text("Remarks, and how this image was read").click()
    tab.locator(".cxv-more summary").click()
    tab.locator("[data-again=mirror]").click()
    expect(tab.locator(".cxr-steps")).to_contain_text("Mirrored left to right, as you asked")
    expect(tab.locator(".cxv[data-probed]:not([data-busy])")).to_have_count(1)
    mirrored = film(tab)
    assert np.abs(mirrored - before[:, ::-1]).mean() < 1
    assert np.abs(mirrored - before).mean() > 1
