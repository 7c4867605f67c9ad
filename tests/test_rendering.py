from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import cv2
import numpy as np
import pytest
from fakes import (
    BlindSegmenter,
    EllipseSegmenter,
    fake_pipeline,
    noise_radiograph,
    tiny_classifier,
)
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from cxrdemo.inputs import KEPT_MEAN
from cxrdemo.labels import NOTICE
from cxrdemo.masking import apply_mask
from cxrdemo.pipeline import Pipeline
from cxrdemo.placement import Placement
from cxrdemo.radiograph import Radiograph
from cxrdemo.rendering import (
    HEAT_COLOURS,
    SIDE_COLOURS,
    encode_png,
    figure,
    figure_png,
    for_display,
    grey,
    heat_overlay,
    mask_overlay,
    masked_view,
    verdict,
)
from cxrdemo.results import Analysis, Doubt, MaskingMode, SaliencyMap, Side

HW = (160, 144)
ALL = np.ones(HW, bool)


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return fake_pipeline().analyse(noise_radiograph(hw=HW))


def heat_map(grid: np.ndarray, hw: tuple[int, int] = HW) -> SaliencyMap:
    return SaliencyMap("Mass", "Grad-CAM", grid.astype(np.float32), Placement.stretch(hw, (64, 64)))


def test_grey_keeps_every_level() -> None:
    ramp = np.tile(np.arange(256, dtype=np.float32) / 255, (64, 1))
    shown = grey(Radiograph(ramp))
    assert shown.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(shown[0, :, channel], np.arange(256))


def test_no_heat_leaves_the_image_bit_identical() -> None:
    radiograph = noise_radiograph(hw=HW)
    cold = heat_map(np.zeros((7, 7)))
    np.testing.assert_array_equal(
        heat_overlay(radiograph, cold, kept=ALL, peak=1.0), grey(radiograph)
    )
    hot = heat_map(np.ones((7, 7)))
    for drawn in (
        heat_overlay(radiograph, hot, kept=ALL, peak=0.0),
        heat_overlay(radiograph, hot, kept=ALL, peak=1.0, opacity=0.0),
    ):
        np.testing.assert_array_equal(drawn, grey(radiograph))


