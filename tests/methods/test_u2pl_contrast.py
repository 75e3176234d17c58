"""U2PL step by step: which pixels become negative keys, and the contrastive term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pointwise import (
    EVEN,
    at,
    batch_of,
    buffer_of,
    build,
    classes_of_key,
    contrast_gradient,
    falling,
    fill,
    held,
    labeled,
    ladder,
    pixel,
    queues_of,
    step,
    sure,
    two_images,
    unlabeled,
)
from torch import Tensor

from bench.contract import IGNORE, Batch
from bench.ops import contrast as contrast_ops
from bench.ops.entropy import surest
from methods.u2pl import U2PL

# Negative keys --------------------------------------------------------------------------------------------


def unsure_pixel(classes: int, p: Sequence[float]) -> Batch:
    """Ten unlabeled pixels; the ninth and the tenth are the least sure, and only the ninth predicts `p`."""
    rows = [pixel(sure(0, classes, 0.95 - 0.01 * i), i) for i in range(8)]
    rows += [pixel(p, 100), pixel([1 / classes] * classes, 101)]
    return batch_of(unlabeled=unlabeled(two_images(rows)), classes=classes)


@pytest.mark.parametrize(("classes", "keys"), [(21, range(3, 20)), (19, range(3, 19))])
def test_an_unreliable_pixel_is_a_key_of_its_unlikely_classes(classes: int, keys: range) -> None:
    """Ranks 3 to 19: of 21 classes all but four, of 19 all but three. Reliable pixels are keys of none."""
    method = build(U2PL, classes)
    step(method, unsure_pixel(classes, falling(classes)))
    assert classes_of_key(method) == list(keys)
    assert all(held(method, c) == [100, 101] for c in keys)
    assert method.notes["negatives_unlabeled"].tolist() == [2 * (c in keys) for c in range(classes)]
    assert not method.notes["negatives_labeled"].any()
    assert (method.notes["share_unlabeled"], method.notes["share_labeled"]) == (1, 0)


@pytest.mark.parametrize(("label", "keys"), [(1, [0, 2]), (5, [0, 1, 2]), (0, [1, 2]), (IGNORE, [])])
def test_a_labeled_pixel_is_a_key_of_likely_classes_that_it_is_not(label: int, keys: list[int]) -> None:
    rows = [[pixel(falling(21), 7)], [pixel(falling(21), 8)]]
    method = build(U2PL, 21)
    step(method, batch_of(labeled(rows, [[label], [IGNORE]]), classes=21))
    assert classes_of_key(method) == keys
    assert all(held(method, c) == [7] for c in keys)
    assert method.notes["negatives_labeled"].tolist() == [c in keys for c in range(21)]
    # The two blank unlabeled images have no keys here; without any key there is no share.
    share = method.notes["share_unlabeled"]
    assert share == 0 if keys else share.isnan()


def test_labels_alone_give_keys_where_the_prediction_is_wrong() -> None:
    """Class 0 with .9 where 5 is right: key of 0, and of the two next in rank."""
    rows = [[pixel(sure(0, 21), 7)], [pixel(sure(5, 21), 8)]]
    method = build(U2PL, 21)
    step(method, batch_of(labeled(rows, [[5], [5]]), classes=21))
    assert [held(method, c) for c in range(3)] == [[7, 8], [7, 8], [7]]
    assert queues_of(method).length.sum() == 5


@pytest.mark.parametrize(
    ("choice", "expected"), [("unreliable", [9, 10]), ("reliable", [1, 2]), ("all", list(range(1, 11)))]
)
def test_negatives_come_from_the_pixels_asked_for(choice: str, expected: list[int]) -> None:
    """Ten pixels, from the surest on; alpha is 20 %. Class 0 is the first of all, so of none its key."""
    batch = batch_of(unlabeled=unlabeled(two_images(ladder(10, classes=4))), classes=4)
    method = build(U2PL, 4, rank_low=1, negatives_from=choice)
    step(method, batch)
    assert [held(method, c) for c in range(4)] == [[], expected, expected, expected]


def test_reliable_negatives_are_chosen_without_rounding() -> None:
    """Two entropies that are neighbours in float32: the 60th percentile lies between them."""
    entropy = torch.tensor([[[1.0, 1.0 + 2**-23]]])
    valid = torch.ones_like(entropy, dtype=torch.bool)
    assert surest(entropy, valid, 0.6).tolist() == [[[True, False]]]


def test_without_ranks_a_pixel_is_a_key_of_every_class_but_its_own() -> None:
    method = build(U2PL, 21, use_ranks=False)
    step(method, batch_of(labeled([[pixel(falling(21), 7)]] * 2, [[5], [IGNORE]]), classes=21))
    assert classes_of_key(method) == [c for c in range(21) if c != 5]
    method = build(U2PL, 21, use_ranks=False)
    step(method, unsure_pixel(21, falling(21)[::-1]))
    assert [c for c in range(21) if 100 in held(method, c)] == list(range(20)), "its own is the predicted one"
    build(U2PL, 2, use_ranks=False).hp.check(2, 10)  # the default rank_low is not used, so not refused


def test_without_the_queue_only_keys_of_the_step_are_held() -> None:
    def batch(number: int) -> Batch:
        rows = [[pixel(sure(1, 3), number)], [pixel(sure(1, 3), number + 1)]]
        return batch_of(labeled(rows, [[0], [0]]))

    expected = {True: [1, 2, 3, 4], False: [3, 4]}
    for use, keys in expected.items():
        method = build(U2PL, 3, rank_low=1, use_queue=use)
        step(method, batch(1), 0)
        step(method, batch(3), 1)
        assert held(method, 1) == keys
        assert method.notes["queue_turnover"].tolist() == [0, pytest.approx(2 / len(keys)), 0]


def test_padding_is_no_key_no_anchor_and_counted_nowhere() -> None:
    """Whatever stands there, all terms and figures stay as they are, bit for bit."""
    valid = [[1, 0, 1, 1, 0, 1], [0, 1, 1, 1, 1, 0]]
    labels = [[0, IGNORE, 1, 1, IGNORE, 2], [IGNORE, 1, 2, 0, 0, IGNORE]]

    def outcome(garbage: list[list[float]]) -> tuple[dict[str, float], dict[str, Tensor], list[list[int]]]:
        pixels = [pixel(sure(i % 3, 4, 0.95 - 0.03 * i), i) for i in range(12)]
        rows = [[garbage[i] if not valid[i][x] else pixels[6 * i + x] for x in range(6)] for i in range(2)]
        method = build(U2PL, 4, rank_low=2)
        batch = batch_of(labeled(rows, labels), unlabeled(rows, valid))
        return step(method, batch), dict(method.notes), [held(method, c) for c in range(4)]

    first, notes, keys = outcome([pixel([0.25] * 4, 500), pixel(sure(3, 4, 0.99), 501)])
    second, others, same = outcome([pixel(sure(1, 4, 0.999), 502), pixel([0.1, 0.2, 0.3, 0.4], 503)])
    assert first == second and first["contrast"] > 0
    assert notes.keys() == others.keys()
    assert all(torch.equal(notes[k], others[k]) or notes[k].isnan().all() for k in notes)
    assert keys == same and max(max(one, default=0) for one in keys) in range(1, 500)
    assert notes["reliable_share"].item() == pytest.approx(6 / 8)


@pytest.mark.slow
def test_sampled_keys_are_a_fair_choice_among_the_wanted_pixels() -> None:
    """One key per class and step, of 40 labeled pixels among 80: beyond the 16 that are ranked at all."""
    rows = [[pixel(sure(1, 3), 40 * i + x) for x in range(40)] for i in range(2)]
    label = [[0 if x % 2 else IGNORE for x in range(40)], [0 if x % 2 == 0 else IGNORE for x in range(40)]]
    batch = batch_of(labeled(rows, label))
    method = build(U2PL, 3, rank_low=1, queue_keys=1, use_queue=False)
    wanted = [n for n in range(80) if label[n // 40][n % 40] == 0]
    found = []
    for seed in range(1200):
        with torch.no_grad():
            method.losses(batch, at(seed=seed))
        found += held(method, 1)
    counts = [found.count(n) for n in wanted]
    assert sum(counts) == len(found) == 1200, "never a pixel that is not wanted"
    statistic = sum((count - 30) ** 2 for count in counts) / 30
    assert statistic < 39 + 4.5 * math.sqrt(2 * 39)


@pytest.mark.parametrize("seed", range(6))
def test_no_pixel_is_both_anchor_and_key_of_a_class(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = (3 * torch.randn(4, 12, 5, generator=generator)).softmax(2).tolist()
    rows = [[pixel(p[i][x], 12 * i + x) for x in range(12)] for i in range(4)]
    label = torch.randint(5, (2, 12), generator=generator).tolist()
    masks: list[Tensor] = []
    compute = contrast_ops.anchor_mask

    def recorded(*arguments: Any) -> Tensor:
        masks.append(compute(*arguments))
        return masks[-1]

    monkeypatch.setattr(contrast_ops, "anchor_mask", recorded)
    method = build(U2PL, 5, rank_low=2)
    step(method, batch_of(labeled(rows[:2], label), unlabeled(rows[2:]), classes=5))
    (mask,) = masks
    keys = [set(held(method, c)) for c in range(5)]
    anchors = [set(mask[c].nonzero().flatten().tolist()) for c in range(5)]
    assert all(not one & other for one, other in zip(keys, anchors, strict=True))
    assert sum(map(len, keys)) > 20 and sum(map(len, anchors)) > 20
    unreliable = {n for c in range(5) for n in keys[c] if n >= 24}
    assert unreliable and not unreliable & set().union(*anchors), "an unreliable pixel is no anchor at all"


# The contrastive term -------------------------------------------------------------------------------------


def test_the_contrastive_term_by_hand() -> None:
    """Two labeled pixels, each taken for the other class with .3 or so: each is the anchor and prototype of
    its class and the only key of the other one's queue."""
    z = ([3.0, 4.0], [1.0, 0.0])
    rows = [[pixel([0.6, 0.3, 0.1], z[0])], [pixel([0.35, 0.6, 0.05], z[1])]]
    batch = batch_of(labeled(rows, [[0], [1]]))
    method = build(U2PL, 3, rank_low=2)
    assert step(method, batch)["contrast"] == pytest.approx(
        0.1 * math.log(1 + 4 * math.exp(-0.4 / 0.5)), abs=1e-4
    )
    assert method.notes["anchors"].tolist() == [1, 1, 0]
    torch.testing.assert_close(buffer_of(method, "prototypes")[0, :2], torch.tensor([3.0, 4.0]))


