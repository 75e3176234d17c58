"""Picture sheets, as a PNG: a row for each image, a column for each thing said of it; and that of a run.

Sizes: h w of a picture, C classes of the data set. Label maps hold class ids and 255.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from scipy import ndimage

from bench.labels import IGNORE

if TYPE_CHECKING:  # it loads torch, and reports draw their sheets without
    from bench.scoring.looks import LookedAt, Looks

DPI = 100
NARROWEST = 150  # pixels of a column, so that its heading has room
GAP, LINE = 10, 14  # pixels between tiles, of a line of text
PATCH = 24  # width of a patch of colour in the legend
NAMED = 0.03  # share of a tile from which on a region bears its name
SIZES = {"title": 10.0, "column": 8.0, "heading": 8.0, "name": 7.0}  # points
BOLD = ("title", "column")


@dataclass(frozen=True)
class SheetTile:
    """One picture; without it, a note in its place."""

    picture: np.ndarray | None  # h w 3 uint8
    label: np.ndarray | None = None  # h w uint8, of which large regions bear their names
    note: str = ""
    said: str = ""  # over it
    marked: bool = False  # it bears hatching, which the legend explains


@dataclass(frozen=True)
class Column:
    title: str
    caption: str
    tiles: list[SheetTile]


def coloured(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colour a label map h w with the colours of the classes, C 3 uint8. Gives h w 3.

    255 is a grey checkerboard, which no palette gives to a class.
    """
    y, x = np.indices(label.shape)
    board = np.where((y // 5 + x // 5) % 2, 225, 180).astype(np.uint8)[..., None]
    return np.where((label == IGNORE)[..., None], board, palette[np.where(label == IGNORE, 0, label)])


def hatched(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Draw slanted lines on a picture h w 3, where h w is true.

    White lies beside black, to be seen on any colour.
    """
    y, x = np.indices(where.shape)
    place = (y + x) % 6
    lines = np.select([place == 0, place == 1], [255, 0], -1)[..., None]
    return np.where(where[..., None] & (lines >= 0), lines, picture).astype(np.uint8)


def heated(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Draw a map h w in 0..1 as colours over the grey image h w 3."""
    grey = image.mean(2, keepdims=True)
    colour = 255 * matplotlib.colormaps["inferno"](heat)[..., :3]
    share = 0.2 + 0.5 * heat[..., None]  # the weaker the map, the more of the image
    return ((1 - share) * grey + share * colour).round().astype(np.uint8)


def named_places(label: np.ndarray) -> list[tuple[int, int, int]]:
    """Class, row and column of each connected region that is large enough to bear its name, the largest
    first. None of 255. The place is the region's pixel nearest to its centre, of those well inside it."""
    found = []
    for value in np.unique(label[label != IGNORE]).tolist():
        regions, count = ndimage.label(label == value)
        for number in range(1, count + 1):
            region = regions == number
            if region.sum() < NAMED * label.size:
                continue
            depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
            rows, columns = np.nonzero(depth >= depth.max() / 2)
            centre = np.argwhere(region).mean(0)
            middle = np.hypot(rows - centre[0], columns - centre[1]).argmin()
            found.append((-int(region.sum()), value, int(rows[middle]), int(columns[middle])))
    return [(value, row, column) for _, value, row, column in sorted(found)]


def columns_of(looks: Looks) -> list[Column]:
    """Make the columns of a sheet, with those of seeds where the run has them."""
    seen, palette = looks.images, looks.palette

    def labels(maps: Sequence[np.ndarray | None], note: str = "") -> list[SheetTile]:
        return [
            SheetTile(None, note=note) if one is None else SheetTile(coloured(one, palette), one)
            for one in maps
        ]

    def heat(one: LookedAt) -> SheetTile:
        return SheetTile(None, note="no tags") if one.heat is None else SheetTile(heated(one.image, one.heat))

    def pseudo(one: LookedAt) -> SheetTile:
        picture = coloured(one.pseudo_label, palette)
        if one.unreliable is None:
            return SheetTile(picture, one.pseudo_label)
        return SheetTile(hatched(picture, one.unreliable), one.pseudo_label, marked=True)

    of_seeds = [
        Column("activation maps", "of the strongest tag: dark 0, bright 1", [heat(one) for one in seen]),
        Column("seed", "learned in place of a mask", labels([one.seed for one in seen], "no tags")),
    ]
    among = "among the tags; " if looks.seeds else ""
    least_sure = f"{among}hatched: the {100 * looks.alpha:.3g} % least sure pixels"
    whose = "masks opened for this sheet" if looks.withheld else "masks that it learned from"
    return [
        Column("image", "", [SheetTile(one.image) for one in seen]),
        Column("truth", whose, labels([one.truth for one in seen], "no mask")),
        *(of_seeds if looks.seeds else []),
        Column("pseudo-label", least_sure, [pseudo(one) for one in seen]),
        Column("prediction", "as scored, without tags", labels([one.prediction for one in seen])),
    ]


def heading(one: LookedAt, classes: Sequence[str], background: int | None) -> str:
    """Write the line over the row of an image: "t03   tags: cat, dog"."""
    if one.tags is None:
        return one.id
    names = [classes[c] for c in one.tags if c != background]
    return f"{one.id}   tags: {', '.join(names) or 'none'}"


def picture_sheet(looks: Looks) -> bytes:
    """Draw a run's picture sheet as a PNG. The same looks give the same bytes."""
    result = looks.result
    title = (
        f"{result.method} on {result.dataset} {result.drawn_split}, seed {result.seed}: "
        f"{result.steps} steps, mIoU {100 * result.predictor.miou:.1f} %"
    )
    headings = [heading(one, result.classes, looks.background) for one in looks.images]
    return draw(title, headings, columns_of(looks), looks.palette, result.classes)


@dataclass(frozen=True)
class Layout:
    """Where everything of a sheet goes, in pixels from its top left."""

    width: int
    height: int
    column: int  # width of a column
    titles: list[str]  # lines of the title
    rows: list[list[str]]  # lines of each row's heading, an empty one where something is said over its tiles
    heads: list[list[str]]  # lines of each column's title
    captions: list[list[str]]  # lines of each column's caption
    headings: int  # top of the headings of columns
    tops: list[int]  # of each row's tiles
    heights: list[int]
    legend: int
    entry: float  # width of an entry of the legend
    beside: int  # entries beside each other


def layout(title: str, headings: Sequence[str], columns: Sequence[Column], names: Sequence[str]) -> Layout:
    """Lay out a sheet by the sizes of its pictures and of its text.

    Args:
        names: Of the legend's entries.
    """
    measured = FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()

    def width_of(text: str, kind: str = "heading") -> float:
        font = FontProperties(size=SIZES[kind], weight="bold" if kind in BOLD else "normal")
        return measured.get_text_width_height_descent(text, font, ismath=False)[0]

    by_tile = list(zip(*(column.tiles for column in columns), strict=True))
    by_row = [[tile.picture for tile in tiles if tile.picture is not None] for tiles in by_tile]
    wide = max(NARROWEST, *(picture.shape[1] for of_row in by_row for picture in of_row))
    total = GAP + len(columns) * (wide + GAP)
    heads = [folded(column.title, wide, partial(width_of, kind="column")) for column in columns]
    captions = [folded(column.caption, wide, width_of) for column in columns]
    titles = folded(title, total - 2 * GAP, partial(width_of, kind="title"))
    rows = [
        [*folded(text, total - 2 * GAP, width_of), *([""] if any(tile.said for tile in tiles) else [])]
        for text, tiles in zip(headings, by_tile, strict=True)
    ]
    entry = PATCH + 6 + max(map(width_of, names)) + 2 * GAP
    beside = max(int((total - GAP) // entry), 1)

    start = GAP + (LINE + 4) * len(titles) + 4
    below = start + LINE * max(len(head) + len(of) for head, of in zip(heads, captions, strict=True)) + 6
    heights = [max(picture.shape[0] for picture in of_row) for of_row in by_row]
    tops = []
    for lines, high in zip(rows, heights, strict=True):
        below += LINE * len(lines) + 4
        tops.append(below)
        below += high + GAP
    legend = below + GAP
    height = legend + (LINE + 6) * -(-len(names) // beside) + GAP
    return Layout(
        total, height, wide, titles, rows, heads, captions, start, tops, heights, legend, entry, beside
    )  # fmt: skip


def draw(
    title: str,
    headings: Sequence[str],
    columns: Sequence[Column],
    palette: np.ndarray,
    classes: Sequence[str],
) -> bytes:
    """Draw a sheet as a PNG: a row for each heading, and below them the classes that occur."""
    entries = legend_of(columns, palette, classes)
    at = layout(title, headings, columns, [name for _, name in entries])
    canvas = np.full((at.height, at.width, 3), 255, np.uint8)
    # A hair more than the pixels, which inches would round down.
    figure = Figure(figsize=((at.width + 0.01) / DPI, (at.height + 0.01) / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, at.width), ylim=(at.height, 0))  # data are pixels
    ax.set_axis_off()
    write = partial(ax.text, va="top", fontsize=SIZES["heading"], parse_math=False)

    for number, line in enumerate(at.titles):
        write(GAP, GAP + (LINE + 4) * number, line, fontsize=SIZES["title"], weight="bold")
    for top, lines in zip(at.tops, at.rows, strict=True):
        for place, line in enumerate(lines):
            write(GAP, top - 2 - LINE * (len(lines) - place), line)
    for number, (column, head, caption) in enumerate(zip(columns, at.heads, at.captions, strict=True)):
        left = GAP + number * (at.column + GAP)
        for place, line in enumerate(head):
            write(left, at.headings + LINE * place, line, weight="bold")
        for place, line in enumerate(caption, len(head)):
            write(left, at.headings + LINE * place, line, color="#444444")
        for tile, y, high in zip(column.tiles, at.tops, at.heights, strict=True):
            if tile.picture is None:
                write(left + at.column / 2, y + high / 2, tile.note, ha="center", color="#444444")
                continue
            h, w = tile.picture.shape[:2]
            canvas[y : y + h, left : left + w] = tile.picture
            write(left, y - 2 - LINE, tile.said)
            if tile.label is not None:
                _write_names(ax, tile.label, classes, left, y)
    for number, (picture, name) in enumerate(entries):
        y = at.legend + (LINE + 6) * (number // at.beside)
        left = GAP + round(at.entry * (number % at.beside))
        canvas[y : y + picture.shape[0], left : left + PATCH] = picture
        write(left + PATCH + 6, y + picture.shape[0] / 2, name, va="center")
    figure.figimage(canvas, origin="upper", zorder=-1)  # below the text
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def folded(text: str, width: float, width_of: Callable[[str], float]) -> list[str]:
    """Fold a text into lines, none wider than `width` unless a single word is."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and width_of(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [line for line in lines if line]


def legend_of(
    columns: Sequence[Column], palette: np.ndarray, classes: Sequence[str]
) -> list[tuple[np.ndarray, str]]:
    """Give a colour patch and a name for each class that occurs in a tile, for 255 and for any hatching."""
    tiles = [tile for column in columns for tile in column.tiles]
    labels = [tile.label for tile in tiles if tile.label is not None]
    occurring = sorted({value for label in labels for value in np.unique(label).tolist()})
    entries = []
    for value in occurring:
        patch = coloured(np.full((LINE, PATCH), value, np.uint8), palette)
        patch[[0, -1]] = patch[:, [0, -1]] = 0  # a frame, for a class that is white
        entries.append((patch, "no label, or undecided" if value == IGNORE else classes[value]))
    if any(tile.marked for tile in tiles):
        grey = np.full((LINE, PATCH, 3), 128, np.uint8)
        entries.append((hatched(grey, np.ones(grey.shape[:2], bool)), "unreliable pseudo-label"))
    return entries


def _write_names(ax: Axes, label: np.ndarray, classes: Sequence[str], left: int, top: int) -> None:
    """Write the names of the large regions on a tile.

    A name that would cover another one or leave the tile is left out.
    """
    w = label.shape[1]
    taken: list[Bbox] = []
    for value, row, column in named_places(label):
        text = ax.text(
            left + column + 0.5,
            top + row + 0.5,
            classes[value],
            ha="center",
            va="center",
            color="white",
            fontsize=SIZES["name"],
            path_effects=[withStroke(linewidth=2, foreground="black")],
            parse_math=False,
        )
        box = text.get_window_extent().transformed(ax.transData.inverted())  # in pixels from the top left
        # Into the tile, where a region at its edge would have its name cut.
        shift = max(left + 2 - box.x0, 0) - max(box.x1 - (left + w - 2), 0)
        text.set_x(left + column + 0.5 + shift)
        box = text.get_window_extent().transformed(ax.transData.inverted())
        inside = left <= box.x0 and box.x1 <= left + w
        if not inside or any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)
