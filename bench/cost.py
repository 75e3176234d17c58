"""The cost of a run on this machine: some of its steps are timed, and one is counted. A process of its own
measures one run, `python -m bench.cost` with its settings on standard input, and prints a line of JSON.

Nothing is kept: it trains in a folder that is removed, and fetches nothing.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from bench.cam_seeds import boxes
from bench.cam_seeds.make import activation_maps
from bench.cam_seeds.refine import BackgroundScores, seed_of
from bench.contract import Batch, Dataset, Progress
from bench.display import Display
from bench.errors import BenchError, ConfigError
from bench.machine import Stop, cores, memory, peak_memory_mib, trying_out
from bench.networks.segmenter import Segmenter
from bench.plan import Plan, SeedPlan, granted_tags, plan
from bench.records.folders import RunFolder
from bench.scoring.inference import Inference, evaluate, to_tensor
from bench.settings.resolve import resolve
from bench.sweeps.costs import MIB, Cost
from bench.training import session
from bench.training.metrics_log import Log
from bench.training.trainer import Parts, Trainer
from datasets.loaders import iterate, worker_failures

UNTIMED, TIMED = 4, 12  # steps: the first ones fill caches, queues and the loaders' buffers
SHORT_SECONDS = 8.0  # more steps, or images, are timed until they take so long
LONG_SECONDS, FEW = 30.0, 3  # where so few steps take so long, they are enough
IMAGES = 6  # that are scored at first, or get a seed
MOST_GROWTH = 4  # measured: memory grows by up to three times what a step keeps for its backward pass


def measure(run: Plan) -> Cost:
    """Time some steps of a run, a checkpoint and the scoring of some images, and count a step.

    Raises as the start of a run does, and ConfigError for one that is compiled.
    """
    config, steps = run.config, run.config.protocol.steps
    if config.machine.compile:
        raise ConfigError("--cost counts the steps of a run that is not compiled; leave --compile out.")
    with TemporaryDirectory(prefix="frugalseg-") as place:
        folder = RunFolder.of(Path(place), config.dataset, config.split, run.method.name, config.seed, "cost")
        parts = session.parts_of(run, fetch=False)
        _stand_in(run, parts)
        trainer = Trainer(replace(run, folder=folder), parts, Display(), Stop())
        trainer.measured = frozenset()  # the few steps that measure gradients are none of the many
        warmup = trainer.warmup
        early, _ = _timed(trainer, 0) if warmup else (0.0, None)
        middle = min(max(warmup, (warmup + steps) // 2), steps - UNTIMED - TIMED)
        later, batch = _timed(trainer, max(middle, 0))
        scoring = _score_seconds(trainer)
        saving = _save_seconds(trainer) * _saves(trainer, warmup * early + (steps - warmup) * later)
        peak, room = peak_memory_mib(parts.device), _room_mib(parts.device)
        counted = [_counted(trainer, batch, step) for step in (0, steps - 1)]
        saved = max(saved for _, saved in counted) / MIB
        state = _state_bytes(trainer) / MIB
        grown = _grown_mib(trainer, batch, saved, room - peak)
    return Cost(
        device=parts.device,
        steps=steps,
        warm_up_steps=warmup,
        warm_up_seconds=early,
        step_seconds=later,
        checkpoint_seconds=saving,
        score_seconds=scoring,
        seed_seconds=_seed_seconds(run.seeds, parts) if run.seeds else 0.0,
        box_seed_seconds=_box_seed_seconds(run, parts),
        flops=warmup * counted[0][0] + (steps - warmup) * counted[1][0],
        batch=(config.protocol.batch.labeled, config.protocol.batch.unlabeled),
        peak_mib=peak,
        grown_mib=grown,
        saved_mib=saved,
        state_mib=state,
        room_mib=room,
    )


def _stand_in(run: Plan, parts: Parts) -> None:
    """Read a blank mask where a seed or an earlier round's label is not made yet."""
    blank = partial(_blank, parts.dataset)
    if run.seeds and not run.seeds.folder.report.exists():
        parts.batches.seed_of = blank
    if run.labeler and not run.folder.pseudo_ledger.exists():
        parts.batches.label_of = blank
    if run.without_box_seed and parts.batches.sparse:
        parts.batches.sparse.seed_of = blank


def _blank(dataset: Dataset, id: str) -> np.ndarray:
    return np.zeros(dataset.image(id).shape[:2], np.uint8)


def _timed(trainer: Trainer, first: int) -> tuple[float, Batch]:
    """Train some steps from one on: the seconds of each, with its loading, and the last batch."""
    steps, config = trainer.protocol.steps, trainer.config
    untimed = min(UNTIMED, steps - first - 1)
    on_gpu = trainer.device.startswith("cuda")
    batches = iterate(trainer.batches, first, config.machine.workers, pin=on_gpu)
    tried = trying_out(on_gpu and not config.machine.deterministic)
    started, timed = time.monotonic(), 0
    with worker_failures(), closing(batches), tried:
        for timed, batch in enumerate(batches, 1 - untimed):
            at = Progress(first + untimed + timed - 1, steps, config.seed, trainer.device)
            trainer.train_step(batch, at)
            if timed == 0:
                _wait_for(trainer.device)
                started = time.monotonic()
            spent = time.monotonic() - started
            if timed >= (FEW if spent > LONG_SECONDS else TIMED) and spent > SHORT_SECONDS:
                break
        _wait_for(trainer.device)
        spent = time.monotonic() - started
    return spent / timed, batch


