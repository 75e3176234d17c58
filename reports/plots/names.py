"""Names that stand in a panel: of lines at their ends, of places along x above it, of lanes below it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from reports.plots.picture import Panel, short

LEADER: dict[str, Any] = {  # the line from a name to what it names
    "arrowstyle": "-",
    "linewidth": 0.8,
    "linestyle": (0, (1, 2)),
    "relpos": (0, 0.5),
    "shrinkA": 1,
    "shrinkB": 4,
}
SMALL = 9  # points of the names above a panel
GAP = 0.165  # inches from one of them to the next
SPLIT_NAME = 20  # characters of one


def lanes(ax: Axes, names: Sequence[str]) -> None:
    """Draw a line between lanes, and write their names below the ticks."""
    ax.xaxis.labelpad = 14 if any(names) else 4
    for lane, name in enumerate(names):
        if lane:
            ax.axvline(lane - 0.03, color="#999999", linewidth=0.8)
        ax.annotate(
            name,
            (lane + 0.47, 0),
            xycoords=ax.get_xaxis_transform(),
            xytext=(0, -17),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=9,
            parse_math=False,
        )


def spread(heights: Sequence[float], gap: float, ceiling: float) -> list[float]:
    """Ascending heights moved apart by at least `gap`, the highest at most at `ceiling`."""
    moved = list(heights)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved


def beside(ax: Axes, panel: Panel) -> None:
    """Write each line's name at the right of it, moved apart where lines end close to each other."""
    ends = []
    for line in panel.lines:
        last = np.flatnonzero(np.isfinite(line.y))[-1]
        ends.append((float(line.y[last]), float(line.x[last]), line))
    ends.sort(key=lambda end: end[0])
    bottom, top = ax.get_ylim()
    heights = spread([end[0] for end in ends], 0.17 / panel.height * (top - bottom), top)
    for height, (y_end, x_end, line) in zip(heights, ends, strict=True):
        ax.annotate(
            short(line.name),
            xy=(x_end, y_end),
            xytext=(1.03, height),
            textcoords=ax.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color="#222222",
            annotation_clip=False,
            arrowprops=LEADER | {"color": line.look["color"]},
            parse_math=False,
        )


def above(ax: Axes, panel: Panel, width: float) -> None:
    """Write the names of places along x upright above the panel, moved apart where they are close.

    Args:
        width: Of the panel, in inches.
    """
    low, high = ax.get_xlim()
    scale = math.log if panel.x.log else float
    ends = scale(low), scale(high)
    named = sorted(panel.above)
    places = [(scale(at) - ends[0]) / (ends[1] - ends[0]) for at, _ in named]
    for place, moved, (_, name) in zip(
        places, spread(places, min(GAP / width, 1 / len(places)), 1.0), named, strict=True
    ):
        ax.annotate(
            short(name, SPLIT_NAME),
            xy=(place, 1),
            xytext=(moved, 1 + 0.12 / panel.height),
            xycoords="axes fraction",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=SMALL,
            color="#444444",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.6, "color": "#999999", "shrinkA": 0, "shrinkB": 0},
            parse_math=False,
        )
