"""The report of a folder of runs: Markdown, plots, and a CSV with one line per run."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.ablations import sweeps_of
from bench.errors import DataError
from bench.files import write_atomic
from bench.store import Result, RunFolder, find_results, read_metrics
from reports import ablation, evaluation, health, plots
from reports.tables import (
    COLUMNS,
    LISTS,
    Row,
    Split,
    Table,
    columns_of,
    comparable,
    costs_to_markdown,
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
miou.csv has one line per run.
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
    evaluations: list[evaluation.EvaluationTable]
    ablations: list[ablation.AblationTable]
    paths: list[Path]


def write_report(roots: Sequence[Path], destination: Path) -> Report:
    """Read the finished runs below `roots` and write report.md, miou.csv and the plots to `destination`.

    A named sweep has a table where two of its variants are found.
    """
    folders = find_results(*roots)
    results = list(folders.values())
    if not results:
        raise DataError(
            f"no finished runs under {', '.join(map(str, roots))}; a run is finished once it has a result."
        )
    groups = comparable(results)
    scores = {id(result): RunFolder(path).read_scores() for path, result in folders.items()}
    metrics = {id(result): RunFolder(path).metrics for path, result in folders.items()}
    text = ["# Results\n", HOW_TO_READ]
    tables: list[Table] = []
    evaluations: list[evaluation.EvaluationTable] = []
    ablations: list[ablation.AblationTable] = []
    sweeps = sweeps_of({result.method for result in results})
    pictures: list[Path] = []
    for group in groups:
        headline = miou_table(group, "last")
        tables.append(headline)
        stem = destination / _file_name(pictures, "miou", headline.dataset, headline.protocol_hash[:8])
        pictures += plots.save(headline, stem)
        text += [f"## {markdown_text(headline.title)}\n", f"{markdown_text(headline.basis)}\n"]
        for column, (name, explained) in COLUMNS.items():
            table = headline if column == "last" else miou_table(group, column)
            text += [f"### {name}\n", f"{explained[0].upper()}{explained[1:]}.\n", to_markdown(table)]
            if column == "last":
                text.append(f"![mIoU against labeled images]({stem.name}.png)\n")
        scored = evaluation.evaluation_tables(group, scores)
        evaluations += scored
        text += ["### Evaluation\n", HOW_SCORED] if scored else []
        text += [evaluation.to_markdown(table) for table in scored]
        text += ["### Cost\n", costs_to_markdown(headline)]
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
    written = {"report.md": "\n".join(text), "miou.csv": _runs_csv(groups)}
    for name, content in written.items():
        write_atomic(destination / name, content.encode())
    return Report(
        tables=tables,
        evaluations=evaluations,
        ablations=ablations,
        paths=[*(destination / name for name in written), *pictures],
    )


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


def _file_name(pictures: Sequence[Path], *parts: str) -> str:
    """A file name for any name of a data set or method; a number tells apart those that come out alike."""
    taken = [picture.stem for picture in pictures]
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
