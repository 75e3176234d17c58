"""Boxes of objects as masks: three ways, and where two of them agree.

H W the size of an image; a box is (label, top, left, bottom, right), of the rows [top, bottom) and columns
[left, right). Where boxes overlap, the smaller one lies in front. Outside of all boxes is background; without
a background class nobody knows what is there: 255.
"""

from collections.abc import Sequence

import numpy as np

from bench.labels import IGNORE, Box
from bench.ops import crf


def naive(boxes: Sequence[Box], size: tuple[int, int], background: int | None) -> np.ndarray:
    """Every box filled with its class: H W uint8 (BoxSup's start; "naive" of Khoreva et al., CVPR 2017)."""
    label = _ground(size, background)
    for box in _front_last(boxes):
        label[box.top : box.bottom, box.left : box.right] = box.label
    return label


def inner(
    boxes: Sequence[Box], size: tuple[int, int], background: int | None, share: float = 0.2
) -> np.ndarray:
    """Fill the middle of every box, `share` of its area, with its class; the rest of it is undecided: H W
    uint8 (Box_i of Khoreva et al., CVPR 2017, with 20 %)."""
    label = _ground(size, background)
    for box in _front_last(boxes):
        label[box.top : box.bottom, box.left : box.right] = IGNORE
        (top, bottom), (left, right) = (
            _middle(start, end, share**0.5) for start, end in ((box.top, box.bottom), (box.left, box.right))
        )
        label[top:bottom, left:right] = box.label
    return label


def inside_crf(
    image: np.ndarray,
    boxes: Sequence[Box],
    background: int | None,
    parameters: crf.CrfParameters,
    half_size: bool = False,
) -> np.ndarray:
    """Refine the naive labels by the dense CRF, within what the boxes allow: a pixel has the class of a box
    that it lies in, or is background. H W uint8.

    Args:
        image: H W 3 uint8, RGB.

    Raises:
        ModuleNotFoundError: pydensecrf is not installed.
    """
    size = (image.shape[0], image.shape[1])
    label = naive(boxes, size, background)
    classes = sorted({box.label for box in boxes} | (set() if background is None else {background}))
    if len(classes) < 2:
        return label
    allowed = np.zeros((len(classes), *size), np.bool_)  # L H W
    for box in boxes:
        allowed[classes.index(box.label), box.top : box.bottom, box.left : box.right] = True
    if background is not None:
        allowed[classes.index(background)] = True
    known = label != IGNORE
    probability = crf.label_probability(label, classes) * allowed
    probability = np.where(known, probability / probability.sum(0).clip(min=1e-9), 1 / len(classes))
    refined = crf.refine(image, probability, parameters, half_size)  # L H W
    found = np.array(classes)[np.where(allowed, refined, -1).argmax(0)]
    return np.where(known, found, IGNORE).astype(np.uint8)


def agreed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Keep what two labels of an image agree on, 255 where they differ."""
    return np.where(one == other, one, np.uint8(IGNORE))


def _ground(size: tuple[int, int], background: int | None) -> np.ndarray:
    return np.full(size, IGNORE if background is None else background, np.uint8)


def _front_last(boxes: Sequence[Box]) -> list[Box]:
    """Sort boxes by size, the largest first; of one size in the order of their numbers, so that no order of a
    file decides."""
    return sorted(boxes, key=lambda box: (-(box.bottom - box.top) * (box.right - box.left), box))


def _middle(start: int, end: int, share: float) -> tuple[int, int]:
    """Return the first and the end of the middle `share` of a span of pixels, at least one of them: `(4, 6)`
    for a fifth of `(0, 10)`."""
    length = max(1, round((end - start) * share))
    first = start + (end - start - length) // 2
    return first, first + length
