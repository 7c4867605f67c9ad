"""Entry point: python -m training <command>."""

import argparse
import errno
import sys

from cxrdemo.errors import CxrDemoError
from training.commands import calibrate, chain, data, experiment, reproduce
from training.commands.flags import Defaults

COMMANDS = {
    "data": data,
    **chain.COMMANDS,
    "calibrate": calibrate,
    "experiment": experiment,
    "reproduce": reproduce,
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns 0 on success and 3 on bad data, with the reason on stderr."""
    words = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=Defaults
        )
        module.add_arguments(command)
    args = parser.parse_args(words)
    try:
        chain.run_command(args.command, COMMANDS[args.command], args, words[1:])
    except CxrDemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"error: {_words(error)}", file=sys.stderr)
        return 3
    return 0


def _words(error: OSError) -> str:
    """What the system refused, and what to do."""
    where = f"{error.filename}: " if error.filename else ""
    remedy = "Mend that and give the same command again."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "Make room and give the same command again: it goes on where it stopped."
    return f"{where}{error.strerror or error}. {remedy}"


if __name__ == "__main__":
    sys.exit(main())
