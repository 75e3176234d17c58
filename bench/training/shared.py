"""A warm-up that runs of a seed share: trained by the first of them, taken by the others.

The harness trains it alike for every method (see `Method.warmup_steps`), so what another run has trained is,
bit for bit, what this one would train: weights, statistics, optimizer, the protocol's teacher, log and curve.
Random streams are named after the step, so there is no random state to take.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from bench import ranks
from bench.contents import changes
from bench.contents.code import by_room, classes_of, code_files
from bench.contents.gather import Gathered
from bench.contract import Progress
from bench.errors import DataError
from bench.machine import peak_memory_mib, waiter
from bench.plan import Plan
from bench.records import provenance
from bench.records.atomic import WriteError, write_atomic
from bench.records.schema import Contents, Point
from bench.records.shared_folders import WarmUpFolder
from bench.settings.schema import Machine
from bench.training import checkpoint
from bench.training.metrics_log import Log
from bench.training.session import contents_at_end, parts_of
from bench.training.trainer import Parts, Spent, Trainer
from datasets.splits import MASKS, SEEDS


@contextmanager
def shared_warm_up(trainer: Trainer) -> Iterator[None]:
    """Put a run at its start behind the warm-up that another one has trained; where there is none, let this
    run train it in the block, and leave it for others. A second process waits for the first one.

    Raises Interrupted while it waits.
    """
    folder = warm_up_folder(trainer.plan, trainer) if trainer.step == 0 else None
    if folder is None:
        yield
        return
    with ExitStack() as claim:
        try:
            if not _taken(trainer, folder):
                wait = waiter(trainer.display.say, trainer.stop, "trains this warm-up")
                claim.enter_context(folder.claimed(wait))
                if _taken(trainer, folder, again=True):
                    claim.close()
                else:
                    trainer.warmed_up = partial(_leave, trainer, folder, claim)
        except WriteError as error:
            trainer.display.say(f"the warm-up is trained and not shared: {error}")
        yield


def warm_up_folder(plan: Plan, parts: Parts | Trainer) -> WarmUpFolder | None:
    """Where the warm-up of a run at its start lies for others; None where it shares none.

    Named by all that decides a warm-up, but for code and data, which may change under a name.
    """
    decides = decides_warm_up(plan, parts)
    if decides is None:
        return None
    config, start = plan.config, _digest_of(parts.method.net)  # of its seed, weights and form
    id = hashlib.sha256(json.dumps([decides, start], sort_keys=True).encode()).hexdigest()[:8]
    return WarmUpFolder.of(config.machine.runs, config.dataset, config.split, config.seed, id)


def decides_warm_up(plan: Plan, parts: Parts | Trainer) -> dict[str, Any] | None:
    """All that decides a run's warm-up but the network it starts with; None where it shares none."""
    config, batches = plan.config, parts.batches
    steps = parts.method.warmup_steps(config.protocol.steps)
    if ranks.count() > 1:  # sums are rounded otherwise, and the others would wait for it
        return None
    if not config.machine.share_warmup or not 0 < steps < config.protocol.steps:
        return None
    return {
        "steps": steps,
        "protocol": config.protocol.hash,
        "inputs": plan.input_digests,
        "tags": config.tags,
        "labeled": [asdict(batches.sources[name]) for name in (MASKS, SEEDS) if name in batches.sources],
        "colours": batches.views.colours,
        "log_every": config.machine.log_every,
        "machine": _machine(config.machine, parts.device),
    }


def missing_warm_ups(runs: Iterable[tuple[Plan, dict[str, Any]]]) -> int:
    """How many warm-ups of several runs at their start are not there yet.

    Args:
        runs: Each with what `decides_warm_up` says of it, or of one that differs in the seed alone.
    """
    sharing: dict[str, list[Plan]] = defaultdict(list)
    for plan, decides in runs:
        place = [plan.config.dataset, plan.config.split, plan.config.seed]
        sharing[json.dumps([*place, decides | {"inputs": plan.input_digests}], sort_keys=True)].append(plan)
    return sum(len(plans) > 1 and not _is_there(plans[0]) for plans in sharing.values())


def _is_there(plan: Plan) -> bool:
    config = plan.config
    if not WarmUpFolder.any_of(config.machine.runs, config.dataset, config.split, config.seed):
        return False
    folder = warm_up_folder(plan, parts_of(plan, fetch=False))  # only a network tells which
    return folder is not None and folder.state.exists()


