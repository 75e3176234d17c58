"""Statistics against numbers worked out by hand, simulations of what they promise, and properties."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, mannwhitneyu, trim_mean

from bench.randomness import numpy_for
from reports.statistics import (
    Summary,
    _resampled,
    chances,
    equal_to_the_bit,
    halves,
    overall,
    paired_difference,
    smallest_found,
    summarise,
    units_needed,
)


def of_one_draw(*values: float) -> dict[tuple[int, int], float]:
    return {(0, seed): value for seed, value in enumerate(values)}


def within(found: int, of: int, share: float) -> bool:
    """Whether a count lies where 99.9 % of counts of that share do."""
    low, high = binom.interval(0.999, of, share)
    return bool(low <= found <= high)


# Cells


def test_mean_and_sample_spread() -> None:
    # Deviations -2, 0, 2: squares sum to 8; 8 / (3 - 1) = 4; root 2. With ddof=0 it would be 1.63.
    found = summarise([2.0, 4.0, 6.0])
    assert (found.mean, found.spread, found.n, found.draws, found.between) == (4, 2, 3, 1, None)
    assert found.error == pytest.approx(2 / math.sqrt(3)) and found.units == 3


def test_two_values() -> None:
    found = summarise(iter([0.40, 0.50]))
    assert found.mean == pytest.approx(0.45)
    assert found.spread == pytest.approx(0.1 / math.sqrt(2))


def test_one_value_has_no_spread_and_no_interval() -> None:
    one = summarise([0.3])
    assert one == Summary(mean=0.3, spread=None, n=1) and one.interval is None
    assert chances(one) is None and smallest_found(one, 1) is None and units_needed(one, 0.1, 1) is None


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no values"):
        summarise([])


def test_interval_of_one_two_three() -> None:
    # Spread 1, standard error 1 / root 3 = 0.57735; the table of t has 4.30265 for 2 degrees of freedom.
    found = summarise([1.0, 2.0, 3.0])
    assert found.interval == pytest.approx((2 - 4.30265 * 0.57735, 2 + 4.30265 * 0.57735), abs=1e-4)
    # Of seven at once 1 - 0.05 / 14 = 0.99643; with 2 degrees of freedom t = (2p - 1) / root(2p(1 - p)).
    t = (2 * (1 - 0.05 / 14) - 1) / math.sqrt(2 * (1 - 0.05 / 14) * 0.05 / 14)
    assert t == pytest.approx(11.769, abs=1e-3)
    assert found.interval_of(7) == pytest.approx((2 - t * 0.57735, 2 + t * 0.57735), abs=1e-4)
    # 1 degree of freedom: 12.7062; spread root 2 / 2 * 2 = 1.41421, standard error 1.
    assert summarise([1.0, 3.0]).interval == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-3)


def test_seeds_lie_within_draws() -> None:
    # Draw 0: 40 and 44, draw 3: 50 and 54. Means 42 and 52: mean 47, their spread root 50, error root 50 /
    # root 2 = 5, one degree of freedom. Within a draw squares are 8 and 8: spread root 8. Of the 50 between
    # the means 8 / 2 are the seeds': root 46 is left to the draws.
    found = summarise({(0, 0): 40.0, (0, 1): 44.0, (3, 0): 50.0, (3, 1): 54.0})
    assert (found.mean, found.n, found.draws, found.units) == (47, 4, 2, 2)
    assert (found.spread, found.between) == (pytest.approx(math.sqrt(8)), pytest.approx(math.sqrt(46)))
    assert found.error == pytest.approx(5) and found.interval == pytest.approx(
        (47 - 63.531, 47 + 63.531), abs=1e-3
    )


def test_draws_count_alike_however_many_seeds_they_have() -> None:
    # Means 42 and 50, mean 46 and not 44.7. Spread of means root 32; of the seeds root 8, once halved, once
    # whole: 32 - 8 x 3/4 = 26.
    found = summarise({(0, 0): 40.0, (0, 1): 44.0, (1, 7): 50.0})
    assert (found.mean, found.n, found.draws) == (46, 3, 2)
    assert (found.spread, found.between) == (pytest.approx(math.sqrt(8)), pytest.approx(math.sqrt(26)))
    assert found.error == pytest.approx(4)


def test_one_seed_a_draw_does_not_tell_the_two_apart() -> None:
    found = summarise({(0, 0): 40.0, (1, 0): 44.0})
    assert (found.spread, found.between) == (pytest.approx(math.sqrt(8)), None)
    assert found.interval == summarise([40.0, 44.0]).interval


def test_draws_that_differ_less_than_their_seeds_have_no_spread_of_their_own() -> None:
    assert summarise({(0, 0): 40.0, (0, 1): 44.0, (1, 0): 41.0, (1, 1): 43.0}).between == 0


@pytest.mark.parametrize("of_draws", [0.0, 2.0])
def test_nested_intervals_hold_as_often_as_they_say(of_draws: float) -> None:
    rng, tables, held, naive, variances = numpy_for(0, "test nested"), 2000, 0, 0, []
    for _ in range(tables):
        draws = of_draws * rng.normal(size=4)
        values = {(d, s): draws[d] + rng.normal() for d in range(4) for s in range(3)}
        found = summarise(values)
        assert found.interval and found.spread is not None and found.between is not None
        held += found.interval[0] <= 0 <= found.interval[1]
        ends = summarise(list(values.values())).interval
        naive += ends is not None and ends[0] <= 0 <= ends[1]
        variances.append((found.spread**2, found.between**2))
    assert within(held, tables, 0.95)
    seeds, between = np.mean(variances, axis=0)
    assert seeds == pytest.approx(1, abs=0.05)
    if of_draws:
        assert between == pytest.approx(of_draws**2, rel=0.1)
        assert naive < 0.75 * tables, "runs of one draw are no independent ones"


def test_paired_differences_are_taken_run_by_run() -> None:
    # 0.1, 0.2, 0.3 over seeds 0, 1, 2; seed 7 has no partner. Unpaired, the spread would be near 1.
    found = paired_difference(
        {(0, 0): 1.1, (0, 1): 2.2, (0, 2): 3.3, (0, 7): 9.0, (1, 0): 9.0},
        {(0, 2): 3.0, (0, 1): 2.0, (0, 0): 1.0, (2, 0): 1.0},
    )
    assert found is not None and found.n == 3
    assert (found.mean, found.spread) == (pytest.approx(0.2), pytest.approx(0.1))
    assert found.interval == pytest.approx((0.2 - 0.248414, 0.2 + 0.248414), abs=1e-5)


def test_what_draws_have_in_common_leaves_a_difference() -> None:
    ours = {(d, s): 0.4 + 0.1 * d + 0.01 * s + 0.02 for d in range(3) for s in range(2)}
    theirs = {(d, s): 0.4 + 0.1 * d + 0.01 * s for d in range(3) for s in range(2)}
    found = paired_difference(ours, theirs)
    assert (
        found is not None and found.mean == pytest.approx(0.02) and found.error == pytest.approx(0, abs=1e-12)
    )


def test_without_a_common_run_there_is_no_difference() -> None:
    assert paired_difference(of_one_draw(0.4), {(1, 0): 0.3}) is None
    found = paired_difference(of_one_draw(0.4, 0.6), {(0, 1): 0.7})
    assert found is not None and found.mean == pytest.approx(-0.1) and (found.spread, found.n) == (None, 1)


def test_ten_seeds_are_halved_and_the_middle_of_an_odd_number_is_left_out() -> None:
    # 5 to 9 minus 0 to 4, each: 5 x 1, 0 spread.
    assert halves(of_one_draw(*range(10))) == summarise([5.0] * 5)
    # 0 1 (2) 3 4: 3 and 3. Seeds in their order, whatever their names.
    assert halves({(0, seed): float(seed) for seed in (40, 10, 0, 30, 20)}) == summarise([30.0, 30.0])
    assert halves(of_one_draw(1, 2, 3)) is None, "one a side"
    assert halves({}) is None


def test_halves_stay_within_their_draw() -> None:
    runs = {(d, s): 10.0 * d + s for d in range(3) for s in range(3)}
    found = halves(runs)
    assert found is not None and (found.mean, found.n, found.draws, found.error) == (2, 3, 3, 0)


# Differences


def test_chances_by_hand() -> None:
    # 2 points, error 1 point, 2 degrees of freedom, where F(t) = 1/2 + t / (2 root(2 + t^2)). Better by more
    # than 1 point: 1 - F(-1) = 0.7887; worse: F(-3) = 0.0477.
    found = chances(Summary(0.02, 0.01 * math.sqrt(3), 3, error=0.01))
    assert found == pytest.approx(
        (0.5 + 1 / (2 * math.sqrt(3)), 1 - 0.788675 - 0.047733, 0.5 - 3 / (2 * math.sqrt(11))), abs=1e-5
    )


def test_runs_without_spread_leave_no_doubt() -> None:
    assert chances(summarise([0.0, 0.0])) == (0, 1, 0)
    assert chances(summarise([0.5, 0.5])) == (1, 0, 0) and chances(summarise([-0.5, -0.5])) == (0, 0, 1)
    assert smallest_found(summarise([0.0, 0.0]), 3) == 0


def test_only_runs_that_are_all_equal_are_so_to_the_bit() -> None:
    runs = {(d, s): 0.1 * d + 0.01 * s for d in range(2) for s in range(2)}
    same, once = paired_difference(runs, runs), paired_difference(of_one_draw(0.4), of_one_draw(0.4))
    assert same and once and equal_to_the_bit(same) and equal_to_the_bit(once)
    assert same.interval is None and chances(same) is None and smallest_found(same, 3) is None
    again = halves(of_one_draw(0.4, 0.5, 0.4, 0.5))
    assert again and equal_to_the_bit(again) and again.interval is None
    for other in ({(0, 0): 0.1, (0, 1): -0.1}, {(1, 1): 1e-9}, {(0, 0): 1.0, (0, 1): -1.0, (1, 0): 0}):
        change = paired_difference({key: value + other.get(key, 0) for key, value in runs.items()}, runs)
        assert change and not equal_to_the_bit(change)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8))
def test_chances_add_up_and_turn_with_the_sign(values: list[float]) -> None:
    there, back = chances(summarise(values)), chances(summarise([-value for value in values]))
    assert there and back and sum(there) == pytest.approx(1) and min(there) >= -1e-12
    assert there == pytest.approx(back[::-1], abs=1e-6)


def test_chances_are_as_often_right_as_they_say() -> None:
    """Of differences that are spread evenly, and spreads whose logarithm is, as the test takes them to be."""
    rng, said, true = numpy_for(0, "test chances"), [], []
    for _ in range(6000):
        difference, spread = rng.uniform(-0.1, 0.1), math.exp(rng.uniform(math.log(0.001), math.log(0.05)))
        found = chances(summarise(rng.normal(difference, spread, 4)))
        assert found is not None
        said.append(found)
        true.append((difference > 0.01, abs(difference) <= 0.01, difference < -0.01))
    chance, truth = np.array(said), np.array(true)
    for low, high in ((0, 0.2), (0.2, 0.6), (0.6, 1)):
        for which in range(3):
            here = (chance[:, which] >= low) & (chance[:, which] < high)
            assert truth[here, which].mean() == pytest.approx(chance[here, which].mean(), abs=0.06)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_what_it_says_to_find_it_finds_in_four_of_five_tables(n: int) -> None:
    exact = Summary(0, 1, n, error=1 / math.sqrt(n))  # the spread as it truly is
    effect = smallest_found(exact, 7)
    assert effect is not None
    rng, tables = numpy_for(0, "test power"), 3000
    found = 0
    for values in rng.normal(effect, 1, (tables, n)):
        ends = summarise(values).interval_of(7)
        found += ends is not None and ends[0] > 0
    assert within(found, tables, 0.8)


def test_how_many_runs_are_needed_is_the_least_number_that_does() -> None:
    change = summarise([0.01, 0.03, 0.05])  # spread 0.02
    needed = units_needed(change, 0.01, 7)
    assert needed is not None
    for n, enough in ((needed, True), (needed - 1, False)):
        smallest = smallest_found(Summary(0.0, 0.02, n, error=0.02 / math.sqrt(n)), 7)
        assert smallest is not None and (smallest <= 0.01) is enough
    # Normal theory: ((2.69 + 0.84) x 2)^2 = 50, and a few more for t.
    assert 50 < needed < 58
    assert units_needed(change, -0.01, 7) == needed
    assert units_needed(change, 1e-5, 7) is None and units_needed(change, 0.0, 7) is None


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("unlike", [1.0, 8.0])
def test_a_table_of_equal_methods_shows_a_difference_in_one_of_twenty(n: int, unlike: float) -> None:
    """Whether all vary alike, or one varies eight times as much: no method's variance is lent to another."""
    rng, tables, shown = numpy_for(0, "test family"), 1500, 0
    for values in rng.normal(size=(tables, 8, n)):
        values[-1] *= unlike
        ends = [summarise(method - values[0]).interval_of(7) for method in values[1:]]
        shown += any(end is not None and not end[0] <= 0 <= end[1] for end in ends)
    # Seven share the reference: a little below 5 %.
    assert shown <= binom.ppf(0.999, tables, 0.05) and shown >= binom.ppf(0.001, tables, 0.03)


