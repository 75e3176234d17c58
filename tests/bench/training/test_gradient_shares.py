"""How much each term has to say: by hand, at which steps, and that measuring changes no bit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bench import pipeline
from bench.contract import Progress
from bench.display import Display
from bench.machine import Stop
from bench.plan import plan
from bench.records.logs import read_metrics
from bench.records.schema import Result
from bench.settings.schema import RunConfig
from bench.training import session
from bench.training.gradient_shares import POINTS, STEPS_PER_POINT, gradient_shares, measured_steps
from bench.training.metrics_log import mean_shares
from bench.training.trainer import Trainer

Config = Callable[..., RunConfig]


def test_norms_over_their_sum_by_hand() -> None:
    """Gradients (3, 4) and (0, 0, 5) of norm 5 each, and one of 10 by the other parameter: 1/4, 1/4, 1/2."""
    one, other, frozen = (nn.Parameter(torch.ones(n)) for n in (2, 3, 2))
    frozen.requires_grad_(False)
    terms = {
        "a": (one * torch.tensor([3.0, 4.0])).sum() + (frozen * one.detach()).sum(),
        "b": (other * torch.tensor([0.0, 0.0, 5.0])).sum(),
        "c": 6 * one[0] + 8 * other[1],
        "away": nn.Parameter(torch.ones(())) * 2,
    }
    shares = gradient_shares(terms, [one, other, frozen])
    assert {name: share.item() for name, share in shares.items()} == {
        "a": 0.25,
        "b": 0.25,
        "c": 0.5,
        "away": 0,
    }
    assert one.grad is None and other.grad is None
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert one.grad.tolist() == [9, 4]


def test_without_a_gradient_there_is_no_share() -> None:
    one = nn.Parameter(torch.ones(2))
    shares = gradient_shares({"a": 0 * one.sum(), "b": 0 * one.sum()}, [one])
    assert all(share.isnan() for share in shares.values())


def test_the_steps_are_spread_behind_the_warm_up() -> None:
    assert measured_steps(100, 900) == {200, 400, 600, 800}
    assert measured_steps(0, 3) == {1} and measured_steps(2, 3) == {2} and measured_steps(3, 3) == set()
    assert len(measured_steps(320, 80_000)) == POINTS


@given(st.integers(0, 5000), st.integers(1, 5000))
def test_any_run_has_few_steps_within_it(warmup: int, after: int) -> None:
    steps = measured_steps(warmup, warmup + after)
    assert 1 <= len(steps) <= max(1, min(POINTS, after // STEPS_PER_POINT))
    assert all(warmup <= step < warmup + after for step in steps)


def trainer_of(tiny_config: Config, method: str, *sets: str) -> Trainer:
    return session.trainer_of(plan(tiny_config(method, *sets)), Display(), Stop())


@pytest.mark.parametrize(
    "method", ["u2pl", "u2pl_released", "fixmatch", "cutmix", "mean_teacher", "fixed_threshold"]
)
def test_measuring_changes_no_bit(tiny_config: Config, method: str) -> None:
    warmup = ["method.warmup=1"] if method.startswith("u2pl") else []

    def trained(measured: bool) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
        made = trainer_of(tiny_config, method, "protocol.steps=6", *warmup)
        made.measured = frozenset(range(6)) if measured else frozenset()
        notes = []
        for step in range(6):
            made.train_step(made.batches[step], Progress(step, 6, seed=0))
            notes.append({name: note.item() for name, note in made.method.notes.items() if not note.dim()})
        return made.method.state_dict(), notes

    (plain, none), (state, notes) = trained(False), trained(True)
    assert all(torch.equal(plain[key], state[key]) for key in plain)
    shares = [{n: v for n, v in of.items() if n.startswith("gradient_share/")} for of in notes]
    assert all(math.isclose(sum(of.values()), 1, abs_tol=1e-5) for of in shares[1:])
    assert bool(shares[0]) != method.startswith("u2pl"), "a step of one term has nothing to share"
    for of, without in zip(notes, none, strict=True):
        kept = {n: v for n, v in of.items() if not n.startswith("gradient_share/")}
        assert str(kept) == str(without)  # NaN equals NaN


def test_the_share_is_that_of_encoder_and_decoder(tiny_config: Config) -> None:
    """Against backward passes of each term, on the network itself."""
    made = trainer_of(tiny_config, "fixmatch", "protocol.steps=2", "method.threshold=0.0")
    made.measured = frozenset({0})
    names = ("encoder", "decoder")
    batch, at = made.batches[0].on("cpu"), Progress(0, 2, seed=0)
    norms = {}
    for name in ("labeled", "unlabeled"):
        made.method.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        made.method.losses(batch, at)[name].backward()
        found = [
            p.grad
            for k, p in made.method.net.named_parameters()
            if k.startswith(names) and p.grad is not None
        ]
        norms[name] = math.sqrt(sum(float(g.square().sum()) for g in found))
    made.train_step(batch, at)
    for name, norm in norms.items():
        share = made.method.notes[f"gradient_share/{name}"].item()
        assert share == pytest.approx(norm / sum(norms.values()), rel=1e-3)


@pytest.mark.slow
def test_a_compiled_network_is_not_measured(tiny_config: Config) -> None:
    sets = ("machine.compile=true", "protocol.steps=4", "method.warmup=0")
    assert trainer_of(tiny_config, "u2pl", *sets).measured == frozenset()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_they_are_in_the_log_and_in_the_result(tiny_config: Config, precision: str) -> None:
    sets = ("protocol.steps=6", "method.warmup=2", "machine.log_every=2", f"protocol.precision={precision}")
    config = tiny_config("u2pl", *sets)
    result = pipeline.run(plan(config), Display())
    lines = read_metrics(plan(config).folder.metrics)
    measured = [line["step"] for line in lines if "gradient_share/contrast" in line]
    assert measured == [6], "step 4, counted from 0, is in the last line"
    assert result.health is not None
    wanted = {f"gradient_share/{name}" for name in ("labeled", "unlabeled", "contrast")}
    assert result.health.keys() == wanted | {"share_labeled", "share_unlabeled"}
    assert sum(result.health[name] for name in wanted) == pytest.approx(1, abs=1e-5)
    behind = [line["share_unlabeled"] for line in lines[1:]]
    assert result.health["share_unlabeled"] == pytest.approx(sum(behind) / len(behind))
    assert json.loads(plan(config).folder.result.read_text())["health"] == result.health


def test_methods_of_one_term_have_none(tiny_config: Config) -> None:
    config = tiny_config("supervised", "protocol.steps=2")
    result: Result = pipeline.run(plan(config), Display())
    assert result.health is None and "health" not in json.loads(plan(config).folder.result.read_text())


def test_means_are_over_the_lines_behind_the_warm_up_that_have_them() -> None:
    lines: list[dict[str, Any]] = [
        {"step": 2, "share_unlabeled": 0.9, "loss": 1.0},
        {"step": 4, "share_unlabeled": 0.2, "gradient_share/contrast": 0.1, "alpha": 0.1},
        {"step": 6, "share_unlabeled": None, "miou": 0.5},
        {"step": 8, "share_unlabeled": 0.4, "share_of_classes": [0.1, 0.2]},
    ]
    found = mean_shares(lines, 2)
    assert found == {"gradient_share/contrast": 0.1, "share_unlabeled": pytest.approx(0.3)}
    assert mean_shares([], 0) == {}
