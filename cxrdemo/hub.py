"""Checkpoint folders on the Hugging Face Hub: a repository and a revision, downloaded once."""

import re
from pathlib import Path
from typing import Final

import httpx2
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cxrdemo.errors import CheckpointError

HUB_SCHEME: Final = "hf://"
HUB_PATTERNS: Final = ("manifest.json", "*.safetensors", "*.md")
"""What of a Hub repository is uploaded and downloaded; never a pickle."""

HUB_UNREACHABLE: Final = (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx2.TransportError)
"""What the Hub's client raises without a network (it speaks HTTP through httpx2)."""


def checkpoint_folder(location: Path | str) -> Path:
    """The folder of a location: a path as it is, or a Hub repository once it is downloaded.

    Args:
        location: A folder, or "hf://OWNER/NAME@REVISION". The revision, best a commit hash, must
            be named: what runs tomorrow is then what was tried today. A commit that was downloaded
            before needs no network.

    Raises:
        CheckpointError: If the location is malformed, the repository or revision is not there or
            not open to this user, or the Hub cannot be reached.
    """
    # A `Path` has made one slash of the two.
    found = re.match(f"{HUB_SCHEME.rstrip('/')}//?", str(location))
    if found is None:
        return Path(location)
    text = HUB_SCHEME + str(location)[found.end() :]
    repository, _, revision = text.removeprefix(HUB_SCHEME).partition("@")
    if repository.count("/") != 1 or not revision:
        raise CheckpointError(
            f"Expected hf://OWNER/NAME@REVISION with a commit hash or tag, got {text}."
        )
    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(HUB_PATTERNS))
        )
    except GatedRepoError as error:
        raise CheckpointError(
            f"The Hub repository {repository} asks for consent first. Give it on its page, then "
            "log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(
            f"The Hub repository {repository} has no revision {revision}."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"There is no Hub repository {repository}, or it is private and this machine is not "
            "logged in (`hf auth login`)."
        ) from error
    except HUB_UNREACHABLE as error:
        raise CheckpointError(
            f"The Hugging Face Hub cannot be reached and {repository}@{revision} was not "
            "downloaded before. Go online once, or name a local folder."
        ) from error
    except HfHubHTTPError as error:
        raise CheckpointError(
            f"The Hugging Face Hub refused {repository} (HTTP {error.response.status_code})."
        ) from error
