"""Optimizer and learning-rate schedule of the protocol."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.networks.segmenter import Segmenter
from bench.settings.schema import Protocol, Schedule


def build_optimizer(method: nn.Module, protocol: Protocol) -> torch.optim.Optimizer:
    """Build the optimizer of a method.

    Encoders learn at the protocol's rate, everything else that the method trains at `head_multiple` times
    that rate.
    """
    settings = protocol.optimizer
    nets = [module for module in method.modules() if isinstance(module, Segmenter)]
    encoder = {id(parameter) for net in nets for parameter in net.encoder.parameters()}
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in encoder], "base_lr": settings.lr},
        {
            "params": [p for p in trained if id(p) not in encoder],
            "base_lr": settings.lr * settings.head_multiple,
        },
    ]
    usual: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}
    optimizer: torch.optim.Optimizer
    if settings.name == "adamw":
        optimizer = torch.optim.AdamW(groups, betas=settings.betas, **usual)
    else:
        optimizer = torch.optim.SGD(groups, momentum=settings.momentum, **usual)
        optimizer.register_step_pre_hook(_begin_momentum)
    if all(parameter.device.type == "cpu" for parameter in trained):
        # A step asks whether the GPU records a graph, and so opens one that a run on the CPU has no use for.
        optimizer._accelerator_graph_capture_health_check = lambda: None  # type: ignore[method-assign]
    return optimizer


def _begin_momentum(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Momentum begins at zero, which gives the same as to begin with the first gradient. Without it fused SGD
    fails where some parameters, say of a head that a warm-up leaves alone, get theirs later than others."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if parameter.grad is not None and "momentum_buffer" not in optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def lr_factor(schedule: Schedule, step: int, steps: int) -> float:
    """Compute the factor on every base learning rate at `step` of `steps`, counted from 0.

    Poly decay with linear warm-up. Above 0 at the last step.
    """
    warmup = min((step + 1) / schedule.warmup_steps, 1.0) if schedule.warmup_steps else 1.0
    return warmup * (1 - step / steps) ** schedule.power


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
