"""CPS, ClassMix and ReCo, by hand and by what must hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linear import LABELED_LOSS, UNSURE, A, B, C, Linear, build, unlabeled, values

from bench.ops.mixing import half_of_the_classes
from bench.ops.regional import negative_pixels, regional_contrast
from methods.classmix import ClassMix
from methods.cps import CPS
from methods.reco import ReCo


def generator(seed: int = 0) -> Callable[[str], torch.Generator]:
    made = torch.Generator().manual_seed(seed)
    return lambda purpose: made


# CPS --------------------------------------------------------------------------------------------------------


def test_two_networks_that_are_equal_learn_their_own_labels_twice() -> None:
    """2 x weight x CE(p, argmax p); pixels of padding do not count."""
    batch = unlabeled([[A, UNSURE], [B, C]], box=[[0, 0], [0, 0]], valid=[[1, 1], [1, 0]])
    got = values(build(CPS, cross_weight=1.5), batch)
    own = -(2 * math.log(0.9) + math.log(0.5)) / 3
    assert got["cross"] == pytest.approx(1.5 * 2 * own)
    assert got["labeled"] == pytest.approx(2 * LABELED_LOSS)


def test_each_network_learns_what_the_other_says_of_the_unmixed_images() -> None:
    """The other one has the opposite logits, so it says c or b where the first says a."""
    method = build(CPS)
    other = method.other
    assert isinstance(other, Linear)
    other.set(local=-1)
    batch = unlabeled([[A, A], [B, B]], box=[[0, 1], [0, 0]])
    # Mixed: (a, b of image 1), (b, b). The other's argmax is c for both: .04 of A and .04 of B.
    inverse = [1 / 0.9, 1 / 0.06, 1 / 0.04]
    of_other = inverse[0] / sum(inverse)  # what the other gives the first one's own class
    cross = -math.log(0.04) - math.log(of_other)
    assert values(method, batch)["cross"] == pytest.approx(cross)
    assert method.notes["agreement"].item() == 0


# ClassMix ---------------------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=4), st.integers(0, 99)
)
def test_half_of_the_classes_of_each_image_rounded_down(rows: list[list[int]], seed: int) -> None:
    label = torch.tensor(rows).view(len(rows), 2, 3)
    valid = torch.ones_like(label, dtype=torch.bool)
    kept = half_of_the_classes(label, valid, 5, torch.Generator().manual_seed(seed))
    for one, of in zip(label, kept, strict=True):
        whole = {int(k) for k in one.unique() if of[one == k].all()}
        assert len(whole) == len(one.unique()) // 2 and int(of.sum()) == sum(
            int((one == k).sum()) for k in whole
        )


def test_a_class_of_padding_alone_is_none() -> None:
    label = torch.tensor([[[0, 0, 1]]])
    valid = torch.tensor([[[True, True, False]]])
    assert not half_of_the_classes(label, valid, 2, torch.Generator()).any(), "one class: none is kept"


def test_which_half_is_drawn_anew() -> None:
    label = torch.tensor([[[0, 1]]])
    valid = torch.ones_like(label, dtype=torch.bool)
    drawn = [
        half_of_the_classes(label, valid, 2, torch.Generator().manual_seed(s)).tolist() for s in range(20)
    ]
    assert [[[True, False]]] in drawn and [[[False, True]]] in drawn


def test_classmix_learns_every_pixel_by_the_share_of_sure_ones() -> None:
    """Images of one class each, so each is replaced whole; three of four pixels are sure."""
    batch = unlabeled([[A, A], [UNSURE, A]])
    method = build(ClassMix, threshold=0.8)
    got = values(method, batch)
    loss = -(3 * math.log(0.9) + math.log(0.5)) / 4
    assert got["unlabeled"] == pytest.approx(0.75 * loss)
    assert method.notes["share_own"].item() == 0


def test_classmix_pastes_image_and_label_alike() -> None:
    """Whatever half is drawn, each mixed pixel carries its own label: -log .9 everywhere."""
    batch = unlabeled([[A, B, C], [C, A, B]])
    assert values(build(ClassMix, threshold=0.0), batch)["unlabeled"] == pytest.approx(-math.log(0.9))


# ReCo -------------------------------------------------------------------------------------------------------

KEYS = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
OF_CLASS = torch.tensor(
    [[True, True, False, False], [False, False, True, False], [False, False, False, True]]
)


def test_negatives_come_from_near_classes_more_often() -> None:
    """Of class 0: cos 0 to class 1, -1 to class 2; at temperature .5 that is e^2 to 1."""
    means = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    found = negative_pixels(OF_CLASS, means, 20_000, 0.5, generator())
    share = (found[0] == 2).float().mean().item()
    assert share == pytest.approx(math.e**2 / (math.e**2 + 1), abs=0.01)
    assert set(found[0].tolist()) == {2, 3} and set(found[1].tolist()) == {0, 1, 3}


def test_regional_contrast_by_hand() -> None:
    """Two classes at right angles, one query each: log(1 + N e^(0 - 1 / t)) with N negatives."""
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    of_class = torch.tensor([[True, False], [False, True], [False, False]])
    settings: dict[str, Any] = {"labeled": 1, "queries": 4, "negatives": 3, "groups": 2, "temperature": 0.5}
    settings["project"] = torch.nn.Identity()
    hard = torch.tensor([True, True])
    loss = regional_contrast(keys, of_class, hard, generator(), **settings)
    assert loss.item() == pytest.approx(math.log(1 + 3 * math.exp(-2)), rel=1e-5)
    half = regional_contrast(keys, of_class, torch.tensor([True, False]), generator(), **settings)
    assert half.item() == pytest.approx(loss.item() / 2), "a class without hard pixels adds 0 and counts"
    alone = regional_contrast(keys, of_class & torch.tensor([True, False]), hard, generator(), **settings)
    assert alone.item() == 0 and alone.requires_grad, "one class has nothing to be told from"


def test_what_was_drawn_is_projected_and_nothing_else_changes() -> None:
    """Projecting all pixels first gives the same loss and gradient; two classes are not there."""
    torch.manual_seed(0)
    project = torch.nn.Linear(3, 4)
    label = torch.tensor([0, 0, 1, 1, 1, 3, 3, 0, 1, 3])
    of_class = label == torch.arange(5).unsqueeze(1)
    hard = torch.rand(10) < 0.7
    settings: dict[str, Any] = {"labeled": 10, "queries": 6, "negatives": 5, "groups": 2, "temperature": 0.5}
    found = []
    for first in (False, True):
        hidden = torch.randn(10, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
        keys, rest = (project(hidden), torch.nn.Identity()) if first else (hidden, project)
        loss = regional_contrast(keys, of_class, hard, generator(), **settings, project=rest)
        found.append((loss.item(), *torch.autograd.grad(loss, [hidden, project.weight])))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5) and found[0][0] > 0
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        assert torch.allclose(one, other, atol=1e-6) and one.any()


def test_reco_weighs_an_image_by_its_sure_pixels_and_leaves_out_what_is_learned() -> None:
    """One image of two sure pixels, one of one; a pixel of no loss drops out of the mean."""
    certain = (1.0, 1e-300, 1e-300)
    batch = unlabeled([[certain, A], [UNSURE, A]])
    got = values(build(ReCo, threshold=0.8, contrast_weight=0.0), batch)
    # Each image shows one class, so the other one replaces it whole. Three pixels have a loss.
    loss = (-math.log(0.9) * 1 + (-math.log(0.5) - math.log(0.9)) * 0.5) / 3
    assert got["unlabeled"] == pytest.approx(loss)
    assert got["labeled"] == pytest.approx(LABELED_LOSS) and got["contrast"] == 0


def test_reco_contrasts_labels_and_fairly_sure_pixels_where_the_student_is_not_sure() -> None:
    """Labels: a (.9) and a (.5). Of the unlabeled pixels, b (.9) is fairly sure and the other is not."""
    batch = unlabeled([[B, B], [UNSURE, UNSURE]])
    method = build(ReCo, query_threshold=0.8)
    assert values(method, batch)["contrast"] > 0
    # Hard are the two pixels labeled a with .5, of the four labeled ones and two of b.
    assert method.notes["share_hard"].item() == pytest.approx(2 / 6)
