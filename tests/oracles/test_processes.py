"""Two processes against one with the joint batch: sums, joins and draws by hand, one memory, one gradient."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from bench.contract import Batch, Progress, Stream, Task
from bench.networks.segmenter import Segmenter
from bench.ops.contrast import class_means, info_nce, mean_over_classes
from bench.ops.losses import cross_entropy
from bench.ops.mixing import mix
from bench.ops.processes import (
    JointOrder,
    filled,
    gathered,
    joint,
    own,
    rank,
    share_of_mean,
    summed,
    total,
    world_size,
)
from bench.randomness import torch_seeded
from bench.settings.schema import Network
from methods.u2pl import U2PL

WORLD, PIXELS, CLASSES, DIM, NEGATIVES = 2, 24, 5, 6, 7
# The class of each pixel, 255 for none. Class 0 is on both ranks, 5 and 2 times; 1 and 2 on one rank each; 3
# nowhere; 4 on both, 1 and 4 times, but without negatives.
TARGET = [0, 0, 0, 0, 0, 1, 1, 1, 4, 255, 255, 255, *[0, 0, 2, 255, 4, 4, 4, 4, 255, 255, 255, 255]]
READY = [True, True, True, True, False]

pytestmark = pytest.mark.slow  # two processes import torch


def whole() -> dict[str, Tensor]:
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
    data = whole()
    weight = data["weight"].requires_grad_()
    z = data["x"][pixels] @ weight
    mask = data["target"][pixels] == torch.arange(CLASSES).unsqueeze(1)  # C N
    order = JointOrder(0, len(z))
    every = order.joint(mask.t()).t()  # C WN
    counts = every.sum(1).tolist()
    size = math.lcm(*(max(count, 1) for count in counts))
    rows = [row.nonzero().flatten() if row.any() else torch.zeros(1).long() for row in every]
    index = torch.stack([row.repeat(size // len(row)) for row in rows])
    row, here = order.own(index)
    anchor = z[row]
    prototype = class_means(data["keys"][pixels], mask)
    per_class = info_nce(anchor, prototype, data["negative"].unsqueeze(1), 0.5, here)
    loss = mean_over_classes(per_class, total(mask.sum(1)), torch.tensor(READY))
    loss.backward()
    assert weight.grad is not None
    gradient = weight.grad
    if world > 1:  # as DistributedDataParallel does
        dist.all_reduce(gradient)
        gradient /= world
    return {"loss": loss.detach(), "gradient": gradient, "prototype": prototype}


def joins(number: int) -> dict[str, Any]:
    """Rank 0 has the rows 1 2 3, rank 1 the rows 11 12 13; the first of each is of a labeled image."""
    rows = 10.0 * number + torch.tensor([[1.0], [2.0], [3.0]])
    order, index = JointOrder(1, 3), torch.arange(6)
    row, here = order.own(index)
    x = torch.tensor([1.0, 3.0]) * (number + 1)
    x.requires_grad_()
    summed(x.square().sum()).square().backward()  # of (1 + 9 + 4 + 36)^2
    last = torch.tensor([number, number + 5]).view(2, 1, 1)
    everywhere = torch.ones_like(last, dtype=torch.bool)
    return {
        "joint": joint(rows).flatten().tolist(),
        "order": order.joint(rows).flatten().tolist(),
        "taken": order.take(rows, torch.tensor([[0, 5], [1, 2]]), torch.neg).squeeze(2).tolist(),
        "row": row.tolist(),
        "here": [] if here is None else here.tolist(),
        "filled": filled(torch.tensor([7, 8]) + number, torch.tensor([number == 0, number == 1])).tolist(),
        "own": own(torch.arange(4)).tolist(),
        "rank": rank(),
        "gradient": None if x.grad is None else x.grad.tolist(),
        "share": share_of_mean(torch.tensor(6.0 * number), torch.tensor(2 + number)).item(),
        "any": total(torch.tensor([False, number == 1])).tolist(),
        "mixed": mix(last, everywhere).flatten().tolist(),
        "mixed_bool": mix(last < 5, everywhere).flatten().tolist(),
    }


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
        "joins": joins(rank),
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
    for number, found in enumerate(ranks):
        assert found["world"] == 2
        assert found["summed"].tolist() == [3, 20] and not found["graph"]
        assert found["own"].tolist() == [1 + number, 10], "the sum is not written over what was summed"
        assert found["parts"].tolist() == [[[0, 5]], [[1, 6]]]


def test_rows_and_numbers_of_all_ranks_by_hand(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["joins"] for rank in ranks)
    for alike, expected in {
        "joint": [1, 2, 3, 11, 12, 13],
        "order": [1, 11, 2, 3, 12, 13],  # the labeled ones come first
        "taken": [[-1, -13], [-11, -2]],
        "filled": [7, 9],
        "any": [False, True],
    }.items():
        assert first[alike] == second[alike] == expected, alike
    assert first["row"] == [0, 0, 1, 2, 0, 0] and second["row"] == [0, 0, 0, 0, 1, 2]
    assert first["here"] == [True, False, True, True, False, False]
    assert second["here"] == [False, True, False, False, True, True]
    assert (first["own"], second["own"]) == ([0, 1], [2, 3])
    assert (first["rank"], second["rank"]) == (0, 1)


def test_shares_and_sums_are_those_of_the_joint_loss(ranks: list[dict[str, Any]]) -> None:
    """6 over 5 as the mean of two shares; 50 squared has the derivative 2 * 50 * 2 x, of which each rank
    gives twice as much, as the ranks' gradients are averaged."""
    first, second = (rank["joins"] for rank in ranks)
    assert (first["share"] + second["share"]) / 2 == pytest.approx(6 / 5)
    assert first["gradient"] == [400, 1200] and second["gradient"] == [800, 2400]


