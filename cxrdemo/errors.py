"""The errors a user may meet. Every message is fit for the user's eyes.

A message says what was expected, what was found, and what to do about it. It names no file path
and no header value, because messages reach the page and the log.
"""


class CxrDemoError(Exception):
    """Base of all errors whose message is written for the person using the software."""


class UnreadableImageError(CxrDemoError):
    """The bytes are no image that can be decoded: broken, empty, truncated or not an image."""


class UnsupportedImageError(CxrDemoError):
    """The file is intact but is not something this software reads, such as a multi-frame series."""


class NoLungsFoundError(CxrDemoError):
    """No plausible lung was found, so nothing can be masked."""


class GridMismatchError(CxrDemoError):
    """Two arrays that must share one pixel grid have different sizes."""


class PromptError(CxrDemoError):
    """A box or point given to the segmenter makes no sense on this image."""


class RemedyError(CxrDemoError):
    """A turn, mirror or crop that was asked for makes no sense on this image."""


class CheckpointError(CxrDemoError):
    """A checkpoint is missing, altered, or does not fit the architecture it claims."""


class SettingError(CxrDemoError):
    """A flag or a variable of the environment has a value that cannot be used."""


class ExportError(CxrDemoError):
    """A result cannot be written in the form asked for."""


class BusyError(CxrDemoError):
    """More is asked for at once than the server has room for, or it is about to end."""
