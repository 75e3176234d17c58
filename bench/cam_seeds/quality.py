"""How good CAM seeds are: against the masks of the tagged images, which nothing that trains may see.

Its answer is written apart from the seeds, and no run reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from bench.cam_seeds.thresholds import SCORES, score_counts
from bench.contents.gather import masks_digest
from bench.contract import IGNORE, Dataset
from bench.display import Display
from bench.errors import DataError
from bench.ops import cam
from bench.plan import SeedPlan, data_root, dataset_of, granted_tags
from bench.records.atomic import write_atomic
from bench.records.ledger import Ledger
from bench.records.schema import CurvePoint, SeedQuality, SeedReport
from datasets.decode import read_mask


def kept_quality(plan: SeedPlan, display: Display) -> SeedQuality:
    """Return the quality of finished seeds as it was measured before; measure it now where it was not, or
    where the masks, the classes or the seeds have changed since.

    Raises as `measure` does.
    """
    report, before = plan.folder.read_report(), plan.folder.read_quality()
    if report is None or before is None:
        return measure(plan, display)
    config = plan.classifier.config
    dataset = dataset_of(config)
    if before.of is None:
        display.say(
            f"{plan.folder.quality} is from before digests, so nobody can tell whether it is of these masks; "
            "move it away to measure again"
        )
    elif before.of != _measured_on(plan, report, dataset):
        display.say("measured again: the masks, the classes or the seeds have changed since")
        return measure(plan, display)
    return before


def measure(plan: SeedPlan, display: Display) -> SeedQuality:
    """Measure the quality of finished seeds, and keep it. Opens the mask of every tagged image.

    Raises:
        DataError: There are no seeds, or a mask is missing or invalid.
    """
    folder = plan.folder
    report = folder.read_report()
    if report is None:
        raise DataError(f"{folder.path} holds no finished CAM seeds; make them with `cam-seeds`.")
    _refuse_lost_maps(plan, report)
    config = plan.classifier.config
    dataset = dataset_of(config)
    tags = granted_tags(plan.classifier, dataset)
    count = len(dataset.classes)
    seeds = torch.zeros(count, count + 1, dtype=torch.int64)
    curve = torch.zeros(len(SCORES), count, count + 1, dtype=torch.int64)
    spread = torch.zeros(count, count + 1, dtype=torch.float64)
    display.start("seed quality", len(tags))
    try:
        for done, (id, classes) in enumerate(tags.items(), 1):
            mask = dataset.mask(id)
            seed = read_mask(folder.seed(id), (mask.shape[0], mask.shape[1]), count)
            seeds += cam.seed_counts(torch.from_numpy(seed), torch.from_numpy(mask), count)
            curve += score_counts(folder, dataset, id, plan.settings)
            spread += spread_counts(mask, classes, count)
            display.update(done)
    finally:
        display.stop()
    found, points, blind = cam.quality(seeds), cam.quality(curve), cam.quality(spread)
    answer = SeedQuality(
        seed_id=folder.seed_id,
        images=len(tags),
        classes=list(dataset.classes),
        miou=_share(found.miou),
        miou_decided=_share(cam.quality(seeds, undecided="excluded").miou),
        coverage=_share(found.coverage),
        iou=_listed(found.iou),
        precision=_listed(found.precision),
        recall=_listed(found.recall),
        class_coverage=_listed(found.class_coverage),
        miou_of_spread_tags=_share(blind.miou),
        curve=[
            CurvePoint(
                threshold=float(SCORES[i]),
                miou=_share(points.miou[i]),
                precision=_share(points.precision[i].nanmean()),
                recall=_share(points.recall[i].nanmean()),
                coverage=_share(points.coverage[i]),
            )
            for i in range(len(SCORES))
        ],
        counts=seeds.tolist(),
        of=_measured_on(plan, report, dataset),
    )
    write_atomic(folder.quality, answer.to_bytes())
    return answer


def _measured_on(plan: SeedPlan, report: SeedReport, dataset: Dataset) -> str:
    """As `SeedQuality.of`. Raises DataError where a mask is missing."""
    masks = masks_digest(dataset, plan.classifier.split.tags, data_root(plan.classifier.config))
    made = (report.contents.maps, report.contents.seeds) if report.contents else ()
    what = [*made, masks, list(dataset.classes), dataset.background]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _refuse_lost_maps(plan: SeedPlan, report: SeedReport) -> None:
    """Raise DataError where a map is not the one that was made; of seeds from before digests nobody knows."""
    maps = {id: plan.folder.map(id) for id in plan.classifier.split.tags}
    sound = Ledger(plan.folder.map_ledger).sound(maps) if report.contents else maps
    lost = [path for id, path in maps.items() if id not in sound]
    if lost:
        raise DataError(
            f"{len(lost)} activation maps are gone or damaged, for example {lost[0]}; remove "
            f"{plan.folder.report}, and `cam-seeds` makes them again."
        )


def spread_counts(mask: np.ndarray, classes: Sequence[int], count: int) -> Tensor:
    """Compute the expected counts of seeds that give each pixel one of the image's classes at random: C C+1
    float64, truth in rows. They show what the tags alone, spread over the image, are worth."""
    truth = torch.from_numpy(np.bincount(mask.ravel(), minlength=IGNORE + 1)[:count]).double()
    counts = torch.zeros(count, count + 1, dtype=torch.float64)
    if classes:
        counts[:, list(classes)] = truth.unsqueeze(1) / len(classes)
    else:
        counts[:, -1] = truth
    return counts


def _share(value: Tensor) -> float:
    """0 where nothing is decided, or no pixel has a label: JSON has no NaN, and nothing was found."""
    return float(value.nan_to_num(0))


def _listed(values: Tensor) -> list[float | None]:
    return [None if value != value else float(value) for value in values.tolist()]
