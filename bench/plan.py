"""A run before it starts: its split, its id and its folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, DataError, read_file, resolved
from bench.labels import STREAMS
from bench.randomness import numpy_for
from bench.records.folders import RunFolder
from bench.records.shared_folders import BoxSeedFolder, SeedFolder
from bench.settings import normalisation, registry
from bench.settings.base import Knobs, expanded
from bench.settings.box_seeds import BoxSeeds
from bench.settings.reading import merge, validate
from bench.settings.registry import MethodInfo
from bench.settings.resolve import resolve
from bench.settings.schema import CamSeeds, RunConfig
from datasets.splits import EVAL, UNLABELED, Split, batch_sources, find_split
from datasets.tags import TagTable, load_tags

if TYPE_CHECKING:
    from bench.contract import Dataset


@dataclass(frozen=True)
class Plan:
    """All that a run is, before it starts."""

    config: RunConfig
    method: MethodInfo
    split: Split
    input_digests: dict[str, str]  # of the split's lists, of CAM seeds and of a weights file
    run_id: str
    folder: RunFolder
    seeds: SeedPlan | None = None  # the CAM seeds to make first; None if the split grants no tags
    box_seeds: BoxSeedPlan | None = None  # the seeds of boxes to make first; None if the split grants none
    labeler: Plan | None = None  # the run that labels the unlabeled images first; None without rounds

    @property
    def unlabeled(self) -> tuple[str, ...]:
        """The images of its unlabeled stream."""
        batch = self.config.protocol.batch
        sources = batch_sources(self.split, self.method.needs, batch.labeled, batch.unlabeled)
        return tuple(sources[UNLABELED].ids) if UNLABELED in sources else ()

    @property
    def without_box_seed(self) -> tuple[str, ...]:
        """The images whose boxes have no seed yet."""
        boxes = self.box_seeds
        return tuple(id for id in self.split.boxes if boxes and not boxes.folder.seed(id).exists())

    @cached_property
    def hparams(self) -> Knobs:
        """The method's hyperparameters, as its class reads them from the configuration."""
        given = {key: value for key, value in self.config.method.items() if key != "name"}
        return validate(self.method.cls.HParams, given, "method")


@dataclass(frozen=True)
class BoxSeedPlan:
    """Seeds of boxes before they are made; all runs share them."""

    settings: BoxSeeds
    folder: BoxSeedFolder


@dataclass(frozen=True)
class SeedPlan:
    """CAM seeds before they are made; all weak runs of one seed share them."""

    classifier: Plan
    settings: CamSeeds
    folder: SeedFolder

    @property
    def opened(self) -> tuple[str, ...]:
        """The tagged images whose masks the policy opens to choose background scores."""
        ids = self.classifier.split.tags
        if self.settings.policy == "heldout":
            order = numpy_for(self.classifier.config.seed, "heldout").permutation(len(ids))
            return tuple(sorted(ids[i] for i in order[: self.settings.heldout]))
        return ids if self.settings.policy == "oracle" else ()


def refuse_unequal(plan: Plan, processes: int) -> None:
    """Raise ConfigError where this number of processes cannot share the batches of a run, or of one that it
    needs first, in equal parts."""
    before = [plan.labeler] if plan.labeler else []
    for setting, one in [("", run) for run in (plan, *before)] + (
        [("cam_seeds.", plan.seeds.classifier)] if plan.seeds else []
    ):
        for stream, kinds in (("labeled", {"pixel", "tags"}), ("unlabeled", {"none"})):
            size = getattr(one.config.protocol.batch, stream)
            if kinds.intersection(one.method.needs) and size % processes:
                raise ConfigError(
                    f"{setting}protocol.batch.{stream} is {size}, and {processes} processes cannot share it "
                    "in equal parts; start a number of them that divides it."
                )


def data_root(config: RunConfig) -> Path | None:
    """Give the configuration's data root, else $BENCH_DATA, else None."""
    place = config.machine.data_root or os.environ.get("BENCH_DATA")
    return expanded(place) if place else None


