"""Checks of single steps: terms, gradients, and what is kept from step to step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.contract import IGNORE, Batch, Method, Net, Stream, Supervision
from bench.ops.losses import cross_entropy
from bench.testing.case import (
    SIZE,
    STREAMS,
    TRIED,
    Case,
    Terms,
    backward,
    changed,
    equal,
    gradients,
    kept,
    losses,
    refuse_non_finite,
    students,
    teachers,
    unboxed,
    with_stream,
)
from bench.training.balance import labeled_loss

# Why unlabeled images may be without gradient in the small network though the method is right.
UNTRAINED = (
    "look at the term's weight; and where a confidence decides which pixels train, call that knob "
    "`threshold`: the suite sets it to 0, since its untrained network is sure of no pixel"
)


def terms_are_finite_scalars_with_a_graph(case: Case) -> None:
    method = case.method()
    terms = losses(method, case.batches()[0])
    assert terms, "losses() gives no term"
    assert "labeled" in terms or Supervision.PIXEL not in method.needs, "no term is called 'labeled'"
    refuse_non_finite(terms, 0)
    for name, term in terms.items():
        assert term.requires_grad, f"the term {name!r} has no graph, so it trains nothing"
    for name, note in method.notes.items():
        assert note.isfinite().all(), f"the note {name!r} is not finite: {note}"


def gradient_reaches_all_of_the_network_and_no_teacher(case: Case) -> None:
    """Leave the representation head out: most methods do not use it. Tags tell the encoder and the head of
    the tags alone, masks and unlabeled images do not tell that head."""
    method = case.method()
    left_out = ["representation_head", "projection"]
    left_out += [] if Supervision.TAGS in method.needs else ["classification_head"]
    left_out += ["decoder", "segmentation_head"] if method.needs == {Supervision.TAGS} else []
    for teacher in teachers(method):
        trained = [key for key, parameter in teacher.named_parameters() if parameter.requires_grad]
        assert not trained, f"the teacher's {trained[:1]} would be trained by the optimizer"
    backward(method, case.batches()[0])
    for key, parameter in method.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, f"{key} has a gradient and is not trained"
        elif not any(part in key for part in left_out):
            reached = parameter.grad is not None and bool(parameter.grad.any())
            assert reached, f"no gradient reaches {key}"


def every_stream_it_needs_moves_the_network(case: Case) -> None:
    """Find a stream whose images change nothing in the gradient, though `needs` asks for it."""
    method, batch = case.method(), case.batches()[0]

    def ignored(stream: Stream) -> Stream:
        label = None if stream.label is None else torch.full_like(stream.label, IGNORE)
        return replace(stream, label=label, valid=torch.zeros_like(stream.valid))

    def moves(stream: str, step: int) -> bool:
        backward(method, batch, step)
        whole = gradients(method)
        backward(method, with_stream(batch, stream, ignored), step)
        return not equal(whole, gradients(method))

    for stream in STREAMS:
        moved = getattr(batch, stream) is None or any(moves(stream, step) for step in TRIED)
        assert moved, f"needs asks for {stream} images; they change nothing in steps {TRIED}; {UNTRAINED}"


def its_labeled_loss_is_that_of_the_task(case: Case) -> None:
    """So that class weights and a Dice term of the protocol reach it: worked out anew from its own logits."""
    if Supervision.PIXEL not in case.info.needs:
        return
    seen: list[tuple[Tensor, Tensor]] = []

    def spied(logits: Tensor, label: Tensor) -> Tensor:
        seen.append((logits.detach().double(), label))
        return cross_entropy(logits, label)

    batch = case.batches()[0]
    plain = losses(case.method(loss=spied), batch)["labeled"]
    assert seen, "losses() does not call self.task.labeled_loss; give it the logits of the labeled images"

    def by_hand(weights: tuple[float, ...], dice: float) -> float:
        return float(sum(_weighted(*pair, weights) + dice * _dice_loss(*pair) for pair in seen))

    for weights, dice in (((1.0, 2.0, 4.0), 0.0), ((1.0, 1.0, 1.0), 0.5), ((4.0, 1.0, 0.5), 2.0)):
        loss = labeled_loss(case.protocol.model_copy(update={"dice": dice}), weights, case.device)
        term = losses(case.method(loss=loss), batch)["labeled"].item()
        expected = plain.item() * by_hand(weights, dice) / by_hand((1.0, 1.0, 1.0), 0.0)
        assert math.isclose(term, expected, rel_tol=1e-4), (
            f"with class weights {weights} and dice={dice} the term 'labeled' is {term:.6g} and not "
            f"{expected:.6g}; take it from self.task.labeled_loss alone"
        )


def _weighted(logits: Tensor, label: Tensor, weights: tuple[float, ...]) -> Tensor:
    log = logits.log_softmax(1)
    own = [label == c for c in range(len(weights))]
    losses = [-weight * log[:, c][own[c]].sum() for c, weight in enumerate(weights)]
    counts = [weight * own[c].sum() for c, weight in enumerate(weights)]
    return torch.stack(losses).sum() / torch.stack(counts).sum()


def _dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    probability, known, found = logits.softmax(1), label != IGNORE, []
    for c in range(logits.shape[1]):
        own, p = label == c, probability[:, c]
        if own.any():
            found.append(1 - 2 * p[own].sum() / (p[known].sum() + own.sum()))
    return torch.stack(found).mean()


def survives_batches_without_pixels_or_classes(case: Case) -> None:
    for what in ("all labels ignored", "all unlabeled padding", "both", "one class only"):
        method = case.method(classes=("background", "square", "stripe", "never", "seen"))
        terms = backward(method, _without(case.batches()[0], what))
        assert all(term.isfinite() for term in terms.values()), f"{what}: a term is not finite"
        found = gradients(method).values()
        assert all(gradient.isfinite().all() for gradient in found), f"{what}: a gradient is not finite"
        for name, note in method.notes.items():
            assert not note.isinf().any(), f"{what}: {name!r} is inf; NaN says that there is no such pixel"
        if what == "both":
            assert not any(gradient.any() for gradient in found), "no pixel counts, yet there is a gradient"
            # Tags have a loss without pixels.
            empty = sum(terms.values()) == 0 or Supervision.TAGS in method.needs
            assert empty, "no pixel counts, yet there is a loss"


def _without(batch: Batch, what: str) -> Batch:
    batch = changed(batch, lambda s: replace(s, tags=F.pad(s.tags, (0, 2))))
    label = 0 if what == "one class only" else IGNORE
    if what != "all unlabeled padding":
        batch = with_stream(batch, "labeled", lambda s: replace(s, label=torch.full_like(s.label, label)))
        batch = with_stream(batch, "tagged", lambda s: replace(s, tags=torch.zeros_like(s.tags)))
    if what in ("all unlabeled padding", "both"):
        for stream in ("unlabeled", "tagged"):
            batch = with_stream(batch, stream, lambda s: replace(s, valid=torch.zeros_like(s.valid)))
    return batch


def ignored_and_padded_pixels_have_no_gradient(case: Case) -> None:
    """Right half: labels 255 and padding, boxes empty. No logit or activation there may be told anything."""
    batch = case.batches()[0]

    def half(stream: Stream) -> Stream:
        valid, label = stream.valid.clone(), stream.label
        valid[..., SIZE // 2 :] = False
        if label is not None:
            label = label.clone()
            label[..., SIZE // 2 :] = IGNORE
        return unboxed(replace(stream, valid=valid, label=label))

    images = sum(len(getattr(batch, s).image) for s in STREAMS if getattr(batch, s))
    most = 0
    for step in TRIED:
        told = _told(case.method(), changed(batch, half), step)
        # A method may look at an image without training on it, in one pass with others.
        most = max(most, sum(int(one[..., : one.shape[-1] // 2].flatten(1).any(1).sum()) for one in told))
        for gradient in told:
            middle = gradient.shape[-1] // 2
            assert not gradient[..., middle:].any(), "pixels that are 255 or padding have a gradient"
    assert most >= images, f"an image without gradient at pixels that count, in steps {TRIED}; {UNTRAINED}"


def _told(method: Method, batch: Batch, step: int) -> list[Tensor]:
    """Give the gradient of each of the students' logits of image size and activations."""
    logits: list[Tensor] = []

    def recorded(function: Callable[..., Tensor], *args: Any) -> Tensor:
        found = function(*args)
        if args[-1].shape[-1] == SIZE:  # the image: of a part of one nobody knows where its right half is
            logits.append(found)
            if found.requires_grad:
                found.retain_grad()
        return found

    for net in students(method):
        for function in ("upsample", "activate"):  # all logits of image size, all activations
            setattr(net, function, partial(recorded, getattr(net, function)))
    refuse_non_finite(backward(method, batch, step), step)
    return [one.grad for one in logits if one.grad is not None]


