"""The equations of each method, worked out by hand on a network whose logits are known (see linear.py)."""

from __future__ import annotations

import math

import pytest
import torch
from linear import (
    AT,
    EVEN,
    LABELED_LOSS,
    UNSURE,
    A,
    B,
    C,
    build,
    everywhere,
    labeled,
    labeled_loss,
    mask,
    sharpened,
    squares,
    unlabeled,
    values,
)

from bench.contract import Batch, Method, Progress, Stream
from bench.ops.mixing import mix
from methods.cutmix import CutMix
from methods.fixed_threshold import FixedThreshold
from methods.fixmatch import FixMatch
from methods.mean_teacher import MeanTeacher
from methods.supervised import Supervised

# Supervised -----------------------------------------------------------------------------------------------


def test_supervised_is_the_tasks_loss_alone() -> None:
    assert values(build(Supervised), Batch(labeled=labeled(4))) == {"labeled": pytest.approx(LABELED_LOSS)}


# FixMatch -------------------------------------------------------------------------------------------------


def test_fixmatch_divides_by_valid_pixels_not_by_confident_ones() -> None:
    """Seven pixels lie outside padding, four of them are sure; one more is sure, but in padding."""
    batch = unlabeled(
        weak=[[A, B, UNSURE, A], [C, UNSURE, UNSURE, A]],
        strong=[[EVEN, UNSURE, A, A], [A, A, A, EVEN]],
        box=[[0, 0, 0, 0], [0, 0, 0, 0]],
        valid=[[1, 1, 1, 1], [1, 1, 1, 0]],
    )
    method = build(FixMatch, threshold=0.8)
    # Sure pixels and what the strong view gives the teacher's class: a 1/3, b .3, a .9; c .04.
    total = -sum(math.log(p) for p in (1 / 3, 0.3, 0.9, 0.04))
    assert values(method, batch) == {
        "labeled": pytest.approx(0.5 * LABELED_LOSS),
        "unlabeled": pytest.approx(0.5 * total / 7),
    }
    assert method.notes["mask_ratio"].item() == pytest.approx(4 / 7)


def test_fixmatch_weights_its_terms() -> None:
    batch = unlabeled([[A], [A]], [[EVEN], [EVEN]], box=[[0], [0]])
    got = values(build(FixMatch, threshold=0.8, labeled_weight=2.0, unlabeled_weight=3.0), batch)
    assert got == {"labeled": pytest.approx(2 * LABELED_LOSS), "unlabeled": pytest.approx(3 * math.log(3))}


def test_published_defaults() -> None:
    """UniMatch and UniMatch V2; TorchSemiSeg; CutMix-Seg."""
    fixmatch = {"threshold": 0.95, "unlabeled_weight": 0.5, "labeled_weight": 0.5, "ema_decay": 0.996}
    assert FixMatch.HParams().model_dump() == fixmatch
    assert FixedThreshold.HParams().model_dump() == fixmatch
    mean_teacher = {"consistency_weight": 100.0, "ramp_up": 0.267, "ema_decay": 0.99}
    assert MeanTeacher.HParams().model_dump() == mean_teacher
    assert CutMix.HParams().model_dump() == {"threshold": 0.97, "consistency_weight": 1.0, "ema_decay": 0.99}


def test_fixmatch_mixes_image_label_confidence_and_valid_alike() -> None:
    """Three images; what a box holds comes from the next image, in every map."""
    batch = unlabeled(
        weak=[[A, A, A], [B, UNSURE, B], [C, C, C]],
        strong=[[A, A, A], [B, B, B], [C, C, C]],
        box=[[0, 1, 1], [0, 1, 1], [0, 0, 1]],
        valid=[[1, 1, 1], [1, 1, 1], [1, 0, 1]],
    )
    method = build(FixMatch, threshold=0.8)
    # Mixed: (a, unsure of image 1, b), (b, padding of image 2, c), (c, padding, a). Seven valid, six sure,
    # each with the strong pixel of the same source, of which the student says .9 for its own class.
    got = values(method, batch)
    assert got["unlabeled"] == pytest.approx(0.5 * 6 * -math.log(0.9) / 7)
    assert method.notes["mask_ratio"].item() == pytest.approx(6 / 7)
    # So does the truth of an audit: of the six sure pixels one has none, and three are right.
    truth = torch.tensor([[0, 1, 2], [1, 1, 255], [0, 0, 2]])[:, None]
    assert method.audits["accuracy_kept"](truth).item() == pytest.approx(3 / 5)


