"""Masks that follow the edges of the image: the fully connected CRF, and a local refinement in torch.

The CRF (Krähenbühl and Koltun, NIPS 2011) takes the probabilities of an image's labels and, for ten steps of
mean field, lets pixels that lie close, or close and alike in colour, agree. It runs on one core and holds the
interpreter's lock: spread images over processes, not threads.

L labels of an image, H W its size. The time grows with L, so give the labels the image may have (background
and its tags), not all classes of the data set.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.labels import IGNORE

FLOOR = 1e-5  # of a probability, whose logarithm is taken; as pydensecrf's unary_from_softmax


@dataclass(frozen=True)
class CrfParameters:
    """Widths and weights of the two kernels: distance alone, and distance with colour.

    Widths are standard deviations, in pixels and in levels of 0..255. A pair of pixels with different labels
    pays the weight times the kernel, normalised symmetrically.
    """

    near_width: float
    near_weight: float
    alike_width: float
    alike_colour: float
    alike_weight: float
    iterations: int = 10


PUBLISHED = {
    # IRN (Ahn et al., CVPR 2019), misc/imutils.py crf_inference_label; ReCAM, RIB and AdvCAM use it too.
    "irn": CrfParameters(3, 3, 50, 5, 10),
    # PSA (Ahn and Kwak, CVPR 2018), tool/imutils.py crf_inference; SEAM and 1-stage-wseg use it too.
    "psa": CrfParameters(3, 3, 80, 13, 10),
    # ToCo (Ru et al., CVPR 2023), the CRF on its CAMs.
    "toco": CrfParameters(3, 3, 36, 3, 4),
    # DeepLab v2 with ResNet-101 on VOC; CLIP-ES uses it for seeds.
    "deeplab": CrfParameters(1, 3, 67, 3, 4),
    # What follows is of segmentations, not of seeds: AFA (Ru et al., CVPR 2022) and WeCLIP (CVPR 2024), the
    # CRF on the softmax of the last prediction.
    "afa_final": CrfParameters(3, 3, 64, 5, 4),
    # ToCo, the CRF on the softmax of the last prediction.
    "toco_final": CrfParameters(1, 1, 121, 5, 4),
    # MCTformer (Xu et al., CVPR 2022), the CRF on the softmax of its second-stage segmentation.
    "mctformer_final": CrfParameters(4, 3, 83, 5, 3),
}
CERTAINTY = 0.7  # of a label; gt_prob of IRN's crf_inference_label


def label_probability(label: np.ndarray, classes: Sequence[int], certainty: float = CERTAINTY) -> np.ndarray:
    """Give the probability of each class where labels are right with `certainty`, the others sharing the
    rest.

    Args:
        label: ... H W integers, each one of `classes`, or 255: all classes are as likely there.
        classes: The L class ids the image may have, ascending.
        certainty: Between 0 and 1.

    Returns:
        ... L H W float64. With a single class it is 1 everywhere.

    Raises:
        ValueError: A label is neither of `classes` nor 255, or an argument is out of range.
    """
    if not 0 < certainty < 1:
        raise ValueError(f"the certainty of a label must lie between 0 and 1, not {certainty}")
    ids = _ascending(classes)
    one_hot = np.expand_dims(label, -3) == ids[:, None, None]
    undecided = np.expand_dims(label == IGNORE, -3)
    if not (one_hot.any(-3, keepdims=True) | undecided).all():
        strange = np.setdiff1d(label, [*ids, IGNORE])
        raise ValueError(f"labels {strange.tolist()} are not among the classes {ids.tolist()} of the image")
    if len(ids) == 1:
        return np.ones(one_hot.shape)
    # Written as the complement over the others: the energies get the same bits as unary_from_labels gives.
    certain = np.where(one_hot, certainty, (1 - certainty) / (len(ids) - 1))
    return np.where(undecided, 1 / len(ids), certain)


def refine(
    image: np.ndarray, probability: np.ndarray, parameters: CrfParameters, half_size: bool = False
) -> np.ndarray:
    """Give the CRF's posterior. Several maps of one image, say of two thresholds, share its lattices: the
    same bits, without building them again.

    The lattice is an approximation of the Gaussian kernels, and not mirror symmetric.

    Args:
        image: H W 3 or H W (gray) uint8, RGB. One pixel of height or width is enough.
        probability: ... L H W float, summing to 1 over the labels (within 1e-3).
        parameters: One of PUBLISHED, or your own.
        half_size: Average image and probability over squares of 2 x 2 pixels, halve the widths, and enlarge
            the posterior again: about a quarter of the time, coarser edges.

    Returns:
        ... L H W float32, summing to 1 over the labels. With a single label, 1 without a CRF.

    Raises:
        ValueError: An argument is of another type, shape or range.
        ModuleNotFoundError: pydensecrf is not installed.
    """
    image = _rgb(image)
    size = image.shape[:2]
    if probability.ndim < 3 or probability.shape[-2:] != size or probability.shape[-3] < 1:
        raise ValueError(
            f"probabilities of the shape {probability.shape} do not fit an image of {size[0]} x {size[1]} "
            "pixels: they must be ... L H W, with at least one label"
        )
    if not np.isfinite(probability).all() or probability.min(initial=0) < 0:
        raise ValueError("probabilities must be finite and not negative")
    if np.abs(probability.sum(-3) - 1).max(initial=0) > 1e-3:
        raise ValueError(
            "the probabilities of a pixel's labels must sum to 1; take a softmax of scores first"
        )
    if probability.shape[-3] == 1:
        return np.ones(probability.shape, np.float32)
    maps = probability.reshape(-1, *probability.shape[-3:])  # S L H W
    if not half_size:
        return _mean_field(image, maps, parameters, 1).reshape(probability.shape)
    half = [(side + 1) // 2 for side in size]
    colours = _resized(image.transpose(2, 0, 1)[None].astype(np.float64), half, "area")[0].transpose(1, 2, 0)
    coarse = _mean_field(
        np.rint(colours).astype(np.uint8), _resized(maps.astype(np.float64), half, "area"), parameters, 2
    )
    return _resized(coarse, size, "bilinear").reshape(probability.shape)


def refine_labels(
    image: np.ndarray,
    label: np.ndarray,
    classes: Sequence[int],
    parameters: CrfParameters,
    certainty: float = CERTAINTY,
    half_size: bool = False,
) -> np.ndarray:
    """Labels after the CRF, each pixel the likeliest class of its image; of equal ones the lower id.

    Args:
        image, parameters, half_size: As of `refine`.
        label: ... H W integers among `classes`, or 255 where any of them may be right. Give the maps of two
            thresholds together: they share the lattices.
        classes: The L class ids the image may have, ascending: background, where there is one, and its tags.
        certainty: That a given label is right.

    Returns:
        ... H W int64, class ids; 255 never comes out. With a single class it is all that comes out.

    Raises:
        ValueError: As of `refine` and `label_probability`.
        ModuleNotFoundError: pydensecrf is not installed.
    """
    return likeliest(image, label_probability(label, classes, certainty), classes, parameters, half_size)


def likeliest(
    image: np.ndarray,
    probability: np.ndarray,
    classes: Sequence[int],
    parameters: CrfParameters,
    half_size: bool = False,
) -> np.ndarray:
    """Give the likeliest class of each pixel after the CRF; of equal ones the lower id.

    Args:
        image, probability, parameters, half_size: As of `refine`.
        classes: The ids of the L classes of `probability`, ascending.

    Returns:
        ... H W int64, class ids.

    Raises:
        ValueError: As of `refine`.
        ModuleNotFoundError: pydensecrf is not installed.
    """
    return _ascending(classes)[refine(image, probability, parameters, half_size).argmax(-3)]


def _ascending(classes: Sequence[int]) -> np.ndarray:
    ids = np.asarray(classes, dtype=np.int64)
    if ids.ndim != 1 or len(ids) == 0 or (np.diff(ids) <= 0).any() or ids[0] < 0 or ids[-1] >= IGNORE:
        raise ValueError(f"the classes of an image must be distinct ascending ids below 255, not {classes}")
    return ids


def _rgb(image: np.ndarray) -> np.ndarray:
    """H W 3 uint8, of what may be gray."""
    if image.dtype != np.uint8:
        raise ValueError(
            f"the image is {image.dtype}; the CRF takes uint8 alone, since its colour width counts levels of "
            "0..255. Scale it to 0..255 and round it first"
        )
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"the image has the shape {image.shape}; it must be H W 3 (RGB) or H W (gray)")
    return image


def _resized(maps: np.ndarray, size: Sequence[int], mode: str) -> np.ndarray:
    """N C H W -> N C of `size`; the sum over C stays, as the weights of both modes sum to 1."""
    return F.interpolate(torch.from_numpy(maps), tuple(size), mode=mode).numpy()


def _mean_field(image: np.ndarray, maps: np.ndarray, parameters: CrfParameters, shrink: int) -> np.ndarray:
    """S L H W -> S L H W float32, with one pair of lattices for all maps."""
    height, width = image.shape[:2]
    crf = _library().DenseCRF2D(width, height, maps.shape[1])
    crf.addPairwiseGaussian(sxy=parameters.near_width / shrink, compat=parameters.near_weight)
    crf.addPairwiseBilateral(
        sxy=parameters.alike_width / shrink,
        srgb=parameters.alike_colour,
        rgbim=np.require(image, requirements=["C", "W"]),  # it only reads, and yet refuses read-only memory
        compat=parameters.alike_weight,
    )
    refined = np.empty(maps.shape, np.float32)
    for energy, out in zip(-np.log(np.clip(maps, FLOOR, 1)), refined, strict=True):
        crf.setUnaryEnergy(np.ascontiguousarray(energy.reshape(len(energy), -1), dtype=np.float32))
        out[:] = np.array(crf.inference(parameters.iterations)).reshape(out.shape)
    return refined


def _library() -> Any:
    try:
        import pydensecrf.densecrf
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the dense CRF needs the module pydensecrf: install the distribution pydensecrf2, which is built "
            "with g++ and up to Python 3.12, or use bench.ops.crf.pixel_adaptive instead",
            name=error.name,
        ) from error
    return pydensecrf.densecrf


# Pixel-adaptive refinement ---------------------------------------------------------------------------------

DILATIONS = (1, 2, 4, 8, 12, 24)  # of the 3 x 3 neighbourhoods; this and what follows as in AFA, wetr/PAR.py
WIDTH = 0.3  # of the kernels, in standard deviations over a pixel's neighbours
DISTANCE_WEIGHT = 0.01  # of the distances' softmax beside the colours'


def pixel_adaptive(
    image: Tensor, mask: Tensor, dilations: Sequence[int] = DILATIONS, iterations: int = 10
) -> Tensor:
    """Every step replaces a pixel by a mean over its neighbours, those of its colour most (PAR of AFA, Ru et
    al., CVPR 2022).

    It differs from the release in one factor: the weights sum to 1, where the released ones sum to 1.01 and
    so raise every mask by a tenth in ten steps, which no threshold expects. It runs where its tensors are and
    needs no pydensecrf, but wipes out small regions on flat ground: 10 x 10 pixels are gone after 10 steps.

    Args:
        image: B 3 H W, any range: colours count relative to their spread. AFA halves the image first.
        mask: B C H W float, of the image's size.
        dilations: Distances of the eight neighbours; the image's border is repeated outward.
        iterations: Steps.

    Returns:
        B C H W float32, within the range of `mask`.

    Raises:
        ValueError: Image and mask differ in size.
    """
    if image.shape[-2:] != mask.shape[-2:]:
        raise ValueError(
            f"the mask is {tuple(mask.shape[-2:])}, the image {tuple(image.shape[-2:])}: resize one first"
        )
    mask = mask.float()
    weights = pixel_adaptive_weights(image, dilations)
    for _ in range(iterations):
        # One neighbour after the other: all of them at once would take 48 times the mask's memory.
        moved = torch.zeros_like(mask)
        for weight, neighbour in zip(weights.unbind(1), _neighbours(mask, dilations), strict=True):
            moved += weight.unsqueeze(1) * neighbour
        mask = moved
    return mask


def pixel_adaptive_weights(image: Tensor, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """How much a pixel takes from each of its neighbours: B 3 H W -> B 8K H W for K dilations, summing to 1
    over the neighbours."""
    image = image.float()
    around = torch.stack(list(_neighbours(image, dilations)), 2)  # B 3 8K H W
    # AFA's guard against a spread of zero, where all differences are zero as well.
    deviation = (around - image.unsqueeze(2)) / (around.std(2, keepdim=True) + 1e-8)
    colour = -(deviation / WIDTH).square().mean(1)
    steps = torch.tensor([(dy * dy + dx * dx) ** 0.5 for dy, dx in _offsets(dilations)], device=image.device)
    distance = -(steps / (steps.std() + 1e-8) / WIDTH).square()
    summed = colour.softmax(1) + DISTANCE_WEIGHT * distance.softmax(0).view(-1, 1, 1)
    return summed / (1 + DISTANCE_WEIGHT)


def _offsets(dilations: Sequence[int]) -> list[tuple[int, int]]:
    around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    return [(step * dy, step * dx) for step in dilations for dy, dx in around]


def _neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """Yield `maps` (B C H W) moved by each offset, its border repeated outward."""
    height, width = maps.shape[-2:]
    reach = max(dilations)
    padded = F.pad(maps, [reach] * 4, mode="replicate")
    for dy, dx in _offsets(dilations):
        yield padded[..., reach + dy : reach + dy + height, reach + dx : reach + dx + width]
