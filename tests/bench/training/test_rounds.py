"""Methods with rounds: one command finishes the run that labels, labels, and trains; stopped, it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bench import pipeline
from bench.display import Display
from bench.errors import ConfigError, DataError
from bench.networks import exported
from bench.outlook import before
from bench.plan import Plan, plan
from bench.records.ledger import Ledger
from bench.records.schema import Result
from bench.scoring import pseudo_labels
from bench.settings.registry import describe_class, offering
from bench.settings.schema import RunConfig
from bench.testing import tiny
from bench.training.trainer import Trainer
from datasets.folder import Folder
from methods.selftraining import SelfTraining

Config = Callable[..., RunConfig]
SETS = ("protocol.steps=4", "machine.checkpoint_every=1")


class Quiet(Display):
    def say(self, text: str) -> None: ...

    def start(self, name: str, total: int, done: int = 0) -> None: ...

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None: ...


class Killed(BaseException):
    """Stands for the end of the process."""


def planned(tiny_config: Config, *sets: str, **flags: Any) -> Plan:
    return plan(tiny_config("selftraining", *SETS, *sets, **flags))


def run(of: Plan, **options: bool) -> Result:
    return pipeline.run(of, Quiet(), **options)


def labels(of: Plan) -> dict[str, bytes]:
    return {id: of.folder.pseudo_label(id).read_bytes() for id in of.unlabeled}


def by_hand(of: Plan, data: Folder, id: str) -> np.ndarray:
    """The likeliest class of the mean over five scales and their mirror images."""
    assert of.labeler is not None
    net = exported.read(of.labeler.folder.weights, None).eval()
    image = torch.from_numpy(data.image(id)).permute(2, 0, 1)[None].float() / 255
    height, width = image.shape[-2:]

    def seen(scaled: Tensor) -> Tensor:
        probability = net(scaled).softmax(1)
        return F.interpolate(probability, (height, width), mode="bilinear")

    total = torch.zeros(1, 3, height, width)
    with torch.no_grad():
        for scale in (0.5, 0.75, 1.0, 1.5, 2.0):
            size = [round(height * scale), round(width * scale)]
            scaled = F.interpolate(image, size, mode="bilinear", antialias=True)
            total += seen(scaled) + seen(scaled.flip(-1)).flip(-1)
    return total.argmax(1)[0].numpy()


@pytest.mark.slow
def test_one_command_does_all_rounds(tiny_config: Config, tiny_set: Folder) -> None:
    longer = ("protocol.steps=40", "protocol.optimizer.lr=0.01")  # or every pixel has one label
    of = planned(tiny_config, *longer)
    assert of.labeler is not None and "labels first: supervised trains 40 steps" in "\n".join(before(of))
    result = run(of)
    plain = plan(tiny_config("supervised", *SETS, *longer))
    assert of.labeler.run_id == plain.run_id and plain.folder.result.exists(), "that of `supervised` itself"
    assert set(labels(of)) == {f"train_{i:02d}" for i in range(4, 16)}
    for id in ("train_04", "train_15"):
        label = np.asarray(Image.open(of.folder.pseudo_label(id)))
        assert label.dtype == np.uint8 and len(np.unique(label)) > 1
        assert (label == by_hand(of, tiny_set, id)).mean() > 0.999
    assert result.contents is not None and result.contents.labels is not None
    assert result.rounds is not None and result.rounds.label_seconds > 0
    labeler = plain.folder.read_result()
    assert labeler is not None and labeler.contents is not None and labeler.contents.labels is None
    assert labeler.rounds is None and "labels" not in labeler.contents.model_dump()
    expected = labeler.train_seconds + result.rounds.label_seconds + result.train_seconds
    assert result.whole_seconds == pytest.approx(expected)
    assert run(of) == result, "already done"
    assert "is trained already" in "\n".join(before(of))


def test_other_settings_of_the_labeler_are_another_run(tiny_config: Config) -> None:
    one, other = planned(tiny_config), planned(tiny_config, "protocol.steps=5")
    assert one.labeler and other.labeler and one.labeler.run_id != other.labeler.run_id
    assert one.input_digests["labeler"] == one.labeler.run_id and one.run_id != other.run_id


def stopped(of: Plan, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Start the run and end it in the first round, in the middle of the labels, or in the last round."""
    steps, made = Trainer.train_step, Ledger.add

    def step(trainer: Trainer, batch: Any, at: Any) -> Any:
        if trainer.plan.method.name == where and at.step == 2:
            raise Killed
        return steps(trainer, batch, at)

    def add(ledger: Ledger, *line: Any) -> None:
        made(ledger, *line)
        if where == "labels" and len(ledger.ids) == 5:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step)
        patch.setattr(Ledger, "add", add)
        with pytest.raises(Killed):
            run(of)


