"""Uploads: each is its visitor's alone, is taken off the disk at once, and is never served back."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import route_utils

from cxrdemo.errors import UnreadableImageError


class _OwnUpload(route_utils.GradioUploadFile):
    """An upload in a folder of its own.

    Gradio names the folder after the content, so that equal uploads of two visitors are one file,
    and whoever is read first takes it from the other.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sha.update(secrets.token_bytes(32))


def keep_uploads_apart() -> None:
    """Gives every upload of this process a folder that nobody can guess."""
    route_utils.GradioUploadFile = _OwnUpload  # type: ignore[misc]


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
    try:
        return file.read_bytes()
    except OSError as error:
        raise UnreadableImageError(
            "The uploaded file is no longer there. Please choose it again."
        ) from error
    finally:
        discard(file)


def discard(file: Path) -> None:
    """Deletes an upload and its folder."""
    file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        file.parent.rmdir()
