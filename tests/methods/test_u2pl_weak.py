"""U2PL on image tags: what tags change, by hand and against plain loops; without tags it is U2PL itself."""

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
    buffer_of,
    build,
    classes_of_key,
    falling,
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

from bench.contract import IGNORE, Batch, Method, Stream, Task
from bench.errors import ConfigError
from bench.networks.segmenter import Segmenter
from bench.ops.entropy import partition, pixel_entropy
from bench.ops.losses import cross_entropy
from bench.ops.mixing import mix
from bench.randomness import torch_seeded
from bench.settings.schema import Network, RunConfig
from methods.u2pl import U2PL
from methods.u2pl_weak import U2PLWeak

NETWORK = Network(encoder="tiny", decoder="unet", decoder_channels=16, representation_channels=8)
ORIGINS = ("certain", "labeled", "unlabeled")
Tags = Sequence[Sequence[int]]  # the classes that each image may hold


def with_tags(batch: Batch, classes: int, of_labeled: Tags = (), of_unlabeled: Tags = ()) -> Batch:
    """The batch with tags; a stream for which there are none was granted none."""

    def tagged(stream: Stream, present: Tags) -> Stream:
        tags = torch.ones(len(stream.image), classes, dtype=torch.bool)
        for row, classes_of_image in zip(tags, present, strict=bool(present)):
            row[:] = False
            row[list(classes_of_image)] = True
        return replace(stream, tags=tags)

    return replace(
        batch,
        labeled=tagged(batch.labeled, of_labeled),
        unlabeled=tagged(batch.unlabeled, of_unlabeled),
    )


def padded(stream: Stream, valid: Sequence[Sequence[int]]) -> Stream:
    return replace(stream, valid=torch.tensor(valid).bool()[:, None])


def origins(method: Method) -> dict[str, list[int]]:
    """How many keys each rule gave each class, where it gave any."""
    counts = {name: method.notes[f"negatives_{name}"] for name in ORIGINS}
    return {name: count.tolist() for name, count in counts.items() if count.any()}


def all_held(method: Method) -> list[list[int]]:
    return [held(method, c) for c in range(len(method.task.classes))]


# Without tags ---------------------------------------------------------------------------------------------


def test_shared_knobs_have_the_defaults_of_u2pl() -> None:
    left_out = {
        "use_ranks",
        "negatives_from",
        "use_queue",
        "symmetric_weight",
        "prototype_momentum",
        "denoise",
    }
    added = {"entropy", "certain_quota", "use_seed_negatives", "use_rank_negatives", "undecided"}
    published, given = U2PL.HParams().model_dump(), U2PLWeak.HParams().model_dump()
    assert published.keys() - given.keys() == left_out
    assert given.keys() - published.keys() == added
    assert all(given[name] == published[name] for name in published.keys() - left_out)
    assert U2PLWeak.needs == U2PL.needs and U2PLWeak.views == U2PL.views


def real(cls: type[Method], classes: int = 3, **knobs: Any) -> Any:
    sizes = {"queue_size": 200, "queue_size_first": 200, "queue_keys": 24, "negatives": 5, "anchors": 16}
    given = {"warmup": 0.0, "rank_low": 1, "negative_pool": 32, **sizes, **knobs}
    with torch_seeded(0, "init"):
        task = Task(tuple(f"class {c}" for c in range(classes)), cross_entropy, background=0)
        return cls(Segmenter(NETWORK, classes), task, cls.HParams(**given)).train()


