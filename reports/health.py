"""How the training went: the health figures of runs over their steps, drawn, and as a table.

The figures are the notes of the methods, by the names that the log lines carry. What a method does not note
is not shown, and a method that notes nothing has no figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bench.errors import plain
from bench.records.schema import Result
from reports import steps
from reports.overview import SPLIT_COLUMNS
from reports.plots import COLOURS, LINES, Picture, spread, wrapped
from reports.sheets import GROUP_COLUMNS, Sheet, group_names, group_title
from reports.tables import Split, Table, columns_of, miou_table, runs_of

Values = NDArray[np.float64]
PERCENT = "%"


@dataclass(frozen=True)
class Panel:
    """Figures that are read together. Scalars are lines; a figure of one value per class is a map of its
    own."""

    title: str
    unit: str  # "%" for shares 0..1
    figures: Mapping[str, str]  # what each is, by its name in the log


LINE_PANELS = (
    Panel(
        "Shares",
        PERCENT,
        {
            "reliable_share": "reliable",
            "alpha": "alpha (to be unreliable)",
            "mask_ratio": "kept",
        },
    ),
    Panel(
        "Rare classes",
        PERCENT,
        {
            "rare_share_reliable": "of reliable pixels",
            "rare_share_unreliable": "of unreliable pixels",
            "rare_share_labeled": "of labeled pixels",
        },
    ),
    Panel(
        "Origin of the step's keys",
        PERCENT,
        {
            "share_certain": "classes the image has no tag of",
            "share_labeled": "labeled pixels",
            "share_unlabeled": "unreliable pixels",
        },
    ),
    Panel("Seeds", PERCENT, {"seed_decided": "decided pixels"}),
    Panel("Tags", PERCENT, {"tags_found": "found", "tags_invented": "invented"}),
    Panel("Entropy threshold", "nats", {"threshold": "threshold"}),
    Panel(
        "Pseudo-label accuracy",
        PERCENT,
        {
            "accuracy_teacher": "all pixels",
            "accuracy_reliable": "reliable",
            "accuracy_unreliable": "unreliable",
            "accuracy_kept": "kept",
        },
    ),
    Panel(
        "Negatives of their own true class",
        PERCENT,
        {
            "truth_among_negatives": "of unreliable pixels",
            "truth_among_negatives_chance": "by a random window",
        },
    ),
)
# The maps of one panel share their colours.
MAP_PANELS = (
    Panel("Queue", PERCENT, {"queue_fill": "fill of the queues", "queue_turnover": "keys new in this step"}),
    Panel(
        "Negatives",
        "pixels per step",
        {
            "negatives_certain": "negatives, classes the image has no tag of",
            "negatives_labeled": "negatives, rule of labeled pixels",
            "negatives_unlabeled": "negatives, rule of unlabeled pixels",
        },
    ),
    Panel("Anchors", "pixels per step", {"anchors": "anchor candidates"}),
)
SCALARS = tuple(name for panel in LINE_PANELS for name in panel.figures)
RECORD_COLUMNS = ("figure", "unit", "step", "mean", "smallest", "largest", "n")
VECTORS = tuple(name for panel in MAP_PANELS for name in panel.figures)
WHITE = ListedColormap(["white"])
WARMUP = "warmup_steps"
EVALUATION = {"step", "miou"}  # what a line holds that is no line of figures
NAMED_CLASSES = 40  # of more, only every second, third ... is named


@dataclass(frozen=True)
class Health:
    """The figures of some runs that differ in their seeds, at the T steps that all of them have logged."""

    steps: Values  # T
    figures: dict[str, Values]  # runs T, or runs T classes; NaN where a line has no value
    classes: tuple[str, ...]
    warmup: float | None  # steps

    @property
    def runs(self) -> int:
        return len(next(iter(self.figures.values())))


def gather(runs: Sequence[Sequence[Mapping[str, Any]]], classes: Sequence[str]) -> Health | None:
    """The health figures in the log lines of some runs; None where there are none. Runs without figures do
    not count."""
    known = {*SCALARS, *VECTORS}
    lines_by_step = [
        {line["step"]: line for line in lines if line.keys() - EVALUATION}
        for lines in runs
        if any(known & line.keys() for line in lines)
    ]
    if not lines_by_step:
        return None
    steps = sorted(set.intersection(*(set(lines) for lines in lines_by_step)))
    table = [[lines[step] for step in steps] for lines in lines_by_step]
    noted = {name for lines in table for line in lines for name in line}
    figures = {}
    for name in (*SCALARS, *VECTORS):
        shape = (len(classes),) if name in VECTORS else ()
        if name in noted:
            values = np.array([_numbers([line.get(name) for line in lines], shape) for lines in table])
            if np.isfinite(values).any():
                figures[name] = values
    if not figures:
        return None
    ends = _numbers([line.get(WARMUP) for lines in table for line in lines], ())
    return Health(np.array(steps, float), figures, tuple(classes), max(ends[ends > 0], default=None))


def _numbers(said: Sequence[Any], shape: tuple[int, ...]) -> Values:
    """What the lines say, one row each, NaN where one says nothing or something of another shape."""
    rows = [value if value is not None else np.full(shape, math.nan) for value in said]
    try:  # all at once, since a log has thousands of lines; None within a list becomes NaN
        numbers = np.array(rows, float)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (len(rows), *shape):
        numbers = np.full((len(rows), *shape), math.nan)
        for place, value in enumerate(rows):
            with suppress(TypeError, ValueError):
                one = np.array(value, float)
                if one.shape == shape:
                    numbers[place] = one
    return np.where(np.abs(numbers) < steps.LARGEST, numbers, math.nan)


def _over_runs(values: Values) -> tuple[Values, Values, Values]:
    """Mean, smallest and largest over the runs that have a value."""
    known = np.ma.masked_invalid(values)
    mean, low, high = (np.ma.filled(part, math.nan) for part in (known.mean(0), known.min(0), known.max(0)))
    return mean, low, high


# Figure -----------------------------------------------------------------------------------------------------


def draw(health: Health, title: str) -> Figure:
    """A panel per kind of figure, over the steps: lines with their bands, and maps class by step."""
    lines = [panel for panel in LINE_PANELS if _of(panel, health)]
    maps = [(panel, name) for panel in MAP_PANELS for name in _of(panel, health)]
    columns = 2 if max(len(lines), len(maps)) > 1 else 1
    heights = [
        2.3 * math.ceil(len(lines) / columns),
        min(9.0, 1.0 + 0.18 * len(health.classes)) * math.ceil(len(maps) / columns),
    ]
    figure = Figure(figsize=(5.9 * columns, sum(heights) + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    # Apart, so that the names beside the lines take no room from the maps.
    ratios = [max(height, 0.01) for height in heights]
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=ratios)[:, 0]
    for ax, panel in zip(_grid(parts[0], len(lines), columns, health), lines, strict=True):
        _lines(ax, panel, health)
    for place, ax in enumerate(_grid(parts[1], len(maps), columns, health)):
        _map(ax, *maps[place], health, named=place % columns == 0)
    for ax in figure.axes:
        if health.warmup is not None and ax.get_title(loc="left"):  # a colour bar has none
            # Over the maps and under the lines; the white shows it on dark cells.
            ax.axvline(health.warmup, color="white", linewidth=2.2, zorder=1)
            ax.axvline(health.warmup, color="black", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    width = figure.get_figwidth() - 0.2
    figure.suptitle("\n".join(wrapped(title, 11, width=width)), fontsize=11, parse_math=False)
    caption = "\n".join(wrapped(_caption(health, bool(maps)), 8, width=width))
    figure.supxlabel(caption, fontsize=8, color="#555555")
    _freeze(figure)
    return figure


def _freeze(figure: Figure) -> None:
    """Lay the figure out for good. The solver's rounding errors differ from one time to the next, and the ids
    in an SVG are made of them: equal figures shall give equal files."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for part in figure.subfigs:
        part.bbox_relative.bounds = tuple(np.round(part.bbox_relative.bounds, 6))
    for ax in figure.axes:
        ax.set_position(tuple(np.round(ax.get_position(original=True).bounds, 6)))


