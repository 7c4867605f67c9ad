"""The command line: its flags. What a command does stands in the module of its name in `commands`.

Nothing heavy is imported before it is known what is asked for, so that --help answers at once.
"""

import argparse
import importlib
import re
import sys
from pathlib import Path
from typing import Final

from cxrdemo import __version__
from cxrdemo.commands.numbers import number, refuse_dashes
from cxrdemo.commands.speaking import complain, refusal
from cxrdemo.commands.writing import PRODUCTS
from cxrdemo.errors import CxrDemoError, SettingError
from cxrdemo.results import GRAD_CAM, MAX_MARGIN, METHODS, MaskingMode
from cxrdemo.settings import (
    ENGINES,
    HARDWARE,
    HIGHEST_PORT,
    PRECISIONS,
    Settings,
    whole_number,
)

OK: Final = 0
WRONG_USAGE: Final = 2
"""As argparse has it."""
FAILED: Final = 3
INTERRUPTED: Final = 130

_ALL: Final = "all"


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 if all was done; 2 for wrong usage or a setting that cannot be used; 3 if something
        failed, with the reason on stderr; 130 after Ctrl-C.
    """
    try:
        settings = Settings.from_environment()
        args = _parse(_parser(settings), argv)
        if "checkpoints" in args and not args.checkpoints:
            args.checkpoints = settings.checkpoint_location
        command = importlib.import_module(f"cxrdemo.commands.{args.command}")
        code: int = command.run(args)
    except SettingError as error:
        complain(f"error: {error}")
        return WRONG_USAGE
    except CxrDemoError as error:
        complain(f"error: {error}")
        return FAILED
    except OSError as error:
        complain(f"error: {refusal(error)}")
        return FAILED
    except KeyboardInterrupt:
        complain("Interrupted.")
        return INTERRUPTED
    return code


def _parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    words = sys.argv[1:] if argv is None else argv
    refuse_dashes(parser, words)
    args, rest = parser.parse_known_args(words)
    # argparse takes all inputs before the first flag, or none; people put them on both sides.
    is_input = [text == "-" or not text.startswith("-") for text in rest]
    if "inputs" in args and all(is_input):
        args.inputs = [*args.inputs, *rest]
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def _parser(settings: Settings) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cxrdemo",
        description="Chest X-ray demo. Research use only. Not a medical device.",
        epilog="Exit codes: 0 all done, 2 wrong usage, 3 something failed, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"cxrdemo {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    models = _flags_of_models(settings)
    _add_analyse(commands, models)
    checkpoints = commands.add_parser("checkpoints", help="list and verify the checkpoints")
    _add_checkpoints(checkpoints)
    serve = commands.add_parser("serve", parents=[models], help="serve the viewer in the browser")
    serve.add_argument("--host", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=_port, help="default: GRADIO_SERVER_PORT, or 7860")
    serve.add_argument(
        "--mcp",
        action="store_true",
        default=settings.mcp,
        help="offer the endpoints to agents too (Model Context Protocol; needs the extra mcp)",
    )
    space = commands.add_parser("space", help="assemble what a Hugging Face Space is pushed")
    _add_checkpoints(space)
    space.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to assemble")
    space.add_argument(
        "--hardware",
        choices=HARDWARE,
        default="cpu",
        help="of the Space (default: %(default)s)",
    )
    space.add_argument(
        "--index",
        type=_address,
        metavar="URL",
        help="package index with PyTorch's CPU wheels, a tenth of the size (default: none)",
    )
    licences = commands.add_parser("licences", help="list the licences of what the app needs")
    licences.add_argument(
        "--sbom", action="store_true", help="a bill of materials instead, CycloneDX in JSON"
    )
    return parser


def _flags_of_models(settings: Settings) -> argparse.ArgumentParser:
    models = argparse.ArgumentParser(add_help=False)
    _add_checkpoints(models)
    models.add_argument(
        "--medsam",
        type=Path,
        default=settings.medsam,
        help="stock MedSAM weights (medsam_vit_b.pth) for the lung mask",
    )
    models.add_argument(
        "--device",
        default=settings.device,
        help="cpu, cuda, or auto for a GPU where there is one (default: %(default)s)",
    )
    models.add_argument(
        "--engine",
        choices=ENGINES,
        default=settings.engine,
        help="what computes; openvino is faster on the CPU and has to be installed "
        "(default: %(default)s)",
    )
    models.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=settings.precision,
        help="what the networks compute in; auto takes bf16 where the hardware has it and the "
        "results stay, fp16 is for GPUs without bf16 (default: %(default)s)",
    )
    return models


def _add_checkpoints(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints",
        help="folder with manifest.json, or hf://OWNER/NAME@REVISION on the Hugging Face Hub "
        "(default: CXRDEMO_CHECKPOINTS, or the repository's)",
    )


def _add_analyse(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    models: argparse.ArgumentParser,
) -> None:
    analyse = commands.add_parser(
        "analyse",
        parents=[models],
        help="analyse image files",
        description="Analyses chest X-rays. Finished work is recognised by the input's bytes, the "
        "settings and the checkpoints, and is not done again.",
    )
    analyse.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="a file, a folder (read to any depth), a quoted pattern such as 'data/**/*.png', "
        "@LIST for a file of names, - for names on standard input",
    )
    analyse.add_argument(
        "--list", action="append", default=[], metavar="FILE", help="a file of names, one a line"
    )
    analyse.add_argument("--out", type=Path, required=True, help="folder for the results")
    analyse.add_argument(
        "--write",
        type=_products,
        default=("json", "mask", "figure"),
        metavar="WHAT,...",
        help=f"what to write of each file: {', '.join(PRODUCTS)}; the JSON always is, because it "
        "tells finished work (default: json,mask,figure)",
    )
    analyse.add_argument("--csv", type=Path, metavar="FILE", help="one table of all files")
    analyse.add_argument("--jsonl", type=Path, metavar="FILE", help="one line of JSON per file")
    analyse.add_argument(
        "--masking",
        choices=[*(str(mode) for mode in MaskingMode), _ALL],
        default=_ALL,
        help="which pixels the classifier is given (default: all three)",
    )
    analyse.add_argument(
        "--margin",
        type=number(float, 0.0, MAX_MARGIN),
        help="loose margin as a fraction of the lungs' height, 0..0.5 (default: the checkpoint's)",
    )
    analyse.add_argument(
        "--cam",
        choices=METHODS,
        default=GRAD_CAM,
        help="saliency method (default: %(default)s)",
    )
    analyse.add_argument(
        "--force", action="store_true", help="do finished work anew, and replace other results"
    )
    analyse.add_argument(
        "--quiet", action="store_true", help="tell of failures and the sum alone, no progress"
    )
    analyse.add_argument(
        "--ray",
        type=_cluster,
        metavar="ADDRESS",
        help="share the files out to a Ray cluster: its address, auto for the one of this "
        "environment, local for one on this machine",
    )


def _port(text: str) -> int:
    try:
        return whole_number("the port", text, HIGHEST_PORT)
    except SettingError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _address(text: str) -> str:
    # It becomes a line of the Space's requirements.
    if not re.fullmatch(r"(https?|file)://\S+", text):
        raise argparse.ArgumentTypeError(f"must be an address such as https://..., got {text!r}")
    return text


def _cluster(text: str) -> str:
    # Such as of a variable that is not set, for which all would be done here without a word.
    if not text.strip():
        raise argparse.ArgumentTypeError(f"must be an address, auto or local, got {text!r}")
    return text


def _products(text: str) -> tuple[str, ...]:
    asked = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [part for part in asked if part not in PRODUCTS]
    if unknown or not asked:
        raise argparse.ArgumentTypeError(
            f"expected some of {', '.join(PRODUCTS)} joined by commas, got {text!r}"
        )
    return asked
