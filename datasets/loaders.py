"""Batches by step: a batch is a function of (seed, step) and of nothing else.

Hence a run resumes at any step without generator state, any number of workers gives the same batches, and two
methods with the same seed see the same images, crops and colours, whichever other streams they ask for.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from bench.contract import IGNORE, Batch, Dataset, Stream, Supervision, Views
from bench.errors import BenchError, ConfigError, DataError
from bench.randomness import generator_for, numpy_for
from datasets.views import (
    Geometry,
    draw_box,
    draw_geometry,
    strong_view,
    to_tensor,
    weak_image,
    weak_label,
    weak_valid,
)

__all__ = ["StepBatches", "iterate", "loader", "worker_failures"]

TIMEOUT = 300  # seconds without a batch before a worker counts as stuck


class StepBatches(data.Dataset[Batch]):
    """The batch of every step.

    A stream of n ids in batches of b has n // b batches an epoch; each epoch takes them in order from a
    permutation of its own, so no id occurs twice in a batch. Decoded images are not kept: decoding is a sixth
    of the work on an image, and every worker would hold its own copy. A data set that can share them may.

    Args:
        dataset: Images and masks.
        ids_by_supervision: The ids of each stream that the method needs. Only ids under PIXEL are asked for
            a mask, unless `audit` is set.
        labeled: Batch size of the labeled stream.
        unlabeled: Batch size of the unlabeled stream.
        crop: Height and width of the views.
        resize: Smallest and largest factor on an image's own size.
        views: What to prepare beside the weak view, for every stream but the labeled one.
        seed: The run's seed.
        steps: Number of steps of the run.
        audit: Read the masks of the unlabeled images too, for `Batch.truth`.

    Raises:
        ConfigError: A list is shorter than its batch, CutMix boxes are asked for in a batch of one, or image
            tags without CAM seeds.
        DataError: From an item: a mask of another size than its image, or with ids that are not classes; or,
            under `audit`, an unlabeled image without a mask.
    """

    def __init__(
        self,
        dataset: Dataset,
        ids_by_supervision: Mapping[Supervision, Sequence[str]],
        *,
        labeled: int,
        unlabeled: int,
        crop: tuple[int, int],
        resize: tuple[float, float],
        views: Views,
        seed: int,
        steps: int,
        audit: bool = False,
    ) -> None:
        if Supervision.TAGS in ids_by_supervision:
            raise ConfigError(
                "Batches of tagged images need CAM seeds, which are not supported yet: use a method without "
                "tags."
            )
        self.dataset = dataset
        self.lists = {supervision: tuple(ids) for supervision, ids in ids_by_supervision.items()}
        self.sizes = {Supervision.PIXEL: labeled, Supervision.NONE: unlabeled}
        self.crop = crop
        self.resize = resize
        self.views = views
        self.seed = seed
        self.steps = steps
        self.audit = audit
        for supervision, ids in self.lists.items():
            stream = "labeled" if supervision is Supervision.PIXEL else "unlabeled"
            size = self.sizes[supervision]
            if size < 1:
                raise ConfigError(
                    f"The {stream} batch is {size}: set it with `--set protocol.batch.{stream}=1` or more."
                )
            if len(ids) < size:
                raise ConfigError(
                    f"The {stream} stream has {len(ids)} ids, too few for a batch of {size}: choose another "
                    f"split or a smaller batch, e.g. `--set protocol.batch.{stream}={max(1, len(ids))}`."
                )
        if Supervision.NONE in self.lists and views.boxes is not None and unlabeled == 1:
            raise ConfigError(
                "CutMix mixes an image with the next of its batch, in a batch of one with itself: use "
                "`--set protocol.batch.unlabeled=2` or more."
            )

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        parts: dict[str, Any] = {}
        if Supervision.PIXEL in self.lists:
            parts["labeled"] = self._labeled(step)
        if Supervision.NONE in self.lists:
            parts["unlabeled"], parts["truth"] = self._unlabeled(step)
        return Batch(**parts)

    def _ids(self, stream: Supervision, step: int) -> tuple[str, ...]:
        ids, size = self.lists[stream], self.sizes[stream]
        epoch, batch = divmod(step, len(ids) // size)
        order = numpy_for(self.seed, "order", stream.value, epoch).permutation(len(ids))
        return tuple(ids[i] for i in order[batch * size : (batch + 1) * size])

    def _geometry(self, stream: Supervision, step: int, index: int, image: np.ndarray) -> Geometry:
        generator = numpy_for(self.seed, "weak", stream.value, step, index)
        return draw_geometry(generator, (image.shape[0], image.shape[1]), self.crop, self.resize)

    def _labeled(self, step: int) -> Stream:
        ids = self._ids(Supervision.PIXEL, step)
        images, labels, valid = [], [], []
        for index, id in enumerate(ids):
            image = self.dataset.image(id)
            geometry = self._geometry(Supervision.PIXEL, step, index, image)
            images.append(to_tensor(weak_image(image, geometry)))
            labels.append(self._label(id, geometry))
            valid.append(torch.from_numpy(weak_valid(geometry)))
        return Stream(ids, torch.stack(images), torch.stack(valid), label=torch.stack(labels).long())

    def _label(self, id: str, geometry: Geometry) -> Tensor:
        """H W uint8: the mask in the weak view."""
        mask = self.dataset.mask(id)
        if mask.shape != geometry.size:
            raise DataError(
                f"The mask of {id} in {self.dataset.name} is {mask.shape[0]}x{mask.shape[1]}, its image "
                f"{geometry.size[0]}x{geometry.size[1]}: replace one so that they match."
            )
        label = weak_label(mask, geometry)
        # Here, because a per-pixel cross-entropy on CUDA does not notice an id out of range.
        wrong = label[(label >= len(self.dataset.classes)) & (label != IGNORE)]
        if wrong.size:
            raise DataError(
                f"The mask of {id} in {self.dataset.name} holds {wrong[0]}, but class ids end at "
                f"{len(self.dataset.classes) - 1} and only {IGNORE} may stand for no label: correct the mask."
            )
        return torch.from_numpy(label)

    def _unlabeled(self, step: int) -> tuple[Stream, Tensor | None]:
        """The stream, and for an audit the labels withheld from it."""
        stream = Supervision.NONE
        ids = self._ids(stream, step)
        images, valid, truth = [], [], []
        strong: list[list[Tensor]] = [[] for _ in range(self.views.strong)]
        for index, id in enumerate(ids):
            image = self.dataset.image(id)
            geometry = self._geometry(stream, step, index, image)
            weak = weak_image(image, geometry)
            images.append(to_tensor(weak))
            valid.append(torch.from_numpy(weak_valid(geometry)))
            for view, copies in enumerate(strong):
                generator = numpy_for(self.seed, "strong", stream.value, step, index, view)
                copies.append(to_tensor(strong_view(weak, generator)))
            if self.audit:
                truth.append(self._withheld(id, geometry))
        unlabeled = Stream(
            ids,
            torch.stack(images),
            torch.stack(valid),
            strong=tuple(torch.stack(copies) for copies in strong),
            boxes=self._boxes(stream, step),
        )
        return unlabeled, torch.stack(truth).long() if self.audit else None

    def _withheld(self, id: str, geometry: Geometry) -> Tensor:
        try:
            return self._label(id, geometry)
        except DataError as error:
            raise DataError(
                f"{error} This image is unlabeled in the split: only an audit (machine.audit) opens its mask."
            ) from error

    def _boxes(self, stream: Supervision, step: int) -> tuple[Tensor, ...]:
        rule = self.views.boxes
        if rule is None:
            return ()
        masks = [
            [
                draw_box(numpy_for(self.seed, "box", stream.value, step, index, view), self.crop, rule)
                for index in range(self.sizes[stream])
            ]
            for view in range(max(1, self.views.strong))
        ]
        return tuple(torch.from_numpy(np.stack(boxes)) for boxes in masks)


def loader(batches: StepBatches, start: int, workers: int) -> data.DataLoader[Batch]:
    """The batches from step `start` on, by `workers` processes (0: by this one), pinned if there is CUDA."""
    return data.DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, batches.steps),
        num_workers=workers,
        worker_init_fn=_init_worker,
        timeout=TIMEOUT if workers else 0,
        pin_memory=torch.cuda.is_available(),
        generator=generator_for(batches.seed, "loader"),  # or an iterator draws from torch's global stream
    )


def _init_worker(_: int) -> None:
    # Ctrl-C, and a scheduler's SIGTERM to all processes, are for the main process, which ends its step first.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _spare_once)
    torch.set_num_threads(1)


def _spare_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a worker that is stuck can still be ended


def iterate(batches: StepBatches, start: int, workers: int) -> Generator[Batch, None, None]:
    """The batches from step `start` on.

    Raises:
        BenchError: A worker died or is stuck; or what it raised itself, with its own type and message.
    """
    with worker_failures():
        iterator = iter(loader(batches, start, workers))
        try:
            yield from iterator
        finally:
            # torch leaves a failed iterator in a reference cycle; collected in a worker forked later, it
            # would complain of processes that are not its own and wait for them.
            if workers:
                iterator._shutdown_workers()  # type: ignore[attr-defined]


@contextmanager
def worker_failures() -> Iterator[None]:
    """Turns what torch makes of a worker's end or error into a BenchError of one sentence.

    A loop over `iterate` should stand in this block as a whole: torch reports a killed worker from a signal
    handler, which interrupts whatever the main process is doing, not only its wait for a batch.
    """
    try:
        yield
    except BenchError as error:
        # torch raises a worker's error anew with the worker's traceback as its message; ours ends that text.
        name = f"{type(error).__module__}.{type(error).__qualname__}: "
        _, found, message = str(error).rpartition(name)
        if not found:
            raise
        raise type(error)(message.strip()) from error
    except (RuntimeError, OSError, EOFError) as error:
        text = str(error)
        if "DataLoader timed out" in text:
            raise BenchError(
                f"No batch arrived within {TIMEOUT} s: a loading worker is stuck. Check that the data can be "
                "read, or load without workers (`--set machine.workers=0`)."
            ) from error
        # A dead worker is a RuntimeError or, if it died while handing over a batch, a failed connection.
        dead = "DataLoader worker (pid" in text or "Pin memory thread exited" in text
        if dead or (isinstance(error, ConnectionError | EOFError) and not text.startswith("Caught ")):
            raise BenchError(
                "A loading worker was killed, most often for lack of memory or of room in /dev/shm: use "
                f"fewer workers (`--set machine.workers=...`) and resume the run. Torch said: {text}"
            ) from error
        raise
