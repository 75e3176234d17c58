"""`pytest tests/contract --method NAME` checks one method alone."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--method", help="Check this method alone, for example fixmatch.")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --method the tests of the suite itself are left out."""
    left_out = config.getoption("--method", default=None) and collection_path.name.startswith("test_checks")
    return True if left_out else None
