"""Each fault of the released code by hand, beside what the paper's rule gives on the same pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from pointwise import (
    at,
    batch_of,
    build,
    fill,
    held,
    labeled,
    pixel,
    queues_of,
    step,
    sure,
    unlabeled,
)
from torch import Tensor

from bench.contract import IGNORE, Batch, Stream, Task
from bench.errors import ConfigError
from bench.networks.segmenter import Segmenter
from bench.ops.entropy import percentile, pixel_entropy
from bench.ops.losses import cross_entropy
from bench.ops.mixing import mix
from bench.ops.teacher import Teacher
from bench.settings.schema import Network, RunConfig
from methods import u2pl_released
from methods.u2pl import U2PL
from methods.u2pl_released import U2PLReleased, one_hot_in_first, represent_by_batch

NETWORK = Network(encoder="tiny", decoder="unet", decoder_channels=8, representation_channels=8)
BOTH = [U2PL, U2PLReleased]


def nce(positive: float, negative: float) -> float:
    """Of an anchor at these cosines to its prototype and its four negatives."""
    return math.log(1 + 4 * math.exp((negative - positive) / 0.5))


def with_gradient(method: Any, batch: Batch) -> tuple[float, Tensor]:
    """The contrastive term, and how long its gradient by each labeled pixel's representation is: B W."""
    stream = replace(batch.labeled, image=batch.labeled.image.clone().requires_grad_())
    term = method.losses(replace(batch, labeled=stream), at())["contrast"]
    term.backward()
    assert stream.image.grad is not None
    return term.item(), stream.image.grad[:, len(method.task.classes) :, 0].norm(dim=1)


def test_published_values() -> None:
    given = U2PLReleased.HParams()
    assert (given.contrast_weight, given.world_size) == (1.0, 4)
    assert (given.anchors, given.negatives, given.anchor_confidence) == (256, 50, 0.3)
    assert (given.rank_low, given.rank_high, given.alpha, given.temperature) == (3, 20, 0.2, 0.5)


def test_keys_and_prototypes_are_projected_by_the_teacher_anchors_by_the_student() -> None:
    """The student's projection is turned round: what is kept stays, what is compared with it changes."""
    batch = batch_of(
        labeled([[pixel(sure(0, 3), 5), pixel(sure(1, 3), 6)]] * 2, [[0, 1]] * 2),
        unlabeled([[pixel([0.5, 0.3, 0.2], 7)] * 2, [pixel([0.1, 0.2, 0.7], 8)] * 2]),
    )
    terms, kept = [], []
    for turn in (1, -1):
        method = build(U2PLReleased, 3, rank_low=1, cutmix_probability=0.0)
        fill(method, 0, [1.0]), fill(method, 1, [1.0])
        with torch.no_grad():
            method.net.projection.weight.mul_(turn)
        terms.append(step(method, batch)["contrast"])
        kept.append(queues_of(method).keys)
        assert held(method, 2) == [7, 7]
    assert torch.equal(*kept)
    assert terms[1] > terms[0] > 0


# A1: keys -------------------------------------------------------------------------------------------------


def test_labels_alone_give_no_key_however_wrong_the_prediction() -> None:
    rows = [[pixel(sure(0, 21), 7)], [pixel(sure(5, 21), 8)]]
    batch = batch_of(labeled(rows, [[5], [5]]), classes=21)
    sums = []
    for cls in BOTH:
        method = build(cls, 21)
        step(method, batch)
        sums.append(queues_of(method).length.sum().item())
    assert sums == [5, 0]


def test_where_both_passes_agree_no_pixel_is_a_key() -> None:
    """The paper has two unreliable pixels, each a key of 17 of 21 classes."""
    rows = [[pixel(sure(0, 21, 0.9 - 0.05 * x), x) for x in range(5)] for _ in range(2)]
    for cls, keys in zip(BOTH, (2 * 17, 0), strict=True):
        method = build(cls, 21)
        step(method, batch_of(unlabeled=unlabeled(rows), classes=21))
        assert queues_of(method).length.sum() == keys


