import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from training.__main__ import main
from training.commands import data
from training.errors import DataError
from training.sets.fetch import Download, RemoteFile, fetch, fetch_file, read_downloads

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@dataclass
class Host:
    """A server of one file, and how it behaves."""

    url: str = ""
    honours_range: bool = True
    kind: str = "application/zip"
    breaks_after: int | None = None
    requests: list[str | None] = field(default_factory=list)


@pytest.fixture
def host() -> Iterator[Host]:
    state = Host()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.requests.append(asked)
            if self.path != "/set.zip":
                self.send_error(404)
                return
            first = int(asked.removeprefix("bytes=")[:-1]) if asked and state.honours_range else 0
            if first >= len(CONTENT):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
                self.end_headers()
                return
            self.send_response(206 if first else 200)
            if first:
                last = len(CONTENT) - 1
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(CONTENT)}")
            self.send_header("Content-Type", state.kind)
            self.send_header("Content-Length", str(len(CONTENT) - first))
            self.end_headers()
            self.wfile.write(CONTENT[first:][: state.breaks_after])

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/set.zip"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_whole_file_is_fetched_once(host: Host, tmp_path: Path) -> None:
    file = RemoteFile("set.zip", host.url, len(CONTENT), SHA256)
    path = fetch_file(file, tmp_path)
    assert path.read_bytes() == CONTENT
    assert fetch_file(file, tmp_path) == path
    assert host.requests == [None]
    assert [p.name for p in tmp_path.iterdir()] == ["set.zip"]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_an_interrupted_download_goes_on_where_it_stopped(
    host: Host, tmp_path: Path, size: int | None
) -> None:
    file = RemoteFile("set.zip", host.url, size, SHA256)
    host.breaks_after = 300_000
    with pytest.raises(DataError, match=r"broke off.* 300000 bytes are in"):
        fetch_file(file, tmp_path)
    assert not (tmp_path / "set.zip").exists()
    host.breaks_after = None
    assert fetch_file(file, tmp_path).read_bytes() == CONTENT
    assert host.requests == [None, "bytes=300000-"]


def test_a_server_without_ranges_begins_again(host: Host, tmp_path: Path) -> None:
    host.honours_range = False
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:5000])
    path = fetch_file(RemoteFile("set.zip", host.url, None, SHA256), tmp_path)
    assert host.requests == ["bytes=5000-"]
    assert path.read_bytes() == CONTENT


def test_a_part_that_is_whole_is_only_checked(host: Host, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    fetch_file(RemoteFile("set.zip", host.url, len(CONTENT), SHA256), tmp_path)
    assert host.requests == []
    (tmp_path / "set.zip").rename(tmp_path / "again.zip.part")
    fetch_file(RemoteFile("again.zip", host.url, None, SHA256), tmp_path)
    assert host.requests == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_longer_than_the_file_is_not_kept(
    host: Host, tmp_path: Path, size: int | None
) -> None:
    part = tmp_path / "set.zip.part"
    part.write_bytes(CONTENT + b"more")
    file = RemoteFile("set.zip", host.url, size, SHA256)
    if size is None:
        with pytest.raises(DataError, match=r"did not fit .* was deleted"):
            fetch_file(file, tmp_path)
    assert fetch_file(file, tmp_path).read_bytes() == CONTENT
    assert not part.exists()


@pytest.mark.parametrize(
    ("hashes", "message"),
    [
        ({"sha256": "0" * 64}, "its sha256 is"),
        ({"md5": "0" * 32}, "its md5 is"),
        ({"size": 7}, f"it has {len(CONTENT)} bytes, expected 7"),
    ],
)
def test_another_file_than_listed_is_deleted(
    host: Host, tmp_path: Path, hashes: dict[str, str | int], message: str
) -> None:
    file = RemoteFile("set.zip", host.url, **hashes)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"is not the file listed: {message}.*was deleted"):
        fetch_file(file, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_wrong_beginning_is_found_by_the_hash(host: Host, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(b"x" * 5000)
    file = RemoteFile("set.zip", host.url, len(CONTENT), None, MD5)
    with pytest.raises(DataError, match="its md5 is"):
        fetch_file(file, tmp_path)
    assert fetch_file(file, tmp_path).read_bytes() == CONTENT


def test_an_old_file_that_differs_is_neither_taken_nor_overwritten(
    host: Host, tmp_path: Path
) -> None:
    (tmp_path / "set.zip").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"set\.zip is there, but its sha256 is .*Delete it"):
        fetch_file(RemoteFile("set.zip", host.url, None, SHA256), tmp_path)
    assert (tmp_path / "set.zip").read_bytes() == b"mine"


def test_404_a_web_page_and_no_server_are_told(host: Host, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="answers 404"):
        fetch_file(RemoteFile("set.zip", f"{host.url}.moved"), tmp_path)
    host.kind = "text/html; charset=utf-8"
    with pytest.raises(DataError, match="answers with a web page"):
        fetch_file(RemoteFile("set.zip", host.url), tmp_path)
    with pytest.raises(DataError, match="broke off"):
        fetch_file(RemoteFile("set.zip", "http://127.0.0.1:1/set.zip"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_set_by_hand_names_its_page(tmp_path: Path) -> None:
    by_hand = Download("Set", "https://example.org/set", "free", "log in", "none", ())
    with pytest.raises(DataError, match=r"by hand from https://example\.org/set"):
        fetch(by_hand, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_downloaded_before_the_licence_is_accepted(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {
        "title": "A set",
        "page": "https://example.org",
        "licence": "cite us",
        "by_hand": None,
        "hashes": "sha256",
        "files": [
            {
                "name": "set.zip",
                "url": host.url,
                "bytes": len(CONTENT),
                "sha256": SHA256,
                "md5": None,
            }
        ],
    }
    table = tmp_path / "table.json"
    table.write_text(json.dumps({"montgomery": entry}))
    monkeypatch.setattr(data, "read_downloads", lambda: read_downloads(table))
    command = ["data", "fetch", "montgomery", "--out", str(tmp_path / "out")]
    assert main(command) == 3
    captured = capsys.readouterr()
    assert "Licence: cite us" in captured.out
    assert "--accept-licence" in captured.err
    assert host.requests == []
    assert main([*command, "--accept-licence"]) == 0
    assert (tmp_path / "out" / "set.zip").read_bytes() == CONTENT


def test_the_table_says_what_is_known_of_every_file() -> None:
    downloads = read_downloads()
    assert {"nih-images", "montgomery", "shenzhen", "rsua", "jsrt"} <= downloads.keys()
    for download in downloads.values():
        assert download.licence
        assert download.page.startswith("http")
        assert download.files or download.by_hand
        for file in download.files:
            assert Path(file.name).name == file.name
            assert file.url.startswith(("https://", "http://openi.nlm.nih.gov/"))
            assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            assert file.md5 is None or re.fullmatch(r"[0-9a-f]{32}", file.md5)
        unverified = [f for f in download.files if not (f.sha256 or f.md5)]
        assert bool(unverified) == (bool(download.files) and "none is known" in download.hashes)
