"""Student's bounds for the mean of paired differences over few seeds. Pure functions of numbers.

A seed is run by the code of before and by that of now; where nothing has changed, the differences lie around
zero. Of m figures that are compared at once, none is beyond its bound in 95 % of the checks where nothing has
changed (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt
from statistics import variance

FAMILY_LEVEL = 0.05  # of a false alarm anywhere in a check
POWER = 0.8
MOST_SEEDS = 1000


def quantile(share: float, df: int) -> float:
    """Of Student's t with `df` degrees of freedom; infinite without any."""
    from scipy.special import stdtrit  # here, because `--help` is quick

    return float(stdtrit(df, share)) if df > 0 else inf


def pooled(*samples: Sequence[float]) -> tuple[float, int]:
    """Return the standard deviation within the samples, and its degrees of freedom."""
    squares = sum((len(values) - 1) * variance(values) for values in samples if len(values) > 1)
    df = sum(len(values) - 1 for values in samples if values)
    return (sqrt(squares / df) if df else 0.0), df


def bound(spread: float, df: int, seeds: int, family: int) -> float:
    """How far from zero the mean of `seeds` differences may be: two-sided, for one of `family` figures.

    Args:
        spread: Standard deviation of a difference, known with `df` degrees of freedom.
    """
    return _scaled(quantile(1 - FAMILY_LEVEL / family / 2, df), spread, seeds)


def smallest_effect(spread: float, df: int, seeds: int, family: int) -> float:
    """Return the mean difference that `bound` shows in four of five checks."""
    together = quantile(1 - FAMILY_LEVEL / family / 2, df) + quantile(POWER, df)
    return _scaled(together, spread, seeds)


def seeds_needed(spread: float, effect: float, family: int, other_df: int = 0) -> int | None:
    """How many seeds show an effect; None where more than a thousand do not.

    Args:
        other_df: Degrees of freedom that the spread has beside those of these seeds.
    """
    for n in range(2, MOST_SEEDS + 1):
        if smallest_effect(spread, other_df + n - 1, n, family) <= effect:
            return n
    return None


def _scaled(quantile: float, spread: float, seeds: int) -> float:
    return quantile * spread / sqrt(seeds) if spread else 0.0
