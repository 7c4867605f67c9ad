"""Saliency maps of a classifier's logits: Grad-CAM in closed form, and its relatives.

For a network that ends in global average pooling and one linear layer, the gradient of label k's
logit with respect to activation (c, i, j) is w[k, c] / (h w), everywhere the same. So Grad-CAM
(Selvaraju et al., ICCV 2017, eq. 1-2) is ReLU(sum_c w[k, c] A[c] / (h w)): every label's map comes
from the forward pass already made. The other methods come from the `grad-cam` package.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import EigenCAM, GradCAMPlusPlus, HiResCAM, LayerCAM
from pytorch_grad_cam.base_cam import BaseCAM

from cxrdemo.classifier import Evidence, FindingClassifier
from cxrdemo.results import GRAD_CAM, METHODS, SaliencyMap

PACKAGE_METHODS: Final[Mapping[str, type[BaseCAM]]] = {
    "Grad-CAM++": GradCAMPlusPlus,
    "HiResCAM": HiResCAM,
    "Eigen-CAM": EigenCAM,
    "Layer-CAM": LayerCAM,
}
"""Served by the `grad-cam` package: one backward pass per label."""


def explain(
    classifier: FindingClassifier, evidence: Evidence, *, method: str = GRAD_CAM
) -> tuple[SaliencyMap, ...]:
    """One map per label of a classifier, in its order.

    Args:
        classifier: Whose logits to explain.
        evidence: Of the forward pass that gave them.
        method: One of `results.METHODS`.

    Returns:
        Raw maps, >= 0, on the grid of the last convolutional block.

    Raises:
        ValueError: If the method is unknown.
    """
    if method == GRAD_CAM:
        grids = list(
            closed_form_grad_cam(
                evidence.activations[0].float().cpu().numpy(),
                classifier.network.fc.weight.detach().float().cpu().numpy(),
            )
        )
    elif method in PACKAGE_METHODS:
        grids = _package_maps(classifier, evidence, PACKAGE_METHODS[method])
    else:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    return tuple(
        SaliencyMap(label=label, method=method, grid=grid, placement=evidence.placement)
        for label, grid in zip(classifier.labels, grids, strict=True)
    )


def closed_form_grad_cam(
    activations: NDArray[np.float32], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Grad-CAM of every output of a global-average-pooling + linear head.

    Args:
        activations: float32 (C, h, w).
        weights: float32 (K, C), the linear layer's.

    Returns:
        float32 (K, h, w), >= 0. Without the ReLU, each map would sum to its logit less the bias.
    """
    _, height, width = activations.shape
    maps = np.tensordot(weights, activations, axes=1) / np.float32(height * width)
    return np.asarray(np.maximum(maps, 0.0), np.float32)


def _package_maps(
    classifier: FindingClassifier, evidence: Evidence, method: type[BaseCAM]
) -> list[NDArray[np.float32]]:
    """The package's maps before its per-map rescaling to 0..1. Its hooks are gone on return."""
    network = classifier.network
    cam = method(network, [network.layer4])
    try:
        with torch.enable_grad():
            # The weights are frozen, so the gradient needs an input to flow to. The clone is an
            # ordinary tensor even where the evidence was made in inference mode.
            images = evidence.images.clone().requires_grad_(True)
            logits = cam.activations_and_grads(images)
            grids = []
            for index in range(logits.shape[1]):
                if cam.uses_gradients:
                    cam.activations_and_grads.gradients = []
                    logits[0, index].backward(retain_graph=True)
                gradients = cam.activations_and_grads.gradients
                grid = cam.get_cam_image(
                    images,
                    network.layer4,
                    None,
                    cam.activations_and_grads.activations[0].numpy(),
                    gradients[0].numpy() if gradients else None,
                    False,
                )
                grids.append(np.maximum(grid[0], 0.0).astype(np.float32))
    finally:
        cam.activations_and_grads.release()
    return grids
