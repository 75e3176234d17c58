"""No method's step costs much more than the passes through networks that its formula needs, all in one table.

The bare step of a method sends as many images through copies of its networks as its `passes` say, with a
cross entropy, a backward pass and the optimizer's step. `pytest -m perf tests/perf/test_passes.py` prints the
table.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from stepping import channels_last, ready_batch, trainer_of, void
from torch import Tensor, cat
from torch.nn import functional as F

from bench.contract import Batch, Net, Passes, Progress
from bench.settings.reading import read_protocol
from bench.settings.registry import method_names
from bench.training.trainer import Trainer

pytestmark = pytest.mark.perf

ROUNDS, WARMUP = 3, 1
MOST = 1.10
AGAIN = 3  # times that a method above its bound is measured once more
# What the formula of these needs beside passes, and their own bound.
MORE: dict[str, tuple[float, str]] = {
    "reco": (1.15, "the regional contrast"),
    "u2pl": (1.2, "partition, queues and contrast"),
    "u2pl_plus": (1.2, "as u2pl"),
    "u2pl_released": (1.2, "as u2pl"),
    "u2pl_weak": (1.2, "as u2pl"),
}
QUARTERED = {"puzzle"}  # each pass behind the first one is of the four quarters of its images
AT = Progress(step=1050, total=1600, seed=0)  # behind every warm-up


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def several(times: tuple[int, int], labeled: Tensor, unlabeled: Tensor) -> Tensor:
    """The images of a batch, each as often as said."""
    return cat([labeled] * times[0] + [unlabeled] * times[1])


def quarters(images: Tensor) -> Tensor:
    """B 3 H W -> 4B 3 H/2 W/2."""
    return channels_last(cat([piece for rows in images.chunk(2, 2) for piece in rows.chunk(2, 3)]))


def bare_step(trainer: Trainer, batch: Batch, quartered: bool) -> Callable[[], None]:
    """The passes that the method says, and what no training can do without. A joint pass has the images of a
    batch at most: torch chooses its loops by their number, so a larger one would be another one."""
    passes: Passes = trainer.method.passes
    nets = [copy.deepcopy(module) for module in trainer.method.modules() if isinstance(module, Net)]
    nets = [net for net in nets if any(parameter.requires_grad for parameter in net.parameters())]
    optimizer = torch.optim.AdamW([p for net in nets for p in net.parameters()], lr=1e-4, fused=True)
    teacher = copy.deepcopy(nets[0]).requires_grad_(False).eval()
    labeled, unlabeled = channels_last(batch.labeled.image), channels_last(batch.unlabeled.image)
    label, tags = batch.labeled.label, batch.labeled.tags.float()
    read = channels_last(several(passes.read, labeled, unlabeled)) if any(passes.read) else None
    share = (passes.trained[0] // len(nets), passes.trained[1] // len(nets))
    most = len(labeled) if quartered else len(labeled) + len(unlabeled)
    trained = [channels_last(images) for images in several(share, labeled, unlabeled).split(most)]
    if quartered:
        trained = [*trained[:1], *map(quarters, trained[1:])]
    targets = list(several(share, label, label).split(most))
    targets[0] = cat([targets[0], *[label] * passes.decoded])

    def loss_of(net: Net, images: Tensor, target: Tensor) -> Tensor:
        if passes.through == "activation":
            maps = net.activate(images).mean((2, 3))
            return F.multilabel_soft_margin_loss(
                maps, tags.repeat(len(maps) // len(tags), 1)
            )  # all of labeled images
        if passes.through == "representation":
            cells, hidden = net.represent(images)
            return F.cross_entropy(net.upsample(cells, images), target) + hidden.mean()
        if len(target) == len(images):
            return F.cross_entropy(net(images), target)
        features = net.encode(images)
        for _ in range(passes.decoded):
            features = features.join(features[-len(unlabeled) :])
        return F.cross_entropy(net.decode(features, images), target)

    def step() -> None:
        if read is not None:
            with torch.no_grad():
                teacher(read).softmax(1).max(1)
        each = [(net, *of) for net in nets for of in zip(trained, targets, strict=True)]
        loss = torch.stack([loss_of(*of) for of in each]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds_of(step: Callable[[], object]) -> float:
    start = time.process_time()  # of this process alone: what runs beside it is not counted
    step()
    return time.process_time() - start


def measured(trainer: Trainer, batch: Batch, quartered: bool) -> tuple[float, float]:
    """Median seconds of a step of the method, and the median ratio to the bare step. They take turns, so that
    a busy machine slows both."""
    bare = bare_step(trainer, batch, quartered)

    def ours() -> None:
        void(trainer.train_step(batch, AT))

    for _ in range(WARMUP):
        bare()
        ours()
    pairs = [(seconds_of(ours), seconds_of(bare)) for _ in range(ROUNDS)]
    return statistics.median(a for a, _ in pairs), statistics.median(a / b for a, b in pairs)


@pytest.mark.timeout(3600)  # every method in one run
def test_a_step_of_each_method_is_the_passes_of_its_formula(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the network, crop and batch of camvid."""
    protocol = read_protocol("camvid")
    batch, size = ready_batch(protocol["crop"][0], protocol["batch"]["labeled"]), protocol["crop"][0]
    rows: dict[str, tuple[float, float]] = {}
    with capsys.disabled():
        print(f"\n{'method':20} trained read  s per step  over its passes")
    for name in method_names():
        trainer = trainer_of(name, tmp_path / name, monkeypatch, size)
        passes = trainer.method.passes
        if passes is None:  # a method need not say
            continue
        most, why = MORE.get(name, (MOST, ""))
        rows[name] = measured(trainer, batch, name in QUARTERED)
        for _ in range(AGAIN):  # a slow method is slow each time, a slow moment is not
            if rows[name][1] > most:
                rows[name] = min(
                    rows[name], measured(trainer, batch, name in QUARTERED), key=lambda of: of[1]
                )
        images = passes.images(len(batch.labeled.image), len(batch.unlabeled.image))
        seconds, ratio = rows[name]
        with capsys.disabled():
            print(f"{name:20} {images['trained']:7} {images['read']:4} {seconds:11.2f} {ratio:16.2f}  {why}")
    above = {name: ratio for name, (_, ratio) in rows.items() if ratio > MORE.get(name, (MOST, ""))[0]}
    assert not above, f"more than their bound: {above}"
    assert set(MORE) <= set(rows), "a bound of a method that is not here"
