"""Batches by step: a batch is a function of (seed, step) and of nothing else.

Hence a run resumes at any step without generator state, any number of workers gives the same batches, and two
methods with the same seed see the same images, crops and colours, whichever other streams they ask for.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from bench.contract import ABSENT, EQUAL_COLOURS, IGNORE, Batch, Dataset, Stream, Supervision, Views
from bench.errors import BenchError, ConfigError, DataError
from bench.labels import SPARSE
from bench.pool import end_with_parent
from bench.randomness import generator_for, numpy_for
from datasets.colours import strong_view
from datasets.decoded import DecodedOnce
from datasets.splits import MASKS, SEEDS, TAGS, UNLABELED, Split, batch_sources
from datasets.streams import SparseStreams
from datasets.views import (
    Geometry,
    View,
    draw_box,
    draw_geometry,
    stacked,
    weak_image,
    weak_label,
    weak_valid,
)

if TYPE_CHECKING:
    from bench.settings.schema import Protocol

__all__ = ["StepBatches", "iterate", "loader", "worker_failures"]

RARE_TRIES = 10  # crops that are drawn for a rare class, at most (DAFormer, Hoyer et al., CVPR 2022)
RARE_SHARE = 0.005  # of a crop: so much of a rare class is enough (about that of DAFormer)
TIMEOUT = 300  # seconds without a batch before a worker counts as stuck
Image = TypeVar("Image")


class StepBatches(data.Dataset[Batch]):
    """Makes the batch of every step, its images and labels as uint8: see `Batch.on`.

    A stream of n ids in batches of b has n // b batches an epoch. Each epoch takes them in order from its own
    permutation, so no id occurs twice in a batch. Images and masks are decoded once, while there is room.

    Args:
        dataset: Images and masks.
        split: Which ids grant pixels, tags or nothing. Only ids that grant pixels are asked for a mask,
            unless `audit` is set.
        protocol: Its `crop` (height, width), `resize` (smallest and largest factor on an image's own size),
            `batch` (sizes of the labeled and unlabeled streams), `steps`, `views` and `rare_crops`.
        needs: The streams to make: "pixel" labeled, "tags" tagged, "none" unlabeled (see `Batch`).
        views: What the method asks for beside the weak view. Equal views of the protocol replace it.
        seed: The run's seed.
        audit: Read the masks of the unlabeled images too, for `Batch.truth`.
        tags: The classes of each tagged image, e.g. {"a": (0, 3)}, background among them where there is one.
        rare: The rare classes, the rarest first, for the protocol's `rare_crops`.
        seed_of: Reads the CAM seed of a tagged image, H W uint8 as a mask; needed where a labeled stream has
            tagged images.
        label_of: Reads the pseudo-label of an unlabeled image, in the same way; None without rounds.
        rank, ranks: Which part of each stream to make, of how many equal ones. No view depends on it. See
            `bench.plan.refuse_unequal`.
        sparse: The points, strokes and boxes that the split grants; None where it grants none.

    Raises:
        ConfigError: See `batch_sources`; or CutMix boxes are asked for in a batch of one.
        DataError: From an item: a mask of another size than its image, or with ids that are not classes; or,
            under `audit`, an unlabeled image without a mask.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        protocol: Protocol,
        *,
        needs: Collection[str],
        views: Views,
        seed: int,
        audit: bool = False,
        tags: Mapping[str, Collection[int]] | None = None,
        rare: Sequence[int] = (),
        seed_of: Callable[[str], np.ndarray] | None = None,
        label_of: Callable[[str], np.ndarray] | None = None,
        rank: int = 0,
        ranks: int = 1,
        sparse: SparseStreams | None = None,
    ) -> None:
        self.dataset = dataset
        self.needs = frozenset(needs)
        unlabeled = protocol.batch.unlabeled
        self.sources = batch_sources(split, self.needs, protocol.batch.labeled, unlabeled)
        self.decoded = DecodedOnce(dataset, {id for source in self.sources.values() for id in source.ids})
        self.tags, self.seed_of, self.label_of = dict(tags or {}), seed_of, label_of
        self.sparse = sparse
        self.tags |= {} if sparse is None else sparse.tags
        self.rare_crops, self.rare = protocol.rare_crops, tuple(rare)
        self.crop, self.resize, self.steps = protocol.crop, protocol.resize, protocol.steps
        self.views = views if protocol.views == "published" else views.equal(protocol.views == "equal")
        self.seed = seed
        self.audit = audit
        self.rank, self.ranks = rank, ranks
        if Supervision.NONE in self.needs and self.views.boxes is not None and unlabeled == 1:
            raise ConfigError(
                "CutMix mixes an image with the next of its batch, in a batch of one with itself: use "
                "`--set protocol.batch.unlabeled=2` or more."
            )

    def __len__(self) -> int:
        return self.steps

    def _own(self, images: Sequence[Image]) -> Sequence[Image]:
        """Of the images of a whole stream, those that this rank makes."""
        size = len(images) // self.ranks
        return images[self.rank * size : (self.rank + 1) * size]

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
        ids, size = self.sources[source].ids, self.sources[source].size
        epoch, batch = divmod(step, len(ids) // size)
        order = numpy_for(self.seed, "order", source, epoch).permutation(len(ids))
        return tuple(ids[i] for i in order[batch * size : (batch + 1) * size])

    def _geometry(self, source: str, step: int, index: int, image: np.ndarray) -> Geometry:
        generator = numpy_for(self.seed, "weak", source, step, index)
        return draw_geometry(generator, (image.shape[0], image.shape[1]), self.crop, self.resize)

    def _strong(self, view: View, source: str, step: int, index: int, number: int = 0) -> View:
        generator = numpy_for(self.seed, "strong", source, step, index, number)
        return strong_view(view, generator, EQUAL_COLOURS if source in (MASKS, SEEDS) else self.views.recipe)

    def _labeled(self, step: int) -> Stream:
        """Make the labeled stream: images with masks, then images with seeds."""
        ids, views, labels, valid, geometries = [], [], [], [], []
        of = {MASKS: self.decoded.mask, SEEDS: self._seed}
        of |= {} if self.sparse is None else dict.fromkeys(SPARSE, self.sparse.label)
        whole = [
            (source, index, id)
            for source in of
            for index, id in enumerate(self._ids(source, step) if source in self.sources else ())
        ]
        for source, index, id in self._own(whole):
            image, mask = self.decoded.image(id), of[source](id)
            geometry = self._geometry(source, step, index, image)
            label = self._label(id, mask, geometry)
            if self.rare_crops:
                geometry = self._rare_geometry(source, step, index, mask, geometry)
                label = self._label(id, mask, geometry)
            ids.append(id)
            geometries.append(geometry)
            view = weak_image(image, geometry)
            views.append(self._strong(view, source, step, index) if self.views.colours else view)
            labels.append(label)
            valid.append(torch.from_numpy(weak_valid(geometry)))
        return Stream(
            tuple(ids),
            stacked(views),
            torch.stack(valid),
            label=torch.stack(labels),
            tags=self._tag_rows(ids),
            **self._sparse(ids, geometries),
        )

    def _sparse(self, ids: Sequence[str], geometries: Sequence[Geometry]) -> dict[str, Any]:
        return {} if self.sparse is None else self.sparse.fields(ids, geometries)

    def _rare_geometry(
        self, source: str, step: int, index: int, mask: np.ndarray, first: Geometry
    ) -> Geometry:
        """Draw the crop of a labeled image again, with the protocol's probability, until it holds enough of
        the rarest class of the image's mask; the crop with the most of it where none has enough. Only a class
        that is rare in the split counts: the first crop stays where the image has none."""
        generator = numpy_for(self.seed, "rare crop", source, step, index)
        if generator.random() >= self.rare_crops:
            return first
        wanted = next((label for label in self.rare if (mask == label).any()), None)
        if wanted is None:
            return first
        enough = RARE_SHARE * self.crop[0] * self.crop[1]
        best, most = first, int((weak_label(mask, first) == wanted).sum())
        for _ in range(RARE_TRIES):
            if most >= enough:
                break
            other = draw_geometry(generator, first.size, self.crop, self.resize)
            pixels = int((weak_label(mask, other) == wanted).sum())
            if pixels > most:
                best, most = other, pixels
        return best

    def _seed(self, id: str) -> np.ndarray:
        if self.seed_of is None:
            raise DataError(f"{id} is granted tags and there are no CAM seeds; make them with `cam-seeds`.")
        return self.seed_of(id)

    def _tagged(self, step: int) -> Stream:
        views, valid, rows = [], [], []
        own = self._own(list(enumerate(self._ids(TAGS, step))))
        for index, id in own:
            image = self.decoded.image(id)
            geometry = self._geometry(TAGS, step, index, image)
            views.append(weak_image(image, geometry))
            valid.append(torch.from_numpy(weak_valid(geometry)))
            rows.append(self.tags[id] if id in self.tags else self._classes_in(id))
        ids = tuple(id for _, id in own)
        return Stream(ids, stacked(views), torch.stack(valid), tags=self._rows(rows))

    def _classes_in(self, id: str) -> list[int]:
        """Read the classes off a granted mask; background is one of them where the data set has one."""
        classes = set(self.decoded.mask(id).tobytes()) - {IGNORE}  # uint8: a byte is a class id
        return sorted(classes if self.dataset.background is None else classes | {self.dataset.background})

    def _tag_rows(self, ids: Sequence[str]) -> Tensor:
        """Give the tags as B C bool; an image without granted tags has every class."""
        return self._rows([self.tags.get(id, range(len(self.dataset.classes))) for id in ids])

    def _rows(self, classes: Sequence[Collection[int]]) -> Tensor:
        rows = torch.zeros(len(classes), len(self.dataset.classes), dtype=torch.bool)
        for row, present in zip(rows, classes, strict=True):
            row[list(present)] = True
        return rows

    def _label(self, id: str, mask: np.ndarray, geometry: Geometry) -> Tensor:
        """Cut the mask or seed to the weak view, H W uint8."""
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
        """Make the unlabeled stream, and for an audit the labels withheld from it, B H W."""
        own = self._own(list(enumerate(self._ids(UNLABELED, step))))
        ids = tuple(id for _, id in own)
        views, valid, truth, geometries = [], [], [], []
        labels: list[Tensor] = []
        strong: list[list[View]] = [[] for _ in range(self.views.strong)]
        for index, id in own:
            image = self.decoded.image(id)
            geometry = self._geometry(UNLABELED, step, index, image)
            weak = weak_image(image, geometry)
            views.append(weak)
            inside = weak_valid(geometry)
            if self.sparse is not None and (unmarked := self.sparse.unmarked(id, geometry)) is not None:
                inside &= unmarked
            valid.append(torch.from_numpy(inside))
            geometries.append(geometry)
            for view, copies in enumerate(strong):
                copies.append(self._strong(weak, UNLABELED, step, index, view))
            if self.label_of is not None:
                labels.append(self._label(id, self.label_of(id), geometry))
            if self.audit:
                truth.append(self._withheld(id, geometry))
        unlabeled = Stream(
            ids,
            stacked(views),
            torch.stack(valid),
            label=torch.stack(labels) if labels else ABSENT,
            strong=tuple(map(stacked, strong)),
            boxes=self._boxes(step),
            tags=self._tag_rows(ids),
            **self._sparse(ids, geometries),
        )
        return unlabeled, torch.stack(truth) if self.audit else None

    def _withheld(self, id: str, geometry: Geometry) -> Tensor:
        try:
            return self._label(id, self.decoded.mask(id), geometry)
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
                for index in self._own(range(self.sources[UNLABELED].size))
            ]
            for view in range(max(1, self.views.strong))
        ]
        return tuple(torch.from_numpy(np.stack(boxes)) for boxes in masks)


