"""The best run of a table: what `--best` means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.errors import ConfigError, DataError
from bench.records.folders import RunFolder
from bench.records.index import find_results
from reports.groups import Group, Run, comparable, told_apart
from reports.statistics import Key, summarise


def best_run(root: Path, dataset: str, split: str) -> tuple[Path, str]:
    """Find the folder of the best run of a data set and split, and a sentence that says which it is and why.

    The best row is that of the highest mean mIoU over the draws and seeds that all rows have; where there is
    none, each over its own. Of these runs the one with the median mIoU is taken, the lower of two: a usual
    network of that method, and not the luckiest. Runs that were scored on the held-out list count where there
    are no others.

    Args:
        root: Folder of all runs.

    Raises:
        DataError: There is no finished run of them that has its weights.
        ConfigError: They are of several tables, which may not be compared.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}; give --runs FOLDER, the one that holds the runs.")
    found = {
        folder: result
        for folder, result in find_results(root).items()
        if (result.dataset, result.split) == (dataset, split) and RunFolder(folder).weights.is_file()
    }
    if not found:
        raise DataError(f"{root} holds no finished run of {dataset}/{split} with its weights; give --runs.")
    results = {folder: result for folder, result in found.items() if result.scored == "eval"} or found
    groups = comparable(results)
    if len(groups) > 1 or len(groups[0].splits) > 1:
        raise ConfigError(
            f"the runs of {dataset}/{split} in {root} belong to several tables, whose numbers may not be "
            f"compared ({_tables(groups)}); give the folder of the run."
        )
    return _of_group(groups[0])


def _tables(groups: Sequence[Group]) -> str:
    """List the tables by protocol, with the marks that tell them apart:
    `protocol camvid: hash 12ab34cd, hash 56ef78ab`."""
    found: dict[str, list[str]] = defaultdict(list)
    for group, mark in zip(groups, told_apart([""] * len(groups), groups, " "), strict=True):
        splits = [split.label for split in group.splits] if len(group.splits) > 1 else []
        found[group.protocol] += splits or [mark.strip().replace("protocol ", "hash ")]
    return "; ".join(f"protocol {name}: {', '.join(marks)}" for name, marks in found.items())


def _of_group(group: Group) -> tuple[Path, str]:
    (split,) = group.splits
    scores = {row.label: row.scores(split) for row in group.rows}
    common = set.intersection(*map(set, scores.values()))
    means = {
        label: summarise({key: own[key] for key in sorted(common or own)}).mean
        for label, own in scores.items()
    }
    row = max(group.rows, key=lambda row: means[row.label])
    run = median([run for key, run in row.runs[split].items() if key in (common or scores[row.label])])
    over = _named(common or scores[row.label])
    if len(group.rows) > 1:
        over += ", which all rows have" if common else "; the rows have no draw and seed in common"
    held_out = ", scored on the held-out list, since no run is scored on the other" if group.held_out else ""
    said = (
        f"best of {group.dataset}/{split.label} (protocol {group.protocol} {group.protocol_hash[:8]}"
        f"{held_out}): {row.label}, mean mIoU {100 * means[row.label]:.1f} % over {over}; takes "
        f"{_named([(run.result.draw, run.result.seed)])}, the median "
        f"({100 * run.result.predictor.miou:.1f} %): {run.folder}"
    )
    return run.folder, said


def _named(keys: Iterable[Key]) -> str:
    """`seeds 0, 1`, or `draw 0 seed 1, draw 1 seed 0` where there are others than the split's own lists."""
    ordered = sorted(keys)
    if any(draw for draw, _ in ordered):
        return ", ".join(f"draw {draw} seed {seed}" for draw, seed in ordered)
    return f"seed{'s' if len(ordered) > 1 else ''} {', '.join(str(seed) for _, seed in ordered)}"


def median(runs: Iterable[Run]) -> Run:
    """Return the run of the median mIoU; of two, and of equal ones, the lower one."""
    ordered = sorted(runs, key=lambda run: (run.result.predictor.miou, run.result.draw, run.result.seed))
    return ordered[(len(ordered) - 1) // 2]
