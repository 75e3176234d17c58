"""Decides what may be compared: groups of runs that may stand in one table, with their rows and columns."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

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
from reports.knobs import labels_of
from reports.splits import SplitColumn, columns, granted
from reports.statistics import Key, Summary, summarise

# Last weights of what all methods are scored by; the best evaluation on the way; last weights of the student,
# and of the module that the method names.
Column = Literal["last", "oracle", "student", "own"]
COLUMNS: tuple[Column, ...] = get_args(Column)
BASELINE = "supervised"  # the row that all others are read against
COLOURED = "supervised_colours"  # where views are each method's own; under equal views the baseline is it


@dataclass(frozen=True)
class Run:
    """A finished run, and its folder, which names all that lies beside the result."""

    folder: Path
    result: Result


@dataclass(frozen=True)
class Row:
    """The runs of one method with one set of knobs."""

    method: str
    label: str
    runs: Mapping[SplitColumn, Mapping[Key, Run]]  # by draw and seed; a split without runs is not there
    cells: tuple[Summary | None, ...]  # one per split, shares 0..1; None = missing

    def on(self, split: SplitColumn) -> list[Run]:
        """Return the runs on a split, one for each draw and seed."""
        return list(self.runs.get(split, {}).values())

    def scores(self, split: SplitColumn) -> dict[Key, float]:
        """Their headline numbers, mIoU 0..1."""
        return {key: score_of(run.result, "last") for key, run in self.runs.get(split, {}).items()}


class Group:
    """Runs that may stand in one table: of one data set, protocol (by its hash), scored list, class list and
    weights. What all have in common is an attribute; rows and splits are those of the headline table.
    """

    def __init__(self, runs: Iterable[Run], whole: Group | None = None) -> None:
        """Make a group of runs. Raises DataError for runs that may not be compared; `comparable` sorts them
        into groups.

        Args:
            whole: The group that these runs are a part of, which keep their rows and columns.
        """
        self.runs = tuple(runs)
        self.whole = whole
        if (found := len({_basis(run.result) for run in self.runs})) != 1:
            raise DataError(
                "a table needs runs of one data set, protocol (by its hash), scored list, class list "
                f"and set of weights; got {found} groups of them: make one table of each."
            )
        if several(truth_of(run.result) for run in self.runs):
            raise DataError(
                "a table needs runs that were scored on the same images and masks; their digests differ: "
                "make one table of each."
            )
        first = self.runs[0].result
        self.dataset, self.protocol_hash = first.dataset, first.protocol_hash
        # Protocols of one hash are one, whatever their names: a run of the one counts as done for the other.
        self.protocol = " = ".join(sorted({run.result.protocol for run in self.runs}))
        self.eval_digest = first.split_digests.get("eval", "unknown")
        self.truth = next((truth for run in self.runs if (truth := truth_of(run.result))), None)
        self.weights_digest = first.weights_digest
        self.classes = tuple(first.classes)
        self.scored = first.images.get("eval", 0)  # images
        self.held_out = first.scored == "heldout"
        self.steps = first.steps
        self.settings: Mapping[str, Any] = first.config.get("protocol", {})  # of the protocol

    @property
    def title(self) -> str:
        held_out = ", scored on the held-out list" if self.held_out else ""
        return f"{self.dataset}, protocol {self.protocol}{held_out}"

    @property
    def classes_digest(self) -> str:
        """Twelve hex digits of the list of classes."""
        return hashlib.sha256(json.dumps(self.classes).encode()).hexdigest()[:12]

    @property
    def basis(self) -> str:
        """In words."""
        weights = f"weights {self.weights_digest[:12]}" if self.weights_digest else "no pretrained weights"
        images = "held-out images" if self.held_out else "images"
        return (
            f"protocol hash {self.protocol_hash[:12]}, {self.views} views, scored by {self.scorer}, "
            f"{self.steps} steps, {weights}, {len(self.classes)} classes, scored on {self.scored} {images} "
            f"(list {self.eval_digest[:12]})"
        )

    @property
    def views(self) -> str:
        """`equal`, `plain` or `published`: whether all methods see images augmented alike."""
        return str(self.settings.get("views", "published"))

    @property
    def scorer(self) -> str:
        """Whose last weights the headline is of."""
        return "the protocol's teacher" if self.settings.get("teacher") else "each method's own predictor"

    @property
    def draws(self) -> tuple[int, ...]:
        """The draws of the splits, all together."""
        return tuple(sorted({run.result.draw for run in self.runs}))

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes that a reader of the headline numbers must know."""
        classes = note_on_classes({run.result.predictor.classes_averaged for run in self.runs})
        rows = (
            (f"{row.label} on {split.label}", [run.result for run in row.on(split)])
            for row, split, _ in self.cells()
        )
        return (*classes, *notes_on_code(rows))

    @property
    def mixed(self) -> tuple[str, ...]:
        """Where rows or cells are of several states of the data."""
        found = [
            f"the runs of {row.label.partition(' [data')[0]} are of several states of the data and stand in "
            f"rows of their own: {row.label}"
            for row in self.rows
            if " [data " in row.label
        ]
        for split in self.splits:
            of_draws: dict[int, list[Result]] = defaultdict(list)
            for run in (run for row in self.rows for run in row.on(split)):
                of_draws[run.result.draw].append(run.result)
            if any(several_masks(results) for results in of_draws.values()):
                found.append(f"the rows on {split.label} learned from several states of its masks")
        return tuple(found)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings that must be known of the tables: states of the data, draws that differ, and classes that
        no scored mask holds."""
        found = [*self.mixed]
        for split in self.splits:
            if odd := [f"{row.label} ({of})" for row in self.rows if (of := self.other_draws(row, split))]:
                found.append(
                    f"not all rows on {split.label} are of the same draws: {', '.join(odd)}; their means are "
                    "not to be compared, and differences are over common draws alone"
                )
        return (*found, *warnings_on_classes(self.classes, [run.result for run in self.runs]))

    def other_draws(self, row: Row, split: SplitColumn) -> str:
        """`draws 0 1` of a row whose runs on a split are of other draws than those of most rows."""
        draws = [tuple(sorted({draw for draw, _ in of.runs[split]})) for of in self.rows if split in of.runs]
        own = tuple(sorted({draw for draw, _ in row.runs.get(split, {})}))
        if not own or own == Counter(sorted(draws, key=len, reverse=True)).most_common(1)[0][0]:
            return ""
        return f"draw{'s' if len(own) > 1 else ''} {' '.join(map(str, own))}"

    @cached_property
    def labels(self) -> dict[Path, str]:
        """The label of its row, for the folder of each run."""
        if self.whole:
            return self.whole.labels
        results = [run.result for run in self.runs]
        labels = told_apart_by_data(labels_of(results), [granted(result) for result in results], results)
        return {run.folder: label for run, label in zip(self.runs, labels, strict=True)}

    @cached_property
    def split_of(self) -> dict[Path, SplitColumn]:
        """The column, for the folder of each run."""
        if self.whole:
            return self.whole.split_of
        found = columns([run.result for run in self.runs])
        return {run.folder: found[run.result.draw, granted(run.result)] for run in self.runs}

    @cached_property
    def splits(self) -> tuple[SplitColumn, ...]:
        """The columns, fewest labeled images first."""
        here = {self.split_of[run.folder] for run in self.runs}
        order = self.whole.splits if self.whole else columns([run.result for run in self.runs]).values()
        return tuple(split for split in dict.fromkeys(order) if split in here)

    @cached_property
    def kinds(self) -> tuple[Group, ...]:
        """The part of each kind of supervision, masks first: what tables compare. One kind is the group
        itself."""
        kinds = sorted(dict.fromkeys(split.kind for split in self.splits), key=lambda kind: kind != "pixel")
        if len(kinds) == 1:
            return (self,)
        of_kind = [[run for run in self.runs if self.split_of[run.folder].kind == kind] for kind in kinds]
        return tuple(Group(runs, self) for runs in of_kind)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The baseline first, then by mean on the smallest split; a missing cell goes last."""
        together: dict[tuple[str, str], list[Run]] = defaultdict(list)
        for run in self.runs:
            together[run.result.method, self.labels[run.folder]].append(run)
        rows = [self._row(*names, runs) for names, runs in together.items()]
        return tuple(sorted(rows, key=_place))

    def _row(self, method: str, label: str, runs: Sequence[Run]) -> Row:
        found = self.by_split(runs)
        cells = (summary(found.get(split, {}).values()) for split in self.splits)
        return Row(method, label, found, tuple(cells))

    def by_split(self, runs: Iterable[Run]) -> dict[SplitColumn, dict[Key, Run]]:
        """Sort runs of one method with one set of knobs by split, draw and seed. Raises DataError where two
        have all three."""
        found: dict[SplitColumn, dict[Key, Run]] = defaultdict(dict)
        for run in runs:
            known = found[self.split_of[run.folder]].setdefault((run.result.draw, run.result.seed), run)
            if known is not run:
                raise DataError(
                    f"runs {known.result.run_id} and {run.result.run_id} ({_where(run.result)}) have the "
                    "same knobs but differ elsewhere; report them apart or move one of them away."
                )
        return dict(found)

    def cells(self) -> Iterator[tuple[Row, SplitColumn, Summary | None]]:
        """Every cell of the headline table, row by row."""
        for row in self.rows:
            yield from ((row, split, cell) for split, cell in zip(self.splits, row.cells, strict=True))

    def row(self, label: str) -> Row:
        (found,) = (row for row in self.rows if row.label == label)
        return found

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
    found = [(key, Group(of.values())) for key, of in groups.items()]
    return [group for _, group in sorted(found, key=lambda of: (of[1].dataset, of[1].protocol, of[0]))]


