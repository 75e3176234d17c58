"""What all pictures of a report share, and the plot of its tables: mIoU against the number of labeled images.

Panels are placed by hand: a solver of layouts costs more than the drawing, and its rounding errors would make
files of equal results differ.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeGuard

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN, CARETUP
from matplotlib.ticker import MaxNLocator, NullLocator

from bench.errors import plain
from bench.records.schema import Result
from reports.statistics import Summary
from reports.tables import COLUMNS, Split, Table, miou_table

# Okabe and Ito's palette without its yellow, which is too pale for lines on white.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "--", ":", "-.")
PANELS = {
    "pixel": ("pixel labels", "images with pixel labels"),
    "mixed": ("pixel labels, and tags on other images", "images with pixel labels"),
    "tags": ("tags only", "images with tags"),
}
WIDTH = 6.0  # inches of every picture: its text can still be read where a phone shrinks it to 390 pixels
NAME_LENGTH = 40  # characters of a name in a picture
UPRIGHT_LENGTH = 26  # of one that stands upright below an axis
LETTER = 0.58 / 72  # inches a letter is wide on average, for each point of the font's size
OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"pil_kwargs": {"compress_level": 3}},  # a quarter of the time for a few percent of the size
    "svg": {"metadata": {"Date": None}},
}
BARS = "Bars: 95 % t interval of the mean over seeds (one seed: none); arrow: the bar goes on."


@dataclass(frozen=True)
class Picture:
    """A figure of one comparable group, ready to be written and shown."""

    name: str  # start of its files' names
    title: str
    alt: str  # what it shows, for those who do not see it
    figure: Figure


# What all pictures share ------------------------------------------------------------------------------------


def style(number: int) -> dict[str, Any]:
    """Colour, marker and line of the method in this row of the table, the same in all pictures.

    In gray, marker and line together tell 36 methods apart, the marker alone nine.
    """
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
    }


def short(text: str, length: int = NAME_LENGTH) -> str:
    """The text for a picture: names that are too long lose their middle, since knobs differ at the end."""
    text = plain(text)
    head = length * 2 // 3
    return text if len(text) <= length else f"{text[:head]}…{text[head + 1 - length :]}"


def file_name(kind: str, table: Table, *parts: str) -> str:
    return "-".join([kind, table.dataset, table.protocol_hash[:8], *parts])


def batches(count: int, size: int) -> list[range]:
    """So many panels in as few pictures as hold `size` each, as equal as can be."""
    pictures = math.ceil(count / size)
    ends = [round(count * i / pictures) for i in range(pictures + 1)] if pictures else []
    return [range(*pair) for pair in pairwise(ends)]


def numbered(title: str, number: int, count: int) -> str:
    return title if count == 1 else f"{title} ({number + 1} of {count})"


def compose(
    panels: int,
    columns: int,
    height: float,
    *,
    title: str,
    caption: str = "",
    keys: Sequence[tuple[str, Mapping[str, Any]]] = (),
    left: float = 0.75,
    right: float = 0.15,
    above: float = 0.34,
    below: float = 0.48,
    sides: tuple[float, float] = (0.0, 0.0),
    under: float = 0.0,
) -> tuple[Figure, list[Axes]]:
    """A figure of panels in rows, under its title, over the legend and the caption.

    Args:
        height: Of each panel, in inches, as are the margins left, right, above and below it, and those at the
            sides of and under them all.
        keys: What each entry of the legend says, and how the line that it explains is drawn.
    """
    rows = math.ceil(panels / columns)
    heading = wrapped(title, 11, bold=True)
    said = wrapped(caption, 9) if caption else []
    names = [short(name) for name, _ in keys]
    longest = max(map(len, names), default=0)
    fitting = int((WIDTH - 0.2) / (0.65 + LETTER * 9 * longest))
    across = max(1, min(fitting, len(names)))
    bottom = 0.1 + 0.17 * len(said)
    legend = 0.1 + 0.205 * math.ceil(len(names) / across) if names else 0.0
    top = 0.12 + 0.2 * len(heading)
    total = top + rows * (above + height + below) + under + legend + bottom
    figure = Figure(figsize=(WIDTH, total))
    FigureCanvasAgg(figure)
    text = {"ha": "left", "va": "top", "parse_math": False}
    x = 0.1 / WIDTH
    figure.text(x, 1 - 0.08 / total, "\n".join(heading), fontsize=11, weight="bold", **text)  # type: ignore[arg-type]
    figure.text(x, (bottom - 0.04) / total, "\n".join(said), fontsize=9, color="#444444", **text)  # type: ignore[arg-type]
    if names:
        drawn = figure.legend(
            [Line2D([], [], **kind) for _, kind in keys],
            names,
            loc="lower left",
            bbox_to_anchor=(0.1 / WIDTH, bottom / total),
            ncols=across,
            fontsize=9,
            frameon=False,
            handlelength=3,
            columnspacing=1,
            borderaxespad=0,
        )
        for entry in drawn.get_texts():
            entry.set_parse_math(False)
    axes = []
    cell = (WIDTH - sum(sides)) / columns
    for panel in range(panels):
        row, column = divmod(panel, columns)
        low = total - top - (row + 1) * (above + height + below) + below
        place = (
            *((sides[0] + column * cell + left) / WIDTH, low / total),
            *((cell - left - right) / WIDTH, height / total),
        )
        axes.append(figure.add_axes(place))
    return figure, axes


def wrapped(text: str, size: float, *, bold: bool = False, width: float = WIDTH - 0.2) -> list[str]:
    """The text in lines of at most `width` inches at so many points."""
    return textwrap.wrap(plain(text), int(width / (LETTER * size * (1.15 if bold else 0.95)))) or [""]


def plain_panel(ax: Axes, title: str = "") -> None:
    """The looks of a panel of lines or points."""
    if title:
        place = ax.get_position()
        panels = [other.get_position().x0 for other in ax.figure.axes]
        end = min((x for x in panels if x > place.x1), default=1.0)
        inches = (end - place.x0) * WIDTH - 0.1
        # With a height of its own, or every drawing would look for one.
        ax.set_title(
            short(title, int(inches / (LETTER * 10))), fontsize=10, loc="left", y=1.0, parse_math=False
        )
    ax.tick_params(labelsize=9)
    ax.grid(axis="y", color="#dddddd", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    round_ticks(ax.yaxis)


def round_ticks(axis: Axis) -> None:
    """A few round ticks, fixed: the limits of the axis must be final. Searching them in every drawing costs a
    tenth of it."""
    low, high = sorted(axis.get_view_interval())
    found = MaxNLocator(4, steps=[1, 2, 5, 10], min_n_ticks=3).tick_values(low, high)
    ticks = [float(tick) for tick in found if low <= tick <= high]
    axis.set_ticks(ticks, [f"{tick:.6g}" for tick in ticks])


def limits(cells: Sequence[Summary]) -> tuple[float, float]:
    """Ends of an axis of percent that shows every mean, and of the intervals what lies within a third of the
    means' range (at least two points) beside them: an interval of two seeds would fill any axis."""
    means = [100 * cell.mean for cell in cells]
    ends = [100 * end for cell in cells for end in cell.interval or ()]
    low, high = min(means), max(means)
    margin, pad = max(2.0, (high - low) / 3), 0.3 + 0.05 * (high - low)
    return max(min([low, *ends]) - pad, low - margin), min(max([high, *ends]) + pad, high + margin)


