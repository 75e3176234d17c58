"""A step of every method on the GPU: the numbers of the CPU, no wait, finite in half precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.contract import Batch, Progress
from bench.machine import FIRST_WITH_TF32, use_device
from bench.randomness import generator_for
from bench.training.trainer import Trainer

Make = Callable[..., Trainer]
# Largest relative difference from the CPU. Sums in another order move a term by rounding, and with it a pixel
# that lies at a threshold.
SAME_SUM, SAME_PIXELS, SAME_GRADIENT = 1e-4, 5e-3, 1e-2
STEPS = 6  # of the tiny protocol


def progress(trainer: Trainer, step: int = 0) -> Progress:
    return Progress(step, trainer.protocol.steps, trainer.config.seed, trainer.device)


def stepped(trainer: Trainer, steps: range) -> list[dict[str, float]]:
    """The terms of each step."""
    found = []
    for step in steps:
        _, terms = trainer.train_step(trainer.batches[step], progress(trainer, step))
        found.append({name: term.item() for name, term in terms.items()})
    return found


class OnTheCpu(TorchFunctionMode):
    """Draws numbers on the CPU and moves them: each device has a stream of its own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is None:
            return func(*args, **kwargs)
        place = kwargs.pop("device", None) or next(x.device for x in args if isinstance(x, Tensor))
        found = func(*(x.cpu() if isinstance(x, Tensor) else x for x in args), **kwargs)
        return found.to(place)


@contextmanager
def drawn_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch, OnTheCpu():
        patch.setattr(Progress, "generator", lambda at, purpose: generator_for(at.seed, purpose, at.step))
        yield


def test_the_first_step_is_that_of_the_cpu(
    method: str, device: str, trainer_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first alone, since rounding grows with every step of the optimizer."""
    terms, gradients = {}, {}
    for place in ("cpu", device):
        trainer = trainer_of(method, place)
        trainer.measured = frozenset()
        with drawn_on_the_cpu(monkeypatch):
            (terms[place],) = stepped(trainer, range(1))
        named = trainer.method.named_parameters()
        gradients[place] = {name: p.grad.cpu() for name, p in named if p.grad is not None}
        assert place == "cpu" or all(
            p.device.type == device.partition(":")[0] for p in trainer.method.parameters()
        )
    assert terms[device].keys() == terms["cpu"].keys()
    for name, value in terms["cpu"].items():
        within = SAME_SUM if name in ("labeled", "tags") else SAME_PIXELS
        assert terms[device][name] == pytest.approx(value, rel=within, abs=1e-6), name
    assert gradients[device].keys() == gradients["cpu"].keys()
    off = torch.stack([(gradients[device][n] - g).norm() for n, g in gradients["cpu"].items()]).norm()
    whole = torch.stack([g.norm() for g in gradients["cpu"].values()]).norm()
    assert off <= SAME_GRADIENT * whole, f"gradients are {off / whole:.1e} apart"


def test_a_step_waits_for_nothing(method: str, gpu: str, trainer_of: Make) -> None:
    """Not for its batch, the loss, the optimizer, the log's figures, nor where gradients are measured."""
    trainer = trainer_of(method, gpu)
    trainer.measured = frozenset(range(STEPS))
    ready = [trainer.batches[step].pin_memory() for step in range(3)]
    for step in (0, 1):  # what is made once may wait
        trainer.train_step(ready[step], progress(trainer, step))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        total, terms = trainer.train_step(ready[2], progress(trainer, 2))
        torch.cat([value.reshape(-1).float() for value in {**terms, **trainer.method.notes}.values()])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert total.isfinite()


def test_a_wait_is_seen(gpu: str) -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones(1, device=gpu).item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_lower_precision_stays_finite(
    method: str, precision: str, device: str, trainer_of: Make, request: pytest.FixtureRequest
) -> None:
    if precision != "bf16":
        request.getfixturevalue("gpu")
    if precision == "tf32" and torch.cuda.get_device_capability() < FIRST_WITH_TF32:
        pytest.skip("the GPU has no TF32")
    trainer = trainer_of(method, device, f"protocol.precision={precision}")
    for terms in stepped(trainer, range(STEPS)):
        assert all(abs(value) < 1e4 for value in terms.values()), terms  # false of NaN
    trainer.refuse_non_finite(trainer.method.state_dict().values())


def test_fp32_is_no_tf32(gpu: str) -> None:
    if torch.cuda.get_device_capability() < FIRST_WITH_TF32:
        pytest.skip("the GPU has no TF32")
    image = torch.rand(2, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(64, 64, 3, 3, generator=torch.Generator().manual_seed(1)) - 0.5

    def off(precision: str) -> list[float]:
        use_device(gpu, precision)
        found = torch.nn.functional.conv2d(image.to(gpu), weight.to(gpu)).double().cpu()
        exact = torch.nn.functional.conv2d(image.double(), weight.double())
        product = (weight.view(64, -1).to(gpu) @ weight.view(64, -1).t().to(gpu)).double().cpu()
        other = weight.view(64, -1).double() @ weight.view(64, -1).t().double()
        return [float((a - b).norm() / b.norm()) for a, b in ((found, exact), (product, other))]

    # Winograd's convolutions are a little off in single precision; 10 bits are 5e-4.
    assert all(apart < 2e-5 for apart in off("fp32")) and all(1e-4 < apart < 1e-2 for apart in off("tf32"))


@pytest.mark.parametrize("name", ["supervised", "mean_teacher", "u2pl", "classifier", "unimatch"])
def test_compiled_as_not_compiled(name: str, device: str, trainer_of: Make) -> None:
    """By forward alone, by a teacher, through represent and project, activate, encode and decode."""
    if not shutil.which("gcc"):
        pytest.skip("--compile needs a compiler")
    plain, compiled = (trainer_of(name, device, *sets) for sets in ((), ("machine.compile=true",)))
    plain.measured = frozenset()
    for here, there in zip(stepped(plain, range(2)), stepped(compiled, range(2)), strict=True):
        assert there == pytest.approx(here, rel=SAME_PIXELS, abs=1e-6)


def test_a_batch_arrives_as_it_left(device: str, trainer_of: Make) -> None:
    """As uint8 in the layout of the networks; on the device it has the bits that the CPU makes of it."""
    batches = trainer_of("u2pl", device).batches
    batch: Batch = batches[0].pin_memory() if device.startswith("cuda") else batches[0]
    here, there = batch.on(device), batches[0].on("cpu")
    for stream in ("labeled", "unlabeled"):
        ours, theirs = getattr(here, stream), getattr(there, stream)
        assert ours.image.device.type == device.partition(":")[0]
        assert ours.image.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(ours.image.cpu(), theirs.image) and torch.equal(ours.valid.cpu(), theirs.valid)
    assert torch.equal(here.labeled.label.cpu(), there.labeled.label)
    assert here.labeled.label.dtype == torch.int64
