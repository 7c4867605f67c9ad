"""Where in a picture the film lies: a screenshot, wide borders, two films in one picture.

What surrounds a film is flat: panels of a viewer, borders of a collimator, a page. Rows and columns
are told apart by how much of them is not.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

_THUMBNAIL: Final = 32
_ALIKE: Final = 0.5
_MIRROR_LEAD: Final = 0.15
"""Correlation of the halves of a picture, moved onto each other, that makes two films of them, and
by how much that of the mirrored halves may lead."""

Box = tuple[int, int, int, int]

_LONG_SIDE: Final = 512
"""Every so manieth pixel is taken that about this many remain; averaging would blur edges."""

_FLAT: Final = 0.008
"""Range of grey values among nine neighbours, 0..1, up to which they are flat: two of 255."""

_BUSY: Final = 0.05
"""Share of a row or column that is not flat, from which it may belong to a film. The lines that
part a viewer's panels stay below."""

_GAP: Final = 0.03
"""Gaps in a film up to this share of the picture's side are closed: the neck, a band of air."""

_THIN: Final = 0.012
"""What is busy for less of the side is a line, of a panel or around a film."""

_SHORTEST: Final = 0.15
"""A film's side is at least this share of the picture's."""


def films_in(pixels: NDArray[np.float32]) -> tuple[Box, ...]:
    """The films of a picture, the largest first.

    Args:
        pixels: float32 (H, W), 0..1.

    Returns:
        XYXY boxes in pixels; empty if nothing stands out of flat surroundings.
    """
    every = max(1, max(pixels.shape) // _LONG_SIDE)
    small = np.ascontiguousarray(pixels[::every, ::every])
    kernel = np.ones((3, 3), np.uint8)
    busy = cv2.dilate(small, kernel) - cv2.erode(small, kernel) > _FLAT
    boxes: list[Box] = []
    for x0, x1 in _runs(busy.mean(axis=0)):
        for y0, y1 in _runs(busy[:, x0:x1].mean(axis=1)):
            # The columns again, of these rows alone: what lies above and below has no part in them.
            for left, right in _runs(busy[y0:y1, x0:x1].mean(axis=0)):
                boxes.append((x0 + left, y0, x0 + right, y1))
    height, width = pixels.shape
    found = [
        (x0 * every, y0 * every, min(width, x1 * every), min(height, y1 * every))
        for x0, y0, x1, y1 in boxes
    ]
    return tuple(sorted(found, key=area_of, reverse=True))


def halves_are_alike(pixels: NDArray[np.float32]) -> bool:
    """Whether the left half of a picture looks like the right one, as of two films side by side.

    The halves of one chest look like each other's mirror image instead.
    """
    half = pixels.shape[1] // 2
    left, right = (
        cv2.resize(
            np.ascontiguousarray(part), (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA
        )
        for part in (pixels[:, :half], pixels[:, -half:])
    )
    if not (left.std() > 0 and right.std() > 0):
        return False
    moved = float(np.corrcoef(left.ravel(), right.ravel())[0, 1])
    mirrored = float(np.corrcoef(left.ravel(), right[:, ::-1].ravel())[0, 1])
    return moved > _ALIKE and moved > mirrored - _MIRROR_LEAD


def area_of(box: Box) -> int:
    """Of an XYXY box, in pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])


def _runs(share: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Start and end of each stretch that is busy but for short gaps."""
    gap, shortest = round(_GAP * share.size), round(_SHORTEST * share.size)
    thick = max(3, round(_THIN * share.size)) // 2 * 2 + 1
    enough = (share >= _BUSY).astype(np.uint8)[:, None]
    busy = np.flatnonzero(cv2.morphologyEx(enough, cv2.MORPH_OPEN, np.ones((thick, 1), np.uint8)))
    if not busy.size:
        return []
    breaks = np.flatnonzero(np.diff(busy) > gap + 1)
    starts, ends = busy[np.r_[0, breaks + 1]], busy[np.r_[breaks, busy.size - 1]] + 1
    return [
        (int(start), int(end))
        for start, end in zip(starts, ends, strict=True)
        if end - start >= shortest
    ]
