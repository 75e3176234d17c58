"""The tables of a named sweep: variants of a method, differences to the first, and the published numbers."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.records.schema import Result
from bench.sweeps.ablations import Ablation
from reports.groups import Group, Row, Run, summary
from reports.knobs import SEEDS, applies, settings_of
from reports.sheets import sheet as s
from reports.sheets.differences import TWO_A_SIDE, family_of
from reports.sheets.testable import not_testable
from reports.statistics import Summary, equal_to_the_bit, halves, paired_difference

REFERENCE = "reference"
Variants = dict[str, list[Run]]  # the runs of each variant


@dataclass(frozen=True)
class AblationTable:
    """One table of a named sweep, and what it is named by."""

    group: Group  # of the runs of this table alone
    setting: str  # knobs in which the tables of one ablation differ from each other
    sheet: s.Sheet


def ablation_tables(group: Group, ablation: Ablation, fewest: int = 1) -> list[AblationTable]:
    """Make the tables of a named sweep, from runs of a group of which at least `fewest` variants are found.

    A run belongs to a variant if it is of the sweep's method and each of the knobs that the sweep varies has
    the value that the variant gives it (written out: what a variant leaves out has the method's default).
    All other knobs, the method's version, the tags and CAM seeds that were learned from must be equal within
    a table; where they are not, each set of them has a table of its own.
    """
    found: dict[str, Variants] = defaultdict(lambda: defaultdict(list))
    for run in group.runs:
        if run.result.method == ablation.method and (variant := _variant(run.result, ablation)):
            found[json.dumps(_rest(run.result, ablation), sort_keys=True)][variant].append(run)
    joined = _with_seeds(found)
    kept = {rest: runs for rest, runs in sorted(joined.items()) if len(runs) >= fewest}
    settings = _differing([json.loads(rest) for rest in kept])
    tables = []
    for runs, setting in zip(kept.values(), settings, strict=True):
        of = Group(run for of_variant in runs.values() for run in of_variant)
        tables.append(AblationTable(of, setting, _sheet(of, ablation, setting, runs)))
    return tables


def _variant(result: Result, ablation: Ablation) -> str | None:
    knobs = result.config.get("method", {})
    given = {key: knobs.get(key) for key in ablation.varied}
    return next((name for name, wanted in ablation.variants.items() if dict(wanted) == given), None)


def _rest(result: Result, ablation: Ablation) -> dict[str, str]:
    """All settings but those that the sweep varies, of CAM seeds too."""
    return {
        key: value for key, value in settings_of(result).items() if key.split(".")[0] not in ablation.varied
    }


def _with_seeds(found: Mapping[str, Variants]) -> dict[str, Variants]:
    """Join runs without CAM seeds (on splits without tags) with runs that differ from them by their seeds
    alone, where these are of one kind. Return all runs by settings."""
    by_method: dict[str, list[str]] = defaultdict(list)
    for rest in found:
        method = {key: value for key, value in json.loads(rest).items() if not key.startswith(SEEDS)}
        by_method[json.dumps(method, sort_keys=True)].append(rest)
    joined: dict[str, Variants] = {}
    for rests in by_method.values():
        rests = sorted(rests, key=len)  # the one without seeds, where there is one, is the shortest
        together = [rests] if len(rests) == 2 and SEEDS not in rests[0] else [[rest] for rest in rests]
        for those in together:
            runs: Variants = defaultdict(list)
            for rest in those:
                for variant, of in found[rest].items():
                    runs[variant] += of
            joined[those[-1]] = runs
    return joined


def _differing(rests: Sequence[dict[str, str]]) -> Iterator[str]:
    """For each of the settings, the values in which they are not all equal."""
    keys = sorted({key for rest in rests for key in rest})
    values = {key: {rest.get(key) for rest in rests if applies(key, rest)} for key in keys}
    for rest in rests:
        shown = [key for key in keys if len(values[key]) > 1 and applies(key, rest)]
        yield ", ".join(f"{key}={rest.get(key, 'unset')}" for key in shown)


def _sheet(group: Group, ablation: Ablation, setting: str, runs: Variants) -> s.Sheet:
    """Every variant on every split, with the difference to the reference, seed by seed."""
    title = f"{ablation.title}: {ablation.method}{f' ({setting})' if setting else ''}"
    rows = {
        name: Row(ablation.method, name, group.by_split(runs.get(name, [])), ()) for name in ablation.variants
    }
    reference = rows[ablation.reference]
    found = {
        (name, split): paired_difference(row.scores(split), reference.scores(split))
        for name, row in rows.items()
        for split in group.splits
    }
    family = family_of(change for (name, _), change in found.items() if name != ablation.reference)
    records = []
    for (name, split), change in found.items():
        said = {"sweep": title, "variant": name, **s.split_record(split), "family": family}
        cell = s.summary_record(summary(rows[name].on(split)))
        records.append(said | cell | s.summary_record(change, "difference_", family))
    same_again = [(split, halves(reference.scores(split))) for split in group.splits]
    again = [f"{_change(change, family)} on {split.label}" for split, change in same_again if change]
    published = ablation.published
    # In what the paper's numbers are least comparable to ours.
    same = published is not None and published.dataset == group.dataset
    elsewhere = "another protocol" if same else "another data set"
    notes = [
        f"Difference: to {ablation.reference!r}, mean over the runs of the same draw and seed (n), "
        "with intervals that hold all at once in 95 % of such tables. One without 0 is a finding. A/A, later "
        f"against earlier seeds of {ablation.reference!r}: {'; '.join(again) or TWO_A_SIDE}."
    ]
    notes += [f"Not testable here {said}." for said in not_testable(group, ablation.needs, reference)]
    if published:
        notes.append(
            f"Paper: {published.source}; {elsewhere}, so compare the order of the rows, not the numbers."
        )
    return s.sheet_of(
        group,
        f"ablation-{ablation.name}",
        f"{title}: mIoU (%)",
        (
            *("sweep", "variant", *s.SPLIT_COLUMNS, *s.SUMMARY_COLUMNS),
            *(f"difference_{name}" for name in s.SUMMARY_COLUMNS),
        ),
        records,
        _lines(group, ablation, records, elsewhere),
        notes=[*notes, *([ablation.note] if ablation.note else []), *group.notes],
    )


def _lines(group: Group, ablation: Ablation, records: Sequence[s.Record], elsewhere: str) -> s.Lines:
    """Make a line for each variant: a cell and its difference on each split, then the paper's numbers."""
    papers = ablation.published.columns if ablation.published else ()
    splits = [text for split in group.splits for text in (split.heading, "difference")]
    lines = [["variant", *splits, *(f"paper {name}, {elsewhere}" for name in papers)]]
    for name in ablation.variants:
        line = [name]
        for record in (record for record in records if record["variant"] == name):
            reference = name == ablation.reference
            change = REFERENCE if reference else _change(record["difference_cell"], record["family"])
            line += [s.mean_text(record), change]
        values = ablation.published.values[name] if ablation.published else ()
        lines.append([*line, *("not published" if value is None else f"{value:.2f}" for value in values)])
    return lines


def _change(difference: Summary | None, family: int) -> str:
    """`+1.2, +0.4 to +2.0 (3)`: mean and interval of the differences in percent points, number of runs."""
    if difference is None:
        return s.MISSING
    if equal_to_the_bit(difference):
        return f"{s.EQUAL_TO_THE_BIT} ({s.runs_text(difference)})"
    ends = s.interval_text(difference.interval_of(family), "+")
    return f"{100 * difference.mean:+.1f}{f', {ends}' if ends else ''} ({s.runs_text(difference)})"
