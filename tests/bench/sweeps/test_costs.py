"""What a grid would cost: sums by hand, what is counted of a step, and the commands that say it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commandline import Typed

from bench import cost
from bench.plan import plan
from bench.settings.schema import RunConfig
from bench.sweeps.costs import Cost, CostKind, makespan, seconds_of, sentences

Config = Callable[..., RunConfig]
MADE_UP = Cost(
    device="cpu",
    steps=100,
    warm_up_steps=40,
    warm_up_seconds=1.0,
    step_seconds=2.0,
    checkpoint_seconds=10.0,
    score_seconds=30.0,
    seed_seconds=0.0,
    box_seed_seconds=0.0,
    flops=3.6e15,
    batch=(4, 8),
    peak_mib=3072.0,
    grown_mib=3072.0,
    saved_mib=2048.0,
    state_mib=512.0,
    room_mib=6144.0,
)


def test_a_run_by_hand() -> None:
    assert MADE_UP.train_seconds == 40 + 120 + 10 and MADE_UP.seconds == 200
    assert MADE_UP.peak_at(2) == 6144 and MADE_UP.peak_at(0.5) == 1536
    assert MADE_UP.fitting == (8, 16), "3 GiB more are one batch more"
    assert replace(MADE_UP, room_mib=7680.0).fitting == (10, 20)
    assert replace(MADE_UP, room_mib=-1.0).fitting == (0, 0)
    assert MADE_UP.gpu_mib() == 2560 and MADE_UP.gpu_mib(4) == 1024
    assert MADE_UP.fitting_gpus(2.5) == (4, 8) and MADE_UP.fitting_gpus(2.5, 2) == (8, 16)
    assert MADE_UP.on(2).train_seconds == 90 and MADE_UP.on(2).score_seconds == 15


@pytest.mark.parametrize(("jobs", "seconds"), [(1, 12), (2, 8), (3, 7), (9, 6)])
def test_runs_so_many_at_a_time(jobs: int, seconds: float) -> None:
    assert makespan([4, 1, 1, 6], jobs) == seconds


def test_runs_of_a_seed_share_their_warm_up(tiny_config: Config) -> None:
    plans = [plan(tiny_config(name, seed=seed)) for seed in (0, 1) for name in ("u2pl", "u2pl_released")]
    kinds = [CostKind("a", [plans[0], plans[2]], MADE_UP), CostKind("b", [plans[1], plans[3]], MADE_UP)]
    assert seconds_of(kinds) == [200, 200, 160, 160]
    alone = [
        plan(tiny_config("u2pl", "machine.share_warmup=false")),
        plan(tiny_config("u2pl_released", "machine.share_warmup=false")),
    ]
    assert seconds_of([CostKind("a", alone, MADE_UP)]) == [200, 200]


def test_what_is_said(tiny_config: Config) -> None:
    kind = CostKind(
        "u2pl on shapes 1_8", [plan(tiny_config("u2pl", seed=seed)) for seed in range(3)], MADE_UP
    )
    here = sentences([kind], jobs=2)
    assert here[0] == "3 runs, 2 at a time on cpu: about 7 min"
    assert "each of 3 runs: 100 steps in 3 min, scoring in 30 s; 3.0 GiB of memory" in here[1]
    assert "4+8 fits into the 3.0 GiB that a run may have here; the largest that does is 4+8" in here[2]
    assert "on 2 GPUs, by 10.8 counted PFLOP: about 9 min for all steps, where each sustains 10" in here[3]
    assert "each GPU holds 2.5 GiB at least" in here[4] and "31+62 in 16 GiB" in here[4]
    cuda = sentences([replace(kind, cost=replace(MADE_UP, device="cuda"))], gpus=2)
    assert (
        cuda[0] == "3 runs, 1 at a time on cuda, each on 2 GPUs and at best: about 5 min" and len(cuda) == 3
    )


@pytest.mark.parametrize("method", ["supervised", "u2pl"])
def test_a_step_of_twice_the_images_counts_twice(method: str, tiny_config: Config) -> None:
    twice = "protocol.batch={labeled: 4, unlabeled: 4}"
    one, two = (cost.measure(plan(tiny_config(method, *sets))) for sets in ((), (twice,)))
    assert two.batch == (4, 4) and two.steps == one.steps == 6
    assert two.flops == pytest.approx(2 * one.flops, rel=0.02)
    # What the contrast keeps is of a fixed number of anchors, which is much where the network is tiny.
    assert (1.95 if method == "supervised" else 1.5) <= two.saved_mib / one.saved_mib <= 2.05
    assert two.state_mib == pytest.approx(one.state_mib, rel=1e-3)
    assert one.warm_up_steps == (0 if method == "supervised" else 2)
    assert min(one.step_seconds, one.score_seconds, one.checkpoint_seconds) > 0


def test_runs_from_tags_are_measured_before_their_seeds_are_made(tiny_config: Config, tmp_path: Path) -> None:
    found = cost.measure(plan(tiny_config("u2pl_weak", split="tags")))
    assert found.seed_seconds > 0 and found.flops > 0
    assert not (tmp_path / "runs").exists(), "nothing is kept"


@pytest.fixture
def here(tiny_config: Config, tmp_path: Path, typed: Typed) -> Callable[..., Any]:
    """here("run", "--dry-run"): the command in this process; its exit code and what it says."""
    path = tmp_path / "settings.yaml"
    path.write_text(tiny_config("supervised").to_yaml())
    return lambda *words: typed(*words, "--config", path)


@pytest.mark.slow
def test_the_commands_say_it(here: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, err = here("run", "--dry-run", "--cost")
    assert code == 0 and "# 1 run, 1 at a time on cpu: about" in out, err
    code, out, err = here("sweep", "--seed", "0-2", "--dry-run", "--cost", "--json")
    document = json.loads(out)
    (kind,) = document["cost"]["runs"]
    assert kind["runs"] == 3 and kind["label"] == "supervised on tinyset few" and kind["batch"] == [2, 2]
    assert document["cost"]["seconds"] == pytest.approx(3 * kind["seconds"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--cost"], "give it with --dry-run"),
        (["sweep", "--cost"], "give it with --dry-run"),
    ],
)
def test_slips(arguments: list[str], said: str, here: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = here(*arguments)
    assert code == 2 and said in err
