"""Anchors, prototypes and the contrastive loss: by hand, then what must not change them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.ops.contrast import (
    IGNORE,
    anchor_mask,
    class_means,
    draw,
    group_count,
    info_nce,
    mean_over_classes,
    pixels,
)

TAU = 0.5


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def even(counts: list[int]) -> bool:
    """Whether the counts look like equally likely outcomes: chi-square, within 4.5 standard deviations."""
    mean, freedom = sum(counts) / len(counts), len(counts) - 1
    statistic = sum((count - mean) ** 2 for count in counts) / mean
    return statistic < freedom + 4.5 * math.sqrt(2 * freedom)


def nce(anchor: Tensor, positive: Tensor, negative: Tensor, temperature: float = TAU) -> Tensor:
    """The loss of one class whose anchors (M D) are told from all its negatives (K D)."""
    return info_nce(anchor[None], positive[None], negative[None, None], temperature)[0]


def vector(cosine: float) -> Tensor:
    """A unit vector at this cosine to (1, 0)."""
    return torch.tensor([cosine, math.sqrt(1 - cosine**2)])


def loss_of_cosines(positive: float, negative: float, number: int) -> float:
    """One anchor (1, 0); its positive and all negatives at these cosines."""
    anchor = torch.tensor([[1.0, 0.0]])
    return nce(anchor, vector(positive), vector(negative).expand(number, 2)).item()


# Pixels and anchors ---------------------------------------------------------------------------------------


def test_pixels_run_along_rows_of_images() -> None:
    maps = torch.arange(2 * 3 * 2 * 2).view(2, 3, 2, 2)
    flat = pixels(maps)
    assert flat.shape == (8, 3)
    assert flat[5].tolist() == maps[1, :, 0, 1].tolist()
    labels = torch.arange(8).view(2, 2, 2)
    assert torch.equal(pixels(labels.unsqueeze(1)).squeeze(1), labels.flatten()), "the order of a label map"


def test_an_anchor_is_more_likely_than_the_minimum() -> None:
    probability = torch.tensor([[0.3, 0.7], [0.30001, 0.69999], [0.9, 0.1], [0.1, 0.9]])
    target = torch.tensor([0, 0, 1, 1])
    minimum = probability[0, 0].item()  # 0.3 as it is stored
    assert anchor_mask(target, probability, minimum).tolist() == [
        [False, True, False, False],
        [False, False, False, True],
    ]


def test_a_pixel_without_target_is_no_anchor_of_any_class() -> None:
    """Not of the last one either, which 255 is clamped to."""
    probability = torch.tensor([[0.05, 0.95], [0.95, 0.05], [0.05, 0.95]])
    mask = anchor_mask(torch.tensor([IGNORE, IGNORE, 1]), probability, 0.3)
    assert mask.tolist() == [[False, False, False], [False, False, True]]


def test_with_255_classes_the_last_one_still_has_anchors() -> None:
    mask = anchor_mask(torch.tensor([254, IGNORE]), torch.full((2, 255), 0.5), 0.3)
    assert mask.nonzero().tolist() == [[254, 0]]


def test_draws_are_pixels_of_the_class_equally_often() -> None:
    mask = torch.zeros(4, 30, dtype=torch.bool)
    mask[0, [0, 7, 8, 29]] = mask[1, 13] = mask[3, :] = True
    drawn = draw(mask, 6000, stream())
    assert drawn.shape == (4, 6000)
    for label, members in ((0, [0, 7, 8, 29]), (1, [13]), (3, list(range(30)))):
        found = drawn[label].tolist()
        assert set(found) == set(members)
        assert len(members) == 1 or even([found.count(pixel) for pixel in members])
    assert ((drawn[2] >= 0) & (drawn[2] < 30)).all(), "a class without pixels still answers valid numbers"


@settings(deadline=None)
@given(
    mask=st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=5),
    seed=st.integers(0, 999),
)
def test_a_draw_never_leaves_its_class(mask: list[list[bool]], seed: int) -> None:
    table = torch.tensor(mask)
    drawn = draw(table, 12, stream(seed))
    assert ((drawn >= 0) & (drawn < 9)).all()
    assert (table.gather(1, drawn) | ~table.any(1, keepdim=True)).all()


def test_a_draw_reaches_the_last_pixel_of_a_large_class() -> None:
    """The share of a draw is a float of 24 bits; 2^21 pixels are a large batch."""
    mask = torch.ones(1, 2**21, dtype=torch.bool)
    drawn = draw(mask, 100_000, stream())
    assert drawn.max() > 2**21 - 200 and drawn.min() < 200 and drawn.max() < 2**21
    assert even(drawn[0].div(2**17, rounding_mode="floor").bincount().tolist())


# Prototypes -----------------------------------------------------------------------------------------------


def test_a_prototype_is_the_mean_of_its_anchors() -> None:
    keys = torch.tensor([[1.0, 2.0], [3.0, 6.0], [-5.0, 0.5], [100.0, 100.0]])
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
    means = class_means(keys, mask)
    assert means.tolist() == [[2.0, 4.0], [-5.0, 0.5], [0.0, 0.0]], "one anchor is its own; absent is no NaN"
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(class_means(keys[order], mask[:, order]), means)


def test_a_prototype_has_no_gradient_and_full_precision() -> None:
    keys = torch.randn(600, 4, generator=stream()).requires_grad_()
    mask = torch.ones(1, 600, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        mean = class_means(keys, mask)
    assert not mean.requires_grad and mean.dtype == torch.float32
    torch.testing.assert_close(mean[0], keys.detach().double().mean(0).float(), atol=1e-6, rtol=0)


# The loss of a class --------------------------------------------------------------------------------------


def test_loss_and_gradient_by_hand() -> None:
    """Cosines .6, .8, -.6; dL/dcos -1.225569, 1.155315, .070255, projected off the anchor, over its length
    5."""
    anchor = torch.tensor([[3.0, 4.0]], requires_grad=True)
    loss = nce(anchor, torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    assert loss.item() == pytest.approx(0.948774, abs=1e-6)
    loss.backward()
    away = torch.tensor([-1.225569 - 0.070255, 1.155315])
    unit = torch.tensor([0.6, 0.8])
    torch.testing.assert_close(anchor.grad, ((away - (away @ unit) * unit) / 5)[None], atol=1e-6, rtol=0)


def test_derivatives_by_the_cosines() -> None:
    """Anchor (1, 0, 0, 0) and vectors with one further direction each: the gradient along it is dL/dcos times
    its sine."""
    cosines, expected = [0.6, 0.8, -0.6], [-1.225569, 1.155315, 0.070255]
    rows = torch.zeros(3, 4)
    for i, cosine in enumerate(cosines):
        rows[i, 0], rows[i, i + 1] = cosine, math.sqrt(1 - cosine**2)
    anchor = torch.tensor([[1.0, 0, 0, 0]], requires_grad=True)
    loss = nce(anchor, rows[0], rows[1:])
    assert loss.item() == pytest.approx(0.948774, abs=1e-6)
    loss.backward()
    assert anchor.grad is not None
    sines = torch.tensor([rows[i, i + 1] for i in range(3)])
    assert (anchor.grad[0, 1:] / sines).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("positive", "negative", "number", "expected"),
    [
        (1, -1, 50, 0.650126),
        (0.3, 0.3, 50, math.log(51)),
        (-1, 1, 50, 7.912389),
        (1, -1, 256, 1.738500),
        (-0.7, -0.7, 256, 5.549076),
        (-1, 1, 256, 9.545249),
        (1, 0, 2, 0.239545),
        (1, 0, 50, 2.049854),
        (0.5, -0.5, 1, 0.126928),
    ],
)
def test_loss_of_known_cosines(positive: float, negative: float, number: int, expected: float) -> None:
    assert loss_of_cosines(positive, negative, number) == pytest.approx(expected, abs=2e-6)


def test_temperature_divides_the_cosines() -> None:
    anchor, positive, negative = torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.0]), vector(0.2)[None]
    for temperature in (0.1, 1.0, 10.0):
        expected = math.log(1 + math.exp((0.2 - 1) / temperature))
        assert nce(anchor, positive, negative, temperature).item() == pytest.approx(expected, abs=1e-6)


def test_a_low_temperature_does_not_overflow() -> None:
    anchor = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = nce(anchor, vector(-1.0), vector(1.0).expand(4, 2), temperature=1e-3)
    assert loss.item() == pytest.approx(2000 + math.log(4), abs=1e-2)
    loss.backward()
    assert anchor.grad is not None and anchor.grad.isfinite().all()


@pytest.mark.parametrize("groups", [[0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 2]])
def test_each_anchor_is_told_from_the_negatives_of_its_group_and_no_others(groups: list[int]) -> None:
    """Two classes, two negatives a group; the last group has as many anchors as the others, or fewer."""
    generator = stream()
    anchor = torch.randn(2, len(groups), 4, generator=generator)
    positive = torch.randn(2, 4, generator=generator)
    negative = torch.randn(2, max(groups) + 1, 2, 4, generator=generator)
    expected = []
    for c in range(2):
        losses = []
        for m, group in enumerate(groups):
            others = (positive[c], *negative[c, group])
            cosines = [torch.cosine_similarity(anchor[c, m], other, dim=0) for other in others]
            losses.append(-math.log(torch.stack(cosines).div(TAU).softmax(0)[0]))
        expected.append(sum(losses) / len(losses))
    assert info_nce(anchor, positive, negative, TAU).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("anchors", "negatives", "pool", "groups"),
    [(256, 50, 400, 8), (256, 50, 449, 8), (256, 50, 49, 1), (4, 2, 512, 4), (3, 1, 1, 1)],
)
def test_there_are_as_many_groups_as_the_pool_has_negatives_for(
    anchors: int, negatives: int, pool: int, groups: int
) -> None:
    """One at least, and no more than there are anchors."""
    assert group_count(anchors, negatives, pool) == groups


@pytest.mark.parametrize("seed", range(5))
def test_what_must_not_change_the_loss(seed: int) -> None:
    generator = stream(seed)
    anchor, positive = torch.randn(4, 6, generator=generator), torch.randn(6, generator=generator)
    negative = torch.randn(7, 6, generator=generator)
    expected = nce(anchor, positive, negative).item()

    def same(other: Tensor) -> None:
        assert other.item() == pytest.approx(expected, abs=1e-6)

    scale = torch.rand(7, 1, generator=generator) * 100 + 0.01
    same(nce(anchor * scale[:4], positive * 17, negative * scale))
    same(nce(anchor, positive, negative[torch.randperm(7, generator=generator)]))
    same(nce(anchor[torch.randperm(4, generator=generator)], positive, negative))
    same(nce(torch.cat([anchor, anchor]), positive, negative))
    assert nce(anchor, positive, torch.cat([negative, negative])).item() > expected + 0.1, "a sum, not a mean"


@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_is_orthogonal_to_the_anchor(seed: int) -> None:
    anchor = torch.randn(5, 6, generator=stream(seed)).requires_grad_()
    nce(anchor, torch.randn(6, generator=stream(9)), torch.randn(3, 6, generator=stream(8))).backward()
    assert anchor.grad is not None and (anchor.grad.norm(dim=1) > 1e-3).all()
    assert (anchor.grad * anchor).sum(1).abs().max() < 1e-6


def test_only_anchors_have_a_gradient() -> None:
    tensors = [torch.randn(shape, requires_grad=True) for shape in ((1, 2, 3), (1, 3), (1, 1, 4, 3))]
    anchor, positive, negative = tensors
    info_nce(anchor, positive, negative, TAU).sum().backward()
    assert anchor.grad is not None and anchor.grad.any()
    assert positive.grad is None and negative.grad is None


def test_the_loss_has_full_precision_under_autocast() -> None:
    generator = stream()
    given = torch.randn(9, 32, generator=generator), torch.randn(32, generator=generator)
    negative = torch.randn(20, 32, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        found = nce(*given, negative)
    assert found.dtype == torch.float32 and found.item() == nce(*given, negative).item()


def test_a_zero_vector_gives_no_nan() -> None:
    """A class without prototype or keys has zeros there, and its loss is left out, but its gradient is not
    NaN."""
    anchor = torch.zeros(1, 2, 3, requires_grad=True)
    loss = info_nce(anchor, torch.zeros(1, 3), torch.zeros(1, 1, 4, 3), TAU)
    assert loss.item() == pytest.approx(math.log(5))
    loss.sum().backward()
    assert anchor.grad is not None and anchor.grad.isfinite().all()


# The mean over classes ------------------------------------------------------------------------------------


def mean(per_class: list[float], candidates: list[int], ready: list[int]) -> tuple[float, list[float]]:
    """The loss and its derivative by the classes' losses."""
    losses = torch.tensor(per_class, dtype=torch.float32, requires_grad=True)
    loss = mean_over_classes(losses, torch.tensor(candidates), torch.tensor(ready).bool())
    loss.backward()
    assert losses.grad is not None
    return loss.item(), losses.grad.tolist()


def test_every_class_that_contributes_counts_once() -> None:
    """However many anchors it has; a class without anchors or without keys is not counted at all."""
    assert mean([1, 2, 6], [5, 1, 300], [1, 1, 1]) == (3, pytest.approx([1 / 3] * 3))
    assert mean([1, 2, 6], [5, 1, 300], [1, 1, 0]) == (1.5, [0.5, 0.5, 0])
    assert mean([1, 2, 6], [5, 0, 300], [1, 1, 1]) == (3.5, [0.5, 0, 0.5])


@pytest.mark.parametrize(
    ("candidates", "ready"), [([4, 0, 0], [1, 1, 1]), ([4, 4, 4], [0, 1, 0]), ([4, 0, 0], [0, 1, 1])]
)
def test_fewer_than_two_classes_are_zero_with_a_graph(candidates: list[int], ready: list[int]) -> None:
    assert mean([1, 2, 6], candidates, ready) == (0, [0, 0, 0])


def test_what_is_left_out_may_be_nan() -> None:
    loss, gradient = mean([1, math.nan, 3, math.inf], [2, 0, 2, 2], [1, 1, 1, 0])
    assert (loss, gradient) == (2, [0.5, 0, 0.5, 0])
