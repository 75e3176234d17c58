"""Named sweeps: one method in several variants, each a set of knobs, with the published numbers beside them;
or several methods, each under several settings of the protocol.

A named sweep is bench/sweeps/<name>.yaml or a user's own file of that form.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from bench.errors import ConfigError
from bench.records.schema import SHARES, Share
from bench.settings import registry
from bench.settings.base import Knobs
from bench.settings.plain_yaml import read_yaml
from bench.settings.reading import suggest, validate

SWEEPS = Path(__file__).parent


Percent = Annotated[float, Field(ge=0, le=100)]
Name = Annotated[str, Field(min_length=1)]


class Published(Knobs):
    """Numbers of a paper, in percent, measured elsewhere."""

    source: str
    dataset: str = ""  # the name it goes by here; runs on it differ from the paper in the protocol alone
    columns: tuple[str, ...] = Field(min_length=1)
    values: dict[str, tuple[Percent | None, ...]]  # a row for each variant; null: not published


class SweepFile(Knobs):
    title: str
    method: str
    variants: dict[Name, dict[str, Any]] = Field(min_length=2)  # knobs of each; the first is the reference
    published: Published | None = None
    note: str = ""
    # What must be at work for the sweep to say anything: least values of figures that results keep as their
    # health, such as {share_unlabeled: 0.2}, in the runs of the reference.
    needs: dict[str, Share] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> SweepFile:
        for name in self.needs:
            if not name.startswith(SHARES):
                begin = " or ".join(SHARES)
                raise ValueError(f"needs.{name}: results keep no such figure; theirs begin with {begin}")
        if self.published is None:
            return self
        rows, wanted = self.published.values, len(self.published.columns)
        for name in [*self.variants, *rows]:
            if name not in rows:
                raise ValueError(f"published.values has no row {name!r}; add it, with null for each column")
            if name not in self.variants:
                raise ValueError(suggest(name, self.variants, "variant in published.values"))
            if len(rows[name]) != wanted:
                raise ValueError(
                    f"published.values.{name} has {len(rows[name])} numbers for {wanted} columns"
                )
        return self


class ComparisonFile(Knobs):
    title: str
    methods: tuple[str, ...] = Field(min_length=1)
    # By name, what all methods get, such as {protocol.views: plain}. Each makes a table of its own.
    settings: dict[Name, dict[str, Any]] = Field(min_length=2)
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """A named sweep of several methods, each under several settings of the protocol."""

    name: str
    title: str
    methods: Sequence[str]
    settings: Mapping[str, Mapping[str, Any]]  # all give the same keys

    @property
    def varied(self) -> list[str]:
        """The keys that the settings give."""
        return list(next(iter(self.settings.values())))


@dataclass(frozen=True)
class Ablation:
    """A named sweep whose variants are written out: each gives every knob that any of them gives."""

    name: str
    title: str
    method: str
    variants: Mapping[str, Mapping[str, Any]]  # the first is the reference
    published: Published | None
    note: str
    needs: Mapping[str, float] = field(default_factory=dict)  # see SweepFile

    @property
    def reference(self) -> str:
        return next(iter(self.variants))

    @property
    def varied(self) -> list[str]:
        """The knobs that the variants give."""
        return list(self.variants[self.reference])


def sweep_names() -> list[str]:
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def ablation_names() -> list[str]:
    """List the named sweeps of one method in several variants."""
    return [name for name in sweep_names() if isinstance(read_file(sweep_file(name)), SweepFile)]


def sweep_file(name: str) -> Path:
    """Find the file of a named sweep: "u2pl_alpha" -> Path(".../u2pl_alpha.yaml").

    `name` may also be the path of a user's own file. Raises ConfigError for an unknown name.
    """
    if name in sweep_names():
        return SWEEPS / f"{name}.yaml"
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    raise ConfigError(suggest(name, sweep_names(), "sweep") + "; or give the path of a .yaml file.")


def read_file(path: Path) -> SweepFile | ComparisonFile:
    """Of either form; its methods need not be here. Raises ConfigError as `read_sweep` does."""
    given = read_yaml(path)
    if isinstance(given, Mapping) and "methods" in given:
        return validate(ComparisonFile, given, file=path)
    return read_sweep(path)


def read_sweep(path: Path) -> SweepFile:
    """Read the file of a sweep of one method.

    Raises ConfigError, with the file's name, for a key or a row that does not belong there.
    """
    return validate(SweepFile, read_yaml(path), file=path)


def read_named(path: Path) -> Ablation | Comparison:
    """Read a named sweep, of one method or of several.

    Raises ConfigError as `read_ablation` does, for a method that is not here, and for settings that do not
    all give the same keys.
    """
    file = read_file(path)
    if isinstance(file, SweepFile):
        return read_ablation(path)
    for name in file.methods:
        if name not in registry.method_names():
            raise ConfigError(f"{path}: {suggest(name, registry.method_names(), 'method')}")
    keys = {name: sorted(settings) for name, settings in file.settings.items()}
    first = next(iter(keys))
    for name in keys:
        if keys[name] != keys[first]:
            raise ConfigError(f"{path}: settings.{name} and settings.{first} must give the same keys.")
    return Comparison(path.stem, file.title, file.methods, file.settings)


def read_ablation(path: Path) -> Ablation:
    """Read a sweep of one method, with its variants written out.

    A knob that a variant leaves out while another gives it has the method's own default, whatever the
    protocol says. Raises ConfigError for knobs that the method does not have, and for variants that are one.
    """
    file = read_sweep(path)
    if file.method not in registry.method_names():
        raise ConfigError(f"{path}: {suggest(file.method, registry.method_names(), 'method')}")
    model = registry.describe_method(file.method).knobs
    varied = list(dict.fromkeys(key for knobs in file.variants.values() for key in knobs))
    whole = {
        name: validate(model, knobs, f"variants.{name}", path).model_dump(mode="json")
        for name, knobs in file.variants.items()
    }
    variants = {name: {key: knobs[key] for key in varied} for name, knobs in whole.items()}
    for one, other in combinations(variants, 2):
        if variants[one] == variants[other]:
            raise ConfigError(f"{path}: the variants {one!r} and {other!r} are the same; drop one of them.")
    return Ablation(path.stem, file.title, file.method, variants, file.published, file.note, file.needs)


def sweeps_of(methods: Collection[str]) -> list[Ablation]:
    """Read the named sweeps of these methods. A method that is not installed here has none."""
    known = set(methods) & set(registry.method_names())
    files = map(sweep_file, ablation_names())
    return [read_ablation(path) for path in files if read_sweep(path).method in known]
