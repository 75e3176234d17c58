"""What `--cost` says of a run, against the run itself: within a quarter.

Both count the time of their own process, as if it were all time: what runs beside them is not counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.plan import plan
from bench.records.schema import Result
from bench.settings.resolve import resolve
from bench.settings.schema import RunConfig
from bench.sweeps.costs import Cost

pytestmark = pytest.mark.perf

CHECKOUT = Path(__file__).resolve().parents[2]
WITHIN = 0.25
TIMES = 3  # the speed of a machine may change by as much from one minute to the next, but not each time
STEPS = 240
ALONE = (
    "import runpy, sys, time; time.monotonic = time.process_time; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def config(method: str, out: Path, *sets: str) -> RunConfig:
    usual = ("machine.threads=1", "machine.workers=0", f"machine.out={out}", "machine.device=cpu")
    usual += (f"protocol.steps={STEPS}", "machine.share_warmup=false")
    return resolve({"dataset": "shapes", "split": "1_16", "method": {"name": method}}, None, [*usual, *sets])


def alone(of: RunConfig, out: Path, *words: str) -> str:
    """What a module of the bench prints, with the settings of a run in a file as its standard input."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.yaml").write_text(of.to_yaml())
    with open(out / "settings.yaml") as settings:
        ended = subprocess.run(
            [sys.executable, "-c", ALONE, *words],
            stdin=settings,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
        )
    assert ended.returncode == 0, ended
    return ended.stdout


def measured(of: RunConfig, out: Path) -> Cost:
    found = json.loads(alone(of, out, "bench.cost"))
    assert not plan(of).folder.path.exists(), "nothing is kept"
    return Cost(**{**found, "batch": tuple(found["batch"])})


def really(of: RunConfig, out: Path) -> Result:
    alone(of, out, "bench", "run", "--config", "/dev/stdin")
    result = plan(of).folder.read_result()
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("method", "sets"),
    [("supervised", ()), ("fixmatch", ()), ("u2pl", ("method.warmup=0.2",))],
    ids=["supervised", "fixmatch", "u2pl"],
)
def test_a_run(method: str, sets: tuple[str, ...], benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    if benchmark.disabled:
        pytest.skip("times nothing while benchmarks are disabled")
    for number in range(TIMES):
        of = config(method, tmp_path / f"{number}", *sets)
        cost = (
            measured(of, tmp_path / f"{number}")
            if number
            else benchmark.pedantic(measured, args=(of, tmp_path / "0"), rounds=1)  # type: ignore[no-untyped-call]
        )
        result = really(of, tmp_path / f"{number}")
        parts = {
            "training": result.train_seconds / cost.train_seconds,
            "scoring": result.eval_seconds
            / cost.score_seconds,  # of two seconds here, so it is not held to much
        }
        ratios = {
            "hours": (result.train_seconds + result.eval_seconds) / cost.seconds,
            "memory": result.peak_memory_mib / cost.peak_mib,
        }
        found = {name: round(ratio, 2) for name, ratio in {**ratios, **parts}.items()}
        benchmark.extra_info["run / cost"] = found
        print(method, found)
        if all(abs(ratio - 1) <= WITHIN for ratio in ratios.values()):
            return
    pytest.fail(f"{found} at the last of {TIMES} times")


def test_the_memory_of_another_batch(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Of three times the images, as `--cost` says which batch fits."""
    sets = ("protocol.steps=6", "protocol.crop=[128, 128]")
    one, three = (
        config("supervised", tmp_path, *sets, f"protocol.batch={{labeled: {size}, unlabeled: {size}}}")
        for size in (10, 30)
    )
    cost = benchmark.pedantic(measured, args=(one, tmp_path), rounds=1)  # type: ignore[no-untyped-call]
    peak = really(three, tmp_path).peak_memory_mib
    ratios = {"peak": peak / cost.peak_at(3), "growth": (peak - cost.peak_mib) / (2 * cost.grown_mib)}
    benchmark.extra_info["run / cost"] = {name: round(ratio, 2) for name, ratio in ratios.items()}
    assert abs(ratios["peak"] - 1) <= WITHIN, ratios
