"""The page: layout, events, and what a user sees when something goes wrong.

An upload reads all three maskings at once; the masking switch only draws the stored analysis anew.
"""

import contextlib
import logging
import secrets
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import gradio as gr

from cxrdemo.errors import CxrDemoError
from cxrdemo.examples import EXAMPLES, Example
from cxrdemo.masking import DEFAULT_MARGIN
from cxrdemo.pipeline import ALL_MASKINGS, Pipeline
from cxrdemo.radiograph import Radiograph
from cxrdemo.reading import read_radiograph
from cxrdemo.results import Analysis, MaskingMode
from cxrdemo.ui import panels

TITLE: Final = "Chest X-ray viewer"

_FOLDER: Final = Path(__file__).parent
_ERROR_SECONDS: Final = 15
_MARGIN_PERCENT: Final = (2, 20)

_MODEL_EVENT: Final[dict[str, Any]] = {
    "concurrency_id": "model",
    # On every event of the group: Gradio takes the limit of whichever comes first.
    "concurrency_limit": 1,
    "api_visibility": "private",
    "show_progress": "minimal",
}

_DARK_FIRST: Final = """
<script>
if (!new URLSearchParams(location.search).has("__theme")) document.body.classList.add("dark");
</script>
"""
"""A reading room is dark. Runs before the page is drawn; `?__theme=light` in the address wins."""

_TOGGLE_LIGHT: Final = "() => { document.body.classList.toggle('dark'); }"

_log = logging.getLogger(__name__)

Shown = tuple[Analysis, str, str, str]
"""The analysis to keep, then the HTML of result, status and how the image was read."""


def build_ui(pipeline: Pipeline) -> gr.Blocks:
    """The viewer over a pipeline, with its queue configured; launch it with `launch_options`."""
    page = gr.Blocks(
        title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)
    )
    with page:
        gr.HTML(panels.HEADER)
        gr.HTML(
            panels.missing_parts(
                pipeline.segmenter_spec,
                {mode: pipeline.classifier_spec(mode) for mode in ALL_MASKINGS},
            ),
            visible=not pipeline.is_complete,
        )
        analysis = gr.State(None)
        with gr.Row(elem_classes="cxr-main"):
            with gr.Column(scale=0, min_width=260, elem_classes="cxr-controls"):
                upload = gr.File(label="DICOM, PNG or JPEG", height=130, elem_classes="cxr-drop")
                examples = [
                    (gr.Button(_example_title(example), size="sm"), example) for example in EXAMPLES
                ]
                masking = gr.Radio(
                    [(mode.capitalize(), mode.value) for mode in ALL_MASKINGS],
                    value=MaskingMode.NONE.value,
                    label="Masking",
                    elem_classes="cxr-masking",
                )
                margin = gr.Slider(
                    *_MARGIN_PERCENT,
                    value=round(100 * _default_margin(pipeline)),
                    step=1,
                    label="Loose margin, %",
                )
                status = gr.HTML(elem_classes="cxr-status-box", min_height=44)
                with gr.Row():
                    clear = gr.Button("Clear", size="sm", min_width=80)
                    theme = gr.Button("Light / dark", size="sm", min_width=80)
            with gr.Column(min_width=300):
                result = gr.HTML(panels.welcome())
                with gr.Accordion("How this image was read", open=False):
                    details = gr.HTML("<p>No image yet.</p>")

        shown = [analysis, result, status, details]
        settings = [masking, margin]
        # Only the status line tells of progress, so that pictures neither flicker nor vanish.
        model_event = {**_MODEL_EVENT, "outputs": shown, "show_progress_on": status}
        opened = upload.upload(
            partial(analyse_upload, pipeline), [upload, *settings], **model_event
        )
        # The drop zone is ready for the next file at once, whether or not this one could be read;
        # what it held is deleted, and the result of a readable image before it stays.
        # `then` would not run after an error (Gradio 6.31).
        for ended in (opened.success, opened.failure):
            ended(lambda: None, None, upload, api_visibility="private", show_progress="hidden")
        for button, example in examples:
            button.click(partial(analyse_example, pipeline, example), settings, **model_event)
        margin.release(partial(analyse_again, pipeline), [analysis, *settings], **model_event)
        masking.input(
            partial(show_masking, pipeline),
            [analysis, masking],
            result,
            api_visibility="private",
            show_progress="hidden",
            trigger_mode="always_last",
        )
        clear.click(forget, None, shown, api_visibility="private", show_progress="hidden")
        theme.click(None, js=_TOGGLE_LIGHT, api_visibility="private")

        def free_session(request: gr.Request) -> None:
            """Drops the analysis of a closed tab at once; Gradio itself waits an hour."""
            if request.session_hash:
                page.app.state_holder.delete_state(request.session_hash)

        page.unload(free_session)
    page.queue(max_size=16, api_open=False)
    return page


