"""The three switches of U2PL+ by hand, and that they change nothing where they are off."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from pointwise import at, batch_of, buffer_of, build, fill, labeled, pixel, step, sure, unlabeled
from torch import Tensor

from bench import pipeline
from bench.contract import Batch
from bench.display import Display
from bench.ops.losses import reverse_cross_entropy
from bench.plan import plan
from bench.settings import registry
from bench.settings.schema import RunConfig
from methods.u2pl import U2PL

Config = Callable[..., RunConfig]
A = -math.log(1e-4)  # what the logarithm of 0 stands for
SWITCHES = {"symmetric_weight": 0.5, "prototype_momentum": 0.999, "denoise": True}


def test_the_preset_is_u2pl_with_three_other_defaults() -> None:
    info = registry.describe_method("u2pl_plus")
    assert info.knobs().model_dump() == {**U2PL.HParams().model_dump(), **SWITCHES}
    assert registry.load_method("u2pl_plus") is U2PL
    assert "from memory" in info.summary


# Reverse cross entropy ------------------------------------------------------------------------------------


def row(*probabilities: tuple[float, float, float]) -> Tensor:
    """Logits of one row of pixels: 1 3 1 W."""
    return torch.tensor(probabilities, dtype=torch.float64).log().t()[None, :, None].requires_grad_()


def test_reverse_cross_entropy_by_hand() -> None:
    """-ln 1e-4 (1 - p) = 9.21034 (1 - p) of the label's probability."""
    logits = row((0.9, 0.06, 0.04), (0.5, 0.3, 0.2), (0.5, 0.3, 0.2), (0.1, 0.1, 0.8))
    label = torch.tensor([[[0, 2, 0, 0]]])
    keep, counted = torch.tensor([[[1, 1, 0, 0]]]).bool(), torch.tensor([[[1, 1, 1, 0]]]).bool()
    loss = reverse_cross_entropy(logits, label, keep, counted)
    assert pytest.approx(9.210340, abs=1e-6) == A
    assert loss.item() == pytest.approx(A * (0.1 + 0.8) / 3)
    loss.backward()
    assert logits.grad is not None
    # d(1 - p) by the label's logit is -p (1 - p).
    assert logits.grad[0, 0, 0, 0].item() == pytest.approx(-A * 0.9 * 0.1 / 3)
    assert logits.grad[0, :, 0].ne(0).any(0).tolist() == [True, True, False, False]


def test_reverse_cross_entropy_is_0_with_a_graph_where_nothing_counts() -> None:
    logits, nothing = row((0.9, 0.06, 0.04)), torch.zeros(1, 1, 1, dtype=torch.bool)
    loss = reverse_cross_entropy(logits, torch.zeros(1, 1, 1).long(), nothing, nothing)
    assert loss == 0
    loss.backward()
    assert logits.grad is not None and not logits.grad.any()


def test_a_wrong_label_costs_at_most_9_21() -> None:
    """Where cross entropy grows without bound."""
    logits = torch.tensor([[[[-500.0]], [[500.0]]]])
    every = torch.ones(1, 1, 1, dtype=torch.bool)
    assert reverse_cross_entropy(logits, torch.zeros(1, 1, 1).long(), every, every).item() == pytest.approx(A)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_unlabeled_term_adds_both_directions(weight: float) -> None:
    """Ten pixels with cross entropy 1, eight of them reliable: 1.25 (1 + weight A (1 - 1/e))."""
    e = math.exp(-1)
    rest = [(1 - e) / 2 - 1e-3 * i for i in range(10)]
    pixels = [pixel([e, r, 1 - e - r], 0) for r in rest]
    method = build(U2PL, 3, rank_low=1, symmetric_weight=weight)
    terms = step(method, batch_of(unlabeled=unlabeled([pixels[:5], pixels[5:]])))
    assert terms["unlabeled"] == pytest.approx(1.25 * (1 + weight * A * (1 - e)), rel=1e-4)


# Prototypes with momentum ---------------------------------------------------------------------------------


def of_classes(vectors: dict[int, Sequence[float]]) -> Batch:
    """One labeled pixel per class with this representation, predicted with .9."""
    pixels = [pixel(sure(c, 3), z) for c, z in vectors.items()]
    return batch_of(labeled([pixels, pixels], [list(vectors)] * 2))


