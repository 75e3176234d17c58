"""The tables of finished runs as data frames, for a notebook."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas

from bench.errors import ConfigError
from bench.records.schema import Result
from reports.groups import BASELINE, Group, comparable
from reports.sheets.adaptation import adaptation
from reports.sheets.classes import class_sheets
from reports.sheets.cost import costs
from reports.sheets.differences import differences
from reports.sheets.headline import headline, modules
from reports.sheets.overall import overall_sheet
from reports.sheets.sheet import Sheet


def frames(results: Iterable[Result], baseline: str = BASELINE) -> dict[str, pandas.DataFrame]:
    """Give the tables of all comparable groups by name, each below each other; see `bench.compare`."""
    found: dict[str, list[pandas.DataFrame]] = defaultdict(list)
    for group in comparable({Path(str(place)): result for place, result in enumerate(_only(results))}):
        for sheet in _sheets(group, baseline):
            kind = sheet.name.partition("-")[0]  # those of classes are one a split
            found[kind].append(sheet.frame)
    return {kind: pandas.concat(parts, ignore_index=True).infer_objects() for kind, parts in found.items()}


def _only(results: object) -> list[Result]:
    """Return the results. Raises ConfigError for anything else: a result by itself would be read as a list of
    its fields."""
    kind = type(results)
    if isinstance(results, Iterable) and not isinstance(results, Result | str):
        given = list(results)
        wrong = next((type(one) for one in given if not isinstance(one, Result)), None)
        if wrong is None:
            return given
        kind = wrong
    raise ConfigError(
        f"results are what is compared, and a {kind.__name__} was given; give a list of them, such as "
        "bench.results('runs')."
    )


def _sheets(group: Group, baseline: str) -> Iterator[Sheet]:
    yield from map(headline, group.kinds)
    yield modules(group)
    yield from class_sheets(group)
    yield costs(group, {}, {})
    if closed := adaptation(group):
        yield closed
    for part in group.kinds:  # what learns from masks is not compared with what learns from tags
        rows = part.rows_named(baseline)
        if len(rows) == 1 and len(part.rows) > 1:
            yield differences(part, rows[0])
            if over := overall_sheet([part], rows[0]):
                yield over
