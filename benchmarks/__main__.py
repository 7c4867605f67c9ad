"""Prints the table: `python -m benchmarks [--only ROW ...] [--repeats N]`."""

import argparse
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import torch

from benchmarks import analysis, files, networks, page, training
from benchmarks.harness import Row, machine, table, to_json
from benchmarks.setting import Setting
from cxrdemo.worker import in_worker

ROWS: Final[Mapping[str, Callable[[Setting], list[Row]]]] = {
    "segmenter": networks.segmenter,
    "prompt": networks.prompts,
    "grad-cam": networks.grad_cam,
    "analysis": analysis.whole,
    "probes": analysis.probes,
    "batch": analysis.files,
    "memory": analysis.memory,
    "files": files.large,
    "browser": page.browser,
    "drop": page.drop,
    "gestures": page.gestures,
    "start": page.start,
    "training-step": training.step,
    "loader": training.loader,
    "vit-b": networks.vit_b,
}
"""In the order in which they run: the longest last."""

RESULTS: Final = Path(__file__).parent / "results"


def main() -> int:
    """Runs the rows asked for.

    Returns:
        0 if every row ran, 1 if one failed, whose reason then stands in the table.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--repeats", type=int, default=7, help="rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch (default: %(default)s)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(args.threads)
    setting = Setting(repeats=args.repeats, results=RESULTS)
    RESULTS.mkdir(exist_ok=True)
    about = machine()
    # Everything in the product's own thread: a second one that computes would slow both.
    rows, failed = in_worker(partial(networks.peak, setting)), False
    for name in args.only or ROWS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            rows += in_worker(partial(ROWS[name], setting))
        except Exception as error:
            traceback.print_exc()
            rows.append(Row.not_run(name, f"failed: {error!r}"))
            failed = True
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps(to_json(rows, about), indent=1) + "\n", encoding="utf-8")
    flags = " ".join(about["flags"])
    print(f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads, {flags}")
    print(" ".join(f"{name} {number}" for name, number in about["versions"].items()))
    print(table(rows))
    print(path)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
