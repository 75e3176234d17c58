"""What the runs of one comparable group share, and how each run was made: protocol, splits, runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.evidence import UNKNOWN, Origin
from reports.groups import COLUMNS, LISTS, Group, score_of
from reports.sheets.sheet import (
    GROUP_COLUMNS,
    SPLIT_COLUMNS,
    Line,
    Record,
    Sheet,
    group_names,
    sheet_of,
    split_names,
)

DIGEST_COLUMNS = tuple(f"{name}_digest" for name in LISTS)
RUN_COLUMNS = (
    *GROUP_COLUMNS,
    *("method", "row", "split", "seed", "run_id", *LISTS, "eval"),
    *("miou_percent", "oracle_miou_percent", "student_miou_percent"),
    *("classes_averaged", "pixel_accuracy_percent"),
    *("steps", "train_seconds", "eval_seconds", "peak_memory_mib"),
    *("method_version", "knobs"),
    *DIGEST_COLUMNS,
    *("commit", "dirty", "started", "machine", "command"),
)
SHOWN_DIGITS = 12


def protocol(group: Group) -> Sheet:
    """What the protocol fixes for all runs of the group, as far as they have recorded it."""
    found = {"data set": group.dataset, "protocol": group.protocol, "protocol hash": group.protocol_hash}
    found |= {"steps": str(group.steps), "classes": f"{len(group.classes)}: {', '.join(group.classes)}"}
    found |= {"scored images": f"{group.scored} (list {group.eval_digest})"}
    found |= {"encoder weights": group.weights_digest or "none: random"}
    for key, value in group.settings.items():
        if key not in ("name", "steps"):
            found[key.replace("_", " ")] = _setting(value)
    lines = [("what", "value"), *found.items()]
    return sheet_of(
        group, "protocol", "what all runs have in common", lines, lines[0], found.items(), names=2
    )


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_setting(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list):
        return " ".join(map(_setting, value))
    return "none" if value is None else str(value)


def lists(group: Group) -> Sheet:
    """The splits: what each grants, by number and digest of the images, and how many rows and which seeds it
    has."""
    lines: list[Line] = [
        ("split", "masks", "tags", "nothing", "rows", "seeds", "list of masks", "list of tags")
    ]
    records: list[Record] = []
    for split in group.splits:
        here = [row.runs[split] for row in group.rows if split in row.runs]
        seeds = " ".join(map(str, sorted({seed for by_seed in here for seed in by_seed})))
        counts = (split.pixel, split.tags, split.none, len(here))
        shown = (digest[:SHOWN_DIGITS] for digest in split.digests[:2])
        lines.append((split.label, *map(str, counts), seeds, *shown))
        records.append((*split_names(split), split.none, *split.digests, len(here), seeds))
    return sheet_of(
        group,
        "splits",
        "the splits and what they grant, in images",
        lines,
        (*SPLIT_COLUMNS, "none", *DIGEST_COLUMNS, "rows", "seeds"),
        records,
        words=3,
    )


def runs(groups: Sequence[Group], origins: Mapping[Path, Origin]) -> Sheet:
    """One line per run: its scores, the digests it may be compared by, and how it was made.

    Args:
        origins: How each run was made, by its folder, where that can be read.
    """
    heading = (
        *("method", "split", "seed", "mIoU", "data set", "run", "protocol", "scored list"),
        *(*(f"{name} list" for name in LISTS), "weights", "commit", "started", "machine", "command"),
    )
    lines: list[tuple[str, ...]] = [heading]
    records: list[tuple[Any, ...]] = [RUN_COLUMNS]
    for group in groups:
        for run in group.runs:
            result, label = run.result, group.labels[run.folder]
            origin = origins.get(run.folder, UNKNOWN)
            digests = group.split_of[run.folder].digests
            commits = ", ".join(commit[:SHOWN_DIGITS] if commit else "unknown" for commit in origin.commits)
            compared = (result.split_digests.get("eval", ""), *digests, result.weights_digest or "")
            made = (origin.time, origin.machine, origin.command)
            lines.append(
                (
                    *(label, result.split, str(result.seed), f"{100 * score_of(result, 'last'):.2f}"),
                    *(result.dataset, result.run_id, f"{result.protocol} {result.protocol_hash}"),
                    *(digest[:SHOWN_DIGITS] for digest in compared),
                    *(f"{commits}, with uncommitted changes" if origin.dirty else commits, *made),
                )
            )
            records.append(
                (
                    *(*group_names(group), result.method, label, result.split, result.seed, result.run_id),
                    *(result.images.get(name, 0) for name in (*LISTS, "eval")),
                    *(100 * score_of(result, column) for column in COLUMNS),
                    *(result.predictor.classes_averaged, 100 * result.predictor.pixel_accuracy),
                    *(result.steps, result.train_seconds, result.eval_seconds, result.peak_memory_mib),
                    *(result.method_version, json.dumps(result.config.get("method"), sort_keys=True)),
                    *(*digests, " ".join(commit or "unknown" for commit in origin.commits), origin.dirty),
                    *made,
                )
            )
    words = len(heading) - 4
    return Sheet("runs", "every run", "", tuple(lines), tuple(records), names=3, words=words)
