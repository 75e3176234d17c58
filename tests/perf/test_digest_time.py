"""What the digests of a run's data cost beside its steps, on generated files, as a ratio in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.contents.gather import of_run
from bench.cost import measure
from bench.plan import plan
from bench.settings.schema import RunConfig

pytestmark = pytest.mark.perf

STEPS = 2000
MOST = 0.01  # of the time of the steps


def test_the_digests_of_a_run_take_a_hundredth_of_its_steps(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(tiny_config("supervised", f"protocol.steps={STEPS}"))
    of_run(planned)  # of the source too, which this process reads once
    seconds = []
    for look in range(5):
        monkeypatch.setenv("FRUGALSEG_CACHE", str(tmp_path / f"cache {look}"))  # no file is known
        started = time.perf_counter()
        of_run(planned)
        seconds.append(time.perf_counter() - started)
    steps = STEPS * measure(planned).step_seconds
    assert min(seconds) <= MOST * steps, f"digests in {min(seconds):.3f} s, steps in {steps:.1f} s"
    print(f"digests in {min(seconds):.4f} s, steps in {steps:.1f} s: {min(seconds) / steps:.2%}")
