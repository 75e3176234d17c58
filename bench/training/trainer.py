"""The training loop and its state: everything but the loss is the same for every method.

A run is a pure function of its configuration. Batches, views and dropout of step n are drawn from streams
named after n, so stopping, resuming, and the number of workers change nothing.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench import ranks
from bench.contents.changes import not_trained_on
from bench.contract import ABSENT, Batch, Dataset, Method, Progress, Supervision
from bench.display import Display
from bench.errors import BenchError, ConfigError, Interrupted
from bench.machine import Stop, any_shapes, peak_memory_mib, trying_out
from bench.networks.weights import Weights
from bench.ops.processes import rank
from bench.ops.teacher import Teacher
from bench.plan import Plan
from bench.randomness import seed_torch, torch_seeded
from bench.records.schema import Contents, Point
from bench.scoring.inference import Inference, evaluate, score
from bench.training import checkpoint
from bench.training.balance import WithGatedCrf
from bench.training.gradient_shares import gradient_shares, measured_steps
from bench.training.metrics_log import Log
from bench.training.optimizer import build_optimizer, lr_factor, set_lr
from bench.training.ranks import joined, refuse_apart
from bench.training.warm_up import warm_up_terms
from datasets.loaders import StepBatches, iterate, worker_failures

NON_FINITE_STEPS = 5  # this number of losses in a row that are not finite ends a run
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Parts:
    """All that a run trains with. `session.parts_of` builds it from a plan."""

    dataset: Dataset
    weights: Weights | None  # of the encoder, before training
    method: Method  # on the device, in train mode
    batches: StepBatches
    device: str  # "cpu", "cuda" or "cuda:1"
    said: tuple[str, ...] = ()  # sentences for the user


@dataclass(frozen=True)
class Spent:
    """Time and memory that a part of a run took: the warm-up that it has from another one, or scoring."""

    seconds: float = 0.0
    peak_memory_mib: float = 0.0


def _teacher(plan: Plan, method: Method) -> Teacher | None:
    """Make the moving average that the protocol asks for; None where it asks for none.

    A method that learns from tags alone has none: its network does not learn to segment.
    """
    wanted = plan.config.protocol.teacher is not None and Supervision.PIXEL in method.needs
    return Teacher(method.net) if wanted else None


def _later(plan: Plan) -> set[str]:
    """Of its contents, what no checkpoint depends on."""
    return {"weights", "anyway", *not_trained_on(plan)}


def refuse_other(state: Mapping[str, Any], plan: Plan, contents: Contents | None, anyway: bool) -> bool:
    """Whether a checkpoint is of other code or data than `contents`.

    Raises ConfigError where it is, and is not to be taken `anyway`, and where it is of another run.
    """
    file = plan.folder.checkpoint
    if state["run_id"] != plan.run_id:
        raise ConfigError(f"{file} belongs to run {state['run_id']}, not {plan.run_id}.")
    before = state.get("contents")
    unlike = bool(before and contents and contents.model_dump(exclude=_later(plan)) != before)
    if unlike and not anyway:
        raise ConfigError(
            f"{file} was made by other code or other data than there are now; start again with --overwrite, "
            "or go on with --resume --anyway, which the record will say."
        )
    return unlike


class Trainer:
    """The state of a run and its loop."""

    def __init__(self, plan: Plan, parts: Parts, display: Display, stop: Stop) -> None:
        self.plan, self.display, self.stop = plan, display, ranks.agreed_stop(stop)
        self.config, self.protocol, self.folder = plan.config, plan.config.protocol, plan.folder
        self.dataset, self.weights, self.device = parts.dataset, parts.weights, parts.device
        self.method, self.batches = parts.method, parts.batches
        self.teacher = _teacher(plan, parts.method)
        self.optimizer = build_optimizer(self.method, self.protocol)
        self._joint_terms = joined(self.method, self._terms)
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.protocol.precision == "fp16")
        self.step = 0
        self.warmup = self.method.warmup_steps(self.protocol.steps)  # steps
        self.warmed_up: Callable[[Log], None] | None = None  # called once, after the last of them
        # A compiled network keeps no graph for a second backward pass.
        measured = measured_steps(self.warmup, self.protocol.steps)
        self.measured = frozenset() if self.config.machine.compile else measured
        self.train_seconds = 0.0
        self.shared = Spent()  # among `train_seconds`, on a warm-up that another run has trained
        self.curve: list[Point] = []
        self.non_finite = torch.zeros((), dtype=torch.int64, device=self.device)
        self.saved_at = time.monotonic()
        self.contents: Contents | None = None  # what the run is made of; a checkpoint goes on with no other
        self.log_state: dict[str, Any] | None = None  # of the checkpoint that it goes on from

    # Training -----------------------------------------------------------------------------------------------

    def train(self) -> None:
        """From the current step to the last one."""
        machine, steps = self.config.machine, self.protocol.steps
        with ranks.together():
            log = Log(self.folder, self.step, machine.tensorboard, self.log_state, ranks.number() == 0)
        if self.log_state and log.lines < self.log_state["lines"]:
            self.display.say(f"{self.folder.metrics} is gone: the log begins at step {self.step}")
        self.display.start(f"train {self.plan.method.name}", steps, self.step)
        started = self.saved_at = time.monotonic()
        on_gpu = torch.device(self.device).type == "cuda"
        batches = iterate(self.batches, self.step, machine.workers, pin=on_gpu)
        tried = trying_out(on_gpu and not machine.deterministic)
        with closing(log), worker_failures(), closing(batches), tried:
            if self._curve_is_due():  # stopped during that evaluation
                self._evaluate_for_curve(log)
                self.display.start(f"train {self.plan.method.name}", steps, self.step)
                started = time.monotonic()
            for batch, late in ranks.in_step(batches, self.stop, self._is_late):
                total, terms = self.train_step(
                    batch, Progress(self.step, steps, self.config.seed, self.device)
                )
                self.step += 1
                log.add({"loss": total, **terms}, self.method.notes)
                if self.step % machine.log_every == 0 or self.step == steps:
                    self.train_seconds, started = self._elapsed(started)
                    self._check_losses()
                    lr = self.optimizer.param_groups[0]["lr"]
                    with ranks.together():
                        self.display.update(self.step, log.flush({"step": self.step, "lr": lr}))
                if self.step == self.warmup and self.warmed_up is not None:
                    self.train_seconds, _ = self._elapsed(started)
                    self.warmed_up(log)
                    started = time.monotonic()
                if self._curve_is_due():
                    self.train_seconds, _ = self._elapsed(started)
                    self._evaluate_for_curve(log)
                    self.display.start(f"train {self.plan.method.name}", steps, self.step)
                    started = time.monotonic()
                last = self.step == steps
                if last or late or self.stop.signal is not None or self._checkpoint_is_due():
                    self.train_seconds, started = self._elapsed(started)
                    self.save(log)
                if not last:
                    self.stop.check()

    def _elapsed(self, started: float) -> tuple[float, float]:
        now = time.monotonic()
        return self.train_seconds + now - started, now

    def train_step(self, batch: Batch, at: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses, backward, audits, optimizer, after_step, teacher. Nothing here waits for the device."""
        # Dropout draws from torch's global stream; naming it after the step makes the step a pure function.
        seed_torch(at.seed, "dropout", at.step, *([rank()] if rank() else []))
        set_lr(self.optimizer, lr_factor(self.protocol.schedule, at.step, at.total))
        batch = batch.on(self.device)
        truth, batch = batch.truth, replace(batch, truth=ABSENT)
        terms = self._joint_terms(batch, at)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        if at.step in self.measured and len(terms) > 1:
            self._note_gradient_shares(terms)
        self.scaler.scale(total).backward()
        self._audit(truth, at)
        if self.protocol.clip is not None:
            self.scaler.unscale_(self.optimizer)
            groups = self.optimizer.param_groups
            nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], self.protocol.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.method.after_step(at)
        if self.teacher is not None and (rule := self.protocol.teacher) is not None:
            self.teacher.update(self.method.net, rule.decay, at.step if rule.ramp else None)
        self.non_finite = torch.where(total.detach().isfinite(), 0, self.non_finite + 1)
        return total.detach(), {name: term.detach() for name, term in terms.items()}

    def _terms(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """Compute the terms of the method's loss, or those of the warm-up."""
        self.method.notes.clear()
        if isinstance(loss := self.method.task.labeled_loss, WithGatedCrf):
            loss.stream = batch.labeled
        if self.warmup:
            self.method.note("warmup_steps", torch.full((), self.warmup, device=self.device))
        dtype = DTYPES.get(self.protocol.precision)
        with torch.autocast(torch.device(self.device).type, dtype=dtype, enabled=dtype is not None):
            if at.step < self.warmup:
                return warm_up_terms(self.method, batch.labeled)
            return self.method.losses(batch, at)

    def _note_gradient_shares(self, terms: dict[str, Tensor]) -> None:
        """On encoder and decoder, which all terms train."""
        net: Any = self.method.net
        parameters = [*net.encoder.parameters(), *net.decoder.parameters()]
        scaled = {name: self.scaler.scale(term.float()) for name, term in terms.items() if term.requires_grad}
        for name, share in gradient_shares(scaled, parameters).items():
            self.method.note(f"gradient_share/{name}", share)

    def _audit(self, truth: Tensor | None, at: Progress) -> None:
        """Turn the figures of the truth into notes.

        Without the truth they are dropped, with all they hold.
        """
        audits = dict(self.method.audits)
        self.method.audits.clear()
        if truth is not None:
            # A figure that draws numbers must not move the stream of the step.
            with torch.no_grad(), torch_seeded(at.seed, "audit", at.step):
                for name, figure in audits.items():
                    self.method.note(name, figure(truth))

    def _check_losses(self) -> None:
        """Stop a run with too many losses in a row that are not finite.

        A few may pass, but not at the end: nothing after them says that all is well again.
        """
        last = self.step == self.protocol.steps
        if any(ranks.highest([int(self.non_finite >= (1 if last else NON_FINITE_STEPS))])):
            self._refuse_non_finite()

    def _refuse_non_finite(self) -> None:
        kept = (
            f"the last good state is in {self.folder.checkpoint}"
            if self.folder.checkpoint.exists()
            else "none saved"
        )
        raise ranks.alike(
            BenchError(
                f"the loss or the weights are not finite by step {self.step}; stopped ({kept}). "
                "Lower protocol.optimizer.lr, set protocol.clip, or use --precision fp32."
            )
        )

    # State --------------------------------------------------------------------------------------------------

    def refuse_non_finite(self, kept: Iterable[Tensor]) -> None:
        """Raise BenchError where a tensor is not finite: no such state is saved."""
        alike = defaultdict(list)  # what one kernel can look through
        for value in kept:
            if value.is_floating_point() and value.numel():
                alike[value.dtype, value.device].append(value)
        largest = [one for values in alike.values() for one in torch._foreach_norm(values, ord=math.inf)]
        if not torch.stack([one.float().to(self.device) for one in largest]).isfinite().all():  # waits once
            self._refuse_non_finite()

    def _checkpoint_is_due(self) -> bool:
        every = self.config.machine.checkpoint_every
        return every is not None and self.step % every == 0

    def _is_late(self) -> bool:
        """Say whether `checkpoint_minutes` have passed since the last checkpoint."""
        return time.monotonic() - self.saved_at >= 60 * self.config.machine.checkpoint_minutes

    def save(self, log: Log) -> None:
        """Write the checkpoint, unless the weights are not finite: then the one before stays."""
        state = self.method.state_dict()
        teacher = None if self.teacher is None else self.teacher.state_dict()
        self.refuse_non_finite([*state.values(), *(teacher or {}).values()])
        refuse_apart(state | {f"teacher {name}": value for name, value in (teacher or {}).items()}, self.step)
        whole = {
            "run_id": self.plan.run_id,
            "step": self.step,
            "method": state,
            "teacher": teacher,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "curve": [point.model_dump() for point in self.curve],
            "train_seconds": self.train_seconds,
            "shared": asdict(self.shared),
            "non_finite": self.non_finite,
            "contents": self.contents.model_dump(exclude=_later(self.plan)) if self.contents else None,
            "anyway": self.contents.anyway if self.contents else [],
            "log": log.state(),
        }
        ranks.first_alone(lambda: checkpoint.save(self.folder.checkpoint, whole))
        self.saved_at = time.monotonic()

    def restore(self, anyway: bool = False) -> tuple[bool, list[str]]:
        """Go on from the folder's checkpoint; whether it is of other code or data, and what had changed when
        the run went on before (`Contents.anyway`).

        Raises as `refuse_other` does.
        """
        state = checkpoint.load(self.folder.checkpoint, self.device)
        unlike = refuse_other(state, self.plan, self.contents, anyway)
        if state.get("contents") is None:
            self.display.say("the checkpoint is from before digests: of which code and data, is not known")
        self.method.load_state_dict(state["method"])
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.train_seconds = state["train_seconds"]
        self.shared = Spent(**state.get("shared", {}))
        self.curve = [Point(**point) for point in state["curve"]]
        self.non_finite = state["non_finite"]
        self.log_state = state.get("log")
        self.display.say(f"resuming at step {self.step} of {self.protocol.steps}")
        if self.log_state is None and self.step % self.config.machine.log_every:
            self.display.say("the checkpoint is an older one: the next line of the log is of fewer steps")
        return unlike, state.get("anyway", [])

    # Scoring ------------------------------------------------------------------------------------------------

    def headline(self) -> nn.Module:
        """Return the module that is scored in every row of a table.

        It is the protocol's teacher, where it has one, else what the method names as its predictor.
        """
        return self.method.predictor() if self.teacher is None else self.teacher

    def counts(
        self,
        module: nn.Module,
        name: str,
        on_prediction: Callable[[str, Tensor], None] = lambda id, prediction: None,
    ) -> np.ndarray:
        """As `evaluate` gives them, of the scored images, of which each rank scores a part."""
        ids = ranks.share(list(self.plan.split.eval))
        self.display.start(f"score {name}", len(ids))

        def on_image(done: int) -> None:
            self.display.update(done)
            self.stop.own.check()

        inference = Inference(self.protocol.evaluation, self.protocol.crop)
        with ranks.together(), any_shapes(self.config.machine.compile):
            if not ids:  # of fewer images than ranks
                own = np.zeros((0, *[len(self.dataset.classes)] * 2), np.int64)
            else:
                own = evaluate(module, self.dataset, ids, inference, self.device, on_image, on_prediction)
        return ranks.put_together(own)

    def _curve_is_due(self) -> bool:
        every = self.protocol.evaluation.every
        missing = all(point.step != self.step for point in self.curve)
        return bool(every) and 0 < self.step < self.protocol.steps and self.step % every == 0 and missing

    def _evaluate_for_curve(self, log: Log) -> None:
        # In the warm-up the same for every method, so that the points are shared with it.
        warm = self.teacher is None and self.step <= self.warmup
        try:
            miou = score(self.counts(self.method.net if warm else self.headline(), "curve").sum(0)).miou
        except Interrupted:
            self.save(log)
            raise
        self.curve.append(Point(step=self.step, miou=miou))
        log.write({"step": self.step, "miou": miou})

    def peak_memory_mib(self) -> float:
        return max(peak_memory_mib(self.device), self.shared.peak_memory_mib)
