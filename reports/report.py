"""The report of a folder of runs: Markdown, plots, tables as CSV and LaTeX, and one line per run as CSV."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ablations import sweeps_of
from bench.errors import ConfigError, DataError, did_you_mean
from bench.files import write_atomic
from bench.store import Result, RunFolder, find_results, read_metrics
from reports import ablation, classes, comparison, evaluation, health, overview, plots, records, sheets
from reports import published_numbers as literature
from reports.sheets import Sheet
from reports.tables import (
    BASELINE,
    COLUMNS,
    LISTS,
    Row,
    Split,
    Table,
    columns_of,
    comparable,
    csv_lines,
    granted,
    labels_of,
    markdown_text,
    miou_table,
    score_of,
    to_markdown,
)

HOW_TO_READ = """\
A cell is mean ± spread (n) of the mIoU in percent over n seeds; spread is the sample standard deviation,
and one seed has none. Headline numbers are of the last weights, never of the best checkpoint; the best of
the curve is shown only under `oracle`. "missing" is a cell that has not been run; nothing is averaged over
it.

A table holds runs of one protocol, one scored list, one class list and one set of encoder weights. The
number of labeled images of a split is in brackets after its name; "tags" are images of which only the
classes are known. Runs of a method with other knobs are rows of their own, named by the knobs that differ.
miou.csv has one line per run. The CSV and LaTeX files of a table are named under it.
"""
HOW_HEALTHY = """\
What the methods noted while they trained. The accuracy of pseudo-labels needs the masks that the split
withholds, so it is there only for runs with `--audit`, which opens them for such figures and nothing else.
"""
HOW_SCORED = """\
Finished runs scored again by `python -m bench score`, without tags: raw is the score of the protocol, the
others average the probabilities over scales and flips, and refine those by the dense CRF. The three numbers
of a row are of the same runs.
"""
RUN_COLUMNS = (
    *("dataset", "protocol", "protocol_hash", "eval_digest", "weights_digest"),
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
)


@dataclass(frozen=True)
class Report:
    """What was written, and the headline table of each comparable group."""

    tables: list[Table]
    differences: list[Sheet]
    evaluations: list[evaluation.EvaluationTable]
    ablations: list[ablation.AblationTable]
    warnings: list[str]
    paths: list[Path]


def write_report(roots: Sequence[Path], destination: Path, baseline: str = BASELINE) -> Report:
    """Read the finished runs below `roots` and write report.md, the tables and the plots to `destination`.

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
    results = list(folders.values())
    if not results:
        raise DataError(
            f"no finished runs under {', '.join(map(str, roots))}; a run is finished once it has a result."
        )
    groups = comparable(results)
    baselines = [comparison.rows_named(group, baseline) for group in groups]
    _check_baseline(baseline, groups, baselines)
    scores = {id(result): RunFolder(path).read_scores() for path, result in folders.items()}
    metrics = {id(result): RunFolder(path).metrics for path, result in folders.items()}
    sums, warnings = records.predictor_sums(folders, roots)
    warnings += records.folder_warnings(folders, roots)
    if len(groups) > 1:
        warnings.append(
            f"the runs differ in data set, protocol, scored list, classes or encoder weights: {len(groups)} "
            "groups, each with tables of its own; numbers of two groups may not be compared"
        )
    refined = records.seed_seconds(folders)
    text: list[str] = []
    tables: list[Table] = []
    differences: list[Sheet] = []
    evaluations: list[evaluation.EvaluationTable] = []
    ablations: list[ablation.AblationTable] = []
    sweeps = sweeps_of({result.method for result in results})
    pictures: list[Path] = []
    written: dict[str, str] = {}
    for group, rows in zip(groups, baselines, strict=True):
        headline = miou_table(group, "last")
        tables.append(headline)
        warnings += _holes(group, headline)
        stem = destination / _file_name(pictures, "miou", headline.dataset, headline.protocol_hash[:8])
        pictures += plots.save(headline, stem)
        text += [f"## {markdown_text(headline.title)}\n", f"{markdown_text(headline.basis)}\n"]
        name, explained = COLUMNS["last"]
        text += [f"### {name}\n", f"{explained[0].upper()}{explained[1:]}.\n", to_markdown(headline)]
        text.append(f"![mIoU against labeled images]({stem.name}.png)\n")
        text += _section("95 % intervals", overview.intervals(group), written)
        text.append(f"### Differences to {markdown_text(baseline)}\n")
        if len(rows) == 1 and len(headline.rows) > 1:
            differences.append(comparison.differences(group, rows[0], sums))
            text += _section("", differences[-1], written)
        else:
            text.append(f"{markdown_text(_no_baseline(baseline, rows))}\n")
        ranked = comparison.average_rank_sheet(group)
        text += (
            ["### Average rank\n", "No split and seed is common to two methods or more.\n"]
            if not ranked
            else []
        )
        text += _section("Average rank", ranked, written) if ranked else []
        text += _section("Student, predictor and oracle", overview.modules(group), written)
        text.append("### Classes\n")
        for sheet in classes.class_sheets(group):
            text += [f"{markdown_text(sheet.title)}:\n", *_section("", sheet, written)]
        if (field := literature.beside(group)) is not None:
            text += _section("Published numbers", field, written)
        scored = evaluation.evaluation_tables(group, scores)
        evaluations += scored
        text += ["### Evaluation\n", HOW_SCORED] if scored else []
        text += [evaluation.to_markdown(table) for table in scored]
        text += _section("Cost", overview.costs(group, scores, refined), written)
        for sweep in sweeps:
            for found in ablation.ablation_tables(group, sweep, fewest=2):
                ablations.append(found)
                text += [f"### {markdown_text(found.title)}\n", ablation.to_markdown(found)]
        noted = _noted(group, headline, metrics)
        text += ["### Health\n", HOW_HEALTHY] if noted else []
        for row, split, figures in noted:
            names = (headline.dataset, headline.protocol_hash[:8], split.label, row.label)
            stem = destination / _file_name(pictures, "health", *names)
            name = f"{row.label} on {split.heading}"
            pictures += plots.write(health.draw(figures, f"{headline.title}: {name}"), stem)
            text += [f"#### {markdown_text(name)}\n", f"![health over the steps]({stem.name}.png)\n"]
            text.append(health.to_markdown(figures))
    said = [f"- {markdown_text(warning)}\n" for warning in warnings] or ["None.\n"]
    opening = ["# Results\n", HOW_TO_READ, "## Warnings\n", "".join(said)]
    written = {"report.md": "\n".join([*opening, *text]), "miou.csv": _runs_csv(groups), **written}
    for name, content in written.items():
        write_atomic(destination / name, content.encode())
    return Report(
        tables=tables,
        differences=differences,
        evaluations=evaluations,
        ablations=ablations,
        warnings=warnings,
        paths=[*(destination / name for name in written), *pictures],
    )


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


