"""Settings of a protocol for few and rare classes: weights in the loss on labeled pixels, a Dice term, and
which classes are rare. All are off by default, and then no mask is opened for them.

C classes of the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from bench.contract import Dataset, Stream, Supervision
from bench.errors import ConfigError
from bench.ops.gated_crf import gated_crf_of_logits
from bench.ops.losses import cross_entropy, ohem_cross_entropy, soft_dice_loss, weighted_cross_entropy
from bench.plan import Plan
from bench.settings.labeled_loss import GatedCrf
from bench.settings.schema import Protocol
from bench.training.sparse import sparse_streams

Loss = Callable[[Tensor, Tensor], Tensor]  # logits B C H W, label B H W -> scalar
SHOWN = 5  # rare classes that are named


@dataclass(frozen=True)
class Balance:
    """Weights and rare classes: the protocol's settings, worked out on the labels of one split."""

    weights: tuple[float, ...] | None = None  # C, positive; None: all classes weigh alike
    rare: tuple[int, ...] = ()  # class ids, the rarest first
    said: tuple[str, ...] = ()  # sentences for the user


def balance(plan: Plan, dataset: Dataset) -> Balance:
    """Settle weights and rare classes of a run.

    Pixels are counted in the masks, points and strokes that the split grants, which are opened once for it,
    and in the seeds of tagged images and of boxes, as far as they are made.

    Raises:
        ConfigError: There is not one weight a class.
        DataError: A granted mask is missing or cannot be read.
    """
    protocol, names = plan.config.protocol, dataset.classes
    given = protocol.class_weights
    if not isinstance(given, str) and len(given) != len(names):
        raise ConfigError(
            f"protocol.class_weights has {len(given)} numbers, and {dataset.name} has {len(names)} classes; "
            f"give one for each, in the order of their ids: {', '.join(names[:SHOWN])}"
            f"{', ...' if len(names) > SHOWN else '.'}"
        )
    if Supervision.PIXEL not in plan.method.needs:
        return Balance()
    counts = given == "inverse_sqrt" or protocol.rare_crops > 0
    pixels = labeled_pixels(plan, dataset) if counts else np.zeros(0, np.int64)
    weights = None if given == "none" else inverse_sqrt(pixels) if given == "inverse_sqrt" else given
    rare = rare_classes(pixels) if protocol.rare_crops > 0 else ()
    said = []
    if isinstance(weights, tuple) and given == "inverse_sqrt":
        low, high = (pick(range(len(names)), key=weights.__getitem__) for pick in (min, max))
        said.append(
            f"class weights from {weights[low]:.3g} ({names[low]}) to {weights[high]:.3g} ({names[high]})"
        )
    if rare:
        more = f" and {len(rare) - SHOWN} more" if len(rare) > SHOWN else ""
        said.append(f"rare crops aim at {', '.join(names[c] for c in rare[:SHOWN])}{more}")
    return Balance(weights, rare, tuple(said))


def labeled_pixels(plan: Plan, dataset: Dataset) -> np.ndarray:
    """Count the labeled pixels of each class that a run learns from: C int64."""
    pixels = class_pixels(dataset, plan.split.pixel)
    if (sparse := sparse_streams(plan, dataset)) is not None:
        made = {id for id in plan.split.boxes if plan.box_seeds and plan.box_seeds.folder.seed(id).exists()}
        pixels += _counted(map(sparse.label, (*sparse.drawn, *sorted(made))), len(dataset.classes))
    report = plan.seeds.folder.read_report() if plan.seeds else None
    return pixels if report is None else pixels + np.array(report.class_pixels, np.int64)


def class_pixels(dataset: Dataset, ids: Iterable[str]) -> np.ndarray:
    """Count the pixels of each class in the masks of some images, 255 left out: C int64."""
    return _counted(map(dataset.mask, ids), len(dataset.classes))


def _counted(masks: Iterable[np.ndarray], classes: int) -> np.ndarray:
    pixels = np.zeros(256, np.int64)
    for mask in masks:
        pixels += np.bincount(mask.ravel(), minlength=256)
    return pixels[:classes]


def inverse_sqrt(pixels: Sequence[int] | np.ndarray) -> tuple[float, ...]:
    """Weights that fall with the root of a class's pixels: 1 / sqrt(n), over their mean over the classes that
    occur. A class without a labeled pixel has 1: no label weighs by it.

    inverse_sqrt([4, 1, 0]) is (2/3, 4/3, 1).
    """
    counted = np.asarray(pixels, np.float64)
    occurs = counted > 0
    if not occurs.any():
        return (1.0,) * len(counted)
    raw = 1 / np.sqrt(counted, where=occurs, out=np.ones_like(counted))
    return tuple(np.where(occurs, raw / raw[occurs].mean(), 1.0).tolist())


def rare_classes(pixels: Sequence[int] | np.ndarray) -> tuple[int, ...]:
    """Give the half of the classes that occur with the fewest pixels, the rarest first; of three, one."""
    occurring = [c for c, count in enumerate(pixels) if count > 0]
    ranked = sorted(occurring, key=lambda c: (pixels[c], c))
    return tuple(ranked[: len(occurring) // 2])


def labeled_loss(protocol: Protocol, weights: Sequence[float] | None = None, device: str = "cpu") -> Loss:
    """Give the loss on labeled pixels that a protocol sets, the same for every method.

    Args:
        weights: C, of the classes; None: all alike.
        device: Where the logits will be.
    """
    settings = protocol.labeled_loss
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
    loss: Loss = cross_entropy if weight is None else partial(weighted_cross_entropy, weight=weight)
    if settings.name == "ohem":
        of = {"threshold": settings.ohem_threshold, "min_kept": settings.ohem_min_kept}
        loss = partial(ohem_cross_entropy, **of, weight=weight)  # type: ignore[arg-type]
    if protocol.dice:
        loss = partial(_with_dice, loss=loss, weight=protocol.dice)
    return loss if protocol.gated_crf is None else WithGatedCrf(loss, protocol.gated_crf)


def _with_dice(logits: Tensor, label: Tensor, loss: Loss, weight: float) -> Tensor:
    return loss(logits, label) + weight * soft_dice_loss(logits, label)


class WithGatedCrf:
    """A loss on labeled pixels, and beside it a gated CRF on the images with sparse labels among them.

    A method hands over logits and labels. The colours that the CRF needs are those of `stream`, which whoever
    trains sets before each step: so the term reaches every method, and none has to know of it.
    """

    def __init__(self, loss: Loss, settings: GatedCrf) -> None:
        self.loss, self.settings = loss, settings
        self.stream: Stream | None = None  # the labeled images of the step

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        loss, of, stream = self.loss(logits, label), self.settings, self.stream
        if stream is None or stream.sparse is None or label is not stream.label:
            return loss
        gate = stream.valid & stream.sparse[:, None, None]  # B H W
        window = (of.stride, of.radius, of.width, of.colour)
        return loss + of.weight * gated_crf_of_logits(logits, stream.image, gate, *window)
