"""The named sweeps: which there are, and the one that a command names."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from bench.errors import ConfigError

if TYPE_CHECKING:
    from bench.sweeps.ablations import Ablation, Comparison


def named_sweep(name: str | None) -> "Ablation | Comparison | None":
    from bench.sweeps.ablations import read_named, sweep_file

    if name and name.isdecimal():
        raise ConfigError(f"{name}: numbers of one option stand together, with commas between: --seed 0,1,2.")
    return read_named(sweep_file(name)) if name else None


def sweeps_table() -> Table:
    table = Table("sweep", "methods", "", title="named sweeps", title_justify="left")
    for of in sweeps_json():
        table.add_row(escape(of["name"]), escape(of["method"]), escape(of["title"]))
    return table


def sweeps_json() -> list[dict[str, str]]:
    """List the named sweeps, for `list --json`.

    Where a sweep has several methods, "method" names them all: "fixmatch, u2pl".
    """
    from bench.sweeps.ablations import SweepFile, read_file, sweep_file, sweep_names

    found = []
    for name in sweep_names():
        of = read_file(sweep_file(name))
        method = of.method if isinstance(of, SweepFile) else ", ".join(of.methods)
        found.append({"name": name, "method": method, "title": of.title})
    return found
