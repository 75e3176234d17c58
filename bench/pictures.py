"""A picture sheet of a finished run: for some training images what it was given and what it says of them.

Sizes: H W of an image, h w of its panel, C classes of the data set. Label maps hold class ids and 255.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from PIL import Image
from scipy import ndimage
from torch import Tensor

from bench import harness, registry
from bench.config import RunConfig, read_yaml, validate
from bench.contract import IGNORE, Dataset
from bench.errors import ConfigError, DataError
from bench.evaluation import Inference, to_tensor
from bench.files import write_atomic
from bench.identity import Plan, data_root, plan
from bench.maps_to_seeds import best_of, normalised, read_maps
from bench.models import Segmenter
from bench.ops.entropy import partition, pixel_entropy
from bench.ops.tags import restrict
from bench.randomness import numpy_for
from bench.rescore import load_network
from bench.store import Result, RunFolder
from datasets.reading import colours, read_mask
from datasets.split_lists import Split
from datasets.tags import TagTable

MOST = 32  # images of a sheet
ALPHA = 0.2  # share of unreliable pixels where the method has no such knob
DPI = 100
SIDE = 220  # pixels of a panel's longer side
NARROWEST = 150  # pixels of a column, so that its heading has room
GAP, LINE = 10, 14  # pixels between panels, of a line of text
NAMED = 0.03  # share of a panel from which on a region bears its name
SIZES = {"title": 10.0, "heading": 8.0, "name": 7.0}  # points


@dataclass(frozen=True)
class Panel:
    """One picture; without it, a note in its place."""

    picture: np.ndarray | None  # h w 3 uint8
    label: np.ndarray | None = None  # h w uint8, of which large regions bear their names
    note: str = ""


@dataclass(frozen=True)
class Column:
    title: str
    caption: str
    panels: list[Panel]


@dataclass(frozen=True)
class Looked:
    """What a run was given of an image and what it says of it; panels' size, but for the entropy's."""

    id: str
    tags: tuple[int, ...] | None  # the classes it may hold; None where no tags are granted
    image: np.ndarray  # h w 3 uint8
    truth: np.ndarray | None  # h w uint8, as the next ones; None where there is no mask
    heat: np.ndarray | None  # h w float in 0..1; None where there is no seed
    seed: np.ndarray | None
    pseudo_label: np.ndarray
    entropy: Tensor  # H W, nats
    prediction: np.ndarray


def sheet(folder: RunFolder, data_root: Path | None, images: int, to: Path | None = None) -> Path:
    """Write a picture sheet of a finished run, a PNG: the same run gives the same sheet.

    It opens the masks of images whose masks were withheld from the run: for display, after all training.

    Args:
        folder: Of the run.
        data_root: Folder that holds the data sets; None: the one of the run's configuration.
        images: How many training images, 1..32: those that are not granted pixels, else those that are.
        to: File to write; None: in the run's folder.

    Returns:
        The file written.

    Raises:
        ConfigError: The run was not trained to segment, or a number or name of a file is not possible.
        DataError: There is no finished run, or its weights, seeds or images are missing or invalid.
    """
    if not 1 <= images <= MOST:
        raise ConfigError(f"a sheet has 1 to {MOST} images, not {images}; give another --images.")
    if to is not None and to.suffix.lower() != ".png":
        raise ConfigError(f"the sheet is a PNG; give --to a name that ends in .png, not {to.name!r}.")
    result = folder.read_result()
    if result is None:
        raise DataError(f"{folder.path} holds no finished run; give the folder that `run` prints at its end.")
    planned = _planned(folder, data_root, result)
    dataset = _dataset(planned, result)
    net, device = _network(planned)
    granted = harness.granted_tags(planned, dataset) if planned.seeds else {}
    look = partial(_look, planned, dataset, granted, net, device)
    seen = [look(id) for id in chosen(planned.split, images, result.seed)]
    palette = dataset.palette if dataset.palette is not None else colours(len(dataset.classes))
    alpha = float(planned.config.method.get("alpha", ALPHA))
    withheld = seen[0].id not in planned.split.pixel
    columns = columns_of(seen, palette, alpha, planned.seeds is not None, withheld)
    title = (
        f"{result.method} on {result.dataset} {result.split}, seed {result.seed}: {result.steps} steps, "
        f"mIoU {100 * result.predictor.miou:.1f} %"
    )
    headings = [heading(one, dataset) for one in seen]
    path = to or folder.sheet
    write_atomic(path, draw(title, headings, columns, palette, dataset.classes))
    return path


# The run ---------------------------------------------------------------------------------------------------


def _planned(folder: RunFolder, data_root: Path | None, result: Result) -> Plan:
    """The plan of a finished run, wherever its folder lies by now."""
    config = validate(RunConfig, read_yaml(folder.config), file=folder.config)
    changed = {"out": str(folder.root), **({"data_root": str(data_root)} if data_root else {})}
    planned = plan(config.model_copy(update={"machine": config.machine.model_copy(update=changed)}))
    if "pixel" not in planned.method.needs:
        raise ConfigError(
            f"method {result.method!r} learns from tags alone, so its network has not learned to segment; "
            "show a run that learned from its seeds."
        )
    if planned.split.digests != result.split_digests:
        raise DataError(
            f"split {result.split!r} of {result.dataset!r} is not the one that {folder.path} was made with; "
            "restore it."
        )
    if planned.seeds is not None and planned.seeds.folder.read_report() is None:
        raise DataError(
            f"{planned.seeds.folder.path} does not hold the CAM seeds of the run; restore them, or make them "
            "with `cam-seeds`."
        )
    if not folder.weights.is_file():
        raise DataError(f"{folder.weights} does not exist; restore it, or run again with --overwrite.")
    return planned


def _dataset(planned: Plan, result: Result) -> Dataset:
    dataset = registry.load_dataset(result.dataset, data_root(planned.config))
    if list(dataset.classes) != result.classes:
        raise DataError(
            f"the classes of {result.dataset!r} are not those of the run ({', '.join(result.classes)}); "
            "restore them."
        )
    return dataset


def _network(planned: Plan) -> tuple[Segmenter, str]:
    """The scored module, and the device it is on."""
    net = load_network(planned.folder)
    device = harness.choose_device("auto")
    return net.eval().to(device, memory_format=torch.channels_last), device  # type: ignore[call-overload]


def chosen(split: Split, images: int, seed: int) -> list[str]:
    """The ids of a sheet, at random: the first of a larger sheet are those of a smaller one."""
    ids = [*split.tags, *split.none] or [*split.pixel]
    return [ids[i] for i in numpy_for(seed, "sheet").permutation(len(ids))[:images]]


@torch.no_grad()
def _look(planned: Plan, dataset: Dataset, granted: TagTable, net: Segmenter, device: str, id: str) -> Looked:
    image = dataset.image(id)
    size, classes = (image.shape[0], image.shape[1]), len(dataset.classes)
    tags, heat, seed = granted.get(id), None, None
    if planned.seeds is not None and tags is not None:
        known, maps = read_maps(planned.seeds.folder, id)
        heat = best_of(normalised(maps, size, planned.seeds.settings), known).value[0].numpy()
        seed = read_mask(planned.seeds.folder.seed(id), size, classes)
    try:
        truth = dataset.mask(id)
    except DataError:
        truth = None
    protocol = planned.config.protocol
    inference = Inference(protocol.evaluation, protocol.crop)
    batch = to_tensor(image).to(device, memory_format=torch.channels_last)
    pseudo_label, entropy = pseudo_labels(inference.probability(net, batch).cpu(), tags)
    prediction = inference(net, batch)[0].cpu().numpy().astype(np.uint8)
    return Looked(
        id=id,
        tags=tags,
        image=fitted(image),
        truth=None if truth is None else fitted(truth),
        heat=None if heat is None else fitted(heat),
        seed=None if seed is None else fitted(seed),
        pseudo_label=fitted(pseudo_label[0].numpy().astype(np.uint8)),
        entropy=entropy[0],
        prediction=fitted(prediction),
    )


def pseudo_labels(probability: Tensor, tags: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """The likeliest class and the entropy in nats, B H W each, of B C H W; among the tags, where given: then
    the probabilities are those of one of them."""
    if tags:
        allowed = torch.zeros(len(probability), probability.shape[1], dtype=torch.bool)
        allowed[:, list(tags)] = True
        probability = restrict(probability, allowed)
    return probability.argmax(1), pixel_entropy(probability)


def unreliable(entropies: Sequence[Tensor], alpha: float) -> list[np.ndarray]:
    """Which pixels of several images, H W each, are unreliable as U2PL has it, with all images as a batch."""
    together = torch.cat([entropy.flatten() for entropy in entropies])
    flat = partition(together, torch.ones_like(together, dtype=torch.bool), alpha).unreliable
    parts = flat.split([entropy.numel() for entropy in entropies])
    return [part.view(entropy.shape).numpy() for part, entropy in zip(parts, entropies, strict=True)]


# Panels ----------------------------------------------------------------------------------------------------


def fitted(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """H W or H W 3 -> the same with `side` for the longer side: colours are averaged where it shrinks, of
    anything else the nearest pixel is taken."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    h, w = max(round(height * factor), 1), max(round(width * factor), 1)
    if picture.ndim == 3:
        return np.asarray(Image.fromarray(picture).resize((w, h), Image.Resampling.BOX))
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in ((h, height), (w, width))
    )
    return picture[rows[:, None], columns]


