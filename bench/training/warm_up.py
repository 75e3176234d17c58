"""A step of the warm-up, on labeled images alone: the same for every method that has one."""

from __future__ import annotations

from torch import Tensor

from bench.contract import Method, Stream


def warm_up_terms(method: Method, labeled: Stream) -> dict[str, Tensor]:
    """Compute the terms of a step of the warm-up. See `Method.warmup_steps`."""
    net = method.net
    logits, _ = net.represent(labeled.image)  # with the other head: its statistics settle too
    return {"labeled": method.task.labeled_loss(net.upsample(logits, labeled.image), labeled.label)}