def error_bars(ax: Axes, x: Sequence[float], cells: Sequence[Summary | None], **looks: Any) -> Line2D:
    """Means in percent with their intervals as bars, None for a break of the line. Set the limits of the axis
    first: a bar that goes on beyond them ends in an arrow."""
    y = [math.nan if cell is None else 100 * cell.mean for cell in cells]
    ends = [
        (math.nan, math.nan) if cell is None or cell.interval is None else cell.interval for cell in cells
    ]
    low, high = 100 * np.asarray(ends, float).reshape(-1, 2).T
    drawn = ax.errorbar(
        x,
        y,
        yerr=[np.asarray(y) - low, high - np.asarray(y)],
        **{"linewidth": 1.6, "markersize": 6, "elinewidth": 1, "capsize": 3, **looks},
    )
    bottom, top = ax.get_ylim()
    for edge, beyond, marker in ((bottom, low < bottom, CARETDOWN), (top, high > top, CARETUP)):
        if beyond.any():
            ax.plot(
                np.asarray(x, float)[beyond],
                np.full(int(beyond.sum()), edge),
                color=looks["color"],
                marker=marker,
                markersize=6,
                linestyle="none",
                clip_on=False,
            )
    line: Line2D = drawn.lines[0]
    return line


def best(named: Sequence[tuple[str, Summary | None]]) -> str:
    """Which of some means is the highest, in words: `u2pl on full has the highest mean mIoU, 73.2 %`."""
    found = [(cell.mean, name) for name, cell in named if known(cell)]
    score, name = max(found)
    return f"{name} has the highest mean mIoU, {100 * score:.1f} %"