@pytest.fixture(scope="module")
def straight(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A run that nothing stopped. Read only."""
    of = plan(tiny.config("selftraining", *SETS, root=tiny_root, out=tmp_path_factory.mktemp("rounds")))
    run(of)
    return of


@pytest.fixture
def done(straight: Plan, tiny_config: Config) -> Plan:
    """The same run in a folder of the test's own."""
    of = planned(tiny_config)
    shutil.copytree(straight.config.machine.out, of.config.machine.out)
    return of


@pytest.mark.parametrize("where", ["supervised", "labels", "selftraining"])
def test_a_run_that_was_stopped_in_any_round_goes_on_to_the_same_bits(
    where: str, tiny_config: Config, straight: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = straight.folder.read_result()
    assert expected is not None
    of = planned(tiny_config)
    stopped(of, monkeypatch, where)
    assert len(list(of.folder.path.glob("pseudo_labels/*.png"))) == {"supervised": 0, "labels": 5}.get(
        where, 12
    )
    made: list[str] = []
    real = Ledger.add
    monkeypatch.setattr(Ledger, "add", lambda ledger, id, *rest: made.append(id) or real(ledger, id, *rest))
    result = run(of, resume=True)
    assert len(made) == {"supervised": 12, "labels": 7}.get(where, 0), "what is sound is not made again"
    assert labels(of) == labels(straight) and result.weights_file_digest == expected.weights_file_digest


def test_a_damaged_label_is_made_again_before_the_run_goes_on(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = planned(tiny_config)
    stopped(of, monkeypatch, "selftraining")
    before_it = labels(of)
    of.folder.pseudo_label("train_04").write_bytes(b"no picture")
    of.folder.pseudo_label("train_05").unlink()
    with pytest.raises(DataError, match="the pseudo-label of 'train_04' is gone, damaged or of another list"):
        pseudo_labels.read(of.folder, 3, "train_04")
    assert run(of, resume=True).steps == 4
    assert labels(of) == before_it


def test_a_label_that_changed_after_the_run_is_named(done: Plan) -> None:
    of = done
    Image.fromarray(np.full((40, 40), 2, np.uint8)).save(of.folder.pseudo_label("train_04"), compress_level=0)
    with pytest.raises(ConfigError, match="is done, but this has changed since: the pseudo-labels"):
        run(of)


def test_labels_of_another_list_of_classes_are_a_sentence(
    tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    """An id that the list does not have; and another list than that of the run that labeled."""
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root)
    of = planned(tiny_config, f"machine.data_root={root}")
    run(of)
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(of.folder.pseudo_label("train_04"))
    with pytest.raises(DataError, match=r"of another list of classes since this run began.*holds the ids 7"):
        pseudo_labels.read(of.folder, 3, "train_04")
    (root / "tinyset" / "classes.txt").write_text("background\nstripe\nsquare\n")
    with pytest.raises(ConfigError, match="the classes, their order or the background"):
        run(of)
    shutil.rmtree(of.folder.path)
    with pytest.raises(ConfigError, match="supervised.* is done, but this has changed since: the classes"):
        run(of)


def test_labels_are_of_the_weights_that_the_labeler_has_now(done: Plan, tiny_config: Config) -> None:
    """The labeler's run was begun again with other weights: no label of before is taken."""
    of = done
    assert of.labeler is not None
    labeler, first = of.labeler.folder, labels(of)
    other = plan(tiny_config("supervised", *SETS, "protocol.optimizer.lr=0.1", seed=1))
    theirs, ours = run(other), labeler.read_result()
    assert ours is not None and ours.contents is not None
    shutil.copy(other.folder.weights, labeler.weights)
    contents = ours.contents.model_copy(update={"weights": theirs.weights_file_digest})
    labeler.write_result(ours.model_copy(update={"contents": contents}))
    pseudo_labels.make(of, Quiet(), lambda: None)
    assert labels(of) != first


def test_no_withheld_mask_is_opened(tiny_config: Config, tiny_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root)
    of = planned(tiny_config, f"machine.data_root={root}")
    for id in of.unlabeled:
        (root / "tinyset" / "labels" / f"{id}.png").write_bytes(b"poison")
    assert run(of).steps == 4 and len(labels(of)) == 12


def test_a_labeler_that_learns_from_more_than_labels_is_refused(tiny_config: Config) -> None:
    class Twice(SelfTraining):
        rounds = replace(SelfTraining.rounds, labeler="fixmatch")

    words = "labeled by 'fixmatch', which learns from more than labeled images"
    with offering(describe_class("twice", Twice)), pytest.raises(ConfigError, match=words):
        plan(tiny_config("twice", *SETS))


def test_a_labeler_without_weights_is_a_sentence(tiny_config: Config) -> None:
    of = planned(tiny_config)
    assert of.labeler is not None
    run(of.labeler)
    of.labeler.folder.weights.unlink()
    with pytest.raises(DataError, match="no .*weights.safetensors; put it back, or start that run again"):
        run(of)
