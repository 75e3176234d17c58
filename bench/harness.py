"""The one training harness: everything but the loss is the same for every method.

A run is a pure function of its configuration. Batches, views and dropout of step n are drawn from streams
named after n, so stopping, resuming, and the number of workers change nothing.
"""

from __future__ import annotations

import json
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from bench import checkpoint, provenance, registry
from bench.config import DEVICES, Protocol, RunConfig, read_yaml, validate
from bench.contract import ABSENT, IGNORE, Batch, Dataset, Knobs, Method, Progress, Supervision, Task
from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError, Interrupted
from bench.evaluation import Inference, evaluate, score
from bench.files import write_atomic
from bench.identity import Plan, data_root
from bench.log import Log
from bench.models import Segmenter
from bench.ops.losses import cross_entropy, ohem_cross_entropy
from bench.optimisation import build_optimizer, lr_factor, set_lr
from bench.randomness import seed_for, torch_seeded
from bench.store import Point, Result, SeedFolder
from bench.weights import load_weights
from datasets.loaders import StepBatches, iterate, worker_failures
from datasets.reading import read_mask
from datasets.tags import TagTable, load_tags

NON_FINITE_STEPS = 5  # so many losses in a row that are not finite end a run
REPEAT_SECONDS = 2.0
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def run(plan: Plan, display: Display, resume: bool = False, overwrite: bool = False) -> Result:
    """Train and score one run; a finished run is returned as it is.

    Raises:
        ConfigError: the folder holds an interrupted run and neither `resume` nor `overwrite` is given.
        DataError: data missing or invalid.
        Interrupted: stopped by a signal; the state is saved.
        BenchError: the loss is not finite; the last good checkpoint is kept.
    """
    folder = plan.folder
    with folder.claimed():
        done = folder.read_result()
        if done and not overwrite:
            display.say(f"already done: {folder.path}")
            return done
        goes_on = folder.checkpoint.exists() and not overwrite
        if goes_on and not resume:
            raise ConfigError(
                f"{folder.path} holds an interrupted run; give --resume to go on or --overwrite."
            )
        if goes_on:
            _check_config(plan)
        folder.failure.unlink(missing_ok=True)
        if plan.seeds is not None:
            from bench.cam_seeds import make  # here, because it runs the classifier through this function

            make(plan.seeds, display)
        with stoppable() as stop:
            trainer = Trainer(plan, display, stop)  # refuses what it must before anything is removed
            if goes_on:
                trainer.restore()
            else:
                folder.clear()
            write_atomic(folder.config, plan.config.to_yaml().encode())
            folder.add_provenance({"first_step": trainer.step, **provenance.collect()})
            try:
                trainer.train()
                return trainer.finish()
            except torch.OutOfMemoryError as error:
                raise BenchError(
                    f"out of memory at step {trainer.step}: lower protocol.batch or protocol.crop, or use "
                    "--precision bf16 (each makes another protocol)."
                ) from error
            finally:
                display.stop()


def _check_config(plan: Plan) -> None:
    """The folder's name carries the id, so another configuration in it means a renamed folder or an edited
    file."""
    file = plan.folder.config
    try:
        there = validate(RunConfig, read_yaml(file), file=file)
    except ConfigError as error:
        raise DataError(f"{error}\nThe run cannot go on without it; {plan.folder.mend}") from error
    if there.run_id(plan.method.version, plan.input_digests) != plan.run_id:
        raise ConfigError(f"{file} is another configuration than the one asked for; use another --out.")


class Stop:
    """Set by the first SIGTERM or SIGINT."""

    signal: int | None = None

    def check(self) -> None:
        if self.signal is not None:
            raise Interrupted(f"stopped by {signal.Signals(self.signal).name}")


@contextmanager
def stoppable() -> Iterator[Stop]:
    """The first signal asks the run to stop after its step; a later one ends the process at once.

    What comes within REPEAT_SECONDS of the first is the same wish: a signal may reach a run both by itself
    and from the sweep that has started it.
    """
    stop, first = Stop(), 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if stop.signal is None:
            stop.signal, first = number, now
        elif now - first > REPEAT_SECONDS:
            raise SystemExit(128 + number)

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: signals are the caller's business
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def labeled_loss(protocol: Protocol) -> Any:
    settings = protocol.labeled_loss
    if settings.name == "ohem":
        return partial(ohem_cross_entropy, threshold=settings.ohem_threshold, min_kept=settings.ohem_min_kept)
    return cross_entropy


