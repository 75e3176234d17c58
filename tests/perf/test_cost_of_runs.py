"""What `--cost` says of a run, against the run itself: within a quarter."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.plan import plan
from bench.records.folders import RunFolder
from bench.records.schema import Result
from bench.settings.resolve import resolve
from bench.settings.schema import RunConfig
from bench.sweeps.costs import Cost, measured
from bench.sweeps.grid import Cell
from bench.sweeps.launch import run_grid

pytestmark = pytest.mark.perf

WITHIN = 0.25


def config(method: str, out: Path, *sets: str) -> RunConfig:
    usual = ("machine.threads=1", "machine.workers=0", f"machine.out={out}", "machine.device=cpu")
    usual += ("protocol.steps=200", "machine.share_warmup=false")
    return resolve({"dataset": "shapes", "split": "1_16", "method": {"name": method}}, None, [*usual, *sets])


def really(config: RunConfig) -> Result:
    """Do the run, in a process of its own."""
    cell = Cell("run", plan(config))
    outcome = run_grid([cell], 1, lambda line: None)
    assert not outcome.failures, outcome
    result = cell.result
    assert result is not None
    return result


@pytest.mark.parametrize("method", ["supervised", "fixmatch", "u2pl"])
def test_the_time_of_a_run(method: str, benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Measured before the run and behind it, since what else the machine does comes and goes."""
    if benchmark.disabled:
        pytest.skip("times nothing while benchmarks are disabled")
    seen = []
    for time in ("once", "again"):  # where another process has come or gone meanwhile
        of = config(method, tmp_path / time)
        before = measured(plan(of))
        result = benchmark.pedantic(really, args=(of,), rounds=1) if time == "once" else really(of)  # type: ignore[no-untyped-call]
        behind = measured(plan(of.model_copy(update={"seed": 1})))
        train = result.train_seconds / statistics.mean([before.train_seconds, behind.train_seconds])
        score = result.eval_seconds / statistics.mean([before.score_seconds, behind.score_seconds])
        memory = result.peak_memory_mib / before.peak_mib
        seen.append({"train": round(train, 2), "score": round(score, 2), "memory": round(memory, 2)})
        if all(abs(ratio - 1) <= WITHIN for ratio in seen[-1].values()):
            break
    benchmark.extra_info["run / estimate"] = seen
    assert all(abs(ratio - 1) <= WITHIN for ratio in seen[-1].values()), seen


def test_the_memory_of_another_batch(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Of twice the images, by what a step of the first batch keeps; `--cost` says so which batch fits."""
    sets = ("protocol.steps=6", "protocol.crop=[128, 128]")
    batches = [
        config(
            "supervised",
            tmp_path / str(size),
            *sets,
            f"protocol.batch={{labeled: {size}, unlabeled: {size}}}",
        )
        for size in (16, 32)
    ]
    cost: Cost = benchmark.pedantic(measured, args=(plan(batches[0]),), rounds=1)  # type: ignore[no-untyped-call]
    result = really(batches[1])
    ratio = result.peak_memory_mib / cost.peak_at(2)
    grown = (result.peak_memory_mib - cost.peak_mib) / cost.saved_mib
    benchmark.extra_info["run / estimate"] = round(ratio, 3)
    benchmark.extra_info["growth / estimate"] = round(grown, 3)
    assert abs(ratio - 1) <= WITHIN
    assert RunFolder(plan(batches[0]).folder.path).result.exists() is False, (
        "nothing was run for the estimate"
    )
