"""Makes the CAM seeds of a split: activation maps, thresholds, refinement. Each stage is kept.

Maps are made in this process, by the network; seeds from them in a pool of processes, since the dense CRF
takes one core and holds the interpreter's lock. Both are written image by image, so that a stop loses
nothing, and an image that cannot be read does not cost the others their seeds.

C classes of the data set, K tags of an image (background not counted), H W its size, h w that of its maps.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import ranks
from bench.cam_seeds.refine import BackgroundScores, MadeSeed, SeedMaker, in_processes
from bench.cam_seeds.thresholds import choose_scores
from bench.contents import changes
from bench.contents.files import combined
from bench.contents.gather import Gathered, of_seeds
from bench.contract import Dataset
from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError
from bench.machine import (
    choose_device,
    cores,
    peak_memory_mib,
    stoppable,
    threads_for,
    use_device,
    waiter,
)
from bench.networks import exported
from bench.networks.segmenter import Segmenter
from bench.ops import cam
from bench.plan import SeedPlan, granted_tags
from bench.records.atomic import write_atomic
from bench.records.ledger import Ledger
from bench.records.schema import Result, SeedReport
from bench.scoring.ahead import read_ahead
from bench.scoring.inference import to_tensor
from bench.settings.schema import CamSeeds
from datasets.tags import TagTable

MAP_STRIDE = 4  # maps are stored at a quarter of the image's height and width (IRN)


def make(
    plan: SeedPlan,
    dataset: Dataset,
    display: Display,
    train_classifier: Callable[[], Result],
    jobs: int | None = None,
    overwrite: bool = False,
    anyway: bool = False,
) -> SeedReport:
    """Write activation maps, refine them to seeds, and skip what is sound: a file that is gone, damaged or
    not the one that was made is made again. A second process waits.

    Args:
        train_classifier: Finishes the run `plan.classifier`, unless it is done.
        jobs: Processes that threshold and refine; default: machine.threads, else the cores. No bit of a seed
            depends on it.
        overwrite: Make seeds of other code or data anew.
        anyway: Take seeds of other code or data as they are.

    Raises:
        ConfigError: Settings that cannot work; or seeds of other code or data.
        DataError: Tags or images are missing or invalid. Every other image has its seed by then.
        Interrupted: Stopped by a signal; what is made is kept.
    """
    config, folder = plan.classifier.config, plan.folder

    def finished() -> SeedReport | None:
        return ranks.first_alone(lambda: _finished(plan, display, overwrite, anyway))

    if (report := finished()) is not None:
        return report  # claims nothing: its disk may be read-only
    with stoppable() as stop, ExitStack() as claim:
        wait = waiter(display.say, stop, "makes these CAM seeds")
        ranks.first_alone(lambda: claim.enter_context(folder.claimed(wait)))
        if (report := finished()) is not None:
            return report
        if ranks.number() == 0 and (before := folder.read_report()) is not None:
            display.say(standing(plan, before, overwrite, anyway).anew)
        check_settings(plan.settings, dataset)
        tags = granted_tags(plan.classifier, dataset)
        classifier = train_classifier()
        # Maps have no loader.
        torch.set_num_threads(threads_for(config.machine.threads, 0, ranks.on_this_machine()))
        jobs = jobs or config.machine.threads or cores()
        with ranks.together():
            gathered = of_seeds(plan)
        work = SeedInputs(plan, dataset, tags, gathered, classifier, display, stop.check)
        try:
            mapped = _make_maps(work)
            report = ranks.first_alone(lambda: _make(work, mapped, jobs))
        except BrokenProcessPool as error:
            stop.check()  # a signal to all processes kills those of the pool: stopped, not failed
            raise BenchError(
                "a process that makes CAM seeds was killed, most often for lack of memory; what is made is "
                "kept: start again with fewer --jobs."
            ) from error
        finally:
            display.stop()
        ranks.first_alone(lambda: folder.write_report(report, gathered.listing))
        return report


@dataclass(frozen=True)
class SeedInputs:
    """The inputs that seeds are made of."""

    plan: SeedPlan
    dataset: Dataset
    tags: TagTable
    gathered: Gathered
    classifier: Result
    display: Display
    check: Callable[[], None]

    @property
    def weights(self) -> str | None:
        """Digest of the classifier's weights; None where its run has kept none."""
        return self.classifier.weights_file_digest

    def inputs(self, id: str, *others: object) -> str:
        """One digest of all that an image's map or seed is made of."""
        image = self.gathered.files["images"][f"image {id}"]
        what = [self.gathered.contents.program, image, self.tags[id], *others]
        return hashlib.sha256(repr(what).encode()).hexdigest()


