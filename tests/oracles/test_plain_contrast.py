"""All classes at once against class by class: the same loss, gradient and queues, given the same samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_contrast import IGNORE, Sampler, Setting, contents, plain_contrast, run_vectorised, vectorised
from torch import Tensor

from bench.ops.contrast import Contrast
from bench.randomness import generator_for

DIM = 16


def same_samples(contrast: Contrast, setting: Setting, eligible: Tensor, step: int) -> Sampler:
    """The draws of the vectorised code, made again from the same streams by plain means."""

    def stream(purpose: str) -> torch.Generator:
        return generator_for(0, purpose, step)

    order = (torch.rand(len(eligible), generator=stream("keys")) + ~eligible).argsort()
    anchor_share = torch.rand(setting.classes, setting.anchors, generator=stream("anchors"))
    shape = (setting.classes, contrast.groups * setting.negatives)
    share = torch.rand(shape, generator=stream("negatives")).view(setting.classes, contrast.groups, -1)
    group = torch.arange(setting.anchors) // math.ceil(setting.anchors / contrast.groups)

    def keys(_: int, candidates: Tensor) -> Tensor:
        return order[torch.isin(order, candidates)][: setting.limit]

    def anchors(c: int, candidates: Tensor) -> Tensor:
        return candidates[(anchor_share[c] * len(candidates)).long()]

    def negatives(c: int, length: int) -> Tensor:
        slot = (share[c] * length).long()
        full = length == setting.capacities[c]
        place = (slot - contrast.queues.head[c]) % length if full else slot  # oldest first
        return place[group]

    return Sampler(keys, anchors, negatives)


def agree(
    setting: Setting,
    batches: list[tuple[Tensor, Tensor, Tensor, Tensor]],
    valid: Tensor | None = None,
    pool: int = 64,
) -> list[float]:
    """Runs both over the batches (z, keys, logits, label) and compares after each; answers the losses."""
    contrast = vectorised(setting, DIM, pool)
    queues = [torch.zeros(0, DIM, dtype=torch.float16) for _ in range(setting.classes)]
    seen = []
    for step, (z, keys, logits, label) in enumerate(batches):
        ours, plain = z.clone().requires_grad_(), z.clone().requires_grad_()
        loss, figures, eligible = run_vectorised(contrast, ours, keys, logits, label, setting, step, valid)
        sampler = same_samples(contrast, setting, eligible, step)
        expected = plain_contrast(plain, keys, logits, label, queues, setting, sampler, valid)
        loss.backward()
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
        torch.testing.assert_close(ours.grad, plain.grad, atol=1e-5, rtol=0)
        for c in range(setting.classes):
            assert torch.equal(contents(contrast.queues, c), queues[c]), f"queue {c} in step {step}"
        pushed = figures["negatives_labeled"] + figures["negatives_unlabeled"]
        assert (pushed <= setting.limit).all()
        seen.append(loss.item())
    return seen


def setting_of(classes: int, capacity: int = 40, **other: float) -> Setting:
    small = {"anchors": 8, "negatives": 5, "limit": 16, "rank_low": min(3, classes - 1)} | other
    return Setting(classes, capacities=[capacity + 10] + [capacity] * (classes - 1), **small)


def batch_of(
    classes: int, seed: int = 0, size: int = 6, images: int = 2
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, keys = torch.randn(2, 2 * images, DIM, size, size, generator=generator)
    logits = 3 * torch.randn(2 * images, classes, size, size, generator=generator)
    label = torch.randint(classes, (images, size, size), generator=generator)
    return z, keys, logits, label


@pytest.mark.parametrize("classes", [2, 5, 21])
def test_random_batches(classes: int) -> None:
    """Ten steps fill and wrap every queue."""
    losses = agree(setting_of(classes), [batch_of(classes, seed) for seed in range(10)])
    assert all(loss > 0 for loss in losses)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    classes=st.integers(2, 9),
    seed=st.integers(0, 2**31),
    limit=st.integers(1, 40),
    capacity=st.integers(5, 60),
    alpha=st.floats(0, 1),
    minimum=st.floats(0, 0.9),
    anchors=st.integers(1, 12),
    pool=st.integers(1, 64),
)
def test_any_setting(
    classes: int,
    seed: int,
    limit: int,
    capacity: int,
    alpha: float,
    minimum: float,
    anchors: int,
    pool: int,
) -> None:
    setting = setting_of(classes, capacity, limit=limit, alpha=alpha, minimum=minimum, anchors=anchors)
    agree(setting, [batch_of(classes, seed + step, size=4) for step in range(3)], pool=pool)


def test_absent_classes() -> None:
    z, keys, logits, label = batch_of(21)
    label = torch.tensor([0, 8, 15])[label % 3]
    logits[:, [c for c in range(21) if c not in (0, 8, 15)]] -= 20  # never predicted either
    assert agree(setting_of(21), [(z, keys, logits, label)] * 3)[-1] > 0


def test_one_class_only() -> None:
    """Anchors of one class alone have nothing to be told from: 0, with a graph."""
    z, keys, logits, label = batch_of(5)
    logits[:, 2] += 50
    assert agree(setting_of(5), [(z, keys, logits, torch.full_like(label, 2))] * 2) == [0, 0]


def test_nothing_reliable() -> None:
    """Equal entropies everywhere: only labeled pixels give anchors, all unlabeled ones are keys."""
    z, keys, logits, label = batch_of(5)
    logits[2:] = logits[2, :, :1, :1]
    assert agree(setting_of(5), [(z, keys, logits, label)] * 2)[-1] > 0


def test_every_label_ignored() -> None:
    z, keys, logits, label = batch_of(5)
    assert agree(setting_of(5), [(z, keys, logits, torch.full_like(label, IGNORE))] * 2)[-1] > 0


def test_no_anchor_at_all() -> None:
    """A teacher that is sure of nothing: 0, with a graph, while the queues fill."""
    z, keys, logits, label = batch_of(5)
    assert agree(setting_of(5), [(z, keys, 0.01 * logits, label)] * 2) == [0, 0]


def test_padding_of_the_unlabeled_images() -> None:
    z, keys, logits, label = batch_of(5)
    valid = torch.ones_like(label, dtype=torch.bool)
    valid[:, :, 3:] = False
    assert agree(setting_of(5), [(z, keys, logits, label)] * 3, valid)[-1] > 0


def test_everything_ignored() -> None:
    """No label, and the unlabeled images all padding: no key, no anchor, 0 with a graph."""
    z, keys, logits, label = batch_of(5)
    nothing = torch.zeros_like(label, dtype=torch.bool)
    ignored = torch.full_like(label, IGNORE)
    assert agree(setting_of(5), [(z, keys, logits, ignored)] * 2, nothing) == [0, 0]
