"""Statistics over draws and seeds. Pure functions of numbers; nothing here reads a file.

A draw is a choice of which images are labeled, a seed one of weights, order and crops. Seeds lie within
draws: an interval is over the means of the draws where there are several, and else over the seeds of the one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import nctdtrinc, stdtr, stdtrit

from bench.randomness import numpy_for

Key = tuple[int, int]  # draw and seed: runs of two methods that share both are paired
K = TypeVar("K", bound=Key)
Cell = Mapping[Key, float]  # the runs of a method in one cell
Values = NDArray[np.float64]

LEVEL = 0.95  # of an interval, or of all intervals of a family at once
POWER = 0.8
EQUAL = 0.01  # methods whose mIoU (0..1) differs by no more are taken for equal
MOST_RUNS = 1000  # beyond which nobody asks how many are needed
RESAMPLES = 1000
FEWEST_RESAMPLED = 10  # runs of a bootstrap: with nine, simulated intervals of 95 % held in 74 to 87 %
TRIMMED = 0.25  # of the runs, at each end of an interquartile mean


@dataclass(frozen=True)
class Summary:
    """Mean of n runs, how they vary, and how sure the mean is."""

    mean: float  # of the means of the draws
    # Sample standard deviation over the seeds of a draw; where no draw has two runs, over all of them.
    spread: float | None
    n: int
    draws: int = 1
    between: float | None = None  # standard deviation over draws, the part of the seeds taken off
    # Standard error of the mean; None for one run, and for a difference of runs that are equal to the bit.
    error: float | None = None
    even: bool = True  # each draw has as many runs as the others

    @property
    def units(self) -> int:
        """How many independent values the mean is of: draws, or the seeds of the one draw."""
        return self.draws if self.draws > 1 else self.n

    @property
    def interval(self) -> tuple[float, float] | None:
        """Two-sided 95 % interval of the mean by Student's t; None without a standard error."""
        return self.interval_of(1)

    def interval_of(self, family: int) -> tuple[float, float] | None:
        """Return the interval that holds together with those of a family in 95 % of all tables (Bonferroni).

        It takes `units` values for independent ones of a normal distribution; their variance is their own and
        is not pooled with that of other methods, which differs by a factor of a hundred and more.
        """
        if self.error is None:
            return None
        half = _quantile(self.units, family) * self.error
        return self.mean - half, self.mean + half


def summarise(values: Mapping[Key, float] | Iterable[float]) -> Summary:
    """Mean and variation of at least one value, by draw and seed; without keys all are seeds of one draw."""
    if not isinstance(values, Mapping):
        values = {(0, seed): value for seed, value in enumerate(values)}
    if not values:
        raise ValueError("no values to summarise")
    by_draw = defaultdict(list)
    for (draw, _), value in values.items():
        by_draw[draw].append(value)
    sizes = np.array([len(of) for of in by_draw.values()])
    means = np.array([np.mean(of) for of in by_draw.values()], np.float64)
    n, draws, mean = int(sizes.sum()), len(means), float(means.mean())
    if n == 1:
        return Summary(mean, None, n)
    over_draws = float(means.std(ddof=1)) if draws > 1 else 0.0
    if n == draws:
        return Summary(mean, over_draws, n, draws, None, over_draws / sqrt(draws))
    squares = sum(float(np.var(of)) * len(of) for of in by_draw.values())
    spread = sqrt(squares / (n - draws))
    if draws == 1:
        return Summary(mean, spread, n, error=spread / sqrt(n))
    between = sqrt(max(0.0, over_draws**2 - spread**2 * float((1 / sizes).mean())))
    even = bool((sizes == sizes[0]).all())
    return Summary(mean, spread, n, draws, between, over_draws / sqrt(draws), even)


def matched(ours: Mapping[Key, float], theirs: Mapping[Key, float]) -> tuple[Cell, Cell]:
    """Return the values of the draws and seeds that both have, in one order."""
    common = sorted(ours.keys() & theirs.keys())
    return {key: ours[key] for key in common}, {key: theirs[key] for key in common}


def paired_difference(ours: Mapping[Key, float], theirs: Mapping[Key, float]) -> Summary | None:
    """Ours minus theirs over the draws and seeds of both; None where nothing is common."""
    ours, theirs = matched(ours, theirs)
    return _difference({key: value - theirs[key] for key, value in ours.items()}) if ours else None


def equal_to_the_bit(difference: Summary) -> bool:
    """Say whether all runs of both sides are equal: that is no comparison, whatever their number."""
    return not (difference.mean or difference.spread or difference.error)


def _difference(pairs: Cell) -> Summary:
    found = summarise(pairs)
    return replace(found, error=None) if equal_to_the_bit(found) else found


def halves(runs: Mapping[Key, float]) -> Summary | None:
    """A/A: the later half of the seeds of each draw minus the earlier half, in their order.

    Of ten seeds 5 to 9 minus 0 to 4; the middle one of an odd number is left out. None below two pairs.
    """
    pairs = {}
    for draw in {draw for draw, _ in runs}:
        seeds = sorted(seed for of, seed in runs if of == draw)
        half = len(seeds) // 2
        for early, late in zip(seeds[:half], seeds[len(seeds) - half :], strict=True):
            pairs[draw, early] = runs[draw, late] - runs[draw, early]
    return _difference(pairs) if len(pairs) > 1 else None


# Of a difference --------------------------------------------------------------------------------------------


def _quantile(units: int, family: int) -> float:
    return float(stdtrit(units - 1, 1 - (1 - LEVEL) / 2 / family))


