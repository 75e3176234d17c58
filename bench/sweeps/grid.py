"""The grid of a sweep: which runs it has, and what has become of each. Starts nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

from bench.contents.changes import refuse_changed, since_anything
from bench.errors import BenchError, ConfigError, DataError, read_file
from bench.plan import Plan, data_root, plan, refuse_unequal
from bench.records.folders import RunFolder
from bench.records.logs import read_metrics
from bench.records.schema import Result
from bench.settings import registry
from bench.settings.reading import merge, parse_assignment
from bench.settings.resolve import resolve
from bench.settings.schema import RunConfig
from bench.sweeps.ablations import Ablation, Comparison
from datasets.splits import Split, find_split

State = Literal["done", "changed", "running", "failed", "interrupted", "unreadable", "to do"]
STATES: tuple[State, ...] = (
    "done",
    "changed",
    "running",
    "failed",
    "interrupted",
    "unreadable",
    "to do",
)


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    label: str
    plan: Plan
    _compared: dict[str, str] = field(default_factory=dict, compare=False, repr=False)  # see `changed`

    @property
    def folder(self) -> RunFolder:
        return self.plan.folder

    @property
    def result(self) -> Result | None:
        """None too where it is damaged or of other code or data, which does not stop the others."""
        result = self._read()
        return None if not isinstance(result, Result) or self._changed(result) else result

    @property
    def changed(self) -> str:
        """The sentence that says why a finished run is not taken: it is damaged, or of other code or data.
        Else ""."""
        result = self._read()
        if isinstance(result, DataError):
            return str(result)
        return "" if result is None else self._changed(result)

    def _read(self) -> Result | DataError | None:
        """None too where the folder cannot be read: the run itself says why."""
        try:
            return self.folder.read_result()
        except DataError as error:
            return error
        except OSError:
            return None

    def _changed(self, result: Result) -> str:
        """Say what changed since a run was done; "" where nothing did.

        Compares once for a record, since a sweep asks again and again.
        """
        known = result.digest or (result.contents.model_dump_json() if result.contents else "")
        if known not in self._compared:
            try:
                refuse_changed(self.plan, result)
                self._compared[known] = ""
            except BenchError as error:
                self._compared[known] = str(error)
        return self._compared[known]

    @property
    def done(self) -> bool:
        return self.result is not None

    @property
    def outdated(self) -> bool:
        """Whether the run, or its CAM seeds, are there and are damaged or of other code or data."""
        try:
            return bool(self.changed or since_anything(self.plan))
        except (BenchError, OSError):  # the run itself says why
            return True

    @property
    def state(self) -> State:
        try:
            if self.done:
                return "done"
            if self.changed:
                return "changed"
            if self.folder.holder():
                return "running"
            if self.folder.failure.exists():
                return "failed"
            return "interrupted" if self.folder.checkpoint.exists() else "to do"
        except OSError:
            return "unreadable"

    @property
    def said(self) -> str:
        """All that is known of a run that is running, changed or failed, for a listing."""
        try:
            if self.changed:
                return self.changed
            if holder := self.folder.holder():
                lines = read_metrics(self.folder.metrics)
                at = f", step {lines[-1]['step']} of {self.plan.config.protocol.steps}" if lines else ""
                return holder + at
            return self.failure[0] if self.failure else ""
        except (DataError, OSError):
            return ""

    @property
    def failure(self) -> tuple[str, int] | None:
        """Say why the last start failed, and when, in ns: ("out of memory ...", 1732742400000000000).

        The time tells a new failure from an old one.
        """
        file = self.folder.failure
        try:
            return read_file(file).decode(errors="replace").strip(), file.stat().st_mtime_ns
        except (DataError, OSError):
            return None


@dataclass(frozen=True)
class Failure:
    label: str
    reason: str
    log: Path | None = None  # what the run said; None where it was refused before it started
    saved: bool = False  # stopped by a signal from elsewhere, and to go on


@dataclass(frozen=True)
class Span:
    """Values that a sweep runs over. An empty one is what the configuration or its defaults say."""

    methods: Sequence[str] = ()
    datasets: Sequence[str] = ()
    splits: Sequence[str] = ()
    seeds: Sequence[int] = ()
    draws: Sequence[int] = ()


def grid(
    span: Span,
    named: Ablation | Comparison | None = None,
    flags: Mapping[str, Any] | None = None,
    config_file: Path | None = None,
    sets: Sequence[str] = (),
) -> tuple[list[Cell], list[Failure]]:
    """Give the runs of a sweep, each once, and those that their split or their batch does not allow.

    All methods come before the next split, all splits before the next draw, and all draws before the next
    seed, so that the first runs already make a table.

    Raises:
        ConfigError: an unknown name, a setting that does not hold for all runs, or one that the sweep varies.
        DataError: a split whose lists are damaged or missing.
    """
    _refuse_varied(span, named, sets)
    variants = _variants(span, named)
    configs: list[tuple[str, RunConfig]] = []
    spans = (span.seeds, span.draws, span.datasets, span.splits)
    places = product(*(values or [None] for values in spans))
    for (seed, draw, dataset, split), of in product(places, variants):
        asked = {"dataset": dataset, "split": split, "seed": seed, "draw": draw, "method": of.method}
        asked = {key: value for key, value in asked.items() if value is not None}
        try:
            config = resolve(merge(flags or {}, asked), config_file, [*sets, *of.sets])
        except ConfigError as error:
            if len(variants) == 1:
                raise
            knob = not named and "unknown key 'method." in str(error)
            mend = "; sweep the methods that have it by themselves, into the same --out" if knob else ""
            raise ConfigError(f"{of.label}: {str(error).rstrip('.')}{mend}.") from error
        name = of.label or config.method["name"]
        drawn = f", draw {config.draw}" if config.draw else ""
        configs.append((f"{name} on {config.dataset} {config.split}{drawn}, seed {config.seed}", config))
    first = configs[0][1]

    @cache
    def read(dataset: str, split: str, draw: int) -> Split:
        return find_split(dataset, split, data_root(first), draw, first.scored)

    for _, config in configs:  # an unknown name stops the sweep at once
        read(config.dataset, config.split, 0)

    cells: dict[Path, Cell] = {}
    refused = []
    for label, config in configs:
        try:
            planned = plan(config, read(config.dataset, config.split, config.draw))
        except ConfigError as error:
            refused.append(Failure(label, str(error)))
        else:
            cells.setdefault(planned.folder.path, Cell(label, planned))
    return list(cells.values()), refused


@dataclass(frozen=True)
class _Variant:
    label: str
    method: Mapping[str, Any]  # its name and knobs; empty: that of the configuration
    sets: Sequence[str] = ()  # more settings, as --set takes them


def _variants(span: Span, named: Ablation | Comparison | None) -> list[_Variant]:
    """Return what is run at each place of a grid: methods, or the variants of a named sweep."""
    if isinstance(named, Ablation):
        return [
            _Variant(f"{named.method} [{name}]", {**knobs, "name": named.method})
            for name, knobs in named.variants.items()
        ]
    if named is not None:
        return [
            _Variant(f"{method} [{name}]", {"name": method}, [f"{key}={of[key]}" for key in of])
            for name, of in named.settings.items()
            for method in named.methods
        ]
    return [_Variant(name, {"name": name}) for name in span.methods] or [_Variant("", {})]


def _refuse_varied(span: Span, named: Ablation | Comparison | None, sets: Iterable[str]) -> None:
    """Refuse a --set of what the sweep varies: it beats all else and would make all runs one."""
    varied = {
        "dataset": span.datasets,
        "split": span.splits,
        "seed": span.seeds,
        "draw": span.draws,
        "method.name": [*span.methods, *([named.name] if named else [])],
    }
    if isinstance(named, Ablation):
        varied |= {f"method.{knob}": [knob] for knob in named.varied}
    elif named is not None:
        varied |= {key: [key] for key in named.varied}
    for text in sets:
        key = ".".join(parse_assignment(text)[0])
        if varied.get(key) or (key == "method" and varied["method.name"]):
            raise ConfigError(f"--set {key}: the sweep itself gives {key}; leave one of the two out.")
    if named is not None and span.methods:
        of = named.method if isinstance(named, Ablation) else ", ".join(named.methods)
        raise ConfigError(f"--method: the sweep {named.name} is of {of}; leave --method out.")


def listing(
    cells: Sequence[Cell], refused: Iterable[Failure], queued: Mapping[Path, str] | None = None
) -> Iterator[str]:
    """Say the counts, and one line per run: its state, what it is, and its folder or why it is refused.

    Args:
        queued: What the queue of a cluster says of runs, by their absolute folders.
    """
    states = [(cell.state, cell) for cell in cells]
    queued = queued or {}
    waiting = [cell for cell in cells if cell.folder.path.absolute() in queued]
    refused = list(refused)
    counts = Counter(state for state, _ in states)
    shown = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    shown += [f"{len(refused)} refused"] if refused else []
    shown += [f"{len(waiting)} in the queue"] if waiting else []
    yield f"{counted(len(states) + len(refused))}: {', '.join(shown)}"
    for state, cell in states:
        said = f": {cell.said}" if state in ("running", "changed", "failed") and cell.said else ""
        job = queued.get(cell.folder.path.absolute())
        said += f"; {job}" if job else ""
        yield f"{state:<12} {cell.label}{said}  {cell.folder.path}"
    for failure in refused:
        yield f"{'refused':<12} {failure.label}: {failure.reason}"


def check_data(cells: Iterable[Cell]) -> None:
    """Raise DataError where the folder of all data sets is not there: every run would say so."""
    configs = {config.dataset: config for cell in cells if not cell.done for config in [cell.plan.config]}
    for dataset, config in configs.items():
        registry.check_data_root(dataset, data_root(config))


def check_shares(cells: Iterable[Cell], gpus_each: int) -> None:
    """Raise ConfigError for the first run that is not done whose batches this number of GPUs cannot share."""
    for cell in cells:
        if not cell.done:
            try:
                refuse_unequal(cell.plan, gpus_each)
            except ConfigError as error:
                raise ConfigError(f"{cell.label}: {error}") from error


def counted(runs: int) -> str:
    return f"{runs} run{'' if runs == 1 else 's'}"
