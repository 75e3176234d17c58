"""The u2pl family on two and three classes: the published rank_low becomes the last rank there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pointwise import (
    Rows,
    at,
    batch_of,
    build,
    contrast_gradient,
    held,
    labeled,
    pixel,
    queues_of,
    step,
    sure,
    two_images,
    unlabeled,
)

from bench.contract import Batch, Method, Stream, Task
from bench.networks.segmenter import Segmenter
from bench.ops.losses import cross_entropy
from bench.outlook import before
from bench.plan import plan
from bench.randomness import torch_seeded
from bench.settings.schema import Network, RunConfig
from bench.training.session import parts_of
from methods.u2pl import U2PL
from methods.u2pl_released import U2PLReleased
from methods.u2pl_weak import U2PLWeak

FAMILY = (U2PL, U2PLReleased, U2PLWeak)


def unsure(classes: int, *last: list[float]) -> Batch:
    """Ten unlabeled pixels; those that predict `last`, numbered from 100, are the least sure: two of them."""
    rows: Rows = [pixel(sure(0, classes, 0.99 - 0.002 * i), i) for i in range(10 - len(last))]
    rows = [*rows, *(pixel(p, 100 + i) for i, p in enumerate(last))]
    return batch_of(unlabeled=unlabeled(two_images(rows)), classes=classes)


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize(("classes", "low"), [(2, 1), (3, 2), (4, 3), (9, 3), (21, 3)])
def test_the_default_is_the_last_rank_of_few_classes_and_else_as_published(
    cls: type, classes: int, low: int
) -> None:
    method = build(cls, classes)
    assert method.hp.rank_low == 3 and method.rank_low == low
    assert len(method.hp.said(classes)) == (classes < 4)
    method.hp.check(classes, 1000)


@pytest.mark.parametrize("cls", FAMILY)
def test_a_rank_low_that_somebody_chose_stays(cls: type) -> None:
    chosen = build(cls, 3, rank_low=1)
    assert chosen.rank_low == 1 and chosen.hp.said(3) == []
    with pytest.raises(ValueError, match=r"rank_low=2 leaves no rank of 2 classes.*leave it out, .* 1\.\.1"):
        cls.HParams(rank_low=2).check(2, 10)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"rank_low=3 leaves no rank of 1 classes.*two are the fewest"):
        cls.HParams().check(1, 10)  # type: ignore[attr-defined]


def test_of_two_classes_an_unreliable_pixel_is_a_key_of_the_other_one() -> None:
    """Of the one that it is not likelier to be. Of equal ones the lower id is the likelier."""
    method = build(U2PL, 2)
    step(method, unsure(2, [0.6, 0.4], [0.45, 0.55]))
    assert [held(method, c) for c in range(2)] == [[101], [100]]
    assert method.notes["negatives_unlabeled"].tolist() == [1, 1]
    even = build(U2PL, 2)
    step(even, unsure(2, [0.5, 0.5], [0.5, 0.5]))
    assert [held(even, c) for c in range(2)] == [[], [100, 101]]


def test_of_three_classes_an_unreliable_pixel_is_a_key_of_its_least_likely_one() -> None:
    method = build(U2PL, 3)
    step(method, unsure(3, [0.4, 0.35, 0.25], [0.3, 0.36, 0.34]))
    assert [held(method, c) for c in range(3)] == [[101], [], [100]]
    assert method.notes["negatives_unlabeled"].tolist() == [1, 0, 1]
    assert method.notes["truth_among_negatives_chance"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("classes", "label", "keys"), [(2, 0, []), (2, 1, [0]), (3, 0, [1]), (3, 1, [0]), (3, 2, [0, 1])]
)
def test_a_labeled_pixel_is_a_key_of_classes_it_is_taken_for(
    classes: int, label: int, keys: list[int]
) -> None:
    """Ranks 0 to C - 2: of two classes where it is predicted wrong."""
    rows = [[pixel([0.7, 0.3] if classes == 2 else [0.6, 0.3, 0.1], 7)]] * 2
    method = build(U2PL, classes)
    step(method, batch_of(labeled(rows, [[label], [255]]), classes=classes))
    assert [c for c in range(classes) if held(method, c)] == keys
    assert method.notes["negatives_labeled"].tolist() == [int(c in keys) for c in range(classes)]


def test_the_contrast_of_two_classes_by_hand() -> None:
    """Two labeled pixels, each predicted as the other class: each is the only key of that class. Its own
    class has it, sure enough with .4, for an anchor and prototype."""
    z = ([3.0, 4.0], [1.0, 0.0])
    batch = batch_of(labeled([[pixel([0.4, 0.6], z[0])], [pixel([0.6, 0.4], z[1])]], [[0], [1]]), classes=2)
    method = build(U2PL, 2)
    term, gradient = contrast_gradient(method, batch)
    # Cosine 1 to its prototype; .6 to each of the 4 negatives, all of them the other pixel.
    assert term == pytest.approx(0.1 * math.log(1 + 4 * math.exp(-0.4 / 0.5)), abs=1e-4)
    assert gradient.abs().sum() > 0 and queues_of(method).length.tolist() == [1, 1]


NETWORK = Network(encoder="tiny", decoder="unet", decoder_channels=16, representation_channels=8)


def keys_of(cls: type[Method], classes: int, **knobs: float) -> tuple[list[int], torch.Tensor]:
    """How many keys each class gets in a step of an untrained network on noise, and all keys."""
    sizes = {"warmup": 0.0, "queue_size": 200, "queue_size_first": 200, "negatives": 5, "alpha": 0.5}
    with torch_seeded(0, "init"):
        task = Task(tuple("abcd"[:classes]), cross_entropy, background=0)
        method = cls(Segmenter(NETWORK, classes), task, cls.HParams(**sizes, **knobs)).train()
        images, label = torch.rand(2, 2, 3, 32, 32), torch.randint(classes, (2, 32, 32))
    valid = torch.ones_like(label, dtype=torch.bool)
    box = torch.zeros_like(valid)
    box[:, 8:24, 4:20] = True
    tags = torch.ones(2, classes, dtype=torch.bool)
    tags[0, -1] = tags[1, 0] = False  # each image lacks a class
    first = Stream(("a", "b"), images[0], valid, label=label, tags=tags)
    second = Stream(("c", "d"), images[1], valid, boxes=(box,), tags=tags)
    method.losses(Batch(labeled=first, unlabeled=second), at())
    return method.notes["negatives_unlabeled"].tolist(), queues_of(method).keys


@pytest.mark.parametrize("cls", FAMILY)
@pytest.mark.parametrize("classes", [2, 3])
def test_the_whole_family_has_the_keys_of_the_last_rank(cls: type[Method], classes: int) -> None:
    """On labels and tags, too. `released` has keys only where its two passes disagree."""
    counts, keys = keys_of(cls, classes)
    same, chosen = keys_of(cls, classes, rank_low=classes - 1)
    assert sum(counts) > 0 and counts == same and torch.equal(keys, chosen)
    if classes == 3:
        assert not torch.equal(keys, keys_of(cls, 3, rank_low=1)[1])


def test_a_run_says_it_before_it_starts(tiny_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    few = plan(tiny_config("u2pl", "method.rank_low=3"))  # three classes
    (said,) = [line for line in before(few) if "rank_low" in line]
    assert said.startswith("rank_low is 2 in place of 3, since there are only 3 classes")
    parts_of(few)
    assert not any("rank_low" in line for line in before(plan(tiny_config("u2pl", "method.rank_low=1"))))
    without = plan(tiny_config("u2pl", "method.rank_low=3", "method.use_ranks=false"))
    assert not any("rank_low" in line for line in before(without))
