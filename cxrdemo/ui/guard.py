"""What stands between the network and Gradio.

Headers on every answer, doors that stay shut, and word of each tab that is opened or closed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        # Gradio's page has scripts of its own in it, and makes functions of a component's script.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        # A Space shows its page inside Hugging Face's.
        "frame-ancestors 'self' https://huggingface.co https://*.huggingface.co https://*.hf.space",
    )
)
"""Nothing is loaded from, or sent to, another host."""

HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_CALL: Final = re.compile(r"/gradio_api/(?:call(?:/v2)?|run|api)/(?P<name>[^/]+)/?$")

_SHUT: Final = re.compile(
    r"(?:^|/)(?:monitoring(?:/|$)|gradio_api/(?:deep_link|process_recording)$)"
)
"""Gradio's statistics, and what writes a visitor's page or camera to the disk."""

_ARGUMENT: Final = re.compile(
    r"No value provided for required argument: \w+"
    r"|Parameter `[^`]+` is not a valid key-word argument"
)
"""What Gradio raises, and answers with 500 and no word, where `call/v2` has a wrong argument."""

_EVENTS: Final = re.compile(r"/gradio_api/(?:queue/join|(?:run|api)/[^/]+/?)$")
"""Doors behind which an event is named by its number."""

_HEARTBEAT: Final = re.compile(r"/gradio_api/heartbeat/(?P<key>[^/]+)$")
"""An answer that lasts as long as the tab is open, and its connection."""


class Tabs(Protocol):
    """Who is to know of tabs."""

    def opened(self, key: str) -> None:
        """A tab's heartbeat begins."""

    def closed(self, key: str) -> None:
        """A tab's heartbeat has ended."""


async def refuse_body(_: Request, error: RequestValidationError) -> JSONResponse:
    """Says where a question is not what its endpoint takes.

    Not what was sent instead, as FastAPI would: no JSON holds each of it, bytes or NaN, and in the
    log nobody should read it.
    """
    places = [".".join(map(str, each["loc"])) + f": {each['msg']}" for each in error.errors()]
    words = f"{'; '.join(places)}. /gradio_api/info describes what is taken."
    return JSONResponse({"detail": words.encode("ascii", "replace").decode()}, 422)


class Guard:
    """Adds `HEADERS` to every answer, answers 404 where nothing is public, and finds words.

    Gradio calls an event private when it is left out of the description of the interface, yet runs
    it for whoever knows its name (gradio issue 13051). And its event `unload` is not called where a
    connection ends while the heartbeat is being sent (6.31).
    """

    def __init__(self, app: ASGIApp, *, public: Collection[str], tabs: Tabs) -> None:
        """Stands before an application.

        Args:
            app: The application.
            public: Names of the endpoints that may be called without the page.
            tabs: Told which tabs are open.
        """
        self._app = app
        self._tabs = tabs
        self._public = frozenset(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        is_answered = False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_answered
            is_answered = True
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        answer: Any = self._app if refusal is None else refusal
        try:
            with self._heard(scope["path"]):
                await answer(scope, receive, send_with_headers)
        except (TypeError, KeyError) as error:
            told = None if is_answered else _in_words(scope["path"], error)
            if told is None:
                raise
            await told(scope, receive, send_with_headers)

    @contextmanager
    def _heard(self, path: str) -> Iterator[None]:
        """Tells of a tab that its heartbeat is open, and that it has ended."""
        beat = _HEARTBEAT.search(path)
        if beat is None:
            yield
            return
        self._tabs.opened(beat["key"])
        try:
            yield
        finally:
            self._tabs.closed(beat["key"])

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        path = scope["path"]
        call = _CALL.search(path)
        if call and scope["method"] == "POST" and call["name"] not in self._public:
            names = ", ".join(f"/{name}" for name in sorted(self._public))
            return JSONResponse(
                {"detail": f"There is no such endpoint. Public are: {names or 'none'}."}, 404
            )
        if _SHUT.search(path):
            return JSONResponse({"detail": "Not here."}, 404)
        return None


def _in_words(path: str, error: TypeError | KeyError) -> JSONResponse | None:
    """The answer to a question that Gradio (6.31) cannot pass on, and to which it has none."""
    argument = _ARGUMENT.match(str(error))
    if argument and "/gradio_api/call/v2/" in path:
        return JSONResponse({"detail": f"{argument[0]}. /gradio_api/info lists them all."}, 422)
    # The number of an event: of a page from before the server was started anew, say.
    if _EVENTS.search(path) and isinstance(error.args[0], int):
        return JSONResponse({"detail": "The page has no such event. Load it anew."}, 404)
    return None
