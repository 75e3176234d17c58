"""Supervised: the labeled images alone, for as many steps as every other method gets.

The lower bound on a small split, and the upper bound on `full`.
"""

from torch import Tensor

from bench.contract import Batch, Method, Progress


class Supervised(Method):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        logits = self.net(batch.labeled.image)  # B C H W
        return {"labeled": self.task.labeled_loss(logits, batch.labeled.label)}
