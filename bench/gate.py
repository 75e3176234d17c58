"""The regression gate: finished runs against stored baselines. Needs no torch.

A baseline is a set of runs that differ in their seed alone. Of each run it keeps the figures of `figures_of`:
the mIoU of predictor and student, by how much the predictor leads, and the mean of every note over the second
half of the training. A note often shows a fault that is too small for the mIoU of a short run.

The tolerance of a figure's mean over n seeds is the largest of
- 5 * spread / sqrt(n), where spread is the sample standard deviation over the seeds: five standard errors,
  since the spread of a few seeds is known badly, and another CPU or version of torch rounds otherwise;
- for a mIoU 0.01, for a lead 0.02, for a note a quarter of its mean and 0.001: a few seeds may agree by
  chance. Of the figures of the suite's own gate, with other threads, loader processes and CPU instructions,
  one came out beyond five standard errors, by 5.3 of them and 17 % of its mean: a note on few pixels.
On one machine with one thread the same runs give the same bits, and every difference is 0. The tolerance is
wide enough for another machine, where rounding grows over the steps, at most to what another seed does.
Where only k of the n seeds have runs, their mean has sqrt(n / k) times the tolerance.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from bench.errors import ConfigError, DataError, Regression
from bench.records.atomic import write_atomic
from bench.records.folders import RunFolder
from bench.records.index import find_results
from bench.records.logs import read_metrics
from bench.records.provenance import without_folders
from bench.records.schema import Record, Result, Start

SCHEMA_VERSION = 1
STANDARD_ERRORS = 5
MIOU_FLOOR, LEAD_FLOOR = 0.01, 0.02  # one point, and two
NOTE_SHARE, NOTE_FLOOR = 0.25, 1e-3
SLACK = 1e-9  # a difference equal to the tolerance is within it, whatever the last bit says
SCORES = ("miou", "student")  # better where larger; of all other figures either way is a difference
NOTE = "note."
LOSS = f"{NOTE}loss"
NO_NOTES = {"step", "lr", "miou"}  # in lines of the metrics

Verdict = Literal["ok", "fall", "rise", "differs", "missing", "no baseline"]
FAULTS: tuple[Verdict, ...] = ("fall", "rise", "differs")


# The file ---------------------------------------------------------------------------------------------------


class Key(Record):
    """What runs must have in common to be compared."""

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
    method_version: int = 1  # written from 2 on: baselines of before this field are of version 1

    @model_serializer(mode="wrap")
    def _without_first_version(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = dump(self)
        if self.method_version == 1:
            del fields["method_version"]
        return fields

    @property
    def id(self) -> str:
        return _digest(self.model_dump(mode="json"))

    @property
    def label(self) -> str:
        return f"{self.method} on {self.dataset} {self.split}, {self.steps} steps"


class Bound(Record):
    """A figure over the seeds. Units are the figure's own; mIoU is a share, 0..1."""

    mean: float = Field(allow_inf_nan=False)
    spread: float = Field(ge=0, allow_inf_nan=False)  # sample standard deviation
    tolerance: float = Field(ge=0, allow_inf_nan=False)  # of the mean, see the module


class Provenance(Record):
    """How the runs of a baseline were made."""

    commit: str | None
    dirty: bool  # made from files that no single commit holds
    date: str  # of the last start
    versions: dict[str, str | None]
    cpu: list[str]
    threads: list[int]
    command: list[str]  # with the last part of every path alone


class Entry(Record):
    key: Key
    n: int = Field(ge=2)
    seeds: dict[int, dict[str, float]]  # figures by name
    figures: dict[str, Bound]
    reason: str
    provenance: Provenance

    @model_validator(mode="after")
    def _agree(self) -> Entry:
        if len(self.seeds) != self.n:
            raise ValueError(f"n is {self.n}, but there are {len(self.seeds)} seeds")
        if "miou" not in self.figures or any(self.figures.keys() - of.keys() for of in self.seeds.values()):
            raise ValueError("a figure is missing in figures or in a seed")
        for name, found in self.figures.items():
            if found != bound(name, [of[name] for of in self.seeds.values()]):
                raise ValueError(f"mean, spread or tolerance of {name} is not that of its seeds")
        return self


class Baselines(Record):
    schema_version: Literal[1] = 1
    entries: list[Entry]


def read_baselines(path: Path) -> Baselines:
    """Read a file of baselines. Raises DataError, with its name and what to do, for anything else."""
    how = "make one from finished runs with `check --update --reason ...`"
    try:
        data = json.loads(path.read_bytes())
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


# The runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    folder: RunFolder
    seed: int
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Group:
    """The runs of one key, by seed."""

    key: Key
    runs: Mapping[int, Run]


