"""What goes wrong with training data."""

from cxrdemo.errors import CxrDemoError


class DataError(CxrDemoError):
    """Training data are missing or malformed; the message names the file and the remedy."""