def test_anchors_are_sure_enough_and_the_prototype_is_their_mean() -> None:
    """The third pixel gives its class .2 only: no anchor. A class's anchors may be labeled and reliable."""
    rows = [
        [pixel([0.6, 0.3, 0.1], [3.0, 4.0]), pixel([0.2, 0.7, 0.1], [9.0, 9.0])],
        [pixel([0.6, 0.3, 0.1], [1.0, 0.0]), pixel([0.3, 0.6, 0.1], [0.0, 1.0])],
    ]
    reliable = [[pixel(sure(0, 3), [5.0, -1.0]), pixel(EVEN, [7.0, 7.0])]] * 2
    method = build(U2PL, 3, rank_low=2)
    step(method, batch_of(labeled(rows, [[0, 0], [0, 1]]), unlabeled(reliable)))
    assert method.notes["anchors"].tolist() == [4, 1, 0]
    mean = torch.tensor([(3 + 1 + 5 + 5) / 4, (4 + 0 - 1 - 1) / 4])
    torch.testing.assert_close(buffer_of(method, "prototypes")[0, :2], mean)
    assert buffer_of(method, "prototypes")[2].eq(0).all()
    assert buffer_of(method, "seen").tolist() == [True, True, False]


def test_keys_and_prototypes_are_projected_by_the_teacher_anchors_by_the_student() -> None:
    """The student's projection is turned round: what is kept stays, what is compared with it changes."""
    batch = batch_of(
        labeled([[pixel(sure(0, 3), 5), pixel(sure(1, 3), 6)]] * 2, [[0, 1]] * 2),
        unlabeled([[pixel([0.1, 0.2, 0.7], 7), pixel([0.1, 0.2, 0.7], 8)]] * 2),  # equal: all unreliable
    )
    method, turned = build(U2PL, 3, rank_low=1), build(U2PL, 3, rank_low=1)
    with torch.no_grad():
        turned.net.projection.weight.neg_()
    terms, other = step(method, batch), step(turned, batch)
    assert torch.equal(queues_of(turned).keys, queues_of(method).keys)
    assert torch.equal(buffer_of(turned, "prototypes"), buffer_of(method, "prototypes"))
    assert other["contrast"] > terms["contrast"] > 0


