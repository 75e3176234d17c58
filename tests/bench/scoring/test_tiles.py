"""Windows over images that do not fit the memory: by hand, then every pixel kept once, whatever the sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import ConfigError
from bench.scoring.tiles import GIB, PIXEL_BYTES, Tile, pixels_at_once, tiles, window_of

SIDES = st.integers(1, 700)


def test_an_image_that_fits_is_one_window() -> None:
    (tile,) = tiles((30, 50), 1500)
    assert tile == Tile(slice(0, 30), slice(0, 50), slice(0, 30), slice(0, 50))


def test_three_windows_by_hand() -> None:
    """Side 64, a rim of 8: every 48 pixels, the last shifted inside; cut in the middle of each overlap."""
    assert window_of((64, 150), 64 * 64) == (64, 64)
    found = list(tiles((64, 150), 64 * 64))
    assert [(tile.columns.start, tile.columns.stop) for tile in found] == [(0, 64), (48, 112), (86, 150)]
    assert [(tile.kept_columns.start, tile.kept_columns.stop) for tile in found] == [
        (0, 56),
        (56, 99),
        (99, 150),
    ]
    assert [tile.kept_inside[1] for tile in found] == [slice(0, 56), slice(8, 51), slice(13, 64)]
    assert {(tile.rows.start, tile.rows.stop) for tile in found} == {(0, 64)}


def test_a_narrow_image_gets_long_windows() -> None:
    assert window_of((10, 9000), 64 * 64) == (10, 384)
    assert window_of((9000, 10), 64 * 64) == (384, 10)


@given(SIDES, SIDES, st.integers(32 * 32, 500 * 500))
def test_every_pixel_is_kept_once_and_no_window_is_too_large(height: int, width: int, most: int) -> None:
    kept = np.zeros((height, width), int)
    sizes = set()
    for tile in tiles((height, width), most):
        sizes.add(tile.size)
        kept[tile.kept_rows, tile.kept_columns] += 1
        assert tile.size[0] * tile.size[1] <= most
        rows, columns = tile.kept_inside
        assert (
            0 <= rows.start < rows.stop <= tile.size[0] and 0 <= columns.start < columns.stop <= tile.size[1]
        )
    assert (kept == 1).all() and len(sizes) == 1


@given(st.integers(300, 2000), st.integers(300, 2000))
def test_what_is_kept_lies_a_rim_away_from_the_edge_of_its_window(height: int, width: int) -> None:
    for tile in tiles((height, width), 256 * 256):
        for seen, kept, length in (
            (tile.rows, tile.kept_rows, height),
            (tile.columns, tile.kept_columns, width),
        ):
            rim = (seen.stop - seen.start) // 8
            assert kept.start == 0 or kept.start - seen.start >= rim
            assert kept.stop == length or seen.stop - kept.stop >= rim


def test_the_bound_on_memory_decides_and_too_little_is_said() -> None:
    a_pixel = PIXEL_BYTES + 24 * 5
    assert pixels_at_once(10**9, 10**8, 5, 1.0) == 9 * 10**8 // a_pixel
    assert pixels_at_once(10**9, 10**8, 5, 2.0) == 9 * 10**8 // (4 * a_pixel)
    assert pixels_at_once(10**9, 10**8, 5, 0.5) == 9 * 10**8 // a_pixel
    with pytest.raises(ConfigError, match=r"--memory 0\.5 is too little: .* takes 0\.5\d GiB at least; give"):
        pixels_at_once(0.5 * GIB, int(0.5 * GIB), 5, 1.0)
