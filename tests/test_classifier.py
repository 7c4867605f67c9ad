from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import LUNGS_SPEC, all_of, findings_spec, noise_radiograph, tiny_classifier, tiny_resnet

from cxrdemo.backbones import activations_of, keep_outputs
from cxrdemo.classifier import FindingClassifier
from cxrdemo.errors import CheckpointError, NoLungsFoundError
from cxrdemo.inputs import KEPT_MEAN, Fill, normalise
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.results import MaskingMode
from cxrdemo.saliency import explain
from cxrdemo.specs import Estimate, Pooling

PIXELS = noise_radiograph().pixels


def two_boxes(hw: tuple[int, int] = (150, 130)) -> np.ndarray:
    kept = np.zeros(hw, bool)
    kept[30:120, 20:61] = kept[33:117, 70:111] = True
    return kept


@pytest.mark.parametrize("mode", [MaskingMode.LOOSE, MaskingMode.TIGHT])
@pytest.mark.parametrize(
    ("pooling", "fill"), [("all", 0.0), ("all", KEPT_MEAN), ("kept", KEPT_MEAN)]
)
def test_pixels_outside_the_kept_region_change_neither_logits_nor_maps(
    mode: MaskingMode, pooling: Pooling, fill: Fill
) -> None:
    classifier = tiny_classifier(mode, size=128, pooling=pooling, fill=fill)
    pixels, kept = noise_radiograph(hw=(150, 130)).pixels, two_boxes()
    other = np.where(kept, pixels, np.random.default_rng(9).random(pixels.shape, np.float32))
    first, evidence = classifier.classify(pixels, kept)
    second, again = classifier.classify(other, kept)
    assert first.logits.tobytes() == second.logits.tobytes()
    for one, two in zip(explain(classifier, evidence), explain(classifier, again), strict=True):
        assert one.grid.tobytes() == two.grid.tobytes()
    unmasked, _ = classifier.classify(other, all_of(other))
    assert unmasked.logits.tobytes() != first.logits.tobytes(), "the network looks at nothing"


def test_pooling_over_what_was_kept_leaves_an_unmasked_square_image_alone() -> None:
    plain, kept = (tiny_classifier(MaskingMode.NONE, pooling=p) for p in ("all", "kept"))
    square = noise_radiograph(hw=(130, 130)).pixels
    first, evidence = plain.classify(square, all_of(square))
    second, other = kept.classify(square, all_of(square))
    assert first.logits.tobytes() == second.logits.tobytes()
    assert torch.equal(evidence.activations, other.activations)


def test_weights_that_lead_to_no_numbers_are_told_as_such() -> None:
    classifier = tiny_classifier(MaskingMode.NONE)
    with torch.no_grad():
        for parameter in classifier.network.parameters():
            parameter.fill_(3e38)
    with pytest.raises(CheckpointError, match="gives no numbers"):
        classifier.classify(PIXELS, all_of(PIXELS))


def test_letterbox_bars_do_not_count_where_kept_cells_are_pooled() -> None:
    classifier = tiny_classifier(MaskingMode.NONE, size=128, pooling="kept", fill=KEPT_MEAN)
    wide = noise_radiograph(hw=(70, 140)).pixels
    _, evidence = classifier.classify(wide, all_of(wide))
    assert evidence.shares is not None
    np.testing.assert_array_equal(evidence.shares.mean(axis=1), [0, 1, 1, 0])
    assert not evidence.activations[0, :, [0, 3]].any()
    assert evidence.fill == pytest.approx(wide.mean(), rel=1e-6)


def test_the_logit_is_the_mean_over_mostly_kept_cells() -> None:
    classifier = tiny_classifier(MaskingMode.TIGHT, size=128, pooling="kept", fill=0.0)
    network = classifier.network
    kept = np.zeros((128, 128), bool)
    kept[:96, 32:64] = True  # three cells as a whole
    kept[:, 64:72] = True  # a quarter of four more: they do not count
    pixels = noise_radiograph(hw=(128, 128)).pixels
    findings, _ = classifier.classify(pixels, kept)
    image = torch.from_numpy(normalise(np.where(kept, pixels, 0), classifier.spec.inputs))[None]
    with torch.inference_mode():
        cells = activations_of(network, image)[0, :, :3, 1].mean(dim=1)
        expected = network.fc(cells)
    np.testing.assert_allclose(findings.logits, expected, rtol=1e-4, atol=1e-5)


def test_nothing_kept_is_refused() -> None:
    for pooling in ("all", "kept"):
        classifier = tiny_classifier(MaskingMode.TIGHT, pooling=pooling)
        with pytest.raises(NoLungsFoundError, match="keeps nothing"):
            classifier.classify(PIXELS, ~all_of(PIXELS))


def test_pooling_over_kept_cells_needs_more_than_one_cell() -> None:
    with pytest.raises(CheckpointError, match="only one cell for an input of 32 x 32 px"):
        tiny_classifier(MaskingMode.NONE, size=32, pooling="kept")


def test_probabilities_are_platt_scaled_logits() -> None:
    classifier = tiny_classifier(MaskingMode.NONE)
    findings, _ = classifier.classify(PIXELS, all_of(PIXELS))
    expected = 1 / (1 + np.exp(-(1.2 * findings.logits.astype(np.float64) - 0.1)))
    np.testing.assert_allclose(findings.probabilities, expected, rtol=1e-6)
    assert findings.no_finding == pytest.approx(1 - expected.max())
    np.testing.assert_array_equal(findings.above, expected >= 0.5)


def test_findings_say_which_labels_were_shown_to_beat_chance() -> None:
    spec = findings_spec(MaskingMode.NONE)
    metrics = {
        "auroc_Mass": Estimate(0.55, 0.5, 0.6, 20),
        "auroc_Nodule": Estimate(0.55, 0.501, 0.6, 20),
    }
    classifier = FindingClassifier(replace(spec, metrics=metrics), tiny_resnet())
    findings, _ = classifier.classify(PIXELS, all_of(PIXELS))
    # Mass reaches down to chance, the last three were never measured.
    assert findings.beats_chance.tolist() == [False, True, False, False, False]


def test_a_spec_of_another_task_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no classifier of findings"):
        FindingClassifier(LUNGS_SPEC, tiny_resnet())


def test_findings_are_matched_by_label_whatever_the_order_of_the_outputs() -> None:
    spec, order = findings_spec(MaskingMode.NONE), [3, 0, 4, 2, 1]
    labels = tuple(
        replace(label, scale=1.0 + k, threshold=0.1 * (k + 1))
        for k, label in enumerate(spec.labels)
    )
    usual = FindingClassifier(replace(spec, labels=labels), tiny_resnet())
    network = tiny_resnet()
    network.load_state_dict(keep_outputs(network.state_dict(), order))
    shuffled = FindingClassifier(replace(spec, labels=tuple(labels[k] for k in order)), network)
    (one, first), (other, second) = (
        part.classify(PIXELS, all_of(PIXELS)) for part in (usual, shuffled)
    )
    assert one.labels == other.labels == FINDING_KEYS
    for name in ("logits", "probabilities", "thresholds"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-5)
    for expected, found in zip(explain(usual, first), explain(shuffled, second), strict=True):
        assert expected.label == found.label
        np.testing.assert_allclose(found.grid, expected.grid, rtol=1e-4, atol=1e-6)
