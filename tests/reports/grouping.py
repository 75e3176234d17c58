"""Results that a test has made, as the group of runs that they are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from bench.records.schema import Result
from reports.groups import Group, comparable


def folder(result: Result) -> Path:
    """A folder for a result, of its own for its content."""
    return Path(hashlib.sha256(result.model_dump_json().encode()).hexdigest())


def foldered(results: Iterable[Result]) -> dict[Path, Result]:
    return {folder(result): result for result in results}


def grouped(results: Iterable[Result]) -> Group:
    (group,) = comparable(foldered(results))
    return group
