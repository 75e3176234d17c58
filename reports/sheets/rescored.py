"""The tables of runs that were scored again: raw, multi-scale + flip, and the dense CRF on top."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.records.schema import Rescored, Scores
from reports.contents import note_on_classes
from reports.groups import Group
from reports.sheets import sheet as s
from reports.statistics import summarise


def rescored_sheets(group: Group, scores: Mapping[Path, Scores]) -> list[s.Sheet]:
    """One table per way in which runs of a comparable group were scored again; none where none was.

    Args:
        scores: What `score` found, by the folder of the run; runs without scores are left out.
    """
    ways: dict[tuple[Any, ...], dict[Path, list[Rescored]]] = defaultdict(dict)
    for run in group.runs:
        for found in _numbers(scores.get(run.folder, Scores(entries=[]))):
            ways[found[-1].setting][run.folder] = found
    return [_sheet(group, ways[setting]) for setting in sorted(ways, key=str)]


def _numbers(scores: Scores) -> list[list[Rescored]]:
    """Multi-scale alone or with its CRF, for every way in which one run was scored again."""
    found = []
    for base in scores.entries:
        if base.name == "multi_scale":
            same = [e for e in scores.entries if (e.scales, e.flip) == (base.scales, base.flip)]
            found += [[base, entry] for entry in same if entry.name == "crf"] or [[base]]
    return found


def _sheet(group: Group, found: Mapping[Path, list[Rescored]]) -> s.Sheet:
    """Make the table of the runs that were scored again in one way; the group lends names and order."""
    how = next(iter(found.values()))[-1]
    headings = {"raw": "raw", "multi_scale": "multi-scale + flip" if how.flip else "multi-scale"}
    if how.crf:
        headings["crf"] = "+ CRF"
    records = []
    counts: set[int] = set()
    for row, split, _ in group.cells():
        runs = [run for run in row.on(split) if run.folder in found]
        scored = [[run.result.predictor, *(n.score for n in found[run.folder])] for run in runs]
        counts |= {score.classes_averaged for one in scored for score in one}
        keys = [(run.result.draw, run.result.seed) for run in runs]
        for (name, heading), column in zip(headings.items(), zip(*scored, strict=True), strict=bool(runs)):
            said = {"scored": name, "how": _how(how), "column": heading}
            cell = summarise(dict(zip(keys, (score.miou for score in column), strict=True)))
            records.append(s.cell_record(row, split, cell) | said)
    return s.sheet_of(
        group,
        "evaluation",
        f"scored again, mIoU (%): {_how(how)}",
        ("method", *s.SPLIT_COLUMNS, "scored", "how", *s.SUMMARY_COLUMNS),
        records,
        s.crossed(records, {"method": "method", "split": "heading"}, "column", s.mean_text),
        names=2,
        notes=(*note_on_classes(counts), *_note_on_code(found.values())),
    )


def _note_on_code(found: Iterable[Sequence[Rescored]]) -> tuple[str, ...]:
    """Write the note that a reader needs where the code that scores has changed between the runs of a
    table."""
    states = {json.dumps(one.code, sort_keys=True) for numbers in found for one in numbers if one.code}
    if len(states) < 2:
        return ()
    return (
        f"The numbers come of {len(states)} states of the code that scores again, so runs may differ by it: "
        "give all of them to `score` once more, with --overwrite.",
    )


def _how(how: Rescored) -> str:
    """Say the settings that all rows share: `scales 0.5 1 with flip, CRF deeplab`."""
    flip = "with flip" if how.flip else "without flip"
    crf = f"CRF {how.crf}" if how.crf else "no CRF"
    half = " at half size" if how.half_size else ""
    return f"scales {' '.join(f'{scale:g}' for scale in how.scales)} {flip}, {crf}{half}"
