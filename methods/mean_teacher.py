"""Mean teacher (Tarvainen and Valpola, NeurIPS 2017), as the CPS repository applies it to segmentation.

The student's class probabilities on the unlabeled weak view are drawn to the teacher's by a squared
difference, on every pixel, without a threshold. The two differ in their weights and in the student's dropout.
Under equal views the student has the strong view and the boxes that every method gets.

The weight of 100 is that of both. It is ramped up as the authors do; TorchSemiSeg, which starts from ImageNet
weights, does not.
"""

import math

from pydantic import Field
from torch import Tensor, cat, nn

from bench.contract import Batch, Knobs, Method, Net, Passes, Progress, Supervision, Task
from bench.ops.losses import squared_difference
from bench.ops.mixing import mix
from bench.ops.processes import share_of_mean
from bench.ops.teacher import Teacher


class MeanTeacher(Method):
    version = 2  # 1 had no ramp
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    passes = Passes(trained=(1, 1), read=(0, 1))

    class HParams(Knobs):
        consistency_weight: float = Field(
            100.0, ge=0, le=1e6, description="of the mean over pixels and classes (TorchSemiSeg)"
        )
        ramp_up: float = Field(
            0.267,
            ge=0,
            le=1_000_000,
            description="that weight grows over a share of the steps, from 1 on their number, 0: is there at "
            "once; 40 000 of 150 000 (Tarvainen and Valpola, model.py of their code)",
        )
        ema_decay: float = Field(
            0.99, ge=0, lt=1, description="how much of the teacher stays in a step (TorchSemiSeg)"
        )

        def check(self, classes: int, steps: int) -> None:
            if self.ramp_up > max(steps, 1):
                raise ValueError(
                    f"ramp_up={self.ramp_up:g} is longer than the run, of {steps} steps, so the weight would "
                    f"never be reached; set it to {steps} at most, or below 1 for a share"
                )

        def weight(self, at: Progress) -> float:
            """Of the consistency at a step: exp(-5 (1 - x)^2) of the whole at the share x of the ramp."""
            steps = self.ramp_up * at.total if self.ramp_up < 1 else self.ramp_up
            left = max(1 - at.step / steps, 0) if steps else 0
            return self.consistency_weight * math.exp(-5 * left**2)

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
        consistency = self.hp.weight(at) * (difference * valid).sum()
        return {
            "labeled": self.task.labeled_loss(logits_labeled, labeled.label),
            "consistency": share_of_mean(consistency, valid.sum() * target.shape[1]),
        }

    def after_step(self, at: Progress) -> None:
        self.teacher.update(self.net, self.hp.ema_decay, at.step)

    def predictor(self) -> nn.Module:
        return self.teacher
