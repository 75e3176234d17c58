"""A run beside another process that takes a core: it goes on at its share of the machine, not at a tenth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from bench.machine import cores

pytestmark = pytest.mark.perf

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = ["run", "--method", "supervised", "--split", "full", "--set", "protocol.steps=100"]


@contextmanager
def busy(number: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def train_seconds(out: Path, *sets: str) -> float:
    """By the clock, as a user sees it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    words = [sys.executable, "-m", "bench", *RUN, "--out", str(out), *sets]
    subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, check=True)
    (result,) = out.rglob("result.json")
    return float(json.loads(result.read_text())["train_seconds"])


@pytest.mark.timeout(300)
@pytest.mark.skipif(cores() < 2, reason="one core leaves no other")
@pytest.mark.parametrize("threads", [[], ["--threads", str(cores())]], ids=["default", "all cores"])
def test_a_busy_core_does_not_stop_a_run(tmp_path: Path, threads: list[str]) -> None:
    """Half of the cores are taken; the run's threads, as many as cores in the second case, wait in turn."""
    seconds = {}
    for name, around in (("idle", nullcontext()), ("busy", busy(cores() // 2))):
        with around:
            seconds[name] = train_seconds(tmp_path / name, *threads)
    assert seconds["busy"] <= 2.5 * seconds["idle"], seconds