def chances(difference: Summary) -> tuple[float, float, float] | None:
    """How likely ours is better, equal (within `EQUAL`) and worse: they add up to one. None
    without a standard error.

    The Bayesian correlated t-test (Benavoli et al. 2017) with correlation 0, since every run trains anew and
    shares no fold with another: the mean difference has a t distribution with `units` - 1 degrees of freedom,
    at the observed mean and scaled by its standard error.
    """
    if difference.error is None:
        return None
    if not difference.error:  # the same difference in every run
        better, worse = float(difference.mean > EQUAL), float(difference.mean < -EQUAL)
        return better, 1 - better - worse, worse
    ends = [(end - difference.mean) / difference.error for end in (-EQUAL, EQUAL)]
    worse, up_to_equal = (float(stdtr(difference.units - 1, end)) for end in ends)
    return 1 - up_to_equal, up_to_equal - worse, worse


def smallest_found(difference: Summary, family: int) -> float | None:
    """Return the true difference whose interval leaves out zero in four of five tables of this size.

    By the noncentral t distribution, with the standard error of this one. None without it.
    """
    if difference.error is None:
        return None
    return difference.error * _shift(difference.units, family)


def units_needed(difference: Summary, effect: float, family: int) -> int | None:
    """How many draws (of one draw: seeds) find an effect in four of five tables, at the spread of these.

    None where more than a thousand do not, and without a standard error.
    """
    if difference.error is None or not effect:
        return None
    spread = difference.error * sqrt(difference.units)
    sizes = range(2, MOST_RUNS + 1)
    return next((n for n in sizes if spread / sqrt(n) * _shift(n, family) <= abs(effect)), None)


def _shift(units: int, family: int) -> float:
    """Noncentrality, in standard errors, at which |t| is beyond its bound with probability `POWER`."""
    return float(nctdtrinc(units - 1, 1 - POWER, _quantile(units, family)))


# Over cells, as rliable has it (Agarwal et al. 2021) --------------------------------------------------------


@dataclass(frozen=True)
class Overall:
    """A method over several cells, and against a reference in the same cells. Ends are of 95 % intervals."""

    iqm: float  # interquartile mean of all runs
    iqm_ends: tuple[float, float] | None  # None below ten runs, and where a cell has one
    reference: float  # interquartile mean of the reference
    improvement: float  # probability that a run is better than one of the reference in its cell
    improvement_ends: tuple[float, float] | None


def overall(cells: Sequence[tuple[Cell, Cell]]) -> Overall:
    """Ours and the reference's runs of at least one cell, cell by cell, as `matched` gives them.

    The intervals resample the draws of each cell (the seeds, where there is one draw), the same ones of both
    sides, and add up the cells: a stratified bootstrap. It takes n - 1 of n with replacement (Rao and Wu
    1988): n of n would be too narrow by the root of (n - 1) / n.
    """
    once = [np.ones((1, len(ours))) for ours, _ in cells]
    iqm, reference, improvement = (float(figure[0]) for figure in _figures(cells, once))
    sizes = [len(ours) for ours, _ in cells]
    if sum(sizes) < FEWEST_RESAMPLED or min(sizes) < 2:
        return Overall(iqm, None, reference, improvement, None)
    of_iqm, _, of_improvement = _figures(cells, [_resampled(ours, n) for n, (ours, _) in enumerate(cells)])
    return Overall(iqm, _ends(of_iqm), reference, improvement, _ends(of_improvement))


def _resampled(runs: Cell, place: int) -> Values:
    """How much each of several runs counts in each resample of their cell, R n."""
    draws = [draw for draw, _ in runs]
    units = draws if len(set(draws)) > 1 else list(range(len(draws)))
    _, unit = np.unique(units, return_inverse=True)
    size = int(unit.max()) + 1
    rng = numpy_for(0, "bootstrap over runs", place)
    taken = rng.multinomial(size - 1, np.full(size, 1 / size), RESAMPLES)
    return (taken[:, unit] * (size / (size - 1))).astype(np.float64)


def _figures(cells: Sequence[tuple[Cell, Cell]], weights: Sequence[Values]) -> tuple[Values, Values, Values]:
    """Interquartile mean of ours and of theirs, and the probability of improvement: the mean over the cells
    of the share of pairs in which ours is better; ties count half. R each.

    Args:
        weights: R n for each cell, how much each run counts.
    """
    sides = [[np.array(list(pair[side].values())) for pair in cells] for side in (0, 1)]
    means = [_iqm(np.concatenate(values), np.concatenate(weights, axis=1)) for values in sides]
    found = []
    for ours, theirs, weight in zip(*sides, weights, strict=True):
        better = (ours[:, None] > theirs) + (ours[:, None] == theirs) / 2
        found.append(np.einsum("ri,ij,rj->r", weight, better, weight) / weight.sum(1) ** 2)
    return means[0], means[1], np.mean(found, axis=0)


def _iqm(values: Values, weights: Values) -> Values:
    """Mean of the runs between the quarters at both ends, for each row of weights R n, trimmed as
    `scipy.stats.trim_mean` does."""
    order = np.argsort(values)
    weight = weights[:, order]
    end = weight.cumsum(1)
    whole = end[:, -1:]
    trimmed = np.floor(TRIMMED * whole + 1e-9)
    kept = np.clip(np.minimum(end, whole - trimmed) - np.maximum(end - weight, trimmed), 0, None)
    return kept @ values[order] / kept.sum(1)


def _ends(drawn: Values) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