def known(cell: Summary | None) -> TypeGuard[Summary]:
    """Whether there is a number to show: not in a missing cell, nor over runs one of which scored NaN."""
    return cell is not None and math.isfinite(cell.mean)


# mIoU against labels ----------------------------------------------------------------------------------------


def labels(group: Sequence[Result]) -> list[Picture]:
    """mIoU against the number of labeled images, with intervals over seeds."""
    table = miou_table(group)
    named = [
        (f"{row.label} on {split.heading}", cell)
        for row in table.rows
        for split, cell in zip(table.splits, row.cells, strict=True)
    ]
    if not any(known(cell) for _, cell in named):
        return []
    title = "mIoU against labels"
    return [Picture(file_name("labels", table), title, f"{title}: {best(named)}.", draw(table))]


def _kind(split: Split) -> str:
    if not split.tags:
        return "pixel"
    return "mixed" if split.pixel else "tags"


def _count(split: Split) -> int:
    return split.pixel or split.tags


def draw(table: Table) -> Figure:
    """The figure of a table: a panel per kind of label, a line per method with intervals over seeds."""
    panels: dict[str, list[int]] = defaultdict(list)
    for index, split in enumerate(table.splits):
        panels[_kind(split)].append(index)
    kinds = [kind for kind in PANELS if kind in panels]
    # Room for the names at the right of each panel, beside the ends of their lines.
    right = 0.3 + LETTER * 9 * max(len(short(row.label)) for row in table.rows)
    left = 0.75
    places = {kind: _places([table.splits[i] for i in panels[kind]], WIDTH - left - right) for kind in kinds}
    ticks = {
        kind: _ticks([table.splits[i] for i in panels[kind]], places[kind], WIDTH - left - right)
        for kind in kinds
    }
    below = 0.35 + max(map(_depth, ticks.values()))
    figure, axes = compose(
        len(kinds),
        1,
        max(2.6, 0.19 * len(table.rows) + 0.2),
        title=f"{table.title}: {COLUMNS[table.column][0]} against labels",
        caption=f"Methods, and lists of one size, stand side by side. {BARS}",
        left=left,
        right=right,
        above=0.34 if len(kinds) > 1 else 0.12,
        below=below,
    )
    bottom, top = limits([cell for row in table.rows for cell in row.cells if known(cell)])
    for ax, kind in zip(axes, kinds, strict=True):
        ax.set_ylim(bottom, top)
        _panel(ax, table, panels[kind], places[kind], ticks[kind])
        plain_panel(ax, PANELS[kind][0] if len(kinds) > 1 else "")
        ax.set_xlabel(f"{PANELS[kind][1]} (log scale)")
        ax.set_ylabel(f"{COLUMNS[table.column][0]} (%)")
        _label_lines(ax)
    return figure


@dataclass(frozen=True)
class Tick:
    at: float
    lines: tuple[str, ...]
    upright: bool


def _span(places: Sequence[float]) -> tuple[float, float, float]:
    """The least and the largest place, and what is taken for their distance."""
    low, high = min(places), max(places)
    return low, high, max(high - low, math.log(2))


def _places(splits: Sequence[Split], width: float) -> list[float]:
    """The logarithm of each split's count; lists of one size stand 0.3 inches apart, the first at its count.

    Args:
        width: Of the panel, in inches.
    """
    counts = [math.log(max(_count(split), 1)) for split in splits]
    gap = 0.3 * 1.2 * _span(counts)[2] / width
    return [count + gap * counts[:i].count(count) for i, count in enumerate(counts)]


