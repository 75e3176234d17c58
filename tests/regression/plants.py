"""Faults that are planted into a process by replacing a function, one at a time; no file is edited.

`FAULTS` are gross: the tolerant gate must see each, on any machine. `SUBTLE` ones it may miss: the exact mode
must see those too. `CLEAN` are conditions with nothing planted, in which no gate may see anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest.mock import patch

from gate import grid

CLASSES = 9  # of shapes
SEMI, WEAK = "1_8", "tags"


# Gross ones -------------------------------------------------------------------------------------------------


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def replaced(*places: tuple[str, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for place, new in places:
            stack.enter_context(patch(place, new))
        yield


def plant_no_ema() -> Any:
    """The teacher is a copy of the student."""
    from bench.ops.teacher import Teacher

    update = Teacher.update
    return replaced(
        (
            "bench.ops.teacher.Teacher.update",
            lambda self, student, decay, updates: update(self, student, 0.0, updates),
        )
    )


def plant_threshold_ignored() -> Any:
    """Every pixel outside padding trains, however unsure the teacher is; the note of the mask stays right."""
    from bench.ops.losses import masked_cross_entropy

    def everywhere(logits: Any, label: Any, keep: Any, counted: Any) -> Any:
        return masked_cross_entropy(logits, label, counted, counted)

    methods = ("fixed_threshold", "fixmatch")
    return replaced(*((f"methods.{name}.masked_cross_entropy", everywhere) for name in methods))


def _changed_label(change: Callable[[Any], Any]) -> Any:
    from datasets.loaders import StepBatches

    label = StepBatches._label
    return replaced(("datasets.loaders.StepBatches._label", lambda *given: change(label(*given))))


def plant_labels_shifted() -> Any:
    """Class c is learned as class c + 1."""
    import torch

    return _changed_label(
        lambda label: torch.where(label == 255, label, ((label.long() + 1) % CLASSES).to(label.dtype))
    )


def plant_mask_flipped() -> Any:
    """The mask is mirrored, its image is not."""
    return _changed_label(lambda label: label.flip(-1))


def plant_ignore_is_class_0() -> Any:
    """Pixels without a label (padding, undecided pixels of a seed) are learned as background."""
    return _changed_label(lambda label: label.masked_fill(label == 255, 0))


def plant_queues_never_filled() -> Any:
    """No negative key is ever stored."""
    import torch

    return replaced(("bench.ops.queues.Queues.push", lambda self, keys, meant: torch.zeros_like(self.length)))


def plant_entropy_sign() -> Any:
    """The surest pixels count as unreliable."""
    from bench.ops.entropy import pixel_entropy

    methods = ("u2pl", "u2pl_released", "u2pl_weak")
    return replaced(*((f"methods.{name}.pixel_entropy", lambda p: -pixel_entropy(p)) for name in methods))


def plant_teacher_in_gradient() -> Any:
    """The teacher is trained by the loss too: its weights are among those of the optimizer."""
    from bench.ops.teacher import Teacher

    init = Teacher.__init__

    def trained(self: Any, student: Any) -> None:
        init(self, student)
        self.module.requires_grad_(True)

    return replaced(
        ("bench.ops.teacher.Teacher.__init__", trained),
        ("bench.ops.teacher.Teacher.forward", lambda self, image: self.module(image)),
    )


def plant_tags_shuffled() -> Any:
    """The tag sets are dealt out anew among the images."""
    from datasets.tags import load_tags

    def dealt(dataset: Any, split: Any, shuffled_by: int | None = None) -> Any:
        return load_tags(dataset, split, 0)

    return replaced(("bench.plan.load_tags", dealt))


def plant_only_images_mixed() -> Any:
    """CutMix pastes the image alone: labels, confidence and padding stay those of the image below."""
    from bench.ops.mixing import mix

    def images_only(tensor: Any, box: Any) -> Any:
        return mix(tensor, box) if tensor.dim() == 4 and tensor.shape[1] == 3 else tensor

    methods = ("cutmix", "fixmatch", "u2pl", "u2pl_released", "u2pl_weak")
    return replaced(*((f"methods.{name}.mix", images_only) for name in methods))


# Subtle ones ------------------------------------------------------------------------------------------------


def plant_labels_moved() -> Any:
    """The labels lie 12 rows and 2 columns beside their pixels."""
    return _changed_label(lambda label: label.roll((12, 2), (-2, -1)))


def plant_classes_swapped() -> Any:
    """Classes 2 and 3 are learned as each other."""
    import torch

    def swapped(label: Any) -> Any:
        return torch.where(label == 2, 3, torch.where(label == 3, 2, label)).to(label.dtype)

    return _changed_label(swapped)


def plant_threshold_lower() -> Any:
    """Pixels train from a confidence of .90 on, where .95 is set."""
    from methods.fixmatch import FixMatch

    losses = FixMatch.losses

    def lower(self: Any, batch: Any, at: Any) -> Any:
        self.hp = self.hp.model_copy(update={"threshold": 0.9})
        return losses(self, batch, at)

    return replaced(("methods.fixmatch.FixMatch.losses", lower))


def plant_ema_late() -> Any:
    """The teacher's average counts one step too many."""
    from bench.ops.teacher import Teacher

    update = Teacher.update
    return replaced(
        (
            "bench.ops.teacher.Teacher.update",
            lambda self, student, decay, updates: update(self, student, decay, updates + 1),
        )
    )


