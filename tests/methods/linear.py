"""A linear network whose logits are written into its images, and batches for it, for equations by hand.

logits = local * image + context * (mean of the image). With `local` alone an image is its own logits, so the
tests write down the probabilities they want; with `context` alone a prediction depends on the whole image, as
a real network's does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.contract import Batch, Features, Method, Progress, Stream, Task
from bench.ops.losses import cross_entropy

TASK = Task(("a", "b", "c"), cross_entropy, new_net=lambda: Linear())  # type: ignore[arg-type,return-value]
AT = Progress(step=0, total=10, seed=0)
Pixel = tuple[float, float, float]
Rows = Sequence[Sequence[Pixel]]  # images of one row of pixels, each pixel its three probabilities

A, B, C = (0.9, 0.06, 0.04), (0.06, 0.9, 0.04), (0.04, 0.06, 0.9)  # sure of one class
UNSURE: Pixel = (0.5, 0.3, 0.2)
EVEN: Pixel = (1 / 3, 1 / 3, 1 / 3)


class Linear(nn.Module):
    def __init__(self, local: float = 1.0, context: float = 0.0) -> None:
        super().__init__()
        self.local = nn.Parameter(torch.tensor(local, dtype=torch.float64))
        self.context = nn.Parameter(torch.tensor(context, dtype=torch.float64))

    def set(self, local: float, context: float = 0.0) -> None:
        with torch.no_grad():
            self.local.fill_(local)
            self.context.fill_(context)

    def forward(self, image: Tensor) -> Tensor:
        return self.local * image + self.context * image.mean((2, 3), keepdim=True)

    def encode(self, image: Tensor) -> Features:
        return Features((image,))

    def decode(self, features: Features, image: Tensor) -> Tensor:
        return self(features.maps[0])

    def represent(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self(image), self(image)

    def project(self, hidden: Tensor) -> Tensor:
        return hidden

    def upsample(self, logits: Tensor, image: Tensor) -> Tensor:
        return logits

    def downsample(self, label: Tensor, features: Tensor, fill: int) -> Tensor:
        return label


def image(rows: Rows) -> Tensor:
    """Probabilities -> B 3 1 W, the logarithms: the local network's softmax gives the probabilities back."""
    return torch.tensor(rows, dtype=torch.float64).log().permute(0, 2, 1)[:, :, None]


def mask(rows: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)[:, None]


def everywhere(rows: Rows) -> Tensor:
    return torch.ones(len(rows), 1, len(rows[0]), dtype=torch.bool)


LABELED_LOSS = -(math.log(0.9) + math.log(0.5)) / 2


def labeled(width: int) -> Stream:
    """Three images of one colour: -log .9 and -log .5; the third has no label."""
    label = torch.tensor([0, 0, 255]).view(3, 1, 1).expand(3, 1, width)
    rows = [[A] * width, [UNSURE] * width, [B] * width]
    return Stream(("l0", "l1", "l2"), image(rows), everywhere(rows), label=label)


def unlabeled(
    weak: Rows,
    strong: Rows | None = None,
    box: Sequence[Sequence[int]] | None = None,
    valid: Sequence[Sequence[int]] | None = None,
) -> Batch:
    stream = Stream(
        tuple(f"u{i}" for i in range(len(weak))),
        image(weak),
        everywhere(weak) if valid is None else mask(valid),
        strong=() if strong is None else (image(strong),),
        boxes=() if box is None else (mask(box),),
    )
    return Batch(labeled=labeled(len(weak[0])), unlabeled=stream)


def build(cls: type[Method], **knobs: float) -> Method:
    return cls(Linear(), TASK, cls.HParams(**knobs))


def values(method: Method, batch: Batch) -> dict[str, float]:
    return {name: term.item() for name, term in method.losses(batch, AT).items()}


def squares(left: Pixel, right: Pixel) -> float:
    return sum((a - b) ** 2 for a, b in zip(left, right, strict=True))


def sharpened(pixel: Pixel, by: float) -> Pixel:
    """The softmax of `by` times the logits."""
    a, b, c = (p**by for p in pixel)
    return a / (a + b + c), b / (a + b + c), c / (a + b + c)


def labeled_loss(local: float) -> float:
    """Of a student whose logits are `local` times the image."""
    return -(math.log(sharpened(A, local)[0]) + math.log(sharpened(UNSURE, local)[0])) / 2
