"""What every decoder shares: sizes, errors, and and the way from pixels to a `Radiograph`."""

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.config import disable_value_validation

from cxrdemo.errors import CxrDemoError, UnreadableImageError, UnsupportedImageError
from cxrdemo.files.journal import Journal
from cxrdemo.radiograph import MIN_READABLE_PX, Radiograph, Source, View

MAX_PIXELS: Final = 100_000_000
"""Five times the largest flat-panel detector (about 20 megapixels), and 400 MB as float32."""

# The switches for warnings and for pydicom's validation are global, so that two threads which turn
# them at once may leave them turned for ever.
_LIBRARY_LOCK: Final = threading.Lock()


@contextmanager
def decoding(kind: str) -> Iterator[list[warnings.WarningMessage]]:
    """Collects the warnings of a decoder and turns whatever it raises into our own error."""
    # pydicom's validation would write the values that it finds wrong, a name perhaps, to the log.
    with _LIBRARY_LOCK, disable_value_validation(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield caught
        except CxrDemoError:
            raise
        except Image.DecompressionBombError as error:
            raise too_large() from error
        # Decoders raise anything at all on broken bytes; nothing is swallowed here.
        except Exception as error:
            raise UnreadableImageError(
                f"Expected a complete {kind} file, found one that is broken or cut short. Copy or"
                " export it again; if it opens elsewhere, save it from there as PNG."
            ) from error


def departed(caught: list[warnings.WarningMessage]) -> bool:
    """Whether a decoder warned about the file; its deprecations and size hints do not count."""
    return any(issubclass(warning.category, UserWarning) for warning in caught)


def check_size(height: int, width: int) -> None:
    """Refuses a picture too large for memory, or too small to show a lung."""
    if height * width > MAX_PIXELS:
        raise too_large()
    if min(height, width) < MIN_READABLE_PX:
        raise UnsupportedImageError(
            f"Expected an image of at least {MIN_READABLE_PX} pixels a side, found {width} x"
            f" {height}. Use the original, not a thumbnail."
        )


def too_large() -> UnsupportedImageError:
    """The error for a picture of more than `MAX_PIXELS`."""
    return UnsupportedImageError(
        f"Expected an image of at most {MAX_PIXELS // 1_000_000} megapixels, found a larger one."
        " Export the radiograph at its native resolution."
    )


def to_radiograph(
    pixels: NDArray[np.float32],
    journal: Journal,
    *,
    kind: str,
    bit_depth: int,
    colourfulness: float,
    tags: Mapping[str, str] = MappingProxyType({}),
    spacing_mm: tuple[float, float] | None = None,
    view: View | None = None,
) -> Radiograph:
    """Pixels in 0..1 as a radiograph that carries its journal."""
    if pixels.min() == pixels.max():
        journal.remark("The image contains no contrast: every pixel has the same value.")
    source = Source(
        kind, bit_depth, tuple(journal.steps), tags, tuple(journal.remarks), colourfulness
    )
    return Radiograph(np.ascontiguousarray(pixels, np.float32), spacing_mm, view, source)
