"""A network whose answers are written into its images, for equations of U2PL worked out by hand.

A pixel of an image holds the logarithms of the probabilities wanted for it and then its representation. Each
is passed on by linear layers that start as the identity, so the gradients are those of a real network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from plain_contrast import contents
from torch import Tensor, nn

from bench.contract import IGNORE, Batch, Features, Method, Net, Progress, Stream, Task
from bench.ops.losses import cross_entropy
from bench.ops.queues import Queues

BITS = 10  # D
Pixel = list[float]
Rows = Sequence[Sequence[Pixel]]  # images of one row each

# Small sizes; the rest as published.
SMALL: dict[str, Any] = {
    "warmup": 0.0,
    "anchors": 8,
    "negatives": 4,
    "negative_pool": 8,
    "queue_size": 200,
    "queue_size_first": 200,
    "queue_keys": 100,
    "cutmix_probability": 1.0,
}


class Pointwise(Net):
    """logits = local * image + context * (mean of the image): with `context` alone a prediction depends on
    the whole image, as a real network's does."""

    def __init__(self, classes: int, local: float = 1.0, context: float = 0.0) -> None:
        super().__init__()
        self.representation_channels = BITS
        self.local, self.context = local, context
        size = classes + BITS
        self.encoder = nn.Conv2d(size, size, 1, bias=False)
        self.segmentation_head = nn.Conv2d(size, classes, 1, bias=False)
        self.representation_head = nn.Conv2d(size, BITS, 1, bias=False)
        self.projection = nn.Linear(BITS, BITS)
        identity = torch.eye(size)[:, :, None, None]
        with torch.no_grad():
            self.encoder.weight.copy_(identity)
            self.segmentation_head.weight.copy_(identity[:classes])
            self.representation_head.weight.copy_(identity[classes:])
            self.projection.weight.copy_(torch.eye(BITS))
            self.projection.bias.zero_()

    def forward(self, image: Tensor) -> Tensor:
        return self.represent(image)[0]

    def represent(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(image)
        seen = self.local * features + self.context * features.mean((2, 3), keepdim=True)
        return self.segmentation_head(seen), self.representation_head(features)

    def encode(self, image: Tensor) -> Features:
        return Features((self.encoder(image),))

    def decode(self, features: Features, image: Tensor) -> Tensor:
        (seen,) = features.maps
        return self.segmentation_head(self.local * seen + self.context * seen.mean((2, 3), keepdim=True))

    def project(self, hidden: Tensor) -> Tensor:
        return self.projection(hidden)

    def activate(self, image: Tensor) -> Tensor:
        return self.segmentation_head(self.encoder(image))

    def upsample(self, logits: Tensor, image: Tensor) -> Tensor:
        return logits

    def downsample(self, label: Tensor, features: Tensor, fill: int) -> Tensor:
        return label


def build(cls: type[Method], classes: int, **knobs: Any) -> Any:
    given = {**SMALL, **knobs}
    names = tuple(f"class {c}" for c in range(classes))
    return cls(Pointwise(classes), Task(names, cross_entropy), cls.HParams(**given)).train()


def at(step: int = 0, total: int = 1000, seed: int = 0) -> Progress:
    return Progress(step, total, seed)


# Pixels ---------------------------------------------------------------------------------------------------


def code(number: int) -> list[float]:
    """A representation whose signs are the number's bits: a key in a queue tells which pixel it was."""
    return [1.0 if number >> bit & 1 else -1.0 for bit in range(BITS)]


def pixel(probability: Sequence[float], z: int | Sequence[float]) -> Pixel:
    """`z`: a number to be coded, or a vector, filled up with zeros."""
    vector = code(z) if isinstance(z, int) else [*z, *[0.0] * (BITS - len(z))]
    return [math.log(max(p, 1e-12)) for p in probability] + vector


def sure(label: int, classes: int, confidence: float = 0.9) -> list[float]:
    """`confidence` for one class, the rest in equal parts for the others."""
    rest = (1 - confidence) / (classes - 1)
    return [confidence if c == label else rest for c in range(classes)]


def falling(classes: int) -> list[float]:
    """A probability that falls from class to class: class c has rank c."""
    weights = range(classes, 0, -1)
    return [weight / sum(weights) for weight in weights]


def image(rows: Rows) -> Tensor:
    """B (C + D) 1 W."""
    return torch.tensor(rows, dtype=torch.float32).permute(0, 2, 1)[:, :, None]


def labeled(rows: Rows, label: Sequence[Sequence[int]]) -> Stream:
    target = torch.tensor(label)[:, None]
    names = tuple(f"l{i}" for i in range(len(rows)))
    return Stream(names, image(rows), torch.ones_like(target, dtype=torch.bool), label=target)


def unlabeled(
    rows: Rows, valid: Sequence[Sequence[int]] | None = None, box: Sequence[Sequence[int]] | None = None
) -> Stream:
    shape = (len(rows), 1, len(rows[0]))
    kept = torch.ones(shape, dtype=torch.bool) if valid is None else torch.tensor(valid).bool()[:, None]
    cut = torch.zeros(shape, dtype=torch.bool) if box is None else torch.tensor(box).bool()[:, None]
    return Stream(tuple(f"u{i}" for i in range(len(rows))), image(rows), kept, boxes=(cut,))


def nothing(classes: int, width: int) -> Stream:
    """Two unlabeled images that are all padding."""
    rows = [[pixel(sure(0, classes), 0)] * width] * 2
    return unlabeled(rows, valid=[[0] * width] * 2)


def no_labels(classes: int, width: int) -> Stream:
    """Two labeled images without a label."""
    rows = [[pixel(sure(0, classes), 0)] * width] * 2
    return labeled(rows, [[IGNORE] * width] * 2)


def batch_of(labeled: Stream | None = None, unlabeled: Stream | None = None, classes: int = 3) -> Batch:
    """A stream that is not given counts for nothing."""
    given = labeled if labeled is not None else unlabeled
    assert given is not None
    width = given.image.shape[-1]
    return Batch(
        labeled=no_labels(classes, width) if labeled is None else labeled,
        unlabeled=nothing(classes, width) if unlabeled is None else unlabeled,
    )


# Steps ----------------------------------------------------------------------------------------------------

EVEN = [1 / 3] * 3


def step(method: Method, batch: Batch, number: int = 0, total: int = 1000, seed: int = 0) -> dict[str, float]:
    return {name: term.item() for name, term in method.losses(batch, at(number, total, seed)).items()}


def contrast_gradient(method: Method, batch: Batch) -> tuple[float, Tensor]:
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


# What a method holds --------------------------------------------------------------------------------------


def queues_of(method: Method) -> Queues:
    (queues,) = (module for module in method.modules() if isinstance(module, Queues))
    return queues


def buffer_of(method: Method, name: str) -> Tensor:
    (buffer,) = (value for key, value in method.named_buffers() if key.rpartition(".")[2] == name)
    return buffer


def numbers(keys: Tensor) -> list[int]:
    return [sum(1 << bit for bit, value in enumerate(key) if value > 0) for key in keys.tolist()]


def held(method: Method, label: int) -> list[int]:
    """The numbers of the pixels in a class's queue, in order."""
    return sorted(numbers(contents(queues_of(method), label)))


def fill(method: Method, label: int, vector: Sequence[float], count: int = 8) -> None:
    """Puts `count` equal keys into the queue of one class."""
    queues = queues_of(method)
    keys = torch.zeros(len(queues.length), count, BITS)
    meant = torch.zeros(len(queues.length), count, dtype=torch.bool)
    keys[label, :, : len(vector)], meant[label] = torch.tensor(vector), True
    queues.push(queues.kept(keys), meant)


def classes_of_key(method: Method) -> list[int]:
    """The classes whose queue holds anything."""
    return queues_of(method).length.nonzero().flatten().tolist()
