"""What the flags of several commands share: how help is shown, and where networks run."""

import argparse


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that ends each flag with its default, where it has one that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # By identity: a default of 0.0 equals False and says something all the same.
        silent = any(action.default is nothing for nothing in (None, False, argparse.SUPPRESS))
        if silent or action.default == [] or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Declares where networks run; `cxrdemo.devices.resolve` takes its value."""
    parser.add_argument(
        "--device",
        default="auto",
        help="where networks run: cpu, cuda, cuda:1, or auto for a GPU where there is one",
    )
