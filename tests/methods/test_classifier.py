"""The tag classifier, by activations that are written into the image."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pointwise import BITS, Pointwise, at
from torch import Tensor

from bench.contract import Batch, Stream, Task
from bench.ops.losses import cross_entropy
from bench.settings.base import Knobs
from methods.classifier import Classifier


def build(classes: int, background: int | None) -> Any:
    task = Task(tuple(f"class {c}" for c in range(classes)), cross_entropy, background)
    return Classifier(Pointwise(classes), task, Knobs()).train()


def tagged(activation: Tensor, tags: list[list[bool]], valid: Tensor | None = None) -> Batch:
    """Images whose pixels hold the activations: B C H W."""
    rest = activation.new_zeros(len(activation), BITS, *activation.shape[-2:])
    inside = torch.ones_like(activation[:, 0], dtype=torch.bool) if valid is None else valid
    ids = tuple(str(i) for i in range(len(activation)))
    return Batch(tagged=Stream(ids, torch.cat([activation, rest], 1), inside, tags=torch.tensor(tags)))


@pytest.mark.parametrize(
    ("logits", "tags", "loss"),
    [([0.0, 0.0], [True, False], math.log(2)), ([2.0, -1.0], [True, False], 0.220095)],
)
def test_multi_label_soft_margin(logits: list[float], tags: list[bool], loss: float) -> None:
    """The mean over two pixels is the logit, whatever the pixels are."""
    one = torch.tensor(logits).view(1, 2, 1, 1)
    activation = torch.cat([one - 3, one + 3], 3)
    terms = build(2, None).losses(tagged(activation, [tags]), at())
    assert terms["tags"].item() == pytest.approx(loss, abs=1e-6)


def test_background_is_no_tag() -> None:
    """It is in every image and has no map: neither its activation nor its tag is in the loss."""
    method = build(3, 0)
    activation = torch.tensor([[[[5.0]], [[2.0]], [[-1.0]]]])
    for row in ([True, True, False], [False, True, False]):
        assert method.losses(tagged(activation, [row]), at())["tags"].item() == pytest.approx(
            0.220095, abs=1e-6
        )
    assert method.notes["tags_found"] == 1 and method.notes["tags_invented"] == 0


def test_padding_has_no_part_in_the_mean() -> None:
    activation = torch.tensor([[[[2.0, 90.0]], [[-1.0, 90.0]]]])
    valid = torch.tensor([[[True, False]]])
    terms = build(2, None).losses(tagged(activation, [[True, False]], valid), at())
    assert terms["tags"].item() == pytest.approx(0.220095, abs=1e-6)
    nowhere = build(2, None).losses(tagged(activation, [[True, False]], ~valid & valid), at())
    assert nowhere["tags"].item() == pytest.approx(math.log(2))


def test_it_is_scored_by_its_maps() -> None:
    """Background where no class is positive; without a background class, the strongest one."""
    activation = torch.tensor([[[[9.0, 9.0]], [[1.0, -1.0]], [[0.5, -0.5]]]])
    image = torch.cat([activation, activation.new_zeros(1, BITS, 1, 2)], 1)
    assert build(3, 0).predictor()(image).argmax(1).flatten().tolist() == [1, 0]
    assert build(3, None).predictor()(image).argmax(1).flatten().tolist() == [0, 0]
    assert build(3, 2).predictor()(image[:, [1, 2, 0, *range(3, 3 + BITS)]])[0, 2].eq(0).all()
