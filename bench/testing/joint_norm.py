"""Batch norm over the joint batch of ranks on the CPU, where torch's own does not work: for tests alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.ops.processes import total


class _Sum(torch.autograd.Function):
    """The sum over all ranks, of which each one's loss has a part."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        return total(tensor)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed


class JointNorm(nn.BatchNorm2d):
    """As BatchNorm2d, with the statistics of all ranks."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        count = total(torch.tensor(x[:, 0].numel()))
        mean = _Sum.apply(x.sum((0, 2, 3))) / count
        centred = x - mean.view(1, -1, 1, 1)
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        if self.track_running_stats:
            self._move(mean.detach(), variance.detach() * count / (count - 1))
        scale = (self.weight / (variance + self.eps).sqrt()).view(1, -1, 1, 1)
        return centred * scale + self.bias.view(1, -1, 1, 1)

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor) -> None:
        assert self.momentum is not None and self.num_batches_tracked is not None
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


def joint_norm(module: nn.Module) -> None:
    """Make every batch norm of a module, in place, one of the joint batch."""
    for one in module.modules():
        if type(one) is nn.BatchNorm2d:
            one.__class__ = JointNorm
