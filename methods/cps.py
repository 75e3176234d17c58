"""Cross pseudo supervision with CutMix (Chen et al., CVPR 2021): two networks label for each other.

Both start from the same encoder weights with heads of their own. Each predicts the weak views without a
gradient; its labels, cut-mixed, are what the other one learns on the cut-mixed images. No threshold: every
pixel counts.

As in the released code (exp.voc/voc8.res50v3+.CPS+CutMix): labels come from networks in training mode, the
weight is 1 (1.5 is that of the version without CutMix; on Cityscapes 5), and the first network is the one
that is scored. Different here: one box an image instead of three, of which the inside shows the other image,
there either the inside or the outside; and a network's labeled and mixed images go through it in one pass.
"""

import torch
from pydantic import Field
from torch import Tensor, cat

from bench.contract import Batch, BoxRule, Knobs, Method, Net, Passes, Progress, Supervision, Task, Views
from bench.ops.health import accuracy, share
from bench.ops.losses import masked_cross_entropy
from bench.ops.mixing import mix


class CPS(Method):
    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    passes = Passes(trained=(2, 2), read=(0, 2))
    # A quarter to a half of the crop (config.py:75-80).
    views = Views(boxes=BoxRule(probability=1.0, area=(0.25, 0.5), ratio=(0.5, 2.0), log_ratio=True))

    class HParams(Knobs):
        cross_weight: float = Field(
            1.0,
            ge=0,
            le=1e6,
            description="of what the networks learn from each other; 5 on Cityscapes (config.py)",
        )

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.other = task.new_net()

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        box = unlabeled.box
        valid = mix(unlabeled.valid, box)
        images = cat([labeled.image, mix(unlabeled.student, box)])
        with torch.no_grad():
            own, others = (mix(net(unlabeled.image).argmax(1), box) for net in (self.net, self.other))

        supervised: list[Tensor] = []
        cross: list[Tensor] = []
        for net, target in ((self.net, others), (self.other, own)):
            logits_labeled, logits_mixed = net(images).split([len(labeled.image), len(unlabeled.image)])
            supervised.append(self.task.labeled_loss(logits_labeled, labeled.label))
            cross.append(masked_cross_entropy(logits_mixed, target, valid, valid))
        self.note("agreement", share(own == others, valid))
        self.audit("accuracy_own", lambda truth: accuracy(own, mix(truth, box), valid))
        return {
            "labeled": supervised[0] + supervised[1],
            "cross": self.hp.cross_weight * (cross[0] + cross[1]),
        }
