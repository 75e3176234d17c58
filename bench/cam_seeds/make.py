"""Makes the CAM seeds of a split: activation maps, thresholds, refinement. Each stage is kept.

Maps are made in this process, by the network; seeds from them in a pool of processes, since the dense CRF
takes one core and holds the interpreter's lock. Both are written image by image, so that a stop loses
nothing, and an image that cannot be read does not cost the others their seeds.

C classes of the data set, K tags of an image (background not counted), H W its size, h w that of its maps.
"""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cam_seeds.refine import Made, SeedMaker, in_processes
from bench.cam_seeds.thresholds import choose_scores
from bench.contract import Dataset
from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError
from bench.machine import Stop, choose_device, cores, stoppable
from bench.networks import exported
from bench.networks.segmenter import Segmenter
from bench.ops import cam
from bench.plan import SeedPlan, data_root, granted_tags
from bench.records.atomic import write_atomic
from bench.records.schema import SeedReport
from bench.scoring.inference import to_tensor
from bench.settings import registry
from bench.settings.schema import CamSeeds
from datasets.tags import TagTable

MAP_STRIDE = 4  # maps are stored at a quarter of the image's height and width (IRN)


def make(
    plan: SeedPlan, display: Display, train_classifier: Callable[[], object], jobs: int | None = None
) -> SeedReport:
    """Write activation maps, refine them to seeds, and skip what exists. A second process waits.

    Args:
        train_classifier: Finishes the run `plan.classifier`, unless it is done.
        jobs: Processes that threshold and refine; default: machine.threads, else the cores. No bit of a seed
            depends on it.

    Raises:
        ConfigError: Settings that cannot work.
        DataError: Tags or images are missing or invalid. Every other image has its seed by then.
        Interrupted: Stopped by a signal; what is made is kept.
    """
    config, folder = plan.classifier.config, plan.folder
    with stoppable() as stop, folder.claimed(_waiter(display, stop)):
        report = folder.read_report()
        if report is not None:
            return report
        dataset = registry.load_dataset(config.dataset, data_root(config))
        _check_settings(plan.settings, dataset)
        tags = granted_tags(plan.classifier, dataset)
        train_classifier()
        if config.machine.threads:
            torch.set_num_threads(config.machine.threads)
        jobs = jobs or config.machine.threads or cores()
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


def _waiter(display: Display, stop: Stop) -> Callable[[], None]:
    told = False

    def wait() -> None:
        nonlocal told
        if not told:
            display.say("another process makes these CAM seeds; waiting for it")
            told = True
        stop.check()
        time.sleep(0.5)

    return wait


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
    device = choose_device(classifier.machine.device)
    net = exported.read(plan.classifier.folder.weights)
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
