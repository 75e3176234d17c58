"""Decides what may be compared: groups of runs that may stand in one table, with their rows and columns."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bench.errors import DataError
from bench.records.schema import Result
from reports.contents import (
    data_of,
    note_on_classes,
    notes_on_code,
    several,
    several_masks,
    told_apart_by_data,
    truth_of,
    warnings_on_classes,
)
from reports.statistics import Summary, summarise

Column = Literal["last", "oracle", "student", "own"]

COLUMNS: dict[Column, tuple[str, str]] = {
    "last": ("mIoU", "last weights of what all methods are scored by"),
    "oracle": ("oracle", "optimistic: chosen on the scored list, paper protocol"),
    "student": ("student", "last weights of the student"),
    "own": ("own predictor", "last weights of the module that the method names"),
}
LISTS = ("pixel", "tags", "none")
SEEDS = "cam_seeds."  # settings of a run that learned from CAM seeds
# Always said where they are not these: the runs were given more, or worse, than others of their split.
UNUSUAL = {"cam_seeds.policy": "fixed", "tags": "given"}
BASELINE = "supervised"  # the row that all others are read against


@dataclass(frozen=True)
class Run:
    """A finished run, and its folder, which names all that lies beside the result."""

    folder: Path
    result: Result


@dataclass(frozen=True)
class Split:
    """One column: a split name, told apart by digest where lists of different content go by one name."""

    label: str
    pixel: int
    tags: int
    none: int = 0
    digests: tuple[str, ...] = ("", "", "")  # of `LISTS`
    name: str = ""  # which several may share

    @property
    def heading(self) -> str:
        if not self.tags:
            return f"{self.label} ({self.pixel})"
        if not self.pixel:
            return f"{self.label} ({self.tags} tags)"
        return f"{self.label} ({self.pixel} + {self.tags} tags)"


@dataclass(frozen=True)
class Row:
    """The runs of one method with one set of knobs."""

    method: str
    label: str
    runs: Mapping[Split, Mapping[int, Run]]  # by seed; a split without runs is not there
    cells: tuple[Summary | None, ...]  # one per split, shares 0..1; None = missing

    def on(self, split: Split) -> list[Run]:
        """The runs on a split, one for each seed."""
        return list(self.runs.get(split, {}).values())


class Group:
    """Runs that may stand in one table: of one data set, protocol (name and hash), scored list, class list
    and weights. What all have in common is an attribute; rows and splits are those of the headline table.
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        """Raises DataError for runs that may not be compared; `comparable` sorts them into groups."""
        self.runs = tuple(runs)
        if (found := len({_basis(run.result) for run in self.runs})) != 1:
            raise DataError(
                "a table needs runs of one data set, protocol (name and hash), scored list, class list "
                f"and set of weights; got {found} groups of them: make one table of each."
            )
        if several(truth_of(run.result) for run in self.runs):
            raise DataError(
                "a table needs runs that were scored on the same images and masks; their digests differ: "
                "make one table of each."
            )
        first = self.runs[0].result
        self.dataset, self.protocol, self.protocol_hash = first.dataset, first.protocol, first.protocol_hash
        self.eval_digest = first.split_digests.get("eval", "unknown")
        self.truth = next((truth for run in self.runs if (truth := truth_of(run.result))), None)
        self.weights_digest = first.weights_digest
        self.classes = tuple(first.classes)
        self.scored = first.images.get("eval", 0)  # images
        self.steps = first.steps
        self.settings: Mapping[str, Any] = first.config.get("protocol", {})  # of the protocol

    @property
    def title(self) -> str:
        return f"{self.dataset}, protocol {self.protocol}"

    @property
    def classes_digest(self) -> str:
        """Twelve hex digits of the list of classes."""
        return hashlib.sha256(json.dumps(self.classes).encode()).hexdigest()[:12]

    @property
    def basis(self) -> str:
        """In words."""
        weights = f"weights {self.weights_digest[:12]}" if self.weights_digest else "no pretrained weights"
        return (
            f"protocol hash {self.protocol_hash[:12]}, {self.settings.get('views', 'published')} views, "
            f"{self.steps} steps, {weights}, {len(self.classes)} classes, scored on {self.scored} images "
            f"(list {self.eval_digest[:12]}) by {self.scored_module}"
        )

    @property
    def scored_module(self) -> str:
        """What the headline numbers are of, by the protocol's rule."""
        return "the protocol's teacher" if self.settings.get("teacher") else "each method's own predictor"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the headline numbers must know."""
        classes = note_on_classes({run.result.predictor.classes_averaged for run in self.runs})
        rows = [
            (f"{row.label} on {split.label}", [run.result for run in row.on(split)])
            for row in self.rows
            for split in self.splits
        ]
        return (*classes, *notes_on_code(rows))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What must stand above the tables: states of the data, and classes that no scored mask holds."""
        found = [
            f"the runs of {row.label.partition(' [data')[0]} are of several states of the data and stand in "
            f"rows of their own: {row.label}"
            for row in self.rows
            if " [data " in row.label
        ]
        for split in self.splits:
            if several_masks(run.result for row in self.rows for run in row.on(split)):
                found.append(f"the rows on {split.label} learned from several states of its masks")
        return (*found, *warnings_on_classes(self.classes, [run.result for run in self.runs]))

    @cached_property
    def labels(self) -> dict[Path, str]:
        """The label of its row, for the folder of each run."""
        results = [run.result for run in self.runs]
        labels = told_apart_by_data(_labels(results), [granted(result) for result in results], results)
        return {run.folder: label for run, label in zip(self.runs, labels, strict=True)}

    @cached_property
    def split_of(self) -> dict[Path, Split]:
        """The column, for the folder of each run."""
        splits = _splits([run.result for run in self.runs])
        return {run.folder: splits[granted(run.result)] for run in self.runs}

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        """The columns, fewest labeled images first."""
        return tuple(_splits([run.result for run in self.runs]).values())

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The baseline first, then by mean on the smallest split; a missing cell goes last."""
        together: dict[tuple[str, str], list[Run]] = defaultdict(list)
        for run in self.runs:
            together[run.result.method, self.labels[run.folder]].append(run)
        rows = [self._row(*names, runs) for names, runs in together.items()]
        return tuple(sorted(rows, key=_place))

    def _row(self, method: str, label: str, runs: Sequence[Run]) -> Row:
        found = self.by_split_and_seed(runs)
        scores = {split: [run.result.predictor.miou for run in of.values()] for split, of in found.items()}
        cells = tuple(summarise(scores[split]) if split in scores else None for split in self.splits)
        return Row(method, label, found, cells)

    def by_split_and_seed(self, runs: Iterable[Run]) -> dict[Split, dict[int, Run]]:
        """Runs of one method with one set of knobs. Raises DataError where two of them have one seed."""
        found: dict[Split, dict[int, Run]] = defaultdict(dict)
        for run in runs:
            known = found[self.split_of[run.folder]].setdefault(run.result.seed, run)
            if known is not run:
                raise DataError(
                    f"runs {known.result.run_id} and {run.result.run_id} ({_where(run.result)}) have the "
                    "same knobs but differ elsewhere; report them apart or move one of them away."
                )
        return dict(found)

    def rows_named(self, name: str) -> list[str]:
        """Labels of the rows that a name means: the row of that name, or all rows of that method."""
        exact = [row.label for row in self.rows if row.label == name]
        return exact or [row.label for row in self.rows if row.method == name]


def comparable(results: Mapping[Path, Result]) -> list[Group]:
    """Sort finished runs, given by their folders, into groups; these by data set and protocol.

    A run found twice (say in a copy of its folder) counts once; two different results of one run are refused.
    """
    truths, data = defaultdict(set), defaultdict(set)
    for result in results.values():
        truths[_basis(result)].add(truth_of(result))
        data[identity(result)].add(data_of(result))
    groups: dict[tuple[str, ...], dict[tuple[Any, ...], Run]] = defaultdict(dict)
    for folder, result in results.items():
        # A record of before digests stands with the others, unless these are of several states.
        truth = truth_of(result) if several(truths[_basis(result)]) else None
        state = data_of(result) if several(data[identity(result)]) else None
        group = groups[(*_basis(result), truth or "")]
        known = group.setdefault((*identity(result), state), Run(folder, result)).result
        if any(score_of(known, column) != score_of(result, column) for column in COLUMNS):
            raise DataError(
                f"run {result.run_id} ({_where(result)}) occurs twice with different scores; "
                "move one of them away."
            )
    return [Group(groups[key].values()) for key in sorted(groups)]


def told_apart(names: Sequence[str], groups: Sequence[Group], between: str = ", ") -> list[str]:
    """The names of groups, those that several share with what these differ in: `camvid, list 12ab34cd`."""
    marks = [
        {
            "protocol": group.protocol_hash[:8],
            "list": group.eval_digest[:8],
            "weights": (group.weights_digest or "none")[:8],
            "classes": group.classes_digest[:8],
            "scored data": group.truth or "unknown",
        }
        for group in groups
    ]
    found = []
    for name, mark in zip(names, marks, strict=True):
        namesakes = [other for own, other in zip(names, marks, strict=True) if own == name]
        apart = [key for key in mark if len({other[key] for other in namesakes}) > 1]
        found.append(between.join([name, *(f"{key} {mark[key]}" for key in apart)]))
    return found


def identity(result: Result) -> tuple[Any, ...]:
    """What makes two results those of one run, wherever their folders are."""
    return result.dataset, result.split, result.method, result.seed, result.run_id


def score_of(result: Result, column: Column) -> float:
    """The mIoU (0..1) that a run shows in a column."""
    if column == "oracle":
        return max([result.predictor.miou, *(point.miou for point in result.curve)])
    scores = {"student": result.student, "own": result.own or result.predictor}
    return scores.get(column, result.predictor).miou


def _basis(result: Result) -> tuple[str, ...]:
    return (
        result.dataset,
        result.protocol,
        result.protocol_hash,
        result.split_digests.get("eval", ""),
        json.dumps(result.classes),
        result.weights_digest or "",
    )


def _where(result: Result) -> str:
    return f"{result.method}, {result.dataset}, {result.split}, seed {result.seed}"


def _place(row: Row) -> tuple[Any, ...]:
    means = [(cell is None, -cell.mean if cell else 0.0) for cell in row.cells]
    return row.method != BASELINE, means, row.label


# Columns ----------------------------------------------------------------------------------------------------


Granted = tuple[tuple[int, int, int], str, tuple[str, ...]]  # counts of `LISTS`, name of the split, digests


def granted(result: Result) -> Granted:
    """What a split grants; the name alone does not say, since many published lists share one."""
    pixel, tags, none = (result.images.get(name, 0) for name in LISTS)
    digests = tuple(result.split_digests.get(name, "") for name in LISTS)
    return (pixel, tags, none), result.split, digests


def _splits(results: Sequence[Result]) -> dict[Granted, Split]:
    """The splits by what they grant, fewest labeled images first."""
    keys = sorted({granted(result) for result in results})
    names = []
    for _, name, digests in keys:
        namesakes = [others for _, other, others in keys if other == name]
        differing = [i for i in range(len(LISTS)) if len({others[i] for others in namesakes}) > 1]
        names.append(" ".join([name, *(f"[{LISTS[i]} {digests[i][:8]}]" for i in differing)]))
    return {
        (counts, name, digests): Split(label, *counts, digests, name)
        for label, (counts, name, digests) in zip(_unique(names), keys, strict=True)
    }


def _unique(names: Iterable[str]) -> list[str]:
    """The names, those that stand among them before with a number: a, b, a #2."""
    found: list[str] = []
    for name in names:
        number, unique = 1, name
        while unique in found:
            number += 1
            unique = f"{name} #{number}"
        found.append(unique)
    return found


