"""Entry point: python -m cxrdemo <command>."""

import sys

from cxrdemo.cli import main

if __name__ == "__main__":
    sys.exit(main())
