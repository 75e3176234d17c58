"""Chooses the background scores of CAM seeds by the policy: as set, or by masks that the policy opens.

T thresholds, C classes of the data set.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.cam_seeds.refine import BackgroundScores
from bench.contract import Dataset
from bench.ops import cam, walk
from bench.plan import SeedPlan
from bench.records.logs import read_maps
from bench.records.shared_folders import SeedFolder
from bench.settings.schema import CamSeeds
from datasets import rasters

SCORES = torch.arange(100) / 100  # background scores that a policy chooses from


def choose_scores(plan: SeedPlan, dataset: Dataset, ids: Sequence[str]) -> BackgroundScores:
    """Choose the background scores by the policy: as set; or round the best single score (mIoU of the seeds,
    without refinement) on the masks that the policy opens, as far apart as set."""
    settings, opened = plan.settings, plan.opened
    if not opened or not ids:
        return BackgroundScores(settings.strict, settings.loose)
    counts = torch.stack([score_counts(plan.folder, dataset, id, settings) for id in opened]).sum(0)
    best = float(SCORES[int(cam.quality(counts).miou.nan_to_num(-1).argmax())])
    apart = (settings.strict - settings.loose) / 2
    return BackgroundScores(best + apart, max(best - apart, 0.0), opened)


def score_counts(folder: SeedFolder, dataset: Dataset, id: str, settings: CamSeeds) -> Tensor:
    """`cam.threshold_counts` of one image's maps against its mask, which this opens: T C C+1."""
    mask = dataset.mask(id)
    classes, maps = read_maps(folder.map(id))
    seen = torch.from_numpy(maps)
    if settings.walk == "image":
        seen = walk.walked(seen, rasters.shown(dataset.image(id)), settings.walk_steps)
    cams = cam.at_image_size(seen, (mask.shape[0], mask.shape[1]), settings.normalise)
    best = cam.best_tagged(cams, torch.ones(1, len(classes), dtype=torch.bool), classes)
    label = torch.from_numpy(mask)[None]
    return cam.threshold_counts(best, label, SCORES, len(dataset.classes), dataset.background)
