"""What two ranks go through, one run after the other, in two processes that meet once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import copytree
from typing import Any

import torch
from torch import Tensor

from bench import pipeline, ranks
from bench.contract import Batch, Progress
from bench.display import Quiet
from bench.errors import BenchError
from bench.plan import plan
from bench.records.schema import Result
from bench.settings.registry import describe_class, offering
from bench.settings.schema import RunConfig
from bench.testing import tiny
from bench.testing.joint_norm import joint_norm
from bench.training import session
from methods.fixmatch import FixMatch

WORLD, STEPS = 2, 6
BATCH = ("protocol.batch.labeled=4", "protocol.batch.unlabeled=4", f"protocol.steps={STEPS}")
SETTINGS: dict[str, tuple[str, ...]] = {
    "u2pl": ("method.warmup=1", "method.queue_size=60", "method.queue_size_first=60", "method.negatives=5"),
    "fixmatch": ("method.threshold=0.0",),
    "u2pl_weak": (
        "method.warmup=1",
        "method.queue_size=60",
        "method.queue_size_first=60",
        "method.negatives=5",
    ),
}


class Signalled(Quiet):
    """Sends a signal to its own process when a run has done so many steps, and counts them."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.at, self.done = at, 0

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        self.done = done
        if done == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def config(method: str, place: Path, out: str, *sets: str, data: str = "data", **flags: Any) -> RunConfig:
    given = (*BATCH, "machine.device=cpu", "protocol.evaluation.every=3", *SETTINGS.get(method, ()), *sets)
    split = "few+tags" if method == "u2pl_weak" else "few"
    return tiny.config(method, *given, root=place / data, out=place / out, split=split, **flags)


def outcome(run: Callable[[], Result]) -> dict[str, Any]:
    try:
        return {"miou": run().predictor.miou}
    except BenchError as error:
        return {"error": type(error).__name__, "said": str(error)}


def poisoned(place: Path, name: str, *ids: str, part: str = "labels") -> None:
    copytree(place / "data", place / name)
    for id in ids:
        (place / name / "tinyset" / part / f"{id}.png").write_bytes(b"no image at all")


class OnOneRank(FixMatch):
    """Its loss is not a number on rank 1."""

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        terms = super().losses(batch, at)
        return {**terms, "labeled": terms["labeled"] * (torch.nan if ranks.number() == 1 else 1)}


class Apart(FixMatch):
    """It counts images, each rank its own."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.seen = torch.nn.Buffer(torch.zeros(()))

    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        self.seen.add_(1 + ranks.number())
        return super().losses(batch, at)


def prepare() -> None:
    """Float64, and batch norm of the joint batch on the CPU."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    session.joint_norm = lambda module, device: joint_norm(module)  # type: ignore[assignment]


def alone(place: Path) -> None:
    for method in SETTINGS:
        pipeline.run(plan(config(method, place, "one")), Quiet())
    assert "error" in outcome(lambda: pipeline.run(plan(config("u2pl", place, "half")), Signalled(4)))


def go_through(place: Path) -> dict[str, Any]:
    """The outcome of each run, as this rank sees it."""
    number = ranks.number()
    found: dict[str, Any] = {}
    for method in SETTINGS:
        found[method] = outcome(lambda m=method: pipeline.run(plan(config(m, place, "two")), Quiet()))  # type: ignore[misc]
    found["again"] = outcome(lambda: pipeline.run(plan(config("u2pl", place, "two")), Quiet()))

    shown = Signalled(4 if number == 1 else None)
    found["stopped"] = outcome(lambda: pipeline.run(plan(config("u2pl", place, "stopped")), shown))
    found["stopped"]["steps"] = shown.done
    half = config("u2pl", place, "half")
    found["half"] = outcome(lambda: pipeline.run(plan(half), Quiet(), resume=True))

    def of(data: str, *sets: str, method: str = "fixmatch") -> dict[str, Any]:
        return outcome(lambda: pipeline.run(plan(config(method, place, data, *sets, data=data)), Quiet()))

    found["withheld"] = of("withheld")
    found["granted"] = of("granted")
    found["bad image"] = of("bad")
    found["bad scored"] = of("scored")
    other = "other" if number == 1 else "data"
    found["other data"] = outcome(
        lambda: pipeline.run(plan(config("fixmatch", place, "unlike", data=other)), Quiet())
    )
    found["other settings"] = outcome(
        lambda: pipeline.run(plan(config("fixmatch", place, "unlike", seed=number)), Quiet())
    )
    found["not shared"] = outcome(
        lambda: pipeline.run(plan(config("fixmatch", place, "odd", "protocol.batch.unlabeled=3")), Quiet())
    )
    for cls in (OnOneRank, Apart):
        with offering(describe_class(cls.__name__, cls)):
            name = cls.__name__
            found[name] = outcome(lambda n=name: pipeline.run(plan(config(n, place, n)), Quiet()))  # type: ignore[misc]
    return found


def work(number: int, folder: str, port: int) -> None:
    prepare()
    place = Path(folder)
    if number == 0:
        alone(place)
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(WORLD), "LOCAL_RANK": str(number)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(WORLD), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with ranks.met("cpu"):
        found = go_through(place)
    if number == 0:
        pipeline.run(plan(config("u2pl", place, "stopped")), Quiet(), resume=True)
    torch.save(found, place / f"{number}.pt")
