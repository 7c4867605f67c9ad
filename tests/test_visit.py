import base64
import gc
import io
import logging
import re
import threading
import time
import weakref
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fakes import (
    BlindSegmenter,
    EllipseSegmenter,
    fake_pipeline,
    findings_spec,
    phantom_pipeline,
    tiny_classifier,
    tiny_segmenter,
)

from cxrdemo.errors import CheckpointError
from cxrdemo.examples import EXAMPLES, Example
from cxrdemo.export import analysis_to_json
from cxrdemo.phantom import make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.radiograph import Radiograph, Remedy, Source
from cxrdemo.rendering import encode_png, grey
from cxrdemo.results import Doubt, MaskingMode, Probes
from cxrdemo.specs import Estimate, OperatingPoint
from cxrdemo.ui import panels
from cxrdemo.ui import visit as visit_module
from cxrdemo.ui.line import Line
from cxrdemo.ui.models import Models
from cxrdemo.ui.payload import findings_part
from cxrdemo.ui.visit import (
    GONE,
    MAX_CORRECTIONS,
    UNREAD,
    Session,
    Shown,
    Visit,
    Visits,
    _with_mask,
)

BUNDLED_EXAMPLES = Path(visit_module.__file__).parent / "examples"
DICOM = BUNDLED_EXAMPLES / "synthetic-nodule.dcm"


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """The gate is on, and accepts the examples."""
    return phantom_pipeline()


@pytest.fixture
def visit(pipeline: Pipeline) -> Visit:
    return Visit(Models.of(pipeline))


@pytest.fixture
def accepting(monkeypatch: pytest.MonkeyPatch) -> None:
    """For fakes whose masks are no lungs: the gate would say so."""
    monkeypatch.setattr("cxrdemo.pipeline.check", lambda *_: ())


def uploaded(tmp_path: Path, content: bytes, name: str = "doe-john.bin") -> str:
    folder = tmp_path / name
    folder.mkdir()
    path = folder / name
    path.write_bytes(content)
    return str(path)


def opened(visit: Visit, example: Example = EXAMPLES[0]) -> list[dict[str, Any]]:
    """What the viewer is sent."""
    return payloads(visit.open_example(example))


def payloads(answer: Iterator[Shown]) -> list[dict[str, Any]]:
    return [dict(shown.payload) for shown in answer if shown.payload is not None]


def asked(visit: Visit, question: str, **detail: Any) -> list[dict[str, Any]]:
    """What the viewer is sent in answer to a question about the open image."""
    return payloads(visit.ask(question, {"study": session_of(visit).study, **detail}))


def session_of(visit: Visit) -> Session:
    assert visit.session is not None
    return visit.session


def seen(answer: Iterator[Shown]) -> str:
    """All that reaches the page."""
    return "".join(f"{s.payload}{s.status}{s.details}" for s in answer)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_upload_is_read_by_content_and_deleted(visit: Visit, tmp_path: Path, example) -> None:
    path = uploaded(tmp_path, (BUNDLED_EXAMPLES / example.name).read_bytes())
    answer = list(visit.open_upload(path))
    assert not Path(path).parent.exists()
    analysis = session_of(visit).analysis
    assert set(analysis.readings) == set(MaskingMode)
    payload = payloads(iter(answer))[-1]
    for mode, reading in analysis.readings.items():
        sent = payload["maskings"][str(mode)]
        assert [f["p"] for f in sent["findings"]] == reading.findings.probabilities.tolist()
        assert sent["noFinding"] == reading.findings.no_finding
        cells = [heat["cells"] for heat in sent["heat"]]
        np.testing.assert_allclose(cells, [m.grid.ravel() for m in reading.saliency], rtol=1e-5)
    assert payload["image"]["native"] == [example.side_px, example.side_px]
    assert "doe-john" not in seen(iter(answer))


def test_image_lungs_and_findings_come_one_after_the_other(visit: Visit) -> None:
    sent = opened(visit)
    # Each holds all that the ones before did: the viewer drops what is overtaken.
    assert all("image" in p for p in sent)
    assert ["lungs" in p for p in sent] == [False, True, True, True]
    assert ["maskings" in p for p in sent] == [False, False, True, True]
    assert [p["stage"] is None for p in sent] == [False, False, True, True]
    assert [bool(p.get("probes")) for p in sent] == [False, False, False, True]
    assert len({p["run"] for p in sent}) == 4
    assert len({p["study"] for p in sent}) == 1


