"""Builds the page and the pipeline, and serves them until interrupted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cxrdemo.checkpoints import CheckpointStore

if TYPE_CHECKING:
    from cxrdemo.devices import AskedPrecision
    from cxrdemo.engines import Engine
    from cxrdemo.pipeline import Pipeline

DEFAULT_PORT = 7860


def serve(
    *,
    checkpoints: Path,
    medsam: Path | None = None,
    device: str = "cpu",
    precision: AskedPrecision = "auto",
    engine: Engine = "torch",
    host: str | None = None,
    port: int | None = None,
) -> None:
    """Serves the viewer: first the page, then its models, for which the first image waits.

    Args:
        checkpoints: Folder with `manifest.json`; an empty one gives a page that says what is
            missing.
        medsam: Stock MedSAM weights, see `Pipeline.from_checkpoints`.
        device: Where the networks run.
        precision: What the networks compute in, see `Pipeline.from_checkpoints`.
        engine: What computes, see `Pipeline.from_checkpoints`.
        host: Address to listen on; None takes `default_host`.
        port: None takes GRADIO_SERVER_PORT from the environment, or 7860.

    Raises:
        CheckpointError: If a checkpoint is missing, altered or does not fit.
        OSError: If the port is taken.
    """
    # Read by gradio while it is imported, hence before the import below: nothing may leave the
    # machine on which radiographs are read.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from cxrdemo.ui.loading import LoadingPipeline
    from cxrdemo.ui.page import build_ui, launch_options

    def make() -> Pipeline:
        # PyTorch takes longer to import than the page to be drawn.
        from cxrdemo.pipeline import Pipeline

        return Pipeline.from_checkpoints(
            checkpoints, medsam=medsam, device=device, precision=precision, engine=engine
        )

    pipeline = LoadingPipeline(CheckpointStore.open(checkpoints))
    # What the page says about weights from outside the manifest is known once they are loaded.
    if medsam is not None:
        pipeline.load(make)
    page = build_ui(pipeline.as_pipeline())
    page.launch(
        server_name=host or default_host(),
        server_port=port or int(os.environ.get("GRADIO_SERVER_PORT", DEFAULT_PORT)),
        prevent_thread_lock=True,
        **launch_options(),
    )
    try:
        if not pipeline.is_ready:
            pipeline.load(make)
        page.block_thread()
    finally:
        page.close()


def default_host() -> str:
    """GRADIO_SERVER_NAME if set; every address on a hosted Space; otherwise this machine alone."""
    everywhere_or_here = "0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1"
    return os.environ.get("GRADIO_SERVER_NAME", everywhere_or_here)