def loader(batches: StepBatches, start: int, workers: int, pin: bool = False) -> data.DataLoader[Batch]:
    """Load the batches from step `start` on by `workers` processes (0: this one).

    Args:
        pin: Into memory that a GPU reads by itself. Opens that GPU, so not for a run on the CPU.
    """
    return data.DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, batches.steps),
        num_workers=workers,
        worker_init_fn=_init_worker,
        timeout=TIMEOUT if workers else 0,
        pin_memory=pin,
        generator=generator_for(batches.seed, "loader"),  # or an iterator draws from torch's global stream
    )


def _init_worker(_: int) -> None:
    end_with_parent()
    # Workers ignore SIGINT and the first SIGTERM, so that the main process can finish its step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _spare_once)
    torch.set_num_threads(1)


def _spare_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a worker that is stuck can still be ended


def iterate(
    batches: StepBatches, start: int, workers: int, pin: bool = False
) -> Generator[Batch, None, None]:
    """Yield the batches from step `start` on; see `loader`.

    Raises:
        BenchError: A worker died or is stuck; or what it raised itself, with its own type and message.
    """
    with worker_failures():
        iterator = iter(loader(batches, start, workers, pin))
        try:
            yield from iterator
        finally:
            # torch leaves a failed iterator in a reference cycle; collected in a worker forked later, it
            # would complain of processes that are not its own and wait for them.
            if workers:
                iterator._shutdown_workers()  # type: ignore[attr-defined]


@contextmanager
def worker_failures() -> Iterator[None]:
    """Turn what torch makes of a worker's end or error into a BenchError of one sentence.

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
