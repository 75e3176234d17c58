"""The contrastive part of U2PL at the size of VOC, against the same computation class by class."""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from plain_contrast import IGNORE, Setting, plain_contrast, random_sampler
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.ops.contrast import Contrast, pixels
from bench.ops.entropy import partition, pixel_entropy
from bench.ops.negatives import labeled_negatives, unlabeled_negatives
from bench.randomness import generator_for

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
    contrast = Contrast(
        SETTING.capacities,
        DIM,
        queue_keys=SETTING.limit,
        use_queue=True,
        anchor_confidence=SETTING.minimum,
        anchors=SETTING.anchors,
        negatives=SETTING.negatives,
        negative_pool=512,
        temperature=SETTING.temperature,
        prototype_momentum=0.0,
    )
    # Full queues from the start on both sides, as in all but the first steps of a run.
    full = [torch.nn.functional.normalize(torch.randn(n, DIM), dim=1).half() for n in SETTING.capacities]
    contrast.queues.keys[:-1] = torch.cat(full)
    contrast.queues.length.copy_(contrast.queues.capacity)
    sampler = random_sampler(SETTING, generator)
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    losses: dict[str, float] = {}

    def ours() -> Tensor:
        probability = logits.softmax(1)
        valid = torch.ones_like(label, dtype=torch.bool)
        split = partition(pixel_entropy(probability[IMAGES:]), valid, SETTING.alpha)
        pseudo_label = probability[IMAGES:].argmax(1).where(split.reliable, IGNORE)
        target = torch.cat([label, pseudo_label]).flatten()
        known = torch.cat([label, torch.full_like(label, IGNORE)]).flatten()
        source = torch.cat([~valid, split.unreliable]).flatten()

        def rules(pixel: Tensor, rank: Tensor) -> dict[str, Tensor]:
            return {
                "labeled": labeled_negatives(rank, known[pixel], SETTING.rank_low),
                "unlabeled": unlabeled_negatives(rank, source[pixel], SETTING.rank_low, SETTING.rank_high),
            }

        loss, _ = contrast(
            pixels(z),
            pixels(keys),
            pixels(probability),
            target,
            source | (known != IGNORE),
            rules,
            lambda purpose: generator_for(0, purpose),
            project=torch.nn.Identity(),
            project_keys=torch.nn.Identity(),
        )
        return loss

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
