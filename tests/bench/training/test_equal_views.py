"""Under equal views every method is given the same images, colours, strong view and boxes, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, cat

from bench.contract import EQUAL_BOXES, Batch, Progress, Supervision, Views
from bench.display import Display
from bench.machine import Stop
from bench.ops.mixing import mix
from bench.plan import plan
from bench.settings import registry
from bench.settings.schema import RunConfig
from bench.training import session
from bench.training.trainer import Trainer
from methods.fixmatch import FixMatch

Config = Callable[..., RunConfig]
STEPS = 4
METHODS = [name for name in registry.method_names() if "pixel" in registry.describe_method(name).needs]
SEMI = [name for name in METHODS if "none" in registry.describe_method(name).needs]
# Methods with a view or a mixing rule of their own beside the protocol's: see tests/methods.
MIXES = {name for name in METHODS if registry.describe_method(name).cls.views.mixes}
SEVERAL = {name for name in METHODS if registry.describe_method(name).cls.views.strong > 1} | {"cps"}
# Named for having colours or none, whatever the protocol says.
OWN = {name for name in METHODS if registry.describe_method(name).cls.views.colours is not None}


def trainer_of(
    tiny_config: Config, method: str, *sets: str, views: str = "equal", split: str = "few"
) -> Trainer:
    knobs = registry.describe_method(method).knobs.model_fields
    usual = [f"method.{key}=0.0" for key in ("warmup", "threshold") if key in knobs]
    given = (f"protocol.views={views}", f"protocol.steps={STEPS}", *usual, *sets)
    trainer = session.trainer_of(plan(tiny_config(method, *given, split=split)), Display(), Stop())
    made = trainer.batches
    made.label_of = made.label_of and (
        lambda id: made.dataset.image(id)[..., 0] // 128
    )  # of an earlier round
    return trainer


def stepped(trainer: Trainer, steps: int = STEPS) -> dict[str, Tensor]:
    """The student after some steps."""
    for step in range(steps):
        trainer.train_step(trainer.batches[step], Progress(step, STEPS, seed=0))
    return trainer.method.net.state_dict()


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def parts(batch: Batch) -> dict[str, Any]:
    labeled, unlabeled = batch.labeled, batch.unlabeled
    found = {"labeled": (labeled.image, labeled.label, labeled.valid)}
    if unlabeled is not None:
        found["unlabeled"] = (unlabeled.image, unlabeled.valid)
        found["student"] = (unlabeled.student, unlabeled.box)
    return found


@pytest.mark.parametrize("split", ["few", "few+tags"])
def test_every_method_is_given_the_same(tiny_config: Config, tiny_root: Any, split: str) -> None:
    def batches(method: str) -> list[dict[str, Any]]:
        planned = plan(tiny_config(method, "protocol.views=equal", split=split))
        made = session.parts_of(planned).batches
        made.seed_of = lambda id: made.dataset.image(id)[..., 0] // 128  # the seeds are not made here
        made.label_of = made.label_of and made.seed_of  # nor are the labels of an earlier round
        return [parts(made[step]) for step in range(3)]

    wanted = batches("fixmatch")
    assert {"supervised", "mean_teacher", "cutmix", "u2pl", "u2pl_weak"} <= set(METHODS)
    for method in set(METHODS) - OWN - {"fixmatch"}:
        for ours, theirs in zip(wanted, batches(method), strict=True):
            assert (len(theirs) == 3) == (method in SEMI)
            for part, tensors in theirs.items():
                if part == "student" and method in MIXES:
                    assert tensors[1] is None
                    tensors = tensors[:1]
                assert all(map(torch.equal, tensors, ours[part])), (method, part)


@contextmanager
def trained_on(trainer: Trainer) -> Iterator[list[Tensor]]:
    """The images that go through the student with a gradient."""
    seen: list[Tensor] = []
    features = trainer.method.net.features

    def recorded(image: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            seen.append(image)
        return features(image)

    trainer.method.net.features = recorded
    yield seen
    del trainer.method.net.features


@pytest.mark.parametrize("method", [name for name in SEMI if name not in MIXES | SEVERAL])
def test_the_student_trains_on_the_protocols_view_and_boxes(tiny_config: Config, method: str) -> None:
    """As the network gets them, whatever the method does between the loader and the network."""
    trainer, like = trainer_of(tiny_config, method), trainer_of(tiny_config, "fixmatch").batches
    boxes = 0
    for step in range(STEPS):
        with trained_on(trainer) as seen:
            trainer.train_step(trainer.batches[step], Progress(step, STEPS, seed=0))
        batch = like[step].on("cpu")
        labeled, unlabeled = batch.labeled, batch.unlabeled
        (strong,), (box,) = unlabeled.strong, unlabeled.boxes
        assert torch.equal(cat(seen), cat([labeled.image, mix(strong, box)]))
        boxes += int(box.any())
    assert boxes, "no step has a box, so that mixing was not tried"


def test_colours_change_the_colours_alone(tiny_config: Config) -> None:
    plain, coloured = (
        trainer_of(tiny_config, "supervised", views=v).batches[0] for v in ("published", "equal")
    )
    assert plain.labeled.ids == coloured.labeled.ids
    assert torch.equal(plain.labeled.label, coloured.labeled.label)
    assert torch.equal(plain.labeled.valid, coloured.labeled.valid)
    assert not torch.equal(plain.labeled.image, coloured.labeled.image)


@pytest.mark.parametrize(
    ("left", "right", "views"),
    [
        ("supervised", "supervised_colours", "equal"),
        ("supervised", "supervised_plain", "published"),
        ("fixed_threshold", "fixmatch", "equal"),
    ],
)
def test_methods_that_differ_in_their_views_alone_are_one(
    tiny_config: Config, left: str, right: str, views: str
) -> None:
    one, other = (stepped(trainer_of(tiny_config, name, views=views)) for name in (left, right))
    assert same(one, other)
    opposite = {"equal": "published", "published": "equal"}[views]
    one, other = (stepped(trainer_of(tiny_config, name, views=opposite), 2) for name in (left, right))
    assert not same(one, other)


@pytest.mark.parametrize("name", ["supervised_colours", "supervised_plain"])
def test_a_method_that_is_named_for_its_colours_keeps_them(tiny_config: Config, name: str) -> None:
    one, other = (stepped(trainer_of(tiny_config, name, views=v)) for v in ("published", "equal"))
    assert same(one, other)


@pytest.mark.parametrize("method", ["u2pl", "u2pl_released"])
def test_a_coin_of_the_method_does_not_apply(tiny_config: Config, method: str) -> None:
    coins = ["method.cutmix_probability=0.0", "method.cutmix_probability=1.0"]
    never, always = (stepped(trainer_of(tiny_config, method, coin)) for coin in coins)
    assert same(never, always)
    never, always = (stepped(trainer_of(tiny_config, method, coin, views="published")) for coin in coins)
    assert not same(never, always)


def test_equal_views_replace_those_of_the_method() -> None:
    assert FixMatch.views == Views(strong=1, boxes=EQUAL_BOXES), "the views that all get are fixmatch's"
    assert Views().equal() == Views(1, EQUAL_BOXES, True)
    assert Views(strong=2).equal() == Views(2, EQUAL_BOXES, True)
    assert Views(colours=False).equal() == Views(1, EQUAL_BOXES, False)


def test_the_teacher_of_the_method_looks_at_the_weak_view(tiny_config: Config) -> None:
    for method in ("fixmatch", "cutmix", "mean_teacher", "u2pl"):
        trainer = trainer_of(tiny_config, method)
        seen: list[Tensor] = []
        teacher = trainer.method.teacher.module  # type: ignore[union-attr]
        features = teacher.features
        teacher.features = lambda image, f=features, s=seen: (s.append(image), f(image))[1]  # type: ignore[misc]
        batch = trainer.batches[0]
        trainer.train_step(batch, Progress(0, STEPS, seed=0))
        rows = cat(seen)[-len(batch.unlabeled.image) :]
        assert torch.equal(rows, batch.on("cpu").unlabeled.image), method


def test_needs_without_pixels_get_no_colours(tiny_config: Config) -> None:
    """The tag classifier of CAM seeds stays as it is."""
    batches = [
        trainer_of(tiny_config, "classifier", views=views, split="tags").batches[0]
        for views in ("published", "equal")
    ]
    assert registry.describe_method("classifier").cls.needs == {Supervision.TAGS}
    assert torch.equal(batches[0].tagged.image, batches[1].tagged.image)
