"""Boxes as masks, by hand."""

import numpy as np
import pytest

from bench.labels import IGNORE, Box
from bench.ops import crf
from bench.ops.box_labels import agreed, inner, inside_crf, naive

X = IGNORE


def test_naive_fills_the_smaller_box_in_front() -> None:
    boxes = [Box(2, 1, 1, 2, 3), Box(1, 0, 0, 3, 3)]
    expected = [[1, 1, 1, 0], [1, 2, 2, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert naive(boxes, (4, 4), 0).tolist() == naive(boxes[::-1], (4, 4), 0).tolist() == expected
    assert naive(boxes, (4, 4), None)[3].tolist() == [X, X, X, X]
    assert naive([], (2, 2), 0).tolist() == [[0, 0], [0, 0]]


def test_inner_fills_a_fifth_of_the_area() -> None:
    label = inner([Box(3, 10, 20, 110, 70)], (128, 128), 0)
    assert (label == 3).sum() == round(100 * 0.2**0.5) * round(50 * 0.2**0.5) == 45 * 22
    rows, columns = np.nonzero(label == 3)
    assert (rows.min(), rows.max()) == (37, 81) and (columns.min(), columns.max()) == (34, 55)
    assert (label == X).sum() == 100 * 50 - 45 * 22 and (label == 0).sum() == 128 * 128 - 5000
    assert inner([Box(1, 0, 0, 1, 1)], (1, 2), 0).tolist() == [[1, 0]], "a pixel at least"


def test_inner_of_a_box_within_a_box() -> None:
    label = inner([Box(1, 0, 0, 40, 40), Box(2, 16, 16, 24, 24)], (40, 40), 0)
    assert label[20, 20] == 2 and label[16, 16] == X and label[12, 12] == 1 and label[0, 0] == X


def test_agreed() -> None:
    assert agreed(np.array([[1, 2, 0]], np.uint8), np.array([[1, 0, 0]], np.uint8)).tolist() == [[1, X, 0]]


def test_the_crf_cuts_the_object_out_of_its_box() -> None:
    """A bright disc on a dark ground, in a box with dark corners."""
    pytest.importorskip("pydensecrf")
    rows, columns = np.mgrid[:48, :48] - 24
    disc = np.hypot(rows, columns) < 14
    image = np.where(disc[..., None], 220, 30).astype(np.uint8).repeat(3, 2)
    box = Box(4, 10, 10, 38, 38)
    found = inside_crf(image, [box], 0, crf.PUBLISHED["irn"])
    assert set(np.unique(found)) == {0, 4}
    assert (found[disc] == 4).mean() > 0.95 and (found == 4)[~disc].mean() < 0.02
    both = agreed(found, naive([box], (48, 48), 0))
    assert (both[10:38, 10:38][~disc[10:38, 10:38]] == X).mean() > 0.9 and (both[:10] == 0).all()


def test_the_crf_gives_no_class_outside_of_its_boxes() -> None:
    pytest.importorskip("pydensecrf")
    image = np.full((30, 60, 3), 120, np.uint8)
    boxes = [Box(1, 5, 5, 25, 25), Box(2, 5, 35, 25, 55)]
    found = inside_crf(image, boxes, 0, crf.PUBLISHED["irn"])
    assert not (found[:, :30] == 2).any() and not (found[:, 30:] == 1).any() and (found[:5] == 0).all()
    without = inside_crf(image, boxes, None, crf.PUBLISHED["irn"])
    assert (without[:5] == X).all() and (without[5:25, 5:25] == 1).all() and (without[5:25, 35:55] == 2).all()
