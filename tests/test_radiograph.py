import numpy as np
import pytest

from cxrdemo.radiograph import Radiograph

GOOD = np.full((80, 70), 0.5, np.float32)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (GOOD.astype(np.float64), "float32"),
        (GOOD[None], "float32"),
        (GOOD[:, :63], "at least 64"),
        (GOOD + 0.6, r"0\.\.1"),
        (GOOD - 0.6, r"0\.\.1"),
        (np.where(GOOD > 0, np.float32("nan"), GOOD), r"0\.\.1"),
    ],
)
def test_the_pixel_contract_is_checked(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Radiograph(pixels)


def test_spacing_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        Radiograph(GOOD, spacing_mm=(0.1, 0.0))


def test_pixels_are_read_only_and_the_callers_array_stays_writeable() -> None:
    mine = GOOD.copy()
    radiograph = Radiograph(mine)
    with pytest.raises(ValueError, match="read-only"):
        radiograph.pixels[0, 0] = 1.0
    mine[0, 0] = 0.25
    assert radiograph.hw == (80, 70)
