"""DACS (Tranheden et al., WACV 2021): half of a labeled image's classes are pasted onto an unlabeled one.

Made for two domains: labels of the source, images of the target. The teacher labels the target. Half of the
classes of a source image are drawn; their pixels and labels lie on top of a target image and its
pseudo-labels, so the student learns on images that are partly of each domain. A pasted pixel counts whole,
and a pixel of the target as the share of pixels that the teacher is sure of.

As in the released code (trainUDA.py): the constants are those of ClassMix, half of the classes is rounded up,
the share is that of the batch, the mean is over all pixels. Different here: pixels without a label are never
pasted, padding does not count, the teacher averages the statistics of batch norm too, and colours, where the
protocol gives them, are of the two images and not of the mixed one. Within one data set it is ClassMix with
labels on top.
"""

from torch import Tensor, arange, cat

from bench.contract import IGNORE, Batch, Progress
from bench.ops.health import accuracy, share
from bench.ops.losses import masked_cross_entropy
from bench.ops.mixing import half_of_the_classes, paste
from bench.ops.processes import joint, own, total, world_size
from methods.classmix import ClassMix


class DACS(ClassMix):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        confidence, pseudo_label = self.teacher(unlabeled.image).softmax(1).max(1)  # B H W
        valid = unlabeled.valid
        sure = total(((confidence >= self.hp.threshold) & valid).sum()) / total(valid.sum()).clamp(min=1)

        # On each unlabeled image lies the labeled one of its number; the batches may differ in size.
        image, label = joint(labeled.image), joint(labeled.label)
        above = own(arange(len(valid) * world_size(), device=valid.device) % len(image))
        image, label = image[above], label[above]
        known, classes = label != IGNORE, len(self.task.classes)
        half = half_of_the_classes(
            label.where(known, 0), known, classes, at.generator("half of the classes"), up=True
        )
        pasted = half & known
        target = paste(label, pseudo_label, pasted)
        counted = valid | pasted
        weight = sure.where(~pasted, 1) * counted  # B H W

        logits = self.net(cat([labeled.image, paste(image, unlabeled.student, pasted)]))
        logits_labeled, logits_mixed = logits.split([len(labeled.image), len(valid)])
        self.note("mask_ratio", sure)
        self.note("share_pasted", share(pasted, counted))
        self.audit("accuracy_target", lambda truth: accuracy(pseudo_label, truth, valid & ~pasted))
        return {
            "labeled": self.task.labeled_loss(logits_labeled, labeled.label),
            "unlabeled": self.hp.unlabeled_weight
            * masked_cross_entropy(logits_mixed, target, weight, counted),
        }