def test_a_pixel_is_a_key_of_its_own_pseudo_label_where_the_passes_disagree() -> None:
    """Both passes see images as a whole. Unmixed, image 0 is class 0 and image 1 class 1; mixed, three of
    four pixels of image 0 are image 1's, so the second pass says 1 for all of it, and unsurely. The fourth
    pixel, called 0 before, is a key of class 0, and of no other."""
    a, b = sure(0, 3, 0.8), sure(1, 3, 0.9)
    rows = [[pixel(a, 10 + x) for x in range(4)], [pixel(b, 20 + x) for x in range(4)]]
    batch = batch_of(unlabeled=unlabeled(rows, box=[[1, 1, 1, 0], [0, 0, 0, 0]]))
    method = build(U2PLReleased, 3, rank_low=1, alpha=0.5)
    method.teacher.module.local, method.teacher.module.context = 0.0, 1.0
    step(method, batch)
    assert method.notes["reliable_share"] == 0.5, "image 0 is unreliable"
    assert [held(method, c) for c in range(3)] == [[13], [], []]


# One-hot labels -------------------------------------------------------------------------------------------


def test_one_hot_labels_of_all_images_land_in_the_first() -> None:
    """Also 255 of another image, as class 0; what is 255 in the first has none, whatever another holds."""
    label = torch.tensor([[[0, 1, 255, 255, 2, 1]], [[2, 1, 255, 1, 255, 0]], [[2, 1, 255, 0, 1, 255]]])
    own = one_hot_in_first(label, 3)
    assert own.dtype == torch.bool and own.shape == (3, 3, 1, 6)
    found = [{c for c in range(3) if own[0, c, 0, x]} for x in range(6)]
    assert found == [{0, 2}, {1}, set(), set(), {0, 1, 2}, {0, 1}]
    assert not own[1:].any()


def test_only_pixels_of_the_first_image_are_anchors() -> None:
    """Two images of classes 0 and 1: with the paper's rule all four pixels learn."""
    rows = [[pixel(sure(0, 2), [1.0, 0.3]), pixel(sure(1, 2), [0.2, 1.0])]] * 2
    for cls, learns in zip(BOTH, ([[True, True]] * 2, [[True, True], [False, False]]), strict=True):
        method = build(cls, 2, rank_low=1)
        for c in range(2):
            fill(method, c, [1.0, 1.0])
        _, gradient = with_gradient(method, batch_of(labeled(rows, [[0, 1]] * 2), classes=2))
        assert (gradient > 1e-6).tolist() == learns, cls


# A2: places -----------------------------------------------------------------------------------------------


def present(label: Sequence[int], vectors: Sequence[Sequence[float]]) -> Batch:
    """One labeled pixel of each class, predicted with .9, in two images that are the same: no other class
    lands in the first."""
    row = [pixel(sure(c, 21), z) for c, z in zip(label, vectors, strict=True)]
    return batch_of(labeled([row, row], [list(label)] * 2), classes=21)


def filled(cls: Any, keys: dict[int, list[float]], **knobs: Any) -> Any:
    method = build(cls, 21, **knobs)
    for c, vector in keys.items():
        fill(method, c, vector)
    return method


