"""The report of a folder of runs: Markdown, plots, and a CSV with one line per run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import DataError
from bench.files import write_atomic
from bench.store import Result, read_results
from reports import plots
from reports.tables import (
    COLUMNS,
    LISTS,
    Table,
    comparable,
    costs_to_markdown,
    csv_lines,
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
    paths: list[Path]


def write_report(roots: Sequence[Path], destination: Path) -> Report:
    """Read the finished runs below `roots` and write report.md, miou.csv and the plots to `destination`."""
    results = read_results(*roots)
    if not results:
        raise DataError(
            f"no finished runs under {', '.join(map(str, roots))}; a run is finished once it has a result."
        )
    groups = comparable(results)
    text = ["# Results\n", HOW_TO_READ]
    tables: list[Table] = []
    pictures: list[Path] = []
    for group in groups:
        headline = miou_table(group, "last")
        tables.append(headline)
        stem = destination / _file_name(headline, [picture.stem for picture in pictures])
        pictures += plots.save(headline, stem)
        text += [f"## {markdown_text(headline.title)}\n", f"{markdown_text(headline.basis)}\n"]
        for column, (name, explained) in COLUMNS.items():
            table = headline if column == "last" else miou_table(group, column)
            text += [f"### {name}\n", f"{explained[0].upper()}{explained[1:]}.\n", to_markdown(table)]
            if column == "last":
                text.append(f"![mIoU against labeled images]({stem.name}.png)\n")
        text += ["### Cost\n", costs_to_markdown(headline)]
    written = {"report.md": "\n".join(text), "miou.csv": _runs_csv(groups)}
    for name, content in written.items():
        write_atomic(destination / name, content.encode())
    return Report(tables=tables, paths=[*(destination / name for name in written), *pictures])


def _file_name(table: Table, taken: Sequence[str]) -> str:
    """A file name for any data set name; a number tells apart groups that share data set and protocol."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", f"miou-{table.dataset}-{table.protocol_hash[:8]}")[:80]
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
