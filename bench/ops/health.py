"""Figures of a method's health, for the log alone: no loss depends on them. None of them waits for the
device."""

import torch
from torch import Tensor

from bench.labels import IGNORE


def accuracy(pseudo_label: Tensor, truth: Tensor, where: Tensor) -> Tensor:
    """Share of the pixels in `where` whose pseudo-label is the true one; NaN where no pixel counts.

    Args:
        pseudo_label: B H W int64.
        truth: B H W int64; 255 never counts.
        where: B H W bool.

    Returns:
        Scalar, 0..1.
    """
    return share(pseudo_label == truth, where & (truth != IGNORE))


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Share of the pixels of `whole` that are in `part`, both bool; NaN where there are none."""
    return (part & whole).sum() / whole.sum()


def rare_classes(counts: Tensor) -> Tensor:
    """The half of the classes with the fewest pixels: C counts -> C bool."""
    rare = torch.zeros_like(counts, dtype=torch.bool)
    return rare.index_fill(0, counts.argsort()[: len(counts) // 2], True)
