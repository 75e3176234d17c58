"""U2PL step by step, on images that hold their own predictions: schedules and pseudo-labels."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from pointwise import (
    EVEN,
    at,
    batch_of,
    build,
    classes_of_key,
    held,
    labeled,
    ladder,
    pixel,
    step,
    sure,
    two_images,
    unlabeled,
)
from torch import Tensor

from bench.training.warm_up import warm_up_terms
from methods.u2pl import U2PL

# Schedules ------------------------------------------------------------------------------------------------


def test_published_defaults() -> None:
    """Tab. A1, App. B, and the code's numbers of anchors and negatives; the switches of U2PL+ are off. Two
    limits of ours are not published."""
    given = U2PL.HParams().model_dump(exclude={"negative_pool", "queue_keys"})
    assert given == {
        "alpha": 0.2,
        "dynamic_alpha": True,
        "warmup": 1 / 80,
        "unlabeled_weight": 1.0,
        "contrast_weight": 0.1,
        "cutmix_probability": 0.5,
        "ema_decay": 0.99,
        "anchor_confidence": 0.3,
        "anchors": 256,
        "negatives": 50,
        "temperature": 0.5,
        "rank_low": 3,
        "rank_high": 20,
        "use_ranks": True,
        "negatives_from": "unreliable",
        "use_queue": True,
        "queue_size": 30_000,
        "queue_size_first": 50_000,
        "symmetric_weight": 0.0,
        "prototype_momentum": 0.0,
        "denoise": False,
    }


@pytest.mark.parametrize(
    ("number", "total", "percent"),
    [
        (0, 80, 20.0),
        (1, 80, 19.75),
        (2, 80, 19.5),
        (40, 80, 10.0),
        (79, 80, 0.25),
        (1, 200, 19.9),
        (20, 200, 18.0),
        (100, 200, 10.0),
        (199, 200, 0.1),
    ],
)
def test_alpha_falls_with_the_steps(number: int, total: int, percent: float) -> None:
    """The threshold is the (100 - alpha)th percentile of that step."""
    batch = batch_of(unlabeled=unlabeled(two_images(ladder(10))))
    method = build(U2PL, 3, rank_low=1)
    step(method, batch, number, total)
    assert 100 * method.notes["alpha"].item() == pytest.approx(percent, abs=1e-5)
    p = torch.tensor([0.95 - 0.05 * i for i in range(10)])
    entropies = -(p * p.log() + (1 - p) * ((1 - p) / 2).log())
    expected = np.percentile(entropies.double().numpy(), 100 - percent)
    assert method.notes["threshold"].item() == pytest.approx(expected, abs=1e-5)


def test_alpha_stays_where_it_is_not_dynamic() -> None:
    method = build(U2PL, 3, rank_low=1, dynamic_alpha=False)
    step(method, batch_of(unlabeled=unlabeled(two_images(ladder(10)))), 79, 80)
    assert method.notes["alpha"].item() == pytest.approx(0.2)


def test_the_warm_up_is_the_labeled_term_alone() -> None:
    """It needs no unlabeled image, and no key is kept."""
    batch = batch_of(labeled([[pixel(sure(0, 3), 1)], [pixel(sure(1, 3), 2)]], [[0], [0]]))
    method = build(U2PL, 3, rank_low=1)
    terms = warm_up_terms(method, batch.labeled)
    expected = -(math.log(0.9) + math.log(0.05)) / 2
    assert {name: term.item() for name, term in terms.items()} == {
        "labeled": pytest.approx(expected, abs=1e-5)
    }
    assert classes_of_key(method) == []
    assert step(method, batch, 3, 30).keys() == {"labeled", "unlabeled", "contrast"}
    assert classes_of_key(method) == [1]


@pytest.mark.parametrize(
    ("warmup", "total", "steps"),
    [(0.0125, 80, 1), (0.0125, 30, 0), (0.5, 9, 4), (1.0, 9, 1), (3.0, 9, 3), (3.0, 900, 3)],
)
def test_the_warm_up_is_a_rounded_share_of_the_steps_or_their_number(
    warmup: float, total: int, steps: int
) -> None:
    assert build(U2PL, 3, rank_low=1, warmup=warmup).warmup_steps(total) == steps


def test_the_teacher_is_the_student_through_the_warm_up_and_once_after_it() -> None:
    """Then it keeps 1/2, 2/3, 3/4 ... of itself. The student's weight is the number of the step."""
    method = build(U2PL, 3, rank_low=1, warmup=0.04)  # 4 of 100
    seen = []
    for number in range(104):
        torch.nn.init.constant_(method.net.encoder.weight, float(number))
        method.after_step(at(number, 100))
        seen.append(method.teacher.module.encoder.weight[0, 0].item())
    assert seen[:5] == [0, 1, 2, 3, 4]
    assert seen[5:8] == pytest.approx([4.5, 5, 5.5])  # the mean of the students from step 4 on
    decays = [(now - number) / (before - number) for number, (before, now) in enumerate(pairwise(seen), 1)]
    for k, decay in [(1, 0.5), (2, 0.66667), (9, 0.9), (98, 0.98990), (99, 0.99)]:
        assert decays[4 + k - 1] == pytest.approx(decay, abs=2e-4), k


