"""What all trials need: tiny runs, what they leave, and the table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bench import pipeline
from bench.display import Display
from bench.errors import BenchError
from bench.plan import plan
from bench.records.folders import RunFolder
from bench.settings.schema import RunConfig
from bench.testing import tiny

# Of a result, which no two runs share: what it took, and whose warm-up and seeds it took.
TIMES = {"train_seconds", "eval_seconds", "peak_memory_mib", "shared_seconds", "seed_cost", "rounds"}


@dataclass(frozen=True)
class Trial:
    fault: str  # its kind: a row of the table
    what: str  # this one
    survived: bool
    said: str = ""


def table(trials: Iterable[Trial]) -> str:
    """The rows `fault, tried, survived`, and each trial that was not survived below."""
    rows: dict[str, list[Trial]] = {}
    for trial in trials:
        rows.setdefault(trial.fault, []).append(trial)
    lines = ["| fault | tried | survived |", "|---|---|---|"]
    for fault, tried in rows.items():
        lines.append(f"| {fault} | {len(tried)} | {sum(trial.survived for trial in tried)} |")
    for tried in rows.values():
        lines += [f"lost: {t.fault}: {t.what}: {t.said}" for t in tried if not t.survived]
    return "\n".join(lines)


class Killed(BaseException):
    """Stands for the end of the process."""


class Quiet(Display):
    def say(self, text: str) -> None: ...

    def start(self, name: str, total: int, done: int = 0) -> None: ...

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None: ...


def config(out: Path, method: str, *sets: str, split: str = "few") -> RunConfig:
    return tiny.config(method, *sets, root=tiny.shared_root(), out=out, split=split)


def run(config: RunConfig) -> None:
    """Start or go on."""
    torch.set_num_threads(1)
    pipeline.run(plan(config), Quiet(), resume=True)


def folder_of(config: RunConfig) -> RunFolder:
    return plan(config).folder


@contextmanager
def swapped(owner: Any, name: str, new: Any) -> Iterator[None]:
    """`owner.name` is `new` inside the block."""
    old = getattr(owner, name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


def left(config: RunConfig) -> dict[str, Any]:
    """All of a finished run that must be the same bits: log, weights, counts, result."""
    folder = folder_of(config)
    result = json.loads(folder.result.read_bytes())
    del result["config"]["machine"]  # how often it saves changes no bit
    del result["files"], result["digest"]  # of times, and of settings of the machine, too
    return {
        "metrics": folder.metrics.read_bytes(),
        "weights": folder.weights.read_bytes(),
        "counts": folder.counts.read_bytes(),
        "result": {key: value for key, value in result.items() if key not in TIMES},
    }


@cache
def straight(out: Path, method: str, *sets: str, split: str = "few") -> dict[str, Any]:
    """What a run leaves that nothing happens to. `out` is used for nothing else."""
    wanted = config(out / "straight" / " ".join(sets), method, *sets, split=split)
    run(wanted)
    return left(wanted)


def same(config: RunConfig, wanted: Mapping[str, Any]) -> str:
    """ "" where a run has left the same bits, else what differs."""
    found = left(config)
    # The folder of all runs stands in no record, so equal runs in two folders are equal here.
    return ", ".join(f"other {name}" for name, value in wanted.items() if found[name] != value)


def outcome(config: RunConfig, wanted: Mapping[str, Any], *words: str) -> tuple[bool, str]:
    """Go on with a run that was tampered with: the same bits, or a sentence that holds one of `words`."""
    try:
        run(config)
    except BenchError as error:
        said = str(error)
        return any(word in said for word in words) and "\nTraceback" not in said, said
    except Exception as error:  # what no person should meet
        return False, f"{type(error).__name__}: {error}"
    said = same(config, wanted)
    return not said, said or "the same bits"
