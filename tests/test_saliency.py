from dataclasses import replace

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from fakes import all_of, findings_spec, noise_radiograph, tiny_classifier, tiny_resnet
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from cxrdemo.backbones import activations_of, build_network, head_of, output_layer
from cxrdemo.classifier import FindingClassifier
from cxrdemo.inputs import KEPT_MEAN, normalise, place
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.masking import cell_weights
from cxrdemo.results import METHODS, MaskingMode
from cxrdemo.saliency import PACKAGE_METHODS, closed_form_grad_cam, even_map, explain
from cxrdemo.specs import Pooling

PIXELS = noise_radiograph().pixels


@pytest.fixture(scope="module")
def classifier() -> FindingClassifier:
    return tiny_classifier(MaskingMode.NONE, size=96)


@pytest.fixture(scope="module")
def others() -> dict[str, tuple[FindingClassifier, torch.nn.Module]]:
    """Other classifiers, and the layer that the package is told to look at.

    The head of a ConvNeXt holds a norm, so its gradients depend on the image.
    """
    found = {}
    for name in ("torchvision/resnet18", "timm/efficientnet_b0", "timm/convnext_atto"):
        torch.manual_seed(0)
        network = build_network(name, len(FINDING_KEYS)).eval()
        torch.nn.init.normal_(network.get_submodule(output_layer(network)).weight)
        if name.startswith("torchvision"):
            layer = network.layer4
        elif "convnext" in name:
            layer = network.stages
        else:
            layer = network.bn2
        spec = findings_spec(MaskingMode.NONE, size=96)
        found[name] = (FindingClassifier(spec, network), layer)
    return found


def package_map(
    method: type[BaseCAM],
    network: torch.nn.Module,
    images: torch.Tensor,
    label: int,
    layer: torch.nn.Module,
) -> np.ndarray:
    """The package used as its own README says, up to the point where it rescales each map."""
    raw = []

    class Spy(method):  # type: ignore[misc, valid-type]
        def get_cam_image(self, *args: object, **kwargs: object) -> np.ndarray:
            raw.append(super().get_cam_image(*args, **kwargs))
            return raw[-1]

    network.requires_grad_(True)
    with torch.inference_mode(False), Spy(network, [layer]) as cam:
        cam(images.clone(), targets=[ClassifierOutputTarget(label)])
    network.zero_grad()
    network.requires_grad_(False)
    return np.maximum(raw[0][0], 0)


def assert_parity(classifier: FindingClassifier, layer: torch.nn.Module, name: str) -> None:
    pixels = noise_radiograph(seed=4).pixels
    canvas, _ = place(pixels, classifier.spec.inputs)
    images = torch.from_numpy(normalise(canvas, classifier.spec.inputs))[None]
    _, evidence = classifier.classify(pixels, all_of(pixels))
    maps = explain(classifier, evidence, method=name)
    method = getattr(pytorch_grad_cam, PACKAGE_METHODS.get(name, "GradCAM"))
    for index, ours in enumerate(maps):
        theirs = package_map(method, classifier.network, images, index, layer)
        scale = max(1.0, float(theirs.max()))
        np.testing.assert_allclose(ours.grid, theirs, atol=1e-5 * scale)
    assert max(heat.peak for heat in maps) > 0


@pytest.mark.parametrize("name", ["Grad-CAM", *PACKAGE_METHODS])
def test_maps_agree_with_the_package_before_its_rescaling(
    classifier: FindingClassifier, name: str
) -> None:
    assert_parity(classifier, classifier.network.layer4, name)


@pytest.mark.parametrize("name", ["Grad-CAM", "Grad-CAM++", "HiResCAM"])
@pytest.mark.parametrize(
    "backbone", ["torchvision/resnet18", "timm/efficientnet_b0", "timm/convnext_atto"]
)
def test_maps_of_other_backbones_agree_with_the_package_too(
    others: dict[str, tuple[FindingClassifier, torch.nn.Module]], backbone: str, name: str
) -> None:
    assert_parity(*others[backbone], name)


def test_closed_form_sums_to_the_logit_less_the_bias() -> None:
    rng = np.random.default_rng(0)
    activations = rng.random((8, 3, 4), np.float32)
    weights = rng.random((2, 8), np.float32)  # positive, so that the ReLU changes nothing
    maps = closed_form_grad_cam(activations, weights)
    expected = weights @ activations.mean(axis=(1, 2))
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), expected, rtol=1e-5)


