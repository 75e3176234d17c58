"""The queues of negative keys against lists with a maximal length, and the choice of keys that enter them."""

from __future__ import annotations

import math
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_contrast import contents
from torch import Tensor

from bench.ops.queues import Queues, sample_keys

BITS = 10


def code(number: int) -> Tensor:
    """A vector whose signs are the number's bits: what is stored tells which key it was."""
    return torch.tensor([1.0 if number >> bit & 1 else -1.0 for bit in range(BITS)])


def numbers(keys: Tensor) -> list[int]:
    return [sum(1 << bit for bit, value in enumerate(key) if value > 0) for key in keys.tolist()]


def push(queues: Queues, *classes: list[int]) -> list[int]:
    """Pushes a list of numbers to each class; answers how many each class got."""
    width = max(map(len, classes))
    keys = torch.zeros(len(classes), width, BITS)
    meant = torch.zeros(len(classes), width, dtype=torch.bool)
    for label, pushed in enumerate(classes):
        for place, number in enumerate(pushed):
            keys[label, place], meant[label, place] = code(number), True
    return queues.push(queues.kept(keys), meant).tolist()


def held(queues: Queues, label: int = 0) -> list[int]:
    return numbers(contents(queues, label))


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(queues: Queues, size: int, seed: int = 0) -> list[list[int]]:
    return [numbers(keys) for keys in queues.draw(size, stream(seed))]


def even(counts: list[int]) -> bool:
    """Whether the counts look like equally likely outcomes: chi-square, within 4.5 standard deviations."""
    mean, freedom = sum(counts) / len(counts), len(counts) - 1
    statistic = sum((count - mean) ** 2 for count in counts) / mean
    return statistic < freedom + 4.5 * math.sqrt(2 * freedom)


# First in, first out --------------------------------------------------------------------------------------


def test_a_full_queue_drops_the_oldest() -> None:
    queues = Queues([5], BITS)
    assert push(queues, [1, 2, 3]) == [3]
    assert held(queues) == [1, 2, 3]
    assert push(queues, [4, 5, 6, 7]) == [4]
    assert held(queues) == [3, 4, 5, 6, 7]


def test_of_more_than_fit_the_newest_stay() -> None:
    queues = Queues([5], BITS)
    push(queues, [1, 2])
    assert push(queues, [10, 11, 12, 13, 14, 15, 16, 17, 18]) == [9], "all that were offered"
    assert held(queues) == [14, 15, 16, 17, 18]
    assert queues.length.tolist() == [5]
    push(queues, [19])
    assert held(queues) == [15, 16, 17, 18, 19]


@pytest.mark.parametrize("width", [0, 3])
def test_a_push_of_nothing_changes_nothing(width: int) -> None:
    queues = Queues([5, 4], BITS)
    push(queues, [1, 2], [3])
    before = {name: value.clone() for name, value in queues.state_dict().items()}
    count = queues.push(queues.kept(torch.randn(2, width, BITS)), torch.zeros(2, width, dtype=torch.bool))
    assert count.tolist() == [0, 0]
    assert all(torch.equal(value, before[name]) for name, value in queues.state_dict().items())


def test_keys_that_are_not_meant_leave_no_gap() -> None:
    queues = Queues([4], BITS)
    keys = torch.stack([code(n) for n in range(1, 7)]).unsqueeze(0)
    queues.push(queues.kept(keys), torch.tensor([[True, False, False, True, False, True]]))
    assert held(queues) == [1, 4, 6]


def test_classes_have_their_own_capacity_and_pace() -> None:
    queues = Queues([5, 2, 3], BITS)
    assert push(queues, [1, 2, 3], [4], []) == [3, 1, 0]
    assert push(queues, [], [5, 6], [7]) == [0, 2, 1]
    assert [held(queues, label) for label in range(3)] == [[1, 2, 3], [5, 6], [7]]
    assert queues.length.tolist() == [3, 2, 1]


def test_clear_empties_every_class_and_the_next_keys_are_the_first() -> None:
    queues = Queues([3, 3], BITS)
    push(queues, [1, 2, 3, 4], [5])
    queues.clear()
    assert queues.length.tolist() == [0, 0]
    assert not queues.draw(4, stream()).any()
    push(queues, [6, 7], [])
    assert [held(queues, label) for label in range(2)] == [[6, 7], []]
    assert set(drawn(queues, 50)[0]) == {6, 7}


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[list[list[int]]]]:
    """Capacities, and pushes of numbers to each class."""
    capacities = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    number = st.integers(0, 2**BITS - 1)
    one = st.lists(number, max_size=16)
    pushes = st.lists(st.tuples(*[one for _ in capacities]).map(list), max_size=8)
    return capacities, draw(pushes)


@settings(max_examples=150, deadline=None)
@given(history=histories())
def test_queues_are_deques_of_a_maximal_length(history: tuple[list[int], list[list[list[int]]]]) -> None:
    capacities, pushes = history
    queues = Queues(capacities, BITS)
    models: list[deque[int]] = [deque(maxlen=capacity) for capacity in capacities]
    for classes in pushes:
        assert push(queues, *classes) == [len(pushed) for pushed in classes]
        for label, (model, pushed) in enumerate(zip(models, classes, strict=True)):
            model.extend(pushed)
            assert held(queues, label) == list(model)
            assert set(drawn(queues, 6)[label]) <= set(model) or not model
        assert (queues.length <= torch.tensor(capacities)).all()


# What is stored -------------------------------------------------------------------------------------------


