"""Entropy and the split of a batch into reliable and unreliable pixels: by hand, then against numpy."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.ops.entropy import partition, percentile, pixel_entropy

TENTHS = [k / 10 for k in range(1, 11)]
entropies = st.floats(0, 4, width=32)
# Few different values, so that ties are the rule.
tied = st.sampled_from([0.0, 0.5, 0.5000001, 1.0, 3.044522])
alphas = st.one_of(st.floats(0, 1), st.integers(0, 1000).map(lambda k: k / 1000))


def row(values: list[float]) -> Tensor:
    """One image of one row: 1 1 W."""
    return torch.tensor(values, dtype=torch.float32).view(1, 1, -1)


def everywhere(entropy: Tensor) -> Tensor:
    return torch.ones_like(entropy, dtype=torch.bool)


# Entropy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        ([1 / 21] * 21, math.log(21)),
        ([1 / 19] * 19, math.log(19)),
        ([1 / 21] * 21, 3.044522),
        ([1 / 19] * 19, 2.944439),
        ([0.5, 0.5, 0.0], 0.693147),
        ([0.7, 0.2, 0.1], 0.801819),
        ([0.0, 1.0, 0.0], 0.0),
    ],
)
def test_entropy_by_hand(probability: list[float], expected: float) -> None:
    pixel = torch.tensor(probability).view(1, -1, 1, 1)
    assert pixel_entropy(pixel).item() == pytest.approx(expected, abs=1e-6)


def test_entropy_sums_over_the_classes_of_each_pixel() -> None:
    probability = torch.tensor([[[[1.0, 0.5]], [[0.0, 0.5]]], [[[0.9, 0.0]], [[0.1, 1.0]]]])  # 2 2 1 2
    ln2, nine = math.log(2), -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    torch.testing.assert_close(pixel_entropy(probability), torch.tensor([[[0.0, ln2]], [[nine, 0.0]]]))


# The threshold --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "threshold", "unreliable"),
    [(0.2, 0.82, [0.9, 1.0]), (0.1, 0.91, [1.0]), (0.025, 0.9775, [1.0]), (0.0, 1.0, [1.0])],
)
def test_the_most_uncertain_share_is_unreliable(
    alpha: float, threshold: float, unreliable: list[float]
) -> None:
    """With alpha 0 the threshold is the largest entropy, and its pixel ties with it."""
    entropy = row(TENTHS)
    split = partition(entropy, everywhere(entropy), alpha)
    assert split.threshold.item() == pytest.approx(threshold, abs=1e-6)
    assert entropy[split.unreliable].tolist() == pytest.approx(unreliable)
    assert entropy[split.reliable].tolist() == pytest.approx(TENTHS[: 10 - len(unreliable)])


def test_a_tie_with_the_threshold_is_unreliable() -> None:
    entropy = row([0.0, 1.0, 1.0, 1.0, 2.0])  # the 50th percentile is 1
    split = partition(entropy, everywhere(entropy), 0.5)
    assert split.threshold == 1
    assert split.reliable.flatten().tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("values", [[0.0] * 9 + [1.0], [0.3] * 6, [0.0] * 4, [1.5]])
def test_where_the_threshold_is_the_least_entropy_nothing_is_reliable(values: list[float]) -> None:
    """Nine zeros and a one: the 80th percentile is 0, so all ten are at or above it."""
    entropy = row(values)
    split = partition(entropy, everywhere(entropy), 0.2)
    assert not split.reliable.any() and split.unreliable.all()
    assert split.threshold.item() == pytest.approx(min(values))


def test_the_threshold_is_that_of_the_batch() -> None:
    """One threshold per image would cut both images in half."""
    entropy = torch.tensor([[[0.0, 0.0, 0.0, 0.0]], [[1.0, 2.0, 3.0, 4.0]]])
    split = partition(entropy, everywhere(entropy), 0.5)
    assert split.reliable.tolist() == [[[True] * 4], [[False] * 4]]
    assert split.unreliable.tolist() == [[[False] * 4], [[True] * 4]]
    assert split.threshold == 0.5


@pytest.mark.parametrize("garbage", [0.0, 100.0, math.inf, math.nan])
def test_padding_does_not_move_the_threshold(garbage: float) -> None:
    """Five valid pixels among many others: the 80th percentile of 1..5 is 4.2, whatever lies beside them."""
    entropy = row([1, garbage, 2, garbage, garbage, 3, 4, garbage, garbage, 5, garbage])
    valid = row([1, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0]).bool()
    split = partition(entropy, valid, 0.2)
    assert split.threshold.item() == pytest.approx(4.2)
    assert entropy[split.reliable].tolist() == [1, 2, 3, 4]
    assert entropy[split.unreliable].tolist() == [5]


def test_a_batch_without_valid_pixels_has_neither_kind() -> None:
    entropy = row(TENTHS)
    split = partition(entropy, ~everywhere(entropy), 0.2)
    assert split.threshold == math.inf
    assert not split.reliable.any() and not split.unreliable.any()


def test_the_threshold_is_not_rounded_onto_a_pixel() -> None:
    """Between two neighbours of float32 no third one fits; rounded, the threshold would be the lower one."""
    low = np.float32(1)
    high = np.nextafter(low, np.float32(2))
    entropy = torch.tensor([[[low, high]]])
    split = partition(entropy, everywhere(entropy), 0.6)  # 40 % of the way
    assert split.reliable.tolist() == [[[True, False]]]
    assert float(low) < split.threshold.item() < float(high)


# Against numpy and the formula ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "n", "unreliable"),
    [(0.2, 11, 3), (0.2, 6, 2), (0.1, 21, 3), (0.5, 5, 3), (0.01, 101, 2), (1.0, 8, 8), (0.0, 8, 1)],
)
def test_whole_positions_count_their_own_pixel_as_unreliable(alpha: float, n: int, unreliable: int) -> None:
    """alpha (n - 1) + 1 of n different entropies."""
    entropy = torch.randperm(n).float().view(1, 1, n)
    assert partition(entropy, everywhere(entropy), alpha).unreliable.sum() == unreliable


@settings(deadline=None)
@given(n=st.integers(2, 80), thousandths=st.integers(0, 1000), seed=st.integers(0, 99))
def test_other_positions_are_rounded_up(n: int, thousandths: int, seed: int) -> None:
    """ceil(alpha (n - 1)) of n different entropies."""
    exact = Fraction(thousandths, 1000) * (n - 1)
    expected = math.ceil(exact)
    entropy = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).float().view(1, 1, n)
    found = partition(entropy, everywhere(entropy), thousandths / 1000).unreliable.sum().item()
    # A whole position counts one more; where its float is not whole, numpy's rounding decides.
    assert found in ({expected} if exact != expected else {expected, expected + 1})


@pytest.mark.parametrize(("alpha", "n"), [(0.016, 126), (0.072, 126), (0.32, 126), (0.7, 11), (0.9, 11)])
def test_positions_are_rounded_as_numpy_rounds_them(alpha: float, n: int) -> None:
    """At 0.016 of 126, (1 - alpha) (n - 1) is 123.0, and numpy's 100 (1 - alpha) / 100 (n - 1) lies above."""
    values = np.arange(n, dtype=np.float32)
    entropy = torch.from_numpy(values).view(1, 1, n)
    split = partition(entropy, everywhere(entropy), alpha)
    threshold = np.percentile(values.astype(np.float64), 100 * (1 - alpha))
    assert split.unreliable.flatten().tolist() == (values >= threshold).tolist()