# Over cells


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_interquartile_mean_is_scipy_s(cells: list[list[float]]) -> None:
    found = overall([(of_one_draw(*of), of_one_draw(*(value**2 for value in of))) for of in cells])
    values = np.array([value for of in cells for value in of])
    assert found.iqm == pytest.approx(trim_mean(values, 0.25))
    assert found.reference == pytest.approx(trim_mean(values**2, 0.25))


def test_interquartile_mean_and_improvement_by_hand() -> None:
    # 1 2 3 | 10 20 30 90 100: eight runs, two off at each end: 3 10 20 30 -> 15.75.
    # Cell 1 against 2, 2, 2: 1 loses all, 2 is equal to all, 3 wins all: 1/2. Cell 2 against 0: 1.
    cells = [
        (of_one_draw(1, 2, 3), of_one_draw(2, 2, 2)),
        (of_one_draw(10, 20, 30, 90, 100), of_one_draw(0, 0, 0, 0, 0)),
    ]
    found = overall(cells)
    assert (found.iqm, found.improvement) == (15.75, 0.75)
    assert found.iqm_ends is None and found.improvement_ends is None, "eight runs"
    assert overall(cells * 2).iqm_ends
    assert overall([*cells, *cells, (of_one_draw(1), of_one_draw(2))]).iqm_ends is None, "a cell of one run"


