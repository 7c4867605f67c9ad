"""The page: layout, and which event is answered by what. What is answered stands in `visit.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import gradio as gr
from fastapi.exceptions import RequestValidationError
from gradio.block_function import BlockFunction
from starlette.middleware import Middleware

from cxrdemo.examples import EXAMPLES, Example
from cxrdemo.files import MAX_BYTES
from cxrdemo.ui import panels
from cxrdemo.ui import table as table_sheets
from cxrdemo.ui import viewer as viewer_sheets
from cxrdemo.ui.api import ENDPOINTS, add_endpoints
from cxrdemo.ui.batch import Batch
from cxrdemo.ui.guard import Guard, refuse_body
from cxrdemo.ui.line import MAX_WAITING
from cxrdemo.ui.models import Models
from cxrdemo.ui.uploads import as_paths, keep_files_private
from cxrdemo.ui.visit import (
    MAX_VISITS,
    QUESTIONS,
    READ_AGAIN,
    Detail,
    Shown,
    Visit,
    Visits,
)

TITLE: Final = "Chest X-ray viewer"

USER: Final = "cxrdemo"
"""Gradio asks for a user name beside the password; everybody has this one."""

_BATCH_HINT: Final = "Add files, then read them all. They are deleted when you close the tab."

_FOLDER: Final = Path(__file__).parent
_READ: Final = "read"

_SPARE_THREADS: Final = 32
"""For whatever is not waiting in the line: Stop, Clear, files being decoded."""

_EVENT: Final[dict[str, Any]] = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "multiple",
    # Our own line says who is served next. One queue for all, so that events begin in their order.
    "concurrency_id": "visitors",
    "concurrency_limit": None,
}

_DARK_FIRST: Final = """
<script>
if (!new URLSearchParams(location.search).has("__theme")) document.body.classList.add("dark");
</script>
"""
"""A reading room is dark. Runs before the page is drawn; `?__theme=light` in the address wins."""

_CONNECTION: Final = (_FOLDER / "connection.js").read_text(encoding="utf-8")

# Said in the page: what a browser asks for by itself lies at the root of the host, where under a
# sub-path there is somebody else's page, or none.
_ICON: Final = """
<link rel="icon" href="data:image/svg+xml,\
<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>\
<path d='M7 2v4C2 4 1 10 1 14h5q1 0 1-2V7h2v5q0 2 1 2h5c0-4-1-10-6-8V2z' fill='%230ea5e9'/></svg>">
"""

_TOGGLE_LIGHT: Final = "() => { document.body.classList.toggle('dark'); }"


class _Page(gr.Blocks):
    """Gradio's page, with words for a caller who sends too little; Gradio (6.31) has none."""

    def validate_inputs(self, block_fn: BlockFunction, inputs: list[Any]) -> None:
        """Refuses a call with fewer arguments than its endpoint takes.

        Raises:
            gr.Error: If there are too few.
        """
        if len(inputs) < len(block_fn.inputs):
            raise gr.Error(
                f"Arguments: {len(block_fn.inputs)} asked for, {len(inputs)} sent. "
                "/gradio_api/info lists them; by /gradio_api/call/v2/ the optional ones may be "
                "left out.",
                print_exception=False,
            )


def build_ui(models: Models) -> tuple[gr.Blocks, Visits]:
    """The viewer over some models, with its queue configured; launch it with `launch_options`.

    Returns:
        The page, and the visitors that are there, for whoever serves it to end them.
    """
    keep_files_private()
    visits = Visits(models)
    page = _Page(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(60, 1800))
    with page:
        gr.HTML(panels.HEADER)
        with gr.Tabs(elem_classes="cxr-tabs") as tabs:
            with gr.Tab("Read", id=_READ):
                missing = panels.missing_parts(models.lungs, models.findings)
                gr.HTML(missing, visible=bool(missing))
                read = _read_tab(visits)
            with gr.Tab("Batch"):
                _batch_tab(visits, tabs, read)
            with gr.Tab("About & limits"):
                gr.HTML(panels.about(models.lungs, models.findings), elem_classes="cxr-about")

        # `Guard` tells of closed tabs; but a tab has a heartbeat only where something is unloaded.
        page.unload(lambda: None)
        add_endpoints(models, visits.line)
    page.queue(max_size=4 * MAX_WAITING, api_open=False)
    return page, visits


@dataclass(frozen=True)
class _ReadTab:
    """What other tabs change on the Read tab: the viewer, and the way through the list."""

    shown: list[gr.HTML]
    list: gr.Row
    previous: gr.Button
    place: gr.HTML
    next: gr.Button


