"""The endpoints for programs, as docs/api.md shows them, and the doors that stay shut."""

import asyncio
import base64
import contextlib
import io
import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from fakes import closing_event_loops, phantom_pipeline
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from patience import PATIENCE_SECONDS
from visitors import free_port

from cxrdemo.export import label_mask_png
from cxrdemo.files import read_radiograph
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import MaskingMode
from cxrdemo.ui import page as page_module
from cxrdemo.ui.models import Models
from cxrdemo.ui.page import build_ui, launch_options
from cxrdemo.ui.serve import folder_of_its_own

ROOT = Path(__file__).resolve().parent.parent
DICOM = Path(page_module.__file__).parent / "examples" / "synthetic-nodule.dcm"

pytestmark = [
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
    # The client leaves its streams to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


class Server:
    def __init__(self, url: str, pipeline: Pipeline, folder: Path) -> None:
        self.url, self.pipeline, self.folder = url.rstrip("/"), pipeline, folder
        self.api = f"{self.url}/gradio_api"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(folder_of_its_own())
        stack.enter_context(closing_event_loops())
        pipeline = phantom_pipeline()
        page, visits = build_ui(Models.of(pipeline))
        options = {"server_port": free_port(), "quiet": True, **launch_options(visits)}
        _, url, _ = page.launch(prevent_thread_lock=True, **options)
        stack.callback(page.close, verbose=False)
        stack.callback(visits.end_all)
        yield Server(url, pipeline, folder)


@pytest.fixture(scope="module")
def client(server: Server) -> Client:
    return Client(server.url, verbose=False)


def called(server: Server, name: str, *data: Any) -> tuple[str, str]:
    """The event and the data of an answer to a plain call."""
    asked = httpx.post(
        f"{server.api}/call/{name}", json={"data": list(data)}, timeout=PATIENCE_SECONDS
    )
    asked.raise_for_status()
    with httpx.stream(
        "GET", f"{server.api}/call/{name}/{asked.json()['event_id']}", timeout=PATIENCE_SECONDS
    ) as stream:
        text = "".join(stream.iter_text())
    event, data_line = re.findall(r"event: (complete|error)\ndata: (.*)", text)[-1]
    return event, data_line


def test_the_record_is_that_of_an_analysis(server: Server, client: Client) -> None:
    record = client.predict(handle_file(DICOM), masking="tight", api_name="/analyze")
    analysis = server.pipeline.analyse(
        read_radiograph(DICOM), maskings=[MaskingMode.TIGHT], margin=0.08
    )
    found = analysis.readings[MaskingMode.TIGHT].findings
    assert list(record["maskings"]) == ["tight"]
    told = record["maskings"]["tight"]["findings"]
    assert [f["probability"] for f in told] == found.probabilities.tolist()
    assert record["input"]["name"] == DICOM.name
    assert len(record["input"]["sha256"]) == 64
    everything = client.predict(handle_file(DICOM), api_name="/analyze")
    assert set(everything["maskings"]) == {"none", "loose", "tight"}


def test_the_mask_is_the_label_mask(server: Server, client: Client) -> None:
    answer = client.predict(handle_file(DICOM), api_name="/segment")
    analysis = server.pipeline.analyse(read_radiograph(DICOM), maskings=[MaskingMode.NONE])
    assert base64.b64decode(answer["mask"].partition(",")[2]) == label_mask_png(analysis.lungs)
    assert answer["lungs"]["area_fraction"]["both"] > 0.1


@pytest.mark.parametrize("finding", ["Pneumonia", " pneumonia "])
def test_an_explanation_has_numbers_and_a_picture(client: Client, finding: str) -> None:
    answer = client.predict(handle_file(DICOM), finding, api_name="/explain")
    assert answer["finding"]["label"] == "Pneumonia"
    png = np.frombuffer(base64.b64decode(answer["picture"].partition(",")[2]), np.uint8)
    assert cv2.imdecode(png, cv2.IMREAD_COLOR).shape[:2] == read_radiograph(DICOM).hw
    plain = client.predict(handle_file(DICOM), finding, picture=False, api_name="/explain")
    assert plain["picture"] is None
    assert plain["heat"]


def test_parameters_are_named_typed_and_described(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/analyze", "/segment", "/explain"}
    names = {name: [p["parameter_name"] for p in e["parameters"]] for name, e in endpoints.items()}
    assert names == {
        "/analyze": ["file", "masking", "margin"],
        "/segment": ["file"],
        "/explain": ["file", "finding", "masking", "margin", "picture"],
    }
    assert endpoints["/analyze"]["parameters"][1]["type"]["enum"] == [
        "all", "none", "loose", "tight"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("/analyze", {"masking": "wide"}, "none, loose, tight"),
        ("/analyze", {"margin": 9.0}, "between 0 and 0.5"),
        ("/analyze", {"margin": True}, "between 0 and 0.5"),
        ("/explain", {"finding": "Gout"}, "Mass, Nodule"),
        ("/explain", {"finding": 3}, "Mass, Nodule"),
        ("/explain", {"finding": "Mass", "masking": "all"}, "none, loose, tight"),
        ("/explain", {"finding": "Mass", "picture": "false"}, "true or false"),
        ("/explain", {"finding": "Mass", "picture": None}, "true or false"),
    ],
)
def test_a_wrong_argument_is_told_in_words(
    client: Client, name: str, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(AppError, match=told):
        client.predict(handle_file(DICOM), **arguments, api_name=name)


def test_too_few_arguments_are_told_in_words(server: Server) -> None:
    event, data = called(server, "explain", None)
    assert event == "error"
    assert "5 asked for, 1 sent" in json.loads(data)["error"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"file": {"url": "data:,x"}}, "required argument: finding"),
        ({"file": {"url": "data:,x"}, "finding": "Mass", "colour": "red"}, "`colour` is not"),
    ],
)
def test_a_wrong_argument_by_name_is_told_in_words(
    server: Server, arguments: dict[str, Any], told: str
) -> None:
    answer = httpx.post(f"{server.api}/call/v2/explain", json=arguments)
    assert answer.status_code == 422
    assert told in answer.json()["detail"]
    assert answer.json()["detail"].endswith("/gradio_api/info lists them all.")


