"""Schedule by hand, and which parameter learns at which rate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bench.networks.segmenter import Segmenter
from bench.ops.teacher import Teacher
from bench.settings.schema import Network, Optimizer, Protocol, RunConfig, Schedule
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


def test_a_parameter_may_get_its_first_gradient_late() -> None:
    """As a head that a warm-up leaves alone; each has the momentum of its own gradients, as by hand."""
    torch.manual_seed(0)
    net = torch.nn.ModuleList([torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)])
    protocol = Protocol(
        name="p",
        network=Network(encoder="tiny"),
        crop=(8, 8),
        steps=4,
        optimizer=Optimizer(lr=0.1, head_multiple=1, weight_decay=0.01),
    )
    optimizer = build_optimizer(net, protocol)
    set_lr(optimizer, 1.0)
    names = dict(net.named_parameters())
    value = {name: parameter.detach().clone() for name, parameter in names.items()}
    momentum = {name: torch.zeros_like(parameter) for name, parameter in value.items()}
    for step in range(4):
        optimizer.zero_grad(set_to_none=True)
        image = torch.full((1, 3), step + 1.0)
        sum(head(image).sum() for head in net[: 1 + (step > 1)]).backward()  # type: ignore[union-attr]
        for name, parameter in names.items():
            if parameter.grad is not None:
                momentum[name] = 0.9 * momentum[name] + parameter.grad + 0.01 * value[name]
                value[name] -= 0.1 * momentum[name]
        optimizer.step()
        assert all(torch.allclose(names[name], value[name], atol=1e-6) for name in names), step
    assert not momentum["1.weight"].equal(momentum["0.weight"]) and momentum["1.weight"].any()
