"""A thousand bootstraps of two runs on VOC's val against a plain loop, as a ratio in one run."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.randomness import numpy_for
from reports.statistics import Bootstrap, bootstrap, image_sums, resamples

pytestmark = pytest.mark.perf

IMAGES, CLASSES, DRAWS = 1449, 21, 1000
LOOPED = 20  # draws of the plain loop; its time is scaled to DRAWS
ROUNDS = 5


def counts(rng: np.random.Generator) -> np.ndarray:
    """N C C counts with a few classes in each image."""
    present = rng.random((IMAGES, CLASSES)) < 0.1
    return rng.integers(0, 20_000, (IMAGES, CLASSES, CLASSES)) * present[:, :, None] * present[:, None, :]


def miou(pooled: np.ndarray) -> float:
    hit, union = np.diag(pooled), pooled.sum(0) + pooled.sum(1) - np.diag(pooled)
    return float((hit[union > 0] / union[union > 0]).mean())


def test_a_thousand_bootstraps(benchmark: BenchmarkFixture) -> None:
    if benchmark.disabled:
        pytest.skip("times nothing while benchmarks are disabled")
    rng = numpy_for(0, "test counts")
    ours, theirs = counts(rng), counts(rng)
    ids = [f"{i:06d}" for i in range(IMAGES)]
    seconds: dict[str, list[float]] = {"matrix": [], "loop": []}
    weights = resamples(IMAGES)
    looped: list[float] = []

    def loop() -> None:
        start = time.process_time()
        looped.clear()
        for row in weights[:LOOPED]:
            chosen = np.repeat(np.arange(IMAGES), row.astype(int))
            looped.append(miou(ours[chosen].sum(0)) - miou(theirs[chosen].sum(0)))
        seconds["loop"].append((time.process_time() - start) * DRAWS / LOOPED)

    def matrix() -> Bootstrap:
        start = time.process_time()
        found = bootstrap([(image_sums(ids, ours), image_sums(ids, theirs))])
        seconds["matrix"].append(time.process_time() - start)
        return found

    loop(), matrix()
    found = benchmark.pedantic(matrix, setup=loop, rounds=ROUNDS)  # type: ignore[no-untyped-call]
    assert (found.images, found.seeds) == (IMAGES, 1)
    few = bootstrap([(image_sums(ids, ours), image_sums(ids, theirs))], weights[:LOOPED])
    assert (few.low, few.high) == pytest.approx(np.quantile(looped, [0.025, 0.975]), abs=1e-12)
    ratio = statistics.median(a / b for a, b in zip(seconds["loop"], seconds["matrix"], strict=True))
    benchmark.extra_info["ratio"] = round(ratio, 1)
    benchmark.extra_info["seconds"] = round(statistics.median(seconds["matrix"]), 4)
    assert ratio >= 20
    assert statistics.median(seconds["matrix"]) < 2
