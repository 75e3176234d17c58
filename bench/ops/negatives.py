"""Which pixel may be a negative key of which class: one pure rule per origin of the pixel.

A rule answers N C bool for N pixels. Another kind of supervision adds a rule of its own, and the union of the
rules goes into the queues.
"""

import torch
from torch import Tensor

from bench.labels import IGNORE


def ranks(probability: Tensor) -> Tensor:
    """Give the rank of each class in a pixel's prediction: N C -> N C uint8, 0 the most likely (U2PL, Eq.
    13).

    Of equal probabilities the lower class id comes first.
    """
    order = probability.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(probability.shape[-1], device=probability.device, dtype=torch.uint8)
    return torch.empty_like(order, dtype=torch.uint8).scatter_(-1, order, places.expand_as(order))


def labeled_negatives(rank: Tensor, label: Tensor, rank_low: int) -> Tensor:
    """Make a labeled pixel a key of the classes it is easily taken for: not its own, rank below `rank_low`
    (U2PL, Eq. 14).

    Args:
        rank: N C.
        label: N int64; 255 is a key of no class.
    """
    classes = torch.arange(rank.shape[-1], device=rank.device)
    own = label.unsqueeze(1) == classes
    return (rank < rank_low) & ~own & (label != IGNORE).unsqueeze(1)


def unlabeled_negatives(rank: Tensor, chosen: Tensor, rank_low: int, rank_high: int) -> Tensor:
    """Make a chosen (unreliable) pixel a key of the classes it surely is not: rank_low <= rank < rank_high
    (U2PL, Eq. 15). The most likely classes may be its own, the least likely ones teach nothing.

    Args:
        rank: N C.
        chosen: N bool.
    """
    # A bound of 256 or more would wrap round in the ranks' uint8.
    return (rank >= rank_low) & (rank < min(rank_high, rank.shape[-1])) & chosen.unsqueeze(1)


def certain_negatives(rank: Tensor, allowed: Tensor, rank_low: int) -> Tensor:
    """Make a pixel of a tagged image a key of the classes that it is easily taken for though its image has no
    such tag: not allowed, rank below `rank_low`. The easy ones, nearly all of a pixel's classes, would flood
    the queues.

    Background has no keys of this rule, because it is always allowed.

    Args:
        rank: N C.
        allowed: N C bool, the classes that the pixel's own image may hold; all where it has no tags.
    """
    return (rank < rank_low) & ~allowed


def at_most(negative: Tensor, limit: int) -> Tensor:
    """Give the first `limit` pixels of every class, a fair sample of pixels in random order: P C bool -> P C
    bool."""
    return negative & (negative.cumsum(0, dtype=torch.int32) <= limit)
