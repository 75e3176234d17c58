"""Thresholds that follow the predictions: FlexMatch, FreeMatch, SoftMatch, CorrMatch's; numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
from linear import AT, EVEN, LABELED_LOSS, UNSURE, A, B, C, build, unlabeled, values
from torch import Tensor

from bench.ops.thresholds import (
    FLOOR,
    Alignment,
    FlexThreshold,
    FreeThreshold,
    GlobalThreshold,
    SoftWeight,
    class_share,
    pixel_mean,
)
from methods.corrmatch_threshold import CorrMatchThreshold
from methods.flexmatch import FlexMatch
from methods.freematch import FreeMatch
from methods.softmatch import SoftMatch


def row(*numbers: float) -> Tensor:
    """One image of one row: 1 1 W."""
    return torch.tensor(numbers).view(1, 1, -1)


ALL = torch.ones(1, 1, 2, dtype=torch.bool)
NONE = torch.zeros(1, 1, 2, dtype=torch.bool)


def test_means_and_shares_are_over_valid_pixels() -> None:
    valid = torch.tensor([[[True, True, False]]])
    assert pixel_mean(row(0.2, 0.4, 0.9), valid).item() == pytest.approx(0.3)
    assert pixel_mean(torch.stack([row(1, 0, 1), row(0, 1, 1)], 1), valid).tolist() == [0.5, 0.5]
    label = torch.tensor([[[0, 1, 1]]])
    counted = torch.tensor([[[True, False, True]]])
    assert class_share(label, counted, valid, 3).tolist() == [0.5, 0, 0]
    assert pixel_mean(row(0.2, 0.4), NONE).item() == 0


def test_flexmatch_lowers_the_threshold_of_a_class_that_is_learned_slowly() -> None:
    thresholds = FlexThreshold(2)
    thresholds.shares.copy_(torch.tensor([0.2, 0.4, 0.4]))
    own = thresholds(row(0.96, 0.5), torch.tensor([[[0, 1]]]), ALL, 0.95, 0.9)
    assert own.flatten().tolist() == pytest.approx([0.95 * 0.5 / 1.5, 0.95], abs=1e-6), ".31667 at one half"
    # One of two pixels is confident, of class 0; the other has no confident label.
    assert thresholds.shares.tolist() == pytest.approx([0.23, 0.36, 0.41])


def test_flexmatch_counts_pixels_without_a_label_as_a_class_at_first() -> None:
    thresholds = FlexThreshold(2)
    assert thresholds(row(0.1, 0.2), torch.tensor([[[0, 1]]]), ALL, 0.95, 0.9).max() == 0
    assert thresholds.shares.tolist() == pytest.approx([0, 0, 1])


def test_freematch_after_one_update() -> None:
    thresholds = FreeThreshold(21)
    probability = torch.full((1, 21, 1, 2), 0.1 / 20)
    probability[:, 0] = 0.9
    found = thresholds(probability, ALL, 0.999)
    assert thresholds.confidence.item() == pytest.approx(0.0484714, abs=1e-7)
    assert found[0].item() == pytest.approx(0.0484714, abs=1e-7)
    ratio = (0.999 / 21 + 0.001 * 0.1 / 20) / (0.999 / 21 + 0.001 * 0.9)
    assert found[1].item() == pytest.approx(0.0484714 * ratio, abs=1e-7)


def test_freematch_never_goes_below_a_tenth_of_the_largest() -> None:
    thresholds = FreeThreshold(2)
    found = thresholds(torch.tensor([0.99, 0.01]).view(1, 2, 1, 1).expand(1, 2, 1, 2), ALL, 0.0)
    assert found.tolist() == pytest.approx([0.99, 0.99 * FLOOR])


def test_freematch_is_fair_by_hand() -> None:
    """Mean (.6, .4), each class predicted once of two: .6 and .4 against one half each."""
    thresholds = FreeThreshold(2)
    probability = torch.tensor([[0.8, 0.4], [0.2, 0.6]]).view(1, 2, 1, 2).requires_grad_()
    fairness = thresholds.fairness(probability, ALL)
    assert fairness.item() == pytest.approx((math.log(0.6) + math.log(0.4)) / 2, abs=1e-6)
    fairness.backward()
    assert probability.grad is not None and probability.grad.any()
    nothing = thresholds.fairness(probability, NONE)
    assert nothing.item() == 0 and nothing.requires_grad


def test_softmatch_weighs_by_a_gaussian_below_the_mean() -> None:
    weights = SoftWeight(3)
    weights.mean.fill_(0.7)
    weights.variance.fill_(0.04)
    found = weights(row(0.5, 0.9), ALL, width=2.0, momentum=1.0)
    assert found.flatten().tolist() == pytest.approx([math.exp(-2), 1], abs=1e-6), ".135335"
    weights(row(0.4, 0.8), ALL, width=2.0, momentum=0.0)
    assert weights.mean.item() == pytest.approx(0.6) and weights.variance.item() == pytest.approx(0.08)


def test_softmatch_starts_with_equal_weights() -> None:
    """The variance starts at 1 and moves by a thousandth."""
    found = SoftWeight(21)(row(0.05, 0.06), ALL, width=2.0, momentum=0.999)
    assert found.min() > 0.999


def test_alignment_draws_the_mean_to_the_labeled_pixels() -> None:
    alignment = Alignment(2)
    alignment.labeled.copy_(torch.tensor([300, 100]))
    probability = torch.tensor([[0.8, 0.4], [0.2, 0.6]]).view(1, 2, 1, 2)  # mean .6, .4
    found = alignment(probability, ALL, 0.0)[0, :, 0]  # C W
    first = 0.8 * 0.75 / 0.6, 0.2 * 0.25 / 0.4
    assert found[:, 0].tolist() == pytest.approx([x / sum(first) for x in first], abs=1e-4)


def test_corrmatchs_threshold_follows_the_surest_pixel_of_each_class() -> None:
    threshold = GlobalThreshold(0.85)
    confidence, label = row(0.9, 0.8, 1.0, 0.3), torch.tensor([[[0, 1, 2, 2]]])
    valid = torch.ones(1, 1, 4, dtype=torch.bool)
    assert threshold(confidence, label, valid, 5, 0.999).item() == pytest.approx(0.85005, abs=1e-7)
    still = GlobalThreshold(0.0)  # as on Cityscapes
    assert still(confidence, label, valid, 5, 1.0).item() == 0


@pytest.mark.parametrize("made", [FlexThreshold(3), FreeThreshold(3), SoftWeight(3), Alignment(3)])
def test_padding_alone_moves_nothing(made: torch.nn.Module) -> None:
    before = {name: value.clone() for name, value in made.state_dict().items()}
    confidence, label = row(0.9, 0.5), torch.tensor([[[0, 1]]])
    probability = torch.full((1, 3, 1, 2), 1 / 3)
    given = {
        FlexThreshold: (confidence, label, NONE, 0.95, 0.9),
        FreeThreshold: (probability, NONE, 0.9),
        SoftWeight: (confidence, NONE, 2.0, 0.9),
        Alignment: (probability, NONE, 0.9),
    }
    made(*given[type(made)])
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())


# The methods ------------------------------------------------------------------------------------------------


def test_a_kept_pixel_counts_by_its_weight_over_all_valid_ones() -> None:
    """Two of four pixels are as sure as .85: a and b. Their strong views give them 1/3 and .3."""
    batch = unlabeled([[A, UNSURE], [B, EVEN]], strong=[[EVEN, A], [UNSURE, A]])
    method = build(CorrMatchThreshold, momentum=0.0, threshold=0.0)
    # The threshold moves to the mean of the highest of each class: .9 and .9.
    got = values(method, batch)
    assert got["labeled"] == pytest.approx(LABELED_LOSS)
    assert got["unlabeled"] == pytest.approx(-(math.log(1 / 3) + math.log(0.3)) / 4)
    assert method.notes["mask_ratio"].item() == pytest.approx(0.5)


def test_flexmatch_trains_all_pixels_before_any_class_is_learned() -> None:
    batch = unlabeled([[A, UNSURE], [B, C]], strong=[[EVEN, EVEN], [EVEN, EVEN]])
    method = build(FlexMatch)
    assert values(method, batch)["unlabeled"] == pytest.approx(math.log(3))


def test_freematch_adds_its_second_term() -> None:
    batch = unlabeled([[A, B], [C, A]], strong=[[A, B], [C, A]])
    method = build(FreeMatch, fairness_weight=2.0)
    terms = method.losses(batch, AT)
    assert terms["fairness"].item() < 0 and set(terms) == {"labeled", "unlabeled", "fairness"}


def test_softmatch_aligns_for_the_weight_and_not_for_the_label() -> None:
    """Labels are all of class a, so aligned predictions lose confidence in b; the target stays b."""
    batch = unlabeled([[B, B], [B, B]], strong=[[B, B], [B, B]])
    with_, without = build(SoftMatch, momentum=0.0), build(SoftMatch, momentum=0.0, align=False)
    assert values(with_, batch)["unlabeled"] == pytest.approx(-math.log(0.9), rel=1e-5)
    assert values(without, batch)["unlabeled"] == pytest.approx(-math.log(0.9), rel=1e-5)
    assert with_.notes["mean_confidence"] != without.notes["mean_confidence"]
