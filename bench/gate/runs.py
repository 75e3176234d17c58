"""A run as the gate sees it: the key that makes it comparable, its figures, and digests of its bits."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from pydantic import SerializerFunctionWrapHandler, model_serializer

from bench.errors import DataError, read_file
from bench.records.folders import RunFolder
from bench.records.index import find_results
from bench.records.logs import read_counts, read_metrics
from bench.records.schema import Result, Start
from bench.records.sealed import SealedRecord

SCORES = ("miou", "student")  # better where larger; of all other figures either way is a difference
NOTE = "note."
LOSS = f"{NOTE}loss"
NO_NOTES = {"step", "lr", "miou"}  # in lines of the metrics
UNSAID = ("classes", "truth")  # of a key: None where a baseline, or a run, is of before the field
FIRST = {"method_version": 1, **dict.fromkeys(UNSAID)}  # what is not written, as it was before the field
# What decides how a sum is rounded. Of the other packages none computes.
COMPUTING = (
    *("python", "torch", "torchvision", "numpy", "scipy", "pillow", "timm"),
    *("segmentation-models-pytorch", "pydensecrf2"),
)


class Key(SealedRecord):
    """All that runs must have in common to be compared."""

    dataset: str
    split: str
    lists: str  # eight hex digits of what the split grants and of the scored list
    method: str
    knobs: dict[str, Any]
    protocol: str
    protocol_hash: str
    steps: int
    weights: str | None  # digest of pretrained ones
    tags: str  # "given", or "shuffled" as a control
    cam_seeds: str | None  # eight hex digits of their settings
    method_version: int = 1
    classes: str | None = None  # eight hex digits of their names
    truth: str | None = None  # eight hex digits of the scored images and masks, as tables compare them

    @model_serializer(mode="wrap")
    def _without_first(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = dump(self)
        return {name: value for name, value in fields.items() if name not in FIRST or value != FIRST[name]}

    @property
    def id(self) -> str:
        return digest(self.model_dump(mode="json"))

    @property
    def label(self) -> str:
        return f"{self.method} on {self.dataset} {self.split}, {self.steps} steps"

    def is_of(self, runs: Key) -> bool:
        """Whether a baseline of this key is one of these runs, as far as both say what they are."""
        unsaid = {name: None for name in UNSAID if None in (getattr(self, name), getattr(runs, name))}
        return self.model_copy(update=unsaid) == runs.model_copy(update=unsaid)

    def is_of_another_version(self, runs: Key) -> bool:
        """Whether a baseline of this key is one of these runs, but for the method's version."""
        return self.model_copy(update={"method_version": runs.method_version}).is_of(runs)


@dataclass(frozen=True)
class GateRun:
    folder: RunFolder
    result: Result
    figures: Mapping[str, float]

    @property
    def seed(self) -> int:
        return self.result.seed

    @cached_property
    def bits(self) -> dict[str, str]:
        """Sixteen hex digits of each file that holds numbers: "weights", "counts", "log"; those that are
        there. Raises DataError where one is damaged."""
        found: dict[str, str] = {}
        if self.folder.weights.exists():
            found["weights"] = _hashed(_tensors(read_file(self.folder.weights)))
        if self.folder.counts.exists():  # not the file: an archive holds times
            arrays = sorted(self._counts().items())
            found["counts"] = _hashed(
                part for name, array in arrays for part in (f"{name} {array.shape}".encode(), array.tobytes())
            )
        if lines := _log(self.result, self.folder):
            found["log"] = _hashed(json.dumps(line, sort_keys=True).encode() for line in lines)
        return found

    def _counts(self) -> dict[str, np.ndarray]:
        return read_counts(self.folder.counts, self.result.file_digest(self.folder.counts))

    @cached_property
    def starts(self) -> list[Start]:
        return self.folder.read_starts(self.result.file_digest(self.folder.provenance))

    @property
    def machines(self) -> list[str]:
        """The machines that the run rounded with, in words, one for each kind of start; [] where it does not
        say."""
        return sorted({machine_of(start) for start in self.starts})


@dataclass(frozen=True)
class GateGroup:
    """The runs of one key, by seed."""

    key: Key
    runs: Mapping[int, GateRun]