def told_apart(names: Sequence[str], groups: Sequence[Group], between: str = ", ") -> list[str]:
    """Return the names of groups. A name that several share has the marks in which these differ:
    `camvid, list 12ab34cd`."""
    marks = [
        {
            "views": group.views,
            "scored by": group.scorer,
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
    """Return the values that are equal for two results of one run, wherever their folders are."""
    return result.dataset, result.split, result.draw, result.method, result.seed, result.run_id


def score_of(result: Result, column: Column) -> float:
    """Return the mIoU (0..1) that a run shows in a column."""
    if column == "oracle":
        return max([result.predictor.miou, *(point.miou for point in result.curve)])
    scores = {"student": result.student, "own": result.own or result.predictor}
    return scores.get(column, result.predictor).miou


def summary(runs: Iterable[Run], score: Callable[[Result], float | None] | None = None) -> Summary | None:
    """Summarise a number of some runs over draws and seeds; by default the headline. None where no run has
    one."""
    of = score or (lambda result: score_of(result, "last"))
    found = {(run.result.draw, run.result.seed): of(run.result) for run in runs}
    known = {key: value for key, value in found.items() if value is not None}
    return summarise(known) if known else None


def _basis(result: Result) -> tuple[str, ...]:
    return (
        result.dataset,
        result.protocol_hash,
        result.split_digests.get("eval", ""),
        result.scored,
        json.dumps(result.classes),
        result.weights_digest or "",
    )


def _where(result: Result) -> str:
    return f"{result.method}, {result.dataset}, {result.drawn_split}, seed {result.seed}"


def _place(row: Row) -> tuple[Any, ...]:
    means = [(cell is None, -cell.mean if cell else 0.0) for cell in row.cells]
    return row.method != BASELINE, not row.method.startswith(f"{BASELINE}_"), means, row.label
