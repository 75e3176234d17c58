"""Losses, the teacher and mixing against cases that were worked out by hand."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.ops.cam import pooled
from bench.ops.contrast import Contrast
from bench.ops.losses import (
    IGNORE,
    cross_entropy,
    masked_cross_entropy,
    ohem_cross_entropy,
    squared_difference,
)
from bench.ops.mixing import mix
from bench.ops.regional import negative_pixels
from bench.ops.teacher import Teacher
from bench.randomness import generator_for


def logits_of(*probabilities: float) -> Tensor:
    """One row of two-class pixels, given the probability of class 0: 1 2 1 W, a leaf."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([p.log(), (1 - p).log()])[None, :, None].requires_grad_()


def told(logits: Tensor) -> list[bool]:
    """Which pixels of a row have a gradient."""
    assert logits.grad is not None
    return logits.grad[0, :, 0].ne(0).any(0).tolist()


# Losses ---------------------------------------------------------------------------------------------------


def test_cross_entropy_by_hand_and_against_torch() -> None:
    logits = logits_of(0.5, 0.25, 0.9)
    label = torch.tensor([[[0, 1, IGNORE]]])
    loss = cross_entropy(logits, label)
    assert loss.item() == pytest.approx((math.log(2) - math.log(0.75)) / 2)
    assert loss.item() == pytest.approx(F.cross_entropy(logits, label, ignore_index=IGNORE).item())
    loss.backward()
    assert told(logits) == [True, True, False]


def test_losses_are_zero_with_a_graph_where_nothing_counts() -> None:
    label = torch.full((1, 1, 3), IGNORE)
    nothing = torch.zeros(1, 1, 3, dtype=torch.bool)
    for loss in (
        lambda x: cross_entropy(x, label),
        lambda x: ohem_cross_entropy(x, label, threshold=0.7, min_kept=2),
        lambda x: masked_cross_entropy(x, torch.zeros_like(label), nothing, nothing),
    ):
        logits = logits_of(0.5, 0.25, 0.9)
        value = loss(logits)
        assert value == 0
        value.backward()
        assert told(logits) == [False, False, False]


@pytest.mark.parametrize(
    ("min_kept", "kept"),
    [
        (1, [0.2, 0.6]),  # the hardest is below the threshold: all up to .7 count
        (2, [0.2, 0.6]),
        (3, [0.2, 0.6, 0.8]),  # the third hardest lies above it and lifts it
        (4, [0.2, 0.6, 0.8, 0.95]),
        (5, [0.2, 0.6, 0.8, 0.95]),  # only four are labeled
        (99, [0.2, 0.6, 0.8, 0.95]),  # more than there are pixels
    ],
)
def test_ohem_keeps_up_to_the_larger_of_threshold_and_kth(min_kept: int, kept: list[float]) -> None:
    values = (0.95, 0.2, 0.1, 0.8, 0.6)  # the third is the hardest and has no label
    logits, label = logits_of(*values), torch.tensor([[[0, 0, IGNORE, 0, 0]]])
    loss = ohem_cross_entropy(logits, label, threshold=0.7, min_kept=min_kept)
    assert loss.item() == pytest.approx(-sum(map(math.log, kept)) / len(kept))
    loss.backward()
    assert told(logits) == [value in kept for value in values]


def test_ohem_keeps_a_pixel_at_the_threshold() -> None:
    logits = logits_of(0.5, 0.75)
    threshold = math.exp(
        -F.cross_entropy(logits, torch.zeros(1, 1, 2).long(), reduction="none")[0, 0, 0].item()
    )
    ohem_cross_entropy(logits, torch.zeros(1, 1, 2).long(), threshold, min_kept=1).backward()
    assert told(logits) == [True, False]


def test_masked_cross_entropy_divides_by_the_counted_pixels() -> None:
    logits, label = logits_of(0.5, 0.25, 0.9, 0.3), torch.zeros(1, 1, 4).long()
    keep = torch.tensor([[[True, True, False, False]]])
    counted = torch.tensor([[[True, True, True, False]]])
    loss = masked_cross_entropy(logits, label, keep, counted)
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 3)
    loss.backward()
    assert told(logits) == [True, True, False, False]


def test_squared_difference_sums_over_classes_only() -> None:
    left = torch.tensor([[[[0.7, 0.1]], [[0.2, 0.1]], [[0.1, 0.8]]]])
    right = torch.tensor([[[[0.5, 0.1]], [[0.5, 0.1]], [[0.0, 0.8]]]])
    torch.testing.assert_close(squared_difference(left, right), torch.tensor([[[0.04 + 0.09 + 0.01, 0.0]]]))


# The teacher ----------------------------------------------------------------------------------------------


def small_net() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    return net


@pytest.mark.parametrize(
    ("updates", "decay"),
    [(0, 0.0), (1, 0.5), (2, 0.66667), (9, 0.9), (98, 0.98990), (99, 0.99), (100, 0.99), (10_000, 0.99)],
)
def test_decay_ramps_up(updates: int, decay: float) -> None:
    """Teacher all 0, student all 1: what is left of the teacher is 1 - decay of the student."""
    student = small_net()
    teacher = Teacher(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.fill_(1.0)
    teacher.update(student, 0.99, updates)
    for parameter in teacher.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, 1 - decay), atol=5e-6, rtol=0)


