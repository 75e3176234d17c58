"""The facts that runs of one comparable group share, and how each run was made: protocol, splits, runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.evidence import UNKNOWN, Origin
from reports.groups import Group, Run, score_of
from reports.sheets import sheet as s
from reports.splits import LISTS, granted

DIGEST_COLUMNS = tuple(f"{name}_digest" for name in LISTS)
RUN_COLUMNS = (
    *s.GROUP_COLUMNS,
    *("method", "row", "split", "draw", "seed", "run_id", *LISTS, "eval"),
    *("miou_percent", "oracle_miou_percent", "student_miou_percent"),
    *("classes_averaged", "pixel_accuracy_percent"),
    *("steps", "train_seconds", "eval_seconds", "peak_memory_mib"),
    *("method_version", "knobs"),
    *DIGEST_COLUMNS,
    *("commit", "dirty", "started", "machine", "command"),
)
SHOWN_DIGITS = 12


def protocol(group: Group) -> s.Sheet:
    """List the things that the protocol fixes for all runs of the group, as far as they have recorded it."""
    found = {"data set": group.dataset, "protocol": group.protocol, "protocol hash": group.protocol_hash}
    found |= {"steps": str(group.steps), "classes": f"{len(group.classes)}: {', '.join(group.classes)}"}
    found |= {"scored images": f"{group.scored} (list {group.eval_digest})"}
    found |= {"encoder weights": group.weights_digest or "none: random"}
    for key, value in group.settings.items():
        if key not in ("name", "steps"):
            found[key.replace("_", " ")] = _setting(value)
    records = [{"what": what, "value": value} for what, value in found.items()]
    shown = {"what": "what", "value": "value"}
    return s.sheet_of(
        group, "protocol", "what all runs have in common", tuple(shown), records, shown, names=2
    )


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_setting(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list):
        return " ".join(map(_setting, value))
    return "none" if value is None else str(value)


def _digest(name: str) -> s.Shown:
    """Return a function that shows the first digits of the digest of that name, such as `1a2b3c4d`."""
    return lambda record: (record[name] or "")[:SHOWN_DIGITS]


def lists(group: Group) -> s.Sheet:
    """List the splits: what each grants, by number and digest of the images, and how many rows and which
    seeds it has."""
    records = []
    for split in group.splits:
        here = [row.runs[split] for row in group.rows if split in row.runs]
        keys = {key for runs in here for key in runs}
        draws, seeds = (" ".join(map(str, sorted({key[i] for key in keys}))) for i in (0, 1))
        said = {"none": split.none, "rows": len(here), "draws": draws, "seeds": seeds}
        records.append(s.split_record(split) | said | dict(zip(DIGEST_COLUMNS, split.digests, strict=True)))
    names = {"split": "split", "masks": "pixel", "tags": "tags", "nothing": "none"}
    digests = {"list of masks": _digest("pixel_digest"), "list of tags": _digest("tags_digest")}
    return s.sheet_of(
        group,
        "splits",
        "the splits and what they grant, in images",
        (*s.SPLIT_COLUMNS, "none", *DIGEST_COLUMNS, "rows", "draws", "seeds"),
        records,
        {**names, "rows": "rows", "which draws": "draws", "which seeds": "seeds", **digests},
        words=4,
    )


RUN_TEXTS: dict[str, s.Shown] = {
    **{"method": "row", "split": "split", "draw": "draw", "seed": "seed"},
    "mIoU": lambda of: f"{of['miou_percent']:.2f}",
    **{"data set": "dataset", "run": "run_id"},
    "protocol": lambda of: f"{of['protocol']} {of['protocol_hash']}",
    "scored list": _digest("scored list"),
    **{f"{name} list": _digest(f"{name}_digest") for name in LISTS},
    "weights": _digest("weights"),
    **{"commit": "commits", "started": "started", "machine": "machine", "command": "command"},
}


def runs(groups: Sequence[Group], origins: Mapping[Path, Origin]) -> s.Sheet:
    """One line per run: its scores, the digests it may be compared by, and how it was made.

    Args:
        origins: How each run was made, by its folder, where that can be read.
    """
    records = [
        {**s.group_record(group), **_run(group, run), **_origin(origins.get(run.folder, UNKNOWN))}
        for group in groups
        for run in group.runs
    ]
    words = len(RUN_TEXTS) - 5
    return s.sheet_of(None, "runs", "every run", RUN_COLUMNS, records, RUN_TEXTS, names=4, words=words)


OF_RESULT = {"method", "split", "seed", "run_id", "steps", "train_seconds", "eval_seconds"}
OF_RESULT |= {"peak_memory_mib", "method_version"}


def _run(group: Group, run: Run) -> s.Record:
    result = run.result
    return {
        **result.model_dump(include=OF_RESULT),
        "draw": result.draw,
        "row": group.labels[run.folder],
        **{name: result.images.get(name, 0) for name in (*LISTS, "eval")},
        "miou_percent": 100 * score_of(result, "last"),
        "oracle_miou_percent": 100 * score_of(result, "oracle"),
        "student_miou_percent": 100 * score_of(result, "student"),
        "classes_averaged": result.predictor.classes_averaged,
        "pixel_accuracy_percent": 100 * result.predictor.pixel_accuracy,
        "knobs": json.dumps(result.config.get("method"), sort_keys=True),
        **dict(zip(DIGEST_COLUMNS, granted(result)[2], strict=True)),
        "scored list": result.split_digests.get("eval"),
        "weights": result.weights_digest,
    }


def _origin(origin: Origin) -> s.Record:
    commits = ", ".join(commit[:SHOWN_DIGITS] if commit else "unknown" for commit in origin.commits)
    return {
        "commit": " ".join(commit or "unknown" for commit in origin.commits),
        "commits": f"{commits}, with uncommitted changes" if origin.dirty else commits,
        "dirty": origin.dirty,
        "started": origin.time,
        "machine": origin.machine,
        "command": origin.command,
    }
