"""From tags to CAM seeds: a classifier's run, activation maps, thresholds, refinement. Each stage is kept.

Maps are made in this process, by the network; seeds from them in a pool of processes, since the dense CRF
takes one core and holds the interpreter's lock. Both are written image by image, so that a stop loses
nothing, and an image that cannot be read does not cost the others their seeds.

C classes of the data set, K tags of an image (background not counted), H W its size, h w that of its maps.
"""

from __future__ import annotations

import importlib.util
import io
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from bench import harness, registry
from bench.config import CamSeeds
from bench.contract import IGNORE, Dataset
from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError
from bench.evaluation import to_tensor
from bench.files import write_atomic
from bench.identity import SeedPlan, data_root
from bench.models import Segmenter
from bench.ops import cam, crf
from bench.randomness import numpy_for
from bench.store import SeedFolder, SeedReport
from datasets.reading import read_mask
from datasets.tags import TagTable, load_tags

MAP_STRIDE = 4  # of the stored maps, as in IRN: finer than what a network says, a sixteenth of the pixels
SCORES = torch.arange(100) / 100  # background scores that a policy chooses from


@dataclass(frozen=True)
class Scores:
    """The two background scores of a seed, and the ids whose masks were read to choose them."""

    strict: float
    loose: float
    opened: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """One image's seed. `seconds` are those of its process; `pixels` of each class, undecided ones last."""

    dead_tags: int
    pixels: np.ndarray  # C+1 int64
    seconds: float


def make(plan: SeedPlan, display: Display, jobs: int | None = None) -> SeedReport:
    """The seeds of a split, made where they are missing. A second process waits for the first.

    Args:
        jobs: Processes that threshold and refine; default: machine.threads, else all cores. No bit of a seed
            depends on it.

    Raises:
        DataError: Tags or images are missing or invalid. Every other image has its seed by then.
        Interrupted: Stopped by a signal; what is made is kept.
    """
    config, folder = plan.classifier.config, plan.folder
    cores = config.machine.threads or os.cpu_count() or 1
    with harness.stoppable() as stop, folder.claimed(_waiter(display, stop)):
        report = folder.read_report()
        if report is not None:
            return report
        dataset = registry.load_dataset(config.dataset, data_root(config))
        _check_settings(plan.settings, dataset)
        tags = granted_tags(plan, dataset)
        harness.run(plan.classifier, display, resume=True)
        if config.machine.threads:
            torch.set_num_threads(config.machine.threads)
        try:
            started = time.monotonic()
            failures = _make_maps(plan, dataset, tags, display, stop.check)
            map_seconds = time.monotonic() - started
            sound = [id for id in tags if id not in failures]
            if failures and plan.settings.policy != "fixed":
                sound = []  # scores chosen without an image are not those of the next start
            scores = choose_scores(plan, dataset, sound)
            display.start(f"seeds ({plan.settings.refine})", len(sound))
            work = SeedMaker(dataset, folder, plan.settings, scores)
            made: dict[str, Made] = {}
            broken: dict[str, str] = {}
            with closing(in_processes(work, sound, jobs or cores)) as outcomes:
                for id, outcome in outcomes:
                    if isinstance(outcome, Made):
                        made[id] = outcome
                    else:
                        broken[id] = outcome
                    display.update(len(made) + len(broken))
                    stop.check()
            failures |= broken
        except BenchError:
            stop.check()  # a signal to all processes kills those of the pool: stopped, not failed
            raise
        finally:
            display.stop()
        if failures:
            shown = "\n".join(f"{id}: {reason}" for id, reason in sorted(failures.items())[:10])
            raise DataError(
                f"{len(failures)} of {len(tags)} images have no CAM seed; what is made of the others is kept "
                f"in {folder.path}. Mend what is named here and start again:\n{shown}"
            )
        pixels = np.sum([one.pixels for one in made.values()], axis=0)
        report = SeedReport(
            seed_id=folder.seed_id,
            classifier=plan.classifier.run_id,
            images=len(made),
            tags=sum(len(set(of) - {dataset.background}) for of in tags.values()),
            dead_tags=sum(one.dead_tags for one in made.values()),
            untagged=sum(not set(of) - {dataset.background} for of in tags.values()),
            decided=float(1 - pixels[-1] / pixels.sum()),
            class_pixels=pixels[:-1].tolist(),
            strict=scores.strict,
            loose=scores.loose,
            opened=list(scores.opened),
            map_seconds=map_seconds,
            refine_core_seconds=sum(one.seconds for one in made.values()),
            settings=plan.settings.model_dump(mode="json"),
        )
        write_atomic(folder.report, (report.model_dump_json(indent=1) + "\n").encode())
        return report


