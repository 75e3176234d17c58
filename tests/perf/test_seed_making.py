"""CAM seeds: what a pool of processes gains, and what merging maps adds to the network's passes, as
ratios in one run."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.nn import functional as F

from bench.cam_seeds.make import activation_maps
from bench.cam_seeds.refine import BackgroundScores, in_processes, seed_of
from bench.networks.segmenter import Segmenter
from bench.pool import one_core
from bench.settings.resolve import resolve
from bench.settings.schema import CamSeeds

pytestmark = pytest.mark.perf

SIZE, IMAGES = (213, 320), 48  # of msrc21; with three tags each
ROUNDS = 11


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def settings() -> CamSeeds:
    sets = ["cam_seeds.refine=crf", "cam_seeds.protocol.network.weights=none"]
    flags = {"dataset": "msrc21", "split": "tags", "method": {"name": "supervised"}}
    found = resolve(flags, None, sets).cam_seeds
    assert found is not None
    return found


@dataclass(frozen=True)
class Refine:
    """The seed of a scene drawn from its id: all that a process of the pool does but for its files."""

    settings: CamSeeds

    def __call__(self, id: str) -> tuple[int, int, float]:
        rng = np.random.default_rng(int(id))
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        shade = 110 + 50 * np.sin(x / 60) * np.cos(y / 45)
        image = np.clip(shade[..., None] + rng.normal(0, 3, (*SIZE, 3)), 0, 255).astype(np.uint8)
        maps = torch.from_numpy(rng.random((3, 54, 80), np.float32))
        seed = seed_of(image, maps, [1, 2, 3], None, self.settings, BackgroundScores(0.3, 0.05))
        return int(seed.astype(np.int64).sum()), os.getpid(), time.monotonic()


def steady(jobs: int) -> tuple[float, dict[str, int]]:
    """Images a second from when all processes are up, and the seeds."""
    ids = [str(i) for i in range(IMAGES)]
    with closing(in_processes(Refine(settings()), ids, jobs)) as outcomes:
        found = dict(outcomes)
    ends: dict[int, list[float]] = {}
    for _, process, end in found.values():
        ends.setdefault(process, []).append(end)
    assert len(ends) == jobs
    rates = [(len(own) - 1) / (max(own) - min(own)) for own in ends.values()]
    return sum(rates), {id: total for id, (total, *_) in found.items()}


def refine_apart(ready: Barrier, rates: Queue[float]) -> None:
    """What a process of the pool does, without the pool."""
    one_core()
    refine = Refine(settings())
    refine("0")
    ready.wait()
    ends = [refine(str(i))[2] for i in range(IMAGES // 2)]
    rates.put((len(ends) - 1) / (ends[-1] - ends[0]))


def apart(jobs: int) -> float:
    """Images a second of so many processes that know nothing of each other: what the machine's cores can do
    at once, which is less than so many times as much where they share their memory with others."""
    context = multiprocessing.get_context("spawn")
    ready, rates = context.Barrier(jobs), context.Queue()
    processes = [context.Process(target=refine_apart, args=(ready, rates)) for _ in range(jobs)]
    for process in processes:
        process.start()
    found = [rates.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    return sum(found)


def test_two_processes_of_a_pool_are_as_fast_as_two_apart(benchmark: BenchmarkFixture) -> None:
    if benchmark.disabled:
        pytest.skip("times nothing while benchmarks are disabled")
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores")
    pytest.importorskip("pydensecrf")
    alone, one = steady(1)
    limit = apart(2)
    together, two = benchmark.pedantic(lambda: steady(2), rounds=1)  # type: ignore[no-untyped-call]
    assert one == two
    limit = min(limit, apart(2))
    ratio = together / limit
    benchmark.extra_info.update(ratio=round(ratio, 2), gain=round(together / alone, 2))
    assert ratio >= 0.85


def test_maps_cost_little_beside_the_passes_of_the_network(benchmark: BenchmarkFixture) -> None:
    if benchmark.disabled:
        pytest.skip("times nothing while benchmarks are disabled")
    how = settings()
    net = Segmenter(how.protocol.network, 21).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    inputs = []
    for scale in how.scales:
        size = [max(round(side * scale / net.stride), 1) * net.stride for side in SIZE]
        scaled = F.interpolate(image, size, mode="bilinear", antialias=True)
        inputs.append(torch.cat([scaled, scaled.flip(-1)]))
    seconds: dict[str, list[float]] = {"maps": [], "passes": []}

    @torch.no_grad()
    def passes() -> None:
        start = time.process_time()
        for one in inputs:
            net.activate(one)
        seconds["passes"].append(time.process_time() - start)

    def maps() -> None:
        start = time.process_time()
        activation_maps(net, image, how)
        seconds["maps"].append(time.process_time() - start)

    passes(), maps()
    benchmark.pedantic(maps, setup=passes, rounds=ROUNDS)  # type: ignore[no-untyped-call]
    ratio = statistics.median(a / b for a, b in zip(seconds["maps"], seconds["passes"], strict=True))
    benchmark.extra_info["ratio"] = round(ratio, 2)
    assert ratio <= 1.2