def noise(seed: int, classes: int = 3, size: int = 32) -> Batch:
    """Random images, labels in blocks with 255 among them, boxes in the middle, padding on the right."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(4, 3, size, size, generator=generator)
    blocks = torch.randint(classes + 1, (2, 4, 4), generator=generator)
    label = blocks.repeat_interleave(size // 4, 1).repeat_interleave(size // 4, 2)
    label = label.where(label < classes, IGNORE)
    valid, box = torch.ones_like(label, dtype=torch.bool), torch.zeros_like(label, dtype=torch.bool)
    valid[:, :, -5:], box[:, 6:20, 4:16] = False, True
    label = label.where(valid, IGNORE)
    batch = Batch(
        labeled=Stream(("a", "b"), image[:2], valid, label=label),
        unlabeled=Stream(("c", "d"), image[2:], valid, boxes=(box,)),
    )
    return with_tags(batch, classes)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_without_tags_it_is_u2pl_bit_for_bit(layout: torch.memory_format) -> None:
    """Terms, gradients, state and the figures that both have, until queues have wrapped."""

    def train(cls: type[Method]) -> tuple[list[dict[str, Tensor]], Method]:
        method: Any = real(cls).to(memory_format=layout)
        optimizer = torch.optim.SGD(method.net.parameters(), lr=0.05)
        seen = []
        for number in range(10):
            batch = noise(number).map(lambda x: x.contiguous(memory_format=layout) if x.dim() == 4 else x)
            optimizer.zero_grad()
            terms = method.losses(batch, at(number, 10))
            torch.stack(list(terms.values())).sum().backward()
            gradients = {k: p.grad.clone() for k, p in method.net.named_parameters() if p.grad is not None}
            seen.append(terms | method.notes | gradients)
            optimizer.step()
            method.after_step(at(number, 10))
        return seen, method

    (expected, u2pl), (found, weak) = train(U2PL), train(U2PLWeak)
    own = {"negatives_certain", "share_certain", "seed_decided"}
    for number, (theirs, ours) in enumerate(zip(expected, found, strict=True)):
        assert ours.keys() - theirs.keys() == own
        for name, value in theirs.items():
            assert torch.equal(ours[name].nan_to_num(-1), value.nan_to_num(-1)), (number, name)
    assert all(terms["contrast"] > 0 for terms in found[2:])
    assert (queues_of(u2pl).length == 200).any()
    state, other = u2pl.state_dict(), weak.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[key], other[key]) for key in state)
    assert weak.notes["share_certain"] == 0 and weak.notes["seed_decided"] == 1
    truth = noise(0).labeled.label
    for name, figure in u2pl.audits.items():
        assert torch.equal(weak.audits[name](truth), figure(truth)), name


# Pseudo-labels --------------------------------------------------------------------------------------------


def test_a_pseudo_label_is_the_most_likely_class_that_the_image_may_hold() -> None:
    """Two images that both predict [.5 .3 .15 .05]. Inside the box of the first shows the second, and its
    tags with it."""
    rows = [[pixel([0.5, 0.3, 0.15, 0.05], 1)] * 3] * 2
    batch = batch_of(unlabeled=unlabeled(rows, box=[[0, 1, 1], [0, 0, 0]]), classes=4)
    labels = {(): 0, (0, 1): 0, (1, 3): 1, (2,): 2, (3,): 3}
    for first, label in labels.items():
        method = build(U2PLWeak, 4, rank_low=1)
        step(method, with_tags(batch, 4, of_unlabeled=[first or range(4), (2, 3)]))
        # `accuracy_teacher` mixes the truth as the images are mixed.
        truth = torch.tensor([label, 2]).view(2, 1, 1).expand(2, 1, 3)
        assert method.audits["accuracy_teacher"](truth) == 1


def test_the_unlabeled_term_learns_the_restricted_label() -> None:
    """Six pixels that say class 0, which only the first image may hold. The other's are told class 1."""
    rows = [[pixel([0.9 - 0.01 * x, 0.06, 0.04 + 0.01 * x], 0) for x in range(3)] for _ in range(2)]
    batch = with_tags(batch_of(unlabeled=unlabeled(rows)), 3, of_unlabeled=[(0, 2), (1,)])
    method = build(U2PLWeak, 3, rank_low=1, alpha=0.3)
    # The pixels of each column tie; the last two are unsure.
    mean = -(math.log(0.9) + math.log(0.89) + 2 * math.log(0.06)) / 4
    assert step(method, batch)["unlabeled"] == pytest.approx(6 / 4 * mean, abs=1e-5)
    assert method.notes["reliable_share"].item() == pytest.approx(4 / 6)