def key_of(result: Result) -> Key:
    config = result.config
    seeds = config.get("cam_seeds")
    return Key(
        dataset=result.dataset,
        split=result.split,
        lists=_digest(result.split_digests),
        method=result.method,
        knobs={name: value for name, value in config.get("method", {}).items() if name != "name"},
        protocol=result.protocol,
        protocol_hash=result.protocol_hash,
        steps=result.steps,
        weights=result.weights_digest,
        tags=config.get("tags", "given"),
        cam_seeds=_digest(seeds) if seeds else None,
        method_version=result.method_version,
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
    for line in read_metrics(folder.metrics):
        if line["step"] > result.steps / 2:
            finite &= "loss" not in line or _is_finite(line["loss"])
            for name in line.keys() - NO_NOTES:
                values = list(filter(_is_finite, _listed(line[name])))
                if values and math.isfinite(total := float(sum(values))):
                    seen.setdefault(name, []).append(total)
    if not finite:
        seen.pop("loss", None)
    figures.update({f"{NOTE}{name}": fmean(values) for name, values in sorted(seen.items())})
    return {name: _short(value) for name, value in figures.items()}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def find_groups(roots: Sequence[Path]) -> dict[str, Group]:
    """All finished runs below the folders, by the id of their key.

    A run found twice counts once. Raises DataError where there is no run, or where two runs of one key and
    seed differ in a score.
    """
    groups: dict[str, tuple[Key, dict[int, Run]]] = {}
    for path, result in find_results(*roots).items():
        folder = RunFolder(path)
        key = key_of(result)
        _, runs = groups.setdefault(key.id, (key, {}))
        run = Run(folder, result.seed, figures_of(result, folder))
        known = runs.setdefault(result.seed, run)
        if known.figures != run.figures:
            raise DataError(
                f"{known.folder.path} and {path} are both {key.label}, seed {result.seed}, with different "
                "figures; move one of them away."
            )
    if not groups:
        raise DataError(f"no finished run in {', '.join(map(str, roots))}; give the folder that holds them.")
    return {id: Group(key, runs) for id, (key, runs) in groups.items()}


# Comparing --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of the gate's table. Figures in their own units; None: there is none."""

    label: str
    seeds: tuple[int, ...]
    figure: str
    baseline: float | None
    now: float | None
    tolerance: float | None
    verdict: Verdict

    @property
    def difference(self) -> float | None:
        return None if self.now is None or self.baseline is None else self.now - self.baseline


def compare(baselines: Baselines, groups: Mapping[str, Group]) -> list[Row]:
    """Give a row for the mIoU of every key, one for its student, and one for every other figure that differs.

    Means over the baseline's seeds are compared; where some have no run, the seeds that have one are compared
    one by one.
    """
    labels = _labels([*(entry.key for entry in baselines.entries), *(group.key for group in groups.values())])
    rows: list[Row] = []
    for entry in baselines.entries:
        group = groups.get(entry.key.id)
        runs = group.runs if group else {}
        label, present = labels[entry.key.id], sorted(entry.seeds.keys() & runs.keys())
        if len(present) == entry.n:
            rows += _rows(label, entry, present, runs)
        else:
            for seed in present:
                rows += _rows(label, entry, [seed], runs)
            missing = sorted(entry.seeds.keys() - runs.keys())
            mean = fmean(entry.seeds[seed]["miou"] for seed in missing)
            rows.append(Row(label, tuple(missing), "miou", mean, None, None, "missing"))
        rows += _unknown(label, sorted(runs.keys() - entry.seeds.keys()), runs)
    known = {entry.key.id for entry in baselines.entries}
    for id, group in groups.items():
        if id not in known:
            rows += _unknown(labels[id], sorted(group.runs), group.runs)
    return rows


def _rows(label: str, entry: Entry, seeds: Sequence[int], runs: Mapping[int, Run]) -> list[Row]:
    rows = []
    for name, bound in sorted(entry.figures.items(), key=lambda item: (not _is_score(item[0]), item[0])):
        baseline = bound.mean if len(seeds) == entry.n else fmean(entry.seeds[seed][name] for seed in seeds)
        tolerance = bound.tolerance * math.sqrt(entry.n / len(seeds))
        values = [runs[seed].figures.get(name) for seed in seeds]
        found = [value for value in values if value is not None]
        now = fmean(found) if len(found) == len(values) else None
        verdict = _verdict(name, baseline, now, tolerance)
        if _is_score(name) or verdict != "ok":
            rows.append(Row(label, tuple(seeds), name, baseline, now, tolerance, verdict))
    return rows


def _verdict(name: str, baseline: float, now: float | None, tolerance: float) -> Verdict:
    if now is not None and abs(now - baseline) <= tolerance + SLACK:
        return "ok"
    if not _is_score(name) or now is None:
        return "differs"
    return "rise" if now > baseline else "fall"


def _is_score(name: str) -> bool:
    return name in SCORES


def _unknown(label: str, seeds: Sequence[int], runs: Mapping[int, Run]) -> list[Row]:
    if not seeds:
        return []
    now = fmean(runs[seed].figures["miou"] for seed in seeds)
    return [Row(label, tuple(seeds), "miou", None, now, None, "no baseline")]


def _labels(keys: Iterable[Key]) -> dict[str, str]:
    """Give a label for each id, with the id behind it where several keys share one."""
    plain = {key.id: key.label for key in keys}
    count = Counter(plain.values())
    return {id: f"{label} [{id}]" if count[label] > 1 else label for id, label in plain.items()}


def judge(rows: Sequence[Row], path: Path, allow_missing: bool = False) -> None:
    """Raise Regression where a figure is beyond its tolerance, up or down, and DataError where runs are
    missing (unless that is allowed) or nothing could be compared."""
    bad = [row for row in rows if row.verdict in FAULTS]
    missing = [row for row in rows if row.verdict == "missing"]
    if bad:
        counts = Counter(row.verdict for row in bad)
        said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in FAULTS if counts[verdict])
        raise Regression(
            f"{len({row.label for row in bad})} baselines of {path} do not hold ({said}), see the table. "
            "Find the cause; a change that is meant goes in with `check --update --reason ...`."
        )
    if missing and not allow_missing:
        raise DataError(
            f"{len(missing)} baselines of {path} lack runs: {missing[0].label}, seeds "
            f"{', '.join(map(str, missing[0].seeds))}, is the first. Run them, or give --allow-missing."
        )
    if not any(row.tolerance is not None for row in rows):
        raise DataError(f"no run has a baseline in {path}; nothing was compared.")


