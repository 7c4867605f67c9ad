"""`cxrdemo serve`: the viewer in the browser."""

import argparse
import os

from cxrdemo.errors import SettingError
from cxrdemo.hub import checkpoint_folder
from cxrdemo.settings import HIGHEST_PORT, ZEROGPU, Settings, whole_number
from cxrdemo.ui.serve import serve


def run(args: argparse.Namespace) -> int:
    """Serves until interrupted.

    Raises:
        SettingError: If the address cannot be listened on.
        CheckpointError: If a checkpoint is missing, altered or does not fit.
    """
    try:
        serve(
            checkpoints=checkpoint_folder(args.checkpoints),
            medsam=args.medsam,
            device=_device(args.device),
            precision=args.precision,
            engine=args.engine,
            host=args.host,
            port=args.port or _port_of_environment(),
            password=Settings.from_environment().password,
            mcp=args.mcp,
        )
    except OSError as error:
        raise SettingError(
            f"The page cannot be served there: {error} Choose another --port or --host."
        ) from error
    return 0


def _device(asked: str) -> str:
    if asked in ("cpu", ZEROGPU):
        return asked  # known without PyTorch, which takes longer to load than the page
    from cxrdemo.devices import resolve

    return str(resolve(asked))


def _port_of_environment() -> int | None:
    text = os.environ.get("GRADIO_SERVER_PORT", "")
    if not text:
        return None
    return whole_number("GRADIO_SERVER_PORT", text, HIGHEST_PORT)
