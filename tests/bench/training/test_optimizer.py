"""Schedule by hand, and which parameter learns at which rate."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench.networks.segmenter import Segmenter
from bench.ops.teacher import Teacher
from bench.settings.schema import RunConfig, Schedule
from bench.training.optimizer import build_optimizer, lr_factor, set_lr


def test_poly_at_half_way_and_at_the_end() -> None:
    assert lr_factor(Schedule(), 0, 100) == 1
    assert lr_factor(Schedule(), 50, 100) == pytest.approx(0.535887, abs=1e-6)
    assert lr_factor(Schedule(), 99, 100) > 0


def test_warm_up_is_linear_and_ends() -> None:
    schedule = Schedule(power=0.0, warmup_steps=4)
    assert [lr_factor(schedule, step, 100) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_encoder_learns_slower_and_a_teacher_not_at_all(
    name: str, tiny_config: Callable[..., RunConfig]
) -> None:
    protocol = tiny_config(
        "supervised", f"protocol.optimizer.name={name}", "protocol.optimizer.head_multiple=10.0"
    ).protocol
    net = Segmenter(protocol.network, 3)
    net.add_module("teacher", Teacher(net))
    optimizer = build_optimizer(net, protocol)
    encoder = {id(parameter) for parameter in net.encoder.parameters()}
    slow, fast = optimizer.param_groups
    assert {id(parameter) for parameter in slow["params"]} == encoder
    trained = {id(parameter) for parameter in net.parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in fast["params"]} == trained - encoder
    set_lr(optimizer, 0.5)
    assert (slow["lr"], fast["lr"]) == pytest.approx((0.5e-3, 5e-3))