def same_seed_same_bits(case: Case) -> None:
    def once() -> tuple[list[Terms], dict[str, Tensor], dict[str, Tensor]]:
        method = case.method()
        seen = case.train(method, range(3))
        return seen, gradients(method), method.state_dict()

    (terms, gradient, state), (terms_again, gradient_again, state_again) = once(), once()
    same = all(equal(a, b) for a, b in zip(terms, terms_again, strict=True))
    assert same, "two runs of one seed differ in their terms; draw from at.generator(purpose) alone"
    assert equal(gradient, gradient_again), "two runs of one seed differ in their gradients"
    assert equal(state, state_again), "two runs of one seed differ in what they keep"


# State ----------------------------------------------------------------------------------------------------


def state_dict_is_all_there_is(case: Case) -> None:
    """Load a second instance from the first one's state: it goes on exactly as the first does."""
    first, second = case.method(), case.method(seed=1)
    case.train(first, range(3))
    assert not equal(first.state_dict(), second.state_dict()), "another seed starts from other weights"
    second.load_state_dict(kept(first))
    went_on, resumed = case.train(first, range(3, 5)), case.train(second, range(3, 5))
    same = all(equal(a, b) for a, b in zip(went_on, resumed, strict=True))
    assert same, (
        "a method loaded from its state_dict goes on otherwise; make all it keeps a submodule or buffer"
    )
    assert equal(first.state_dict(), second.state_dict()), "its state_dict differs after it went on"