def _counted(trainer: Trainer, batch: Batch, step: int) -> tuple[int, int]:
    """Train a step: its floating point operations, and the bytes that it keeps for its backward pass."""
    own = {parameter.untyped_storage().data_ptr() for parameter in trainer.method.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    at = Progress(step, trainer.protocol.steps, trainer.config.seed, trainer.device)
    counter = FlopCounterMode(display=False)
    with counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.train_step(batch, at)
    return counter.get_total_flops(), sum(saved.values())


def _grown_mib(trainer: Trainer, batch: Batch, saved: float, left: float) -> float:
    """How much the peak of the memory grows with twice the images: measured, where that fits into what is
    left, else guessed from what a step keeps. MiB all."""
    guess = MOST_GROWTH * saved
    if guess > left:
        return guess
    before, steps = peak_memory_mib(trainer.device), trainer.protocol.steps
    twice = batch.map(lambda tensor: torch.cat([tensor, tensor]))
    for step in (0, steps - 1):
        trainer.train_step(twice, Progress(step, steps, trainer.config.seed, trainer.device))
    return max(peak_memory_mib(trainer.device) - before, saved)


def _state_bytes(trainer: Trainer) -> int:
    """Bytes of what lasts from step to step, and of the gradients."""
    held = [*trainer.method.parameters(), *trainer.method.buffers()]
    held += [] if trainer.teacher is None else [*trainer.teacher.parameters(), *trainer.teacher.buffers()]
    held += [one.grad for one in trainer.method.parameters() if one.grad is not None]
    held += [
        one for state in trainer.optimizer.state.values() for one in state.values() if torch.is_tensor(one)
    ]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in held}.values())


def _score_seconds(trainer: Trainer) -> float:
    """Of all scorings of a run: at its end each network that is recorded, and the points of its curve."""
    protocol, ids = trainer.protocol, trainer.plan.split.eval
    networks = {id(trainer.headline()), id(trainer.method.net)}
    if trainer.teacher is not None:
        networks.add(id(trainer.method.predictor()))
    every = protocol.evaluation.every
    points = (protocol.steps - 1) // every if every else 0
    inference = Inference(protocol.evaluation, protocol.crop)
    first = later = 0.0
    done, chunk = 0, IMAGES
    while done < len(ids) and (done == 0 or first + later < SHORT_SECONDS):
        some = ids[done : done + chunk]
        marks = [time.monotonic()]
        for _ in range(2):  # a data set may have its images at hand the second time
            evaluate(trainer.headline(), trainer.dataset, some, inference, trainer.device)
            marks.append(time.monotonic())
        first, later = first + marks[1] - marks[0], later + marks[2] - marks[1]
        done, chunk = done + len(some), 2 * chunk
    return (first + later * (len(networks) + points - 1)) / done * len(ids)


def _saves(trainer: Trainer, train_seconds: float) -> int:
    """Count the checkpoints of a run."""
    machine, steps = trainer.config.machine, trainer.protocol.steps
    by_steps = (steps - 1) // machine.checkpoint_every if machine.checkpoint_every else 0
    return 1 + max(by_steps, int(train_seconds / (60 * machine.checkpoint_minutes)))


def _save_seconds(trainer: Trainer) -> float:
    trainer.folder.path.mkdir(parents=True)
    with closing(Log(trainer.folder, 0, tensorboard=False)) as log:
        started = time.monotonic()
        trainer.save(log)
        return time.monotonic() - started


def _seed_seconds(seeds: SeedPlan, parts: Parts) -> float:
    """Of the maps and the refinement of all CAM seeds, by an untrained classifier."""
    run, settings, dataset = seeds.classifier, seeds.settings, parts.dataset
    net = Segmenter(run.config.protocol.network, len(dataset.classes)).eval().to(parts.device)
    tags, ids = granted_tags(run, dataset), run.split.tags
    mapping = refining = 0.0
    for id in ids[:IMAGES]:
        image, classes = dataset.image(id), [c for c in tags[id] if c != dataset.background]
        started = time.monotonic()
        maps = activation_maps(net, to_tensor(image, parts.device), settings)[0, classes].cpu()
        mapped = time.monotonic()
        seed_of(
            image,
            maps,
            classes,
            dataset.background,
            settings,
            BackgroundScores(settings.strict, settings.loose),
        )
        mapping, refining = mapping + mapped - started, refining + time.monotonic() - mapped
    jobs = run.config.machine.threads or cores()
    return (mapping + refining / jobs) / len(ids[:IMAGES]) * len(ids)


def _box_seed_seconds(run: Plan, parts: Parts) -> float:
    """Of the seeds of boxes that are not made yet."""
    ids, sparse = run.without_box_seed, parts.batches.sparse
    if not ids or run.box_seeds is None or sparse is None:
        return 0.0
    settings, dataset = run.box_seeds.settings, parts.dataset
    boxes.check_settings(settings)
    started = time.monotonic()
    for id in ids[:IMAGES]:
        boxes.seed_of(dataset.image(id), sparse.marks.boxes(id), dataset.background, settings)
    each = (time.monotonic() - started) / len(ids[:IMAGES])
    return each * len(ids) / (run.config.machine.threads or cores())


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _room_mib(device: str) -> float:
    """Return the memory that a run may have, in MiB: what is free, and what this process holds of it."""
    if device.startswith("cuda"):
        return (torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()) / MIB
    total, free = memory()
    return total / MIB if free is None else free / MIB + peak_memory_mib(device)


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(measure(plan(resolve({}, Path("/dev/stdin")))))))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
