"""Statistics against numbers worked out by hand, plain loops over the same draws, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare, wilcoxon

from bench.errors import DataError
from bench.randomness import numpy_for
from reports.statistics import (
    ImageSums,
    Summary,
    average_ranks,
    bootstrap,
    friedman,
    holm,
    image_sums,
    paired_difference,
    pooled_miou,
    ranks,
    resamples,
    signed_rank,
    summarise,
)


def test_mean_and_sample_spread() -> None:
    # Deviations -2, 0, 2: squares sum to 8; 8 / (3 - 1) = 4; root 2. With ddof=0 it would be 1.63.
    assert summarise([2.0, 4.0, 6.0]) == Summary(mean=4.0, spread=2.0, n=3)


def test_two_values() -> None:
    found = summarise(iter([0.40, 0.50]))
    assert found.mean == pytest.approx(0.45)
    assert found.spread == pytest.approx(0.1 / math.sqrt(2))


def test_one_value_has_no_spread_and_no_interval() -> None:
    assert summarise([0.3]) == Summary(mean=0.3, spread=None, n=1)
    assert summarise([0.3]).interval is None


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no values"):
        summarise([])


def test_interval_of_one_two_three() -> None:
    # Spread 1, standard error 1 / root 3 = 0.57735; the table of t has 4.30265 for 2 degrees of freedom.
    found = summarise([1.0, 2.0, 3.0]).interval
    assert found == pytest.approx((2 - 4.30265 * 0.57735, 2 + 4.30265 * 0.57735), abs=1e-4)
    # 1 degree of freedom: 12.7062; spread root 2 / 2 * 2 = 1.41421, standard error 1.
    assert summarise([1.0, 3.0]).interval == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-3)


def test_paired_differences_are_taken_seed_by_seed() -> None:
    # 0.1, 0.2, 0.3 over seeds 0, 1, 2; seed 7 has no partner. Unpaired, the spread would be near 1.
    found = paired_difference({0: 1.1, 1: 2.2, 2: 3.3, 7: 9.0}, {2: 3.0, 1: 2.0, 0: 1.0})
    assert found is not None and found.n == 3
    assert (found.mean, found.spread) == (pytest.approx(0.2), pytest.approx(0.1))
    assert found.interval == pytest.approx((0.2 - 0.248414, 0.2 + 0.248414), abs=1e-5)


def test_without_a_common_seed_there_is_no_difference() -> None:
    assert paired_difference({0: 0.4}, {1: 0.3}) is None
    found = paired_difference({0: 0.4, 1: 0.6}, {1: 0.7})
    assert found is not None and found.mean == pytest.approx(-0.1) and (found.spread, found.n) == (None, 1)


# Over images


def scene(seed: int, images: int = 12, classes: int = 4) -> ImageSums:
    """Counts with a class (the last) that is in few images, so that some draws do not have it."""
    rng = numpy_for(seed, "test counts")
    counts = rng.integers(0, 50, (images, classes, classes))
    counts[2:, -1] = counts[2:, :, -1] = 0
    return image_sums([f"image {i:03d}" for i in range(images)], counts)


def plain_miou(counts: np.ndarray) -> float:
    """mIoU of pooled C C counts, in a plain loop."""
    found = []
    for c in range(len(counts)):
        union = counts[c].sum() + counts[:, c].sum() - counts[c, c]
        if union:
            found.append(counts[c, c] / union)
    return sum(found) / len(found)


def test_sums_are_hit_predicted_and_true() -> None:
    # Truth in rows: 3 pixels of class 0 (1 hit, 2 taken for class 1), 4 of class 1 (all hit).
    sums = image_sums(["b", "a"], np.array([[[1, 2], [0, 4]], [[5, 0], [0, 0]]]))
    assert sums.ids == ("a", "b")
    assert sums.sums[:, 1].tolist() == [[1, 4], [1, 6], [3, 4]]
    # Pooled: class 0 hit 6, union 6 + 8 - 6 = 8; class 1 hit 4, union 6 + 4 - 4 = 6. The mean over images of
    # their own mIoU would be (1 + (1/3 + 4/6) / 2) / 2.
    assert pooled_miou(sums.sums, np.ones((1, 2))) == pytest.approx([(6 / 8 + 4 / 6) / 2])
    # Image a alone: class 1 is neither in truth nor prediction, and is not averaged in as 0.
    assert pooled_miou(sums.sums, np.array([[2.0, 0.0]])) == pytest.approx([1.0])


def test_a_class_that_no_drawn_mask_holds_is_averaged_for_nobody() -> None:
    # Image a holds class 0 alone: one method predicts class 1 on a pixel of it, the other does not.
    trap = image_sums(["a", "b"], np.array([[[3, 1], [0, 0]], [[2, 0], [0, 2]]]))
    plain = image_sums(["a", "b"], np.array([[[4, 0], [0, 0]], [[2, 0], [0, 2]]]))
    draws = np.array([[2.0, 0.0], [1.0, 1.0]])
    assert pooled_miou(trap.sums, draws) == pytest.approx([3 / 4, (5 / 6 + 2 / 3) / 2])
    assert pooled_miou(plain.sums, draws) == pytest.approx([1.0, 1.0])


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="N C C"):
        image_sums(["a"], np.zeros((2, 3, 3)))
    with pytest.raises(ValueError, match="N C C"):
        image_sums(["a"], np.zeros((1, 3, 4)))


def test_draws_are_with_replacement_and_always_the_same() -> None:
    found = resamples(30, 50)
    assert found.shape == (50, 30) and (found.sum(1) == 30).all() and found.max() > 1
    assert (found == resamples(30, 50)).all()
    drawn = numpy_for(0, "bootstrap over images", 30).integers(0, 30, (50, 30))
    assert found[7].tolist() == [(drawn[7] == image).sum() for image in range(30)]


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_bootstrap_is_a_plain_loop_over_the_same_draws(seeds: int) -> None:
    images, classes, draws = 12, 4, 40
    rng = numpy_for(1, "test counts")
    counts = rng.integers(0, 50, (2, seeds, images, classes, classes))
    counts[:, :, 2:, -1] = counts[:, :, 2:, :, -1] = 0
    ids = [f"{i:02d}" for i in range(images)]
    ours, theirs = ([image_sums(ids, one) for one in method] for method in counts)
    found = bootstrap(list(zip(ours, theirs, strict=True)), resamples(images, draws))

    def difference(chosen: np.ndarray) -> float:
        each = [
            plain_miou(counts[0, s][chosen].sum(0)) - plain_miou(counts[1, s][chosen].sum(0))
            for s in range(seeds)
        ]
        return sum(each) / seeds

    drawn = numpy_for(0, "bootstrap over images", images).integers(0, images, (draws, images))
    expected = np.array([difference(chosen) for chosen in drawn])
    assert found.difference == pytest.approx(difference(np.arange(images)), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(np.percentile(expected, [2.5, 97.5]), abs=1e-12)
    across = expected <= 0 if found.difference > 0 else expected >= 0
    assert 0 < across.mean() < 1, "a trivial example"
    assert found.other_side == across.mean()
    assert (found.images, found.seeds) == (images, seeds)


def test_other_images_are_refused_by_name() -> None:
    one, other = scene(0), scene(1)
    renamed = ImageSums((*other.ids[:-1], "stranger"), other.sums)
    with pytest.raises(DataError, match=r"image 011, stranger"):
        bootstrap([(one, renamed)])
    with pytest.raises(DataError, match="stranger"):
        bootstrap([(one, other), (one, renamed)])
    with pytest.raises(ValueError, match="no pair"):
        bootstrap([])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.permutations(range(12)))
def test_the_order_of_the_images_changes_nothing_but_the_draw(seed: int, order: list[int]) -> None:
    rng = numpy_for(seed, "test counts")
    counts = rng.integers(0, 9, (2, 12, 3, 3))
    ids = [f"{i:02d}" for i in range(12)]
    pair = [image_sums(ids, one) for one in counts]
    shuffled = [image_sums([ids[i] for i in order], one[order]) for one in counts]
    assert bootstrap([(pair[0], pair[1])]) == bootstrap([(shuffled[0], shuffled[1])])
    weights = resamples(12, 20)
    assert pooled_miou(pair[0].sums, weights) == pytest.approx(
        pooled_miou(pair[0].sums[:, order], weights[:, order]), abs=0
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_identical_methods_differ_by_nothing_and_exchanged_ones_by_the_sign(seed: int) -> None:
    one, other = scene(seed), scene(seed + 1)
    same = bootstrap([(one, one)])
    assert (same.difference, same.low, same.high, same.other_side) == (0, 0, 0, 1)
    there, back = bootstrap([(one, other)]), bootstrap([(other, one)])
    assert (there.difference, there.other_side) == (-back.difference, back.other_side)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)


# Ranks and corrections


def test_ties_share_ranks() -> None:
    assert ranks([0.5, 0.7, 0.5, 0.1]).tolist() == [2.5, 1, 2.5, 4]
    # Cell 1: a 1, b and c 2.5; cell 2: c 1, b 2, a 3.
    assert average_ranks({"a": [0.9, 0.1], "b": [0.5, 0.2], "c": [0.5, 0.3]}) == {
        "a": 2,
        "b": 2.25,
        "c": 1.75,
    }
    with pytest.raises(ValueError, match="same cells"):
        average_ranks({"a": [0.9], "b": [0.5, 0.2]})


def test_holm_by_hand() -> None:
    # 0.01 x 3 = 0.03; 0.03 x 2 = 0.06; 0.04 x 1 = 0.04, raised to the 0.06 before it.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_signed_rank_by_hand_and_against_scipy() -> None:
    assert signed_rank([1.0] * 5) is None, "five seeds cannot reach 0.05"
    # All six positive: 1 of 2^6 signs, on two sides.
    assert signed_rank([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == 2 / 64
    # Only the smallest is negative: rank sums 0 and 1 are as extreme, 2 of 64 on each side.
    assert signed_rank([-0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == 4 / 64
    # Equal magnitudes share ranks: still one assignment of signs in 2^6 on each side.
    assert signed_rank([0.5] * 6) == 2 / 64
    assert signed_rank([0.0] * 6) == 1.0
    rng = numpy_for(0, "test differences")
    for n in (6, 9, 14):
        values = rng.normal(0.3, 1, n)
        assert signed_rank(values.tolist()) == pytest.approx(wilcoxon(values, method="exact").pvalue)


def test_friedman_needs_six_seeds_and_three_methods() -> None:
    rng = numpy_for(0, "test scores")
    scores = {name: rng.normal(0, 1, 6).tolist() for name in "abc"}
    assert friedman(scores) == pytest.approx(friedmanchisquare(*scores.values()).pvalue)
    assert friedman({name: values[:5] for name, values in scores.items()}) is None
    assert friedman({"a": scores["a"], "b": scores["b"]}) is None
    assert friedman({name: [0.5] * 6 for name in "abc"}) == 1.0


def test_equal_runs_have_no_sign_to_keep() -> None:
    sums = image_sums(["a", "b"], np.array([[[3, 1], [2, 4]], [[5, 0], [1, 2]]]))
    found = bootstrap([(sums, sums)])
    assert (found.difference, found.low, found.high, found.other_side) == (0, 0, 0, 1)