def test_heat_changes_only_the_pixels_it_reaches() -> None:
    radiograph = noise_radiograph(hw=HW)
    grid = np.zeros((8, 8))
    grid[:, :2] = 1
    drawn = heat_overlay(radiograph, heat_map(grid), kept=ALL, peak=1.0)
    plain = grey(radiograph)
    np.testing.assert_array_equal(drawn[:, HW[1] // 2 :], plain[:, HW[1] // 2 :])
    assert (drawn[:, : HW[1] // 8] != plain[:, : HW[1] // 8]).any(axis=2).mean() > 0.99


def test_confined_heat_is_drawn_only_where_something_was_given() -> None:
    radiograph, kept = noise_radiograph(hw=HW), np.zeros(HW, bool)
    kept[40:90, 30:70] = True
    hot = heat_map(np.ones((7, 7)))
    everywhere = heat_overlay(radiograph, hot, kept=kept, peak=1.0)
    drawn = heat_overlay(radiograph, replace(hot, confined=True), kept=kept, peak=1.0)
    np.testing.assert_array_equal(drawn[kept], everywhere[kept])
    np.testing.assert_array_equal(drawn[~kept], grey(radiograph)[~kept])
    assert (everywhere[~kept] != grey(radiograph)[~kept]).any()


def test_full_opacity_at_the_peak_is_the_end_of_the_colour_map() -> None:
    hot = heat_map(np.ones((7, 7)))
    drawn = heat_overlay(noise_radiograph(hw=HW), hot, kept=ALL, peak=1.0, opacity=1.0)
    np.testing.assert_array_equal(drawn, np.broadcast_to(HEAT_COLOURS[-1], drawn.shape))
    brightness = HEAT_COLOURS @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(brightness) > -1).all(), "hotter must never look darker"


def test_a_map_half_as_hot_is_drawn_visibly_fainter() -> None:
    black = Radiograph(np.zeros(HW, np.float32))
    means = [
        heat_overlay(black, heat_map(np.full((7, 7), heat)), kept=ALL, peak=1.0).mean()
        for heat in (0.02, 0.5, 1.0)
    ]
    assert means[0] < 1
    assert means[1] < 0.6 * means[2]


def test_outline_leaves_the_rest_of_the_image_alone(analysis: Analysis) -> None:
    assert analysis.lungs is not None
    drawn = mask_overlay(analysis.radiograph, analysis.lungs)
    edge = cv2.morphologyEx(
        analysis.lungs.inside.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8)
    )
    away = edge == 0
    np.testing.assert_array_equal(drawn[away], grey(analysis.radiograph)[away])


def test_each_side_has_its_colour_and_the_patients_right_is_on_the_left(analysis: Analysis) -> None:
    assert analysis.lungs is not None
    drawn = mask_overlay(Radiograph(np.zeros(HW, np.float32)), analysis.lungs)
    middle = HW[1] // 2
    for half, side in ((drawn[:, :middle], Side.RIGHT), (drawn[:, middle:], Side.LEFT)):
        line = half[half.max(axis=2) > 128].mean(axis=0)
        expected = np.array(SIDE_COLOURS[side])
        # A thin line is drawn with soft edges, so only its hue is exact.
        np.testing.assert_allclose(line / line.max(), expected / expected.max(), atol=0.05)


def test_outline_grows_with_the_image() -> None:
    def outlined_pixels(side: int) -> int:
        analysis = fake_pipeline().analyse(noise_radiograph(hw=(side, side)))
        assert analysis.lungs is not None
        drawn = mask_overlay(analysis.radiograph, analysis.lungs)
        return int((drawn != grey(analysis.radiograph)).any(axis=2).sum())

    # Length and width both grow fourfold.
    assert outlined_pixels(1600) > 8 * outlined_pixels(400)


@pytest.mark.parametrize("mode", MaskingMode)
def test_masked_view_is_exactly_what_the_classifier_was_given(
    analysis: Analysis, mode: MaskingMode
) -> None:
    reading = analysis.readings[mode]
    given = apply_mask(analysis.radiograph.pixels, reading.kept, fill=0.0)
    shown = masked_view(analysis.radiograph, reading)
    np.testing.assert_array_equal(shown[..., 1], np.rint(given * 255).astype(np.uint8))
    assert shown[~reading.kept].max(initial=0) == 0


def test_masked_view_shows_the_fill_that_the_classifier_was_given() -> None:
    parts = {MaskingMode.TIGHT: tiny_classifier(MaskingMode.TIGHT, fill=KEPT_MEAN)}
    analysis = Pipeline(EllipseSegmenter(), parts).analyse(noise_radiograph(), maskings=[*parts])
    reading = analysis.readings[MaskingMode.TIGHT]
    mean = analysis.radiograph.pixels[reading.kept].mean()
    assert reading.fill == pytest.approx(mean, abs=1e-6)
    shown = masked_view(analysis.radiograph, reading)
    assert (shown[~reading.kept] == round(255 * float(mean))).all()


def test_for_display_shrinks_all_grids_alike(analysis: Analysis) -> None:
    large = replace(analysis, radiograph=replace(analysis.radiograph, spacing_mm=(0.2, 0.2)))
    shown = for_display(large, longest_px=80)
    assert shown.radiograph.hw == (80, 72)
    assert shown.radiograph.spacing_mm == pytest.approx((0.4, 0.4))
    assert shown.lungs is not None
    assert shown.lungs.sides.shape == (80, 72)
    for mode, reading in shown.readings.items():
        assert reading.kept.shape == (80, 72)
        assert reading.findings is analysis.readings[mode].findings
        for small, original in zip(reading.saliency, analysis.readings[mode].saliency, strict=True):
            # The same map, sampled at every other point.
            drawn = small.heat(reading.kept)
            assert drawn.shape == (80, 72)
            whole = original.heat(analysis.readings[mode].kept)
            pooled = whole.reshape(80, 2, 72, 2).mean(axis=(1, 3))
            np.testing.assert_allclose(drawn, pooled, atol=0.02 * original.peak)
    assert shown.peak == analysis.peak


def test_for_display_enlarges_nothing(analysis: Analysis) -> None:
    assert for_display(analysis, longest_px=max(HW)) is analysis


def test_for_display_of_a_strip_stays_a_radiograph() -> None:
    strip = fake_pipeline().analyse(noise_radiograph(hw=(64, 900)))
    assert for_display(strip, longest_px=300).radiograph.hw == (64, 300)


def with_findings(analysis: Analysis, **changes: np.ndarray) -> Analysis:
    """The same analysis, not doubtful, whose masking NONE gave other numbers."""
    reading = analysis.readings[MaskingMode.NONE]
    reading = replace(reading, findings=replace(reading.findings, **changes))
    return replace(analysis, readings={MaskingMode.NONE: reading}, doubts=())


def test_verdict_reaches_above_at_the_threshold(analysis: Analysis) -> None:
    sure = with_findings(
        analysis,
        probabilities=np.array([0.31, 0.42, 0.9, 0.0, 1.0], np.float32),
        thresholds=np.full(5, 0.42, np.float32),
    )
    assert verdict(sure, MaskingMode.NONE, 0) == "0.31 (below 0.42)"
    assert verdict(sure, MaskingMode.NONE, 1) == "0.42 (above 0.42)"


def test_no_verdict_without_weights_shown_to_beat_chance_or_on_a_doubtful_image(
    analysis: Analysis,
) -> None:
    unproven = with_findings(analysis, beats_chance=np.zeros(5, np.bool_))
    doubtful = replace(with_findings(analysis), doubts=(Doubt("mask", "No outline."),))
    for one, reason in ((unproven, "not shown to beat chance"), (doubtful, "doubtful image")):
        words = verdict(one, MaskingMode.NONE, 0)
        assert reason in words
        assert "above" not in words
        assert "below" not in words
        assert one.verdict(MaskingMode.NONE, 0) is None


def test_the_figure_of_a_doubtful_image_says_so_and_gives_no_verdict(analysis: Analysis) -> None:
    doubtful = replace(analysis, doubts=(Doubt("mask", "The outline is odd."),))
    words = " ".join(text.get_text() for text in figure(doubtful).findobj(Text))
    assert "Doubtful image: The outline is odd." in words
    assert words.count("(doubtful image)") == 15
    assert "above 0" not in words
    assert "below 0" not in words


def test_png_keeps_colour_and_grey() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    decoded = cv2.imdecode(np.frombuffer(encode_png(rgb), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[..., ::-1], rgb)
    decoded = cv2.imdecode(np.frombuffer(encode_png(rgb[..., 0]), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, rgb[..., 0])


def no_lungs() -> Analysis:
    return fake_pipeline(BlindSegmenter()).analyse(noise_radiograph(hw=HW))


def no_readings() -> Analysis:
    whole = fake_pipeline().analyse(noise_radiograph(hw=HW))
    return replace(whole, readings={}, lungs=None, checkpoints=(), warnings=("Costs $5, not $6",))


def words_of(page: Figure) -> str:
    return " ".join(text.get_text() for text in page.texts)


@pytest.mark.parametrize(
    ("make", "pictures", "words"),
    [
        (lambda: fake_pipeline().analyse(noise_radiograph(hw=HW)), 19, "findings-tiny-64-tight.v0"),
        (no_lungs, 7, "There is no lung mask."),
        (no_readings, 1, "Costs $5, not $6"),
    ],
)
def test_figure_draws_and_says_what_it_shows(make, pictures: int, words: str) -> None:
    page = figure(make())
    assert len(page.images) == pictures
    text = words_of(page)
    assert words in text
    assert NOTICE in text
    if pictures > 1:
        assert "one scale shared by all" in text
    else:
        assert "no finding is shown" in text


def test_figure_of_a_drawn_image_says_so_at_its_head() -> None:
    radiograph = noise_radiograph(hw=HW)
    assert "SYNTHETIC" not in words_of(figure(fake_pipeline().analyse(radiograph)))
    drawn = replace(radiograph, source=replace(radiograph.source, synthetic=True))
    assert f"SYNTHETIC. {NOTICE}" in words_of(figure(fake_pipeline().analyse(drawn)))


@pytest.mark.parametrize("hw", [HW, (144, 400), (400, 144)])
def test_figure_shows_each_picture_pixel_by_pixel_inside_the_page(hw: tuple[int, int]) -> None:
    analysis = fake_pipeline().analyse(noise_radiograph(hw=hw))
    drawn = cv2.imdecode(np.frombuffer(figure_png(analysis), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    shown = for_display(analysis, longest_px=256)
    reading = shown.readings[MaskingMode.TIGHT]
    heat = reading.saliency[4]
    expected = heat_overlay(shown.radiograph, heat, kept=reading.kept, peak=shown.peak)
    # Away from the letters R and L in the lower corners.
    expected = expected[: expected.shape[0] // 2]
    height, width = expected.shape[:2]
    found = cv2.matchTemplate(drawn[..., ::-1].copy(), expected[..., ::-1].copy(), cv2.TM_SQDIFF)
    y, x = np.unravel_index(found.argmin(), found.shape)
    np.testing.assert_array_equal(drawn[y : y + height, x : x + width], expected)


def test_a_figure_is_drawn_once_and_its_layout_is_given(
    analysis: Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn twice, or laid out by matplotlib, it costs several times what the analysis does."""
    drawn: list[Figure] = []
    draw = Figure.draw

    def noted(page: Figure, renderer: RendererBase) -> None:
        drawn.append(page)
        draw(page, renderer)

    monkeypatch.setattr(Figure, "draw", noted)
    figure_png(analysis)
    (page,) = drawn
    assert page.get_layout_engine() is None
    assert not page.axes, "pictures and words are put on the page as they are"


def test_nothing_on_the_figure_is_written_over_the_page_edge() -> None:
    page = figure(fake_pipeline().analyse(noise_radiograph(hw=(400, 144))))
    canvas = FigureCanvasAgg(page)
    canvas.draw()
    for text in page.texts:
        if text.get_text():
            box = text.get_window_extent(canvas.get_renderer())
            assert box.x0 >= 0, text
            assert box.y0 >= 0, text
            assert box.x1 <= page.bbox.width, text
            assert box.y1 <= page.bbox.height, text


@pytest.mark.parametrize(("sides", "letters"), [("header", "RL"), ("assumed", ["R?", "L?"])])
def test_sides_that_the_file_does_not_tell_are_questioned_on_the_figure(
    analysis: Analysis, sides: Literal["header", "assumed"], letters: Sequence[str]
) -> None:
    source = replace(analysis.radiograph.source, sides=sides)
    radiograph = replace(analysis.radiograph, source=source)
    texts = {text.get_text() for text in figure(replace(analysis, radiograph=radiograph)).texts}
    assert texts & {"R", "L", "R?", "L?"} == set(letters)


def test_figure_is_unknown_to_pyplot(analysis: Analysis) -> None:
    from matplotlib import _pylab_helpers

    figure(analysis)
    assert not _pylab_helpers.Gcf.figs