# Rows -------------------------------------------------------------------------------------------------------


def settings_of(result: Result) -> dict[str, str]:
    """Version and knobs of the method as text, nested ones with dots: runs that differ are not averaged."""
    flat: dict[str, str] = {"version": str(result.method_version)}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                add(f"{prefix}.{key}" if prefix else str(key), inner)
        elif prefix:
            plain_word = isinstance(value, str) and not _is_json(value)  # "1" is another knob than 1
            flat[prefix] = value if plain_word else json.dumps(value, sort_keys=True)

    add("", result.config.get("method", {}))
    seeds = result.config.get("cam_seeds")
    if seeds:
        protocol = {key: value for key, value in seeds.get("protocol", {}).items() if key != "name"}
        add(SEEDS.removesuffix("."), {**seeds, "protocol": protocol})
    flat["tags"] = result.config.get("tags", UNUSUAL["tags"])
    return flat


def applies(key: str, settings: Mapping[str, str]) -> bool:
    """Whether a run has this setting: one on a split without tags has none of CAM seeds, which makes it no
    other method."""
    return key in settings or not key.startswith(SEEDS)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _labels(results: Sequence[Result]) -> list[str]:
    """The row label of each result: the method, and the knobs in which it differs from most of that method's
    rows. If no value of a knob is most common, it is shown in every row. A number tells methods apart whose
    labels come out alike."""
    settings = [settings_of(result) for result in results]
    by_method: dict[str, list[dict[str, str]]] = defaultdict(list)
    for result, setting in zip(results, settings, strict=True):
        if setting not in by_method[result.method]:  # each row counts once, however many seeds and splits
            by_method[result.method].append(setting)
    usual = {method: _usual(others) for method, others in by_method.items()}
    labels = []
    for result, setting in zip(results, settings, strict=True):
        unusual = [key for key in sorted(UNUSUAL) if setting.get(key, UNUSUAL[key]) != UNUSUAL[key]]
        common = usual[result.method]
        differing = [key for key, value in common.items() if value is None or setting.get(key) != value[0]]
        keys = [key for key in dict.fromkeys([*differing, *unusual]) if applies(key, setting)]
        shown = ", ".join(f"{key}={setting.get(key, 'unset')}" for key in keys)
        labels.append(f"{result.method} ({shown})" if shown else result.method)
    rows = list(zip(labels, (result.method for result in results), strict=True))
    apart = sorted(set(rows))
    unique = dict(zip(apart, _unique(label for label, _ in apart), strict=True))
    return [unique[row] for row in rows]


def _usual(settings: Sequence[dict[str, str]]) -> dict[str, tuple[str | None] | None]:
    """The commonest value of each knob in which these rows differ, None where no value is; but for knobs that
    are said of every run they are unusual in."""
    found: dict[str, tuple[str | None] | None] = {}
    for key in sorted({key for setting in settings for key in setting}.difference(UNUSUAL)):
        ordered = Counter(setting.get(key) for setting in settings if applies(key, setting)).most_common(2)
        if len(ordered) > 1:
            found[key] = None if ordered[0][1] == ordered[1][1] else (ordered[0][0],)
    return found
