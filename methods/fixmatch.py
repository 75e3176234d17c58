"""FixMatch for segmentation, with the teacher of UniMatch V2 (Yang et al., TPAMI 2025).

The teacher labels the weak view; its confident pixels train the student on a strong view of the same crop,
coloured anew and cut-mixed with another image. The denominator counts every pixel outside padding, so the
term grows with the share of confident pixels.

As in UniMatch's fixmatch.py: threshold .95, the rule of the box, the colours, the denominators, half of each
term. Different here: a teacher in eval mode labels, there the student in training mode; labeled and strong
images share the statistics of batch norm, there labeled and weak ones; the partner of a mixed image is the
next one of the batch, there one of a second loader; padding has the mean colour, there it is black.
"""

from pydantic import Field
from torch import Tensor, cat, nn

from bench.contract import Batch, BoxRule, Knobs, Method, Net, Passes, Progress, Supervision, Task, Views
from bench.ops.health import accuracy
from bench.ops.losses import masked_cross_entropy
from bench.ops.mixing import mix
from bench.ops.teacher import Teacher


class FixMatch(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    passes = Passes(trained=(1, 1), read=(0, 1))
    # One box with probability one half (UniMatch, dataset/transform.py).
    views = Views(strong=1, boxes=BoxRule(probability=0.5, area=(0.02, 0.4), ratio=(0.3, 1 / 0.3)))

    class HParams(Knobs):
        threshold: float = Field(
            0.95,
            ge=0,
            le=1,
            description="confidence from which a pixel trains (UniMatch, configs/pascal.yaml)",
        )
        unlabeled_weight: float = Field(
            0.5, ge=0, le=1e6, description="with labeled_weight: the mean of both terms (UniMatch)"
        )
        labeled_weight: float = Field(0.5, gt=0, le=1e6, description="of the labeled term (UniMatch)")
        ema_decay: float = Field(
            0.996, ge=0, lt=1, description="how much of the teacher stays in a step (UniMatch V2)"
        )

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.teacher = Teacher(net)

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        strong, box = unlabeled.student, unlabeled.box
        confidence, pseudo_label = self.teacher(unlabeled.image).softmax(1).max(1)  # B H W
        valid = mix(unlabeled.valid, box)
        keep = (mix(confidence, box) >= self.hp.threshold) & valid
        target = mix(pseudo_label, box)

        logits = self.net(cat([labeled.image, mix(strong, box)]))
        logits_labeled, logits_strong = logits.split([len(labeled.image), len(strong)])
        self.note("mask_ratio", keep.sum() / valid.sum().clamp(min=1))
        self.audit("accuracy_kept", lambda truth: accuracy(target, mix(truth, box), keep))
        return {
            "labeled": self.hp.labeled_weight * self.task.labeled_loss(logits_labeled, labeled.label),
            "unlabeled": self.hp.unlabeled_weight * masked_cross_entropy(logits_strong, target, keep, valid),
        }

    def after_step(self, at: Progress) -> None:
        self.teacher.update(self.net, self.hp.ema_decay, at.step)

    def predictor(self) -> nn.Module:
        return self.teacher
