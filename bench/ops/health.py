"""Figures of a method's health, for the log alone: no loss depends on them. None of them waits for the
device."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bench.labels import IGNORE
from bench.ops.entropy import Partition
from bench.ops.negatives import ranks, unlabeled_negatives
from bench.ops.processes import total


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
    """Give the half of the classes with the fewest pixels: C counts -> C bool."""
    rare = torch.zeros_like(counts, dtype=torch.bool)
    return rare.index_fill(0, counts.argsort()[: len(counts) // 2], True)


def add_labels(counts: Tensor, label: Tensor) -> None:
    """Add the labeled pixels of the joint batch, B H W int64 with 255 where there is none, to `counts` (C
    int64)."""
    known = (label != IGNORE).flatten()
    here = torch.zeros_like(counts).scatter_add_(0, label.flatten().where(known, 0), known.long())
    counts.add_(total(here))


def partition_figures(
    split: Partition, valid: Tensor, pseudo_label: Tensor, labeled: Tensor
) -> dict[str, Tensor]:
    """Give the threshold, the share of reliable pixels, and the share of the rare classes among the labels,
    the reliable and the unreliable pixels: scalars, NaN where there is no such pixel.

    Args:
        valid, pseudo_label: B H W, bool and int64.
        labeled: C, the labeled pixels of each class so far; the rare half of the classes is theirs.
    """
    rare = rare_classes(labeled)
    of_rare = rare[pseudo_label]
    return {
        "threshold": split.threshold.where(split.threshold.isfinite(), torch.nan),
        "reliable_share": share(split.reliable, valid),
        "rare_share_labeled": (labeled * rare).sum() / labeled.sum(),
        "rare_share_reliable": share(of_rare, split.reliable),
        "rare_share_unreliable": share(of_rare, split.unreliable),
    }


def truth_among_negatives(
    truth: Tensor, probability: Tensor, source: Tensor, window: tuple[int, int]
) -> Tensor:
    """Share of the pixels that are negative keys of their own true class: scalar, 0..1, the less the better.

    Args:
        truth: N int64; 255 never counts.
        probability: N C, by which the classes of a pixel are ranked.
        source: N bool, the pixels that are keys.
        window: The first rank of the classes that they are keys of, and the one behind the last.
    """
    negative = unlabeled_negatives(ranks(probability), source, *window)  # N C
    own = negative.gather(1, truth.clamp(max=negative.shape[1] - 1).unsqueeze(1)).squeeze(1)
    return share(own, source & (truth != IGNORE))


def origin_shares(figures: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the share of each origin among a step's new negative keys, `share_NAME`, from the C counts of
    them, the figures `negatives_NAME`; NaN where there are no new keys."""
    counts = {
        name.removeprefix("negatives_"): counted.sum()
        for name, counted in figures.items()
        if name.startswith("negatives_")
    }
    return {f"share_{name}": count / sum(counts.values()) for name, count in counts.items()}


def seeds_decided(label: Tensor, valid: Tensor, tags: Tensor) -> Tensor:
    """Share of the seeds' pixels that have a label. 1 and not NaN without seeds: nothing is undecided then.

    Args:
        label, valid: B H W, int64 and bool.
        tags: B C bool; an image that may hold every class has no seed.
    """
    seeds = valid & ~tags.all(1)[:, None, None]  # B H W
    return 1 - (seeds & (label == IGNORE)).sum() / seeds.sum().clamp(min=1)
