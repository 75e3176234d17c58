"""The data that a method gets each step: a batch, and the streams of images in it. Part of the contract,
which passes it on.

Shapes: B images of a batch, C classes, H W crop size. Images are float in 0..1, labels int64 class ids, 255
where there is none; a loader gives both as uint8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

ABSENT: Any = None  # a stream the method did not ask for; typed Any, so that methods need no checks for None


@dataclass(frozen=True)
class Stream:
    """The images of one kind of supervision in a batch."""

    ids: tuple[str, ...]
    image: (
        Tensor  # B 3 H W, weak view; of the labeled stream coloured where the protocol or the method says so
    )
    # B H W bool, False in padding; in unlabeled images also where somebody marked points or strokes
    valid: Tensor
    # B H W: a mask, points or strokes, a CAM seed or one made of boxes; of unlabeled images the pseudo-label
    # of an earlier round, where the method has rounds; else None.
    label: Tensor = ABSENT
    tags: Tensor = ABSENT  # B C bool, classes the image may hold: its tags and background; all without tags
    # B bool, the images of which somebody labeled some pixels: 255 in `label` may there be any class that is
    # allowed. None where the split grants no points, strokes or boxes.
    sparse: Tensor = ABSENT
    # Where boxes say what a pixel may show: B H W int64, the row of `place_tags` (B S C bool) that holds the
    # classes allowed there. None where the split grants no boxes.
    place: Tensor = ABSENT
    place_tags: Tensor = ABSENT
    strong: tuple[Tensor, ...] = ()  # of B 3 H W, same geometry as image
    boxes: tuple[Tensor, ...] = ()  # of B H W bool, True where the next image of the batch shows

    @property
    def student(self) -> Tensor:
        """B 3 H W, what a student trains on: the first strong view, or the weak one where there is none. The
        protocol may have asked for it where the method did not."""
        return self.strong[0] if self.strong else self.image

    @property
    def box(self) -> Tensor | None:
        """B H W bool, the CutMix box of `student`, for `bench.ops.mixing.mix`; None where there is none."""
        return self.boxes[0] if self.boxes else None

    @property
    def allowed(self) -> Tensor:
        """The classes that each pixel may show: B C 1 1, or B C H W bool where boxes say it of places."""
        if self.place is None:
            return self.tags[:, :, None, None]
        rows = torch.arange(len(self.place), device=self.place.device)[:, None, None]
        return self.place_tags[rows, self.place.long()].permute(0, 3, 1, 2)  # B C H W

    @property
    def sets(self) -> tuple[Tensor, Tensor]:
        """The sets of classes that pixels may show, R C bool, and the row of each pixel, B H W int64."""
        number = torch.arange(len(self.valid), device=self.valid.device)[:, None, None]
        if self.place is None:
            return self.tags, number.expand_as(self.valid)
        return self.place_tags.flatten(0, 1), self.place.long() + number * self.place_tags.shape[1]


@dataclass(frozen=True)
class Batch:
    """One step's images. A stream that the method does not need is None; one that it needs is always there,
    because the harness checks `needs` against the split before the first step.

    A tagged image is in two streams: in `labeled` with its CAM seed as the mask, and in `unlabeled` with its
    tags.
    """

    # Images granted pixels, tags, points, strokes or boxes; as many of each kind where there are several.
    labeled: Stream = ABSENT
    tagged: Stream = ABSENT  # images granted tags or pixels; tags are then those of the mask
    unlabeled: Stream = ABSENT  # images not granted pixels
    truth: Tensor = ABSENT  # B H W, of the unlabeled stream; only the harness's audit sees it

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply `function` to every tensor of the batch and return the new batch, e.g. to move it to another
        device."""

        def apply(value: Any) -> Any:
            if isinstance(value, Stream):
                return replace(value, **{f.name: apply(getattr(value, f.name)) for f in fields(value)})
            if isinstance(value, tuple):
                return tuple(apply(item) for item in value)
            return function(value) if isinstance(value, Tensor) else value

        return replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields(self)})

    def on(self, device: str | torch.device) -> Batch:
        """Move the batch to a device, as a method takes it: images as floats in 0..1, labels as int64.

        A loader gives both as uint8, a sixth of the bytes on the way to a GPU, and `place` as int32; what is
        float stays as it is.
        """

        def moved(tensor: Tensor) -> Tensor:
            layout = torch.channels_last if tensor.dim() == 4 else torch.preserve_format
            tensor = tensor.to(device, memory_format=layout, non_blocking=True)
            if tensor.dtype == torch.uint8 and tensor.dim() == 4:
                return tensor.float().div_(255)
            return tensor.long() if tensor.dtype in (torch.uint8, torch.int32) else tensor

        return self.map(moved)

    def pin_memory(self) -> Batch:
        """Pin the memory of every tensor. Torch's DataLoader calls this on a batch of our own type."""
        return self.map(Tensor.pin_memory)
