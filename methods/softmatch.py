"""SoftMatch (Chen et al., ICLR 2023), on pixels: every pixel trains, unsure ones less.

A pixel as sure as the mean, or surer, weighs 1. Below the mean the weight falls as a Gaussian does, whose
mean and variance follow the confidence of the predictions. For the confidence alone, predictions are aligned:
moved so that their mean is that of the labeled pixels.

From USB (softmatch/utils.py): two standard deviations make e^-2 of the weight, hard labels, weight 1, no
teacher. Different here: statistics are over pixels, and the target of the alignment is the labeled pixels'
share of the classes where USB has a uniform one. The variance starts at 1, so for some hundred steps all
weights are near 1; `momentum` changes how many.
"""

from pydantic import Field
from torch import Tensor

from bench.contract import Batch, Net, Task
from bench.ops.health import add_labels
from bench.ops.thresholds import Alignment, SoftWeight
from methods.flexmatch import Adaptive, Shared


class SoftMatch(Adaptive):
    class HParams(Shared):
        width: float = Field(
            2.0,
            ge=0.01,
            le=100,
            description="one standard deviation below the mean, a pixel weighs exp(-width^2 / 2) (USB)",
        )
        align: bool = Field(True, description="align the predictions with the labeled pixels (USB: uniform)")

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.alignment, self.weights = Alignment(len(task.classes)), SoftWeight(len(task.classes))

    def weight(self, probability: Tensor, confidence: Tensor, pseudo_label: Tensor, batch: Batch) -> Tensor:
        valid = batch.unlabeled.valid
        add_labels(self.alignment.labeled, batch.labeled.label)
        if self.hp.align:
            confidence = self.alignment(probability, valid, self.hp.momentum).amax(1)
        weight = self.weights(confidence, valid, self.hp.width, self.hp.momentum)
        self.note("mean_confidence", self.weights.mean)
        return weight