def dataset_of(config: RunConfig) -> Dataset:
    """Load the data set of a configuration, whose images are to have the channels of its network."""
    dataset = registry.load_dataset(config.dataset, data_root(config))
    dataset.channels = config.protocol.network.channels
    return dataset


def plan(config: RunConfig, split: Split | None = None) -> Plan:
    """Settle all of a run that can be known before any data is read, and refuse what cannot run.

    Args:
        split: That of the configuration, where it has been read already.

    Raises ConfigError where the split does not grant what the method needs, or grants too few images for a
    batch.
    """
    method = registry.describe_method(config.method["name"])
    split = split or find_split(config.dataset, config.split, data_root(config), config.draw, config.scored)
    counts = split.counts
    # A tagged image counts twice: as labeled (by its CAM seed) and as unlabeled (with its tags). So does one
    # with points, strokes or boxes.
    weak = counts["tags"] + sum(map(len, split.sparse.values()))
    granted = {"pixel": counts["pixel"] + weak, "tags": counts["tags"], "none": counts["none"] + weak}
    for kind in sorted(method.needs):
        if not granted[kind]:
            has = ", ".join(f"{count} {name}" for name, count in counts.items() if count and name != EVAL)
            raise ConfigError(
                f"method {method.name!r} needs {STREAMS[kind]} images, but split {config.split!r} of "
                f"{config.dataset!r} has none (it grants {has}). Choose another split or method."
            )
    protocol = config.protocol
    batch_sources(
        split,
        method.needs,
        protocol.batch.labeled,
        protocol.batch.unlabeled,
        least=protocol.network.least_batch(protocol.crop),
    )
    inputs = {**split.digests, **_weights_digest(config), **_measured_digest(config)}
    labeler = _labeler_plan(config, method, split) if method.cls.rounds else None
    if labeler is not None:
        inputs["labeler"] = labeler.run_id
    seeds = seed_plan(config, split) if split.tags and "pixel" in method.needs else None
    if seeds is None:
        config = config.model_copy(update={"cam_seeds": None})
    else:
        inputs["cam_seeds"] = seeds.folder.seed_id
    boxes = _box_seed_plan(config) if split.boxes and "pixel" in method.needs else None
    if boxes is None:
        config = config.model_copy(update={"box_seeds": BoxSeeds()})
    else:
        inputs["box_seeds"] = boxes.settings.seed_id
    run_id = config.run_id(method.version, inputs)
    place = (config.machine.runs, config.dataset, config.split, method.name)
    folder = RunFolder.of(*place, config.seed, run_id, config.draw)
    return Plan(config, method, split, inputs, run_id, folder, seeds, boxes, labeler)


def saved_plan(run: Path, flags: Mapping[str, Any]) -> Plan:
    """Plan a run that was begun, from the settings in its folder; it goes on in that folder.

    Args:
        run: Such as runs/shapes/1_16/fixmatch/0-1234abcd.
        flags: What a command line adds, as `resolve` takes it.

    Raises:
        DataError: The folder holds no run, or a damaged result.
        ConfigError: The run is done, or its settings are those of another folder.
    """
    folder = RunFolder(run)
    if folder.read_result() is not None:
        raise ConfigError(
            f"{run} is done; `show {run}` draws its pictures, and `run --config {folder.config} --overwrite` "
            "starts it again."
        )
    if not folder.config.exists():
        raise DataError(
            f"{run} holds no run that can go on: there is no {folder.config.name}. Give the folder of a run, "
            "such as runs/shapes/1_16/fixmatch/0-1234abcd, or start it with `run`."
        )
    deep = len(resolved(run).parents) > 3
    out = str(folder.root if deep else run)
    try:
        config = resolve(merge(flags, {"machine": {"out": out}}), folder.config)
    except ConfigError as error:
        raise DataError(f"{error}\nThe run cannot go on without it; {folder.mend}") from error
    planned = plan(config)
    if resolved(planned.folder.path) != resolved(run):
        raise ConfigError(
            f"{folder.config} is of the run {planned.folder.path}, not of this folder: one of them was "
            f"renamed or edited. Undo that, or start anew with `run --config {folder.config}`."
        )
    return planned