def kept_box(hw: tuple[int, int]) -> np.ndarray:
    kept = np.zeros(hw, bool)
    kept[hw[0] // 5 : -hw[0] // 5, hw[1] // 4 : -hw[1] // 6] = True
    return kept


class PoolingKept(torch.nn.Module):
    """A network whose mean is weighted before it is taken, written out for autograd."""

    def __init__(self, network: torch.nn.Module, weights: torch.Tensor) -> None:
        super().__init__()
        self.network, self.weights = network, weights
        self.seen = torch.nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        cells = activations_of(self.network, images)
        seen = self.seen(cells * self.weights * (self.weights.numel() / self.weights.sum()))
        return head_of(self.network, seen.sum((2, 3), keepdim=True) / self.weights.numel())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("backbone", ["resnet", "timm/convnext_atto"])
def test_maps_of_kept_cells_agree_with_the_package(
    others: dict[str, tuple[FindingClassifier, torch.nn.Module]], backbone: str, name: str
) -> None:
    spec = replace(findings_spec(MaskingMode.TIGHT, size=160), pooling="kept")
    network = tiny_resnet() if backbone == "resnet" else others[backbone][0].network
    classifier = FindingClassifier(spec, network)
    pixels = noise_radiograph(hw=(150, 130), seed=4).pixels
    kept = kept_box(pixels.shape)
    findings, evidence = classifier.classify(pixels, kept)
    weights = cell_weights(evidence.placement.shares(kept, (5, 5)))
    written_out = PoolingKept(network, torch.from_numpy(weights))
    with torch.inference_mode():
        logits = written_out(evidence.images)[0].numpy()
    np.testing.assert_allclose(findings.logits, logits, rtol=1e-4, atol=1e-4)
    method = getattr(pytorch_grad_cam, PACKAGE_METHODS.get(name, "GradCAM"))
    for index, ours in enumerate(explain(classifier, evidence, method=name)):
        theirs = package_map(method, written_out, evidence.images, index, written_out.seen) * (
            weights > 0
        )
        np.testing.assert_allclose(ours.grid, theirs, atol=1e-4 * max(1.0, float(theirs.max())))
        assert not ours.grid[weights == 0].any()
        assert (weights == 0).sum() > 10


@pytest.mark.parametrize("pooling", ["all", "kept"])
def test_chance_is_a_network_that_finds_the_same_everywhere(pooling: Pooling) -> None:
    classifier = tiny_classifier(MaskingMode.TIGHT, size=160, pooling=pooling)
    _, evidence = classifier.classify(PIXELS, kept_box(PIXELS.shape))
    weights = torch.ones(5, 5)
    if evidence.shares is not None:
        weights = torch.from_numpy(cell_weights(evidence.shares))
    same = replace(evidence, activations=torch.ones_like(evidence.activations) * weights)
    even = even_map(evidence)
    for found in explain(classifier, same):
        assert found.confined == even.confined == (pooling == "kept")
        if found.peak:
            np.testing.assert_allclose(found.grid / found.peak, even.grid / even.peak, atol=1e-5)


def test_unclipped_maps_of_kept_cells_sum_to_the_logit_less_the_bias() -> None:
    classifier = tiny_classifier(MaskingMode.TIGHT, size=160, pooling="kept", fill=KEPT_MEAN)
    head = classifier.network.fc
    findings, evidence = classifier.classify(PIXELS, kept_box(PIXELS.shape))
    cells = np.tensordot(head.weight.numpy(), evidence.activations[0].numpy(), axes=1) / 25
    np.testing.assert_allclose(
        cells.sum(axis=(1, 2)), findings.logits - head.bias.numpy(), rtol=1e-4, atol=1e-5
    )
    for clipped, heat in zip(cells, explain(classifier, evidence), strict=True):
        np.testing.assert_allclose(heat.grid, np.maximum(clipped, 0), atol=1e-6)


def test_a_label_without_weight_gives_zero_not_noise() -> None:
    activations = np.random.default_rng(0).random((8, 3, 4), np.float32)
    assert not closed_form_grad_cam(activations, np.zeros((1, 8), np.float32)).any()


@pytest.mark.parametrize("method", METHODS)
def test_explaining_leaves_no_hook_mode_or_gradient_behind(
    classifier: FindingClassifier, method: str
) -> None:
    network = classifier.network
    _, evidence = classifier.classify(PIXELS, all_of(PIXELS))
    before = evidence.images.clone()
    explain(classifier, evidence, method=method)
    assert not network.layer4._forward_hooks
    assert not network.training
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert torch.equal(evidence.images, before)


def test_maps_carry_labels_and_the_networks_true_grid(classifier: FindingClassifier) -> None:
    _, evidence = classifier.classify(PIXELS, all_of(PIXELS))
    maps = explain(classifier, evidence)
    assert tuple(heat.label for heat in maps) == classifier.labels
    assert all(heat.grid.shape == (3, 3) for heat in maps)
    assert all(heat.heat(all_of(PIXELS)).shape == (160, 144) for heat in maps)


def test_an_unknown_method_is_refused(classifier: FindingClassifier) -> None:
    _, evidence = classifier.classify(PIXELS, all_of(PIXELS))
    with pytest.raises(ValueError, match="method must be one of"):
        explain(classifier, evidence, method="Score-CAM")
