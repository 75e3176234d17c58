"""From tags to CAM seeds: a classifier's run, activation maps, thresholds, refinement. Each stage is kept.

Maps are made in this process, by the network; seeds from them in a pool of processes, since the dense CRF
takes one core and holds the interpreter's lock. Both are written image by image, so that a stop loses
nothing, and an image that cannot be read does not cost the others their seeds.

C classes of the data set, K tags of an image (background not counted), H W its size, h w that of its maps.
"""

from __future__ import annotations

import importlib.util
import io
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from bench import harness, registry
from bench.config import CamSeeds
from bench.contract import Dataset
from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError
from bench.evaluation import to_tensor
from bench.files import write_atomic
from bench.identity import SeedPlan, data_root
from bench.maps_to_seeds import Made, Scores, SeedMaker, best_of, in_processes, normalised, read_maps
from bench.models import Segmenter
from bench.ops import cam
from bench.randomness import numpy_for
from bench.store import SeedFolder, SeedReport
from datasets.tags import TagTable

MAP_STRIDE = 4  # of the stored maps, as in IRN: finer than what a network says, a sixteenth of the pixels
SCORES = torch.arange(100) / 100  # background scores that a policy chooses from


def make(plan: SeedPlan, display: Display, jobs: int | None = None) -> SeedReport:
    """The seeds of a split, made where they are missing. A second process waits for the first.

    Args:
        jobs: Processes that threshold and refine; default: machine.threads, else all cores. No bit of a seed
            depends on it.

    Raises:
        ConfigError: Settings that cannot work.
        DataError: Tags or images are missing or invalid. Every other image has its seed by then.
        Interrupted: Stopped by a signal; what is made is kept.
    """
    config, folder = plan.classifier.config, plan.folder
    with harness.stoppable() as stop, folder.claimed(_waiter(display, stop)):
        report = folder.read_report()
        if report is not None:
            return report
        dataset = registry.load_dataset(config.dataset, data_root(config))
        _check_settings(plan.settings, dataset)
        tags = harness.granted_tags(plan.classifier, dataset)
        harness.run(plan.classifier, display, resume=True)
        if config.machine.threads:
            torch.set_num_threads(config.machine.threads)
        jobs = jobs or config.machine.threads or os.cpu_count() or 1
        try:
            report = _make(plan, dataset, tags, jobs, display, stop.check)
        except BrokenProcessPool as error:
            stop.check()  # a signal to all processes kills those of the pool: stopped, not failed
            raise BenchError(
                "a process that makes CAM seeds was killed, most often for lack of memory; what is made is "
                "kept: start again with fewer --jobs."
            ) from error
        finally:
            display.stop()
        write_atomic(folder.report, (report.model_dump_json(indent=1) + "\n").encode())
        return report


def _make(
    plan: SeedPlan, dataset: Dataset, tags: TagTable, jobs: int, display: Display, check: Callable[[], None]
) -> SeedReport:
    started = time.monotonic()
    failures = _make_maps(plan, dataset, tags, display, check)
    map_seconds = time.monotonic() - started
    sound = [id for id in tags if id not in failures]
    if failures and plan.settings.policy != "fixed":
        sound = []  # scores chosen without an image are not those of the next start
    scores = choose_scores(plan, dataset, sound)
    maker = SeedMaker(dataset, plan.folder, plan.settings, scores)
    made: dict[str, Made] = {}
    display.start(f"seeds ({plan.settings.refine})", len(sound))
    with closing(in_processes(maker, sound, jobs)) as outcomes:
        for done, (id, outcome) in enumerate(outcomes, 1):
            if isinstance(outcome, Made):
                made[id] = outcome
            else:
                failures[id] = outcome
            display.update(done)
            check()
    if failures:
        shown = "\n".join(f"{id}: {reason}" for id, reason in sorted(failures.items())[:10])
        raise DataError(
            f"{len(failures)} of {len(tags)} images have no CAM seed; what is made of the others is kept in "
            f"{plan.folder.path}. Mend what is named here and start again:\n{shown}"
        )
    pixels = np.sum([one.pixels for one in made.values()], axis=0)
    foreground = [set(classes) - {dataset.background} for classes in tags.values()]
    return SeedReport(
        seed_id=plan.folder.seed_id,
        classifier=plan.classifier.run_id,
        images=len(made),
        tags=sum(map(len, foreground)),
        dead_tags=sum(one.dead_tags for one in made.values()),
        untagged=sum(not classes for classes in foreground),
        decided=float(1 - pixels[-1] / pixels.sum()),
        class_pixels=pixels[:-1].tolist(),
        strict=scores.strict,
        loose=scores.loose,
        opened=list(scores.opened),
        map_seconds=map_seconds,
        refine_core_seconds=sum(one.seconds for one in made.values()),
        settings=plan.settings.record(),
    )


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
