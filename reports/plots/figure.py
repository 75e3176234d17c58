"""Draws every picture of the report, and is the only file that does; panels are laid out by matplotlib.

Heading, legend and caption are stacked by their numbers of lines, with the panels between them.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis as Ticked
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN, CARETUP
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullLocator

from bench.errors import plain
from bench.pool import Pool
from reports.plots.names import SMALL, SPLIT_NAME, above, beside, lanes
from reports.plots.picture import CLASS_NAME, LETTER, NAME_LENGTH, Axis, Line, Map, Panel, Picture, short
from reports.plots.svg import lean

OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"pil_kwargs": {"compress_level": 3}},  # a quarter of the time for a few percent of the size
    "svg": {"metadata": dict.fromkeys(("Date", "Creator", "Format", "Type"))},
}
DPI = 100  # of a PNG
FEW = 6  # pictures are drawn while a process starts
HATCH = {"facecolor": "#eeeeee", "hatch": "////", "edgecolor": "#999999"}
LIGHT = 50  # percent from which on a cell is light
TEXT: dict[str, Any] = {"ha": "left", "va": "top", "parse_math": False}
Drawing = tuple[dict[str, bytes], tuple[float, float]]  # its files by their endings; inches, width and height


def render(figure: Figure, said: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """Write the figure as "png" and "svg". Equal figures give equal bytes.

    Args:
        said: Texts that the PNG says of itself, by keyword.
    """
    found = {}
    # Text stays text in an SVG: it can be searched and read aloud, and takes less than its outlines.
    # One name of a font, and not ten, beside each text.
    with matplotlib.rc_context(
        {"svg.hashsalt": "frugalseg", "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"]}
    ):
        for ending, options in OPTIONS.items():
            file = io.BytesIO()
            about = {"metadata": said or {}} if ending == "png" else {}
            figure.savefig(file, format=ending, dpi=DPI, **(options | about))
            found[ending] = file.getvalue()
    found["svg"] = lean(found["svg"])
    return found


def drawings(
    pictures: Sequence[Picture], jobs: int = 1, on_item: Callable[[int, int], None] | None = None
) -> list[Drawing]:
    """Draw pictures, in processes where they are many: each takes half a second.

    Args:
        jobs: Processes, at most.
        on_item: Called with the number of pictures drawn and that of all, after each.
    """
    found = []

    def keep(one: Drawing) -> None:
        found.append(one)
        if on_item:
            on_item(len(found), len(pictures))

    jobs = min(jobs, len(pictures) // FEW)
    if jobs < 2:
        for picture in pictures:
            keep(_drawing(picture))
        return found
    with Pool(jobs, _drawing) as pool:
        for picture, drawn in [(picture, pool.submit(picture)) for picture in pictures]:
            try:
                keep(drawn.result())
            except BrokenProcessPool:  # it was killed, for want of memory perhaps
                keep(_drawing(picture))
    return found


def _drawing(picture: Picture) -> Drawing:
    figure = draw(picture)
    return render(figure), (figure.get_figwidth(), figure.get_figheight())


def draw(picture: Picture) -> Figure:
    """Draw a picture as a figure: its panels in rows, under the heading, over the legend and the
    first sentence of the caption."""
    width, columns = picture.width, picture.columns
    heading = wrapped(picture.heading, 11, width - 0.2, bold=True)
    said = wrapped(picture.first_sentence, 9, width - 0.2) if picture.caption else []
    names = [short(name) for name, _ in picture.keys]
    longest = max(map(len, names), default=0)
    across = max(1, min(int((width - 0.2) / (0.65 + LETTER * 9 * longest)), len(names)))
    bottom = 0.1 + 0.17 * len(said)
    legend = 0.1 + 0.205 * math.ceil(len(names) / across) if names else 0.0
    top = 0.12 + 0.2 * len(heading)
    blocks = _blocks(picture)
    inches = [sum(sum(_heights(row)) for row in block) for block in blocks]
    total = top + sum(inches) + legend + bottom
    cells = any(panel and panel.map and panel.map.cell for panel in picture.panels)
    engine = ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06, hspace=0, wspace=0, compress=cells)
    x = 0.1 / width
    engine.set(rect=(x / 2, (legend + bottom) / total, 1 - x, sum(inches) / total))
    figure = Figure(figsize=(width, total), layout=engine)
    FigureCanvasAgg(figure)
    figure.text(x, 1 - 0.08 / total, "\n".join(heading), fontsize=11, weight="bold", in_layout=False, **TEXT)
    figure.text(
        x, (bottom - 0.04) / total, "\n".join(said), fontsize=9, color="#444444", in_layout=False, **TEXT
    )
    if names:
        _legend(figure, picture, names, across, (x, bottom / total))
    parts = figure.subfigures(len(blocks), 1, squeeze=False, height_ratios=inches)[:, 0]
    for part, block in zip(parts, blocks, strict=True):
        ratios = [_heights(row)[0] for row in block]
        axes = part.subplots(len(block), columns, squeeze=False, height_ratios=ratios)
        for ax, panel in zip(axes.flat, [panel for row in block for panel in row], strict=True):
            if panel is None:
                ax.remove()
            else:
                _panel(ax, panel, width / columns)
    _freeze(figure)
    return figure


Row = tuple[Panel | None, ...]


def _blocks(picture: Picture) -> list[list[Row]]:
    """Set the panels in rows, those of lines apart from those of maps: the names beside lines take no room
    from the maps then."""
    columns = picture.columns
    panels = (*picture.panels, *[None] * (-len(picture.panels) % columns))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    blocks = groupby(rows, lambda row: any(panel and panel.map for panel in row))
    return [list(block) for _, block in blocks]


def _heights(row: Row) -> tuple[float, float]:
    """Inches of the panels of a row, and of what is above and below them."""
    panels = [panel for panel in row if panel]
    return max(panel.height for panel in panels), max(map(_beside, panels))


def _legend(
    figure: Figure, picture: Picture, names: Sequence[str], across: int, place: tuple[float, float]
) -> None:
    drawn = figure.legend(
        [Line2D([], [], **look) for _, look in picture.keys],
        names,
        loc="lower left",
        bbox_to_anchor=place,
        ncols=across,
        fontsize=9,
        frameon=False,
        handlelength=3,
        columnspacing=1,
        borderaxespad=0,
    )
    drawn.set_in_layout(False)
    for entry in drawn.get_texts():
        entry.set_parse_math(False)


def _beside(panel: Panel) -> float:
    """Inches above and below a panel for its title, its ticks and their names."""
    found = (
        0.2 + (0.22 if panel.title else 0) + (0.2 if panel.x.title else 0) + (0.2 if any(panel.lanes) else 0)
    )
    if panel.map:
        found += 0.16 * len(panel.map.said)
    if panel.above:
        found += LETTER * SMALL * max(len(short(text, SPLIT_NAME)) for _, text in panel.above) + 0.2
    names = panel.map.columns if panel.map else ()
    texts = [*names, *(text for _, text in panel.x.ticks or ())] or ["0"]
    if names or panel.x.upright:
        # Other letters than Latin ones may be nearly twice as wide.
        wide = (len(text) + sum(letter > "\x7f" for letter in text) for text in map(short, texts))
        return found + LETTER * 9 * max(wide)
    return found + 0.16 * max(text.count("\n") + 1 if text else 0 for text in texts)


def _freeze(figure: Figure) -> None:
    """Lay the figure out for good. The solver's rounding errors differ from one time to the next, and the ids
    in an SVG are made of them: equal figures shall give equal files."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)  # alone, which takes half the time of a drawing
    figure.set_layout_engine("none")
    for part in figure.subfigs:
        part.bbox_relative.bounds = tuple(np.round(part.bbox_relative.bounds, 6))
    for ax in figure.axes:
        ax.set_position(tuple(np.round(ax.get_position(original=True).bounds, 6)))


