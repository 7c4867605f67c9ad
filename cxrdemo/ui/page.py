"""The page: layout, events, and what a user sees when something goes wrong.

An upload reads all three maskings at once and sends the viewer everything it may be asked to show;
toggles and sliders then work in the browser alone. Only an upload, a margin let go of, a mask
correction and an override come back here.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

import gradio as gr

from cxrdemo.errors import CxrDemoError
from cxrdemo.examples import EXAMPLES, Example
from cxrdemo.files import read_radiograph
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import ALL_MASKINGS, Analysis, MaskingMode
from cxrdemo.ui import batch, panels
from cxrdemo.ui import viewer as viewer_sheets
from cxrdemo.ui.payload import (
    PROBED_MARGINS,
    Payload,
    findings_part,
    image_part,
    lungs_part,
    payload,
    probes_part,
)

if TYPE_CHECKING:
    from cxrdemo.pipeline import Found, Pipeline

TITLE: Final = "Chest X-ray viewer"

BATCH_HINT: Final = (
    "Numbers above their threshold are marked so; a question mark stands where the weights were "
    "not shown to beat chance."
)

_FOLDER: Final = Path(__file__).parent
_ERROR_SECONDS: Final = 15

_QUIET: Final[dict[str, Any]] = {"api_visibility": "private", "show_progress": "hidden"}

_MODEL_EVENT: Final[dict[str, Any]] = {
    **_QUIET,
    "concurrency_id": "model",
    # On every event of the group: Gradio takes the limit of whichever comes first.
    "concurrency_limit": 1,
}

_DARK_FIRST: Final = """
<script>
if (!new URLSearchParams(location.search).has("__theme")) document.body.classList.add("dark");
</script>
"""
"""A reading room is dark. Runs before the page is drawn; `?__theme=light` in the address wins."""

_TOGGLE_LIGHT: Final = "() => { document.body.classList.toggle('dark'); }"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Session:
    """What the page keeps for one visitor between two events.

    Attributes:
        study: Identifies the image, for the viewer.
        analysis: What is shown.
        found: The mask and the embedding to correct it from; None without a segmenter.
        history: Masks before each correction, the automatic one first.
        accepted: Whether the user asked for the numbers in spite of the doubts.
    """

    study: str
    analysis: Analysis
    found: Found | None
    history: tuple[Found, ...] = ()
    accepted: bool = False

    @property
    def withheld(self) -> bool:
        """Whether no number is shown."""
        return bool(self.analysis.doubts) and not self.accepted


@dataclass
class Turn:
    """Which run of a visitor's is the last one asked for; the runs before it end themselves.

    Gradio's own `cancels` frees the queue while the thread still computes, and cannot end a run
    for the sake of another image: an event with `cancels` gets no inputs (6.31).
    """

    number: int = 0


Shown = tuple[Any, Any, Any, Any]
"""The session to keep, the viewer's payload, and the HTML of status and remarks."""


def build_ui(pipeline: Pipeline) -> gr.Blocks:
    """The viewer over a pipeline, with its queue configured; launch it with `launch_options`."""
    specs = {mode: pipeline.classifier_spec(mode) for mode in ALL_MASKINGS}
    page = gr.Blocks(
        title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
    )
    with page:
        gr.HTML(panels.HEADER)
        with gr.Tabs(elem_classes="cxr-tabs"):
            with gr.Tab("Read"):
                gr.HTML(
                    panels.missing_parts(pipeline.segmenter_spec, specs),
                    visible=not pipeline.is_complete,
                )
                _read_tab(page, pipeline)
            with gr.Tab("Batch"):
                _batch_tab(pipeline)
            with gr.Tab("About & limits"):
                gr.HTML(panels.about(pipeline.segmenter_spec, specs), elem_classes="cxr-about")
    page.queue(max_size=16, api_open=False)
    return page


