"""Class weights and the Dice term of the loss on labeled pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.contract import IGNORE
from bench.ops.losses import cross_entropy, ohem_cross_entropy, soft_dice_loss, weighted_cross_entropy
from bench.testing.waits import watched

WEIGHT = torch.tensor([0.5, 1.0, 3.0, 2.0])


def batch(classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits 2 C 6 5, and labels without the last class, some of them 255."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 6, 5, generator=generator, requires_grad=True)
    label = torch.randint(classes - 1, (2, 6, 5), generator=generator)
    label[0, 0] = IGNORE
    return logits, label


def of_two_pixels(p: float, q: float) -> tuple[Tensor, Tensor]:
    """Two classes, two pixels: the first is 0 and has it with p, the second is 1 and has it with q."""
    probability = torch.tensor([[[[p, 1 - q]], [[1 - p, q]]]])  # 1 2 1 2
    return probability.log(), torch.tensor([[[0, 1]]])


# Class weights --------------------------------------------------------------------------------------------


def test_weighted_cross_entropy_by_hand() -> None:
    found = weighted_cross_entropy(*of_two_pixels(0.5, 0.25), torch.tensor([1.0, 3.0]))
    assert found.item() == pytest.approx((math.log(2) + 3 * math.log(4)) / 4)


def test_weighted_cross_entropy_is_torchs_own_mean_and_knows_no_scale() -> None:
    logits, label = batch()
    found = weighted_cross_entropy(logits, label, WEIGHT)
    torch.testing.assert_close(found, F.cross_entropy(logits, label, WEIGHT, ignore_index=IGNORE))
    torch.testing.assert_close(found, weighted_cross_entropy(logits, label, 7 * WEIGHT))
    torch.testing.assert_close(
        cross_entropy(logits, label), weighted_cross_entropy(logits, label, torch.full((4,), 2.0))
    )


def test_ohem_weighs_the_hard_pixels_and_chooses_them_as_before() -> None:
    logits, label = batch()
    pixel = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")
    hard = (torch.exp(-pixel) <= 0.2) & (label != IGNORE)
    assert 0 < hard.sum() < (label != IGNORE).sum()
    kept = label.where(hard, IGNORE)
    found = ohem_cross_entropy(logits, label, 0.2, 1, weight=WEIGHT)
    torch.testing.assert_close(found, F.cross_entropy(logits, kept, WEIGHT, ignore_index=IGNORE))


# Dice -----------------------------------------------------------------------------------------------------


def test_dice_by_hand() -> None:
    """Of class 0: 2 * .5 / (.5 + .75 + 1); of class 1: 2 * .25 / (.5 + .25 + 1)."""
    found = soft_dice_loss(*of_two_pixels(0.5, 0.25))
    assert found.item() == pytest.approx(1 - (1 / 2.25 + 0.5 / 1.75) / 2)


def test_dice_of_a_sure_prediction_is_0_or_1() -> None:
    sure = torch.tensor([[[[30.0, -30.0]], [[-30.0, 30.0]]]])
    assert soft_dice_loss(sure, torch.tensor([[[0, 1]]])).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice_loss(sure, torch.tensor([[[1, 0]]])).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_dice_is_that_of_segmentation_models_over_the_classes_that_occur(seed: int) -> None:
    """Theirs divides by all four classes, of which three occur."""
    logits, label = batch(seed=seed)
    theirs = smp.losses.DiceLoss("multiclass", from_logits=True, ignore_index=IGNORE)(logits, label)
    torch.testing.assert_close(soft_dice_loss(logits, label), theirs * 4 / 3, rtol=1e-4, atol=1e-5)


# Both -----------------------------------------------------------------------------------------------------

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "weights": lambda logits, label: weighted_cross_entropy(logits, label, WEIGHT),
    "ohem": lambda logits, label: ohem_cross_entropy(logits, label, 0.7, 5, weight=WEIGHT),
    "dice": soft_dice_loss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_pixel_without_label_has_no_gradient_and_nothing_waits(name: str) -> None:
    logits, label = batch()
    with watched() as waits:
        LOSSES[name](logits, label).backward()
    assert not waits
    assert logits.grad is not None
    reached = logits.grad.abs().sum(1) > 0
    assert not reached[label == IGNORE].any() and reached[label != IGNORE].any()


@pytest.mark.parametrize("name", LOSSES)
def test_without_a_label_it_is_0_with_a_graph(name: str) -> None:
    logits, label = batch()
    found = LOSSES[name](logits, torch.full_like(label, IGNORE))
    found.backward()
    assert found == 0 and logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_right(name: str) -> None:
    logits, label = batch()
    wide = logits.detach().double().requires_grad_()
    if name == "dice":  # it computes in float32
        loss = LOSSES[name](logits, label)
        loss.backward()
        step, direction = 1e-2, torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
        there, back = (soft_dice_loss(logits.detach() + s * direction, label) for s in (step, -step))
        assert logits.grad is not None
        slope = (logits.grad * direction).sum()
        assert slope.item() == pytest.approx(((there - back) / (2 * step)).item(), rel=0.02, abs=1e-4)
        return
    weight = WEIGHT.double()
    compute = {"weights": lambda x: weighted_cross_entropy(x, label, weight),
               "ohem": lambda x: ohem_cross_entropy(x, label, 1.0, 5, weight=weight)}[name]  # fmt: skip
    assert torch.autograd.gradcheck(compute, (wide,))
