"""Kills the whole chain of training at random moments, gives it again, and compares the end.

    python tests/kill.py --times 50 --seed 0

The chain is `reproduce --preset smoke`: phantoms, segmenter, masks, pretraining, three classifiers,
publication, evaluation. What an undisturbed run leaves behind and what the killed one leaves behind
must be equal byte for byte: weights, masks, their quality, the manifest, the figures. Time, and the
record of how often a run was begun, are left out of the comparison. Exit code 0 if all is equal.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

TIMED = ("images_per_second", "seconds", "hardware", "command", "commit")
"""Parts of names in JSON whose values are of a machine and a moment."""


def session(out: Path, limit_s: float | None, words: list[str]) -> bool:
    """Gives the command once; False if it was killed. Any other end than success raises."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0"}
    with (out.parent / f"{out.name}.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "training", *words, "--out", str(out)],
            cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
    if code != 0:
        # The log goes with its folder.
        told = "\n".join((out.parent / f"{out.name}.log").read_text().splitlines()[-30:])
        raise SystemExit(f"exit code {code} after a kill:\n{told}")
    return True


def outcome(folder: Path) -> dict[str, str]:
    """What a chain left behind: a hash or the comparable part of every file that counts."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix in (".safetensors", ".png"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name.startswith("quality"):
            found[name] = "\n".join(sorted(path.read_text().splitlines()))
        elif path.name in ("manifest.json", "metrics.json"):
            found[name] = json.dumps(timeless(json.loads(path.read_text())), sort_keys=True)
    return found


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not any(t in k for t in TIMED)}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    words = ["reproduce", "--preset", "smoke"]
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        start = time.monotonic()
        whole = Path(scratch) / "whole"
        session(whole, None, words)
        length = time.monotonic() - start
        expected = outcome(whole)
        print(f"undisturbed: {length:.0f} s, {len(expected)} files compared", flush=True)
        kills, chain = 0, 0
        while kills < args.times:
            chain += 1
            out = Path(scratch) / f"killed{chain}"
            # A resumed chain skips what is done, so later kills come sooner to fall inside it.
            while kills < args.times and not session(out, rng.uniform(0.0, length / 2), words):
                kills += 1
                print(f"kill {kills} of {args.times}", flush=True)
            session(out, None, words)
            found = outcome(out)
            differing = sorted(
                n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)
            )
            if differing:
                print(f"chain {chain} differs after {kills} kills: {differing}")
                return 1
        print(f"{kills} kills in {chain} chains: every file equal to the undisturbed run's")
    return 0


if __name__ == "__main__":
    sys.exit(main())
