"""Pixels of training images and masks, read as the app reads them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cxrdemo.errors import CxrDemoError
from cxrdemo.files import read_radiograph
from training.errors import DataError

Case = TypeVar("Case")
Kept = TypeVar("Kept")


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
    """A mask file as bool (H, W): set where the grey value is above the middle.

    Raises:
        DataError: If the file is no image or the mask is empty.
    """
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise DataError(f"The mask {path} cannot be read. Mend it, or take it out of the index.")
    mask = np.asarray(grey) > 127
    if not mask.any():
        raise DataError(f"The mask {path} is empty. Remove it from the index.")
    return mask