def test_the_picture_sent_is_the_x_ray_to_the_bit(visit: Visit) -> None:
    url = opened(visit)[0]["image"]["url"]
    png = np.frombuffer(base64.b64decode(url.removeprefix("data:image/png;base64,")), np.uint8)
    sent = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(sent, grey(session_of(visit).analysis.radiograph)[..., 0])


def test_example_is_marked_as_synthetic_wherever_it_is_shown(visit: Visit) -> None:
    for example in EXAMPLES:
        answer = list(visit.open_example(example))
        assert payloads(iter(answer))[0]["synthetic"] is True
        last = next(shown for shown in answer if shown.details)
        assert f"SYNTHETIC example · {example.story}" in last.status
        assert "SYNTHETIC" in last.details
        assert example.story in last.details


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"\x89PNG\r\n\x1a\nbroken"])
def test_broken_upload_is_told_in_words_and_the_image_before_stays(
    visit: Visit, tmp_path: Path, content: bytes
) -> None:
    opened(visit)
    before = session_of(visit)
    path = uploaded(tmp_path, content)
    *_, last = visit.open_upload(path)
    assert last.payload["failed"] is True
    assert len(last.payload["reason"].split()) > 5
    assert 'role="alert"' in last.status
    assert "doe-john" not in seen(iter([last]))
    assert visit.session is before
    assert not Path(path).exists()


