"""The contrastive part of U2PL class by class, as the paper's Algorithm 1 and equations 9 to 16 read.

What bench.ops does for all classes at once is done here one class at a time with boolean masks and growing
lists. Both have the same limit on keys per step. The oracle of tests/oracles, and the one to beat in
tests/perf. At the end stands the call of the vectorised code that it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.ops.contrast import Contrast, Pixels, pixels
from bench.ops.entropy import partition, pixel_entropy
from bench.ops.negatives import labeled_negatives, unlabeled_negatives
from bench.ops.queues import Queues
from bench.randomness import generator_for

IGNORE = 255


@dataclass
class Setting:
    classes: int
    alpha: float = 0.2
    minimum: float = 0.3
    rank_low: int = 3
    rank_high: int = 20
    anchors: int = 256
    negatives: int = 50
    limit: int = 512
    temperature: float = 0.5
    capacities: list[int] = field(default_factory=list)


@dataclass
class Sampler:
    """Which candidates are taken. Answers positions among the candidates of a class, all from the outside."""

    keys: Callable[[int, Tensor], Tensor]  # class, candidate pixels -> pixels that enter the queue
    anchors: Callable[[int, Tensor], Tensor]  # class, candidate pixels -> M of them
    negatives: Callable[[int, int], Tensor]  # class, length of its queue -> M K positions, oldest first


def random_sampler(setting: Setting, generator: torch.Generator) -> Sampler:
    def keys(_: int, pixels: Tensor) -> Tensor:
        return pixels[torch.randperm(len(pixels), generator=generator)[: setting.limit]]

    def anchors(_: int, pixels: Tensor) -> Tensor:
        return pixels[torch.randint(len(pixels), (setting.anchors,), generator=generator)]

    def negatives(_: int, length: int) -> Tensor:
        return torch.randint(length, (setting.anchors, setting.negatives), generator=generator)

    return Sampler(keys, anchors, negatives)


def flat(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def plain_contrast(
    z: Tensor,
    keys: Tensor,
    logits: Tensor,
    label: Tensor,
    queues: list[Tensor],
    setting: Setting,
    sample: Sampler,
    valid: Tensor | None = None,
) -> Tensor:
    """The loss; `queues` (per class n D, oldest first) are changed in place.

    Args:
        z, keys: 2B D h w, of the student and of the teacher; labeled images first.
        logits: 2B C h w, of the teacher.
        label: B h w, of the labeled images.
        valid: B h w bool, of the unlabeled images: False in padding; default: no padding.
    """
    n = len(label)
    probability = logits.softmax(1)
    p_u = probability[n:]
    entropy = -(p_u * torch.log(p_u + 1e-12)).sum(1)
    valid = torch.ones_like(label, dtype=torch.bool) if valid is None else valid
    counted = entropy[valid].double().numpy()
    threshold = np.percentile(counted, 100 * (1 - setting.alpha)) if len(counted) else np.inf
    unreliable = valid & (entropy.double() >= threshold)
    pseudo_label = p_u.argmax(1)
    order = probability.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)  # 2B C h w

    losses = []
    for c in range(setting.classes):
        # Candidates (Eq. 10, 11; 14, 15).
        sure = probability[:, c] > setting.minimum
        is_anchor = torch.cat([label == c, (pseudo_label == c) & valid & ~unreliable]) & sure
        confused = (label != c) & (label != IGNORE) & (rank[:n, c] < setting.rank_low)
        unlikely = unreliable & (rank[n:, c] >= setting.rank_low) & (rank[n:, c] < setting.rank_high)
        is_negative = torch.cat([confused, unlikely])

        # The queue: appended, the newest kept.
        taken = sample.keys(c, is_negative.flatten().nonzero().squeeze(1))
        new = F.normalize(flat(keys)[taken], dim=1).to(queues[c].dtype)
        queues[c] = torch.cat([queues[c], new])[-setting.capacities[c] :]

        # The loss of the class (Eq. 9), with its prototype (Eq. 12).
        if not is_anchor.any() or not len(queues[c]):
            continue
        pixels = is_anchor.flatten().nonzero().squeeze(1)
        positive = flat(keys)[pixels].mean(0)
        anchor = flat(z)[sample.anchors(c, pixels)]  # M D
        negative = queues[c][sample.negatives(c, len(queues[c]))].float()  # M K D
        everything = torch.cat([positive.expand(len(anchor), 1, -1), negative], 1)  # M 1+K D
        cosine = F.cosine_similarity(anchor.unsqueeze(1), everything, dim=2)
        first = torch.zeros(len(anchor), dtype=torch.long)
        losses.append(F.cross_entropy(cosine / setting.temperature, first))
    if len(losses) < 2:
        return 0 * z.sum()
    return torch.stack(losses).mean()


def vectorised(setting: Setting, channels: int, pool: int) -> Contrast:
    return Contrast(
        setting.capacities,
        channels,
        queue_keys=setting.limit,
        use_queue=True,
        anchor_confidence=setting.minimum,
        anchors=setting.anchors,
        negatives=setting.negatives,
        negative_pool=pool,
        temperature=setting.temperature,
        prototype_momentum=0.0,
    )


def run_vectorised(
    contrast: Contrast,
    z: Tensor,
    keys: Tensor,
    logits: Tensor,
    label: Tensor,
    setting: Setting,
    step: int,
    valid: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """As methods/u2pl.py calls it, on maps of one resolution. Answers the loss, the figures, and which pixels
    may be keys."""
    n = len(label)
    probability = logits.softmax(1)
    valid = torch.ones_like(label, dtype=torch.bool) if valid is None else valid
    split = partition(pixel_entropy(probability[n:]), valid, setting.alpha)
    pseudo_label = probability[n:].argmax(1).where(split.reliable, IGNORE)
    target = torch.cat([label, pseudo_label]).flatten()
    known = torch.cat([label, torch.full_like(label, IGNORE)]).flatten()
    source = torch.cat([torch.zeros_like(valid), split.unreliable]).flatten()

    def rules(pixel: Tensor, rank: Tensor) -> dict[str, Tensor]:
        return {
            "labeled": labeled_negatives(rank, known[pixel], setting.rank_low),
            "unlabeled": unlabeled_negatives(rank, source[pixel], setting.rank_low, setting.rank_high),
        }

    eligible = source | (known != IGNORE)
    loss, figures = contrast(
        Pixels(pixels(z), pixels(keys), pixels(probability), target, eligible, label.numel()),
        rules,
        lambda purpose: generator_for(0, purpose, step),
        project=torch.nn.Identity(),
        project_keys=torch.nn.Identity(),
    )
    return loss, figures, eligible


def contents(queues: Queues, label: int) -> Tensor:
    """The keys of a class, oldest first: n D."""
    capacity, length = int(queues.capacity[label]), int(queues.length[label])
    first = int(queues.head[label]) - length
    return queues.keys[int(queues.offset[label]) + torch.arange(first, first + length) % capacity]