def _read_tab(page: gr.Blocks, pipeline: Pipeline) -> None:
    session, turn = gr.State(None), gr.State(Turn())
    with gr.Row(elem_classes="cxr-open"):
        upload = gr.UploadButton(
            "Open a DICOM, PNG or JPEG",
            variant="primary",
            size="sm",
            scale=0,
            min_width=210,
            elem_classes="cxr-drop",
        )
        examples = [
            (gr.Button(_example_title(example), size="sm", scale=0, min_width=140), example)
            for example in EXAMPLES
        ]
        status = gr.HTML(panels.status(None), elem_classes="cxr-status-box")
        stop = gr.Button("Stop", size="sm", scale=0, min_width=60)
        clear = gr.Button("Clear", size="sm", scale=0, min_width=60)
        theme = gr.Button("Light / dark", size="sm", scale=0, min_width=100)
    viewer = gr.HTML(
        None,
        html_template=viewer_sheets.HTML,
        js_on_load=viewer_sheets.SCRIPT,
        apply_default_css=False,
    )
    with gr.Accordion("Remarks, and how this image was read", open=False, elem_classes="cxr-how"):
        details = gr.HTML("<p>No image yet.</p>")

    shown = [session, viewer, status, details]
    model_event = {**_MODEL_EVENT, "outputs": shown, "trigger_mode": "multiple"}
    begun = {**_QUIET, "queue": False, "trigger_mode": "multiple"}
    events: list[Any] = [
        upload.upload(begin, turn, status, **begun).then(
            _in_turn(partial(open_upload, pipeline)), [turn, upload], **model_event
        )
    ]
    events += [
        button.click(begin, turn, status, **begun).then(
            _in_turn(partial(open_example, pipeline, example)), turn, **model_event
        )
        for button, example in examples
    ]
    asked: list[tuple[Any, Callable[..., Any]]] = [
        (viewer.margin_changed, change_margin),
        (viewer.mask_prompt, correct_mask),
        (viewer.mask_undo, undo_correction),
        (viewer.mask_reset, reset_mask),
        (viewer.accept_anyway, accept_anyway),
    ]
    for listen, answer in asked:
        handle = _with_detail(partial(answer, pipeline))
        events.append(listen(handle, [turn, session], **model_event))
    for event in events:
        # `then` would not run after an error (Gradio 6.31).
        event.failure(failed, None, [viewer, status], **_QUIET)
    stop.click(stopped, turn, [viewer, status], **_QUIET)
    clear.click(forget, turn, shown, **_QUIET)
    theme.click(None, js=_TOGGLE_LIGHT, api_visibility="private")

    def free_session(request: gr.Request) -> None:
        """Drops the session of a closed tab at once; Gradio itself waits an hour."""
        if request.session_hash:
            page.app.state_holder.delete_state(request.session_hash)

    page.unload(free_session)


def _batch_tab(pipeline: Pipeline) -> None:
    with gr.Row():
        files = gr.File(label="DICOM, PNG or JPEG files", file_count="multiple", height=140)
        with gr.Column(scale=0, min_width=260):
            masking = gr.Radio(
                [(mode.capitalize(), mode.value) for mode in ALL_MASKINGS],
                value=MaskingMode.NONE.value,
                label="Masking shown in the table",
            )
            with gr.Row():
                start = gr.Button("Read all", variant="primary", min_width=100)
                stop = gr.Button("Stop", min_width=80)
    progress = gr.HTML(panels.note(BATCH_HINT))
    table = gr.Dataframe(
        headers=list(batch.HEADERS),
        interactive=False,
        wrap=True,
        column_widths=["20%", *["8%"] * (len(batch.HEADERS) - 2), "32%"],
        elem_classes="cxr-table",
    )
    download = gr.DownloadButton("Download CSV (all maskings)", interactive=False)
    running = start.click(
        partial(read_batch, pipeline),
        [files, masking],
        [table, progress, download],
        **_MODEL_EVENT,
    )
    stop.click(lambda: panels.note("Stopped."), None, progress, cancels=[running], **_QUIET)


def launch_options() -> dict[str, Any]:
    """Keyword arguments of `launch` that belong to the page, whoever serves it."""
    return {
        "theme": gr.themes.Base(
            primary_hue="sky",
            neutral_hue="zinc",
            font=("system-ui", "sans-serif"),
            font_mono=("ui-monospace", "monospace"),
        ).set(
            # Gradio's own blue is too pale for white text (WCAG AA asks for 4.5 to 1).
            button_primary_background_fill="#0369a1",
            button_primary_background_fill_dark="#0369a1",
            button_primary_background_fill_hover="#075985",
            button_primary_background_fill_hover_dark="#075985",
        ),
        "css_paths": [_FOLDER / "style.css", viewer_sheets.STYLES],
        "head": _DARK_FIRST,
        "ssr_mode": False,
        # It would write file names into the browser's storage.
        "run_history": False,
        "show_error": False,
        "max_file_size": "64mb",
        "footer_links": [],
    }


def open_upload(pipeline: Pipeline, path: str) -> Iterator[Shown]:
    """Reads an uploaded file, deletes it, and analyses the image stage by stage."""
    with _errors_in_words():
        try:
            radiograph = read_radiograph(Path(path))
        finally:
            Path(path).unlink(missing_ok=True)
        yield from _open(pipeline, radiograph)


