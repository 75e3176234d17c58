"""Pixel losses. Each answers 0, with a graph, where no pixel counts: a mean over nothing would be NaN."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.labels import IGNORE


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross entropy over the pixels whose label is not 255.

    Args:
        logits: B C H W.
        label: B H W int64, below C or 255. The loader checks the range: on CUDA nothing else would.
    """
    total = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="sum")
    return total / (label != IGNORE).sum().clamp(min=1)


def ohem_cross_entropy(logits: Tensor, label: Tensor, threshold: float, min_kept: int) -> Tensor:
    """Cross entropy over the hard pixels of the batch: those whose true class has a probability of at most
    `threshold`, and at least the `min_kept` hardest (all, where fewer are labeled). U2PL,
    loss_helper.py:451-531.

    Shapes as in `cross_entropy`.
    """
    pixel_loss = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none").flatten()
    valid = label.flatten() != IGNORE
    # exp(-loss) is the true class's probability; ignored pixels sort last.
    probability = torch.where(valid, torch.exp(-pixel_loss.detach()), torch.inf)
    kth = probability.kthvalue(min(min_kept, probability.numel())).values
    keep = valid & (probability <= kth.clamp(min=threshold))
    return (pixel_loss * keep).sum() / keep.sum().clamp(min=1)


def masked_cross_entropy(logits: Tensor, label: Tensor, keep: Tensor, counted: Tensor) -> Tensor:
    """Cross entropy summed over `keep` and divided by the number of `counted` pixels.

    With `counted` the pixels outside padding, the loss grows with the share of pixels kept (FixMatch).

    Args:
        logits: B C H W.
        label: B H W int64, below C everywhere.
        keep: B H W bool, or weights in 0..1.
        counted: B H W bool.
    """
    pixel_loss = F.cross_entropy(logits, label, reduction="none")  # B H W
    return (pixel_loss * keep).sum() / counted.sum().clamp(min=1)


def reverse_cross_entropy(logits: Tensor, label: Tensor, keep: Tensor, counted: Tensor) -> Tensor:
    """Cross entropy with prediction and label exchanged, where log 0 of the one-hot label is log 1e-4: it
    grows only linearly with a wrong label (symmetric cross entropy, Wang et al., ICCV 2019; the clamp is
    U2PL's, loss_helper.py:10-27).

    Args and denominator as in `masked_cross_entropy`.
    """
    own = logits.softmax(1).gather(1, label.unsqueeze(1)).squeeze(1)  # B H W
    return -math.log(1e-4) * ((1 - own) * keep).sum() / counted.sum().clamp(min=1)


def squared_difference(probability: Tensor, target: Tensor) -> Tensor:
    """Squared difference of two distributions, summed over the classes: B C H W -> B H W."""
    return (probability - target).square().sum(1)
