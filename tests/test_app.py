import base64
import csv
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import gradio as gr
import numpy as np
import pytest
from fakes import (
    LUNGS_SPEC,
    BlindSegmenter,
    closing_event_loops,
    fake_pipeline,
    findings_spec,
    tiny_classifier,
    tiny_segmenter,
)

from cxrdemo.checkpoints import CheckpointStore, Estimate, OperatingPoint
from cxrdemo.errors import CheckpointError
from cxrdemo.examples import EXAMPLES, Example
from cxrdemo.labels import FINDINGS
from cxrdemo.pipeline import Pipeline
from cxrdemo.radiograph import Radiograph, Source
from cxrdemo.rendering import grey
from cxrdemo.results import Doubt, MaskingMode
from cxrdemo.ui import page as page_module
from cxrdemo.ui import panels, viewer
from cxrdemo.ui.loading import LoadingPipeline
from cxrdemo.ui.page import (
    Session,
    Turn,
    _in_turn,
    accept_anyway,
    begin,
    build_ui,
    change_margin,
    correct_mask,
    forget,
    launch_options,
    open_example,
    open_upload,
    read_batch,
    reset_mask,
    stopped,
    undo_correction,
)
from cxrdemo.ui.payload import findings_part
from cxrdemo.ui.serve import default_host, serve

BUNDLED_EXAMPLES = Path(page_module.__file__).parent / "examples"
DICOM = BUNDLED_EXAMPLES / "synthetic-nodule.dcm"


@pytest.fixture(autouse=True)
def _close_event_loops() -> Iterator[None]:
    with closing_event_loops():
        yield


@pytest.fixture(autouse=True)
def _accept_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fakes' two ellipses are no lungs, and the gate would say so."""
    monkeypatch.setattr("cxrdemo.pipeline.check", lambda *_: ())


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return fake_pipeline()


def uploaded(tmp_path: Path, content: bytes, name: str = "doe-john.bin") -> str:
    path = tmp_path / name
    path.write_bytes(content)
    return str(path)


Steps = list[tuple[Session, dict, str, str]]


def opened(pipeline: Pipeline, example: Example = EXAMPLES[0]) -> Steps:
    return list(open_example(pipeline, example))


def first_session(steps: Steps) -> Session:
    return next(step[0] for step in steps if isinstance(step[0], Session))


def last_payload(steps: Steps) -> dict:
    return steps[-1][1]


def test_every_network_event_shares_the_models_queue_and_is_private(pipeline: Pipeline) -> None:
    page = build_ui(pipeline)
    model_events = [fn for fn in page.fns.values() if fn.concurrency_id == "model"]
    # Upload, examples, the viewer's five questions, and the batch.
    assert len(model_events) == 1 + len(EXAMPLES) + 5 + 1
    assert {fn.concurrency_limit for fn in model_events} == {1}
    assert page.get_api_info()["named_endpoints"] == {}
    assert page._queue.max_size == 16
    assert page.api_open is False


def test_launch_options_are_known_to_launch_and_keep_no_history() -> None:
    options = launch_options()
    assert options["run_history"] is False
    assert options["show_error"] is False
    for path in options["css_paths"]:
        assert "http" not in path.read_text(encoding="utf-8")


def test_the_viewers_template_is_plain_html() -> None:
    """Gradio would fill in what looks like a template expression."""
    assert not re.search(r"\$\{|\{\{|`", viewer.HTML)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_upload_is_read_by_content_and_deleted(pipeline: Pipeline, tmp_path: Path, example) -> None:
    path = uploaded(tmp_path, (BUNDLED_EXAMPLES / example.name).read_bytes())
    steps = list(open_upload(pipeline, path))
    assert not Path(path).exists()
    analysis = first_session(steps).analysis
    assert set(analysis.readings) == set(MaskingMode)
    payload = last_payload(steps)
    for mode, reading in analysis.readings.items():
        sent = payload["maskings"][str(mode)]
        assert [f["p"] for f in sent["findings"]] == reading.findings.probabilities.tolist()
        assert sent["noFinding"] == reading.findings.no_finding
        cells = [heat["cells"] for heat in sent["heat"]]
        np.testing.assert_allclose(cells, [m.grid.ravel() for m in reading.saliency], rtol=1e-5)
    assert payload["image"]["native"] == [example.side_px, example.side_px]
    assert "doe-john" not in str(steps)


def test_image_lungs_and_findings_come_one_after_the_other(pipeline: Pipeline) -> None:
    payloads = [step[1] for step in opened(pipeline)]
    assert ["lungs" in p for p in payloads] == [False, True, True, True]
    assert ["maskings" in p for p in payloads] == [False, False, True, True]
    assert [p["stage"] is None for p in payloads] == [False, False, True, True]
    assert [bool(p.get("probes")) for p in payloads] == [False, False, False, True]
    assert len({p["run"] for p in payloads}) == 4
    assert len({p["study"] for p in payloads}) == 1


