"""Self-training, ST (Yang et al., CVPR 2022): a finished run labels all images, and a second one learns them.

Rounds: `supervised` trains on the labeled images. Its last weights label every unlabeled image, each pixel,
by the mean over five scales and their mirror images. A fresh network trains on both, the pseudo-labeled ones
in a strong view. `run` does all of it.

From the released code (main.py, dataset/semi.py, dataset/transform.py): scales .5 to 2, no threshold,
colours, and in half of the views CutOut, a box of noise whose labels do not count. Different here: there the
labels come from the model that was best on the scored list, here from the last weights, and no scored mask
steers anything. A batch has as many pseudo-labeled images as the protocol says, and each half has a mean of
its own; the code repeats labeled images and has one mean. Both rounds have all steps of the protocol, so this
trains twice as long as others. Under equal views the box is CutMix, as for all methods. ST++, which prefers
images that early and late predictions agree on, is not this.
"""

import torch
from pydantic import Field
from torch import Tensor, cat

from bench.contract import (
    IGNORE,
    Batch,
    BoxRule,
    Knobs,
    Method,
    Passes,
    Progress,
    Rounds,
    Supervision,
    Views,
)
from bench.ops.health import accuracy, share
from bench.ops.losses import masked_cross_entropy
from bench.ops.mixing import mix, paste
from bench.ops.processes import own, world_size


class SelfTraining(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    rounds = Rounds("supervised", scales=(0.5, 0.75, 1.0, 1.5, 2.0), flip=True)
    passes = Passes(trained=(1, 1))
    # One box with probability one half (ST, dataset/transform.py, cutout).
    views = Views(strong=1, boxes=BoxRule(probability=0.5, area=(0.02, 0.4), ratio=(0.3, 1 / 0.3)))

    class HParams(Knobs):
        unlabeled_weight: float = Field(
            0.5, ge=0, le=1e6, description="with labeled_weight: the mean of both halves of a batch (ST)"
        )
        labeled_weight: float = Field(0.5, gt=0, le=1e6, description="of the labeled half (ST)")

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        pseudo_label = unlabeled.label.where(unlabeled.valid, IGNORE)  # B H W
        image, label = unlabeled.student, pseudo_label
        if self.task.equal_views:
            image, label = mix(image, unlabeled.box), mix(label, unlabeled.box)
        elif unlabeled.box is not None:
            shape = (len(image) * world_size(), *image.shape[1:])
            noise = own(torch.rand(shape, generator=at.generator("cutout"), device=image.device))
            image, label = paste(noise, image, unlabeled.box), label.masked_fill(unlabeled.box, IGNORE)
        keep = label != IGNORE

        logits = self.net(cat([labeled.image, image]))
        logits_labeled, logits_strong = logits.split([len(labeled.image), len(image)])
        self.note("mask_ratio", keep.float().mean())
        self.note("agreement", share(logits_strong.detach().argmax(1) == label, keep))
        self.audit("accuracy_pseudo", lambda truth: accuracy(pseudo_label, truth, pseudo_label != IGNORE))
        loss = masked_cross_entropy(logits_strong, label.where(keep, 0), keep, counted=keep)
        return {
            "labeled": self.hp.labeled_weight * self.task.labeled_loss(logits_labeled, labeled.label),
            "unlabeled": self.hp.unlabeled_weight * loss,
        }
