"""Maps of the classes: IoU of each class by method, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.records.schema import Result
from reports.groups import Group, Row
from reports.plots import picture as p

METHODS = 12  # columns of one picture
VALUED_CLASSES = 40  # of more the cells are too low for a number, and only some rows are named
CONFUSION_PANELS = 6  # of one picture
MOST_CONFUSIONS = 30  # methods times splits: nobody reads more, and each takes as long as a table to write
MARKED_CLASSES = 25  # of more no confusion is marked
MARKED = 3  # largest confusions of a panel that are said


# IoU --------------------------------------------------------------------------------------------------------


def class_ious(runs: Sequence[Result], classes: int) -> p.Values:
    """Mean IoU of each class over the runs in which it occurs, C in percent; NaN where it occurs in none."""
    table = np.array([run.predictor.iou for run in runs], float).reshape(len(runs), classes)
    return 100 * np.ma.masked_invalid(table).mean(0).filled(np.nan)


def class_maps(group: Group) -> list[p.Picture]:
    """IoU of each class (rows) and method (columns), a picture for each split."""
    pictures = []
    for split in group.splits:
        rows = [row for row in group.rows if row.on(split)]
        for title, shown in p.paged(f"IoU of each class on {split.heading}", rows, METHODS):
            ious = [class_ious([run.result for run in row.on(split)], len(group.classes)) for row in shown]
            values, names = np.stack(ious, 1), [row.label for row in shown]
            if not np.isfinite(values).any():
                continue
            row, column = np.unravel_index(np.nanargmin(values), values.shape)
            lowest = f"{values[row, column]:.1f} %, of {group.classes[row]} by {names[column]}"
            pictures.append(
                p.Picture(
                    name=p.file_name("classes", group, split.label),
                    title=title,
                    alt=f"{title}: the lowest is {lowest}.",
                    heading=f"{group.title}: IoU of each class on {p.short(split.heading)}",
                    caption="Mean over the seeds, of the predictor's last weights. Hatched: neither in the "
                    "truth nor predicted.",
                    panels=(_class_panel(group, names, values),),
                )
            )
    return pictures


def _class_panel(group: Group, names: Sequence[str], values: p.Values) -> p.Panel:
    classes = len(group.classes)
    valued = classes <= VALUED_CLASSES
    high = 0.24 if valued else max(0.06, 9.0 / classes)
    left = p.LETTER * 9 * max(len(p.short(name, p.CLASS_NAME)) for name in group.classes)
    # Few columns are not drawn out over the whole page.
    wide = min(0.75, (p.WIDTH - 1.15 * left - 1.35) / len(names))
    return p.Panel(
        map=p.Map(
            values,
            rows=group.classes,
            columns=tuple(names),
            bar="IoU (%)",
            ticks=(0, 25, 50, 75, 100),
            written=valued,
            cell=(wide, high),
        ),
        height=high * classes,
    )


# Confusion --------------------------------------------------------------------------------------------------


def shares(counts: NDArray[np.integer] | p.Values) -> p.Values:
    """Confusion counts (truth in rows) as percent of the pixels of the true class; NaN in the row of a
    class that does not occur."""
    counts = np.asarray(counts, float)
    with np.errstate(invalid="ignore"):
        return 100 * counts / counts.sum(1, keepdims=True)


def confused(found: p.Values, count: int = MARKED) -> list[tuple[int, int]]:
    """Find the largest shares off the diagonal, as true class and predicted class, the largest first:
    `[(3, 0), (1, 2)]`."""
    off = np.where(np.isfinite(found), found, 0.0)
    np.fill_diagonal(off, 0.0)
    order = np.argsort(-off, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), off.shape[1]) for place in order]
    return [pair for pair in pairs if off[pair] > 0]


def confusions(group: Group, pooled: Mapping[Path, NDArray[np.integer]]) -> list[p.Picture]:
    """Confusion of the predictor at its last weights, a panel for each method, pictures for each split.

    Of more than `MOST_CONFUSIONS` cells, only the first row of the table and the best one of each split are
    drawn.

    Args:
        pooled: C C pixel counts, truth in rows, by the folder of the run; a run may lack them.
    """
    many = sum(len(row.runs) for row in group.rows) > MOST_CONFUSIONS
    together: list[tuple[tuple[str, ...], str, list[tuple[str, p.Values]]]] = []
    for number, split in enumerate(group.splits):
        panels = []
        for row in _first_and_best(group, number) if many else group.rows:
            counts = [pooled[run.folder] for run in row.on(split) if run.folder in pooled]
            if counts and np.sum(counts) > 0:
                name = f"{split.label}: {row.label}" if many else row.label
                panels.append((name, shares(np.sum(counts, axis=0))))
        if panels:
            together.append(((split.label,), f"Confusion on {split.heading}", panels))
    if many:
        together = [((), "Confusion", [panel for _, _, panels in together for panel in panels])]
    return [picture for found in together for picture in _confusions(group, *found, many)]


def _confusions(
    group: Group, split: tuple[str, ...], title: str, panels: Sequence[tuple[str, p.Values]], chosen: bool
) -> Iterator[p.Picture]:
    """Yield the panels in as few pictures as hold them; `split` is that of all, () where they are of several.

    Args:
        chosen: There are more methods than panels.
    """
    marked = len(group.classes) <= MARKED_CLASSES
    for said, shown in p.paged(title, panels, CONFUSION_PANELS):
        words = [f"{label}: {', '.join(pairs)}" for label, found in shown if (pairs := _pairs(group, found))]
        columns = 2 if len(shown) > 1 else 1
        yield p.Picture(
            name=p.file_name("confusion", group, *split),
            title=said,
            alt=f"{said}. Most often confused: {'; '.join(words) or 'no classes'}.",
            heading=f"{group.title}: {said[0].lower()}{said[1:]}",
            caption="Truth in rows, prediction in columns: share of the pixels of the true class, of the "
            "last weights, over all seeds. Hatched: not in the truth."
            + (" Framed and above each panel: what is most often taken for what." if marked else "")
            + (" Of many methods the first row of the table and the best one are drawn." if chosen else ""),
            panels=tuple(
                _confusion(
                    group,
                    label,
                    found,
                    columns,
                    rows=place % columns == 0,
                    named=place >= len(shown) - columns,
                    bar=place == min(columns, len(shown)) - 1,
                )
                for place, (label, found) in enumerate(shown)
            ),
            columns=columns,
        )


def _confusion(
    group: Group, label: str, found: p.Values, columns: int, *, rows: bool, named: bool, bar: bool
) -> p.Panel:
    """Classes are named at the left and below alone, and one panel has the colour bar."""
    classes = len(group.classes)
    names = p.LETTER * 9 * max(len(p.short(name, p.CLASS_NAME)) for name in group.classes)
    side = min((p.WIDTH - names - 1.4) / columns, max(1.8, 0.35 * classes))
    pairs = confused(found) if classes <= MARKED_CLASSES else []
    room = int(((p.WIDTH - names - 1.4) / columns + 0.2) / p.LETTER / 9)
    said = tuple(_pairs(group, found, int((room - len(" as  100 %")) / 2))) if pairs else ()
    return p.Panel(
        title=label,
        map=p.Map(
            found,
            rows=group.classes if rows else (),
            columns=tuple(p.short(name, p.CLASS_NAME) for name in group.classes) if named else (),
            bar="share of the true class (%)" if bar else "",
            scale="root",  # most shares off the diagonal are small
            ticks=(0, 1, 5, 20, 50, 100),
            framed=tuple(pairs),
            said=said,
            cell=(side / classes, side / classes),
        ),
        height=side,
    )


def _first_and_best(group: Group, column: int) -> list[Row]:
    """Return the first row that has runs on a split, and the one with the highest mean."""
    found = [(cell.mean, row) for row in group.rows if p.known(cell := row.cells[column])]
    if not found:
        return []
    first, best = found[0][1], max(found, key=lambda pair: pair[0])[1]
    return [first] if best is first else [first, best]


def _pairs(group: Group, found: p.Values, length: int = p.CLASS_NAME) -> list[str]:
    """Say the largest confusions of a panel in words, such as `car as bus 12 %`. Names have at most `length`
    characters."""
    return [
        f"{p.short(group.classes[true], length)} as {p.short(group.classes[taken], length)} "
        f"{found[true, taken]:.0f} %"
        for true, taken in confused(found)
    ]
