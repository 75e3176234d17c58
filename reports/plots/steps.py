"""Figures of runs over their training steps, all methods beside each other.

The splits of a picture share its panels: each has a lane of its own along the steps, so that all are read
against one axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from reports.groups import Group
from reports.plots import picture as p
from reports.sheets.health import LARGEST
from reports.splits import SplitColumn

LogLine = Mapping[str, Any]
Trace = tuple[p.Values, p.Values]  # T steps, runs T values
LANES = 3  # splits of one picture
LANE = 0.94  # of the distance between two lanes, the rest is empty
MOST_POINTS = 200  # of a line in one lane
MARKS = 4  # on a line in one lane
LOOK = {"linewidth": 1.3, "markersize": 4.5}


@dataclass(frozen=True)
class Figure:
    """One figure of all methods on the splits of a picture: a panel."""

    title: str
    unit: str
    band: bool = False  # whether smallest and largest are shown


Traces = Mapping[tuple[Figure, int], Trace]  # by figure and row of the table


def trace(runs: Sequence[Sequence[LogLine]], name: str) -> Trace | None:
    """Read a scalar of some runs at the steps at which all that have it do; None where there is no such step.

    Args:
        runs: The lines of each run's log. A number with which no axis can be laid out is none.
    """
    found = []
    for lines in runs:
        values = {line["step"]: value for line in lines if _drawable(value := line.get(name))}
        if values:
            found.append(values)
    steps = sorted(set.intersection(*map(set, found))) if found else []
    if not steps:
        return None
    return np.array(steps, float), np.array([[values[step] for step in steps] for values in found], float)


def _drawable(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < LARGEST


def thinned(x: p.Values, y: p.Values, points: int = MOST_POINTS) -> tuple[p.Values, p.Values]:
    """Thin a line to at most `points` points: means within bins of consecutive ones, NaN left out of them."""
    if len(x) <= points:
        return x, y
    ends = np.linspace(0, len(x), points + 1).astype(int)
    known = np.isfinite(y)
    counts = np.add.reduceat(known.astype(float), ends[:-1])
    with np.errstate(invalid="ignore"):
        means = np.add.reduceat(np.where(known, y, 0.0), ends[:-1]) / counts
    return np.add.reduceat(x, ends[:-1]) / np.diff(ends), means


def pictures(
    group: Group,
    found: Mapping[SplitColumn, Traces],
    figures: Sequence[Figure],
    *,
    kind: str,
    title: str,
    caption: str,
) -> list[p.Picture]:
    """Make pictures of the traces of a group's rows, a few splits in each; panels and splits without any are
    left out.

    Args:
        kind: Start of the files' names.
        caption: Says what every point is; what lines and bands are is added.
    """
    known = [(split, found[split]) for split in group.splits if found[split]]
    title = f"{title} on {known[0][0].heading}" if len(known) == 1 else title
    made = []
    for said, lanes in p.paged(title, known, LANES):
        shown = [figure for figure in figures if any(figure == of for _, traces in lanes for of, _ in traces)]
        rows = sorted({row for _, traces in lanes for _, row in traces})
        columns = 2 if len(lanes) == 1 and len(shown) > 1 else 1
        made.append(
            p.Picture(
                name=p.file_name(kind, group),
                title=said,
                alt=f"{said}. {_last_values(group, lanes, shown[0])}",
                heading=f"{group.title}: {said[0].lower()}{said[1:]}",
                caption=f"{caption} {_said([one for _, traces in lanes for one in traces.items()])}",
                panels=tuple(
                    _panel(group, lanes, rows, figure, columns, place >= len(shown) - columns)
                    for place, figure in enumerate(shown)
                ),
                columns=columns,
                keys=tuple((group.rows[row].label, p.style(row) | LOOK) for row in rows),
            )
        )
    return made


def _panel(
    group: Group,
    lanes: Sequence[tuple[SplitColumn, Traces]],
    rows: Sequence[int],
    figure: Figure,
    columns: int,
    lowest: bool,
) -> p.Panel:
    """Make a panel with a lane for every split and a line for every method; steps and splits are named at the
    lowest."""
    end = max([1.0, *(steps[-1] for _, traces in lanes for steps, _ in traces.values())])
    lines = []
    for row in rows:
        here = [
            (lane, traces[figure, row]) for lane, (_, traces) in enumerate(lanes) if (figure, row) in traces
        ]
        if here:
            lines.append(_line(group.rows[row].label, here, end, figure.band, row))
    found = MaxNLocator(4 if len(lanes) == 1 else 2, integer=True, steps=[1, 2, 5, 10]).tick_values(0, end)
    steps = [step for step in found if 0 <= step <= end]
    ticks = tuple(
        (lane + LANE * step / end, f"{step:.6g}" if lowest else "")
        for lane in range(len(lanes))
        for step in steps
        if step > 0 or lane == 0
    )
    room = int((p.WIDTH / columns - 0.9) / len(lanes) / (p.LETTER * 9)) - 2
    names = [split.heading if len(split.heading) <= room else split.label for split, _ in lanes]
    title = "step" if len(lanes) == 1 else "step, on each split"
    return p.Panel(
        title=figure.title,
        x=p.Axis(title if lowest else "", limits=(0, len(lanes)), ticks=ticks),
        y=p.Axis(figure.unit),
        lines=tuple(lines),
        lanes=tuple(p.short(name, room) if lowest else "" for name in names) if len(lanes) > 1 else (),
    )


def _line(name: str, traces: Sequence[tuple[int, Trace]], end: float, band: bool, row: int) -> p.Line:
    """Make the line of a method through its lanes, with gaps between them.

    Args:
        traces: Place of each lane, and the trace in it.
    """
    parts = []
    for lane, (steps, values) in traces:
        thin = [thinned(steps, each) for each in (values.mean(0), values.min(0), values.max(0))]
        parts.append(np.stack([lane + LANE * thin[0][0] / end, *(each for _, each in thin)]))
    gap = np.full((4, 1), math.nan)
    x, mean, low, high = np.concatenate([part for each in parts for part in (each, gap)][:-1], axis=1)
    every = max(1, min(part.shape[1] for part in parts) // MARKS)
    # Marks of other methods stand elsewhere, so that lines of one course can be told apart.
    look = p.style(row) | LOOK | {"markevery": (row * every // 3 % every, every)}
    return p.Line(name, x, mean, look, low if band else None, high if band else None, band=True)


def _said(traces: Sequence[tuple[tuple[Figure, int], Trace]]) -> str:
    said = []
    if any(len(values) > 1 for _, (_, values) in traces):
        said.append("Lines: mean over the seeds at their common steps.")
    if any(figure.band and len(values) > 1 for (figure, _), (_, values) in traces):
        said.append("Bands: smallest to largest.")
    if any(len(steps) > MOST_POINTS for _, (steps, _) in traces):
        said.append(f"Of more than {MOST_POINTS} points the means within {MOST_POINTS} bins are drawn.")
    return " ".join(said)


def _last_values(group: Group, lanes: Sequence[tuple[SplitColumn, Traces]], figure: Figure) -> str:
    """Say the least and the largest last value of a figure on each split, in words."""
    said = []
    for split, traces in lanes:
        found = sorted(
            (float(values[:, -1].mean()), group.rows[row].label)
            for (of, row), (_, values) in traces.items()
            if of == figure
        )
        if found:
            ends = [f"{value:.3g} ({label})" for value, label in (found[0], found[-1])]
            said.append(f"{split.heading}: {' to '.join(dict.fromkeys(ends))}")
    return f"{figure.title} ({figure.unit}) at the last step, {'; '.join(said)}."