@pytest.mark.parametrize("door", ["queue/join", "run/explain"])
def test_an_event_that_the_page_does_not_have_is_told_in_words(server: Server, door: str) -> None:
    body = {"data": [], "fn_index": 9999, "session_hash": "a"}
    answer = httpx.post(f"{server.api}/{door}", json=body)
    assert answer.status_code == 404
    assert "Load it anew" in answer.json()["detail"]


NO_BODIES = [
    pytest.param("text/plain", b"\xff SECRET", id="bytes"),
    pytest.param("application/json", b'{"data": ["SECRET \xff', id="not UTF-8"),
    pytest.param("application/json", b'{"data": ["SECRET"', id="broken"),
    pytest.param("application/json", b'{"data": "SECRET", "fn_index": NaN}', id="NaN"),
    pytest.param("application/json", b'{"\\ud800": "SECRET", "data": 7}', id="half a character"),
]


@pytest.mark.parametrize(("kind", "body"), NO_BODIES)
@pytest.mark.parametrize("door", ["queue/join", "call/explain", "run/explain", "cancel", "reset"])
def test_what_is_no_question_is_refused_in_words_and_never_logged(
    server: Server, capfd: pytest.CaptureFixture[str], door: str, kind: str, body: bytes
) -> None:
    answer = httpx.post(f"{server.api}/{door}", content=body, headers={"content-type": kind})
    assert answer.status_code in (400, 422)
    assert answer.json()["detail"]
    assert "SECRET" not in answer.text
    logged = "".join(capfd.readouterr())
    assert "SECRET" not in logged
    assert "Traceback" not in logged


@pytest.mark.parametrize(
    "file",
    [
        {"path": "/etc/passwd"},
        {"path": "/proc/self/environ"},
        {"path": "../../etc/passwd"},
        {"path": "https://example.org/a.dcm", "url": "https://example.org/a.dcm"},
        {"url": "http://127.0.0.1:1/a.dcm", "path": ""},
        {"path": "file:///etc/passwd"},
        {"url": "data:image/png;base64,###", "path": ""},
        {"url": "data:image/png;base64,\u00e9", "path": ""},
        {"path": "a\0b"},
        {"path": "{uploads}"},
        {"path": "{uploads}/a\0b"},
        {"path": None},
        None,
        7,
        "/etc/passwd",
    ],
)
@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_only_what_was_sent_is_read_and_nothing_is_fetched(
    server: Server,
    file: Any,
    meta: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fetched = []
    monkeypatch.setattr("httpx.AsyncClient.send", lambda *_, **__: fetched.append(1))
    sent = {**file, **meta} if isinstance(file, dict) else file
    if isinstance(file, dict) and isinstance(file.get("path"), str):
        sent["path"] = file["path"].replace("{uploads}", str(server.folder / "uploads"))
    event, data = called(server, "segment", sent)
    assert event == "error"
    assert json.loads(data)["error"], "told in words"
    assert "Incident" not in data
    assert "root:" not in data
    assert "Traceback" not in caplog.text
    assert fetched == []


@pytest.mark.parametrize("path", ["x" * 5000, "{uploads}/" + "x" * 300])
def test_a_name_that_no_file_system_takes_is_told_in_words(server: Server, path: str) -> None:
    sent = {"path": path.replace("{uploads}", str(server.folder / "uploads"))}
    event, data = called(server, "segment", sent)
    assert event == "error"
    assert "Incident" not in json.loads(data)["error"]


def test_a_file_may_be_sent_within_the_question(server: Server) -> None:
    text = base64.b64encode(DICOM.read_bytes()).decode()
    event, data = called(server, "segment", {"url": f"data:application/dicom;base64,{text}"})
    assert event == "complete"
    assert '"area_fraction"' in data


def test_equal_files_asked_about_at_once_are_all_answered(server: Server) -> None:
    def ask(_: int) -> float:
        record = Client(server.url, verbose=False).predict(
            handle_file(DICOM), masking="none", api_name="/analyze"
        )
        return float(record["maskings"]["none"]["findings"][0]["probability"])

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(ask, range(6)))) == 1


