"""The start of a run's training: may it go on, what it is made of, and the record of this start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import torch

from bench import ranks
from bench.contents import changes
from bench.contents.gather import Gathered, of_run
from bench.contract import Dataset, Method, Net, Task
from bench.display import Display
from bench.errors import ConfigError, DataError
from bench.labels import IGNORE
from bench.machine import (
    Stop,
    check_compiler,
    choose_device,
    cores,
    keep_freed_memory,
    lacks_memory,
    threads_for,
    use_device,
)
from bench.networks.segmenter import Segmenter
from bench.networks.weights import Weights, load_weights
from bench.plan import Plan, data_root, dataset_of, granted_tags, refuse_unequal
from bench.randomness import torch_seeded
from bench.records import provenance
from bench.records.atomic import write_atomic
from bench.records.schema import Contents, Listing, SeedReport
from bench.scoring import pseudo_labels
from bench.scoring.inference import Inference, evaluate
from bench.settings import normalisation
from bench.settings.plain_yaml import read_yaml
from bench.settings.reading import validate
from bench.settings.resolve import command
from bench.settings.schema import RunConfig
from bench.training import checkpoint
from bench.training.balance import Balance, balance, labeled_loss
from bench.training.metrics_log import kept_lines
from bench.training.ranks import joint_norm
from bench.training.sparse import read_seed, sparse_streams
from bench.training.trainer import Parts, Trainer, refuse_other
from datasets.decode import refuse_channels
from datasets.findings import refuse_unfit
from datasets.loaders import StepBatches
from datasets.lookup import all_missing, summary
from datasets.rasters import WrongChannels

MOST_PASSES = 2000  # of the network for one scored image; a photograph in windows at six scales takes 200


def goes_on(plan: Plan, resume: bool, overwrite: bool) -> bool:
    """Whether the run goes on from a checkpoint in its folder.

    Raises:
        ConfigError: There is one and neither `resume` nor `overwrite` is given, or it is of another
            configuration.
        DataError: The configuration beside it is damaged.
    """
    if not plan.folder.checkpoint.exists() or overwrite:
        return False
    if not resume:
        raise ConfigError(
            f"{plan.folder.path} holds an interrupted run; give --resume to go on or --overwrite."
        )
    file = plan.folder.config
    try:
        there = validate(RunConfig, read_yaml(file), file=file)
    except ConfigError as error:
        raise DataError(f"{error}\nThe run cannot go on without it; {plan.folder.mend}") from error
    # The folder's name carries the id: another configuration in it is a renamed folder or an edited file.
    if there.run_id(plan.method.version, plan.input_digests) != plan.run_id:
        raise ConfigError(f"{file} is another configuration than the one asked for; use another --out.")
    return True


def changed(plan: Plan, anyway: bool) -> list[str]:
    """Say what changed since the last start of a run that goes on, in words.

    Raises ConfigError where anything has, unless the run is to go on `anyway`.
    """
    found = changes.since_begun(plan)
    if found and not anyway:
        raise ConfigError(
            f"{plan.folder.path} holds an interrupted run, but this has changed since: "
            f"{changes.listed(found)}; start it again with --overwrite, or go on with --resume --anyway, "
            "which its record will say."
        )
    return found


def check_state(plan: Plan, anyway: bool) -> None:
    """Refuse a saved state that a run would not go on from, for `--dry-run`; it is read whole.

    Raises ConfigError or DataError.
    """
    folder = plan.folder
    state = checkpoint.load(folder.checkpoint, "cpu")
    contents, made_of = of_run(plan).contents, state.get("contents") or {}
    if contents.encoder is None:  # of the hub, from which nothing is fetched here
        contents = contents.model_copy(update={"encoder": made_of.get("encoder")})
    refuse_other(state, plan, contents, anyway)
    folder.read_provenance()
    kept_lines(folder.metrics, state["step"], state.get("log") or {})


def start(
    plan: Plan,
    display: Display,
    stop: Stop,
    goes_on: bool = False,
    changed: Sequence[str] = (),
    anyway: bool = False,
    seeds: SeedReport | None = None,
) -> Trainer:
    """Build the trainer, restored where the run goes on, and record this start beside the run.

    Args:
        changed: What has changed since the last start of a run that goes on all the same.
        anyway: Go on from a checkpoint of other code or data.
        seeds: On the CAM seeds that it learns from; what had changed when they were taken, its record says.
    """
    # All refuse what they must before anything is removed.
    with ranks.together():
        parts = parts_of(plan)  # first, since it counts all missing files
        gathered, made = of_run(plan), provenance.collect(command(plan.config), cores())
    _say_notes(parts, display)
    trainer = Trainer(plan, parts, display, stop)
    encoder = {"encoder": trainer.weights.digest if trainer.weights else None}  # fetched from the hub by now
    trainer.contents = gathered.contents.model_copy(update=encoder)
    _refuse_unlike(replace(gathered, contents=trainer.contents))
    said = [
        f"of its CAM seeds: {what}" for what in (seeds.contents.anyway if seeds and seeds.contents else ())
    ]
    if goes_on:
        with ranks.together():
            listing = plan.folder.read_listing()
            before = listing.contents.anyway if listing else []
            unlike, marked = trainer.restore(anyway)
        said = [*before, *marked, *changed, *said]
        said += ["more than is known"] if unlike and not changed and not before else []
    trainer.contents = trainer.contents.model_copy(update={"anyway": list(dict.fromkeys(said))})
    weights = trainer.method.task.class_weights
    made |= {} if weights is None else {"class_weights": list(weights)}
    made |= {} if ranks.count() == 1 else {"ranks": ranks.count()}
    listing = gathered.listing.model_copy(update={"contents": trainer.contents})
    ranks.first_alone(lambda: _record_start(trainer, goes_on, listing, made))
    return trainer


def _record_start(trainer: Trainer, goes_on: bool, listing: Listing, made: Mapping[str, Any]) -> None:
    plan = trainer.plan
    if not goes_on:
        plan.folder.clear()
    write_atomic(plan.folder.config, plan.config.to_yaml().encode())
    plan.folder.write_listing(listing)
    plan.folder.add_provenance(
        {"first_step": trainer.step, **made, "contents": listing.contents.model_dump(mode="json")}
    )


def _refuse_unlike(gathered: Gathered) -> None:
    """Raise ConfigError where a rank has other code or data than rank 0."""
    first = ranks.first_alone(lambda: gathered.contents)
    with ranks.together():
        if found := changes.changes(first, gathered) if ranks.number() else []:
            raise ConfigError(
                f"process {ranks.number()} of this run has other code or data than process 0: "
                f"{changes.listed(found)}; give all of them the same checkout and the same data."
            )


def contents_at_end(trainer: Trainer) -> Contents:
    """Return what the run was made of.

    Raises DataError where an image or mask changed while it trained: its number would be of neither state.
    """
    before, now = trainer.contents, of_run(trainer.plan)
    assert before is not None, "start() has gathered them"
    same_code = now.contents.model_copy(update={"code": before.code, "encoder": before.encoder})
    now = replace(now, contents=same_code)
    if changes.changes(before, now):
        found = changes.changes(before, now, trainer.folder.read_listing())
        raise DataError(
            f"while {trainer.folder.path} trained, this has changed: {changes.listed(found)}; its number "
            "would be of neither state, so start it again with --overwrite."
        )
    return before


def trainer_of(plan: Plan, display: Display, stop: Stop) -> Trainer:
    """Give a trainer at step 0. Raises ConfigError or DataError for what cannot be trained."""
    parts = parts_of(plan)
    _say_notes(parts, display)
    return Trainer(plan, parts, display, stop)


def _say_notes(parts: Parts, display: Display) -> None:
    if parts.weights and parts.weights.said:
        display.say(parts.weights.said)
    for note in (*parts.dataset.notes, *parts.said):
        display.say(note)


def parts_of(plan: Plan, fetch: bool = True) -> Parts:
    """Make what a run trains with: its data, its weights, its method on its device, its batches.

    Raises ConfigError or DataError for what cannot be trained or, at the end, scored.

    Args:
        fetch: False leaves out weights of the hub, to check all else.
    """
    config, protocol, machine = plan.config, plan.config.protocol, plan.config.machine
    device = choose_device(machine.device)
    refuse_unequal(plan, ranks.count())
    use_device(device, protocol.precision, machine.deterministic)
    if machine.compile:
        check_compiler(device)
    torch.set_num_threads(threads_for(machine.threads, machine.workers, ranks.on_this_machine()))
    if device == "cpu":
        keep_freed_memory()
    dataset = dataset_of(config)
    _refuse_missing(plan, dataset)
    _refuse_channels(plan, dataset)
    refuse_unfit(dataset, plan.split)
    weights = load_weights(protocol.network.weights, protocol.network.encoder, fetch)
    balanced = balance(plan, dataset)
    method = _method(plan, dataset, weights, device, balanced)
    classes = len(dataset.classes)
    batches = StepBatches(
        dataset,
        plan.split,
        protocol,
        needs=plan.method.needs,
        views=method.views,
        seed=config.seed,
        audit=machine.audit,
        tags=granted_tags(plan, dataset),
        rare=balanced.rare,
        seed_of=partial(read_seed, plan.seeds.folder, classes) if plan.seeds else None,
        label_of=partial(pseudo_labels.read, plan.folder, classes) if plan.labeler else None,
        rank=ranks.number(),
        ranks=ranks.count(),
        sparse=sparse_streams(plan, dataset),
    )
    parts = Parts(dataset, weights, method, batches, device, balanced.said)
    _rehearse_scoring(plan, parts)
    if machine.compile:
        for net in [module for module in method.modules() if isinstance(module, Net)]:
            net.compile()
    return parts


def _rehearse_scoring(plan: Plan, parts: Parts) -> None:
    """Score one image, for what would otherwise fail when all is trained: windows, scales, a predictor."""
    protocol, id = plan.config.protocol, plan.split.eval[0]
    inference = Inference(protocol.evaluation, protocol.crop)
    try:
        image = parts.dataset.image(id)
        if image.shape[2] != protocol.network.channels:
            raise WrongChannels.of(f"{plan.config.dataset}: {id}", image.shape[2], protocol.network.channels)
        passes = inference.passes(image.shape)
        if passes > MOST_PASSES:
            raise ValueError(f"it takes {passes} passes; raise window or stride_share, or lower scales")
        evaluate(parts.method.predictor(), parts.dataset, [id], inference, parts.device)
    except (ValueError, RuntimeError) as error:
        if lacks_memory(error):
            raise
        raise ConfigError(
            f"{plan.config.dataset}: {id} cannot be scored with protocol.evaluation as it is: {error}."
        ) from error


def _refuse_missing(plan: Plan, dataset: Dataset) -> None:
    """Raise DataError, with all of them counted, for images and masks that the run will open and that are not
    there: not after days of training."""
    split, (images, masks) = plan.split, _opened(plan)
    missing = all_missing(dataset, images, masks)
    if missing:
        count = len({*images, *masks})
        raise DataError(summary(missing, count, f"images of the split {split.name!r} of {split.dataset}"))


def _opened(plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids whose images a run opens, and those whose masks it opens.

    Scored images are among the second alone.
    """
    split, needs = plan.split, plan.method.needs
    set_aside = set(split.none)
    images = tuple(id for id in split.train if "none" in needs or id not in set_aside)
    return images, (*(split.pixel if "pixel" in needs else ()), *split.eval)