def _machine(machine: Machine, device: str) -> list[Any]:
    """List what decides how sums are rounded: a library chooses its loops by the model of the CPU."""
    kind = device.partition(":")[0]
    gpu = torch.cuda.get_device_name(device) if kind == "cuda" else None
    cpu = [provenance.cpu_model(), torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]
    return [torch.__version__, kind, gpu, *cpu, machine.compile, machine.deterministic]


def _digest_of(net: nn.Module) -> str:
    """Of a network's layers, values, and which of them are trained."""
    trained = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    hashed = hashlib.sha256(repr((str(net), trained)).encode())
    for name, value in net.state_dict().items():
        hashed.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        hashed.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return hashed.hexdigest()


def _contents(trainer: Trainer) -> Contents:
    """Return what the warm-up is made of.

    It is what the run is made of, but for the method's code. Where no score falls into the warm-up, the
    scored images are left out too.
    """
    whole, every = trainer.contents, trainer.protocol.evaluation.every
    assert whole is not None, "session.start() has gathered them"
    code = by_room(code_files((), classes_of(trainer.dataset), seeds=False))
    scored = whole.scored if 0 < every <= trainer.warmup else ""
    return whole.model_copy(update={"code": code, "scored": scored, "weights": None})


# To others --------------------------------------------------------------------------------------------------


def _leave(trainer: Trainer, folder: WarmUpFolder, claim: ExitStack, log: Log) -> None:
    """Write the state of a run that is at the end of its warm-up, and let those go on that wait for it.

    Raises DataError where the data have changed meanwhile, and BenchError where a weight is not finite.
    """
    trainer.warmed_up = None
    contents_at_end(trainer)
    net, teacher = trainer.method.net.state_dict(), trainer.teacher
    trainer.refuse_non_finite(net.values())
    names = {id(parameter): name for name, parameter in trainer.method.net.named_parameters()}
    state = {
        "contents": _contents(trainer).model_dump(),
        "net": net,
        "teacher": None if teacher is None else teacher.state_dict(),
        # By name: a method may train more than its network, at other places of the list.
        "optimizer": {names[id(of)]: s for of, s in trainer.optimizer.state.items() if id(of) in names},
        "scaler": trainer.scaler.state_dict(),
        "curve": [point.model_dump() for point in trainer.curve],
        "non_finite": trainer.non_finite,
        "seconds": trainer.train_seconds,
        "peak_memory_mib": peak_memory_mib(trainer.device),
        "log": log.state(),
        "lines": trainer.folder.metrics.read_text(),
    }
    try:
        checkpoint.save(folder.state, state)
    except WriteError as error:
        trainer.display.say(f"the warm-up is not kept for other runs: {error}")
    claim.close()


# From others ------------------------------------------------------------------------------------------------


def _taken(trainer: Trainer, folder: WarmUpFolder, again: bool = False) -> bool:
    """Whether a sound warm-up was there and is taken.

    Args:
        again: It has been asked before, so that nothing is said twice.
    """
    say = (lambda text: None) if again else trainer.display.say
    if not folder.state.exists():
        return False
    try:
        state = checkpoint.load(folder.state, trainer.device)
        before = Contents.model_validate(state["contents"])
    except (DataError, ValidationError, KeyError):
        say(f"the warm-up in {folder.path} is damaged, so it is trained again")
        return False
    if found := changes.changes(before, Gathered(_contents(trainer), {}, {})):
        say(f"the warm-up in {folder.path} is of others, so it is trained again: {changes.listed(found)}")
        return False
    _take(trainer, state)
    trainer.display.say(
        f"the warm-up of {trainer.step} steps is that of another run, in {folder.path}; its "
        f"{trainer.shared.seconds:.0f} s count as this run's"
    )
    return True


def _take(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put a trainer at its start behind the warm-up."""
    method, optimizer = trainer.method, trainer.optimizer
    method.net.load_state_dict(state["net"])
    if trainer.teacher is not None:
        trainer.teacher.load_state_dict(state["teacher"])
    names = {id(parameter): name for name, parameter in method.net.named_parameters()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = state["optimizer"]
    places = {place: names.get(id(parameter)) for place, parameter in enumerate(trained)}
    of_place = {place: kept[name] for place, name in places.items() if name in kept}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": of_place})
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.step = trainer.warmup
    last = Progress(trainer.step - 1, trainer.protocol.steps, trainer.config.seed, trainer.device)
    method.after_step(last)
    trainer.curve = [Point(**point) for point in state["curve"]]
    trainer.non_finite = state["non_finite"]
    trainer.train_seconds = state["seconds"]
    trainer.shared = Spent(state["seconds"], state["peak_memory_mib"])
    trainer.log_state = state["log"]
    write_atomic(trainer.folder.metrics, state["lines"].encode())