def _check_settings(settings: CamSeeds, dataset: Dataset) -> None:
    """Refuse before anything is trained what would fail for every image."""
    if settings.policy != "fixed" and dataset.background is None:
        raise ConfigError(
            f"cam_seeds.policy {settings.policy} chooses background scores, and {dataset.name} has no "
            "background class; use fixed."
        )
    if settings.refine == "crf" and not importlib.util.find_spec("pydensecrf"):
        raise ConfigError(
            "cam_seeds.refine crf needs the module pydensecrf: install the distribution pydensecrf2, which "
            "is built with g++ and up to Python 3.12, or give --set cam_seeds.refine=par."
        )


def granted_tags(plan: SeedPlan, dataset: Dataset) -> TagTable:
    """The tags as the split grants them, or as the control has shuffled them."""
    config = plan.classifier.config
    shuffled_by = config.seed if config.tags == "shuffled" else None
    return load_tags(dataset, plan.classifier.split, shuffled_by)


def _waiter(display: Display, stop: harness.Stop) -> Callable[[], None]:
    told = False

    def wait() -> None:
        nonlocal told
        if not told:
            display.say("another process makes these CAM seeds; waiting for it")
            told = True
        stop.check()
        time.sleep(0.5)

    return wait


# Maps ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def activation_maps(net: Segmenter, image: Tensor, settings: CamSeeds) -> Tensor:
    """The merged maps of an image over scales and mirror: 1 3 H W in 0..1 -> 1 C h w, 0 or more."""
    height, width = image.shape[-2:]
    seen: list[tuple[Tensor, Tensor | None]] = []
    for scale in settings.scales:
        # To whole strides: padding would be a place of its own on the maps.
        size = [max(round(side * scale / net.stride), 1) * net.stride for side in (height, width)]
        scaled = F.interpolate(image, size, mode="bilinear", antialias=True)
        if settings.flip == "none":
            seen.append((net.activate(scaled), None))
        else:
            straight, mirrored = net.activate(torch.cat([scaled, scaled.flip(-1)])).split(1)
            seen.append((straight, mirrored))
    size = [-(-side // MAP_STRIDE) for side in (height, width)]
    return cam.merge(seen, (size[0], size[1]), "max" if settings.flip == "max" else "sum")


def _make_maps(
    plan: SeedPlan, dataset: Dataset, tags: TagTable, display: Display, check: Callable[[], None]
) -> dict[str, str]:
    """Write the maps that are missing; answers the images without, and why."""
    missing = [id for id in tags if not plan.folder.map(id).exists()]
    failures: dict[str, str] = {}
    if not missing:
        return failures
    classifier = plan.classifier.config
    device = harness.choose_device(classifier.machine.device)
    net = Segmenter(classifier.protocol.network, len(dataset.classes))
    net.load_state_dict(load_file(plan.classifier.folder.weights))
    net.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    display.start("activation maps", len(tags), len(tags) - len(missing))
    for done, id in enumerate(missing, len(tags) - len(missing) + 1):
        classes = [c for c in tags[id] if c != dataset.background]
        try:
            image = to_tensor(dataset.image(id)).to(device)
        except BenchError as error:
            failures[id] = str(error)
            continue
        maps = activation_maps(net, image, plan.settings)[0, classes]  # K h w
        buffer = io.BytesIO()
        # Half precision: a step of a thousandth, where thresholds are in hundredths.
        np.savez(buffer, classes=np.array(classes, np.int64), maps=maps.half().cpu().numpy())
        write_atomic(plan.folder.map(id), buffer.getvalue())
        display.update(done)
        check()
    return failures


def read_maps(folder: SeedFolder, id: str) -> tuple[list[int], Tensor]:
    """The tags of an image and their maps, K h w float32."""
    path = folder.map(id)
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["classes"].tolist(), torch.from_numpy(file["maps"]).float()
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise DataError(f"{path} cannot be read ({error}); remove it, and it is made again.") from error


def normalised(maps: Tensor, size: tuple[int, int], settings: CamSeeds) -> Tensor:
    """K h w -> 1 K H W in 0..1, at the image's size."""
    if not len(maps):
        return maps.new_zeros(1, 0, *size)
    full = F.interpolate(maps[None], size, mode="bilinear", align_corners=False)
    return cam.normalise(full, settings.normalise)


# Seeds -----------------------------------------------------------------------------------------------------


def seed_of(
    image: np.ndarray,
    maps: Tensor,
    classes: Sequence[int],
    background: int | None,
    settings: CamSeeds,
    scores: Scores,
) -> np.ndarray:
    """The seed of an image: H W uint8, class ids and 255 where it is undecided.

    With a background class: foreground by the strict score, background by the loose one, undecided between,
    each refined first (IRN). Without: the best tag, undecided where refinement cannot tell it from its
    rivals. The CRF may decide a pixel that was weak, by its neighbours: with a single tag it decides all. An
    image without tags is background, or undecided where there is none.

    Args:
        image: H W 3 uint8.
        maps: K h w, 0 or more.
        classes: The K tags.
    """
    size = (image.shape[0], image.shape[1])
    if not classes:
        return np.full(size, IGNORE if background is None else background, np.uint8)
    cams = normalised(maps, size, settings)  # 1 K H W
    tags = torch.ones(1, len(classes), dtype=torch.bool)
    if background is None:
        seed = _without_background(image, cams, tags, classes, settings)
    else:
        seed = _over_background(image, cams, tags, classes, background, settings, scores)
    return seed[0].numpy().astype(np.uint8)


def _over_background(
    image: np.ndarray,
    cams: Tensor,
    tags: Tensor,
    classes: Sequence[int],
    background: int,
    settings: CamSeeds,
    scores: Scores,
) -> Tensor:
    best = cam.best_tagged(cams, tags, classes)
    constant = settings.background == "constant"
    strict, loose = (
        torch.full_like(best.value, score) if constant else cam.power_background(best, score)
        for score in (scores.strict, scores.loose)
    )  # 1 H W each
    if settings.refine == "none":
        return cam.seeds_over_background(cams, tags, classes, background, strict=strict, loose=loose)
    known = [background, *classes]
    if settings.refine == "crf" and settings.unary == "labels":
        both = [cam.over_background(best, score, background) for score in (strict, loose)]
        refined = crf.refine_labels(
            image, torch.cat(both).numpy(), sorted(known), crf.PUBLISHED[settings.crf],
            half_size=settings.half_size,
        )  # fmt: skip
        strict_label, loose_label = torch.from_numpy(refined).unsqueeze(1)
    else:
        soft = torch.cat([torch.cat([score[:, None], cams], 1) for score in (strict, loose)]).softmax(1)
        strict_label, loose_label = torch.tensor(known)[_refined(image, soft, settings).argmax(1)].unsqueeze(
            1
        )
    return cam.between(strict_label, loose_label, background)


def _without_background(
    image: np.ndarray, cams: Tensor, tags: Tensor, classes: Sequence[int], settings: CamSeeds
) -> Tensor:
    seeds = partial(cam.seeds_by_lead, minimum=settings.minimum, lead=settings.lead)
    if settings.refine == "crf" and settings.unary == "labels":
        strict = seeds(cams, tags, classes)
        loose = cam.best_tagged(cams, tags, classes).label
        refined = crf.refine_labels(
            image, torch.cat([strict, loose]).numpy(), sorted(classes), crf.PUBLISHED[settings.crf],
            half_size=settings.half_size,
        )  # fmt: skip
        first, second = torch.from_numpy(refined).unsqueeze(1)
        return first.masked_fill(first != second, IGNORE)
    if settings.refine == "crf":
        cams = _refined(image, cams.softmax(1), settings)
    elif settings.refine == "par":
        cams = _refined(image, cams, settings)
    return seeds(cams, tags, classes)


def _refined(image: np.ndarray, soft: Tensor, settings: CamSeeds) -> Tensor:
    """S L H W -> S L H W."""
    if settings.refine == "crf":
        parameters = crf.PUBLISHED[settings.crf]
        return torch.from_numpy(crf.refine(image, soft.numpy(), parameters, settings.half_size))
    colours = to_tensor(image)
    if not settings.half_size:
        return crf.pixel_adaptive(colours.expand(len(soft), -1, -1, -1), soft)
    half = [(side + 1) // 2 for side in image.shape[:2]]
    colours, small = (F.interpolate(x, half, mode="area") for x in (colours, soft))
    refined = crf.pixel_adaptive(colours.expand(len(soft), -1, -1, -1), small)
    return F.interpolate(refined, soft.shape[-2:], mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class SeedMaker:
    """Makes and writes the seed of an image; what each process of the pool holds."""

    dataset: Dataset
    folder: SeedFolder
    settings: CamSeeds
    scores: Scores

    def __call__(self, id: str) -> Made | str:
        """What was made; or, as a sentence, why it could not be."""
        started = time.process_time()
        try:
            classes, maps = read_maps(self.folder, id)
            path = self.folder.seed(id)
            if path.exists():
                seed = read_mask(path, None, len(self.dataset.classes))
            else:
                image = self.dataset.image(id)
                seed = seed_of(image, maps, classes, self.dataset.background, self.settings, self.scores)
                write_atomic(path, _as_png(seed))
        except (BenchError, ValueError, OSError) as error:
            return str(error)
        dead = (
            cam.dead_tags(maps[None], torch.ones(1, len(classes), dtype=torch.bool)).sum() if classes else 0
        )
        count = len(self.dataset.classes)
        pixels = np.bincount(np.where(seed == IGNORE, count, seed).ravel(), minlength=count + 1)
        return Made(int(dead), pixels, time.process_time() - started)


def _as_png(seed: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(seed).save(buffer, format="PNG")
    return buffer.getvalue()


# Processes -------------------------------------------------------------------------------------------------

_work: Callable[[str], Any]


def in_processes(
    work: Callable[[str], Any], ids: Sequence[str], jobs: int
) -> Generator[tuple[str, Any], None, None]:
    """`work` on every id, in `jobs` processes made once; with one job, in this one. Yields as they come."""
    if jobs == 1 or len(ids) < 2:
        for id in ids:
            yield id, work(id)
        return
    # spawn: a fork of a process with torch's threads may hang.
    pool = ProcessPoolExecutor(
        min(jobs, len(ids)), multiprocessing.get_context("spawn"), _start_process, (work,)
    )
    try:
        futures = {pool.submit(_do, id): id for id in ids}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise BenchError(
            "a process that makes CAM seeds was killed, most often for lack of memory; what is made is kept: "
            "start again with fewer --jobs."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process(work: Callable[[str], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends its image first
    torch.set_num_threads(1)
    global _work
    _work = work


def _do(id: str) -> Any:
    return _work(id)


# Background scores -----------------------------------------------------------------------------------------


def choose_scores(plan: SeedPlan, dataset: Dataset, ids: Sequence[str]) -> Scores:
    """The background scores of the policy: as set; or round the best single score (mIoU of the seeds, without
    refinement) on the masks that the policy opens, as far apart as set."""
    settings, config = plan.settings, plan.classifier.config
    fixed = Scores(settings.strict, settings.loose)
    if settings.policy == "fixed" or not ids:
        return fixed
    opened = tuple(ids)
    if settings.policy == "heldout":
        order = numpy_for(config.seed, "heldout").permutation(len(ids))
        opened = tuple(sorted(ids[i] for i in order[: settings.heldout]))
    counts = torch.stack([score_counts(plan.folder, dataset, id, settings) for id in opened]).sum(0)
    best = float(SCORES[int(cam.quality(counts).miou.nan_to_num(-1).argmax())])
    apart = (settings.strict - settings.loose) / 2
    return Scores(best + apart, max(best - apart, 0.0), opened)


def score_counts(folder: SeedFolder, dataset: Dataset, id: str, settings: CamSeeds) -> Tensor:
    """`cam.threshold_counts` of one image's maps against its mask, which this opens: T C C+1."""
    mask = dataset.mask(id)
    classes, maps = read_maps(folder, id)
    cams = normalised(maps, (mask.shape[0], mask.shape[1]), settings)
    best = best_of(cams, classes)
    label = torch.from_numpy(mask)[None]
    return cam.threshold_counts(best, label, SCORES, len(dataset.classes), dataset.background)


def best_of(cams: Tensor, classes: Sequence[int]) -> cam.Best:
    """`cam.best_tagged` of the maps of an image's tags, of which there may be none: 1 K H W."""
    if not classes:
        nothing = cams.new_zeros(1, *cams.shape[-2:])
        return cam.Best(torch.full_like(nothing, IGNORE, dtype=torch.int64), nothing, nothing + torch.inf)
    return cam.best_tagged(cams, torch.ones(1, len(classes), dtype=torch.bool), classes)
