"""Makes the seeds of images that are granted boxes: no network, one mask an image, each kept.

A seed depends on the image, its boxes and the settings alone, so all runs on a split share it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from bench.cam_seeds.refine import as_png, in_processes
from bench.contents.code import by_room, code_files
from bench.contents.gather import of_run
from bench.contract import Dataset
from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError
from bench.labels import Box
from bench.machine import Stop, cores, waiter
from bench.ops import box_labels, crf
from bench.plan import BoxSeedPlan, Plan, dataset_of
from bench.records.atomic import WriteError, write_atomic
from bench.records.ledger import Ledger
from bench.records.shared_folders import BoxSeedFolder
from bench.settings.box_seeds import BoxSeeds
from datasets import rasters
from datasets.sparse import Marks


def seed_of(
    image: np.ndarray, boxes: tuple[Box, ...], background: int | None, settings: BoxSeeds
) -> np.ndarray:
    """Make the seed of an image: H W uint8, class ids and 255 where it is undecided.

    Args:
        image: H W C uint8, of which the CRF sees what is shown of it, three channels.
    """
    size = (image.shape[0], image.shape[1])
    if settings.rule == "inner":
        return box_labels.inner(boxes, size, background, settings.inner)
    filled = box_labels.naive(boxes, size, background)
    if settings.rule == "naive":
        return filled
    parameters = crf.PUBLISHED[settings.crf]
    refined = box_labels.inside_crf(rasters.shown(image), boxes, background, parameters, settings.half_size)
    return refined if settings.rule == "crf" else box_labels.agreed(filled, refined)


def check_settings(settings: BoxSeeds) -> None:
    """Refuse before anything is made what would fail for every image."""
    if settings.rule in ("crf", "agree") and not importlib.util.find_spec("pydensecrf"):
        raise ConfigError(
            f"box_seeds.rule {settings.rule} needs the module pydensecrf: install the distribution "
            "pydensecrf2, which is built with g++ and up to Python 3.12, or give --set box_seeds.rule=inner."
        )


@dataclass(frozen=True)
class BoxSeedMaker:
    """Makes and writes the seed of an image; what each process of the pool holds."""

    dataset: Dataset
    marks: Marks
    folder: BoxSeedFolder
    settings: BoxSeeds

    def __call__(self, id: str) -> tuple[str, float] | str:
        """Make the seed of an image. Return the digest of its file and the seconds it took; or, as a
        sentence, why it could not be made."""
        started = time.process_time()
        try:
            image = self.dataset.image(id)
            data = as_png(seed_of(image, self.marks.boxes(id), self.dataset.background, self.settings))
            write_atomic(self.folder.seed(id), data)
        except WriteError:  # no other image would fare better
            raise
        except (BenchError, ValueError, OSError) as error:
            return f"{id}: {error}"
        return hashlib.sha256(data).hexdigest(), time.process_time() - started


def make(plan: Plan, boxes: BoxSeedPlan, display: Display, stop: Stop, jobs: int | None = None) -> None:
    """Make the seeds that are not there, damaged, or of other images, boxes or code. A second process waits.

    Args:
        jobs: Processes; default: machine.threads, else the cores. No bit of a seed depends on it.

    Raises:
        ConfigError: Settings that cannot work.
        DataError: Images or boxes are missing or invalid. Every other image has its seed by then.
        Interrupted: Stopped by a signal; what is made is kept.
    """
    check_settings(boxes.settings)
    dataset = dataset_of(plan.config)
    marks, inputs = Marks(dataset, plan.split), _inputs(plan, boxes)
    folder = boxes.folder
    with folder.claimed(waiter(display.say, stop, "makes these seeds of boxes")):
        ledger = Ledger(folder.ledger)
        files = {id: folder.seed(id) for id in inputs}
        sound = ledger.sound(files, inputs)
        missing = [id for id in inputs if id not in sound]
        if not missing:
            return
        failures: list[str] = []
        maker = BoxSeedMaker(dataset, marks, folder, boxes.settings)
        display.start(f"seeds of boxes ({boxes.settings.rule})", len(inputs), len(sound))
        jobs = jobs or plan.config.machine.threads or cores()
        try:
            with closing(in_processes(maker, missing, jobs)) as outcomes:
                for done, (id, outcome) in enumerate(outcomes, len(sound) + 1):
                    if isinstance(outcome, str):
                        failures.append(outcome)
                    else:
                        ledger.add(id, outcome[0], inputs[id], outcome[1])
                    display.update(done)
                    stop.check()
        finally:
            display.stop()
        if failures:
            shown = "\n".join(sorted(failures)[:10])
            raise DataError(
                f"{len(failures)} of {len(inputs)} images have no seed of their boxes; what is made of the "
                f"others is kept in {folder.path}. Mend what is named here and start again:\n{shown}"
            )


def _inputs(plan: Plan, boxes: BoxSeedPlan) -> Mapping[str, str]:
    """Of each image one digest of all that its seed is made of."""
    gathered = of_run(plan)
    code = by_room(code_files((), (), seeds=False, boxes=True, begin=()))  # of any method the same
    images, marks = gathered.files["images"], gathered.files["masks"]
    settings = boxes.settings.record()
    found = {}
    for id in plan.split.boxes:
        what = [code, images[f"image {id}"], marks[f"boxes {id}"], settings]
        found[id] = hashlib.sha256(repr(what).encode()).hexdigest()
    return found
