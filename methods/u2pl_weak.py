"""U2PL on image tags: labels are CAM seeds, and what an image is not tagged with is a certain negative.

Our design: the text of the weakly supervised setting of U2PL+ (IJCV) was not available, so no published
result stands beside ours. On images without tags this is `u2pl`, bit for bit; what tags change:
- The labeled stream holds CAM seeds, 255 where a seed is undecided; masks may stand beside them.
- A pseudo-label is the most likely class among those that the image may hold, its tags and background. The
  ranks, and by default the entropy, are those of the whole prediction: how sure the teacher is does not
  depend on how many tags an image has.
- A class that is not allowed at a pixel is a certain negative there, however sure the teacher is. Only the
  hard ones count, ranked below `rank_low`, and they take at most `certain_quota` of a step's keys of a class:
  else the queues, first in and first out, would hold little but them. A certain negative beyond the quota is
  left out for that class; its seed does not bring it back.
- The undecided pixels of a seed join the unreliable ones. They are no anchors.

So a queue has keys of three origins: certain ones, labeled ones (the seed says another class, rank below
`rank_low`) and unlabeled ones (unreliable, rank_low <= rank < rank_high). The log has the share of each.

Tags belong to the pixel: inside a CutMix box they are those of the image that shows there. CSRM (wsss-csrm;
same target, same entropy) takes the union of both images' tags, by which certain negatives become allowed.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, cat

from bench.contract import IGNORE, Batch, Progress, Stream
from bench.ops.contrast import Rules
from bench.ops.entropy import Partition, pixel_entropy
from bench.ops.health import seeds_decided
from bench.ops.mixing import mix
from bench.ops.negatives import certain_negatives, labeled_negatives, unlabeled_negatives
from bench.ops.processes import joint, rank
from bench.ops.tags import allowed_label, relative_entropy
from methods.u2pl import U2PL, Shared, Targets


class U2PLWeak(U2PL):
    class HParams(Shared):
        dynamic_alpha: bool = Field(True, description="alpha falls to 0 in the run (as u2pl)")
        entropy: Literal["raw", "masked"] = Field("raw", description="of all or (masked) of tagged classes")
        certain_quota: float = Field(0.25, ge=0, le=1, description="certain ones, share of queue_keys (ours)")
        use_seed_negatives: bool = Field(True, description="labeled pixels become keys (ours)")
        use_rank_negatives: bool = Field(True, description="unreliable and undecided ones do (ours)")
        undecided: bool = Field(True, description="a seed's undecided pixels join the unreliable (ours)")
        # No knobs here, but as u2pl has them.
        use_ranks: ClassVar[bool] = True
        use_queue: ClassVar[bool] = True
        symmetric_weight: ClassVar[float] = 0.0
        prototype_momentum: ClassVar[float] = 0.0
        denoise: ClassVar[bool] = False

    def targets(self, probability: Tensor, unlabeled: Stream, box: Tensor) -> Targets:
        raw, tags = self.hp.entropy == "raw", unlabeled.tags
        entropy = pixel_entropy(probability) if raw else relative_entropy(probability, tags)
        # Without background an image may have no tag and so no class to be labeled with.
        valid = unlabeled.valid & tags.any(1)[:, None, None]
        return Targets(*(mix(x, box) for x in (allowed_label(probability, tags), entropy, valid)))

    def build_memory(self, capacities: list[int], channels: int) -> None:
        super().build_memory(capacities, channels)
        self.quota = int(self.hp.certain_quota * self.hp.queue_keys)
        self.contrast.limits["certain"] = self.quota

    def source(self, said: Targets, split: Partition, alpha: float) -> Tensor:
        return split.unreliable & self.hp.use_rank_negatives

    def negatives(
        self, batch: Batch, said: Targets, target: Tensor, source: Tensor, box: Tensor
    ) -> tuple[Tensor, Rules]:
        labeled, n, seeds = batch.labeled, len(batch.labeled.image), len(target) - source.numel()
        inside = self.net.downsample(cat([labeled.valid, said.valid]), box, fill=False)  # 2B h w
        tags = cat([labeled.tags, joint(batch.unlabeled.tags)])  # n + WB C
        # Inside a box the tags are those of the image that shows there, which may be of another rank.
        number = torch.arange(len(inside), device=tags.device)
        number[n:] += rank() * (len(inside) - n)
        shown = number[:, None, None].expand_as(inside)
        shown = cat([shown[:n], mix(shown[n:], box)]).flatten()  # N, rows of `tags`
        # Without tags all classes are allowed; an image tagged with every class tells as little.
        tagged = inside.flatten() & ~tags.all(1)[shown]  # N
        undecided = (target[:seeds] == IGNORE) & tagged[:seeds] & self.hp.undecided
        source = cat([undecided & self.hp.use_rank_negatives, source.flatten()])  # N
        label = torch.full_like(target, IGNORE)  # N
        if self.hp.use_seed_negatives:
            label[:seeds] = target[:seeds]
        known = tagged & (self.quota > 0)  # N

        def rules(pixel: Tensor, place: Tensor) -> dict[str, Tensor]:
            certain = certain_negatives(place, tags[shown[pixel]], self.rank_low) & known[pixel, None]
            return {  # no pixel is a key of the same class by two of them
                "certain": certain,
                "labeled": labeled_negatives(place, label[pixel], self.rank_low) & ~certain,
                "unlabeled": unlabeled_negatives(place, source[pixel], self.rank_low, self.hp.rank_high),
            }

        return known | source | (label != IGNORE), rules

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        terms, labeled = super().losses(batch, at), batch.labeled
        self.note("seed_decided", seeds_decided(labeled.label, labeled.valid, labeled.tags))
        return terms
