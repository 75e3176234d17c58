"""U2PL on points, strokes and boxes: by hand, and where every pixel is labeled it is U2PL itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pointwise import at, batch_of, build, held, labeled, pixel, queues_of, step, unlabeled
from test_u2pl_weak import noise, real, with_tags
from torch import Tensor

from bench.contract import IGNORE, Batch, Method, Stream
from methods.u2pl import U2PL
from methods.u2pl_weak import U2PLWeak


def sparse(stream: Stream, *which: bool) -> Stream:
    return replace(stream, sparse=torch.tensor(which or (True,) * len(stream.image)))


def test_where_every_pixel_is_labeled_it_is_u2pl_bit_for_bit() -> None:
    """Strokes that leave no pixel out: terms, gradients, state, until queues have wrapped."""

    def full(number: int) -> Batch:
        batch = noise(number)
        label = batch.labeled.label.where(batch.labeled.label != IGNORE, 1)
        filled = replace(batch.labeled, label=label.where(batch.labeled.valid, IGNORE))
        return replace(batch, labeled=sparse(filled), unlabeled=sparse(batch.unlabeled))

    def train(cls: type[Method]) -> tuple[list[dict[str, Tensor]], Method]:
        method = real(cls)
        optimizer = torch.optim.SGD(method.net.parameters(), lr=0.05)
        seen = []
        for number in range(10):
            optimizer.zero_grad()
            terms = method.losses(full(number), at(number, 10))
            torch.stack(list(terms.values())).sum().backward()
            gradients = {k: p.grad.clone() for k, p in method.net.named_parameters() if p.grad is not None}
            seen.append(terms | gradients)
            optimizer.step()
            method.after_step(at(number, 10))
        return seen, method

    (expected, u2pl), (found, weak) = train(U2PL), train(U2PLWeak)
    for theirs, ours in zip(expected, found, strict=True):
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    state, other = u2pl.state_dict(), weak.state_dict()
    assert all(torch.equal(state[key], other[key]) for key in state)
    assert (queues_of(u2pl).length == 200).any() and all(terms["contrast"] > 0 for terms in found[2:])


ROWS = [[pixel([0.5, 0.3, 0.2], 1), pixel([0.9, 0.06, 0.04], 2), pixel([0.4, 0.35, 0.25], 3)]]


def keys_of(alpha: float, change: Callable[[Stream], Stream]) -> list[list[int]]:
    """The keys of each class that three pixels of a labeled image give: 2 and 3 have no label."""
    stream = change(labeled(ROWS, [[0, IGNORE, IGNORE]]))
    free = unlabeled([[pixel([0.98, 0.01, 0.01], 9)] * 3] * 2, valid=[[0, 0, 0]] * 2)
    method = build(U2PLWeak, 3, rank_low=2, alpha=alpha, use_seed_negatives=False, dynamic_alpha=False)
    step(method, with_tags(batch_of(stream, free), 3))
    return [held(method, c) for c in range(3)]


def test_unlabeled_pixels_of_a_sparse_image_are_parted_by_entropy() -> None:
    """Of the two, 3 is the less sure: with half of them unreliable it alone is a key, of its last class."""
    assert keys_of(0.5, sparse) == [[], [], [3]]
    assert keys_of(1.0, sparse) == [[], [], [2, 3]]
    assert keys_of(0.5, lambda stream: sparse(stream, False)) == [[], [], []], "255 of a mask is void"
    assert keys_of(0.5, lambda stream: stream) == [[], [], []]


def test_padding_of_a_sparse_image_is_no_key() -> None:
    def cut(stream: Stream) -> Stream:
        return replace(sparse(stream), valid=torch.tensor([[[True, True, False]]]))

    assert keys_of(1.0, cut) == [[], [], [2]]


@pytest.mark.parametrize("inside", [True, False])
def test_a_box_and_its_absence_give_certain_negatives(inside: bool) -> None:
    """Two pixels that look like class 2. A box of class 1 is around the first, or nowhere."""
    rows = [[pixel([0.1, 0.3, 0.6], n), pixel([0.1, 0.3, 0.6], n + 1)] for n in (1, 3)]
    of_image = torch.tensor([[True, False, False], [True, True, False]])  # S C: ground, box
    place_tags = torch.stack([of_image, torch.ones_like(of_image)])
    place = torch.tensor([[[int(inside), 0]], [[0, 0]]])
    free = unlabeled(rows, valid=[[1, 1], [0, 0]])  # the second image counts for nothing
    free = replace(sparse(free), place=place, place_tags=place_tags)
    done = labeled([[pixel([0.9, 0.05, 0.05], 5)] * 2] * 2, [[0, 0]] * 2)
    done = replace(sparse(done), place=torch.zeros_like(place), place_tags=torch.ones_like(place_tags))
    method = build(
        U2PLWeak, 3, rank_low=2, certain_quota=1.0, use_seed_negatives=False, use_rank_negatives=False
    )
    step(method, with_tags(batch_of(done, free), 3))
    # The likely classes are 2 and 1. Inside the box, 1 may be there.
    assert [held(method, c) for c in range(3)] == [[], [2] if inside else [1, 2], [1, 2]]
    truth = torch.tensor([[[int(inside), 0]], [[0, 0]]])
    assert method.audits["accuracy_teacher"](truth) == 1, "labels are among the classes of the place"


def test_inside_a_cutmix_box_the_place_is_that_of_the_image_that_shows() -> None:
    rows = [[pixel([0.1, 0.3, 0.6], 1)], [pixel([0.1, 0.3, 0.6], 2)]]
    free = sparse(unlabeled(rows, box=[[1], [0]]))
    tables = torch.tensor([[[True, True, True]], [[True, False, False]]])  # the second is ground alone
    free = replace(free, place=torch.zeros(2, 1, 1, dtype=torch.int64), place_tags=tables)
    done = labeled([[pixel([0.9, 0.05, 0.05], n)] for n in (5, 6)], [[0], [0]])
    done = replace(sparse(done, False, False), place=free.place, place_tags=torch.ones_like(tables))
    method = build(
        U2PLWeak, 3, rank_low=2, certain_quota=1.0, use_seed_negatives=False, use_rank_negatives=False
    )
    step(method, with_tags(batch_of(done, free), 3))
    assert [held(method, c) for c in range(3)] == [[], [2, 2], [2, 2]]
