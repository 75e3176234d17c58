"""A step of every method on a GPU that is not there: fake tensors have a device, a shape and no values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode

from bench.contract import Batch, Progress
from bench.randomness import generator_for
from bench.settings import registry
from bench.testing.case import STEPS, Case
from bench.training.balance import labeled_loss
from methods.fixmatch import FixMatch

CUDA = "cuda"


@pytest.fixture(autouse=True)
def _generators_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def generator(at: Progress, purpose: str) -> torch.Generator:
        return generator_for(at.seed, purpose, at.step)

    monkeypatch.setattr(Progress, "generator", generator)


class Unnamed(TorchFunctionMode):
    """Draws without a generator: it would have to be of the GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **{key: value for key, value in (kwargs or {}).items() if key != "generator"})


def moved(method: nn.Module, mode: FakeTensorMode) -> None:
    """Let all that a method keeps be on the GPU."""
    for module in method.modules():
        for name, value in module._parameters.items():
            if value is not None:
                fake = mode.from_tensor(value).to(CUDA)
                module._parameters[name] = nn.Parameter(fake, requires_grad=value.requires_grad)
        for name, value in module._buffers.items():
            module._buffers[name] = None if value is None else mode.from_tensor(value).to(CUDA)


def step(case: Case, batch: Batch) -> dict[str, Tensor]:
    """The terms, figures and audits of a step, all on the GPU."""
    loss = labeled_loss(case.protocol.model_copy(update={"dice": 0.5}))
    method, at = case.method(loss=loss), Progress(0, STEPS, seed=0, device=CUDA)
    with FakeTensorMode() as mode, Unnamed():
        moved(method, mode)
        batch = batch.map(mode.from_tensor).on(CUDA)
        found = {**method.losses(batch, at)}
        found |= method.notes
        for name, figure in method.audits.items():
            found[name] = figure(torch.zeros_like(batch.unlabeled.valid, dtype=torch.int64))
        method.after_step(at)
        return found | method.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.method_names())
def test_a_step_stays_on_its_device(name: str) -> None:
    """A mixture of devices, or a value that the host must know, is an error of fake tensors themselves."""
    case = Case(registry.describe_method(name))
    found = step(case, case.batches()[0])
    assert found and {value.device.type for value in found.values()} == {CUDA}


class OnTheCpu(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        return {name: term * torch.ones(1) for name, term in super().losses(batch, at).items()}


class Asking(FixMatch):
    def losses(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        return super().losses(batch, at) if batch.labeled.image.mean().item() else {}


@pytest.mark.parametrize(("cls", "error"), [(OnTheCpu, RuntimeError), (Asking, DataDependentOutputException)])
def test_another_device_and_a_wait_are_seen(cls: type[FixMatch], error: type[Exception]) -> None:
    case = Case(registry.describe_class("broken", cls))
    with pytest.raises(error):
        step(case, case.batches()[0])