@settings(max_examples=300, deadline=None)
@given(
    pixels=st.lists(st.tuples(st.one_of(tied, entropies), st.booleans()), min_size=1, max_size=60),
    alpha=alphas,
)
def test_the_split_is_numpys(pixels: list[tuple[float, bool]], alpha: float) -> None:
    """With ties, one pixel, equal pixels and none, at any share; each valid pixel is of one kind."""
    values = np.array([value for value, _ in pixels], dtype=np.float32)
    valid = np.array([kept for _, kept in pixels])
    entropy, mask = torch.from_numpy(values).view(1, 1, -1), torch.from_numpy(valid).view(1, 1, -1)
    split = partition(entropy, mask, alpha)
    if valid.any():
        threshold = np.percentile(values[valid].astype(np.float64), 100 * (1 - alpha))
        assert split.threshold.item() == pytest.approx(threshold, rel=1e-12, abs=1e-300)
        assert split.reliable.flatten().numpy().tolist() == ((values < threshold) & valid).tolist()
        assert split.unreliable.flatten().numpy().tolist() == ((values >= threshold) & valid).tolist()
    assert not (split.reliable & split.unreliable).any()
    assert split.reliable.sum() + split.unreliable.sum() == valid.sum()


@pytest.mark.slow
@settings(deadline=None)
@given(values=st.lists(entropies, min_size=1, max_size=40), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_percentile_knows_no_order_and_no_shape(values: list[float], share: float, seed: int) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    shuffled = tensor[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))].view(-1, 1)
    expected = percentile(tensor, everywhere(tensor), share)
    assert torch.equal(percentile(shuffled, everywhere(shuffled), share), expected)
    assert min(tensor) <= expected <= max(tensor)