@pytest.mark.parametrize(("entropy", "sure_ones"), [("raw", [1, 3]), ("masked", [1, 2])])
def test_the_entropy_is_of_all_classes_or_of_the_allowed_ones(entropy: str, sure_ones: list[int]) -> None:
    """Pixel 1 is sure anyway; 2 is unsure of a class that its image does not have; 3 of its allowed ones; 4
    of all. The two sure ones are no negative keys."""
    rows = [
        [pixel([0.98, 0.01, 0.01], 1), pixel([0.5, 0.02, 0.48], 2)],
        [pixel([0.4, 0.6, 1e-6], 3), pixel([0.34, 0.33, 0.33], 4)],
    ]
    batch = with_tags(batch_of(unlabeled=unlabeled(rows)), 3, of_unlabeled=[(0, 1), (0, 1)])
    method = build(U2PLWeak, 3, rank_low=1, alpha=0.4, entropy=entropy, certain_quota=0.0)
    step(method, batch)
    assert sorted({n for keys in all_held(method) for n in keys}) == sorted({1, 2, 3, 4} - set(sure_ones))


def test_the_masked_entropy_is_that_of_the_image_that_shows() -> None:
    """The first image has one class and is sure of it everywhere; in its box shows the second, unsure."""
    rows = [
        [pixel([0.4, 0.3, 0.3], 1), pixel([0.4, 0.3, 0.3], 2)],
        [pixel([0.4, 0.3, 0.3], n) for n in (3, 4)],
    ]
    batch = batch_of(unlabeled=unlabeled(rows, box=[[0, 1], [0, 0]]))
    method = build(U2PLWeak, 3, rank_low=1, entropy="masked")
    step(method, with_tags(batch, 3, of_unlabeled=[(0,), (0, 1)]))
    assert method.notes["reliable_share"].item() == 1 / 4
    assert method.notes["threshold"].item() == pytest.approx(
        -(4 / 7 * math.log(4 / 7) + 3 / 7 * math.log(3 / 7)) / math.log(2), abs=1e-6
    )


@pytest.mark.parametrize("classes", [3, 21])
def test_without_background_an_image_with_one_tag_is_that_class(classes: int) -> None:
    rows = [[pixel(sure(x % classes, classes, 0.9 - 0.01 * x), 0) for x in range(6)]] * 2
    tag = classes - 1
    batch = with_tags(
        batch_of(unlabeled=unlabeled(rows), classes=classes), classes, of_unlabeled=[(tag,), (tag,)]
    )
    method = build(U2PLWeak, classes, rank_low=1)
    step(method, batch)
    assert method.audits["accuracy_teacher"](torch.full((2, 1, 6), tag)) == 1


def test_without_background_an_image_without_tags_has_no_pseudo_label() -> None:
    """Its pixels are counted nowhere, whatever they say; NaN would be their restricted prediction."""
    rows = [[pixel(sure(0, 3, 0.9 - 0.05 * x), x) for x in range(4)], [pixel(sure(0, 3), 9)] * 4]
    for entropy in ("raw", "masked"):
        batch = with_tags(batch_of(unlabeled=unlabeled(rows)), 3, of_unlabeled=[(0, 1), ()])
        alone = replace(batch, unlabeled=padded(batch.unlabeled, [[1] * 4, [0] * 4]))
        methods = [build(U2PLWeak, 3, rank_low=1, entropy=entropy) for _ in range(2)]
        assert step(methods[0], batch) == step(methods[1], alone)
        assert all_held(methods[0]) == all_held(methods[1])


# Certain negatives ----------------------------------------------------------------------------------------

ALONE: dict[str, Any] = {"use_seed_negatives": False, "use_rank_negatives": False, "certain_quota": 1.0}


