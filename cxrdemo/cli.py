"""The command line: analyse files, list checkpoints, serve the page."""

import argparse
import sys
import traceback
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from cxrdemo.errors import CxrDemoError
from cxrdemo.export import analysis_to_json, error_to_json, json_bytes
from cxrdemo.masking import MAX_MARGIN
from cxrdemo.results import ALL_MASKINGS, GRAD_CAM, METHODS, MaskingMode

if TYPE_CHECKING:
    from cxrdemo.pipeline import Pipeline

DEFAULT_CHECKPOINTS: Final = Path(__file__).resolve().parent.parent / "checkpoints"

EXIT_OK: Final = 0
EXIT_FILE_FAILED: Final = 3
"""Wrong usage gives 2, as argparse does."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 if all was done, 3 if something failed, with the reason on stderr. Wrong usage exits with
        2 from argparse.
    """
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except CxrDemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FILE_FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cxrdemo",
        description="Chest X-ray demo. Research use only; not a medical device.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    models = argparse.ArgumentParser(add_help=False)
    models.add_argument(
        "--checkpoints",
        default=DEFAULT_CHECKPOINTS,
        help="folder with manifest.json, or hf://OWNER/NAME@REVISION on the Hugging Face Hub",
    )
    models.add_argument(
        "--medsam", type=Path, help="stock MedSAM weights (medsam_vit_b.pth) for the lung mask"
    )
    models.add_argument("--device", default="cpu", help="cpu, or cuda where there is a GPU")
    models.add_argument(
        "--engine",
        choices=("torch", "openvino"),
        default="torch",
        help="what computes; openvino is faster on the CPU and has to be installed "
        "(default: %(default)s)",
    )

    models.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="what the networks compute in; auto takes bf16 where the hardware has it and the "
        "results stay (default: %(default)s)",
    )

    analyse = commands.add_parser("analyse", parents=[models], help="analyse image files")
    analyse.add_argument("files", nargs="+", type=Path, metavar="FILE")
    analyse.add_argument(
        "--masking",
        choices=[*(str(mode) for mode in MaskingMode), "all"],
        default="all",
        help="which pixels the classifier is given (default: all three)",
    )
    analyse.add_argument(
        "--margin",
        type=_margin,
        help="loose margin as a fraction of the lungs' height, 0..0.5 (default: the checkpoint's)",
    )
    analyse.add_argument(
        "--cam", choices=METHODS, default=GRAD_CAM, help="saliency method (default: %(default)s)"
    )
    analyse.add_argument("--out", type=Path, required=True, help="folder for the results")
    analyse.set_defaults(run=_analyse)

    checkpoints = commands.add_parser("checkpoints", help="list and verify the checkpoints")
    checkpoints.add_argument("--checkpoints", default=DEFAULT_CHECKPOINTS, help="as for analyse")
    checkpoints.set_defaults(run=_list_checkpoints)

    serve = commands.add_parser("serve", parents=[models], help="serve the viewer in the browser")
    serve.add_argument("--host", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=int, help="default: GRADIO_SERVER_PORT, or 7860")
    serve.set_defaults(run=_serve)
    return parser


def _analyse(args: argparse.Namespace) -> int:
    # Imported here so that --help answers at once.
    from cxrdemo.checkpoints import checkpoint_folder
    from cxrdemo.pipeline import Pipeline

    maskings = ALL_MASKINGS if args.masking == "all" else (MaskingMode(args.masking),)
    names = _result_names(args.files)
    folder = checkpoint_folder(args.checkpoints)
    pipeline = Pipeline.from_checkpoints(
        folder,
        medsam=args.medsam,
        device=args.device,
        precision=args.precision,
        engine=args.engine,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    failures = 0
    for path, name in zip(args.files, names, strict=True):
        try:
            _analyse_one(pipeline, path, args.out / name, maskings, args.margin, args.cam)
            print(f"{path}: done")
        except Exception as error:
            # One bad file never stops the others; its reason stands where its result would. An
            # unforeseen error is our fault, so its traceback is shown as well.
            if not isinstance(error, CxrDemoError):
                traceback.print_exc()
            failures += 1
            (args.out / f"{name}.json").write_bytes(json_bytes(error_to_json(error)))
            print(f"{path}: {error}", file=sys.stderr)
    return EXIT_FILE_FAILED if failures else EXIT_OK


def _analyse_one(
    pipeline: "Pipeline",
    path: Path,
    out: Path,
    maskings: Collection[MaskingMode],
    margin: float | None,
    method: str,
) -> None:
    """Writes OUT.json, OUT.mask.png and OUT.figure.png for one file."""
    from cxrdemo.files import read_radiograph
    from cxrdemo.rendering import encode_png, figure_png

    radiograph = read_radiograph(path)
    analysis = pipeline.analyse(radiograph, maskings=maskings, margin=margin, method=method)
    for doubt in analysis.doubts:
        print(f"{path}: doubtful input: {doubt.message}", file=sys.stderr)
    for warning in analysis.warnings:
        print(f"{path}: warning: {warning}", file=sys.stderr)
    if analysis.lungs is not None:
        mask = analysis.lungs.inside.astype(np.uint8) * np.uint8(255)
        out.with_name(f"{out.name}.mask.png").write_bytes(encode_png(mask))
    out.with_name(f"{out.name}.figure.png").write_bytes(figure_png(analysis))
    # Last, so that a JSON without an error means that all three are there.
    out.with_name(f"{out.name}.json").write_bytes(json_bytes(analysis_to_json(analysis)))


def _list_checkpoints(args: argparse.Namespace) -> int:
    from cxrdemo.checkpoints import CheckpointStore, checkpoint_folder

    store = CheckpointStore.open(checkpoint_folder(args.checkpoints))
    if not store.specs:
        print("No checkpoint is installed. Train them with `python -m training`.")
    for spec in store.specs:
        store.load(spec)  # raises if the file is missing or altered
        print(f"{spec.name}  {spec.architecture}  sha256 {spec.sha256[:12]}  verified")
        for name, estimate in spec.metrics.items():
            print(
                f"    {name}: {estimate.value:.3f} "
                f"({estimate.low:.3f} to {estimate.high:.3f}, n={estimate.n})"
            )
    return EXIT_OK


def _serve(args: argparse.Namespace) -> int:
    from cxrdemo.checkpoints import checkpoint_folder
    from cxrdemo.ui.serve import serve

    serve(
        checkpoints=checkpoint_folder(args.checkpoints),
        medsam=args.medsam,
        device=args.device,
        precision=args.precision,
        engine=args.engine,
        host=args.host,
        port=args.port,
    )
    return EXIT_OK


def _result_names(files: Sequence[Path]) -> list[str]:
    """Each file's stem; a second file of the same stem gets "-2", so that no result is lost."""
    seen: Counter[str] = Counter()
    names = []
    for path in files:
        seen[path.stem] += 1
        count = seen[path.stem]
        names.append(path.stem if count == 1 else f"{path.stem}-{count}")
    return names


def _margin(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= MAX_MARGIN:
        raise argparse.ArgumentTypeError(f"must lie in 0..{MAX_MARGIN}, got {text}")
    return value
