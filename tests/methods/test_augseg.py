"""AugSeg: the boxes and the confidence by hand, and what its mixing must keep together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from linear import AT, EVEN, LABELED_LOSS, UNSURE, A, B, C, Pixel, build, image, unlabeled, values

from bench.contract import EQUAL_COLOURS, Batch, Progress, Stream
from bench.ops.mixing import beta, boxes_around, paste
from methods.augseg import AugSeg

SIDE = 16
CERTAIN: Pixel = (1 - 2e-7, 1e-7, 1e-7)


def square(pixels: list[Pixel], label: list[int] | None = None) -> Stream:
    """Images of one colour, 16 x 16."""
    seen = image([[pixel] for pixel in pixels]).expand(-1, -1, SIDE, SIDE)
    valid = torch.ones(len(pixels), SIDE, SIDE, dtype=torch.bool)
    labels = None if label is None else torch.tensor(label).view(-1, 1, 1).expand_as(valid)
    return Stream(tuple(map(str, range(len(pixels)))), seen, valid, label=labels)


def test_a_box_has_even_sides_and_is_cut_off_at_the_borders() -> None:
    """A quarter of 16 x 16 is 8 x 8; centres from 2 on. At 2 a side has 6 places, at 15 it has 5."""
    like = torch.zeros(2000, SIDE, SIDE)
    boxes = boxes_around(like, torch.tensor(0.25), torch.Generator().manual_seed(0))
    rows, columns = boxes.any(2).sum(1), boxes.any(1).sum(1)
    assert torch.equal(boxes.sum((1, 2)), rows * columns), "they are rectangles"
    assert set(rows.tolist()) == set(columns.tolist()) == {5, 6, 7, 8}
    assert boxes[:, 0].any() and boxes[:, -1].any()
    # Of 14 centres, those from 4 to 12 give 8 places; 2 and 14 give 6; 3 and 13 give 7; 15 gives 5.
    expected = (9 * 8 + 2 * 6 + 2 * 7 + 5) / 14
    assert rows.float().mean().item() == pytest.approx(expected, abs=0.1)
    odd = boxes_around(like, torch.tensor(0.5), torch.Generator().manual_seed(0))
    assert odd.any(2).sum(1).max().item() == 10, "16 x .707 is 11.3: rounded down to an even number"


@pytest.mark.parametrize(("a", "b", "mean", "variance"), [(8, 2, 0.8, 0.014545), (4, 4, 0.5, 0.027778)])
def test_beta_of_whole_numbers(a: int, b: int, mean: float, variance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = np.array([beta(a, b, generator).item() for _ in range(4000)])
    assert abs(drawn.mean() - mean) < 4 * math.sqrt(variance / 4000)
    assert drawn.var() == pytest.approx(variance, rel=0.1)


def test_paste_by_hand() -> None:
    above, below, box = torch.ones(1, 2, 1, 2), torch.zeros(1, 2, 1, 2), torch.tensor([[[True, False]]])
    assert paste(above, below, box).tolist() == [[[[1, 0]], [[1, 0]]]]
    assert paste(above[:, 0], below[:, 0], box).tolist() == [[[1, 0]]]


def test_the_loss_is_a_mean_over_all_pixels() -> None:
    """A row is too narrow for a box, so nothing is mixed: two of four pixels train, one is padding."""
    batch = unlabeled([[A, UNSURE], [B, C]], valid=[[1, 1], [1, 0]])
    got = values(method := build(AugSeg, threshold=0.8, unlabeled_weight=2.0), batch)
    assert got["unlabeled"] == pytest.approx(2 * -2 * math.log(0.9) / 4)
    assert got["labeled"] == pytest.approx(LABELED_LOSS)
    assert method.notes["mask_ratio"].item() == 0.5


def test_confidence_of_an_image_by_hand() -> None:
    """(1 - H / ln 3) x c is .57856 for (.9, .06, .04) and .03139 for (.5, .3, .2); padding does not count."""
    method = build(AugSeg)
    for rows, valid, expected in (
        ([[A, A], [UNSURE, UNSURE]], None, (0.57856 + 0.03139) / 2),
        ([[A, UNSURE], [A, UNSURE]], [[1, 0], [1, 0]], 0.57856),
        ([[EVEN, EVEN], [EVEN, EVEN]], None, 0.0),
    ):
        values(method, unlabeled(rows, valid=valid))
        assert method.notes["confidence"].item() == pytest.approx(expected, abs=1e-5)


def test_image_and_label_are_pasted_alike() -> None:
    """Whatever is pasted where, each pixel carries its own label: -log .9 everywhere, in every step."""
    batch = Batch(labeled=square([C, A, B], [2, 0, 1]), unlabeled=square([A, B, C]))
    method = build(AugSeg, threshold=0.0)
    for step in range(20):
        terms = method.losses(batch, Progress(step, 20, seed=0))
        assert terms["unlabeled"].item() == pytest.approx(-math.log(0.9))
        assert method.notes["mask_ratio"].item() == 1


def test_unsure_images_get_labeled_boxes_and_sure_ones_none() -> None:
    """The teacher's confidence in a pixel of (.5, .3, .2) is .031, so 97 of 100 images are injected."""
    method, shares = build(AugSeg), []
    for step in range(200):
        at = Progress(step, 200, seed=0)
        method.losses(Batch(labeled=square([A, A], [0, 0]), unlabeled=square([UNSURE] * 4)), at)
        shares.append(method.notes["share_injected"].item())
    assert np.mean(shares) == pytest.approx(1 - 0.03139, abs=0.02)
    sure = Batch(labeled=square([B, B], [255, 255]), unlabeled=square([CERTAIN] * 4))
    for step in range(20):
        method.losses(sure, Progress(step, 20, seed=0))
        assert method.notes["share_injected"].item() == 0 and method.notes["mask_ratio"].item() == 1


def test_labels_that_are_255_stay_ignored_where_they_are_pasted() -> None:
    """An even prediction is always injected; what is kept is what no box covers, ln 3 a pixel."""
    batch = Batch(labeled=square([A, A], [255, 255]), unlabeled=square([EVEN, EVEN]))
    method, kept = build(AugSeg, threshold=0.0), []
    for step in range(20):
        terms = method.losses(batch, Progress(step, 20, seed=0))
        kept.append(method.notes["mask_ratio"].item())
        pasted = 1 - kept[-1]
        # The network says of pasted colours what it says of A, but no label asks.
        assert terms["unlabeled"].item() == pytest.approx((1 - pasted) * math.log(3), rel=1e-4)
    assert 0.3 < min(kept) < 0.9, "other boxes may cover what was injected"


def test_true_labels_count_whatever_the_threshold() -> None:
    """The teacher is never sure enough, so the pixels that train are those of labeled boxes: -log .9 each."""
    batch = Batch(labeled=square([A, A], [0, 0]), unlabeled=square([EVEN, EVEN]))
    method = build(AugSeg, threshold=1.0)
    terms = method.losses(batch, AT)
    share = method.notes["mask_ratio"].item()
    assert 0 < share < 0.7
    assert terms["unlabeled"].item() == pytest.approx(-share * math.log(0.9), rel=1e-4)


def test_its_own_strong_view_gives_way_to_that_of_equal_views() -> None:
    (stage,) = AugSeg.views.recipe
    assert stage.draws == (1, 3) and len(stage.operations) == 11
    assert AugSeg.views.equal().recipe == EQUAL_COLOURS
    assert AugSeg.views.equal().boxes is None, "its own boxes stay"
    assert replace(AugSeg.views, recipe=EQUAL_COLOURS, colours=True) == AugSeg.views.equal()
