"""Pixel losses. Each answers 0, with a graph, where no pixel counts: a mean over nothing would be NaN.

Where a run has several ranks, each is the rank's share of the joint batch's loss: their mean is that loss.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.labels import IGNORE
from bench.ops.entropy import ascending
from bench.ops.processes import gathered, share_of_mean, summed, total

TINY = torch.finfo(torch.float32).tiny  # 0 over it is 0


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross entropy over the pixels whose label is not 255.

    Args:
        logits: B C H W.
        label: B H W int64, below C or 255. The loader checks the range: on CUDA nothing else would.
    """
    return share_of_mean(_summed(logits, label), (label != IGNORE).sum())


def weighted_cross_entropy(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Cross entropy of the pixels whose label is not 255, each times the weight of its class, over the sum of
    these weights, as torch's own mean. So a factor of all weights changes nothing.

    Args:
        logits, label: As in `cross_entropy`.
        weight: C float32, positive.
    """
    return share_of_mean(_summed(logits, label, weight), pixel_weight(label, weight).sum(), least=TINY)


def _summed(logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    # On CUDA torch's own sum adds in any order, which machine.deterministic refuses.
    each = "none" if logits.is_cuda else "sum"
    return F.cross_entropy(logits, label, weight=weight, ignore_index=IGNORE, reduction=each).sum()


def pixel_weight(label: Tensor, weight: Tensor) -> Tensor:
    """Look up the weight of each pixel's class, 0 where the label is 255: int64 of any shape and C -> the
    shape."""
    known = label != IGNORE
    return weight.take(label.where(known, 0)) * known


def soft_dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    """1 - Dice, the mean over the classes that the labels of the batch hold: with p the probability of a
    class and g 1 where it is the label, 1 - 2 sum pg / (sum p + sum g) over the labeled pixels of the batch
    (Drozdzal et al., DLMIA 2016; over the batch as a whole, as nnU-Net can do it).

    Shapes as in `cross_entropy`. Answers a scalar in 0..1.
    """
    classes = torch.arange(logits.shape[1], device=label.device).view(1, -1, 1, 1)
    own = label.unsqueeze(1) == classes  # B C H W
    probability = logits.float().softmax(1) * (label != IGNORE).unsqueeze(1)  # B C H W
    pixels = total(own.sum((0, 2, 3)))  # C
    both = summed((probability * own).sum((0, 2, 3)))
    dice = 2 * both / (summed(probability.sum((0, 2, 3))) + pixels).clamp(min=TINY)
    occurs = pixels > 0
    return ((1 - dice) * occurs).sum() / occurs.sum().clamp(min=1)


def ohem_cross_entropy(
    logits: Tensor, label: Tensor, threshold: float, min_kept: int, weight: Tensor | None = None
) -> Tensor:
    """Cross entropy over the hard pixels of the batch: those whose true class has a probability of at most
    `threshold`, and at least the `min_kept` hardest (all, where fewer are labeled). U2PL,
    loss_helper.py:451-531.

    Shapes as in `cross_entropy`. With `weight` the mean is that of `weighted_cross_entropy`; which pixels are
    hard does not depend on it.
    """
    pixel_loss = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none").flatten()
    valid = label.flatten() != IGNORE
    # exp(-loss) is the true class's probability; ignored pixels sort last.
    probability = torch.where(valid, torch.exp(-pixel_loss.detach()), torch.inf)
    every = ascending(gathered(probability))  # of all ranks
    # Not kthvalue, which is one block's work for a GPU.
    kth = every[min(min_kept, len(every)) - 1]
    keep = valid & (probability <= kth.clamp(min=threshold))
    if weight is not None:
        share = pixel_weight(label.flatten(), weight) * keep
        return share_of_mean((pixel_loss * share).sum(), share.sum(), least=TINY)
    return share_of_mean((pixel_loss * keep).sum(), keep.sum())


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
    return share_of_mean((pixel_loss * keep).sum(), counted.sum())


def reverse_cross_entropy(logits: Tensor, label: Tensor, keep: Tensor, counted: Tensor) -> Tensor:
    """Cross entropy with prediction and label exchanged, where log 0 of the one-hot label is log 1e-4: it
    grows only linearly with a wrong label (symmetric cross entropy, Wang et al., ICCV 2019; the clamp is
    U2PL's, loss_helper.py:10-27).

    Args and denominator as in `masked_cross_entropy`.
    """
    own = logits.softmax(1).gather(1, label.unsqueeze(1)).squeeze(1)  # B H W
    return share_of_mean(-math.log(1e-4) * ((1 - own) * keep).sum(), counted.sum())


def squared_difference(probability: Tensor, target: Tensor) -> Tensor:
    """Squared difference of two distributions, summed over the classes: B C H W -> B H W."""
    return (probability - target).square().sum(1)
