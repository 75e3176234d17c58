"""Predictions restricted to the tags of their images: by hand, then against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.ops.entropy import pixel_entropy
from bench.ops.tags import allowed_label, relative_entropy, restrict


def pixel(probability: list[float]) -> Tensor:
    """An image of one pixel: 1 C 1 1."""
    return torch.tensor(probability).view(1, -1, 1, 1)


def tags(classes: int, *rows: tuple[int, ...]) -> Tensor:
    """B C bool."""
    allowed = torch.zeros(len(rows), classes, dtype=torch.bool)
    for row, present in zip(allowed, rows, strict=True):
        row[list(present)] = True
    return allowed


P = pixel([0.5, 0.3, 0.15, 0.05])
ONE_TAG = tags(4, (0, 1))  # background and class 1


# By hand --------------------------------------------------------------------------------------------------


def test_one_tag_by_hand() -> None:
    assert pixel_entropy(P).item() == pytest.approx(1.14212, abs=1e-5)
    restricted = restrict(P, ONE_TAG)
    assert restricted.flatten().tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert pixel_entropy(restricted).item() == pytest.approx(0.66156, abs=1e-5)
    assert relative_entropy(P, ONE_TAG).item() == pytest.approx(0.95443, abs=1e-5)
    assert allowed_label(P, ONE_TAG).item() == 0


@pytest.mark.parametrize(
    ("allowed", "label"), [((0, 1, 2, 3), 0), ((1, 2), 1), ((3, 2), 2), ((3,), 3), ((0,), 0)]
)
def test_the_label_is_the_most_likely_allowed_class(allowed: tuple[int, ...], label: int) -> None:
    assert allowed_label(P, tags(4, allowed)).item() == label


def test_each_image_has_its_own_tags() -> None:
    """Without background: an image with a single tag is that class everywhere, and sure of it."""
    probability = torch.rand(3, 5, 4, 6, generator=torch.Generator().manual_seed(0)).softmax(1)
    allowed = tags(5, (3,), (0, 1, 2, 3, 4), (4, 1))
    label = allowed_label(probability, allowed)
    assert (label[0] == 3).all()
    assert torch.equal(label[1], probability[1].argmax(0))
    assert set(label[2].unique().tolist()) == {1, 4}
    entropy = relative_entropy(probability, allowed)
    assert entropy[0].eq(0).all() and (entropy[1:] > 0).all()


@pytest.mark.parametrize("number", [2, 3, 21])
def test_images_with_few_and_with_many_tags_have_the_same_scale(number: int) -> None:
    """An even prediction has the entropy ln 2 = .693, ln 3 = 1.099, ln 21 = 3.045, and 1 after division."""
    even, allowed = pixel([1 / 21] * 21), tags(21, tuple(range(number)))
    assert pixel_entropy(restrict(even, allowed)).item() == pytest.approx(math.log(number), abs=1e-5)
    assert relative_entropy(even, allowed).item() == pytest.approx(1, abs=1e-6)


def test_allowed_classes_that_have_underflowed_are_still_the_answer() -> None:
    """All of the probability is on a class that the image does not have: nothing is known, not all sure."""
    lost = pixel([1.0, 0.0, 0.0])
    allowed = tags(3, (1, 2))
    assert allowed_label(lost, allowed).item() == 1
    assert restrict(lost, allowed).flatten().tolist() == [0, 0.5, 0.5]
    assert relative_entropy(lost, allowed).item() == 1


def test_where_no_class_is_allowed_nothing_is_nan() -> None:
    nothing = tags(4, ())
    assert restrict(P, nothing).eq(0).all()
    assert relative_entropy(P, nothing).eq(0).all()
    assert allowed_label(P, nothing).item() in range(4)


# Against plain loops --------------------------------------------------------------------------------------


@st.composite
def tagged_images(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """B C 1 W with many ties and zeros, and B C with at least one class each."""
    classes, images, width = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    value = st.integers(0, 4)
    rows = [
        [[draw(st.lists(value, min_size=width, max_size=width))] for _ in range(classes)]
        for _ in range(images)
    ]
    present = st.sets(st.integers(0, classes - 1), min_size=1)
    return torch.tensor(rows) / 4, tags(classes, *(tuple(draw(present)) for _ in range(images)))


@settings(deadline=None)
@given(given_images=tagged_images())
def test_the_label_is_always_allowed(given_images: tuple[Tensor, Tensor]) -> None:
    probability, allowed = given_images
    label = allowed_label(probability, allowed)
    for image, row in enumerate(allowed.tolist()):
        present = [c for c, may in enumerate(row) if may]
        for x, found in enumerate(label[image, 0].tolist()):
            own = probability[image, :, 0, x].tolist()
            assert found in present
            assert own[found] == max(own[c] for c in present)
    everything = torch.ones_like(allowed)
    assert torch.equal(allowed_label(probability, everything), probability.max(1).indices)


@settings(deadline=None)
@given(given_images=tagged_images())
def test_what_is_restricted_is_a_prediction_of_the_allowed_classes(
    given_images: tuple[Tensor, Tensor],
) -> None:
    probability, allowed = given_images
    restricted = restrict(probability, allowed)
    assert not restricted.masked_select(~allowed[:, :, None, None].expand_as(restricted)).any()
    torch.testing.assert_close(restricted.sum(1), torch.ones_like(restricted[:, 0]))
    entropy = relative_entropy(probability, allowed)
    assert entropy.min() >= 0 and entropy.max() <= 1 + 1e-6
    assert entropy[allowed.sum(1) == 1].eq(0).all()
