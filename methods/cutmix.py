"""CutMix-Seg (French et al., BMVC 2020): consistency between mixing the images and mixing the predictions.

The teacher predicts two unlabeled images; the student must predict, on their CutMix, the CutMix of those
predictions. The squared difference counts on every pixel and is scaled by one number per batch: the share of
pixels that the teacher is sure of. Under equal views box and student's view are those of every method.

As in the released code (CutMix-Seg): threshold .97, weight 1, the squared difference, the rule of the box.
Different here: labeled and mixed images go through the student in one pass; the partner of an image is the
next one of the batch, there one of a second batch; share and mean are of the pixels outside padding.
"""

from pydantic import Field
from torch import Tensor, cat, nn

from bench.contract import Batch, BoxRule, Knobs, Method, Net, Passes, Progress, Supervision, Task, Views
from bench.ops.losses import squared_difference
from bench.ops.mixing import mix
from bench.ops.processes import share_of_mean, total
from bench.ops.teacher import Teacher


class CutMix(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    passes = Passes(trained=(1, 1), read=(0, 1))
    # One box of half the area in every image; sides 50 to 100 % of the crop, log-uniform (CutMix-Seg,
    # mask_gen.py).
    views = Views(boxes=BoxRule(probability=1.0, area=(0.5, 0.5), ratio=(0.5, 2.0), log_ratio=True))

    class HParams(Knobs):
        threshold: float = Field(
            0.97, ge=0, le=1, description="confidence above which the teacher is sure of a pixel (CutMix-Seg)"
        )
        consistency_weight: float = Field(
            1.0, ge=0, le=1e6, description="of the squared difference (CutMix-Seg)"
        )
        ema_decay: float = Field(0.99, ge=0, lt=1, description="share of the teacher that stays (CutMix-Seg)")

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.teacher = Teacher(net)

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        box = unlabeled.box
        probability = self.teacher(unlabeled.image).softmax(1)  # B C H W
        target, valid = mix(probability, box), mix(unlabeled.valid, box)

        logits = self.net(cat([labeled.image, mix(unlabeled.student, box)]))
        logits_labeled, logits_mixed = logits.split([len(labeled.image), len(unlabeled.image)])
        difference = squared_difference(logits_mixed.softmax(1), target)  # B H W
        sure = total(((target.amax(1) > self.hp.threshold) & valid).sum()) / total(valid.sum()).clamp(min=1)
        consistency = self.hp.consistency_weight * sure * (difference * valid).sum()
        self.note("mask_ratio", sure)
        return {
            "labeled": self.task.labeled_loss(logits_labeled, labeled.label),
            "consistency": share_of_mean(consistency, valid.sum()),
        }

    def after_step(self, at: Progress) -> None:
        self.teacher.update(self.net, self.hp.ema_decay, at.step)

    def predictor(self) -> nn.Module:
        return self.teacher
