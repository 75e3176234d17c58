"""What the gated CRF costs, as a share of the step that it is added to."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from stepping import channels_last, ready_batch, trainer_of

from bench.contract import Progress
from bench.ops.gated_crf import gated_crf_of_logits
from bench.settings.labeled_loss import GatedCrf

pytestmark = pytest.mark.perf

CROP, CLASSES, BATCH, ROUNDS = 160, 21, 8, 7


def test_the_gated_crf_takes_a_seventh_of_a_step_at_most(
    benchmark: BenchmarkFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward, against a step of `supervised` on the same images."""
    if benchmark.disabled:
        pytest.skip("times nothing while benchmarks are disabled")
    torch.set_num_threads(1)
    trainer = trainer_of("supervised", tmp_path, monkeypatch, CROP, "msrc21", BATCH)
    batch = ready_batch(CROP, BATCH).map(lambda x: channels_last(x) if x.dim() == 4 else x)
    image, gate, of = batch.labeled.image, batch.labeled.valid, GatedCrf()
    logits = channels_last(torch.randn(BATCH, CLASSES, CROP, CROP)).requires_grad_()

    def term() -> None:
        loss = gated_crf_of_logits(logits, image, gate, of.stride, of.radius, of.width, of.colour)
        loss.backward()

    def step() -> None:
        trainer.train_step(batch, Progress(1, 100, 0))

    seconds: dict[str, list[float]] = {"term": [], "step": []}

    def timed(name: str) -> None:
        start = time.process_time()
        {"term": term, "step": step}[name]()
        seconds[name].append(time.process_time() - start)

    term()
    step()
    benchmark.pedantic(timed, args=("term",), setup=lambda: timed("step"), rounds=ROUNDS)  # type: ignore[no-untyped-call]
    share = statistics.median(a / b for a, b in zip(seconds["term"], seconds["step"], strict=True))
    benchmark.extra_info["share"] = round(share, 3)
    assert share <= 0.15
