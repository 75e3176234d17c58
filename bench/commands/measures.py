"""`score --measures`: what the counts of finished runs say beside mIoU."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from bench.commands.options import out, print_json, say

if TYPE_CHECKING:
    from bench.records.schema import Result
    from bench.scoring.measures import Measures, Shares


def print_measures(
    runs: Iterable[Path], data_root: Path | None, device: str, boundary: bool, json_: bool
) -> None:
    """Print a table for each run, or one document for all.

    Args:
        boundary: Predict the scored images again, for boundary IoU.

    Raises DataError, and with `boundary` ConfigError, for a run of which there are none.
    """
    from bench.display import Display
    from bench.records.folders import RunFolder
    from bench.scoring.measures import mean, measures_of

    documents = []
    for path in dict.fromkeys(runs):
        result, found = measures_of(RunFolder(path))
        near: Shares | None = None
        if boundary:
            from bench.scoring.boundary import boundary_of

            near = boundary_of(path, data_root, Display(), device)
        if json_:
            more = {} if near is None else {"boundary_iou": near, "mean_boundary_iou": mean(near)}
            documents.append({"folder": str(path), "classes": result.classes, **asdict(found), **more})
        else:
            _print(result, found, near)
    if json_:
        print_json({"runs": documents})


def _print(result: Result, found: Measures, near: Shares | None) -> None:
    from bench.scoring.measures import mean

    columns = {"IoU": found.iou, "precision": found.precision, "recall": found.recall, "Dice": found.dice}
    columns |= {} if near is None else {"boundary IoU": near}
    title = f"{result.method} on {result.dataset} {result.drawn_split}, seed {result.seed}"
    title += ", scored on the held-out list" if result.scored == "heldout" else ""
    out.print(title, markup=False, highlight=False)
    table = Table("class")
    for head in columns:
        table.add_column(f"{head} %", justify="right")
    for name, *shares in zip(result.classes, *columns.values(), strict=True):
        table.add_row(escape(name), *("-" if share is None else f"{100 * share:.1f}" for share in shares))
    out.print(table)
    line = (
        f"mIoU {100 * found.miou:.1f}, mean accuracy {100 * found.mean_accuracy:.1f}, frequency-weighted IoU "
        f"{100 * found.frequency_weighted_iou:.1f}, mean Dice {100 * found.mean_dice:.1f}, pixel accuracy "
        f"{100 * found.pixel_accuracy:.1f}"
    )
    say(line + ("" if near is None else f", mean boundary IoU {100 * mean(near):.1f}"))
