"""U2PL step by step: on images that hold their own predictions, then on small real networks and runs."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pointwise import (
    at,
    batch_of,
    buffer_of,
    build,
    classes_of_key,
    falling,
    fill,
    held,
    labeled,
    pixel,
    queues_of,
    sure,
    unlabeled,
)
from pydantic import ValidationError
from torch import Tensor

from bench import pipeline
from bench.contract import IGNORE, Batch, Stream, Task
from bench.display import Display
from bench.errors import BenchError, ConfigError, Interrupted
from bench.networks.segmenter import Segmenter
from bench.ops import contrast as contrast_ops
from bench.ops.entropy import partition
from bench.ops.losses import cross_entropy
from bench.plan import plan
from bench.randomness import torch_seeded
from bench.records.logs import read_metrics
from bench.settings.schema import Network, RunConfig
from bench.training import checkpoint
from methods.u2pl import U2PL

Config = Callable[..., RunConfig]
NETWORK = Network(encoder="tiny", decoder="unet", decoder_channels=16, representation_channels=8)
EVEN = [1 / 3] * 3


def step(method: U2PL, batch: Batch, number: int = 0, total: int = 1000, seed: int = 0) -> dict[str, float]:
    return {name: term.item() for name, term in method.losses(batch, at(number, total, seed)).items()}


def contrast_gradient(method: U2PL, batch: Batch) -> tuple[float, Tensor]:
    """The contrastive term, and its gradient by the representations that all images hold: 2B D 1 W."""
    streams = {
        name: replace(getattr(batch, name), image=getattr(batch, name).image.clone().requires_grad_())
        for name in ("labeled", "unlabeled")
    }
    term = method.losses(replace(batch, **streams), at())["contrast"]
    term.backward()
    classes = len(method.task.classes)
    gradients = [stream.image.grad for stream in streams.values()]
    return term.item(), torch.cat([g if g is not None else torch.zeros(0) for g in gradients])[:, classes:]


def ladder(number: int, classes: int = 3) -> list[list[float]]:
    """So many pixels, each less sure than the one before, numbered from 1; class 0 is always the first."""
    top = [0.95 - 0.5 * i / number for i in range(number)]
    return [pixel([p, *[(1 - p) / (classes - 1)] * (classes - 1)], i + 1) for i, p in enumerate(top)]


def two_images(pixels: Sequence[Any]) -> list[list[Any]]:
    half = len(pixels) // 2
    return [list(pixels[:half]), list(pixels[half:])]


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
    """3 of 30 steps; what the unlabeled images hold plays no part, and no key is kept."""
    batch = batch_of(labeled([[pixel(sure(0, 3), 1)], [pixel(sure(1, 3), 2)]], [[0], [0]]))
    method = build(U2PL, 3, rank_low=1, warmup=0.1)
    for number in range(3):
        terms = step(method, batch, number, 30)
        assert terms == {"labeled": pytest.approx(-(math.log(0.9) + math.log(0.05)) / 2, abs=1e-5)}
        assert classes_of_key(method) == []
    assert step(method, batch, 3, 30).keys() == {"labeled", "unlabeled", "contrast"}
    assert classes_of_key(method) == [1]
    assert method.notes["warmup_steps"] == 3


@pytest.mark.parametrize(("warmup", "total", "steps"), [(0.0125, 80, 1), (0.0125, 30, 0), (0.5, 9, 4)])
def test_the_warm_up_is_a_rounded_share_of_the_steps(warmup: float, total: int, steps: int) -> None:
    method = build(U2PL, 3, rank_low=1, warmup=warmup)
    batch = batch_of(labeled([[pixel(EVEN, 1)]] * 2, [[0], [0]]))
    assert [len(step(method, batch, number, total)) for number in range(steps + 1)] == [1] * steps + [3]


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


@pytest.mark.parametrize(("label", "keys"), [(1, [0, 2]), (5, [0, 1, 2]), (0, [1, 2]), (IGNORE, [])])
def test_a_labeled_pixel_is_a_key_of_likely_classes_that_it_is_not(label: int, keys: list[int]) -> None:
    rows = [[pixel(falling(21), 7)], [pixel(falling(21), 8)]]
    method = build(U2PL, 21)
    step(method, batch_of(labeled(rows, [[label], [IGNORE]]), classes=21))
    assert classes_of_key(method) == keys
    assert all(held(method, c) == [7] for c in keys)
    assert method.notes["negatives_labeled"].tolist() == [c in keys for c in range(21)]


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
    method = build(U2PL, 3, rank_low=1, negatives_from="reliable")
    entropy = torch.tensor([[[1.0, 1.0 + 2**-23]]])
    valid = torch.ones_like(entropy, dtype=torch.bool)
    chosen = method._source(entropy, valid, partition(entropy, valid, 0.6), 0.6)
    assert chosen.tolist() == [[[True, False]]]


def test_without_ranks_a_pixel_is_a_key_of_every_class_but_its_own() -> None:
    method = build(U2PL, 21, use_ranks=False)
    step(method, batch_of(labeled([[pixel(falling(21), 7)]] * 2, [[5], [IGNORE]]), classes=21))
    assert classes_of_key(method) == [c for c in range(21) if c != 5]
    method = build(U2PL, 21, use_ranks=False)
    step(method, unsure_pixel(21, falling(21)[::-1]))
    assert [c for c in range(21) if 100 in held(method, c)] == list(range(20)), "its own is the predicted one"
    build(U2PL, 2, use_ranks=False).hp.check(2)  # the default rank_low is not used, so not refused


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


# On a real network ----------------------------------------------------------------------------------------


def real(classes: int = 3, **knobs: Any) -> U2PL:
    sizes = {"queue_size": 200, "queue_size_first": 200, "queue_keys": 64, "negatives": 5, "anchors": 16}
    given = {"warmup": 0.0, "rank_low": 1, "negative_pool": 32, **sizes, **knobs}
    with torch_seeded(0, "init"):
        task = Task(tuple(f"class {c}" for c in range(classes)), cross_entropy)
        return U2PL(Segmenter(NETWORK, classes), task, U2PL.HParams(**given)).train()


def noise(classes: int = 3, seed: int = 0, size: tuple[int, int] = (32, 32)) -> Batch:
    """Random images, labels in blocks, boxes in the middle, padding on the right."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(4, 3, *size, generator=generator)
    blocks = torch.randint(classes, (2, 4, 4), generator=generator)
    label = blocks.repeat_interleave(-(-size[0] // 4), 1).repeat_interleave(-(-size[1] // 4), 2)
    label = label[:, : size[0], : size[1]].clone()
    label[:, :, -5:] = IGNORE
    valid, box = label != IGNORE, torch.zeros_like(label, dtype=torch.bool)
    box[:, 6:20, 4:16] = True
    return Batch(
        labeled=Stream(("a", "b"), image[:2], valid, label=label),
        unlabeled=Stream(("c", "d"), image[2:], valid, boxes=(box,)),
    )


def test_contrast_trains_representation_and_encoder_and_nothing_else() -> None:
    method = real()
    term = method.losses(noise(), at())["contrast"]
    term.backward()
    assert term > 0
    for name, parameter in method.net.named_parameters():
        if name.startswith(("segmentation_head", "classification_head")):
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            assert parameter.grad is not None and parameter.grad.any(), name
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert not any(buffer.requires_grad for buffer in method.buffers())


def test_the_other_terms_do_not_train_the_representation() -> None:
    method = real()
    terms = method.losses(noise(), at())
    (terms["labeled"] + terms["unlabeled"]).backward()
    for module in (method.net.representation_head, method.net.projection):
        assert all(p.grad is None or not p.grad.any() for p in module.parameters())
    assert method.net.segmentation_head.weight.grad is not None


@pytest.mark.parametrize("size", [(32, 32), (33, 50)])
def test_under_autocast_to_bf16_a_step_is_finite_and_close(size: tuple[int, int]) -> None:
    """Also where the image is no multiple of the network's stride."""
    full, half = real(), real()
    batch = noise(size=size)
    exact = full.losses(batch, at())
    with torch.autocast("cpu", torch.bfloat16):
        terms = half.losses(batch, at())
    torch.stack([term.float() for term in terms.values()]).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in half.net.parameters())
    for name, term in terms.items():
        assert term.item() == pytest.approx(exact[name].item(), rel=0.1), name
    assert half.notes["anchors"].sum() > 0 and queues_of(half).length.sum() > 0


def test_two_classes_train_with_rank_low_1() -> None:
    method = real(classes=2)
    method.losses(noise(classes=2), at())
    term = method.losses(noise(classes=2, seed=1), at(1))["contrast"]
    assert term > 0
    assert queues_of(method).length.tolist() != [0, 0]


def test_the_padding_to_the_stride_is_no_key_and_no_anchor() -> None:
    """Of an image of 20x24 pixels, padded to 32x32, 5x6 of 8x8 cells count."""
    method = real(alpha=1.0, negatives_from="all", use_ranks=False, queue_keys=200)
    batch = noise(size=(20, 24))
    known = batch.unlabeled.valid[:, 2::4, 2::4]
    step(method, batch)
    assert known.shape == (2, 5, 6)
    assert 0 < queues_of(method).length.sum() <= 2 * known.sum() * 2  # images of both streams, other classes
    assert method.notes["anchors"].sum() <= 2 * known.sum()
    box = batch.unlabeled.boxes[0][:, 2::4, 2::4]
    inside = torch.where(box, known.roll(-1, 0), known)
    assert method.notes["negatives_unlabeled"].sum() == 2 * inside.sum(), "each of all classes but its own"


# The decoder's resolution ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net() -> Segmenter:
    return Segmenter(NETWORK, 3).eval()


def cells(rows: int, columns: int) -> Tensor:
    return torch.empty(1, 1, rows, columns)


def grid(height: int, width: int) -> Tensor:
    """Two maps whose value tells its place: 1000 image + 100 y + x."""
    y, x = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
    return 1000 * torch.arange(2).view(2, 1, 1) + 100 * y + x


def test_a_cell_takes_the_pixel_at_its_centre(net: Segmenter) -> None:
    assert net.stride == 16
    down = net.downsample(grid(16, 32), cells(4, 8), fill=-1)
    assert down[0].tolist() == [[100 * y + x for x in range(2, 32, 4)] for y in (2, 6, 10, 14)]
    assert torch.equal(down[1], down[0] + 1000)
    odd = net.downsample(grid(48, 48), cells(16, 16), fill=-1)  # three pixels a cell: the middle one
    assert odd[0, 0].tolist() == [100 + x for x in range(1, 48, 3)]
    assert torch.equal(net.downsample(grid(16, 16), cells(16, 16), fill=-1), grid(16, 16))
    assert net.downsample(grid(16, 16), cells(1, 1), fill=-1).flatten().tolist() == [808, 1808]


def test_cells_in_the_padding_to_the_stride_are_filled(net: Segmenter) -> None:
    """20x24 pixels are padded to 32x32, right and bottom; a cell has 4x4 pixels."""
    down = net.downsample(grid(20, 24), cells(8, 8), fill=255)[0]
    expected = [[100 * y + x if y < 20 and x < 24 else 255 for x in range(2, 32, 4)] for y in range(2, 32, 4)]
    assert down.tolist() == expected
    # Seven pixels: the second cell's centre, pixel 6, is the last inside.
    row = net.downsample(grid(7, 7), cells(4, 4), fill=255)[0]
    assert row[:2, :2].tolist() == [[202, 206], [602, 606]] and (row[2:] == 255).all()


def test_masks_stay_masks(net: Segmenter) -> None:
    """Of the padding too, at the sizes of the network's own features."""
    features, _ = net.represent(torch.rand(2, 3, 20, 24))
    down = net.downsample(torch.ones(2, 20, 24, dtype=torch.bool), features, fill=False)
    assert down.dtype == torch.bool and down.shape == (2, *features.shape[-2:])
    assert down.sum() == 2 * 5 * 6


def test_down_undoes_up(net: Segmenter) -> None:
    """A map constant in each cell comes back as it was, a bilinear ramp up to an eighth of a cell."""
    label = torch.randint(3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    blocks = label.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(net.downsample(blocks, cells(8, 8), fill=255), label)
    ramp = (10.0 * torch.arange(8).view(-1, 1) + torch.arange(8)).expand(1, 1, 8, 8)
    up = net.upsample(ramp, torch.empty(1, 3, 32, 32))[:, 0]
    down = net.downsample(up, cells(8, 8), fill=0)
    torch.testing.assert_close(down[0, 1:-1, 1:-1], ramp[0, 0, 1:-1, 1:-1] + 11 / 8)


# Settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["method.alpha=-0.1"], "method.alpha"),
        (["method.alpha=1.1"], "method.alpha"),
        (
            ["method.rank_low=5", "method.rank_high=5"],
            r"method\.rank_low \(5\) must be below rank_high \(5\)",
        ),
        (
            ["method.rank_low=9", "method.rank_high=5"],
            r"method\.rank_low \(9\) must be below rank_high \(5\)",
        ),
        (["method.rank_low=0"], "method.rank_low"),
        (["method.queue_size=49"], r"method\.queue_size \(49\) is below negatives \(50\)"),
        (["method.queue_size_first=49"], r"method\.queue_size_first \(49\) is below negatives \(50\)"),
        (["method.negatives_from=some"], "method.negatives_from"),
        (["method.warmup=1.0"], "method.warmup"),
        (["method.temperature=0.0"], "method.temperature"),
        (["method.negative_pool=0"], "method.negative_pool"),
    ],
)
@pytest.mark.parametrize("name", ["u2pl", "u2pl_plus"])
def test_settings_that_make_no_sense_are_refused_by_name(
    name: str, tiny_config: Config, sets: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(name, *sets)


def test_settings_at_the_bounds_are_taken(tiny_config: Config) -> None:
    sets = ["method.alpha=1.0", "method.rank_low=1", "method.rank_high=2", "method.queue_size=50"]
    method = tiny_config("u2pl", *sets, "method.queue_size_first=50").method
    assert (method["alpha"], method["rank_high"], method["queue_size"]) == (1.0, 2, 50)
    with pytest.raises(ValidationError, match="rank_low"):
        U2PL.HParams(rank_low=20)


class Quiet(Display):
    """Shows nothing, and may send SIGTERM after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.stop_after, self.training = stop_after, False

    def say(self, text: str) -> None:
        pass

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.training = name.startswith("train")

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        if self.training and done == self.stop_after:
            signal.raise_signal(signal.SIGTERM)


def run(config: RunConfig, stop_after: int | None = None, **options: bool) -> bytes:
    """The weights of the run."""
    pipeline.run(plan(config), Quiet(stop_after), **options)
    return plan(config).folder.weights.read_bytes()


def with_classes(root: Path, tmp_path: Path, names: Sequence[str]) -> str:
    """A copy of the tiny set whose classes have these names; labels beyond them become the last one."""
    copy = tmp_path / "other"
    copytree(root, copy)
    (copy / "tinyset" / "classes.txt").write_text("\n".join(names) + "\n")
    for file in (copy / "tinyset" / "labels").iterdir():
        mask = np.array(Image.open(file))
        mask[(mask != IGNORE) & (mask >= len(names))] = len(names) - 1
        Image.fromarray(mask).save(file)
    return f"machine.data_root={copy}"


def test_ranks_that_leave_nothing_are_refused_before_anything_is_written(
    tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    """The published rank_low of 3 on two and on three classes."""
    two = with_classes(tiny_root, tmp_path, ["ground", "thing"])
    for sets, classes in (([], 3), ([two], 2)):
        config = tiny_config("u2pl", "method.rank_low=3", *sets)
        with pytest.raises(
            ConfigError, match=rf"method.rank_low=3 .* of {classes} classes.*1..{classes - 1}"
        ):
            run(config)
        folder = plan(config).folder.path
        assert not folder.exists() or [file.name for file in folder.iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_run_on_two_classes_contrasts_them(tiny_config: Config, tiny_root: Path, tmp_path: Path) -> None:
    config = tiny_config("u2pl", with_classes(tiny_root, tmp_path, ["ground", "thing"]), *SEMI)
    assert config.method["rank_low"] == 1
    run(config)
    terms = [line["contrast"] for line in read_metrics(plan(config).folder.metrics)]
    assert len(terms) == 4 and max(terms) > 0


def test_more_classes_than_a_mask_holds_are_refused(
    tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    many = with_classes(tiny_root, tmp_path, [f"class {i}" for i in range(256)])
    config = tiny_config("u2pl", many)
    with pytest.raises(BenchError, match="256 classes.* mask .*holds at most 255"):
        run(config)
    folder = plan(config).folder.path
    assert not folder.exists() or [file.name for file in folder.iterdir()] == [".lock"]


@pytest.mark.slow
def test_the_most_classes_that_a_mask_holds_train(
    tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    many = with_classes(tiny_root, tmp_path, [f"class {i}" for i in range(255)])
    sets = ["protocol.steps=2", "method.warmup=0.0", "method.queue_size=60", "method.queue_size_first=60"]
    assert run(tiny_config("u2pl", many, *sets))


# Runs -----------------------------------------------------------------------------------------------------

# Queues that are full and wrapped after a few of ten steps.
WRAPPED = [
    "protocol.steps=10",
    "method.warmup=0.1",
    "method.queue_size=60",
    "method.queue_size_first=80",
    "method.negatives=5",
    "method.queue_keys=16",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["u2pl", "u2pl_plus"])
def test_stopped_with_full_and_wrapped_queues_and_resumed_is_bit_exact(
    name: str, tiny_config: Config, tmp_path: Path
) -> None:
    straight = run(tiny_config(name, *WRAPPED, f"machine.out={tmp_path / 'straight'}"))
    config = tiny_config(name, *WRAPPED)
    for stop in (2, 7):
        with pytest.raises(Interrupted):
            run(config, stop, resume=True)
        state = checkpoint.load(plan(config).folder.checkpoint, "cpu")["method"]
        lengths, heads = (
            next(value for key, value in state.items() if key.endswith(f"queues.{part}"))
            for part in ("length", "head")
        )
        full = lengths == torch.tensor([80, 60, 60])
        assert not full.any() if stop == 2 else (full & (heads > 0)).any()
        assert next(value for key, value in state.items() if key.endswith("prototypes")).any()
    assert run(config, resume=True) == straight


@pytest.mark.slow
def test_a_run_in_bf16_is_finite(tiny_config: Config) -> None:
    config = tiny_config("u2pl", "protocol.precision=bf16", "protocol.steps=3", "method.warmup=0.0")
    run(config)
    lines = read_metrics(plan(config).folder.metrics)
    assert len(lines) == 3
    assert all(math.isfinite(line[name]) for line in lines for name in ("loss", "unlabeled", "contrast"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        "alpha=0.5",
        "dynamic_alpha=false",
        "unlabeled_weight=2.0",
        "contrast_weight=1.0",
        "cutmix_probability=1.0",
        "anchor_confidence=0.5",
        "temperature=0.1",
        "rank_low=2",
        "use_ranks=false",
        "negatives_from=all",
        "use_queue=false",
        "warmup=0.3",
    ],
)
def test_every_switch_changes_the_training(change: str, tiny_config: Config, weights_of_u2pl: bytes) -> None:
    config = tiny_config("u2pl", *SEMI, f"method.{change}")
    assert run(config) != weights_of_u2pl


SEMI = ["protocol.steps=4", "method.warmup=0.0"]  # not the warm-up of the protocol
_weights: dict[str, bytes] = {}


@pytest.fixture
def weights_of_u2pl(tiny_config: Config, tmp_path: Path) -> bytes:
    if "u2pl" not in _weights:
        _weights["u2pl"] = run(tiny_config("u2pl", *SEMI, f"machine.out={tmp_path / 'plain'}"))
    return _weights["u2pl"]
