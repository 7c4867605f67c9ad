import numpy as np
import pytest
import pytorch_grad_cam
import torch
from fakes import findings_spec, noise_radiograph, tiny_classifier
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from cxrdemo.classifier import FindingClassifier, build_network, output_layer
from cxrdemo.inputs import normalise, place
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.results import METHODS, MaskingMode
from cxrdemo.saliency import PACKAGE_METHODS, closed_form_grad_cam, explain


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
    classifier: FindingClassifier,
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

    classifier.network.requires_grad_(True)
    with Spy(classifier.network, [layer]) as cam:
        cam(images, targets=[ClassifierOutputTarget(label)])
    classifier.network.zero_grad()
    classifier.network.requires_grad_(False)
    return np.maximum(raw[0][0], 0)


def assert_parity(classifier: FindingClassifier, layer: torch.nn.Module, name: str) -> None:
    pixels = noise_radiograph(seed=4).pixels
    canvas, _ = place(pixels, classifier.spec.inputs)
    images = torch.from_numpy(normalise(canvas, classifier.spec.inputs))[None]
    _, evidence = classifier.classify(pixels)
    maps = explain(classifier, evidence, method=name)
    method = getattr(pytorch_grad_cam, PACKAGE_METHODS.get(name, "GradCAM"))
    for index, ours in enumerate(maps):
        theirs = package_map(method, classifier, images, index, layer)
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


def test_a_label_without_weight_gives_zero_not_noise() -> None:
    activations = np.random.default_rng(0).random((8, 3, 4), np.float32)
    assert not closed_form_grad_cam(activations, np.zeros((1, 8), np.float32)).any()


@pytest.mark.parametrize("method", METHODS)
def test_explaining_leaves_no_hook_mode_or_gradient_behind(
    classifier: FindingClassifier, method: str
) -> None:
    network = classifier.network
    _, evidence = classifier.classify(noise_radiograph().pixels)
    before = evidence.images.clone()
    explain(classifier, evidence, method=method)
    assert not network.layer4._forward_hooks
    assert not network.training
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert torch.equal(evidence.images, before)


def test_maps_carry_labels_and_the_networks_true_grid(classifier: FindingClassifier) -> None:
    _, evidence = classifier.classify(noise_radiograph().pixels)
    maps = explain(classifier, evidence)
    assert tuple(heat.label for heat in maps) == classifier.labels
    assert all(heat.grid.shape == (3, 3) for heat in maps)
    assert all(heat.heat.shape == (160, 144) for heat in maps)


def test_an_unknown_method_is_refused(classifier: FindingClassifier) -> None:
    _, evidence = classifier.classify(noise_radiograph().pixels)
    with pytest.raises(ValueError, match="method must be one of"):
        explain(classifier, evidence, method="Score-CAM")