@dataclass(frozen=True)
class Standing:
    """Whether finished seeds are made again, and what has changed since they were made."""

    anew: str  # why they are made again, in words; "" where they are taken as they are
    changed: list[str]  # since they were made; they are taken all the same


def _finished(plan: SeedPlan, display: Display, overwrite: bool, anyway: bool) -> SeedReport | None:
    """Return the report on seeds that are taken as they are; what has changed since is in its contents.

    None where they are not done, or to be made again. Raises as `standing` does.
    """
    report = plan.folder.read_report()
    if report is None or (stand := standing(plan, report, overwrite, anyway)).anew:
        return None
    if not stand.changed or report.contents is None:
        return report
    said = f"{plan.folder.path} are taken as they are, though this has changed since: "
    display.say(f"the CAM seeds in {said}{changes.listed(stand.changed)}")
    marked = [*report.contents.anyway, *stand.changed]
    contents = report.contents.model_copy(update={"anyway": marked})
    return report.model_copy(update={"contents": contents})


def standing(plan: SeedPlan, report: SeedReport, overwrite: bool, anyway: bool) -> Standing:
    """Compare finished seeds with what is here now.

    Raises ConfigError where they are of other code or data.
    """
    folder, ids = plan.folder, plan.classifier.split.tags
    found: list[str] = []
    if report.contents is None:  # of before digests: all that can be told is whether one is gone
        gone = [id for id in ids if not folder.seed(id).exists()]
    else:
        now = of_seeds(plan)
        found = changes.changes(report.contents, now, folder.read_listing())
        if found and overwrite:
            why = f"made anew: the CAM seeds in {folder.path} are of others: {changes.listed(found)}"
            return Standing(why, [])
        if found and not anyway:
            raise ConfigError(
                f"the CAM seeds in {folder.path} are done, but this has changed since: "
                f"{changes.listed(found)}; make them anew with --overwrite, keep both with another --out, or "
                "take them as they are with --anyway, which the record of a run says."
            )
        sound = Ledger(folder.seed_ledger).sound({id: folder.seed(id) for id in ids})
        gone = [id for id in ids if id not in sound]
        if not gone and combined(sound) != report.contents.seeds:
            gone = [*ids]  # each is as its line says, but the lines are not those of the report
    if not gone:
        return Standing("", found)
    some = f"for example {folder.seed(gone[0])}"
    return Standing(f"made again: {len(gone)} of {len(ids)} CAM seeds are gone or damaged, {some}", [])


def _make(work: SeedInputs, mapped: Mapped, jobs: int) -> SeedReport:
    plan, tags, display = work.plan, work.tags, work.display
    maps, failures, peak = mapped
    ids = [id for id in tags if id not in failures]
    if failures and plan.settings.policy != "fixed":
        ids = []  # scores chosen without an image are not those of the next start
    scores = choose_scores(plan, work.dataset, ids)
    ledger, folder = Ledger(plan.folder.seed_ledger), plan.folder
    inputs = {id: work.inputs(id, maps[id], scores.strict, scores.loose) for id in ids}
    seeds = ledger.sound({id: folder.seed(id) for id in ids}, inputs)
    device = choose_device(plan.classifier.config.machine.device)
    if plan.settings.refine == "par" and device != "cpu":
        jobs = 1  # the GPU does the work of a pool
    else:
        device = "cpu"
    maker = SeedMaker(work.dataset, folder, plan.settings, scores, frozenset(seeds), device)
    made: dict[str, MadeSeed] = {}
    display.start(f"seeds ({plan.settings.refine})", len(ids))
    with closing(in_processes(maker, ids, jobs)) as outcomes:
        for done, (id, outcome) in enumerate(outcomes, 1):
            if isinstance(outcome, MadeSeed):
                made[id] = outcome
                if id not in seeds:
                    ledger.add(id, outcome.digest, inputs[id])
            else:
                failures[id] = outcome
            display.update(done)
            work.check()
    if failures:
        shown = "\n".join(f"{id}: {reason}" for id, reason in sorted(failures.items())[:10])
        raise DataError(
            f"{len(failures)} of {len(tags)} images have no CAM seed; what is made of the others is kept in "
            f"{folder.path}. Mend what is named here and start again:\n{shown}"
        )
    return _report(work, scores, maps, made, peak)