def prototypes(method: U2PL) -> list[list[float]]:
    return buffer_of(method, "prototypes")[:, :2].tolist()


def test_the_first_mean_is_taken_whole_and_absent_classes_stay() -> None:
    method = build(U2PL, 3, rank_low=1, prototype_momentum=0.75)
    step(method, of_classes({0: [4.0, 0.0], 2: [1.0, 1.0]}))
    assert prototypes(method) == [[4, 0], [0, 0], [1, 1]]
    step(method, of_classes({0: [0.0, 8.0], 1: [5.0, 6.0]}), 1)
    assert prototypes(method) == [[3, 2], [5, 6], [1, 1]]
    step(method, of_classes({2: [-3.0, 5.0]}), 2)
    assert prototypes(method) == [[3, 2], [5, 6], [0, 2]]
    assert buffer_of(method, "seen").tolist() == [True] * 3


def test_without_momentum_a_prototype_is_the_batchs_own() -> None:
    method = build(U2PL, 3, rank_low=1)
    step(method, of_classes({0: [4.0, 0.0], 2: [1.0, 1.0]}))
    step(method, of_classes({0: [0.0, 8.0]}), 1)
    assert prototypes(method)[0] == [0, 8]


def test_the_anchors_are_drawn_to_the_moved_prototype() -> None:
    """Prototypes (1, 0) and (0, 1) of class 0 and 1 stay, nearly; the new anchors lie the other way round."""
    method = build(U2PL, 3, rank_low=1, prototype_momentum=0.999999)
    step(method, of_classes({0: [1.0, 0.0], 1: [0.0, 1.0]}))
    for c in range(2):
        fill(method, c, [-1.0, -1.0])
    half = math.sqrt(0.5)
    for vectors, cosine in (([1.0, 0.0], [0.0, 1.0]), 1.0), (([0.0, 1.0], [1.0, 0.0]), 0.0):
        terms = step(method, of_classes(dict(enumerate(vectors))), 1)
        expected = 0.1 * math.log(1 + 4 * math.exp((-half - cosine) / 0.5))
        assert terms["contrast"] == pytest.approx(expected, abs=1e-4)


def test_a_class_that_was_seen_but_is_absent_does_not_contribute() -> None:
    method = build(U2PL, 3, rank_low=1, prototype_momentum=0.9)
    for c in range(3):
        fill(method, c, [-1.0, 0.0])
    assert step(method, of_classes({0: [1.0, 0.0], 1: [0.0, 1.0]}))["contrast"] > 0
    assert step(method, of_classes({0: [1.0, 0.0]}), 1)["contrast"] == 0


# Denoised labels ------------------------------------------------------------------------------------------

DOUBTFUL = [0.45, 0.35, 0.2]


def denoised(z: Sequence[float], seen: dict[int, Sequence[float]], **knobs: Any) -> tuple[U2PL, float]:
    """A method that has seen these prototypes and then says `DOUBTFUL` for pixels with the representation z;
    and the entropy it finds."""
    method = build(U2PL, 3, rank_low=1, denoise=True, **knobs)
    if seen:
        step(method, of_classes(seen))
    step(method, batch_of(unlabeled=unlabeled([[pixel(DOUBTFUL, z)]] * 2)), 1)
    return method, method.notes["threshold"].item()


def entropy(weights: Sequence[float]) -> float:
    return -sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights)


def label_of(method: U2PL) -> list[int]:
    accuracy = method.audits["accuracy_teacher"]
    return [c for c in range(3) if accuracy(torch.full((2, 1, 1), c)) == 1]


def test_a_label_moves_to_the_prototype_that_is_alike() -> None:
    """The probabilities times exp(cosine / tau): 0 has cosine 0, 1 has 1, and 2 has -1."""
    seen = {0: [2.0, 0.0], 1: [0.0, 3.0], 2: [0.0, -1.0]}
    method, found = denoised([0.0, 5.0], seen)
    assert label_of(method) == [1]
    assert found == pytest.approx(entropy([0.45, 0.35 * math.e**2, 0.2 * math.e**-2]), abs=1e-5)
    method, found = denoised([5.0, 0.0], seen)
    assert label_of(method) == [0]
    assert found == pytest.approx(entropy([0.45 * math.e**2, 0.35, 0.2]), abs=1e-5)


