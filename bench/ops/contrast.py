"""Contrast of class anchors with a positive prototype and negative keys, for all classes at once.

N pixels of a rank, W ranks, C classes, D channels, M anchors in G groups, K negatives per anchor.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.labels import IGNORE
from bench.ops.negatives import at_most, ranks
from bench.ops.processes import JointOrder, filled, total, world_size
from bench.ops.queues import Queues, sample_keys, take

# From P pixel numbers and their P C ranks to, per name of a rule, which pixel is a negative key of which
# class: P C bool. Pixels that are not eligible may be among them: False for all.
Rules = Callable[[Tensor, Tensor], dict[str, Tensor]]
RANKED = 16  # pixels ranked per key wanted: every class finds its keys, at a cost that no crop size raises


class Pixels(NamedTuple):
    """The N pixels of a step that are contrasted, of student and teacher: this rank's."""

    hidden: Tensor  # N D, the student's hidden vectors
    keys: Tensor  # N D, the teacher's
    probability: Tensor  # N C, the teacher's
    target: Tensor  # N int64, the class that a pixel may be an anchor of, else 255
    eligible: Tensor  # N bool, which pixels may be a key of any class
    labeled: int  # the number of them that are of labeled images; they come first


def pixels(representation: Tensor) -> Tensor:
    """B D h w -> N D, pixel by pixel; a view where the memory is channels-last."""
    return representation.permute(0, 2, 3, 1).flatten(0, 2)


def anchor_mask(target: Tensor, probability: Tensor, minimum: float) -> Tensor:
    """Which pixel may be an anchor of which class: its target, predicted with more than `minimum` (U2PL,
    Eq. 10 and 11).

    Args:
        target: N int64, 255 where a pixel is no anchor.
        probability: N C.

    Returns:
        C N bool.
    """
    classes = torch.arange(probability.shape[1], device=target.device)
    own = probability.gather(1, target.clamp(max=len(classes) - 1).unsqueeze(1)).squeeze(1)
    return torch.where(own > minimum, target, IGNORE) == classes.unsqueeze(1)


