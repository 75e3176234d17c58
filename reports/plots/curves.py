"""Learning curves: mIoU and the terms of the loss over the training steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.records.schema import Result
from reports.groups import Group
from reports.plots import picture as p
from reports.plots import steps
from reports.sheets.health import EVALUATION, GRADIENT, SCALARS, VECTORS, WARMUP
from reports.splits import SplitColumn

MOST_TERMS = 6  # panels of single terms in one picture
SCORE = steps.Figure("mIoU", "%", band=True)
NO_TERMS = {*EVALUATION, "lr", "loss", WARMUP, *SCALARS, *VECTORS}
CAPTION = "Every point of a loss is the mean since the one before."
Lines = Sequence[steps.LogLine]


def learning(group: Group, logs: Mapping[Path, Lines]) -> list[p.Picture]:
    """mIoU, loss and its terms over the steps, all methods beside each other, a few splits in each picture.

    A run whose only evaluation is the last one has no curve of mIoU.

    Args:
        logs: Lines of the log by the folder of the run; a run may lack them.
    """
    every = terms([logs.get(run.folder, ()) for run in group.runs])
    figures = {name: _figure(name) for name in ("loss", *every[:MOST_TERMS])}
    caption = CAPTION
    if len(every) > MOST_TERMS:
        caption += f" Of {len(every)} terms the first {MOST_TERMS} of the logs are drawn."
    found: dict[SplitColumn, dict[tuple[steps.Figure, int], steps.Trace]] = defaultdict(dict)
    for split in group.splits:
        for number, row in enumerate(group.rows):
            here = row.on(split)
            lines = [logs.get(run.folder, ()) for run in here]
            seen = {SCORE: scores([run.result for run in here])}
            seen |= {figure: steps.trace(lines, name) for name, figure in figures.items()}
            found[split] |= {(figure, number): one for figure, one in seen.items() if one is not None}
    shown = [SCORE, *figures.values()]
    return steps.pictures(group, found, shown, kind="learning", title="Learning curves", caption=caption)


def terms(logs: Sequence[Lines]) -> list[str]:
    """Names of the scalars in the logs that are no health figure, in their order.

    The log does not tell terms of the loss from notes, so that a note which no panel of health knows is among
    them.
    """
    names: dict[str, None] = {}
    for lines in logs:
        for line in lines:
            for name, value in line.items():
                figure = name in NO_TERMS or name.startswith(GRADIENT)
                if name not in names and not figure and isinstance(value, int | float):
                    names[name] = None
    return list(names)


def scores(runs: Sequence[Result]) -> steps.Trace | None:
    """mIoU in percent during training, of those runs that were scored more than once."""
    curves = [[{"step": point.step, "miou": 100 * point.miou} for point in run.curve] for run in runs]
    return steps.trace([curve for curve in curves if len(curve) > 1], "miou")


def _figure(name: str) -> steps.Figure:
    return steps.Figure("Loss, sum of its terms" if name == "loss" else f"Term: {p.short(name, 24)}", "loss")
