"""What both of the viewer's renderers draw, held against `rendering`, in a real Chromium.

The sheets alone are loaded into an empty page; the other files here drive the whole one.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from browser.tabs import Site
from cxrdemo.labels import FINDINGS
from cxrdemo.masking import kept_region, margin_levels
from cxrdemo.phantom import make_phantom
from cxrdemo.placement import Placement
from cxrdemo.radiograph import Radiograph
from cxrdemo.rendering import HEAT_COLOURS, HEAT_FROM, HEAT_FULL, grey, heat_overlay
from cxrdemo.results import MaskingMode, SaliencyMap
from cxrdemo.ui import viewer

PURE = ("geometry.js", "pixels.js", "shader.js")
HW = (400, 360)
FULL = {"level": 0.5, "width": 1, "invert": False}
POSES = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]

LOAD = """([script]) => {
  const names = "placed, greyLevels, pyramidOf, keptOf, resampled, compose, makeRenderer";
  window.sheets = new Function(`${script}; return { ${names} };`)();
  window.bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  window.card = sheets.makeRenderer(() => {}, true);
  return card !== null;
}"""

DRAW = """(asked) => {
  const { levels, size, pane, view, window: win, mask, fill, heat, renderer } = asked;
  const values = new Uint16Array(bytes(levels).buffer);
  const picture = { width: size[0], height: size[1] };
  const [width, height] = pane;
  const parts = {
    pyramid: sheets.pyramidOf(values, ...size), width, height, picture, window: win,
    at: sheets.placed(picture, { width, height }, view),
    kept: mask && sheets.keptOf({ ...mask, values: bytes(mask.levels) }, mask.limit),
    fill, heat,
  };
  let rgba;
  if (renderer === "webgl") {
    const context = new OffscreenCanvas(width, height).getContext("2d");
    context.drawImage(card.draw(parts), 0, 0);
    rgba = context.getImageData(0, 0, width, height).data;
  } else {
    const source = sheets.resampled(parts.pyramid, width, height, parts.at, picture);
    rgba = sheets.compose({ ...parts, source });
  }
  let text = "";
  for (let i = 0; i < rgba.length; i += 8192) {
    text += String.fromCharCode(...rgba.subarray(i, i + 8192));
  }
  return btoa(text);
}"""


def _text(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


@dataclass
class Screen:
    """An empty page with the sheets in it."""

    tab: Any

    def draw(
        self,
        renderer: str,
        pixels: NDArray[np.float32],
        *,
        pane: tuple[int, int] | None = None,
        **changes: Any,
    ) -> NDArray[np.int64]:
        """RGB as drawn, by default at the picture's own size."""
        height, width = pixels.shape
        view = {"zoom": 1, "x": 0, "y": 0, "turns": 0, "mirrored": False}
        asked = {
            "renderer": renderer,
            "levels": _text(np.rint(pixels * 65535).astype("<u2")),
            "size": [width, height],
            "pane": pane or [width, height],
            "window": FULL,
            "mask": None,
            "fill": None,
            "heat": None,
            **changes,
            "view": view | changes.get("view", {}),
        }
        data = base64.b64decode(self.tab.evaluate(DRAW, asked))
        return np.frombuffer(data, np.uint8).reshape(*asked["pane"][::-1], 4)[..., :3].astype(int)


@pytest.fixture(scope="module")
def screen(site: Site) -> Iterator[Screen]:
    tab = site.browser.new_page()
    folder = Path(viewer.__file__).parent
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in PURE)
    assert tab.evaluate(LOAD, [script]), "there is no WebGL 2 in this Chromium"
    yield Screen(tab)
    tab.close()


@pytest.fixture(scope="module")
def phantom() -> Any:
    return make_phantom(seed=5, hw=HW)


@pytest.fixture(scope="module")
def radiograph(phantom: Any) -> Radiograph:
    noise = np.random.default_rng(3).normal(0, 0.02, HW).astype(np.float32)
    return Radiograph(np.clip(phantom.radiograph.pixels + noise, 0, 1))


@pytest.fixture(scope="module")
def heat() -> SaliencyMap:
    grid = np.random.default_rng(4).random((7, 7)).astype(np.float32)
    placement = Placement.letterbox(HW, (224, 224))
    return SaliencyMap(FINDINGS[0].key, "Grad-CAM", grid, placement)


