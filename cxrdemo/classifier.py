"""The finding classifier: a torchvision ResNet50 for each masking.

State dicts are torchvision's own, so its published files load too, once their head has as many
outputs as the spec has labels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models import ResNet, resnet50

from cxrdemo.checkpoints import CheckpointSpec
from cxrdemo.errors import CheckpointError
from cxrdemo.inputs import normalise, place
from cxrdemo.placement import Placement
from cxrdemo.results import Findings, MaskingMode

ARCHITECTURES: Final[Mapping[str, Callable[[int], ResNet]]] = {
    "resnet50": lambda outputs: resnet50(weights=None, num_classes=outputs),
}
"""Name to a builder that takes the number of outputs."""


def activations_of(network: ResNet, images: Tensor) -> Tensor:
    """Output (B, C, h, w) of the last convolutional block."""
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    x = network.layer4(network.layer3(network.layer2(network.layer1(x))))
    return cast(Tensor, x)


def logits_of(network: ResNet, activations: Tensor) -> Tensor:
    """Logits (B, K) from the last block's output."""
    return cast(Tensor, network.fc(torch.flatten(network.avgpool(activations), 1)))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a forward pass leaves behind for explaining it.

    Attributes:
        images: (1, 3, H, W), the network's input.
        activations: (1, C, h, w), the last block's output.
        placement: Where the radiograph lies in the input.
    """

    images: Tensor
    activations: Tensor
    placement: Placement


class FindingClassifier:
    """Scores the findings on a masked image. Stateless between calls."""

    def __init__(
        self,
        spec: CheckpointSpec,
        network: ResNet,
        *,
        device: torch.device | str = "cpu",
        activations: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Takes a network, and what computes its activations where it does not do so itself."""
        if spec.masking is None or not spec.labels:
            raise CheckpointError(f"The checkpoint {spec.name} names no masking or no labels.")
        self.spec = spec
        self.mode: MaskingMode = spec.masking
        self.labels = tuple(label.key for label in spec.labels)
        self._device = torch.device(device)
        self.network = network.eval().requires_grad_(False).to(self._device)
        self._activations = activations or partial(activations_of, self.network)

    @torch.inference_mode()
    def classify(self, pixels: NDArray[np.float32]) -> tuple[Findings, Evidence]:
        """Scores one image whose removed pixels already hold the spec's fill.

        Args:
            pixels: float32 (H, W) in 0..1, masked as `self.mode` says.

        Returns:
            The findings, and what is needed to explain them without a second forward pass.
        """
        canvas, placement = place(pixels, self.spec.inputs)
        images = torch.from_numpy(normalise(canvas, self.spec.inputs))[None].to(self._device)
        activations = self._activations(images)
        logits = logits_of(self.network, activations)[0].float().cpu().numpy()
        findings = Findings(
            labels=self.labels,
            logits=logits,
            probabilities=self._calibrate(logits),
            thresholds=np.array([label.threshold for label in self.spec.labels], np.float32),
            mode=self.mode,
            beats_chance=np.array([self.spec.beats_chance(key) for key in self.labels]),
        )
        return findings, Evidence(images, activations, placement)

    def _calibrate(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Platt scaling, per label, as the spec gives it."""
        scale = np.array([label.scale for label in self.spec.labels], np.float64)
        offset = np.array([label.offset for label in self.spec.labels], np.float64)
        return (1.0 / (1.0 + np.exp(-(scale * logits + offset)))).astype(np.float32)


def keep_outputs(state: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """A torchvision ResNet state dict with only some outputs of its head, in the given order."""
    kept = dict(state)
    for name in ("fc.weight", "fc.bias"):
        kept[name] = state[name][list(rows)].clone()
    return kept
