"""Checks of what a step does beside its terms: what it draws, changes, waits for and logs, and how often it
sends an image through networks."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.contract import OF_A_LINE, Batch, Net
from bench.testing.case import SIZE, STREAMS, Case, at, backward, losses
from bench.testing.waits import drawn, watched

OF_THE_HARNESS = (*OF_A_LINE, "warmup_steps")


def losses_leave_the_batch_alone(case: Case) -> None:
    """Compare: the gated CRF, an audit and the next term look at the same tensors."""
    method, batch = case.method(), case.batches()[0]
    before = {name: value.clone() for name, value in _tensors(batch).items()}
    backward(method, batch)
    for name, value in _tensors(batch).items():
        assert torch.equal(value, before[name]), (
            f"losses() changes batch.{name} in place; change a copy of it"
        )


def _tensors(batch: Batch) -> dict[str, Tensor]:
    """Name what is in the streams: {"labeled.image": ..., "unlabeled.strong[0]": ...}"""
    found: dict[str, Tensor] = {}
    for stream in STREAMS:
        for field, value in vars(getattr(batch, stream) or Nothing()).items():
            many = value if isinstance(value, tuple) else ()
            found |= {f"{stream}.{field}[{i}]": x for i, x in enumerate(many) if isinstance(x, Tensor)}
            found |= {f"{stream}.{field}": value} if isinstance(value, Tensor) else {}
    return found


class Nothing:
    """A stream that a batch does not have."""


def draws_have_a_generator(case: Case) -> None:
    """Leave dropout out: it has a stream of the step's own. All else is shared by its purpose."""
    method, batch = case.method(), case.batches()[0]
    with drawn() as places:
        backward(method, batch)
        method.after_step(at(method))
    assert not places, (
        f"a draw without a generator, {'; '.join(dict.fromkeys(places))}; give it "
        "generator=at.generator(purpose)"
    )


def figures_have_names_of_their_own(case: Case) -> None:
    method, batch = case.method(), case.batches()[0]
    terms = losses(method, batch)
    for name in (*method.notes, *method.audits):
        taken = name in (*OF_THE_HARNESS, *terms) or name.startswith("gradient_share/")
        assert not taken, f"the figure {name!r} would take the place of one of the log's; give another name"
        usual = name.replace("_", "").replace("/", "").isalnum() and name.isascii()
        assert usual, f"the figure {name!r} needs a name of letters, digits, _ and /: plots show it"
    for name in terms:
        assert name not in OF_THE_HARNESS, f"the term {name!r} has the name of a figure of the harness"


def a_step_waits_for_nothing(case: Case) -> None:
    """On CUDA an answer that the host must know stops the queue: `tensor.item()`, `if mask.any():`."""
    method, batch = case.method(), case.batches()[0]
    with watched() as waits:
        backward(method, batch)
        for figure in method.audits.values():
            figure(torch.zeros_like(batch.unlabeled.valid, dtype=torch.int64))
        method.after_step(at(method))
    assert not waits, "a step waits for the device: " + "; ".join(dict.fromkeys(waits))


def its_passes_are_as_many_as_it_says(case: Case) -> None:
    """Count the images that go through encoders and decoders, with a gradient and without one; a part of an
    image counts by its pixels."""
    said = case.info.cls.passes
    if said is None:
        return
    method, batch = case.method(), case.batches()[0]
    seen: defaultdict[tuple[str, bool], float] = defaultdict(int)

    def count(part: str, module: nn.Module, given: Any, answer: Any) -> None:
        found = answer if isinstance(answer, Tensor) else answer[-1]
        pixels = given[0][0, 0].numel() if part == "encoder" else SIZE**2
        images = len(found) * pixels / SIZE**2
        seen[part, torch.is_grad_enabled()] += int(images) if images.is_integer() else images

    for module in method.modules():
        if isinstance(module, Net):
            for part in ("encoder", "decoder", "representation_head"):
                module.get_submodule(part).register_forward_hook(partial(count, part))
    losses(method, batch)
    counts = [
        len(stream.image) if stream else 0 for stream in (batch.labeled or batch.tagged, batch.unlabeled)
    ]
    stated = said.images(*counts)
    through = {"encoder": seen["encoder", True], "encoder without a gradient": seen["encoder", False]}
    expected = {"encoder": stated["trained"], "encoder without a gradient": stated["read"]}
    if said.through != "activation":
        through["decoder"] = seen["decoder", True]
        expected["decoder"] = stated["trained"] + said.decoded * counts[1]
    assert through == expected, (
        f"images through {through}, but by its `passes` {expected}, of {counts[0]} labeled or tagged images "
        f"and {counts[1]} unlabeled ones; say in `passes` what a step sends, or send less: what needs no "
        "gradient, such as a teacher, under torch.no_grad()"
    )
    used = "representation" if seen["representation_head", True] else "logits"
    used = used if seen["decoder", True] else "activation"
    assert used == said.through, f"its trained passes give {used!r}, but `passes` says {said.through!r}"


CHECKS = [
    losses_leave_the_batch_alone,
    draws_have_a_generator,
    figures_have_names_of_their_own,
    a_step_waits_for_nothing,
    its_passes_are_as_many_as_it_says,
]
