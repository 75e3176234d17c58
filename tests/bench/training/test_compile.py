"""`--compile` reaches what trains: not `forward` alone, but every way into the networks of a method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.contract import Net, Progress
from bench.machine import Stop
from bench.plan import plan
from bench.settings.schema import RunConfig
from bench.testing.runs import Quiet
from bench.training import session
from bench.training.trainer import Trainer

Config = Callable[..., RunConfig]
WAYS = {
    "u2pl": {"represent", "project"},
    "supervised": {"_call_impl"},
    "mean_teacher": {"_call_impl"},
    "cps": {"_call_impl"},  # two networks
}


def trainer(config: RunConfig) -> Trainer:
    planned = plan(config)
    return Trainer(planned, session.parts_of(planned), Quiet(), Stop())


def steps(found: Trainer, count: int) -> list[float]:
    totals = []
    for step in range(count):
        at = Progress(step, found.protocol.steps, found.config.seed, found.device)
        totals.append(float(found.train_step(found.batches[step], at)[0]))
    return totals


@pytest.mark.parametrize("method", WAYS)
def test_a_step_of_training_goes_through_what_is_compiled(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    called: Counter[str] = Counter()

    def compiled(function: Callable[..., Any], *args: Any, **options: Any) -> Callable[..., Any]:
        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            called[function.__name__] += 1
            return function(*args, **kwargs)

        return counted

    monkeypatch.setattr(torch, "compile", compiled)
    sets = ["method.warmup=0"] if method == "u2pl" else []
    found = trainer(tiny_config(method, "machine.compile=true", *sets))
    called.clear()
    found.method.train()
    steps(found, 1)
    assert set(called) >= WAYS[method]
    nets = [module for module in found.method.modules() if isinstance(module, Net)]
    assert all("represent" in vars(net) for net in nets)  # the teacher's and a second one's too
    assert len(nets) == (1 if method == "supervised" else 2)


@pytest.mark.slow
def test_a_compiled_run_trains_as_another_does(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond rounding nothing changes; without a compiler torch says so itself, see `doctor`."""
    monkeypatch.setenv(
        "TORCHINDUCTOR_CACHE_DIR", str(tmp_path)
    )  # a killed process leaves torn files in its own
    config = tiny_config("u2pl", "method.warmup=0", "machine.device=cpu")
    other = config.model_copy(update={"machine": config.machine.model_copy(update={"compile": True})})
    plain, compiled = trainer(config), trainer(other)
    assert steps(compiled, 2) == pytest.approx(steps(plain, 2), rel=1e-3)
    assert replace(plan(other), config=config).run_id == plan(config).run_id