def _read_tab(visits: Visits) -> _ReadTab:
    with gr.Row(elem_classes="cxr-open"):
        with gr.Row(elem_classes="cxr-choices"):
            upload = gr.UploadButton(
                "Open a DICOM, PNG or JPEG",
                variant="primary",
                size="sm",
                scale=0,
                min_width=210,
                elem_classes="cxr-drop",
            )
            small: dict[str, Any] = {"size": "sm", "scale": 0}
            drawn: dict[str, Any] = {**small, "min_width": 140, "elem_classes": "cxr-example"}
            examples = [(gr.Button(_example_title(each), **drawn), each) for each in EXAMPLES]
            stop = gr.Button("Stop", min_width=60, elem_classes=["cxr-end", "cxr-stop"], **small)
            clear = gr.Button("Clear", min_width=60, elem_classes=["cxr-end", "cxr-clear"], **small)
            theme = gr.Button("Light / dark", min_width=100, elem_classes="cxr-end", **small)
        status = gr.HTML(panels.status(None), elem_classes="cxr-status-box")
    with gr.Row(visible=False, elem_classes="cxr-list") as way:
        previous = gr.Button("Previous", min_width=100, elem_classes="cxr-previous", **small)
        place = gr.HTML("", elem_classes="cxr-place")
        following = gr.Button("Next", min_width=100, elem_classes="cxr-next", **small)
    viewer = _own_html(viewer_sheets.HTML, viewer_sheets.SCRIPT, elem_id="cxr-viewer")
    with gr.Accordion("Remarks, and how this image was read", open=False, elem_classes="cxr-how"):
        details = gr.HTML("<p>No image yet.</p>")

    as_paths(upload)
    shown = [viewer, status, details]
    event = {**_EVENT, "outputs": shown}
    upload.upload(_of(visits, Visit.open_upload), upload, **event)
    for button, example in examples:
        button.click(_of(visits, partial(_open_example, example)), **event)
    viewer.fine_wanted(_asked(visits, Visit.fine), **event)
    viewer.still_there(_asked(visits, Visit.still_there), **event)
    for name in (*QUESTIONS, READ_AGAIN):
        getattr(viewer, name)(_asked(visits, partial(_ask, name)), **event)
    stop.click(_of(visits, Visit.stop), **event)
    clear.click(_of(visits, Visit.clear), **event)
    theme.click(None, js=_TOGGLE_LIGHT, api_visibility="private")
    return _ReadTab(shown, way, previous, place, following)


def _batch_tab(visits: Visits, tabs: gr.Tabs, read: _ReadTab) -> None:
    with gr.Row():
        files = gr.File(
            label="DICOM, PNG or JPEG files",
            file_count="multiple",
            height=140,
            elem_classes="cxr-list-drop",
        )
        with gr.Column(scale=0, min_width=260), gr.Row():
            start = gr.Button("Read all", variant="primary", min_width=100)
            stop = gr.Button("Stop", min_width=80)
            clear = gr.Button("Clear the list", min_width=120)
    progress = gr.HTML(panels.note(_BATCH_HINT))
    table = _own_html(table_sheets.HTML, table_sheets.SCRIPT)

    as_paths(files)
    event = {**_EVENT, "outputs": [table, progress]}

    def add(request: gr.Request, paths: list[str] | None) -> Any:
        with _visit(visits, request) as visit:
            left_out = visit.batch.add(paths or [])
            words = f"{len(visit.batch)} files in the list. {left_out}".strip()
            told = _told(visit.batch.payload())
        return None, told, panels.note(words, is_error=bool(left_out))

    # The drop zone is emptied, ready for more: what was dropped stands in the table.
    files.upload(add, files, [files, table, progress], **_EVENT)

    def read_all(request: gr.Request) -> Iterator[Any]:
        with _visit(visits, request) as visit:
            for words, is_error in visit.read_batch():
                yield _told(visit.batch.payload()), panels.note(words, is_error=is_error)
        yield gr.skip(), gr.skip()

    start.click(read_all, **event)

    def of_batch(change: Callable[[Batch], str]) -> Callable[..., Any]:
        def handle(request: gr.Request) -> Any:
            with _visit(visits, request) as visit:
                words = change(visit.batch)
                return _told(visit.batch.payload()), panels.note(words)

        return handle

    stop.click(of_batch(Batch.stop), **event)
    clear.click(of_batch(Batch.clear), **event)

    def accept(request: gr.Request, detail: gr.EventData) -> Any:
        with _visit(visits, request) as visit:
            visit.batch.accept(str((detail._data or {}).get("id")))
            return _told(visit.batch.payload()), gr.skip()

    table.row_accepted(accept, **event)

    def csv(request: gr.Request) -> Any:
        with _visit(visits, request) as visit:
            return _told(visit.batch.payload(with_csv=True)), gr.skip()

    table.csv_wanted(csv, **event)

    def open_row(request: gr.Request, detail: gr.EventData) -> Any:
        asked = detail._data or {}
        with _visit(visits, request) as visit:
            visit.batch.open(str(asked.get("id")), asked.get("order"))
            return gr.Tabs(selected=_READ), *_list_place(visit.batch)

    def step(by: int) -> Callable[..., Any]:
        def handle(request: gr.Request) -> Any:
            with _visit(visits, request) as visit:
                visit.batch.step(by)
                return _list_place(visit.batch)

        return handle

    way = [read.list, read.previous, read.place, read.next]
    for asked in (
        table.row_opened(open_row, **_EVENT, outputs=[tabs, *way]),
        read.previous.click(step(-1), **_EVENT, outputs=way),
        read.next.click(step(+1), **_EVENT, outputs=way),
    ):
        asked.then(_of(visits, Visit.open_listed), **_EVENT, outputs=read.shown)


