"""The method that is checked: built on a small network, fed with the tiny set, trained for a few steps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bench.contract import Batch, Method, Net, Progress, Stream, Supervision, Task
from bench.networks.segmenter import Segmenter
from bench.ops.losses import cross_entropy
from bench.ops.teacher import Teacher
from bench.randomness import torch_seeded
from bench.settings.registry import MethodInfo, offering
from bench.settings.schema import BatchSizes, Network, Optimizer, Protocol, RunConfig
from bench.testing import tiny
from bench.training.session import another_net
from datasets.folder import Folder
from datasets.loaders import StepBatches
from datasets.splits import Split

STEPS, SIZE = 6, 32
NETWORK = Network(encoder="tiny", decoder="unet", decoder_channels=16, representation_channels=8)
# Thresholds of 0, so that an untrained teacher's labels count; ranks that three classes have.
SMALL = {"threshold": 0.0, "rank_low": 1}
TRIED = (0, STEPS - 1)  # steps where a term is looked for: the weight of one may grow from 0, or fall to it
STREAMS = ("labeled", "tagged", "unlabeled")
CLASSES = ("background", "square", "stripe")
Terms = dict[str, Tensor]
Of = Callable[[Batch, Progress], Terms]
Loss = Callable[[Tensor, Tensor], Tensor]  # logits B C H W, label B H W -> scalar


class Ready(StepBatches):
    """Batches as a method takes them."""

    device: str = "cpu"

    def __getitem__(self, step: int) -> Batch:
        return super().__getitem__(step).on(self.device)


@dataclass(frozen=True)
class Case:
    info: MethodInfo
    views: Literal["published", "equal"] = "published"  # of the protocol
    device: str = "cpu"

    @property
    def data(self) -> Folder:
        return Folder(tiny.shared_root() / "tinyset", "tinyset")

    def method(self, classes: tuple[str, ...] = CLASSES, seed: int = 0, loss: Loss = cross_entropy) -> Method:
        """Build the method on a small real network.

        Args:
            loss: That of the task, on labeled pixels.
        """
        knobs = self.info.knobs().model_dump()  # a preset's defaults are not its class's
        knobs |= {key: value for key, value in SMALL.items() if key in knobs}
        new_net = another_net(seed, lambda: Segmenter(NETWORK, len(classes)))
        with torch_seeded(seed, "init"):
            net = Segmenter(NETWORK, len(classes))
            task = Task(classes, loss, 0, new_net, equal_views=self.views == "equal")
            return self.info.cls(net, task, self.info.cls.HParams(**knobs)).to(self.device).train()

    @property
    def protocol(self) -> Protocol:
        return Protocol(
            name="tiny",
            network=NETWORK,
            crop=(SIZE, SIZE),
            resize=(0.75, 1.5),
            batch=BatchSizes(labeled=2, unlabeled=2),
            steps=STEPS,
            optimizer=Optimizer(lr=1e-3),
            views=self.views,
        )

    def batches(
        self, data: Folder | None = None, batch: BatchSizes | None = None, rank: int = 0, ranks: int = 1
    ) -> Ready:
        data = data or self.data
        train, cls = data.ids("train"), self.info.cls
        tagged = Supervision.TAGS in cls.needs
        tags = {id: (0, *(data.tags(id) or ())) for id in train[4:]} if tagged else None
        rest = train[4:]
        split = Split(data.name, "some", train[:4], rest if tagged else (), () if tagged else rest, ())
        made = Ready(
            data,
            split,
            self.protocol.model_copy(update={"batch": batch}) if batch else self.protocol,
            needs=cls.needs,
            tags=tags,
            seed_of=lambda id: (data.image(id)[..., 0] > 150).astype("uint8"),
            label_of=(lambda id: (data.image(id)[..., 0] > 150).astype("uint8")) if cls.rounds else None,
            views=cls.views,
            seed=0,
            rank=rank,
            ranks=ranks,
        )
        made.device = self.device
        return made

    def train(
        self,
        method: Method,
        steps: range,
        data: Folder | None = None,
        batches: StepBatches | None = None,
        of: Of | None = None,
    ) -> list[Terms]:
        """Train as the harness does, with plain SGD.

        Args:
            of: What gives the terms; None: the method itself.
        """
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
        batches, seen = batches or self.batches(data), []
        for step in steps:
            seen.append(backward(method, batches[step], step, of))
            refuse_non_finite(seen[-1], step)
            optimizer.step()
            method.after_step(at(method, step))
        return seen

    @contextmanager
    def configured(self, *sets: str, root: Path | None = None) -> Iterator[RunConfig]:
        """Give the settings of a run on a split that grants what the method needs, in a folder of its own.
        Within the block the method goes by its name, installed or not."""
        split = "few+tags" if Supervision.TAGS in self.info.needs else "few"
        with offering(self.info), tempfile.TemporaryDirectory(prefix="frugalseg-") as out:
            place = {"root": root or tiny.shared_root(), "out": Path(out) / "runs"}
            usual = [f"protocol.views={self.views}", f"machine.device={self.device}"]
            usual += [] if self.device == "cpu" else ["machine.deterministic=true"]  # bits are compared
            yield tiny.config(self.info.name, *usual, *sets, **place, split=split)


# Stepping -------------------------------------------------------------------------------------------------


def at(method: Method, step: int = 0) -> Progress:
    return Progress(step, STEPS, seed=0, device=str(next(method.parameters()).device))


def losses(method: Method, batch: Batch, step: int = 0, of: Of | None = None) -> Terms:
    with torch_seeded(0, "dropout", step):
        terms = (of or method.losses)(batch, at(method, step))
    assert isinstance(terms, dict), f"losses() gives a {type(terms).__name__}; give a dict of terms by name"
    for name, term in terms.items():
        kind = type(term).__name__
        assert isinstance(term, Tensor), f"the term {name!r} is a {kind}; give a tensor, such as a mean loss"
        assert term.shape == (), f"the term {name!r} is no scalar: {tuple(term.shape)}; give a mean or a sum"
    return terms


def refuse_non_finite(terms: Terms, step: int) -> None:
    for name, term in terms.items():
        assert term.isfinite(), f"the term {name!r} of step {step} is {term.item()}; no such run has a result"


def backward(method: Method, batch: Batch, step: int = 0, of: Of | None = None) -> Terms:
    """Give the terms after a backward pass of their sum; gradients of earlier passes are cleared."""
    method.zero_grad(set_to_none=True)
    terms = losses(method, batch, step, of)
    torch.stack(list(terms.values())).sum().backward()
    return terms


def gradients(method: Method) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def kept(module: torch.nn.Module) -> dict[str, Tensor]:
    """Copy the state."""
    return {key: value.clone() for key, value in module.state_dict().items()}


def teachers(method: Method) -> list[Teacher]:
    return [module for module in method.modules() if isinstance(module, Teacher)]


def students(method: Method) -> list[Net]:
    """List the networks that are trained."""
    nets = [module for module in method.modules() if isinstance(module, Net)]
    return [net for net in nets if any(parameter.requires_grad for parameter in net.parameters())]


# Changing a batch -----------------------------------------------------------------------------------------


def with_stream(batch: Batch, name: str, change: Callable[[Stream], Stream]) -> Batch:
    """Give the batch with one stream changed, where it has that stream."""
    stream = getattr(batch, name)
    new: dict[str, Any] = {} if stream is None else {name: change(stream)}
    return replace(batch, **new)


def changed(batch: Batch, change: Callable[[Stream], Stream]) -> Batch:
    """Give the batch with all of its streams changed."""
    for name in STREAMS:
        batch = with_stream(batch, name, change)
    return batch


def unboxed(stream: Stream) -> Stream:
    return replace(stream, boxes=tuple(torch.zeros_like(box) for box in stream.boxes))


def refused(kind: type[Exception], word: str, call: Callable[[], Any], what: str) -> None:
    """Assert that `call` raises an error of this kind whose text holds `word`."""
    try:
        call()
    except kind as error:
        said = str(error)
    else:
        raise AssertionError(f"{what} is not refused")
    assert word in said, f"{what} is refused without the word {word!r}: {said}"
