"""Download of published sets: resumable, and kept only if it is the file that was meant.

`manifests/downloads.json` lists what may be fetched, from where, on which terms, and what is known
of each file. A set behind a login or a click-through is listed without files: it is fetched by
hand.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from training.errors import DataError

TABLE: Final = Path(__file__).resolve().parent / "manifests" / "downloads.json"
CHUNK_BYTES: Final = 2**20
TIMEOUT_S: Final = 60
AGENT: Final = "cxrdemo-training"
"""Some servers refuse Python's own name."""


@dataclass(frozen=True)
class RemoteFile:
    """One file to download.

    Attributes:
        name: Under which it is kept.
        url: From where.
        size: Bytes, or None if unknown.
        sha256: Lower-case hex, or None if nobody publishes it.
        md5: Lower-case hex, for publishers that name only this; None if unknown.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None


@dataclass(frozen=True)
class Download:
    """A set or a file of weights, as `downloads.json` lists it.

    Attributes:
        title: What it is.
        page: Where its owner describes it.
        licence: The notice that has to be accepted.
        by_hand: What the command cannot fetch and how to get it; None if there is no such part.
        hashes: Where the hashes come from, or that there are none.
        files: What the command fetches; empty if all is by hand.
    """

    title: str
    page: str
    licence: str
    by_hand: str | None
    hashes: str
    files: tuple[RemoteFile, ...]

    @property
    def notice(self) -> str:
        """All that a user should read before the download."""
        lines = [self.title, f"Page: {self.page}", f"Licence: {self.licence}"]
        if self.by_hand is not None:
            lines.append(f"By hand: {self.by_hand}")
        return "\n".join([*lines, f"Hashes: {self.hashes}"])


def read_downloads(path: Path = TABLE) -> dict[str, Download]:
    """Everything that the table lists, by name."""
    table: Mapping[str, Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: Download(
            entry["title"],
            entry["page"],
            entry["licence"],
            entry["by_hand"],
            entry["hashes"],
            tuple(
                RemoteFile(file["name"], file["url"], file["bytes"], file["sha256"], file["md5"])
                for file in entry["files"]
            ),
        )
        for name, entry in table.items()
    }


def fetch(download: Download, out: Path) -> list[Path]:
    """Downloads what is not there yet and checks every file, also those that were.

    Raises:
        DataError: If nothing can be fetched, the server refuses, the connection breaks, or a file
            is not the one listed.
    """
    if not download.files:
        raise DataError(f"This set is fetched by hand from {download.page}.")
    out.mkdir(parents=True, exist_ok=True)
    return [fetch_file(file, out) for file in download.files]


def fetch_file(file: RemoteFile, out: Path) -> Path:
    """Downloads one file into `NAME.part` and renames it once it is whole and the right one.

    A `.part` that is there is continued; where the server does not offer that, it begins again.

    Raises:
        DataError: As `fetch`. After a broken connection the part stays, after a wrong hash not.
    """
    target, part = out / file.name, out / f"{file.name}.part"
    if target.exists():
        wrong = what_is_wrong(file, target)
        if wrong:
            raise DataError(f"{target} is there, but {wrong}. Delete it and fetch it again.")
        print(f"{target}: already there")
        return target
    if file.size is None or not part.exists() or part.stat().st_size != file.size:
        _receive(file, part)
    wrong = what_is_wrong(file, part)
    if wrong:
        part.unlink()
        raise DataError(
            f"{file.url} is not the file listed: {wrong}. The download was deleted. Try once more; "
            "if it comes out the same, its publisher has changed it, and it must not be used."
        )
    part.replace(target)
    known = "sha256 as listed" if file.sha256 else "MD5 as listed" if file.md5 else "no hash known"
    print(f"{target}: {target.stat().st_size} bytes, {known}")
    return target


def what_is_wrong(file: RemoteFile, path: Path) -> str | None:
    """How a file on disk differs from what is listed; None if it does not."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"it has {size} bytes, expected {file.size}"
    for name, expected in (("sha256", file.sha256), ("md5", file.md5)):
        if expected is not None:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, name).hexdigest()
            if found != expected:
                return f"its {name} is {found}, expected {expected}"
    return None


def _receive(file: RemoteFile, part: Path) -> None:
    """Fills the part; what was received before an error stays."""
    have = part.stat().st_size if part.exists() else 0
    if file.size is not None and have > file.size:
        part.unlink()
        have = 0
    try:
        with _open(file.url, have) as response:
            if response.status != 206 or not _continues(response, have):
                # The server sends the whole file: what is there would come twice.
                have = 0
            _check_kind(file, response)
            length = response.headers.get("Content-Length")
            total = have + int(length) if length is not None else file.size
            with (
                part.open("ab" if have else "wb") as stream,
                tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=file.name) as bar,
            ):
                while chunk := response.read(CHUNK_BYTES):
                    stream.write(chunk)
                    bar.update(len(chunk))
    except HTTPError as error:
        if error.code == 416 and have:
            _finish_or_drop(file, part, error)
            return
        raise DataError(
            f"{file.url} answers {error.code} {error.reason}. It may have moved: see the set's "
            "page."
        ) from error
    except (URLError, HTTPException, OSError) as error:
        raise DataError(_broken(file, part, str(error))) from error
    # A connection that closes early ends the loop above without an error.
    if total is not None and part.stat().st_size < total:
        raise DataError(_broken(file, part, f"{total} bytes were promised"))


def _open(url: str, have: int) -> HTTPResponse:
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT_S)
    return response


def _continues(response: HTTPResponse, have: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-")


def _check_kind(file: RemoteFile, response: HTTPResponse) -> None:
    if response.headers.get_content_type() == "text/html":
        raise DataError(
            f"{file.url} answers with a web page, not a file. It may want a login: see the set's "
            "page."
        )


def _finish_or_drop(file: RemoteFile, part: Path, error: HTTPError) -> None:
    """Nothing follows what is there: either the part is whole, or it is none of this file's."""
    whole = str(error.headers.get("Content-Range", "")).removeprefix("bytes */")
    if whole != str(part.stat().st_size):
        part.unlink()
        raise DataError(
            f"{part} did not fit the file at {file.url} and was deleted. Fetch it again."
        ) from error


def _broken(file: RemoteFile, part: Path, reason: str) -> str:
    have = part.stat().st_size if part.exists() else 0
    return (
        f"The download of {file.url} broke off ({reason}); {have} bytes are in {part}. Check the "
        "connection and the disk, and give the same command again: it goes on from there."
    )
