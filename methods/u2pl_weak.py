"""U2PL on image tags, points, strokes and boxes: what they rule out is a certain negative.

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
- A box says of each pixel what tags say of an image: inside, the classes of the boxes that it lies in, and
  background; outside, background, or without such a class all that have a box in the image. So a box, and
  its absence, give certain negatives.
- Pixels without a point or a stroke are unlabeled. Where their image is in the labeled stream, they are
  parted by entropy as the unlabeled stream is, and the unreliable ones of it join those of that one. So are
  the pixels that a seed of boxes leaves undecided.

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
from bench.ops.entropy import Partition, partition, pixel_entropy
from bench.ops.health import seeds_decided
from bench.ops.mixing import mix
from bench.ops.negatives import certain_negatives, labeled_negatives, unlabeled_negatives
from bench.ops.processes import joint, rank
from bench.ops.tags import allowed_label, relative_entropy
from methods.u2pl import U2PL, Negatives, Shared, Targets


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
        raw, allowed = self.hp.entropy == "raw", unlabeled.allowed  # B C 1 1 or B C H W
        entropy = pixel_entropy(probability) if raw else relative_entropy(probability, allowed)
        # Without background an image may have no tag and so no class to be labeled with.
        valid = unlabeled.valid & allowed.any(1)
        return Targets(*(mix(x, box) for x in (allowed_label(probability, allowed), entropy, valid)))

    def build_memory(self, capacities: list[int], channels: int) -> None:
        super().build_memory(capacities, channels)
        self.quota = int(self.hp.certain_quota * self.hp.queue_keys)
        self.contrast.limits["certain"] = self.quota

    def source(self, said: Targets, split: Partition, alpha: float) -> Tensor:
        return split.unreliable & self.hp.use_rank_negatives

    def negatives(self, batch: Batch, said: Targets, target: Tensor, keys: Negatives) -> tuple[Tensor, Rules]:
        labeled, n, box = batch.labeled, len(batch.labeled.image), keys.small_box
        seeds = len(target) - keys.source.numel()
        inside = self.net.downsample(cat([labeled.valid, said.valid]), box, fill=False)  # 2B h w
        tags, shown = self.sets(labeled, batch.unlabeled, box)  # R C, 2B h w
        # Inside a box the tags are those of the image that shows there, which may be of another rank.
        shown = cat([shown[:n], mix(shown[n:], box)]).flatten()  # N, rows of `tags`
        # Without tags all classes are allowed; an image tagged with every class tells as little.
        tagged = inside.flatten() & ~tags.all(1)[shown]  # N
        undecided = (target[:seeds] == IGNORE) & inside.flatten()[:seeds]
        undecided = self.unreliable(labeled, undecided, tagged[:seeds], keys) & self.hp.undecided
        source = cat([undecided & self.hp.use_rank_negatives, keys.source.flatten()])  # N
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

    def sets(self, labeled: Stream, unlabeled: Stream, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sets of classes that pixels may show, R C bool, and the row of each cell, 2B h w int64.
        The R sets include those of the unlabeled images of all ranks."""
        (of_labeled, first), (of_unlabeled, then) = labeled.sets, unlabeled.sets
        then = then + len(of_labeled) + rank() * len(of_unlabeled)
        row = self.net.downsample(cat([first, then]), cells, fill=0)  # 2B h w
        return cat([of_labeled, joint(of_unlabeled)]), row

    def unreliable(self, labeled: Stream, undecided: Tensor, tagged: Tensor, keys: Negatives) -> Tensor:
        """Which undecided cells of the labeled stream join the unreliable ones: those of seeds of tags, and
        of images with sparse labels those of high entropy. All are B h w, flat, bool."""
        if labeled.sparse is None:
            return undecided & tagged
        n, cells = len(labeled.image), len(undecided) // len(labeled.image)
        sparse = labeled.sparse.repeat_interleave(cells, output_size=n * cells)
        entropy = pixel_entropy(keys.probability[: len(undecided)].detach())
        parted = partition(entropy, undecided & sparse, keys.alpha).unreliable
        return torch.where(sparse, parted, undecided & tagged)

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        terms, labeled = super().losses(batch, at), batch.labeled
        self.note("seed_decided", seeds_decided(labeled.label, labeled.valid, labeled.tags))
        return terms
