"""The process of its own in which `apart` reads a costly file; no command for people."""

import sys

from cxrdemo.files import read_here
from cxrdemo.files.apart import serve

serve(read_here, sys.argv[1:])