def test_the_picture_sent_is_the_x_ray_to_the_bit(pipeline: Pipeline) -> None:
    steps = opened(pipeline)
    url = last_payload(steps)["image"]["url"]
    png = np.frombuffer(base64.b64decode(url.removeprefix("data:image/png;base64,")), np.uint8)
    sent = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    shown = grey(first_session(steps).analysis.radiograph)
    np.testing.assert_array_equal(sent, shown[..., 0])


def test_example_is_marked_as_synthetic_wherever_it_is_shown(pipeline: Pipeline) -> None:
    for example in EXAMPLES:
        steps = opened(pipeline, example)
        assert last_payload(steps)["synthetic"] is True
        _, _, status, details = next(s for s in steps if isinstance(s[0], Session))
        assert "SYNTHETIC" in status
        assert "SYNTHETIC" in details


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"\x89PNG\r\n\x1a\nbroken"])
def test_broken_upload_is_told_in_words(pipeline: Pipeline, tmp_path: Path, content: bytes) -> None:
    path = uploaded(tmp_path, content)
    with pytest.raises(gr.Error) as caught:
        list(open_upload(pipeline, path))
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
        list(open_upload(pipeline, uploaded(tmp_path, DICOM.read_bytes())))
    assert "doe-john" not in caught.value.message
    incident = re.search(r"Incident (\w{8})", caught.value.message)
    assert incident is not None
    assert incident[1] in caplog.text


def test_margin_reads_the_loose_masking_again_and_no_other(pipeline: Pipeline) -> None:
    session = first_session(opened(pipeline))
    ((after, payload, *_),) = change_margin(pipeline, session, {"margin": 0.15})
    for mode in (MaskingMode.NONE, MaskingMode.TIGHT):
        assert after.analysis.readings[mode] is session.analysis.readings[mode]
    assert after.analysis.readings[MaskingMode.LOOSE].margin == pytest.approx(0.15)
    assert payload["study"] == session.study
    assert "image" not in payload


def test_corrections_are_undone_one_by_one_or_all_at_once() -> None:
    pipeline = Pipeline(tiny_segmenter(), {mode: tiny_classifier(mode) for mode in MaskingMode})
    start = first_session(opened(pipeline))
    click = {"kind": "click", "x": 100.0, "y": 120.0, "add": True}
    box = {"kind": "box", "x0": 10.0, "y0": 10.0, "x1": 300.0, "y1": 500.0}
    once = first_session(list(correct_mask(pipeline, start, click)))
    twice = first_session(list(correct_mask(pipeline, once, box)))
    assert start.found is not None
    assert twice.history == (start.found, once.found)
    assert twice.analysis.lungs is None or twice.analysis.lungs is twice.found.lungs
    back = first_session(list(undo_correction(pipeline, twice, {})))
    assert back.found is once.found
    automatic = first_session(list(reset_mask(pipeline, twice, {})))
    assert automatic.found is start.found
    assert automatic.history == ()


def test_a_prompt_outside_the_image_is_told_in_words() -> None:
    pipeline = Pipeline(tiny_segmenter(), {})
    session = first_session(opened(pipeline))
    with pytest.raises(gr.Error, match="outside"):
        list(correct_mask(pipeline, session, {"kind": "click", "x": -5.0, "y": 0.0, "add": True}))


def test_a_doubtful_image_shows_no_number_until_the_user_asks(
    monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline
) -> None:
    doubt = Doubt("inverted", "Bones are dark.")
    monkeypatch.setattr("cxrdemo.pipeline.check", lambda *_: (doubt,))
    steps = opened(pipeline)
    payload = last_payload(steps)
    assert payload["doubts"] == [doubt.message]
    assert payload["withheld"] is True
    assert not payload["maskings"]
    assert not payload.get("probes")
    after = list(accept_anyway(pipeline, first_session(steps), {}))
    payload = last_payload(after)
    assert payload["withheld"] is False
    assert payload["doubts"] == [doubt.message]
    assert set(after[0][1]["maskings"]) == {"none", "loose", "tight"}


def test_clear_forgets_everything() -> None:
    session, payload, *_ = forget(Turn())
    assert session is None
    assert payload["clear"] is True


@pytest.mark.parametrize("end", [begin, forget, stopped])
def test_a_run_ends_between_two_stages_once_it_is_not_the_last(pipeline: Pipeline, end) -> None:
    turn = Turn()
    steps = _in_turn(lambda: open_example(pipeline, EXAMPLES[0]))(turn)
    assert "maskings" not in next(steps)[1]
    end(turn)
    assert list(steps) == [(gr.skip(),) * 4]


def test_text_from_a_file_is_escaped(pipeline: Pipeline) -> None:
    evil = "<script>alert(1)</script>"
    source = Source(evil, 8, steps=(evil,), tags={evil: evil}, warnings=(evil,))
    pixels = np.random.default_rng(0).random((96, 96), np.float32)
    analysis = pipeline.analyse(Radiograph(pixels, source=source))
    html = panels.status(analysis) + panels.how_read(analysis)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 7


def test_image_without_lungs_has_no_outline_and_no_masked_finding() -> None:
    payload = last_payload(opened(fake_pipeline(BlindSegmenter())))
    assert payload["lungs"] is None
    assert set(payload["maskings"]) == {"none"}


