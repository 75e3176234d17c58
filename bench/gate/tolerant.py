"""Is a figure further off than another machine would put it?

A seed that both sides have gives a difference; where nothing but the machine has changed, it is of rounding
that has grown over the steps. A figure has moved where the mean of its differences is further from zero than
both
- Student's bound, see `bench.gate.statistics`: a check as a whole gives a false alarm one time in twenty. The
  spread of the differences, in shares of the figure, is pooled over all baselines that have a figure of this
  name, since few seeds know it badly; where a figure's own is larger, it counts. Single seeds have no such
  spread: then it is that of the baselines' seeds, which rounding does not exceed;
- a floor, relative to the figure: two percent of a score; of a lead, which is the difference of two, four
  percent of the mIoU; a quarter of a note. Few seeds may agree by chance, and notes on few pixels move with
  the rounding.

On one machine with one thread the same runs give the same bits, and every difference is 0: see
`bench.gate.exact`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import sqrt
from statistics import fmean

from bench.gate.baselines import Baseline, Baselines, group_of
from bench.gate.runs import NOTE, GateGroup, GateRun
from bench.gate.statistics import bound, pooled
from bench.gate.verdict import VerdictRow, is_score, moved, table

SCORE_FLOOR, LEAD_FLOOR, NOTE_FLOOR = 0.02, 0.04, 0.25  # see the module
SLACK = 1e-9  # a difference equal to the tolerance is within it, whatever the last bit says


def compare(
    baselines: Baselines, groups: Mapping[str, GateGroup], family: int | None = None
) -> list[VerdictRow]:
    """Give a row for the mIoU of every key, one for its student, and one for every other figure that moved.

    Args:
        family: How many figures are compared at once; default: those that have runs here.

    Raises DataError as `group_of`.
    """
    shared = {}
    for entry in baselines.entries:
        group = group_of(entry, groups)
        runs = group.runs if group else {}
        shared[entry.key.id] = {seed: runs[seed] for seed in entry.seeds if seed in runs}
    if family is None:
        compared = [entry for entry in baselines.entries if shared[entry.key.id]]
        family = max(1, sum(len(entry.figures) for entry in compared))
    names = {name for entry in baselines.entries for name in entry.figures}
    spreads = {
        name: _spread([(entry, shared[entry.key.id]) for entry in baselines.entries], name) for name in names
    }
    return table(baselines, groups, partial(_rows, spreads, family))


Pair = tuple[Baseline, Mapping[int, GateRun]]  # a baseline, and the runs of its seeds


def _spread(pairs: Sequence[Pair], name: str) -> tuple[float, int]:
    """Return the standard deviation of the differences of a figure, in shares of it, and its degrees of
    freedom."""
    having = [(entry, runs) for entry, runs in pairs if name in entry.figures]
    spread, df = pooled(*(_differences(entry, runs, name) for entry, runs in having))
    if df:
        return spread, df
    spread, df = pooled(*(entry.shares(name) for entry, _ in having))
    return sqrt(2) * spread, df


def _differences(entry: Baseline, runs: Mapping[int, GateRun], name: str) -> list[float]:
    """Of each seed, in shares of the figure."""
    scale = entry.scale(name)
    return [
        (run.figures[name] - entry.seeds[seed][name]) / scale
        for seed, run in runs.items()
        if name in run.figures
    ]


def _rows(
    spreads: Mapping[str, tuple[float, int]],
    family: int,
    label: str,
    entry: Baseline,
    runs: Mapping[int, GateRun],
) -> list[VerdictRow]:
    rows = []
    for name in sorted(entry.figures, key=lambda name: (not is_score(name), name)):
        baseline = fmean(entry.seeds[seed][name] for seed in runs)
        found = [run.figures[name] for run in runs.values() if name in run.figures]
        now = fmean(found) if len(found) == len(runs) else None
        spread, df = spreads[name]
        own, _ = _spread([(entry, runs)], name)
        tolerance = entry.scale(name) * max(_floor(name), bound(max(spread, own), df, len(runs), family))
        within = now is not None and abs(now - baseline) <= tolerance + SLACK
        verdict = "ok" if within else moved(name, baseline, now)
        if is_score(name) or verdict != "ok":
            rows.append(VerdictRow(label, tuple(runs), name, baseline, now, tolerance, verdict))
    return rows


def _floor(name: str) -> float:
    """In shares of the figure's scale."""
    if name == "lead":
        return LEAD_FLOOR
    return NOTE_FLOOR if name.startswith(NOTE) else SCORE_FLOOR