def draw(mask: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """`size` pixels of every class, uniformly with replacement: C N bool -> C size int64.

    The pixels drawn for a class that has none mean nothing: see mask.any(1).
    """
    place = mask.cumsum(1, dtype=torch.int32)
    count = place[:, -1:]
    share = torch.rand(len(mask), size, generator=generator, device=mask.device)
    nth = (share * count).to(torch.int32).minimum((count - 1).clamp(min=0)) + 1
    return torch.searchsorted(place, nth).clamp(max=mask.shape[1] - 1)


@torch.no_grad()
def class_means(keys: Tensor, mask: Tensor) -> Tensor:
    """Take the mean over each class's pixels on all ranks, 0 for a class without any (U2PL, Eq. 12).

    Args:
        keys: N D.
        mask: C N bool.

    Returns:
        C D float32.
    """
    with torch.autocast(keys.device.type, enabled=False):
        summed = total(mask.float() @ keys.float())
    return summed / total(mask.sum(1)).clamp(min=1).unsqueeze(1)


def group_count(anchors: int, negatives: int, pool: int) -> int:
    """Count the groups of a class's anchors: each has `negatives` keys of its own, all together at most
    `pool`."""
    return max(1, min(anchors, pool // negatives))


def info_nce(
    anchor: Tensor, positive: Tensor, negative: Tensor, temperature: float, here: Tensor | None = None
) -> Tensor:
    """-log of the positive's share among the positive and the negatives, by cosine over temperature (U2PL,
    Eq. 9): the mean over a class's anchors.

    The anchors of a class form groups of ceil(M / G), in their order, and those of a group have the same
    negatives: each is told from K keys at the cost of a small matrix product, and no key is copied for every
    anchor.

    Args:
        anchor: C M D, the only one that gets a gradient.
        positive: C D.
        negative: C G K D.
        here: C M bool, the anchors that are this rank's: the others count as 0. None: all are.

    Returns:
        C, in nats; meaningless for a class without anchors or negatives.
    """
    (classes, anchors, channels), groups = anchor.shape, negative.shape[1]
    size = -(-anchors // groups)
    with torch.autocast(anchor.device.type, enabled=False):
        anchor = F.normalize(anchor.float(), dim=-1)
        positive = F.normalize(positive.detach().float(), dim=-1).unsqueeze(2)  # C D 1
        negative = F.normalize(negative.detach().float(), dim=-1).transpose(2, 3)  # C G D K
        toward = anchor @ positive  # C M 1
        if short := groups * size - anchors:  # zeros stand in for anchors, and are cut off again
            anchor = F.pad(anchor, (0, 0, 0, short))
        away = anchor.view(classes, groups, size, channels) @ negative  # C G M/G K
        cosine = torch.cat([toward, away.flatten(1, 2)[:, :anchors]], 2) / temperature  # C M 1+K
        share = cosine.log_softmax(2)[:, :, 0]  # C M
        return -(share if here is None else torch.where(here, share, 0)).mean(1)


def mean_over_classes(per_class: Tensor, candidates: Tensor, ready: Tensor) -> Tensor:
    """Take the mean over the classes that have anchors on some rank and are ready (a prototype, negatives); 0
    with a graph where fewer than two are left, since a single class has nothing to be told from.

    A rank's part is times the number of ranks, because the ranks' gradients are averaged: the average is the
    gradient of one rank with the joint batch.

    Args:
        per_class: C, from `info_nce`: of the anchors that are this rank's.
        candidates: C, number of anchor candidates on all ranks.
        ready: C bool, the same on every rank.
    """
    contributes = ready & (candidates > 0)
    summed = world_size() * torch.where(contributes, per_class, 0).sum()
    count = contributes.sum()
    return summed / count.clamp(min=1) * (count > 1)


class Contrast(nn.Module):
    """The contrastive part of U2PL: keys into the queues, anchors against prototypes and queues.

    Args:
        capacities: Of each class's queue.
        channels: D.
        queue_keys: At most this number of keys enter a class's queue in a step, drawn at random.
        use_queue: False: the keys of the step are all there is.
        anchor_confidence: Probability above which a pixel may be an anchor of its class.
        anchors, negatives: M, K.
        negative_pool: At most this number of keys of a class are drawn in a step, for all its anchors.
        temperature: Of the cosines.
        prototype_momentum: How much of the old prototype stays; with 0 it is the batch's own mean (Eq. 12).
    """

    def __init__(
        self,
        capacities: Sequence[int],
        channels: int,
        *,
        queue_keys: int,
        use_queue: bool,
        anchor_confidence: float,
        anchors: int,
        negatives: int,
        negative_pool: int,
        temperature: float,
        prototype_momentum: float,
    ) -> None:
        super().__init__()
        classes = len(capacities)
        self.queues = Queues(capacities, channels)
        self.prototypes = nn.Buffer(torch.zeros(classes, channels))
        self.seen = nn.Buffer(torch.zeros(classes, dtype=torch.bool))  # has a prototype
        self.queue_keys, self.use_queue = queue_keys, use_queue
        self.anchor_confidence, self.temperature = anchor_confidence, temperature
        self.anchors, self.negatives = anchors, negatives
        self.groups = group_count(anchors, negatives, negative_pool)  # G
        self.prototype_momentum = prototype_momentum
        self.limits: dict[str, int] = {}  # by a rule's name, the most keys of a class that it gives in a step

    def forward(
        self,
        of: Pixels,
        rules: Rules,
        generator: Callable[[str], torch.Generator],
        *,
        project: Callable[[Tensor], Tensor],
        project_keys: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Give the loss, in nats, and figures for the log, one per class each.

        Keys and anchors are drawn among the pixels of all ranks, in the order of one rank, so that every rank
        stores the same keys. The loss is of the anchors that are this rank's.

        Args:
            of: The pixels.
            rules: Which of them are negative keys of which classes.
            generator: Of the step, by purpose.
            project, project_keys: The student's and the teacher's linear map from hidden vectors to
                representations; it is applied to the pixels that were sampled and to the class means.
        """
        p, pixels = of.probability, JointOrder(of.labeled, len(of.probability))
        # The eligible pixels in random order, so that the first ones are a fair sample.
        eligible = pixels.joint(of.eligible)  # WN
        order = torch.rand(len(eligible), generator=generator("keys"), device=p.device) + ~eligible
        order = order.argsort()[: RANKED * self.queue_keys]
        negative = self._negative(pixels, order, p, rules)
        union = torch.stack(list(negative.values())).any(0)
        index, meant = sample_keys(union, self.queue_keys)  # C queue_keys
        if not self.use_queue:
            self.queues.clear()
        keys = pixels.take(of.keys, order[index], lambda found: self.queues.kept(project_keys(found)))
        added = self.queues.push(keys, meant)

        mask = anchor_mask(of.target, p, self.anchor_confidence)  # C N
        candidates = total(mask.sum(1))
        self._move_prototypes(project_keys(class_means(of.keys, mask)), candidates > 0)
        drawn_anchors = draw(pixels.joint(mask.t()).t(), self.anchors, generator("anchors"))
        row, here = pixels.own(drawn_anchors)  # C M
        anchor = project(take(of.hidden, row))  # C M D
        drawn = self.queues.draw(self.groups * self.negatives, generator("negatives"))
        drawn = drawn.unflatten(1, (self.groups, self.negatives))  # C G K D
        per_class = info_nce(anchor, self.prototypes, drawn, self.temperature, here)
        figures = {
            "anchors": candidates,
            "queue_fill": self.queues.length / self.queues.capacity,
            "queue_turnover": added / self.queues.length.clamp(min=1),
            **{
                f"negatives_{name}": (by.t().gather(1, index) & meant).sum(1) for name, by in negative.items()
            },
        }
        return mean_over_classes(per_class, candidates, self.seen & (self.queues.length > 0)), figures

    def _negative(
        self, pixels: JointOrder, order: Tensor, probability: Tensor, rules: Rules
    ) -> dict[str, Tensor]:
        """Apply the rules to pixels of all ranks, by their joint numbers: P C bool each."""
        row, here = pixels.own(order)
        said = rules(row, ranks(take(probability, row)))
        if here is not None:
            every = filled(torch.stack(list(said.values())), here.unsqueeze(1))
            said = dict(zip(said, every, strict=True))
        return {
            name: at_most(negative, self.limits[name]) if name in self.limits else negative
            for name, negative in said.items()
        }

    @torch.no_grad()
    def _move_prototypes(self, mean: Tensor, present: Tensor) -> None:
        kept = self.prototype_momentum * self.seen.unsqueeze(1)  # a first mean is taken as it is
        moved = kept * self.prototypes + (1 - kept) * mean
        self.prototypes.copy_(moved.where(present.unsqueeze(1), self.prototypes))
        self.seen.logical_or_(present)

    @torch.no_grad()
    def similarity(self, keys: Tensor) -> Tensor:
        """Log-softmax over the classes of the cosine to the prototypes over the temperature: B h w D ->
        B C h w.

        A class that has no prototype yet gets the others' mean: it is moved neither way.
        """
        keys, prototypes = F.normalize(keys.float(), dim=-1), F.normalize(self.prototypes, dim=-1)
        with torch.autocast(keys.device.type, enabled=False):
            cosine = torch.einsum("bhwd,cd->bchw", keys, prototypes) / self.temperature
        seen = self.seen.view(1, -1, 1, 1)
        mean = (cosine * seen).sum(1, keepdim=True) / seen.sum().clamp(min=1)
        return cosine.where(seen, mean).log_softmax(1)
