"""The contrast of `u2pl_released` against its released form, pixel by pixel, with 255 in the labels.

What is drawn at random (anchors, negatives) is drawn by the method's own generators, over the candidates that
are worked out here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from plain_contrast import contents
from pointwise import BITS, at, batch_of, build, fill, labeled, pixel, queues_of, step
from torch import Tensor

from bench.contract import IGNORE, Batch, Stream
from bench.ops.contrast import draw
from methods.u2pl_released import U2PLReleased

SIZE = 12  # images of SIZE x SIZE
IMAGES = 4  # labeled, and as many unlabeled ones
DELTA, LOW, HIGH, ALPHA, TAU = 0.3, 3, 20, 0.2, 0.5  # the published values
ANCHORS, NEGATIVES, POOL = 64, 8, 32


@dataclass(frozen=True)
class Case:
    classes: int
    labeled: float  # share of the labeled pixels that are 255, each image at places of its own
    unlabeled: float  # of the unlabeled ones
    loss: float
    anchors: int  # candidates, of all classes
    keys: int  # that enter the queues


CASES = [
    Case(11, 0.05, 0.0, 2.39896, 83, 31),
    Case(11, 0.3, 0.0, 2.43459, 63, 44),
    Case(21, 0.05, 0.0, 1.92171, 51, 53),
    Case(11, 0.05, 0.05, 2.50715, 57, 51),
    Case(21, 0.05, 0.05, 2.03364, 47, 52),
    Case(21, 0.3, 0.3, 1.39615, 33, 33),
    Case(21, 0.0, 0.5, 1.93126, 43, 18),
]


@dataclass(frozen=True)
class Given:
    method: Any
    batch: Batch
    box: Tensor  # B H W bool


def given(case: Case, seed: int) -> Given:
    """Predictions and representations at random; the teacher projects otherwise than the student, and what it
    says of a mixed image is not what it says of its parts. The queues hold keys already."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def some(share: float) -> Tensor:
        return torch.rand(IMAGES, SIZE, SIZE, generator=generator) < share

    sizes = {"anchors": ANCHORS, "negatives": NEGATIVES, "negative_pool": POOL, "queue_keys": 2000}
    sizes |= {"queue_size": 3000, "queue_size_first": 3000}
    method = build(U2PLReleased, case.classes, world_size=1, **sizes)
    teacher = method.teacher.module
    teacher.context = 3.0
    with torch.no_grad():
        method.net.projection.weight.copy_(random(BITS, BITS))
        teacher.projection.weight.copy_(random(BITS, BITS))
    old = random(case.classes, 5, BITS)
    queues = queues_of(method)
    queues.push(queues.kept(old), torch.rand(case.classes, 5, generator=generator) < 0.5)

    images = [
        torch.cat([2 * random(IMAGES, case.classes, SIZE, SIZE), random(IMAGES, BITS, SIZE, SIZE)], 1)
        for _ in range(2)
    ]
    label = torch.randint(case.classes, (IMAGES, SIZE, SIZE), generator=generator)
    label = label.masked_fill(some(case.labeled), IGNORE)
    box = some(0.5)
    everywhere = torch.ones_like(box)
    names = tuple(map(str, range(IMAGES)))
    return Given(
        method,
        Batch(
            labeled=Stream(names, images[0], everywhere, label=label),
            unlabeled=Stream(names, images[1], ~some(case.unlabeled), boxes=(box,)),
        ),
        box,
    )


# The released form ------------------------------------------------------------------------------------------


def mixed(x: Tensor, box: Tensor) -> Tensor:
    """Of B . H W; inside its box an image shows the next one."""
    return torch.where(box.view(IMAGES, *[1] * (x.dim() - 3), SIZE, SIZE), x.roll(-1, 0), x)


def planes(label: Tensor, classes: int) -> np.ndarray:
    """B C H W bool: one scatter into all classes of the first image, of labels in which 255 has become 0; and
    what is 255 in an image is cleared in that image."""
    found = np.zeros((IMAGES, classes, SIZE, SIZE), dtype=bool)
    for image in label.tolist():
        for y, row in enumerate(image):
            for x, c in enumerate(row):
                found[0, 0 if c == IGNORE else c, y, x] = True
    for b, y, x in np.argwhere(label.numpy() == IGNORE):
        found[b, :, y, x] = False
    return found


