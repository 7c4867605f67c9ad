"""Backbones of the finding classifier: networks whose logits follow from a mean over places.

Any network will do whose logits depend on its last activations only through their mean over the
image: global average pooling and a head. That makes Grad-CAM exact in closed form (`saliency.py`),
and lets the mean be taken over the kept region alone. `build_network` checks it and refuses others.
State dicts are torchvision's or timm's own, so their published files load too, once the head has as
many outputs as the spec has labels.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import DenseNet, RegNet, ResNet, resnet50

from cxrdemo.errors import CheckpointError

ARCHITECTURES: Final[Mapping[str, Callable[[int], nn.Module]]] = {
    "resnet50": lambda outputs: cast(nn.Module, resnet50(weights=None, num_classes=outputs)),
    "resnet50-dilated": lambda outputs: cast(
        nn.Module,
        resnet50(
            weights=None,
            num_classes=outputs,
            replace_stride_with_dilation=[False, False, True],
        ),
    ),
    "efficientnet-lite0-dilated": lambda outputs: timm.create_model(
        "tf_efficientnet_lite0", pretrained=False, num_classes=outputs, output_stride=16
    ),
}
"""The project's own names, beside `torchvision/NAME` and `timm/NAME`, to builders that take the
number of outputs. The last stages of the dilated ones keep their resolution: twice as many cells a
side, from the same state dict."""

PROBE_PX: Final = 96
"""Side of the noise on which a network is checked; a little above the least that any of them takes.
"""


def build_network(architecture: str, outputs: int) -> nn.Module:
    """A network with random weights.

    Args:
        architecture: A key of `ARCHITECTURES`, `torchvision/NAME` or `timm/NAME`.
        outputs: Number of logits.

    Raises:
        CheckpointError: If nothing is known under that name, or the network does not end in global
            average pooling and a head.
    """
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture](outputs)
    library, _, name = architecture.partition("/")
    if library == "torchvision" and name in torchvision.models.list_models(torchvision.models):
        network = torchvision.models.get_model(name, weights=None, num_classes=outputs)
    elif library == "timm" and timm.is_model(name):
        network = timm.create_model(name, pretrained=False, num_classes=outputs)
    else:
        raise CheckpointError(
            f"The spec or command names the architecture {architecture!r}; known are "
            f"{sorted(ARCHITECTURES)}, torchvision/NAME and timm/NAME, with a name that the "
            "installed version of the library has."
        )
    if not pools_globally(network):
        raise CheckpointError(
            f"The architecture {architecture} does not end in global average pooling and a head, "
            "so its Grad-CAM has no closed form. Choose another, such as resnet50, "
            "torchvision/densenet121, timm/convnext_tiny or timm/tf_efficientnetv2_s."
        )
    return cast(nn.Module, network)


def activations_of(network: nn.Module, images: Tensor) -> Tensor:
    """Output (B, C, h, w) of the last convolutional block, just before the pooling."""
    return later_stages(network, first_stage(network, images))


def has_first_stage(network: nn.Module) -> bool:
    """Whether `first_stage` does anything: half precision was measured on these, and holds."""
    return isinstance(network, ResNet)


def first_stage(network: nn.Module, images: Tensor) -> Tensor:
    """What stays in fp32 when the rest computes in half: a ResNet's stem and first stage.

    bf16 has eight significant bits, fewer than an image needs; nearly all that it does to a
    ResNet's probabilities it does here (docs/performance.md).

    Returns:
        (B, 256, H / 4, W / 4) of a ResNet50; of other networks the images as they are.
    """
    if not has_first_stage(network):
        return images
    parts: Any = network  # torch types no module by its parts
    return cast(Tensor, parts.layer1(parts.maxpool(parts.relu(parts.bn1(parts.conv1(images))))))


def later_stages(network: nn.Module, features: Tensor) -> Tensor:
    """The activations, from what `first_stage` gave."""
    parts: Any = network
    if hasattr(network, "forward_features"):  # every network of timm
        x = parts.forward_features(features)
    elif isinstance(network, ResNet):
        x = parts.layer4(parts.layer3(parts.layer2(features)))
    elif isinstance(network, DenseNet):
        x = F.relu(parts.features(features))
    elif isinstance(network, RegNet):
        x = parts.trunk_output(parts.stem(features))
    else:
        x = parts.features(features)
    return cast(Tensor, x)


def later_layers(network: nn.Module) -> list[nn.Module]:
    """The layers of `later_stages`, and none of the head; tried on an empty image."""
    like = next(network.parameters())
    found: list[nn.Module] = []
    with torch.inference_mode():
        features = first_stage(network, torch.zeros(1, 3, PROBE_PX, PROBE_PX, device=like.device))
        hooks = [
            layer.register_forward_pre_hook(lambda layer, _: found.append(layer))
            for layer in network.modules()
        ]
        later_stages(network, features)
    for hook in hooks:
        hook.remove()
    return found


def grid_of(network: nn.Module, hw: tuple[int, int]) -> tuple[int, int]:
    """Number of cells (h, w) of the last activations for inputs of `hw`; tried on an empty image.

    Args:
        network: In either mode, which stays.
        hw: Size of the input.
    """
    was_training, like = network.training, next(network.parameters())
    with torch.inference_mode():
        found = activations_of(network.eval(), torch.zeros(1, 3, *hw, device=like.device))
    network.train(was_training)
    return found.shape[-2], found.shape[-1]


def weighted(activations: Tensor, weights: Tensor | None = None) -> Tensor:
    """What the pooling averages: the last block's output, each cell by its weight.

    Args:
        activations: (B, C, h, w).
        weights: (B, 1, h, w) or (h, w), >= 0 and not all 0, see `masking.cell_weights`. They are
            scaled to a mean of 1, so weights of 1 change no bit. None for an unweighted mean.
    """
    if weights is None:
        return activations
    return activations * (weights / weights.mean(dim=(-2, -1), keepdim=True))


def pooled(activations: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean (B, C, 1, 1) of the last block's output over its cells, by `weights` if given."""
    return F.adaptive_avg_pool2d(weighted(activations, weights), 1)


