"""The gated CRF loss: by hand, then against a loop over all pairs of pixels, value and gradient."""

import math

import pytest
import torch
from torch import Tensor

from bench.ops.gated_crf import gated_crf, gated_crf_of_logits

KERNEL = {"radius": 5, "width": 6.0, "colour": 0.1}


def one_hot(*labels: int, classes: int = 3) -> Tensor:
    """1 C 1 W."""
    return torch.eye(classes)[list(labels)].T[None, :, None]


@pytest.mark.parametrize(
    ("labels", "expected"), [((1, 1), 0.0), ((0, 1), 0.986207), ((2, 0), math.exp(-1 / 72))]
)
def test_two_pixels_of_one_colour(labels: tuple[int, int], expected: float) -> None:
    """Equal predictions cost nothing; different ones exp(-1 / 72) for each of the two, over two pixels."""
    image, gate = torch.full((1, 3, 1, 2), 0.4), torch.ones(1, 1, 2, dtype=torch.bool)
    assert gated_crf(one_hot(*labels), image, gate, **KERNEL).item() == pytest.approx(expected, abs=1e-6)


def test_colour_and_gate_by_hand() -> None:
    image = torch.zeros(1, 3, 1, 3)
    image[..., 1] = 0.1  # of all three channels: 3 squares of one standard deviation
    gate = torch.tensor([[[True, True, False]]])
    found = gated_crf(one_hot(0, 1, 2), image, gate, **KERNEL).item()
    assert found == pytest.approx(2 * math.exp(-1 / 72 - 3 / 2) / 2)
    assert gated_crf(one_hot(0, 1, 2), image, gate & False, **KERNEL).item() == 0


def by_loop(p: Tensor, image: Tensor, gate: Tensor, radius: int, width: float, colour: float) -> Tensor:
    """Sum over all pairs of two loops."""
    total = p.new_zeros(())
    _, _, height, columns = p.shape
    cells = [(y, x) for y in range(height) for x in range(columns)]
    for b in range(len(p)):
        for y, x in cells:
            for v, u in cells:
                near = abs(v - y) <= radius and abs(u - x) <= radius and (v, u) != (y, x)
                if near and gate[b, y, x] and gate[b, v, u]:
                    far = ((y - v) ** 2 + (x - u) ** 2) / width**2
                    unlike = (image[b, :, y, x] - image[b, :, v, u]).square().sum() / colour**2
                    total = total + (-0.5 * (far + unlike)).exp() * (1 - p[b, :, y, x] @ p[b, :, v, u])
    return total / gate.sum()


@pytest.mark.parametrize(("shape", "radius"), [((2, 4, 5, 6), 2), ((1, 3, 1, 7), 5), ((2, 2, 6, 3), 9)])
def test_against_a_double_loop(shape: tuple[int, int, int, int], radius: int) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    image = torch.rand(shape[0], 3, *shape[2:], generator=generator, dtype=torch.float64)
    gate = torch.rand(shape[0], *shape[2:], generator=generator) < 0.7
    found, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    kernel = {"radius": radius, "width": 2.0, "colour": 0.5}
    loss = gated_crf(found.softmax(1), image, gate, **kernel)
    other = by_loop(expected.softmax(1), image, gate, **kernel)
    loss.backward()
    other.backward()
    assert loss.item() == pytest.approx(other.item(), rel=1e-10) and loss > 0
    torch.testing.assert_close(found.grad, expected.grad)


def test_cells_are_means_and_closed_where_a_pixel_is() -> None:
    """Four cells of two by two pixels; one of them has a pixel of padding."""
    generator = torch.Generator().manual_seed(0)
    logits, image = (torch.randn(1, 3, 4, 5, generator=generator) for _ in range(2))
    gate = torch.ones(1, 4, 5, dtype=torch.bool)
    gate[0, 3, 3] = False
    small = [x[..., :4].unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)) for x in (logits.softmax(1), image)]
    cells = torch.tensor([[[True, True], [True, False]]])
    found = gated_crf_of_logits(logits, image, gate, stride=2, **KERNEL)
    assert found.item() == pytest.approx(gated_crf(*small, cells, **KERNEL).item(), rel=1e-5)
    assert gated_crf_of_logits(logits, image, gate, stride=99, **KERNEL).item() == 0, "one cell has no pair"


def test_a_cell_with_one_closed_pixel_counts_for_nothing() -> None:
    """Whatever is predicted or seen there: the loss is that of the cells that are open, over their number."""
    torch.manual_seed(0)
    logits, image = torch.randn(1, 3, 4, 6), torch.rand(1, 3, 4, 6)
    gate = torch.ones(1, 4, 6, dtype=torch.bool)
    gate[0, 3, 5] = False  # of the last cell
    found = gated_crf_of_logits(logits, image, gate, stride=2, **KERNEL)
    logits[..., 2:, 4:], image[..., 2:, 4:] = torch.randn(1, 3, 2, 2), torch.rand(1, 3, 2, 2)
    assert gated_crf_of_logits(logits, image, gate, stride=2, **KERNEL).item() == pytest.approx(found.item())
    opened = gated_crf_of_logits(logits, image, gate | True, stride=2, **KERNEL)
    assert opened.item() != pytest.approx(found.item())
