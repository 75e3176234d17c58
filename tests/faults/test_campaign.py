"""The short form of the campaign: everything is survived."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.settings.registry import method_names

from .campaign import PARTS, trials
from .stops import methods
from .trials import Trial, table


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_all_is_survived(name: str, tmp_path: Path) -> None:
    found = list(trials(name, tmp_path, long=False))
    assert found and all(trial.survived for trial in found), table(found)


def test_the_table_counts_and_names_what_is_lost() -> None:
    tried = [Trial("kill", "at step 3", True), Trial("kill", "at step 4", False, "other weights")]
    assert table(tried).splitlines()[2:] == ["| kill | 2 | 1 |", "lost: kill: at step 4: other weights"]


def test_every_method_is_stopped() -> None:
    assert [name for name, _ in methods()[:2]] == ["classifier", "puzzle"], "in the short form too"
    assert sorted(name for name, _ in methods()) == sorted(method_names())
