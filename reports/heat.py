"""Maps of the classes: IoU of each class by method, and which classes are taken for which."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from bench.records.schema import Result
from reports.plots import (
    LETTER,
    NAME_LENGTH,
    WIDTH,
    Picture,
    batches,
    compose,
    file_name,
    known,
    numbered,
    short,
)
from reports.tables import Table, columns_of, miou_table, runs_of

Values = NDArray[np.float64]
COLOURS = "cividis"
METHODS = 12  # columns of one picture
LIGHT = 50  # percent from which on a cell is light
VALUED_CLASSES = 40  # of more the cells are too low for a number, and only some rows are named
CONFUSION_PANELS = 6  # of one picture
MOST_CONFUSIONS = 30  # methods times splits: nobody reads more, and each takes as long as a table to write
MARKED_CLASSES = 25  # of more no confusion is marked
MARKED = 3  # largest confusions of a panel that are said
CLASS_NAME = 16  # characters
HATCH = {"facecolor": "#eeeeee", "hatch": "////", "edgecolor": "#999999"}


# IoU --------------------------------------------------------------------------------------------------------


def class_ious(runs: Sequence[Result], classes: int) -> Values:
    """Mean IoU of each class over the runs in which it occurs, C in percent; NaN where it occurs in none."""
    table = np.array([run.predictor.iou for run in runs], float).reshape(len(runs), classes)
    known = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        return 100 * np.where(known, table, 0.0).sum(0) / known.sum(0)


def class_maps(group: Sequence[Result]) -> list[Picture]:
    """IoU of each class (rows) and method (columns), a picture for each split."""
    table = miou_table(group)
    runs = runs_of(group)
    pictures = []
    for key, split in columns_of(group).items():
        here = {label: list(by_split[key].values()) for label, by_split in runs.items() if key in by_split}
        pages = batches(len(here), METHODS)
        title = f"IoU of each class on {split.heading}"
        for page, places in enumerate(pages):
            names = [list(here)[place] for place in places]
            values = np.stack([class_ious(here[name], len(table.classes)) for name in names], 1)
            if not np.isfinite(values).any():
                continue
            said = numbered(title, page, len(pages))
            row, column = np.unravel_index(np.nanargmin(values), values.shape)
            alt = (
                f"{said}: the lowest is {values[row, column]:.1f} %, of {table.classes[row]} by "
                f"{names[column]}."
            )
            figure = _class_map(
                table, names, values, f"{table.title}: IoU of each class on {short(split.heading)}"
            )
            pictures.append(Picture(file_name("classes", table, split.label), said, alt, figure))
    return pictures


def _class_map(table: Table, names: Sequence[str], values: Values, title: str) -> Figure:
    classes = len(table.classes)
    valued = classes <= VALUED_CLASSES
    cell = 0.24 if valued else max(0.06, 9.0 / classes)
    left = 0.25 + LETTER * 9 * max(len(short(name, CLASS_NAME)) for name in table.classes)
    shown = [short(name) for name in names]
    # Few columns are not drawn out over the whole page.
    right = max(0.85, WIDTH - left - 0.75 * len(names))
    figure, (ax,) = compose(
        1,
        1,
        cell * classes,
        title=title,
        caption="Mean over the seeds, of the predictor's last weights. Hatched: neither in the truth nor "
        "predicted.",
        left=left,
        right=right,
        above=0.12,
        below=0.15 + LETTER * 9 * max(map(len, shown)),
    )
    norm = Normalize(0, 100)
    _image(ax, values, norm)
    ax.set_xticks(range(len(names)), shown, rotation=90, fontsize=9, parse_math=False)
    _name_classes(ax, table.classes, cell * classes, rows=True)
    if valued:
        _write(ax, values, size=9 if len(names) <= 8 else 8)
    _bar(figure, ax, norm, "IoU (%)", [0, 25, 50, 75, 100])
    return figure


def _write(ax: Axes, values: Values, size: float) -> None:
    """Write every value into its cell, dark on light and light on dark.

    As one collection of outlines for each colour: hundreds of texts would take longer than all else.
    """
    for dark in (False, True):
        cells = np.argwhere(np.isfinite(values) & ((values >= LIGHT) == dark))
        outlines = [number_path(f"{values[row, column]:.1f}", size) for row, column in cells]
        drawn = PathCollection(
            outlines,
            offsets=cells[:, ::-1],
            offset_transform=ax.transData,
            facecolors="black" if dark else "white",
            linewidths=0,
        )
        drawn.set_transform(ax.figure.dpi_scale_trans)
        ax.add_collection(drawn, autolim=False)


@cache  # of percent with one digit there are a thousand and one
def number_path(text: str, size: float) -> Path:
    """Outlines of a number at so many points, in inches around its middle."""
    glyphs = [_glyph(sign, size) for sign in text]
    ends = np.cumsum([0.0, *(advance for _, advance in glyphs)])
    middle = np.array([ends[-1], _glyph("0", size)[0].get_extents().height]) / 2
    starts = np.stack([ends[:-1], np.zeros(len(glyphs))], 1) - middle
    moved = [np.asarray(path.vertices) + start for (path, _), start in zip(glyphs, starts, strict=True)]
    return Path(np.concatenate(moved), np.concatenate([path.codes for path, _ in glyphs]))


@lru_cache
def _glyph(sign: str, size: float) -> tuple[Path, float]:
    """Outline of a sign in inches, and how far the next one stands from it."""
    path, one, both = (TextPath((0, 0), text, size=size / 72) for text in (sign, "1", f"{sign}1"))
    return Path(path.vertices, path.codes), both.get_extents().x1 - one.get_extents().x1


# Confusion --------------------------------------------------------------------------------------------------


def shares(counts: NDArray[np.integer] | Values) -> Values:
    """Confusion counts (truth in rows) as percent of the pixels of the true class; NaN in the row of a
    class that does not occur."""
    counts = np.asarray(counts, float)
    with np.errstate(invalid="ignore"):
        return 100 * counts / counts.sum(1, keepdims=True)


def confused(found: Values, count: int = MARKED) -> list[tuple[int, int]]:
    """The largest shares off the diagonal, as true class and predicted class, the largest first."""
    off = np.where(np.isfinite(found), found, 0.0)
    np.fill_diagonal(off, 0.0)
    order = np.argsort(-off, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), off.shape[1]) for place in order]
    return [pair for pair in pairs if off[pair] > 0]


def confusions(group: Sequence[Result], pooled: Mapping[int, NDArray[np.integer]]) -> list[Picture]:
    """Confusion of the predictor at its last weights, a panel for each method, pictures for each split.

    Of more than `MOST_CONFUSIONS` cells, only the first row of the table and the best one of each split are
    drawn.

    Args:
        group: Runs that may stand in one table.
        pooled: C C pixel counts, truth in rows, by identity of the result; a run may lack them.
    """
    table = miou_table(group)
    runs = runs_of(group)
    many = sum(map(len, runs.values())) > MOST_CONFUSIONS
    together: list[tuple[tuple[str, ...], str, list[tuple[str, Values]]]] = []
    for number, (key, split) in enumerate(columns_of(group).items()):
        panels = []
        for label in _first_and_best(table, number) if many else list(runs):
            counts = [pooled[id(run)] for run in runs[label].get(key, {}).values() if id(run) in pooled]
            if counts and np.sum(counts) > 0:
                name = f"{split.label}: {label}" if many else label
                panels.append((name, shares(np.sum(counts, axis=0))))
        if panels:
            together.append(((split.label,), f"Confusion on {split.heading}", panels))
    if many:
        together = [((), "Confusion", [panel for _, _, panels in together for panel in panels])]
    return [picture for found in together for picture in _confusions(table, *found, many)]


def _confusions(
    table: Table, split: tuple[str, ...], title: str, panels: Sequence[tuple[str, Values]], chosen: bool
) -> Iterator[Picture]:
    """The panels in as few pictures as hold them; `split` is that of all, () where they are of several."""
    pages = batches(len(panels), CONFUSION_PANELS)
    for page, places in enumerate(pages):
        shown = [panels[place] for place in places]
        said = numbered(title, page, len(pages))
        figure = _confusion(table, shown, f"{table.title}: {said[0].lower()}{said[1:]}", chosen)
        words = [f"{label}: {', '.join(pairs)}" for label, found in shown if (pairs := _pairs(table, found))]
        alt = f"{said}. Most often confused: {'; '.join(words) or 'no classes'}."
        yield Picture(file_name("confusion", table, *split), said, alt, figure)


def _first_and_best(table: Table, column: int) -> list[str]:
    """Labels of the first row that has runs on a split, and of the one with the highest mean."""
    cells = [(row.label, cell) for row in table.rows if known(cell := row.cells[column])]
    best = max(cells, key=lambda cell: cell[1].mean, default=None)
    return list(dict.fromkeys(label for label, _ in [*cells[:1], *([best] if best else [])]))


def _pairs(table: Table, found: Values, length: int = CLASS_NAME) -> list[str]:
    """The largest confusions of a panel in words, with names of at most so many characters."""
    return [
        f"{short(table.classes[true], length)} as {short(table.classes[taken], length)} "
        f"{found[true, taken]:.0f} %"
        for true, taken in confused(found)
    ]


def _confusion(table: Table, panels: Sequence[tuple[str, Values]], title: str, chosen: bool) -> Figure:
    """The figure; `chosen` where there are more methods than panels."""
    classes = len(table.classes)
    columns = 2 if len(panels) > 1 else 1
    names = LETTER * 9 * max(len(short(name, CLASS_NAME)) for name in table.classes)
    sides = (names, 0.85)
    left, right = 0.2, 0.1
    fitting = (WIDTH - sum(sides)) / columns - left - right
    side = min(fitting, max(1.8, 0.35 * classes))
    right += fitting - side
    marked = classes <= MARKED_CLASSES
    lines = MARKED if marked else 0
    figure, axes = compose(
        len(panels),
        columns,
        side,
        title=title,
        caption="Truth in rows, prediction in columns: share of the pixels of the true class, of the last "
        "weights, over all seeds. Hatched: not in the truth."
        + (" Framed and above each panel: what is most often taken for what." if marked else "")
        + (" Of many methods the first row of the table and the best one are drawn." if chosen else ""),
        sides=sides,
        left=left,
        right=right,
        above=0.3 + 0.16 * lines,
        below=0.2,
        under=names,
    )
    norm = PowerNorm(0.5, 0, 100)  # most shares off the diagonal are small
    for place, (ax, (label, found)) in enumerate(zip(axes, panels, strict=True)):
        _image(ax, found, norm)
        room = (fitting + left) / LETTER  # letters of one point
        height = 1 + 0.16 * lines / side
        ax.set_title(
            short(label, min(int(room / 10), NAME_LENGTH)),
            fontsize=10,
            loc="left",
            y=height,
            parse_math=False,
        )
        _name_classes(ax, table.classes, side, rows=True, hidden=place % columns > 0)
        _name_classes(ax, table.classes, side, rows=False, hidden=place < len(panels) - columns)
        pairs = confused(found) if marked else []
        if pairs:
            frame: dict[str, Any] = {
                "marker": "s",
                "linestyle": "none",
                "fillstyle": "none",
                "markersize": 72 * side / classes,
            }
            for colour, width in (("black", 2.5), ("white", 1.0)):
                x, y = [taken for _, taken in pairs], [true for true, _ in pairs]
                ax.plot(x, y, color=colour, markeredgewidth=width, **frame)
            said = "\n".join(_pairs(table, found, int((room / 9 - len(" as  100 %")) / 2)))
            ax.text(0, 1.015, said, fontsize=9, va="bottom", transform=ax.transAxes, parse_math=False)
    _bar(
        figure, axes[min(columns, len(axes)) - 1], norm, "share of the true class (%)", [0, 1, 5, 20, 50, 100]
    )
    return figure


# Both -------------------------------------------------------------------------------------------------------


def _image(ax: Axes, values: Values, norm: Normalize) -> None:
    """The values as cells; the hatched ground shows through where there is none."""
    ax.patch.set(**HATCH)
    ax.imshow(np.ma.masked_invalid(values), norm=norm, cmap=COLOURS, aspect="auto", interpolation="none")
    ax.tick_params(length=2, pad=2)


def _name_classes(
    ax: Axes, classes: Sequence[str], inches: float, *, rows: bool, hidden: bool = False
) -> None:
    """Name as many classes as have room on `inches` of an axis; none where a panel beside names them."""
    if hidden:
        (ax.yaxis if rows else ax.xaxis).set_visible(False)
        return
    stride = math.ceil(0.14 * len(classes) / inches)
    names = [short(name, CLASS_NAME) for name in classes[::stride]]
    places = range(0, len(classes), stride)
    if rows:
        ax.set_yticks(places, names, fontsize=9, parse_math=False)
    else:
        ax.set_xticks(places, names, fontsize=9, rotation=90, parse_math=False)


def _bar(figure: Figure, ax: Axes, norm: Normalize, said: str, ticks: Sequence[float]) -> None:
    """A colour bar at the right of a panel."""
    place = ax.get_position()
    width, height = figure.get_size_inches()
    tall = min(place.height, 2.5 / height)
    bar = figure.add_axes((place.x1 + 0.12 / width, place.y1 - tall, 0.14 / width, tall))
    figure.colorbar(ScalarMappable(norm, COLOURS), cax=bar, ticks=ticks)
    bar.tick_params(labelsize=9)
    bar.set_ylabel(said, fontsize=9)