def test_fixmatch_partner_is_the_next_image_never_itself() -> None:
    """Image 0 alone is replaced, by image 1, whose strong view says 1/3; by itself or image 2 it would be
    .9."""
    batch = unlabeled([[A], [B], [C]], strong=[[A], [EVEN], [C]], box=[[1], [0], [0]])
    got = values(build(FixMatch, threshold=0.8), batch)
    assert got["unlabeled"] == pytest.approx(0.5 * (2 * math.log(3) - math.log(0.9)) / 3)


def test_fixmatch_labels_before_it_mixes() -> None:
    """The teacher sees a whole image at once. Labeled first, three pixels of place 0 are b and one is a;
    mixed first, the b in the majority would carry the fourth along."""
    batch = unlabeled(
        weak=[[A] * 4, [B] * 4], strong=[[EVEN, EVEN, EVEN, A], [EVEN] * 4], box=[[1, 1, 1, 0], [0] * 4]
    )
    method = build(FixMatch, threshold=0.0)
    method.teacher.module.set(local=0.0, context=1.0)
    # In place 0 the fourth strong pixel says a with .9 and b with .06.
    first, mixed_first = (0.5 * (7 * math.log(3) - math.log(p)) / 8 for p in (0.9, 0.06))
    got = values(method, batch)["unlabeled"]
    assert got == pytest.approx(first)
    assert got != pytest.approx(mixed_first)


def test_fixmatch_keeps_a_pixel_at_the_threshold() -> None:
    weak = torch.tensor([0.0, 0.0, -1e4], dtype=torch.float64).view(1, 3, 1, 1).expand(2, 3, 1, 1)
    stream = Stream(("u0", "u1"), weak, everywhere([[A], [A]]), strong=(weak,), boxes=(mask([[0], [0]]),))
    method = build(FixMatch, threshold=0.5)
    method.losses(Batch(labeled=labeled(1), unlabeled=stream), AT)
    assert method.notes["mask_ratio"] == 1


def test_fixmatch_labels_with_the_teacher_and_trains_the_student() -> None:
    batch = unlabeled([[A], [A]], [[UNSURE], [UNSURE]], box=[[0], [0]])
    method = build(FixMatch, threshold=0.8)
    method.net.set(local=0.0)  # a student that says 1/3 everywhere
    assert values(method, batch)["unlabeled"] == pytest.approx(0.5 * math.log(3))
    method.net.set(local=1.0)
    method.teacher.module.set(local=0.0)  # a teacher that is sure of nothing
    assert values(method, batch)["unlabeled"] == 0


# Fixed threshold ------------------------------------------------------------------------------------------


def test_fixed_threshold_has_no_strong_view_and_no_boxes() -> None:
    assert FixedThreshold.views.strong == 0 and FixedThreshold.views.boxes is None
    assert MeanTeacher.views.strong == 0 and MeanTeacher.views.boxes is None


def test_fixed_threshold_trains_on_the_weak_view_it_labels() -> None:
    batch = unlabeled([[A, UNSURE], [B, C]], valid=[[1, 1], [1, 0]])
    method = build(FixedThreshold, threshold=0.8)
    method.net.set(local=0.5)
    # Valid: a, unsure, b. Sure: a and b, of which the duller student says the same.
    student = sharpened(A, 0.5)[0]
    assert values(method, batch) == {
        "labeled": pytest.approx(0.5 * labeled_loss(0.5)),
        "unlabeled": pytest.approx(0.5 * 2 * -math.log(student) / 3),
    }
    assert method.notes["mask_ratio"].item() == pytest.approx(2 / 3)
    accuracy = method.audits["accuracy_kept"]
    assert accuracy(torch.tensor([[0, 0], [2, 2]])[:, None]).item() == pytest.approx(1 / 2)
    assert accuracy(torch.full((2, 1, 2), 255)).isnan()


