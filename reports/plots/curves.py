"""Learning curves: mIoU, the terms of the loss and figures that no panel of health knows, over the steps."""

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

MOST_TERMS = 6  # panels of single terms and figures in one picture
SCORE = steps.Figure("mIoU", "%", band=True)
NO_TERMS = {*EVALUATION, "lr", "loss", WARMUP, *SCALARS, *VECTORS}
CAPTION = "Every point of a loss is the mean since the one before."
Lines = Sequence[steps.LogLine]


def learning(group: Group, logs: Mapping[Path, Lines]) -> list[p.Picture]:
    """mIoU, loss, its terms and other figures over the steps, all methods beside each other, a few splits in
    each picture.

    A run whose only evaluation is the last one has no curve of mIoU.

    Args:
        logs: Lines of the log by the folder of the run; a run may lack them.
    """
    terms, others = scalars([logs.get(run.folder, ()) for run in group.runs])
    every = [(name, f"Term: {p.short(name, 24)}", "loss") for name in terms]
    every += [(name, f"Figure: {p.short(name, 24)}", "as it was noted") for name in others]
    drawn = [("loss", "Loss, sum of its terms", "loss"), *every[:MOST_TERMS]]
    figures = {name: steps.Figure(title, unit) for name, title, unit in drawn}
    caption = CAPTION
    if len(every) > MOST_TERMS:
        caption += f" Of {len(every)} terms and figures the first {MOST_TERMS} of the logs are drawn."
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


def scalars(logs: Sequence[Lines]) -> tuple[list[str], list[str]]:
    """Names of the scalars in the logs that no panel of health knows, in their order: terms of the loss, and
    other figures.

    A log that measures shares of the gradient has one of each term. Without any, all are taken for terms.
    """
    terms: dict[str, None] = {}
    others: dict[str, None] = {}
    for lines in logs:
        names = dict.fromkeys(
            name for line in lines for name, value in line.items() if isinstance(value, int | float)
        )
        measured = {name.removeprefix(GRADIENT) for name in names if name.startswith(GRADIENT)}
        for name in names:
            if name not in NO_TERMS and not name.startswith(GRADIENT):
                (others if measured and name not in measured else terms)[name] = None
    return list(terms), [name for name in others if name not in terms]


def scores(runs: Sequence[Result]) -> steps.Trace | None:
    """mIoU in percent during training, of those runs that were scored more than once."""
    curves = [[{"step": point.step, "miou": 100 * point.miou} for point in run.curve] for run in runs]
    return steps.trace([curve for curve in curves if len(curve) > 1], "miou")