def launch_options() -> dict[str, Any]:
    """Keyword arguments of `launch` that belong to the page, whoever serves it."""
    return {
        "theme": gr.themes.Base(
            primary_hue="sky",
            neutral_hue="zinc",
            font=("system-ui", "sans-serif"),
            font_mono=("ui-monospace", "monospace"),
        ),
        "css_paths": [_FOLDER / "style.css"],
        "head": _DARK_FIRST,
        "ssr_mode": False,
        # It would write file names into the browser's storage.
        "run_history": False,
        "show_error": False,
        "max_file_size": "64mb",
        "footer_links": [],
    }


def analyse_upload(pipeline: Pipeline, path: str, masking: str, margin_percent: float) -> Shown:
    """Reads an uploaded file, deletes it, and analyses the image."""
    with _errors_in_words():
        try:
            radiograph = read_radiograph(Path(path))
        finally:
            Path(path).unlink(missing_ok=True)
        return _analyse(pipeline, radiograph, masking, margin_percent)


def analyse_example(
    pipeline: Pipeline, example: Example, masking: str, margin_percent: float
) -> Shown:
    """Analyses a bundled example, marked as synthetic wherever it is shown."""
    with _errors_in_words():
        radiograph = read_radiograph(_FOLDER / "examples" / example.name)
        source = radiograph.source
        marked = replace(source, warnings=(panels.SYNTHETIC, *source.warnings))
        return _analyse(pipeline, replace(radiograph, source=marked), masking, margin_percent)


def analyse_again(
    pipeline: Pipeline, analysis: Analysis | None, masking: str, margin_percent: float
) -> Any:
    """Analyses the image on the page with another loose margin."""
    if analysis is None:
        return gr.skip()
    with _errors_in_words():
        return _analyse(pipeline, analysis.radiograph, masking, margin_percent)


def show_masking(pipeline: Pipeline, analysis: Analysis | None, masking: str) -> str:
    """Draws the stored analysis for another masking. Runs no network."""
    if analysis is None:
        return panels.welcome()
    with _errors_in_words():
        mode = MaskingMode(masking)
        return panels.result(analysis, mode, pipeline.classifier_spec(mode))


def forget() -> tuple[None, str, str, str]:
    """The page as it was before any image."""
    return None, panels.welcome(), "", "<p>No image yet.</p>"


def _analyse(
    pipeline: Pipeline, radiograph: Radiograph, masking: str, margin_percent: float
) -> Shown:
    analysis = pipeline.analyse(radiograph, margin=margin_percent / 100)
    return (
        analysis,
        show_masking(pipeline, analysis, masking),
        panels.status(analysis),
        panels.how_read(analysis),
    )


def _default_margin(pipeline: Pipeline) -> float:
    spec = pipeline.classifier_spec(MaskingMode.LOOSE)
    return (spec.margin if spec else 0.0) or DEFAULT_MARGIN


def _example_title(example: Example) -> str:
    """Such as "Synthetic nodule (DICOM)" for synthetic-nodule.dcm."""
    path = Path(example.name)
    formats = {".dcm": "DICOM", ".png": "PNG", ".jpg": "JPEG"}
    return f"{path.stem.replace('-', ' ').capitalize()} ({formats[path.suffix]})"


@contextlib.contextmanager
def _errors_in_words() -> Iterator[None]:
    """Turns every failure into a message on the page that names no file and shows no traceback."""
    try:
        yield
    except gr.Error:
        raise
    except CxrDemoError as error:
        raise gr.Error(
            str(error),
            title="This image cannot be shown",
            duration=_ERROR_SECONDS,
            print_exception=False,
        ) from error
    except Exception as error:
        incident = secrets.token_hex(4)
        _log.exception("Incident %s", incident)
        raise gr.Error(
            f"Something went wrong here, not with your image. Incident {incident} in the log.",
            title="Internal error",
            duration=_ERROR_SECONDS,
            print_exception=False,
        ) from error