def test_fixed_threshold_with_a_strong_view_and_boxes_is_fixmatch() -> None:
    """What equal views make of it: also where the box brings another label, padding or an unsure pixel."""
    batch = unlabeled(
        weak=[[A, B, UNSURE], [C, A, B]],
        strong=[[EVEN, UNSURE, A], [A, UNSURE, C]],
        box=[[1, 0, 1], [0, 1, 0]],
        valid=[[1, 1, 1], [0, 1, 1]],
    )
    methods = [build(cls, threshold=0.8) for cls in (FixedThreshold, FixMatch)]
    left, right = (values(method, batch) for method in methods)
    assert left == right and left["unlabeled"] > 0
    assert methods[0].notes["mask_ratio"] == methods[1].notes["mask_ratio"]
    truth = torch.tensor([[0, 1, 1], [2, 0, 0]])[:, None]
    assert methods[0].audits["accuracy_kept"](truth) == methods[1].audits["accuracy_kept"](truth) < 1


# Mean teacher ---------------------------------------------------------------------------------------------


def test_mean_teacher_is_100_times_the_mean_over_pixels_and_classes() -> None:
    batch = unlabeled([[A, UNSURE], [B, C]], valid=[[1, 1], [1, 0]])
    method = build(MeanTeacher, ramp_up=0.0)
    method.net.set(local=2.0)
    difference = sum(squares(sharpened(pixel, 2), pixel) for pixel in (A, UNSURE, B))
    assert values(method, batch) == {
        "labeled": pytest.approx(labeled_loss(2)),
        "consistency": pytest.approx(100 * difference / (3 * 3)),
    }


def test_mean_teacher_is_zero_where_student_and_teacher_agree() -> None:
    assert values(build(MeanTeacher), unlabeled([[A, UNSURE]]))["consistency"] == 0


def test_mean_teacher_mixes_the_strong_view_and_what_the_teacher_says_of_the_weak_one() -> None:
    """As equal views have it. The box brings the padding of image 1 into image 0."""
    batch = unlabeled(
        weak=[[A, A], [B, C]], strong=[[C, UNSURE], [EVEN, B]], box=[[1, 0], [0, 0]], valid=[[1, 1], [0, 1]]
    )
    difference = squares(UNSURE, A) + squares(B, C)
    found = values(build(MeanTeacher, ramp_up=0.0), batch)["consistency"]
    assert found == pytest.approx(100 * difference / (2 * 3))


@pytest.mark.parametrize("ramp_up", [0.25, 50.0])
def test_mean_teacher_ramps_its_weight_up(ramp_up: float) -> None:
    """exp(-5 (1 - x)^2) at the share x of the ramp, here the first 50 of 200 steps."""
    batch = unlabeled([[A], [B]], strong=[[UNSURE], [EVEN]], box=[[0], [0]])
    method = build(MeanTeacher, ramp_up=ramp_up)
    whole = 100 * (squares(UNSURE, A) + squares(EVEN, B)) / (2 * 3)
    for number, share in (
        (0, 0.0067379),
        (10, 0.0407622),
        (25, 0.2865048),
        (49, 0.998002),
        (50, 1),
        (199, 1),
    ):
        got = method.losses(batch, Progress(number, 200, 0))["consistency"].item()
        assert got == pytest.approx(share * whole, rel=1e-4), number


def test_mean_teacher_refuses_a_ramp_that_is_longer_than_the_run() -> None:
    MeanTeacher.HParams(ramp_up=200).check(3, 200)
    MeanTeacher.HParams().check(3, 1)
    with pytest.raises(ValueError, match=r"^ramp_up=201 is longer than the run, of 200 steps"):
        MeanTeacher.HParams(ramp_up=201).check(3, 200)