def as_sent(heat: SaliencyMap, *, peak: float, opacity: float) -> dict[str, Any]:
    (top, left), (height, width) = heat.placement.offset_hw, heat.placement.content_hw
    rows, columns = heat.placement.target_hw
    return {
        "rows": 7,
        "columns": 7,
        "cells": heat.grid.ravel().tolist(),
        "content": [left / columns, top / rows, width / columns, height / rows],
        "peak": peak,
        "opacity": opacity,
        "confined": heat.confined,
        "ramp": [HEAT_FROM, HEAT_FULL],
        "colours": HEAT_COLOURS.ravel().tolist(),
    }


def posed(image: NDArray[Any], turns: int, mirrored: bool) -> NDArray[Any]:
    return np.rot90(image[:, ::-1] if mirrored else image, -turns)


renderers = pytest.mark.parametrize("renderer", ["webgl", "2d"])


@renderers
@pytest.mark.parametrize(("turns", "mirrored"), POSES)
def test_the_picture_at_its_own_size_is_what_the_server_would_draw(
    screen: Screen, radiograph: Radiograph, renderer: str, turns: int, mirrored: bool
) -> None:
    expected = posed(grey(radiograph), turns, mirrored).astype(int)
    view = {"turns": turns, "mirrored": mirrored}
    drawn = screen.draw(renderer, radiograph.pixels, pane=expected.shape[1::-1], view=view)
    assert np.abs(drawn - expected).max() <= 1


@renderers
@pytest.mark.parametrize(("turns", "mirrored"), [(0, False), (1, True)])
@pytest.mark.parametrize("peak", [1.0, 0.6])
def test_heat_is_what_the_server_would_draw(
    screen: Screen,
    radiograph: Radiograph,
    heat: SaliencyMap,
    renderer: str,
    turns: int,
    mirrored: bool,
    peak: float,
) -> None:
    reference = heat_overlay(radiograph, heat, kept=np.ones(HW, bool), peak=peak, opacity=0.7)
    assert np.abs(reference.astype(int) - grey(radiograph)).max() > 50
    expected = posed(reference, turns, mirrored).astype(int)
    drawn = screen.draw(
        renderer,
        radiograph.pixels,
        pane=expected.shape[1::-1],
        view={"turns": turns, "mirrored": mirrored},
        heat=as_sent(heat, peak=peak, opacity=0.7),
    )
    assert np.abs(drawn - expected).max() <= 2


@renderers
@pytest.mark.parametrize(("mode", "level"), [(MaskingMode.TIGHT, 0), (MaskingMode.LOOSE, 8)])
@pytest.mark.parametrize("fill", [0.0, 0.4])
def test_what_a_masking_removes_has_its_fill(
    screen: Screen,
    phantom: Any,
    radiograph: Radiograph,
    renderer: str,
    mode: MaskingMode,
    level: int,
    fill: float,
) -> None:
    inside = phantom.lungs > 0
    kept = kept_region(inside, mode=mode, margin=0.01 * level)
    levels = margin_levels(inside, step=0.01, count=20)
    mask = {"width": HW[1], "height": HW[0], "levels": _text(levels), "limit": level}
    drawn = screen.draw(renderer, radiograph.pixels, mask=mask, fill=fill)
    expected = np.where(kept[..., None], grey(radiograph), round(255 * fill)).astype(int)
    # Its edge is soft on the screen: 3 px around it are left out.
    edge = cv2.morphologyEx(kept.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8))
    assert np.abs(drawn - expected)[edge == 0].max() <= 2
    assert 0.05 < kept.mean() < 0.9


@renderers
def test_confined_heat_ends_where_the_server_would_end_it(
    screen: Screen, phantom: Any, radiograph: Radiograph, heat: SaliencyMap, renderer: str
) -> None:
    inside = phantom.lungs > 0
    levels = margin_levels(inside, step=0.01, count=20)
    confined = replace(heat, confined=True)
    expected = heat_overlay(radiograph, confined, kept=inside, peak=1.0, opacity=0.7).astype(int)
    drawn = screen.draw(
        renderer,
        radiograph.pixels,
        mask={"width": HW[1], "height": HW[0], "levels": _text(levels), "limit": 0},
        heat=as_sent(confined, peak=1.0, opacity=0.7),
    )
    edge = cv2.morphologyEx(inside.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8))
    assert np.abs(drawn - expected)[edge == 0].max() <= 2
    assert np.ptp(drawn, axis=2)[~inside & (edge == 0)].max() == 0
    assert np.ptp(drawn, axis=2)[inside].max() > 50


