"""The page as a whole, over HTTP, without a browser."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import gradio as gr
import httpx
import pytest
from fakes import closing_event_loops, findings_spec, phantom_pipeline
from patience import PATIENCE_SECONDS, until
from visitors import Visitor, free_port

from cxrdemo import __version__
from cxrdemo.examples import EXAMPLES
from cxrdemo.files import MAX_BYTES
from cxrdemo.labels import FINDINGS
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import MaskingMode
from cxrdemo.ui import page as page_module
from cxrdemo.ui import panels, viewer
from cxrdemo.ui.api import ENDPOINTS
from cxrdemo.ui.models import Models
from cxrdemo.ui.page import build_ui, launch_options
from cxrdemo.ui.serve import folder_of_its_own
from cxrdemo.ui.visit import QUESTIONS, Visits

DICOM = (Path(page_module.__file__).parent / "examples" / "synthetic-nodule.dcm").read_bytes()


class Site:
    """A page that is served, and its parts by what a visitor calls them."""

    def __init__(self, url: str, page: gr.Blocks, visits: Visits, folder: Path) -> None:
        self.url, self.page, self.visits, self.folder = url, page, visits, folder
        blocks = list(page.blocks.values())
        self.open = next(b for b in blocks if isinstance(b, gr.UploadButton))
        self.files = next(b for b in blocks if isinstance(b, gr.File))
        self.buttons = {b.value: b for b in blocks if isinstance(b, gr.Button)}
        self.viewer = next(b for b in blocks if getattr(b, "html_template", "") == viewer.HTML)

    def visitor(self) -> Visitor:
        return Visitor(self.url, self.page)

    def left_on_disk(self) -> list[str]:
        """Files of visitors, wherever they may lie."""
        return [
            str(path) for path in self.folder.rglob("*") if path.is_file() and path.stat().st_size
        ]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        folder = stack.enter_context(folder_of_its_own())
        stack.enter_context(closing_event_loops())
        page, visits = build_ui(Models.of(phantom_pipeline()))
        options = {"server_port": free_port(), "quiet": True, **launch_options(visits)}
        _, url, _ = page.launch(prevent_thread_lock=True, **options)
        stack.callback(page.close, verbose=False)
        stack.callback(visits.end_all)
        yield Site(url, page, visits, folder)


pytestmark = pytest.mark.filterwarnings(
    # Gradio's queue statistics use what pandas 4 will drop.
    "ignore::pandas.errors.Pandas4Warning"
)


def test_every_event_is_private_and_begins_at_once(site: Site) -> None:
    """Our own line says who is served; a run that waited in Gradio's could not be called off."""
    events = [fn for fn in site.page.fns.values() if fn.concurrency_id == "visitors"]
    assert len(events) >= 1 + len(EXAMPLES) + len(QUESTIONS)
    assert {fn.concurrency_limit for fn in events} == {None}
    named = site.page.get_api_info()["named_endpoints"]
    assert set(named) == {f"/{name}" for name in ENDPOINTS}
    assert site.page.api_open is False


def test_launch_options_are_known_to_launch_and_keep_no_history() -> None:
    options = launch_options(Visits(Models.of(Pipeline(None, {}))))
    assert options["run_history"] is False
    assert options["show_error"] is False
    assert options["enable_monitoring"] is False
    assert options["max_file_size"] == MAX_BYTES
    for path in options["css_paths"]:
        assert "http" not in path.read_text(encoding="utf-8")


def test_the_templates_are_plain_html() -> None:
    """Gradio would fill in what looks like a template expression."""
    from cxrdemo.ui import table

    for html in (viewer.HTML, table.HTML):
        assert not re.search(r"\$\{|\{\{|`", html)


def test_no_script_makes_html_of_a_text() -> None:
    """A file may be named after a program."""
    from cxrdemo.ui import table

    for script in (viewer.SCRIPT, table.SCRIPT):
        assert "textContent" in script
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", script)


def test_page_without_checkpoints_says_what_is_missing() -> None:
    with closing_event_loops():
        page, _ = build_ui(Models.of(Pipeline(None, {})))
        config = str(page.get_config_file())
    for part in ("lung segmenter", *(f"masking &#x27;{mode}&#x27;" for mode in MaskingMode)):
        assert part in config


def test_about_shows_every_figure_and_the_version() -> None:
    html = panels.about(None, {MaskingMode.NONE: findings_spec(MaskingMode.NONE)})
    assert f"cxrdemo {__version__}" in html
    assert "<th scope=col>whole image</th>" in html
    assert html.count("0.800 (0.700 to 0.900, n=20)") == len(FINDINGS)
    assert "No lung segmenter is installed" in html


def test_equal_uploads_of_two_visitors_are_two_files(site: Site) -> None:
    with site.visitor() as one, site.visitor() as other:
        files = [one.upload(DICOM, "same.dcm"), other.upload(DICOM, "same.dcm")]
        assert files[0]["path"] != files[1]["path"]
        for visitor, file in zip((one, other), files, strict=True):
            *_, last = visitor.fire(site.open, "upload", file)
            assert last[0][0]["maskings"]
            assert last[0][0]["probes"]
            assert not Path(file["path"]).exists()