def coloured(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """A label map h w in the colours of the classes, C 3 uint8: h w 3. 255 is a grey checkerboard, which is
    no class whatever the palette."""
    y, x = np.indices(label.shape)
    board = np.where((y // 5 + x // 5) % 2, 225, 180).astype(np.uint8)[..., None]
    return np.where((label == IGNORE)[..., None], board, palette[np.where(label == IGNORE, 0, label)])


def hatched(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    """A picture h w 3 with slanted lines, white beside black to be seen on any colour, where h w is true."""
    y, x = np.indices(where.shape)
    place = (y + x) % 6
    lines = np.select([place == 0, place == 1], [255, 0], -1)[..., None]
    return np.where(where[..., None] & (lines >= 0), lines, picture).astype(np.uint8)


def heated(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map h w in 0..1 as colours over the grey image h w 3."""
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


def columns_of(
    seen: Sequence[Looked], palette: np.ndarray, alpha: float, seeds: bool, withheld: bool
) -> list[Column]:
    """The columns of a sheet, with those of seeds where the run has them.

    Args:
        palette: C 3 uint8.
        alpha: Share of unreliable pixels, 0..1.
        withheld: Whether the run was not given the masks of these images.
    """

    def labels(maps: Sequence[np.ndarray | None], note: str = "") -> list[Panel]:
        return [Panel(None, note=note) if one is None else Panel(coloured(one, palette), one) for one in maps]

    def heat(one: Looked) -> Panel:
        return Panel(None, note="no tags") if one.heat is None else Panel(heated(one.image, one.heat))

    marks = [fitted(where) for where in unreliable([one.entropy for one in seen], alpha)]
    pseudo = [
        Panel(hatched(coloured(one.pseudo_label, palette), mark), one.pseudo_label)
        for one, mark in zip(seen, marks, strict=True)
    ]
    of_seeds = [
        Column("activation maps", "of the strongest tag: dark 0, bright 1", [heat(one) for one in seen]),
        Column("seed", "learned in place of a mask", labels([one.seed for one in seen], "no tags")),
    ]
    among = "among the tags; " if seeds else ""
    whose = "masks opened for this sheet" if withheld else "masks that it learned from"
    return [
        Column("image", "", [Panel(one.image) for one in seen]),
        Column("truth", whose, labels([one.truth for one in seen], "no mask")),
        *(of_seeds if seeds else []),
        Column("pseudo-label", f"{among}hatched: the {100 * alpha:.3g} % least sure pixels", pseudo),
        Column("prediction", "as scored, without tags", labels([one.prediction for one in seen])),
    ]


def heading(one: Looked, dataset: Dataset) -> str:
    """What stands over the row of an image."""
    if one.tags is None:
        return one.id
    names = [dataset.classes[c] for c in one.tags if c != dataset.background]
    return f"{one.id}   tags: {', '.join(names) or 'none'}"


# The sheet -------------------------------------------------------------------------------------------------


def draw(
    title: str,
    headings: Sequence[str],
    columns: Sequence[Column],
    palette: np.ndarray,
    classes: Sequence[str],
) -> bytes:
    """The PNG of a sheet: a row for each heading, and below them the classes that occur."""
    measured = FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()

    def width_of(text: str, kind: str = "heading") -> float:
        font = FontProperties(size=SIZES[kind], weight="bold" if kind == "title" else "normal")
        return measured.get_text_width_height_descent(text, font, ismath=False)[0]

    by_row = [
        [panel.picture for panel in panels if panel.picture is not None]
        for panels in zip(*(column.panels for column in columns), strict=True)
    ]
    wide = max(NARROWEST, *(picture.shape[1] for of_row in by_row for picture in of_row))
    total = GAP + len(columns) * (wide + GAP)
    captions = [wrapped(column.caption, wide, width_of) for column in columns]
    titles = wrapped(title, total - 2 * GAP, partial(width_of, kind="title"))
    rows = [wrapped(text, total - 2 * GAP, width_of) for text in headings]

    entries = legend_of(columns, palette, classes)
    patch = entries[0][0].shape[1]
    entry_width = patch + 6 + max(width_of(name) for _, name in entries) + 2 * GAP
    beside = max(int((total - GAP) // entry_width), 1)

    start = GAP + (LINE + 4) * len(titles) + 4  # of the headings of columns
    top = start + LINE + LINE * max(len(caption) for caption in captions) + 6
    heights = [max(picture.shape[0] for picture in of_row) for of_row in by_row]
    tops = []
    below = top
    for lines, high in zip(rows, heights, strict=True):
        below += LINE * len(lines) + 4
        tops.append(below)
        below += high + GAP
    legend = below + GAP
    height = legend + (LINE + 6) * -(-len(entries) // beside) + GAP

    canvas = np.full((height, total, 3), 255, np.uint8)
    # A hair more than the pixels, which inches would round down.
    figure = Figure(figsize=((total + 0.01) / DPI, (height + 0.01) / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, total), ylim=(height, 0))  # data are pixels
    ax.set_axis_off()
    write = partial(ax.text, va="top", fontsize=SIZES["heading"], parse_math=False)

    for number, line in enumerate(titles):
        write(GAP, GAP + (LINE + 4) * number, line, fontsize=SIZES["title"], weight="bold")
    for number, lines in enumerate(rows):
        for place, line in enumerate(lines):
            write(GAP, tops[number] - 2 - LINE * (len(lines) - place), line)
    for number, (column, caption) in enumerate(zip(columns, captions, strict=True)):
        left = GAP + number * (wide + GAP)
        write(left, start, column.title, weight="bold")
        for place, line in enumerate(caption, 1):
            write(left, start + LINE * place, line, color="#444444")
        for panel, y, high in zip(column.panels, tops, heights, strict=True):
            if panel.picture is None:
                write(left + wide / 2, y + high / 2, panel.note, ha="center", color="#444444")
                continue
            h, w = panel.picture.shape[:2]
            canvas[y : y + h, left : left + w] = panel.picture
            if panel.label is not None:
                _write_names(ax, panel.label, classes, left, y)
    for number, (picture, name) in enumerate(entries):
        y = legend + (LINE + 6) * (number // beside)
        left = GAP + round(entry_width * (number % beside))
        canvas[y : y + picture.shape[0], left : left + patch] = picture
        write(left + patch + 6, y + picture.shape[0] / 2, name, va="center")
    figure.figimage(canvas, origin="upper", zorder=-1)  # below the text
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def wrapped(text: str, width: float, width_of: Callable[[str], float]) -> list[str]:
    """The lines of a text, none wider than `width` unless a single word is."""
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
    """A patch of colour and a name for each class that occurs in a panel, for 255 and for the hatching."""
    labels = [panel.label for column in columns for panel in column.panels if panel.label is not None]
    occurring = sorted({value for label in labels for value in np.unique(label).tolist()})
    entries = []
    for value in occurring:
        patch = coloured(np.full((LINE, 24), value, np.uint8), palette)
        patch[[0, -1]] = patch[:, [0, -1]] = 0  # a frame, for a class that is white
        entries.append((patch, "no label, or undecided" if value == IGNORE else classes[value]))
    grey = np.full((LINE, 24, 3), 128, np.uint8)
    return [*entries, (hatched(grey, np.ones(grey.shape[:2], bool)), "unreliable pseudo-label")]


def _write_names(ax: Axes, label: np.ndarray, classes: Sequence[str], left: int, top: int) -> None:
    """The names of the large regions of a panel; one that would cover another's or leave the panel is left
    out."""
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
        # Into the panel, where a region at its edge would have its name cut.
        shift = max(left + 2 - box.x0, 0) - max(box.x1 - (left + w - 2), 0)
        text.set_x(left + column + 0.5 + shift)
        box = text.get_window_extent().transformed(ax.transData.inverted())
        inside = left <= box.x0 and box.x1 <= left + w
        if not inside or any(box.overlaps(other) for other in taken):
            text.remove()
        else:
            taken.append(box)
