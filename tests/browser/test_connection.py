"""A tab whose connection to the server breaks, and comes back."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from playwright.sync_api import expect
from visitors import free_port

from browser.tabs import (
    DESKTOP,
    DICOM,
    Site,
    Watched,
    choose,
    numbers,
    phantom_png,
    served,
    settle,
    upload,
)

LOST = "Connection lost. Reconnecting…"


class Wire:
    """A TCP connection to a server that can be cut and mended; its address stays."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._held: list[socket.socket] = []
        self._door = self._listen(0)
        self.port = self._door.getsockname()[1]

    def cut(self) -> None:
        """As a server that is killed: every connection ends, and no new one is taken."""
        for held in [self._door, *self._held]:
            with suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
            held.close()
        self._held.clear()

    def mend(self) -> None:
        self._door = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        door = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._serve, args=(door,), daemon=True).start()
        return door

    def _serve(self, door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near = door.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._to))
                self._held += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_WR)


@pytest.fixture
def wire(site: Site) -> Iterator[Wire]:
    wire = Wire(int(site.url.rstrip("/").rpartition(":")[2]))
    yield wire
    wire.cut()


@pytest.fixture
def tab(site: Site, wire: Wire) -> Iterator[Any]:
    """A tab on that wire. It complains of refused connections, as it should."""
    context = site.browser.new_context(**DESKTOP)
    tab = context.new_page()
    tab.goto(f"http://127.0.0.1:{wire.port}")
    expect(tab.locator(".cxv-main")).to_be_visible()
    yield tab
    context.close()


def test_a_tab_outlives_its_server_and_sends_its_image_again(tab: Any, wire: Wire) -> None:
    line, again = tab.locator(".cxv-connection"), tab.get_by_text("Send it again")
    upload(tab, DICOM.read_bytes(), "case.dcm")
    found = numbers(tab).all_text_contents()
    wire.cut()
    # What needs no server goes on.
    tab.keyboard.press("3")
    expect(numbers(tab)).not_to_have_text(found)
    tab.keyboard.press("2")
    tab.locator("[data-slide=margin]").fill("12")
    expect(line).to_contain_text(LOST)
    expect(again).to_be_hidden()
    tab.keyboard.press("1")
    expect(numbers(tab)).to_have_text(found)
    wire.mend()
    expect(line).to_contain_text("no longer has this image")
    expect(numbers(tab)).to_have_text(found)
    expect(tab.locator(".toast-body")).to_have_count(0)
    # A question is not asked, and changes nothing.
    tab.keyboard.press("2")
    tab.locator("[data-slide=margin]").fill("15")
    expect(tab.locator("[data-out=margin]")).to_contain_text("8 %")
    tab.keyboard.press("1")
    again.click()
    expect(line).to_be_hidden()
    expect(tab.locator(".cxv[data-probed]:not([data-busy])")).to_have_count(1)
    expect(numbers(tab)).to_have_text(found)
    expect(tab.locator(".cxv-title").first).to_contain_text("case.dcm")
    tab.keyboard.press("2")
    tab.locator("[data-slide=margin]").fill("15")
    settle(tab)
    expect(tab.locator("[data-out=margin]")).to_contain_text("15 %")


def test_an_idle_tab_notices_a_server_that_stops_and_starts(site: Site) -> None:
    """Nothing is clicked: the tab says so by itself, and is not loaded anew."""
    port = free_port()
    context = site.browser.new_context(**DESKTOP)
    tab = context.new_page()
    line = tab.locator(".cxv-connection")
    with served(site.pipeline, port) as (_, url):
        tab.goto(url)
        upload(tab, phantom_png(1))
        tab.evaluate("window.isSamePage = true")
        found = numbers(tab).all_text_contents()
        expect(line).to_be_hidden()
    expect(line).to_contain_text(LOST)
    with served(site.pipeline, port):
        expect(line).to_contain_text("no longer has this image")
        tab.get_by_text("Clear", exact=True).click()
        expect(line).to_be_hidden()
    expect(line).to_contain_text(LOST)
    with served(site.pipeline, port):
        # Without an image there is nothing to be told.
        expect(line).to_be_hidden()
        upload(tab, phantom_png(1))
        expect(numbers(tab)).to_have_text(found)
        assert tab.evaluate("window.isSamePage")
        context.close()


def test_a_tab_tells_a_break_that_its_server_outlives(tab: Any, wire: Wire) -> None:
    line = tab.locator(".cxv-connection")
    wire.cut()
    expect(line).to_contain_text(LOST)
    wire.mend()
    expect(line).to_be_hidden()
    wire.cut()
    expect(line).to_contain_text(LOST)
    wire.mend()
    expect(line).to_be_hidden()


