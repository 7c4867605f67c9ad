"""`cxrdemo serve`: the viewer in the browser."""

import argparse
import importlib.util
import os
import socket

from cxrdemo.errors import SettingError
from cxrdemo.hub import checkpoint_folder
from cxrdemo.settings import HIGHEST_PORT, ZEROGPU, Settings, whole_number
from cxrdemo.ui.serve import DEFAULT_PORT, default_host, serve


def run(args: argparse.Namespace) -> int:
    """Serves until interrupted.

    Raises:
        SettingError: If the address cannot be listened on, or --mcp lacks its package.
        CheckpointError: If a checkpoint is missing, altered or does not fit.
    """
    checkpoints, device = checkpoint_folder(args.checkpoints), _device(args.device)
    host = args.host or default_host()
    port = args.port or _port_of_environment() or DEFAULT_PORT
    _check_address(host, port)
    if args.mcp and importlib.util.find_spec("mcp") is None:
        raise SettingError("--mcp needs the package: in the clone, give `pip install '.[mcp]'`.")
    serve(
        checkpoints=checkpoints,
        medsam=args.medsam,
        device=device,
        precision=args.precision,
        engine=args.engine,
        host=host,
        port=port,
        password=Settings.from_environment().password,
        mcp=args.mcp,
    )
    return 0


def _check_address(host: str, port: int) -> None:
    """Tells why nothing can listen there; the server would speak of a search for free ports."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the server's own: what a former server's connections still hold is free to take.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such address"
        raise SettingError(
            f"The page cannot be served at {host}, port {port}: {reason}. Choose another --port "
            "or --host."
        ) from error


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