def test_page_without_checkpoints_says_what_is_missing_and_shows_no_finding() -> None:
    empty = Pipeline(None, {})
    config = str(build_ui(empty).get_config_file())
    for part in ("lung segmenter", *(f"masking &#x27;{mode}&#x27;" for mode in MaskingMode)):
        assert part in config
    payload = last_payload(opened(empty))
    assert payload["lungs"] is None
    assert payload["maskings"] == {}


def test_measured_figures_reach_the_viewer_with_their_intervals(pipeline: Pipeline) -> None:
    analysis = first_session(opened(pipeline)).analysis
    spec = findings_spec(MaskingMode.NONE)
    measured = tuple(
        replace(
            label,
            sensitivity=Estimate(0.71, 0.55, 0.84, 22),
            others=(OperatingPoint("high sensitivity", 0.2, "rule"),),
        )
        for label in spec.labels
    )
    specs = {MaskingMode.NONE: replace(spec, labels=measured)}
    for finding in findings_part(analysis, specs)["maskings"]["none"]["findings"]:
        assert finding["auroc"] == "0.80 (0.70-0.90, n = 20)"
        assert [point["name"] for point in finding["points"]] == ["balanced", "high sensitivity"]
        assert finding["points"][0]["sensitivity"] == "0.71 (0.55-0.84, n = 22)"


def test_about_shows_every_figure(pipeline: Pipeline) -> None:
    html = panels.about(None, {MaskingMode.NONE: findings_spec(MaskingMode.NONE)})
    assert html.count("0.800 (0.700 to 0.900, n = 20)") == len(FINDINGS)
    assert "No lung segmenter is installed" in html


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_batch_reads_every_file_and_names_the_bad_one(
    pipeline: Pipeline, tmp_path: Path, at_once: int
) -> None:
    pipeline = Pipeline(pipeline._segmenter, pipeline._classifiers, at_once=at_once)
    good = uploaded(tmp_path, DICOM.read_bytes(), "good.dcm")
    bad = uploaded(tmp_path, b"junk" * 100, "=bad.png")
    steps = list(read_batch(pipeline, [bad, good], "none"))
    table, _, done = steps[-1]
    assert [row[0] for row in table] == ["=bad.png", "good.dcm"]
    assert "Expected a chest X-ray" in table[0][-1]
    assert re.fullmatch(r"0\.\d\d( above)?", table[1][1])
    assert not Path(good).exists()
    with Path(done["value"]).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["file"] == "'=bad.png"
    assert rows[0]["error"]
    assert len(rows) == 1 + len(FINDINGS) * len(MaskingMode)
    with pytest.raises(gr.Error, match="Choose"):
        list(read_batch(pipeline, None, "none"))


def test_a_batch_withholds_the_numbers_of_a_doubtful_image(
    monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline, tmp_path: Path
) -> None:
    doubt = Doubt("inverted", "Bones are dark.")
    monkeypatch.setattr("cxrdemo.pipeline.check", lambda *_: (doubt,))
    path = uploaded(tmp_path, DICOM.read_bytes(), "inverted.dcm")
    *_, (table, _, done) = read_batch(pipeline, [path], "none")
    assert table == [["inverted.dcm", *[""] * 6, "Withheld: Bones are dark."]]
    with Path(done["value"]).open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["probability"] == ""
    assert "Bones are dark" in row["warnings"]


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
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda _: None)
    serve(checkpoints=tmp_path, host="127.0.0.1", port=7999)
    assert (launched["server_name"], launched["server_port"]) == ("127.0.0.1", 7999)
    assert launched["ssr_mode"] is False
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_serve_ends_where_the_weights_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gr.Blocks, "launch", lambda *_, **__: None)
    (tmp_path / "manifest.json").write_text(
        json.dumps({"schema": 1, "checkpoints": [LUNGS_SPEC.to_json()]})
    )
    with pytest.raises(CheckpointError):
        serve(checkpoints=tmp_path, host="127.0.0.1", port=7999)


def test_the_first_image_waits_for_the_models_and_is_told_so(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    loading = LoadingPipeline(CheckpointStore.open(tmp_path))
    page = build_ui(loading.as_pipeline())
    assert page is not None
    steps = open_example(loading.as_pipeline(), EXAMPLES[0])
    assert next(steps)[1]["stage"] == "Loading the models, once…"
    assert not loading.is_ready
    loading.load(lambda: pipeline)
    assert loading.is_ready
    assert [step[1] for step in steps][-1]["stage"] is None
    assert next(open_example(loading.as_pipeline(), EXAMPLES[0]))[1]["stage"] != (
        "Loading the models, once…"
    )


def test_an_error_of_loading_reaches_whoever_waits(tmp_path: Path) -> None:
    loading = LoadingPipeline(CheckpointStore.open(tmp_path))

    def broken() -> Pipeline:
        raise CheckpointError("the file is altered")

    for attempt in (partial(loading.load, broken), lambda: loading.as_pipeline().find_lungs):
        with pytest.raises(CheckpointError, match="altered"):
            attempt()
