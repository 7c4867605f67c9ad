"""Entry point: python -m training <command>."""

import argparse
import sys

from cxrdemo.errors import CxrDemoError
from training import classify, datasets, evaluate, masks, pretrain, publish, reproduce, segment

COMMANDS = {
    "data": datasets,
    "segment": segment,
    "masks": masks,
    "pretrain": pretrain,
    "classify": classify,
    "publish": publish,
    "evaluate": evaluate,
    "reproduce": reproduce,
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns 0 on success and 3 on bad data, with the reason on stderr."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=summary, description=module.__doc__))
    args = parser.parse_args(argv)
    try:
        COMMANDS[args.command].run(args)
    except CxrDemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
