"""Two processes against one with the joined batch: the same queues on both, and the same gradient."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from plain_contrast import contents
from torch import Tensor

from bench.contract import Batch, Progress, Stream, Task
from bench.networks.segmenter import Segmenter
from bench.ops.contrast import class_means, info_nce, mean_over_classes
from bench.ops.losses import cross_entropy
from bench.ops.processes import gathered, total, world_size
from bench.ops.queues import Queues
from bench.randomness import torch_seeded
from bench.settings.schema import Network
from methods.u2pl import U2PL

WORLD, PIXELS, CLASSES, DIM, NEGATIVES = 2, 24, 5, 6, 7
# The class of each pixel, 255 for none. Class 0 is on both ranks, 5 and 2 times; 1 and 2 on one rank each; 3
# nowhere; 4 on both, 1 and 4 times, but without negatives.
TARGET = [0, 0, 0, 0, 0, 1, 1, 1, 4, 255, 255, 255, *[0, 0, 2, 255, 4, 4, 4, 4, 255, 255, 255, 255]]
READY = [True, True, True, True, False]

pytestmark = pytest.mark.slow  # two processes import torch


def joined() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(PIXELS, 4, generator=generator),
        "weight": torch.randn(4, DIM, generator=generator),
        "keys": torch.randn(PIXELS, DIM, generator=generator),
        "negative": torch.randn(CLASSES, NEGATIVES, DIM, generator=generator),
        "target": torch.tensor(TARGET),
    }


def contrast_gradient(pixels: slice, world: int = 1) -> dict[str, Tensor]:
    """Loss and gradient of the weight behind all representations, with the sampling fixed: every candidate of
    a class is its anchor equally often, and every anchor is told from all negatives."""
    data = joined()
    weight = data["weight"].requires_grad_()
    z = data["x"][pixels] @ weight
    mask = data["target"][pixels] == torch.arange(CLASSES).unsqueeze(1)  # C N
    counts = mask.sum(1).tolist()
    size = math.lcm(*(max(count, 1) for count in counts))
    rows = [row.nonzero().flatten() if row.any() else torch.zeros(1).long() for row in mask]
    anchor = torch.stack([z[row.repeat(size // len(row))] for row in rows])
    prototype = class_means(data["keys"][pixels], mask)
    per_class = info_nce(anchor, prototype, data["negative"].unsqueeze(1), 0.5)
    loss = mean_over_classes(per_class, mask.sum(1), torch.tensor(READY))
    loss.backward()
    assert weight.grad is not None
    gradient = weight.grad
    if world > 1:  # as DistributedDataParallel does
        dist.all_reduce(gradient)
        gradient /= world
    return {"loss": loss.detach(), "gradient": gradient, "prototype": prototype}


def push_twice(rank: int) -> dict[str, Tensor]:
    """Class 0 has room for all keys, class 1 for fewer than one step brings, class 2 gets none of rank 1."""
    queues = Queues([12, 3, 4], 8)
    for step in range(2):
        number = torch.arange(4) + 10 * rank + 100 * step + 1  # 1..4 and 11..14, then 101.. and 111..
        bits = torch.tensor([[1.0 if n >> b & 1 else -1.0 for b in range(8)] for n in number.tolist()])
        meant = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1 - rank, 0]]).bool()
        queues.push(bits.expand(3, 4, 8), meant)
    drawn = queues.draw(20, torch.Generator().manual_seed(0))
    return {"drawn": drawn, **{name: value.clone() for name, value in queues.state_dict().items()}}


def step_of_u2pl(rank: int) -> dict[str, Tensor]:
    """State and figures of the contrast after two steps on images of this rank's own."""
    network = Network(encoder="tiny", decoder="unet", decoder_channels=8, representation_channels=8)
    sizes = {"queue_size": 60, "queue_size_first": 80, "queue_keys": 16, "negatives": 5, "anchors": 8}
    hparams = U2PL.HParams(rank_low=1, negative_pool=16, warmup=0, **sizes)
    with torch_seeded(0, "init"):
        task = Task(("a", "b", "c"), cross_entropy)
        method = U2PL(Segmenter(network, 3), task, hparams).train()
    generator = torch.Generator().manual_seed(rank)
    figures = {}
    for step in range(2):
        image = torch.rand(4, 3, 32, 32, generator=generator)
        label = torch.randint(3, (2, 32, 32), generator=generator)
        valid = torch.ones(2, 32, 32, dtype=torch.bool)
        labeled = Stream(("a", "b"), image[:2], valid, label=label)
        unlabeled = Stream(("c", "d"), image[2:], valid, boxes=(torch.zeros_like(valid),))
        terms = method.losses(Batch(labeled=labeled, unlabeled=unlabeled), Progress(step, 10, seed=0))
        figures = {name: value for name, value in terms.items() if name == "contrast"} | {
            "added": method.notes["negatives_labeled"] + method.notes["negatives_unlabeled"],
            "anchors": method.notes["anchors"],
        }
    wanted = ("queues.", "prototypes", "seen")
    state = {k: v.clone() for k, v in method.state_dict().items() if any(part in k for part in wanted)}
    return {**{key: value.detach() for key, value in figures.items()}, **state}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORLD)
    own = torch.tensor([1.0 + rank, 10.0], requires_grad=True)
    summed, parts = total(own), gathered(torch.tensor([[rank, rank + 5]]))
    half = PIXELS // WORLD
    found = {
        "world": world_size(),
        "own": own.detach(),
        "summed": summed,
        "graph": summed.requires_grad,
        "parts": parts,
        "contrast": contrast_gradient(slice(rank * half, (rank + 1) * half), WORLD),
        "queues": push_twice(rank),
        "u2pl": step_of_u2pl(rank),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def numbers(keys: Tensor) -> list[int]:
    return [sum(1 << bit for bit, value in enumerate(key) if value > 0) for key in keys.tolist()]


def test_one_process_changes_nothing() -> None:
    own = torch.tensor([1.0, 2.0], requires_grad=True)
    assert world_size() == 1
    assert total(own).tolist() == [1, 2] and not total(own).requires_grad
    assert gathered(own).tolist() == [[1, 2]] and not gathered(own).requires_grad


def test_sums_and_joins_are_those_of_all_ranks_in_their_order(ranks: list[dict[str, Any]]) -> None:
    for number, rank in enumerate(ranks):
        assert rank["world"] == 2
        assert rank["summed"].tolist() == [3, 20] and not rank["graph"]
        assert rank["own"].tolist() == [1 + number, 10], "the sum is not written over what was summed"
        assert rank["parts"].tolist() == [[[0, 5]], [[1, 6]]]


def test_queues_are_alike_on_every_rank_in_the_order_of_the_ranks(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["queues"] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    queues = Queues([12, 3, 4], 8)
    queues.load_state_dict({name: first[name] for name in queues.state_dict()})
    held = [numbers(contents(queues, label)) for label in range(3)]
    assert held == [[1, 2, 11, 12, 101, 102, 111, 112], [112, 113, 114], [3, 103]]


def test_prototypes_are_those_of_the_joined_batch(ranks: list[dict[str, Any]]) -> None:
    expected = contrast_gradient(slice(None))["prototype"]
    for rank in ranks:
        torch.testing.assert_close(rank["contrast"]["prototype"], expected, atol=1e-6, rtol=0)


def test_the_gradient_is_that_of_the_joined_batch(ranks: list[dict[str, Any]]) -> None:
    """Divided by the number of ranks once more, as the released code does, it would be half of it; with each
    rank's own mean over its classes it would differ, as the ranks have 5 and 2 of the anchors of class 0."""
    expected = contrast_gradient(slice(None))
    assert expected["gradient"].abs().max() > 0.01
    for rank in ranks:
        torch.testing.assert_close(rank["contrast"]["gradient"], expected["gradient"], atol=1e-6, rtol=0)
    mean = (ranks[0]["contrast"]["loss"] + ranks[1]["contrast"]["loss"]) / 2
    assert mean.item() == pytest.approx(expected["loss"].item(), abs=1e-6)
    assert ranks[0]["contrast"]["loss"] != ranks[1]["contrast"]["loss"]


def test_u2pl_keeps_one_memory_on_all_ranks(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["u2pl"] for rank in ranks)
    state = [name for name in first if name not in ("contrast", "added", "anchors")]
    assert {name.rpartition(".")[2] for name in state} >= {"keys", "length", "head", "prototypes", "seen"}
    for name in state:
        assert torch.equal(first[name], second[name]), name
    assert not torch.equal(first["anchors"], second["anchors"]), "though their images differ"
    (length,) = (first[name] for name in state if name.endswith("queues.length"))
    assert (length >= first["added"] + second["added"]).all() and length.sum() > 0
    assert all(rank["u2pl"]["contrast"].isfinite() for rank in ranks)