def test_an_upload_that_is_gone_is_told_in_words(visit: Visit, tmp_path: Path) -> None:
    *_, last = visit.open_upload(str(tmp_path / "gone.dcm"))
    assert "choose it again" in last.payload["reason"]


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError])
def test_unexpected_failure_shows_only_its_number(
    kind: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    pipeline = phantom_pipeline()

    def fail(*_: object, **__: object) -> None:
        raise kind("cannot open /data/doe-john.dcm")

    monkeypatch.setattr(pipeline, "analyse", fail)
    visit = Visit(Models.of(pipeline))
    with caplog.at_level(logging.ERROR):
        *_, last = visit.open_upload(uploaded(tmp_path, DICOM.read_bytes()))
    assert "doe-john" not in seen(iter([last]))
    incident = re.search(r"Incident (\w{8})", last.payload["reason"])
    assert incident is not None
    assert incident[1] in caplog.text
    # The line goes on: a failure gives its place up.
    monkeypatch.undo()
    assert opened(visit)[-1]["probes"]


def test_seconds_tell_the_whole_time_of_each_stage(
    monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline
) -> None:
    """The segmenter runs before the analysis, and its time was left out."""
    ticks = iter(range(1000))
    monkeypatch.setattr(visit_module.time, "perf_counter", lambda: float(next(ticks)))
    visit = Visit(Models.of(pipeline))
    opened(visit)
    seconds = session_of(visit).analysis.seconds
    # One tick around finding the lungs, one for each stage of the analysis.
    assert seconds["lungs"] >= 2
    assert sum(seconds.values()) > 4


# ---- Questions ---------------------------------------------------------------------------------


def test_margin_reads_the_loose_masking_again_and_no_other(visit: Visit) -> None:
    opened(visit)
    before = session_of(visit)
    (payload,) = asked(visit, "margin_changed", margin=0.15)
    after = session_of(visit)
    for mode in (MaskingMode.NONE, MaskingMode.TIGHT):
        assert after.analysis.readings[mode] is before.analysis.readings[mode]
    assert after.analysis.readings[MaskingMode.LOOSE].margin == pytest.approx(0.15)
    assert payload["study"] == before.study
    assert "image" not in payload


def test_margin_is_kept_for_the_next_image_until_all_is_cleared(visit: Visit) -> None:
    def margin() -> float | None:
        opened(visit)
        return session_of(visit).analysis.readings[MaskingMode.LOOSE].margin

    usual = margin()
    asked(visit, "margin_changed", margin=0.15)
    assert margin() == pytest.approx(0.15)
    list(visit.clear())
    assert margin() == usual != pytest.approx(0.15)


def test_margin_keeps_the_warnings_of_the_other_maskings(accepting: None) -> None:
    modes = (MaskingMode.NONE, MaskingMode.LOOSE)
    visit = Visit(
        Models.of(Pipeline(EllipseSegmenter(), {mode: tiny_classifier(mode) for mode in modes}))
    )
    opened(visit)
    before = session_of(visit).analysis.warnings
    assert any("'tight'" in warning for warning in before)
    asked(visit, "margin_changed", margin=0.3)
    outside = session_of(visit).analysis.warnings
    assert set(before) < set(outside)
    assert any("30%" in warning for warning in outside)
    asked(visit, "margin_changed", margin=0.08)
    assert session_of(visit).analysis.warnings == before


@pytest.mark.parametrize(
    ("question", "detail"),
    [
        ("margin_changed", {"margin": 0.9}),
        ("margin_changed", {"margin": float("nan")}),
        ("margin_changed", {"margin": 10**400}),
        ("mask_prompt", {"kind": "click", "x": 10**400, "y": 1.0}),
        ("mask_prompt", {"kind": "click", "x": 1.0, "y": 1e300}),
        ("mask_painted", {"strokes": [{"points": [[1e300, 1], [2, 2]], "radius": 4}]}),
        ("mask_painted", {"strokes": [{"points": [[1, 1], [2, 2]], "radius": 1e300}]}),
        ("margin_changed", {}),
        ("margin_changed", {"margin": "0.1"}),
        ("mask_prompt", {"kind": "click", "x": 1.0}),
        ("mask_prompt", {"kind": "box", "x0": 1, "y0": 2, "x1": None, "y1": 3}),
        ("mask_prompt", {"kind": "click", "x": -5.0, "y": 0.0, "add": True}),
    ],
)
def test_a_question_that_makes_no_sense_is_told_in_words(
    visit: Visit, question: str, detail: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    opened(visit)
    before = session_of(visit)
    *_, last = asked(visit, question, **detail)
    assert last["failed"] is True
    assert "Incident" not in last["reason"]
    assert visit.session is before


def correctable() -> Visit:
    """Random weights: their masks are no lungs, but they can be corrected."""
    pipeline = Pipeline(tiny_segmenter(), {mode: tiny_classifier(mode) for mode in MaskingMode})
    return Visit(Models.of(pipeline))


CLICK = {"kind": "click", "x": 100.0, "y": 120.0, "add": True}
BOX = {"kind": "box", "x0": 10.0, "y0": 10.0, "x1": 300.0, "y1": 500.0}


def test_corrections_are_undone_one_by_one_or_all_at_once(accepting: None) -> None:
    visit = correctable()
    opened(visit)
    start = session_of(visit).found
    asked(visit, "mask_prompt", **CLICK)
    once = session_of(visit).found
    asked(visit, "mask_prompt", **BOX)
    twice = session_of(visit)
    assert twice.history == (start, once)
    assert twice.analysis.lungs is None or twice.analysis.lungs is twice.found.lungs
    asked(visit, "mask_undo")
    assert session_of(visit).found is once
    asked(visit, "mask_reset")
    assert session_of(visit).found is start
    # The return to the automatic mask is itself taken back.
    asked(visit, "mask_undo")
    assert session_of(visit).found is once
    asked(visit, "mask_undo")
    assert session_of(visit).found is start
    (nothing,) = asked(visit, "mask_undo")
    assert nothing["corrections"] == 0


def test_the_history_of_corrections_is_bounded_but_not_the_way_back(
    accepting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 5 <= MAX_CORRECTIONS <= 50
    monkeypatch.setattr(visit_module, "MAX_CORRECTIONS", 1)
    visit = correctable()
    opened(visit)
    start = session_of(visit).found
    for _ in range(2):
        asked(visit, "mask_prompt", **CLICK)
    assert len(session_of(visit).history) == 1
    assert start not in session_of(visit).history
    asked(visit, "mask_reset")
    assert session_of(visit).found is start


def test_the_history_of_a_large_image_is_shorter(
    accepting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visit_module, "MAX_HISTORY_BYTES", 3 * EXAMPLES[0].side_px ** 2)
    visit = correctable()
    opened(visit)
    session = session_of(visit)
    assert session.found is not None
    for _ in range(5):  # the classifiers that a click would run have no part in this
        session = _with_mask(session, replace(session.found))
    assert len(session.history) == 3


def test_a_doubtful_image_shows_no_number_until_the_user_asks(
    monkeypatch: pytest.MonkeyPatch, visit: Visit
) -> None:
    doubt = Doubt("inverted", "Bones are dark.")
    monkeypatch.setattr("cxrdemo.pipeline.check", lambda *_: (doubt,))
    payload = opened(visit)[-1]
    assert payload["doubts"] == [{"message": doubt.message, "remedy": None}]
    assert payload["withheld"] is True
    assert not payload["maskings"]
    assert not payload.get("probes")
    first, *_, last = asked(visit, "accept_anyway")
    assert first["withheld"] is False
    assert first["doubts"] == payload["doubts"]
    assert set(first["maskings"]) == {"none", "loose", "tight"}
    assert last["probes"]


def test_the_gate_looks_again_after_a_correction(tmp_path: Path) -> None:
    """It refuses ellipses, and accepts the lungs that take their place."""
    phantom = make_phantom(seed=7, hw=(500, 480))
    visit = Visit(Models.of(fake_pipeline()))
    png = encode_png(grey(phantom.radiograph))
    assert payloads(visit.open_upload(uploaded(tmp_path, png)))[-1]["withheld"] is True
    known = phantom_pipeline()
    right = known.find(make_phantom(seed=1, hw=(400, 360)).radiograph).lungs
    mended = cv2.resize(right.sides, (480, 500), interpolation=cv2.INTER_NEAREST)
    found = session_of(visit).found
    corrected = replace(found, lungs=replace(found.lungs, sides=mended, quality=right.quality))
    visit.session = replace(session_of(visit), found=corrected, history=(corrected,))
    first, *_ = asked(visit, "mask_undo")
    assert first["withheld"] is False
    assert first["doubts"] == []


LESION = {"kind": "nodule", "x": 200.0, "y": 300.0, "diameter": 0.1, "contrast": 0.5}


def test_a_lesion_is_planted_beside_the_image_and_taken_out_again(
    visit: Visit, pipeline: Pipeline
) -> None:
    opened(visit)
    before = session_of(visit)
    (payload,) = asked(visit, "plant", **LESION)
    planted = session_of(visit).planted
    assert planted is not None
    assert session_of(visit).analysis is before.analysis
    assert planted.analysis.lungs is before.analysis.lungs
    assert planted.analysis.warnings[0].startswith("SYNTHETIC")
    part, image = payload["planted"], opened_image(visit)
    assert (part["x"], part["y"]) == (200.0, 300.0)  # the picture sent has the image's size
    height = np.flatnonzero(before.analysis.lungs.inside.any(axis=1))
    assert part["diameter"] == pytest.approx(0.1 * (height[-1] + 1 - height[0]))
    assert part["image"]["url"] != image["url"]
    for mode, reading in planted.analysis.readings.items():
        sent = [finding["p"] for finding in part["maskings"][str(mode)]["findings"]]
        assert sent == reading.findings.probabilities.tolist()
    # The margin goes with it, a mask by hand takes it out.
    (moved,) = asked(visit, "margin_changed", margin=0.15)
    assert moved["planted"]["maskings"]["loose"]["margin"] == pytest.approx(0.15)
    (gone,) = asked(visit, "plant_removed")
    assert gone["planted"] is None
    assert session_of(visit).planted is None
    asked(visit, "plant", **LESION)
    first, *_ = asked(visit, "mask_painted", strokes=[STROKE])
    assert first["planted"] is None


STROKE = {"add": True, "radius": 9.0, "points": [[100.0, 100.0], [120.0, 130.0]]}


def opened_image(visit: Visit) -> dict[str, Any]:
    (fine,) = payloads(visit.fine({"study": session_of(visit).study}))
    assert fine["study"] == session_of(visit).study
    return fine["fine"]


@pytest.mark.parametrize(
    "change",
    [{"kind": "spider"}, {"x": -1.0}, {"diameter": 5.0}, {"contrast": None}, {"x": "1"}],
)
def test_a_lesion_that_makes_no_sense_is_refused_in_words(
    visit: Visit, change: dict[str, Any]
) -> None:
    opened(visit)
    (last,) = asked(visit, "plant", **{**LESION, **change})
    assert last["failed"] is True
    assert "Incident" not in last["reason"]
    assert session_of(visit).planted is None


def test_nothing_is_planted_where_the_numbers_are_withheld(
    monkeypatch: pytest.MonkeyPatch, visit: Visit
) -> None:
    monkeypatch.setattr("cxrdemo.pipeline.check", lambda *_: (Doubt("dark", "Too dark."),))
    opened(visit)
    (last,) = asked(visit, "plant", **LESION)
    assert "withheld" in last["reason"]


def test_the_picture_in_full_is_given_at_once_even_while_others_wait(pipeline: Pipeline) -> None:
    line = Line()
    visit = Visit(Models.of(pipeline), line)
    opened(visit)
    with line.join("somebody else"):
        assert opened_image(visit)["url"].startswith("data:image/png")
    assert payloads(visit.fine({"study": "another"})) == []


# ---- Whose turn it is ----------------------------------------------------------------------------


def test_clear_forgets_everything(visit: Visit) -> None:
    opened(visit)
    (shown,) = visit.clear()
    assert visit.session is None
    assert shown.payload["clear"] is True


ENDS: list[Callable[[Visit], Iterator[Shown]]] = [
    Visit.stop,
    Visit.clear,
    lambda visit: visit.open_example(EXAMPLES[1]),
]


@pytest.mark.parametrize("end", ENDS)
def test_a_run_ends_between_two_stages_once_it_is_not_the_last(visit: Visit, end) -> None:
    steps = visit.open_example(EXAMPLES[0])
    next(steps), next(steps)
    next(end(visit))
    assert list(steps) == []
    assert visit.session is None


@pytest.mark.parametrize("end", ENDS)
def test_a_run_that_waits_is_called_off_before_it_starts(pipeline: Pipeline, end) -> None:
    """Stop, Clear and another file hold from the moment they are asked for."""
    line = Line()
    other = line.join("somebody else")
    visit = Visit(Models.of(pipeline), line)
    steps = visit.open_example(EXAMPLES[0])
    waiting = [next(steps) for _ in range(3)][-1]
    assert "1 reading before yours" in waiting.status
    next(end(visit))
    assert list(steps) == []
    other.leave()
    assert visit.session is None
    assert not line.is_wanted


def test_a_visitor_for_whom_there_is_no_room_is_told_so_and_waits_no_longer(
    pipeline: Pipeline,
) -> None:
    line = Line(longest=1)
    served, waiting = line.join("one"), line.join("another")
    *_, last = Visit(Models.of(pipeline), line).open_example(EXAMPLES[0])
    assert last.payload["failed"]
    assert "The server is busy" in last.payload["reason"]
    assert "The server is busy" in last.status
    served.leave(), waiting.leave()
    assert not line.is_wanted


def test_a_question_that_waits_is_called_off_by_clear(pipeline: Pipeline) -> None:
    line = Line()
    visit = Visit(Models.of(pipeline), line)
    opened(visit)
    with line.join("somebody else"):
        answer = visit.ask("margin_changed", {"study": session_of(visit).study, "margin": 0.1})
        assert "before yours" in next(answer).status
        list(visit.clear())
        assert list(answer) == []
    assert visit.session is None


def test_questions_asked_at_once_are_all_answered(accepting: None) -> None:
    """Two clicks, the second while the first is computed: both hold."""
    visit = correctable()
    opened(visit)
    study = session_of(visit).study
    first = visit.ask("mask_prompt", {"study": study, **CLICK})
    second = visit.ask("mask_prompt", {"study": study, **BOX})
    next(first)
    threads = [threading.Thread(target=list, args=(answer,)) for answer in (second, first)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(session_of(visit).history) == 2


def test_a_new_file_does_not_wait_for_the_probes_of_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = phantom_pipeline()
    visit, probe = Visit(Models.of(pipeline)), pipeline.probe
    known: list[Probes] = []
    second: list[Iterator[Shown]] = []

    def probe_and_open_another(*args: Any) -> Iterator[Probes]:
        for probes in probe(*args):
            known.append(probes)
            if not second:
                second.append(visit.open_example(EXAMPLES[1]))
                next(second[0])
            yield probes

    monkeypatch.setattr(pipeline, "probe", probe_and_open_another)
    assert not any(payload.get("probes") for payload in opened(visit))
    assert len(known) == 1
    assert payloads(second[0])[-1]["probes"]


def test_another_visitor_is_served_between_two_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = phantom_pipeline()
    line, probe = Line(), pipeline.probe
    first, other = (Visit(Models.of(pipeline), line, key=key) for key in "ab")
    events: list[str] = []
    other_runs = threading.Thread(target=lambda: events.extend(_answered(other)))

    def probe_and_wait(radiograph: Radiograph, *args: Any) -> Iterator[Probes]:
        for probes in probe(radiograph, *args):
            if radiograph.hw == (EXAMPLES[0].side_px,) * 2:
                if not events:
                    other_runs.start()
                    while not line.is_wanted:
                        time.sleep(0.01)
                events.append("probe")
            yield probes

    monkeypatch.setattr(pipeline, "probe", probe_and_wait)
    assert opened(first)[-1]["probes"]
    other_runs.join(60)
    assert events.index("answered") < len(events) - 1, "answered after the last probe"
    assert other.session is not None


def _answered(visit: Visit) -> Iterator[str]:
    for shown in visit.open_example(EXAMPLES[1]):
        if shown.payload and shown.payload.get("maskings"):
            yield "answered"


def test_a_question_about_another_image_is_not_answered(visit: Visit) -> None:
    (before,) = visit.ask("mask_undo", {"study": "none"})
    assert (before.payload["reason"], before.payload["gone"]) == (GONE, True)
    opened(visit)
    (other,) = visit.ask("mask_undo", {"study": "another"})
    assert other.payload["reason"] == UNREAD
    assert "gone" not in other.payload


def test_a_viewer_that_was_cut_off_is_told_whether_its_image_is_still_here(visit: Visit) -> None:
    opened(visit)
    study = session_of(visit).study
    assert list(visit.still_there({"study": study})) == []
    for detail in ({"study": "another"}, {}):
        (answer,) = visit.still_there(detail)
        assert (answer.payload["gone"], answer.payload["failed"]) == (True, True)
        assert answer.status is None, "the image may have been cleared meanwhile"
    visit.end()
    (answer,) = visit.still_there({"study": study})
    assert answer.payload["reason"] == GONE


# ---- What the page says --------------------------------------------------------------------------


def test_text_from_a_file_is_escaped(pipeline: Pipeline) -> None:
    evil = "<script>alert(1)</script>"
    source = Source(evil, 8, steps=(evil,), tags={evil: evil}, warnings=(evil,))
    pixels = np.random.default_rng(0).random((96, 96), np.float32)
    analysis = pipeline.analyse(Radiograph(pixels, source=source))
    html = panels.status(analysis) + panels.how_read(analysis) + panels.note(evil, is_error=True)
    assert "<script" not in html
    # Wherever one of the four texts is told, it is told escaped.
    assert html.count("&lt;script&gt;") == html.count("alert(1)") >= 8


def test_what_was_decided_about_a_file_stays_in_sight(pipeline: Pipeline) -> None:
    decided = "The header says signed, the pixels do not; they were read as they are."
    pixels = np.random.default_rng(0).random((96, 96), np.float32)
    radiograph = Radiograph(pixels, source=Source("DICOM", 12, warnings=(decided,)))
    analysis = pipeline.analyse(radiograph)
    assert decided in panels.status(analysis)
    assert decided in panels.how_read(analysis)
    assert decided in analysis_to_json(analysis)["warnings"]


def test_image_without_lungs_has_no_outline_and_no_masked_finding(accepting: None) -> None:
    payload = opened(Visit(Models.of(fake_pipeline(BlindSegmenter()))))[-1]
    assert payload["lungs"] is None
    assert set(payload["maskings"]) == {"none"}


def test_numbers_without_lungs_are_shown_on_request() -> None:
    """The gate doubts such an image; whoever asks for its numbers gets those there are."""
    visit = Visit(Models.of(fake_pipeline(BlindSegmenter())))
    assert opened(visit)[-1]["withheld"] is True
    *_, last = asked(visit, "accept_anyway")
    assert set(last["maskings"]) == {"none"}
    assert last["withheld"] is False


def test_page_without_checkpoints_shows_no_finding() -> None:
    payload = opened(Visit(Models.of(Pipeline(None, {}))))[-1]
    assert payload["lungs"] is None
    assert payload["maskings"] == {}


def test_measured_figures_reach_the_viewer_with_their_intervals(visit: Visit) -> None:
    opened(visit)
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
    part = findings_part(session_of(visit).analysis, specs)
    for finding in part["maskings"]["none"]["findings"]:
        assert finding["auroc"] == "0.80 (0.70 to 0.90, n=20)"
        assert [point["name"] for point in finding["points"]] == ["balanced", "high sensitivity"]
        assert finding["points"][0]["sensitivity"] == "0.71 (0.55 to 0.84, n=22)"


# ---- Models on their way -------------------------------------------------------------------------


def test_the_first_image_waits_for_the_models_and_is_told_so(pipeline: Pipeline) -> None:
    models = Models(None, {})
    visit = Visit(models)
    steps = visit.open_example(EXAMPLES[0])
    next(steps)
    assert next(steps).payload["stage"] == "Loading the models…"
    assert not models.are_loaded
    models.load(lambda: pipeline)
    assert models.are_loaded
    assert models.lungs is pipeline.segmenter_spec
    assert payloads(steps)[-1]["stage"] is None
    assert opened(visit)[0]["stage"] == "Finding the lungs…"


def test_an_error_of_loading_reaches_whoever_waits() -> None:
    models = Models(None, {})

    def broken() -> Pipeline:
        raise CheckpointError("the file is altered")

    with pytest.raises(CheckpointError, match="altered"):
        models.load(broken)
    assert "altered" in opened(Visit(models))[-1]["reason"]


# ---- Many visitors -------------------------------------------------------------------------------


def test_a_visitor_who_has_gone_leaves_nothing_behind(pipeline: Pipeline, tmp_path: Path) -> None:
    visits = Visits(Models.of(pipeline))
    visits.opened("tab")
    with visits.of("tab") as visit:
        opened(visit)
    image = weakref.ref(session_of(visit).analysis.radiograph)
    visit.batch.add([uploaded(tmp_path, DICOM.read_bytes(), "batch.dcm")])
    folder = visit.batch.folder
    assert any(folder.iterdir())
    visits.closed("tab")
    gc.collect()
    assert image() is None
    assert not folder.exists()
    assert len(visits) == 0


def test_what_runs_for_a_visitor_who_has_gone_ends_and_keeps_nothing(pipeline: Pipeline) -> None:
    visits = Visits(Models.of(pipeline))
    visits.opened("tab")
    with visits.of("tab") as visit:
        steps = visit.open_example(EXAMPLES[0])
        next(steps), next(steps)
        visits.closed("tab")
        assert list(steps) == []
    assert visit.session is None


def test_what_begins_after_its_tab_was_closed_is_answered_and_kept_nowhere(
    pipeline: Pipeline,
) -> None:
    visits = Visits(Models.of(pipeline))
    visits.opened("tab")
    visits.closed("tab")
    with visits.of("tab") as visit:
        assert opened(visit)[-1]["maskings"]
    assert visit.session is None
    assert len(visits) == 0


def test_a_tab_that_connects_anew_before_the_old_connection_ends_stays(pipeline: Pipeline) -> None:
    visits = Visits(Models.of(pipeline))
    visits.opened("tab")
    with visits.of("tab") as visit:
        opened(visit)
    visits.opened("tab")
    visits.closed("tab")
    with visits.of("tab") as again:
        assert again is visit
    assert visit.session is not None
    visits.closed("tab")
    assert len(visits) == 0


def test_visitors_are_bounded_in_number_and_the_longest_idle_goes_first(
    pipeline: Pipeline,
) -> None:
    visits = Visits(Models.of(pipeline), most=2)
    for key in ("first", "second", "third"):
        visits.opened(key)
    with visits.of("first") as first:
        opened(first)
    with visits.of("second") as second:
        opened(second)
    with visits.of("first") as again:
        assert again is first
    with visits.of("third"):
        assert len(visits) == 2
    assert second.session is None
    assert first.session is not None
    with visits.of("second") as anew:
        (answer,) = anew.ask("mask_undo", {"study": "old"})
    assert answer.payload["reason"] == GONE


def test_the_memory_of_all_images_is_bounded(pipeline: Pipeline) -> None:
    visits = Visits(Models.of(pipeline), most_bytes=8_000_000)
    for key in "abcdef":
        visits.opened(key)
        with visits.of(key) as visit:
            opened(visit)
    assert visit.held_bytes > 768 * 768 * 4
    assert len(visits) <= 3


def test_the_end_of_the_server_sends_everybody_away(pipeline: Pipeline) -> None:
    visits = Visits(Models.of(pipeline))
    place = visits.line.join("somebody else")
    visits.opened("tab")
    with visits.of("tab") as visit:
        steps = visit.open_example(EXAMPLES[0])
        told = [next(steps) for _ in range(3)]
        assert "before yours" in told[-1].status
        visits.end_all()
        assert [shown for shown in steps if shown.payload and "maskings" in shown.payload] == []
    place.leave()
    assert len(visits) == 0


@pytest.mark.parametrize("add", [True, False])
def test_a_click_is_obeyed_whatever_the_network_answers(accepting: None, add: bool) -> None:
    visit = Visit(Models.of(fake_pipeline()))
    opened(visit)
    height, width = session_of(visit).analysis.radiograph.hw
    x, y = (0.5 * width, 0.05 * height) if add else (0.3 * width, 0.5 * height)
    asked(visit, "mask_prompt", kind="click", x=x, y=y, add=add)
    assert session_of(visit).found.lungs.inside[int(y), int(x)] == add


def test_strokes_are_painted_exactly_outlive_a_click_and_are_undone_one_by_one(
    accepting: None,
) -> None:
    visit = Visit(Models.of(fake_pipeline()))
    opened(visit)
    start = session_of(visit).found
    height, width = session_of(visit).analysis.radiograph.hw
    line = [[0.45 * width, 0.5 * height], [0.55 * width, 0.5 * height]]
    strokes = [
        {"add": True, "radius": 4, "points": line},
        {"add": False, "radius": 4, "points": [[0.3 * width, 0.5 * height]]},
    ]
    last = asked(visit, "mask_painted", strokes=strokes)[-1]
    assert last["corrections"] == 2
    asked(visit, "mask_prompt", kind="click", x=5, y=5, add=True)
    inside = session_of(visit).found.lungs.inside
    assert inside[height // 2, int(0.46 * width) : int(0.54 * width)].all()
    assert not inside[height // 2, int(0.3 * width)]
    for _ in range(2):
        asked(visit, "mask_undo")
    inside = session_of(visit).found.lungs.inside
    assert inside[height // 2, width // 2]
    assert (
        inside[height // 2, int(0.3 * width)] == start.lungs.inside[height // 2, int(0.3 * width)]
    )
    asked(visit, "mask_undo")
    assert session_of(visit).found is start


@pytest.mark.parametrize(
    "strokes",
    [
        None,
        [],
        [{"add": True, "radius": 4, "points": []}],
        [{"add": True, "radius": "wide", "points": [[1, 2]]}],
        [{"add": True, "radius": 4, "points": [[1, None]]}],
        [{"add": True, "radius": 4, "points": [1, 2]}],
        ["stroke"],
    ],
)
def test_a_stroke_that_makes_no_sense_is_told_in_words(accepting: None, strokes: Any) -> None:
    visit = Visit(Models.of(fake_pipeline()))
    opened(visit)
    before = session_of(visit)
    last = asked(visit, "mask_painted", strokes=strokes)[-1]
    assert last["failed"]
    assert last["reason"].startswith("Expected")
    assert session_of(visit) is before


@pytest.mark.parametrize(
    "stroke",
    [
        {"radius": 1, "points": [[1, 1]] * 20_001},
        {"radius": 1e5, "points": [[1, 1]] * 15_000},
    ],
)
def test_strokes_that_would_keep_others_waiting_are_refused(
    accepting: None, monkeypatch: pytest.MonkeyPatch, stroke: dict[str, Any]
) -> None:
    visit = Visit(Models.of(fake_pipeline()))
    opened(visit)
    monkeypatch.setattr("cxrdemo.pipeline.paint", lambda *_: pytest.fail("it was painted"))
    *_, last = asked(visit, "mask_painted", strokes=[{"add": True, **stroke}])
    assert "shorter strokes" in last["reason"]


def test_a_remedy_reads_the_image_anew_and_is_recorded(accepting: None) -> None:
    visit = Visit(Models.of(fake_pipeline()))
    opened(visit)
    before = session_of(visit).analysis.radiograph
    sent = asked(visit, "read_again", remedy="turn-right+invert")
    after = session_of(visit).analysis.radiograph
    np.testing.assert_allclose(after.pixels, 1 - np.rot90(before.pixels, -1), atol=1e-6)
    assert len(after.source.steps) > len(before.source.steps)
    assert sent[0]["study"] == session_of(visit).study
    assert "image" in sent[0]
    last = asked(visit, "read_again", remedy="sideways")[-1]
    assert last["failed"]
    assert session_of(visit).analysis.radiograph is after


def test_a_doubt_reaches_the_viewer_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    doubt = Doubt("inverted", "Bones are dark.", Remedy(invert=True))
    monkeypatch.setattr("cxrdemo.pipeline.check", lambda *_: (doubt,))
    sent = opened(Visit(Models.of(fake_pipeline())))[-1]
    assert sent["doubts"] == [{"message": "Bones are dark.", "remedy": "invert"}]


def upload_example(visit: Visit, folder: Path) -> None:
    """As a file of the visitor's own, of which nothing says that it was drawn."""
    list(visit.open_upload(uploaded(folder, (BUNDLED_EXAMPLES / EXAMPLES[0].name).read_bytes())))


def test_the_case_is_handed_out_as_one_file_that_names_nobody(
    accepting: None, tmp_path: Path
) -> None:
    visit = Visit(Models.of(fake_pipeline()))
    upload_example(visit, tmp_path)
    files = case_files(visit)
    assert {"analysis.json", "figure.png", "labels.png", "heat.npz"} <= files.keys()
    assert b"SYNTHETIC" not in files["analysis.json"]


def case_files(visit: Visit) -> dict[str, bytes]:
    """What Download hands out, by name."""
    (sent,) = asked(visit, "case_wanted")
    kind, coded = sent["case"].split(",", 1)
    assert kind == "data:application/zip;base64"
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(coded))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_planted_case_is_handed_out_marked_in_every_file(accepting: None, tmp_path: Path) -> None:
    visit = Visit(Models.of(fake_pipeline()))
    upload_example(visit, tmp_path)
    plain = case_files(visit)
    asked(visit, "plant", **LESION)
    marked = case_files(visit)
    assert marked.keys() == {f"SYNTHETIC-{name}" for name in plain}
    assert b"SYNTHETIC: a nodule of 10%" in marked["SYNTHETIC-analysis.json"]
    assert marked["SYNTHETIC-figure.png"] != plain["figure.png"]
    assert marked["SYNTHETIC-mask.png"] == plain["mask.png"]
    asked(visit, "plant_removed")
    assert case_files(visit).keys() == plain.keys()
    opened(visit)
    assert case_files(visit).keys() == marked.keys()
