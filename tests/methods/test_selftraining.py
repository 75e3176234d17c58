"""Self-training: the loss of its last round by hand. For its rounds see tests/bench/training."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from linear import LABELED_LOSS, TASK, UNSURE, A, B, Linear, build, unlabeled, values

from bench.contract import Batch
from methods.selftraining import SelfTraining


def labeled_before(batch: Batch, rows: list[list[int]]) -> Batch:
    label = torch.tensor(rows)[:, None]  # B 1 W
    return replace(batch, unlabeled=replace(batch.unlabeled, label=label))


def test_it_learns_what_an_earlier_round_said_of_the_strong_view() -> None:
    """Labels a, b of image 1 and 255, a of image 2; the strong view shows A, A and B, UNSURE."""
    views = {"weak": [[B, B], [A, A]], "strong": [[A, A], [B, UNSURE]]}
    batch = labeled_before(unlabeled(**views), [[0, 1], [255, 0]])
    got = values(method := build(SelfTraining), batch)
    assert got["unlabeled"] == pytest.approx(0.5 * -(math.log(0.9) + math.log(0.06) + math.log(0.5)) / 3)
    assert got["labeled"] == pytest.approx(0.5 * LABELED_LOSS)
    assert method.notes["mask_ratio"].item() == 0.75
    assert method.notes["agreement"].item() == pytest.approx(2 / 3), "A as a, and UNSURE, which is a"
    padded = labeled_before(unlabeled(**views, valid=[[1, 0], [1, 1]]), [[0, 1], [255, 0]])
    half = -(math.log(0.9) + math.log(0.5)) / 2
    assert values(method, padded)["unlabeled"] == pytest.approx(0.5 * half)


def test_a_box_is_cut_out_with_its_labels() -> None:
    """The right half is noise whose label does not count; with the box everywhere nothing is learned."""
    batch = unlabeled([[A, A], [A, A]], strong=[[A, A], [A, A]], box=[[0, 1], [0, 1]])
    batch = labeled_before(batch, [[0, 1], [0, 2]])
    method = build(SelfTraining)
    assert values(method, batch)["unlabeled"] == pytest.approx(0.5 * -math.log(0.9))
    whole = labeled_before(unlabeled([[A]] * 2, strong=[[A]] * 2, box=[[1], [1]]), [[0], [0]])
    assert values(method, whole)["unlabeled"] == 0


def test_under_equal_views_the_box_shows_the_next_image() -> None:
    """Image 1 is (a, b of image 2), image 2 is (b, a of image 1): every pixel has its own label."""
    method = SelfTraining(Linear(), replace(TASK, equal_views=True), SelfTraining.HParams())
    batch = unlabeled([[A, A], [B, B]], strong=[[A, A], [B, B]], box=[[0, 1], [0, 1]])
    got = values(method, labeled_before(batch, [[0, 0], [1, 1]]))
    assert got["unlabeled"] == pytest.approx(0.5 * -math.log(0.9))
    assert method.notes["mask_ratio"].item() == 1
