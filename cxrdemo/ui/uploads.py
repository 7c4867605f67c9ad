"""Uploads: each is its visitor's alone, is taken off the disk at once, and is never served back."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Any, Final

import gradio as gr
from gradio import processing_utils, route_utils
from gradio.exceptions import InvalidPathError

from cxrdemo.errors import UnreadableImageError

NO_UPLOAD: Final = "The uploaded file is no longer there. Please choose it again."


class _OwnUpload(route_utils.GradioUploadFile):
    """An upload in a folder of its own.

    Gradio names the folder after the content, so that equal uploads of two visitors are one file,
    and whoever is read first takes it from the other.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sha.update(secrets.token_bytes(32))


def keep_files_private() -> None:
    """Gives every upload of this process a folder that nobody can guess, and fetches nothing.

    What Gradio would do with a file here is not to be configured: it names the folder after the
    content, for an agent's files too, fetches what is named by an address, and logs the names of
    files that it refuses.
    """
    route_utils.GradioUploadFile = _OwnUpload  # type: ignore[misc]
    processing_utils.save_base64_to_cache = _save_apart
    processing_utils.async_ssrf_protected_download = _refuse_to_fetch
    processing_utils._check_allowed = _check_allowed


_save_base64: Final = processing_utils.save_base64_to_cache


def _save_apart(base64_encoding: str, cache_dir: str, file_name: str | None = None) -> str:
    return _save_base64(base64_encoding, str(Path(cache_dir) / secrets.token_hex(16)), file_name)


async def _refuse_to_fetch(url: str, cache_dir: str) -> str:
    raise gr.Error(
        "Nothing is fetched from an address: send the file itself.", print_exception=False
    )


_check_allowed_or_log: Final = processing_utils._check_allowed


def _check_allowed(path: str | Path, check_in_upload_folder: bool) -> None:
    """Lets through what this server was sent.

    A tab that outlived its server names files of the last one. Gradio would write their names to
    the log, and answer nothing that a visitor could understand.
    """
    try:
        _check_allowed_or_log(path, check_in_upload_folder)
    # The latter two of a path that no file system takes.
    except (InvalidPathError, OSError, ValueError):
        raise gr.Error(NO_UPLOAD, print_exception=False) from None


def as_paths(upload: gr.UploadButton | gr.File) -> None:
    """Lets a component hand over plain paths.

    Gradio's own way leaves an empty temporary file behind each time.
    """
    upload._process_single_file = _path_of  # type: ignore[method-assign,assignment]


def _path_of(file: gr.FileData) -> str:
    return file.path


def take(path: str) -> bytes:
    """The content of an upload, which is deleted.

    Raises:
        UnreadableImageError: If it is gone.
    """
    file = Path(path)
    # A folder is nobody's upload, and a name that is too long or holds a null byte no file's.
    if not os.path.isfile(file):  # noqa: PTH113 - pathlib raises for such names
        raise UnreadableImageError(NO_UPLOAD)
    try:
        return file.read_bytes()
    except OSError as error:
        raise UnreadableImageError(NO_UPLOAD) from error
    finally:
        discard(file)


def discard(file: Path) -> None:
    """Deletes an upload and its folder."""
    file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        file.parent.rmdir()
