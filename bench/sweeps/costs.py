"""The cost of a grid: hours, memory, the largest batch that fits. Each kind of run is measured in a process
of its own, by some of its steps (bench/cost.py)."""

from __future__ import annotations

import heapq
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from tempfile import TemporaryFile
from typing import Any

from bench.errors import BenchError, ConfigError
from bench.outlook import duration
from bench.plan import Plan
from bench.sweeps.grid import counted
from bench.sweeps.launch import last_words, with_threads

MIB = 2**20
SUSTAINED = 10  # TFLOP/s: the unit in which GPUs that are not here are counted
SIZES = (16, 24, 80)  # GiB of GPUs


@dataclass(frozen=True)
class Cost:
    """The cost of one run, estimated from some of its steps."""

    device: str
    steps: int
    warm_up_steps: int
    warm_up_seconds: float  # of a step
    step_seconds: float  # of a step behind the warm-up
    checkpoint_seconds: float  # of all checkpoints
    score_seconds: float  # of all scorings
    seed_seconds: float  # of CAM seeds, without their classifier's run
    box_seed_seconds: float  # of the seeds of boxes that are not made yet
    flops: float  # of all steps, counted: those of convolutions and matrix products
    batch: tuple[int, int]  # labeled and unlabeled images
    peak_mib: float  # measured here
    grown_mib: float  # measured: by how much more with twice the images
    saved_mib: float  # counted: what a step keeps for its backward pass, which grows with the batch
    state_mib: float  # counted: weights, gradients, the optimizer's state, teachers and queues
    room_mib: float  # that a run may use here

    @property
    def warm_up(self) -> float:
        """Seconds of the warm-up."""
        return self.warm_up_steps * self.warm_up_seconds

    @property
    def train_seconds(self) -> float:
        later = (self.steps - self.warm_up_steps) * self.step_seconds
        return self.warm_up + later + self.checkpoint_seconds

    @property
    def seconds(self) -> float:
        return self.train_seconds + self.score_seconds

    def peak_at(self, factor: float) -> float:
        """Estimate the peak of the memory here, in MiB, with a batch of `factor` times its images."""
        return self.peak_mib + (factor - 1) * self.grown_mib

    @property
    def fitting(self) -> tuple[int, int]:
        """The largest batch of these proportions that fits in here: labeled and unlabeled images."""
        return self._batch(1 + (self.room_mib - self.peak_mib) / self.grown_mib)

    def fitting_gpus(self, gib: float, gpus: int = 1) -> tuple[int, int]:
        """Estimate the largest batch that this number of GPUs, each of `gib` GiB, could have room for.

        Gives labeled and unlabeled images: at most, since a step needs more than it keeps.
        """
        return self._batch(gpus * (1024 * gib - self.state_mib) / self.saved_mib)

    def gpu_mib(self, gpus: int = 1) -> float:
        """Estimate the memory, in MiB, that each of N GPUs which share the batch needs at least."""
        return self.state_mib + self.saved_mib / gpus

    def _batch(self, factor: float) -> tuple[int, int]:
        labeled, unlabeled = self.batch
        return int(labeled * max(factor, 0.0)), int(unlabeled * max(factor, 0.0))

    def on(self, gpus: int) -> Cost:
        """Return this cost with its times where N GPUs share the batch and the scored images, at best."""
        spread = ("warm_up_seconds", "step_seconds", "score_seconds", "seed_seconds")
        return replace(self, **{name: getattr(self, name) / gpus for name in spread})


@dataclass(frozen=True)
class CostKind:
    """Runs of a grid that differ in seed or draw alone."""

    label: str
    plans: list[Plan]
    cost: Cost


def kinds_of(labelled: Iterable[tuple[str, Plan]], jobs: int = 1) -> Iterator[CostKind]:
    """Measure the runs of a grid, and those that come first: the classifiers of CAM seeds, and labelers.

    Args:
        labelled: Runs that are not done, with what their kind is called.
        jobs: Runs at a time, that share the cores.

    Raises BenchError where a run cannot be measured.
    """
    groups: dict[str, tuple[str, dict[str, Plan]]] = {}
    for label, plan in [*labelled]:
        for name, one in [(label, plan), *_first(label, plan)]:
            alike = one.config.model_copy(update={"seed": 0, "draw": 0}).to_yaml()
            groups.setdefault(alike, (name, {}))[1][str(one.folder.path)] = one
    for label, plans in groups.values():
        yield CostKind(label, [*plans.values()], measured(next(iter(plans.values())), jobs))


def _first(label: str, plan: Plan) -> Iterator[tuple[str, Plan]]:
    seeds = plan.seeds
    if seeds and not seeds.folder.report.exists() and not seeds.classifier.folder.result.exists():
        yield "tag classifier", seeds.classifier
    if plan.labeler and not plan.labeler.folder.result.exists():
        yield f"labels for {label}", plan.labeler


def measured(plan: Plan, jobs: int = 1) -> Cost:
    """Measure a run in a process of its own, whose memory is that of a run.

    Raises BenchError with what the process said where it fails.
    """
    with TemporaryFile() as settings:
        settings.write(with_threads(plan.config, jobs).to_yaml().encode())
        settings.seek(0)
        command = [sys.executable, "-m", "bench.cost"]
        ended = subprocess.run(command, stdin=settings, capture_output=True, text=True, check=False)
    if ended.returncode:
        why = last_words(ended.stderr).removeprefix("error: ")
        kind = ConfigError if ended.returncode == ConfigError.exit_code else BenchError
        raise kind(f"{plan.method.name}: {why or f'its process ended with {ended.returncode}'}")
    found = json.loads(ended.stdout)
    return Cost(**{**found, "batch": tuple(found["batch"])})


