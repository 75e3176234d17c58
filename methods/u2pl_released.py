"""U2PL as its released code behaves, faults included: what they cost against `u2pl`, which follows the paper.

The faults, by their numbers in the comparison of paper and code (file and line: loss_helper.py and
train_semi.py of the code):
- A1: a pixel may be a negative key of class c only if its own label is c (loss_helper.py:136-140): labeled
  pixels never are one, unlabeled ones only where the two teacher passes disagree.
- A2: anchors and prototypes are read with the number of the valid class, not its id (:173-206): the i-th
  class that is present gets the anchors of class i and the queue of its own.
- A3: only the lowest alpha_t of the entropies may be unlabeled anchors, 20 % falling to 0, instead of all
  reliable pixels (train_semi.py:405-410).
- A4: the prototype is the mean over all those pixels, sure of their class or not (loss_helper.py:119-123).
- A8: the contrastive term is divided by the number of processes, and its gradient is averaged over them once
  more (train_semi.py:514-519); its weight is 1, where the paper has 0.1.
- A11: labels come from the teacher in eval mode on the weak images, entropy and keys from a second pass in
  train mode (statistics of the batch, dropout) on labeled and mixed images (:318-374).
- One-hot labels of all images of a batch land in its first image (utils.py, label_onehot): there every pixel
  belongs to the classes of all images, elsewhere to none. Where another image is 255, the first gets class 0;
  only what is 255 in the first itself has no class.

The rest is as in `u2pl`, so that the two differ in these points only. So this is not reproduced:
- A7: after the warm-up the code's teacher is the student itself for a whole epoch.
- Statistics of batch norm: the code's teacher keeps running ones of its own, of the images that it sees, and
  labels with them. Here they are averages of the student's.
- A13: the code pads labels with class 0, so padding trains and is counted. Here it is 255.
- Geometry: the code up-samples with aligned corners, which is a setting of the protocol here. It takes the
  upper left pixel for a cell's label, here the one at its centre.
- CutMix: the code draws the width of a box uniformly, here its sides are log-uniform.
- Keys: the code stores all of a step's, here at most `queue_keys` a class. There each anchor draws negatives
  of its own, here those of a group share them.
- The schedule counts steps, where the code counts epochs.
The second pass (A11) is on the student's images, under equal views too.
"""

import torch
from pydantic import Field
from torch import Tensor, cat
from torch.nn.modules.batchnorm import _BatchNorm

from bench.contract import IGNORE, Batch, Passes, Progress
from bench.ops.contrast import class_means, draw, group_count, info_nce, pixels
from bench.ops.entropy import partition, pixel_entropy, surest
from bench.ops.health import share
from bench.ops.losses import masked_cross_entropy
from bench.ops.mixing import mix
from bench.ops.negatives import ranks, unlabeled_negatives
from bench.ops.processes import JointOrder, rank, total, world_size
from bench.ops.queues import Queues, sample_keys, take
from bench.ops.teacher import Teacher
from methods.u2pl import Family, Shared