def test_the_last_image_of_a_rank_is_mixed_with_the_first_of_the_next(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["joins"] for rank in ranks)
    assert first["mixed"] == [5, 1] and second["mixed"] == [6, 0]
    assert first["mixed_bool"] == [False, True] and second["mixed_bool"] == [False, True]


def test_prototypes_are_those_of_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    expected = contrast_gradient(slice(None))["prototype"]
    for found in ranks:
        torch.testing.assert_close(found["contrast"]["prototype"], expected, atol=1e-6, rtol=0)


def test_the_gradient_is_that_of_the_joint_batch(ranks: list[dict[str, Any]]) -> None:
    """Divided by the number of ranks once more, as the released code does, it would be half of it; with each
    rank's own mean over its classes it would differ, as the ranks have 5 and 2 of the anchors of class 0."""
    expected = contrast_gradient(slice(None))
    assert expected["gradient"].abs().max() > 0.01
    for found in ranks:
        torch.testing.assert_close(found["contrast"]["gradient"], expected["gradient"], atol=1e-6, rtol=0)
    mean = (ranks[0]["contrast"]["loss"] + ranks[1]["contrast"]["loss"]) / 2
    assert mean.item() == pytest.approx(expected["loss"].item(), abs=1e-6)
    assert ranks[0]["contrast"]["loss"] != ranks[1]["contrast"]["loss"]


def test_u2pl_keeps_one_memory_on_all_ranks(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["u2pl"] for rank in ranks)
    state = [name for name in first if name not in ("contrast", "added", "anchors")]
    assert {name.rpartition(".")[2] for name in state} >= {"keys", "length", "head", "prototypes", "seen"}
    for name in state:
        assert torch.equal(first[name], second[name]), name
    assert torch.equal(first["anchors"], second["anchors"]), "those of all ranks"
    assert first["contrast"] != second["contrast"], "each has the loss of its own anchors"
    (length,) = (first[name] for name in state if name.endswith("queues.length"))
    assert (length >= first["added"]).all() and length.sum() > 0
    assert all(rank["u2pl"]["contrast"].isfinite() for rank in ranks)