def test_the_teacher_is_scored() -> None:
    method = build(U2PL, 3, rank_low=1)
    assert method.predictor() is method.teacher


# Pseudo-labels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "reliable"), [(0.2, 8), (0.1, 9), (0.5, 5), (0.0, 9)])
def test_the_unlabeled_term_is_the_mean_over_reliable_pixels_by_their_share(
    alpha: float, reliable: int
) -> None:
    """Ten pixels whose cross entropy is 1 each: 1.25 with eight reliable ones, 1.1111 with nine."""
    e = math.exp(-1)
    rest = [(1 - e) / 2 - 1e-3 * i for i in range(10)]  # the more alike, the less sure
    rows = [pixel([e, r, 1 - e - r], 0) for r in rest]
    method = build(U2PL, 3, rank_low=1, alpha=alpha)
    terms = step(method, batch_of(unlabeled=unlabeled(two_images(rows))))
    assert terms["unlabeled"] == pytest.approx(10 / reliable, abs=1e-4)
    assert method.notes["reliable_share"].item() == pytest.approx(reliable / 10)


def test_the_unlabeled_term_by_hand() -> None:
    """A student duller than its teacher; of six valid pixels the least sure is left out, as is padding."""
    chance = [0.9, 0.85, 0.8, 0.75, 0.7, 0.4]
    rows = [pixel([p, (1 - p) / 2, (1 - p) / 2], 0) for p in chance]
    rows = [[*rows[:3], pixel(EVEN, 0)], [*rows[3:], pixel(EVEN, 0)]]
    batch = batch_of(unlabeled=unlabeled(rows, valid=[[1, 1, 1, 0], [1, 1, 1, 0]]))
    method = build(U2PL, 3, rank_low=1, alpha=0.1, unlabeled_weight=3.0)
    method.net.local = 0.5
    said = [math.sqrt(p) / (math.sqrt(p) + 2 * math.sqrt((1 - p) / 2)) for p in chance[:5]]
    mean = -sum(map(math.log, said)) / 5
    assert step(method, batch)["unlabeled"] == pytest.approx(3 * 6 / 5 * mean, abs=1e-5)


@pytest.mark.parametrize("p", [EVEN, sure(0, 3), [1.0, 0.0, 0.0]])
def test_where_all_pixels_are_equally_sure_none_is_reliable_and_the_term_is_0(p: list[float]) -> None:
    method = build(U2PL, 3, rank_low=1)
    terms = method.losses(batch_of(unlabeled=unlabeled([[pixel(p, 1)] * 5] * 2)), at())
    assert terms["unlabeled"] == 0 and terms["contrast"] == 0
    sum(terms.values()).backward()
    assert all(v.grad is None or v.grad.isfinite().all() for v in method.parameters())
    assert method.notes["reliable_share"] == 0


