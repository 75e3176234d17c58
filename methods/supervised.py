"""Supervised: the labeled images alone, for as many steps as every other method gets.

The lower bound on a small split, and the upper bound on `full`. Its images are coloured where the protocol
says `views: equal`; `supervised_colours` and `supervised_plain` are the same method with and without colours
under any protocol.
"""

from torch import Tensor

from bench.contract import Batch, Method, Passes, Progress


class Supervised(Method):
    passes = Passes(trained=(1, 0))

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        logits = self.net(batch.labeled.image)  # B C H W
        return {"labeled": self.task.labeled_loss(logits, batch.labeled.label)}