def test_first_update_copies_exactly_and_the_ramp_is_a_plain_mean() -> None:
    student = small_net()
    teacher = Teacher(student)
    values = [0.1, 0.7, -0.3, 2.5]
    for updates, value in enumerate(values):
        nn.init.constant_(student[0].weight, value)  # type: ignore[index]
        teacher.update(student, 0.99, updates)
        if updates == 0:
            assert torch.equal(teacher.module[0].weight, student[0].weight)  # type: ignore[index]
    mean = torch.full((2, 3, 1, 1), sum(values) / 4)
    torch.testing.assert_close(teacher.module[0].weight.detach(), mean)  # type: ignore[index]


def test_floating_buffers_are_averaged_and_integer_buffers_copied() -> None:
    student = small_net()
    teacher = Teacher(student)
    norm = student[1]  # type: ignore[index]
    norm.running_mean.fill_(4.0)
    norm.num_batches_tracked.fill_(7)
    teacher.update(student, 0.99, 1)
    mine = teacher.module[1]  # type: ignore[index]
    assert mine.running_mean.tolist() == [2.0, 2.0]
    assert mine.running_var.tolist() == [1.0, 1.0]
    assert mine.num_batches_tracked == 7


def test_teacher_is_a_copy_without_gradient_in_eval_mode() -> None:
    student = small_net().train()
    teacher = Teacher(student)
    assert not any(module.training for module in teacher.module.modules())
    with torch.no_grad():
        student[0].bias.fill_(5.0)  # type: ignore[index]
    assert teacher.module[0].bias.tolist() == [0.0, 0.0]  # type: ignore[index]
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())  # the student still learns
    assert student.training

    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    teacher.train()
    nn.ModuleList([teacher]).train()
    assert not any(module.training for module in teacher.modules())
    answer = teacher(torch.rand(2, 3, 4, 4, requires_grad=True))
    assert not answer.requires_grad
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


def test_update_leaves_the_student_alone() -> None:
    student = small_net()
    teacher = Teacher(student)
    with torch.no_grad():
        student[0].bias.fill_(1.0)  # type: ignore[index]
    before = {key: value.clone() for key, value in student.state_dict().items()}
    teacher.update(student, 0.99, 5)
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


# Mixing ---------------------------------------------------------------------------------------------------


def test_mixed_pixels_come_from_one_source_alike() -> None:
    """Image, label and confidence of a pixel come from one image: the next inside the box, else its own."""
    source = torch.arange(3)
    box = torch.zeros(3, 4, 5, dtype=torch.bool)
    box[0, :2, :3], box[1, 1:, 2:] = True, True
    image = source.view(3, 1, 1, 1).expand(3, 3, 4, 5).float()
    label = source.view(3, 1, 1).expand(3, 4, 5)
    expected = torch.where(box, (label + 1) % 3, label)
    assert torch.equal(mix(label, box), expected)
    assert torch.equal(mix(label.double(), box), expected.double())
    assert torch.equal(mix(image, box), expected[:, None].expand_as(image).float())
    assert torch.equal(mix(label == 1, box), expected == 1)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_partner_is_the_next_image_and_never_itself(size: int) -> None:
    own = torch.arange(size).view(size, 1, 1)
    partner = mix(own, torch.ones(size, 1, 1, dtype=torch.bool))
    assert partner.flatten().tolist() == [(i + 1) % size for i in range(size)]
    assert not (partner == own).any()


def test_a_pixel_keeps_its_place() -> None:
    image = torch.rand(2, 3, 4, 4)
    mixed = mix(image, torch.ones(2, 4, 4, dtype=torch.bool))
    assert torch.equal(mixed, image[[1, 0]])


def test_a_batch_of_one_is_refused() -> None:
    alone = torch.zeros(1, 3, 2, 2)
    assert mix(alone, None) is alone, "without a box nothing is mixed"
    with pytest.raises(ValueError, match="itself"):
        mix(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool))


# Half precision -------------------------------------------------------------------------------------------


def test_pooling_adds_up_in_full_precision() -> None:
    """A sum in bf16 stops growing at 256: 256 + 1 is 256."""
    ones, inside = torch.ones(1, 2, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool)
    for dtype, summed in ((torch.bfloat16, torch.float32), (torch.float32,) * 2, (torch.float64,) * 2):
        found = pooled(ones.to(dtype), inside)
        assert found.dtype == summed and found.tolist() == [[1.0, 1.0]]


def test_nearness_to_prototypes_has_the_same_bits_under_autocast() -> None:
    memory = Contrast(
        [60, 60, 60], 16, queue_keys=8, use_queue=True, anchor_confidence=0.3, anchors=4, negatives=4,
        negative_pool=8, temperature=0.5, prototype_momentum=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    memory.prototypes.normal_()
    memory.seen.fill_(True)
    keys, of_class = torch.randn(1, 4, 4, 16), torch.arange(12) % 3 == torch.arange(3).unsqueeze(1)

    def nearness() -> list[Tensor]:
        draw = partial(generator_for, 0)
        return [
            memory.similarity(keys),
            negative_pixels(of_class, memory.prototypes, 500, 0.5, draw),
        ]

    plain = nearness()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(plain, nearness(), strict=True))
