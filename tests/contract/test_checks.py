"""The contract suite itself: it sees what is broken, takes what is allowed, and needs no test framework."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, cat, nn

from bench.contract import Batch, Knobs, Method, Net, Passes, Progress, Supervision, Task
from bench.ops.mixing import mix
from bench.ops.processes import share_of_mean
from bench.ops.teacher import Teacher
from bench.testing import method_checks
from bench.testing.case import Case, students
from bench.testing.waits import watched
from methods.fixmatch import FixMatch

CHECKOUT = Path(__file__).resolve().parents[2]


class Pair(Method):
    """Two networks that teach each other: cross pseudo supervision."""

    needs = frozenset({Supervision.PIXEL, Supervision.NONE})

    class HParams(Knobs):
        weight: float = Field(1.0, ge=0, description="of the pseudo-labels (CPS, Chen et al., CVPR 2021)")

    def __init__(self, net: Net, task: Task, hparams: Knobs) -> None:
        super().__init__(net, task, hparams)
        self.second = task.new_net()

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        labeled, unlabeled = batch.labeled, batch.unlabeled
        box, n = unlabeled.box, len(labeled.image)
        images, valid = cat([labeled.image, mix(unlabeled.student, box)]), mix(unlabeled.valid, box)
        one, other = self.net(images), self.second(images)

        def taught(student: Tensor, teacher: Net) -> Tensor:
            with torch.no_grad():
                label = mix(teacher(unlabeled.image).argmax(1), box)
            loss = F.cross_entropy(student, label, reduction="none") * valid
            return share_of_mean(loss.sum(), valid.sum())

        labels = [self.task.labeled_loss(logits[:n], labeled.label) for logits in (one, other)]
        crossed = taught(one[n:], self.second) + taught(other[n:], self.net)
        return {"labeled": sum(labels), "crossed": self.hp.weight * crossed}


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(*one, marks=[pytest.mark.slow] if one[0].startswith("two ranks") else [])
        for one in method_checks(Pair)
    ],
)
def test_two_networks_keep_the_contract(name: str, check: Callable[[], None]) -> None:
    check()


def test_a_second_network_is_drawn_anew_and_moves_no_other_draw() -> None:
    class Three(Pair):
        def __init__(self, net: Net, task: Task, hparams: Knobs) -> None:
            super().__init__(net, task, hparams)
            self.third = task.new_net()

    (case, other), plain = (Case(next(method_checks(cls))[1].args[0].info) for cls in (Three, Three)), None
    method, again = case.method(), other.method()
    heads = [net.segmentation_head.weight for net in students(method)]
    assert len(heads) == 3 and not any(
        torch.equal(a, b) for a, b in ((heads[0], heads[1]), (heads[1], heads[2]))
    )
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), again.parameters(), strict=True))
    plain = Case(next(method_checks(FixMatch))[1].args[0].info).method()
    assert all(
        torch.equal(a, b) for a, b in zip(method.net.parameters(), plain.net.parameters(), strict=True)
    )


# What must be seen ----------------------------------------------------------------------------------------


class Waiting(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        self.seen = batch.labeled.image.mean().item()  # LINE
        return super().losses(batch, at)


class Drawing(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        noise = torch.randn((), generator=torch.Generator().manual_seed(id(self)))
        return {name: term * (1 + noise) for name, term in super().losses(batch, at).items()}


class Forgetting(FixMatch):
    def after_step(self, at: Progress) -> None:
        self.weight = getattr(self, "weight", 0.0) + 1
        super().after_step(at)

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        return {
            name: term * (1 + getattr(self, "weight", 0)) for name, term in super().losses(batch, at).items()
        }


class LearnsPadding(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        return super().losses(batch, at) | {"all": self.net(batch.labeled.image).square().mean()}


class TrainedTeacher(FixMatch):
    def __init__(self, net: Net, task: Task, hparams: Knobs) -> None:
        super().__init__(net, task, hparams)
        self.teacher.module.requires_grad_(True)


class MovesTeacher(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        self.teacher.update(self.net, 0.5, 10)
        self.teacher.module.segmentation_head.weight.data.add_(1)
        return super().losses(batch, at)


class FarPredictor(FixMatch):
    def predictor(self) -> nn.Module:
        return Teacher(self.net)


class RemembersWarmUp(FixMatch):
    """Its teacher averages the students of the warm-up, which a run that takes it has not seen."""

    def warmup_steps(self, total: int) -> int:
        return 3


class WeakViewsAlone(FixMatch):
    """Its student sees the weak view, whatever the protocol says."""

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        weak = replace(batch.unlabeled, strong=(), boxes=())
        return super().losses(replace(batch, unlabeled=weak), at)


class Unmixed(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        return super().losses(replace(batch, unlabeled=replace(batch.unlabeled, boxes=())), at)


class LabelsAlone(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        return {"labeled": self.task.labeled_loss(self.net(batch.labeled.image), batch.labeled.label)}


class Understated(FixMatch):
    passes = Passes(trained=(1, 1))


class Undecoded(FixMatch):
    passes = Passes(trained=(1, 1), read=(0, 1), decoded=1)


class Represented(FixMatch):
    passes = Passes(trained=(1, 1), read=(0, 1), through="representation")


class OwnLabeledLoss(Method):
    """Its labels have a loss of its own, which no setting of the protocol reaches."""

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        logits, label = self.net(batch.labeled.image), batch.labeled.label
        self.task.labeled_loss(logits, label)
        return {"labeled": F.cross_entropy(logits, label, ignore_index=255)}


class CopiesLabel(Method):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        logits, label = self.net(batch.labeled.image), batch.labeled.label
        return {"labeled": self.task.labeled_loss(logits, label.clone())}


class Undescribed(FixMatch):
    class HParams(FixMatch.HParams):
        width: int = 3


class Unbounded(FixMatch):
    class HParams(FixMatch.HParams):
        width: float = Field(3.0, description="of nothing")


VIEWS = "the views of the protocol move the network under equal views"


@pytest.mark.parametrize(
    ("cls", "name", "words"),
    [
        (Waiting, "a step waits for nothing", "test_checks.py, line"),
        (Drawing, "same seed same bits", "differ in their terms"),
        (Forgetting, "state dict is all there is", "make all it keeps a submodule or buffer"),
        (LearnsPadding, "ignored and padded pixels have no gradient", "255 or padding"),
        (LearnsPadding, "survives batches without pixels or classes", "yet there is a"),
        (TrainedTeacher, "gradient reaches all of the network and no teacher", "trained by the optimizer"),
        (MovesTeacher, "losses leave teachers alone", "do it in after_step"),
        (FarPredictor, "predictor is a module of its own that segments", "submodule of the method"),
        (RemembersWarmUp, "a shared warm up is its own", "its last step does not make anew"),
        (LabelsAlone, "every stream it needs moves the network", "unlabeled images; they change nothing"),
        (WeakViewsAlone, VIEWS, "unlabeled.student changes nothing"),
        (Unmixed, VIEWS, "unlabeled.box changes nothing"),
        (LearnsPadding, "ignored and padded pixels have no gradient under equal views", "255 or padding"),
        (OwnLabeledLoss, "its labeled loss is that of the task", "self.task.labeled_loss alone"),
        (CopiesLabel, "a gated crf reaches its labeled loss", "batch.labeled.label itself"),
        (
            Understated,
            "its passes are as many as it says",
            "'encoder without a gradient': 2, 'decoder': 4}, but",
        ),
        (Undecoded, "its passes are as many as it says", "'decoder': 6"),
        (Represented, "its passes are as many as it says", "give 'logits'"),
        (Undescribed, "it and its knobs are described", "'width' needs Field"),
        (Unbounded, "knobs out of range are refused", "'width' has no bounds"),
    ],
)
def test_a_broken_promise_is_seen(cls: type[Method], name: str, words: str) -> None:
    with pytest.raises(AssertionError) as caught:
        dict(method_checks(cls))[name]()
    assert words in str(caught.value)


class OwnShare(FixMatch):
    """It weighs its labels by the valid pixels of each rank's own images."""

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        terms = super().losses(batch, at)
        return {**terms, "labeled": terms["labeled"] * batch.unlabeled.valid.float().mean()}


