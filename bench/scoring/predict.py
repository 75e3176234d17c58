"""Predicts the images of a folder: read, predict in windows and batches, refine, write.

One thread reads ahead and one writes, so that the network never waits for a disk. C classes, H W the size of
an image, h w that of a window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError
from bench.labels import IGNORE
from bench.machine import Stop, cores, keep_freed_memory, stoppable
from bench.ops import crf
from bench.pool import Pool
from bench.scoring.inference import Inference, to_tensor
from bench.scoring.memory import Memory
from bench.scoring.model import Model
from bench.scoring.multi_scale_crf import check_crf, likely
from bench.scoring.predictions import (
    PredictionFolder,
    PredictionSummary,
    as_npz,
    as_overlay,
    as_png,
    images_below,
    said_of_gone,
)
from bench.scoring.tiles import Tile, tiles
from bench.settings.reading import suggest
from datasets.decode import LARGEST, DecodedImage, image_size, open_image
from datasets.rasters import COLOUR, Raster, said_of_shown, shown

KEPT = 2**25  # bytes: with 64 MiB, 6 megapixels take 0.1 GiB more than --memory
LARGE = 2**24  # pixels: a larger image is neither read ahead nor held until it is written
AHEAD = 2  # images read ahead, and images that wait to be written
MOST_AT_ONCE = 16  # windows in a batch, on a GPU


@dataclass(frozen=True)
class PredictSettings:
    """Settings for what is made of each image. Raises ConfigError for a value that cannot be."""

    scales: tuple[float, ...] | None = None  # None: as the run was scored
    flip: bool | None = None
    crf: str | None = None  # a name of bench.ops.crf.PUBLISHED
    confidence: float | None = None  # below it, a pixel of the confident mask is 255
    probabilities: bool = False
    memory: float | None = None  # GiB; None: see `bench.scoring.memory`

    def __post_init__(self) -> None:
        if self.scales is not None and not (self.scales and all(0.05 <= scale <= 8 for scale in self.scales)):
            raise ConfigError("--scales: give factors from 0.05 to 8 with commas between, as in 0.5,1.")
        if self.crf is not None and self.crf not in crf.PUBLISHED:
            raise ConfigError(suggest(self.crf, [*crf.PUBLISHED, "none"], "--crf"))
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise ConfigError(f"--confidence {self.confidence}: give a probability, from 0 to 1.")
        if self.memory is not None and not 0 < self.memory < float("inf"):
            raise ConfigError(f"--memory {self.memory}: give GiB, such as 4.")

    @property
    def kinds(self) -> list[str]:
        on_request = {"confident": self.confidence is not None, "probabilities": self.probabilities}
        return ["masks", "overlays", *(kind for kind, asked in on_request.items() if asked)]

    def inference(self, own: Inference) -> Inference:
        given = {"scales": self.scales, "flip": self.flip}
        given = {key: value for key, value in given.items() if value is not None}
        return Inference(own.settings.model_copy(update=given), own.crop)


@dataclass(frozen=True)
class Done:
    """Outcome for the images of a folder: made, known before, or failed."""

    table: Path  # predictions.csv
    made: int
    known: int  # were there before
    failed: Mapping[str, str]  # sentences, by id


@dataclass
class ImageInProgress:
    """An image on its way: what is known of it so far."""

    id: str
    path: Path
    picture: DecodedImage | Raster
    open_tiles: int
    ids: np.ndarray  # H W uint8
    confident: np.ndarray | None
    probability: np.ndarray | None  # C H W float16
    counts: np.ndarray  # C int64, pixels of each class
    sure: float = 0.0  # sum of the confidence over the pixels

    def put(self, tile: Tile, ids: np.ndarray, probability: np.ndarray, confidence: float | None) -> None:
        """Keep the inner part of a window.

        Args:
            ids: h w uint8.
            probability: C h w, or h w: that of the class that `ids` says.
        """
        rows, columns = tile.kept_inside
        there = tile.kept_rows, tile.kept_columns
        kept = ids[rows, columns]
        of_class = probability if probability.ndim == 2 else np.take_along_axis(probability, ids[None], 0)[0]
        sure = of_class[rows, columns]
        self.ids[there] = kept
        self.counts += np.bincount(
            kept.ravel(), minlength=len(self.counts)
        )  # by window: it makes int64 of all
        self.sure += float(sure.sum(dtype=np.float64))
        if self.confident is not None:
            self.confident[there] = np.where(sure >= confidence, kept, IGNORE)
        if self.probability is not None:
            self.probability[(slice(None), *there)] = probability[:, rows, columns]
        self.open_tiles -= 1


def predict(
    model: Model,
    images: Path,
    to: Path,
    settings: PredictSettings,
    display: Display,
    jobs: int | None = None,
    overwrite: bool = False,
) -> Done:
    """Predict all images below a folder and write what is made of them; what is done already is left.

    Args:
        to: PredictionFolder that is written to, see `bench.scoring.predictions`.
        jobs: Processes of the CRF, the cores by default.
        overwrite: Remove predictions by other weights or settings, and those of images that are gone.

    Raises:
        ConfigError: A folder, or a setting, that cannot be; nothing is written then.
        DataError: There is no image, or a file of others stands where one would be written.
        Interrupted: Stopped by a signal; the same call goes on.
    """
    found = images_below(images)
    check_crf(settings.crf)
    folder = PredictionFolder(to, settings.kinds, model.classes, model.palette)
    made_by = {"weights": model.digest, "settings": _recorded(model, settings)}
    folder.check(images, made_by, list(found), overwrite)
    if gone := folder.begin(made_by, list(found), overwrite):
        display.say(said_of_gone(gone))
    known = folder.done(found)
    if known:
        display.say(f"{len(known)} of {len(found)} images are predicted already")
    open_ = {id: path for id, path in found.items() if id not in known}
    if model.channels != COLOUR:
        display.say(f"overlays{' and the CRF' * bool(settings.crf)} show {said_of_shown(model.channels)}")
    run = _Run(model, settings, folder, display, jobs or cores())
    try:
        with stoppable() as stop:
            failed = run.all(open_, stop)
    except BrokenProcessPool as error:
        raise BenchError(
            "a process of the CRF was killed, for want of memory perhaps; give fewer --jobs."
        ) from error
    finally:
        run.close()
        display.stop()
        table = folder.close(list(found))
    return Done(table, len(open_) - len(failed), len(known), failed)


def _recorded(model: Model, settings: PredictSettings) -> dict[str, object]:
    """Return the settings that decide what is written.

    The memory is not among them: it decides the windows alone, which change the files by a hair.
    """
    inference = settings.inference(model.inference)
    evaluation = inference.settings.model_dump(mode="json", exclude={"every"})
    return {
        **evaluation,
        "crop": list(inference.crop),
        "crf": settings.crf,
        "confidence": settings.confidence,
        "probabilities": settings.probabilities,
    }


@dataclass
class _Run:
    """One pass over the images."""

    model: Model
    settings: PredictSettings
    folder: PredictionFolder
    display: Display
    jobs: int
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._inference = self.settings.inference(self.model.inference)
        self._memory = Memory(self.model, self.settings.memory, max(self._inference.settings.scales))
        if self.model.device == "cpu":
            keep_freed_memory(KEPT)
        self._reader, self._writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._refiner = Pool(self.jobs, crf.likeliest)  # starts no process before the first image
        self._writing: deque[Future[None]] = deque()
        self._said_of_windows = False
        self._finished = 0

    def close(self) -> None:
        for pool in (self._reader, self._writer):
            pool.shutdown(cancel_futures=True)
        self._refiner.close()

    def all(self, images: Mapping[str, Path], stop: Stop) -> dict[str, str]:
        self.display.start("predict", len(images))
        pending: deque[tuple[ImageInProgress, Tile, Future[np.ndarray] | np.ndarray, np.ndarray]] = deque()

        def deliver(most: int) -> None:
            while len(pending) > most:
                work, tile, ids, probability = pending.popleft()
                labels = ids.result() if isinstance(ids, Future) else ids
                work.put(tile, labels.astype(np.uint8), probability, self.settings.confidence)
                if not work.open_tiles:
                    self._write(work)

        wait = 2 * self.jobs if self.settings.crf else 0
        for batch in self._batches(images):
            stop.check()
            pending.extend(self._predicted(batch))
            batch.clear()
            deliver(wait)
        deliver(0)
        while self._writing:
            self._settle()
        return self.failed

    # Reading ------------------------------------------------------------------------------------------------

    def _batches(self, images: Mapping[str, Path]) -> Iterator[list[tuple[ImageInProgress, Tile]]]:
        """Windows of one size, as many as the device takes at once."""
        held: list[tuple[ImageInProgress, Tile]] = []
        for work in self._works(images):
            try:
                most = self._most(work)
            except ConfigError as error:  # this image is too large; others may not be
                self._fail(work.id, f"{work.path}: {error}")
                continue
            found = list(tiles(work.picture.size, most))
            work.open_tiles = len(found)
            if len(found) > 1:
                self._say_windows(work, found)
            at_once = self._at_once(found[0], most)
            for tile in found:
                if held and held[0][1].size != tile.size:
                    yield held
                    held = []
                held.append((work, tile))
                if len(held) >= at_once:
                    yield held
                    held = []
            del work  # or a large one would be held while the next is read
        if held:
            yield held

    def _works(self, images: Mapping[str, Path]) -> Iterator[ImageInProgress]:
        """Yield the work on each image in order, read ahead. What cannot be read is kept in `failed`."""
        waiting = deque(images.items())
        reading: deque[tuple[str, Path, Future[DecodedImage | Raster]]] = deque()
        while waiting or reading:
            while waiting and len(reading) < AHEAD:
                if reading and _pixels(waiting[0][1]) > LARGE:
                    break
                id, path = waiting.popleft()
                reading.append((id, path, self._reader.submit(open_image, path, self.model.channels)))
            id, path, future = reading.popleft()
            try:
                picture = future.result()
            except DataError as error:
                self._fail(id, str(error))
                continue
            del future
            work = self._work(id, path, picture)
            del picture
            yield work
            del work

    def _work(self, id: str, path: Path, picture: DecodedImage | Raster) -> ImageInProgress:
        size, settings, classes = picture.size, self.settings, len(self.model.classes)
        return ImageInProgress(
            id,
            path,
            picture,
            open_tiles=0,
            ids=np.empty(size, np.uint8),
            confident=None if settings.confidence is None else np.empty(size, np.uint8),
            probability=np.empty((classes, *size), np.float16) if settings.probabilities else None,
            counts=np.zeros(classes, np.int64),
        )

    def _at_once(self, tile: Tile, most: int) -> int:
        """Windows in a batch. On a CPU, several are no faster than one by one."""
        fit = most // (tile.size[0] * tile.size[1])
        return 1 if self.model.device == "cpu" else min(max(fit, 1), MOST_AT_ONCE)

    def _most(self, work: ImageInProgress) -> int:
        made = (work.ids, work.confident, work.probability)
        arrays = sum(array.nbytes for array in made if array is not None)
        return self._memory.pixels(work.picture.size, arrays, work.picture.channels)

    def _say_windows(self, work: ImageInProgress, found: Sequence[Tile]) -> None:
        if self._said_of_windows:
            return
        self._said_of_windows = True
        (height, width), (rows, columns) = work.picture.size, found[0].size
        self.display.say(
            f"{work.path.name}, {width}x{height} pixels, does not fit into {self._memory.said}: it is "
            f"predicted in {len(found)} overlapping windows of {columns}x{rows}, and so are others like it; "
            "--memory changes the bound"
        )

    # Predicting ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _predicted(
        self, batch: Sequence[tuple[ImageInProgress, Tile]]
    ) -> Iterator[tuple[ImageInProgress, Tile, Future[np.ndarray] | np.ndarray, np.ndarray]]:
        seen = [work.picture.part(tile.rows, tile.columns) for work, tile in batch]
        tensors = [to_tensor(one) for one in seen]
        # Of one, a copy in another order, which would be put back for the network: 2 ms of a small image.
        image = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        image = image.to(self.model.device, memory_format=torch.channels_last)
        if self.settings.crf is None and not self.settings.probabilities:
            ids, highest = self._inference.likeliest(self.model.net, image)  # C times less to move
            for (work, tile), one, sure in zip(batch, ids.to(torch.uint8).cpu(), highest.cpu(), strict=True):
                yield work, tile, one.numpy(), sure.numpy()
            return
        probability = self._inference.probability(self.model.net, image)
        for (work, tile), part, one in zip(batch, seen, probability.cpu().numpy(), strict=True):
            if self.settings.crf is None:
                yield work, tile, one.argmax(0), one
                continue
            classes, share = likely(one)
            parameters = crf.PUBLISHED[self.settings.crf]
            yield work, tile, self._refiner.submit(shown(part), share, classes, parameters, False), one

    # Writing ------------------------------------------------------------------------------------------------

    def _write(self, work: ImageInProgress) -> None:
        large = work.ids.size > LARGE
        self._writing.append(self._writer.submit(self._written, replace(work)))
        work.picture = None  # type: ignore[assignment]  # the copy holds it until it is written
        while len(self._writing) > (0 if large else AHEAD):
            self._settle()

    def _fail(self, id: str, why: str) -> None:
        self.failed[id] = why
        self.display.say(f"failed: {why}")
        self._count()

    def _settle(self) -> None:
        self._writing.popleft().result()
        self._count()

    def _count(self) -> None:
        self._finished += 1
        self.display.update(self._finished)

    def _written(self, work: ImageInProgress) -> None:
        palette = self.folder.palette
        files = {
            "masks": partial(as_png, work.ids, palette),
            "overlays": partial(as_overlay, work.picture, work.ids, palette),
        }
        if work.confident is not None:
            files["confident"] = partial(as_png, work.confident, palette)
        if work.probability is not None:
            files["probabilities"] = partial(as_npz, work.probability)
        shares = tuple((work.counts / work.ids.size).tolist())
        row = PredictionSummary(work.id, *work.picture.size, shares, work.sure / work.ids.size)
        self.folder.add(work.path, files, row)


def _pixels(path: Path) -> int:
    """Of an image, by its header; 0 of one that cannot be read, which reading says."""
    with suppress(DataError):
        height, width = image_size(path, LARGEST)
        return height * width
    return 0
