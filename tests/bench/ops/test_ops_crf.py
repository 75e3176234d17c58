"""The dense CRF against an exact mean field, and pixel-adaptive refinement against what follows from its
definition."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.ops import crf
from bench.ops.crf import (
    PUBLISHED,
    CrfParameters,
    label_probability,
    pixel_adaptive,
    pixel_adaptive_weights,
    refine,
    refine_labels,
)
from bench.ops.losses import IGNORE

try:
    importlib.import_module("pydensecrf.densecrf")
    installed = True
except ModuleNotFoundError:
    installed = False
needs_crf = pytest.mark.skipif(not installed, reason="pydensecrf does not build on this Python")
if sys.version_info < (3, 13):
    assert installed, "pydensecrf is a dependency here: its tests must not be skipped"

SIZE = (16, 20)


def exact(image: np.ndarray, probability: np.ndarray, parameters: CrfParameters) -> np.ndarray:
    """Mean field with dense N x N kernels instead of the lattice: L H W -> L H W. Symmetric normalisation,
    and a pixel is its own neighbour, as in pydensecrf."""
    labels, height, width = probability.shape
    place = np.stack(np.mgrid[:height, :width], -1).reshape(-1, 2).astype(float)
    colour = image.reshape(-1, 3).astype(float)

    def kernel(feature: np.ndarray) -> np.ndarray:
        squared = ((feature[:, None] - feature[None]) ** 2).sum(-1)
        k = np.exp(-squared / 2)
        norm = 1 / np.sqrt(k.sum(1))
        return norm[:, None] * k * norm[None]

    alike = np.concatenate([place / parameters.alike_width, colour / parameters.alike_colour], 1)
    total = parameters.near_weight * kernel(place / parameters.near_width)
    total += parameters.alike_weight * kernel(alike)
    log_p = np.log(np.clip(probability, crf.FLOOR, 1)).reshape(labels, -1)
    q = np.exp(log_p) / np.exp(log_p).sum(0)
    for _ in range(parameters.iterations):
        scores = log_p + q @ total
        scores = np.exp(scores - scores.max(0))
        q = scores / scores.sum(0)
    return q.reshape(probability.shape)


def smooth_image(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Two soft patches and some noise."""
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    base = 90 + 80 * np.sin(5 * x + 2) * np.cos(4 * y)
    return np.clip(base[..., None] + rng.normal(0, 6, (*size, 3)), 0, 255).astype(np.uint8)