def machine_of(start: Start) -> str:
    """All of a start that decides how sums are rounded: "AMD EPYC (AVX512), 1 thread, torch 2.15.0, ..."."""
    torch = start.torch
    threads = torch.threads if torch and torch.threads else 0
    capability = f" ({torch.capability})" if torch and torch.capability else ""
    known = {"python": start.python, **start.versions}
    versions = [f"{name} {known[name]}" for name in COMPUTING if known.get(name)]
    gpus = sorted(torch.gpus) if torch else []
    counted = f"{threads} thread{'s' * (threads != 1)}"
    return ", ".join([f"{start.cpu.model}{capability}", counted, *gpus, *versions])


def key_of(result: Result) -> Key:
    config = result.config
    seeds = config.get("cam_seeds")
    return Key(
        dataset=result.dataset,
        split=result.split,
        lists=digest(result.split_digests),
        method=result.method,
        knobs={name: value for name, value in config.get("method", {}).items() if name != "name"},
        protocol=result.protocol,
        protocol_hash=result.protocol_hash,
        steps=result.steps,
        weights=result.weights_digest,
        tags=config.get("tags", "given"),
        cam_seeds=digest(seeds) if seeds else None,
        method_version=result.method_version,
        classes=digest(result.classes),
        truth=result.contents.truth if result.contents else None,
    )


def figures_of(result: Result, folder: RunFolder) -> dict[str, float]:
    """Collect the figures of a run.

    "miou" and "student" are shares 0..1; "lead" is the first less the second, where they are two modules;
    "note.<name>" is the mean of a note or loss over the lines of the second half of the training, each line's
    values per class summed. Six significant digits. A loss that is not finite in one of these lines is left
    out: it differs from any that is.

    Raises DataError where the metrics are damaged.
    """
    figures = {"miou": result.predictor.miou}
    if result.student != result.predictor:
        figures["student"] = result.student.miou
        figures["lead"] = result.predictor.miou - result.student.miou
    seen: dict[str, list[float]] = {}
    finite = True
    for line in _log(result, folder):
        if line["step"] > result.steps / 2:
            finite &= "loss" not in line or _is_finite(line["loss"])
            for name in line.keys() - NO_NOTES:
                values = list(filter(_is_finite, _listed(line[name])))
                if values and math.isfinite(total := float(sum(values))):
                    seen.setdefault(name, []).append(total)
    if not finite:
        seen.pop("loss", None)
    figures.update({f"{NOTE}{name}": fmean(values) for name, values in sorted(seen.items())})
    return {name: short(value) for name, value in figures.items()}


def _log(result: Result, folder: RunFolder) -> list[dict[str, Any]]:
    return read_metrics(folder.metrics, result.file_digest(folder.metrics))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def find_groups(roots: Sequence[Path]) -> dict[str, GateGroup]:
    """All finished runs below the folders, by the id of their key.

    A run found twice counts once. Raises DataError where there is no run, or where two runs of one key and
    seed differ in a score.
    """
    groups: dict[str, tuple[Key, dict[int, GateRun]]] = {}
    for path, result in find_results(*roots).items():
        folder = RunFolder(path)
        key = key_of(result)
        _, runs = groups.setdefault(key.id, (key, {}))
        run = GateRun(folder, result, figures_of(result, folder))
        known = runs.setdefault(result.seed, run)
        if known.figures != run.figures:
            raise DataError(
                f"{known.folder.path} and {path} are both {key.label}, seed {result.seed}, with different "
                "figures; move one of them away."
            )
    if not groups:
        raise DataError(f"no finished run in {', '.join(map(str, roots))}; give the folder that holds them.")
    return {id: GateGroup(key, runs) for id, (key, runs) in groups.items()}


def short(value: float) -> float:
    return float(f"{value:.6g}")


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _tensors(file: bytes) -> list[bytes]:
    """Return the parts of a safetensors file that hold numbers: without what it says of them, which grows by
    the version. Return all bytes of a file that is none."""
    length = int.from_bytes(file[:8], "little")
    try:
        header = json.loads(file[8 : 8 + length])
        header.pop("__metadata__", None)
    except (ValueError, AttributeError, RecursionError):
        return [file]
    return [json.dumps(header, sort_keys=True).encode(), file[8 + length :]]


def _hashed(parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:16]