def test_fewer_than_ten_runs_have_no_bootstrap() -> None:
    cell = of_one_draw(0.1, 0.2, 0.3)
    assert overall([(cell, cell)] * 3).iqm_ends is None
    found = overall([(cell, cell)] * 4)
    assert found.iqm_ends and found.iqm_ends[0] < 0.2 < found.iqm_ends[1]
    assert found.improvement == 0.5 and found == overall([(cell, cell)] * 4), (
        "the same resamples at every call"
    )


def test_improvement_is_mann_whitney_s() -> None:
    rng = numpy_for(0, "test improvement")
    ours, theirs = rng.normal(0.5, 1, 12), rng.normal(0, 1, 12)
    found = overall([(of_one_draw(*ours), of_one_draw(*theirs))])
    assert found.improvement == pytest.approx(mannwhitneyu(ours, theirs).statistic / 12 / 12)


def test_seeds_of_a_draw_are_resampled_together() -> None:
    # Draws at 0 and 1 with twenty seeds each: resampled as runs the mean would hardly move.
    cell = {(d, s): float(d) for d in range(2) for s in range(20)}
    assert overall([(cell, cell)]).iqm_ends == (0, 1)


def test_a_resampled_cell_counts_as_much_as_it_has_runs() -> None:
    for runs in (
        of_one_draw(1, 2),
        of_one_draw(1, 2, 3, 4),
        {(d, s): 0.0 for d in range(3) for s in range(2)},
    ):
        counts = _resampled(runs, 0)
        assert counts.sum(1) == pytest.approx(len(runs)) and counts.std() > 0


@pytest.mark.parametrize(("cells", "n"), [(6, 3), (3, 5), (1, 10)])
def test_the_stratified_bootstrap_holds_about_as_often_as_it_says(cells: int, n: int) -> None:
    rng, levels, tables = numpy_for(0, "test bootstrap"), np.linspace(0.3, 0.7, cells), 300
    each = rng.normal(levels[:, None], 0.01, (4000, cells, n))
    truth, held = trim_mean(each.reshape(4000, -1), 0.25, axis=1).mean(), 0
    for values in each[:tables]:
        found = overall([(of_one_draw(*of), of_one_draw(*of[::-1])) for of in values])
        assert found.iqm_ends is not None
        held += found.iqm_ends[0] <= truth <= found.iqm_ends[1]
    assert 0.88 <= held / tables <= 0.98


def test_a_better_method_is_seen_to_be_so() -> None:
    better: Any = of_one_draw(*np.linspace(0.5, 0.6, 10))
    found = overall([(better, of_one_draw(*np.linspace(0.3, 0.4, 10)))])
    assert found.improvement == 1 and found.improvement_ends == pytest.approx((1, 1))