def soft_maps(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """... L H W that sum to 1 over L."""
    scores = np.exp(rng.normal(size=shape))
    return scores / scores.sum(-3, keepdims=True)


def picture(labels: int) -> tuple[np.ndarray, np.ndarray]:
    """A wave of brightness with a little noise, and probabilities that follow it loosely: each label likes a
    brightness of its own."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] / 20
    wave = np.sin(5 * x + 2) * np.cos(4 * y)
    image = (120 + 80 * wave[..., None] + rng.normal(0, 2, (*SIZE, 3))).clip(0, 255).astype(np.uint8)
    liked = np.linspace(-0.8, 0.8, labels)[:, None, None]
    scores = np.exp(-2 * (wave - liked) ** 2 + rng.normal(0, 0.5, (labels, *SIZE)))
    return image, scores / scores.sum(0)


def compare(
    image: np.ndarray,
    probability: np.ndarray,
    parameters: CrfParameters,
    *,
    mean: float,
    worst: float,
    agreement: float,
) -> None:
    ours, oracle = refine(image, probability, parameters), exact(image, probability, parameters)
    assert np.abs(ours - oracle).mean() <= mean
    assert np.abs(ours - oracle).max() <= worst
    assert (ours.argmax(0) == oracle.argmax(0)).mean() >= agreement
    # And the CRF did more than the tolerance covers.
    assert np.abs(oracle - probability).mean() >= 2 * mean


def two_halves() -> tuple[np.ndarray, np.ndarray]:
    """An image of two flat colours, 40 x 60, and the label of each side."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = 200
    return image, (image[..., 0] > 0).astype(np.int64)


# The dense CRF against the exact one ------------------------------------------------------------------------


def test_published_parameters() -> None:
    """Near width and weight; alike width, colour and weight."""
    expected = {
        "irn": CrfParameters(3, 3, 50, 5, 10, iterations=10),
        "psa": CrfParameters(3, 3, 80, 13, 10, iterations=10),
        "toco": CrfParameters(3, 3, 36, 3, 4, iterations=10),
        "deeplab": CrfParameters(1, 3, 67, 3, 4, iterations=10),
        "afa_final": CrfParameters(3, 3, 64, 5, 4, iterations=10),
        "toco_final": CrfParameters(1, 1, 121, 5, 4, iterations=10),
        "mctformer_final": CrfParameters(4, 3, 83, 5, 3, iterations=10),
    }
    assert expected == PUBLISHED


@needs_crf
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("labels", [2, 3])
def test_one_step_is_close_to_the_exact_one(name: str, labels: int) -> None:
    """The lattice is an approximation: probabilities differ by 0.012 in the mean and 0.2 at worst, over eight
    such images."""
    image, probability = picture(labels)
    step = replace(PUBLISHED[name], iterations=1)
    compare(image, probability, step, mean=0.012, worst=0.2, agreement=0.98)


@needs_crf
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("labels", [2, 3])
def test_ten_steps_are_close_to_the_exact_ones(name: str, labels: int) -> None:
    """At a tenth of the weights: at the published ones a region may tip over as a whole, for an arbitrarily
    small reason, and ten steps amplify what the lattice lacks."""
    image, probability = picture(labels)
    published = PUBLISHED[name]
    gentle = replace(
        published, near_weight=published.near_weight / 10, alike_weight=published.alike_weight / 10
    )
    compare(image, probability, gentle, mean=0.008, worst=0.05, agreement=0.975)


@needs_crf
@pytest.mark.parametrize("name", PUBLISHED)
def test_clear_cases_are_those_of_the_exact_mean_field(name: str) -> None:
    image, truth = (array[12:28, 20:40] for array in two_halves())
    noisy = np.where(np.random.default_rng(0).random(truth.shape) < 0.1, 1 - truth, truth)
    probability = label_probability(noisy, [0, 1])
    oracle = exact(image, probability, PUBLISHED[name])
    assert np.abs(refine(image, probability, PUBLISHED[name]) - oracle).max() <= 0.02


@needs_crf
@pytest.mark.parametrize("size", [(1, 12), (12, 1), (1, 1), (2, 1)])
def test_one_pixel_wide(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    image, probability = smooth_image(rng, size), soft_maps(rng, 2, *size)
    ours = refine(image, probability, PUBLISHED["psa"])
    oracle = exact(image, probability, PUBLISHED["psa"])
    assert np.abs(ours - oracle).max() <= 0.1
    assert (ours.argmax(0) == oracle.argmax(0)).all()
    assert refine(image, probability, PUBLISHED["psa"], half_size=True).shape == probability.shape


@needs_crf
def test_two_pixels_by_hand() -> None:
    """Far apart in colour, a pixel hears only itself: logit q = logit p + w (2 q - 1). Of one colour both
    agree."""
    p = np.array([0.9, 0.4])
    probability = np.stack([p, 1 - p])[:, None]
    alike = CrfParameters(1, 0, 80, 13, 1)
    image = np.zeros((1, 2, 3), np.uint8)
    flat = refine(image, probability, alike)[0, 0]
    image[0, 1] = 255
    apart = refine(image, probability, alike)[0, 0]
    np.testing.assert_allclose(apart, [0.9574, 0.3155], atol=1e-3)
    np.testing.assert_allclose(flat, [0.9334, 0.5090], atol=5e-3)
    np.testing.assert_allclose(flat, exact(np.zeros_like(image), probability, alike)[0, 0], atol=5e-3)


@needs_crf
@pytest.mark.parametrize(("iterations", "expected"), [(1, [0.9321, 0.4433]), (10, [0.9383, 0.4730])])
def test_two_neighbours_by_hand(iterations: int, expected: list[float]) -> None:
    p = np.array([0.9, 0.4])
    probability = np.stack([p, 1 - p])[:, None]
    near = CrfParameters(1, 1, 80, 13, 0, iterations)
    image = np.zeros((1, 2, 3), np.uint8)
    np.testing.assert_allclose(exact(image, probability, near)[0, 0], expected, atol=1e-4)
    np.testing.assert_allclose(refine(image, probability, near)[0, 0], expected, atol=0.02)


# Invariants -------------------------------------------------------------------------------------------------


@needs_crf
def test_without_steps_or_weights_nothing_changes() -> None:
    rng = np.random.default_rng(2)
    image, probability = smooth_image(rng), soft_maps(rng, 3, *SIZE)
    irn = PUBLISHED["irn"]
    for idle in (replace(irn, iterations=0), replace(irn, near_weight=0, alike_weight=0)):
        np.testing.assert_allclose(refine(image, probability, idle), probability, atol=1e-6)


@needs_crf
def test_uniform_stays_uniform_and_sums_stay_one() -> None:
    rng = np.random.default_rng(3)
    image = smooth_image(rng)
    uniform = np.full((4, *SIZE), 0.25)
    assert (refine(image, uniform, PUBLISHED["irn"]) == 0.25).all()
    np.testing.assert_allclose(refine(image, soft_maps(rng, 3, *SIZE), PUBLISHED["irn"]).sum(0), 1, atol=5e-7)


@needs_crf
def test_labels_are_interchangeable() -> None:
    rng = np.random.default_rng(4)
    image, probability, order = smooth_image(rng), soft_maps(rng, 3, *SIZE), [2, 0, 1]
    ours = refine(image, probability, PUBLISHED["toco"])
    np.testing.assert_allclose(refine(image, probability[order], PUBLISHED["toco"]), ours[order], atol=1e-6)


@needs_crf
def test_deterministic_and_inputs_stay() -> None:
    rng = np.random.default_rng(5)
    image, probability = smooth_image(rng), soft_maps(rng, 3, *SIZE)
    image.flags.writeable = probability.flags.writeable = False  # what np.asarray of a PIL image is
    before = image.copy(), probability.copy()
    ours = refine(image, probability, PUBLISHED["deeplab"])
    assert (refine(image, probability, PUBLISHED["deeplab"]) == ours).all()
    assert (image == before[0]).all() and (probability == before[1]).all()


@needs_crf
@pytest.mark.parametrize("half_size", [False, True])
def test_maps_of_one_image_share_lattices_to_the_bit(
    half_size: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    image, maps = smooth_image(rng), soft_maps(rng, 2, 3, *SIZE)
    apart = np.stack([refine(image, one, PUBLISHED["irn"], half_size) for one in maps])
    library, built = crf._library(), []

    class Counted:
        @staticmethod
        def DenseCRF2D(*args: int) -> object:
            built.append(args)
            return library.DenseCRF2D(*args)

    monkeypatch.setattr(crf, "_library", lambda: Counted)
    together = refine(image, maps, PUBLISHED["irn"], half_size)
    assert len(built) == 1
    assert (together == apart).all()
    assert not (apart[0] == apart[1]).all()


@needs_crf
def test_many_maps_one_after_the_other_do_not_disturb_each_other() -> None:
    rng = np.random.default_rng(7)
    image, one = smooth_image(rng), soft_maps(rng, 2, *SIZE)
    many = refine(image, np.stack([one, 1 - one, one]), PUBLISHED["psa"])
    assert (many[0] == many[2]).all()


# Labels -----------------------------------------------------------------------------------------------------


def test_probability_of_labels_by_hand() -> None:
    label = np.array([[4, 0], [IGNORE, 18]])
    p = label_probability(label, [0, 4, 18], certainty=0.7)
    np.testing.assert_allclose(p[:, 0, 0], [0.15, 0.7, 0.15])
    np.testing.assert_allclose(p[:, 0, 1], [0.7, 0.15, 0.15])
    np.testing.assert_allclose(p[:, 1, 0], [1 / 3] * 3)
    np.testing.assert_allclose(p[:, 1, 1], [0.15, 0.15, 0.7])
    np.testing.assert_allclose(
        -np.log(label_probability(label[:1], [0, 4])[:, 0, 0]), [1.2040, 0.3567], atol=1e-4
    )
    assert (label_probability(np.array([[7, IGNORE]]), [7]) == 1).all()


@needs_crf
def test_energies_of_labels_are_the_published_ones() -> None:
    unary_from_labels = importlib.import_module("pydensecrf.utils").unary_from_labels
    label = np.random.default_rng(8).integers(0, 3, SIZE)
    theirs = unary_from_labels(label, 3, gt_prob=0.7, zero_unsure=False)
    ours = -np.log(label_probability(label, [0, 1, 2])).astype(np.float32).reshape(3, -1)
    assert (ours == theirs).all()


@pytest.mark.parametrize(
    ("label", "classes", "certainty", "said"),
    [
        ([[0, 3]], [0, 4], 0.7, r"\[3\] are not among the classes \[0, 4\]"),
        ([[0]], [0, 0], 0.7, "ascending"),
        ([[0]], [4, 0], 0.7, "ascending"),
        ([[0]], [0, 255], 0.7, "below 255"),
        ([[0]], [], 0.7, "ascending"),
        ([[0]], [0, 1], 1.0, "between 0 and 1"),
        ([[0]], [0, 1], 0.0, "between 0 and 1"),
    ],
)
def test_labels_that_cannot_be(
    label: list[list[int]], classes: list[int], certainty: float, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        label_probability(np.array(label), classes, certainty)


@needs_crf
@pytest.mark.parametrize("half_size", [False, True])
def test_wrong_labels_are_put_right(half_size: bool) -> None:
    """10 % of the labels flipped, two flat colours: not one is left."""
    image, truth = two_halves()
    noisy = np.where(np.random.default_rng(0).random(truth.shape) < 0.1, 1 - truth, truth)
    assert 200 < (noisy != truth).sum() < 300
    ids = np.array([0, 15])
    refined = refine_labels(image, ids[noisy], [0, 15], PUBLISHED["irn"], half_size=half_size)
    assert (refined == ids[truth]).all()


@needs_crf
def test_undecided_labels_are_filled_by_colour() -> None:
    image, truth = two_halves()
    sparse = np.where(np.random.default_rng(0).random(truth.shape) < 0.3, truth, IGNORE)
    assert (refine_labels(image, sparse, [0, 1, 2], PUBLISHED["irn"]) == truth).all()


@needs_crf
def test_labels_of_two_thresholds_together() -> None:
    rng = np.random.default_rng(9)
    image, maps = smooth_image(rng), rng.choice([0, 4, 18], (2, *SIZE))
    together = refine_labels(image, maps, [0, 4, 18], PUBLISHED["irn"])
    apart = [refine_labels(image, one, [0, 4, 18], PUBLISHED["irn"]) for one in maps]
    assert (together == np.stack(apart)).all()
    assert set(np.unique(together)) <= {0, 4, 18}


# Images the CRF is not made for -----------------------------------------------------------------------------


@needs_crf
def test_single_colour() -> None:
    """Colour tells nothing apart: the majority wins, and nothing is NaN."""
    image = np.full((*SIZE, 3), 77, np.uint8)
    rng = np.random.default_rng(10)
    label = (rng.random(SIZE) < 0.2).astype(np.int64)
    posterior = refine(image, label_probability(label, [0, 1]), PUBLISHED["irn"])
    assert np.isfinite(posterior).all()
    assert (posterior.argmax(0) == 0).all()


@needs_crf
def test_gray_is_rgb_of_equal_channels() -> None:
    rng = np.random.default_rng(11)
    gray, probability = smooth_image(rng)[..., 0], soft_maps(rng, 2, *SIZE)
    rgb = np.repeat(gray[..., None], 3, 2)
    assert (refine(gray, probability, PUBLISHED["irn"]) == refine(rgb, probability, PUBLISHED["irn"])).all()


@needs_crf
def test_views_that_are_not_contiguous() -> None:
    rng = np.random.default_rng(12)
    image, probability = smooth_image(rng), soft_maps(rng, 2, *SIZE)
    view = np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)
    fortran = np.asfortranarray(probability)
    ours = refine(image, probability, PUBLISHED["irn"])
    assert (refine(view, fortran, PUBLISHED["irn"]) == ours).all()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((*SIZE, 3), np.uint16), "uint16.*uint8 alone"),
        (np.zeros((*SIZE, 3), np.float32), "float32.*uint8 alone"),
        (np.zeros((*SIZE, 4), np.uint8), "must be H W 3"),
        (np.zeros((3, *SIZE), np.uint8), "must be H W 3"),
        (np.zeros((0, 20, 3), np.uint8), "must be H W 3"),
        (np.zeros((*SIZE[::-1], 3), np.uint8), "do not fit an image of 20 x 16"),
    ],
)
def test_images_that_are_refused(image: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        refine(image, np.full((2, *SIZE), 0.5), PUBLISHED["irn"])


@pytest.mark.parametrize(
    ("probability", "said"),
    [
        (np.full((2, *SIZE), 0.6), "sum to 1"),
        (np.full((2, *SIZE), np.nan), "finite"),
        (np.stack([np.full(SIZE, 1.5), np.full(SIZE, -0.5)]), "not negative"),
        (np.zeros((0, *SIZE)), "at least one label"),
        (np.full(SIZE, 1.0), "must be ... L H W"),
    ],
)
def test_probabilities_that_are_refused(probability: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        refine(np.zeros((*SIZE, 3), np.uint8), probability, PUBLISHED["irn"])


def test_an_image_without_tags_needs_no_crf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crf, "_library", lambda: pytest.fail("the CRF was asked"))
    image = np.zeros((*SIZE, 3), np.uint8)
    assert (refine_labels(image, np.zeros(SIZE, int), [0], PUBLISHED["irn"]) == 0).all()


def test_without_pydensecrf_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    monkeypatch.setattr("bench.ops.crf", crf)  # is put back, when the fresh import has taken its place
    monkeypatch.delitem(sys.modules, "bench.ops.crf")
    module = importlib.import_module("bench.ops.crf")
    with pytest.raises(ModuleNotFoundError, match=r"install the distribution pydensecrf2.*pixel_adaptive"):
        module.refine(np.zeros((*SIZE, 3), np.uint8), np.full((2, *SIZE), 0.5), module.PUBLISHED["irn"])


# Half size --------------------------------------------------------------------------------------------------


@needs_crf
@pytest.mark.parametrize("size", [(16, 20), (15, 19)])
def test_half_size_is_the_crf_of_the_averaged_image(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(13)
    image, probability = smooth_image(rng, size), soft_maps(rng, 2, 3, *size)
    half = refine(image, probability, PUBLISHED["psa"], half_size=True)
    assert half.shape == probability.shape and half.dtype == np.float32
    np.testing.assert_allclose(half.sum(-3), 1, atol=1e-6)
    if size == (16, 20):
        small = image.reshape(8, 2, 10, 2, 3).mean((1, 3)).round().astype(np.uint8)
        coarse = probability.reshape(2, 3, 8, 2, 10, 2).mean((3, 5))
        by_hand = refine(small, coarse, replace(PUBLISHED["psa"], near_width=1.5, alike_width=40))
        enlarged = torch.nn.functional.interpolate(torch.from_numpy(by_hand), size, mode="bilinear")
        np.testing.assert_allclose(half, enlarged.numpy(), atol=1e-5)


# Pixel-adaptive refinement ----------------------------------------------------------------------------------


def step_edge() -> tuple[Tensor, Tensor]:
    """Black left, white right, 64 x 64, and the mask of the right side."""
    image, mask = torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    image[..., 32:] = 255
    mask[..., 32:] = 1
    return image, mask


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_weights_sum_to_one_and_are_positive() -> None:
    weights = pixel_adaptive_weights(noise(2, 3, 11, 9))
    assert weights.shape == (2, 48, 11, 9)
    assert weights.min() > 0
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 11, 9))