def test_keys_are_stored_normalised_in_half_precision() -> None:
    queues = Queues([2], 2)
    queues.push(queues.kept(torch.tensor([[[30.0, 40.0], [-0.001, 0.0]]])), torch.tensor([[True, True]]))
    assert queues.keys.dtype == torch.float16
    torch.testing.assert_close(contents(queues, 0), torch.tensor([[0.6, 0.8], [-1, 0]], dtype=torch.float16))
    assert queues.draw(3, stream()).dtype == torch.float32


def test_a_stored_key_keeps_its_cosine() -> None:
    queues = Queues([500], 256)
    keys, anchor = torch.randn(1, 500, 256, generator=stream()), torch.randn(256, generator=stream(1))
    queues.push(queues.kept(keys), torch.ones(1, 500, dtype=torch.bool))
    stored = torch.cosine_similarity(contents(queues, 0).float(), anchor)
    assert (stored - torch.cosine_similarity(keys[0], anchor)).abs().max() < 5e-5


def test_a_key_has_no_gradient() -> None:
    queues = Queues([2], BITS)
    queues.push(queues.kept(torch.randn(1, 2, BITS, requires_grad=True)), torch.ones(1, 2, dtype=torch.bool))
    assert not queues.keys.requires_grad and not queues.draw(2, stream()).requires_grad
    assert not list(queues.parameters())


def test_memory_is_the_sum_of_the_capacities() -> None:
    queues = Queues([50, 30, 30], 256)
    assert queues.keys.shape == (50 + 30 + 30 + 1, 256)
    assert queues.keys.nbytes == 111 * 256 * 2


def test_a_wrapped_queue_survives_its_state() -> None:
    queues, other = Queues([5, 3], BITS), Queues([5, 3], BITS)
    push(queues, list(range(7)), [1, 2])
    other.load_state_dict({name: value.clone() for name, value in queues.state_dict().items()})
    for one in (queues, other):
        push(one, [20, 21], [3, 4])
    assert held(other) == held(queues) == [4, 5, 6, 20, 21]
    assert held(other, 1) == [2, 3, 4]
    assert torch.equal(other.keys, queues.keys)


# Drawing --------------------------------------------------------------------------------------------------


def test_draws_are_keys_of_the_class_and_zeros_of_an_empty_one() -> None:
    queues = Queues([6, 4, 3], BITS)
    push(queues, [1, 2], [], [7, 8, 9, 10])
    first, empty, last = queues.draw(200, stream())
    assert set(numbers(first)) == {1, 2} and set(numbers(last)) == {8, 9, 10}
    assert not empty.any()


@pytest.mark.parametrize("pushed", [3, 7, 17])
def test_every_key_that_is_held_is_drawn_equally_often(pushed: int) -> None:
    """A queue that is part full, full, and wrapped."""
    queues = Queues([4, 7], BITS)
    push(queues, [1], list(range(pushed)))
    found = drawn(queues, 7000)[1]
    assert set(found) == set(range(max(0, pushed - 7), pushed))
    assert even([found.count(key) for key in set(found)])


def test_a_draw_is_that_of_its_generator() -> None:
    queues = Queues([50], BITS)
    push(queues, list(range(50)))
    assert drawn(queues, 20, seed=1) == drawn(queues, 20, seed=1) != drawn(queues, 20, seed=2)


# The keys that enter --------------------------------------------------------------------------------------


def taken(negative: Tensor, limit: int) -> list[list[int]]:
    index, meant = sample_keys(negative, limit)
    assert index.shape == meant.shape == (negative.shape[1], limit)
    return [row[keep].tolist() for row, keep in zip(index, meant, strict=True)]


def test_the_first_wanted_pixels_of_each_class_are_taken() -> None:
    negative = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0]]).bool()
    assert taken(negative, 2) == [[0, 2], [2, 3], []]
    assert taken(negative, 3) == [[0, 2, 3], [2, 3], []]
    assert taken(negative, 9) == [[0, 2, 3, 4], [2, 3], []]


def test_without_pixels_there_are_no_keys() -> None:
    assert taken(torch.zeros(0, 3, dtype=torch.bool), 4) == [[], [], []]


def test_rows_that_are_not_meant_can_be_read() -> None:
    """They index the keys before they are masked out."""
    index, meant = sample_keys(torch.tensor([[False, True]]), 5)
    assert meant.tolist() == [[False] * 5, [True] + [False] * 4]
    assert (index == 0).all()


@settings(deadline=None)
@given(
    wanted=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=30),
    limit=st.integers(1, 12),
)
def test_never_more_than_the_limit_and_never_an_unwanted_pixel(wanted: list[list[bool]], limit: int) -> None:
    expected = [[i for i, row in enumerate(wanted) if row[label]][:limit] for label in range(3)]
    assert taken(torch.tensor(wanted), limit) == expected


def test_in_random_order_every_wanted_pixel_is_taken_equally_often() -> None:
    """40 pixels, of which class 0 wants 25 and class 1 ten; five places each."""
    negative = torch.zeros(40, 2, dtype=torch.bool)
    negative[5:30, 0] = negative[30:, 1] = True
    counts = torch.zeros(2, 40, dtype=torch.int64)
    for seed in range(1000):
        order = torch.randperm(40, generator=stream(seed))
        for label, places in enumerate(taken(negative[order], 5)):
            counts[label, order[places]] += 1
    assert counts.sum(1).tolist() == [5000, 5000]
    assert not counts.t()[~negative].any()
    assert even(counts[0, 5:30].tolist()) and even(counts[1, 30:].tolist())
