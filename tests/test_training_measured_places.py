"""The measures of places, on a classifier that sees brightness and nothing else."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import findings_spec, tiny_classifier
from test_training_places import case
from torch import Tensor, nn

from cxrdemo.classifier import FindingClassifier
from cxrdemo.inputs import KEPT_MEAN
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.phantom import make_phantom
from cxrdemo.placement import Placement
from cxrdemo.results import GRAD_CAM, MaskingMode, SaliencyMap
from cxrdemo.specs import Estimate
from training.images.stored_masks import mask_path
from training.measures.calibration import calibrate
from training.measures.places import (
    CONTRASTS,
    box_figures,
    lies_on,
    place_figures,
    plant_lesions,
    planted_figures,
)
from training.reports.cards import make_card
from training.sets.boxes import Box
from training.sets.index import FindingCase

IMAGES = 6


class Brightness(nn.Module):
    """Cells of 8 x 8 px; every finding's evidence is how much brighter a cell is than the grey."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(8)
        self.classifier = nn.Linear(3, len(FINDING_KEYS))
        nn.init.constant_(self.classifier.weight, gain)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean((2, 3)))
        return logits


def classifier(mode: MaskingMode, gain: float = 3.0) -> FindingClassifier:
    spec = findings_spec(mode, size=64)
    inputs = replace(spec.inputs, fill=KEPT_MEAN, mean=(0.3,) * 3, std=(0.1,) * 3)
    return FindingClassifier(replace(spec, inputs=inputs, pooling="kept"), Brightness(gain))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One even grey and a phantom's lungs, under several names."""
    path = tmp_path_factory.mktemp("grey")
    lungs = make_phantom(seed=0, hw=(128, 128)).lungs
    for number in range(IMAGES):
        cv2.imwrite(str(path / f"{number}.png"), np.full((128, 128), 77, np.uint8))
        target = mask_path(path / "masks", f"{number}.png")
        target.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(target), lungs)
    return path


def cases(folder: Path, **labels: int) -> list[FindingCase]:
    return [case(f"{n}.png", folder / f"{n}.png", **labels) for n in range(IMAGES)]


def test_a_hit_lies_in_the_region_or_within_half_a_cell() -> None:
    placement = Placement.letterbox((128, 128), (64, 64))
    region = np.zeros((128, 128), bool)
    region[40:60, 40:60] = True
    for row, column, expected in ((2, 2, True), (3, 3, True), (3, 1, False), (7, 7, False)):
        grid = np.zeros((8, 8), np.float32)
        grid[row, column] = 1  # a cell is 16 px of the image; its centre (8 + 16 column, ...)
        assert lies_on(SaliencyMap("Mass", GRAD_CAM, grid, placement), region) is expected
    empty = SaliencyMap("Mass", GRAD_CAM, np.zeros((8, 8), np.float32), placement)
    assert not lies_on(empty, region)


@pytest.mark.parametrize("mode", list(MaskingMode))
def test_who_sees_brightness_finds_every_lesion(folder: Path, mode: MaskingMode) -> None:
    trials = plant_lesions(classifier(mode), cases(folder), folder / "masks", images=4)
    figures = planted_figures(trials, resamples=50)
    for key in ("Mass", "Nodule"):
        assert figures[f"planted_hit_{key}"].n == 4
        assert figures[f"planted_rise_{key}"].value > 0
        assert figures[f"control_rise_{key}"].n == 4
    assert figures["planted_hit_Mass"].value == 1
    assert figures["planted_rise_Mass"].value > figures["planted_rise_Nodule"].value
    faint, strong = (
        [figures[f"planted_rise at contrast {c:g}, {size}_Mass"].value
         for size in ("small", "large")
         if f"planted_rise at contrast {c:g}, {size}_Mass" in figures]
        for c in CONTRASTS
    )  # fmt: skip
    assert all(a < b for a, b in zip(faint, strong, strict=True))
    if mode is MaskingMode.TIGHT:
        assert figures["control_rise_Mass"].value == 0, "what is removed cannot be seen"
    if mode is MaskingMode.NONE:
        assert figures["control_rise_Mass"].value > 0, "and this classifier knows no lungs"


def test_who_sees_nothing_finds_nothing(folder: Path) -> None:
    trials = plant_lesions(classifier(MaskingMode.LOOSE, 0.0), cases(folder), folder / "masks")
    assert len({trial.patient for trial in trials}) == IMAGES
    figures = planted_figures(trials, resamples=20)
    assert figures["planted_hit_Mass"] == Estimate(0, 0, 0, IMAGES)
    assert figures["planted_rise_Mass"].value == 0


