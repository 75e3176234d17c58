"""Class weights, Dice and rare classes of a protocol: from the labels that a split grants to the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch

from bench import pipeline
from bench.contract import Method
from bench.errors import ConfigError
from bench.ops.losses import cross_entropy, soft_dice_loss, weighted_cross_entropy
from bench.plan import plan
from bench.settings.schema import RunConfig
from bench.testing.runs import GARBAGE, Quiet
from bench.training import session
from bench.training.balance import balance, class_pixels, inverse_sqrt, labeled_loss, rare_classes
from datasets.folder import Folder

Config = Callable[..., RunConfig]
WEIGHTED = "protocol.class_weights=inverse_sqrt"
ALL_ON = (WEIGHTED, "protocol.dice=0.5", "protocol.rare_crops=0.5")


# Pure parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "weights"),
    [
        ([4, 1, 0], [2 / 3, 4 / 3, 1]),
        ([100, 100], [1, 1]),
        ([1, 16, 0, 4], [12 / 7, 3 / 7, 1, 6 / 7]),
        ([0, 0], [1, 1]),
        ([0, 9], [1, 1]),
    ],
)
def test_inverse_square_roots_by_hand(pixels: Sequence[int], weights: Sequence[float]) -> None:
    assert inverse_sqrt(pixels) == pytest.approx(weights)


@pytest.mark.parametrize(
    ("pixels", "rare"),
    [
        ([90, 10], [1]),
        ([50, 3, 20], [1]),
        ([50, 0, 3, 20, 7], [2, 4]),
        ([5, 5, 5, 5], [0, 1]),
        ([7, 0], []),
        ([0, 0], []),
    ],
)
def test_the_rarer_half_of_the_classes_that_occur(pixels: Sequence[int], rare: Sequence[int]) -> None:
    assert list(rare_classes(pixels)) == rare


def test_pixels_are_counted_without_those_of_no_label(tiny_set: Folder) -> None:
    ids = tiny_set.ids("train")[:4]
    masks = np.stack([tiny_set.mask(id) for id in ids])
    assert (masks == 255).any()
    assert class_pixels(tiny_set, ids).tolist() == [(masks == c).sum() for c in range(3)]


# The loss of a task ---------------------------------------------------------------------------------------


def method_of(config: RunConfig) -> Method:
    return session.parts_of(plan(config)).method


def test_off_the_loss_is_the_plain_one_and_no_mask_is_opened_for_it(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("supervised")
    assert labeled_loss(config.protocol) is cross_entropy
    monkeypatch.setattr("bench.training.balance.class_pixels", lambda *of: pytest.fail("masks are opened"))
    task = method_of(config).task
    assert task.labeled_loss is cross_entropy and task.class_weights is None


def test_the_weights_of_a_run_are_those_of_its_granted_masks(tiny_config: Config, tiny_set: Folder) -> None:
    config = tiny_config("u2pl", WEIGHTED, "protocol.dice=0.5")
    task, expected = method_of(config).task, inverse_sqrt(class_pixels(tiny_set, plan(config).split.pixel))
    assert task.class_weights == expected and len(set(expected)) == 3
    logits, label = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))
    by_hand = weighted_cross_entropy(logits, label, torch.tensor(expected))
    torch.testing.assert_close(
        task.labeled_loss(logits, label), by_hand + 0.5 * soft_dice_loss(logits, label)
    )
    full = method_of(tiny_config("u2pl_weak", WEIGHTED, split="few+tags")).task.class_weights
    assert full == expected, "the seeds are not made yet"


def test_numbers_are_taken_as_they_are(tiny_config: Config) -> None:
    task = method_of(tiny_config("fixmatch", "protocol.class_weights=[1,2,0.5]")).task
    assert task.class_weights == (1.0, 2.0, 0.5)
    ohem = tiny_config("fixmatch", "protocol.class_weights=[1,2,0.5]", "protocol.labeled_loss.name=ohem")
    logits, label = torch.randn(2, 3, 8, 8), torch.randint(3, (2, 8, 8))
    found = method_of(ohem).task.labeled_loss(logits, label)
    torch.testing.assert_close(found, task.labeled_loss(logits, label))  # so few pixels are all hard


def test_tags_alone_have_no_labeled_loss_and_no_weights(tiny_config: Config, tiny_set: Folder) -> None:
    planned = plan(tiny_config("classifier", *ALL_ON, split="tags"))
    assert balance(planned, tiny_set) == balance(plan(tiny_config("classifier", split="tags")), tiny_set)


def test_of_tagged_images_the_seeds_are_counted(
    tiny_config: Config, tiny_set: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their masks are not granted."""
    planned = plan(tiny_config("supervised", *ALL_ON, split="few+tags"))
    masks = class_pixels(tiny_set, planned.split.pixel)
    report = type("Report", (), {"class_pixels": [1000, 0, 7]})()
    assert planned.seeds is not None
    monkeypatch.setattr(type(planned.seeds.folder), "read_report", lambda folder: report)
    found = balance(planned, tiny_set)
    assert found.weights == inverse_sqrt(np.add(masks, [1000, 0, 7]))
    assert found.rare == rare_classes(np.add(masks, [1000, 0, 7]))


# Refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("class_weights=inverse_sqr", "did you mean 'inverse_sqrt'"),
        ("class_weights=[1,-2,1]", "and one is -2"),
        ("class_weights=[1,0,1]", "and one is 0"),
        ("class_weights=[1,true,1]", "and one is True"),
        ("class_weights=[]", "a list of numbers"),
        ("class_weights=2", "a list of numbers"),
        ("class_weights={a: 1}", "a list of numbers"),
        ("class_weights=[.nan,1,1]", "no finite number"),
        ("dice=-0.1", "greater than or equal to 0"),
        ("dice=.nan", "no finite number"),
        ("rare_crops=1.1", "less than or equal to 1"),
        ("rare_crops=-1", "greater than or equal to 0"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_with_the_key(
    tiny_config: Config, change: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        tiny_config("supervised", f"protocol.{change}")
    said = str(caught.value)
    assert f"protocol.{change.partition('=')[0]}:" in said and words in said and "\n" not in said


def test_not_a_number_is_refused_in_python_too() -> None:
    for weights in ([1.0, float("nan")], [float("inf")], (1.0, -1.0), [1e-9]):
        with pytest.raises(ValueError, match="a weight is a number"):
            RunConfig.model_validate({"protocol": {"class_weights": weights}})


def test_one_weight_a_class_or_none_runs_not_even_dry(tiny_config: Config) -> None:
    said = []
    for refuse in (pipeline.check, lambda planned: pipeline.run(planned, Quiet())):
        with pytest.raises(ConfigError) as caught:
            refuse(plan(tiny_config("supervised", "protocol.class_weights=[1,2]")))
        said.append(str(caught.value))
    assert said[0] == said[1] and "protocol.class_weights has 2 numbers, and tinyset has 3 classes" in said[0]
    assert said[0].endswith("background, square, stripe.")


# Whole runs -----------------------------------------------------------------------------------------------


def trained(config: RunConfig) -> tuple[bytes, Any]:
    planned = plan(config)
    pipeline.run(planned, Quiet())
    return planned.folder.weights.read_bytes(), planned.folder


def test_a_run_opens_no_withheld_mask_and_says_its_weights(
    tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "poisoned"
    copytree(tiny_root, root)
    config = tiny_config("fixmatch", *ALL_ON, "protocol.steps=2", f"machine.data_root={root}")
    split = plan(config).split
    for id in split.none:
        (root / "tinyset" / "labels" / f"{id}.png").write_bytes(GARBAGE)
    _, folder = trained(config)
    (start,) = folder.read_provenance()
    assert start["class_weights"] == list(
        inverse_sqrt(class_pixels(Folder(root / "tinyset", "t"), split.pixel))
    )
    plain = tiny_config("fixmatch", "protocol.steps=1")
    assert "class_weights" not in trained(plain)[1].read_provenance()[0]


@pytest.mark.parametrize("change", ALL_ON)
def test_each_setting_changes_the_weights_and_the_id(tiny_config: Config, change: str) -> None:
    steps = ("protocol.steps=3", "protocol.crop=[16,16]")
    off, on = tiny_config("supervised", *steps), tiny_config("supervised", *steps, change)
    if "rare" in change:
        on = tiny_config("supervised", *steps, "protocol.rare_crops=1")
    assert plan(off).run_id != plan(on).run_id and off.protocol.hash != on.protocol.hash
    assert trained(off)[0] != trained(on)[0]


def test_the_warm_up_has_the_same_loss(tiny_config: Config) -> None:
    """The harness trains it without the method."""
    steps = ("protocol.steps=3", "method.warmup=2")
    logs = [
        trained(tiny_config("u2pl", *steps, *more))[1].metrics.read_text().splitlines()[0]
        for more in ((), ("protocol.dice=0.5",))
    ]
    assert logs[0] != logs[1]
