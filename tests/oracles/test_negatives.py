"""Ranks of classes, and the rules of which pixel is a negative key of which class."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.ops.losses import IGNORE
from bench.ops.negatives import (
    at_most,
    certain_negatives,
    labeled_negatives,
    ranks,
    unlabeled_negatives,
)

LOW, HIGH = 3, 20  # r_l and r_h of the paper


def falling(classes: int) -> Tensor:
    """One pixel whose probability falls from class to class: 1 C. Class c has rank c."""
    weight = torch.arange(classes, 0, -1).float()
    return (weight / weight.sum()).unsqueeze(0)


def key_of(negative: Tensor) -> list[int]:
    """The classes that the only pixel is a key of."""
    assert negative.dtype == torch.bool and len(negative) == 1
    return negative[0].nonzero().flatten().tolist()


@st.composite
def predictions(draw: st.DrawFn) -> Tensor:
    """N C, with many ties: multiples of 1/8."""
    classes = draw(st.integers(1, 30))
    rows = st.lists(st.integers(0, 8), min_size=classes, max_size=classes)
    return torch.tensor(draw(st.lists(rows, min_size=1, max_size=6))) / 8


# Ranks ----------------------------------------------------------------------------------------------------


def test_the_most_likely_class_has_rank_0() -> None:
    probability = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3], [0.2, 0.3, 0.5]])
    assert ranks(probability).tolist() == [[2, 0, 1], [0, 2, 1], [2, 1, 0]]
    assert ranks(probability).dtype == torch.uint8


def test_of_a_tie_the_lower_class_comes_first() -> None:
    probability = torch.tensor([[0.2, 0.4, 0.2, 0.0, 0.2], [0.25, 0.25, 0.25, 0.25, 0.0], [0.2] * 5])
    assert ranks(probability).tolist() == [[1, 0, 2, 4, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    # Long enough for a sort that would not be stable.
    assert ranks(torch.full((3, 200), 0.005)).tolist() == [list(range(200))] * 3


def test_the_largest_number_of_classes_still_has_ranks() -> None:
    assert ranks(falling(255)).tolist() == [list(range(255))]
    assert ranks(falling(255).flip(1)).tolist() == [list(range(254, -1, -1))]


@settings(deadline=None)
@given(probability=predictions())
def test_ranks_are_a_permutation_that_falls_in_probability(probability: Tensor) -> None:
    rank = ranks(probability).long()
    classes = probability.shape[1]
    assert torch.equal(rank.sort(1).values, torch.arange(classes).expand_as(rank))
    double_sort = probability.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    assert torch.equal(rank, double_sort)
    for values, places in zip(probability.tolist(), rank.tolist(), strict=True):
        better = [(v, -c) for c, v in enumerate(values)]
        assert places == [sum(other > own for other in better) for own in better]


# Rules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "keys"), [(21, range(3, 20)), (19, range(3, 19)), (3, []), (4, [3])])
def test_an_unreliable_pixel_is_a_key_of_its_unlikely_classes(classes: int, keys: range) -> None:
    """Of 21 classes 17, neither the first three nor the last; of 19 classes 16, the last as well."""
    rank = ranks(falling(classes))
    assert key_of(unlabeled_negatives(rank, torch.tensor([True]), LOW, HIGH)) == list(keys)
    assert key_of(unlabeled_negatives(rank, torch.tensor([False]), LOW, HIGH)) == []


@pytest.mark.parametrize(
    ("label", "keys"), [(1, [0, 2]), (5, [0, 1, 2]), (0, [1, 2]), (20, [0, 1, 2]), (IGNORE, [])]
)
def test_a_labeled_pixel_is_a_key_of_the_likely_classes_that_it_is_not(label: int, keys: list[int]) -> None:
    assert key_of(labeled_negatives(ranks(falling(21)), torch.tensor([label]), LOW)) == keys


@pytest.mark.parametrize("beyond", [21, 255, 256, 258, 512, 100_000])
def test_a_rank_high_beyond_the_classes_drops_none(beyond: int) -> None:
    rank = ranks(falling(21))
    assert key_of(unlabeled_negatives(rank, torch.tensor([True]), LOW, beyond)) == list(range(3, 21))


def test_each_pixel_has_its_own_ranks_label_and_choice() -> None:
    rank = ranks(torch.cat([falling(5), falling(5).flip(1), falling(5)]))
    label = torch.tensor([0, 4, IGNORE])
    assert labeled_negatives(rank, label, 2).int().tolist() == [
        [0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
    ]
    assert unlabeled_negatives(rank, torch.tensor([True, True, False]), 2, 4).int().tolist() == [
        [0, 0, 1, 1, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ]


@settings(deadline=None)
@given(probability=predictions(), low=st.integers(1, 31), more=st.integers(1, 31), data=st.data())
def test_the_number_of_classes_that_a_pixel_is_a_key_of(
    probability: Tensor, low: int, more: int, data: st.DataObject
) -> None:
    pixels, classes = probability.shape
    rank = ranks(probability)
    some = st.one_of(st.integers(0, classes - 1), st.just(IGNORE))
    label = torch.tensor(data.draw(st.lists(some, min_size=pixels, max_size=pixels)))
    negative = labeled_negatives(rank, label, low)
    for pixel, own in enumerate(label.tolist()):
        if own == IGNORE:
            assert not negative[pixel].any()
        else:
            assert not negative[pixel, own]
            assert negative[pixel].sum() == min(low, classes) - (rank[pixel, own] < low).int()
    chosen = label != IGNORE
    count = unlabeled_negatives(rank, chosen, low, low + more).sum(1)
    assert torch.equal(count, chosen * (min(low + more, classes) - min(low, classes)))


# Tags -----------------------------------------------------------------------------------------------------

P = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
ONE_TAG = torch.tensor([[True, True, False, False]])  # background and class 1


@pytest.mark.parametrize(("low", "keys"), [(4, [2, 3]), (3, [2]), (2, []), (1, [])])
def test_a_pixel_is_a_certain_key_of_likely_classes_that_its_image_does_not_have(
    low: int, keys: list[int]
) -> None:
    """Classes 2 and 3 are certainly wrong; of these the hard ones count."""
    assert key_of(certain_negatives(ranks(P), ONE_TAG, low)) == keys
    assert key_of(certain_negatives(ranks(P.flip(1)), ONE_TAG, low)) == [[2, 3], [3]][low == 1]


def test_a_tagged_class_may_come_from_the_ranks_alone() -> None:
    """Ranks 1 and 2 are classes 1 and 2; of class 1, which is tagged, no pixel is a certain key."""
    assert key_of(unlabeled_negatives(ranks(P), torch.tensor([True]), 1, 3)) == [1, 2]
    assert not certain_negatives(ranks(P), ONE_TAG, 4)[0, 1]


def test_where_all_classes_are_allowed_none_is_certain() -> None:
    assert not certain_negatives(ranks(P), torch.ones_like(ONE_TAG), 4).any()


def test_at_most_so_many_pixels_of_each_class_the_first_ones() -> None:
    negative = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1], [1, 0, 0], [1, 0, 1]]).bool()
    assert at_most(negative, 2).int().tolist() == [[1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert torch.equal(at_most(negative, 4), negative)
    assert not at_most(negative, 0).any()
    assert at_most(negative[:0], 2).shape == (0, 3)


@settings(deadline=None)
@given(probability=predictions(), low=st.integers(1, 31), data=st.data())
def test_certain_keys_are_of_no_allowed_class_and_never_of_the_ranks_above(
    probability: Tensor, low: int, data: st.DataObject
) -> None:
    rank = ranks(probability)
    some = st.lists(st.booleans(), min_size=rank.numel(), max_size=rank.numel())
    allowed = torch.tensor(data.draw(some)).view_as(rank)
    allowed[:, 0] = True  # background
    negative = certain_negatives(rank, allowed, low)
    assert not negative[:, 0].any()
    for pixel, classes in enumerate(negative.tolist()):
        for c, certain in enumerate(classes):
            assert certain == (not allowed[pixel, c] and rank[pixel, c].item() < low)
    everywhere = torch.ones(len(rank), dtype=torch.bool)
    assert not (negative & unlabeled_negatives(rank, everywhere, low, 256)).any()
