"""Figures of runs over their training steps: read from the logs, and drawn for all methods beside each other.

The splits of a picture share its panels: each has a lane of its own along the steps, so that all are read
against one axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bench.errors import plain
from reports.plots import (
    LETTER,
    WIDTH,
    Picture,
    batches,
    compose,
    file_name,
    numbered,
    plain_panel,
    short,
    style,
)
from reports.tables import Split, Table

Values = NDArray[np.float64]
Line = Mapping[str, Any]
Trace = tuple[Values, Values]  # T steps, runs T values
LANES = 3  # splits of one picture
LANE = 0.94  # of the distance between two lanes, the rest is empty
LARGEST = 1e100  # of a number that is drawn
MOST_POINTS = 200  # of a line in one lane
MARKS = 4  # on a line in one lane


@dataclass(frozen=True)
class Panel:
    """One figure of all methods on the splits of a picture."""

    title: str
    unit: str
    band: bool = False  # whether smallest and largest are shown


Traces = Mapping[tuple[Panel, int], Trace]  # by panel and row of the table


def trace(runs: Sequence[Sequence[Line]], value: Callable[[Line], float]) -> Trace | None:
    """A figure of some runs at the steps at which all that have it do; None where there is no such step.

    Args:
        runs: The lines of each run's log.
        value: The figure of a line; NaN where the line has none.
    """
    found = []
    for lines in runs:
        values = {line["step"]: number for line in lines if math.isfinite(number := value(line))}
        if values:
            found.append(values)
    steps = sorted(set.intersection(*map(set, found))) if found else []
    if not steps:
        return None
    return np.array(steps, float), np.array([[values[step] for step in steps] for values in found])


def number_in(line: Line, name: str) -> float:
    """The scalar of this name in a line, NaN where it is none that could be drawn."""
    return drawable(line.get(name))


def drawable(value: Any) -> float:
    """NaN for what is no number, and for one with which no axis can be laid out."""
    return float(value) if isinstance(value, int | float) and abs(value) < LARGEST else math.nan


def thinned(x: Values, y: Values, points: int = MOST_POINTS) -> tuple[Values, Values]:
    """A line of at most so many points: means within bins of consecutive ones, NaN left out of them."""
    if len(x) <= points:
        return x, y
    ends = np.linspace(0, len(x), points + 1).astype(int)
    known = np.isfinite(y)
    counts = np.add.reduceat(known.astype(float), ends[:-1])
    with np.errstate(invalid="ignore"):
        means = np.add.reduceat(np.where(known, y, 0.0), ends[:-1]) / counts
    return np.add.reduceat(x, ends[:-1]) / np.diff(ends), means


def pictures(
    table: Table,
    found: Sequence[tuple[Split, Traces]],
    panels: Sequence[Panel],
    *,
    kind: str,
    title: str,
    caption: str,
) -> list[Picture]:
    """The traces of a table's rows, a few splits in each picture; panels and splits without any are left out.

    Args:
        kind: Start of the files' names.
        caption: What every point is; what lines and bands are is added.
    """
    found = [(split, traces) for split, traces in found if traces]
    made = []
    pages = batches(len(found), LANES)
    for page, places in enumerate(pages):
        lanes = [found[place] for place in places]
        shown = [panel for panel in panels if any(panel == of for _, traces in lanes for of, _ in traces)]
        said = numbered(f"{title} on {lanes[0][0].heading}" if len(found) == 1 else title, page, len(pages))
        figure = _draw(table, lanes, shown, said, caption)
        alt = f"{said}. {_last_values(table, lanes, shown[0])}"
        made.append(Picture(file_name(kind, table), said, alt, figure))
    return made


def _draw(
    table: Table, lanes: Sequence[tuple[Split, Traces]], panels: Sequence[Panel], title: str, caption: str
) -> Figure:
    """The panels of one picture, each with a lane for every split and a line for every method."""
    splits = [split for split, _ in lanes]
    rows = sorted({row for _, traces in lanes for _, row in traces})
    every = [(panel, seen) for _, traces in lanes for (panel, _), seen in traces.items()]
    end = max([1.0, *(steps[-1] for _, (steps, _) in every)])
    columns = 2 if len(splits) == 1 and len(panels) > 1 else 1
    figure, axes = compose(
        len(panels),
        columns,
        1.45,
        title=f"{table.title}: {title[0].lower()}{title[1:]}",
        caption=f"{caption} {_said(every)}",
        keys=[(table.rows[row].label, {**style(row), "linewidth": 1.3, "markersize": 4.5}) for row in rows],
        below=0.16,
        under=0.34 if len(splits) == 1 else 0.52,
    )
    for place, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        for row in rows:
            of = [
                (lane, traces[panel, row]) for lane, (_, traces) in enumerate(lanes) if (panel, row) in traces
            ]
            if of:
                _line(ax, of, end, style(row), panel.band, row)
                ax.lines[-1].set_gid(plain(table.rows[row].label))
        bottom, top = ax.get_ylim()
        if 0 < bottom < 0.5 * top:  # a figure that moves little is not shown as a cliff
            ax.set_ylim(0, top)
        _lanes(ax, splits, end, named=place >= len(panels) - columns, width=WIDTH / columns - 0.9)
        plain_panel(ax, panel.title)
        ax.set_ylabel(panel.unit, fontsize=9)
    return figure


def _said(traces: Sequence[tuple[Panel, Trace]]) -> str:
    said = []
    if any(len(values) > 1 for _, (_, values) in traces):
        said.append("Lines: mean over the seeds at their common steps.")
    if any(panel.band and len(values) > 1 for panel, (_, values) in traces):
        said.append("Bands: smallest to largest.")
    if any(len(steps) > MOST_POINTS for _, (steps, _) in traces):
        said.append(f"Of more than {MOST_POINTS} points the means within {MOST_POINTS} bins are drawn.")
    return " ".join(said)


def _line(
    ax: Axes, traces: Sequence[tuple[int, Trace]], end: float, looks: Mapping[str, Any], band: bool, row: int
) -> None:
    """The line of a method through its lanes, with gaps between them.

    Args:
        traces: Place of the lane, and what is in it.
    """
    parts = []
    for lane, (steps, values) in traces:
        thin = [thinned(steps, each) for each in (values.mean(0), values.min(0), values.max(0))]
        parts.append(np.stack([lane + LANE * thin[0][0] / end, *(each for _, each in thin)]))
    gap = np.full((4, 1), math.nan)
    x, mean, low, high = np.concatenate([part for each in parts for part in (each, gap)][:-1], axis=1)
    every = max(1, min(part.shape[1] for part in parts) // MARKS)
    # Marks of other methods stand elsewhere, so that lines of one course can be told apart.
    marks = (row * every // 3 % every, every)
    ax.plot(x, mean, **{**looks, "linewidth": 1.3, "markersize": 4.5, "markevery": marks})
    if band and np.any(low < high):
        ax.fill_between(x, low, high, color=looks["color"], alpha=0.15, linewidth=0)


def _lanes(ax: Axes, splits: Sequence[Split], end: float, *, named: bool, width: float) -> None:
    """Steps along every lane, and the names of the splits below the lowest panel.

    Args:
        width: Of the panel, in inches.
    """
    ax.set_xlim(0, len(splits))
    found = MaxNLocator(4 if len(splits) == 1 else 2, integer=True, steps=[1, 2, 5, 10]).tick_values(0, end)
    steps = [step for step in found if 0 <= step <= end]
    ticks = [(lane, step) for lane in range(len(splits)) for step in steps if step > 0 or lane == 0]
    names = [f"{step:.6g}" if named else "" for _, step in ticks]
    ax.set_xticks([lane + LANE * step / end for lane, step in ticks], names)
    for lane in range(1, len(splits)):
        ax.axvline(lane - (1 - LANE) / 2, color="#999999", linewidth=0.8)
    if not named:
        return
    if len(splits) == 1:
        ax.set_xlabel("step", fontsize=9, labelpad=1)
        return
    ax.set_xlabel("step, on each split", fontsize=9, labelpad=14)
    room = int(width / len(splits) / (LETTER * 9)) - 2
    for lane, split in enumerate(splits):
        ax.annotate(
            short(split.heading if len(split.heading) <= room else split.label, room),
            (lane + LANE / 2, 0),
            xycoords=ax.get_xaxis_transform(),
            xytext=(0, -17),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=9,
            parse_math=False,
        )


def _last_values(table: Table, lanes: Sequence[tuple[Split, Traces]], panel: Panel) -> str:
    """The least and the largest last value of a panel on each split, in words."""
    said = []
    for split, traces in lanes:
        found = sorted(
            (float(values[:, -1].mean()), table.rows[row].label)
            for (of, row), (_, values) in traces.items()
            if of == panel
        )
        if found:
            ends = [f"{value:.3g} ({label})" for value, label in (found[0], found[-1])]
            said.append(f"{split.heading}: {' to '.join(dict.fromkeys(ends))}")
    return f"{panel.title} ({panel.unit}) at the last step, {'; '.join(said)}."