def teachers_start_as_a_student_and_trail_it(case: Case) -> None:
    method = case.method()
    if not teachers(method):
        return

    def copies() -> list[bool]:
        """Of each teacher, whether it is one of the students."""
        states = [net.state_dict() for net in students(method)]
        return [any(equal(t.module.state_dict(), state) for state in states) for t in teachers(method)]

    before = kept(method.net)
    case.train(method, range(1))
    assert not equal(before, method.net.state_dict()), "the student does not learn"
    assert all(copies()), "the first update of a teacher copies its student: see bench.ops.teacher"
    case.train(method, range(1, 3))
    assert not any(copies()), "a teacher is a copy of a student after three steps"
    for teacher in teachers(method):
        moved = [p.ne(before[key]).any() for key, p in teacher.module.named_parameters()]
        assert any(moved), "a teacher does not move; update it in after_step"


def teachers_stay_in_eval_mode(case: Case) -> None:
    method = case.method()
    method.train()
    assert method.net.training, "method.train() leaves the network in eval mode"
    for teacher in teachers(method):
        assert not any(module.training for module in teacher.modules()), "a teacher is in train mode"


def losses_leave_teachers_alone(case: Case) -> None:
    """No pass may change weights or statistics of a teacher: after_step is the place."""
    method = case.method()
    before = [kept(teacher) for teacher in teachers(method)]
    backward(method, case.batches()[0])
    for state, teacher in zip(before, teachers(method), strict=True):
        assert equal(state, teacher.state_dict()), "losses() changes a teacher; do it in after_step"


def predictor_is_a_module_of_its_own_that_segments(case: Case) -> None:
    method = case.method()
    predictor = method.predictor()
    assert isinstance(predictor, nn.Module), "predictor() must be a module"
    held = any(module is predictor for module in method.modules())
    assert held, "predictor() must be a submodule of the method, else a checkpoint would not hold it"
    exported = any(isinstance(module, Net) for module in predictor.modules())
    assert exported, "predictor() must hold a network: its weights are what is exported"
    predictor.eval()
    image = torch.rand(2, 3, 40, 24).to(case.device)
    network = next(module for module in predictor.modules() if isinstance(module, Net))
    with torch.no_grad():
        logits = predictor(image)
        same = torch.equal(logits, network.eval()(image))
    assert same == method.scored_by_network, (
        f"scored_by_network is {method.scored_by_network}, but predictor() answers "
        f"{'the same as' if same else 'other logits than'} its network"
    )
    assert logits.shape == (2, 3, 40, 24), f"logits of 2 images of 40x24 have the shape {tuple(logits.shape)}"
    assert logits.isfinite().all(), "logits are not finite"


def audits_give_what_notes_take(case: Case) -> None:
    """Of a truth in which nothing is known as well: there is nothing to count then, not an error."""
    method, batch = case.method(), case.batches()[0]
    losses(method, batch)
    for truth in (0, 1, IGNORE):
        for key, figure in method.audits.items():
            value = figure(torch.full_like(batch.unlabeled.valid, truth, dtype=torch.int64))
            method.note(key, value)
            assert not value.isinf().any(), f"the audit {key!r} is inf where every truth is {truth}"
            assert truth == IGNORE or value.isfinite().any(), f"the audit {key!r} finds nothing to count"


def the_views_of_the_protocol_move_the_network(case: Case) -> None:
    """Equal views are fair where the student trains on them: on `student`, mixed by `box`."""
    method, batch = case.method(), case.batches()[0]
    if batch.unlabeled is None:
        return
    backward(method, batch)
    whole = gradients(method)

    def inverted(stream: Stream) -> Stream:
        return replace(stream, strong=tuple(1 - view for view in stream.strong))

    def turned(stream: Stream) -> Stream:
        return replace(stream, boxes=tuple(~box for box in stream.boxes))

    changes = [("unlabeled.student", inverted)]
    if not method.views.mixes:
        changes.append(("unlabeled.box", turned))
    for what, change in changes:
        backward(method, with_stream(batch, "unlabeled", change))
        assert not equal(whole, gradients(method)), f"under equal views {what} changes nothing; train on it"


CHECKS = [
    terms_are_finite_scalars_with_a_graph,
    gradient_reaches_all_of_the_network_and_no_teacher,
    every_stream_it_needs_moves_the_network,
    its_labeled_loss_is_that_of_the_task,
    survives_batches_without_pixels_or_classes,
    ignored_and_padded_pixels_have_no_gradient,
    same_seed_same_bits,
    state_dict_is_all_there_is,
    teachers_start_as_a_student_and_trail_it,
    teachers_stay_in_eval_mode,
    losses_leave_teachers_alone,
    predictor_is_a_module_of_its_own_that_segments,
    audits_give_what_notes_take,
]
OF_EQUAL_VIEWS = [the_views_of_the_protocol_move_the_network]
