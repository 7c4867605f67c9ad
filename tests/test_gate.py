"""The gate on what it must refuse and on what it must let through; docs/gate.md has the figures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate import from_grey, real_images, refusals, wrong_inputs, wrong_masks
from cxrdemo.errors import GridMismatchError
from cxrdemo.gate import check
from cxrdemo.phantom import Phantom, make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.radiograph import Radiograph

NOT_A_CHEST = {"not-a-chest-x-ray", "inverted", "rotated", "lateral", "clipped", "mask"}
"""What has no lungs may be refused for any of these; it is refused."""

EXPECTED = {
    "photograph in colour": {"colour"},
    "X-ray in false colours": {"colour"},
    "thumbnail of 128 px": {"small"},
    "blank": {"dark"},
    "page of text": {"not-a-chest-x-ray"},
    "chart": {"dark", "not-a-chest-x-ray"},
    "noise": {"not-a-chest-x-ray"},
    "header says lateral": {"lateral"},
    "lateral-looking drawing": {"lateral"},
    "phantom: grey values inverted": {"inverted"},
    "phantom: turned by 90 degrees, head left": {"rotated"},
    "phantom: turned by 90 degrees, head right": {"rotated"},
    "phantom: upside down": {"rotated"},
    "phantom: tilted by 30 degrees": {"rotated"},
    "phantom: a quarter cut off at one side": {"clipped"},
    "phantom: cut above the diaphragms": {"clipped"},
    "phantom: too dark": {"dark"},
    "phantom: over-exposed": {"dark"},
    "mask: empty": {"not-a-chest-x-ray"},
    "mask: a speck": {"not-a-chest-x-ray"},
    "mask: one lung": {"lateral"},
    "mask: right, but rated low": {"mask"},
}


@pytest.mark.checkpoints
def test_every_wrong_input_is_refused_for_its_reason(bundled_pipeline: Pipeline) -> None:
    for name, radiograph in wrong_inputs(seed=0):
        # Most pictures need no look for lungs, which is what takes time.
        doubts = check(radiograph, None) or check(
            radiograph, bundled_pipeline.find_lungs(radiograph)
        )
        assert doubts, name
        assert doubts[0].kind in EXPECTED.get(name, NOT_A_CHEST), name
        assert len(doubts[0].message.split()) > 8


def test_every_wrong_mask_is_refused_for_its_reason() -> None:
    for name, radiograph, lungs in wrong_masks(seed=0):
        doubts = check(radiograph, lungs)
        assert doubts, name
        assert doubts[0].kind in EXPECTED.get(name, NOT_A_CHEST), name


@pytest.mark.checkpoints
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_upright_phantom_is_accepted(bundled_pipeline: Pipeline, seed: int) -> None:
    radiograph = make_phantom(seed=seed, hw=(640, 640)).radiograph
    assert check(radiograph, bundled_pipeline.find_lungs(radiograph)) == ()


def test_without_a_segmenter_only_pixels_and_header_are_judged(phantom: Phantom) -> None:
    assert check(phantom.radiograph, None) == ()
    (doubt,) = check(replace(phantom.radiograph, view="LATERAL"), None)
    assert doubt.kind == "lateral"
    (doubt,) = check(from_grey(phantom.radiograph.pixels[:100]), None)
    assert doubt.kind == "small"


def test_colour_is_a_doubt_from_a_share_of_a_tenth(phantom: Phantom) -> None:
    def coloured(share: float) -> Radiograph:
        source = replace(phantom.radiograph.source, colourfulness=share)
        return replace(phantom.radiograph, source=source)

    assert check(coloured(0.09), None) == ()
    (doubt,) = check(coloured(0.5), None)
    assert doubt.kind == "colour"
    assert "50%" in doubt.message


def test_a_mask_of_another_size_is_an_error() -> None:
    _, radiograph, lungs = next(wrong_masks(seed=0))
    smaller = from_grey(np.ascontiguousarray(radiograph.pixels[:, :600]))
    with pytest.raises(GridMismatchError):
        check(smaller, lungs)


@pytest.mark.real_data
@pytest.mark.checkpoints
def test_few_real_images_are_refused(bundled_pipeline: Pipeline, data_folder: Path) -> None:
    paths = sorted(real_images(data_folder)["NIH ChestX-ray14, test"])[::15]
    assert len(paths) >= 20
    assert len(refusals(bundled_pipeline, paths)) <= 2
