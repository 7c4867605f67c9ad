"""Entry point: python -m training <command>."""

import argparse
import sys

from cxrdemo.commands.numbers import refuse_dashes
from cxrdemo.commands.speaking import refusal
from cxrdemo.errors import CxrDemoError, SettingError
from training.commands import calibrate, chain, data, experiment, reproduce
from training.commands.flags import Defaults
from training.writing import check_folder

COMMANDS = {
    "data": data,
    **chain.COMMANDS,
    "calibrate": calibrate,
    "experiment": experiment,
    "reproduce": reproduce,
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 on success; 2 for settings that cannot be, such as a device that is not there, as argparse
        has it for wrong usage; 3 on bad data or where the system refused something, with the
        reason on stderr; 130 after Ctrl-C.
    """
    words = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=Defaults
        )
        module.add_arguments(command)
    refuse_dashes(parser, words)
    args = parser.parse_args(words)
    try:
        if "out" in args and args.command != "data":  # which writes a file, too
            check_folder(args.out)
        chain.run_command(args.command, COMMANDS[args.command], args, words[1:])
    except CxrDemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingError) else 3
    except OSError as error:
        print(f"error: {refusal(error)}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
