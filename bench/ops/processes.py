"""Sums and joins over the processes of a run, its ranks; with one rank they change nothing.

A step of W ranks is the step of one rank with the joint batch, so that the number of ranks is part of no
method. The joint batch is that of rank 0, then that of rank 1, and so on, in each stream. Every rank has as
many images, and the ranks' gradients are averaged. So what a rank gives as its loss is W times its share of
the joint one.

Every rank must call these functions in the same order, with tensors of the same shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def total(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all ranks, without gradient. Of a bool tensor: whether it is True on any rank."""
    if world_size() == 1:
        return tensor.detach()
    if tensor.dtype == torch.bool:
        return total(tensor.byte()) > 0
    summed = tensor.detach().clone()
    dist.all_reduce(summed)
    return summed


def average(tensor: Tensor) -> Tensor:
    """Mean over all ranks, without gradient."""
    return tensor if world_size() == 1 else total(tensor) / world_size()


def gathered(tensor: Tensor) -> Tensor:
    """Gather the ranks' tensors of one shape, in the order of the ranks: W ... ; without gradient."""
    if world_size() == 1:
        return tensor.detach().unsqueeze(0)
    if tensor.dtype == torch.bool:  # neither gloo nor nccl has it
        return gathered(tensor.byte()).bool()
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.stack(parts)


def joint(rows: Tensor) -> Tensor:
    """Join the rows of all ranks, B ... -> WB ... ; without gradient."""
    return gathered(rows).flatten(0, 1)


def own(rows: Tensor) -> Tensor:
    """Return this rank's part of rows that are joint, such as draws for the joint batch: WB ... -> B ..."""
    return rows if world_size() == 1 else rows.chunk(world_size())[rank()]


def summed(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all ranks, for a loss that is no mean of the ranks' own: its gradient is that of the
    joint loss, where the ranks' gradients are averaged."""
    if world_size() == 1:
        return tensor
    return total(tensor) + world_size() * (tensor - tensor.detach())


def share_of_mean(part: Tensor, count: Tensor, least: float = 1) -> Tensor:
    """Return the rank's share of a mean over all ranks: the mean of the shares is the joint mean.

    Args:
        part: The rank's sum.
        count: What it is a sum of, on this rank.
        least: Of the joint count, so that a mean over nothing is 0.
    """
    part = part if world_size() == 1 else world_size() * part
    return part / total(count).clamp(min=least)


class JointOrder(NamedTuple):
    """The order of the pixels of all ranks, which is that of one rank: each rank has N, first those of its
    labeled images, and in the joint order the labeled ones of all ranks come first."""

    labeled: int
    size: int  # N

    def joint(self, rows: Tensor) -> Tensor:
        """N ... -> WN ... ; without gradient."""
        if world_size() == 1:
            return rows.detach()
        every = gathered(rows)  # W N ...
        return torch.cat([every[:, : self.labeled].flatten(0, 1), every[:, self.labeled :].flatten(0, 1)])

    def own(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of joint numbers of pixels, their rows on this rank, 0 where they are on another, and which of them
        are here: two tensors of the shape of `index`; None where all are."""
        if world_size() == 1:
            return index, None
        mixed = self.size - self.labeled
        behind = index - world_size() * self.labeled
        second = behind >= 0
        row = torch.where(second, behind - rank() * mixed, index - rank() * self.labeled)
        here = (row >= 0) & (row < torch.where(second, mixed, self.labeled))
        return torch.where(second, row + self.labeled, row).where(here, 0), here

    def take(self, rows: Tensor, index: Tensor, made: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply `made` to rows by their joint numbers, wherever they are: N D and int64 of any shape -> ...
        D; without gradient where there are several ranks. It is made before it is sent."""
        row, here = self.own(index)
        found = made(rows.index_select(0, row.flatten()).view(*row.shape, -1))
        return found if here is None else filled(found, here.unsqueeze(-1))


def filled(tensor: Tensor, here: Tensor | None) -> Tensor:
    """Each entry from the rank that has it, which `here` says; one rank at most has it."""
    if here is None:
        return tensor
    # The others add zeros, so bytes can be summed: every backend has them, and half precision is slow.
    own = torch.where(here, tensor, torch.zeros_like(tensor)).flatten()
    return total(own.view(torch.uint8)).view(tensor.dtype).view(tensor.shape)
