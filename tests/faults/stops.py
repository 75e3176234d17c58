"""Stops and kills of runs at random moments: they go on to the same bits, log included."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.errors import Interrupted
from bench.training.trainer import Trainer

from .trials import Killed, Trial, config, folder_of, run, same, straight, swapped

CHECKOUT = Path(__file__).resolve().parents[2]
STEPS = 14
CALLS = ("replace", "fsync")  # of os: the moments within a write


def methods() -> list[tuple[str, str]]:
    """All methods, each with a split that grants what it needs; those that learn from tags come first."""
    from bench.settings.registry import describe_method, method_names

    found = [(name, "tags" if "tags" in describe_method(name).needs else "few") for name in method_names()]
    return sorted(found, key=lambda of: of[1] != "tags")


def in_process(work: Path, draws: random.Random, tried: int) -> Iterator[Trial]:
    """One to three stops a run, each after a random step, or for a kill within a random write."""
    names = methods()
    for number in range(tried):
        method, split = names[number % len(names)]
        sets = (
            f"protocol.steps={STEPS}",
            f"protocol.evaluation.every={draws.choice([0, 5])}",
            f"machine.log_every={draws.choice([3, 4])}",
        )
        saves = f"machine.checkpoint_every={draws.choice([2, 5])}"
        given = config(work / str(number), method, *sets, saves, split=split)
        wanted = straight(work, method, *sets, split=split)
        kind, moments = draws.choice(["SIGTERM", "kill"]), []
        for _ in range(draws.randint(1, 3)):
            inside = kind == "kill" and draws.random() < 0.5
            moment = (
                (draws.choice(CALLS), draws.randint(1, 40)) if inside else ("step", draws.randrange(STEPS))
            )
            moments.append(f"{moment[0]} {moment[1]}")
            with ExitStack() as stack:
                stack.enter_context(stopped(kind, *moment))
                try:
                    run(given)
                except (Interrupted, Killed):
                    continue
        try:
            run(given)
            said = same(given, wanted)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        row = f"{kind} at a random moment"
        yield Trial(row, f"{method} {' '.join(sets)}: {', '.join(moments)}", not said, said)


def stopped(kind: str, where: str, when: int) -> Any:
    """Stops the run before step `when`, or at that call of os.replace or os.fsync, once."""
    seen = 0

    def strike() -> None:
        if kind == "kill":
            raise Killed
        signal.raise_signal(signal.SIGTERM)

    real: Callable[..., Any] = Trainer.train_step if where == "step" else getattr(os, where)

    def call(*given: Any) -> Any:
        nonlocal seen
        seen += 1
        if (given[2].step if where == "step" else seen) == when:
            strike()
        return real(*given)

    return swapped(Trainer, "train_step", call) if where == "step" else swapped(os, where, call)


def processes(work: Path, draws: random.Random, tried: int) -> Iterator[Trial]:
    """Real signals to real processes, loaders and all."""
    sets = ("protocol.steps=40", "machine.log_every=7", "machine.checkpoint_every=3", "machine.workers=1")
    for number in range(tried):
        method = ("u2pl", "fixmatch")[number % 4 == 2]
        given = config(work / f"process {number}", method, *sets)
        wanted, sign = straight(work, method, *sets), (signal.SIGKILL, signal.SIGTERM)[number // 2 % 2]
        group = draws.random() < 0.5
        process = start(given, work / f"{number}.yaml")
        seconds = draws.uniform(0, 1)
        wait_for_a_line(given, process)
        time.sleep(seconds)
        (os.killpg if group else os.kill)(process.pid, sign)
        _, said = process.communicate(timeout=120)
        # A loader may still print one of a closed pipe, in the moment between its parent's kill and its own.
        lost = f"a traceback: {said}" if sign == signal.SIGTERM and "Traceback" in said else ""
        if not lost:
            time.sleep(0.2)  # a killed run's loaders are gone, and the folder is free
            run(given)
            lost = same(given, wanted)
        row = f"{sign.name} to a process"
        yield Trial(row, f"{method} after {seconds:.2f} s, group {group}", not lost, lost)


def start(given: Any, file: Path) -> subprocess.Popen[str]:
    file.write_text(given.to_yaml())
    return subprocess.Popen(
        [sys.executable, "-m", "bench", "run", "--config", str(file)],
        cwd=CHECKOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_a_line(given: Any, process: subprocess.Popen[str]) -> None:
    metrics = folder_of(given).metrics
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