def open_example(pipeline: Pipeline, example: Example) -> Iterator[Shown]:
    """Analyses a bundled example, marked as synthetic wherever it is shown."""
    with _errors_in_words():
        radiograph = read_radiograph(_FOLDER / "examples" / example.name)
        source = radiograph.source
        marked = replace(source, warnings=(panels.SYNTHETIC, *source.warnings))
        yield from _open(pipeline, replace(radiograph, source=marked))


def change_margin(pipeline: Pipeline, session: Session, detail: dict[str, Any]) -> Iterator[Shown]:
    """Reads the loose masking again at another margin; the others stay as they are."""
    before = session.analysis
    with _errors_in_words():
        loose = pipeline.analyse(
            before.radiograph,
            lungs=before.lungs,
            maskings=[MaskingMode.LOOSE],
            margin=float(detail["margin"]),
        )
    readings = {**before.readings, **loose.readings}
    analysis = replace(before, readings=readings, warnings=loose.warnings)
    yield _shown(pipeline, replace(session, analysis=analysis))


def correct_mask(pipeline: Pipeline, session: Session, detail: dict[str, Any]) -> Iterator[Shown]:
    """Corrects the mask by a click or a box and reads the findings again."""
    if session.found is None:
        raise gr.Error("There is no lung segmenter, so no mask to correct.", print_exception=False)
    with _errors_in_words():
        if detail["kind"] == "box":
            box = tuple(float(detail[name]) for name in ("x0", "y0", "x1", "y1"))
            found = pipeline.correct(session.found, box=box)  # type: ignore[arg-type]
        else:
            click = (float(detail["x"]), float(detail["y"]))
            found = pipeline.correct(session.found, click=click, add=bool(detail["add"]))
        history = (*session.history, session.found)
        yield from _read_again(pipeline, replace(session, found=found, history=history))


def undo_correction(pipeline: Pipeline, session: Session, _: dict[str, Any]) -> Iterator[Shown]:
    """Takes back the last correction."""
    if not session.history:
        yield gr.skip(), _payload(session), gr.skip(), gr.skip()
        return
    *history, found = session.history
    with _errors_in_words():
        yield from _read_again(pipeline, replace(session, found=found, history=tuple(history)))


def reset_mask(pipeline: Pipeline, session: Session, _: dict[str, Any]) -> Iterator[Shown]:
    """Takes back all corrections."""
    if not session.history:
        yield gr.skip(), _payload(session), gr.skip(), gr.skip()
        return
    with _errors_in_words():
        yield from _read_again(pipeline, replace(session, found=session.history[0], history=()))


def accept_anyway(pipeline: Pipeline, session: Session, _: dict[str, Any]) -> Iterator[Shown]:
    """Shows the numbers of an image that the gate holds back; the doubts stay in sight."""
    yield from _with_probes(pipeline, replace(session, accepted=True))


def begin(turn: Turn) -> str:
    """Ends whatever runs for this visitor, between two stages, and tells that a file is read."""
    turn.number += 1
    return panels.note("Reading the file…")


def forget(turn: Turn) -> Shown:
    """The page as it was before any image."""
    turn.number += 1
    return None, _payload(clear=True), panels.status(None), "<p>No image yet.</p>"


def failed() -> tuple[Payload, str]:
    """Tells the viewer that no answer will come; the reason is in a message of its own."""
    return _payload(failed=True), panels.note("That failed, for the reason told. Nothing changed.")


def stopped(turn: Turn) -> tuple[Payload, str]:
    """Ends what runs, and tells the viewer and the status line."""
    turn.number += 1
    return _payload(failed=True), panels.note("Stopped.")


def read_batch(
    pipeline: Pipeline, paths: list[str] | None, masking: str
) -> Iterator[tuple[Any, Any, Any]]:
    """Reads file after file into a table; a bad file is a row with its reason."""
    if not paths:
        raise gr.Error("Choose some files first.", print_exception=False)
    files = [Path(path) for path in paths]
    for table, count, csv_path in batch.read_files(pipeline, files, MaskingMode(masking)):
        done = gr.skip() if csv_path is None else gr.update(value=str(csv_path), interactive=True)
        yield table, panels.note(f"{count} of {len(files)} files read."), done


