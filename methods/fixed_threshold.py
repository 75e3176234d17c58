"""Fixed threshold: online self-training on weak views.

The teacher labels the weak view of the unlabeled images; the pixels it is sure of train the student on that
same view. No strong view, no mixing: what a fixed threshold does by itself. (The offline form labels once
with a finished network and trains a second one: ST, Yang et al., CVPR 2022. It is another baseline.)

Equal views give it the strong view and the boxes that every method gets. Then it is `fixmatch`, bit for bit.
"""

from pydantic import Field
from torch import Tensor, cat, nn

from bench.contract import Batch, Knobs, Method, Net, Passes, Progress, Supervision, Task
from bench.ops.health import accuracy
from bench.ops.losses import masked_cross_entropy
from bench.ops.mixing import mix
from bench.ops.teacher import Teacher


class FixedThreshold(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    passes = Passes(trained=(1, 1), read=(0, 1))

    class HParams(Knobs):
        # As in fixmatch, so that the two differ in the views alone.
        threshold: float = Field(
            0.95, ge=0, le=1, description="confidence from which a pixel trains (as fixmatch)"
        )
        unlabeled_weight: float = Field(
            0.5, ge=0, le=1e6, description="weight of the pseudo-labels (as fixmatch)"
        )
        labeled_weight: float = Field(0.5, gt=0, le=1e6, description="weight of the labels (as fixmatch)")
        ema_decay: float = Field(
            0.996, ge=0, lt=1, description="share of the teacher that stays (as fixmatch)"
        )

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.teacher = Teacher(net)

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        box = unlabeled.box  # None, but under equal views
        confidence, pseudo_label = self.teacher(unlabeled.image).softmax(1).max(1)  # B H W
        valid, target = mix(unlabeled.valid, box), mix(pseudo_label, box)
        keep = (mix(confidence, box) >= self.hp.threshold) & valid
        logits = self.net(cat([labeled.image, mix(unlabeled.student, box)]))
        logits_labeled, logits_unlabeled = logits.split([len(labeled.image), len(unlabeled.image)])
        self.note("mask_ratio", keep.sum() / valid.sum().clamp(min=1))
        self.audit("accuracy_kept", lambda truth: accuracy(target, mix(truth, box), keep))
        return {
            "labeled": self.hp.labeled_weight * self.task.labeled_loss(logits_labeled, labeled.label),
            "unlabeled": self.hp.unlabeled_weight
            * masked_cross_entropy(logits_unlabeled, target, keep, valid),
        }

    def after_step(self, at: Progress) -> None:
        self.teacher.update(self.net, self.hp.ema_decay, at.step)

    def predictor(self) -> nn.Module:
        return self.teacher