def test_a_lower_temperature_moves_it_further() -> None:
    _, found = denoised([0.0, 5.0], {0: [2.0, 0.0], 1: [0.0, 3.0], 2: [0.0, -1.0]}, temperature=0.25)
    assert found == pytest.approx(entropy([0.45, 0.35 * math.e**4, 0.2 * math.e**-4]), abs=1e-5)


def test_a_class_without_prototype_gets_the_mean_similarity() -> None:
    """Cosines 0 and 1, so 1/2 for class 2: neither the best nor the worst."""
    method, found = denoised([0.0, 5.0], {0: [2.0, 0.0], 1: [0.0, 3.0]})
    assert label_of(method) == [1]
    assert found == pytest.approx(entropy([0.45, 0.35 * math.e**2, 0.2 * math.e]), abs=1e-5)


@pytest.mark.parametrize("seen", [{}, {1: [0.0, 3.0]}])
def test_fewer_than_two_prototypes_move_nothing(seen: dict[int, list[float]]) -> None:
    method, found = denoised([0.0, 5.0], seen)
    assert label_of(method) == [0]
    assert found == pytest.approx(entropy(DOUBTFUL), abs=1e-5)


def test_without_the_switch_prototypes_move_no_label() -> None:
    method = build(U2PL, 3, rank_low=1)
    step(method, of_classes({0: [2.0, 0.0], 1: [0.0, 3.0], 2: [0.0, -1.0]}))
    step(method, batch_of(unlabeled=unlabeled([[pixel(DOUBTFUL, [0.0, 5.0])]] * 2)), 1)
    assert label_of(method) == [0]
    assert method.notes["threshold"].item() == pytest.approx(entropy(DOUBTFUL), abs=1e-5)


# Runs -----------------------------------------------------------------------------------------------------

SEMI = ["protocol.steps=4", "method.warmup=0.0"]
OFF = ["method.symmetric_weight=0.0", "method.prototype_momentum=0.0", "method.denoise=false"]


def run(config: RunConfig) -> bytes:
    """The weights of the run."""
    pipeline.run(plan(config), Display())
    return plan(config).folder.weights.read_bytes()


@pytest.mark.slow
def test_off_is_u2pl_bit_for_bit_and_each_switch_changes_it(tiny_config: Config) -> None:
    """A momentum shows from the second step on; a low temperature lets few steps move a label."""
    sets = [*SEMI, "method.temperature=0.02"]
    plain = run(tiny_config("u2pl", *sets))
    assert run(tiny_config("u2pl_plus", *sets, *OFF)) == plain
    whole = run(tiny_config("u2pl_plus", *sets))
    others = [run(tiny_config("u2pl_plus", *sets, *OFF[:i], *OFF[i + 1 :])) for i in range(3)]
    assert len({plain, whole, *others}) == 5


@pytest.mark.slow
def test_in_bf16_it_is_finite(tiny_config: Config) -> None:
    assert run(tiny_config("u2pl_plus", *SEMI, "protocol.precision=bf16"))


def test_labels_are_denoised_by_the_teachers_representation() -> None:
    """The student's projection, turned round, has no say in it."""
    batch = batch_of(
        labeled([[pixel(sure(0, 3), [3.0, 1.0]), pixel(sure(1, 3), [1.0, 3.0])]] * 2, [[0, 1]] * 2),
        unlabeled([[pixel([0.5, 0.4, 0.1], [1.0, 2.0]), pixel([0.1, 0.2, 0.7], [2.0, 1.0])]] * 2),
    )
    thresholds = []
    for turn in (1, -1):
        method = build(U2PL, 3, rank_low=1, denoise=True)
        method.losses(batch, at(0))  # gives prototypes
        with torch.no_grad():
            method.net.projection.weight.mul_(turn)
        method.losses(batch, at(1))
        thresholds.append(method.notes["threshold"])
    assert torch.equal(*thresholds)
