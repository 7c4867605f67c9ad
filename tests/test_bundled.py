"""The checkpoints in the repository, as a user gets them."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxrdemo import ui
from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.examples import EXAMPLES, Example, draw_example
from cxrdemo.files import read_radiograph
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.lesions import KINDS
from cxrdemo.phantom import Phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import ALL_MASKINGS, Analysis, MaskingMode
from training.reports.cards import make_card

FOLDER = Path(ui.__file__).parent / "examples"
BUNDLED = Path(__file__).resolve().parent.parent / "checkpoints"


def test_there_is_a_segmenter_and_a_classifier_for_each_masking(bundled_pipeline: Pipeline) -> None:
    assert bundled_pipeline.is_complete
    for mode in ALL_MASKINGS:
        spec = bundled_pipeline.classifier_spec(mode)
        assert spec is not None
        assert tuple(label.key for label in spec.labels) == FINDING_KEYS


def test_every_figure_has_its_n_its_interval_and_a_place_in_the_card() -> None:
    for spec in CheckpointStore.open(BUNDLED).specs:
        assert spec.metrics
        for name, figure in spec.metrics.items():
            # Resampling raises a calibration error, so its own value may lie below the interval.
            assert figure.low <= figure.value or name.startswith("ece_")
            assert figure.value <= figure.high
            assert figure.n > 0
        # Cards are made from the manifest; one typed by hand would differ.
        card = (BUNDLED / f"{spec.name}.md").read_text(encoding="utf-8")
        assert card == make_card(spec)
        for label in spec.labels:
            names = [point.name for point in label.points]
            assert names == ["balanced", "high sensitivity", "high specificity"]
            for point in label.points:
                assert point.sensitivity is not None
                assert point.specificity is not None


def test_the_masking_changes_mask_classifier_and_numbers(
    bundled_pipeline: Pipeline, phantom: Phantom
) -> None:
    analysis = bundled_pipeline.analyse(phantom.radiograph)
    readings = [analysis.readings[mode] for mode in ALL_MASKINGS]
    kept = [reading.kept.mean() for reading in readings]
    assert kept[0] == 1.0 > kept[1] > kept[2] > 0.05
    names = {bundled_pipeline.classifier_spec(mode).name for mode in ALL_MASKINGS}  # type: ignore[union-attr]
    assert len(names) == 3
    probabilities = [reading.findings.probabilities for reading in readings]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(probabilities[one] - probabilities[other]).max() > 1e-3


@pytest.mark.parametrize("row", range(3))
def test_real_images_have_plausible_lungs(
    bundled_pipeline: Pipeline, data_folder: Path, row: int
) -> None:
    with (data_folder / "lungs" / "index.csv").open(newline="") as stream:
        tests = [case for case in csv.DictReader(stream) if case["split"] == "test"]
    case = tests[row * len(tests) // 3]
    image = next((data_folder / "lungs" / "images").glob(f"{case['name']}.*"))
    lungs = bundled_pipeline.find_lungs(read_radiograph(image))
    assert lungs.quality.is_plausible, lungs.quality


WITH_LESION = [example for example in EXAMPLES if example.lesion]
SHORTCUT = EXAMPLES[-1]


def called(analysis: Analysis, mode: MaskingMode, key: str) -> bool | None:
    return analysis.verdict(mode, FINDING_KEYS.index(key))


def test_nothing_is_made_of_the_example_without_a_lesion(bundled_pipeline: Pipeline) -> None:
    analysis = bundled_pipeline.analyse(read_radiograph(FOLDER / EXAMPLES[0].name))
    assert analysis.doubts == ()
    assert not any(called(analysis, MaskingMode.NONE, key) for key in FINDING_KEYS)
    for mode in ALL_MASKINGS:
        found = analysis.readings[mode].findings
        probabilities = dict(zip(found.labels, found.probabilities, strict=True))
        assert max(probabilities["Mass"], probabilities["Nodule"]) < 0.1


@pytest.mark.parametrize("example", WITH_LESION, ids=lambda example: example.name)
def test_what_is_planted_in_an_example_is_called_where_it_is_seen(
    bundled_pipeline: Pipeline, example: Example
) -> None:
    """The hottest cell lies on it. Beside the lungs it is called in the whole image alone."""
    assert example.lesion is not None
    key = KINDS[example.lesion].key
    index = FINDING_KEYS.index(key)
    analysis = bundled_pipeline.analyse(read_radiograph(FOLDER / example.name))
    assert analysis.doubts == ()
    planted = np.array(example.centre) * example.side_px
    for mode, reading in analysis.readings.items():
        if example == SHORTCUT and mode is not MaskingMode.NONE:
            assert called(analysis, mode, key) is False
            assert reading.findings.probabilities[index] < 0.1
            continue
        # The weights for whole images were not shown to know nodules, so no verdict is given.
        assert called(analysis, mode, key) is (None if key == "Nodule" and mode == "none" else True)
        if example == SHORTCUT or mode is not MaskingMode.NONE:
            assert reading.findings.probabilities[index] > 0.2
        place = reading.places[index]
        assert place.hottest_in_lungs is (example != SHORTCUT)
        cell = example.side_px / reading.saliency[index].grid.shape[0]
        assert np.abs(np.array(place.hottest) - planted).max() <= cell
    # What the examples' stories tell besides.
    whole = analysis.readings[MaskingMode.NONE]
    if key == "Nodule":
        assert called(analysis, MaskingMode.NONE, "Mass") is True
        place = whole.places[FINDING_KEYS.index("Mass")]
        assert np.abs(np.array(place.hottest) - planted).max() <= cell
    elif example != SHORTCUT:
        scores = [analysis.readings[mode].findings.probabilities[index] for mode in ALL_MASKINGS]
        assert scores == sorted(scores)


def test_the_shortcut_is_what_fools_the_whole_image(bundled_pipeline: Pipeline) -> None:
    plain = draw_example(replace(SHORTCUT, lesion=None)).radiograph
    analysis = bundled_pipeline.analyse(plain, maskings=(MaskingMode.NONE,))
    assert called(analysis, MaskingMode.NONE, "Mass") is False
