"""Command `pretrain`: trains a ResNet50 on all sets and all maskings at once, to start others from.

The same loss and labels as `classify`; each image is masked in one of the three ways, drawn anew.
"""

import argparse

from cxrdemo.results import MaskingMode
from training import classify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    classify.add_shared_arguments(parser)
    parser.set_defaults(select="last")


def run(args: argparse.Namespace) -> None:
    """Trains, then writes `network.safetensors` and `settings.json`; validates unmasked."""
    modes = tuple(MaskingMode) if args.masks else (MaskingMode.NONE,)
    classify.fit(args, drawn_modes=modes, shown_mode=MaskingMode.NONE)