def wrapped(text: str, size: float, width: float, *, bold: bool = False) -> list[str]:
    """Break the text into lines of at most `width` inches. `size` is that of the font, in points."""
    return textwrap.wrap(plain(text), int(width / (LETTER * size * (1.15 if bold else 0.95)))) or [""]


# Panels -----------------------------------------------------------------------------------------------------


def _panel(ax: Axes, panel: Panel, width: float) -> None:
    """Args: width: Of the panel with its margins, in inches."""
    ax.tick_params(labelsize=9)
    if panel.map:
        _map(ax, panel.map, panel.height)
    else:
        _axes(ax, panel, width)
    for axis, of in ((ax.xaxis, panel.x), (ax.yaxis, panel.y)):
        if of.title:
            axis.set_label_text(of.title, fontsize=9, parse_math=False)
    if panel.title:
        title = short(panel.title, int((width - 0.5) / (LETTER * 10)))
        # With a height of its own, or every drawing would look for one.
        lines = len(panel.map.said) if panel.map else 0
        ax.set_title(title, fontsize=10, loc="left", y=1 + 0.16 * lines / panel.height, parse_math=False)
    if panel.dashed is not None:
        # Over the maps and under the lines; the white shows it on dark cells.
        ax.axvline(panel.dashed, color="white", linewidth=2.2, zorder=1)
        ax.axvline(panel.dashed, color="black", linewidth=1, linestyle=(0, (4, 3)), zorder=1)


