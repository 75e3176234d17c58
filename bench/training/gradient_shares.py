"""How much each term of a loss has to say: its share of the gradient, measured at a few steps of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from bench.ops.processes import average

POINTS = 8  # of a run, at most
STEPS_PER_POINT = 200  # at least: a point costs a backward pass for each term, so less than 1 % of the time


def measured_steps(warmup: int, steps: int) -> frozenset[int]:
    """Choose the steps of a run at which the shares are measured.

    They are in the middle of equal parts of what follows the warm-up; one step in a short run.
    measured_steps(100, 900) is {200, 400, 600, 800}.
    """
    after = steps - warmup
    points = max(1, min(POINTS, after // STEPS_PER_POINT))
    return (
        frozenset(warmup + (2 * i + 1) * after // (2 * points) for i in range(points))
        if after
        else frozenset()
    )


def gradient_shares(terms: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> dict[str, Tensor]:
    """Give the norm of each term's gradient on the parameters, over the sum of these norms: scalars, 0..1,
    NaN where there is no gradient.

    Draws nothing, keeps the graph, and leaves `.grad` alone, so that the backward pass of the sum has the
    same bits after it.

    Args:
        terms: Scalars with a graph, all scaled alike.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    norms = {}
    for name, term in terms.items():
        found = torch.autograd.grad(term, trained, retain_graph=True, allow_unused=True)
        gradients = [average(gradient) for gradient in found if gradient is not None]  # of the joint batch
        norms[name] = (
            torch.stack(torch._foreach_norm(gradients)).norm() if gradients else torch.zeros_like(term)
        )
    total = torch.stack(list(norms.values())).sum()
    return {name: norm / total for name, norm in norms.items()}