def _list_place(batch: Batch) -> tuple[Any, ...]:
    """The row of buttons on the Read tab that go through the list."""
    at, of = batch.place
    return (
        gr.update(visible=True),
        gr.update(interactive=at > 1),
        f'<p class="cxr-status">{at} of {of} in the list</p>',
        gr.update(interactive=at < of),
    )


def _own_html(markup: str, script: str, elem_id: str | None = None) -> gr.HTML:
    """A component of our own."""
    return gr.HTML(
        None,
        html_template=markup,
        js_on_load=script,
        apply_default_css=False,
        elem_id=elem_id,
    )


def launch_options(
    visits: Visits, *, password: str | None = None, mcp: bool = False
) -> dict[str, Any]:
    """Keyword arguments of `launch` that belong to the page, whoever serves it.

    Args:
        visits: The page's visitors, told which tabs are open.
        password: Asked for before anything is shown, with the user name `USER`; None lets all in.
        mcp: Whether the endpoints are tools for agents too; needs the extra `mcp`.
    """
    return {
        "auth": None if password is None else (USER, password),
        "auth_message": f"The user name is {USER}.",
        "mcp_server": mcp,
        "app_kwargs": {
            "middleware": [Middleware(Guard, public=ENDPOINTS, tabs=visits)],
            "exception_handlers": {RequestValidationError: refuse_body},
        },
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
        "css_paths": [_FOLDER / "style.css", viewer_sheets.STYLES, table_sheets.STYLES],
        "head": f"{_ICON}{_DARK_FIRST}<script>{_CONNECTION}</script>",
        "ssr_mode": False,
        # It would write file names into the browser's storage.
        "run_history": False,
        "enable_monitoring": False,
        "show_error": False,
        "max_file_size": MAX_BYTES,
        # Whoever waits in the line holds a thread.
        "max_threads": MAX_WAITING + _SPARE_THREADS,
        # Gradio's own record of a session; the visitors are bounded in `visit.py`.
        "state_session_capacity": 4 * MAX_VISITS,
        "footer_links": [],
    }


def _visit(visits: Visits, request: gr.Request) -> AbstractContextManager[Visit]:
    return visits.of(str(request.session_hash))


def _of(visits: Visits, answer: Callable[..., Iterable[Shown]]) -> Callable[..., Iterator[Any]]:
    """An event handler from what a visit answers."""

    def handle(request: gr.Request, *inputs: Any) -> Iterator[Any]:
        with _visit(visits, request) as visit:
            yield from _outputs(answer(visit, *inputs))

    return handle


def _asked(
    visits: Visits, answer: Callable[[Visit, Detail], Iterable[Shown]]
) -> Callable[..., Iterator[Any]]:
    """An event handler for a question of the viewer's."""

    def handle(request: gr.Request, event: gr.EventData) -> Iterator[Any]:
        with _visit(visits, request) as visit:
            yield from _outputs(answer(visit, event._data or {}))

    return handle


def _ask(question: str, visit: Visit, detail: Detail) -> Iterator[Shown]:
    return visit.ask(question, detail)


def _outputs(answer: Iterable[Shown]) -> Iterator[Any]:
    """What Gradio is to put into viewer, status and details."""
    for shown in answer:
        payload = None if shown.payload is None else _told(shown.payload)
        parts = (payload, shown.status, shown.details)
        yield tuple(gr.skip() if part is None else part for part in parts)
    # Gradio sends a generator's last output once more when it ends.
    yield gr.skip(), gr.skip(), gr.skip()


def _told(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A payload as the value of a component of our own.

    In a list: Gradio (6.31) turns each answer of an event into the next one in place. Where two
    come at once, a dict that `gr.skip()` follows, itself a dict, would be gone before it is shown.
    """
    return [payload]


def _open_example(example: Example, visit: Visit) -> Iterator[Shown]:
    return visit.open_example(example)


def _example_title(example: Example) -> str:
    """Such as "Synthetic nodule" for synthetic-nodule.dcm."""
    return Path(example.name).stem.replace("-", " ").capitalize()
