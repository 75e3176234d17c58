"""UniMatch and its second version: dropped features, by hand and by what must hold."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linear import AT, EVEN, LABELED_LOSS, UNSURE, A, B, C, build, unlabeled, values

from bench.contract import Batch, Features
from bench.ops.perturb import complementary_dropout, drop_channels
from methods.unimatch import UniMatch
from methods.unimatch_v2 import UniMatchV2


def two_views(batch: Batch) -> Batch:
    """The strong view and its box twice."""
    stream = batch.unlabeled
    return replace(batch, unlabeled=replace(stream, strong=stream.strong * 2, boxes=stream.boxes * 2))


def test_without_dropout_colours_and_boxes_all_three_losses_are_one() -> None:
    """CE(p, argmax p), at threshold 0."""
    rows = [[A, UNSURE], [B, C]]
    batch = two_views(unlabeled(rows, strong=rows, box=[[0, 0], [0, 0]]))
    own = -(3 * math.log(0.9) + math.log(0.5)) / 4
    got = values(build(UniMatch, threshold=0.0, dropout=0.0), batch)
    assert got == {
        "labeled": pytest.approx(LABELED_LOSS / 2),
        "strong": pytest.approx(own / 4),
        "dropped": pytest.approx(own / 4),
    }


def test_the_views_are_mixed_each_by_its_own_box() -> None:
    """The first view shows the next image's second pixel, which is in padding; the second is not mixed."""
    batch = unlabeled(
        [[A, A], [B, UNSURE]], strong=[[A, A], [B, B]], box=[[0, 1], [0, 0]], valid=[[1, 1], [1, 0]]
    )
    second = replace(
        batch.unlabeled,
        strong=batch.unlabeled.strong * 2,
        boxes=(batch.unlabeled.boxes[0], torch.zeros_like(batch.unlabeled.boxes[0])),
    )
    got = values(build(UniMatch, threshold=0.8, dropout=0.0), replace(batch, unlabeled=second))
    assert got["strong"] == pytest.approx(-math.log(0.9) / 4)
    # Second view of image 1: its unsure pixel lies in padding. Without it all are sure.
    assert got["dropped"] == pytest.approx(-math.log(0.9) / 4)


def test_dropped_channels_are_whole_and_the_mean_stays() -> None:
    maps = (torch.ones(4, 500, 3, 3), torch.ones(4, 8, 1, 1))
    first, second = drop_channels(maps, 0.5, torch.Generator().manual_seed(0))
    assert set(first.unique().tolist()) == {0.0, 2.0} and first.mean().item() == pytest.approx(1, abs=0.1)
    assert (first.amax((2, 3)) == first.amin((2, 3))).all(), "a channel goes as a whole"
    assert second.shape == (4, 8, 1, 1)
    assert all(map(torch.equal, drop_channels(maps, 0.0, torch.Generator()), maps))


@given(st.integers(1, 9), st.integers(0, 99))
def test_the_two_views_complement_each_other(images: int, seed: int) -> None:
    maps = tuple(torch.ones(2 * images, channels, 2, 2) for channels in (64, 64, 32, 0))
    found = complementary_dropout(maps, torch.Generator().manual_seed(seed))
    for one in found:
        assert (one[:images] + one[images:] == 2).all()
    assert torch.equal(found[0], found[1]), "maps with equally many channels lose the same ones"
    whole = int((found[0][:images] == 1).flatten(1).all(1).sum())
    assert whole == images // 2, "half of the images keep all: none of one, one of three"


@pytest.mark.parametrize("seed", range(3))
def test_unimatch_v2_keeps_labeled_images_whole(seed: int) -> None:
    """Three images of each kind: whatever is dropped, the labeled loss is that of whole features."""
    rows = [[A, B], [B, C], [C, A]]
    even = [[EVEN, EVEN]] * 3
    batch = two_views(unlabeled(rows, strong=even, box=[[0, 0]] * 3))
    method = build(UniMatchV2, threshold=0.5)
    terms = method.losses(batch, replace(AT, seed=seed))
    assert terms["labeled"].item() == pytest.approx(LABELED_LOSS / 2)
    # One image keeps all; the channels of the others are 0 or doubled, and doubled logits of 1/3 stay even.
    assert terms["unlabeled"].item() >= math.log(3) / 2 - 1e-6


def test_unimatch_v2_is_half_of_the_mean_of_two_views_over_their_valid_pixels() -> None:
    """The first view shows the next image's second pixel, which is in padding for one of them. The first
    pixel of the first image is not sure, and counts below the line alone."""
    batch = unlabeled(
        [[UNSURE, B], [C, C]], strong=[[A, EVEN], [UNSURE, C]], box=[[0, 1], [0, 1]], valid=[[1, 1], [1, 0]]
    )
    (strong,), (box,) = batch.unlabeled.strong, batch.unlabeled.boxes
    views = replace(batch.unlabeled, strong=(strong, strong), boxes=(box, torch.zeros_like(box)))
    drawn = AT.generator("complementary dropout")
    scales = complementary_dropout((torch.ones(4, 3, 1, 1),), drawn)[0].flatten(1).tolist()

    def loss(pixel: tuple[float, ...], scale: list[float], label: int) -> float:
        parts = [p**by for p, by in zip(pixel, scale, strict=True)]
        return -math.log(parts[label] / sum(parts))

    first = loss(UNSURE, scales[1], 2) + loss(EVEN, scales[1], 1)  # two of three pixels
    second = loss(EVEN, scales[2], 1) + loss(UNSURE, scales[3], 2)  # the same two, each in its own image
    got = values(build(UniMatchV2, threshold=0.8), replace(batch, unlabeled=views))
    assert got["unlabeled"] == pytest.approx((first / 3 + second / 3) / 2 / 2)


def test_features_are_cut_and_joined_by_image() -> None:
    features = Features((torch.arange(3.0).view(3, 1, 1, 1),), (torch.arange(3.0).view(3, 1, 1),))
    joined = features[1:].join(features[:1])
    assert joined.maps[0].flatten().tolist() == [1, 2, 0] and joined.tokens[0].flatten().tolist() == [1, 2, 0]