def plant_class_not_sampled() -> Any:
    """Images that show class 4 are never drawn for a labeled batch."""
    from bench.settings.registry import load_dataset
    from datasets.splits import batch_sources

    shapes = load_dataset("shapes", None)

    def without(*given: Any) -> Any:
        sources = batch_sources(*given)
        masks = sources["pixel"]
        ids = tuple(id for id in masks.ids if not (shapes.mask(id) == 4).any())
        return {**sources, "pixel": replace(masks, ids=ids)}

    return replaced(("datasets.loaders.batch_sources", without))


TEACHERS = ("fixed_threshold", "mean_teacher", "cutmix", "fixmatch", "u2pl", "u2pl_released", "u2pl_plus")
CONTRASTIVE = ("u2pl", "u2pl_released", "u2pl_plus")


@dataclass(frozen=True)
class Case:
    """A fault, or a clean condition with nothing planted, and the methods of each split that it touches."""

    semi: tuple[str, ...]
    weak: tuple[str, ...]
    plant: Callable[[], Any] = nothing
    settings: tuple[str, ...] = ()  # beside those of the gate
    environment: dict[str, str] = field(default_factory=dict)


def _all(split: str) -> tuple[str, ...]:
    return tuple(method for of in grid()["sweeps"] if of["split"] == split for method in of["methods"])


FAULTS = {
    "no_ema": Case(TEACHERS, ("u2pl_weak",), plant_no_ema),
    "threshold_ignored": Case(("fixed_threshold", "fixmatch"), (), plant_threshold_ignored),
    "labels_shifted": Case(_all(SEMI), _all(WEAK), plant_labels_shifted),
    "mask_flipped": Case(_all(SEMI), _all(WEAK), plant_mask_flipped),
    "ignore_is_class_0": Case(_all(SEMI), _all(WEAK), plant_ignore_is_class_0),
    "queues_never_filled": Case(CONTRASTIVE, ("u2pl_weak",), plant_queues_never_filled),
    "entropy_sign": Case(CONTRASTIVE, ("u2pl_weak",), plant_entropy_sign),
    "teacher_in_gradient": Case(("mean_teacher", "cutmix"), (), plant_teacher_in_gradient),
    "tags_shuffled": Case((), _all(WEAK), plant_tags_shuffled),
    "only_images_mixed": Case(("cutmix", "fixmatch", *CONTRASTIVE), ("u2pl_weak",), plant_only_images_mixed),
}
SUBTLE = {
    "labels_moved": Case(_all(SEMI), _all(WEAK), plant_labels_moved),
    "classes_swapped": Case(_all(SEMI), _all(WEAK), plant_classes_swapped),
    "threshold_lower": Case(("fixmatch",), (), plant_threshold_lower),
    "ema_late": Case(TEACHERS, ("u2pl_weak",), plant_ema_late),
    "class_not_sampled": Case(_all(SEMI), (), plant_class_not_sampled),
}
_clean = partial(Case, _all(SEMI), _all(WEAK))
CLEAN = {
    "clean": _clean(),
    "two_threads": _clean(settings=("machine.threads=2",)),
    "three_threads": _clean(settings=("machine.threads=3",)),
    "loader_process": _clean(settings=("machine.workers=1",)),
    # Narrower vector instructions sum in another order, as an older CPU does.
    "avx2": _clean(environment={"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "no_vectors": _clean(environment={"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
}
CASES = {**FAULTS, **SUBTLE, **CLEAN}