def logits_of(network: nn.Module, activations: Tensor, weights: Tensor | None = None) -> Tensor:
    """Logits (B, K) from the last block's output, pooled by `weights` if given."""
    return head_of(network, pooled(activations, weights))


def head_of(network: nn.Module, means: Tensor) -> Tensor:
    """Logits (B, K) from the mean activations (B, C, 1, 1)."""
    parts: Any = network
    if hasattr(network, "forward_head"):
        return cast(Tensor, parts.forward_head(means))
    head = parts.fc if hasattr(network, "fc") else parts.classifier
    if any(isinstance(part, nn.Flatten) for part in head.modules()):
        return cast(Tensor, head(means))
    return cast(Tensor, head(torch.flatten(means, 1)))


def head_gradients(network: nn.Module, activations: Tensor) -> Tensor:
    """Gradient (K, C) of each logit with respect to the mean activations of one image.

    A linear head's weights; of a head with a norm or a hidden layer, its Jacobian at this image.

    Args:
        network: In evaluation mode.
        activations: (1, C, h, w), as the pooling averages them.
    """
    # Evidence made in inference mode holds tensors that autograd refuses; the clone is an ordinary
    # one.
    with torch.inference_mode(False), torch.enable_grad():
        means = pooled(activations.clone())
        means.requires_grad_(True)
        logits = head_of(network, means)[0]
        rows = [torch.autograd.grad(k, means, retain_graph=True)[0].flatten() for k in logits]
    return torch.stack(rows)


def output_layer(network: nn.Module) -> str:
    """Name of the linear layer that gives the logits, as its state dict has it.

    Raises:
        CheckpointError: If the network has no linear layer.
    """
    names = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    if not names:
        raise CheckpointError(f"A {type(network).__name__} has no linear layer to give its logits.")
    return str(names[-1])


def pools_globally(network: nn.Module) -> bool:
    """Whether the logits follow from the mean of the last activations, tried on noise."""
    probe = copy.deepcopy(network).eval()
    images = torch.rand(2, 3, PROBE_PX, PROBE_PX, generator=torch.Generator().manual_seed(0))
    try:
        # Some networks begin with a head of zeros, which agrees with everything.
        nn.init.normal_(cast(nn.Linear, probe.get_submodule(output_layer(probe))).weight)
        with torch.inference_mode():
            expected = probe(images)
            found = logits_of(probe, activations_of(probe, images))
    except (AttributeError, CheckpointError, RuntimeError, TypeError, ValueError, AssertionError):
        # What has no such parts, or parts that do not fit together, fails in many ways.
        return False
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
    )


def keep_outputs(
    state: Mapping[str, Tensor], rows: Sequence[int], *, layer: str = "fc"
) -> dict[str, Tensor]:
    """A state dict with only some outputs of its network, in the given order.

    Args:
        state: Of the whole network.
        rows: Which outputs to keep.
        layer: Name of the linear layer that gives them, see `output_layer`.
    """
    kept = dict(state)
    for name in (f"{layer}.weight", f"{layer}.bias"):
        kept[name] = state[name][list(rows)].clone()
    return kept
