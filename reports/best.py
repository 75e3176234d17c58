"""The best run of a table: what `--best` means."""

from __future__ import annotations

from pathlib import Path

from bench.errors import ConfigError, DataError
from bench.records.folders import RunFolder
from bench.records.index import find_results
from reports.groups import Group, Row, Run, Split, comparable


def best_run(root: Path, dataset: str, split: str) -> tuple[Path, str]:
    """The folder of the best run of a data set and split, and a sentence that says which it is and why.

    The best row is that of the highest mean mIoU over its seeds. Of its runs the one with the median mIoU is
    taken, the lower of two: a usual network of that method, and not the luckiest.

    Args:
        root: Folder of all runs.

    Raises:
        DataError: There is no finished run of them that has its weights.
        ConfigError: They are of several tables, which may not be compared.
    """
    results = {
        folder: result
        for folder, result in find_results(root).items()
        if (result.dataset, result.split) == (dataset, split) and RunFolder(folder).weights.is_file()
    }
    if not results:
        raise DataError(f"{root} holds no finished run of {dataset}/{split} with its weights; give --runs.")
    groups = comparable(results)
    if len(groups) > 1 or len(groups[0].splits) > 1:
        tables = ", ".join(f"{group.protocol} {group.protocol_hash}" for group in groups)
        raise ConfigError(
            f"the runs of {dataset}/{split} in {root} belong to several tables (protocols {tables}), whose "
            "numbers may not be compared; give the folder of the run."
        )
    return _of_group(groups[0])


def _of_group(group: Group) -> tuple[Path, str]:
    (split,) = group.splits
    row = max(group.rows, key=lambda row: _mean(row, split))
    run = median(row, split)
    seeds = ", ".join(str(one.result.seed) for one in sorted(row.on(split), key=lambda one: one.result.seed))
    said = (
        f"best of {group.dataset}/{split.label} (protocol {group.protocol} {group.protocol_hash}): "
        f"{row.label}, mean mIoU {100 * _mean(row, split):.1f} % over the seeds {seeds}; takes seed "
        f"{run.result.seed}, the median ({100 * run.result.predictor.miou:.1f} %): {run.folder}"
    )
    return run.folder, said


def _mean(row: Row, split: Split) -> float:
    scores = [run.result.predictor.miou for run in row.on(split)]
    return sum(scores) / len(scores)


def median(row: Row, split: Split) -> Run:
    """The run of the median mIoU; of two, and of equal ones, the lower one."""
    ordered = sorted(row.on(split), key=lambda run: (run.result.predictor.miou, run.result.seed))
    return ordered[(len(ordered) - 1) // 2]
