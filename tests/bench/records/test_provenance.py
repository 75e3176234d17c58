import json
import os
import re
import subprocess
import sys
import time
import tomllib
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.records import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.py").write_text("1\n")
    (folder / ".gitignore").write_text("runs/\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_collect_is_complete_json_and_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    took = []
    for _ in range(3):
        start = time.perf_counter()
        found = provenance.collect(["bench", "run", "--set", "a=b c"], cores=3)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.3
    text = json.dumps(found)
    assert "somebody" not in text and str(Path.home()) + "/" not in text
    assert found["command"] == "bench run --set 'a=b c'"
    assert abs(datetime.fromisoformat(found["time"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["torch"]["threads"] == torch.get_num_threads()
    assert found["torch"]["version"] == torch.__version__
    assert found["cpu"]["cores"] == 3 and found["cpu"]["model"]
    assert found["environment"] == {
        "OMP_NUM_THREADS": None,
        "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "PYTHONHASHSEED": "7",
    }
    assert set(found) >= {"platform", "git", "versions"}


def test_versions_cover_the_dependencies_but_not_those_for_development() -> None:
    found = provenance.versions()
    for name in (
        "torch",
        "torchvision",
        "numpy",
        "timm",
        "segmentation-models-pytorch",
        "pydantic",
        "pillow",
    ):
        assert found[name] == metadata.version(name)
    project = tomllib.loads((provenance.ROOT / "pyproject.toml").read_text())["project"]
    lines = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    assert set(found) == {re.split(r"[=<> ]", line)[0] for line in lines}
    assert "pytest" not in found and "ruff" not in found


def test_dependencies_without_a_checkout_come_from_the_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["torch>=2.10", "no-such-package==1; extra == 'x'"]
    )
    assert provenance.versions() == {"torch": metadata.version("torch"), "no-such-package": None}


def test_clean_commit(checkout: Path) -> None:
    assert provenance.commit(checkout) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


@pytest.mark.parametrize(
    ("name", "dirty"), [("a.py", True), ("bench/new.py", True), ("runs/result.json", False)]
)
def test_dirty_is_a_change_or_a_new_file_but_not_an_ignored_one(
    checkout: Path, name: str, dirty: bool
) -> None:
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text("2\n")
    found = provenance.commit(checkout)
    assert found is not None and found["dirty"] is dirty


def test_no_commit_outside_a_checkout_or_below_another_one(checkout: Path, tmp_path: Path) -> None:
    inside = checkout / "env"
    inside.mkdir()
    assert provenance.commit(inside) is None
    assert provenance.commit(tmp_path) is None
    assert provenance.commit(tmp_path / "absent") is None


def test_a_checkout_without_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert provenance.commit(tmp_path) == {"commit": None, "dirty": False}


def test_another_repository_named_by_the_environment_is_not_taken(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert provenance.commit(checkout) == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


def test_nothing_stops_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("driver too old")

    monkeypatch.setattr(torch.cuda, "is_initialized", broken)
    monkeypatch.setenv("PATH", "")
    found = provenance.collect(["bench"], cores=1)
    assert found["torch"] is None and found["git"] is None