def test_a_constant_mask_stays_where_the_release_raises_it() -> None:
    """The released weights sum to 1.01: ten steps make 1.104622 of it."""
    refined = pixel_adaptive(noise(1, 3, 12, 12), torch.full((1, 2, 12, 12), 0.3))
    torch.testing.assert_close(refined, torch.full((1, 2, 12, 12), 0.3))
    assert 1.01**10 * refined.max().item() == pytest.approx(0.3 * 1.104622, abs=1e-5)


def test_one_step_by_hand_on_a_row() -> None:
    """Three pixels in a row, dilation 1: above and below are the pixel itself, repeated. The neighbours of
    the left pixel (0) are 0, 0, 1 three times over but for itself: 0 0 1 0 1 0 0 1."""
    image = torch.tensor([0.0, 1.0, 1.0]).expand(1, 3, 1, 3)
    mask = torch.tensor([0.0, 1.0, 1.0]).view(1, 1, 1, 3)
    around = np.array([0, 0, 1, 0, 1, 0, 0, 1.0])
    steps = np.array([2**0.5, 1, 2**0.5, 1, 1, 2**0.5, 1, 2**0.5])

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum()

    colour = softmax(-((around / around.std(ddof=1) / 0.3) ** 2))
    distance = softmax(-((steps / steps.std(ddof=1) / 0.3) ** 2))
    weight = (colour + 0.01 * distance) / 1.01
    refined = pixel_adaptive(image, mask, dilations=(1,), iterations=1)
    assert refined[0, 0, 0, 0].item() == pytest.approx((weight * around).sum(), rel=1e-5)