def test_nothing_that_was_sent_is_left_on_the_disk(server: Server, client: Client) -> None:
    client.predict(handle_file(DICOM), api_name="/segment")
    left = [p for p in server.folder.rglob("*") if p.is_file() and p.stat().st_size]
    assert left == []


def test_a_private_event_cannot_be_called_from_outside(server: Server) -> None:
    config = httpx.get(f"{server.url}/config").json()
    private = {e["api_name"] for e in config["dependencies"]} - {"analyze", "segment", "explain"}
    assert private
    for name in sorted(map(str, private)):
        for path in ("call", "call/v2", "run", "api"):
            answer = httpx.post(f"{server.api}/{path}/{name}", json={"data": []})
            assert answer.status_code in (404, 405), (path, name)
    # Nor without a session.
    body = {"data": [], "fn_index": 0}
    assert httpx.post(f"{server.api}/queue/join", json=body).status_code == 400


@pytest.mark.parametrize(
    "path", ["monitoring", "monitoring/", "monitoring/summary", "gradio_api/deep_link"]
)
def test_what_nobody_needs_is_not_there(server: Server, path: str) -> None:
    assert httpx.get(f"{server.url}/{path}?session_hash=a").status_code == 404


@pytest.mark.parametrize("path", ["", "config", "gradio_api/call/handle", "none"])
def test_every_answer_has_the_headers(server: Server, path: str) -> None:
    answer = httpx.get(f"{server.url}/{path}")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors" in policy
    assert "huggingface.co" in policy


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("code", [code for code in blocks("python") if "Client" in code])
def test_the_python_of_the_document_runs(
    server: Server, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scan.dcm").write_bytes(DICOM.read_bytes())
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code.replace("http://127.0.0.1:7860", server.url), {})
    assert "Pneumonia" in printed.getvalue() or "bytes of PNG" in printed.getvalue()


def test_the_shell_of_the_document_runs(server: Server, tmp_path: Path) -> None:
    (code,) = blocks("sh")
    (tmp_path / "scan.dcm").write_bytes(DICOM.read_bytes())
    run = subprocess.run(
        ["bash", "-c", code.replace("http://127.0.0.1:7860", server.url)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    assert "event: complete" in run.stdout
    assert '"label": "Pneumonia"' in run.stdout


def test_a_password_is_asked_for_by_page_and_interface() -> None:
    with closing_event_loops(), contextlib.ExitStack() as stack:
        page, visits = build_ui(Models.of(Pipeline(None, {})))
        options = {"server_port": free_port(), "quiet": True}
        options |= launch_options(visits, password="secret")
        _, url, _ = page.launch(prevent_thread_lock=True, **options)
        stack.callback(page.close, verbose=False)
        for path in ("config", "gradio_api/info"):
            assert httpx.get(f"{url}{path}").status_code == 401
        assert httpx.post(f"{url}gradio_api/call/segment", json={"data": [1]}).status_code == 401
        assert httpx.post(f"{url}gradio_api/upload", files={"files": b"x"}).status_code == 401
        for password, status in (("wrong", 400), ("secret", 200)):
            form = {"username": "cxrdemo", "password": password}
            assert httpx.post(f"{url}login", data=form).status_code == status


def test_agents_find_the_same_tools(tmp_path: Path) -> None:
    streams = pytest.importorskip("mcp.client.streamable_http", reason="mcp is not installed")
    from mcp import ClientSession

    data = f"data:application/dicom;base64,{base64.b64encode(DICOM.read_bytes()).decode()}"

    async def ask(url: str) -> tuple[dict[str, Any], Any, Any]:
        address = f"{url}gradio_api/mcp/"
        async with (
            streams.streamable_http_client(address) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            asked = {"file": data, "finding": "Nodule", "picture": False}
            explained = await session.call_tool("explain", asked)
            address = {"file": "https://example.org/a.dcm"}
            return tools, explained, await session.call_tool("analyze", address)

    with folder_of_its_own(), closing_event_loops(), contextlib.ExitStack() as stack:
        page, visits = build_ui(Models.of(phantom_pipeline()))
        options = {"server_port": free_port(), "quiet": True, **launch_options(visits, mcp=True)}
        _, url, _ = page.launch(prevent_thread_lock=True, **options)
        stack.callback(page.close, verbose=False)
        tools, explained, refused = asyncio.run(ask(url))
    assert set(tools) == {"analyze", "segment", "explain"}
    for tool in tools.values():
        assert "Research use only" in tools["analyze"].description
        for parameter in tool.inputSchema["properties"].values():
            assert parameter["description"]
    assert not explained.isError
    assert "'label': 'Nodule'" in explained.content[0].text
    assert refused.isError
    assert "Nothing is fetched" in refused.content[0].text
