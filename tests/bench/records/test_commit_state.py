"""When a run counts as one of uncommitted files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.records import provenance


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("notes.md", "bench/a.py", ".gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "dirty"),
    [
        ("notes.md", True),  # changed, wherever it lies
        ("bench/a.py", True),
        ("bench/new.py", True),
        ("methods/mine.py", True),
        ("datasets/splits/x.txt", True),
        ("reports/x.py", True),
        ("methods/two words.py", True),
        ("todo.txt", False),
        ("scratch/bench/a.py", False),
        ("benchmark.txt", False),
    ],
)
def test_new_files_count_where_our_packages_are(checkout: Path, name: str, dirty: bool) -> None:
    (checkout / name).parent.mkdir(exist_ok=True, parents=True)
    (checkout / name).write_text("2\n")
    found = provenance.commit(checkout)
    assert found is not None and found["dirty"] is dirty


def test_a_deleted_file_counts(checkout: Path) -> None:
    (checkout / "notes.md").unlink()
    found = provenance.commit(checkout)
    assert found is not None and found["dirty"] is True