def _grid(figure: SubFigure, count: int, columns: int, health: Health) -> list[Axes]:
    """So many panels over the steps, row by row."""
    found = []
    for place in range(count):
        ax = figure.add_subplot(math.ceil(count / columns), columns, place + 1)
        ax.set_xlim(0, health.steps[-1])
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        ax.tick_params(labelsize=8)
        found.append(ax)
    return found


def _of(panel: Panel, health: Health) -> list[str]:
    return [name for name in panel.figures if name in health.figures]


def _caption(health: Health, maps: bool) -> str:
    said = ["training step; every point is the mean since the one before"]
    if health.runs > 1:
        # An audit is optional, so that some runs may lack some figures.
        whole = all(np.isfinite(run).any() for values in health.figures.values() for run in values)
        few = "" if whole else "up to "
        said.append(f"mean of {few}{health.runs} seeds, band: smallest to largest")
    if health.warmup is not None:
        said.append(f"dashed: the warm-up ends at step {health.warmup:.0f}")
    if maps:
        said.append("white: 0, hatched: no value")
    return "; ".join(said)


def _lines(ax: Axes, panel: Panel, health: Health) -> None:
    factor = 100 if panel.unit == PERCENT else 1
    for number, (name, said) in enumerate(panel.figures.items()):
        if name not in health.figures:
            continue
        mean, low, high = _over_runs(factor * health.figures[name])
        alone = len(health.steps) == 1 or np.isfinite(mean).sum() == 1
        (line,) = ax.plot(
            health.steps,
            mean,
            color=COLOURS[number % len(COLOURS)],
            linestyle=LINES[number % len(LINES)],
            linewidth=1.6,
            marker="o" if alone else "",
            markersize=4,
        )
        line.set_gid(said)
        if health.runs > 1:
            ax.fill_between(health.steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    ax.set_title(panel.title, fontsize=10, loc="left")
    ax.set_ylabel(panel.unit, fontsize=9)
    bottom, top = ax.get_ylim()
    if bottom < 0.5 * top:  # a figure that moves little is not shown as a cliff
        ax.set_ylim(0, top)
    ax.grid(axis="y", color="#dddddd", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if len(panel.figures) > 1:
        _name_lines(ax)


def _name_lines(ax: Axes) -> None:
    """Write each figure's name at the right of its line, moved apart where lines end close to each other."""
    ends = []
    for line in ax.lines:
        y = np.asarray(line.get_ydata(), float)
        last = np.flatnonzero(np.isfinite(y))[-1]
        ends.append((float(y[last]), float(np.asarray(line.get_xdata(), float)[last]), line))
    ends.sort(key=lambda end: end[0])
    bottom, top = ax.get_ylim()
    gap = 0.11 * (top - bottom)
    heights = spread([end[0] for end in ends], gap, top)
    for height, (y_end, x_end, line) in zip(heights, ends, strict=True):
        ax.annotate(
            str(line.get_gid()),
            xy=(x_end, y_end),
            xytext=(1.04, height),
            textcoords=ax.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color="#222222",
            annotation_clip=False,
            arrowprops={
                **{"arrowstyle": "-", "color": line.get_color(), "linewidth": 1.2},
                **{"linestyle": line.get_linestyle(), "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0},
            },
        )


def _map(ax: Axes, panel: Panel, name: str, health: Health, named: bool) -> None:
    """Class by step; a column reaches back to the line before, as its mean does."""
    share = panel.unit == PERCENT
    factor = 100 if share else 1
    mean = factor * _over_runs(health.figures[name])[0].T  # classes T
    group = np.concatenate([(factor * health.figures[other]).ravel() for other in _of(panel, health)])
    norm = Normalize(0, 100) if share else _decades(group)
    ax.patch.set(facecolor="#dddddd", hatch="////", edgecolor="#aaaaaa")
    edges = np.concatenate([[0.0], health.steps])
    rows = np.arange(len(health.classes) + 1) - 0.5
    # Dark is much, on a printed page too; white is kept for nothing at all, and the hatch shows through where
    # there is no value.
    ax.pcolormesh(edges, rows, np.ma.masked_where(mean != 0, mean), cmap=WHITE, rasterized=True)
    some = np.ma.masked_where(~(mean > 0), mean)
    mesh = ax.pcolormesh(edges, rows, some, norm=norm, cmap="viridis_r", rasterized=True)
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.02, aspect=14)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(panel.unit, fontsize=8)
    ax.set_title(panel.figures[name].capitalize(), fontsize=10, loc="left")
    ax.set_ylim(len(health.classes) - 0.5, -0.5)
    stride = math.ceil(len(health.classes) / NAMED_CLASSES)
    names = [plain(one)[:24] if named else "" for one in health.classes[::stride]]
    ax.set_yticks(range(0, len(health.classes), stride), names, parse_math=False)


def _decades(values: Values) -> Normalize:
    """Colours for counts, over whole powers of ten."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return LogNorm(1, 10)
    low, high = math.floor(math.log10(positive.min())), math.ceil(math.log10(positive.max()))
    return LogNorm(10.0 ** max(low, high - 6), 10.0 ** max(high, low + 1))


# All methods ------------------------------------------------------------------------------------------------


# What each panel shows: the first of these figures that a method notes.
OVERVIEWS = {
    steps.Panel("Reliable or kept pixels", PERCENT): ("reliable_share", "mask_ratio"),
    steps.Panel("Their accuracy", PERCENT): ("accuracy_reliable", "accuracy_kept"),
    steps.Panel("Accuracy of all pixels", PERCENT): ("accuracy_teacher",),
    steps.Panel("Entropy threshold", "nats"): ("threshold",),
    steps.Panel("Queue fill", PERCENT): ("queue_fill",),
    steps.Panel("Negatives: absent tags", "pixels a step"): ("negatives_certain",),
    steps.Panel("Negatives: labeled pixels", "pixels a step"): ("negatives_labeled",),
    steps.Panel("Negatives: unlabeled pixels", "pixels a step"): ("negatives_unlabeled",),
}


def _over_classes(line: Mapping[str, Any], name: str, total: bool) -> float:
    """Sum or mean over the classes that have a value, or the scalar of this name."""
    value = line.get(name)
    if not isinstance(value, list):
        return steps.drawable(value)
    numbers = [number for one in value if (number := steps.drawable(one)) == number]
    return sum(numbers) / (1 if total else len(numbers)) if numbers else math.nan


def overview(group: Sequence[Result], metrics: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[Picture]:
    """Pseudo-label health over the steps with all methods beside each other, a few splits in each picture.

    Args:
        group: Runs that may stand in one table.
        metrics: Lines of the log by identity of the result; a run may lack them.
    """
    table = miou_table(group)
    runs = runs_of(group)
    found = []
    for key, split in columns_of(group).items():
        traces = {}
        for row, by_split in enumerate(runs.values()):
            logs = [metrics.get(id(run), ()) for run in by_split.get(key, {}).values()]
            for panel, figures in OVERVIEWS.items():
                if (seen := _first_noted(figures, panel, logs)) is not None:
                    traces[panel, row] = seen
        found.append((split, traces))
    return steps.pictures(
        table,
        found,
        list(OVERVIEWS),
        kind="pseudo-labels",
        title="Pseudo-labels while training",
        caption="Every point is the mean since the one before; of queues the mean of the classes, of "
        "negatives their sum.",
    )


def _first_noted(
    figures: Sequence[str], panel: steps.Panel, logs: Sequence[Sequence[Mapping[str, Any]]]
) -> steps.Trace | None:
    """The first of the figures that runs have noted, shares in percent."""
    for name in figures:
        seen = steps.trace(logs, partial(_over_classes, name=name, total=name.startswith("negatives_")))
        if seen is not None:
            return (seen[0], 100 * seen[1]) if panel.unit == PERCENT else seen
    return None


# Table ------------------------------------------------------------------------------------------------------


def sheet(table: Table, cells: Sequence[tuple[str, Split, Health]]) -> Sheet:
    """The scalars of every cell at the end of its warm-up (the first line after it) and at its last step.

    Args:
        table: The headline table that the cells belong to.
        cells: Label of a row, split, and the figures of its runs.
    """
    lines: list[tuple[str, ...]] = [
        ("method", "split", "figure", "in the log", "after the warm-up", "last", "steps")
    ]
    records: list[tuple[Any, ...]] = [(*GROUP_COLUMNS, "method", *SPLIT_COLUMNS, *RECORD_COLUMNS)]
    for row, split, health in cells:
        after = np.flatnonzero(health.steps > (math.inf if health.warmup is None else health.warmup))
        places = [*(int(at) for at in after[:1]), len(health.steps) - 1]
        steps = ", ".join(f"{health.steps[at]:.0f}" for at in places)
        names = (*group_names(table), row, split.label, split.pixel, split.tags)
        for panel in LINE_PANELS:
            for name in _of(panel, health):
                values = [health.figures[name][:, at] for at in places]
                texts = [_text(found, panel.unit) for found in values]
                said = f"{panel.title}: {panel.figures[name]} ({panel.unit})"
                lines.append((row, split.heading, said, name, *([""] * (2 - len(texts))), *texts, steps))
                for at, found in zip(places, values, strict=True):
                    known = found[np.isfinite(found)]
                    numbers = (known.mean(), known.min(), known.max()) if len(known) else (None, None, None)
                    unit = "share" if panel.unit == PERCENT else panel.unit
                    records.append((*names, name, unit, int(health.steps[at]), *numbers, len(known)))
    return Sheet(
        name="health",
        title="health, after the warm-up and at the last step",
        group=group_title(table),
        lines=tuple(lines),
        records=tuple(records),
        names=4,
        words=1,
        notes=("mean over the seeds (smallest to largest); steps: those of the two columns.",),
    )


def _text(values: Values, unit: str) -> str:
    """`83.1 (82.0 to 84.2)`: mean over the runs, smallest and largest."""
    known = values[np.isfinite(values)]
    if not len(known):
        return "none"
    factor, digits = (100, 1) if unit == PERCENT else (1, 3)
    mean, low, high = (f"{factor * part:.{digits}f}" for part in (known.mean(), known.min(), known.max()))
    return mean if low == high else f"{mean} ({low} to {high})"
