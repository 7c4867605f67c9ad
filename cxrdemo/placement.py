"""Placement: a resize, letterbox or stretch as a value, with its inverse.

All resampling between an image and what a network or a screen is given. It owns the half-pixel
convention: coordinates (x, y) are continuous, (0, 0) is the outer corner of the first pixel and
(W, H) that of the last, so the centre of pixel column i lies at i + 0.5. A box that covers the
whole image is (0, 0, W, H). Sizes are (H, W); points are (x, y); boxes are XYXY.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Pixel = TypeVar("Pixel", np.float32, np.uint8)
Interpolation = Literal["area", "cubic"]
PlacementKind = Literal["letterbox", "stretch"]


@dataclass(frozen=True)
class Placement:
    """Where an image of `source_hw` lies inside a canvas of `target_hw`.

    Attributes:
        source_hw: Size of the original image.
        target_hw: Size of the canvas a network sees.
        content_hw: Size of the resized image inside the canvas.
        offset_hw: Row and column of the content's first pixel in the canvas.
    """

    source_hw: tuple[int, int]
    target_hw: tuple[int, int]
    content_hw: tuple[int, int]
    offset_hw: tuple[int, int]

    @classmethod
    def stretch(cls, source_hw: tuple[int, int], target_hw: tuple[int, int]) -> Self:
        """Fills the canvas and ignores the aspect ratio, as MedSAM does."""
        return cls(source_hw, target_hw, target_hw, (0, 0))

    @classmethod
    def letterbox(cls, source_hw: tuple[int, int], target_hw: tuple[int, int]) -> Self:
        """Keeps the aspect ratio, centres the image and leaves bars on two sides."""
        scale = min(target_hw[0] / source_hw[0], target_hw[1] / source_hw[1])
        content = (
            min(target_hw[0], max(1, round(source_hw[0] * scale))),
            min(target_hw[1], max(1, round(source_hw[1] * scale))),
        )
        offset = ((target_hw[0] - content[0]) // 2, (target_hw[1] - content[1]) // 2)
        return cls(source_hw, target_hw, content, offset)

    @classmethod
    def make(
        cls, kind: PlacementKind, source_hw: tuple[int, int], target_hw: tuple[int, int]
    ) -> Self:
        """The placement a checkpoint's spec names."""
        if kind == "stretch":
            return cls.stretch(source_hw, target_hw)
        if kind == "letterbox":
            return cls.letterbox(source_hw, target_hw)
        raise ValueError(f"placement must be 'letterbox' or 'stretch', got {kind!r}")

    def image(
        self, image: NDArray[np.float32], *, fill: float, interpolation: Interpolation = "area"
    ) -> NDArray[np.float32]:
        """Resizes an image into the canvas.

        Args:
            image: float32 of `source_hw`.
            fill: Value of the bars outside the content.
            interpolation: "area" averages when shrinking and is bilinear when enlarging. "cubic" is
                cubic both ways, after the Gaussian low-pass that scikit-image's `resize` applies
                when shrinking (sigma = (factor - 1) / 2), as in MedSAM's preprocessing.

        Returns:
            float32 of `target_hw`, contiguous.
        """
        self._check(image, self.source_hw)
        if interpolation == "cubic":
            content = self._resize_cubic(image)
        else:
            content = _resize_area(image, self.content_hw)
        return self._with_bars(content, fill)

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Resizes a mask into the canvas: a pixel is set where at least half of it is covered."""
        # 127.5 is rounded up.
        return self._covered(mask) >= 128

    def shares(self, mask: NDArray[np.bool_], grid_hw: tuple[int, int]) -> NDArray[np.float32]:
        """How much of each cell of a grid over the canvas a mask covers.

        Args:
            mask: bool of `source_hw`.
            grid_hw: Number of cells, such as 7 x 7; at most one to a pixel of the canvas.

        Returns:
            float32 of `grid_hw`, 0..1, exactly 1 where all is covered. Bars are not.
        """
        cells = _resize_area(self._covered(mask).astype(np.float32), grid_hw)
        # Where a cell ends within a pixel, its parts sum to 1 but for rounding.
        return cells / _resize_area(np.full(self.target_hw, 255, np.float32), grid_hw)

    def labels(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resizes a label map into the canvas: a pixel takes the label at its centre, bars take 0.

        Ten times faster than a `mask` for each label, and at most a pixel beside it.
        """
        self._check(labels, self.source_hw)
        height, width = self.content_hw
        content = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return self._with_bars(cast(NDArray[np.uint8], content), 0)

    def points(self, xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Moves (N, 2) points from the image to the canvas."""
        return np.asarray(xy, np.float32) * self._scale_xy + self._offset_xy

    def boxes(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Moves (N, 4) XYXY boxes from the image to the canvas."""
        return self.points(np.asarray(xyxy, np.float32).reshape(-1, 2)).reshape(-1, 4)

    def undo_points(self, xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Moves (N, 2) points from the canvas back to the image."""
        return (np.asarray(xy, np.float32) - self._offset_xy) / self._scale_xy

    def undo_map(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resamples a map that covers the canvas, at any resolution, onto the image's grid.

        Args:
            values: float32 (h, w) over the whole canvas: logits, or a heat map of 7 x 7 cells.

        Returns:
            float32 of `source_hw`, bilinear, edge values repeated.
        """
        height, width = self.source_hw
        return self._undo_window(values, (0, 0, width, height))

    def undo_logits(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Where logits that cover the canvas are above 0 on the image's grid.

        The same as `undo_map(logits) > 0`, computed only where it can be true.

        Args:
            logits: float32 (h, w) over the whole canvas.

        Returns:
            bool of `source_hw`.
        """
        inside = np.zeros(self.source_hw, bool)
        x, y, width, height = cv2.boundingRect((logits > 0.0).view(np.uint8))
        if not width:
            return inside
        # Bilinear values reach less than one cell beyond the last that is above 0.
        gain, shift = self._to_cells(logits)
        low = np.floor((np.array([x, y]) - 1 - shift) / gain).astype(int)
        high = np.ceil((np.array([x + width, y + height]) - shift) / gain).astype(int) + 1
        (left, top), (right, bottom) = (
            corner.clip(0, self.source_hw[::-1]) for corner in (low, high)
        )
        if left < right and top < bottom:
            window = self._undo_window(logits, (left, top, right - left, bottom - top))
            np.greater(window, 0.0, out=inside[top:bottom, left:right])
        return inside

    def _to_cells(self, values: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        """(x, y) of a cell of a map over the canvas = gain * (x, y) of a pixel + shift."""
        grid = np.array([values.shape[1] / self.target_hw[1], values.shape[0] / self.target_hw[0]])
        gain = self._scale_xy * grid
        # Pixel centres: cell + 0.5 = gain * (pixel + 0.5) + offset.
        return gain, 0.5 * gain + self._offset_xy * grid - 0.5

    def _undo_window(
        self, values: NDArray[np.float32], window: tuple[int, int, int, int]
    ) -> NDArray[np.float32]:
        """`undo_map` in a window (x, y, width, height) of the image."""
        gain, shift = self._to_cells(values)
        shift = shift + gain * window[:2]
        warped = cv2.warpAffine(
            np.ascontiguousarray(values, np.float32),
            np.array([[gain[0], 0.0, shift[0]], [0.0, gain[1], shift[1]]], np.float64),
            window[2:],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return cast(NDArray[np.float32], warped)

    @property
    def content(self) -> tuple[slice, slice]:
        """Rows and columns of the canvas that hold the image."""
        (top, left), (height, width) = self.offset_hw, self.content_hw
        return slice(top, top + height), slice(left, left + width)

    @property
    def _scale_xy(self) -> NDArray[np.float32]:
        return np.array(
            [
                self.content_hw[1] / self.source_hw[1],
                self.content_hw[0] / self.source_hw[0],
            ],
            np.float32,
        )

    @property
    def _offset_xy(self) -> NDArray[np.float32]:
        return np.array([self.offset_hw[1], self.offset_hw[0]], np.float32)

    def _covered(self, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """How much of each pixel of the canvas a mask covers, in 255ths: bytes halve the time."""
        self._check(mask, self.source_hw)
        covered = _resize_area(mask.view(np.uint8) * np.uint8(255), self.content_hw)
        return self._with_bars(covered, 0)

    def _with_bars(self, content: NDArray[Pixel], fill: float) -> NDArray[Pixel]:
        """The content in its place on the canvas."""
        if self.content_hw == self.target_hw:
            return content
        canvas = np.full(self.target_hw, fill, content.dtype)
        canvas[self.content] = content
        return canvas

    def _resize_cubic(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        sigma_x, sigma_y = np.maximum(0.0, (1.0 / self._scale_xy - 1.0) / 2.0)
        if max(sigma_x, sigma_y) > 0:
            # cv2 needs a positive sigma on both axes; 0.1 px leaves an axis as it is.
            blurred = cv2.GaussianBlur(
                image,
                (0, 0),
                sigmaX=max(float(sigma_x), 0.1),
                sigmaY=max(float(sigma_y), 0.1),
                borderType=cv2.BORDER_REFLECT,
            )
            image = cast(NDArray[np.float32], blurred)
        height, width = self.content_hw
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        return cast(NDArray[np.float32], resized)

    def _check(self, array: NDArray[Any], expected_hw: tuple[int, int]) -> None:
        if array.shape != expected_hw:
            raise ValueError(f"expected an array of (H, W) {expected_hw}, got {array.shape}")


def _resize_area(image: NDArray[Pixel], hw: tuple[int, int]) -> NDArray[Pixel]:
    """Area average when shrinking, bilinear when enlarging; a copy when the size is the same."""
    if image.shape == hw:
        return image.copy()
    shrinks = hw[0] < image.shape[0] or hw[1] < image.shape[1]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cast(NDArray[Pixel], cv2.resize(image, (hw[1], hw[0]), interpolation=mode))
