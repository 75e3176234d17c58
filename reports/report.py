"""The report of a folder of runs: one HTML page, the same as Markdown, and every table and plot as files."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, DataError, did_you_mean
from bench.records.atomic import write_atomic
from bench.records.folders import RunFolder
from bench.records.index import find_results
from bench.records.logs import read_metrics
from bench.records.schema import Result, Scores
from bench.sweeps.ablations import Ablation, sweeps_of
from reports import (
    ablation,
    classes,
    comparison,
    curves,
    document,
    effort,
    evaluation,
    health,
    heat,
    overview,
    page,
    plots,
    records,
    seeds,
)
from reports import published_numbers as literature
from reports.document import Listing, Part, Photo, Section
from reports.plots import Picture
from reports.sheets import GROUP_COLUMNS, Sheet, group_names
from reports.tables import (
    BASELINE,
    COLUMNS,
    LISTS,
    MISSING,
    Row,
    Split,
    Table,
    columns_of,
    comparable,
    granted,
    labels_of,
    miou_table,
    score_of,
)

HOW_TO_READ = (
    "A cell is mean ± spread (n) of the mIoU in percent over n seeds; spread is the sample standard "
    "deviation, and one seed has none. Headline numbers are of the last weights, never of the best "
    f'checkpoint; the best of the curve is shown only under oracle. "{MISSING}" is a cell that has not been '
    "run; nothing is averaged over it.",
    "A table holds runs of one protocol, one scored list, one class list and one set of encoder weights. The "
    'number of labeled images of a split is in brackets after its name; "tags" are images of which only the '
    "classes are known. Runs of a method with other knobs are rows of their own, named by the knobs in which "
    "they differ from most rows of that method.",
)
HOW_HEALTHY = (
    "What the methods noted while they trained. The accuracy of pseudo-labels needs the masks that the split "
    "withholds, so it is there only for runs with --audit, which opens them for such figures and nothing "
    "else."
)
HOW_SCORED = (
    "Finished runs scored again by `python -m bench score`, without tags: raw is the score of the protocol, "
    "the others average the probabilities over scales and flips, and refine those by the dense CRF. The "
    "three numbers of a row are of the same runs."
)
HOW_MADE = (
    "One line per run. Digests name the protocol, the lists of images and the encoder weights: two runs may "
    "be compared where those of protocol, scored list and weights are equal."
)
RUN_COLUMNS = (
    *GROUP_COLUMNS,
    *("method", "row", "split", "seed", "run_id", *LISTS, "eval"),
    *("miou_percent", "oracle_miou_percent", "student_miou_percent"),
    *(
        "classes_averaged",
        "pixel_accuracy_percent",
        "steps",
        "train_seconds",
        "eval_seconds",
        "peak_memory_mib",
    ),
    *("method_version", "knobs"),
    *(f"{name}_digest" for name in LISTS),
    *("commit", "dirty", "started", "machine", "command"),
)
DETAILED_CELLS = (
    6  # of so many the health of every class is drawn: a figure takes a second and a whole screen
)
SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Report:
    """What was written. `sheets` are the tables to print: headline, differences, evaluation, ablations."""

    tables: list[Table]
    sheets: list[Sheet]
    warnings: list[str]
    paths: list[Path]


@dataclass(frozen=True)
class Evidence:
    """What lies beside the results, by identity of the result. A run may lack any of it."""

    counts: Mapping[int, records.Counts]
    lines: Mapping[int, Sequence[Mapping[str, Any]]]  # of the log
    scores: Mapping[int, Scores]
    seeds: Mapping[int, records.Seeds]
    origins: Mapping[int, records.Origin]
    sheets: Mapping[int, bytes]  # JPEG


def write_report(roots: Sequence[Path], destination: Path, baseline: str = BASELINE) -> Report:
    """Read the finished runs below `roots` and write index.html, report.md, the tables and the plots.

    A named sweep has a table where two of its variants are found.

    Args:
        roots: Folders that hold runs.
        destination: Folder to write to; made if need be.
        baseline: A method, or the name of a row, to which all others are compared.

    Raises:
        DataError: There is no finished run, or a record cannot be read.
        ConfigError: No run is of the baseline that was asked for, or the rows it may mean are several.
    """
    folders = find_results(*roots)
    if not folders:
        raise DataError(
            f"no finished runs under {', '.join(map(str, roots))}; a run is finished once it has a result."
        )
    groups = comparable(folders.values())
    baselines = [comparison.rows_named(group, baseline) for group in groups]
    _check_baseline(baseline, groups, baselines)
    evidence, warnings = _gather(folders, roots)
    warnings += _apart(groups)
    sweeps = sweeps_of({result.method for result in folders.values()})
    printed: list[Sheet] = []
    sections = []
    for group, title, rows in zip(groups, titles(groups), baselines, strict=True):
        section, shown = _group_section(group, title, baseline, rows, sweeps, evidence)
        warnings += _holes(group, title)
        sections.append(section)
        printed += shown
    runs = sum(map(len, groups))
    whole = Section(
        title="FrugalSeg: results",
        parts=(f"{_count(runs, 'run')} in {_count(len(groups), 'comparable group')}.", *HOW_TO_READ),
        sections=(
            Section("Warnings", (Listing(tuple(warnings)) if warnings else "None.",)),
            *sections,
            Section("Runs", (HOW_MADE, _runs_sheet(groups, evidence))),
        ),
    )
    filed = document.file(whole)
    paths = document.write_files(filed, destination)
    for name, text in (("report.md", document.to_markdown(filed)), ("index.html", page.to_html(filed))):
        write_atomic(destination / name, text.encode())
        paths.insert(0, destination / name)
    written = {path.name for path in paths}
    older = sorted(path.name for path in destination.iterdir() if path.is_file() and path.name not in written)
    if older:
        warnings.append(f"files that lay there before and are not of this report: {records.listed(older)}")
    return Report([miou_table(group) for group in groups], printed, warnings, paths)


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _gather(folders: Mapping[Path, Result], roots: Sequence[Path]) -> tuple[Evidence, list[str]]:
    """What lies beside the results, and warnings on what does not or is not as it should be."""
    counts, warnings = records.predictor_counts(folders, roots)
    seeds_of, unclear = records.cam_seeds(folders, roots)
    origins = records.origins(folders)
    lines, torn = records.each(folders, roots, lambda run: read_metrics(run.metrics), "logs")
    scores, unread = records.each(folders, roots, RunFolder.read_scores, "scores of other settings")
    sheets, unseen = records.picture_sheets(folders, roots)
    evidence = Evidence(
        counts=counts,
        lines=lines,
        scores=scores,
        seeds=seeds_of,
        origins=origins,
        sheets=sheets,
    )
    warnings += torn + unread + unclear + unseen
    return evidence, warnings + records.folder_warnings(folders, origins, roots)


def _apart(groups: Sequence[Sequence[Result]]) -> list[str]:
    """What may not be compared, and where lists of other content go by one name."""
    found = []
    if len(groups) > 1:
        found.append(
            f"the runs differ in data set, protocol, scored list, classes or encoder weights: {len(groups)} "
            "groups, each with tables of its own; numbers of two groups may not be compared"
        )
    for group in groups:
        names: dict[str, list[str]] = defaultdict(list)
        for key, split in columns_of(group).items():
            names[key[3]].append(split.label)
        for name, labels in names.items():
            if len(labels) > 1:
                found.append(
                    f"{group[0].dataset}: {len(labels)} splits of different lists go by the name {name}; "
                    f"each has a column of its own: {', '.join(labels)}"
                )
    return found


# One group --------------------------------------------------------------------------------------------------


def titles(groups: Sequence[Sequence[Result]]) -> list[str]:
    """What each group is called; several of one data set, protocol and steps by what they differ in too."""
    tables = [miou_table(group) for group in groups]
    names = [f"{table.title}, {table.steps} steps" for table in tables]
    marks = [
        {
            "protocol": table.protocol_hash[:8],
            "list": table.eval_digest[:8],
            "weights": (table.weights_digest or "none")[:8],
            "classes": table.classes_digest[:8],
        }
        for table in tables
    ]
    found = []
    for name, mark in zip(names, marks, strict=True):
        namesakes = [other for own, other in zip(names, marks, strict=True) if own == name]
        apart = [key for key in mark if len({other[key] for other in namesakes}) > 1]
        found.append(", ".join([name, *(f"{key} {mark[key]}" for key in apart)]))
    return found


def _group_section(
    group: Sequence[Result],
    title: str,
    baseline: str,
    rows: Sequence[str],
    sweeps: Sequence[Ablation],
    evidence: Evidence,
) -> tuple[Section, list[Sheet]]:
    """All that is said of runs that may be compared, and those of its sheets that a terminal shows.

    Args:
        rows: Labels of the rows that `baseline` means here.
    """
    table = miou_table(group)
    headline = overview.headline(group)
    printed = [headline]
    explained = COLUMNS["last"][1]
    sums = {key: counts.sums for key, counts in evidence.counts.items()}
    pooled = {key: counts.pooled for key, counts in evidence.counts.items()}
    refined = {key: found.report.refine_core_seconds for key, found in evidence.seeds.items()}
    qualities = {key: found.quality for key, found in evidence.seeds.items() if found.quality}

    compared: Part = _no_baseline(baseline, rows)
    if len(rows) == 1 and len(table.rows) > 1:
        compared = comparison.differences(group, rows[0], sums)
        printed.append(compared)
    ranks = comparison.average_rank_sheet(group)
    scored = [found.sheet for found in evaluation.evaluation_tables(group, evidence.scores)]
    ablations = [
        found.sheet for sweep in sweeps for found in ablation.ablation_tables(group, sweep, fewest=2)
    ]
    printed += scored + ablations
    field = literature.beside(group)
    sections = (
        Section("What was compared", (table.basis, overview.lists(group))),
        Section(
            "mIoU",
            (
                f"{explained[0].upper()}{explained[1:]}.",
                headline,
                *plots.labels(group),
                overview.intervals(group),
            ),
        ),
        Section(f"Differences to {baseline}", (compared,)),
        Section(
            "Average rank", (ranks or "No split and seed is common to all rows, or there is one row alone.",)
        ),
        Section("Student, predictor and oracle", (overview.modules(group),)),
        Section("Published numbers", (field,) if field else ()),
        Section("Evaluation", (HOW_SCORED, *scored) if scored else ()),
        Section("Ablations", tuple(ablations)),
        Section("Annotation", tuple(effort.hours(group))),
        Section(
            "Classes",
            (
                *heat.class_maps(group),
                *classes.class_sheets(group),
                *heat.confusions(group, pooled),
            ),
        ),
        Section("Cost", (overview.costs(group, evidence.scores, refined), *effort.costs(group))),
        Section("Learning curves", tuple(curves.learning(group, evidence.lines))),
        Section("Health", _health(group, table, evidence)),
        Section("CAM seeds", tuple(seeds.quality(group, qualities))),
        Section("Predictions", tuple(_photos(group, evidence))),
        Section("Protocol", (overview.protocol(group),)),
    )
    section = Section(title, sections=tuple(part for part in sections if part.parts))
    return section, printed


def _check_baseline(baseline: str, groups: Sequence[Sequence[Result]], rows: Sequence[Sequence[str]]) -> None:
    """The default may have no runs, and the report says so; one that was asked for must be there."""
    if baseline == BASELINE or any(len(found) == 1 for found in rows):
        return
    if several := next((found for found in rows if found), None):
        raise ConfigError(f"--baseline {baseline}: give one of its rows: {', '.join(map(repr, several))}.")
    known = {label for group in groups for label in labels_of(group)}
    raise ConfigError(f"--baseline {baseline}: no run is of it{did_you_mean(baseline, known)}")


def _no_baseline(baseline: str, rows: Sequence[str]) -> str:
    if len(rows) == 1:
        return "Nothing else is here to compare with it."
    if rows:
        return f"{baseline} has several rows here; choose one with --baseline: {', '.join(map(repr, rows))}."
    return f"No run of {baseline} is among these."


def _holes(group: Sequence[Result], title: str) -> list[str]:
    few, missing = overview.holes(group)
    said = {"fewer than three seeds": few, "missing cells": missing}
    return [f"{title}: {what}: {records.listed(cells)}" for what, cells in said.items() if cells]


def _health(group: Sequence[Result], table: Table, evidence: Evidence) -> tuple[Part, ...]:
    """Methods beside each other, and class by class where the cells are few."""
    overviews = health.overview(group, evidence.lines)
    cells = _noted(group, table, evidence.lines)
    if not cells:
        return tuple(overviews)
    parts: list[Part] = [HOW_HEALTHY, *overviews]
    parts.append(health.sheet(table, [(row.label, split, figures) for row, split, figures in cells]))
    if len(cells) > DETAILED_CELLS:
        parts.append(
            f"{_count(len(cells), 'cell')} have figures of every class, which are drawn for up to "
            f"{DETAILED_CELLS}: give `report` the folder of fewer runs to see them."
        )
        return tuple(parts)
    for row, split, figures in cells:
        name = f"{row.label} on {split.heading}"
        parts.append(
            Picture(
                name=f"health-{table.dataset}-{table.protocol_hash[:8]}-{split.label}-{row.label}",
                title=f"health of {name}, class by class",
                alt=f"What {name} noted over its training steps; the table has the last values.",
                figure=health.draw(figures, f"{table.title}: {name}"),
            )
        )
    return tuple(parts)


def _noted(
    group: Sequence[Result], table: Table, lines: Mapping[int, Sequence[Mapping[str, Any]]]
) -> list[tuple[Row, Split, health.Health]]:
    """The health figures of the table's rows on its splits, where the runs have any."""
    columns = columns_of(group)
    cells: dict[tuple[str, Split], list[Result]] = defaultdict(list)
    for run, label in zip(group, labels_of(group), strict=True):
        cells[label, columns[granted(run)]].append(run)
    found = []
    for row in table.rows:
        for split in table.splits:
            noted = [lines.get(id(run), ()) for run in cells[row.label, split]]
            figures = health.gather(noted, table.classes)
            if figures is not None:
                found.append((row, split, figures))
    return found