def _open(pipeline: Pipeline, radiograph: Radiograph) -> Iterator[Shown]:
    """Image, then lungs, then findings, then probes: each is shown as soon as it is there."""
    study = secrets.token_hex(4)
    bare = Analysis(radiograph, None, {}, (), {}, ())
    parts: Payload = {"study": study, "synthetic": panels.SYNTHETIC in radiograph.source.warnings}
    stage = "Finding the lungs…" if pipeline.is_ready else "Loading the models, once…"
    parts |= image_part(bare) | {"stage": stage}
    yield gr.skip(), _payload(**parts), panels.note(stage), gr.skip()
    found = pipeline.find(radiograph) if pipeline.segmenter_spec else None
    lungs = found.lungs if found else None
    parts |= lungs_part(replace(bare, lungs=lungs)) | {"stage": "Reading the findings…"}
    yield gr.skip(), _payload(**parts), panels.note("Reading the findings…"), gr.skip()
    analysis = pipeline.analyse(radiograph, lungs=lungs)
    session = Session(study, analysis, found)
    for kept, more, *rest in _with_probes(pipeline, session):
        parts = parts | more
        yield kept, parts, *rest


def _read_again(pipeline: Pipeline, session: Session) -> Iterator[Shown]:
    """The same image with another mask."""
    radiograph, found = session.analysis.radiograph, session.found
    lungs = found.lungs if found else None
    loose = session.analysis.readings.get(MaskingMode.LOOSE)
    analysis = pipeline.analyse(radiograph, lungs=lungs, margin=loose.margin if loose else None)
    # A mask made by hand answers the doubts about the automatic one, and only those.
    session = replace(session, analysis=analysis)
    yield from _with_probes(pipeline, session, **lungs_part(analysis))


def _with_probes(pipeline: Pipeline, session: Session, **more: Any) -> Iterator[Shown]:
    """The findings at once, then what they hang on."""
    yield _shown(pipeline, session, probes=None, **more)
    analysis = session.analysis
    if analysis.lungs and analysis.readings and not session.withheld:
        probes = pipeline.probe(analysis.radiograph, analysis.lungs, PROBED_MARGINS)
        yield gr.skip(), _payload(session) | probes_part(probes), gr.skip(), gr.skip()


def _shown(pipeline: Pipeline, session: Session, **more: Any) -> Shown:
    analysis = session.analysis
    sent = _payload(session, **more)
    if session.withheld:
        sent |= {"maskings": None, "peak": 0.0}
    else:
        specs = {mode: pipeline.classifier_spec(mode) for mode in ALL_MASKINGS}
        sent |= findings_part(analysis, specs)
    return session, sent, panels.status(analysis), panels.how_read(analysis)


def _payload(session: Session | None = None, **parts: Unpack[Payload]) -> Payload:
    """A payload, with the state of a session where there is one."""
    if session is None:
        return payload(**parts)
    state: Payload = {
        "study": session.study,
        "stage": None,
        "doubts": [doubt.message for doubt in session.analysis.doubts],
        "withheld": session.withheld,
        "corrections": len(session.history),
    }
    return payload(**(state | parts))


def _in_turn(answer: Callable[..., Iterator[Shown]]) -> Callable[..., Iterator[Shown]]:
    """An event handler that ends as soon as another run has taken its turn, its result unshown."""

    def handle(turn: Turn, *inputs: Any) -> Iterator[Shown]:
        number = turn.number
        for shown in answer(*inputs):
            if turn.number != number:
                # Gradio sends a generator's last output once more when it ends.
                yield gr.skip(), gr.skip(), gr.skip(), gr.skip()
                return
            yield shown

    return handle


def _with_detail(answer: Callable[..., Iterator[Shown]]) -> Callable[..., Iterator[Shown]]:
    """An event handler, in turn, from a function of session and event detail.

    A question about another image than the session's, one whose reading was stopped, is not
    answered: the answer would be about the image before.
    """

    def handle(turn: Turn, session: Session | None, event: gr.EventData) -> Iterator[Shown]:
        detail = event._data or {}
        if session is None or session.study != detail.get("study"):
            yield gr.skip(), _payload(failed=True), gr.skip(), gr.skip()
            return
        with _errors_in_words():
            yield from _in_turn(answer)(turn, session, detail)

    return handle


def _example_title(example: Example) -> str:
    """Such as "Synthetic nodule" for synthetic-nodule.dcm."""
    return Path(example.name).stem.replace("-", " ").capitalize()


@contextlib.contextmanager
def _errors_in_words() -> Iterator[None]:
    """Turns every failure into a message on the page that names no file and shows no traceback."""
    try:
        yield
    except gr.Error:
        raise
    except CxrDemoError as error:
        raise gr.Error(str(error), duration=_ERROR_SECONDS, print_exception=False) from error
    except Exception as error:
        incident = secrets.token_hex(4)
        _log.exception("Incident %s", incident)
        raise gr.Error(
            f"Something went wrong here, not with your image. Incident {incident} in the log.",
            duration=_ERROR_SECONDS,
            print_exception=False,
        ) from error
