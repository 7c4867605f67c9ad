"""`cxrdemo checkpoints`: what is installed, is it intact, and how good is it."""

import argparse

from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.commands.speaking import say
from cxrdemo.hub import checkpoint_folder


def run(args: argparse.Namespace) -> int:
    """Lists and verifies.

    Raises:
        CheckpointError: If a file is missing or altered.
    """
    store = CheckpointStore.open(checkpoint_folder(args.checkpoints))
    if not store.specs:
        say("No checkpoint is installed. Train them with `python -m training`.")
    for spec in store.specs:
        store.load(spec)
        say(f"{spec.name}  {spec.architecture}  sha256 {spec.sha256[:12]}  verified")
        for name, estimate in spec.metrics.items():
            say(
                f"    {name}: {estimate.value:.3f} "
                f"({estimate.low:.3f} to {estimate.high:.3f}, n={estimate.n})"
            )
    return 0
