"""FreeMatch (Wang et al., ICLR 2023), on pixels: the threshold follows the predictions.

It is the moving mean of the confidence, times how probable the pixel's class is on average over how probable
the most probable one is. A second term draws the student's mean prediction to that of the weak views, so that
no class is forgotten.

From USB (freematch.py): hard labels, weight 1 and .001, no teacher, no quantile, no clipping. Different here:
statistics are over pixels, and no class's threshold falls below a tenth of the largest: background, with two
thirds of the pixels, would bring that of rare classes to 0.
"""

from pydantic import Field
from torch import Tensor

from bench.contract import Batch, Net, Task
from bench.ops.thresholds import FreeThreshold
from methods.flexmatch import Adaptive, Shared


class FreeMatch(Adaptive):
    class HParams(Shared):
        fairness_weight: float = Field(
            0.001, ge=0, le=1e6, description="of the second term (USB, config of CIFAR-100)"
        )

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.thresholds = FreeThreshold(len(task.classes))

    def weight(self, probability: Tensor, confidence: Tensor, pseudo_label: Tensor, batch: Batch) -> Tensor:
        threshold = self.thresholds(probability, batch.unlabeled.valid, self.hp.momentum)
        self.note("threshold", threshold)
        return (confidence >= threshold[pseudo_label]).float()

    def more_losses(self, logits: Tensor, weight: Tensor) -> dict[str, Tensor]:
        fairness = self.thresholds.fairness(logits.softmax(1), weight > 0)
        return {"fairness": self.hp.fairness_weight * fairness}
