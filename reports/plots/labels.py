"""mIoU against the number of labeled images: a line for each method, a panel for each kind of label."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from reports.groups import Group
from reports.plots import picture as p
from reports.splits import SplitColumn, kind_name
from reports.statistics import Summary

PANELS = {
    "pixel": ("pixel labels", "images with pixel labels"),
    "mixed": ("pixel labels, and tags on other images", "images with pixel labels"),
    "tags": ("tags only", "images with tags"),
}
OTHER = "labeled images"  # of a panel of another kind, which is titled by its name
UPRIGHT_LENGTH = 26  # characters of a name that stands upright below an axis


def labels(group: Group) -> list[p.Picture]:
    """mIoU against the number of labeled images, with intervals over seeds."""
    named = [(f"{row.label} on {split.heading}", cell) for row, split, cell in group.cells()]
    cells = [cell for _, cell in named if p.known(cell)]
    if not cells:
        return []
    every: dict[str, list[int]] = defaultdict(list)
    for index, split in enumerate(group.splits):
        every[split.kind].append(index)
    # A single cell is no curve: against hours it stands beside those of other kinds.
    kinds = {kind: of for kind, of in every.items() if _known(group, of) > 1} or every
    title = "mIoU against labels"
    return [
        p.Picture(
            name=p.file_name("labels", group),
            title=title,
            alt=f"{title}: {p.best(named)}.",
            heading=f"{group.title}: {title}",
            caption=f"{p.BARS} Methods, and lists of one size, stand side by side.",
            panels=tuple(
                _panel(group, kind, kinds[kind], p.limits(cells), len(kinds) > 1)
                for kind in sorted(kinds, key=lambda kind: ([*PANELS, kind].index(kind), kind))
            ),
        )
    ]


def _known(group: Group, indices: Sequence[int]) -> int:
    """How many cells of these columns have a score."""
    return sum(p.known(row.cells[i]) for row in group.rows for i in indices)


def _panel(
    group: Group, kind: str, indices: Sequence[int], ends: tuple[float, float], titled: bool
) -> p.Panel:
    """Make the panel with the lines of all methods that have runs on splits of a kind."""
    splits = [group.splits[i] for i in indices]
    # Without the axis and the names at the ends of the lines.
    room = p.WIDTH - 1.0 - p.LETTER * 9 * max(len(p.short(row.label)) for row in group.rows)
    counts = [split.pixel or split.weak for split in splits]
    logs = [math.log(max(count, 1)) for count in counts]
    width = max(max(logs) - min(logs), math.log(2))
    # Lists of one size stand 0.3 inches apart, the first at its count.
    places = [log + 0.36 * width / room * logs[:i].count(log) for i, log in enumerate(logs)]
    low, high = min(places), max(places)
    width = max(high - low, math.log(2))
    drawn = [number for number, row in enumerate(group.rows) if any(p.known(row.cells[i]) for i in indices)]
    nearest = min((b - a for a, b in pairwise(sorted(places)) if b > a), default=width)
    step = min(0.02 * width, 0.5 * nearest / max(len(drawn), 1))
    lines = []
    for place, number in enumerate(drawn):
        row = group.rows[number]
        # Methods stand side by side on a tick, so that their bars can be told apart.
        shift = (place - (len(drawn) - 1) / 2) * step
        cells = [row.cells[i] for i in indices]
        lines.append(_line(row.label, counts, [at + shift for at in places], cells, number))
    margin = 0.06 * width + step * len(drawn) / 2
    ticks, upright = _ticks(splits, places, room)
    across = p.Axis(
        f"{PANELS.get(kind, ('', OTHER))[1]} (log scale)",
        log=True,
        limits=(math.exp(low - margin), math.exp(high + margin)),
        ticks=ticks,
        upright=upright,
    )
    return p.Panel(
        title=PANELS.get(kind, (kind_name(kind),))[0] if titled else "",
        x=across,
        y=p.Axis("mIoU (%)", limits=ends),
        lines=tuple(lines),
        height=max(2.6, 0.19 * len(drawn) + 0.2),
        named=True,
    )


def _line(
    name: str, counts: Sequence[int], places: Sequence[float], cells: Sequence[Summary | None], number: int
) -> p.Line:
    """Make the line of a method; none across a hole, nor between two lists of one size."""
    x: list[float] = []
    y: list[Summary | None] = []
    previous: int | None = None
    for count, at, cell in zip(counts, places, cells, strict=True):
        if x and (not p.known(cell) or count == previous):
            x, y = [*x, math.nan], [*y, None]
        previous = count
        if p.known(cell):
            x.append(math.exp(at))
            y.append(cell)
    return p.means(name, x, y, p.style(number))


def _ticks(
    splits: Sequence[SplitColumn], places: Sequence[float], room: float
) -> tuple[tuple[tuple[float, str], ...], bool]:
    """Make a tick for each split, with its count and name below, and say whether these stand upright; splits
    that nearly fall together share one.

    Args:
        places: Of the splits, logarithms of x.
        room: Inches of the axis.
    """
    inch = room / (1.2 * max(max(places) - min(places), math.log(2)))  # for each unit of the logarithm
    together: list[list[int]] = []
    for i in sorted(range(len(splits)), key=lambda i: places[i]):
        if together and (places[i] - places[together[-1][-1]]) * inch < 0.2:
            together[-1].append(i)
        else:
            together.append([i])
    counts = [", ".join(dict.fromkeys(str(splits[i].pixel or splits[i].weak) for i in t)) for t in together]
    names = [[p.short(splits[i].label) for i in those] for those in together]
    middles = [sum(places[i] for i in those) / len(those) for those in together]
    widths = [p.LETTER * 9 * max(map(len, [n, *of])) for n, of in zip(counts, names, strict=True)]
    rooms = [(after - before) * inch for before, after in pairwise(middles)]
    needed = [(before + after) / 2 + 0.08 for before, after in pairwise(widths)]
    upright = any(n > r for n, r in zip(needed, rooms, strict=True)) or max(widths) > room / 2
    texts = [
        upright_text(n, *of) if upright else "\n".join([n, *of]) for n, of in zip(counts, names, strict=True)
    ]
    return tuple((math.exp(at), text) for at, text in zip(middles, texts, strict=True)), upright


def upright_text(counts: str, *names: str) -> str:
    """Write counts and names in one line, each name with an equal share of the room: `23, 46: 1_16, 1_8`."""
    each = max((UPRIGHT_LENGTH - len(counts)) // len(names) - 2, 8)
    return f"{counts}: {', '.join(p.short(name, each) for name in names)}"
