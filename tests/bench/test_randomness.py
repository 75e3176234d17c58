"""Streams have names: same name, same numbers; another name, others; nothing else matters."""

from __future__ import annotations

import numpy as np
import torch

from bench.randomness import generator_for, numpy_for, seed_for, torch_seeded


def test_a_seed_is_pinned_for_good() -> None:
    """Stored results rest on these streams: a change of the derivation must not pass unseen."""
    assert seed_for(0, "order", "pixel", 3) == 452525793709720397
    assert numpy_for(0, "order", "pixel", 3).integers(0, 1000, 4).tolist() == [384, 678, 91, 46]


def test_each_part_of_the_name_counts() -> None:
    names = [
        (0, "a"),
        (1, "a"),
        (0, "b"),
        (0, "a", 0),
        (0, "a", "0"),
        (0, "a", 0, 1),
        (0, "a", 1, 0),
        (0, "a", 10),
    ]
    seeds = [seed_for(seed, purpose, *keys) for seed, purpose, *keys in names]  # type: ignore[misc, arg-type]
    assert len(set(seeds)) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_streams_do_not_shift_each_other() -> None:
    first = numpy_for(0, "crop", 1).random(3)
    other = numpy_for(0, "colour", 1)
    other.random(1000)
    assert np.array_equal(first, numpy_for(0, "crop", 1).random(3))
    a = torch.rand(3, generator=generator_for(0, "x"))
    torch.manual_seed(99)
    assert torch.equal(a, torch.rand(3, generator=generator_for(0, "x")))


def test_the_global_stream_is_named_for_a_block_only() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with torch_seeded(0, "init"):
        inside = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with torch_seeded(0, "init"):
        assert torch.equal(torch.rand(2), inside)