def randomly(seed: int, classes: int = 5, width: int = 14) -> tuple[Batch, list[list[float]]]:
    """Two seeds or masks, three unlabeled images, some with tags, with padding and boxes; and the prediction
    of each pixel. Pixel n of all has the number n + 1."""
    generator = torch.Generator().manual_seed(seed)
    p = (2 * torch.randn(5 * width, classes, generator=generator)).softmax(1).tolist()
    rows = [[pixel(p[width * i + x], width * i + x + 1) for x in range(width)] for i in range(5)]
    chance = torch.rand(4, 5, width, generator=generator)
    valid, box = (chance[0] < 0.8).tolist(), (chance[1] < 0.5).tolist()
    label = torch.randint(classes, (2, width), generator=generator)
    label = label.where((chance[2, :2] < 0.5) & (chance[0, :2] < 0.8), IGNORE).tolist()
    present = [[0, *(c for c in range(1, classes) if chance[3, i, c] < 0.4)] for i in range(5)]
    present[seed % 5] = list(range(classes))
    batch = batch_of(padded(labeled(rows[:2], label), valid[:2]), unlabeled(rows[2:], valid[2:], box[2:]))
    return with_tags(batch, classes, present[:2], present[2:]), p


@pytest.mark.parametrize("seed", range(8))
def test_no_pixel_of_a_tagged_image_is_a_certain_key_of_its_tags(seed: int) -> None:
    """Nor a pixel of an image without tags of anything, nor any pixel of background. All others are, if the
    class is among their three likeliest."""
    batch, p = randomly(seed)
    method = build(U2PLWeak, 5, rank_low=3, **ALONE)
    step(method, batch)
    expected: list[list[int]] = [[] for _ in range(5)]
    tags = torch.cat([batch.labeled.tags, batch.unlabeled.tags]).tolist()
    shown = torch.arange(3 * 14).view(3, 1, 14) + 2 * 14
    shown = mix(shown, batch.unlabeled.boxes[0]).masked_fill(
        ~mix(batch.unlabeled.valid, batch.unlabeled.boxes[0]), -1
    )
    first = torch.arange(2 * 14).view(2, 1, 14).masked_fill(~batch.labeled.valid, -1)
    for n in [*first.flatten().tolist(), *shown.flatten().tolist()]:
        if n >= 0:
            likely = sorted(range(5), key=lambda c: -p[n][c])[:3]
            for c in likely:
                if not tags[n // 14][c]:
                    expected[c].append(n + 1)
    assert all_held(method) == [sorted(numbers) for numbers in expected]
    assert expected[0] == [] and sum(map(len, expected)) > 20
    assert origins(method) == {"certain": [len(numbers) for numbers in expected]}


def test_inside_a_box_the_absent_classes_are_those_of_the_image_that_shows() -> None:
    """A has class 1, B class 2. A's right half shows B: class 1 is absent there, as it is in B. The union of
    both images' tags would allow it."""
    rows = [[pixel(falling(4), 1), pixel(falling(4), 2)], [pixel(falling(4), 11), pixel(falling(4), 12)]]
    batch = batch_of(unlabeled=unlabeled(rows, box=[[0, 1], [0, 0]]), classes=4)
    method = build(U2PLWeak, 4, rank_low=3, **ALONE)
    step(method, with_tags(batch, 4, of_unlabeled=[(0, 1), (0, 2)]))
    assert all_held(method) == [[], [11, 12, 12], [1], []]


def test_a_certain_key_may_be_reliable_undecided_or_labeled() -> None:
    """Pixels 1 to 4: labeled with their class, undecided, labeled with another, padding. Pixels 11 to 14:
    from the surest on, the last one padding. All predict class 2, which none of the images has."""
    row = [pixel([0.2, 0.1, 0.7], n) for n in (1, 2, 3, 4)]
    other = [pixel([0.3 - p, 0.1, 0.6 + p], n) for n, p in ((11, 0.1), (12, 0.05), (13, 0.0), (14, 0.2))]
    first = padded(labeled([row] * 2, [[0, IGNORE, 1, IGNORE], [IGNORE] * 4]), [[1, 1, 1, 0], [0] * 4])
    second = unlabeled([other] * 2, valid=[[1, 1, 1, 0], [0] * 4])
    method = build(U2PLWeak, 3, rank_low=1, **ALONE)
    step(method, with_tags(batch_of(first, second), 3, [(0, 1)] * 2, [(0, 1)] * 2))
    assert all_held(method) == [[], [], [1, 2, 3, 11, 12, 13]]


def forty(label: int = 0, rank: int = 2) -> Batch:
    """40 pixels, numbered from 1, all predicted alike; class 1 is tagged, class 2 is not."""
    order = {2: [0.4, 0.3, 0.2, 0.1], 3: [0.4, 0.3, 0.1, 0.2]}[rank]
    rows = [[pixel(order, 20 * i + x + 1) for x in range(20)] for i in range(2)]
    batch = batch_of(labeled(rows, [[label] * 20] * 2), classes=4)
    return with_tags(batch, 4, of_labeled=[(0, 1), (0, 1)])


def test_certain_keys_fill_no_more_than_their_quota() -> None:
    """A tenth of 100 keys. The other 30 are labeled 0 and have class 2 in the first three ranks as well: a
    seed does not bring them back. Class 1 has its 40."""
    method = build(U2PLWeak, 4, certain_quota=0.1)
    step(method, forty())
    assert origins(method) == {"certain": [0, 0, 10, 0], "labeled": [0, 40, 0, 0]}
    assert len(held(method, 2)) == len(set(held(method, 2))) == 10 and held(method, 1) == list(range(1, 41))
    assert method.notes["share_certain"].item() == pytest.approx(0.2)
    assert method.notes["share_labeled"].item() == pytest.approx(0.8)
    assert method.notes["share_unlabeled"].item() == 0
    for number in range(1, 4):
        step(method, forty(), number)
    assert len(set(held(method, 2))) > 15, "other ones in every step"


@pytest.mark.parametrize(("quota", "certain"), [(0.009, 0), (0.01, 1), (0.25, 25), (0.4, 40), (1.0, 40)])
def test_the_quota_is_rounded_down(quota: float, certain: int) -> None:
    method = build(U2PLWeak, 4, certain_quota=quota, use_seed_negatives=False)
    step(method, forty())
    assert method.notes["negatives_certain"].tolist() == [0, 0, certain, 0]


def test_without_certain_keys_the_seeds_give_theirs_as_in_u2pl() -> None:
    without, u2pl = build(U2PLWeak, 4, certain_quota=0.0), build(U2PL, 4)
    step(without, forty()), step(u2pl, forty())
    assert all_held(without) == all_held(u2pl)
    assert origins(without) == {"labeled": [0, 40, 40, 0]}


def test_only_hard_negatives_are_certain_ones() -> None:
    method = build(U2PLWeak, 4, **ALONE)
    step(method, forty(rank=3))
    assert all_held(method) == [[], [], [], list(range(1, 41))], "class 3 has taken the rank of class 2"


# Seeds and ranks ------------------------------------------------------------------------------------------


def test_a_seed_gives_keys_of_other_likely_classes() -> None:
    """Label 1 of tags 1 and 2, predicted 0, 1, 2, 3: 0 and 2 by the label, 3 is no likely class."""
    rows = [[pixel(falling(4), 7)], [pixel(falling(4), 8)]]
    batch = with_tags(batch_of(labeled(rows, [[1], [2]]), classes=4), 4, of_labeled=[(0, 1, 2), (0, 2)])
    method = build(U2PLWeak, 4)
    step(method, batch)
    assert all_held(method) == [[7, 8], [8], [7], []]
    assert origins(method) == {"certain": [0, 1, 0, 0], "labeled": [2, 0, 1, 0]}


@pytest.mark.parametrize(
    ("present", "undecided", "keys"),
    [((0, 1), True, [1, 2]), ((0, 1), False, []), ((0, 1, 2, 3), True, []), ((0,), True, [1, 2])],
)
def test_undecided_pixels_join_the_unreliable_ones_where_tags_are_known(
    present: Sequence[int], undecided: bool, keys: list[int]
) -> None:
    """Ranks 1 and 2 of [.5 .3 .15 .05]: class 1 may be tagged or not. Of a mask, 255 says nothing: nobody
    knows the classes of that image. Padding (8) is undecided nowhere."""
    p = [0.5, 0.3, 0.15, 0.05]
    stream = labeled([[pixel(p, 7), pixel(p, 8), pixel(p, 9)]] * 2, [[IGNORE, IGNORE, 0], [IGNORE] * 3])
    stream = padded(stream, [[1, 0, 1], [0, 0, 0]])
    method = build(U2PLWeak, 4, rank_low=1, rank_high=3, undecided=undecided)
    step(method, with_tags(batch_of(stream, classes=4), 4, of_labeled=[present, present]))
    assert classes_of_key(method) == keys
    assert all(held(method, c) == [7] for c in keys)
    assert origins(method) == ({"unlabeled": [c in keys for c in range(4)]} if keys else {})
    assert not method.notes["anchors"][1:].any() and method.notes["anchors"][0] == 1, "pixel 9 alone"


@pytest.mark.parametrize(("knobs", "label"), [(ALONE, 2), ({"certain_quota": 0.0}, 3)])
def test_few_keys_are_found_among_many_pixels_that_are_none(knobs: dict[str, Any], label: int) -> None:
    """One key is wanted, so 16 pixels are ranked, of 160: three undecided ones, and the rest is padding or
    has no label in a mask."""
    rows = [[pixel(falling(4), 40 * i + x + 1) for x in range(40)] for i in range(2)]
    first = padded(labeled(rows, [[IGNORE] * 40] * 2), [[x in (4, 20, 33) for x in range(40)], [1] * 40])
    batch = with_tags(batch_of(first, classes=4), 4, of_labeled=[(0, 1), range(4)])
    for number in range(20):
        method = build(U2PLWeak, 4, queue_keys=1, **knobs)
        step(method, batch, number)
        (found,) = held(method, label)
        assert found in (5, 21, 34)


def everything() -> Batch:
    """Keys of all three origins: labeled 0 and predicted 0, 1, 2, 3; then undecided."""
    rows = [[pixel(falling(4), 7), pixel(falling(4), 8)]] * 2
    first = padded(labeled(rows, [[0, IGNORE], [IGNORE] * 2]), [[1, 1], [0, 0]])
    return with_tags(batch_of(first, classes=4), 4, of_labeled=[(0, 1), (0, 1)])


@pytest.mark.parametrize(
    ("off", "expected"),
    [
        ([], [[], [7], [7, 8], [8]]),
        (["use_seed_negatives"], [[], [], [7, 8], [8]]),
        (["use_rank_negatives"], [[], [7], [7, 8], []]),
        (["certain_quota"], [[], [7], [7], [8]]),
        (["certain_quota", "use_seed_negatives"], [[], [], [], [8]]),
        (["use_seed_negatives", "use_rank_negatives"], [[], [], [7, 8], []]),
        (["certain_quota", "use_seed_negatives", "use_rank_negatives"], [[], [], [], []]),
    ],
)
def test_each_origin_can_be_switched_off(off: list[str], expected: list[list[int]]) -> None:
    method = build(U2PLWeak, 4, **{name: 0.0 if name == "certain_quota" else False for name in off})
    terms = step(method, everything())
    assert all_held(method) == expected
    shares = [method.notes[f"share_{name}"].item() for name in ORIGINS]
    if any(expected):
        assert sum(shares) == pytest.approx(1)
        for name, share in zip(ORIGINS, shares, strict=True):
            switch = {"certain": "certain_quota", "labeled": "use_seed_negatives"}
            assert (share == 0) == (switch.get(name, "use_rank_negatives") in off)
    else:
        assert all(map(math.isnan, shares)) and terms["contrast"] == 0


@pytest.mark.parametrize("seed", range(6))
def test_all_keys_against_a_loop_over_the_pixels(seed: int) -> None:
    """Every rule at once, on seeds, masks, padding and boxes."""
    batch, p = randomly(seed)
    method = build(U2PLWeak, 5, rank_low=2, rank_high=4, alpha=0.5, certain_quota=1.0)
    step(method, batch)
    tags = torch.cat([batch.labeled.tags, batch.unlabeled.tags]).tolist()
    box, valid = batch.unlabeled.boxes[0], batch.unlabeled.valid
    entropy = pixel_entropy(mix(batch.unlabeled.image[:, :5].softmax(1), box))
    unreliable = partition(entropy, mix(valid, box), 0.5).unreliable.flatten().tolist()
    shown = mix(torch.arange(2 * 14, 5 * 14).view(3, 1, 14), box).flatten().tolist()
    inside = [*batch.labeled.valid.flatten().tolist(), *mix(valid, box).flatten().tolist()]
    label = [*batch.labeled.label.flatten().tolist(), *[IGNORE] * len(shown)]
    expected: dict[str, list[list[int]]] = {name: [[] for _ in range(5)] for name in ORIGINS}
    for place, n in enumerate([*range(2 * 14), *shown]):
        own = tags[n // 14]
        undecided = place < 28 and label[place] == IGNORE and inside[place] and not all(own)
        for rank, c in enumerate(sorted(range(5), key=lambda c: -p[n][c])):
            if rank < 2 and inside[place] and not own[c]:
                expected["certain"][c].append(n + 1)
            elif rank < 2 and label[place] not in (c, IGNORE):
                expected["labeled"][c].append(n + 1)
            elif 2 <= rank < 4 and (undecided or (place >= 28 and unreliable[place - 28])):
                expected["unlabeled"][c].append(n + 1)
    assert origins(method) == {name: [len(one) for one in of] for name, of in expected.items()}
    union = [sorted(n for name in ORIGINS for n in expected[name][c]) for c in range(5)]
    assert all_held(method) == union


def test_padding_is_no_key_no_anchor_and_counted_nowhere() -> None:
    """Whatever stands there, in seeds and in unlabeled images, terms, figures and queues stay as they are."""
    valid = [[1, 0, 1, 1, 0, 1], [0, 1, 1, 1, 1, 0]]
    labels = [[0, IGNORE, 1, IGNORE, IGNORE, 2], [IGNORE, 1, 0, IGNORE, 0, IGNORE]]

    def outcome(garbage: list[list[float]]) -> tuple[dict[str, float], dict[str, Tensor], list[list[int]]]:
        pixels = [pixel(sure(i % 4, 4, 0.95 - 0.03 * i), i + 1) for i in range(12)]
        rows = [[garbage[i] if not valid[i][x] else pixels[6 * i + x] for x in range(6)] for i in range(2)]
        method = build(U2PLWeak, 4, rank_low=2, certain_quota=1.0)
        box = [[0, 1, 0, 0, 1, 1], [1, 0, 0, 1, 0, 1]]
        batch = batch_of(padded(labeled(rows, labels), valid), unlabeled(rows, valid, box))
        batch = with_tags(batch, 4, [(0, 1, 2), (0, 1)], [(0, 2), (0, 3)])
        return step(method, batch), dict(method.notes), all_held(method)

    first, notes, keys = outcome([pixel([0.25] * 4, 500), pixel(sure(3, 4, 0.99), 501)])
    second, others, same = outcome([pixel(sure(1, 4, 0.999), 502), pixel([0.1, 0.2, 0.3, 0.4], 503)])
    assert first == second and first["contrast"] > 0
    assert all(torch.equal(notes[name].nan_to_num(-1), others[name].nan_to_num(-1)) for name in notes)
    assert keys == same and max(n for one in keys for n in one) <= 12
    assert notes["negatives_certain"].sum() > 3 and notes["negatives_unlabeled"].sum() > 3
    assert notes["seed_decided"].item() == pytest.approx(6 / 8)


def test_seeds_decided_are_counted_among_seeds() -> None:
    """The second image has a mask."""
    rows = [[pixel(falling(3), 1)] * 4] * 2
    stream = padded(labeled(rows, [[0, 1, IGNORE, IGNORE], [IGNORE] * 4]), [[1, 1, 1, 0], [1] * 4])
    method = build(U2PLWeak, 3, rank_low=1)
    step(method, with_tags(batch_of(stream), 3, of_labeled=[(0, 1), (0, 1, 2)]))
    assert method.notes["seed_decided"].item() == pytest.approx(2 / 3)


# The contrastive term -------------------------------------------------------------------------------------


def test_anchors_prototype_and_queue_of_a_class_are_its_own() -> None:
    """Classes 0, 5 and 20 alone: 20 is neither the third class nor the last of a shorter list."""
    present = [0, 5, 20]
    rows = [[pixel(sure(c, 21), [1.0 + c, -2.0]) for c in present]] * 2
    batch = with_tags(batch_of(labeled(rows, [present] * 2), classes=21), 21, [present] * 2)

    def outcome(*noisy: int) -> tuple[float, Tensor, U2PLWeak]:
        method = build(U2PLWeak, 21)
        for c in range(21):
            fill(method, c, [1.0, 2.0, 3.0] if c not in noisy else [-3.0, 1.0, 0.5])
        stream = replace(batch.labeled, image=batch.labeled.image.clone().requires_grad_())
        term = method.losses(replace(batch, labeled=stream), at())["contrast"]
        term.backward()
        assert stream.image.grad is not None
        return term.item(), stream.image.grad[:, 21:, 0], method

    loss, gradient, method = outcome()
    assert loss > 0 and (gradient.norm(dim=1) > 1e-5).all(), "anchors of all three classes learn"
    assert method.notes["anchors"].nonzero().flatten().tolist() == present
    assert buffer_of(method, "seen").nonzero().flatten().tolist() == present
    prototypes = buffer_of(method, "prototypes")[present, :2]
    torch.testing.assert_close(prototypes, torch.tensor([[1.0 + c, -2.0] for c in present]))
    same, other = outcome(*(c for c in range(21) if c not in present)), outcome(20)
    assert same[0] == loss and torch.equal(same[1], gradient)
    assert other[0] != loss
    changed = (other[1] - gradient).norm(dim=1) > 1e-6
    assert changed.tolist() == [[False, False, True]] * 2


def test_on_a_real_network_tags_give_keys_of_all_origins_and_finite_gradients() -> None:
    """Also under autocast, and at a size that is no multiple of the network's stride."""
    batch = with_tags(noise(0, size=40), 3, [(0, 1), (0, 2)], [(0, 1), (0, 1, 2)])
    for entropy, low in (("raw", torch.float32), ("masked", torch.bfloat16)):
        method = real(U2PLWeak, entropy=entropy, warmup=0.0, alpha=0.5)
        for number in range(2):
            with torch.autocast("cpu", low, enabled=low != torch.float32):
                terms = method.losses(batch, at(number))
        torch.stack([term.float() for term in terms.values()]).sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.net.parameters())
        assert all(term.isfinite() for term in terms.values()) and terms["contrast"] > 0
        assert set(origins(method)) == set(ORIGINS)
        assert not method.notes["negatives_certain"][0], "no certain key of background"
        assert method.notes["negatives_certain"].max() <= 6, "a quarter of 24"


# Settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("certain_quota=1.1", "method.certain_quota"),
        ("certain_quota=-0.1", "method.certain_quota"),
        ("entropy=half", "method.entropy"),
        ("use_ranks=false", "use_ranks"),
        ("rank_low=20", r"method\.rank_low \(20\) must be below rank_high \(20\)"),
        ("queue_size=49", r"method\.queue_size \(49\) is below negatives \(50\)"),
        ("queue_size_first=49", r"method\.queue_size_first \(49\) is below negatives \(50\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(
    tiny_config: Callable[..., RunConfig], change: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config("u2pl_weak", f"method.{change}")


def test_ranks_that_leave_nothing_are_refused() -> None:
    U2PLWeak.HParams(rank_low=4).check(5, 10)
    with pytest.raises(ValueError, match=r"rank_low=4 .* of 4 classes.*1..3"):
        U2PLWeak.HParams(rank_low=4).check(4, 10)