def test_images_with_such_a_finding_or_without_lungs_get_none(folder: Path, tmp_path: Path) -> None:
    one = classifier(MaskingMode.NONE)
    assert not plant_lesions(one, cases(folder, Mass=1), folder / "masks")
    assert planted_figures([]) == {}
    for number in range(IMAGES):
        cv2.imwrite(str(mask_path(tmp_path, f"{number}.png")), np.zeros((128, 128), np.uint8))
    assert not plant_lesions(one, cases(folder), tmp_path)


def test_a_call_counts_as_crossing_only_where_there_was_none(folder: Path) -> None:
    one = classifier(MaskingMode.TIGHT)

    def calling_from(threshold: float) -> FindingClassifier:
        labels = tuple(replace(label, threshold=threshold) for label in one.spec.labels)
        return FindingClassifier(replace(one.spec, labels=labels), one.network)

    # Just above what it says of an even grey.
    before, _ = one.classify(np.full((128, 128), 77 / 255, np.float32), np.ones((128, 128), bool))
    barely = calling_from(float(before.probabilities.max()) + 1e-4)
    trials = plant_lesions(barely, cases(folder), folder / "masks", images=2)
    assert {t.crossed for t in trials if t.key == "Mass" and t.is_inside} == {1.0}
    assert {t.crossed for t in trials if not t.is_inside} == {0.0}
    already = calling_from(0.0)
    trials = plant_lesions(already, cases(folder), folder / "masks", images=2)
    assert all(np.isnan(trial.crossed) for trial in trials)
    figures = place_figures(
        already, cases(folder), folder / "masks", boxes=None, images=2, resamples=5
    )
    assert "planted_crossing_Mass" not in figures
    assert figures["planted_hit_Mass"].n == 2


def test_the_pointing_game_has_exact_intervals_and_its_chance(folder: Path, tmp_path: Path) -> None:
    picture = np.full((128, 128), 77, np.uint8)
    picture[32:48, 80:96] = 200
    cv2.imwrite(str(tmp_path / "b.png"), picture)
    (tmp_path / "masks").mkdir()
    lungs = np.ones((128, 128), np.uint8)
    cv2.imwrite(str(mask_path(tmp_path / "masks", "b.png")), lungs)
    on, off = (Box("Pneumonia", x / 128, y / 128, 0.125, 0.125) for x, y in ((80, 32), (0, 112)))
    figures = box_figures(
        classifier(MaskingMode.NONE),
        [case("b.png", tmp_path / "b.png", Pneumonia=1)],
        tmp_path / "masks",
        {"b.png": (on, off, Box("Cardiomegaly", 0, 0, 0.5, 0.5))},
    )
    assert set(figures) == {"box_hit_Pneumonia", "box_chance_Pneumonia"}
    hit = figures["box_hit_Pneumonia"]
    assert (hit.value, hit.n) == (0.5, 2)
    assert hit.low == pytest.approx(0.0126, abs=1e-3)  # Clopper and Pearson's
    # A box of one cell: itself and the four that touch its edges.
    chance = figures["box_chance_Pneumonia"]
    assert chance.high == pytest.approx(5 / 64)
    assert chance.low == pytest.approx(3 / 64)


def test_a_card_tells_places(folder: Path) -> None:
    one = tiny_classifier(MaskingMode.TIGHT, pooling="kept")
    figures = place_figures(one, cases(folder), folder / "masks", boxes=None, images=2, resamples=5)
    heat = {f"hottest_in_lungs_{key}": Estimate(1, 0.9, 1, 7) for key in (*FINDING_KEYS, "macro")}
    card = make_card(replace(one.spec, metrics={**heat, **figures}))
    assert "## Where the heat lies" in card
    assert "| Mass | all, contrast 0.45 |" in card
    assert "| Nodule | contrast 0.2, " in card
    assert make_card(one.spec).count("Where the heat lies") == 0


def test_operating_points_rise_with_what_they_are_named_for() -> None:
    from test_training_evaluate import outputs

    for seed in range(12):
        for label in calibrate(outputs(n=120, seed=seed)):
            by_name = {point.name: point.threshold for point in label.points}
            assert by_name.get("high sensitivity", label.threshold) <= label.threshold
            assert by_name.get("high specificity", label.threshold) >= label.threshold
