"""The threshold of CorrMatch (Sun et al., CVPR 2024) alone: one for all classes, after the surest pixels.

It moves to the mean, over the classes that are predicted, of the highest confidence among the pixels of the
class. The student's own labels of the weak view train it on the strong view.

This is no CorrMatch: what its name stands for, correlation maps that spread labels, is left out, as are its
dropped features and second strong view. From the code (util/thresh_helper.py): start .85, .999 stays in a
step; on Cityscapes it is 0 and stays so (threshold 0, momentum 1). There the confidence is masked by the
mixed images' padding, which belongs to other pixels; here by its own.
"""

from pydantic import Field
from torch import Tensor

from bench.contract import Batch, Net, Task
from bench.ops.thresholds import GlobalThreshold
from methods.flexmatch import Adaptive, Shared


class CorrMatchThreshold(Adaptive):
    class HParams(Shared):
        threshold: float = Field(0.85, ge=0, le=1, description="before the first step (CorrMatch)")

    def __init__(self, net: Net, task: Task, hparams: HParams) -> None:
        super().__init__(net, task, hparams)
        self.threshold = GlobalThreshold(self.hp.threshold)

    def weight(self, probability: Tensor, confidence: Tensor, pseudo_label: Tensor, batch: Batch) -> Tensor:
        classes, valid = len(self.task.classes), batch.unlabeled.valid
        threshold = self.threshold(confidence, pseudo_label, valid, classes, self.hp.momentum)
        self.note("threshold", threshold)
        return (confidence >= threshold).float()
