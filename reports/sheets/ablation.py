"""The table of a named sweep: variants of a method, differences to the first, and the published numbers."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.records.schema import Result
from bench.sweeps.ablations import Ablation
from reports.groups import SEEDS, Group, Run, applies, settings_of
from reports.sheets.sheet import (
    MISSING,
    SPLIT_COLUMNS,
    SUMMARY_COLUMNS,
    Sheet,
    cell_text,
    numbers,
    sheet_of,
    split_names,
)
from reports.statistics import Summary, paired_difference, summarise

REFERENCE = "reference"
Variants = dict[str, list[Run]]  # the runs of each variant


@dataclass(frozen=True)
class Variant:
    name: str
    cells: tuple[Summary | None, ...]  # one per split, shares 0..1; None = missing
    differences: tuple[Summary | None, ...]  # to the reference, seed by seed; None = no common seed


@dataclass(frozen=True)
class AblationTable:
    ablation: Ablation
    group: Group  # of the runs of this table alone
    setting: str  # knobs in which the tables of one ablation differ from each other
    rows: tuple[Variant, ...]

    @property
    def title(self) -> str:
        setting = f" ({self.setting})" if self.setting else ""
        return f"{self.ablation.title}: {self.ablation.method}{setting}"

    @property
    def notes(self) -> list[str]:
        """What a reader must know, under the table."""
        notes = [f"Difference: to {self.ablation.reference!r}, mean ± spread (n) over the seeds run in both."]
        if published := self.ablation.published:
            notes.append(
                f"Paper: {published.source}; {self._elsewhere}, so compare the order of the rows, not the "
                "numbers."
            )
        return [*notes, *([self.ablation.note] if self.ablation.note else []), *self.group.notes]

    @property
    def _elsewhere(self) -> str:
        """In what the paper's numbers are least comparable to ours."""
        published = self.ablation.published
        same = published is not None and published.dataset == self.group.dataset
        return "another protocol" if same else "another data set"

    @property
    def sheet(self) -> Sheet:
        """The table, ready to be written; its CSV has a line for each variant on each split."""
        differing = [f"difference_{name}" for name in SUMMARY_COLUMNS]
        return sheet_of(
            self.group,
            f"ablation-{self.ablation.name}",
            f"{self.title}: mIoU (%)",
            self.lines(),
            ("sweep", "variant", *SPLIT_COLUMNS, *SUMMARY_COLUMNS, *differing),
            [
                (self.title, row.name, *split_names(split), *numbers(cell), *numbers(difference))
                for row in self.rows
                for split, cell, difference in zip(self.group.splits, row.cells, row.differences, strict=True)
            ],
            notes=self.notes,
        )

    def lines(self) -> list[list[str]]:
        """Heading and rows, as text."""
        published = self.ablation.published
        heading = ["variant"]
        for split in self.group.splits:
            heading += [split.heading, "difference"]
        heading += [f"paper {name}, {self._elsewhere}" for name in (published.columns if published else ())]
        lines = [heading]
        for row in self.rows:
            line = [row.name]
            for cell, difference in zip(row.cells, row.differences, strict=True):
                first = row.name == self.ablation.reference
                line += [cell_text(cell), REFERENCE if first else difference_text(difference)]
            values = published.values[row.name] if published else ()
            line += ["not published" if value is None else f"{value:.2f}" for value in values]
            lines.append(line)
        return lines


def ablation_tables(group: Group, ablation: Ablation, fewest: int = 1) -> list[AblationTable]:
    """The tables of a named sweep, from runs of a group of which at least `fewest` variants are found.

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
    return [_table(runs, ablation, setting) for runs, setting in zip(kept.values(), settings, strict=True)]


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
    """The runs by settings, those on splits without tags, which have no CAM seeds, together with the runs
    that are as they are but for their seeds, where these are of one kind."""
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


def _table(runs: Variants, ablation: Ablation, setting: str) -> AblationTable:
    group = Group(run for of in runs.values() for run in of)
    scores: dict[str, list[dict[int, float]]] = {}
    for name in ablation.variants:
        found: Mapping[Any, Mapping[int, Run]] = group.by_split_and_seed(runs.get(name, []))
        scores[name] = [
            {seed: run.result.predictor.miou for seed, run in found.get(split, {}).items()}
            for split in group.splits
        ]
    reference = scores[ablation.reference]
    rows = tuple(
        Variant(
            name=name,
            cells=tuple(summarise(cell.values()) if cell else None for cell in cells),
            differences=tuple(map(paired_difference, cells, reference)),
        )
        for name, cells in scores.items()
    )
    return AblationTable(ablation, group, setting, rows)


def difference_text(difference: Summary | None) -> str:
    """`+1.2 ± 0.3 (3)`: mean and spread of the differences in percent points, number of common seeds."""
    if difference is None:
        return MISSING
    spread = "" if difference.spread is None else f" ± {100 * difference.spread:.1f}"
    return f"{100 * difference.mean:+.1f}{spread} ({difference.n})"