def present_classes(label: Sequence[int], classes: int = 21) -> Batch:
    """One pixel for each of these classes, rightly predicted with .9; two of class 0's neighbours follow."""
    rows = [[pixel(sure(c, classes), 3 * c + 1) for c in label]] * 2
    return batch_of(labeled(rows, [list(label)] * 2), classes=classes)


def test_every_class_that_is_present_is_trained_with_its_own_queue() -> None:
    """Classes 0, 8 and 15: none stands in for another, and the queues of 1 to 7 are not read."""
    batch = present_classes([0, 8, 15])

    def outcome(*noisy: int) -> tuple[float, Tensor]:
        method = build(U2PL, 21)
        for c in range(21):
            fill(method, c, [1.0, 2.0, 3.0] if c not in noisy else [-3.0, 1.0, 0.5])
        return contrast_gradient(method, batch)

    loss, gradient = outcome()
    of_labeled = gradient[:2, :, 0].norm(dim=1)  # B W
    assert loss > 0 and (of_labeled > 1e-4).all(), "anchors of all three classes learn"
    same, other = outcome(*range(1, 8)), outcome(15)
    assert same[0] == loss and torch.equal(same[1], gradient)
    assert other[0] != loss
    changed = (other[1] - gradient)[:2, :, 0].norm(dim=1) > 1e-6
    assert changed.tolist() == [[False, False, True]] * 2


