"""Confusion counting against torchmetrics, as a ratio in one run."""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torchmetrics.classification import MulticlassConfusionMatrix

from bench.contract import IGNORE
from bench.scoring.inference import confusion

pytestmark = pytest.mark.perf

CLASSES, SHAPE = 21, (16, 512, 512)
ROUNDS = 7


def patches(generator: torch.Generator) -> torch.Tensor:
    """Class ids in squares of one class, as in an image: equal neighbours are harder to count than noise."""
    images, height, width = SHAPE
    coarse = torch.randint(CLASSES, (images, height // 32, width // 32), generator=generator)
    return coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)


def test_counting_is_ten_times_as_fast_as_torchmetrics(benchmark: BenchmarkFixture) -> None:
    if benchmark.disabled:
        pytest.skip("times nothing while benchmarks are disabled")
    generator = torch.Generator().manual_seed(0)
    prediction, label = patches(generator), patches(generator)
    label[:, :16] = IGNORE
    label = label.to(torch.uint8)  # as masks are read
    metric = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORE)
    theirs_label = label.long()  # what torchmetrics wants; converted outside its time
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}

    def theirs() -> None:
        start = time.process_time()
        metric.update(prediction, theirs_label)
        seconds["theirs"].append(time.process_time() - start)

    def ours() -> torch.Tensor:
        start = time.process_time()
        counts = confusion(prediction, label, CLASSES)
        seconds["ours"].append(time.process_time() - start)
        return counts

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        theirs(), ours()
        counts = benchmark.pedantic(ours, setup=theirs, rounds=ROUNDS)  # type: ignore[no-untyped-call]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(counts * (ROUNDS + 1), metric.confmat)
    ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
    benchmark.extra_info["ratio"] = round(ratio, 2)
    assert ratio >= 10
