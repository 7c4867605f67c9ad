"""Builds the page and the models, and serves them until interrupted."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.errors import SettingError
from cxrdemo.settings import ZEROGPU

if TYPE_CHECKING:
    from cxrdemo.devices import AskedPrecision
    from cxrdemo.engines import Engine
    from cxrdemo.pipeline import Pipeline

DEFAULT_PORT: Final = 7860

PATIENCE_SECONDS: Final = 8.0
"""How long a server that was told to end may go on with what it computes."""

_FOLDER_PREFIX: Final = "cxrdemo-server-"
_LOCK: Final = "in-use"


def serve(
    *,
    checkpoints: Path,
    medsam: Path | None = None,
    device: str = "cpu",
    precision: AskedPrecision = "auto",
    engine: Engine = "torch",
    host: str | None = None,
    port: int | None = None,
    password: str | None = None,
    mcp: bool = False,
) -> None:
    """Serves the viewer: first the page, then its models, for which the first image waits.

    SIGTERM and SIGINT end it: whoever waits is sent away, what is computed is finished or
    abandoned, and nothing of any visitor is left on the disk.

    Args:
        checkpoints: Folder with `manifest.json`; an empty one gives a page that says what is
            missing.
        medsam: Stock MedSAM weights, see `Pipeline.from_checkpoints`.
        device: Where the networks run; `ZEROGPU` on a Space of that hardware.
        precision: What the networks compute in, see `Pipeline.from_checkpoints`.
        engine: What computes, see `Pipeline.from_checkpoints`.
        host: Address to listen on; None takes `default_host`.
        port: None takes `DEFAULT_PORT`.
        password: See `page.launch_options`.
        mcp: See `page.launch_options`.

    Raises:
        CheckpointError: If a checkpoint is missing, altered or does not fit.
        SettingError: If this is no Space with ZeroGPU, and the device says so.
        OSError: If the port is taken.
    """
    # Read by gradio while it is imported, hence before the import below: nothing may leave the
    # machine on which radiographs are read.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

    rents = device == ZEROGPU
    if rents and engine != "torch":
        raise SettingError(f"The engine {engine} computes on the CPU; on {ZEROGPU} leave it out.")

    def make() -> Pipeline:
        kind, where = (_rented_pipeline(), "cpu") if rents else (_pipeline(), device)
        return kind.from_checkpoints(
            checkpoints, medsam=medsam, device=where, precision=precision, engine=engine
        )

    with ending_on_signals(), folder_of_its_own():
        from cxrdemo.ui.models import Models
        from cxrdemo.ui.page import build_ui, launch_options

        models = Models.listed(CheckpointStore.open(checkpoints))
        # What the page says about weights from outside the manifest is known once they are loaded;
        # and a Space that rents its GPU has to say so before it launches.
        if medsam is not None or rents:
            models.load(make)
        page, visits = build_ui(models)
        try:
            page.launch(
                server_name=host or default_host(),
                server_port=port or DEFAULT_PORT,
                prevent_thread_lock=True,
                **launch_options(visits, password=password, mcp=mcp),
            )
            if not models.are_loaded:
                models.load(make)
            page.block_thread()
        finally:
            visits.end_all()
            page.close()


def _pipeline() -> type[Pipeline]:
    # PyTorch takes longer to import than the page to be drawn.
    from cxrdemo.pipeline import Pipeline

    return Pipeline


def _rented_pipeline() -> type[Pipeline]:
    """Of a ZeroGPU Space.

    Raises:
        SettingError: If this is none.
    """
    from cxrdemo.devices import resolve

    try:
        from cxrdemo.ui.zerogpu import RentedPipeline
    except ModuleNotFoundError as error:
        raise SettingError(
            f"The device {ZEROGPU} is a ZeroGPU Space's, which has the package `spaces`; it is not "
            "installed here. `cxrdemo space --hardware zerogpu` assembles such a Space."
        ) from error
    resolve(RentedPipeline.device)
    return RentedPipeline


def default_host() -> str:
    """GRADIO_SERVER_NAME if set; every address on a hosted Space; otherwise this machine alone."""
    everywhere_or_here = "0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1"
    # Set to nothing, it would be every address.
    return os.environ.get("GRADIO_SERVER_NAME") or everywhere_or_here


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Lets SIGTERM and SIGINT end what is inside as an exception would, with its clean-up.

    A network that is computing cannot be interrupted: after `PATIENCE_SECONDS` the process ends
    without it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals, and gets them
        return
    signals = (signal.SIGTERM, signal.SIGINT)

    def end(number: int, _: Any) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        give_up = threading.Timer(PATIENCE_SECONDS, os._exit, [128 + number])
        give_up.daemon = True
        give_up.start()
        raise SystemExit(0)

    before = {each: signal.signal(each, end) for each in signals}
    try:
        yield
    finally:
        if all(signal.getsignal(each) is end for each in signals):
            for each, handler in before.items():
                signal.signal(each, handler)


@contextlib.contextmanager
def folder_of_its_own() -> Iterator[Path]:
    """A folder for everything that this process writes for visitors, gone at the end.

    Uploads, lists of files, whatever a library keeps for a moment: all go there. Folders that a
    killed server has left behind are deleted first.
    """
    for other in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        _delete_if_left_behind(other)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
    before, uploads = tempfile.tempdir, os.environ.get("GRADIO_TEMP_DIR")
    try:
        with (folder / f"{_LOCK}.new").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / f"{_LOCK}.new").rename(folder / _LOCK)  # nobody sees it unlocked
            tempfile.tempdir = str(folder)
            # Apart from the rest: Gradio serves what lies there.
            os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
            yield folder
    finally:
        tempfile.tempdir = before
        if uploads is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = uploads
        shutil.rmtree(folder, ignore_errors=True)


def _delete_if_left_behind(folder: Path) -> None:
    """Deletes a server's folder, unless that server holds its lock or has none yet."""
    with contextlib.suppress(OSError), (folder / _LOCK).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
