"""FlexMatch (Zhang et al., NeurIPS 2021), on pixels: classes that are learned slowly get a lower threshold.

The student labels the weak view itself and learns the labels on the strong view. A pixel trains from a
confidence of `threshold` x s / (2 - s) on, s being how often its class has been predicted with confidence,
over how often the most frequent one has.

From USB, which is for image classification: hard labels, weight 1, no teacher. Its table of one label an
image becomes a moving average over pixels. Under published views there is no CutMix.
"""

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor, cat

from bench.contract import Batch, Knobs, Method, Net, Passes, Progress, Supervision, Task, Views
from bench.ops.health import accuracy
from bench.ops.losses import masked_cross_entropy
from bench.ops.mixing import mix
from bench.ops.thresholds import FlexThreshold


class Shared(Knobs):
    """The knobs of all methods of this family."""

    unlabeled_weight: float = Field(1.0, ge=0, le=1e6, description="of the unlabeled images (USB)")
    momentum: float = Field(
        0.999, ge=0, le=1, description="how much of the statistics stays in a step (USB; FlexMatch: ours)"
    )


class Adaptive(Method):
    """The base of all methods of this family: the student's own labels, and a weight for each pixel."""

    needs = frozenset({Supervision.PIXEL, Supervision.NONE})
    passes = Passes(trained=(1, 1), read=(0, 1))
    views = Views(strong=1)

    @abstractmethod
    def weight(self, probability: Tensor, confidence: Tensor, pseudo_label: Tensor, batch: Batch) -> Tensor:
        """How much each pixel of the weak views counts, 0..1: B H W; moves the statistics.

        Args:
            probability: B C H W, of the weak views, with its maximum (`confidence`, `pseudo_label`: B H W).
        """

    def more_losses(self, logits: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Give further terms, from the logits of the strong views B C H W and the weights B H W."""
        return {}

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        box = unlabeled.box
        with torch.no_grad():
            probability = self.net(unlabeled.image).softmax(1)  # B C H W
        confidence, pseudo_label = probability.max(1)
        weight = self.weight(probability, confidence, pseudo_label, batch) * unlabeled.valid
        weight, target, valid = mix(weight, box), mix(pseudo_label, box), mix(unlabeled.valid, box)

        images = cat([labeled.image, mix(unlabeled.student, box)])
        logits_labeled, logits_strong = self.net(images).split([len(labeled.image), len(unlabeled.image)])
        self.note("mask_ratio", weight.sum() / valid.sum().clamp(min=1))
        self.audit("accuracy_kept", lambda truth: accuracy(target, mix(truth, box), weight > 0.5))
        loss = masked_cross_entropy(logits_strong, target, weight, valid)
        return {
            "labeled": self.task.labeled_loss(logits_labeled, labeled.label),
            "unlabeled": self.hp.unlabeled_weight * loss,
            **self.more_losses(logits_strong, weight),
        }


class FlexMatch(Adaptive):
    class HParams(Shared):
        threshold: float = Field(
            0.95, ge=0, le=1, description="confidence that the most frequent class needs (USB, flexmatch)"
        )

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.thresholds = FlexThreshold(len(task.classes))

    def weight(self, probability: Tensor, confidence: Tensor, pseudo_label: Tensor, batch: Batch) -> Tensor:
        threshold = self.thresholds(
            confidence, pseudo_label, batch.unlabeled.valid, self.hp.threshold, self.hp.momentum
        )
        self.note("class_share", self.thresholds.shares[:-1])
        return (confidence >= threshold).float()