def _report(
    work: SeedInputs,
    scores: BackgroundScores,
    maps: Mapping[str, str],
    made: Mapping[str, MadeSeed],
    peak: float | None,
) -> SeedReport:
    plan = work.plan
    pixels = np.sum([one.pixels for one in made.values()], axis=0)
    foreground = [set(classes) - {work.dataset.background} for classes in work.tags.values()]
    classifier = work.classifier.contents
    digests = {
        "anyway": [f"of its classifier: {what}" for what in classifier.anyway] if classifier else [],
        "weights": work.weights,
        "maps": combined(maps),
        "seeds": combined({id: one.digest for id, one in made.items()}),
    }
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
        map_seconds=Ledger(plan.folder.map_ledger).seconds(maps),
        map_peak_memory_mib=peak,
        refine_core_seconds=sum(one.seconds for one in made.values()),
        settings=plan.settings.record(),
        contents=work.gathered.contents.model_copy(update=digests),
    )


def check_settings(settings: CamSeeds, dataset: Dataset) -> None:
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


@torch.no_grad()
def activation_maps(net: Segmenter, image: Tensor, settings: CamSeeds) -> Tensor:
    """Merge the activation maps of an image over scales and mirror: 1 3 H W in 0..1 -> 1 C h w, 0 or more."""
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


Mapped = tuple[dict[str, str], dict[str, str], float | None]


def _make_maps(work: SeedInputs) -> Mapped:
    """Write the maps that are not sound; answers the digest of each, the images without, and why, and the
    peak of the memory in MiB, None where none had to be made."""
    folder, ledger = work.plan.folder, Ledger(work.plan.folder.map_ledger)
    inputs = {id: work.inputs(id, work.weights) for id in work.tags}
    maps = ranks.first_alone(lambda: ledger.sound({id: folder.map(id) for id in work.tags}, inputs))
    missing = [id for id in work.tags if id not in maps]
    if not missing:
        return maps, {}, None
    with ranks.together():
        made = _make_own_maps(work, ranks.share(missing), len(maps), inputs)
    parts = ranks.of_all(made)
    return (
        maps | {id: digest for part in parts for id, digest in part[0].items()},
        {id: why for part in parts for id, why in part[1].items()},
        max(part[2] for part in parts),
    )


def _make_own_maps(
    work: SeedInputs, missing: Sequence[str], before: int, inputs: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str], float]:
    """As `_make_maps`, of some images, which may be one rank's part."""
    plan, folder, ledger = work.plan, work.plan.folder, Ledger(work.plan.folder.map_ledger)
    maps: dict[str, str] = {}
    failures: dict[str, str] = {}
    config = plan.classifier.config
    device = choose_device(config.machine.device)
    use_device(device, config.protocol.precision, config.machine.deterministic)
    net = exported.read(plan.classifier.folder.weights, work.weights)
    net.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    work.display.start("activation maps", before + len(missing), before)

    def read(id: str) -> tuple[str, np.ndarray | BenchError]:
        try:
            return id, work.dataset.image(id)
        except BenchError as error:
            return id, error

    started = time.monotonic()
    with closing(read_ahead(read, missing, device)) as images:
        for done, (id, image) in enumerate(images, before + 1):
            if isinstance(image, BenchError):
                failures[id] = str(image)
                continue
            classes = [c for c in work.tags[id] if c != work.dataset.background]
            found = activation_maps(net, to_tensor(image, device), plan.settings)[0, classes]  # K h w
            buffer = io.BytesIO()
            # Half precision: a step of a thousandth, where thresholds are in hundredths.
            np.savez(buffer, classes=np.array(classes, np.int64), maps=found.half().cpu().numpy())
            write_atomic(folder.map(id), buffer.getvalue())
            maps[id] = hashlib.sha256(buffer.getvalue()).hexdigest()
            now = time.monotonic()
            ledger.add(id, maps[id], inputs[id], now - started)
            started = now
            work.display.update(done)
            work.check()
    return maps, failures, peak_memory_mib(device)
