"""Sums and joins over the processes of a run; with one process they change nothing."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all ranks, without gradient."""
    if world_size() == 1:
        return tensor.detach()
    summed = tensor.detach().clone()
    dist.all_reduce(summed)
    return summed


def gathered(tensor: Tensor) -> Tensor:
    """Gather the ranks' tensors of one shape, in the order of the ranks: W ... ; without gradient."""
    if world_size() == 1:
        return tensor.detach().unsqueeze(0)
    parts = [torch.empty_like(tensor, requires_grad=False) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.stack(parts)
