"""A step on several ranks: what is wrapped so that it is the step of one rank with the joint batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.contract import Batch, Method, Progress
from bench.errors import BenchError, ConfigError
from bench.ops.processes import gathered, world_size
from bench.ranks import alike

Terms = Callable[[Batch, Progress], dict[str, Tensor]]


class _Step(nn.Module):
    """All that a step sends through networks is one forward pass of this."""

    def __init__(self, method: Method, terms: Terms) -> None:
        super().__init__()
        self.method = method
        self._terms = terms

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        return self._terms(batch, at)


def joined(method: Method, terms: Terms) -> Terms:
    """Give `terms`, whose gradients a backward pass averages over the ranks; as it is on one rank."""
    if world_size() == 1:
        return terms
    with warnings.catch_warnings():  # of the name that later versions have for `broadcast_buffers`
        warnings.simplefilter("ignore", FutureWarning)
        # Some methods leave a head alone, and others do so in their warm-up. Buffers are alike by themselves.
        return DistributedDataParallel(
            _Step(method, terms),
            broadcast_buffers=False,
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
        )


def refuse_apart_norm(device: str) -> None:
    """Raise ConfigError for a device on which torch has no batch norm over several processes."""
    if not device.startswith("cuda"):
        raise ConfigError(
            "a run on several processes needs CUDA devices, since torch has batch norm over a joint batch "
            "for them alone; use one process on this device."
        )


def joint_norm(module: nn.Module, device: str) -> None:
    """Make every batch norm of a module, in place, one of the joint batch, where there are several ranks.

    Raises ConfigError for a device on which torch has none.
    """
    if world_size() == 1:
        return
    from timm.layers import convert_sync_batchnorm  # here: one rank starts two seconds sooner without timm

    refuse_apart_norm(device)
    convert_sync_batchnorm(module)  # torch's own loses the activation of timm's BatchNormAct2d


INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def refuse_apart(state: Mapping[str, Tensor], step: int) -> None:
    """Raise BenchError where the ranks hold other values, by a sum over the bits of each tensor: they would
    train apart, and only those of one rank would be saved."""
    if world_size() == 1:
        return
    sums = [value.view(INTEGERS[value.element_size()]).sum(dtype=torch.int64) for value in state.values()]
    every = gathered(torch.stack(sums))  # W tensors
    same = (every == every[0]).all(0).tolist()
    apart = [name for name, is_same in zip(state, same, strict=True) if not is_same]
    if apart:
        raise alike(
            BenchError(
                f"by step {step} the processes of this run hold other values of {apart[0]!r} and of "
                f"{len(apart) - 1} more; a method sums what it keeps over all, see bench.ops.processes."
            )
        )
