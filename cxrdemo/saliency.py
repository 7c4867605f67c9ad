"""Saliency maps of a classifier's logits: Grad-CAM in closed form, and its relatives.

A network that ends in global average pooling and a head sees activation (c, i, j) only through the
mean of channel c. So the gradient of label k's logit is g[k, c] / (h w) at every place, where g is
the head's own gradient: for a linear head its weights. Grad-CAM (Selvaraju et al., ICCV 2017, eq.
1-2) is then ReLU(sum_c g[k, c] A[c] / (h w)), for every label from the forward pass already made.
The other methods come from the `grad-cam` package, which is given the same gradients.

Where a checkpoint pools over what was kept, A is the last block's output times the cells' weights:
what the mean is taken of. Then a map is 0 wherever little was kept, and all of it sums as before.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cxrdemo.classifier import Evidence, FindingClassifier
from cxrdemo.masking import cell_weights
from cxrdemo.results import GRAD_CAM, METHODS, SaliencyMap

PACKAGE_METHODS: Final[Mapping[str, str]] = {
    "Grad-CAM++": "GradCAMPlusPlus",
    "HiResCAM": "HiResCAM",
    "Eigen-CAM": "EigenCAM",
    "Layer-CAM": "LayerCAM",
}
"""Served by the `grad-cam` package: names of its classes. It is imported where one of them is asked
for, as that takes seconds and Grad-CAM itself does not need it."""


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
    if method != GRAD_CAM and method not in PACKAGE_METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    activations = evidence.activations[0].cpu().numpy()
    gradients = classifier.gradients(evidence)
    if method == GRAD_CAM:
        grids = list(closed_form_grad_cam(activations, gradients))
    else:
        grids = _package_maps(classifier, activations, gradients, PACKAGE_METHODS[method])
    if evidence.shares is not None:
        # Only Eigen-CAM, which asks for no gradient, finds anything in cells that do not count.
        counted = cell_weights(evidence.shares) > 0
        grids = [grid * counted for grid in grids]
    return tuple(
        SaliencyMap(label, method, grid, evidence.placement, confined=evidence.shares is not None)
        for label, grid in zip(classifier.labels, grids, strict=True)
    )


def even_map(evidence: Evidence) -> SaliencyMap:
    """The map of a network that finds the same at every place: what chance looks like.

    A cell has its weight in the mean, so one at the rim of what was kept has less than one inside.
    """
    hw = (evidence.activations.shape[-2], evidence.activations.shape[-1])
    shares = evidence.shares
    grid = np.ones(hw, np.float32) if shares is None else cell_weights(shares)
    return SaliencyMap("even", "even", grid, evidence.placement, confined=shares is not None)


def closed_form_grad_cam(
    activations: NDArray[np.float32], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Grad-CAM of every output of a network that ends in global average pooling and a head.

    Args:
        activations: float32 (C, h, w).
        weights: float32 (K, C), the head's gradients; the weights of a linear head.

    Returns:
        float32 (K, h, w), >= 0. Without the ReLU, each map of a linear head would sum to its logit
        less the bias.
    """
    _, height, width = activations.shape
    maps = np.tensordot(weights, activations, axes=1) / np.float32(height * width)
    return np.asarray(np.maximum(maps, 0.0), np.float32)


def _package_maps(
    classifier: FindingClassifier,
    activations: NDArray[np.float32],
    gradients: NDArray[np.float32],
    class_name: str,
) -> list[NDArray[np.float32]]:
    """The package's maps before its per-map rescaling to 0..1."""
    import pytorch_grad_cam

    _, height, width = activations.shape
    cam = getattr(pytorch_grad_cam, class_name)(
        classifier.network, []
    )  # no layer to hook: its activations are known
    grids = []
    for row in gradients:
        spread = np.broadcast_to(row[:, None, None] / (height * width), activations.shape)
        grid = cam.get_cam_image(None, None, None, activations[None], spread[None], False)
        grids.append(np.maximum(grid[0], 0.0).astype(np.float32))
    return grids
