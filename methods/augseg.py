"""AugSeg (Zhao et al., CVPR 2023): random colours, and boxes of labeled images where the teacher is unsure.

The teacher labels the weak view. The student sees a strong view of one to three colour operations at random.
The surer the teacher is of an image, the less often a box of a labeled image, with its true labels, is pasted
into it; then a box of another image of the batch is pasted. The loss is the mean over all pixels, those that
do not train counted as 0.

From the released code (train_semi.py, augseg/dataset/augs_TIBA.py, augs_ALIA.py): the pool below; an image's
share outside its box by Beta(8, 2) and Beta(4, 4), one draw of each a batch; one permutation for both
partners, which may give an image itself. Different here: the teacher's confidence in an image is a mean over
its pixels outside padding, and the weak view does not go through the student for its batch norm, as one of
the configurations has it. Under equal views the strong view is the protocol's, as for all methods. The boxes
stay, since the method is named for them.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, cat, nn

from bench.contract import (
    IGNORE,
    Batch,
    Knobs,
    Method,
    Net,
    Operation,
    Passes,
    Progress,
    Stage,
    Supervision,
    Task,
    Views,
)
from bench.ops.entropy import pixel_entropy
from bench.ops.health import accuracy
from bench.ops.losses import masked_cross_entropy
from bench.ops.mixing import beta, boxes_around, paste
from bench.ops.processes import joint, own, world_size
from bench.ops.teacher import Teacher

# The operations of the strong view, and their ranges (augs_TIBA.py, get_augment_list).
POOL = (
    *map(Operation, ("identity", "autocontrast", "equalize")),
    Operation("blur", (0.1, 2.0)),
    *(Operation(name, (0.05, 0.95)) for name in ("contrast", "brightness", "saturation", "sharpness")),
    Operation("posterize", (4, 8)),
    Operation("solarize", (1, 256)),
    Operation("hue", (-0.5, 0.5)),
)
LABELED, OTHERS = (8, 2), (4, 4)  # of Beta, for boxes of labeled and of other images (augs_ALIA.py)


class AugSeg(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    passes = Passes(trained=(1, 1), read=(0, 1))
    views = Views(strong=1, mixes=True, recipe=(Stage(POOL, draws=(1, 3)),))

    class HParams(Knobs):
        threshold: float = Field(
            0.95, ge=0, le=1, description="confidence from which a pixel trains; 0 on Cityscapes (configs)"
        )
        unlabeled_weight: float = Field(
            1.0, ge=0, le=1e6, description="of the mixed images; 2 in one configuration (AugSeg)"
        )
        ema_decay: float = Field(
            0.999, ge=0, lt=1, description="how much of the teacher stays; .996 on Cityscapes (AugSeg)"
        )

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.teacher = Teacher(net)

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        probability = self.teacher(unlabeled.image).softmax(1)  # B C H W
        confidence, pseudo_label = probability.max(1)  # B H W
        entropy = pixel_entropy(probability) / math.log(probability.shape[1])  # B H W, 0..1
        counted = unlabeled.valid.sum((1, 2)).clamp(min=1)
        sure = ((1 - entropy) * confidence * unlabeled.valid).sum((1, 2)) / counted  # B
        partner, of_labeled, of_others = self.boxes(sure, unlabeled.valid, at)

        def mixed(own: Tensor, labeled: Tensor) -> Tensor:
            """Of the unlabeled images B . H W, and of the labeled ones n . H W."""
            every = joint(labeled)
            injected = paste(every[partner % len(every)], own, of_labeled)
            return paste(joint(injected)[partner], injected, of_others)

        label = mixed(pseudo_label.where(unlabeled.valid, IGNORE), labeled.label)
        certain = torch.ones_like(labeled.label, dtype=confidence.dtype)
        keep = (mixed(confidence, certain) >= self.hp.threshold) & (label != IGNORE)
        images = cat([labeled.image, mixed(unlabeled.student, labeled.image)])
        logits_labeled, logits_mixed = self.net(images).split([len(labeled.image), len(unlabeled.image)])
        loss = masked_cross_entropy(logits_mixed, label.where(keep, 0), keep, torch.ones_like(keep))

        own = (confidence >= self.hp.threshold) & unlabeled.valid
        self.note("mask_ratio", keep.float().mean())
        self.note("confidence", sure.mean())
        self.audit("accuracy_kept", lambda truth: accuracy(pseudo_label, truth, own))
        return {
            "labeled": self.task.labeled_loss(logits_labeled, labeled.label),
            "unlabeled": self.hp.unlabeled_weight * loss,
        }

    def boxes(self, sure: Tensor, valid: Tensor, at: Progress) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the partner of each image (B) in the joint batch, and where boxes are pasted, B H W bool:
        first boxes of labeled images, then of one another. Those of labeled images are pasted with
        probability 1 - `sure` (B)."""
        draw, images = at.generator("adaptive injection"), len(sure) * world_size()
        partner = own(torch.randperm(images, generator=draw, device=sure.device))
        injected = own(torch.rand(images, generator=draw, device=sure.device)) >= sure
        self.note("share_injected", injected.float().mean())
        of_labeled, of_others = (boxes_around(valid, 1 - beta(*of, draw), draw) for of in (LABELED, OTHERS))
        return partner, of_labeled & injected.view(-1, 1, 1), of_others

    def after_step(self, at: Progress) -> None:
        self.teacher.update(self.net, self.hp.ema_decay, at.step)

    def predictor(self) -> nn.Module:
        return self.teacher
