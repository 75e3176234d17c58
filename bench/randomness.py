"""Where every random number comes from: a stream per (seed, purpose, keys), and no other.

A stream depends on nothing but its name, so one consumer that draws more numbers cannot shift another, two
methods with the same seed see the same images and crops, and a resumed run needs no generator state: the
streams of step n are made from n.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Key = int | str


def seed_for(seed: int, purpose: str, *keys: Key) -> int:
    """Derive a 63-bit seed from the run's seed, a purpose such as "crop", and keys such as (step, index)."""
    name = "\x1f".join([str(int(seed)), purpose, *(f"{type(key).__name__[0]}{key}" for key in keys)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def numpy_for(seed: int, purpose: str, *keys: Key) -> np.random.Generator:
    """Make a counter-based NumPy generator (Philox) for host-side draws: order, crops, colours, boxes."""
    return np.random.Generator(np.random.Philox(seed_for(seed, purpose, *keys)))


def generator_for(seed: int, purpose: str, *keys: Key, device: str = "cpu") -> torch.Generator:
    """Make a torch generator on `device` for draws inside a method."""
    import torch

    return torch.Generator(device).manual_seed(seed_for(seed, purpose, *keys))


def seed_torch(seed: int, purpose: str, *keys: Key) -> None:
    """Name torch's global streams, of the CPU and of the GPU in use, which layers such as dropout draw from.

    The same as torch.manual_seed, which without a GPU takes a millisecond to note the caller for later.
    """
    import torch

    number = seed_for(seed, purpose, *keys)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(number)


@contextmanager
def torch_seeded(seed: int, purpose: str, *keys: Key) -> Iterator[None]:
    """Layers such as dropout and weight initialisers draw from torch's global stream: name it for this block.

    The global stream is put back afterwards, so library code outside is not affected.
    """
    import torch

    # A GPU that nothing has used yet stays closed: a run on the CPU has no need of it.
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        seed_torch(seed, purpose, *keys)
        yield