def _ticks(splits: Sequence[Split], places: Sequence[float], width: float) -> list[Tick]:
    """A tick for each split, with its count and name below; splits that nearly fall together share one.

    Args:
        places: Of the splits, ascending where the counts are.
        width: Of the panel, in inches.
    """
    inch = width / (1.2 * _span(places)[2])  # for each unit of the logarithm
    together: list[list[int]] = []
    for i in sorted(range(len(splits)), key=lambda i: places[i]):
        if together and (places[i] - places[together[-1][-1]]) * inch < 0.2:
            together[-1].append(i)
        else:
            together.append([i])
    lines = [
        (
            ", ".join(dict.fromkeys(str(_count(splits[i])) for i in those)),
            *(short(splits[i].label) for i in those),
        )
        for those in together
    ]
    middles = [sum(places[i] for i in those) / len(those) for those in together]
    widths = [LETTER * 9 * max(map(len, text)) for text in lines]
    room = [(after - before) * inch for before, after in pairwise(middles)]
    needed = [(before + after) / 2 + 0.08 for before, after in pairwise(widths)]
    upright = any(n > r for n, r in zip(needed, room, strict=True)) or max(widths) > width / 2
    if upright:
        lines = [(_upright(*text),) for text in lines]
    return [Tick(math.exp(place), text, upright) for place, text in zip(middles, lines, strict=True)]


def _upright(counts: str, *names: str) -> str:
    """Counts and names in one line, each name with an equal share of the room."""
    each = max((UPRIGHT_LENGTH - len(counts)) // len(names) - 2, 8)
    return f"{counts}: {', '.join(short(name, each) for name in names)}"


def _depth(ticks: Sequence[Tick]) -> float:
    """Inches below the axis that the names of its ticks take."""
    if ticks[0].upright:
        return 0.1 + LETTER * 9 * max(len(tick.lines[0]) for tick in ticks)
    return 0.1 + 0.16 * max(len(tick.lines) for tick in ticks)


def _panel(
    ax: Axes, table: Table, indices: Sequence[int], places: Sequence[float], ticks: Sequence[Tick]
) -> None:
    counts = [_count(table.splits[i]) for i in indices]
    low, high, width = _span(places)
    drawn = [number for number, row in enumerate(table.rows) if any(known(row.cells[i]) for i in indices)]
    nearest = min((b - a for a, b in pairwise(sorted(places)) if b > a), default=width)
    step = min(0.02 * width, 0.25 * nearest / max(len(drawn), 1))
    for place, number in enumerate(drawn):
        row = table.rows[number]
        # Methods stand side by side on a tick, so that their bars can be told apart.
        shift = (place - (len(drawn) - 1) / 2) * step
        x: list[float] = []
        cells: list[Summary | None] = []
        previous: int | None = None
        for i, count, at in zip(indices, counts, places, strict=True):
            cell = row.cells[i]
            if x and (not known(cell) or count == previous):
                # No line across a hole, nor between two lists of one size.
                x, cells = [*x, math.nan], [*cells, None]
            previous = count
            if known(cell):
                x.append(math.exp(at + shift))
                cells.append(cell)
        error_bars(ax, x, cells, **style(number)).set_gid(plain(row.label))
    ax.set_xscale("log")
    # Of one size, so that the names stand in lines.
    texts = ["\n".join(tick.lines) for tick in ticks]
    ax.set_xticks([tick.at for tick in ticks], texts, parse_math=False)
    if ticks[0].upright:
        ax.tick_params(axis="x", rotation=90)
    ax.xaxis.set_minor_locator(NullLocator())
    margin = 0.06 * width + step * len(drawn) / 2
    ax.set_xlim(math.exp(low - margin), math.exp(high + margin))


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
    figure = ax.figure.get_size_inches()[1]  # type: ignore[union-attr]
    gap = 0.18 / (ax.get_position().height * figure) * (top - bottom)
    heights = spread([end[0] for end in ends], gap, top)
    for height, (y_end, x_end, line) in zip(heights, ends, strict=True):
        ax.annotate(
            short(line.get_gid()),
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


# Files ------------------------------------------------------------------------------------------------------


DPI = 100  # of a PNG: an eleven-inch figure has 1,100 pixels, the width of a page


def render(figure: Figure) -> dict[str, bytes]:
    """The figure as "png" and "svg". Equal figures give equal bytes."""
    found = {}
    # Text stays text in an SVG: it can be searched and read aloud, and takes less than its outlines.
    with matplotlib.rc_context({"svg.hashsalt": "frugalseg", "svg.fonttype": "none"}):
        for ending, options in OPTIONS.items():
            file = io.BytesIO()
            figure.savefig(file, format=ending, dpi=DPI, **options)
            found[ending] = file.getvalue()
    return found
