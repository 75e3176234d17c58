"""Two methods with one seed start from the same weights and see the same crops in the same order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import randomness
from bench.contract import Batch, Progress, Stream
from bench.display import Display
from bench.machine import Stop
from bench.plan import plan
from bench.settings import registry
from bench.settings.schema import RunConfig
from bench.testing import tiny
from bench.training import session
from bench.training.trainer import Trainer

METHODS = registry.method_names()
STEPS = 4
Config = Callable[..., RunConfig]


def trainer_of(tiny_config: Config, method: str, seed: int = 0) -> Trainer:
    split = "few+tags" if "tags" in registry.describe_method(method).needs else "few"
    # The harness trains a warm-up without the method.
    warmup = ["method.warmup=0"] if "warmup" in registry.describe_method(method).knobs.model_fields else []
    config = tiny_config(method, f"protocol.steps={STEPS}", *warmup, split=split, seed=seed)
    trainer = session.trainer_of(plan(config), Display(), Stop())
    made = trainer.batches
    # The labels of an earlier round are not made here.
    made.label_of = made.label_of and (lambda id: made.dataset.image(id)[..., 0] // 128)
    return trainer


def net_state(trainer: Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.method.net.state_dict().items()}


def seen_in_training(trainer: Trainer) -> list[Batch]:
    """The batches that the method is given while the trainer runs its own loop."""
    seen: list[Batch] = []
    losses = trainer.method.losses

    def recorded(batch: Batch, at: Progress) -> dict[str, Tensor]:
        assert at.step == len(seen)
        seen.append(batch)
        return losses(batch, at)

    trainer.method.losses = recorded  # type: ignore[method-assign]
    with trainer.folder.claimed():
        trainer.train()
    return seen


def same_stream(left: Stream, right: Stream, coloured: bool = False) -> bool:
    """The same images, crops and labels; strong views, boxes, colours and labels of an earlier round are what
    a method asks for."""
    return (
        left.ids == right.ids
        and torch.equal(left.image, right.image) != coloured
        and torch.equal(left.valid, right.valid)
        and (left.label is None or right.label is None or torch.equal(left.label, right.label))
    )


@dataclass(frozen=True)
class Trained:
    """What a run with seed 0 began with, was given and drew from."""

    start: dict[str, Tensor]
    batches: list[Batch]
    streams: list[tuple[Any, ...]]  # names of its streams of random numbers


@pytest.fixture(scope="module")
def trained(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """trained("fixmatch"): each method trains once for all tests. Read only."""
    tiny_config = partial(tiny.config, root=tiny_root, out=tmp_path_factory.mktemp("runs"))
    seed_for = randomness.seed_for

    @cache
    def once(method: str) -> Trained:
        names: list[tuple[Any, ...]] = []

        def recorded(*name: Any) -> int:
            names.append(name)
            return seed_for(*name)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(randomness, "seed_for", recorded)
            trainer = trainer_of(tiny_config, method)
            return Trained(net_state(trainer), seen_in_training(trainer), names)

    return once


@pytest.mark.parametrize("method", [name for name in METHODS if name != "supervised"])
def test_same_seed_same_start_and_same_batches(method: str, trained: Callable[[str], Trained]) -> None:
    one, other = trained("supervised"), trained(method)
    ours, theirs = one.start, other.start
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)

    pairs = list(zip(one.batches, other.batches, strict=True))
    assert len(pairs) == STEPS
    for left, right in pairs:
        coloured = bool(registry.describe_method(method).cls.views.colours)
        assert right.labeled is None or same_stream(left.labeled, right.labeled, coloured)
        assert right.labeled is None or right.labeled.label is not None
    assert len({left.labeled.ids for left, _ in pairs}) > 1  # not one batch over and over


def test_same_seed_same_unlabeled_images_whatever_the_views(trained: Callable[[str], Trained]) -> None:
    """Strong views and boxes have streams of their own, so asking for them shifts no crop."""
    methods = [name for name in METHODS if "none" in registry.describe_method(name).needs]
    runs = [trained(method).batches for method in methods]
    assert len({(len(run[0].unlabeled.strong), len(run[0].unlabeled.boxes)) for run in runs}) > 1
    for run in runs[1:]:
        for left, right in zip(runs[0], run, strict=True):
            assert same_stream(left.unlabeled, right.unlabeled)


def test_another_seed_is_another_run(tiny_config: Config) -> None:
    one, other = trainer_of(tiny_config, "fixmatch"), trainer_of(tiny_config, "fixmatch", seed=1)
    ours, theirs = net_state(one), net_state(other)
    drawn = [key for key, value in ours.items() if value.dim() == 4 and value.shape != (1, 3, 1, 1)]
    assert drawn and not any(torch.equal(ours[key], theirs[key]) for key in drawn)
    pairs = list(zip(seen_in_training(one), seen_in_training(other), strict=True))
    assert any(left.unlabeled.ids != right.unlabeled.ids for left, right in pairs)
    for left, right in pairs:
        assert not torch.equal(left.labeled.image, right.labeled.image)
        assert not torch.equal(left.unlabeled.image, right.unlabeled.image)
        assert not torch.equal(left.unlabeled.strong[0], right.unlabeled.strong[0])


@pytest.mark.parametrize("method", METHODS)
def test_no_seed_knows_the_method(method: str, trained: Callable[[str], Trained]) -> None:
    names = trained(method).streams
    purposes = {name[1] for name in names}
    assert {"init", "dropout", "order", "weak"} <= purposes
    cls = registry.describe_method(method).cls.__name__
    for name in names:
        assert not any(method in str(part) or cls in str(part) for part in name), name