def _refuse_channels(plan: Plan, dataset: Dataset) -> None:
    """Raise DataError for images of another number of channels than the network has, by their headers."""
    channels = plan.config.protocol.network.channels
    images, masks = _opened(plan)
    wrong = []
    for id in dict.fromkeys((*images, *masks)):
        for path in dataset.files(id, "image") or ():
            try:
                refuse_channels(path, channels)
            except WrongChannels as error:
                wrong.append(error)
    if wrong:
        more = f" So it is with {len(wrong) - 1} more." if len(wrong) > 1 else ""
        raise DataError(f"{wrong[0]}{more}")


def _method(plan: Plan, dataset: Dataset, weights: Weights | None, device: str, balanced: Balance) -> Method:
    config = plan.config
    cls, network, classes = plan.method.cls, config.protocol.network, tuple(dataset.classes)
    measured = normalisation.measured(network, data_root(config), config.dataset)
    images = None if measured is None else normalisation.read(measured)
    new_net = another_net(config.seed, lambda: Segmenter(network, len(classes), weights, images))
    equal = config.protocol.views != "published"
    loss = labeled_loss(config.protocol, balanced.weights, device)
    task = Task(classes, loss, dataset.background, new_net, equal, balanced.weights)
    _check_classes(config.dataset, len(classes))
    try:
        plan.hparams.check(len(classes), config.protocol.steps)
    except ValueError as error:
        raise ConfigError(f"method.{error}.") from error
    with torch_seeded(config.seed, "init"):
        net = Segmenter(network, len(classes), weights, images)
        method = cls(net, task, plan.hparams)
    joint_norm(method, device)
    method.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    return method


def another_net(seed: int, build: Callable[[], Net]) -> Callable[[], Net]:
    """Make the function that `Task.new_net` calls.

    It calls `build` with a draw of its own for each call, told apart by a counter.
    """
    numbers = count()

    def new_net() -> Net:
        with torch_seeded(seed, "new_net", next(numbers)):
            return build()

    return new_net


def _check_classes(dataset: str, classes: int) -> None:
    if classes > IGNORE:
        raise ConfigError(
            f"{dataset} has {classes} classes, but a mask holds at most {IGNORE} classes: ids "
            f"0..{IGNORE - 1}, and {IGNORE} for no label; shorten its classes.txt."
        )