# Updating ---------------------------------------------------------------------------------------------------


def updated(
    old: Baselines | None,
    groups: Mapping[str, Group],
    reason: str,
    allow_dirty: bool = False,
    prune: bool = False,
) -> Baselines:
    """Make the baselines of the runs anew. An entry whose figures stay is kept with its reason.

    Args:
        allow_dirty: Take runs of files that no commit holds, or of several commits, too.
        prune: Drop the entries, and the seeds of an entry, that no run belongs to; else entries are kept.

    Raises:
        ConfigError: There is no reason, or a run's provenance is dirty.
        DataError: A key has a single seed, which has no spread, or lacks a seed of its baseline.
    """
    if not reason.strip():
        raise ConfigError("an update needs --reason TEXT: why the numbers may change.")
    before = {entry.key.id: entry for entry in old.entries} if old else {}
    versions = {_of_any_version(group.key) for group in groups.values()}
    kept = {
        id: entry
        for id, entry in before.items()
        if id in groups or _of_any_version(entry.key) not in versions
    }
    entries = {} if prune else kept
    for id, group in groups.items():
        entry = entry_of(group, reason.strip(), allow_dirty)
        known = before.get(id)
        if known and not prune and (gone := sorted(known.seeds.keys() - group.runs.keys())):
            raise DataError(
                f"{group.key.label}: its baseline has seeds {', '.join(map(str, gone))} too, and the "
                "runs have not; run them, or give --prune to do without."
            )
        cleaner = known is not None and known.provenance.dirty and not entry.provenance.dirty
        entries[id] = known if known and known.seeds == entry.seeds and not cleaner else entry
    return Baselines(entries=list(entries.values()))


def _of_any_version(key: Key) -> str:
    """What the baselines of all versions of a method share: a newer one takes the place of an older."""
    return key.model_copy(update={"method_version": 1}).id


def entry_of(group: Group, reason: str, allow_dirty: bool = False) -> Entry:
    """Make the baseline of the runs. Raises as `updated`."""
    if len(group.runs) < 2:
        raise DataError(
            f"{group.key.label} has one seed, {next(iter(group.runs))}; a tolerance needs two or "
            "more: run another."
        )
    seeds = {seed: dict(run.figures) for seed, run in sorted(group.runs.items())}
    lost = [seed for seed, figures in seeds.items() if LOSS not in figures]
    if 0 < len(lost) < len(seeds):
        raise DataError(
            f"{group.key.label}: the loss of seed {lost[0]} is not finite, or its log is not there; that is "
            "no baseline: run it again."
        )
    common = set.intersection(*(set(figures) for figures in seeds.values()))
    figures = {name: bound(name, [of[name] for of in seeds.values()]) for name in sorted(common)}
    provenance = _provenance(group, allow_dirty)
    return Entry(
        key=group.key, n=len(seeds), seeds=seeds, figures=figures, reason=reason, provenance=provenance
    )


def bound(name: str, values: Sequence[float]) -> Bound:
    """Mean, spread and tolerance of a figure over two or more seeds; the rule stands at the module's head."""
    mean, spread = fmean(values), stdev(values)
    floor = LEAD_FLOOR if name == "lead" else MIOU_FLOOR
    if name.startswith(NOTE):
        floor = max(NOTE_SHARE * abs(mean), NOTE_FLOOR)
    tolerance = max(STANDARD_ERRORS * spread / math.sqrt(len(values)), floor)
    return Bound(mean=_short(mean), spread=_short(spread), tolerance=_short(tolerance))


def _provenance(group: Group, allow_dirty: bool) -> Provenance:
    by_run = [run.folder.read_starts() for run in group.runs.values()]
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


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
