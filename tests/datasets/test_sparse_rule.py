"""Points, strokes and boxes of masks drawn by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from bench.labels import IGNORE, Box
from bench.randomness import numpy_for
from datasets.sparse_rule import boxes, points, regions, scribbles

MARKS = pytest.mark.parametrize("draw", [points, scribbles])


def drawn(draw, mask: np.ndarray, seed: int = 0) -> np.ndarray:  # type: ignore[no-untyped-def]
    return draw(mask, numpy_for(seed, "test"))


def marked(mark: np.ndarray) -> int:
    return int((mark != IGNORE).sum())


@MARKS
def test_one_pixel_is_marked_itself(draw) -> None:  # type: ignore[no-untyped-def]
    mask = np.full((5, 7), IGNORE, np.uint8)
    mask[3, 2] = 4
    assert np.array_equal(drawn(draw, mask), mask)
    assert boxes(mask, 0) == (Box(4, 3, 2, 4, 3),) and boxes(mask, 4) == ()


@MARKS
def test_nothing_is_marked_where_nothing_has_a_label(draw) -> None:  # type: ignore[no-untyped-def]
    mask = np.full((6, 6), IGNORE, np.uint8)
    assert marked(drawn(draw, mask)) == 0 and boxes(mask, None) == ()


def ring() -> np.ndarray:
    rows, columns = np.mgrid[:41, :41] - 20
    distance = np.hypot(rows, columns)
    return ((distance < 18) & (distance > 9)).astype(np.uint8)


@MARKS
@pytest.mark.parametrize("seed", range(5))
def test_a_ring_is_marked_on_the_ring(draw, seed: int) -> None:  # type: ignore[no-untyped-def]
    """Not in its hole, where its centre is: that is a region of background of its own."""
    mask = ring()
    mask[mask == 0] = IGNORE
    mark = drawn(draw, mask, seed)
    assert marked(mark) == 1 if draw is points else marked(mark) >= 15
    assert (mask[mark != IGNORE] == 1).all() and (mark[mark != IGNORE] == 1).all()
    assert boxes(ring(), 0) == (Box(1, 3, 3, 38, 38),)


def test_a_stroke_on_a_ring_stays_on_one_arm() -> None:
    mask = ring()
    mask[mask == 0] = IGNORE
    for seed in range(10):
        assert ndimage.label(drawn(scribbles, mask, seed) == 1, np.ones((3, 3)))[1] == 1


def test_two_regions_of_a_class_have_a_mark_each() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[2:8, 2:8] = mask[12:18, 18:28] = 5
    assert [(one.label, one.top, one.left) for one in regions(mask)] == [(0, 0, 0), (5, 2, 2), (5, 12, 18)]
    for seed in range(5):
        mark = drawn(points, mask, seed)
        assert marked(mark) == 3 and (mark == 0).sum() == 1
        # At least half as deep as the deepest of 3 steps: two pixels off the border.
        assert (mark[3:7, 3:7] == 5).sum() == 1 and (mark[13:17, 19:27] == 5).sum() == 1
    assert boxes(mask, 0) == (Box(5, 2, 2, 8, 8), Box(5, 12, 18, 18, 28))
    assert boxes(mask, None)[0] == Box(0, 0, 0, 20, 30)


def test_diagonals_connect_and_specks_are_passed_over() -> None:
    mask = np.full((30, 30), IGNORE, np.uint8)
    mask[:12, :12] = 1  # 144 pixels
    mask[12, 12] = 1  # touches it at a corner
    mask[20, 20] = 1  # alone: less than a hundredth of the rest
    assert [one.inside.sum() for one in regions(mask)] == [145]
    mask[20, 21] = 1  # two are more than a hundredth
    assert [one.inside.sum() for one in regions(mask)] == [145, 2]


def test_a_stroke_runs_along_the_longer_axis_and_is_three_pixels_wide() -> None:
    mask = np.full((40, 200), IGNORE, np.uint8)
    mask[10:31, 10:190] = 2
    mark = drawn(scribbles, mask)
    columns = np.nonzero(mark == 2)[1]
    assert 90 <= np.ptp(columns) <= 150, "from 10-25 % to 75-90 % of 180"
    assert columns.min() >= 25 and columns.max() <= 176
    assert 3 <= np.bincount(columns)[columns.min() + 2 : columns.max() - 1].mean() <= 6, "it wavers"
    turned = drawn(scribbles, np.ascontiguousarray(mask.T))
    assert np.ptp(np.nonzero(turned == 2)[0]) >= 90


def test_points_are_scattered_in_the_inside() -> None:
    mask = np.full((21, 21), 3, np.uint8)
    places = {tuple(np.argwhere(drawn(points, mask, seed) == 3)[0]) for seed in range(40)}
    assert len(places) > 20 and all(5 <= row <= 15 and 5 <= column <= 15 for row, column in places)


@given(arrays(np.uint8, (12, 15), elements=st.sampled_from([0, 1, 2, IGNORE])), st.integers(0, 3))
def test_marks_lie_on_their_class_and_every_class_has_one(mask: np.ndarray, seed: int) -> None:
    classes = set(mask.ravel().tolist()) - {IGNORE}
    for draw in (points, scribbles):
        mark = drawn(draw, mask, seed)
        assert np.array_equal(mark, drawn(draw, mask, seed)), "the same draw again"
        assert (mark[mark != IGNORE] == mask[mark != IGNORE]).all()
        assert set(mark.ravel().tolist()) - {IGNORE} == classes
        found = list(regions(mask))
        assert draw is scribbles or marked(mark) == len(found)
    for box in boxes(mask, None):
        part = mask[box.top : box.bottom, box.left : box.right] == box.label
        assert part[0].any() and part[-1].any() and part[:, 0].any() and part[:, -1].any()