class OwnDraw(FixMatch):
    """Each rank draws for its own images, and keeps what it drew."""

    def __init__(self, net: Net, task: Task, hparams: Knobs) -> None:
        super().__init__(net, task, hparams)
        self.drawn = nn.Buffer(torch.zeros(()))

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        self.drawn.add_(torch.rand(1 + int(batch.unlabeled.ids[0][-1]), generator=at.generator("own")).sum())
        return super().losses(batch, at)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "words"), [(OwnShare, "the term 'labeled' of step "), (OwnDraw, "two ranks keep another drawn")]
)
def test_ranks_that_are_not_one_are_seen(cls: type[Method], words: str) -> None:
    with pytest.raises(AssertionError) as caught:
        dict(method_checks(cls))["two ranks are one"]()
    assert words in str(caught.value) and "bench.ops.processes" in str(caught.value)


def test_a_wait_is_named_by_file_and_line() -> None:
    line = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "# LINE" in text)
    with pytest.raises(AssertionError, match=rf"_local_scalar_dense at {__file__}, line {line}$"):
        dict(method_checks(Waiting))["a step waits for nothing"]()


def test_what_waits_on_cuda_is_counted_and_nothing_else() -> None:
    values, ids = torch.ones(3), torch.tensor([1, 2])
    with watched() as waits:
        assert values.any()
        values[values > 0].nonzero()
        values[ids].sum()
        F.one_hot(ids, 3), F.one_hot(ids, num_classes=3)  # checks its ids on the CPU alone
    names = [wait.partition(" at ")[0] for wait in waits]
    assert names == ["aten::_local_scalar_dense", "aten::index.Tensor", "aten::nonzero"]
    with watched() as waits:
        F.one_hot(ids)  # must find out how many classes there are
    assert waits


PLUGIN = '''"""Learns from labels."""

from bench.contract import Method


class Mine(Method):
    def losses(self, batch, at):
        return {"labeled": self.task.labeled_loss(self.net(batch.labeled.image), batch.labeled.label)}
'''


@pytest.mark.slow
def test_a_class_outside_the_checkout_is_checked_by_one_command(tmp_path: Path) -> None:
    """Without pytest: it is not there."""
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    (tmp_path / "pytest.py").write_text("raise ImportError('no pytest here')\n")

    def checked(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bench.testing", *words],
            cwd=tmp_path,
            env={"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )

    found = checked("my_plugin:Mine")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "ok      same seed same bits" in found.stdout
    (tmp_path / "my_plugin.py").write_text(
        PLUGIN.replace("return", "batch.labeled.image.mean().item()\n        return")
    )
    found = checked("my_plugin:Mine", "waits for nothing", "finite scalars")
    assert found.returncode == 1 and "2 of 4 checks hold" in found.stdout
    assert "FAILED  a step waits for nothing" in found.stdout
    assert f"{tmp_path / 'my_plugin.py'}, line 8" in found.stdout
    assert checked("my_plugin:Other").returncode == 2
    found = checked("my_plugin:Mine", "three ranks")
    assert found.returncode == 2 and "no check has 'three ranks' in its name" in found.stderr
