"""A visitor of the page without a browser: what Gradio's own script sends, over HTTP."""

import base64
import contextlib
import json
import secrets
import socket
import threading
from collections.abc import Iterator
from typing import Any, Self

import gradio as gr
import httpx
from patience import PATIENCE_SECONDS


class Visitor:
    """One tab. Its heartbeat begins with `with`, before anything is asked, and ends there."""

    def __init__(self, url: str, page: gr.Blocks) -> None:
        self.session = secrets.token_hex(5)
        self._url = url.rstrip("/")
        self._http = httpx.Client(base_url=f"{self._url}/gradio_api", timeout=PATIENCE_SECONDS)
        self._functions = {
            (target, event): fn for fn in page.fns.values() for target, event in fn.targets
        }
        self._blocks = page.blocks
        self._is_heard, self._gone = threading.Event(), threading.Event()
        self._alive = threading.Thread(target=self._beat)

    def __enter__(self) -> Self:
        self._alive.start()
        assert self._is_heard.wait(PATIENCE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self._alive.join(PATIENCE_SECONDS)
        self._http.close()

    def _beat(self) -> None:
        url = f"{self._url}/gradio_api/heartbeat/{self.session}"
        with contextlib.suppress(httpx.HTTPError), httpx.stream("GET", url, timeout=None) as beat:
            for _ in beat.iter_raw():
                self._is_heard.set()
                if self._gone.wait(PATIENCE_SECONDS):
                    return

    def upload(self, content: bytes, name: str = "export") -> dict[str, Any]:
        """Sends a file, as a component is given it."""
        answer = self._http.post("/upload", files={"files": (name, content)})
        answer.raise_for_status()
        return {
            "path": answer.json()[0],
            "orig_name": name,
            "meta": {"_type": "gradio.FileData"},
        }

    def data_url(self, content: bytes) -> str:
        """A file as it is sent within a question."""
        return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"

    def fire(
        self, block: Any, event: str, *data: Any, detail: dict[str, Any] | None = None
    ) -> Iterator[list[Any]]:
        """Asks for an event, and gives the outputs as they come; a part that stays is left out."""
        function = self._functions[block._id, event]
        body = {
            "data": list(data),
            "event_data": detail,
            "fn_index": function._id,
            "session_hash": self.session,
            "trigger_id": block._id,
        }
        asked = self._http.post("/queue/join", json=body)
        asked.raise_for_status()
        return self._answers(asked.json()["event_id"])

    def _answers(self, event: str) -> Iterator[list[Any]]:
        params = {"session_hash": self.session}
        sent: list[Any] = []
        shown: list[Any] = []
        with self._http.stream("GET", "/queue/data", params=params) as stream:
            for line in stream.iter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line.removeprefix("data:"))
                if message.get("event_id") not in (None, event):
                    continue
                kind = message["msg"]
                if kind == "process_generating":
                    data = message["output"]["data"]
                    sent = _merged(sent, data) if sent else data
                    shown = _newest(shown, sent)
                    yield shown
                if kind == "process_completed":
                    if not message["success"]:
                        raise AssertionError(message["output"])
                    if not sent:  # not a generator
                        yield message["output"]["data"]
                    return
                if kind == "close_stream":
                    return


def _newest(before: list[Any], sent: list[Any]) -> list[Any]:
    """What the parts show; one that is told to stay does."""
    before = before or [None] * len(sent)
    return [
        old if isinstance(new, dict) and new.get("__type__") == "update" else new
        for old, new in zip(before, sent, strict=True)
    ]


def _merged(before: list[Any], changes: list[Any]) -> list[Any]:
    """Gradio sends what has changed: a list of edits for each output."""
    merged = []
    for value, edits in zip(before, changes, strict=True):
        for action, path, new in edits:
            value = _edited(value, action, path, new)
        merged.append(value)
    return merged


def _edited(value: Any, action: str, path: list[Any], new: Any) -> Any:
    if not path:
        return value + new if action == "append" else new
    first, *rest = path
    value = list(value) if isinstance(value, list) else dict(value)
    if not rest and action == "delete":
        del value[first]
    elif not rest and action == "add" and isinstance(value, list):
        value.insert(first, new)
    else:
        before = value[first] if isinstance(value, list) or first in value else None
        value[first] = _edited(before, action, rest, new)
    return value


def free_port() -> int:
    """Gradio's own search leaves a socket open for every port that is taken."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
