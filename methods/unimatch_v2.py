"""UniMatch V2 (Yang et al., TPAMI 2025): two strong views whose features are dropped against each other.

The teacher's confident labels of the weak view train the student on two coloured and cut-mixed views. Of an
image's two views, one loses about half of its channels between encoder and decoder, and the other one the
other half; what is left is doubled. Half of the images keep all.

From the released code (unimatch_v2.py, model/semseg/dpt.py): threshold .95, weights 1/2 and 1/2. Different
here: the partner of a mixed image is the next one of the batch, there the batch backwards.
"""

from dataclasses import replace

from pydantic import Field
from torch import Tensor, cat, nn

from bench.contract import Batch, BoxRule, Knobs, Method, Net, Passes, Progress, Supervision, Task, Views
from bench.ops.health import accuracy
from bench.ops.losses import masked_cross_entropy
from bench.ops.mixing import mix
from bench.ops.perturb import complementary_dropout
from bench.ops.teacher import Teacher


class UniMatchV2(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    passes = Passes(trained=(1, 2), read=(0, 1))
    views = Views(strong=2, boxes=BoxRule(probability=0.5, area=(0.02, 0.4), ratio=(0.3, 1 / 0.3)))

    class HParams(Knobs):
        threshold: float = Field(
            0.95, ge=0, le=1, description="confidence from which a pixel trains (UniMatch V2, configs)"
        )
        ema_decay: float = Field(
            0.996, ge=0, lt=1, description="how much of the teacher stays in a step (UniMatch V2)"
        )
        unlabeled_weight: float = Field(0.5, ge=0, le=1e6, description="of both views (unimatch_v2.py)")
        labeled_weight: float = Field(0.5, gt=0, le=1e6, description="of the labeled term (unimatch_v2.py)")

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.teacher = Teacher(net)

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        confidence, pseudo_label = self.teacher(unlabeled.image).softmax(1).max(1)  # B H W
        sure = (confidence >= self.hp.threshold) & unlabeled.valid

        views = list(zip(unlabeled.strong, unlabeled.boxes, strict=True))
        images = cat([labeled.image, *(mix(view, box) for view, box in views)])
        features, n = self.net.encode(images), len(labeled.image)
        strong = features[n:]
        dropped = complementary_dropout(strong.maps, at.generator("complementary dropout"))
        logits = self.net.decode(features[:n].join(replace(strong, maps=dropped)), images)
        logits_labeled, *logits_strong = logits.split([n, *(len(view) for view, _ in views)])
        losses = [
            masked_cross_entropy(one, mix(pseudo_label, box), mix(sure, box), mix(unlabeled.valid, box))
            for one, (_, box) in zip(logits_strong, views, strict=True)
        ]
        self.note("mask_ratio", sure.sum() / unlabeled.valid.sum().clamp(min=1))
        self.audit("accuracy_kept", lambda truth: accuracy(pseudo_label, truth, sure))
        return {
            "labeled": self.hp.labeled_weight * self.task.labeled_loss(logits_labeled, labeled.label),
            "unlabeled": self.hp.unlabeled_weight * sum(losses[1:], losses[0]) / len(losses),
        }

    def after_step(self, at: Progress) -> None:
        self.teacher.update(self.net, self.hp.ema_decay, at.step)

    def predictor(self) -> nn.Module:
        return self.teacher
