"""The tables of the gate's runs and of the planted faults hold together; the runs themselves take hours."""

from __future__ import annotations

import inspect
from pathlib import Path

import faults
import gate
import pytest

from bench import cli
from bench.ops.queues import Queues
from bench.plan import plan
from bench.settings import registry
from bench.settings.resolve import resolve
from datasets.loaders import StepBatches


def test_the_gate_runs_every_method_with_settings_that_hold() -> None:
    asked = {method for of in gate.grid()["sweeps"] for method in of["methods"]}
    assert asked | {"classifier"} == set(registry.method_names()), "classifier: by its runs for CAM seeds"
    for name in faults.CASES:
        for job in (job for job in faults.jobs_of(name) if job.seed == gate.grid()["seeds"][0]):
            words = job.arguments(Path("out"))
            sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
            flags = {"method": {"name": job.method}, "split": job.split, "seed": job.seed}
            config = plan(resolve(flags, None, sets)).config
            assert config.machine.threads == {"two_threads": 2, "three_threads": 3}.get(name, 1)


@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_fault_replaces_what_is_there_and_puts_it_back(name: str) -> None:
    """A name that the code no longer has would plant nothing: patch refuses it."""
    places = [Queues.push, StepBatches._label, inspect.getattr_static(cli, "main")]
    with faults.CASES[name].plant():
        pass
    assert places == [Queues.push, StepBatches._label, inspect.getattr_static(cli, "main")]
    assert len(faults.FAULTS) == 10
