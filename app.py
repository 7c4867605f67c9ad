"""Starts the viewer: `python app.py` is `python -m cxrdemo serve`, with the same flags."""

import sys

from cxrdemo.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
