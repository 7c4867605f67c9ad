import pickle
from types import MappingProxyType

import numpy as np
import pytest

from cxrdemo.errors import RemedyError
from cxrdemo.radiograph import Radiograph, Remedy, Source, remedied

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


def test_a_radiograph_can_be_sent_to_another_process() -> None:
    source = Source("DICOM", 12, tags=MappingProxyType({"View": "PA"}), window=(0.0, 4095.0))
    sent = pickle.loads(pickle.dumps(Radiograph(GOOD, (0.2, 0.2), "PA", source)))
    np.testing.assert_array_equal(sent.pixels, GOOD)
    assert (sent.spacing_mm, sent.view, sent.source) == ((0.2, 0.2), "PA", source)
    with pytest.raises(TypeError):
        sent.source.tags["View"] = "AP"


MARKED = np.zeros((100, 80), np.float32)
MARKED[0, 0] = 1.0  # the upper left corner
MARKED[20:30, 10:40] = 0.25
SEEN = Radiograph(MARKED, (0.1, 0.2), "PA", Source("PNG", 8, ("Decoded PNG",)))


@pytest.mark.parametrize(
    ("name", "hw", "corner", "spacing"),
    [
        ("turn-right", (80, 100), (0, 99), (0.2, 0.1)),
        ("turn-half", (100, 80), (99, 79), (0.1, 0.2)),
        ("turn-left", (80, 100), (79, 0), (0.2, 0.1)),
        ("mirror", (100, 80), (0, 79), (0.1, 0.2)),
        ("turn-right+mirror", (80, 100), (0, 0), (0.2, 0.1)),
        ("crop-0-0-70-64", (64, 70), (0, 0), (0.1, 0.2)),
        ("crop-0-0-70-64+turn-left", (70, 64), (69, 0), (0.2, 0.1)),
    ],
)
def test_a_remedy_moves_every_pixel_and_says_so(
    name: str, hw: tuple[int, int], corner: tuple[int, int], spacing: tuple[float, float]
) -> None:
    remedy = Remedy.parse(name)
    assert str(remedy) == name
    after = remedied(SEEN, remedy)
    assert after.hw == hw
    assert np.argwhere(after.pixels == 1.0).tolist() == [list(corner)]
    assert (after.pixels == 0.25).sum() == 300
    assert after.pixels.flags.c_contiguous
    assert after.spacing_mm == spacing
    assert after.view == "PA"
    assert after.source.steps[0] == "Decoded PNG"
    assert len(after.source.steps) == 2 + name.count("+")
    assert SEEN.source.own_grid
    assert not after.source.own_grid
    assert SEEN.source.steps == ("Decoded PNG",)


def test_inverting_keeps_the_grid() -> None:
    after = remedied(SEEN, Remedy.parse("invert"))
    np.testing.assert_array_equal(after.pixels, 1 - MARKED)
    assert after.source.own_grid
    assert after.source.steps[-1] == "Inverted dark and bright, as you asked"


def test_four_quarter_turns_and_two_mirrors_are_nothing() -> None:
    after = SEEN
    for name in ("turn-right", "turn-right", "mirror", "turn-half", "mirror"):
        after = remedied(after, Remedy.parse(name))
    np.testing.assert_array_equal(after.pixels, MARKED)


@pytest.mark.parametrize(
    "name",
    [
        "", "turn", "turn-45", "mirror+mirror", "turn-left+turn-right", "crop-1-2-3",
        "crop-9-9-9-99", "crop--1-0-70-70",
        "crop-0-0-1e3-70", "crop-0-0-9999999-70", "mirror+", "invert ", "MIRROR",
    ],
)  # fmt: skip
def test_what_names_no_remedy_is_refused(name: str) -> None:
    with pytest.raises(RemedyError, match=r"^Expected"):
        Remedy.parse(name)


@pytest.mark.parametrize(
    "box", [(0, 0, 81, 100), (0, 0, 80, 101), (0, 0, 63, 100), (0, 40, 80, 100)]
)
def test_a_crop_stays_inside_and_large_enough(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(RemedyError, match=r"^Expected a box"):
        remedied(SEEN, Remedy(crop=box))