@dataclass(frozen=True)
class Released:
    low: list[list[int]]  # of each class: the numbers of its sure pixels, whose mean is its prototype
    anchors: list[list[int]]
    keys: list[list[int]]
    z: Tensor  # N D float64, what the student projects, a leaf
    t: Tensor  # N D float64, what the teacher projects


def released(one: Given) -> Released:
    net, teacher = one.method.net, one.method.teacher.module
    labeled, unlabeled = one.batch.labeled, one.batch.unlabeled
    classes = len(one.method.task.classes)
    pseudo = teacher(unlabeled.image).argmax(1).masked_fill(~unlabeled.valid, IGNORE)
    pseudo = mixed(pseudo, one.box)
    images = torch.cat([labeled.image, mixed(unlabeled.image, one.box)])
    p = teacher(images).double().softmax(1).detach().numpy()  # 2B C H W, of the second pass
    surprise = -(p[IMAGES:] * np.log(p[IMAGES:])).sum(1)
    meant = pseudo.numpy() != IGNORE
    known = labeled.label.numpy() != IGNORE
    low_limit, high_limit = (np.percentile(surprise[meant], 100 * s) for s in (ALPHA, 1 - ALPHA))
    low = np.concatenate([known, (surprise <= low_limit) & meant])
    high = np.concatenate([known, (surprise >= high_limit) & meant])
    own = np.concatenate([planes(labeled.label, classes), planes(pseudo, classes)])

    found = Released([[] for _ in range(classes)], [[] for _ in range(classes)], [[] for _ in range(classes)],
                     z=pixel_rows(net, images), t=pixel_rows(teacher, images))  # fmt: skip
    number = 0
    for b in range(2 * IMAGES):
        for y in range(SIZE):
            for x in range(SIZE):
                rank = np.argsort(np.argsort(-p[b, :, y, x]))
                for c in range(classes):
                    if own[b, c, y, x] and low[b, y, x]:
                        found.low[c].append(number)
                        if p[b, c, y, x] > DELTA:
                            found.anchors[c].append(number)
                    first = rank[c] < LOW and not own[b, c, y, x] if b < IMAGES else LOW <= rank[c] < HIGH
                    if own[b, c, y, x] and high[b, y, x] and first:
                        found.keys[c].append(number)
                number += 1
    return found


def pixel_rows(net: Any, images: Tensor) -> Tensor:
    z = images[:, -BITS:].permute(0, 2, 3, 1).reshape(-1, BITS).double()
    return (z @ net.projection.weight.detach().double().t()).requires_grad_(
        net.projection.weight.requires_grad
    )


def loss_of(found: Released, one: Given, stored: Tensor, chosen: Tensor) -> Tensor:
    """The i-th of the valid classes is read with the anchors and the prototype of class i, and its queue."""
    classes, pixels = len(found.low), len(found.z)
    mask = torch.zeros(classes, pixels, dtype=torch.bool)
    for c, numbers in enumerate(found.anchors):
        mask[c, numbers] = True
    drawn = draw(mask, ANCHORS, at().generator("anchors"))
    valid = [c for c in range(classes) if found.low[c]]
    held = queues_of(one.method).length.tolist()
    total = found.z.sum() * 0
    for place, c in enumerate(valid):
        if not found.anchors[place] or not held[c]:
            continue
        prototype = found.t[found.low[place]].mean(0)
        for anchor, which in zip(found.z[drawn[place]], chosen[place], strict=True):
            others = torch.cat([prototype[None], stored[c][which].double()]).detach()
            cosines = torch.cosine_similarity(anchor[None], others, dim=1) / TAU
            total = total + (cosines.logsumexp(0) - cosines[0]) / ANCHORS
    return total / len(valid)