def _check_classes(dataset: str, hparams: Knobs, classes: int) -> None:
    if classes > IGNORE:
        raise ConfigError(
            f"{dataset} has {classes} classes, but a mask holds at most {IGNORE}, ids 0..{IGNORE - 1} and "
            f"{IGNORE} for no label; shorten its classes.txt."
        )
    try:
        hparams.check(classes)
    except ValueError as error:
        raise ConfigError(f"method.{error}.") from error


def granted_tags(plan: Plan, dataset: Dataset) -> TagTable:
    """The classes each tagged image of a run may hold, as its split grants them or as the control has
    shuffled them."""
    return load_tags(dataset, plan.split, plan.config.seed if plan.config.tags == "shuffled" else None)


def _read_seed(folder: SeedFolder, classes: int, id: str) -> np.ndarray:
    return read_mask(folder.seed(id), None, classes)


def exported(predictor: nn.Module) -> Segmenter:
    """The network of a predictor, whose weights a run keeps."""
    return next(module for module in predictor.modules() if isinstance(module, Segmenter))


def choose_device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"machine.device is {name!r}, but torch sees no CUDA device; use --device cpu or auto."
        )
    if name != "cpu" and not name.startswith("cuda"):
        raise ConfigError(f"unknown device {name!r}; use {DEVICES}.")
    return name


