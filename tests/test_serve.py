"""Serving: from the command to the last file deleted."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import gradio as gr
import httpx
import pytest
from fakes import LUNGS_SPEC, closing_event_loops
from patience import PATIENCE_SECONDS, until
from visitors import free_port

from cxrdemo import cli
from cxrdemo.errors import CheckpointError
from cxrdemo.ui.serve import default_host, folder_of_its_own, serve

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ({}, "127.0.0.1"),
        ({"GRADIO_SERVER_NAME": ""}, "127.0.0.1"),
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
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, "checkpoints": []}))
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with closing_event_loops():
        serve(checkpoints=tmp_path, host="127.0.0.1", port=7999)
    assert (launched["server_name"], launched["server_port"]) == ("127.0.0.1", 7999)
    assert launched["ssr_mode"] is False
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert handlers == [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]


def test_a_port_of_nothing_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launched: dict[str, object] = {}
    monkeypatch.setenv("GRADIO_SERVER_PORT", "")
    monkeypatch.setattr(gr.Blocks, "launch", lambda _, **options: launched.update(options))
    monkeypatch.setattr(gr.Blocks, "block_thread", lambda _: None)
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, "checkpoints": []}))
    with closing_event_loops():
        assert cli.main(["serve", "--checkpoints", str(tmp_path)]) == 0
    assert launched["server_port"] == 7860


def test_serve_ends_where_the_weights_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gr.Blocks, "launch", lambda *_, **__: None)
    (tmp_path / "manifest.json").write_text(
        json.dumps({"schema": 1, "checkpoints": [LUNGS_SPEC.to_json()]})
    )
    with closing_event_loops(), pytest.raises(CheckpointError):
        serve(checkpoints=tmp_path, host="127.0.0.1", port=7999)


def test_a_servers_folder_takes_all_temporary_files_and_goes_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with folder_of_its_own() as folder:
        assert Path(tempfile.mkdtemp()).parent == folder
        assert Path(os.environ["GRADIO_TEMP_DIR"]).parent == folder
        # A second server beside it leaves it alone.
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with folder_of_its_own():
            assert folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_has_left_behind_is_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / "cxrdemo-server-killed"
    left.mkdir()
    (left / "in-use").touch()
    (left / "doe.dcm").write_bytes(b"x")
    other = tmp_path / "cxrdemo-server-of-somebody-else"  # without a lock file: not ours
    other.mkdir()
    with folder_of_its_own():
        assert not left.exists()
    assert list(tmp_path.iterdir()) == [other]


SERVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import fakes, cxrdemo.pipeline
from cxrdemo.worker import in_worker
slow = {slow}

def watch(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host not in (None, "", "127.0.0.1", "::1", "0.0.0.0", "localhost"):
        with open({asked!r}, "a") as stream:
            print(event, host, file=stream)

sys.addaudithook(watch)

def load(*_, **__):
    pipeline = fakes.phantom_pipeline()
    analyse = pipeline.analyse
    if slow:
        def hang(*a, **k):
            print("computing", flush=True)
            in_worker(lambda: time.sleep(600))  # as a network does
        pipeline.analyse = hang
    return pipeline

cxrdemo.pipeline.Pipeline.from_checkpoints = load
from cxrdemo.ui.serve import serve
import cxrdemo.ui.serve as module
module.PATIENCE_SECONDS = 1.0
serve(checkpoints=Path({checkpoints!r}), host="127.0.0.1", port={port})
"""


@pytest.mark.parametrize(
    ("number", "slow"),
    [(signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGKILL, False)],
    ids=["SIGINT, idle", "SIGTERM, computing", "SIGKILL"],
)
def test_a_signal_ends_the_server_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals, slow: bool
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, "checkpoints": []}))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    port = free_port()
    asked = tmp_path / "other hosts"
    code = SERVER.format(
        tests=str(ROOT / "tests"),
        slow=slow,
        checkpoints=str(tmp_path),
        port=port,
        asked=str(asked),
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(url)
            # An upload that nobody ever asks to be read.
            files = {"files": ("doe.dcm", b"patient")}
            httpx.post(
                f"{url}/gradio_api/upload", files=files, timeout=PATIENCE_SECONDS
            ).raise_for_status()
            assert [p for p in temporary.rglob("*") if p.name == "doe.dcm"]
            if slow:
                open_an_example(url)
                assert server.stdout is not None
                assert any("computing" in line for line in server.stdout)
            server.send_signal(number)
            code = server.wait(PATIENCE_SECONDS)
        finally:
            server.kill()
    if number == signal.SIGKILL:  # which nobody can answer: the next server cleans up
        assert code == -number
        assert list(temporary.iterdir())
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        with folder_of_its_own():
            pass
    else:
        assert code == (128 + number if slow else 0)
    assert [path for path in temporary.rglob("*") if path.is_file()] == []
    assert not asked.exists(), asked.read_text()


def wait_for(url: str) -> None:
    def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/config", timeout=PATIENCE_SECONDS).is_success
        return False

    assert until(answers)


def open_an_example(url: str) -> None:
    """Clicks on the first example, and does not wait for the answer."""
    config = httpx.get(f"{url}/config", timeout=PATIENCE_SECONDS).json()
    (button,) = (
        part["id"]
        for part in config["components"]
        if part["props"].get("value") == "Synthetic normal"
    )
    (function,) = (
        event["id"] for event in config["dependencies"] if [button, "click"] in event["targets"]
    )
    body = {"data": [], "fn_index": function, "session_hash": "tab", "trigger_id": button}
    url = f"{url}/gradio_api/queue/join"
    httpx.post(url, json=body, timeout=PATIENCE_SECONDS).raise_for_status()
