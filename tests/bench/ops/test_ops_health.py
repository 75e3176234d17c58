"""Figures of the truth against cases that were worked out by hand."""

from __future__ import annotations

import pytest
import torch

from bench.ops.health import accuracy

PSEUDO_LABEL = torch.tensor([[[0, 1, 2], [2, 1, 0]]])
TRUTH = torch.tensor([[[0, 1, 1], [255, 0, 0]]])


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ([[1, 1, 1], [1, 1, 1]], 3 / 5),
        ([[1, 1, 0], [1, 0, 0]], 1.0),
        ([[0, 0, 1], [0, 1, 0]], 0.0),
        ([[0, 0, 0], [1, 0, 0]], float("nan")),
        ([[0, 0, 0], [0, 0, 0]], float("nan")),
    ],
)
def test_accuracy_by_hand(where: list[list[int]], expected: float) -> None:
    value = accuracy(PSEUDO_LABEL, TRUTH, torch.tensor([where]).bool())
    assert value.shape == () and value.item() == pytest.approx(expected, nan_ok=True)


def test_a_pseudo_label_of_255_is_never_right() -> None:
    nothing = torch.full_like(TRUTH, 255)
    assert accuracy(nothing, TRUTH, torch.ones_like(TRUTH, dtype=torch.bool)) == 0
    assert accuracy(nothing, nothing, torch.ones_like(TRUTH, dtype=torch.bool)).isnan()