def test_labels_are_made_before_they_are_mixed() -> None:
    """A teacher that sees an image as a whole says a for image 0 and b for image 1. Image 0 takes three of
    its four pixels from image 1: mixed first, the fourth would be called b as well."""
    a, b = pixel([0.9, 0.06, 0.04], 1), pixel([0.15, 0.8, 0.05], 2)
    batch = batch_of(unlabeled=unlabeled([[a] * 4, [b] * 4], box=[[1, 1, 1, 0], [0, 0, 0, 0]]))
    method = build(U2PL, 3, rank_low=1)
    method.teacher.module.local, method.teacher.module.context = 0.0, 1.0
    terms = step(method, batch)
    truth = torch.tensor([0, 1]).view(2, 1, 1).expand(2, 1, 4)
    assert method.audits["accuracy_teacher"](truth) == 1
    # All b are equally unsure and tie with the threshold: the one a is the reliable pixel of eight.
    assert method.notes["reliable_share"] == 1 / 8
    assert terms["unlabeled"] == pytest.approx(8 * -math.log(0.9), abs=1e-4)


def test_image_label_validity_key_and_source_of_a_pixel_come_from_one_image() -> None:
    """Three images of three pixels. Inside a box stands the next image, in every map alike."""
    p = [[sure(i, 4, 0.9 - 0.1 * i - 0.02 * x) for x in range(3)] for i in range(3)]
    rows = [[pixel(p[i][x], 10 * i + x + 1) for x in range(3)] for i in range(3)]
    box, valid = [[0, 1, 1], [0, 0, 1], [1, 0, 0]], [[1, 1, 1], [1, 1, 0], [1, 1, 1]]
    method = build(U2PL, 4, rank_low=1, alpha=0.3)
    terms = step(method, batch_of(unlabeled=unlabeled(rows, valid, box), classes=4))
    # Mixed: images (0, 1, padding of 1), (1, 1, 2), (0, 2, 2). From the surest on: 0.0, 0.0, then 1.0, 1.1,
    # 1.1, then 2.1, 2.2, 2.2: the two last tie, and the percentile lies between 2.1 and them.
    truth = torch.arange(3).view(3, 1, 1).expand(3, 1, 3)
    assert method.audits["accuracy_teacher"](truth) == 1
    surely = [p[i][x][i] for i, x in [(0, 0), (0, 0), (1, 0), (1, 1), (1, 1)]]
    assert terms["unlabeled"] == pytest.approx(8 / 5 * -sum(map(math.log, surely)) / 5, abs=1e-4)
    keys = sorted([22, 23, 23])  # of image 2
    assert [held(method, c) for c in range(4)] == [keys, keys, [], keys]


@pytest.mark.parametrize(("probability", "expected"), [(0.0, {0}), (1.0, {1}), (0.5, {0, 1})])
def test_one_coin_mixes_the_whole_batch_or_none_of_it(probability: float, expected: set[int]) -> None:
    """What the student sees of images 0, 1 and 2, whose pixels all lie in their boxes."""
    rows = [[pixel(sure(i, 3), i)] for i in range(3)]
    batch = batch_of(unlabeled=unlabeled(rows, box=[[1]] * 3))
    method = build(U2PL, 3, rank_low=1, cutmix_probability=probability)
    seen: list[Tensor] = []
    represent = method.net.represent
    method.net.represent = lambda images: seen.append(images) or represent(images)
    for number in range(60):
        step(method, batch, number)
    shift = [(images[2:, :3].argmax(1).flatten() - torch.arange(3)) % 3 for images in seen]
    assert all(one.unique().numel() == 1 for one in shift)
    mixed = [one[0].item() for one in shift]
    assert set(mixed) == expected
    assert probability != 0.5 or 15 <= sum(mixed) <= 45
