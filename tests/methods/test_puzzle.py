"""Puzzle-CAM, by activations that are written into the image."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pointwise import BITS, Pointwise, at
from test_classifier import tagged
from torch import Tensor

from bench.contract import Task
from bench.ops.losses import cross_entropy
from methods.puzzle import Puzzle, quarters


def build(local: float = 1.0, context: float = 0.0, **knobs: Any) -> Any:
    task = Task(("ground", "cat", "dog"), cross_entropy, 0)
    return Puzzle(Seen(3, local, context), task, Puzzle.HParams(**knobs)).train()


class Seen(Pointwise):
    """Its activation is local * image + context * (mean of what it is shown)."""

    def activate(self, image: Tensor) -> Tensor:
        seen = self.local * image + self.context * image.mean((2, 3), keepdim=True)
        return self.segmentation_head(seen)


def test_a_network_that_sees_pixels_alone_agrees_with_its_quarters() -> None:
    torch.manual_seed(0)
    activation = torch.randn(2, 3, 4, 6)
    method = build()
    terms = method.losses(tagged(activation, [[True, True, False]] * 2), at(500, 1000))
    assert terms["consistency"].item() == 0
    assert terms["quarters"].item() == pytest.approx(terms["tags"].item())


def test_the_difference_of_the_maps_by_hand() -> None:
    """A network that answers the mean of what it is shown: cats in one quarter of four, dogs are not tagged.
    Whole: 1 everywhere; quarters: 4, 0, 0, 0. |differences| 3, 1, 1, 1, of two classes: 6 / 4 / 2."""
    activation = torch.zeros(1, 3, 4, 4)
    activation[0, 1, :2, :2] = 4.0
    activation[0, 2, 2:, 2:] = 9.0
    method = build(local=0.0, context=1.0, consistency=2.0)
    terms = method.losses(tagged(activation, [[True, True, False]]), at(500, 1000))
    assert terms["consistency"].item() == pytest.approx(2 * 6 / 4 / 2)
    logits = torch.tensor([1.0, 9 / 4])
    margin = (torch.log1p((-logits[0]).exp()) + torch.log1p(logits[1].exp())) / 2
    assert terms["tags"].item() == pytest.approx(margin.item(), rel=1e-6)
    assert terms["quarters"].item() == pytest.approx(terms["tags"].item()), "the same mean"


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (250, 0.5), (500, 1.0), (900, 1.0)])
def test_the_weight_rises_over_half_of_the_steps(step: int, share: float) -> None:
    activation = torch.zeros(1, 3, 2, 2)
    activation[0, 1, 0, 0] = 4.0
    method = build(local=0.0, context=1.0)
    batch = tagged(activation, [[True, True, False]])
    whole = method.losses(batch, at(500, 1000))["consistency"].item()
    assert method.losses(batch, at(step, 1000))["consistency"].item() == pytest.approx(share * whole)


def test_padding_has_no_part() -> None:
    activation = torch.zeros(1, 3, 2, 2)
    activation[0, 1, 0] = 4.0
    activation[:, :, 1] = 90.0
    valid = torch.tensor([[[True, True], [False, False]]])
    terms = build().losses(tagged(activation, [[True, True, False]], valid), at(500, 1000))
    expected = (math.log1p(math.exp(-4)) + math.log(2)) / 2
    assert terms["tags"].item() == terms["quarters"].item() == pytest.approx(expected)


def test_the_quarters_of_an_odd_map_leave_its_last_row_out() -> None:
    image = torch.randn(1, 3 + BITS, 10, 6)
    pooled = torch.nn.AvgPool2d(2)
    whole = pooled(image)  # 5 x 3 cells
    joined = quarters(pooled, image, whole)
    assert joined.shape[-2:] == (4, 2) and torch.equal(joined, whole[..., :4, :2])


def test_a_map_of_one_row_has_no_quarters() -> None:
    image = torch.randn(1, 3, 2, 6)
    pooled = torch.nn.AvgPool2d(2)
    assert quarters(pooled, image, pooled(image)) is not None
    assert torch.equal(quarters(pooled, image, pooled(image)), pooled(image))
