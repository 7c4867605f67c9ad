import asyncio
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from fakes import BlindSegmenter, fake_pipeline, findings_spec

from cxrdemo.checkpoints import Estimate
from cxrdemo.examples import EXAMPLES
from cxrdemo.labels import FINDINGS
from cxrdemo.pipeline import Pipeline
from cxrdemo.radiograph import Radiograph, Source
from cxrdemo.results import MaskingMode
from cxrdemo.ui import page as page_module
from cxrdemo.ui import panels
from cxrdemo.ui.page import (
    analyse_again,
    analyse_example,
    analyse_upload,
    build_ui,
    forget,
    launch_options,
    show_masking,
)
from cxrdemo.ui.serve import default_host, serve

BUNDLED_EXAMPLES = Path(page_module.__file__).parent / "examples"
DICOM = BUNDLED_EXAMPLES / "synthetic-nodule.dcm"
CHROMIUM = Path("/usr/bin/chromium")
QUIET_CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(autouse=True)
def _close_event_loops(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gradio makes an event loop for the locks of every page and never closes it."""
    make, made = asyncio.new_event_loop, []

    def make_and_remember() -> asyncio.AbstractEventLoop:
        made.append(make())
        return made[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", make_and_remember)
    yield
    for loop in made:
        if not loop.is_running():
            loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return fake_pipeline()


def uploaded(tmp_path: Path, content: bytes, name: str = "doe-john.bin") -> str:
    path = tmp_path / name
    path.write_bytes(content)
    return str(path)


def shown_values(html: str) -> list[str]:
    """The large numbers: five findings and No Finding."""
    return re.findall(r"<b>(\d\.\d\d)</b>", html)


def test_only_the_network_events_share_the_models_queue(pipeline: Pipeline) -> None:
    page = build_ui(pipeline)
    model_events = [fn for fn in page.fns.values() if fn.concurrency_id == "model"]
    assert len(model_events) == 1 + len(EXAMPLES) + 1
    assert {fn.concurrency_limit for fn in model_events} == {1}
    assert page.get_api_info()["named_endpoints"] == {}
    assert page._queue.max_size == 16
    assert page.api_open is False


def test_launch_options_are_known_to_launch_and_keep_no_history() -> None:
    options = launch_options()
    assert options["run_history"] is False
    assert options["show_error"] is False
    assert all(path.is_file() for path in options["css_paths"])
    assert "http" not in options["css_paths"][0].read_text(encoding="utf-8")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_upload_is_read_by_content_and_deleted(pipeline: Pipeline, tmp_path: Path, example) -> None:
    path = uploaded(tmp_path, (BUNDLED_EXAMPLES / example.name).read_bytes())
    analysis, result, status, details = analyse_upload(pipeline, path, "none", 8)
    assert not Path(path).exists()
    assert set(analysis.readings) == set(MaskingMode)
    expected = analysis.readings[MaskingMode.NONE].findings
    assert shown_values(result) == [
        *(f"{value:.2f}" for value in expected.probabilities),
        f"{expected.no_finding:.2f}",
    ]
    assert f"{example.side_px} x {example.side_px} px" in status
    assert analysis.radiograph.source.kind in details
    assert "doe-john" not in result + status + details


def test_example_is_marked_as_synthetic_wherever_it_is_shown(pipeline: Pipeline) -> None:
    for example in EXAMPLES:
        analysis, result, status, _ = analyse_example(pipeline, example, "none", 8)
        assert "SYNTHETIC" in result
        assert "SYNTHETIC" in status
        assert panels.SYNTHETIC in analysis.warnings


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"\x89PNG\r\n\x1a\nbroken"])
def test_broken_upload_is_told_in_words(pipeline: Pipeline, tmp_path: Path, content: bytes) -> None:
    path = uploaded(tmp_path, content)
    with pytest.raises(gr.Error) as caught:
        analyse_upload(pipeline, path, "none", 8)
    assert len(caught.value.message.split()) > 5
    assert "doe-john" not in caught.value.message
    assert caught.value.print_exception is False
    assert not Path(path).exists()


def test_unexpected_failure_shows_only_its_number(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    pipeline = fake_pipeline()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("cannot open /data/doe-john.dcm")

    monkeypatch.setattr(pipeline, "analyse", fail)
    with caplog.at_level(logging.ERROR), pytest.raises(gr.Error) as caught:
        analyse_upload(pipeline, uploaded(tmp_path, DICOM.read_bytes()), "none", 8)
    assert "doe-john" not in caught.value.message
    incident = re.search(r"Incident (\w{8})", caught.value.message)
    assert incident is not None
    assert incident[1] in caplog.text


def test_masking_switch_shows_other_numbers_without_a_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = fake_pipeline()
    analysis, first, *_ = analyse_example(pipeline, EXAMPLES[0], "none", 8)
    monkeypatch.delattr(Pipeline, "analyse")
    pages = {mode: show_masking(pipeline, analysis, mode.value) for mode in MaskingMode}
    assert pages[MaskingMode.NONE] == first
    assert len({tuple(shown_values(html)) for html in pages.values()}) == 3
    for mode, html in pages.items():
        assert f"Probabilities, masking {mode}" in html
        assert html.count("<img") == 2 + len(FINDINGS) + 1


def test_margin_reads_the_same_image_again(pipeline: Pipeline) -> None:
    analysis, *_ = analyse_example(pipeline, EXAMPLES[0], "loose", 8)
    again, result, *_ = analyse_again(pipeline, analysis, "loose", 15)
    assert again.radiograph is analysis.radiograph
    assert again.readings[MaskingMode.LOOSE].margin == pytest.approx(0.15)
    assert "15% of their height" in result


def test_events_before_any_image_do_nothing(pipeline: Pipeline) -> None:
    assert show_masking(pipeline, None, "tight") == panels.welcome()
    assert analyse_again(pipeline, None, "tight", 8) == gr.skip()
    assert forget()[0] is None


def test_text_from_a_file_is_escaped(pipeline: Pipeline) -> None:
    evil = "<script>alert(1)</script>"
    source = Source(evil, 8, steps=(evil,), tags={evil: evil}, warnings=(evil,))
    pixels = np.random.default_rng(0).random((96, 96), np.float32)
    analysis = pipeline.analyse(Radiograph(pixels, source=source))
    html = (
        panels.result(analysis, MaskingMode.NONE, None)
        + panels.status(analysis)
        + panels.how_read(analysis)
    )
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 6


def test_image_without_lungs_shows_no_mask_and_no_masked_finding() -> None:
    pipeline = fake_pipeline(BlindSegmenter())
    analysis, whole, *_ = analyse_example(pipeline, EXAMPLES[0], "none", 8)
    assert "no lung mask" in whole
    tight = show_masking(pipeline, analysis, "tight")
    assert "No finding is shown for masking" in tight
    assert shown_values(tight) == []
    assert "gave no result" in tight


def test_page_without_checkpoints_says_what_is_missing_and_shows_no_finding() -> None:
    empty = Pipeline(None, {})
    config = str(build_ui(empty).get_config_file())
    for part in ("lung segmenter", *(f"masking &#x27;{mode}&#x27;" for mode in MaskingMode)):
        assert part in config
    analysis, result, *_ = analyse_example(empty, EXAMPLES[0], "none", 8)
    assert not analysis.readings
    assert shown_values(result) == []
    assert "No classifier for masking" in result


def test_measured_operating_point_is_shown_with_its_interval(pipeline: Pipeline) -> None:
    analysis, *_ = analyse_example(pipeline, EXAMPLES[0], "none", 8)
    spec = findings_spec(MaskingMode.NONE)
    assert "sensitivity" not in panels.result(analysis, MaskingMode.NONE, spec)
    measured = tuple(
        replace(label, sensitivity=Estimate(0.71, 0.55, 0.84, 22)) for label in spec.labels
    )
    html = panels.result(analysis, MaskingMode.NONE, replace(spec, labels=measured))
    assert html.count("at this threshold: sensitivity 0.71 (0.55-0.84, n=22)") == len(FINDINGS)
    assert html.count("on test patients: AUROC 0.80 (0.70-0.90, n=20)") == len(FINDINGS)


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ({}, "127.0.0.1"),
        ({"SPACE_ID": "someone/cxr"}, "0.0.0.0"),
        ({"SPACE_ID": "someone/cxr", "GRADIO_SERVER_NAME": "10.0.0.1"}, "10.0.0.1"),
    ],
)
def test_default_host(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], host: str
) -> None:
    for name in ("SPACE_ID", "GRADIO_SERVER_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_host() == host


def test_serve_launches_the_page_and_sends_no_statistics(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "True")
    launched: dict[str, object] = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda _, **options: launched.update(options))
    serve(checkpoints=tmp_path, host="127.0.0.1", port=7999)
    assert (launched["server_name"], launched["server_port"]) == ("127.0.0.1", 7999)
    assert launched["ssr_mode"] is False
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


@contextmanager
def served(pipeline: Pipeline) -> Iterator[str]:
    page = build_ui(pipeline)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    try:
        yield url
    finally:
        page.close(verbose=False)


@pytest.mark.browser
# Gradio's queue statistics use what pandas 4 will drop.
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}")
def test_a_reading_session_in_a_browser(pipeline: Pipeline, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    expect = sync_api.expect
    expect.set_options(timeout=20_000)
    with served(pipeline) as url, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET_CHROMIUM)
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        requests: list[str] = []
        complaints: list[str] = []
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on(
            "console",
            lambda message: complaints.append(message.text) if message.type == "error" else None,
        )
        tab.goto(url)
        expect(tab.get_by_text("not a medical device")).to_be_visible()
        expect(tab.locator("body")).to_have_class(re.compile("dark"))

        # A DICOM file without its suffix: five probabilities and No Finding.
        nameless = uploaded(tmp_path, DICOM.read_bytes(), "export")
        tab.set_input_files("input[type=file]", nameless)
        values = tab.locator(".cxr-row b")
        expect(values).to_have_count(len(FINDINGS) + 1)
        before = values.all_text_contents()
        picture = tab.get_by_alt_text("X-ray as the classifier is given it, masking none")
        picture_before = picture.get_attribute("src")

        tab.get_by_label("Tight", exact=True).check()
        masked = tab.get_by_alt_text("X-ray as the classifier is given it, masking tight")
        expect(masked).to_be_visible()
        assert masked.get_attribute("src") != picture_before
        after = values.all_text_contents()
        assert after != before

        # A broken file: the reason in words, and the result of the first one stays.
        tab.set_input_files("input[type=file]", uploaded(tmp_path, b"junk" * 100, "broken.dcm"))
        expect(tab.get_by_test_id("toast-body")).to_contain_text("Expected a chest X-ray")
        expect(tab.locator(".cxr-drop")).not_to_contain_text("broken")
        assert values.all_text_contents() == after
        tab.get_by_label("None", exact=True).check()
        expect(picture).to_be_visible()
        assert values.all_text_contents() == before

        # A phone needs no scrolling sideways.
        tab.set_viewport_size({"width": 390, "height": 844})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390

        tab.get_by_role("button", name="Clear").click()
        expect(tab.get_by_text("No image yet").first).to_be_visible()
        expect(values).to_have_count(0)
        browser.close()
    assert complaints == []
    local = (url, "data:", "blob:")
    assert [address for address in requests if not address.startswith(local)] == []