def test_the_denominator_is_the_number_of_classes_that_contribute() -> None:
    """Three classes have anchors, one of them no keys: the mean is over two."""

    def loss(filled: Sequence[int], present: Sequence[int]) -> float:
        method = build(U2PL, 21, rank_low=1)
        for c in filled:
            fill(method, c, [1.0, 2.0, 3.0])
        return step(method, present_classes(present))["contrast"]

    both = loss([0, 8], [0, 8])
    assert both > 0
    assert loss([0, 8], [0, 8, 15]) == pytest.approx(both, rel=1e-6)


@pytest.mark.parametrize("case", ["one class", "no keys", "no anchors", "nothing at all"])
def test_without_two_classes_to_tell_apart_the_term_is_0_with_a_graph(case: str) -> None:
    knobs = {"anchor_confidence": 1.0} if case == "no anchors" else {}
    method = build(U2PL, 3, rank_low=1, **knobs)
    if case != "no keys":
        for c in range(3):
            fill(method, c, [1.0, 2.0])
    label = {"one class": [0, 0], "nothing at all": [IGNORE, IGNORE]}.get(case, [0, 1])
    rows = [[pixel(sure(c if c != IGNORE else 0, 3), 1)] for c in label]
    term = method.losses(batch_of(labeled(rows, [[c] for c in label])), at())["contrast"]
    assert term == 0 and term.requires_grad
    term.backward()
    layers = (method.net.encoder, method.net.representation_head, method.net.projection)
    reached = [layer.weight.grad for layer in layers]
    assert all(grad is not None and grad.eq(0).all() for grad in reached)
