"""The finding classifier: one convolutional network for each masking."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxrdemo.backbones import (
    first_stage,
    head_gradients,
    later_layers,
    later_stages,
    logits_of,
    weighted,
)
from cxrdemo.devices import Precision, computing_in, hold_in
from cxrdemo.errors import CheckpointError
from cxrdemo.inputs import normalise
from cxrdemo.masking import cell_weights, masked_input
from cxrdemo.placement import Placement
from cxrdemo.results import Findings, MaskingMode
from cxrdemo.specs import CheckpointSpec


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a forward pass leaves behind for explaining it.

    Attributes:
        images: (1, 3, H, W), the network's input.
        activations: (1, C, h, w), what the pooling averages: the last block's output, times the
            cells' weights where the spec pools over what was kept.
        placement: Where the radiograph lies in the input.
        fill: Level, 0..1, that removed pixels and bars were given.
        shares: float32 (h, w), how much of each cell was kept; None if all cells count alike.
    """

    images: Tensor
    activations: Tensor
    placement: Placement
    fill: float
    shares: NDArray[np.float32] | None = None


class FindingClassifier:
    """Scores the findings on a masked image. Stateless between calls."""

    def __init__(
        self,
        spec: CheckpointSpec,
        network: nn.Module,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        first: Callable[[Tensor], Tensor] | None = None,
        later: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Takes a network, which becomes its own.

        Args:
            spec: Of the weights.
            network: From `backbones.build_network`.
            device: Where it runs.
            precision: Of the later stages. The first stage stays in fp32, and so does the head: it
                costs nothing, and its logits are compared with thresholds.
            first: What runs `first_stage`, where the network does not do so itself.
            later: What runs `later_stages`, likewise, in that precision.

        Raises:
            CheckpointError: If the spec is of no classifier, or pools over what was kept of a
                network that tells no places apart at this size.
        """
        if spec.masking is None:
            raise CheckpointError(f"The checkpoint {spec.name} is no classifier of findings.")
        self.spec = spec
        self.mode: MaskingMode = spec.masking
        self.labels = tuple(label.key for label in spec.by_finding)
        self._outputs = [spec.labels.index(label) for label in spec.by_finding]
        self.network = network.eval().requires_grad_(False)
        self.move_to(device)
        self.precision: Precision = precision
        if later is None:
            hold_in(precision, later_layers(self.network))
        self._first = first or partial(first_stage, self.network)
        self._later = later or partial(later_stages, self.network)
        if spec.pooling == "kept":
            empty = torch.zeros(1, 3, *spec.inputs.hw, device=self._device)
            if self.activations(empty)[0, 0].numel() == 1:
                raise CheckpointError(
                    f"The checkpoint {spec.name} pools over the kept cells, but its network has "
                    f"only one cell for an input of {spec.inputs.hw[0]} x {spec.inputs.hw[1]} px. "
                    "Give the spec a larger input, or the pooling 'all'."
                )

    def move_to(self, device: torch.device | str) -> None:
        """Brings the network to a device, in place."""
        self._device = torch.device(device)
        self.network.to(self._device)

    @torch.inference_mode()
    def classify(
        self, pixels: NDArray[np.float32], kept: NDArray[np.bool_]
    ) -> tuple[Findings, Evidence]:
        """Scores what is kept of one image. The removed pixels have no say in the result.

        Args:
            pixels: float32 (H, W) in 0..1.
            kept: bool (H, W), the region that `self.mode` keeps.

        Returns:
            The findings, and what is needed to explain them without a second forward pass.

        Raises:
            NoLungsFoundError: If nothing is kept.
            CheckpointError: If the weights lead to no numbers.
        """
        given = masked_input(pixels, kept, self.spec.inputs)
        images = torch.from_numpy(normalise(given.canvas, self.spec.inputs))[None]
        images = images.to(self._device)
        activations, shares = self.activations(images), None
        if self.spec.pooling == "kept":
            shares = given.placement.shares(kept, (activations.shape[-2], activations.shape[-1]))
            weights = torch.from_numpy(cell_weights(shares)).to(self._device)
            activations = weighted(activations, weights)
        logits = logits_of(self.network, activations)[0].cpu().numpy()[self._outputs]
        if not np.isfinite(logits).all():
            raise CheckpointError(
                f"The checkpoint {self.spec.name} gives no numbers for this image: its weights are "
                "beyond what single precision holds. Restore the file, or train it anew."
            )
        findings = Findings(
            labels=self.labels,
            logits=logits,
            probabilities=self._calibrate(logits),
            thresholds=np.array([label.threshold for label in self.spec.by_finding], np.float32),
            mode=self.mode,
            beats_chance=np.array([self.spec.beats_chance(key) for key in self.labels]),
        )
        return findings, Evidence(images, activations, given.placement, given.fill, shares)

    @torch.inference_mode()
    def activations(self, images: Tensor) -> Tensor:
        """The last block's output (B, C, h, w), fp32, of inputs (B, 3, H, W)."""
        features = self._first(images)
        with computing_in(self.precision, self._device):
            activations = self._later(features)
        return activations.float()

    def gradients(self, evidence: Evidence) -> NDArray[np.float32]:
        """Gradient (K, C) of each label's logit with respect to the mean activations."""
        rows = head_gradients(self.network, evidence.activations).cpu().numpy()
        return np.asarray(rows[self._outputs], np.float32)

    def _calibrate(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Platt scaling, per label, as the spec gives it."""
        scale = np.array([label.scale for label in self.spec.by_finding], np.float64)
        offset = np.array([label.offset for label in self.spec.by_finding], np.float64)
        return (1.0 / (1.0 + np.exp(-(scale * logits + offset)))).astype(np.float32)