def _box_seed_plan(config: RunConfig) -> BoxSeedPlan:
    settings = config.box_seeds
    return BoxSeedPlan(settings, BoxSeedFolder.of(config.machine.runs, config.dataset, settings.seed_id))


def _labeler_plan(config: RunConfig, method: MethodInfo, split: Split) -> Plan:
    """Plan the run whose last weights label the unlabeled images of a method with rounds: the same one that
    `run --method` of its name does. Raises ConfigError for a method that cannot be it."""
    assert method.cls.rounds is not None, "asked of methods with rounds alone"
    labeler = registry.describe_method(method.cls.rounds.labeler)
    if labeler.cls.rounds is not None or set(labeler.needs) != {"pixel"}:
        raise ConfigError(
            f"method {method.name!r} has its images labeled by {labeler.name!r}, which learns from more than "
            "labeled images; name another one in its `rounds`."
        )
    knobs = labeler.knobs().model_dump(mode="json")
    return plan(config.model_copy(update={"method": {**knobs, "name": labeler.name}}), split)


def seed_plan(config: RunConfig, split: Split) -> SeedPlan:
    """Plan the CAM seeds of a run on a split that grants tags."""
    settings = config.cam_seeds
    if settings is None:
        raise ConfigError(
            f"split {config.split!r} grants tags, and the configuration has no cam_seeds, as that of a run "
            f"without tags; give the file of its protocol too: --protocol {config.protocol.name}.yaml."
        )
    batch = settings.protocol.batch
    maker = registry.describe_method(settings.maker)
    batch_sources(split, maker.needs, batch.labeled, batch.unlabeled, "cam_seeds.protocol.batch")
    method = {"name": maker.name, **maker.knobs().model_dump(mode="json")}
    update = {"method": method, "protocol": settings.protocol, "cam_seeds": None}
    classifier = plan(config.model_copy(update=update), split)
    if settings.policy == "heldout" and settings.heldout > len(split.tags):
        raise ConfigError(
            f"cam_seeds.heldout is {settings.heldout}, but split {split.name!r} has {len(split.tags)} tagged "
            "images."
        )
    folder = SeedFolder.of(
        config.machine.runs,
        config.dataset,
        config.split,
        config.seed,
        settings.map_id(classifier.run_id),
        settings.seed_id(classifier.run_id),
        config.draw,
    )
    return SeedPlan(classifier, settings, folder)


def _weights_digest(config: RunConfig) -> dict[str, str]:
    """Digest the content of a weights file: its path does not identify it, as a package or the hub does."""
    path = config.protocol.network.weights_file
    if path is None:
        return {}
    if not path.is_file():
        raise DataError(
            f"no weights file {path}; protocol.network.weights is a file, none, hub or package:..."
        )
    with open(path, "rb") as file:
        digests = {"weights": hashlib.file_digest(file, "sha256").hexdigest()}
    beside = config.protocol.network.normalisation_file
    if beside is not None and beside.exists():  # it decides the result as the weights do
        digests["normalisation"] = hashlib.sha256(read_file(beside)).hexdigest()
    return digests


def _measured_digest(config: RunConfig) -> dict[str, str]:
    """Digest what was measured on the images of a data set, where a run takes its mean and std from there."""
    path = normalisation.measured(config.protocol.network, data_root(config), config.dataset)
    return {} if path is None else {"measured": normalisation.digest(path)}


def granted_tags(plan: Plan, dataset: Dataset) -> TagTable:
    """List the classes each tagged image of a run may hold, as its split grants them or as the control has
    shuffled them."""
    return load_tags(dataset, plan.split, plan.config.seed if plan.config.tags == "shuffled" else None)
