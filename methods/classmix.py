"""ClassMix (Olsson et al., WACV 2021): half of an image's classes are pasted onto another image.

The teacher labels the weak views. Half of the classes that it finds in an image are drawn; their pixels stay,
and all others come from the next image, labels and all. The student learns the labels of the mixed image on
every pixel, weighted by one number a batch: the share of pixels that the teacher is sure of.

As in the released code (trainSSL.py): VOC's configuration has no colours; the share is that of the batch.
Different here: the teacher averages the statistics of batch norm too; share and loss are of the pixels
outside padding, there of all; and colours, where the protocol gives them, are of the two images and not of
the mixed one.
"""

from pydantic import Field
from torch import Tensor, cat, nn

from bench.contract import Batch, Knobs, Method, Net, Passes, Progress, Supervision, Task, Views
from bench.ops.health import accuracy, share
from bench.ops.losses import masked_cross_entropy
from bench.ops.mixing import half_of_the_classes, mix
from bench.ops.processes import total
from bench.ops.teacher import Teacher


class ClassMix(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    passes = Passes(trained=(1, 1), read=(0, 1))
    views = Views(mixes=True)

    class HParams(Knobs):
        threshold: float = Field(
            0.968,
            ge=0,
            le=1,
            description="confidence from which the teacher is sure of a pixel (ClassMix, trainSSL.py)",
        )
        unlabeled_weight: float = Field(
            1.0, ge=0, le=1e6, description="of the mixed images (ClassMix, configVOC.json)"
        )
        ema_decay: float = Field(0.99, ge=0, lt=1, description="how much of the teacher stays (ClassMix)")

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.teacher = Teacher(net)

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        confidence, pseudo_label = self.teacher(unlabeled.image).softmax(1).max(1)  # B H W
        kept = half_of_the_classes(
            pseudo_label, unlabeled.valid, len(self.task.classes), at.generator("half of the classes")
        )
        elsewhere = ~kept  # where the next image shows
        target, valid = mix(pseudo_label, elsewhere), mix(unlabeled.valid, elsewhere)
        sure = total(((mix(confidence, elsewhere) >= self.hp.threshold) & valid).sum())
        sure = sure / total(valid.sum()).clamp(min=1)

        logits = self.net(cat([labeled.image, mix(unlabeled.student, elsewhere)]))
        logits_labeled, logits_mixed = logits.split([len(labeled.image), len(unlabeled.image)])
        loss = masked_cross_entropy(logits_mixed, target, valid, valid)
        self.note("mask_ratio", sure)
        self.note("share_own", share(kept, unlabeled.valid))
        self.audit("accuracy_mixed", lambda truth: accuracy(target, mix(truth, elsewhere), valid))
        return {
            "labeled": self.task.labeled_loss(logits_labeled, labeled.label),
            "unlabeled": self.hp.unlabeled_weight * sure * loss,
        }

    def after_step(self, at: Progress) -> None:
        self.teacher.update(self.net, self.hp.ema_decay, at.step)

    def predictor(self) -> nn.Module:
        return self.teacher