def test_of_classes_0_8_and_15_only_class_0_is_trained() -> None:
    """The second and third valid class read the anchors of classes 1 and 2, which have none."""
    batch = present([0, 8, 15], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    keys = {c: [0.6, 0.8] for c in range(21)}
    _, gradient = with_gradient(filled(U2PLReleased, keys), batch)
    assert (gradient[0] > 1e-6).tolist() == [True, False, False]
    _, gradient = with_gradient(filled(U2PL, keys), batch)
    assert (gradient[0] > 1e-6).tolist() == [True, True, True]


def test_the_anchors_of_a_place_are_told_from_the_queue_of_the_valid_class() -> None:
    """Valid are 1, 2 and 5: class 1 is told from the queue of 2, class 2 from that of 5. Class 0, the first
    place, has no anchors and counts all the same; the sum is divided by the number of processes as well."""
    batch = present([1, 2, 5], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    keys = {1: [0.0, 1.0], 2: [0.6, 0.8], 5: [-1.0, 0.0]}
    expected = (nce(1, 0.6) + nce(1, 0)) / 3
    loss, gradient = with_gradient(filled(U2PLReleased, keys), batch)
    assert loss == pytest.approx(expected / 4, abs=1e-4)
    assert (gradient[0] > 1e-6).tolist() == [True, True, False]
    loss, _ = with_gradient(filled(U2PLReleased, keys, world_size=1, contrast_weight=3.0), batch)
    assert loss == pytest.approx(3 * expected, abs=1e-3)

    # By the paper each has its own queue, and all three count; the weight is 0.1.
    loss, _ = with_gradient(filled(U2PL, keys, rank_low=1), batch)
    assert loss == pytest.approx(0.1 * (nce(1, 0) + nce(1, 0.8) + nce(1, -math.sqrt(0.5))) / 3, abs=1e-4)


def test_a_class_whose_queue_is_empty_counts_in_the_denominator() -> None:
    batch = present([0, 1], [[1.0, 0.0], [0.0, 1.0]])
    loss, _ = with_gradient(filled(U2PLReleased, {0: [0.6, 0.8]}), batch)
    assert loss == pytest.approx(nce(1, 0.6) / 2 / 4, abs=1e-4)
    loss, _ = with_gradient(filled(U2PL, {0: [0.6, 0.8]}, rank_low=1), batch)
    assert loss == 0, "by the paper a single class has nothing to be told from"


@pytest.mark.parametrize("label", [[0, 0], [IGNORE, IGNORE]])
def test_fewer_than_two_valid_classes_are_0_with_a_graph(label: list[int]) -> None:
    method = filled(U2PLReleased, {0: [0.6, 0.8]})
    loss, gradient = with_gradient(
        method,
        present(label, [[1.0, 0.0], [0.0, 1.0]])
        if label[0] == 0
        else batch_of(labeled([[pixel(sure(0, 21), 1)]] * 2, [[c] for c in label]), classes=21),
    )
    assert loss == 0 and not gradient.any()


# A3 and A4: anchors and prototypes ------------------------------------------------------------------------


def test_only_the_surest_unlabeled_pixels_are_anchors() -> None:
    """Two of ten where the paper has all eight reliable ones; late in the run, one."""
    row = [pixel(sure(0, 3, 0.95 - 0.03 * x), x) for x in range(10)]
    batch = batch_of(unlabeled=unlabeled([row, row], valid=[[1] * 10, [0] * 10]))
    found = []
    for cls in BOTH:
        method = build(cls, 3, rank_low=1)
        for number in (0, 999):
            step(method, batch, number)
            found.append(method.notes["anchors"].tolist())
    assert found == [[8, 0, 0], [9, 0, 0], [2, 0, 0], [1, 0, 0]]


def test_the_prototype_is_the_mean_over_unsure_pixels_as_well() -> None:
    """The second pixel of class 0 has .2 there: no anchor, but half of the prototype (1, 1) / 2."""
    row = [
        pixel(sure(0, 21), [1.0, 0.0]),
        pixel(sure(0, 21, 0.2), [0.0, 1.0]),
        pixel(sure(1, 21), [1.0, 1.0]),
    ]
    batch = batch_of(labeled([row, row], [[0, 0, 1]] * 2), classes=21)
    keys = {0: [-1.0, 0.0], 1: [-1.0, 0.0]}
    half = math.sqrt(0.5)
    loss, _ = with_gradient(filled(U2PLReleased, keys), batch)
    assert loss == pytest.approx((nce(half, -1) + nce(1, -half)) / 2 / 4, abs=1e-5)
    loss, _ = with_gradient(filled(U2PL, keys, rank_low=1), batch)
    assert loss == pytest.approx(0.1 * (nce(1, -1) + nce(1, -half)) / 2, abs=1e-5)


# A11: two passes ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(0)
    net = Segmenter(NETWORK, 3).train()
    with torch.no_grad():
        net(torch.rand(4, 3, 32, 32))  # running statistics of its own
    return Teacher(net)


def test_the_second_pass_takes_the_statistics_of_the_batch_and_leaves_the_teachers(teacher: Teacher) -> None:
    image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    plain = teacher.represent(image)
    by_batch = represent_by_batch(teacher, image)
    for one, other in zip(plain, by_batch, strict=True):
        assert not torch.allclose(one, other, atol=1e-3) and not other.requires_grad
    one_image = represent_by_batch(teacher, image[:2])
    assert not torch.allclose(one_image[0], by_batch[0][:2], atol=1e-4), "another batch, other statistics"
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(module.training for module in teacher.module.modules())
    again = teacher.represent(image)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


def test_a_second_pass_that_fails_leaves_the_teacher_as_it_was(teacher: Teacher) -> None:
    with pytest.raises(RuntimeError):
        represent_by_batch(teacher, torch.rand(2, 4, 32, 32))
    assert not any(module.training for module in teacher.module.modules())
    image = torch.rand(2, 3, 32, 32)
    teacher.module(image)
    norms = [m for m in teacher.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(norm.track_running_stats for norm in norms)


def test_the_second_pass_has_dropout() -> None:
    net = torch.nn.Sequential(torch.nn.Dropout(0.5))
    net.represent = lambda image: (net(image), image)  # type: ignore[assignment]
    teacher = Teacher(net)
    teacher.module.represent = lambda image: (teacher.module(image), image)
    zeros = represent_by_batch(teacher, torch.ones(1, 1, 10, 10))[0].eq(0).sum()
    assert 20 < zeros < 80
    assert teacher.module(torch.ones(1, 1, 10, 10)).eq(1).all()


def test_labels_come_from_the_first_pass_and_entropies_from_the_second() -> None:
    """Both see images as a whole. Image 0, mixed with three pixels of image 1, is called (1, 1, 1, 0), and
    has the entropy of its mean. The student is asked for labels on image 1 alone, which is reliable."""
    a, b = sure(0, 3, 0.8), sure(1, 3, 0.9)
    batch = batch_of(unlabeled=unlabeled([[pixel(a, 1)] * 4, [pixel(b, 2)] * 4], box=[[1, 1, 1, 0], [0] * 4]))
    method = build(U2PLReleased, 3, rank_low=1, alpha=0.5)
    method.teacher.module.local, method.teacher.module.context = 0.0, 1.0
    terms = step(method, batch)
    mixed = [x**0.25 * y**0.75 for x, y in zip(a, b, strict=True)]
    entropies = [-sum(p * math.log(p) for p in (q / sum(one) for q in one)) for one in (mixed, b)]
    assert method.notes["threshold"].item() == pytest.approx(sum(entropies) / 2, abs=1e-5)
    assert terms["unlabeled"] == pytest.approx(2 * -math.log(0.9), abs=1e-5)


def test_the_second_pass_is_by_the_statistics_of_labeled_and_mixed_images() -> None:
    """On a network with batch norm, whose running statistics are not those of this batch."""
    torch.manual_seed(0)
    hparams = U2PLReleased.HParams(rank_low=1, warmup=0.0, cutmix_probability=1.0, queue_size=60)
    method = U2PLReleased(Segmenter(NETWORK, 3), Task(("a", "b", "c"), cross_entropy), hparams).train()
    image, valid = torch.rand(4, 3, 32, 32), torch.ones(2, 32, 32, dtype=torch.bool)
    box = torch.zeros_like(valid)
    box[:, 8:24, 4:20] = True
    label = torch.randint(3, (2, 32, 32))
    streams = (
        Stream(("a", "b"), image[:2], valid, label=label),
        Stream(("c", "d"), image[2:], valid, boxes=(box,)),
    )
    method.losses(Batch(labeled=streams[0], unlabeled=streams[1]), at())
    images = torch.cat([image[:2], mix(image[2:], box)])

    def threshold(cells: Tensor) -> float:
        probability = method.net.upsample(cells[2:], images[2:]).softmax(1)
        return percentile(pixel_entropy(probability), valid, 0.8).item()

    assert method.notes["threshold"].item() == threshold(represent_by_batch(method.teacher, images)[0])
    assert method.notes["threshold"].item() != threshold(method.teacher.represent(images)[0])


# What is as in u2pl ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_other_terms_are_those_of_u2pl_where_the_passes_agree(seed: int) -> None:
    """Pixel by pixel, with boxes and padding: the same labels, threshold and weight."""
    generator = torch.Generator().manual_seed(seed)
    p = (2 * torch.randn(4, 12, 4, generator=generator)).softmax(2).tolist()
    rows = [[pixel(p[i][x], 12 * i + x) for x in range(12)] for i in range(4)]
    label = torch.randint(4, (2, 12), generator=generator).tolist()
    box, valid = ((torch.rand(2, 12, generator=generator) < 0.7).int().tolist() for _ in range(2))
    batch = batch_of(labeled(rows[:2], label), unlabeled(rows[2:], valid, box), classes=4)
    for number, total in ((0, 10), (5, 10)):
        ours, theirs = (build(cls, 4) for cls in BOTH)
        one, other = step(ours, batch, number, total), step(theirs, batch, number, total)
        assert one.keys() == other.keys() and len(one) == 3
        for name in one.keys() - {"contrast"}:
            assert other[name] == pytest.approx(one[name], abs=1e-6)
        assert torch.equal(ours.notes["threshold"], theirs.notes["threshold"])


def test_contrast_trains_the_representation_and_no_teacher() -> None:
    method = filled(U2PLReleased, {0: [0.6, 0.8], 1: [0.8, 0.6]})
    batch = present([0, 1], [[1.0, 0.0], [0.0, 1.0]])
    method.losses(batch, at())["contrast"].backward()
    net = method.net
    assert all(layer.weight.grad.any() for layer in (net.encoder, net.representation_head, net.projection))
    assert net.segmentation_head.weight.grad is None or not net.segmentation_head.weight.grad.any()
    assert all(p.grad is None for p in method.teacher.parameters())


def test_padding_is_counted_nowhere() -> None:
    rows = [[pixel(sure(x % 3, 3, 0.9 - 0.05 * x - 0.01 * i), 9 * i + x) for x in range(6)] for i in range(2)]
    valid = [[1, 1, 0, 1, 1, 1], [1, 0, 1, 1, 1, 1]]

    def outcome(garbage: list[float]) -> tuple[dict[str, float], dict[str, Tensor]]:
        shown = [
            [p if keep else garbage for p, keep in zip(*one, strict=True)]
            for one in zip(rows, valid, strict=True)
        ]
        label = [[x % 3 if keep else IGNORE for x, keep in enumerate(row)] for row in valid]
        method = build(U2PLReleased, 3, rank_low=1)
        for c in range(3):
            fill(method, c, [1.0, 0.5])
        return step(method, batch_of(labeled(shown, label), unlabeled(shown, valid))), dict(method.notes)

    (first, notes), (second, others) = outcome(pixel(sure(0, 3), 1)), outcome(pixel([1 / 3] * 3, 2))
    assert first == second and first["contrast"] > 0
    for name, note in notes.items():
        assert torch.equal(note.nan_to_num(-1), others[name].nan_to_num(-1)), name


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["method.alpha=-0.1"], "method.alpha"),
        (["method.alpha=1.1"], "method.alpha"),
        (["method.world_size=0"], "method.world_size"),
        (
            ["method.rank_low=5", "method.rank_high=5"],
            r"method\.rank_low \(5\) must be below rank_high \(5\)",
        ),
        (["method.queue_size=49"], r"method\.queue_size \(49\) is below negatives \(50\)"),
        (["method.queue_size_first=49"], r"method\.queue_size_first \(49\) is below negatives \(50\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(
    tiny_config: Callable[..., RunConfig], sets: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config("u2pl_released", *sets)


def test_a_rank_low_beyond_the_classes_is_refused() -> None:
    hparams = u2pl_released.U2PLReleased.HParams(rank_low=4)
    hparams.check(5, 10)
    with pytest.raises(ValueError, match=r"rank_low=4 leaves no rank of 4 classes, .* set it to 1..3"):
        hparams.check(4, 10)
