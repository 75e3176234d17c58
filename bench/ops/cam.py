"""From tags to seeds: class activation maps (CAM), the labels they give, and how good these are.

B images of H W pixels, C classes of the data set, K maps per image: one for each class that a tag can name.
`classes` are these classes' ids, `tags` (B K bool) says which of them an image has. A seed is a map of class
ids with 255 where it is undecided.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.labels import IGNORE

EPSILON = 1e-5  # of the normalisations, in all of IRN, SEAM, AFA and ToCo
Undecided = Literal["missed", "excluded"] | int
Rule = Literal["max", "min-max", "seam"]  # of `normalise`


class Best(NamedTuple):
    """A pixel's strongest map among its image's tags. B H W each."""

    label: Tensor  # int64 class id; 255 in an image without tags
    value: Tensor  # of its map; 0 in an image without tags
    lead: Tensor  # over the second tag, inf where there is none


class Quality(NamedTuple):
    """Shares of pixels, 0..1, float64; NaN where there is nothing to count. Shapes for counts ... C C+1."""

    miou: Tensor  # ...: mean of iou over the classes that occur
    iou: Tensor  # ... C
    precision: Tensor  # ... C: of the pixels given to a class, those that are of it
    recall: Tensor  # ... C: of the pixels of a class, those given to it
    class_coverage: Tensor  # ... C: of the pixels of a class, those decided
    coverage: Tensor  # ...: of all pixels


# Activation maps -------------------------------------------------------------------------------------------


def activation(features: Tensor, weight: Tensor) -> Tensor:
    """How much each place speaks for each class: B D h w and K D -> B K h w, of any sign.

    The mean over the places is the logit that the classifier `weight`, without bias, gives to the mean
    feature (Zhou et al., CVPR 2016).
    """
    return torch.einsum("bdhw,kd->bkhw", features, weight)


def pooled(activation: Tensor, valid: Tensor) -> Tensor:
    """Global average pooling over the valid places: B K h w and B h w bool -> B K, 0 where none is valid."""
    inside = valid.unsqueeze(1)
    exact = torch.promote_types(activation.dtype, torch.float32)  # half precision cannot add up an image
    return (activation * inside).sum((-2, -1), dtype=exact) / inside.sum((-2, -1)).clamp(min=1)


def merge(
    maps: Sequence[tuple[Tensor, Tensor | None]], size: tuple[int, int], flip: Literal["sum", "max"]
) -> Tensor:
    """One map of an image seen at several scales, and in the mirror at each.

    Args:
        maps: For each scale the activations of the image and those of its mirror image, as they came (not
            mirrored back), or None: B K h w of any sign. They must cover the image and nothing else; so scale
            it to a multiple of the network's stride instead of padding it.
        size: H W of the result.
        flip: "sum" adds the positive parts of image and mirror, then resizes (IRN, make_cam.py). "max"
            resizes, then takes the larger of the two (AFA and ToCo, camutils.py). Scales are summed in both.

    Returns:
        B K H W, 0 or more.
    """
    total = torch.zeros((), device=maps[0][0].device)
    for straight, mirrored in maps:
        back = None if mirrored is None else mirrored.flip(-1)
        if flip == "sum":
            scale = _resized(straight.relu() if back is None else straight.relu() + back.relu(), size)
        else:
            scale = _resized(straight, size)
            scale = (scale if back is None else torch.maximum(scale, _resized(back, size))).relu()
        total = total + scale
    return total


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def normalise(cam: Tensor, rule: Rule = "max") -> Tensor:
    """Every map on its own to the range 0..1. Normalise what is left when padding has been cut off.

    Args:
        cam: B K H W of any sign; what is negative counts as 0.
        rule: "max" divides by the maximum (IRN). "min-max" subtracts the minimum first (AFA, ToCo): a map
            that is equally strong everywhere becomes 0. "seam" does so and takes another 1e-5 off (SEAM,
            infer_SEAM.py; there, what is at the minimum comes out slightly negative, here as 0).

    Returns:
        B K H W; a map without any positive value is 0 everywhere.
    """
    cam = cam.relu()
    high = cam.amax((-2, -1), keepdim=True)
    if rule == "max":
        return cam / (high + EPSILON)
    low = cam.amin((-2, -1), keepdim=True)
    if rule == "min-max":
        return (cam - low) / (high - low + EPSILON)
    return (cam - low - EPSILON).relu() / (high - low + EPSILON)


def at_image_size(maps: Tensor, size: tuple[int, int], rule: Rule) -> Tensor:
    """Give the stored maps of one image, normalised at its own size: K h w -> 1 K H W in 0..1; K may be 0."""
    if not len(maps):
        return maps.new_zeros(1, 0, *size)
    full = F.interpolate(maps[None], size, mode="bilinear", align_corners=False)
    return normalise(full, rule)


def dead_tags(cam: Tensor, tags: Tensor) -> Tensor:
    """Give the tags whose map is positive nowhere, so that no pixel can be theirs: B K H W and B K -> B K
    bool.

    A NaN in a map counts as dead as well.
    """
    return tags & ~(cam.amax((-2, -1)) > 0)


def best_tagged(cam: Tensor, tags: Tensor, classes: Sequence[int]) -> Best:
    """Give the strongest map of each pixel, where only an image's tags count; of equal ones the first. A
    value that is NaN is above no threshold.

    Args:
        cam: B K H W, 0 or more.
        tags: B K bool.
        classes: The K ids of the maps, of which there may be none.

    Raises:
        ValueError: The three do not agree in K.
    """
    if not cam.shape[1] == tags.shape[1] == len(classes):
        raise ValueError(f"{cam.shape[1]} maps, {tags.shape[1]} tags and {len(classes)} classes do not agree")
    if not classes:
        nothing = cam.new_zeros(len(cam), *cam.shape[-2:])  # B H W
        return Best(torch.full_like(nothing, IGNORE, dtype=torch.int64), nothing, nothing + torch.inf)
    allowed = cam.masked_fill(~tags[:, :, None, None], -torch.inf)
    value, place = allowed.max(1)
    second = allowed.scatter(1, place.unsqueeze(1), -torch.inf).amax(1)
    none = ~tags.any(1)[:, None, None]
    label = torch.tensor(classes, device=cam.device)[place].masked_fill(none, IGNORE)
    return Best(label, value.masked_fill(none, 0), (value - second).masked_fill(none, torch.inf))


# Seeds -----------------------------------------------------------------------------------------------------


def power_background(best: Best, alpha: float) -> Tensor:
    """Give the score (1 - strongest map) ** alpha of the background, for normalised maps: B H W, 0..1.

    PSA and SEAM take alpha 4 and 24, MCTformer 1 and 12. A smaller alpha is a higher score. Without a CRF it
    is a constant score in disguise, for example 0.2755 for alpha 4: where m = (1 - m) ** alpha.
    """
    return (1 - best.value).clamp(min=0) ** alpha


def over_background(best: Best, score: float | Tensor, background: int) -> Tensor:
    """Give the strongest tagged class where it beats the background, else the background: B H W int64.

    Args:
        score: Of the background, a constant or B H W. A tie is background, and so is an image without tags.
        background: Its class id.
    """
    return torch.where((best.value > score) & (best.label != IGNORE), best.label, background)


def between(strict: Tensor, loose: Tensor, background: int) -> Tensor:
    """Give the seed of two labels of one image: foreground where the strict one says so, background where
    both do, 255 where only the loose one is foreground (IRN, cam_to_ir_label.py; there each goes through a
    CRF first).

    Args:
        strict, loose: ... H W class ids, of a high and of a low background score.
    """
    sure = (strict != background) | (loose == background)
    return strict.masked_fill(~sure, IGNORE)


def seeds_over_background(
    cam: Tensor,
    tags: Tensor,
    classes: Sequence[int],
    background: int,
    *,
    strict: float | Tensor,
    loose: float | Tensor,
    valid: Tensor | None = None,
) -> Tensor:
    """Seeds by two background scores, without a CRF: a class above `strict`, background up to `loose`, 255
    between. IRN takes 0.30 and 0.05, AFA 0.55 and 0.35, ToCo 0.70 and 0.25 (each for its own normalisation).

    Args:
        cam: B K H W, normalised.
        tags: B K bool. An image without tags is background throughout.
        classes: The K ids of the maps, without the background's.
        background: Its class id.
        strict, loose: Background scores, constants or B H W (`power_background`); strict is nowhere below
            loose.
        valid: B H W bool, False in padding, where the seed is undecided.

    Returns:
        B H W int64, `background`, tagged ids, or 255.

    Raises:
        ValueError: `classes` names the background or does not agree with K, or strict is below loose.
    """
    if background in classes:
        raise ValueError(f"class {background} is the background, which has a score instead of a map")
    if not isinstance(strict, Tensor) and not isinstance(loose, Tensor) and strict < loose:
        raise ValueError(f"the strict background score {strict} is below the loose one, {loose}")
    best = best_tagged(cam, tags, classes)
    seed = between(
        over_background(best, strict, background), over_background(best, loose, background), background
    )
    return _inside(seed, valid)


def seeds_by_lead(
    cam: Tensor,
    tags: Tensor,
    classes: Sequence[int],
    *,
    minimum: float,
    lead: float,
    valid: Tensor | None = None,
) -> Tensor:
    """Seeds of a data set without a background class: the strongest tagged class, 255 where it is weak (at
    most `minimum`) or barely ahead of the next tag (by at most `lead`).

    Args:
        cam, tags, classes, valid: As of `seeds_over_background`. An image without tags is undecided
            throughout; one with a single tag needs no lead.
        minimum, lead: 0 or more, in units of the normalised map. With a lead of 0 only ties are undecided.

    Returns:
        B H W int64, tagged ids or 255.
    """
    best = best_tagged(cam, tags, classes)
    return _inside(leading(best, lead).label.masked_fill(best.value <= minimum, IGNORE), valid)


def leading(best: Best, lead: float) -> Best:
    """`best` with the label 255 where it is not ahead of the next tag by more than `lead`."""
    return best._replace(label=best.label.masked_fill(~(best.lead > lead), IGNORE))


def _inside(seed: Tensor, valid: Tensor | None) -> Tensor:
    return seed if valid is None else seed.masked_fill(~valid, IGNORE)


# Quality of seeds ------------------------------------------------------------------------------------------


def seed_counts(seed: Tensor, label: Tensor, classes: int) -> Tensor:
    """Count pairs of (truth, seed): C C+1 int64, truth in rows, the undecided pixels in the last column.

    Add the counts of a data set up before taking their quality. Pixels with the label 255 are not counted.

    Args:
        seed, label: Of one shape; ids below C, or 255.
        classes: C.

    Raises:
        ValueError: Another id occurs.
    """
    seed, label = seed.flatten().long(), label.flatten().long()
    for ids, what in ((seed, "seed"), (label, "label")):
        _check_ids(ids, classes, what)
    seed = seed.masked_fill(seed == IGNORE, classes)
    kept = label != IGNORE
    cell = label[kept] * (classes + 1) + seed[kept]
    return torch.bincount(cell, minlength=classes * (classes + 1)).view(classes, classes + 1)


def threshold_counts(
    best: Best, label: Tensor, thresholds: Tensor, classes: int, background: int | None
) -> Tensor:
    """`seed_counts` for every threshold at once, from one pass over the pixels: T C C+1 int64.

    A pixel is given its strongest tagged class where that is above the threshold. For the curve of a lead,
    give `leading(best, lead)`.

    Args:
        best: Of normalised maps; a pixel with the label 255 is above no threshold.
        label: B H W; 255 is not counted.
        thresholds: T, ascending.
        classes: C.
        background: The class of what is not above the threshold; None: it is undecided.

    Raises:
        ValueError: The thresholds do not ascend, or a label is out of range.
    """
    if not (thresholds.diff() > 0).all():
        raise ValueError(f"thresholds must ascend: {thresholds.tolist()}")
    steps = len(thresholds) + 1
    kept = label.flatten() != IGNORE
    truth, given = label.flatten()[kept].long(), best.label.flatten()[kept]
    _check_ids(truth, classes, "label")
    value = best.value.flatten()[kept].masked_fill(given == IGNORE, -torch.inf).nan_to_num(-torch.inf)
    # The number N of thresholds below the value: the pixel is foreground for the first N.
    passed = torch.searchsorted(thresholds.to(value), value)
    given = given.masked_fill(given == IGNORE, 0)  # passes none, so it counts for no class
    cell = (truth * classes + given) * steps + passed
    table = torch.bincount(cell, minlength=classes * classes * steps).view(classes, classes, steps)
    above = table.flip(2).cumsum(2).flip(2)[..., 1:].permute(2, 0, 1)  # T C C
    counts = F.pad(above, (0, 1))
    rest = table.sum((1, 2)) - above.sum(2)
    counts[..., classes if background is None else background] += rest
    return counts


def quality(counts: Tensor, undecided: Undecided = "missed") -> Quality:
    """mIoU, precision, recall and coverage of seeds.

    Args:
        counts: ... C C+1 int64, truth in rows, undecided in the last column.
        undecided: What an undecided pixel is. "missed": not found, so it lowers recall and IoU of its class.
            "excluded": not there, as peers' tables have it; a class that is undecided throughout then drops
            out of the mean. A class id: of that class, say the background.
    """
    counts = counts.double()
    decided, open_ = counts[..., :-1], counts[..., -1]
    if not isinstance(undecided, str):
        decided = decided.clone()
        decided[..., undecided] += open_
    hit = decided.diagonal(dim1=-2, dim2=-1)
    predicted, truth = decided.sum(-2), decided.sum(-1)
    if undecided == "missed":
        truth = truth + open_
    iou = hit / (predicted + truth - hit)
    pixels = counts.sum(-1)
    return Quality(
        miou=iou.nanmean(-1),
        iou=iou,
        precision=hit / predicted,
        recall=hit / truth,
        class_coverage=1 - open_ / pixels,
        coverage=1 - open_.sum(-1) / pixels.sum(-1),
    )


def _check_ids(ids: Tensor, classes: int, what: str) -> None:
    wrong = ((ids < 0) | (ids >= classes)) & (ids != IGNORE)
    if wrong.any():
        raise ValueError(
            f"the {what} has class ids {ids[wrong].unique().tolist()}, outside 0..{classes - 1} and not 255"
        )
