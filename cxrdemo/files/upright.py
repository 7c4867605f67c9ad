"""The way to an upright picture with square pixels, where a file orders or tells it."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cxrdemo.files.decoding import MAX_PIXELS
from cxrdemo.files.journal import Journal
from cxrdemo.placement import Placement

_SQUARE_TOLERANCE: Final = 0.02
"""Two sides of a pixel that differ by less deform a chest by less than 1 cm."""

_LONGEST_PIXEL: Final = 4.0
"""Sides of a pixel that differ by more are a slip of the header, not a scanner."""

EXIF_TURNS: Final[dict[int, Callable[[NDArray[Any]], NDArray[Any]]]] = {
    2: lambda samples: samples[:, ::-1],
    3: lambda samples: samples[::-1, ::-1],
    4: lambda samples: samples[::-1],
    5: lambda samples: samples.swapaxes(0, 1),
    6: lambda samples: samples[::-1].swapaxes(0, 1),
    7: lambda samples: samples[::-1, ::-1].swapaxes(0, 1),
    8: lambda samples: samples[:, ::-1].swapaxes(0, 1),
}
"""What each value of the EXIF orientation tag asks for."""


def to_standard_view(
    pixels: NDArray[np.float32], rows_to: str, columns_to: str, journal: Journal
) -> tuple[NDArray[np.float32], bool] | None:
    """A frontal image as it is looked at: the patient's left on the right, the head on top.

    Args:
        pixels: (H, W).
        rows_to: Where a row runs to, the first value of Patient Orientation (PS3.3 C.7.6.1.1.1).
        columns_to: Likewise a column, the second value.
        journal: Told what was done, or that the orientation is no frontal one.

    Returns:
        The pixels, and whether rows have become columns; None if the orientation is no frontal one.
    """
    rows, columns = rows_to[0], columns_to[0]
    if {rows, columns} not in ({"L", "F"}, {"L", "H"}, {"R", "F"}, {"R", "H"}):
        journal.remark(
            "The header's patient orientation is not that of a frontal view; it was ignored."
        )
        return None
    crossed = rows in "FH"
    if crossed:
        pixels, rows, columns = pixels.T, columns, rows
    if rows == "R":
        pixels = pixels[:, ::-1]
    if columns == "H":
        pixels = pixels[::-1]
    if crossed or (rows, columns) != ("L", "F"):
        # A mirror image is told apart from a turned one by the parity of the exchanges.
        is_mirrored = (crossed + (rows == "R") + (columns == "H")) % 2
        done = "Mirrored" if is_mirrored else "Turned"
        if is_mirrored and (crossed or columns == "H"):
            done = "Mirrored and turned"
        journal.did(
            f"{done} to the standard view, as Patient Orientation {rows_to}\\{columns_to} orders"
        )
        journal.remark(
            f"The header says that the image is stored {done.lower()}; it was brought to the"
            " standard view, the patient's left on the right."
        )
    return pixels, crossed


def squared(
    pixels: NDArray[np.float32], sides: tuple[float, float], journal: Journal
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """The image with square pixels.

    Args:
        pixels: (H, W).
        sides: Height and width of a pixel, in any unit.
        journal: Told if the pixels were not square.

    Returns:
        The image, and height and width of its pixels: the shorter of the two sides, so that no
        detail is lost, unless the image would grow too large.
    """
    longer, shorter = max(sides), min(sides)
    if longer / shorter <= 1 + _SQUARE_TOLERANCE:
        return pixels, sides
    if longer / shorter > _LONGEST_PIXEL:
        journal.remark(
            "The file says that its pixels are many times longer than wide; that was ignored."
        )
        return pixels, sides
    height, width = pixels.shape
    side = shorter if pixels.size * longer / shorter <= MAX_PIXELS else longer
    hw = round(height * sides[0] / side), round(width * sides[1] / side)
    journal.did(
        f"Resampled from {width} x {height} to {hw[1]} x {hw[0]}, as the pixels are not square"
    )
    journal.remark("The pixels of the file are not square; the image was resampled.")
    placement = Placement.stretch((height, width), hw)
    return placement.image(np.ascontiguousarray(pixels), fill=0.0), (side, side)
