"""Builds the pipeline and the page, and serves them until interrupted."""

import os
from pathlib import Path

from cxrdemo.pipeline import Pipeline

DEFAULT_PORT = 7860


def serve(
    *,
    checkpoints: Path,
    medsam: Path | None = None,
    device: str = "cpu",
    host: str | None = None,
    port: int | None = None,
) -> None:
    """Serves the viewer.

    Args:
        checkpoints: Folder with `manifest.json`; an empty one gives a page that says what is
            missing.
        medsam: Stock MedSAM weights, see `Pipeline.from_checkpoints`.
        device: Where the networks run.
        host: Address to listen on; None takes `default_host`.
        port: None takes GRADIO_SERVER_PORT from the environment, or 7860.

    Raises:
        CheckpointError: If a checkpoint is missing, altered or does not fit.
        OSError: If the port is taken.
    """
    # Read by gradio while it is imported, hence before the import below: nothing may leave the
    # machine on which radiographs are read.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from cxrdemo.ui.page import build_ui, launch_options

    pipeline = Pipeline.from_checkpoints(checkpoints, medsam=medsam, device=device)
    build_ui(pipeline).launch(
        server_name=host or default_host(),
        server_port=port or int(os.environ.get("GRADIO_SERVER_PORT", DEFAULT_PORT)),
        **launch_options(),
    )


def default_host() -> str:
    """GRADIO_SERVER_NAME if set; every address on a hosted Space; otherwise this machine alone."""
    everywhere_or_here = "0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1"
    return os.environ.get("GRADIO_SERVER_NAME", everywhere_or_here)
