"""What every decoder shares: sizes, errors, and the way from pixels to a `Radiograph`."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrdemo.errors import CxrDemoError, UnreadableImageError, UnsupportedImageError
from cxrdemo.files.journal import Journal
from cxrdemo.radiograph import MIN_READABLE_PX, Radiograph, Source, View

MAX_PIXELS: Final = 100_000_000
"""Five times the largest flat-panel detector (about 20 megapixels), and 400 MB as float32."""

MAX_COLOUR_PIXELS: Final = 40_000_000
"""Of a picture with several samples a pixel: twice the largest detector."""

MAX_DEEP_PIXELS: Final = 20_000_000
"""Of a picture with samples of 32 bits: the largest detector."""

MAX_COST: Final = 60_000_000
"""Samples times passes up to which a decoder runs in the caller's process: three large detectors'
images. More is decoded in a process of its own."""

MAX_HEADER: Final = 2**20
"""Bytes of a DICOM header that are parsed in the caller's process: an item of eight bytes becomes
six hundred. Elements of no interest are passed over and do not count."""

_SCANS_IN_A_PASS: Final = 16
_MOST_SCANS: Final = 100
"""A progressive JPEG has about ten scans, each a fraction of the work; no encoder writes so many as
the second."""


class TooCostlyHere(Exception):  # noqa: N818
    """Decoding this would cost more than the caller's process may spend; never seen by a user."""


def check_cost(samples: int, scans: int, max_cost: float) -> None:
    """Raises if decoding costs more than it may here.

    Args:
        samples: Of the picture.
        scans: Over it, of a JPEG; else 1.
        max_cost: See `MAX_COST`.
    """
    too_many = scans > _MOST_SCANS and max_cost < math.inf
    if too_many or samples * -(-scans // _SCANS_IN_A_PASS) > max_cost:
        raise TooCostlyHere


@contextmanager
def decoding(kind: str) -> Iterator[None]:
    """Turns whatever a decoder raises into our own error."""
    try:
        yield
    except (CxrDemoError, TooCostlyHere):
        raise
    except Image.DecompressionBombError as error:
        raise too_large(MAX_PIXELS) from error
    except MemoryError as error:
        raise UnsupportedImageError(
            "Expected an image that fits into memory, found one that does not. Export it smaller,"
            " or close other programs."
        ) from error
    # Decoders raise anything at all on broken bytes; nothing is swallowed here.
    except Exception as error:
        raise UnreadableImageError(
            f"Expected a complete {kind} file, found one that is broken or cut short. Copy or"
            " export it again; if it opens elsewhere, save it from there as PNG."
        ) from error


def check_size(height: int, width: int, *, samples: int, bits: int) -> None:
    """Refuses a picture too large for memory, or too small to show a lung.

    Args:
        height: In pixels.
        width: In pixels.
        samples: Per pixel.
        bits: Of a sample in memory.
    """
    most = MAX_PIXELS if samples == 1 else MAX_COLOUR_PIXELS
    most = MAX_DEEP_PIXELS if bits > 16 else most
    if height * width > most:
        raise too_large(most)
    if min(height, width) < MIN_READABLE_PX:
        raise UnsupportedImageError(
            f"Expected an image of at least {MIN_READABLE_PX} pixels a side, found {width} x"
            f" {height}. Use the original, not a thumbnail."
        )


def too_large(most: int) -> UnsupportedImageError:
    """The error for a picture of more than `most` pixels."""
    kind = {MAX_PIXELS: "a grey image", MAX_COLOUR_PIXELS: "a colour image"}.get(
        most, "an image of 32 bits"
    )
    return UnsupportedImageError(
        f"Expected {kind} of at most {most // 1_000_000} megapixels, found a larger one. Export the"
        " radiograph in grey, with at most 16 bits, at its native resolution."
    )


def to_radiograph(
    pixels: NDArray[np.float32],
    journal: Journal,
    *,
    kind: str,
    bit_depth: int,
    colourfulness: float,
    own_grid: bool,
    tags: Mapping[str, str] = MappingProxyType({}),
    spacing_mm: tuple[float, float] | None = None,
    view: View | None = None,
    sides: Literal["header", "assumed"] = "assumed",
    windows: tuple[tuple[str, float, float], ...] = (),
) -> Radiograph:
    """Pixels in 0..1 as a radiograph that carries its journal."""
    if pixels.min() == pixels.max():
        journal.remark("The image contains no contrast: every pixel has the same value.")
    source = Source(
        kind,
        bit_depth,
        tuple(journal.steps),
        tags,
        tuple(journal.remarks),
        colourfulness,
        own_grid,
        journal.window,
        journal.inverted,
        sides,
        windows,
    )
    return Radiograph(np.ascontiguousarray(pixels, np.float32), spacing_mm, view, source)
