"""Mean teacher (Tarvainen and Valpola, NeurIPS 2017), as the CPS repository applies it to segmentation.

The student's class probabilities on the unlabeled weak view are drawn to the teacher's by a squared
difference, on every pixel: no threshold, no ramp. The two differ in their weights and in the student's
dropout. Under equal views the student has the strong view and the boxes that every method gets.
"""

from pydantic import Field
from torch import Tensor, cat, nn

from bench.contract import Batch, Knobs, Method, Net, Progress, Supervision, Task
from bench.ops.losses import squared_difference
from bench.ops.mixing import mix
from bench.ops.teacher import Teacher


class MeanTeacher(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})

    class HParams(Knobs):
        consistency_weight: float = Field(
            100.0, ge=0, le=1e6, description="of the mean over pixels and classes (TorchSemiSeg)"
        )
        ema_decay: float = Field(
            0.99, ge=0, lt=1, description="how much of the teacher stays in a step (TorchSemiSeg)"
        )

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.teacher = Teacher(net)

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        box = unlabeled.box  # None, but under equal views
        target = mix(self.teacher(unlabeled.image).softmax(1), box)  # B C H W
        valid = mix(unlabeled.valid, box)
        logits = self.net(cat([labeled.image, mix(unlabeled.student, box)]))
        logits_labeled, logits_unlabeled = logits.split([len(labeled.image), len(unlabeled.image)])
        difference = squared_difference(logits_unlabeled.softmax(1), target)  # B H W, summed over C
        counted = valid.sum().clamp(min=1) * target.shape[1]
        return {
            "labeled": self.task.labeled_loss(logits_labeled, labeled.label),
            "consistency": self.hp.consistency_weight * (difference * valid).sum() / counted,
        }

    def after_step(self, at: Progress) -> None:
        self.teacher.update(self.net, self.hp.ema_decay, at.step)

    def predictor(self) -> nn.Module:
        return self.teacher