class U2PLReleased(Family):
    passes = Passes(trained=(1, 1), read=(1, 2), through="representation")
    version = 2  # 1 gave no class to pixels of the first image that are 255 in another one

    class HParams(Shared):
        contrast_weight: float = Field(
            1.0,
            ge=0,
            le=1e6,
            description="weight of the contrastive loss, divided by world_size (configs of the code, A8)",
        )
        world_size: int = Field(
            4, ge=1, le=1_000_000, description="processes of the released VOC configuration: 4 GPUs"
        )

    def build_memory(self, capacities: list[int], channels: int) -> None:
        self.queues = Queues(capacities, channels)

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        n = len(labeled.image)

        # Labels of the weak images, mixed with them.
        box = self.draw_box(unlabeled, at)  # B H W
        pseudo_label = self.teacher(unlabeled.image).argmax(1).where(unlabeled.valid, IGNORE)
        pseudo_label = mix(pseudo_label, box)
        valid = pseudo_label != IGNORE
        images = cat([labeled.image, mix(unlabeled.student, box)])
        logits, hidden = self.net.represent(images)
        logits_labeled, logits_mixed = self.net.upsample(logits, images).split([n, len(box)])

        # A11: entropy and keys come from another pass.
        cells, keys = represent_by_batch(self.teacher, images)  # 2B C h w, 2B D h w
        entropy = pixel_entropy(self.net.upsample(cells[n:], images[n:]).softmax(1))  # B H W
        alpha = self.hp.alpha * (1 - at.fraction)
        reliable, unreliable, threshold = partition(entropy, valid, alpha)
        sure = surest(entropy, valid, alpha)  # A3
        loss = masked_cross_entropy(logits_mixed, pseudo_label.where(reliable, 0), reliable, counted=reliable)
        weight = total(valid.sum()) / total(reliable.sum()).clamp(min=1)

        # Contrast, at the decoder's resolution: N = 2B h w, first the labeled pixels, then the mixed ones.
        known = labeled.label != IGNORE
        label = self.net.downsample(cat([labeled.label, pseudo_label]), cells, fill=IGNORE)  # 2B h w
        own = cat([one_hot_in_first(x, len(self.task.classes)) for x in (label[:n], label[n:])])  # 2B C h w
        low, high = (
            pixels(own & self.net.downsample(cat([known, x]), cells, fill=False).unsqueeze(1))  # N C
            for x in (sure, unreliable)
        )
        p = pixels(cells.float().softmax(1))  # N C
        contrast = self._contrast(pixels(hidden), pixels(keys), p, low, high, label[:n].numel(), at)

        self.note("threshold", threshold.where(threshold.isfinite(), torch.nan))
        self.note("reliable_share", reliable.sum() / valid.sum())
        return {
            "labeled": self.task.labeled_loss(logits_labeled, labeled.label),
            "unlabeled": self.hp.unlabeled_weight * weight * loss,
            "contrast": self.hp.contrast_weight / self.hp.world_size * contrast,  # A8
        }

    def _contrast(
        self, z: Tensor, keys: Tensor, p: Tensor, low: Tensor, high: Tensor, labeled: int, at: Progress
    ) -> Tensor:
        """As in `u2pl`, but for the faults.

        Args:
            z, keys: N D, hidden vectors of the student and of the teacher.
            p: N C, the teacher's probability.
            low, high: N C bool, the surest and the unreliable pixels among those of each class.
            labeled: How many of the N are labeled; they come first.
        """
        hp, every = self.hp, JointOrder(labeled, len(p))
        place = ranks(p)
        confused = (place[:labeled] < self.rank_low) & ~low[:labeled]
        unlikely = unlabeled_negatives(place[labeled:], high[labeled:].any(1), self.rank_low, hp.rank_high)
        negative = every.joint(high & cat([confused, unlikely]))  # A1; WN C
        labeled *= world_size()  # those of all ranks
        order = torch.rand(len(negative), generator=at.generator("keys"), device=at.device).argsort()
        index, meant = sample_keys(negative[order], hp.queue_keys)
        taken = every.take(keys, order[index], lambda found: self.queues.kept(self.teacher.project(found)))
        added = self.queues.push(taken, meant)

        # A2: place i holds the anchors and the prototype of class i, and the queue of the i-th valid class.
        valid = total(low.any(0))  # C
        queue = (~valid).byte().argsort(stable=True)  # C
        mask = every.joint(low & (p > hp.anchor_confidence)).t()  # C WN
        mean = self.teacher.project(class_means(keys, low.t()))  # A4
        row, here = every.own(draw(mask, hp.anchors, at.generator("anchors")))  # C M
        anchor = self.net.project(take(z, row))  # C M D
        groups = group_count(hp.anchors, hp.negatives, hp.negative_pool)  # G
        stored = self.queues.draw(groups * hp.negatives, at.generator("negatives"))[queue]
        stored = stored.unflatten(1, (groups, hp.negatives))  # C G K D
        per_place = info_nce(anchor, mean, stored, hp.temperature, here)

        self.note("anchors", mask.sum(1))
        self.note("negatives_labeled", negative[:labeled].sum(0))
        self.note("negatives_unlabeled", negative[labeled:].sum(0))
        self.note("share_unlabeled", share(order[index] >= labeled, meant))  # of the keys that enter
        self.note("queue_fill", self.queues.length / self.queues.capacity)
        self.note("queue_turnover", added / self.queues.length.clamp(min=1))
        number = valid.sum()
        used = torch.arange(p.shape[1], device=p.device) < number
        used = used & mask.any(1) & (self.queues.length[queue] > 0)  # the others count in the denominator
        summed = world_size() * torch.where(used, per_place, 0).sum()
        return summed / number.clamp(min=1) * (number > 1)


def one_hot_in_first(label: Tensor, classes: int) -> Tensor:
    """One-hot labels as the released code scatters them: B h w, 255 where none -> B C h w bool, in which the
    first image of all ranks has the classes of all images, the others none. It fills 255 with class 0 before
    it scatters, and clears the image's own plane alone, so 255 in another image is class 0 in the first."""
    filled = label.where(label != IGNORE, 0).unsqueeze(1)
    own = filled == torch.arange(classes, device=label.device).view(-1, 1, 1)  # B C h w
    first = total(own.any(0, keepdim=True)) & (label[:1] != IGNORE).unsqueeze(1) & (rank() == 0)
    return cat([first, torch.zeros_like(own[1:])])


@torch.no_grad()
def represent_by_batch(teacher: Teacher, image: Tensor) -> tuple[Tensor, Tensor]:
    """As teacher.represent, in train mode: batch norm by the statistics of this batch, and dropout. The
    running statistics stay as they are."""
    norms = [module for module in teacher.module.modules() if isinstance(module, _BatchNorm)]
    teacher.module.train()
    for norm in norms:
        norm.track_running_stats = False
    try:
        return teacher.module.represent(image)
    finally:
        for norm in norms:
            norm.track_running_stats = True
        teacher.module.eval()
