"""Batches by step: a batch is a function of (seed, step) and of nothing else.

Hence a run resumes at any step without generator state, any number of workers gives the same batches, and two
methods with the same seed see the same images, crops and colours, whichever other streams they ask for.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
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

# Where the images of a stream come from. The words name random streams.
MASKS, SEEDS, TAGS, UNLABELED = "pixel", "seeds", "tags", "none"
TIMEOUT = 300  # seconds without a batch before a worker counts as stuck


class StepBatches(data.Dataset[Batch]):
    """The batch of every step.

    A stream of n ids in batches of b has n // b batches an epoch; each epoch takes them in order from a
    permutation of its own, so no id occurs twice in a batch. Decoded images are not kept: decoding is a sixth
    of the work on an image, and every worker would hold its own copy. A data set that can share them may.

    Args:
        dataset: Images and masks.
        granted: The ids that a split grants pixels, tags or nothing. Only ids under PIXEL are asked for a
            mask, unless `audit` is set.
        needs: The streams to make: PIXEL labeled, TAGS tagged, NONE unlabeled (see `Batch`).
        labeled: Batch size of the labeled and of the tagged stream.
        unlabeled: Batch size of the unlabeled stream.
        crop: Height and width of the views.
        resize: Smallest and largest factor on an image's own size.
        views: What to prepare beside the weak view, for every stream but the labeled one.
        seed: The run's seed.
        steps: Number of steps of the run.
        audit: Read the masks of the unlabeled images too, for `Batch.truth`.
        tags: The classes of each tagged image, background among them where there is one.
        seed_of: The CAM seed of a tagged image, H W uint8 as a mask; needed where the labeled stream has any.

    Raises:
        ConfigError: A list is shorter than its batch, or CutMix boxes are asked for in a batch of one.
        DataError: From an item: a mask of another size than its image, or with ids that are not classes; or,
            under `audit`, an unlabeled image without a mask.
    """

    def __init__(
        self,
        dataset: Dataset,
        granted: Mapping[Supervision, Sequence[str]],
        *,
        needs: Collection[Supervision],
        labeled: int,
        unlabeled: int,
        crop: tuple[int, int],
        resize: tuple[float, float],
        views: Views,
        seed: int,
        steps: int,
        audit: bool = False,
        tags: Mapping[str, Collection[int]] | None = None,
        seed_of: Callable[[str], np.ndarray] | None = None,
    ) -> None:
        self.dataset = dataset
        self.needs = frozenset(needs)
        self.lists, self.sizes = _lists(granted, self.needs, labeled, unlabeled)
        self.tags, self.seed_of = dict(tags or {}), seed_of
        self.crop = crop
        self.resize = resize
        self.views = views
        self.seed = seed
        self.steps = steps
        self.audit = audit
        if Supervision.NONE in self.needs and views.boxes is not None and unlabeled == 1:
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
        if Supervision.PIXEL in self.needs:
            parts["labeled"] = self._labeled(step)
        if Supervision.TAGS in self.needs:
            parts["tagged"] = self._tagged(step)
        if Supervision.NONE in self.needs:
            parts["unlabeled"], parts["truth"] = self._unlabeled(step)
        return Batch(**parts)

    def _ids(self, source: str, step: int) -> tuple[str, ...]:
        ids, size = self.lists[source], self.sizes[source]
        epoch, batch = divmod(step, len(ids) // size)
        order = numpy_for(self.seed, "order", source, epoch).permutation(len(ids))
        return tuple(ids[i] for i in order[batch * size : (batch + 1) * size])

    def _geometry(self, source: str, step: int, index: int, image: np.ndarray) -> Geometry:
        generator = numpy_for(self.seed, "weak", source, step, index)
        return draw_geometry(generator, (image.shape[0], image.shape[1]), self.crop, self.resize)

    def _labeled(self, step: int) -> Stream:
        """Images with masks, then images with seeds."""
        ids, images, labels, valid = [], [], [], []
        for source, read in ((MASKS, self.dataset.mask), (SEEDS, self._seed)):
            for index, id in enumerate(self._ids(source, step) if source in self.lists else ()):
                image = self.dataset.image(id)
                geometry = self._geometry(source, step, index, image)
                ids.append(id)
                images.append(to_tensor(weak_image(image, geometry)))
                labels.append(self._label(id, read(id), geometry))
                valid.append(torch.from_numpy(weak_valid(geometry)))
        return Stream(
            tuple(ids),
            torch.stack(images),
            torch.stack(valid),
            label=torch.stack(labels).long(),
            tags=self._tag_rows(ids),
        )

    def _seed(self, id: str) -> np.ndarray:
        if self.seed_of is None:
            raise DataError(f"{id} is granted tags and there are no CAM seeds; make them with `cam-seeds`.")
        return self.seed_of(id)

    def _tagged(self, step: int) -> Stream:
        ids = self._ids(TAGS, step)
        images, valid, rows = [], [], []
        for index, id in enumerate(ids):
            image = self.dataset.image(id)
            geometry = self._geometry(TAGS, step, index, image)
            images.append(to_tensor(weak_image(image, geometry)))
            valid.append(torch.from_numpy(weak_valid(geometry)))
            rows.append(self.tags[id] if id in self.tags else self._classes_in(id))
        return Stream(ids, torch.stack(images), torch.stack(valid), tags=self._rows(rows))

    def _classes_in(self, id: str) -> list[int]:
        """Of an image that is granted its pixels, background among them where there is one."""
        classes = set(self.dataset.mask(id).tobytes()) - {IGNORE}  # uint8: a byte is a class id
        return sorted(classes if self.dataset.background is None else classes | {self.dataset.background})

    def _tag_rows(self, ids: Sequence[str]) -> Tensor:
        """B C bool: the tags, and every class where none are granted."""
        return self._rows([self.tags.get(id, range(len(self.dataset.classes))) for id in ids])

    def _rows(self, classes: Sequence[Collection[int]]) -> Tensor:
        rows = torch.zeros(len(classes), len(self.dataset.classes), dtype=torch.bool)
        for row, present in zip(rows, classes, strict=True):
            row[list(present)] = True
        return rows

    def _label(self, id: str, mask: np.ndarray, geometry: Geometry) -> Tensor:
        """H W uint8: the mask or seed in the weak view."""
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
        ids = self._ids(UNLABELED, step)
        images, valid, truth = [], [], []
        strong: list[list[Tensor]] = [[] for _ in range(self.views.strong)]
        for index, id in enumerate(ids):
            image = self.dataset.image(id)
            geometry = self._geometry(UNLABELED, step, index, image)
            weak = weak_image(image, geometry)
            images.append(to_tensor(weak))
            valid.append(torch.from_numpy(weak_valid(geometry)))
            for view, copies in enumerate(strong):
                generator = numpy_for(self.seed, "strong", UNLABELED, step, index, view)
                copies.append(to_tensor(strong_view(weak, generator)))
            if self.audit:
                truth.append(self._withheld(id, geometry))
        unlabeled = Stream(
            ids,
            torch.stack(images),
            torch.stack(valid),
            strong=tuple(torch.stack(copies) for copies in strong),
            boxes=self._boxes(step),
            tags=self._tag_rows(ids),
        )
        return unlabeled, torch.stack(truth).long() if self.audit else None

    def _withheld(self, id: str, geometry: Geometry) -> Tensor:
        try:
            return self._label(id, self.dataset.mask(id), geometry)
        except DataError as error:
            raise DataError(
                f"{error} This image is not granted its pixels in the split: only an audit (machine.audit) "
                "opens its mask."
            ) from error

    def _boxes(self, step: int) -> tuple[Tensor, ...]:
        rule = self.views.boxes
        if rule is None:
            return ()
        masks = [
            [
                draw_box(numpy_for(self.seed, "box", UNLABELED, step, index, view), self.crop, rule)
                for index in range(self.sizes[UNLABELED])
            ]
            for view in range(max(1, self.views.strong))
        ]
        return tuple(torch.from_numpy(np.stack(boxes)) for boxes in masks)


def _lists(
    granted: Mapping[Supervision, Sequence[str]], needs: Collection[Supervision], labeled: int, unlabeled: int
) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """The ids of each source, and how many of them a batch takes."""
    pixel, tags, none = (tuple(granted.get(kind, ())) for kind in Supervision)
    lists: dict[str, tuple[str, ...]] = {}
    sizes: dict[str, int] = {}

    def take(source: str, stream: str, ids: Sequence[str], size: int, share: int = 1) -> None:
        """`share`: the batch is so many times what it takes of this source."""
        if size < 1:
            raise ConfigError(
                f"The {stream} batch is {size}: set it with `--set protocol.batch.{stream}=1` or more."
            )
        if len(ids) < size:
            raise ConfigError(
                f"The {stream} stream has {len(ids)} ids, too few for a batch of {size}: choose another "
                f"split or a smaller batch, e.g. `--set protocol.batch.{stream}={share * max(1, len(ids))}`."
            )
        lists[source], sizes[source] = tuple(ids), size

    if Supervision.PIXEL in needs:
        # The masks are few and right, the seeds many and rough: drawn from one list, masks would be rare.
        masks = labeled if not tags else 0 if not pixel else (labeled + 1) // 2
        if pixel and tags and labeled < 2:
            raise ConfigError(
                "Masks and seeds share the labeled batch: use `--set protocol.batch.labeled=2` or more."
            )
        share = 2 if pixel and tags else 1
        if masks or not tags:
            take(MASKS, "labeled", pixel, masks, share)
        if tags:
            take(SEEDS, "labeled", tags, labeled - masks, share)
    if Supervision.TAGS in needs:
        take(TAGS, "labeled", (*pixel, *tags), labeled)
    if Supervision.NONE in needs:
        take(UNLABELED, "unlabeled", (*none, *tags), unlabeled)
    return lists, sizes


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