# CutMix-Seg -----------------------------------------------------------------------------------------------


def test_cutmix_takes_the_strong_view_where_there_is_one() -> None:
    batch = unlabeled([[A], [B]], strong=[[C], [EVEN]], box=[[1], [0]])
    found = values(build(CutMix, threshold=0.5), batch)["consistency"]
    assert found == pytest.approx(squares(EVEN, B))


def test_cutmix_sums_over_classes_and_scales_by_the_share_of_sure_pixels() -> None:
    batch = unlabeled([[A, UNSURE], [B, UNSURE]], box=[[0, 1], [0, 0]], valid=[[1, 1], [1, 0]])
    method = build(CutMix, threshold=0.8)
    method.net.set(local=2.0)
    # Mixed: (a, padding of image 1), (b, padding): two valid, both sure.
    both = (squares(sharpened(A, 2), A) + squares(sharpened(B, 2), B)) / 2
    assert values(method, batch)["consistency"] == pytest.approx(1.0 * both)
    assert method.notes["mask_ratio"] == 1

    batch = unlabeled([[A, UNSURE], [B, UNSURE]], box=[[0, 1], [0, 0]], valid=[[1, 1], [1, 1]])
    every = sum(squares(sharpened(pixel, 2), pixel) for pixel in (A, UNSURE, B, UNSURE)) / 4
    method = build(CutMix, threshold=0.8, consistency_weight=3.0)
    method.net.set(local=2.0)
    assert values(method, batch)["consistency"] == pytest.approx(3.0 * 2 / 4 * every)
    assert method.notes["mask_ratio"] == 0.5


def test_cutmix_predicts_before_it_mixes() -> None:
    """The teacher sees a whole image at once, the student says 1/3: the target is the mix of the predictions,
    not the prediction of the mix."""
    batch = unlabeled(weak=[[A] * 4, [B] * 4], box=[[1, 1, 1, 0], [0] * 4])
    method = build(CutMix, threshold=0.0)
    method.teacher.module.set(local=0.0, context=1.0)
    method.net.set(local=0.0)
    got = values(method, batch)["consistency"]
    assert got == pytest.approx(
        squares(EVEN, A)
    )  # each pixel is sure of a or of b: the same distance from 1/3
    with torch.no_grad():
        wrong = method.teacher(mix(batch.unlabeled.image, batch.unlabeled.boxes[0])).softmax(1)
    assert got != pytest.approx((wrong - 1 / 3).square().sum(1).mean().item())


def test_cutmix_student_sees_the_mixed_image() -> None:
    """Student and teacher equal and pointwise: on the mixed image they agree, whatever the boxes."""
    batch = unlabeled([[A, UNSURE], [B, C], [C, A]], box=[[1, 0], [0, 1], [1, 1]])
    assert values(build(CutMix, threshold=0.0), batch)["consistency"] == pytest.approx(0, abs=1e-12)


def test_cutmix_is_zero_where_the_teacher_is_sure_of_nothing() -> None:
    method = build(CutMix)  # .97
    method.net.set(local=2.0)
    assert values(method, unlabeled([[A, A], [B, B]], box=[[0, 1], [1, 0]]))["consistency"] == 0


@pytest.mark.parametrize("cls", [FixMatch, CutMix])
def test_a_batch_of_one_cannot_be_mixed(cls: type[Method]) -> None:
    with pytest.raises(ValueError, match="itself"):
        build(cls).losses(unlabeled([[A]], [[A]], box=[[0]]), AT)


@pytest.mark.parametrize("cls", [FixMatch, FixedThreshold, MeanTeacher, CutMix])
def test_the_teacher_is_scored(cls: type[Method]) -> None:
    method = build(cls)
    assert method.predictor() is method.teacher
    assert build(Supervised).predictor() is not None
