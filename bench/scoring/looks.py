"""Looks at single images of a finished run: what it was given of each, and what it says of it.

Sizes: H W of an image, h w of its picture, C classes of the data set. Label maps hold class ids and 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bench.contract import Dataset
from bench.errors import ConfigError, DataError
from bench.machine import choose_device
from bench.networks import exported
from bench.networks.segmenter import Segmenter
from bench.ops import cam, walk
from bench.ops.entropy import partition, pixel_entropy
from bench.ops.tags import restrict
from bench.plan import Plan, dataset_of, granted_tags, plan
from bench.randomness import numpy_for
from bench.records.folders import RunFolder
from bench.records.logs import read_maps
from bench.records.schema import Result
from bench.scoring.inference import Inference, to_tensor
from bench.settings.plain_yaml import read_yaml
from bench.settings.reading import validate
from bench.settings.schema import RunConfig
from datasets import rasters
from datasets.decode import read_mask
from datasets.encodings import colours
from datasets.splits import Split
from datasets.tags import TagTable

MOST = 32  # images of a sheet
ALPHA = 0.2  # share of unreliable pixels where the method has no such knob
SIDE = 220  # pixels of a panel's longer side


@dataclass(frozen=True)
class LookedAt:
    """An image, what a run was given of it and what it says of it. Pictures are h w, label maps uint8."""

    id: str
    tags: tuple[int, ...] | None  # the classes it may hold; None where no tags are granted
    image: np.ndarray  # h w 3 uint8
    truth: np.ndarray | None  # None where there is no mask
    heat: np.ndarray | None  # float in 0..1, the strongest tag's map; None where there is no seed
    seed: np.ndarray | None
    pseudo_label: np.ndarray
    unreliable: np.ndarray | None  # bool, the least sure share of all images' pixels; None until all are seen
    prediction: np.ndarray


@dataclass(frozen=True)
class Looks:
    """Looks at some images of one run."""

    result: Result
    palette: np.ndarray  # C 3 uint8
    background: int | None
    alpha: float  # share of unreliable pixels, 0..1
    seeds: bool  # whether the run learned from CAM seeds
    withheld: bool  # whether the run was not given the masks of these images
    images: list[LookedAt]


def look(folder: RunFolder, data_root: Path | None, images: int) -> Looks:
    """Look at training images of a finished run; the same run gives the same looks.

    It opens the masks of images whose masks were withheld from the run: for display, after all training.

    Args:
        folder: Of the run.
        data_root: Folder that holds the data sets; None: the one of the run's configuration.
        images: How many training images, 1..32: those that are not granted pixels, else those that are.

    Raises:
        ConfigError: The run was not trained to segment, or the number of images is not possible.
        DataError: There is no finished run, or its weights, seeds or images are missing or invalid.
    """
    if not 1 <= images <= MOST:
        raise ConfigError(f"a sheet has 1 to {MOST} images, not {images}; give another --images.")
    result = folder.read_result()
    if result is None:
        raise DataError(f"{folder.path} holds no finished run; give the folder that `run` prints at its end.")
    folder.refuse_altered(result)
    planned = _planned(folder, data_root, result)
    dataset = _dataset(planned, result)
    net, device = _network(planned, result)
    granted = granted_tags(planned, dataset) if planned.seeds else {}
    ids = chosen(planned.split, images, result.seed)
    seen, entropies = zip(*(_look(planned, dataset, granted, net, device, id) for id in ids), strict=True)
    alpha = float(planned.config.method.get("alpha", ALPHA))
    marks = unreliable(entropies, alpha)
    return Looks(
        result=result,
        palette=dataset.palette if dataset.palette is not None else colours(len(dataset.classes)),
        background=dataset.background,
        alpha=alpha,
        seeds=planned.seeds is not None,
        withheld=ids[0] not in planned.split.pixel,
        images=[replace(one, unreliable=fitted(mark)) for one, mark in zip(seen, marks, strict=True)],
    )


def _planned(folder: RunFolder, data_root: Path | None, result: Result) -> Plan:
    """Make the plan of a finished run again, wherever its folder lies by now.

    Raises:
        ConfigError: The method learns from tags alone.
        DataError: The split is another one by now, or the CAM seeds or the weights are gone.
    """
    config = validate(RunConfig, read_yaml(folder.config), file=folder.config)
    changed = {"out": str(folder.root), **({"data_root": str(data_root)} if data_root else {})}
    planned = plan(config.model_copy(update={"machine": config.machine.model_copy(update=changed)}))
    if "pixel" not in planned.method.needs:
        raise ConfigError(
            f"method {result.method!r} learns from tags alone, so its network has not learned to segment; "
            "show a run that learned from its seeds."
        )
    if planned.split.digests != result.split_digests:
        raise DataError(
            f"split {result.split!r} of {result.dataset!r} is not the one that {folder.path} was made with; "
            "restore it."
        )
    if planned.seeds is not None and planned.seeds.folder.read_report() is None:
        raise DataError(
            f"{planned.seeds.folder.path} does not hold the CAM seeds of the run; restore them, or make them "
            "with `cam-seeds`."
        )
    if not folder.weights.is_file():
        raise DataError(f"{folder.weights} does not exist; restore it, or run again with --overwrite.")
    return planned


def _dataset(planned: Plan, result: Result) -> Dataset:
    dataset = dataset_of(planned.config)
    if list(dataset.classes) != result.classes:
        raise DataError(
            f"the classes of {result.dataset!r} are not those of the run ({', '.join(result.classes)}); "
            "restore them."
        )
    return dataset


def _network(planned: Plan, result: Result) -> tuple[Segmenter, str]:
    """Load the scored module, and say on which device it is."""
    net = exported.read(planned.folder.weights, result.weights_file_digest)
    device = choose_device("auto")
    return net.eval().to(device, memory_format=torch.channels_last), device  # type: ignore[call-overload]


def chosen(split: Split, images: int, seed: int) -> list[str]:
    """Choose the ids of a sheet at random. A larger sheet begins with the ids of a smaller one."""
    labeled = set(split.pixel)
    ids = [id for id in split.train if id not in labeled] or [*split.pixel]
    return [ids[i] for i in numpy_for(seed, "sheet").permutation(len(ids))[:images]]


@torch.no_grad()
def _look(
    planned: Plan, dataset: Dataset, granted: TagTable, net: Segmenter, device: str, id: str
) -> tuple[LookedAt, Tensor]:
    """Look at an image. Give what is seen of it, and the entropy of its prediction, H W in nats."""
    image = dataset.image(id)
    size, classes = (image.shape[0], image.shape[1]), len(dataset.classes)
    tags, heat, seed = granted.get(id), None, None
    if planned.seeds is not None and tags is not None:
        known, stored = read_maps(planned.seeds.folder.map(id))
        maps, settings = torch.from_numpy(stored), planned.seeds.settings
        if settings.walk == "image":
            maps = walk.walked(maps, rasters.shown(image), settings.walk_steps)
        cams = cam.at_image_size(maps, size, settings.normalise)
        heat = cam.best_tagged(cams, torch.ones(1, len(known), dtype=torch.bool), known).value[0].numpy()
        seed = read_mask(planned.seeds.folder.seed(id), size, classes)
    try:
        truth = dataset.mask(id)
    except DataError:
        truth = None
    protocol = planned.config.protocol
    inference = Inference(protocol.evaluation, protocol.crop)
    batch = to_tensor(image).to(device, memory_format=torch.channels_last)
    pseudo_label, entropy = pseudo_labels(inference.probability(net, batch).cpu(), tags)
    prediction = inference(net, batch)[0].cpu().numpy().astype(np.uint8)
    looked = LookedAt(
        id=id,
        tags=tags,
        image=fitted(rasters.shown(image)),
        truth=None if truth is None else fitted(truth),
        heat=None if heat is None else fitted(heat),
        seed=None if seed is None else fitted(seed),
        pseudo_label=fitted(pseudo_label[0].numpy().astype(np.uint8)),
        unreliable=None,
        prediction=fitted(prediction),
    )
    return looked, entropy[0]


def pseudo_labels(probability: Tensor, tags: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """Compute the likeliest class and the entropy in nats, B H W each, from probabilities B C H W.

    Where tags are given, only their classes count: the probabilities are divided anew among them.
    """
    if tags:
        allowed = torch.zeros(len(probability), probability.shape[1], dtype=torch.bool)
        allowed[:, list(tags)] = True
        probability = restrict(probability, allowed)
    return probability.argmax(1), pixel_entropy(probability)


def unreliable(entropies: Sequence[Tensor], alpha: float) -> list[np.ndarray]:
    """Which pixels of several images, H W each, are unreliable as U2PL has it, with all images as a batch."""
    together = torch.cat([entropy.flatten() for entropy in entropies])
    flat = partition(together, torch.ones_like(together, dtype=torch.bool), alpha).unreliable
    parts = flat.split([entropy.numel() for entropy in entropies])
    return [part.view(entropy.shape).numpy() for part, entropy in zip(parts, entropies, strict=True)]


def fitted(picture: np.ndarray, side: int = SIDE) -> np.ndarray:
    """H W or H W 3 -> the same with `side` for the longer side: colours are averaged where it shrinks, of
    anything else the nearest pixel is taken."""
    height, width = picture.shape[:2]
    factor = side / max(height, width)
    h, w = max(round(height * factor), 1), max(round(width * factor), 1)
    if picture.ndim == 3:
        return np.asarray(Image.fromarray(picture).resize((w, h), Image.Resampling.BOX))
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in ((h, height), (w, width))
    )
    return picture[rows[:, None], columns]
