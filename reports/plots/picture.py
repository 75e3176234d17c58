"""The content of a plot before it is drawn: numbers, names, titles, a text for those who do not see it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.errors import plain
from reports.groups import Group
from reports.statistics import Summary

T = TypeVar("T")
Values = NDArray[np.float64]
Look = Mapping[str, Any]  # colour, marker, line ... in matplotlib's words
# Okabe and Ito's palette without its yellow, which is too pale for lines on white.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "--", ":", "-.")
WIDTH = 6.0  # inches of a picture: its text can still be read where a phone shrinks it to 390 pixels
LETTER = 0.58 / 72  # inches a letter is wide on average, for each point of the font's size
NAME_LENGTH = 40  # characters of a name in a picture
CLASS_NAME = 16  # of a class
SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])")  # where one ends and another begins
BARS = "Bars: 95 % t interval of the mean over draws, else seeds (one run: none); arrow: the bar goes on."


@dataclass(frozen=True)
class Line:
    """Points that belong together, with what they vary by."""

    name: str
    x: Values
    y: Values  # NaN is a gap
    look: Look
    low: Values | None = None
    high: Values | None = None
    band: bool = False  # low to high is shaded; otherwise it is a bar at each point


@dataclass(frozen=True)
class Axis:
    title: str = ""
    log: bool = False
    limits: tuple[float, float] | None = None  # None: what the lines need
    ticks: tuple[tuple[float, str], ...] | None = None  # None: a few round ones
    upright: bool = False  # names of ticks, which is for long ones
    zero: bool = False  # nothing is below zero


@dataclass(frozen=True)
class Map:
    """Values by row and column, as colours."""

    values: Values  # R C; NaN is hatched
    rows: tuple[str, ...]
    bar: str  # title of the colour bar
    columns: tuple[str, ...] = ()
    edges: Values | None = None  # C + 1, where columns are parts of an axis and have no names
    scale: Literal["even", "root", "decades"] = "even"
    ends: tuple[float, float] = (0.0, 100.0)
    ticks: tuple[float, ...] | None = None  # of the colour bar
    white: bool = False  # zero is white, and much is dark
    written: bool = False  # each value stands in its cell
    framed: tuple[tuple[int, int], ...] = ()  # cells, by row and column
    said: tuple[str, ...] = ()  # lines above the map
    cell: tuple[float, float] | None = None  # inches of a cell, width and height; None: as fits


@dataclass(frozen=True)
class Panel:
    title: str = ""
    x: Axis = field(default_factory=Axis)
    y: Axis = field(default_factory=Axis)
    lines: tuple[Line, ...] = ()
    map: Map | None = None
    height: float = 1.45  # inches, without title and ticks
    named: bool = False  # each line bears its name at its end
    dashed: float | None = None  # a place along x that is marked
    lanes: tuple[str, ...] = ()  # names of the parts of the x axis, each 1 wide
    above: tuple[tuple[float, str], ...] = ()  # places along x that are named above a panel without a title


@dataclass(frozen=True)
class Picture:
    """A plot of one comparable group: all that a file of it needs, and what the page says of it."""

    name: str  # start of its files' names
    title: str
    alt: str  # what it shows, for those who do not see it
    heading: str
    caption: str
    panels: tuple[Panel | None, ...]  # row by row; None leaves a place empty
    columns: int = 1
    keys: tuple[tuple[str, Look], ...] = ()  # what each entry of the legend says, and how its line looks
    width: float = WIDTH  # inches

    @property
    def first_sentence(self) -> str:
        """Of the caption: what stands in the picture itself."""
        return SENTENCE.split(self.caption, 1)[0]

    @property
    def details(self) -> str:
        """The rest of the caption, which stands beside the picture."""
        return self.caption[len(self.first_sentence) :].strip()


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
    """Shorten a text for a picture: names that are too long lose their middle, since knobs differ at the
    end."""
    text = plain(text)
    head = length * 2 // 3
    return text if len(text) <= length else f"{text[:head]}…{text[head + 1 - length :]}"


def file_name(kind: str, group: Group, *parts: str) -> str:
    return "-".join([kind, group.dataset, group.protocol_hash[:8], *parts])


def paged(title: str, panels: Sequence[T], size: int) -> list[tuple[str, Sequence[T]]]:
    """Divide the panels into as few pictures as hold `size` each, as equal as can be, with the title of each:
    `IoU (1 of 2)`."""
    count = math.ceil(len(panels) / size)
    ends = [round(len(panels) * i / count) for i in range(count + 1)] if count else []
    titles = [f"{title} ({number} of {count})" if count > 1 else title for number in range(1, count + 1)]
    return [(name, panels[first:end]) for name, (first, end) in zip(titles, pairwise(ends), strict=True)]


def limits(cells: Sequence[Summary]) -> tuple[float, float]:
    """Return the ends of an axis of percent that shows every mean. Of the intervals it shows the part within
    a third of the means' range (at least two points) beside them: an interval of two seeds would fill any
    axis."""
    means = [100 * cell.mean for cell in cells]
    ends = [100 * end for cell in cells for end in cell.interval or ()]
    low, high = min(means), max(means)
    margin, pad = max(2.0, (high - low) / 3), 0.3 + 0.05 * (high - low)
    return max(min([low, *ends]) - pad, low - margin), min(max([high, *ends]) + pad, high + margin)


def means(name: str, x: Sequence[float], cells: Sequence[Summary | None], look: Look) -> Line:
    """Means in percent with their intervals as bars; None is a gap."""
    y = [math.nan if cell is None else 100 * cell.mean for cell in cells]
    ends = [
        (math.nan, math.nan) if cell is None or cell.interval is None else cell.interval for cell in cells
    ]
    low, high = 100 * np.asarray(ends, float).reshape(-1, 2).T
    return Line(
        name, np.asarray(x, float), np.asarray(y), {"linewidth": 1.6, "markersize": 6} | {**look}, low, high
    )


def best(named: Sequence[tuple[str, Summary | None]]) -> str:
    """Which of some means is the highest, in words: `u2pl on full has the highest mean mIoU, 73.2 %`."""
    found = [(cell.mean, name) for name, cell in named if known(cell)]
    score, name = max(found)
    return f"{name} has the highest mean mIoU, {100 * score:.1f} %"


def known(cell: Summary | None) -> TypeGuard[Summary]:
    """Say whether there is a number to show: not in a missing cell, nor over runs one of which scored NaN."""
    return cell is not None and math.isfinite(cell.mean)