def seconds_of(kinds: Iterable[CostKind]) -> list[float]:
    """Estimate the seconds of each run.

    The first of the runs that share a warm-up trains it, and seeds are made for the first. Runs that share a
    warm-up have one seed, draw, split, data set and protocol.
    """
    shared: set[tuple[object, ...]] = set()
    found = []
    for kind in kinds:
        for plan in kind.plans:
            config, seconds = plan.config, kind.cost.seconds
            place = (config.dataset, config.split, config.seed, config.draw)
            if kind.cost.warm_up_steps and config.machine.share_warmup:
                warm_up = ("warm-up", *place, config.protocol.hash, kind.cost.warm_up_steps)
                seconds -= kind.cost.warm_up if warm_up in shared else 0
                shared.add(warm_up)
            if plan.seeds and not plan.seeds.folder.report.exists():
                seeds = ("seeds", plan.seeds.folder.report)
                seconds += 0 if seeds in shared else kind.cost.seed_seconds
                shared.add(seeds)
            if kind.cost.box_seed_seconds and plan.box_seeds:
                boxes = ("boxes", plan.box_seeds.folder.path, plan.split.boxes)
                seconds += 0 if boxes in shared else kind.cost.box_seed_seconds
                shared.add(boxes)
            found.append(seconds)
    return found


def makespan(seconds: Iterable[float], jobs: int) -> float:
    """Estimate how long runs take, N at a time, in their order: makespan([3, 1, 1], 2) = 3."""
    ends = [0.0] * jobs
    for one in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + one)
    return max(ends)


def sentences(kinds: Sequence[CostKind], jobs: int = 1, gpus: int = 1) -> list[str]:
    """Say what a grid costs, in words.

    Args:
        gpus: That share each run.
    """
    here = kinds[0].cost.device
    shared = here.startswith("cuda") and gpus > 1
    seconds = seconds_of([replace(kind, cost=kind.cost.on(gpus)) for kind in kinds] if shared else kinds)
    where = f"{here}, each on {gpus} GPUs and at best" if shared else here
    said = [
        f"{counted(len(seconds))}, {jobs} at a time on {where}: about {duration(makespan(seconds, jobs))}"
    ]
    for kind in kinds:
        said += _of_kind(kind, jobs)
    if not here.startswith("cuda"):
        said += _on_gpus(kinds, jobs * gpus, gpus)
    return said


def _of_kind(kind: CostKind, jobs: int) -> list[str]:
    cost = kind.cost
    steps = f"{cost.steps} steps in {duration(cost.train_seconds)}, scoring in {duration(cost.score_seconds)}"
    seeds = f", CAM seeds in {duration(cost.seed_seconds)}" if cost.seed_seconds else ""
    seeds += f", seeds of boxes in {duration(cost.box_seed_seconds)}" if cost.box_seed_seconds else ""
    room = replace(cost, room_mib=cost.room_mib / jobs)
    fits = "fits" if cost.peak_mib <= room.room_mib else "does not fit"
    return [
        f"{kind.label}, each of {counted(len(kind.plans))}: {steps}{seeds}; {_gib(cost.peak_mib)} of memory",
        f"  its batch of {_images(cost.batch)} {fits} into the {_gib(room.room_mib)} that a run may have "
        f"here; the largest that does is {_images(room.fitting)}",
    ]


def _on_gpus(kinds: Sequence[CostKind], gpus: int, each: int) -> list[str]:
    flops = sum(kind.cost.flops * len(kind.plans) for kind in kinds)
    hours = duration(flops / (gpus * SUSTAINED * 1e12))
    said = [
        f"on {gpus} GPU{'s' if gpus > 1 else ''}, by {flops / 1e15:.3g} counted PFLOP: about {hours} for all "
        f"steps, where each sustains {SUSTAINED} TFLOP/s"
    ]
    for kind in kinds:
        fits = ", ".join(f"{_images(kind.cost.fitting_gpus(size, each))} in {size} GiB" for size in SIZES)
        holds = _gib(kind.cost.gpu_mib(each))
        said.append(f"  {kind.label}: each GPU holds {holds} at least; largest batch, at most: {fits}")
    return said


def _images(batch: tuple[int, int]) -> str:
    return "+".join(map(str, batch))


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"


def document(kinds: Sequence[CostKind], jobs: int = 1, gpus: int = 1) -> dict[str, Any]:
    """For `--json`."""
    seconds = seconds_of(kinds)
    return {
        "seconds": makespan(seconds, jobs),
        "flops": sum(kind.cost.flops * len(kind.plans) for kind in kinds),
        "said": sentences(kinds, jobs, gpus),
        "runs": [
            {
                "label": kind.label,
                "runs": len(kind.plans),
                "seconds": kind.cost.seconds,
                "train_seconds": kind.cost.train_seconds,
                "fitting": kind.cost.fitting,
                **asdict(kind.cost),
            }
            for kind in kinds
        ],
    }