def test_an_upload_is_not_served_once_it_was_taken(site: Site) -> None:
    with site.visitor() as visitor:
        file = visitor.upload(DICOM)
        list(visitor.fire(site.open, "upload", file))
        answer = httpx.get(f"{site.url}gradio_api/file={file['path']}")
        assert answer.status_code in (403, 404)


def test_a_list_is_read_twice_and_equal_files_twice_in_it(site: Site) -> None:
    with site.visitor() as visitor:
        files = [visitor.upload(DICOM, name) for name in ("a.dcm", "a.dcm", "b.dcm")]
        *_, added = visitor.fire(site.files, "upload", files)
        assert added[0] is None
        assert [row["state"] for row in added[1][0]["rows"]] == ["waiting"] * 3
        for _ in range(2):
            *_, ([table], progress) = visitor.fire(site.buttons["Read all"], "click")
            assert [row["state"] for row in table["rows"]] == ["read"] * 3
            assert "3 of 3 files read" in progress


def test_nothing_of_a_visitor_is_left_once_the_tab_is_closed(site: Site) -> None:
    with site.visitor() as visitor:
        list(visitor.fire(site.open, "upload", visitor.upload(DICOM, "doe.dcm")))
        list(visitor.fire(site.files, "upload", [visitor.upload(DICOM, "doe-2.dcm")]))
        list(visitor.fire(site.buttons["Read all"], "click"))
        with site.visits.of(visitor.session) as visit:
            assert visit.session is not None
        assert len(site.left_on_disk()) == 1
    assert until(lambda: site.left_on_disk() == [] and len(site.visits) == 0)
    assert visit.session is None


def test_nothing_is_kept_of_an_answer_that_began_after_its_tab_was_closed(site: Site) -> None:
    with site.visitor() as visitor:
        file = visitor.upload(DICOM)
    assert until(lambda: len(site.visits) == 0)
    late = Visitor(site.url, site.page)  # whose heartbeat never begins
    *_, last = late.fire(site.open, "upload", file)
    assert last[0][0]["maskings"]
    list(late.fire(site.files, "upload", [late.upload(DICOM)]))
    assert until(lambda: site.left_on_disk() == [])
    assert len(site.visits) == 0


@pytest.mark.parametrize("path", ["/tmp/cxrdemo-server-gone/uploads/a/doe.dcm", "/etc/passwd"])
def test_a_file_of_a_server_that_is_gone_is_told_in_words_and_never_logged(
    site: Site, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    upload = {"path": path, "orig_name": "doe.dcm", "meta": {"_type": "gradio.FileData"}}
    with site.visitor() as visitor:
        for block, sent in ((site.open, upload), (site.files, [upload])):
            with pytest.raises(AssertionError, match=r"no longer there. Please choose it again"):
                list(visitor.fire(block, "upload", sent))
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
    assert Path(path).name not in printed


def test_a_visitor_is_served_during_another_ones_batch(site: Site) -> None:
    with site.visitor() as many, site.visitor() as one:
        files = [many.upload(DICOM, f"{n}.dcm") for n in range(6)]
        list(many.fire(site.files, "upload", files))
        reading = many.fire(site.buttons["Read all"], "click")
        next(reading)
        answers = one.fire(site.open, "upload", one.upload(DICOM))
        shown = next(s for s in answers if s[0] and s[0][0].get("maskings"))
        with site.visits.of(many.session) as visit:
            read = visit.batch.payload()["rows"]
        assert shown[0][0]["maskings"]["none"]
        assert sum(row["state"] == "read" for row in read) < 6
        list(answers), list(reading)


def test_a_visitor_learns_nothing_of_anothers_image_by_its_name(site: Site) -> None:
    with site.visitor() as one, site.visitor() as other:
        *_, last = one.fire(site.open, "upload", one.upload(DICOM))
        detail = {"study": last[0][0]["study"], "margin": 0.1}
        *_, answer = other.fire(site.viewer, "margin_changed", detail=detail)
        assert (answer[0][0]["gone"], "maskings" in answer[0][0]) == (True, False)


def test_too_large_and_too_many_uploads_are_refused_and_not_kept(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.page, "max_file_size", 1000)

    def status(*contents: bytes) -> int:
        files = [("files", (f"{n}.png", content)) for n, content in enumerate(contents)]
        answer = httpx.post(f"{site.url}gradio_api/upload", files=files, timeout=PATIENCE_SECONDS)
        return answer.status_code

    assert status(b"x" * 1001) == 413
    assert status(*[b"x"] * 5000) == 400
    assert until(lambda: site.left_on_disk() == [])


def test_who_only_listens_or_leaves_in_the_middle_keeps_nobody_waiting(site: Site) -> None:
    with ExitStack() as listening:
        for _ in range(30):
            listening.enter_context(site.visitor())
        for _ in range(10):
            with site.visitor() as leaving:
                answers = leaving.fire(site.open, "upload", leaving.upload(DICOM))
                next(answers)
                answers.close()
        with site.visitor() as staying:
            *_, last = staying.fire(site.open, "upload", staying.upload(DICOM))
            assert last[0][0]["maskings"]
    assert until(lambda: not site.visits.line.is_wanted)
    assert until(lambda: site.left_on_disk() == [] and len(site.visits) == 0)