@renderers
def test_a_zoomed_picture_is_bilinear(
    screen: Screen, radiograph: Radiograph, renderer: str
) -> None:
    zoom, x, y = 3.3, 21.4, -13.2
    drawn = screen.draw(renderer, radiograph.pixels, view={"zoom": zoom, "x": x, "y": y})
    height, width = HW
    at = (np.arange(width) + 0.5 - width / 2) / zoom + width / 2 + x - 0.5
    down = (np.arange(height) + 0.5 - height / 2) / zoom + height / 2 + y - 0.5
    grid = np.meshgrid(at.astype(np.float32), down.astype(np.float32))
    levels = np.rint(radiograph.pixels * 255).astype(np.float32)
    expected = cv2.remap(levels, *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert np.abs(drawn[..., 0] - expected).max() <= 8  # cv2 knows 32 places between two pixels
    assert np.abs(drawn[..., 0] - expected).mean() < 0.7


@pytest.mark.parametrize(("fill", "confined"), [(0.2, False), (0.2, True), (None, True)])
@pytest.mark.parametrize("zoom", [1, 1.7, 6])
@pytest.mark.parametrize("pane", [(150, 111), (290, 300), (500, 700)])
def test_both_draw_the_same(
    screen: Screen,
    phantom: Any,
    radiograph: Radiograph,
    heat: SaliencyMap,
    zoom: float,
    pane: tuple[int, int],
    fill: float | None,
    confined: bool,
) -> None:
    levels = margin_levels(phantom.lungs > 0, step=0.01, count=20)
    asked = {
        "pane": pane,
        "view": {"zoom": zoom, "x": 30.3, "y": 11.7, "turns": 3, "mirrored": True},
        "window": {"level": 0.4, "width": 0.5, "invert": True},
        "mask": {"width": HW[1], "height": HW[0], "levels": _text(levels), "limit": 5},
        "fill": fill,
        "heat": as_sent(replace(heat, confined=confined), peak=0.9, opacity=0.6),
    }
    one, other = (screen.draw(name, radiograph.pixels, **asked) for name in ("webgl", "2d"))
    assert np.abs(one - other).max() <= 2
    assert one.std() > 20


@renderers
def test_a_smaller_picture_keeps_its_means_and_has_no_aliases(
    screen: Screen, renderer: str
) -> None:
    # Stripes finer than the pane's pixels can only become grey.
    stripes = np.zeros((512, 512), np.float32)
    stripes[:, ::2] = 1
    drawn = screen.draw(renderer, stripes, pane=(256, 256))
    assert np.abs(drawn - 127.5).max() <= 1
    drawn = screen.draw(renderer, stripes, pane=(100, 100))
    assert np.abs(drawn - 127.5).max() <= 1
    # An edge stays an edge: one pixel from black to white, at any ratio.
    edge = np.zeros((512, 512), np.float32)
    edge[:, 256:] = 1
    for side in (256, 300, 200, 130):
        row = screen.draw(renderer, edge, pane=(side, side))[side // 2, :, 0]
        assert ((row > 25) & (row < 230)).sum() <= 2, side


@renderers
def test_a_narrow_window_shows_more_than_eight_bits(screen: Screen, renderer: str) -> None:
    ramp = np.tile(np.linspace(0.5, 0.5 + 1 / 256, 256, dtype=np.float32), (64, 1))
    window = {"level": 0.5 + 1 / 512, "width": 1 / 256, "invert": False}
    drawn = screen.draw(renderer, ramp, window=window)
    assert len(np.unique(drawn)) > 200
    assert np.abs(drawn[0, :, 0] - np.arange(256)).max() <= 2


def test_a_lost_card_comes_back(screen: Screen, radiograph: Radiograph) -> None:
    tab = screen.tab
    before = screen.draw("webgl", radiograph.pixels)
    done = tab.evaluate(
        """async () => {
          const until = async (isSo) => {
            for (let i = 0; i < 100 && !isSo(); i++) await new Promise((r) => setTimeout(r, 20));
          };
          const made = [];
          const getContext = OffscreenCanvas.prototype.getContext;
          OffscreenCanvas.prototype.getContext = function (...asked) {
            const context = getContext.apply(this, asked);
            if (asked[0] === "webgl2") made.push(context);
            return context;
          };
          const told = [];
          const pyramid = [{ width: 1, height: 1 }];
          window.card = sheets.makeRenderer(() => told.push(card.takes(pyramid)), true);
          OffscreenCanvas.prototype.getContext = getContext;
          const lose = made[0].getExtension("WEBGL_lose_context");
          lose.loseContext();
          await until(() => told.length === 1);
          lose.restoreContext();
          await until(() => told.length === 2);
          return told;
        }"""
    )
    assert done == [False, True]
    np.testing.assert_array_equal(screen.draw("webgl", radiograph.pixels), before)
