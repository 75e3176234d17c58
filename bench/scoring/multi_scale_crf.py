"""Scores finished runs again: probabilities averaged over scales and flips, then refined by the dense CRF.

Beside the raw score of result.json these are the numbers that papers report. Windows are those of the run's
protocol; tags are not looked at. Both numbers come of one pass: this process predicts while others refine.

C classes of the data set, H W the size of an image.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from bench.contents.changes import listed
from bench.contents.code import by_room, classes_of, code_files
from bench.contents.files import sha256
from bench.contents.gather import scored_digest
from bench.contract import Dataset
from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError, resolved
from bench.machine import Stop, allow_tf32, choose_device, cores, stoppable
from bench.networks import exported
from bench.ops import crf
from bench.plan import data_root as root_of
from bench.pool import Pool
from bench.records.folders import RunFolder
from bench.records.schema import Rescored, Result, Scores
from bench.scoring.ahead import read_ahead
from bench.scoring.alone import network_is_all, refuse_other_counts
from bench.scoring.inference import Inference, confusion, score, to_tensor
from bench.settings import registry
from bench.settings.plain_yaml import read_yaml
from bench.settings.reading import suggest, validate
from bench.settings.schema import Protocol, RunConfig
from datasets import rasters
from datasets.splits import find_split

# DeepLab's range; beyond it predictions of single scales are too poor to help a mean.
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
# Classes below this probability in every pixel are dropped before the CRF: its time grows with their number.
PRESENT = 0.05
PENDING = 2  # images per process that wait for the CRF: none idles, and the probabilities of few are held


@dataclass(frozen=True)
class RescoreSettings:
    """How runs are scored again. Raises ConfigError for what cannot be."""

    scales: tuple[float, ...] = SCALES
    flip: bool = True
    crf: str | None = "deeplab"  # a name of bench.ops.crf.PUBLISHED; None: multi-scale alone
    half_size: bool = False  # the CRF at half the size

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale < float("inf") for scale in self.scales):
            raise ConfigError("--scales: give one or more positive factors, as in 0.5,1.")
        if self.crf is not None and self.crf not in crf.PUBLISHED:
            raise ConfigError(suggest(self.crf, [*crf.PUBLISHED, "none"], "--crf"))

    def entries(self, scores: Scores) -> list[Rescored]:
        """Return the numbers of these settings, as far as they are there."""
        wanted: list[tuple[Any, ...]] = [("multi_scale", self.scales, self.flip, None, False)]
        if self.crf is not None:
            wanted.append(("crf", self.scales, self.flip, self.crf, self.half_size))
        found = {entry.setting: entry for entry in scores.entries}
        return [found[setting] for setting in wanted if setting in found]

    def met(self, scores: Scores) -> bool:
        return len(self.entries(scores)) == (1 if self.crf is None else 2)


class Digests(TypedDict):
    """Digests of all that numbers are made of, as `Rescored` keeps them."""

    code: dict[str, str]
    weights: str
    scored: str


@dataclass(frozen=True)
class FinishedRun:
    """A finished run and what it takes to predict with it again."""

    folder: RunFolder
    result: Result
    protocol: Protocol
    dataset: Dataset
    ids: tuple[str, ...]  # the scored list
    made_of: Digests  # by now


def rescore(
    paths: Iterable[Path],
    settings: RescoreSettings,
    data_root: Path | None,
    display: Display,
    device: str = "auto",
    jobs: int | None = None,
    overwrite: bool = False,
) -> list[tuple[Result, Scores]]:
    """Score finished runs again and write it beside them; what has been scored so before is skipped.

    Args:
        paths: Folders of runs. All are checked before the first is scored.
        settings: Numbers of other settings stay beside these.
        data_root: Default: the one the run was made with.
        display: Shows progress.
        device: Of the prediction; the CRF runs on the CPU.
        jobs: Processes of the CRF, the cores by default. No number depends on it.
        overwrite: Score again what has been.

    Returns:
        The result of each run, and its numbers of these settings.

    Raises:
        ConfigError: The predictor of a run is more than its network, as that of `classifier`, or the CRF is
            not installed; or what is there is of other code or weights, and is not to be overwritten.
        DataError: A folder holds no finished run, weights or images are missing or others than they were.
        Interrupted: Stopped by a signal; the runs before the one it was at are done.
    """
    runs = [open_run(path, data_root) for path in dict.fromkeys(resolved(path) for path in paths)]
    jobs, device = jobs or cores(), choose_device(device)
    check_crf(settings.crf)
    pool = Pool(jobs, crf.likeliest)  # it starts no process before the first image
    done = []
    for run in runs if not overwrite else ():
        _refuse_changed(run, settings.entries(run.folder.read_scores()))
    try:
        with stoppable() as stop:
            for run in runs:
                scores = run.folder.read_scores()
                if settings.met(scores) and not overwrite:  # claims nothing: its disk may be read-only
                    display.say(f"already scored: {run.folder.path}")
                else:
                    with run.folder.claimed():
                        new = _score(run, settings, pool, jobs, device, display, stop)
                        given = {entry.setting for entry in new}
                        there = run.folder.read_scores().entries
                        kept = [entry for entry in there if entry.setting not in given]
                        scores = Scores(entries=[*kept, *new])
                        run.folder.write_scores(scores)
                done.append((run.result, Scores(entries=settings.entries(scores))))
    except BrokenProcessPool as error:
        raise BenchError(
            "a process of the CRF was killed, for want of memory perhaps; give fewer with --jobs."
        ) from error
    finally:
        display.stop()
        pool.close()
    return done


def open_run(path: Path, data_root: Path | None) -> FinishedRun:
    """Open a finished run. Refuse one whose scored list or predictor is not what its weights file says.

    Raises ConfigError or DataError.
    """
    folder = RunFolder(path)
    result = folder.read_result()
    if result is None:
        raise DataError(f"{path} holds no finished run; give the folder of one, or finish it with --resume.")
    folder.refuse_altered(result)
    if lacks := [key for key in ("protocol", "method") if key not in result.config]:
        raise DataError(f"{folder.result}: config.{lacks[0]} is missing; move it away and run it again.")
    protocol = validate(Protocol, result.config["protocol"], "protocol", folder.result)
    if data_root is None:
        given = read_yaml(folder.config) if folder.config.exists() else {}
        data_root = root_of(validate(RunConfig, given, file=folder.config))
    dataset = registry.load_dataset(result.dataset, data_root)
    dataset.channels = protocol.network.channels
    split = find_split(result.dataset, result.split, data_root, result.draw, result.scored)
    if list(dataset.classes) != result.classes or split.eval_digest != result.split_digests.get("eval"):
        raise DataError(
            f"{path}: the scored list or the classes of {result.dataset} have changed since; its numbers "
            "would not stand beside its raw score. Give the --data-root it was made with, or run it again."
        )
    if not folder.weights.exists():
        raise DataError(f"no {folder.weights}; put it back, or run it again with --overwrite.")
    exported.refuse_other(folder.weights, result.weights_file_digest)
    cls = registry.load_method(result.method)
    knobs = {key: value for key, value in result.config["method"].items() if key != "name"}
    hparams = validate(cls.HParams, knobs, "method", folder.result)
    classes = tuple(result.classes)
    own_network = cls.scored_by_network and network_is_all(cls, hparams, classes, dataset.background)
    # With a teacher of the protocol the headline is a network, whatever the method's own predictor is.
    if result.own is None and not own_network:
        raise ConfigError(
            f"{folder.path}: the predictor of {result.method} is more than its network, so it cannot be "
            "scored again from the weights alone: its raw score stands; leave this run out."
        )
    scored = scored_digest(dataset, split.eval, data_root)
    if result.contents and scored != result.contents.scored:
        raise DataError(
            f"{path}: the scored images or masks of {result.dataset} have changed since; new numbers would "
            "not stand beside its raw score. Put them back, or run it again with --overwrite."
        )
    made_of = Digests(
        code=by_room(code_files([], classes_of(dataset), seeds=False, begin=(__name__,))),
        weights=sha256(folder.weights),
        scored=scored,
    )
    return FinishedRun(folder, result, protocol, dataset, split.eval, made_of)


def _refuse_changed(run: FinishedRun, entries: Sequence[Rescored]) -> None:
    """Raise ConfigError where numbers that are there are of other code, weights or images than are here."""
    found: dict[str, None] = {}
    for entry in entries:
        code = entry.code or run.made_of["code"]
        rooms = sorted(code.keys() | run.made_of["code"].keys())
        found |= {f"the room {r}": None for r in rooms if code.get(r) != run.made_of["code"].get(r)}
        found |= {"the weights": None} if entry.weights not in (None, run.made_of["weights"]) else {}
        found |= (
            {"the scored images or masks": None} if entry.scored not in (None, run.made_of["scored"]) else {}
        )
    if found:
        raise ConfigError(
            f"{run.folder.path} has been scored again, but this has changed since: {listed([*found])}; score "
            "it once more with --overwrite."
        )


def check_crf(name: str | None) -> None:
    """Fail before the pass over the images, not at its first one. Raises ConfigError."""
    if name is not None:
        two, even = np.zeros((1, 2, 3), np.uint8), np.full((2, 1, 2), 0.5)
        try:
            crf.refine(two, even, crf.PUBLISHED[name])
        except ModuleNotFoundError as error:
            raise ConfigError(f"{error}. Or leave it out with --crf none.") from error


def _score(
    run: FinishedRun,
    settings: RescoreSettings,
    pool: Pool,
    jobs: int,
    device: str,
    display: Display,
    stop: Stop,
) -> list[Rescored]:
    allow_tf32(run.protocol.precision == "tf32")
    net = exported.read(run.folder.weights, run.result.weights_file_digest)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    raw = Inference(run.protocol.evaluation, run.protocol.crop)
    refuse_other_counts(run.folder, run.result, net, run.dataset, raw, device)
    evaluation = run.protocol.evaluation.model_copy(update={"scales": settings.scales, "flip": settings.flip})
    refinement = None
    if settings.crf is not None:
        refinement = Refinement(pool, jobs, crf.PUBLISHED[settings.crf], settings.half_size)
    display.start(f"score {run.result.method} {run.result.drawn_split} seed {run.result.seed}", len(run.ids))

    def on_image(done: int) -> None:
        display.update(done)
        stop.check()

    started = time.monotonic()
    inference = Inference(evaluation, run.protocol.crop)
    plain, refined = count(net, run.dataset, run.ids, inference, device, refinement, on_image)
    seconds = time.monotonic() - started
    shared = {"scales": settings.scales, "flip": settings.flip, "seconds": seconds, **run.made_of}
    entries = [Rescored(name="multi_scale", crf=None, half_size=False, score=score(plain), **shared)]
    if refined is not None:
        half = settings.half_size
        entries.append(Rescored(name="crf", crf=settings.crf, half_size=half, score=score(refined), **shared))
    return entries


@dataclass(frozen=True)
class Refinement:
    """The CRF of `count`: its processes, their number, and its parameters."""

    pool: Pool
    jobs: int
    parameters: crf.CrfParameters
    half_size: bool = False


@torch.no_grad()
def count(
    net: nn.Module,
    dataset: Dataset,
    ids: Sequence[str],
    inference: Inference,
    device: str,
    refinement: Refinement | None,
    on_image: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Confusion counts over all images, each C C int64 with truth in rows: of the averaged probabilities, and
    of the same after the CRF (None without one), which sees the classes that `likely` keeps."""
    classes = len(dataset.classes)
    plain, refined = (torch.zeros(classes, classes, dtype=torch.int64) for _ in range(2))
    pending: deque[tuple[Future[np.ndarray], torch.Tensor]] = deque()
    done = 0

    def collect(most: int) -> None:
        nonlocal done
        while len(pending) > most:
            future, label = pending.popleft()
            refined.add_(confusion(torch.from_numpy(future.result()), label, classes))
            done += 1
            on_image(done)

    net.eval()
    with closing(read_ahead(lambda id: (dataset.image(id), dataset.mask(id)), ids, device)) as read:
        for image, mask in read:
            label = torch.from_numpy(mask)
            on_device = to_tensor(image, device).contiguous(memory_format=torch.channels_last)
            probability = inference.probability(net, on_device)[0].cpu()
            plain += confusion(probability.argmax(0), label, classes)
            if refinement is None:
                done += 1
                on_image(done)
                continue
            present, share = likely(probability.numpy())
            how = refinement.parameters, refinement.half_size
            pending.append((refinement.pool.submit(rasters.shown(image), share, present, *how), label))
            collect(PENDING * refinement.jobs)
    collect(0)
    return plain.numpy(), None if refinement is None else refined.numpy()


def likely(probability: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Pick the classes that matter in an image: more likely than PRESENT somewhere, or else the likeliest.

    Args:
        probability: C H W float, summing to 1 over the classes.

    Returns:
        The L ids, ascending, and L H W float32: their probabilities, summing to 1 over them.
    """
    highest = probability.max((1, 2))
    shown = np.flatnonzero(highest > PRESENT)
    if not len(shown):
        shown = highest.argmax(keepdims=True)
    # The floor is the CRF's own; without it a pixel of which nothing is kept would be divided by zero.
    kept = np.maximum(probability[shown], crf.FLOOR).astype(np.float32)
    return shown.tolist(), kept / kept.sum(0)