def _section(heading: str, sheet: Sheet, written: dict[str, str]) -> list[str]:
    """The sheet for report.md; its CSV and LaTeX files are added to `written`."""
    group = dict(zip(sheets.GROUP_COLUMNS, sheet.records[1], strict=False)) if len(sheet.records) > 1 else {}
    taken = [Path(name) for name in written] + [Path("miou.csv"), Path("report.md")]
    stem = _file_name(taken, sheet.name, group.get("dataset", ""), group.get("protocol_hash", "")[:8])
    written[f"{stem}.csv"], written[f"{stem}.tex"] = sheets.to_csv(sheet), sheets.to_latex(sheet)
    return [
        *([f"### {heading}\n"] if heading else []),
        sheets.to_markdown(sheet),
        f"Files: [{stem}.csv]({stem}.csv), [{stem}.tex]({stem}.tex)\n",
    ]


def _holes(group: Sequence[Result], table: Table) -> list[str]:
    few, missing = overview.holes(group)
    where = f"{table.title} ({table.protocol_hash[:8]})"
    found = [f"{where}: fewer than three seeds: {', '.join(few)}"] if few else []
    return found + ([f"{where}: missing cells: {', '.join(missing)}"] if missing else [])


def _noted(
    group: Sequence[Result], table: Table, metrics: Mapping[int, Path]
) -> list[tuple[Row, Split, health.Health]]:
    """The health figures of the table's rows on its splits, where the runs have any; `metrics` by identity of
    the result."""
    columns = columns_of(group)
    cells: dict[tuple[str, Split], list[Result]] = defaultdict(list)
    for run, label in zip(group, labels_of(group), strict=True):
        cells[label, columns[granted(run)]].append(run)
    found = []
    for row in table.rows:
        for split in table.splits:
            lines = [read_metrics(metrics[id(run)]) for run in cells[row.label, split]]
            figures = health.gather(lines, table.classes)
            if figures is not None:
                found.append((row, split, figures))
    return found


def _file_name(others: Sequence[Path], *parts: str) -> str:
    """A file name for any name of a data set or method; a number tells apart those that come out alike."""
    taken = [path.stem for path in others]
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", "-".join(parts))[:80]
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}-{number}"
    return unique


def _runs_csv(groups: Sequence[Sequence[Result]]) -> str:
    lines: list[Sequence[Any]] = [RUN_COLUMNS]
    for group in groups:
        for result, label in zip(group, labels_of(group), strict=True):
            lines.append(
                [
                    *(result.dataset, result.protocol, result.protocol_hash),
                    *(result.split_digests.get("eval"), result.weights_digest),
                    *(result.method, label, result.split, result.seed, result.run_id),
                    *(result.images.get(name, 0) for name in (*LISTS, "eval")),
                    *(100 * score_of(result, column) for column in COLUMNS),
                    *(result.predictor.classes_averaged, 100 * result.predictor.pixel_accuracy),
                    *(result.steps, result.train_seconds, result.eval_seconds, result.peak_memory_mib),
                    *(result.method_version, json.dumps(result.config.get("method"), sort_keys=True)),
                ]
            )
    return csv_lines(lines)
