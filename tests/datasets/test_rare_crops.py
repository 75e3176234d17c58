"""Labeled crops that are drawn again so that they hold a rare class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.contract import Batch, BoxRule, Dataset, Supervision, Views
from bench.errors import DataError
from bench.randomness import numpy_for
from bench.settings.schema import BatchSizes, Protocol
from datasets import loaders
from datasets.loaders import RARE_SHARE, StepBatches, iterate
from datasets.splits import Split

LABELED = tuple(f"l{i}" for i in range(8))
UNLABELED = tuple(f"u{i}" for i in range(6))
CROP = (16, 16)
BOXES = BoxRule(0.5, (0.02, 0.4), (0.3, 1 / 0.3))


class Corners(Dataset):
    """Images of 48x40 whose even ones have class 2, and those of 0 and 4 class 3 too, in a corner each."""

    name = "corners"
    classes = ("ground", "half", "small", "least")

    def ids(self, listing: str) -> tuple[str, ...]:
        return LABELED + UNLABELED

    def image(self, id: str) -> np.ndarray:
        return numpy_for(0, "image", id).integers(0, 256, (48, 40, 3), dtype=np.uint8)

    def mask(self, id: str) -> np.ndarray:
        assert id.startswith("l"), f"the mask of {id} is not granted"
        mask = np.zeros((48, 40), np.uint8)
        mask[24:] = 1
        if int(id[1:]) % 2 == 0:
            mask[:12, :12] = 2
        if int(id[1:]) % 4 == 0:
            mask[-12:, -12:] = 3
        return mask


def make(probability: float, rare: tuple[int, ...] = (3, 2), dataset: Dataset | None = None) -> StepBatches:
    protocol = Protocol.model_construct(
        batch=BatchSizes(labeled=2, unlabeled=2),
        crop=CROP,
        resize=(1.0, 1.5),
        steps=40,
        views="published",
        rare_crops=probability,
    )
    split = Split("corners", "some", LABELED, (), UNLABELED, ())
    needs = {Supervision.PIXEL, Supervision.NONE}
    views = Views(strong=1, boxes=BOXES, colours=True)
    return StepBatches(dataset or Corners(), split, protocol, needs=needs, views=views, seed=3, rare=rare)


def bits(batch: Batch, *streams: str) -> list[bytes]:
    found: list[bytes] = []

    def add(tensor: Tensor) -> Tensor:
        found.append(tensor.numpy().tobytes())
        return tensor

    Batch(**{name: getattr(batch, name) for name in streams}).map(add)
    return found


def crops(batches: StepBatches) -> list[tuple[str, Tensor]]:
    """Each labeled crop of the run, as the id of its image and its label."""
    streams = [batches[step].labeled for step in range(len(batches))]
    return [pair for stream in streams for pair in zip(stream.ids, stream.label, strict=True)]


def share_of(batches: StepBatches, label: int, ids: tuple[str, ...]) -> float:
    """How many of the crops of these images hold the class."""
    holds = [bool((crop == label).any()) for id, crop in crops(batches) if id in ids]
    return sum(holds) / len(holds)


# ----------------------------------------------------------------------------------------------------------


def test_off_and_without_a_rare_class_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, none_rare = make(0.0), make(1.0, rare=())
    for step in range(8):
        assert bits(plain[step], "labeled") == bits(none_rare[step], "labeled")
    monkeypatch.setattr(StepBatches, "_rare_geometry", lambda *of: pytest.fail("drawn though off"))
    make(0.0)[0]


@pytest.mark.slow
def test_each_image_aims_at_the_rarest_class_that_it_has() -> None:
    """Class 3 where there is one, else class 2; images without either stay as they were."""
    off, on = make(0.0), make(1.0)
    for label, ids in ((3, ("l0", "l4")), (2, ("l2", "l6"))):
        assert share_of(off, label, ids) < 0.4
        assert share_of(on, label, ids) > 0.65
    before, after = dict.fromkeys(("l1", "l3", "l5", "l7")), crops(on)
    for (id, first), (other, second) in zip(crops(off), after, strict=True):
        assert id == other, "the same images in the same order"
        assert torch.equal(first, second) or id not in before


def test_a_crop_that_holds_enough_is_not_drawn_again() -> None:
    off, on = crops(make(0.0)), crops(make(1.0))
    enough = RARE_SHARE * CROP[0] * CROP[1]
    kept = 0
    for (id, first), (_, second) in zip(off, on, strict=True):
        wanted = {"l0": 3, "l4": 3, "l2": 2, "l6": 2}.get(id)
        if wanted is not None:
            had, has = ((crop == wanted).sum().item() for crop in (first, second))
            assert has >= had, "never fewer pixels of it"
            assert torch.equal(first, second) or had < enough
            kept += had >= enough
    assert kept > 3


def test_the_probability_is_that_of_a_crop() -> None:
    """About half of the crops that would change do."""
    off, half, on = (crops(make(p)) for p in (0.0, 0.5, 1.0))
    changed = [
        sum(not torch.equal(a, b) for (_, a), (_, b) in zip(off, other, strict=True)) for other in (half, on)
    ]
    assert 0.25 * changed[1] < changed[0] < 0.75 * changed[1] and changed[1] > 15


def test_image_label_and_padding_are_of_one_crop() -> None:
    """An image that holds its own mask comes out as its label does."""

    class Own(Corners):
        def image(self, id: str) -> np.ndarray:
            number = int(id[1:])
            mask = self.mask(id) if id.startswith("l") else np.full((48, 40), number, np.uint8)
            return np.repeat(60 * mask[..., None], 3, 2)

    batches = make(1.0, dataset=Own())
    batches.views, batches.resize = Views(), (1.0, 1.0)  # nothing is interpolated
    for step in range(8):
        stream = batches[step].labeled
        shown = stream.image[:, 0] // 60
        assert stream.valid.all() and torch.equal(shown, stream.label)


def test_other_streams_and_their_draws_stay() -> None:
    off, on = make(0.0), make(1.0)
    for step in range(4):
        assert bits(off[step], "unlabeled") == bits(on[step], "unlabeled")


def test_workers_and_a_resume_change_nothing() -> None:
    batches = make(0.7)
    expected = [bits(batches[step], "labeled") for step in range(34, 40)]
    for workers in (0, 2):
        found = [bits(batch, "labeled") for batch in iterate(make(0.7), 34, workers)]
        assert found == expected


def test_another_seed_draws_other_crops() -> None:
    first, second = make(1.0), make(1.0)
    second.seed = 4
    assert bits(first[0], "labeled") != bits(second[0], "labeled")


def test_tries_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a class too small to be enough, the crop with the most of it is taken."""
    monkeypatch.setattr(loaders, "RARE_SHARE", 2.0)
    drawn = []
    draw = loaders.draw_geometry

    def counted(*of: Any) -> Any:
        drawn.append(draw(*of))
        return drawn[-1]

    monkeypatch.setattr(loaders, "draw_geometry", counted)
    batches = make(1.0)
    step = next(s for s in range(40) if "l0" in batches[s].labeled.ids)
    drawn.clear()
    stream = batches[step].labeled
    aimed = sum(id in ("l0", "l2", "l4", "l6") for id in stream.ids)
    # One for each of two labeled and two unlabeled images of the batch, and the tries.
    assert len(drawn) == 4 + aimed * loaders.RARE_TRIES
    position = stream.ids.index("l0")
    tries = [g for g in drawn if g.crop == CROP][: 2 + aimed * loaders.RARE_TRIES]
    most = max(int((loaders.weak_label(Corners().mask("l0"), g) == 3).sum()) for g in tries)
    assert 0 < (stream.label[position] == 3).sum() <= most


def test_a_mask_of_another_size_is_still_a_data_error() -> None:
    class Wrong(Corners):
        def mask(self, id: str) -> np.ndarray:
            return super().mask(id)[:20]

    with pytest.raises(DataError, match="48x40"):
        make(1.0, dataset=Wrong())[0]
