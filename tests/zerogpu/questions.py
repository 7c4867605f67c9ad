"""Asks a rented pipeline what it asks a plain one, and compares. Run by tests/test_zerogpu.py.

The plain one is asked first, here: so a fork finds the worker's thread, and those of the libraries,
in use and gone.
"""

import numpy as np
import pytest
import spaces
from fakes import noise_radiograph, tiny_classifier, tiny_segmenter

from cxrdemo.errors import BusyError, NoLungsFoundError, PromptError
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import ALL_MASKINGS, Analysis, LungMask, Probes
from cxrdemo.ui.zerogpu import RentedPipeline

MARGINS = (0.05, 0.1)


def parts() -> tuple:
    return tiny_segmenter(), {mode: tiny_classifier(mode, pooling="kept") for mode in ALL_MASKINGS}


def same_lungs(one: LungMask, other: LungMask) -> None:
    np.testing.assert_array_equal(one.sides, other.sides)
    np.testing.assert_array_equal(one.logits, other.logits)


def same_analysis(one: Analysis, other: Analysis) -> None:
    assert one.readings.keys() == other.readings.keys() == set(ALL_MASKINGS)
    for mode, reading in one.readings.items():
        np.testing.assert_array_equal(
            reading.findings.probabilities, other.readings[mode].findings.probabilities
        )
        for here, there in zip(reading.saliency, other.readings[mode].saliency, strict=True):
            np.testing.assert_array_equal(here.grid, there.grid)
    assert one.checkpoints == other.checkpoints
    assert one.warnings == other.warnings


def same_probes(one: list[Probes], other: list[Probes]) -> None:
    assert len(one) == len(other) == 1 + len(MARGINS)
    for (_, here), (_, there) in zip(one[-1].curve, other[-1].curve, strict=True):
        np.testing.assert_array_equal(here.probabilities, there.probabilities)


def main() -> None:
    image = noise_radiograph(hw=(900, 800))
    lungs = np.zeros(image.hw, np.uint8)
    lungs[200:700, 100:350], lungs[200:700, 450:700] = 1, 2
    plain, rented = Pipeline(*parts()), RentedPipeline(*parts())
    rented.device = "cpu"

    found, lent = plain.find(image), rented.find(image)
    same_lungs(found.lungs, lent.lungs)
    click = {"click": (200.0, 400.0)}
    same_lungs(plain.correct(found, **click).lungs, rented.correct(lent, **click).lungs)
    mask = LungMask(lungs, found.lungs.quality, found.lungs.logits)
    same_analysis(plain.analyse(image, lungs=mask), rented.analyse(image, lungs=mask))
    same_probes(list(plain.probe(image, mask, MARGINS)), list(rented.probe(image, mask, MARGINS)))
    assert rented.side_by_side(lambda each: each.hw, [image]) == [image.hw]

    with pytest.raises(PromptError, match="outside the image of 800 x 900"):
        rented.correct(lent, click=(5000.0, 0.0))
    empty = LungMask(np.zeros(image.hw, np.uint8), mask.quality, mask.logits)
    with pytest.raises(NoLungsFoundError, match="No lungs were found"):
        rented.analyse(image, lungs=empty, maskings=ALL_MASKINGS[1:])
    if not hasattr(spaces, "forks"):
        return  # the real package, which elsewhere than on ZeroGPU forks nothing
    assert len(set(spaces.forks)) == 6, "each question has a fork of its own"
    # Whatever else goes wrong there is told as ZeroGPU tells it.
    with pytest.raises(BusyError, match=r"The shared GPU gave no answer\. ValueError"):
        rented.analyse(image, maskings=())
    rented.device = "cuda:7"
    with pytest.raises(BusyError, match="gave no answer"):
        rented.find(image)


if __name__ == "__main__":
    main()
