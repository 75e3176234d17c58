"""Confusion counts and mIoU by hand, against two libraries, and inference on awkward sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench.errors import DataError
from bench.scoring.inference import Inference, confusion, evaluate, score, windows
from bench.settings.schema import Evaluation
from datasets.folder import Folder


def counts_of(truth: list[int], predicted: list[int], classes: int) -> np.ndarray:
    return confusion(torch.tensor(predicted), torch.tensor(truth), classes).numpy()


def test_counts_have_truth_in_rows_and_leave_255_out() -> None:
    counts = counts_of([0, 0, 1, 1, 255], [0, 1, 1, 1, 1], 2)
    assert counts.tolist() == [[1, 1], [0, 2]]
    assert counts.dtype == np.int64


@pytest.mark.parametrize(
    ("truth", "predicted", "iou", "miou"),
    [
        ([0, 0, 1, 1, 255], [0, 1, 1, 1, 1], [1 / 2, 2 / 3, None], 7 / 12),
        (
            [0, 0, 1, 1],
            [0, 2, 1, 1],
            [1 / 2, 1.0, None],
            3 / 4,
        ),  # predicted, never true: a miss of class 0 alone
        ([0, 1, 2], [0, 1, 2], [1.0, 1.0, 1.0], 1.0),
        ([2, 2], [2, 2], [None, None, 1.0], 1.0),  # in neither: not a zero
    ],
)
def test_miou_by_hand(truth: list[int], predicted: list[int], iou: list[float | None], miou: float) -> None:
    found = score(counts_of(truth, predicted, 3))
    assert found.iou == pytest.approx(iou)
    assert found.miou == pytest.approx(miou)
    assert found.classes_averaged == sum(value is not None for value in iou)


def test_nothing_labeled_has_no_score() -> None:
    with pytest.raises(DataError, match="no scored mask holds a labeled pixel"):
        score(counts_of([255, 255], [0, 1], 2))


@pytest.mark.parametrize(("truth", "predicted"), [([0], [255]), ([0], [3]), ([3], [0])])
def test_an_id_out_of_range_is_an_error(truth: list[int], predicted: list[int]) -> None:
    with pytest.raises(ValueError, match="outside 0..2"):
        counts_of(truth, predicted, 3)


def test_an_ignored_pixel_may_be_predicted_as_anything_in_range() -> None:
    assert counts_of([255], [2], 3).sum() == 0


@pytest.fixture(scope="module")
def others() -> tuple[Any, Any]:
    """The function of torchmetrics and that of scikit-learn. To load them takes seconds, which every process
    that only collects this file would spend."""
    from sklearn.metrics import jaccard_score
    from torchmetrics.functional.classification import multiclass_jaccard_index

    return multiclass_jaccard_index, jaccard_score


@settings(deadline=None, max_examples=60)
@given(
    pixels=st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 255]), st.integers(0, 3)), min_size=1, max_size=60)
)
def test_agrees_with_torchmetrics_and_scikit_learn(
    others: tuple[Any, Any], pixels: list[tuple[int, int]]
) -> None:
    multiclass_jaccard_index, jaccard_score = others
    truth, predicted = [list(column) for column in zip(*pixels, strict=True)]
    valid = [(t, p) for t, p in pixels if t != 255]
    assume(valid)
    found = score(counts_of(truth, predicted, 4))
    theirs = multiclass_jaccard_index(
        torch.tensor(predicted), torch.tensor(truth), num_classes=4, ignore_index=255, average="none"
    )
    t, p = zip(*valid, strict=True)
    sklearn = jaccard_score(t, p, labels=sorted(set(t)), average="macro", zero_division=0)
    assert [value or 0.0 for value in found.iou] == pytest.approx(theirs.tolist(), abs=1e-6)
    assert found.miou == pytest.approx(sklearn)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.randoms(use_true_random=False))
def test_pooling_does_not_depend_on_how_pixels_are_split(parts: int, random: object) -> None:
    rng = np.random.default_rng(parts)
    truth, predicted = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    whole = counts_of(truth.tolist(), predicted.tolist(), 3)
    pieces = zip(np.array_split(truth, parts), np.array_split(predicted, parts), strict=True)
    assert (sum(counts_of(t.tolist(), p.tolist(), 3) for t, p in pieces) == whole).all()


def test_counts_do_not_overflow_32_bits() -> None:
    big = np.array([[3_000_000_000, 0], [0, 3_000_000_000]], dtype=np.int64)
    assert score(big + big).miou == 1.0


def test_windows_shift_the_last_one_inside() -> None:
    """1024x2048 by 769 at stride 513: 2x4 windows from 0, 255 and 0, 513, 1026, 1279."""
    starts = [
        (rows.start, columns.start) for rows, columns in windows((1024, 2048), (769, 769), 2 / 3 + 1e-3)
    ]
    assert starts == [(top, left) for top in (0, 255) for left in (0, 513, 1026, 1279)]


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.integers(1, 40), st.floats(0.1, 1))
def test_windows_cover_every_pixel_and_stay_inside(h: int, w: int, wh: int, ww: int, stride: float) -> None:
    seen = np.zeros((h, w), int)
    for rows, columns in windows((h, w), (wh, ww), stride):
        assert 0 <= rows.start < rows.stop <= h and 0 <= columns.start < columns.stop <= w
        assert rows.stop - rows.start == min(wh, h) and columns.stop - columns.start == min(ww, w)
        seen[rows, columns] += 1
    assert seen.min() >= 1


class ByColour(nn.Module):
    """Class 0, 1, 2 by which colour channel is the strongest: equivariant to every crop, flip and padding."""

    def forward(self, image: Tensor) -> Tensor:
        return 50 * image


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"flip": True},
        {"mode": "slide", "window": (9, 11)},
        {"scales": (0.5, 1.0, 2.0), "flip": True},
        {"mode": "slide", "window": (64, 64)},
    ],
)
def test_every_way_of_inference_agrees_on_a_local_network(change: dict[str, object]) -> None:
    image = torch.zeros(1, 3, 20, 31)
    image[:, 0, :, :10] = 1
    image[:, 1, :, 10:20] = 1
    image[:, 2, :, 20:] = 1
    predicted = Inference(Evaluation(**change), (8, 8))(ByColour(), image)  # type: ignore[arg-type]
    assert predicted.shape == (1, 20, 31)
    assert (predicted == image.argmax(1)).all()


class LeftOrRight(nn.Module):
    """Class 0 on the left half of whatever it is shown, class 1 on the right: not equivariant to a flip."""

    def forward(self, image: Tensor) -> Tensor:
        right = torch.arange(image.shape[-1]) >= image.shape[-1] / 2
        logits = torch.stack([~right, right]).float()[None, :, None, :]
        return logits.expand(len(image), 2, *image.shape[-2:]) * 9


def test_flip_is_undone_before_averaging() -> None:
    image = torch.zeros(1, 3, 4, 8)
    probability = Inference(Evaluation(flip=True), (8, 8))
    once = LeftOrRight()(image).softmax(1)
    both = once + LeftOrRight()(image.flip(-1)).softmax(1).flip(-1)
    assert (probability(LeftOrRight(), image) == both.argmax(1)).all()
    assert torch.allclose(both[:, 0], both[:, 1])  # the two views cancel, so a flip left in place would show


@pytest.mark.parametrize(
    "change",
    [{}, {"flip": True}, {"scales": (0.5, 1.0, 1.75), "flip": True}, {"mode": "slide", "window": (9, 11)}],
)
def test_probabilities_are_a_mean_whose_likeliest_class_is_predicted(change: dict[str, object]) -> None:
    image = torch.rand(1, 3, 20, 31, generator=torch.Generator().manual_seed(0))
    inference = Inference(Evaluation(**change), (8, 8))  # type: ignore[arg-type]
    probability = inference.probability(ByColour(), image)
    assert probability.shape == (1, 3, 20, 31)
    assert torch.allclose(probability.sum(1), torch.ones(1, 20, 31), atol=1e-5)
    assert torch.equal(probability.argmax(1), inference(ByColour(), image))


def test_one_plain_view_takes_the_largest_logit() -> None:
    """As it always has: these two logits have one probability, of which the lower id would win."""
    logits = torch.tensor([0.0, 1e-9, -5.0]).view(1, 3, 1, 1)
    assert logits.softmax(1).argmax(1).item() == 0

    class Close(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return logits

    assert Inference(Evaluation(), (8, 8))(Close(), torch.zeros(1, 3, 1, 1)).item() == 1


def test_flips_and_scales_of_a_pointwise_network_are_its_raw_probabilities() -> None:
    """By hand: four flat quadrants, each an even number of pixels wide. A scale of 1/2 or 2 of the whole
    image blurs at the borders alone, so the inner pixels have the raw probabilities."""
    image = torch.zeros(1, 3, 24, 24)
    image[:, 0, :12, :12], image[:, 1, :12, 12:], image[:, 2, 12:, :12] = 1, 0.5, 0.25
    raw = (50 * image).softmax(1)
    many = Inference(Evaluation(scales=(0.5, 1.0, 2.0), flip=True), (8, 8)).probability(ByColour(), image)
    inner = [slice(2, 8), slice(16, 22)]
    for rows in inner:
        for columns in inner:
            assert torch.allclose(many[..., rows, columns], raw[..., rows, columns], atol=1e-4)
    flip = Inference(Evaluation(flip=True), (8, 8)).probability(ByColour(), image)
    assert torch.equal(flip, raw)


def test_evaluate_counts_each_image_and_restores_the_mode(tiny_set: Folder) -> None:
    class Background(nn.Module):
        modes: list[bool] = []  # noqa: RUF012

        def forward(self, image: Tensor) -> Tensor:
            self.modes.append(self.training)
            logits = torch.zeros(len(image), 3, *image.shape[-2:])
            logits[:, 0] = 1
            return logits

    seen: list[int] = []
    module = Background().train()
    on_image: Callable[[int], None] = seen.append
    counts = evaluate(
        module, tiny_set, tiny_set.ids("test"), Inference(Evaluation(), (32, 32)), "cpu", on_image
    )
    assert counts.shape == (4, 3, 3)
    for index, id in enumerate(tiny_set.ids("test")):
        mask = tiny_set.mask(id)
        assert counts[index].sum() == (mask != 255).sum()
        assert counts[index][:, 0].tolist() == [(mask == label).sum() for label in range(3)]
    assert seen == [1, 2, 3, 4]
    assert module.modes == [False] * 4 and module.training
