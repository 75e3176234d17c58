"""The contrastive part of U2PL at the size of VOC, against the same computation class by class."""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from plain_contrast import Setting, plain_contrast, random_sampler, run_vectorised, vectorised
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

pytestmark = pytest.mark.perf

CLASSES, DIM, IMAGES, SIZE, ROUNDS = 21, 256, 4, 129, 5
SETTING = Setting(CLASSES, capacities=[50_000] + 20 * [30_000])


def test_all_classes_at_once_cost_a_fifth(benchmark: BenchmarkFixture) -> None:
    """Partition, keys into the queues, sampling, loss, and the gradient of the representation."""
    if benchmark.disabled:
        pytest.skip("times nothing while benchmarks are disabled")
    generator = torch.Generator().manual_seed(0)
    shape = (2 * IMAGES, DIM, SIZE, SIZE)
    keys = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
    z = torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)
    z.requires_grad_()
    logits = 3 * torch.randn(2 * IMAGES, CLASSES, SIZE, SIZE, generator=generator)
    label = torch.randint(CLASSES, (IMAGES, SIZE, SIZE), generator=generator)
    contrast = vectorised(SETTING, DIM, pool=512)
    # Full queues from the start on both sides, as in all but the first steps of a run.
    full = [torch.nn.functional.normalize(torch.randn(n, DIM), dim=1).half() for n in SETTING.capacities]
    contrast.queues.keys[:-1] = torch.cat(full)
    contrast.queues.length.copy_(contrast.queues.capacity)
    sampler = random_sampler(SETTING, generator)
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    losses: dict[str, float] = {}

    def ours() -> Tensor:
        return run_vectorised(contrast, z, keys, logits, label, SETTING, step=0)[0]

    def plain() -> Tensor:
        return plain_contrast(z, keys, logits, label, full, SETTING, sampler)

    def timed(name: str) -> None:
        z.grad = None
        start = time.process_time()  # of this process alone: what runs beside it is not counted
        loss = ours() if name == "ours" else plain()
        loss.backward()
        seconds[name].append(time.process_time() - start)
        losses[name] = loss.item()

    timed("plain")
    timed("ours")
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        timed, args=("ours",), setup=lambda: timed("plain"), rounds=ROUNDS
    )
    ratio = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["plain"], strict=True))
    benchmark.extra_info["ratio"] = round(ratio, 3)
    # Other samples of the same keys: the same loss, but for what sampling does to a mean of 21 * 256.
    assert losses["ours"] == pytest.approx(losses["plain"], abs=0.01)
    assert ratio <= 1 / 5
