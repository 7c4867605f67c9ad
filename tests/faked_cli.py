"""The command line over a pipeline of fakes, as a process of its own: python faked_cli.py ARGS."""

import sys

from fakes import fake_pipeline

from cxrdemo.cli import main
from cxrdemo.pipeline import Pipeline

if __name__ == "__main__":
    Pipeline.from_checkpoints = lambda *_, **__: fake_pipeline()  # type: ignore[method-assign]
    sys.exit(main())
