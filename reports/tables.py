"""Tables of mIoU, method x split. A table holds only runs that may be compared with each other."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from bench.errors import DataError, plain
from bench.records.schema import Result
from reports.statistics import Summary, summarise

Column = Literal["last", "oracle", "student"]

COLUMNS: dict[Column, tuple[str, str]] = {
    "last": ("mIoU", "last weights of the module that the method names as its predictor"),
    "oracle": ("oracle", "optimistic: chosen on the scored list, paper protocol"),
    "student": ("student", "last weights of the student"),
}
LISTS = ("pixel", "tags", "none")
MISSING = "missing"
SEEDS = "cam_seeds."  # settings of a run that learned from CAM seeds
# Always said where they are not these: the runs were given more, or worse, than others of their split.
UNUSUAL = {"cam_seeds.policy": "fixed", "tags": "given"}
BASELINE = "supervised"  # the row that all others are read against


@dataclass(frozen=True)
class Split:
    """One column: a split name, told apart by digest where lists of different content go by one name."""

    label: str
    pixel: int
    tags: int

    @property
    def heading(self) -> str:
        if not self.tags:
            return f"{self.label} ({self.pixel})"
        if not self.pixel:
            return f"{self.label} ({self.tags} tags)"
        return f"{self.label} ({self.pixel} + {self.tags} tags)"


@dataclass(frozen=True)
class Row:
    method: str
    label: str
    cells: tuple[Summary | None, ...]  # one per split, shares 0..1; None = missing


@dataclass(frozen=True)
class Table:
    """mIoU of every method on every split of one data set under one protocol."""

    dataset: str
    protocol: str
    protocol_hash: str
    eval_digest: str
    weights_digest: str | None
    classes: tuple[str, ...]
    scored: int  # images
    steps: int
    column: Column
    splits: tuple[Split, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.dataset}, protocol {self.protocol}"

    @property
    def classes_digest(self) -> str:
        """Twelve hex digits of the list of classes."""
        return hashlib.sha256(json.dumps(self.classes).encode()).hexdigest()[:12]

    @property
    def basis(self) -> str:
        """What all cells have in common."""
        weights = f"weights {self.weights_digest[:12]}" if self.weights_digest else "no pretrained weights"
        return (
            f"protocol hash {self.protocol_hash[:12]}, {self.steps} steps, {weights}, "
            f"{len(self.classes)} classes, scored on {self.scored} images (list {self.eval_digest[:12]})"
        )


def score_of(result: Result, column: Column) -> float:
    """The mIoU (0..1) that a run shows in a column."""
    if column == "student":
        return result.student.miou
    if column == "oracle":
        return max([result.predictor.miou, *(point.miou for point in result.curve)])
    return result.predictor.miou


def comparable(results: Iterable[Result]) -> list[list[Result]]:
    """The results in groups that may stand in one table, sorted by data set and protocol.

    A run found twice (say in a copy of its folder) counts once; two different results of one run are refused.
    """
    groups: dict[tuple[str, ...], dict[tuple[Any, ...], Result]] = defaultdict(dict)
    for result in results:
        identity = (result.method, result.split, result.seed, result.run_id)
        known = groups[_basis(result)].setdefault(identity, result)
        if any(score_of(known, column) != score_of(result, column) for column in COLUMNS):
            raise DataError(
                f"run {result.run_id} ({_where(result)}) occurs twice with different scores; "
                "move one of them away."
            )
    return [list(groups[key].values()) for key in sorted(groups)]


def labels_of(results: Sequence[Result]) -> list[str]:
    """The row label of each result: the method, and the knobs in which it differs from most of that method's
    rows. A knob of which no value is the commonest stands in the label of every row. A number tells methods
    apart whose labels come out alike."""
    settings = [settings_of(result) for result in results]
    by_method: dict[str, list[dict[str, str]]] = defaultdict(list)
    for result, setting in zip(results, settings, strict=True):
        if setting not in by_method[result.method]:  # each row counts once, however many seeds and splits
            by_method[result.method].append(setting)
    usual = {method: _usual(others) for method, others in by_method.items()}
    labels = []
    for result, setting in zip(results, settings, strict=True):
        apart = [key for key in sorted(UNUSUAL) if setting.get(key, UNUSUAL[key]) != UNUSUAL[key]]
        common = usual[result.method]
        differing = [key for key, value in common.items() if value is None or setting.get(key) != value[0]]
        names = dict.fromkeys([*differing, *apart])
        keys = [key for key in names if key in setting or not _of_seeds(key)]
        shown = ", ".join(f"{key}={setting.get(key, 'unset')}" for key in keys)
        labels.append(f"{result.method} ({shown})" if shown else result.method)
    unique = _unique(sorted({*zip(labels, (result.method for result in results), strict=True)}))
    return [unique[label, result.method] for label, result in zip(labels, results, strict=True)]


def _unique(named: Iterable[tuple[str, Any]]) -> dict[tuple[str, Any], str]:
    """A name of its own for each of some things that have names: the first of a name keeps it."""
    found: dict[tuple[str, Any], str] = {}
    for name, thing in named:
        number, unique = 1, name
        while unique in found.values():
            number += 1
            unique = f"{name} #{number}"
        found[name, thing] = unique
    return found


def _usual(settings: Sequence[dict[str, str]]) -> dict[str, tuple[str | None] | None]:
    """The commonest value of each knob in which these rows differ, None where no value is; but for knobs that
    are said of every run they are unusual in."""
    found: dict[str, tuple[str | None] | None] = {}
    for key in sorted({key for setting in settings for key in setting}.difference(UNUSUAL)):
        # Runs on a split without tags have no seeds, which makes them no other method.
        values = [setting.get(key) for setting in settings if key in setting or not _of_seeds(key)]
        ordered = Counter(values).most_common(2)
        if len(ordered) > 1:
            found[key] = None if ordered[0][1] == ordered[1][1] else (ordered[0][0],)
    return found


def _of_seeds(key: str) -> bool:
    return key.startswith(SEEDS)


def miou_table(results: Sequence[Result], column: Column = "last") -> Table:
    """The table of one comparable group; results that differ in what comparable() splits by are refused."""
    groups = comparable(results)
    if len(groups) != 1:
        raise DataError(
            "a table needs runs of one data set, protocol hash, scored list, class list and set of weights; "
            f"got {len(groups)} groups of them: make one table of each."
        )
    (group,) = groups
    columns = columns_of(group)
    runs: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result, label in zip(group, labels_of(group), strict=True):
        runs[result.method, label].append(result)
    rows = [_row(*names, found, list(columns), column) for names, found in runs.items()]
    first = group[0]
    return Table(
        dataset=first.dataset,
        protocol=first.protocol,
        protocol_hash=first.protocol_hash,
        eval_digest=first.split_digests.get("eval", "unknown"),
        weights_digest=first.weights_digest,
        classes=tuple(first.classes),
        scored=first.images.get("eval", 0),
        steps=first.steps,
        column=column,
        splits=tuple(columns.values()),
        rows=tuple(sorted(rows, key=_place)),
        notes=_notes(group, column),
    )


def _place(row: Row) -> tuple[Any, ...]:
    """The baseline first, then by mean on the smallest split; a missing cell goes last."""
    return (
        row.method != BASELINE,
        [(cell is None, -cell.mean if cell else 0.0) for cell in row.cells],
        row.label,
    )


def _where(result: Result) -> str:
    return f"{result.method}, {result.dataset}, {result.split}, seed {result.seed}"


def _basis(result: Result) -> tuple[str, ...]:
    return (
        result.dataset,
        result.protocol,
        result.protocol_hash,
        result.split_digests.get("eval", ""),
        json.dumps(result.classes),
        result.weights_digest or "",
    )


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


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def granted(result: Result) -> tuple[Any, ...]:
    """What a split grants; the name alone does not say, since many published lists share one."""
    counts = tuple(result.images.get(name, 0) for name in LISTS)
    digests = tuple(result.split_digests.get(name, "") for name in LISTS)
    return (*counts, result.split, *digests)


def columns_of(group: Iterable[Result]) -> dict[tuple[Any, ...], Split]:
    """The splits of the group by what they grant, fewest labeled images first."""
    group = list(group)
    by_name: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for result in group:
        by_name[result.split].add(granted(result))
    columns = {}
    for key in sorted(granted(result) for result in group):
        pixel, tags, _, name, *digests = key
        label = name
        if len(by_name[name]) > 1:
            namesakes = [other[4:] for other in by_name[name]]
            differing = [i for i in range(len(LISTS)) if len({other[i] for other in namesakes}) > 1]
            label = " ".join([name, *(f"[{LISTS[i]} {digests[i][:8]}]" for i in differing)])
        columns[key] = Split(label=label, pixel=pixel, tags=tags)
    unique = _unique((split.label, key) for key, split in columns.items())
    return {key: replace(split, label=unique[split.label, key]) for key, split in columns.items()}


def by_split_and_seed(runs: Iterable[Result]) -> dict[tuple[Any, ...], dict[int, Result]]:
    """Runs of one method with one set of knobs, by what their split grants and by seed."""
    by_split: dict[tuple[Any, ...], dict[int, Result]] = defaultdict(dict)
    for run in runs:
        known = by_split[granted(run)].setdefault(run.seed, run)
        if known is not run:
            raise DataError(
                f"runs {known.run_id} and {run.run_id} ({_where(run)}) have the same knobs but differ "
                "elsewhere; report them apart or move one of them away."
            )
    return by_split


def runs_of(group: Sequence[Result]) -> dict[str, dict[tuple[Any, ...], dict[int, Result]]]:
    """The runs of each row of the headline table, in its order, by what their split grants and by seed."""
    runs: dict[str, list[Result]] = defaultdict(list)
    for result, label in zip(group, labels_of(group), strict=True):
        runs[label].append(result)
    return {row.label: by_split_and_seed(runs[row.label]) for row in miou_table(group).rows}


def _row(method: str, label: str, runs: list[Result], keys: list[tuple[Any, ...]], column: Column) -> Row:
    by_split = by_split_and_seed(runs)
    cells = tuple(
        summarise(score_of(run, column) for run in by_split[key].values()) if key in by_split else None
        for key in keys
    )
    return Row(method=method, label=label, cells=cells)


def _notes(group: Sequence[Result], column: Column) -> tuple[str, ...]:
    if column == "oracle":
        return ()  # the curve does not store how many classes each of its points averages
    scores = [result.student if column == "student" else result.predictor for result in group]
    return note_on_classes({score.classes_averaged for score in scores})


def note_on_classes(counts: Collection[int]) -> tuple[str, ...]:
    """The note on means that are taken over different numbers of classes."""
    if len(counts) == 1:
        return ()
    return (
        "The runs do not average over the same number of classes "
        f"({', '.join(map(str, sorted(counts)))}): a class that is neither in the truth nor predicted is "
        "left out.",
    )


# Rendering. Names come from users and packages: each sink gets them in a form in which they are only text.


# With their full-width forms, which some spreadsheets take for the same.
FORMULA_SIGNS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def markdown_text(text: str) -> str:
    """The text with the characters that mean something in Markdown or HTML escaped."""
    escaped = re.sub(r"([\\`*<>\[\]|&~$#!])", r"\\\1", plain(text).lstrip())
    # At the start of a line these begin a list; elsewhere GitHub makes links of these by itself.
    escaped = re.sub(r"^([-+]|\d+[.)])(?=\s)", lambda mark: f"{mark[0][:-1]}\\{mark[0][-1]}", escaped)
    escaped = re.sub(r":(?=//)|\.(?<=www\.)", r"\\\g<0>", escaped, flags=re.IGNORECASE)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)


def csv_text(text: str) -> str:
    """The text with a quote in front where a spreadsheet would take it for a formula."""
    text = plain(text)
    return f"'{text}" if text.lstrip()[:1] in FORMULA_SIGNS else text


def cell_text(cell: Summary | None) -> str:
    """`43.2 ± 1.1 (3)`: mean and spread in percent, number of seeds."""
    if cell is None:
        return MISSING
    if cell.spread is None:
        return f"{100 * cell.mean:.1f} ({cell.n})"
    return f"{100 * cell.mean:.1f} ± {100 * cell.spread:.1f} ({cell.n})"


def interval_text(ends: tuple[float, float] | None, sign: str = "") -> str:
    """`40.0 to 46.4` in percent; `sign` "+" shows that of both ends. Empty where there is none."""
    if ends is None:
        return ""
    low, high = ends
    return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """The lines, the first of them the heading, as a Markdown table."""
    lines = [[markdown_text(cell) for cell in line] for line in lines]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    text = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(text) + "\n"


def csv_lines(lines: Iterable[Sequence[Any]]) -> str:
    """The lines as CSV, every text made harmless for spreadsheets."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    for line in lines:
        writer.writerow([csv_text(cell) if isinstance(cell, str) else cell for cell in line])
    return file.getvalue()
