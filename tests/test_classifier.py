from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from fakes import findings_spec, noise_radiograph, tiny_classifier, tiny_resnet
from torch import nn
from torchvision.models import resnet50

from cxrdemo.checkpoints import Estimate, load_strictly, read_weights
from cxrdemo.classifier import (
    ARCHITECTURES,
    FindingClassifier,
    activations_of,
    build_network,
    head_gradients,
    keep_outputs,
    later_layers,
    logits_of,
    output_layer,
)
from cxrdemo.errors import CheckpointError
from cxrdemo.masking import apply_mask
from cxrdemo.results import MaskingMode


def test_logits_equal_torchvisions_forward_exactly() -> None:
    network = tiny_resnet()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        ours = logits_of(network, activations_of(network, images))
        assert torch.equal(ours, network(images))


def test_a_torchvision_state_dict_loads(tmp_path: Path) -> None:
    theirs = resnet50(weights=None, num_classes=5)
    torch.save(theirs.state_dict(), tmp_path / "resnet50-abcd1234.pth")
    ours = ARCHITECTURES["resnet50"](5)
    load_strictly(ours, read_weights(tmp_path / "resnet50-abcd1234.pth"), "resnet50")
    assert torch.equal(ours.layer4[2].conv3.weight, theirs.layer4[2].conv3.weight)


@pytest.mark.parametrize("mode", [MaskingMode.LOOSE, MaskingMode.TIGHT])
def test_pixels_outside_the_kept_region_cannot_change_a_logit(mode: MaskingMode) -> None:
    classifier = tiny_classifier(mode)
    pixels = noise_radiograph(hw=(150, 130)).pixels
    kept = np.zeros(pixels.shape, bool)
    kept[30:120, 20:61] = kept[33:117, 70:111] = True
    fill = classifier.spec.inputs.fill
    other = np.where(kept, pixels, np.random.default_rng(9).random(pixels.shape, np.float32))
    first, _ = classifier.classify(apply_mask(pixels, kept, fill=fill))
    second, _ = classifier.classify(apply_mask(other, kept, fill=fill))
    assert first.logits.tobytes() == second.logits.tobytes()
    unmasked, _ = classifier.classify(other)
    assert unmasked.logits.tobytes() != first.logits.tobytes(), "the network looks at nothing"


def test_probabilities_are_platt_scaled_logits() -> None:
    classifier = tiny_classifier(MaskingMode.NONE)
    findings, _ = classifier.classify(noise_radiograph().pixels)
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
    findings, _ = classifier.classify(noise_radiograph().pixels)
    # Mass reaches down to chance, the last three were never measured.
    assert findings.beats_chance.tolist() == [False, True, False, False, False]


def test_keep_outputs_picks_rows_of_the_head_in_order() -> None:
    network = tiny_resnet(outputs=7)
    small = tiny_resnet(outputs=2)
    small.load_state_dict(keep_outputs(network.state_dict(), [5, 1]))
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(small(images)[0], network(images)[0, [5, 1]])


def test_a_spec_without_masking_is_refused() -> None:
    spec = replace(findings_spec(MaskingMode.NONE), masking=None)
    with pytest.raises(CheckpointError, match="names no masking"):
        FindingClassifier(spec, tiny_resnet())


@pytest.mark.parametrize(
    "architecture",
    [
        "torchvision/resnet18",
        "torchvision/densenet121",
        "torchvision/convnext_tiny",
        "torchvision/mobilenet_v3_small",
        "torchvision/regnet_y_400mf",
        "timm/resnet18",
        "timm/convnext_atto",
        "timm/efficientnet_b0",
    ],
)
def test_a_librarys_backbone_gives_its_own_logits(architecture: str) -> None:
    torch.manual_seed(0)
    network = build_network(architecture, 5).eval()
    library, _, name = architecture.partition("/")
    theirs = (
        torchvision.models.get_model(name, weights=None, num_classes=5)
        if library == "torchvision"
        else timm.create_model(name, num_classes=5)
    )
    assert network.state_dict().keys() == theirs.state_dict().keys()
    layer = network.get_submodule(output_layer(network))
    nn.init.normal_(layer.weight)
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        activations = activations_of(network, images)
        assert activations.ndim == 4
        assert activations.shape[-1] > activations.shape[-2]
        torch.testing.assert_close(logits_of(network, activations), network(images))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("unet", "names the architecture 'unet'"),
        ("timm/resnet5000", "names the architecture"),
        ("torchvision/resnet5000", "names the architecture"),
        ("timm/vit_tiny_patch16_224", "does not end in global average pooling"),
        ("torchvision/squeezenet1_1", "does not end in global average pooling"),
        ("torchvision/shufflenet_v2_x0_5", "does not end in global average pooling"),
    ],
)
def test_other_networks_are_refused_in_words(architecture: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        build_network(architecture, 5)


def test_gradients_of_a_linear_head_are_its_weights() -> None:
    classifier = tiny_classifier(MaskingMode.NONE)
    _, evidence = classifier.classify(noise_radiograph().pixels)
    found = head_gradients(classifier.network, evidence.activations)
    assert torch.equal(found, classifier.network.fc.weight)


@pytest.mark.parametrize("name", ["resnet50", "timm/convnext_atto", "torchvision/densenet121"])
def test_head_and_first_stage_keep_their_precision(name: str) -> None:
    network = build_network(name, 5)
    layers = later_layers(network)
    head = network.get_submodule(output_layer(network))
    assert head not in layers
    convolutions = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    kept = {n for n, m in convolutions.items() if m not in layers}
    first = {n for n in convolutions if n == "conv1" or n.startswith("layer1.")}
    assert kept == (first if name == "resnet50" else set())
    assert len(kept) < len(convolutions)
