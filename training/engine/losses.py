"""What a classifier in training is held to: its labels, and where its evidence lies."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cxrdemo.backbones import head_of

UNKNOWN: Final = -1.0
"""A label that nobody knows."""

LABEL_SMOOTHING: Final = 0.05
"""Text-mined labels are wrong too often to be believed entirely."""

LEAST_HEAT: Final = 0.1
"""Heat, as a part of a logit, below which its share outside the lungs fades from the loss."""

_TINY: Final = 1e-6


def known_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy with smoothed labels, averaged over the known ones.

    Args:
        logits: (B, K).
        labels: (B, K): 1, 0, or `UNKNOWN`.
    """
    known = labels != UNKNOWN
    target = labels.clamp(min=0) * (1 - 2 * LABEL_SMOOTHING) + LABEL_SMOOTHING
    loss = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return (loss * known).sum() / known.sum().clamp(min=1)


def evidence_of(network: nn.Module, activations: Tensor) -> Tensor:
    """What each cell says for each output: for a linear head w . A, what Grad-CAM shows.

    Its mean over the cells by their weights is the logit less the bias.

    Args:
        network: With a head, see `classifier.head_of`.
        activations: (B, C, h, w), not weighted.

    Returns:
        float32 (B, K, h, w).
    """
    images, channels, height, width = activations.shape
    cells = activations.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)
    found = head_of(network, cells) - head_of(network, cells.new_zeros(1, channels, 1, 1))
    return found.float().reshape(images, height, width, -1).permute(0, 3, 1, 2)


def place_loss(evidence: Tensor, weights: Tensor, place: Tensor, placed: Tensor) -> Tensor:
    """How little of a finding's evidence, as a softmax over the counted cells, lies at its place.

    Args:
        evidence: (B, K, h, w), see `evidence_of`.
        weights: (B, 1, h, w), what each cell counts.
        place: (B, h, w), how much of each cell is the finding, 0..1.
        placed: (B,), the output whose place it is, or negative where none is known.

    Returns:
        (): minus the logarithm of the share, summed over images with a place, by the batch.
    """
    rows = torch.nonzero(placed >= 0).flatten()
    if not len(rows):
        return evidence.new_zeros(())
    chosen = evidence[rows, placed[rows]].masked_fill(weights[rows, 0] == 0, -1e4)
    shares = chosen.flatten(1).log_softmax(1) + place[rows].flatten(1).clamp(min=_TINY).log()
    return -torch.logsumexp(shares, 1).sum() / len(evidence)


def beyond_loss(evidence: Tensor, weights: Tensor, beyond: Tensor) -> Tensor:
    """Share of the positive evidence that lies where none should, mean over findings and images.

    After the mask loss of Draelos & Carin (arXiv 2011.08891), as a share: what a map shows is its
    heat relative to its own peak.

    Args:
        evidence: (B, K, h, w) of the findings that are held to it.
        weights: (B, 1, h, w), what each cell counts.
        beyond: (B, h, w), 0..1; 0 everywhere for an image of which nothing is asked.
    """
    heat = F.relu(evidence) * (weights / weights.sum((-2, -1), keepdim=True))
    outside = (heat * beyond[:, None]).sum((2, 3))
    return (outside / (heat.sum((2, 3)) + LEAST_HEAT)).mean()
