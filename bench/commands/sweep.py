"""`sweep`: a grid of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bench.commands.options import (
    Audit,
    DataRootOfRun,
    Device,
    OutDir,
    Precision,
    ProtocolName,
    Workers,
    items,
    out,
    say,
)
from bench.errors import BenchError, ConfigError, Interrupted

app = typer.Typer()


@app.command(
    epilog="Example: python -m bench sweep --method supervised,fixmatch --dataset camvid --split 1_16,1_8 "
    "--seed 0,1,2 --data-root DIR"
)
def sweep(
    name: Annotated[
        str | None, typer.Argument(help="A named sweep, see --list, or a YAML file of that form.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Methods, with commas between.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Data sets, with commas between.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Splits, with commas between.")] = None,
    seed: Annotated[list[str] | None, typer.Option(help="Seeds, with commas between.")] = None,
    protocol: ProtocolName = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings of all runs.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any knob, for all runs.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, spread over the CUDA devices.")] = 1,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of each run; default: the cores / jobs.")
    ] = None,
    data_root: DataRootOfRun = None,
    out_dir: OutDir = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    audit: Audit = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the runs and stop.")] = False,
    status: Annotated[bool, typer.Option("--status", help="... and the tables so far.")] = False,
    list_names: Annotated[bool, typer.Option("--list", help="Print the named sweeps and stop.")] = False,
) -> None:
    """Run a grid minus what is done, each run in a process of its own, and print its tables.

    The same command goes on with what was stopped or has failed. A run that another sweep holds is its own.
    Stopped by Ctrl-C, the runs save what they have; a second one, after a second, kills them.
    """
    from bench.sweeps.ablations import read_ablation, sweep_file
    from bench.sweeps.grid import Span, check_data, counted, grid, listing
    from bench.sweeps.launch import run_grid

    if list_names:
        out.print(sweeps_table())
        return
    if name and name.isdecimal():
        raise ConfigError(f"{name}: numbers of one option stand together, with commas between: --seed 0,1,2.")
    ablation = read_ablation(sweep_file(name)) if name else None
    flags = {
        "protocol": {"name": protocol, "precision": precision},
        "machine": {
            "data_root": str(data_root) if data_root else None,
            "out": out_dir,
            "device": device,
            "workers": workers,
            "threads": threads,
            "audit": audit,
        },
    }
    seeds = items("--seed", seed)
    if not all(item.isdecimal() for item in seeds):
        raise ConfigError(f"--seed {','.join(seeds)}: give whole numbers with commas between, such as 0,1,2.")
    span = Span(
        methods=items("--method", method),
        datasets=items("--dataset", dataset),
        splits=items("--split", split),
        seeds=[int(item) for item in seeds],
    )
    cells, refused = grid(span, ablation, flags, config, sets or [])
    if dry_run or status:
        for line in listing(cells, refused):
            say(line)
        if status:
            _print_tables(cells, ablation)
        return

    for failure in refused:
        say(f"refused: {failure.label}: {failure.reason}")
    if not cells:
        raise ConfigError("no run of this grid can be made, see above.")
    check_data(cells)
    outcome = run_grid(cells, jobs, say)
    left = [cell for cell in cells if not cell.done]
    if outcome.stopped_by is not None:
        for cell in left:
            if cell.state == "interrupted":
                say(f"resumable: {cell.label}  {cell.folder.path}")
        _list_failures(outcome.failures)
        number = len(cells) - len(left)
        raise Interrupted(f"{number} of {len(cells)} runs are done; the same command goes on.")
    _print_tables(cells, ablation)
    _list_failures(outcome.failures)
    bad = {"failed": len(outcome.failures), "refused": len(refused)}
    if any(bad.values()):
        said = " and ".join(f"{count} {what}" for what, count in bad.items() if count)
        raise BenchError(
            f"{said} of {counted(len(cells) + len(refused))}, see above; what is done is kept, and the same "
            "command tries the others again."
        )


def _list_failures(failures: Any) -> None:
    for failure in failures:
        say(f"failed: {failure.label}: {failure.reason}" + (f"  ({failure.log})" if failure.log else ""))


def _print_tables(cells: Any, ablation: Any) -> None:
    """The tables of those runs of a sweep that are done."""
    from reports.groups import comparable
    from reports.sheets import text
    from reports.sheets.ablation import ablation_tables
    from reports.sheets.headline import headline

    for group in comparable({cell.folder.path: cell.result for cell in cells if cell.result}):
        if ablation is None:
            out.print(text.to_rich(headline(group)))
        else:
            for found in ablation_tables(group, ablation):
                out.print(text.to_rich(found.sheet))


def sweeps_table() -> Table:
    from bench.sweeps.ablations import read_sweep, sweep_file, sweep_names

    table = Table("sweep", "method", "", title="named sweeps", title_justify="left")
    for name in sweep_names():
        file = read_sweep(sweep_file(name))
        table.add_row(escape(name), escape(file.method), escape(file.title))
    return table