def _photos(group: Sequence[Result], evidence: Evidence) -> list[Photo]:
    """The picture sheets that `show` has made."""
    found = []
    for run, label in zip(group, labels_of(group), strict=True):
        if id(run) not in evidence.sheets:
            continue
        name = f"{label} on {run.split}, seed {run.seed}"
        found.append(
            Photo(
                name=f"predictions-{run.dataset}-{run.split}-{label}-{run.seed}",
                title=name,
                alt=f"Images, truth, pseudo-labels and predictions of {name}.",
                data=evidence.sheets[id(run)],
            )
        )
    return found


# All runs ---------------------------------------------------------------------------------------------------


def _runs_sheet(groups: Sequence[Sequence[Result]], evidence: Evidence) -> Sheet:
    """One line per run: its scores, the digests it may be compared by, and how it was made."""
    heading = (
        *("method", "split", "seed", "mIoU", "data set", "run", "protocol", "scored list"),
        *(*(f"{name} list" for name in LISTS), "weights", "commit", "started", "machine", "command"),
    )
    lines: list[tuple[str, ...]] = [heading]
    rows: list[tuple[Any, ...]] = [RUN_COLUMNS]
    for group in groups:
        names = group_names(miou_table(group))
        for result, label in zip(group, labels_of(group), strict=True):
            origin = evidence.origins.get(id(result), records.UNKNOWN)
            digests = [result.split_digests.get(name, "") for name in LISTS]
            commits = ", ".join(commit[:SHOWN_DIGITS] if commit else "unknown" for commit in origin.commits)
            scored = result.split_digests.get("eval", "")
            weights = result.weights_digest or ""
            lines.append(
                (
                    *(label, result.split, str(result.seed), f"{100 * score_of(result, 'last'):.2f}"),
                    *(result.dataset, result.run_id, f"{result.protocol} {result.protocol_hash}"),
                    *(digest[:SHOWN_DIGITS] for digest in (scored, *digests, weights)),
                    f"{commits}, with uncommitted changes" if origin.dirty else commits,
                    *(origin.time, origin.machine, origin.command),
                )
            )
            rows.append(
                (
                    *names,
                    *(result.method, label, result.split, result.seed, result.run_id),
                    *(result.images.get(name, 0) for name in (*LISTS, "eval")),
                    *(100 * score_of(result, column) for column in COLUMNS),
                    *(result.predictor.classes_averaged, 100 * result.predictor.pixel_accuracy),
                    *(result.steps, result.train_seconds, result.eval_seconds, result.peak_memory_mib),
                    *(result.method_version, json.dumps(result.config.get("method"), sort_keys=True)),
                    *digests,
                    *(" ".join(commit or "unknown" for commit in origin.commits), origin.dirty),
                    *(origin.time, origin.machine, origin.command),
                )
            )
    return Sheet(
        name="runs",
        title="every run",
        group="",
        lines=tuple(lines),
        records=tuple(rows),
        names=3,
        words=len(heading) - 4,
    )