def test_an_image_whose_reading_breaks_off_says_so(
    tab: Any, wire: Wire, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, analyse = threading.Event(), site.pipeline.analyse

    def wait_and_analyse(*args: Any, **options: Any) -> Any:
        assert go.wait(60)
        return analyse(*args, **options)

    monkeypatch.setattr(site.pipeline, "analyse", wait_and_analyse)
    stop = tab.get_by_text("Stop", exact=True).first
    expect(stop).to_be_hidden()
    choose(tab, phantom_png(1))
    expect(tab.locator(".cxv-none")).to_have_text("Reading the findings…")
    expect(stop).to_be_visible()
    wire.cut()
    expect(tab.locator(".cxv-connection")).to_contain_text(LOST)
    expect(tab.locator(".cxv-none")).to_have_text(
        "The connection was lost before this image was read."
    )
    expect(stop).to_be_hidden()
    go.set()
    wire.mend()
    expect(tab.locator(".cxv-connection")).to_contain_text("no longer has this image")
    tab.get_by_text("Send it again").click()
    expect(tab.locator(".cxv[data-probed]:not([data-busy])")).to_have_count(1)
    expect(stop).to_be_hidden()


HELD_OPEN = """{
  // The word that a stream is over, told only after the next thing was asked.
  const fetchNow = window.fetch.bind(window);
  let joined = 0;
  window.fetch = async (input, init) => {
    const address = String(input instanceof Request ? input.url : input);
    const answer = await fetchNow(input, init);
    if (address.includes("queue/join")) joined++;
    if (!address.includes("queue/data")) return answer;
    const reader = answer.body.getReader();
    const held = new ReadableStream({
      async pull(controller) {
        const { done, value } = await reader.read();
        if (done) return controller.close();
        const text = new TextDecoder("latin1").decode(value);
        const end = window.holdsOpen ? text.search(/data:[^\\n]*close_stream/) : -1;
        if (end < 0) return controller.enqueue(value);
        controller.enqueue(value.slice(0, end));
        const before = joined;
        window.holdsOpen = false;
        while (joined === before) await new Promise((next) => setTimeout(next, 20));
        await new Promise((next) => setTimeout(next, 200));
        controller.enqueue(value.slice(end));
      },
    });
    return new Response(held, { status: answer.status, headers: answer.headers });
  };
}"""


def test_what_is_asked_while_a_stream_ends_is_answered(watched: Watched) -> None:
    tab = watched.open(script=HELD_OPEN)
    tab.evaluate("window.addEventListener('cxr:lost', () => { window.wasLost = true; })")
    for _ in range(2):
        tab.evaluate("window.holdsOpen = true")
        upload(tab, phantom_png(1))
        tab.wait_for_function("!window.holdsOpen")
        tab.get_by_text("Clear", exact=True).click()
        expect(tab.locator(".cxv[data-empty]")).to_have_count(1)
    assert not tab.evaluate("window.wasLost")


ENDS_ODDLY = """{
  // After the last word on what was asked: nothing more, or that of a server being stopped.
  const fetchNow = window.fetch.bind(window), isSaid = /data:[^\\n]*process_completed[^\\n]*\\n\\n/;
  window.fetch = async (input, init) => {
    const answer = await fetchNow(input, init);
    const address = String(input instanceof Request ? input.url : input);
    if (!address.includes("queue/data")) return answer;
    const reader = answer.body.getReader();
    const odd = new ReadableStream({
      async pull(controller) {
        const { done, value } = await reader.read();
        if (done) return controller.close();
        const text = new TextDecoder("latin1").decode(value);
        const said = window.lastWord === undefined ? null : isSaid.exec(text);
        if (!said) return controller.enqueue(value);
        controller.enqueue(value.slice(0, said.index + said[0].length));
        controller.enqueue(new TextEncoder().encode(window.lastWord));
        delete window.lastWord;
        controller.close();
      },
    });
    return new Response(odd, { status: answer.status, headers: answer.headers });
  };
}"""
STOPPED = 'data: {"msg":"unexpected_error","message":"Server stopped.","success":false}\n\n'


@pytest.mark.parametrize("last_word", ["", STOPPED], ids=["broken", "stopped"])
def test_what_is_asked_after_a_stream_that_ended_oddly_is_answered(
    watched: Watched, last_word: str
) -> None:
    tab = watched.open(script=ENDS_ODDLY)
    upload(tab, phantom_png(1))
    tab.evaluate("word => { window.lastWord = word; }", last_word)
    tab.get_by_text("Clear", exact=True).click()
    tab.wait_for_function("window.lastWord === undefined")
    expect(tab.locator(".cxv[data-empty]")).to_have_count(1)
    upload(tab, phantom_png(1))
    expect(tab.locator(".toast-body")).to_have_count(0)


LATE_NAMES = """{
  // What was asked is answered before the page knows the name of its event.
  const fetchNow = window.fetch.bind(window);
  window.fetch = async (input, init) => {
    const answer = await fetchNow(input, init);
    const address = String(input instanceof Request ? input.url : input);
    if (address.includes("queue/join")) await new Promise((next) => setTimeout(next, 1000));
    return answer;
  };
}"""


def test_answers_that_come_all_at_once_are_all_shown(watched: Watched) -> None:
    tab = watched.open(script=LATE_NAMES)
    upload(tab, phantom_png(1))
    # A stream is open for the next question while this one waits to be asked.
    tab.keyboard.press("2")
    tab.locator("[data-slide=margin]").fill("12")
    tab.get_by_text("Clear", exact=True).click()
    expect(tab.locator("p.cxr-status").first).to_contain_text("Drop a frontal")
    expect(tab.locator(".cxv[data-empty]")).to_have_count(1)
    tab.get_by_role("tab", name="Batch").click()
    file = {"name": "a.png", "mimeType": "image/png", "buffer": phantom_png(2)}
    tab.locator(".cxr-list-drop input[type=file]").set_input_files([file])
    expect(tab.locator(".cxb tr[data-state=waiting]")).to_have_count(1)  # sent, and in the list
    tab.get_by_role("button", name="Read all").click()
    expect(tab.locator(".cxb tr[data-state=read]")).to_have_count(1)
    tab.locator(".cxb tbody tr button").first.click()
    expect(tab.locator(".cxv[data-probed]:not([data-busy])")).to_be_visible()
    expect(tab.locator(".cxr-list")).to_contain_text("1 of 1 in the list")
