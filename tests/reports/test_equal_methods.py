"""A/A: tables of equal methods, made of the published runs, show a difference in one of twenty."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from grouping import grouped
from scipy.stats import binom

from bench.randomness import numpy_for
from bench.records.index import read_records
from bench.records.schema import Result
from reports.groups import comparable
from reports.sheets.differences import differences

PUBLISHED = Path(__file__).resolve().parents[2] / "reports" / "published"
TABLES = 200
METHODS = 8  # the reference among them


def residuals() -> list[float]:
    """How far each published run is from the mean of its cell, scaled up to the spread of single runs. Cells
    whose runs vary much and little are together."""
    found = []
    for group in comparable(read_records(PUBLISHED)):
        for row in group.rows:
            for runs in row.runs.values():
                values = np.array([run.result.predictor.miou for run in runs.values()])
                if len(values) > 1:
                    found += list((values - values.mean()) * np.sqrt(len(values) / (len(values) - 1)))
    return found


def tables(draws: int, seeds: int) -> Iterator[list[Result]]:
    """Runs of equal methods: a residual of a published run above one mean for all. Each of several draws has
    one more, which all methods share."""
    example = next(iter(read_records(PUBLISHED).values()))
    known, rng = residuals(), numpy_for(0, "test equal methods", draws, seeds)
    for _ in range(TABLES):
        shared = rng.choice(known, draws) * (draws > 1)
        chosen = rng.choice(known, (METHODS, draws, seeds)) + shared[:, None] + 0.4
        yield [
            example.model_copy(
                update={
                    "method": "supervised" if method == 0 else f"method {method}",
                    "run_id": f"{method}-{draw}-{seed}",
                    "config": {},
                    "draw": draw,
                    "seed": seed,
                    "split_digests": example.split_digests | {"pixel": f"draw {draw}"},
                    "predictor": example.predictor.model_copy(
                        update={"miou": float(chosen[method, draw, seed])}
                    ),
                }
            )
            for method in range(METHODS)
            for draw in range(draws)
            for seed in range(seeds)
        ]


@pytest.mark.slow
@pytest.mark.parametrize(("draws", "seeds"), [(1, 3), (1, 6), (4, 2)])
def test_equal_methods_are_told_apart_in_one_table_of_twenty(draws: int, seeds: int) -> None:
    found: dict[str, int] = defaultdict(int)
    for runs in tables(draws, seeds):
        frame = differences(grouped(runs), "supervised").frame
        apart = (frame["low_percent"] > 0) | (frame["high_percent"] < 0)
        again = frame["method"] == "supervised, A/A"
        assert len(frame) == METHODS and (frame.loc[~again, "n"] == draws * seeds).all()
        found["any"] += bool(apart[~again].any())
        found["A/A"] += bool(apart[again].any())
        found["one"] += int(apart[~again].sum())
    assert found["any"] <= binom.ppf(0.975, TABLES, 0.05)
    assert found["A/A"] <= binom.ppf(0.975, TABLES, 0.05)
    # Not by intervals so wide that they show nothing: one alone in 20 x 7 would be one in 140.
    assert binom.ppf(0.025, TABLES, 0.02) <= found["any"]
