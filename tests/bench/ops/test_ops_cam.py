"""Activation maps, seeds and their quality: cases by hand first, then what must hold for any maps."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.ops.cam import (
    Best,
    activation,
    best_tagged,
    between,
    dead_tags,
    leading,
    merge,
    normalise,
    over_background,
    power_background,
    quality,
    seed_counts,
    seeds_by_lead,
    seeds_over_background,
    threshold_counts,
)
from bench.ops.losses import IGNORE

CLASSES = (1, 2)


def row(*maps: list[float]) -> Tensor:
    """Maps of one image one pixel high: 1 K 1 W."""
    return torch.tensor(maps)[None, :, None]


def tagged(*tags: bool) -> Tensor:
    return torch.tensor([tags])


def listed(seed: Tensor) -> list[int]:
    return seed.flatten().tolist()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Activation maps -------------------------------------------------------------------------------------------


def test_activation_by_hand() -> None:
    features = torch.tensor([[1.0, 3.0], [2.0, 0.0]]).view(1, 2, 1, 2)
    cam = activation(features, torch.tensor([[2.0, -1.0]]))
    assert cam.flatten().tolist() == [0, 6]
    assert normalise(cam).flatten().tolist() == pytest.approx([0, 6 / 6.00001])


def test_the_mean_of_a_map_is_the_logit_of_the_mean_feature() -> None:
    features, classifier = noise(2, 5, 4, 3), nn.Linear(5, 3, bias=False)
    cam = activation(features, classifier.weight)
    assert cam.shape == (2, 3, 4, 3)
    torch.testing.assert_close(cam.mean((2, 3)), classifier(features.mean((2, 3))))


def test_the_map_of_the_mirrored_image_is_the_mirrored_map() -> None:
    net, weight, image = nn.Conv2d(3, 5, 1), noise(2, 5), noise(1, 3, 6, 7)
    torch.testing.assert_close(
        activation(net(image.flip(-1)), weight), activation(net(image), weight).flip(-1)
    )


def test_merge_by_hand() -> None:
    """The mirror's map is mirrored back. Summed: positive parts 1 + 0, 0 + 3. The larger: max(1, -2),
    max(-1, 3). A second scale without a mirror adds 2 everywhere."""
    straight, mirrored = row([1.0, -1.0]), row([3.0, -2.0])
    second = torch.full((1, 1, 1, 1), 2.0)
    for flip, expected in (("sum", [1, 3]), ("max", [1, 3])):
        assert merge([(straight, mirrored)], (1, 2), flip).flatten().tolist() == expected  # type: ignore[arg-type]
    straight = row([1.0, 1.0])
    assert merge([(straight, mirrored)], (1, 2), "sum").flatten().tolist() == [1, 4]
    assert merge([(straight, mirrored)], (1, 2), "max").flatten().tolist() == [1, 3]
    assert merge([(straight, mirrored), (second, None)], (1, 2), "sum").flatten().tolist() == [3, 6]
    assert merge([(straight, mirrored), (second, None)], (1, 2), "max").flatten().tolist() == [3, 5]
    assert merge([(-second, None)], (1, 2), "max").flatten().tolist() == [0, 0]


def test_the_rules_differ_in_what_is_resized() -> None:
    """From 4 and -4 to four pixels: resized first 4 2 -2 -4, of which 4 2 0 0 is left; of the positive part
    4 0 it is 4 3 1 0."""
    maps: list[tuple[Tensor, Tensor | None]] = [(row([4.0, -4.0]), None)]
    assert merge(maps, (1, 4), "max").flatten().tolist() == [4, 2, 0, 0]
    assert merge(maps, (1, 4), "sum").flatten().tolist() == [4, 3, 1, 0]


@pytest.mark.parametrize("flip", ["sum", "max"])
def test_merging_is_mirror_equivariant(flip: Literal["sum", "max"]) -> None:
    """What the image gives, its mirror image gives in the mirror: the two maps of a scale change places."""
    maps: list[tuple[Tensor, Tensor]] = [
        (noise(2, 3, h, w, seed=h), noise(2, 3, h, w, seed=w)) for h, w in ((4, 5), (8, 9))
    ]
    merged = merge(list(maps), (16, 18), flip)
    mirrored = merge([(b, a) for a, b in maps], (16, 18), flip)
    assert merged.shape == (2, 3, 16, 18) and merged.min() >= 0
    torch.testing.assert_close(mirrored, merged.flip(-1), atol=2e-6, rtol=0)
    same_size = [(a, b) for a, b in maps[:1]]
    exact = merge(list(same_size), (4, 5), flip)
    assert torch.equal(merge([(b, a) for a, b in same_size], (4, 5), flip), exact.flip(-1))


def test_normalising_by_hand() -> None:
    cam = row([-3.0, 1.0, 2.0, 4.0], [2.0, 4.0, 4.0, 6.0])
    expected = {
        "max": [[0, 0.25, 0.5, 1], [2 / 6, 4 / 6, 4 / 6, 1]],
        "min-max": [[0, 0.25, 0.5, 1], [0, 0.5, 0.5, 1]],
        "seam": [[0, 0.25, 0.5, 1], [0, 0.5, 0.5, 1]],
    }
    rules: tuple[Literal["max", "min-max", "seam"], ...] = ("max", "min-max", "seam")
    for rule in rules:
        torch.testing.assert_close(
            normalise(cam, rule), row(*map(list, expected[rule])).float(), atol=1e-5, rtol=0
        )
    assert normalise(row([1.0]), "max").item() == pytest.approx(1 / 1.00001, abs=1e-7)
    # The last 1e-5 of SEAM: what is hardly above the minimum is nothing.
    assert listed(normalise(row([1.0, 1.000005, 2.0]), "seam") > 0) == [0, 0, 1]
    assert listed(normalise(row([1.0, 1.000005, 2.0]), "min-max") > 0) == [0, 1, 1]


@pytest.mark.parametrize("rule", ["max", "min-max", "seam"])
def test_a_map_that_is_nowhere_positive_becomes_zero(rule: Literal["max", "min-max", "seam"]) -> None:
    cam = torch.stack([torch.full((2, 3), -1.0), torch.zeros(2, 3)])[None]
    assert torch.equal(normalise(cam, rule), torch.zeros_like(cam))


def test_weights_of_the_classifier_may_be_scaled() -> None:
    features, weight = noise(1, 4, 5, 5), noise(3, 4)
    once, scaled = (normalise(activation(features, factor * weight)) for factor in (1, 7))
    torch.testing.assert_close(once, scaled, atol=1e-4, rtol=0)


def test_dead_tags_are_told() -> None:
    """Positive, nowhere positive, nowhere positive but not tagged, not a number."""
    cam = row([0.0, 0.1], [0.0, -1.0], [0.0, 0.0], [math.nan, 1.0])
    assert dead_tags(cam, tagged(True, True, False, True)).tolist() == [[False, True, False, True]]


# Seeds by hand ---------------------------------------------------------------------------------------------

CAMS = row([0.9, 0.4, 0.2, 0.02], [0.1, 0.45, 0.1, 0.01])


def test_two_background_scores_by_hand() -> None:
    best = best_tagged(CAMS, tagged(True, True), CLASSES)
    strict, loose = over_background(best, 0.30, 0), over_background(best, 0.05, 0)
    assert listed(strict) == [1, 2, 0, 0]
    assert listed(loose) == [1, 2, 1, 0]
    assert listed(between(strict, loose, 0)) == [1, 2, IGNORE, 0]
    seeds = seeds_over_background(CAMS, tagged(True, True), CLASSES, 0, strict=0.30, loose=0.05)
    assert listed(seeds) == [1, 2, IGNORE, 0]


def test_a_tie_with_the_score_is_background() -> None:
    seeds = seeds_over_background(
        row([0.9, 0.55, 0.5, 0.35, 0.34]), tagged(True), (7,), 0, strict=0.55, loose=0.35
    )
    assert listed(seeds) == [7, IGNORE, IGNORE, 0, 0]


def test_the_background_may_be_any_class() -> None:
    seeds = seeds_over_background(CAMS, tagged(True, True), (0, 3), 2, strict=0.30, loose=0.05)
    assert listed(seeds) == [0, 3, IGNORE, 2]


def test_labels_are_ids_of_the_data_set() -> None:
    """Twenty maps, the tags of the maps 3 and 17: only 0, 4, 18 and 255 come out."""
    tags = torch.zeros(1, 20, dtype=torch.bool)
    tags[0, [3, 17]] = True
    cam = normalise(noise(1, 20, 30, 30))
    seeds = seeds_over_background(cam, tags, range(1, 21), 0, strict=0.3, loose=0.05)
    assert set(listed(seeds)) == {0, 4, 18, IGNORE}


def test_permuted_class_ids_permute_the_labels() -> None:
    cam, tags = normalise(noise(1, 3, 8, 8)), tagged(True, True, False)
    seeds = seeds_over_background(cam, tags, (1, 2, 3), 0, strict=0.3, loose=0.05)
    order = [2, 0, 1]
    permuted = seeds_over_background(
        cam[:, order], tags[:, order], [(1, 2, 3)[n] for n in order], 0, strict=0.3, loose=0.05
    )
    assert torch.equal(seeds, permuted)


def test_images_without_tags() -> None:
    cam, tags = torch.ones(2, 2, 1, 3), torch.tensor([[False, False], [True, False]])
    over = seeds_over_background(cam, tags, CLASSES, 0, strict=0.3, loose=0.05)
    assert over.tolist() == [[[0, 0, 0]], [[1, 1, 1]]]
    ahead = seeds_by_lead(cam, tags, CLASSES, minimum=0.3, lead=0.1)
    assert ahead.tolist() == [[[IGNORE] * 3], [[1, 1, 1]]]
    best = best_tagged(cam, tags, CLASSES)
    assert listed(best.label[0]) == [IGNORE] * 3 and listed(best.value[0]) == [0] * 3
    assert torch.isinf(best.lead).all()
    # Not even where any score would do.
    assert listed(over_background(best, -1.0, 0)[0]) == [0] * 3


def test_padding_is_undecided() -> None:
    valid = torch.tensor([[[True, False, False, True]]])
    tags = tagged(True, True)
    over = seeds_over_background(CAMS, tags, CLASSES, 0, strict=0.3, loose=0.05, valid=valid)
    ahead = seeds_by_lead(CAMS, tags, CLASSES, minimum=0, lead=0, valid=valid)
    assert listed(over) == [1, IGNORE, IGNORE, 0]
    assert listed(ahead) == [1, IGNORE, IGNORE, 1]


def test_equal_scores_leave_nothing_undecided() -> None:
    cam = normalise(noise(1, 2, 9, 9))
    seeds = seeds_over_background(cam, tagged(True, True), CLASSES, 0, strict=0.2, loose=0.2)
    assert IGNORE not in listed(seeds)


def test_a_score_of_one_is_background_everywhere() -> None:
    for scale in (1, 1e4):
        cam = normalise(scale * noise(1, 2, 9, 9))
        seeds = seeds_over_background(cam, tagged(True, True), CLASSES, 0, strict=1.0, loose=1.0)
        assert set(listed(seeds)) == {0}


def test_a_dead_tag_yields_no_foreground() -> None:
    cam = normalise(row([-1.0, -1.0, -1.0], [-1.0, 0.5, 1.0]))
    seeds = seeds_over_background(cam, tagged(True, True), CLASSES, 0, strict=0.3, loose=0.0)
    assert listed(seeds) == [0, 2, 2]
    assert listed(seeds_by_lead(cam, tagged(True, True), CLASSES, minimum=0, lead=0)) == [IGNORE, 2, 2]


def test_power_background_by_hand() -> None:
    """With alpha 1 a half is a tie, which is background. Scores may be maps: a smaller alpha is stricter."""
    best = best_tagged(row([0.5, 0.6, 0.0, 1.0]), tagged(True), (1,))
    assert listed(over_background(best, power_background(best, 1), 0)) == [0, 1, 0, 1]
    torch.testing.assert_close(power_background(best, 4).flatten(), torch.tensor([0.0625, 0.0256, 1.0, 0.0]))
    cam = row([0.9, 0.2, 0.05])
    best = best_tagged(cam, tagged(True), (1,))
    strict, loose = power_background(best, 4), power_background(best, 24)
    assert listed(seeds_over_background(cam, tagged(True), (1,), 0, strict=strict, loose=loose)) == [
        1,
        IGNORE,
        0,
    ]


@pytest.mark.parametrize(
    ("alpha", "constant"), [(1, 0.5), (4, 0.2755), (12, 0.1474), (16, 0.1228), (24, 0.0939), (32, 0.0770)]
)
def test_power_background_is_a_constant_in_disguise(alpha: float, constant: float) -> None:
    best = best_tagged(row([constant - 1e-4, constant + 1e-4]), tagged(True), (1,))
    assert listed(over_background(best, power_background(best, alpha), 0)) == [0, 1]


def test_without_a_background_class_by_hand() -> None:
    """Clear, weak, barely ahead, equal, at the minimum, and clear for the second."""
    cam = row([0.9, 0.2, 0.50, 0.5, 0.25, 0.125], [0.1, 0.0, 0.45, 0.5, 0.0, 0.5])
    both = tagged(True, True)
    assert listed(seeds_by_lead(cam, both, (4, 5), minimum=0.25, lead=0.1)) == [
        *(4, IGNORE, IGNORE, IGNORE, IGNORE, 5)
    ]
    assert listed(seeds_by_lead(cam, both, (4, 5), minimum=0.0, lead=0.0)) == [4, 4, 4, IGNORE, 4, 5]
    # A lead of exactly what is asked for is not enough.
    assert listed(seeds_by_lead(cam, both, (4, 5), minimum=0.0, lead=0.375))[-1] == IGNORE
    # A single tag has nobody to be ahead of.
    assert listed(seeds_by_lead(cam, tagged(True, False), (4, 5), minimum=0.25, lead=0.6)) == [
        *(4, IGNORE, 4, 4, IGNORE, IGNORE)
    ]


def test_nan_is_no_class() -> None:
    cam = row([math.nan, 1.0], [0.5, 0.2])
    both = tagged(True, True)
    assert listed(seeds_over_background(cam, both, CLASSES, 0, strict=0.3, loose=0.3)) == [0, 1]
    assert listed(seeds_by_lead(cam, both, CLASSES, minimum=0.3, lead=0.1)) == [IGNORE, 1]
    counts = threshold_counts(
        best_tagged(cam, both, CLASSES), torch.ones(1, 1, 2).long(), torch.tensor([0.3]), 3, 0
    )
    assert counts[0, 1].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"classes": (1, 2, 3)}, "2 maps, 2 tags and 3 classes"),
        ({"tags": tagged(True)}, "2 maps, 1 tags and 2 classes"),
        ({"classes": (0, 1)}, "class 0 is the background"),
        ({"strict": 0.04}, "0.04 is below the loose one, 0.05"),
    ],
)
def test_arguments_that_do_not_fit(change: dict[str, Any], said: str) -> None:
    fitting = {
        "cam": CAMS,
        "tags": tagged(True, True),
        "classes": CLASSES,
        "background": 0,
        "strict": 0.3,
        "loose": 0.05,
    }
    seeds_over_background(**fitting)
    with pytest.raises(ValueError, match=said):
        seeds_over_background(**{**fitting, **change})


# Seeds of any maps -----------------------------------------------------------------------------------------

numbers = st.integers(0, 2**31)
scores = st.floats(0, 1, width=32)


def any_maps(seed: int) -> tuple[Tensor, Tensor]:
    """Normalised maps of three images and four classes, coarse enough for ties, and any tags."""
    generator = torch.Generator().manual_seed(seed)
    cam = torch.randint(-8, 9, (3, 4, 5, 6), generator=generator).float()
    return normalise(cam), torch.rand(3, 4, generator=generator) < 0.5


@settings(max_examples=40, deadline=None)
@given(numbers, scores, scores)
def test_a_tag_not_given_never_appears(seed: int, one: float, two: float) -> None:
    cam, tags = any_maps(seed)
    ids, background = torch.tensor([3, 0, 7, 5]), 1
    over = seeds_over_background(
        cam, tags, ids.tolist(), background, strict=max(one, two), loose=min(one, two)
    )
    ahead = seeds_by_lead(cam, tags, ids.tolist(), minimum=one, lead=two)
    for image in range(len(tags)):
        given_ids = set(ids[tags[image]].tolist())
        assert set(listed(over[image])) <= given_ids | {background, IGNORE}
        assert set(listed(ahead[image])) <= given_ids | {IGNORE}


@settings(max_examples=40, deadline=None)
@given(numbers, scores, scores, scores)
def test_thresholds_are_monotone(seed: int, one: float, two: float, three: float) -> None:
    """A higher strict score never adds foreground and only adds 255; a lower loose score never adds
    background; a higher minimum or lead only adds 255."""
    cam, tags = any_maps(seed)
    low, middle, high = sorted((one, two, three))
    ids = (1, 2, 3, 4)

    def seeds(strict: float, loose: float) -> Tensor:
        return seeds_over_background(cam, tags, ids, 0, strict=strict, loose=loose)

    base, stricter, looser = seeds(middle, middle), seeds(high, middle), seeds(middle, low)
    assert ((stricter == base) | (stricter == IGNORE)).all()
    assert ((base != 0) | (stricter == 0)).all()
    assert ((looser == base) | (looser == IGNORE)).all()
    assert ((base == 0) | (looser == base)).all()
    ahead = seeds_by_lead(cam, tags, ids, minimum=low, lead=low)
    for minimum, lead in ((high, low), (low, high)):
        fewer = seeds_by_lead(cam, tags, ids, minimum=minimum, lead=lead)
        assert ((fewer == ahead) | (fewer == IGNORE)).all()


@settings(max_examples=40, deadline=None)
@given(numbers, scores, scores)
def test_seeds_are_mirror_equivariant(seed: int, one: float, two: float) -> None:
    cam, tags = any_maps(seed)
    pair = {"strict": max(one, two), "loose": min(one, two)}
    over = seeds_over_background(cam, tags, (1, 2, 3, 4), 0, **pair)
    assert torch.equal(seeds_over_background(cam.flip(-1), tags, (1, 2, 3, 4), 0, **pair), over.flip(-1))
    ahead = seeds_by_lead(cam, tags, (1, 2, 3, 4), minimum=one, lead=two)
    assert torch.equal(seeds_by_lead(cam.flip(-1), tags, (1, 2, 3, 4), minimum=one, lead=two), ahead.flip(-1))


@settings(max_examples=40, deadline=None)
@given(numbers, st.floats(0.5, 1e4), st.sampled_from(["max", "min-max", "seam"]))
def test_the_scale_of_the_activations_does_not_matter(
    seed: int, factor: float, rule: Literal["max", "min-max", "seam"]
) -> None:
    cam = 4 * noise(2, 3, 5, 6, seed=seed)
    once, scaled = normalise(cam, rule), normalise(factor * cam, rule)
    torch.testing.assert_close(scaled, once, atol=1e-4, rtol=0)
    assert once.min() >= 0 and scaled.max() <= 1
    # So seeds are the same but for values within that of a score.
    tags = torch.ones(2, 3, dtype=torch.bool)
    pair = {"strict": 0.3, "loose": 0.05}
    seeds = [seeds_over_background(maps, tags, (1, 2, 3), 0, **pair) for maps in (once, scaled)]
    best = best_tagged(once, tags, (1, 2, 3))
    near = ((best.value - 0.3).abs() < 2e-4) | ((best.value - 0.05).abs() < 2e-4) | (best.lead < 2e-4)
    assert ((seeds[0] == seeds[1]) | near).all()


# Quality ---------------------------------------------------------------------------------------------------


def counted(seed: list[int], label: list[int], classes: int) -> Tensor:
    return seed_counts(torch.tensor(seed), torch.tensor(label), classes)


def test_quality_by_hand() -> None:
    counts = counted([0, 1, 1, 1, 1], [0, 0, 1, 1, IGNORE], 2)
    assert counts.tolist() == [[1, 1, 0], [0, 2, 0]]
    result = quality(counts)
    assert result.iou.tolist() == pytest.approx([1 / 2, 2 / 3])
    assert result.miou.item() == pytest.approx(0.58333, abs=1e-5)
    assert result.precision.tolist() == pytest.approx([1, 2 / 3])
    assert result.recall.tolist() == [0.5, 1]
    assert result.class_coverage.tolist() == [1, 1] and result.coverage == 1


def test_a_class_in_neither_is_left_out_and_a_false_one_is_a_zero() -> None:
    result = quality(counted([0, 1, 1, 1, 1], [0, 0, 1, 1, IGNORE], 21))
    assert result.miou.item() == pytest.approx(0.58333, abs=1e-5)
    assert result.iou[2:].isnan().all() and result.precision[2:].isnan().all()
    false = quality(counted([0, 2, 1, 1], [0, 0, 1, 1], 4))
    assert false.iou[:3].tolist() == [0.5, 1, 0] and false.miou == 0.5
    assert false.recall[2].isnan() and false.precision[2] == 0


@pytest.mark.parametrize(
    ("undecided", "miou", "recall"),
    [("excluded", 1.0, [1, 1]), (0, 1 / 3, [1, 1 / 3]), ("missed", 2 / 3, [1, 1 / 3])],
)
def test_undecided_pixels_by_hand(undecided: Any, miou: float, recall: list[float]) -> None:
    counts = counted([0, 1, IGNORE, IGNORE], [0, 1, 1, 1], 2)
    assert counts.tolist() == [[1, 0, 0], [0, 1, 2]]
    result = quality(counts, undecided)
    assert result.miou.item() == pytest.approx(miou)
    assert result.recall.tolist() == pytest.approx(recall)
    assert result.class_coverage.tolist() == pytest.approx([1, 1 / 3])
    assert result.coverage.item() == 0.5
    assert counts.tolist() == [[1, 0, 0], [0, 1, 2]]  # is not changed


def test_missed_is_the_default_and_keeps_a_class_that_is_never_decided() -> None:
    counts = counted([0, IGNORE], [0, 1], 2)
    assert quality(counts).miou == quality(counts, "missed").miou == 0.5
    assert quality(counts, "excluded").miou == 1


def test_quality_of_many_counts_at_once() -> None:
    counts = torch.randint(0, 9, (3, 4, 5, 6), generator=torch.Generator().manual_seed(0))
    together = quality(counts)
    assert together.miou.shape == (3, 4) and together.iou.shape == (3, 4, 5)
    for field, value in zip(quality(counts[1, 2]), together, strict=True):
        torch.testing.assert_close(field, value[1, 2])


def test_counts_add_up_over_images_and_are_64_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    seed, label = (torch.randint(0, 6, (4, 9, 9), generator=generator) for _ in range(2))
    seed[seed == 5] = label[label == 5] = IGNORE
    counts = seed_counts(seed, label, 5)
    assert torch.equal(counts, sum(seed_counts(s, y, 5) for s, y in zip(seed, label, strict=True)))
    assert counts.dtype == torch.int64 and counts.sum() == (label != IGNORE).sum()
    for truth in range(5):
        for given_class in range(5):
            assert counts[truth, given_class] == ((label == truth) & (seed == given_class)).sum()
    masks = seed.to(torch.uint8), label.to(torch.uint8)  # as they are read
    assert torch.equal(seed_counts(*masks, 5), counts)
    billions = quality(torch.tensor([[3 * 10**9, 10**9, 0], [0, 1, 0]]))
    assert billions.iou[0].item() == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("seed", "label", "said"),
    [([0, 3], [0, 0], r"seed has class ids \[3\]"), ([0, 0], [-1, 4], r"label has class ids \[-1, 4\]")],
)
def test_ids_out_of_range_are_refused(seed: list[int], label: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        counted(seed, label, 3)


# Threshold curves ------------------------------------------------------------------------------------------

THRESHOLDS = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.75, 0.9])


def labelled(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    cam, tags = any_maps(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    label = torch.randint(0, 6, (3, 5, 6), generator=generator)
    return cam, tags, label.masked_fill(label == 5, IGNORE)


def test_a_curve_by_hand() -> None:
    """Values .9 .45 .2 .02 of the classes 1 2 1 1; the truth is 1 1 0 0. A value at the threshold is not
    above it."""
    best = best_tagged(CAMS, tagged(True, True), CLASSES)
    label = torch.tensor([[[1, 1, 0, 0]]])
    counts = threshold_counts(best, label, torch.tensor([0.0, 0.2, 0.5]), 3, background=0)
    assert counts[:, 0].tolist() == [[0, 2, 0, 0], [2, 0, 0, 0], [2, 0, 0, 0]]
    assert counts[:, 1].tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0]]
    undecided = threshold_counts(best, label, torch.tensor([0.0, 0.2, 0.5]), 3, background=None)
    assert undecided[:, 0].tolist() == [[0, 2, 0, 0], [0, 0, 0, 2], [0, 0, 0, 2]]


@settings(max_examples=25, deadline=None)
@given(numbers)
def test_curves_are_those_of_the_seeds_of_each_threshold(seed: int) -> None:
    cam, tags, label = labelled(seed)
    best = best_tagged(cam, tags, (1, 2, 3, 4))
    over = threshold_counts(best, label, THRESHOLDS, 5, background=0)
    ahead = threshold_counts(leading(best, 0.1), label, THRESHOLDS, 5, background=None)
    for place, threshold in enumerate(THRESHOLDS.tolist()):
        one = seeds_over_background(cam, tags, (1, 2, 3, 4), 0, strict=threshold, loose=threshold)
        assert torch.equal(over[place], seed_counts(one, label, 5))
        one = seeds_by_lead(cam, tags, (1, 2, 3, 4), minimum=threshold, lead=0.1)
        assert torch.equal(ahead[place], seed_counts(one, label, 5))
    assert over.dtype == torch.int64 and over.shape == (len(THRESHOLDS), 5, 6)


def test_foreground_never_grows_along_a_curve() -> None:
    cam, tags, label = labelled(3)
    steps = torch.linspace(0, 1, 60)
    counts = threshold_counts(best_tagged(cam, tags, (1, 2, 3, 4)), label, steps, 5, background=0)
    assert (counts[:, :, 1:].diff(dim=0) <= 0).all()
    assert (counts.sum((1, 2)) == (label != IGNORE).sum()).all()
    assert quality(counts).miou.shape == (60,)


def test_curves_refuse_what_they_cannot_count() -> None:
    best = Best(torch.tensor([1]), torch.tensor([0.5]), torch.tensor([1.0]))
    with pytest.raises(ValueError, match="must ascend"):
        threshold_counts(best, torch.tensor([0]), torch.tensor([0.2, 0.1]), 2, 0)
    with pytest.raises(ValueError, match=r"class ids \[7\]"):
        threshold_counts(best, torch.tensor([7]), torch.tensor([0.1]), 2, 0)
    empty = threshold_counts(best, torch.tensor([IGNORE]), torch.tensor([0.1]), 2, 0)
    assert empty.sum() == 0 and quality(empty).miou.isnan().all()
