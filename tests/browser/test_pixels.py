"""What is drawn, against what `rendering` draws."""

import cv2
import numpy as np
from playwright.sync_api import expect

from browser.tabs import Site, Watched, saved, upload
from cxrdemo.files import read_radiograph
from cxrdemo.phantom import make_phantom
from cxrdemo.rendering import grey, heat_overlay, masked_view
from cxrdemo.results import MaskingMode


def test_the_canvas_draws_what_the_server_would(watched: Watched, site: Site) -> None:
    # On panes smaller than the picture, which is then saved at its own pixels.
    tab = watched.open({"viewport": {"width": 1200, "height": 620}})
    pixels = make_phantom(seed=5, hw=(400, 360)).radiograph.pixels
    png = cv2.imencode(".png", np.rint(pixels * 65535).astype(np.uint16))[1].tobytes()
    upload(tab, png, "sixteen-bit.png")
    radiograph = read_radiograph(png)
    assert radiograph.source.bit_depth == 16
    analysis = site.pipeline.analyse(radiograph)
    # R and L are written into the lower corners.
    letters = np.zeros(radiograph.hw, np.uint8)
    letters[-50:, :50] = letters[-50:, -50:] = 1
    seen = len(watched.requests)
    tab.keyboard.press("m")
    tab.keyboard.press("u")
    for key, mode in zip("123", MaskingMode, strict=True):
        tab.keyboard.press(key)
        reading = analysis.readings[mode]
        # The mask's edge is interpolated there and not here: 3 px around it are left out.
        edge = cv2.morphologyEx(
            reading.kept.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8)
        )
        edge |= letters
        off = np.abs(saved(tab, radiograph.hw)[0] - masked_view(radiograph, reading))[edge == 0]
        assert off.max() <= 2
        index = int(np.argmax([heat.peak for heat in reading.saliency]))
        tab.locator(".cxv-row").nth(index).click()
        opacity = 0.6 * (1.0 if reading.findings.above[index] else 0.5)
        heat = heat_overlay(
            radiograph,
            reading.saliency[index],
            kept=reading.kept,
            peak=analysis.peak,
            opacity=opacity,
        )
        assert np.abs(saved(tab, radiograph.hw)[1] - heat)[letters == 0].max() <= 2
    corners = [saved(tab, radiograph.hw)[0][-50:, part] for part in (np.s_[:50], np.s_[-50:])]
    assert all((corner == 255).any() for corner in corners), "R and L are not there"
    assert np.abs(heat - grey(radiograph).astype(int)).max() > 10
    assert watched.went_out(seen) == []
    # R and L stand on every pane, assumed where the file does not tell, and no millimetres either.
    expect(tab.locator(".cxv-r")).to_have_text(["R?", "R?"])
    expect(tab.locator("[data-out=margin]")).to_have_text("8 %")
