"""Plots of the tables: mIoU against the number of labeled images."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench.files import write_atomic
from reports.tables import COLUMNS, Split, Table, plain

# Okabe and Ito's palette without its yellow, which is too pale for lines on white.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "--", ":", "-.")
PANELS = {
    "pixel": ("pixel labels", "images with pixel labels"),
    "mixed": ("pixel labels, and tags on other images", "images with pixel labels"),
    "tags": ("tags only", "images with tags"),
}


def _kind(split: Split) -> str:
    if not split.tags:
        return "pixel"
    return "mixed" if split.pixel else "tags"


def _count(split: Split) -> int:
    return split.pixel or split.tags


def draw(table: Table) -> Figure:
    """The figure of a table: a panel per kind of label, a line per method, bars of one spread."""
    panels: dict[str, list[int]] = defaultdict(list)
    for index, split in enumerate(table.splits):
        panels[_kind(split)].append(index)
    kinds = [kind for kind in PANELS if kind in panels]
    # Room for the names at the right of each panel, and for the lines as they have points.
    widths = [1.2 + 1.2 * len({_count(table.splits[i]) for i in panels[kind]}) for kind in kinds]
    width = max(6.4, sum(widths) + 1.9 * len(kinds))
    figure = Figure(figsize=(width, max(4.6, 1.6 + 0.24 * len(table.rows))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(kinds), squeeze=False, sharey=True, width_ratios=widths)[0]
    for ax, kind in zip(axes, kinds, strict=True):
        _panel(ax, table, panels[kind])
        ax.set_xlabel(f"{PANELS[kind][1]} (log scale)")
        if len(kinds) > 1:
            ax.set_title(PANELS[kind][0], fontsize=10)
    # Labels sit at the height of their lines, so only once all panels have set the shared axis.
    for ax in axes:
        _label_lines(ax)
    axes[0].set_ylabel(f"{COLUMNS[table.column][0]} (%)")
    figure.suptitle(plain(table.title), fontsize=11, parse_math=False)
    figure.supxlabel(
        "bars: sample standard deviation over seeds; no bar: one seed", fontsize=8, color="#555555"
    )
    return figure


def _panel(ax: Axes, table: Table, indices: Sequence[int]) -> None:
    counts = [max(_count(table.splits[i]), 1) for i in indices]
    low, high = math.log(min(counts)), math.log(max(counts))
    width = max(high - low, math.log(2))
    drawn = [number for number, row in enumerate(table.rows) if any(row.cells[i] for i in indices)]
    for place, number in enumerate(drawn):
        row = table.rows[number]
        # Methods stand side by side on a tick, so that their bars can be told apart.
        shift = (place - (len(drawn) - 1) / 2) * min(0.012, 0.06 / len(drawn)) * width
        x: list[float] = []
        y: list[float] = []
        bars: list[float] = []
        previous: int | None = None
        for i, count in zip(indices, counts, strict=True):
            cell = row.cells[i]
            if x and (cell is None or count == previous):
                # No line across a hole, nor between two lists of one size.
                x, y, bars = [*x, math.nan], [*y, math.nan], [*bars, math.nan]
            previous = count
            if cell is not None:
                x.append(math.exp(math.log(count) + shift))
                y.append(100 * cell.mean)
                bars.append(math.nan if cell.spread is None else 100 * cell.spread)
        ax.errorbar(
            x,
            y,
            yerr=bars,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle=LINES[number // len(COLOURS) % len(LINES)],
            linewidth=1.6,
            markersize=5,
            elinewidth=1,
            capsize=3,
            label=f"{number}",  # a name with a leading underscore would be hidden by matplotlib
        ).lines[0].set_gid(plain(row.label))
    names: dict[int, list[str]] = defaultdict(list)
    for i, count in zip(indices, counts, strict=True):
        names[count].append(plain(table.splits[i].label))
    ax.set_xscale("log")
    ticks = sorted(names)
    labels = ["\n".join([str(_count(table.splits[indices[counts.index(t)]])), *names[t]]) for t in ticks]
    ax.set_xticks(ticks, labels, parse_math=False)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(math.exp(low - 0.12 * width), math.exp(high + 0.08 * width))
    ax.tick_params(labelsize=9)
    ax.grid(axis="y", color="#dddddd", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def spread(heights: Sequence[float], gap: float, ceiling: float) -> list[float]:
    """Ascending heights moved apart by at least `gap`, the highest at most at `ceiling`."""
    moved = list(heights)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved


def _label_lines(ax: Axes) -> None:
    """Write each method's name at the right of its line, moved apart where lines end close to each other."""
    ends = []
    for container in ax.containers:
        line = container.lines[0]  # type: ignore[attr-defined]  # errorbar containers, not bars
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        last = np.flatnonzero(np.isfinite(y))[-1]
        ends.append((float(y[last]), float(x[last]), line))
    ends.sort(key=lambda end: end[0])
    bottom, top = ax.get_ylim()
    gap = 0.19 / (ax.get_figure().get_size_inches()[1] - 1.2) * (top - bottom)  # type: ignore[union-attr]
    heights = spread([end[0] for end in ends], gap, top)
    for height, (y_end, x_end, line) in zip(heights, ends, strict=True):
        ax.annotate(
            line.get_gid(),
            xy=(x_end, y_end),
            xytext=(1.03, height),
            textcoords=ax.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color="#222222",
            annotation_clip=False,
            arrowprops={
                **{"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.8, "linestyle": (0, (1, 2))},
                **{"relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 4},
            },
            parse_math=False,
        )


def save(table: Table, stem: Path) -> list[Path]:
    """Write the plot of a table as `stem`.png and `stem`.svg."""
    return write(draw(table), stem)


def write(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as `stem`.png and `stem`.svg."""
    paths = []
    for ending in ("png", "svg"):
        file = io.BytesIO()
        metadata = {"Date": None} if ending == "svg" else None  # equal results give equal files
        with matplotlib.rc_context({"svg.hashsalt": "frugalseg"}):
            figure.savefig(file, format=ending, dpi=150, metadata=metadata)
        path = stem.with_name(f"{stem.name}.{ending}")
        write_atomic(path, file.getvalue())
        paths.append(path)
    return paths