def _axes(ax: Axes, panel: Panel, width: float) -> None:
    if panel.x.log:
        ax.set_xscale("log")
    for set_limits, of in ((ax.set_xlim, panel.x), (ax.set_ylim, panel.y)):
        if of.limits:
            set_limits(*of.limits)
    for line in panel.lines:
        _line(ax, line)
    bottom, top = ax.get_ylim()
    # A figure that moves little is not shown as a cliff.
    if panel.y.limits is None and bottom < 0.5 * top and (panel.y.zero or bottom > 0):
        ax.set_ylim(0, top)
    ax.grid(axis="y", color="#dddddd", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    _ticks(ax.xaxis, panel.x)
    _ticks(ax.yaxis, panel.y)
    if panel.lanes:
        lanes(ax, panel.lanes)
    if panel.named:
        beside(ax, panel)
    if panel.above:
        above(ax, panel, width)


def _line(ax: Axes, line: Line) -> None:
    looks: dict[str, Any] = {**line.look}
    if line.low is None or line.high is None or line.band:
        (drawn,) = ax.plot(line.x, line.y, **looks)
        drawn.set_gid(plain(line.name))
        if line.low is not None and line.high is not None and np.any(line.low < line.high):
            ax.fill_between(line.x, line.low, line.high, color=looks["color"], alpha=0.15, linewidth=0)
        return
    spans = [line.y - line.low, line.high - line.y]
    drawn = ax.errorbar(line.x, line.y, yerr=spans, elinewidth=1, capsize=3, **looks).lines[0]
    drawn.set_gid(plain(line.name))
    bottom, top = ax.get_ylim()
    for edge, beyond, marker in ((bottom, line.low < bottom, CARETDOWN), (top, line.high > top, CARETUP)):
        at = line.x[beyond]
        if len(at):
            arrow = {"color": looks["color"], "marker": marker, "markersize": 6, "linestyle": "none"}
            ax.plot(at, np.full(len(at), edge), clip_on=False, **arrow)


def _ticks(axis: Ticked, of: Axis) -> None:
    """Fix the ticks of an axis: searching them in every drawing costs a tenth of it."""
    axis.set_minor_locator(NullLocator())
    if of.ticks is not None:
        axis.set_ticks([at for at, _ in of.ticks], [text for _, text in of.ticks], parse_math=False)
        if of.upright:
            axis.set_tick_params(rotation=90)
        return
    low, high = sorted(axis.get_view_interval())
    found = MaxNLocator(4, steps=[1, 2, 5, 10], min_n_ticks=3).tick_values(low, high)
    ticks = [float(tick) for tick in found if low <= tick <= high]
    axis.set_ticks(ticks, [f"{tick:.6g}" for tick in ticks])


# Maps -------------------------------------------------------------------------------------------------------


def _map(ax: Axes, of: Map, height: float) -> None:
    """Draw the values as cells; the hatched ground shows through where there is none."""
    values = np.ma.masked_invalid(of.values)
    norms = {"even": Normalize, "decades": LogNorm}
    norm = PowerNorm(0.5, *of.ends) if of.scale == "root" else norms[of.scale](*of.ends)
    colours = "viridis_r" if of.white else "cividis"
    ax.patch.set(**HATCH)
    if of.edges is not None:
        rows = np.arange(len(values) + 1) - 0.5
        zero = np.ma.masked_where(np.ma.filled(values, 1.0) != 0, of.values)
        ax.pcolormesh(of.edges, rows, zero, cmap=ListedColormap(["white"]), rasterized=True)
        some = np.ma.masked_where(~(of.values > 0), of.values)
        drawn: Any = ax.pcolormesh(of.edges, rows, some, norm=norm, cmap=colours, rasterized=True)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        ax.set_xlim(0, of.edges[-1])
        ax.set_ylim(len(values) - 0.5, -0.5)
    else:
        drawn = ax.imshow(values, norm=norm, cmap=colours, aspect="auto", interpolation="none")
    if of.cell:
        ax.set_box_aspect(len(values) * of.cell[1] / (values.shape[1] * of.cell[0]))
        ax.set_anchor("NW")
    ax.tick_params(length=2, pad=2)
    stride = math.ceil((0.14 if of.cell else 0.18) * len(values) / height)
    _names(ax.yaxis, of.rows, stride, CLASS_NAME)
    if of.edges is None:
        _names(ax.xaxis, of.columns, math.ceil(0.14 / of.cell[0]) if of.cell else 1, NAME_LENGTH)
        ax.xaxis.set_tick_params(rotation=90)
    if of.written:
        _write(ax, of.values)
    for colour, width in (("black", 2.5), ("white", 1.0)) if of.framed else ():
        for row, column in of.framed:
            place = (column - 0.5, row - 0.5)
            frame = Rectangle(place, 1, 1, fill=False, edgecolor=colour, linewidth=width, zorder=3)
            ax.add_patch(frame)
    if of.said:
        ax.text(
            0, 1.015, "\n".join(of.said), fontsize=9, va="bottom", transform=ax.transAxes, parse_math=False
        )
    if of.bar:
        bar = ax.figure.colorbar(drawn, ax=ax, pad=0.02, aspect=14, ticks=of.ticks)
        bar.ax.tick_params(labelsize=9)
        bar.set_label(of.bar, fontsize=9)


def _names(axis: Ticked, names: Sequence[str], stride: int, length: int) -> None:
    """Every name, or of many every second, third ...; none where a panel beside has them."""
    if not names:
        axis.set_visible(False)
        return
    shown = [short(name, length) for name in names[::stride]]
    axis.set_ticks(range(0, len(names), stride), shown, fontsize=9, parse_math=False)


def _write(ax: Axes, values: Any) -> None:
    """Write every value into its cell, dark on light and light on dark."""
    for row, column in np.argwhere(np.isfinite(values)):
        value = values[row, column]
        text = ax.text(
            column,
            row,
            f"{value:.1f}",
            color="black" if value >= LIGHT else "white",
            ha="center",
            va="center",
            fontsize=9,
        )
        text.set_in_layout(False)
