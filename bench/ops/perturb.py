"""Changed features, between an encoder and a decoder. Maps are B D h w, of several levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.ops.processes import own, world_size


def drop_channels(maps: Sequence[Tensor], rate: float, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Dropout of whole channels, each with probability `rate`; the others are scaled by 1 / (1 - rate)."""

    def dropped(one: Tensor) -> Tensor:
        shape = (len(one) * world_size(), one.shape[1], 1, 1)
        share = own(torch.rand(shape, generator=generator, device=one.device))  # B D 1 1
        return one * ((share >= rate) / (1 - rate)).to(one.dtype)

    return tuple(map(dropped, maps))


def complementary_dropout(maps: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Two views of B images: a channel that one view loses is doubled in the other (UniMatch V2).

    Half of the images, rounded down and drawn anew in each call, keep all channels in both views. Maps with
    the same number of channels lose the same ones.

    Args:
        maps: Of 2B images, the first view of each, then the second.
    """
    count, device = len(maps[0]) // 2 * world_size(), maps[0].device  # of the joint batch
    place = torch.rand(count, generator=generator, device=device).argsort().argsort()
    whole = own(place < count // 2).view(-1, 1, 1, 1)
    scales: dict[int, Tensor] = {}
    for channels in dict.fromkeys(one.shape[1] for one in maps):
        coins = own(torch.rand(count, channels, 1, 1, generator=generator, device=device)) < 0.5
        first = torch.where(whole, 1.0, 2.0 * coins)
        scales[channels] = torch.cat([first, 2 - first])  # 2B D 1 1
    return tuple(one * scales[one.shape[1]].to(one.dtype) for one in maps)