# Parity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "case"), list(enumerate(CASES)))
def test_the_contrast_is_the_released_one_with_255_in_other_images(seed: int, case: Case) -> None:
    one = given(case, seed)
    method, queues = one.method, queues_of(one.method)
    before = [len(contents(queues, c)) for c in range(case.classes)]
    found = released(one)

    leaf = one.batch.labeled.image.clone().requires_grad_()
    batch = replace(one.batch, labeled=replace(one.batch.labeled, image=leaf))
    loss = method.losses(batch, at())["contrast"]
    loss.backward()

    assert method.notes["anchors"].tolist() == [len(numbers) for numbers in found.anchors]
    keys = method.notes["negatives_labeled"] + method.notes["negatives_unlabeled"]
    assert keys.tolist() == [len(numbers) for numbers in found.keys]
    assert not method.notes["negatives_labeled"].any()
    for c, numbers in enumerate(found.keys):
        new = contents(queues, c)[before[c] :].double()
        expected = torch.nn.functional.normalize(found.t[numbers].detach(), dim=1)
        distance = torch.cdist(new, expected) if len(numbers) else torch.zeros(0, 0)
        assert len(new) == len(numbers)
        assert sorted(distance.argmin(1).tolist() if len(numbers) else []) == list(range(len(numbers)))

    # Groups of 16 anchors have the same 8 keys.
    stored = queues.draw(POOL, at().generator("negatives"))
    chosen = (torch.arange(ANCHORS) // (ANCHORS * NEGATIVES // POOL)).unsqueeze(1) * NEGATIVES
    chosen = (chosen + torch.arange(NEGATIVES)).expand(case.classes, -1, -1)
    expected_loss = loss_of(found, one, stored, chosen)
    expected_loss.backward()
    by_pixel = found.z.grad @ method.net.projection.weight.detach().double()  # N D, of the hidden vectors
    by_pixel = by_pixel.view(2 * IMAGES, SIZE, SIZE, BITS)[:IMAGES].permute(0, 3, 1, 2)
    gradient = leaf.grad[:, -BITS:].double()
    assert loss.item() == pytest.approx(expected_loss.item(), abs=2e-6)
    assert (gradient - by_pixel).abs().max() < 2e-6 * by_pixel.abs().max().clamp(min=1)
    assert by_pixel.abs().max() > 1e-3

    counted = sum(len(numbers) for numbers in found.anchors), sum(len(numbers) for numbers in found.keys)
    assert loss.item() == pytest.approx(case.loss, abs=1e-4)
    assert counted == (case.anchors, case.keys)


def test_a_place_that_is_255_in_another_image_is_class_0_in_the_first() -> None:
    """By hand, two pixels: the second image is 255 where the first is class 1. That pixel is class 0 as well,
    and sure of it (.6), so it is an anchor of both; the other pixel, of class 1, has .9 there."""
    row = [pixel([0.6, 0.4], [1.0, 0.0]), pixel([0.1, 0.9], [0.0, 1.0])]
    method = build(U2PLReleased, 2, rank_low=1, world_size=1)
    fill(method, 0, [-1.0, 0.0])
    fill(method, 1, [0.0, -1.0])
    loss = step(method, batch_of(labeled([row, row], [[1, 1], [IGNORE, 1]]), classes=2))["contrast"]
    assert method.notes["anchors"].tolist() == [1, 2]
    near, far = math.sqrt(0.5), -1.0  # the prototype of class 1 is (1, 1) / 2
    alone = -math.log(math.exp(2) / (math.exp(2) + 4 * math.exp(2 * far)))
    mean = [-math.log(math.exp(2 * near) / (math.exp(2 * near) + 4 * math.exp(2 * c))) for c in (0.0, far)]
    assert min(mean) + alone <= 2 * loss <= max(mean) + alone, "the anchors of class 1 are a mixture of both"


def test_a_place_that_is_255_in_the_first_image_has_no_class() -> None:
    row = [pixel([0.6, 0.4], [1.0, 0.0]), pixel([0.1, 0.9], [0.0, 1.0])]
    method = build(U2PLReleased, 2, rank_low=1)
    step(method, batch_of(labeled([row, row], [[IGNORE, 1], [1, 1]]), classes=2))
    assert method.notes["anchors"].tolist() == [0, 1]