def test_constant_image_takes_the_mean_of_the_neighbours() -> None:
    """But for the distances' hundredth."""
    mask = noise(1, 1, 64, 64)
    refined = pixel_adaptive(torch.full((1, 3, 64, 64), 0.4), mask, iterations=1)
    offsets = [(d * y, d * x) for d in (1, 2, 4, 8, 12, 24) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
    mean = torch.stack([mask[0, 0, 32 + y, 32 + x] for y, x in offsets]).mean()
    assert refined[0, 0, 32, 32].item() == pytest.approx(mean.item(), abs=0.01)
    assert refined.var() < mask.var() / 10


def test_edges_keep() -> None:
    """The leak over a step edge at 1, 2, 4, 8, 16 pixels, as published but for the factor of the sum."""
    refined = pixel_adaptive(*step_edge())[0, 0, 32]
    leak = [refined[32 - distance].item() * 1.01**10 for distance in (1, 2, 4, 8, 16)]
    assert leak == pytest.approx([0.0085, 0.0047, 0.0018, 0.0009, 0.0006], abs=6e-5)
    assert (refined[32:] > 0.99).all()


def test_a_wrong_blob_on_flat_ground_is_wiped_out() -> None:
    image, _ = step_edge()
    blob = torch.zeros(1, 1, 64, 64)
    blob[..., 27:37, 8:18] = 1
    assert pixel_adaptive(image, blob)[0, 0, 31:33, 12:14].max() < 0.05


def test_scale_of_the_colours_does_not_matter() -> None:
    image, mask = noise(1, 3, 20, 20), noise(1, 2, 20, 20, seed=1)
    torch.testing.assert_close(
        pixel_adaptive(image, mask), pixel_adaptive(255 * image, mask), atol=1e-5, rtol=0
    )


def test_channels_images_and_mirror() -> None:
    image, mask = noise(2, 3, 20, 24), noise(2, 3, 20, 24, seed=1)
    refined = pixel_adaptive(image, mask)
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(pixel_adaptive(image, mask.flip(1)), refined.flip(1), **close)
    torch.testing.assert_close(pixel_adaptive(image[1:], mask[1:]), refined[1:], **close)
    torch.testing.assert_close(pixel_adaptive(image.flip(-1), mask.flip(-1)), refined.flip(-1), **close)
    assert mask.min() <= refined.min() and refined.max() <= mask.max()


def test_smaller_than_the_dilations_and_no_steps() -> None:
    mask = noise(1, 2, 1, 5)
    assert torch.isfinite(pixel_adaptive(noise(1, 3, 1, 5), mask)).all()
    assert torch.equal(pixel_adaptive(noise(1, 3, 1, 5), mask, iterations=0), mask)


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"the mask is \(5, 5\), the image \(5, 6\)"):
        pixel_adaptive(noise(1, 3, 5, 6), noise(1, 1, 5, 5))