class Trainer:
    """The state of a run and its loop."""

    def __init__(self, plan: Plan, display: Display, stop: Stop) -> None:
        self.plan, self.display, self.stop = plan, display, stop
        self.config, self.protocol, self.folder = plan.config, plan.config.protocol, plan.folder
        machine = self.config.machine
        self.device = choose_device(machine.device)
        if self.protocol.precision == "fp16" and self.device == "cpu":
            raise ConfigError("protocol.precision fp16 needs a CUDA device; use bf16 or fp32.")
        if machine.threads:
            torch.set_num_threads(machine.threads)
        torch.use_deterministic_algorithms(machine.deterministic)

        root = data_root(self.config)
        self.dataset = registry.load_dataset(self.config.dataset, root)
        self.weights = load_weights(self.protocol.network.weights, self.protocol.network.encoder)
        self.method = self._build_method()
        self.optimizer = build_optimizer(self.method, self.protocol)
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.protocol.precision == "fp16")
        self.batches = StepBatches(
            self.dataset,
            {kind: getattr(plan.split, kind) for kind in Supervision},
            needs=[Supervision(kind) for kind in plan.method.needs],
            labeled=self.protocol.batch.labeled,
            unlabeled=self.protocol.batch.unlabeled,
            crop=self.protocol.crop,
            resize=self.protocol.resize,
            views=self.method.views,
            seed=self.config.seed,
            steps=self.protocol.steps,
            audit=machine.audit,
            tags=granted_tags(plan, self.dataset),
            seed_of=partial(_read_seed, plan.seeds.folder, len(self.dataset.classes)) if plan.seeds else None,
        )
        self.step = 0
        self.train_seconds = 0.0
        self.curve: list[Point] = []
        self.non_finite = torch.zeros((), dtype=torch.int64, device=self.device)

    def _build_method(self) -> Method:
        cls = registry.load_method(self.plan.method.name)
        task = Task(tuple(self.dataset.classes), labeled_loss(self.protocol), self.dataset.background)
        knobs = {key: value for key, value in self.config.method.items() if key != "name"}
        hparams = cls.HParams.model_validate_json(json.dumps(knobs))
        _check_classes(self.config.dataset, hparams, len(task.classes))
        with torch_seeded(self.config.seed, "init"):
            net = Segmenter(self.protocol.network, len(self.dataset.classes), self.weights)
            method = cls(net, task, hparams)
        method.to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        if self.config.machine.compile:
            for module in {method.net, method.predictor()}:
                module.compile()
        return method

    # Training -----------------------------------------------------------------------------------------------

    def train(self) -> None:
        """From the current step to the last one."""
        machine, steps = self.config.machine, self.protocol.steps
        log = Log(self.folder, self.step, machine.tensorboard)
        self.display.start(f"train {self.plan.method.name}", steps, self.step)
        started = time.monotonic()
        batches = iterate(self.batches, self.step, machine.workers)
        with closing(log), worker_failures(), closing(batches):
            if self._curve_is_due():  # stopped during that evaluation
                self._evaluate_for_curve(log)
                self.display.start(f"train {self.plan.method.name}", steps, self.step)
                started = time.monotonic()
            for batch in batches:
                total, terms = self.train_step(
                    batch, Progress(self.step, steps, self.config.seed, self.device)
                )
                self.step += 1
                log.add({"loss": total, **terms}, self.method.notes)
                if self.step % machine.log_every == 0 or self.step == steps:
                    self.train_seconds, started = self._elapsed(started)
                    self._check_losses()
                    lr = self.optimizer.param_groups[0]["lr"]
                    self.display.update(self.step, log.flush({"step": self.step, "lr": lr}))
                if self._curve_is_due():
                    self.train_seconds, _ = self._elapsed(started)
                    self._evaluate_for_curve(log)
                    self.display.start(f"train {self.plan.method.name}", steps, self.step)
                    started = time.monotonic()
                last = self.step == steps
                if last or self.stop.signal is not None or self.step % machine.checkpoint_every == 0:
                    self.train_seconds, started = self._elapsed(started)
                    self.save()
                if not last:
                    self.stop.check()

    def _elapsed(self, started: float) -> tuple[float, float]:
        now = time.monotonic()
        return self.train_seconds + now - started, now

    def train_step(self, batch: Batch, at: Progress) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses, backward, audits, optimizer, after_step. Nothing here waits for the device."""
        # Dropout draws from torch's global stream; naming it after the step makes the step a pure function.
        torch.manual_seed(seed_for(at.seed, "dropout", at.step))
        set_lr(self.optimizer, lr_factor(self.protocol.schedule, at.step, at.total))
        batch = batch.map(self._to_device)
        truth, batch = batch.truth, replace(batch, truth=ABSENT)
        self.method.notes.clear()
        dtype = DTYPES.get(self.protocol.precision)
        with torch.autocast(torch.device(self.device).type, dtype=dtype, enabled=dtype is not None):
            terms = self.method.losses(batch, at)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self._audit(truth, at)
        if self.protocol.clip is not None:
            self.scaler.unscale_(self.optimizer)
            groups = self.optimizer.param_groups
            nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], self.protocol.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.method.after_step(at)
        self.non_finite = torch.where(total.detach().isfinite(), 0, self.non_finite + 1)
        return total.detach(), {name: term.detach() for name, term in terms.items()}

    def _audit(self, truth: Tensor | None, at: Progress) -> None:
        """The figures of the truth become notes. Without the truth they are dropped, with all they hold."""
        audits = dict(self.method.audits)
        self.method.audits.clear()
        if truth is not None:
            # A figure that draws numbers must not move the stream of the step.
            with torch.no_grad(), torch_seeded(at.seed, "audit", at.step):
                for name, figure in audits.items():
                    self.method.note(name, figure(truth))

    def _to_device(self, tensor: Tensor) -> Tensor:
        layout = torch.channels_last if tensor.dim() == 4 else torch.preserve_format
        return tensor.to(self.device, memory_format=layout, non_blocking=True)

    def _check_losses(self) -> None:
        if self.non_finite >= NON_FINITE_STEPS:
            self._refuse_non_finite()

    def _refuse_non_finite(self) -> None:
        kept = (
            f"the last good state is in {self.folder.checkpoint}"
            if self.folder.checkpoint.exists()
            else "none saved"
        )
        raise BenchError(
            f"the loss or the weights are not finite by step {self.step}; stopped ({kept}). "
            "Lower protocol.optimizer.lr, set protocol.clip, or use --precision fp32."
        )

    # State --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint, unless the weights are not finite: then the one before stays."""
        state = self.method.state_dict()
        if not all(bool(value.isfinite().all()) for value in state.values() if value.is_floating_point()):
            self._refuse_non_finite()
        checkpoint.save(
            self.folder.checkpoint,
            {
                "run_id": self.plan.run_id,
                "step": self.step,
                "method": state,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "curve": [point.model_dump() for point in self.curve],
                "train_seconds": self.train_seconds,
                "non_finite": self.non_finite,
            },
        )

    def restore(self) -> None:
        """Go on from the folder's checkpoint."""
        state = checkpoint.load(self.folder.checkpoint, self.device)
        if state["run_id"] != self.plan.run_id:
            raise ConfigError(
                f"{self.folder.checkpoint} belongs to run {state['run_id']}, not {self.plan.run_id}."
            )
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.train_seconds = state["train_seconds"]
        self.curve = [Point(**point) for point in state["curve"]]
        self.non_finite = state["non_finite"]
        self.display.say(f"resuming at step {self.step} of {self.protocol.steps}")

    # Scoring ------------------------------------------------------------------------------------------------

    def _counts(self, module: nn.Module, name: str) -> np.ndarray:
        ids = self.plan.split.eval
        self.display.start(f"score {name}", len(ids))

        def on_image(done: int) -> None:
            self.display.update(done)
            self.stop.check()

        inference = Inference(self.protocol.evaluation, self.protocol.crop)
        return evaluate(module, self.dataset, ids, inference, self.device, on_image)

    def _curve_is_due(self) -> bool:
        every = self.protocol.evaluation.every
        missing = all(point.step != self.step for point in self.curve)
        return bool(every) and 0 < self.step < self.protocol.steps and self.step % every == 0 and missing

    def _evaluate_for_curve(self, log: Log) -> None:
        try:
            miou = score(self._counts(self.method.predictor(), "curve").sum(0)).miou
        except Interrupted:
            self.save()
            raise
        self.curve.append(Point(step=self.step, miou=miou))
        log.write({"step": self.step, "miou": miou})

    def finish(self) -> Result:
        """Score the last weights, student and predictor, and write the result: the run is done."""
        started = time.monotonic()
        predictor = self.method.predictor()
        counts = {"predictor": self._counts(predictor, "predictor")}
        counts["student"] = (
            counts["predictor"] if predictor is self.method.net else self._counts(self.method.net, "student")
        )
        scores = {name: score(value.sum(0)) for name, value in counts.items()}
        split, method = self.plan.split, self.plan.method
        result = Result(
            run_id=self.plan.run_id,
            dataset=self.config.dataset,
            split=self.config.split,
            method=method.name,
            method_version=method.version,
            seed=self.config.seed,
            protocol=self.protocol.name,
            protocol_hash=self.protocol.hash,
            steps=self.protocol.steps,
            images={**split.counts, **self._opened()},
            classes=list(self.dataset.classes),
            student=scores["student"],
            predictor=scores["predictor"],
            curve=[*self.curve, Point(step=self.step, miou=scores["predictor"].miou)],
            train_seconds=self.train_seconds,
            eval_seconds=time.monotonic() - started,
            peak_memory_mib=self._peak_memory(),
            split_digests=split.digests,
            weights_digest=self.weights.digest if self.weights else None,
            config=self.config.record(exclude={"machine": {"data_root", "out"}}),
            label_seconds=dict(self.dataset.label_seconds),
        )
        self.folder.write_counts(split.eval, counts)
        write_atomic(self.folder.weights, self._exported(predictor))
        self.folder.write_result(result)
        checkpoint.remove(
            self.folder.checkpoint
        )  # the result and the weights hold all that is needed from here on
        return result

    def _opened(self) -> dict[str, int]:
        """How many masks beside the split's grant a policy has read: they count as supervision."""
        report = self.plan.seeds.folder.read_report() if self.plan.seeds else None
        return {"opened": len(report.opened)} if report and report.opened else {}

    def _exported(self, predictor: nn.Module) -> bytes:
        about = {
            "classes": list(self.dataset.classes),
            "network": self.protocol.network.record(),
        }
        return to_safetensors(
            {name: value.cpu().contiguous() for name, value in exported(predictor).state_dict().items()},
            {"frugalseg": json.dumps(about)},  # one key: safetensors writes several in any order
        )

    def _peak_memory(self) -> float:
        if self.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
