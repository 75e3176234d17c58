"""What the harness adds to a training step: its ratio to the bare step of the same network and batch."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from stepping import BATCH, bare_parts, channels_last, ready_batch, trainer_of, void
from torch.nn import functional as F

from bench.contract import Batch, Progress
from bench.ops.mixing import mix
from bench.settings.reading import read_protocol
from bench.training.trainer import Trainer

pytestmark = pytest.mark.perf

ROUNDS, WARMUP = 21, 3


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads wait for each other, which is noise here
    yield
    torch.set_num_threads(threads)


def ratio_of(ours: Callable[[], None], bare: Callable[[], None], benchmark: BenchmarkFixture) -> float:
    """Median over rounds of ours / bare. The two take turns, so that a busy machine slows both."""
    if benchmark.disabled:
        pytest.skip("times nothing while benchmarks are disabled")
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}

    def timed(name: str, step: Callable[[], None]) -> None:
        start = time.process_time()  # of this process alone: what runs beside it is not counted
        step()
        seconds[name].append(time.process_time() - start)

    for _ in range(WARMUP):
        bare()
        ours()
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        timed, args=("ours", ours), setup=lambda: timed("bare", bare), rounds=ROUNDS
    )
    ratio = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["bare"], strict=True))
    benchmark.extra_info["ratio"] = round(ratio, 3)
    return ratio


def test_a_supervised_step_is_a_bare_step(
    benchmark: BenchmarkFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against forward, cross entropy, backward and the optimizer's step."""
    trainer, batch = trainer_of("supervised", tmp_path, monkeypatch), ready_batch()
    batch = Batch(labeled=batch.labeled)
    net, optimizer = bare_parts(trainer)
    image, label = channels_last(batch.labeled.image), batch.labeled.label
    at = Progress(step=30, total=300, seed=0)

    def bare() -> None:
        loss = F.cross_entropy(net(image), label, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert ratio_of(lambda: void(trainer.train_step(batch, at)), bare, benchmark) <= 1.10


def test_a_fixmatch_step_is_its_passes(
    benchmark: BenchmarkFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the teacher's pass, the student's joint pass, two losses, backward and the optimizer's step."""
    trainer, batch = trainer_of("fixmatch", tmp_path, monkeypatch), ready_batch()
    net, optimizer = bare_parts(trainer)
    teacher = copy.deepcopy(net).eval()
    weak, strong = channels_last(batch.unlabeled.image), batch.unlabeled.strong[0]
    both = channels_last(torch.cat([batch.labeled.image, mix(strong, batch.unlabeled.boxes[0])]))
    label = batch.labeled.label
    at = Progress(step=30, total=300, seed=0)

    def bare() -> None:
        with torch.no_grad():
            confidence, pseudo_label = teacher(weak).softmax(1).max(1)
        logits_labeled, logits_strong = net(both).split(BATCH)
        labeled = F.cross_entropy(logits_labeled, label, ignore_index=255)
        pixel_loss = F.cross_entropy(logits_strong, pseudo_label, reduction="none")
        loss = (labeled + (pixel_loss * (confidence >= 0.95)).mean()) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    assert ratio_of(lambda: void(trainer.train_step(batch, at)), bare, benchmark) <= 1.15


def test_a_u2pl_step_is_its_passes(
    benchmark: BenchmarkFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the small network of `shapes`, where all else weighs most, against the teacher's pass over labeled
    and unlabeled images, the student's joint pass with the representation, two losses, backward and the
    optimizer's step."""
    trainer = trainer_of("u2pl", tmp_path, monkeypatch, 64, protocol="shapes", batch_size=8)
    ready = ready_batch(64, 8)
    strong = replace(ready.unlabeled, strong=ready.unlabeled.strong[:1], boxes=ready.unlabeled.boxes[:1])
    batch = Batch(labeled=ready.labeled, unlabeled=strong)  # what a loader gives this method
    net, optimizer = bare_parts(trainer)
    teacher = copy.deepcopy(net).eval()
    weak = channels_last(torch.cat([batch.labeled.image, batch.unlabeled.image]))
    both = channels_last(torch.cat([batch.labeled.image, batch.unlabeled.image]))
    label = batch.labeled.label
    at = Progress(step=1050, total=1600, seed=0)
    assert "contrast" in trainer.train_step(batch, at)[1]

    def bare() -> None:
        with torch.no_grad():
            cells, _ = teacher.represent(weak)
            pseudo_label = net.upsample(cells[8:], weak[8:]).softmax(1).max(1).indices
        cells, hidden = net.represent(both)
        logits_labeled, logits_mixed = net.upsample(cells, both).split(8)
        loss = F.cross_entropy(logits_labeled, label) + F.cross_entropy(logits_mixed, pseudo_label)
        optimizer.zero_grad()
        (loss + hidden.mean()).backward()
        optimizer.step()

    # Measured: 1.19 to 1.30 from machine to machine, of which 1.2 was hoped for.
    assert ratio_of(lambda: void(trainer.train_step(batch, at)), bare, benchmark) <= 1.35


def test_a_u2pl_step_is_little_more_than_a_fixmatch_step(
    benchmark: BenchmarkFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the protocol's own crop, after the warm-up: one more teacher pass over the labeled images, the
    representation head, and the contrast."""
    size = read_protocol("camvid")["crop"][0]
    batch = ready_batch(size)
    u2pl = trainer_of("u2pl", tmp_path / "u2pl", monkeypatch, size)
    fixmatch = trainer_of("fixmatch", tmp_path / "fixmatch", monkeypatch, size)
    at = Progress(step=1050, total=1600, seed=0)
    assert "contrast" in u2pl.train_step(batch, at)[1]

    def step(trainer: Trainer) -> None:
        void(trainer.train_step(batch, at))

    # Measured: 1.19 to 1.28; the passes alone, counted, are 1.14.
    assert ratio_of(lambda: step(u2pl), lambda: step(fixmatch), benchmark) <= 1.3
