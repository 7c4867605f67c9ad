"""Results on the disk: whole or not at all, never over an input, never over another file's.

A result is written under a name of its own and then renamed. The JSON comes last: where it stands
without an error, everything else stands beside it. Until then a record of the work that was begun
stands in its place. Each record names what stands beside it; what no record names was never ours.
"""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cxrdemo.errors import ExportError

RECORD: Final = ".json"

PRODUCTS: Final[Mapping[str, str]] = {
    "json": RECORD,
    "mask": ".mask.png",
    "labels": ".labels.png",
    "figure": ".figure.png",
    "heat": ".heat.npz",
    "seg": ".seg.dcm",
    "capture": ".capture.dcm",
}
"""What may be written of an input, and how its name ends. No ending is the end of another, so a
name and an ending together belong to one input alone."""

ENDINGS: Final = tuple(PRODUCTS.values())

_BESIDE: Final = frozenset(PRODUCTS) - {"json"}

_SCHEMA_PREFIX: Final = "cxrdemo-analysis/"
_LONGEST_NAME: Final = 255 - max(len(ending) for ending in ENDINGS)
"""In bytes; what file systems allow, less our longest ending."""


class Results:
    """The files that belong to one input."""

    def __init__(self, out: Path, name: str) -> None:
        """Gives them their place.

        Args:
            out: The folder for all results.
            name: The input's, see `places.Place`.
        """
        place = out / name
        self._stem = place.with_name(_short(place.name))

    def path(self, product: str) -> Path:
        """Where one of `PRODUCTS` lies or will lie."""
        return self._stem.with_name(self._stem.name + PRODUCTS[product])

    def record(self) -> dict[str, Any] | None:
        """What an earlier run wrote, or None if nothing readable of ours is there."""
        return _record_at(self.path("json"))

    def written(self) -> frozenset[str]:
        """Names of `PRODUCTS`, the record apart, that earlier runs may have left here."""
        found = self.record()
        if found is None:
            # A crash of the machine may leave nothing of a record but its name.
            return _BESIDE if _is_empty(self.path("json")) else frozenset()
        return named_by(found)

    def check_free(self, *, inputs: Collection[str], place: str, sha256: str, force: bool) -> None:
        """Refuses to write over what is not a former result of the same input.

        Args:
            inputs: Real paths of all that is read in this run.
            place: Hash of where the input lies.
            sha256: Of the input; empty if it could not be read.
            force: Whether another input's results may be replaced.

        Raises:
            ExportError: If something else lies where a result would.
        """
        for product in PRODUCTS:
            if os.path.realpath(self.path(product)) in inputs:
                raise ExportError(
                    f"The result {self.path(product).name} would take the place of an input. "
                    "Name another folder by --out."
                )
        path = self.path("json")
        found = self.record()
        if found is None and os.path.lexists(path) and not _is_empty(path):
            raise ExportError(
                f"A file {path.name} that is no result of ours lies in the folder for the "
                "results. Name another folder by --out."
            )
        for product in sorted(_BESIDE - self.written()):
            if os.path.lexists(self.path(product)):
                raise ExportError(
                    f"A file {self.path(product).name} lies in the folder for the results, and no "
                    "record of ours names it. Move it, or name another folder by --out."
                )
        # Nothing is there, or is of an earlier version, which did not tell whose it is.
        if force or found is None or not found.keys() >= {"input", "run"}:
            return
        if found["run"]["place"] != place and found["input"]["sha256"] != sha256:
            raise ExportError(
                "The results of another file of the same name lie there. Name another folder by "
                "--out, or replace them by --force."
            )

    def write(self, contents: Mapping[str, bytes], *, begun: bytes) -> None:
        """Writes everything, the record last, and removes what an earlier run left over.

        Args:
            contents: By the names of `PRODUCTS`; "json" among them.
            begun: The record that stands until then, for whoever is ended in between.

        Raises:
            ExportError: If the disk refuses. What was there before is then still there.
        """
        record = self.path("json")
        first = _draft(record.with_name(f"{record.name}.begun"))
        drafts: dict[str, Path] = {}
        try:
            self._stem.parent.mkdir(parents=True, exist_ok=True)
            first.write_bytes(begun)
            for product, content in contents.items():
                drafts[product] = _draft(self.path(product))
                drafts[product].write_bytes(content)
            # Nothing is touched before all of it is on the disk.
            first.replace(record)
            for product in PRODUCTS.keys() - contents.keys():
                self.path(product).unlink(missing_ok=True)
            for product in sorted(drafts, key="json".__eq__):
                drafts[product].replace(self.path(product))
        except OSError as error:
            raise ExportError(
                f"The results could not be written: {error.strerror}. Make room or allow writing, "
                "then run the command again."
            ) from error
        finally:
            for draft in (first, *drafts.values()):
                with contextlib.suppress(OSError):
                    draft.unlink(missing_ok=True)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a draft to write to, which takes the path's place once all of it is there.

    Raises:
        ExportError: If the disk refuses.
    """
    draft = _draft(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        draft.replace(path)
    except OSError as error:
        raise ExportError(f"{path} could not be written: {error.strerror}.") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def named_by(record: Mapping[str, Any]) -> frozenset[str]:
    """Names of `PRODUCTS`, the record apart, that lie beside a record as it says."""
    # One of an earlier version does not say.
    return frozenset(record.get("run", {}).get("wrote", _BESIDE))


def is_our_record(path: Path) -> bool:
    """Whether a file is the JSON of an analysis or of an error."""
    return _record_at(path) is not None


def _record_at(path: Path) -> dict[str, Any] | None:
    try:
        if not path.is_file():
            return None
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    is_ours = isinstance(record, dict) and str(record.get("schema")).startswith(_SCHEMA_PREFIX)
    return record if is_ours else None


def _is_empty(path: Path) -> bool:
    """Whether a crash of the machine left nothing but a name."""
    try:
        return path.is_file() and path.stat().st_size == 0
    except OSError:
        return False


def _draft(path: Path) -> Path:
    """A name beside a path that nobody else writes to; hidden, so no folder is read with it."""
    owner = f"{path.name}/{os.getpid()}/{threading.get_ident()}"
    return path.with_name(f".{hash_of(owner)[:24]}.tmp")


def _short(name: str) -> str:
    """A name to which every ending can be added; a longer one ends in its hash instead."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    mark = f"-{hash_of(name)[:16]}"
    # A character cut in two would be no text.
    kept = encoded[: _LONGEST_NAME - len(mark)].decode(errors="ignore")
    return kept + mark


def hash_of(text: str) -> str:
    """The sha256 of a text, such as a path, as 64 hex digits."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()
