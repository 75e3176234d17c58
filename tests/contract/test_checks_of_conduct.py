"""What the contract suite says of mistakes that are easily made, and that it takes what is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench.contract import Batch, Method, Passes, Progress
from bench.settings.registry import describe_class
from bench.testing import method_checks
from bench.testing.__main__ import unforeseen
from bench.testing.case import Case, losses
from methods.fixmatch import FixMatch


class MorePasses(FixMatch):
    passes = Passes(trained=(1, 2), read=(0, 1))


class DrawsFreely(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        scale = 1 + torch.rand(())  # DRAW
        return {name: term * scale for name, term in super().losses(batch, at).items()}


class ChangesLabels(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        batch.labeled.label[batch.labeled.label == 1] = 255
        return super().losses(batch, at)


class ChangesStrongView(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        batch.unlabeled.strong[0].mul_(0.5)
        return super().losses(batch, at)


class TakesAName(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        self.note("labeled", batch.labeled.image.mean())
        return super().losses(batch, at)


class OddName(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        self.note("mask: ratio\n", batch.labeled.image.mean())
        return super().losses(batch, at)


class LateNan(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        bad = float("nan") if at.step > 2 else 1.0
        return {name: bad * term for name, term in super().losses(batch, at).items()}


class NoDict(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        return sum(super().losses(batch, at).values())  # type: ignore[return-value]


class NumberForTerm(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        return super().losses(batch, at) | {"extra": 0.0}  # type: ignore[dict-item]


class BadCall(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        nothing: Any = None
        return {"labeled": self.task.labeled_loss(self.net(batch.unlabeled.image), nothing)}  # CALL


class OtherKnob(FixMatch):
    """Right, but its threshold has another name."""

    class HParams(FixMatch.HParams):
        sure: float = Field(0.95, ge=0, le=1, description="confidence from which a pixel trains")

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        self.hp = self.hp.model_copy(update={"threshold": self.hp.sure})
        return super().losses(batch, at)


@pytest.mark.parametrize(
    ("cls", "name", "words"),
    [
        (MorePasses, "its passes are as many as it says", "say in `passes` what a step sends"),
        (DrawsFreely, "draws have a generator", "generator=at.generator(purpose)"),
        (ChangesLabels, "losses leave the batch alone", "changes batch.labeled.label in place"),
        (ChangesStrongView, "losses leave the batch alone", "batch.unlabeled.strong[0] in place"),
        (TakesAName, "figures have names of their own", "'labeled' would take the place"),
        (OddName, "figures have names of their own", "letters, digits, _ and /"),
        (LateNan, "state dict is all there is", "the term 'labeled' of step 3 is nan"),
        (LateNan, "ignored and padded pixels have no gradient", "of step 5 is nan"),
        (NoDict, "same seed same bits", "losses() gives a Tensor; give a dict of terms by name"),
        (NumberForTerm, "terms are finite scalars with a graph", "the term 'extra' is a float"),
        (OtherKnob, "every stream it needs moves the network", "call that knob `threshold`"),
        (OtherKnob, "ignored and padded pixels have no gradient", "call that knob `threshold`"),
    ],
)
def test_a_mistake_is_named(cls: type[Method], name: str, words: str) -> None:
    with pytest.raises(AssertionError) as caught:
        dict(method_checks(cls))[name]()
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["step", "lr", "loss"])
def test_a_note_cannot_take_the_place_of_a_figure_of_each_line(name: str) -> None:
    """Its run would have a log that nobody can read."""
    method = Case(describe_class("fixmatch", FixMatch)).method()
    with pytest.raises(ValueError, match=f"the note '{name}' has the name of a figure of the harness"):
        method.note(name, torch.zeros(()))


class Ramped(FixMatch):
    """Right: the unlabeled term grows from 0."""

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        terms = super().losses(batch, at)
        return terms | {"unlabeled": terms["unlabeled"] * min(at.fraction / 0.4, 1)}


class WithDropout(FixMatch):
    """Right: dropout draws from a stream of the step's own."""

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        terms = super().losses(batch, at)
        return terms | {"unlabeled": terms["unlabeled"] * F.dropout(torch.ones(100)).mean()}


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (Ramped, "every stream it needs moves the network"),
        (Ramped, "ignored and padded pixels have no gradient"),
        (WithDropout, "draws have a generator"),
    ],
)
def test_what_is_allowed_is_taken(cls: type[Method], name: str) -> None:
    dict(method_checks(cls))[name]()


def test_a_draw_and_an_error_are_placed_in_the_code_of_the_method() -> None:
    """Not in torch, nor in the harness, that it calls."""
    lines = Path(__file__).read_text().splitlines()
    draw, call = (
        next(i for i, text in enumerate(lines, 1) if text.endswith(f"# {w}")) for w in ("DRAW", "CALL")
    )
    with pytest.raises(AssertionError, match=rf"aten::rand at {__file__}, line {draw};"):
        dict(method_checks(DrawsFreely))["draws have a generator"]()
    case = Case(describe_class("bad", BadCall))
    with pytest.raises(TypeError) as caught:
        losses(case.method(), case.batches()[0])
    assert unforeseen(caught.value).endswith(f"(at {__file__}, line {call})")
