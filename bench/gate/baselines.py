"""The file of baselines: what it holds, reading, writing, and making it of finished runs.

A baseline is a set of runs that differ in their seed alone. Of each run it keeps the figures of `figures_of`:
the mIoU of predictor and student, by how much the predictor leads, and the mean of every note over the second
half of the training; and digests of its bits. A note often shows a fault that is too small for the mIoU of a
short run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from math import inf, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from bench.errors import ConfigError, DataError, read_file
from bench.gate.runs import LOSS, GateGroup, Key, short
from bench.gate.statistics import pooled, seeds_needed, smallest_effect
from bench.records.atomic import write_atomic
from bench.records.provenance import without_folders
from bench.records.schema import Start
from bench.records.sealed import SealedRecord

SCHEMA_VERSION = 1
FALL = 0.1  # of its mIoU: what a baseline must be able to see
NOTHING = 1e-3  # a figure that was zero may become so large


class Spread(SealedRecord):
    """A figure over the seeds, in its own unit; mIoU is a share, 0..1."""

    mean: float = Field(allow_inf_nan=False)
    spread: float = Field(ge=0, allow_inf_nan=False)  # sample standard deviation

    @model_validator(mode="before")
    @classmethod
    def _without_tolerance(cls, data: Any) -> Any:
        """Older files hold one. It depends on what is compared, so it is no part of a baseline."""
        return {k: v for k, v in data.items() if k != "tolerance"} if isinstance(data, dict) else data


class Exact(SealedRecord):
    """The exact results of the same code on the same machine."""

    machine: list[str]  # in words; several where the runs were made on several
    seeds: dict[int, dict[str, str]]  # digests of weights, counts, log


class Provenance(SealedRecord):
    """How the runs of a baseline were made."""

    commit: str | None
    dirty: bool  # made from files that no single commit holds
    date: str  # of the last start
    versions: dict[str, str | None]
    cpu: list[str]
    threads: list[int]
    command: list[str]  # with the last part of every path alone


class Baseline(SealedRecord):
    key: Key
    n: int = Field(ge=2)
    seeds: dict[int, dict[str, float]]  # figures by name
    figures: dict[str, Spread]
    exact: Exact | None = None  # None: of before it was kept
    reason: str
    provenance: Provenance

    @field_validator("figures")
    @classmethod
    def _has_a_score(cls, figures: dict[str, Spread]) -> dict[str, Spread]:
        if "miou" not in figures:
            raise ValueError("a figure is missing: miou")
        return figures

    @model_validator(mode="after")
    def _agree(self) -> Baseline:
        if len(self.seeds) != self.n:
            raise ValueError(f"n is {self.n}, but there are {len(self.seeds)} seeds")
        if any(self.figures.keys() - of.keys() for of in self.seeds.values()):
            raise ValueError("a figure is missing in a seed")
        for name, found in self.figures.items():
            if found != spread_of([of[name] for of in self.seeds.values()]):
                raise ValueError(f"mean or spread of {name} is not that of its seeds")
        if self.exact is not None and self.exact.seeds.keys() != self.seeds.keys():
            raise ValueError("exact is of other seeds")
        return self

    @model_serializer(mode="wrap")
    def _without_nothing(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name != "exact" or value is not None}

    def scale(self, name: str) -> float:
        """Return the number that a figure is divided by where it is compared: its mean; of a lead, that of
        the mIoU. A figure that is zero in every seed is a share of the smallest that counts."""
        return abs(self.figures["miou" if name == "lead" else name].mean) or NOTHING

    def shares(self, name: str) -> list[float]:
        """Return the figure of each seed in its scale."""
        return [of[name] / self.scale(name) for of in self.seeds.values()]


class Baselines(SealedRecord):
    schema_version: Literal[1] = 1
    entries: list[Baseline]

    @property
    def family(self) -> int:
        """How many figures are compared where every baseline has its runs."""
        return sum(len(entry.figures) for entry in self.entries)

    def sees(self, entry: Baseline) -> float:
        """Return the smallest fall of the mIoU, as a share of it, that a check of all seeds shows in four of
        five cases."""
        spread, df = self._spread(entry)
        return smallest_effect(spread, df, entry.n, self.family) if spread is not None else inf

    def seeds_needed(self, entry: Baseline) -> int | None:
        """How many would show a fall by `FALL`; None where a thousand would not."""
        spread, df = self._spread(entry)
        return seeds_needed(spread, FALL, self.family, df - entry.n + 1) if spread is not None else None

    def _spread(self, entry: Baseline) -> tuple[float | None, int]:
        """Of a difference of two mIoUs, as a share, and its degrees of freedom; None where the mIoU is zero.

        Code that gives other numbers moves a run as another seed does. The spread is that of this baseline or
        of all, whichever is larger, as in `bench.gate.tolerant`.
        """
        spread, df = pooled(*(of.shares("miou") for of in self.entries))
        if not entry.figures["miou"].mean:
            return None, df
        return sqrt(2) * max(spread, stdev(entry.shares("miou"))), df


def read_baselines(path: Path) -> Baselines:
    """Read a file of baselines. Raises DataError, with its name and what to do, for anything else."""
    how = "make one from finished runs with `check --update --reason ...`"
    try:
        data = json.loads(read_file(path))
    except FileNotFoundError as error:
        raise DataError(f"no baselines {path}; {how}.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not readable JSON ({error}); restore it, or move it away and {how}."
        ) from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version is not None and version != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema version {version!r}, and this version reads {SCHEMA_VERSION}; use the "
            f"version that wrote it, or move it away and {how}."
        )
    try:
        baselines = Baselines.model_validate_json(json.dumps(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{path} holds no baselines ({where}: {first['msg']}); restore it, or move it away and {how}."
        ) from error
    twice = [id for id, count in Counter(entry.key.id for entry in baselines.entries).items() if count > 1]
    if twice:
        label = next(entry.key.label for entry in baselines.entries if entry.key.id == twice[0])
        raise DataError(f"{path} holds two baselines of {label} [{twice[0]}]; remove one of them.")
    return baselines


def write_baselines(path: Path, baselines: Baselines) -> None:
    """Write baselines: the same ones are always the same bytes."""
    entries = sorted(baselines.entries, key=lambda entry: (entry.key.label, entry.key.id))
    data = baselines.model_copy(update={"entries": entries}).model_dump(mode="json")
    write_atomic(path, (json.dumps(data, indent=1, sort_keys=True) + "\n").encode())


def group_of(entry: Baseline, groups: Mapping[str, GateGroup]) -> GateGroup | None:
    """Find the runs of a baseline; None where there are none. Raises DataError where several groups of runs
    may be meant, because it does not say its classes or the state of its scored data."""
    found = [group for group in groups.values() if entry.key.is_of(group.key)]
    if len(found) > 1:
        where = ", ".join(str(next(iter(group.runs.values())).folder.path) for group in found)
        raise DataError(
            f"the baseline of {entry.key.label} does not say its classes and scored data, and there are runs "
            f"of {len(found)} kinds of them ({where}); move those away that are not meant."
        )
    return found[0] if found else None


# Updating ---------------------------------------------------------------------------------------------------


def updated(
    old: Baselines | None,
    groups: Mapping[str, GateGroup],
    reason: str,
    allow_dirty: bool = False,
    prune: bool = False,
    allow_weak: bool = False,
) -> Baselines:
    """Make the baselines of the runs anew. An entry whose numbers stay is kept with its reason.

    Args:
        allow_dirty: Take runs of files that no commit holds, or of several commits, too.
        prune: Drop the entries, and the seeds of an entry, that no run belongs to; else entries are kept.
        allow_weak: Take new numbers too whose seeds are too few to show a fall of the mIoU by `FALL`.

    Raises:
        ConfigError: There is no reason, or a run's provenance is dirty.
        DataError: A key has a single seed, which has no spread, lacks a seed of its baseline, or is too weak.
    """
    if not reason.strip():
        raise ConfigError("an update needs --reason TEXT: why the numbers may change.")
    entries: dict[str, Baseline] = {}
    new: list[Baseline] = []
    for entry in old.entries if old else ():
        newer = [group for id, group in groups.items() if id != entry.key.id]
        replaced = any(entry.key.is_of_another_version(group.key) for group in newer)
        if not prune and not replaced:
            entries[entry.key.id] = entry
    for id, group in groups.items():
        entry = entry_of(group, reason.strip(), allow_dirty)
        known = next((entry for entry in old.entries if entry.key.is_of(group.key)), None) if old else None
        if known and not prune and (gone := sorted(known.seeds.keys() - group.runs.keys())):
            raise DataError(
                f"{group.key.label}: its baseline has seeds {', '.join(map(str, gone))} too, and the "
                "runs have not; run them, or give --prune to do without."
            )
        cleaner = known is not None and known.provenance.dirty and not entry.provenance.dirty
        same = known is not None and (known.seeds, known.exact) == (entry.seeds, entry.exact)
        entries[id] = known if known and same and not cleaner else entry
        if known is None or known.seeds != entry.seeds:
            new.append(entry)
    baselines = Baselines(entries=list(entries.values()))
    if not allow_weak:
        _refuse_weak(baselines, new)
    return baselines


def _refuse_weak(baselines: Baselines, new: list[Baseline]) -> None:
    for entry in new:
        if (sees := baselines.sees(entry)) > FALL:
            needed = baselines.seeds_needed(entry)
            many = f"{needed} seeds would do" if needed else "no number of seeds would do: train for longer"
            least = f"below {100 * sees:.0f} %," if sees < 1 else "at all,"
            raise DataError(
                f"{entry.key.label}: with its {entry.n} seeds the gate would see no fall of the mIoU {least} "
                f"and it must see one of {100 * FALL:.0f} %; {many}. Run more, or give --allow-weak."
            )


def entry_of(group: GateGroup, reason: str, allow_dirty: bool = False) -> Baseline:
    """Make the baseline of the runs. Raises as `updated`."""
    if len(group.runs) < 2:
        raise DataError(
            f"{group.key.label} has one seed, {next(iter(group.runs))}; a tolerance needs two or "
            "more: run another."
        )
    runs = dict(sorted(group.runs.items()))
    seeds = {seed: dict(run.figures) for seed, run in runs.items()}
    lost = [seed for seed, figures in seeds.items() if LOSS not in figures]
    if 0 < len(lost) < len(seeds):
        raise DataError(
            f"{group.key.label}: the loss of seed {lost[0]} is not finite, or its log is not there; that is "
            "no baseline: run it again."
        )
    common = sorted(set.intersection(*(set(figures) for figures in seeds.values())))
    return Baseline(
        key=group.key,
        n=len(seeds),
        seeds=seeds,
        figures={name: spread_of([of[name] for of in seeds.values()]) for name in common},
        exact=Exact(
            machine=sorted({words for run in runs.values() for words in run.machines}),
            seeds={seed: run.bits for seed, run in runs.items()},
        ),
        reason=reason,
        provenance=_provenance(group, allow_dirty),
    )


def spread_of(values: list[float]) -> Spread:
    return Spread(mean=short(fmean(values)), spread=short(stdev(values)))


def _provenance(group: GateGroup, allow_dirty: bool) -> Provenance:
    by_run = [run.starts for run in group.runs.values()]
    starts = [start for found in by_run for start in found]
    commits = {start.commit for start in starts}
    dirty = any(start.git is None or start.git.dirty for start in starts)
    unknown = not all(by_run) or None in commits
    if (dirty or unknown or len(commits) != 1) and not allow_dirty:
        raise ConfigError(
            f"{group.key.label}: its runs were not all made from one commit without changes; commit and "
            "run them again, or give --allow-dirty."
        )
    last = max(starts, key=lambda start: start.time, default=Start())
    return Provenance(
        commit=commits.pop() if len(commits) == 1 else None,
        dirty=dirty or unknown or len(commits) > 1,
        date=last.time[:10],
        versions={"python": last.python, **last.versions},
        cpu=sorted({start.cpu.model for start in starts}),
        threads=sorted({start.torch.threads for start in starts if start.torch and start.torch.threads}),
        command=sorted({without_folders(start.command) for start in starts}),
    )
