"""What boxes say of the pixels of a batch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.contract import Stream
from bench.labels import Box
from datasets.streams import SparseStreams
from datasets.views import Geometry

CLASSES, SIDE = 80, 120


def crowd(boxes: int) -> tuple[Box, ...]:
    """Boxes that overlap, of a class each."""
    generator = np.random.default_rng(3)
    corners = np.sort([generator.choice(SIDE, (2, 2), replace=False) for _ in range(boxes)], axis=1)
    return tuple(
        Box(number % CLASSES, int(top), int(left), int(bottom) + 1, int(right) + 1)
        for number, ((top, left), (bottom, right)) in enumerate(corners)
    )


@pytest.mark.parametrize("background", [0, None])
@pytest.mark.parametrize("count", [2, 60])
def test_a_pixel_may_be_of_the_classes_whose_boxes_it_is_in(count: int, background: int | None) -> None:
    boxes = crowd(count)
    marks = SimpleNamespace(ids={"boxes": frozenset({"a"})}, boxes=lambda id: boxes)
    streams = SparseStreams(marks, CLASSES, background)  # type: ignore[arg-type]
    assert (streams.most > 1000) == (count == 60), "more parts than a byte has numbers"

    crop = (SIDE + 5, SIDE + 7)  # with padding
    geometry = Geometry((SIDE, SIDE), (SIDE, SIDE), (0, 0), crop, flip=False)
    fields = streams.fields(["a"], [geometry])
    images, valid = torch.zeros(1, 3, *crop), torch.ones(1, *crop, dtype=torch.bool)
    stream = Stream(("a",), images, valid, **fields)

    wanted = np.zeros((SIDE, SIDE, CLASSES), np.bool_)
    for box in boxes:
        wanted[box.top : box.bottom, box.left : box.right, box.label] = True
    if background is None:
        wanted[~wanted.any(2)] = wanted.any((0, 1))
    else:
        wanted[..., background] = True
    assert np.array_equal(stream.allowed[0].permute(1, 2, 0)[:SIDE, :SIDE].numpy(), wanted)
    table, rows = stream.sets
    assert rows.dtype == torch.int64
    assert np.array_equal(table[rows[0, :SIDE, :SIDE]].numpy(), wanted)
    assert streams.tags["a"] == tuple(np.flatnonzero(wanted.any((0, 1))))


@pytest.mark.parametrize(
    ("background", "boxes", "outside", "inside"),
    [
        (0, (Box(2, 1, 1, 3, 3),), {0}, {0, 2}),
        (0, (), {0}, {0}),
        (None, (Box(2, 1, 1, 3, 3), Box(3, 0, 0, 1, 1)), {2, 3}, {2}),
        (None, (), {0, 1, 2, 3}, {0, 1, 2, 3}),
    ],
)
def test_no_box_of_a_class_rules_it_out(
    background: int | None, boxes: tuple[Box, ...], outside: set[int], inside: set[int]
) -> None:
    """Also without a background class: a class that has no box in an image is nowhere in it."""
    marks = SimpleNamespace(ids={"boxes": frozenset({"a"})}, boxes=lambda id: boxes)
    streams = SparseStreams(marks, 4, background)  # type: ignore[arg-type]
    geometry = Geometry((4, 4), (4, 4), (0, 0), (4, 4), flip=False)
    stream = Stream(("a",), torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4), **streams.fields(["a"], [geometry]))
    for (row, column), allowed in {(3, 3): outside, (2, 2): inside}.items():
        assert set(stream.allowed[0, :, row, column].nonzero().flatten().tolist()) == allowed
    assert set(streams.tags["a"]) == outside | inside
