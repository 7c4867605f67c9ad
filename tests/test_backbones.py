from pathlib import Path

import pytest
import timm
import torch
import torchvision
from fakes import all_of, noise_radiograph, tiny_classifier, tiny_resnet
from torch import nn
from torchvision.models import resnet50

from cxrdemo.backbones import (
    ARCHITECTURES,
    activations_of,
    build_network,
    grid_of,
    head_gradients,
    keep_outputs,
    later_layers,
    logits_of,
    output_layer,
    pooled,
)
from cxrdemo.checkpoints import load_strictly, read_weights
from cxrdemo.errors import CheckpointError
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


def test_weights_of_one_change_no_bit() -> None:
    network = tiny_resnet()
    images = torch.rand(2, 3, 96, 64)
    with torch.inference_mode():
        activations = activations_of(network, images)
        for ones in (torch.ones(3, 2), torch.ones(2, 1, 3, 2)):
            assert torch.equal(logits_of(network, activations, ones), network(images))


def test_a_mean_over_one_cell_is_that_cell() -> None:
    activations = torch.rand(2, 5, 3, 2)
    weights = torch.zeros(2, 1, 3, 2)
    weights[0, 0, 2, 1] = weights[1, 0, 0, 0] = 0.2
    means = pooled(activations, weights).flatten(1)
    torch.testing.assert_close(means[0], activations[0, :, 2, 1])
    torch.testing.assert_close(means[1], activations[1, :, 0, 0])


def test_the_dilated_network_has_twice_the_cells_from_the_same_weights() -> None:
    plain, dilated = (build_network(name, 5).eval() for name in ("resnet50", "resnet50-dilated"))
    load_strictly(dilated, plain.state_dict(), "resnet50")
    assert grid_of(plain, (64, 96)) == (2, 3)
    assert grid_of(dilated, (64, 96)) == (4, 6)
    assert not dilated.training
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(logits_of(dilated, activations_of(dilated, images)), dilated(images))


def test_keep_outputs_picks_rows_of_the_head_in_order() -> None:
    network = tiny_resnet(outputs=7)
    small = tiny_resnet(outputs=2)
    small.load_state_dict(keep_outputs(network.state_dict(), [5, 1]))
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(small(images)[0], network(images)[0, [5, 1]])


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
    pixels = noise_radiograph().pixels
    _, evidence = classifier.classify(pixels, all_of(pixels))
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
