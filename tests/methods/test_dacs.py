"""DACS: half of a labeled image's classes on top of an unlabeled one, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linear import LABELED_LOSS, UNSURE, A, B, build, labeled, unlabeled, values

from bench.contract import IGNORE
from bench.ops.mixing import half_of_the_classes
from methods.dacs import DACS

SURE, DOUBT = -math.log(0.9), -math.log(0.5)


def test_a_pasted_pixel_counts_whole_and_a_target_pixel_as_the_share_of_sure_ones() -> None:
    """Two labeled images of one class each lie on two targets whole; the third has no label, and its target
    stays as it is. Three of six pixels of the target are sure."""
    batch = unlabeled([[A, B], [UNSURE, UNSURE], [A, UNSURE]])
    method = build(DACS, threshold=0.8, unlabeled_weight=2.0)
    got = values(method, batch)
    assert got["labeled"] == pytest.approx(LABELED_LOSS)
    assert got["unlabeled"] == pytest.approx(2 * (2 * SURE + 2 * DOUBT + 0.5 * (SURE + DOUBT)) / 6)
    assert method.notes["mask_ratio"].item() == 0.5
    assert method.notes["share_pasted"].item() == pytest.approx(4 / 6)


def test_padding_of_the_target_counts_where_something_is_pasted_on_it() -> None:
    """All of the target is padding but for two pixels, of which one is sure."""
    batch = unlabeled([[A, B], [UNSURE, UNSURE], [A, UNSURE]], valid=[[0, 0], [0, 0], [1, 1]])
    got = values(build(DACS, threshold=0.8), batch)
    assert got["unlabeled"] == pytest.approx((2 * SURE + 2 * DOUBT + 0.5 * (SURE + DOUBT)) / 6)
    batch = unlabeled([[A, B], [UNSURE, UNSURE], [A, UNSURE]], valid=[[1, 1], [1, 1], [1, 0]])
    got = values(build(DACS, threshold=0.8), batch)
    assert got["unlabeled"] == pytest.approx((2 * SURE + 2 * DOUBT + 3 / 5 * SURE) / 5)


def test_more_unlabeled_images_than_labeled_ones_get_the_first_ones_again() -> None:
    batch = unlabeled([[UNSURE]] * 4)
    method = build(DACS, threshold=0.8)
    got = values(method, batch)  # images 0 and 3 get labeled image 0, and no target pixel is sure
    assert got["unlabeled"] == pytest.approx((2 * SURE + DOUBT) / 4)


def test_a_pasted_pixel_brings_its_own_image_and_label() -> None:
    """Of three classes two are pasted: each mixed pixel is sure of its own target, whatever is drawn."""
    batch = unlabeled([[B, B, B]] * 3)
    rows = torch.tensor([A, B, A], dtype=torch.float64).log().t()[None, :, None]  # 1 3 1 W
    label = torch.tensor([[[0, 1, IGNORE]]]).expand(3, 1, 3)
    batch = replace(batch, labeled=replace(labeled(3), image=rows.expand(3, 3, 1, 3), label=label))
    method = build(DACS, threshold=0.0)
    assert values(method, batch)["unlabeled"] == pytest.approx(SURE)
    assert method.notes["share_pasted"].item() == pytest.approx(1 / 3)  # one of two; never the third pixel


@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=3), st.booleans())
def test_half_of_an_odd_number_of_classes_is_rounded_as_asked(rows: list[list[int]], up: bool) -> None:
    label = torch.tensor(rows).view(len(rows), 2, 3)
    kept = half_of_the_classes(label, label >= 0, 5, torch.Generator().manual_seed(0), up)
    for one, of in zip(label, kept, strict=True):
        assert len(one[of].unique()) == (len(one.unique()) + up) // 2
