"""What a run is before it starts: its split, its id and its folder. Needs no torch."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bench import registry
from bench.config import RunConfig
from bench.errors import ConfigError, DataError
from bench.registry import MethodInfo
from bench.store import RunFolder
from datasets.split_lists import Split, find_split

# What a method calls the stream, for each kind of supervision.
STREAM = {"pixel": "labeled", "tags": "tagged", "none": "unlabeled"}


@dataclass(frozen=True)
class Plan:
    config: RunConfig
    method: MethodInfo
    split: Split
    input_digests: dict[str, str]  # of the split's lists, and of a weights file
    run_id: str
    folder: RunFolder


def data_root(config: RunConfig) -> Path | None:
    """The configuration's data root, else $BENCH_DATA."""
    place = config.machine.data_root or os.environ.get("BENCH_DATA")
    return Path(place).expanduser() if place else None


def plan(config: RunConfig) -> Plan:
    """Everything about a run that can be known and refused before any data is read.

    Raises ConfigError where the split does not grant what the method needs, or grants too few images for a
    batch.
    """
    method = registry.describe_method(config.method["name"])
    split = find_split(config.dataset, config.split, data_root(config))
    granted = split.counts
    for kind in sorted(method.needs):
        if not granted[kind]:
            has = ", ".join(f"{count} {name}" for name, count in granted.items() if count and name in STREAM)
            raise ConfigError(
                f"method {method.name!r} needs images with supervision {kind!r}, but split {config.split!r} "
                f"of {config.dataset!r} grants none (it grants {has}). Choose another split or method."
            )
    sizes = {"pixel": config.protocol.batch.labeled, "none": config.protocol.batch.unlabeled}
    for kind, size in sizes.items():
        if kind in method.needs and granted[kind] < size:
            stream = STREAM[kind]
            raise ConfigError(
                f"the {stream} list of split {config.split!r} has {granted[kind]} images, fewer than a batch "
                f"of {size}; give --set protocol.batch.{stream}={granted[kind]} or take a larger split."
            )
    inputs = {**split.digests, **_weights_digest(config)}
    run_id = config.run_id(method.version, inputs)
    folder = RunFolder.of(
        Path(config.machine.out), config.dataset, config.split, method.name, config.seed, run_id
    )
    return Plan(config, method, split, inputs, run_id, folder)


def _weights_digest(config: RunConfig) -> dict[str, str]:
    """The content of a weights file: its path does not identify it, as a package or the hub does."""
    source = config.protocol.network.weights
    if source in ("none", "hub") or source.startswith("package:"):
        return {}
    path = Path(source).expanduser()
    if not path.is_file():
        raise DataError(
            f"no weights file {path}; protocol.network.weights is a file, none, hub or package:..."
        )
    with open(path, "rb") as file:
        return {"weights": hashlib.file_digest(file, "sha256").hexdigest()}
