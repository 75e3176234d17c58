"""The memory of negative keys: one ring buffer per class, all in one tensor on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def take(rows: Tensor, index: Tensor) -> Tensor:
    """Give rows[index], R D and int64 of any shape -> ... D; whole rows are copied, which is far faster."""
    return rows.index_select(0, index.flatten()).view(*index.shape, -1)


def sample_keys(negative: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """At most `limit` pixels of every class: the first ones, so that pixels in random order give a uniform
    sample without replacement.

    Args:
        negative: P C bool, which pixel may be a key of which class.

    Returns:
        Row numbers C K int64 and which of them are meant, C K bool, with K = limit.
    """
    pixels, classes = negative.shape
    place = negative.t().contiguous().cumsum(1, dtype=torch.int32)  # C P, from 1
    nth = torch.arange(1, limit + 1, device=negative.device, dtype=torch.int32).repeat(classes, 1)
    index = torch.searchsorted(place, nth)  # behind the last pixel where a class has fewer
    meant = index < pixels
    return index.where(meant, 0), meant


class Queues(nn.Module):
    """First in, first out, per class. Keys are stored normalised, in half precision: the cosine of a stored
    key is off by about 1e-5.

    Memory: sum(capacities) * channels * 2 bytes, 333 MB for 50 000 + 20 * 30 000 keys of 256 channels. Every
    rank stores the keys of all.
    """

    keys: Tensor  # (sum of capacities + 1) D; the last row takes what is not stored
    length: Tensor  # C, keys held
    head: Tensor  # C, where the next key goes
    capacity: Tensor  # C
    offset: Tensor  # C, where a class's ring begins

    def __init__(self, capacities: Sequence[int], channels: int, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        capacity = torch.tensor(capacities, dtype=torch.int64)
        self.register_buffer("keys", torch.zeros(sum(capacities) + 1, channels, dtype=dtype))
        self.register_buffer("length", torch.zeros_like(capacity))
        self.register_buffer("head", torch.zeros_like(capacity))
        self.register_buffer("capacity", capacity, persistent=False)
        self.register_buffer("offset", capacity.cumsum(0) - capacity, persistent=False)

    @torch.no_grad()
    def kept(self, keys: Tensor) -> Tensor:
        """Keys as they are stored: ... D, of any length and precision."""
        return F.normalize(keys.float(), dim=-1).to(self.keys.dtype)

    @torch.no_grad()
    def push(self, keys: Tensor, meant: Tensor) -> Tensor:
        """Append keys, oldest first, and drop the oldest of a full ring. Answers how many each class got: C.

        Args:
            keys: C K D, from `kept`; the same on every rank.
            meant: C K bool; the others are not stored.
        """
        capacity, offset, head = (x.unsqueeze(1) for x in (self.capacity, self.offset, self.head))
        place = meant.cumsum(1) - 1
        count = meant.sum(1)
        stored = meant & (place >= count.unsqueeze(1) - capacity)  # more than a ring holds: the newest
        slot = torch.where(stored, offset + (head + place) % capacity, len(self.keys) - 1)
        self.keys.index_copy_(0, slot.flatten(), keys.flatten(0, 1))
        self.keys[-1].zero_()  # whichever of its writers came last
        self.head.copy_((self.head + count) % self.capacity)
        self.length.copy_((self.length + count).minimum(self.capacity))
        return count

    @torch.no_grad()
    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """`size` keys of every class, uniformly with replacement: C size D float32. Zeros where a queue is
        empty; see `length`."""
        share = torch.rand(len(self.length), size, generator=generator, device=self.keys.device)
        length = self.length.unsqueeze(1)
        place = (share * length).long().minimum((length - 1).clamp(min=0))
        row = torch.where(length > 0, self.offset.unsqueeze(1) + place, len(self.keys) - 1)
        return take(self.keys, row).float()

    @torch.no_grad()
    def clear(self) -> None:
        self.length.zero_()
        self.head.zero_()
