"""The check that two ranks are one: losses and state of a few steps, in processes of their own, in float64.

In float32 a pixel at a threshold may fall on either side, and the optimizer carries that on.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from bench.contract import Method
from bench.ops.processes import rank, total, world_size
from bench.settings.registry import describe_class, describe_method, method_names
from bench.settings.schema import BatchSizes
from bench.testing.case import Case
from bench.testing.joint_norm import joint_norm
from bench.training.ranks import joined

WORLD, RANKED_STEPS = 2, 3
BATCH = BatchSizes(labeled=4, unlabeled=4)
LOSSES, WEIGHTS = 1e-12, 1e-10  # relative differences that are rounding
Named = tuple[str, type[Method]]  # a method's name and class
together: tuple[str, ...] = ()  # names of methods that are compared in one go, since processes take seconds


@dataclass(frozen=True)
class Found:
    """The losses and the state that a few steps gave."""

    terms: list[dict[str, float]]  # of each step, of the joint batch
    state: dict[str, Tensor]


@dataclass(frozen=True)
class Compared:
    one: Found
    ranks: list[Found]


def two_ranks_are_one(case: Case) -> None:
    """With the harness's gradients, see `bench.training.ranks`."""
    asked = (case.info.name, case.info.cls)
    group = tuple((name, describe_method(name).cls) for name in together)
    found = compared(group if asked in group else (asked,), case.views)
    if said := difference(found[asked]):
        raise AssertionError(said)


def difference(found: Compared) -> str:
    """Say what two ranks do otherwise than one, in words; "" where they are alike."""
    one, (first, second) = found.one, found.ranks
    for name, value in first.state.items():
        if not torch.equal(value, second.state[name]):
            return f"two ranks keep another {name} each; see bench.ops.processes for sums over ranks"
    for step, (alone, joint) in enumerate(zip(one.terms, first.terms, strict=True)):
        for name, expected in alone.items():
            if not math.isclose(joint[name], expected, rel_tol=LOSSES, abs_tol=LOSSES):
                return (
                    f"the term {name!r} of step {step} is {expected:.17g} on one rank and {joint[name]:.17g} "
                    "on two; see bench.ops.processes for means and draws over ranks"
                )
    for name, value in one.state.items():
        exact = value.dtype != torch.float64  # counts, and keys of queues, which are stored in half precision
        bound = 0 if exact else WEIGHTS * float(value.abs().max().clamp(min=1e-3))
        apart = float((value.double() - first.state[name].double()).abs().max()) if value.numel() else 0.0
        if not apart <= bound:
            return f"{name} is {apart:.1e} apart on one rank and on two after {RANKED_STEPS} steps"
    return ""


@cache
def compared(methods: tuple[Named, ...], views: Any) -> dict[Named, Compared]:
    """Train each method, with the protocol's views, on one rank and on two."""
    with tempfile.TemporaryDirectory(prefix="frugalseg-") as folder:
        mp.spawn(_work, (folder, methods, views), nprocs=WORLD)
        parts = [torch.load(Path(folder) / f"{number}.pt", weights_only=True) for number in range(WORLD)]
    return {
        method: Compared(Found(*parts[0]["alone"][i]), [Found(*part["ranks"][i]) for part in parts])
        for i, method in enumerate(methods)
    }


def _case(method: Named, views: Any) -> Case:
    """By name and class: the knobs of a preset are a class that no other process finds."""
    name, cls = method
    return Case(describe_method(name) if name in method_names() else describe_class(name, cls), views)


def _work(number: int, folder: str, methods: Sequence[Named], views: Any) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    alone = [_trained(_case(method, views)) for method in methods] if number == 0 else []
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=WORLD)
    ranks = [_trained(_case(method, views)) for method in methods]
    torch.save({"alone": alone, "ranks": ranks}, Path(folder) / f"{number}.pt")
    dist.destroy_process_group()


def _trained(case: Case) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Train a method for a few steps. Return the terms and the state that `Found` holds."""
    method = case.method()
    if world_size() > 1:
        joint_norm(method)
    batches = case.batches(batch=BATCH, rank=rank(), ranks=world_size())
    terms = case.train(method, range(RANKED_STEPS), batches=batches, of=joined(method, method.losses))
    mean = [{name: float(total(term)) / world_size() for name, term in step.items()} for step in terms]
    return mean, {name: value.clone() for name, value in method.state_dict().items()}


CHECKS = [two_ranks_are_one]
