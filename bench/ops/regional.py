"""The regional contrast of ReCo: hard queries of a class against pixels of the classes that it is near to.

N pixels, C classes, D channels, Q queries and G groups of K negatives per class.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.ops.contrast import class_means, draw, info_nce
from bench.ops.processes import JointOrder, world_size
from bench.ops.queues import take

Generators = Callable[[str], torch.Generator]


def negative_pixels(
    of_class: Tensor, prototypes: Tensor, count: int, temperature: float, generator: Generators
) -> Tensor:
    """Draw pixels of other classes for each class, the nearer a class the more: C count int64.

    Class j stands for class k with a probability that grows as exp(cos(mean_k, mean_j) / temperature); the
    pixel is uniform in j (ReCo, module_list.py). Without a second class the pixels mean nothing.

    Args:
        of_class: C N bool, one class a pixel at most.
        prototypes: C D, the classes' means.
    """
    classes = len(of_class)
    with torch.autocast(prototypes.device.type, enabled=False):
        near = F.normalize(prototypes, dim=1) @ F.normalize(prototypes, dim=1).t() / temperature  # C C
    itself = torch.eye(classes, dtype=torch.bool, device=near.device)
    share = near.exp() * (of_class.any(1) & ~itself)
    share = share + (share.sum(1, keepdim=True) == 0)  # any, where there is no other class
    others = torch.multinomial(share, count, replacement=True, generator=generator("negative classes"))
    # Pixels sorted by class, and where each class begins among them.
    counts = of_class.sum(1)
    first = counts.cumsum(0) - counts
    label = torch.where(of_class.any(0), of_class.to(torch.int8).argmax(0), classes)
    order = label.argsort(stable=True)
    place = torch.rand(others.shape, generator=generator("negative pixels"), device=near.device)
    nth = first[others] + (place * counts[others]).long()
    return order[nth.clamp(max=len(order) - 1)]


def regional_contrast(
    hidden: Tensor,
    of_class: Tensor,
    hard: Tensor,
    generator: Generators,
    *,
    labeled: int,
    project: Callable[[Tensor], Tensor],
    queries: int,
    negatives: int,
    groups: int,
    temperature: float,
) -> Tensor:
    """ReCo's loss, in nats: the mean over the classes that are there, 0 with a graph below two of them.

    Queries and negatives are drawn among the pixels of all ranks; the loss is of the queries that are this
    rank's.

    A class without a hard pixel adds 0 and counts all the same.

    Args:
        hidden: N D; the queries alone get a gradient.
        of_class: C N bool, the valid pixels of each class.
        hard: N bool, which of them may be queries.
        labeled: How many of the N are of labeled images; they come first.
        project: The linear map from hidden vectors to representations; it is applied to the pixels that were
            drawn and to the class means, not to all N.
        queries, negatives, groups: Q, K, G; queries of a group have the same negatives.
    """
    pixels = JointOrder(labeled, len(hard))
    candidates = pixels.joint((of_class & hard).t()).t()  # C WN
    row, here = pixels.own(draw(candidates, queries, generator("queries")))  # C Q
    query = project(take(hidden, row))  # C Q D
    with torch.no_grad():
        prototypes = project(class_means(hidden, of_class))  # C D
        of_class = pixels.joint(of_class.t()).t()  # C WN
        index = negative_pixels(of_class, prototypes, groups * negatives, temperature, generator)
        negative = pixels.take(hidden, index, project).unflatten(1, (groups, negatives))  # C G K D
    per_class = info_nce(query, prototypes, negative, temperature, here)
    present = of_class.any(1).sum()
    summed = world_size() * torch.where(candidates.any(1), per_class, 0).sum()
    return summed / present.clamp(min=1) * (present > 1)
