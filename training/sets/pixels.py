"""Pixels of training images and masks, read as the app reads them."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cxrdemo.errors import CxrDemoError
from cxrdemo.files import load, read_radiograph
from training.errors import DataError

Case = TypeVar("Case")
Kept = TypeVar("Kept")

_MASK_FORMATS: Final = ("PNG", "TIFF", "BMP", "GIF", "JPEG", "WEBP")
"""Others run programs of their own, or hold no picture."""

HIGHEST_NUMBER: Final = 8
"""Grey values up to this are numbers of labels and no brightness."""


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """The app's own reading of an image, as uint8 (H, W) to save memory while training.

    Raises:
        DataError: If it cannot be read, naming the file.
    """
    try:
        pixels = read_radiograph(path).pixels
    except CxrDemoError as error:
        raise DataError(f"{path}: {error} Mend the file, or take it out of the index.") from error
    return np.asarray(np.rint(pixels * 255.0), np.uint8)


def read_all(cases: Sequence[Case], read: Callable[[Case], Kept]) -> list[Kept]:
    """What a reader makes of every case, several at a time, with a progress bar.

    Raises:
        DataError: Whatever the reader raises of the first bad case; the others are not awaited.
    """
    with ThreadPoolExecutor() as pool:
        try:
            return list(tqdm(pool.map(read, cases), total=len(cases), unit="image", disable=None))
        finally:
            pool.shutdown(cancel_futures=True)


def shrink(pixels: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """The image, made smaller if its longer side exceeds a limit."""
    if max(pixels.shape) <= longest:
        return pixels
    scale = longest / max(pixels.shape)
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def fit_mask(mask: NDArray[np.bool_], hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask at another size."""
    if mask.shape == hw:
        return mask
    grey = cv2.resize(mask.astype(np.float32), (hw[1], hw[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(grey >= 0.5)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask file as bool (H, W), of any of the kinds that people keep masks in.

    Grey values up to `HIGHEST_NUMBER` are numbers of labels, so that everything but 0 is lung, as
    in files of 0 and 1 or of `Side` values; likewise the indices of a palette of colours. Elsewhere
    it is the brightest channel that counts: of two values the higher one is lung, of more what lies
    above the middle of the file's range.

    Raises:
        DataError: If the file is no image or the mask is empty.
    """
    try:
        with Image.open(io.BytesIO(load(path)), formats=_MASK_FORMATS) as picture:
            mask = _lung_pixels(picture)
    except Exception as error:  # of broken bytes decoders raise anything at all
        raise DataError(
            f"The mask {path} cannot be read. Mend it, or take it and its image out of the set."
        ) from error
    if not mask.any():
        raise DataError(
            f"The mask {path} is empty. Lungs must be bright, or numbered from 1. Mend it, or take "
            "it and its image out of the set."
        )
    return mask


def _lung_pixels(picture: Image.Image) -> NDArray[np.bool_]:
    if picture.mode == "P":
        colours = np.asarray(picture.convert("RGB"))
        if (colours.min(axis=2) != colours.max(axis=2)).any():
            return np.asarray(picture) > 0
        picture = picture.convert("L")
    elif picture.mode not in ("1", "L", "I", "F") and not picture.mode.startswith("I;16"):
        picture = picture.convert("RGB")
    values = np.asarray(picture)
    if values.dtype == bool:
        return values
    if values.ndim == 3:
        values = values.max(axis=2)
    lowest, highest = float(values.min()), float(values.max())
    if highest <= HIGHEST_NUMBER:
        return np.asarray(values > 0)
    is_highest = np.asarray(values == highest)
    if lowest < highest and np.all(is_highest | (values == lowest)):
        return is_highest
    return np.asarray(values > (127 if highest <= 255 else 32767))
