"""Makes an image's CAM seed from its activation maps, and many of them in a pool of processes.

A process of the pool imports no network.

C classes of the data set, K tags of an image (background not counted), H W its size, h w that of its maps.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bench.contract import IGNORE, Dataset
from bench.errors import BenchError
from bench.ops import cam, crf, walk
from bench.pool import Pool
from bench.records.atomic import WriteError, write_atomic
from bench.records.logs import read_maps
from bench.records.shared_folders import SeedFolder
from bench.scoring.inference import to_tensor
from bench.settings.schema import CamSeeds
from datasets import rasters
from datasets.decode import read_mask


@dataclass(frozen=True)
class BackgroundScores:
    """The two background scores of a seed, and the ids whose masks were read to choose them."""

    strict: float
    loose: float
    opened: tuple[str, ...] = ()


@dataclass(frozen=True)
class MadeSeed:
    """One image's seed. `seconds` are those of its process; `pixels` of each class, undecided ones last."""

    dead_tags: int
    pixels: np.ndarray  # C+1 int64
    seconds: float
    digest: str  # SHA-256 of the file


def seed_of(
    image: np.ndarray,
    maps: Tensor,
    classes: Sequence[int],
    background: int | None,
    settings: CamSeeds,
    scores: BackgroundScores,
) -> np.ndarray:
    """Make the seed of an image: H W uint8, class ids and 255 where it is undecided.

    With a background class: foreground by the strict score, background by the loose one, undecided between,
    each refined first (IRN). Without: the best tag, undecided where refinement cannot tell it from its
    rivals. The CRF may decide a pixel that was weak, by its neighbours: with a single tag it decides all. An
    image without tags is background, or undecided where there is none.

    Args:
        image: H W C uint8, of which refinement sees what is shown of it, three channels.
        maps: K h w, 0 or more, on the device that works on them.
        classes: The K tags.
    """
    size = (image.shape[0], image.shape[1])
    if not classes:
        return np.full(size, IGNORE if background is None else background, np.uint8)
    image = rasters.shown(image)
    if settings.walk == "image":
        maps = walk.walked(maps, image, settings.walk_steps)
    cams = cam.at_image_size(maps, size, settings.normalise)  # 1 K H W
    tags = torch.ones(1, len(classes), dtype=torch.bool, device=maps.device)
    if background is None:
        seed = _without_background(image, cams, tags, classes, settings)
    else:
        seed = _over_background(image, cams, tags, classes, background, settings, scores)
    return seed[0].cpu().numpy().astype(np.uint8)


def _over_background(
    image: np.ndarray,
    cams: Tensor,
    tags: Tensor,
    classes: Sequence[int],
    background: int,
    settings: CamSeeds,
    scores: BackgroundScores,
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
        place = _refined(image, soft, settings).argmax(1)
        strict_label, loose_label = torch.tensor(known, device=place.device)[place].unsqueeze(1)
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
    colours = to_tensor(image).to(soft.device)
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
    scores: BackgroundScores
    sound: frozenset[str] = frozenset()  # the images whose seed is there already
    device: str = "cpu"  # of all but the dense CRF, which knows the CPU alone

    def __call__(self, id: str) -> MadeSeed | str:
        """Make the seed of an image, or read the one that is sound. Return what was made; or, as a sentence,
        why it could not be."""
        started = time.process_time()
        try:
            classes, stored = read_maps(self.folder.map(id))
            maps = torch.from_numpy(stored).to(self.device)
            path = self.folder.seed(id)
            if id in self.sound:
                seed = read_mask(path, None, len(self.dataset.classes))
                data = path.read_bytes()
            else:
                image = self.dataset.image(id)
                seed = seed_of(image, maps, classes, self.dataset.background, self.settings, self.scores)
                data = as_png(seed)
                write_atomic(path, data)
        except WriteError:  # no other image would fare better
            raise
        except (BenchError, ValueError, OSError) as error:
            return str(error)
        tags = torch.ones(1, len(classes), dtype=torch.bool, device=maps.device)
        dead = cam.dead_tags(maps[None], tags).sum() if classes else 0
        count = len(self.dataset.classes)
        pixels = np.bincount(np.where(seed == IGNORE, count, seed).ravel(), minlength=count + 1)
        seconds = time.process_time() - started
        return MadeSeed(int(dead), pixels, seconds, hashlib.sha256(data).hexdigest())


def as_png(seed: np.ndarray) -> bytes:
    """Encode a seed, H W uint8, as the bytes of its PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(seed).save(buffer, format="PNG")
    return buffer.getvalue()


def in_processes(
    work: Callable[[str], Any], ids: Sequence[str], jobs: int
) -> Generator[tuple[str, Any], None, None]:
    """`work` on every id, in `jobs` processes made once; with one job, in this one. Yields as they come."""
    if jobs == 1 or len(ids) < 2:
        for id in ids:
            yield id, work(id)
        return
    with Pool(min(jobs, len(ids)), work) as pool:
        futures = {pool.submit(id): id for id in ids}
        for future in as_completed(futures):
            yield futures[future], future.result()
