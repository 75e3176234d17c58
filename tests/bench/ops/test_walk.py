"""The walk along an image, by hand and by what must hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.ops.walk import POWER, affinity, step, walked


def picture(rows: list[list[int]], cell: int = 8) -> np.ndarray:
    """Grey cells of so many pixels: H W 3 uint8."""
    grey = np.array(rows, np.uint8).repeat(cell, 0).repeat(cell, 1)
    return np.repeat(grey[:, :, None], 3, axis=2)


def stored(rows: list[list[float]]) -> torch.Tensor:
    """One map at a quarter of the image whose cells of eight pixels hold these: 1 h w."""
    return torch.tensor(rows).repeat_interleave(2, 0).repeat_interleave(2, 1)[None]


def test_where_all_cells_are_near_a_map_becomes_its_mean() -> None:
    """A flat image of 3 x 3 cells: each is within reach of all."""
    maps = stored([[9.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    for steps in (1, 5):
        assert walked(maps, picture([[7] * 3] * 3), steps).flatten().tolist() == pytest.approx([1.0] * 36)


def test_where_none_is_near_a_map_stays() -> None:
    """Two colours that fill an image differ by two of its standard deviations: e^-16 of each step crosses."""
    maps = stored([[1.0, 0.0]])
    after = walked(maps, picture([[0, 255]]), 10)
    flat = after[0, 0].tolist()  # the ends, beyond the bilinear edge
    assert flat[0] == pytest.approx(1, abs=1e-5) and flat[-1] == pytest.approx(0, abs=1e-5)


def test_an_affinity_by_hand() -> None:
    """Colours 0 and 2 in equal parts: a spread of 1, so the affinity is e^-2; of a cell to itself it is 1."""
    colours = torch.tensor([[[0.0, 2.0]]])
    near = affinity(colours)
    assert near.max() == 1 and (near.amax(0) == 1).all()
    assert sorted(near[:, 0, 0][near[:, 0, 0] > 0].tolist()) == pytest.approx([np.exp(-2), 1])
    weights = near**POWER / (near**POWER).sum(0)
    crossed = np.exp(-16) / (1 + np.exp(-16))
    assert step(torch.tensor([[[1.0, 0.0]]]), weights).flatten().tolist() == pytest.approx(
        [1 - crossed, crossed]
    )


def test_an_object_is_filled_and_the_ground_is_not() -> None:
    """A map that is strong at one end of a bright bar reaches its other end."""
    bar = [[0] * 8, [255] * 8, [0] * 8]
    seen = stored([[0.0] * 8, [1.0, *[0.0] * 7], [0.0] * 8])
    after = walked(seen, picture(bar), 20)[0]
    assert after[2, -1] > 10 * after[0, 0] and after[2, -1] > 0.05
    assert after[2, 0] < seen[0, 2, 0]


@given(st.integers(0, 2**16), st.integers(1, 4))
def test_a_map_stays_within_its_range_and_a_flat_one_stays(seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (19, 26, 3), dtype=np.uint8)
    maps = torch.from_numpy(rng.random((2, 5, 7), dtype=np.float32))
    maps[1] = 0.5
    after = walked(maps, image, steps)
    assert after.shape == maps.shape
    off = 1e-5  # float32 sums of 81 terms, in each of four steps
    assert after.min() >= maps.min() - off and after.max() <= maps.max() + off
    assert after[1].flatten().tolist() == pytest.approx([0.5] * 35, abs=off)


def test_no_tags_no_walk() -> None:
    assert walked(torch.zeros(0, 4, 4), picture([[1, 2], [3, 4]]), 3).shape == (0, 4, 4)
