"""`sweep`: a grid of runs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands.cluster import (
    Account,
    Cpus,
    GpusEach,
    Partition,
    TimeLimit,
    WithSbatch,
    refuse_without,
)
from bench.commands.costs import CostToo, costs, print_costs, refuse_alone
from bench.commands.dry_sweep import tried
from bench.commands.named_sweeps import named_sweep, sweeps_json, sweeps_table
from bench.commands.options import (
    Audit,
    ConfigFile,
    DataRootOfRun,
    Device,
    OutDir,
    Precision,
    ProtocolName,
    ScoredList,
    Sets,
    Workers,
    items,
    json_option,
    numbers,
    out,
    print_json,
    say,
    table_json,
)
from bench.errors import BenchError, ConfigError, Interrupted, did_you_mean

if TYPE_CHECKING:
    from bench.sweeps.ablations import Ablation, Comparison
    from bench.sweeps.cluster import Cluster
    from bench.sweeps.grid import Cell, Failure

app = typer.Typer()
KEYS = "runs (state, label, said, queued, folder, run_id, miou), refused, before, tables; cost with --cost"
SHARE = "the cores / jobs"
ENGINES = ("local", "slurm")


@app.command(
    cls=WithSbatch,
    epilog="Example: python -m bench sweep --method supervised,fixmatch --dataset camvid --split 1_16,1_8 "
    "--seed 0,1,2 --data-root DIR",
)
def sweep(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A named sweep, see --list, or a YAML file of that form.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Methods, with commas between.")] = None,
    dataset: Annotated[
        list[str] | None, typer.Option(help="Data sets, with commas between.", show_default="shapes")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Splits, with commas between.", show_default="1_16")
    ] = None,
    seed: Annotated[
        list[str] | None, typer.Option(help="Seeds: 0,1,2 or 0-4 or 0-2,7.", show_default="0")
    ] = None,
    draw: Annotated[
        list[str] | None, typer.Option(help="Draws of the split, as seeds: 0-2.", show_default="0")
    ] = None,
    scored: ScoredList = None,
    protocol: ProtocolName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Runs at a time, spread over the CUDA devices.", show_default="1; with slurm all"
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of each run.", show_default=SHARE)] = None,
    data_root: DataRootOfRun = None,
    out_dir: OutDir = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    audit: Audit = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start runs of other code or data again, done or not.")
    ] = False,
    gpus: GpusEach = None,
    engine: Annotated[
        str, typer.Option(help="local: processes of this machine; slurm: tasks of a cluster.")
    ] = "local",
    partition: Partition = None,
    time: TimeLimit = None,
    account: Account = None,
    cpus: Cpus = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs, and what each would refuse, and stop.")
    ] = False,
    cost: CostToo = False,
    status: Annotated[
        bool, typer.Option("--status", help="Print how the runs stand, and the tables so far.")
    ] = False,
    json_: Annotated[bool, json_option(KEYS)] = False,
    list_names: Annotated[bool, typer.Option("--list", help="Print the named sweeps and stop.")] = False,
) -> None:
    """Run a grid minus what is done, each run in a process of its own, and print its tables.

    The same command goes on with what was stopped or has failed. A run that another sweep holds is its own.
    Stopped by Ctrl-C, the runs save what they have; a second one, after two seconds, kills them. With
    --engine slurm the runs are submitted, and any further option is sbatch's: --qos=high.
    """
    from bench.settings.resolve import as_flags
    from bench.sweeps.cluster import Cluster
    from bench.sweeps.grid import Span, grid

    if list_names:
        print_json({"sweeps": sweeps_json()}) if json_ else out.print(sweeps_table())
        return
    if json_ and not (status or dry_run):
        raise ConfigError("--json says how the runs of a sweep stand; give it with --status or --dry-run.")
    refuse_alone(cost, dry_run)
    named = named_sweep(name)
    flags = as_flags(
        scored=scored,
        protocol=protocol,
        precision=precision,
        data_root=data_root,
        out=out_dir,
        device=device,
        workers=workers,
        threads=threads,
        audit=audit,
    )
    span = Span(
        methods=items("--method", method),
        datasets=items("--dataset", dataset),
        splits=items("--split", split),
        seeds=numbers("--seed", seed, "seeds"),
        draws=numbers("--draw", draw, "draws"),
    )
    _check_engine(engine, {"partition": partition, "time": time, "account": account, "cpus": cpus})
    cells, refused = grid(span, named, flags, config, sets or [])
    cluster = Cluster(partition, time, account, cpus, gpus, tuple(ctx.args)) if engine == "slurm" else None
    if status:
        _print_status(cells, refused, [], _queued(cells, cluster), named, True, json_)
    elif dry_run:
        _print_refusals(cells, refused, named, jobs or 1, overwrite, json_, gpus or 1, cost)
    elif cluster is not None:
        _submit(cells, refused, named, cluster, jobs, overwrite)
    else:
        _run(cells, refused, named, jobs or 1, overwrite, gpus or 1)


def _check_engine(engine: str, of_slurm: dict[str, Any]) -> None:
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}{did_you_mean(engine, ENGINES)}")
    if engine == "local":
        refuse_without(of_slurm, "--engine slurm")


def _queued(cells: "Sequence[Cell]", cluster: "Cluster | None") -> "Mapping[Path, str]":
    """Ask a cluster about the runs in its queue. Gives its words by their folders.

    "job 12_3 PENDING (Priority)"; nothing without a cluster.
    """
    from bench.sweeps.slurm import queue

    return queue(cells[0].plan.config.machine.runs) if cluster and cells else {}


def _print_refusals(
    cells: "Sequence[Cell]",
    refused: "Sequence[Failure]",
    named: "Ablation | Comparison | None",
    jobs: int,
    overwrite: bool,
    json_: bool,
    gpus_each: int,
    cost_too: bool,
) -> None:
    """Print the listing of a dry run, and with `cost_too` what the runs cost.

    Raises where a run would be refused.
    """
    from bench.sweeps.grid import Failure, counted

    errors: dict[str, BenchError] = {}
    before: list[str] = []
    if cells:
        _refuse(cells)
        errors, before = tried(cells, jobs, overwrite, gpus_each)
    possible = [cell for cell in cells if cell.label not in errors]
    left = [(re.split(", (?:draw|seed) ", cell.label)[0], cell.plan) for cell in possible if not cell.done]
    cost = costs(left, jobs, gpus_each) if cost_too else None
    failures = [*refused, *(Failure(label, str(error)) for label, error in errors.items())]
    _print_status(possible, failures, before, {}, named, False, json_, cost)
    if not cells:
        _refuse(cells)
    if failures:
        said = f"{len(failures)} of {counted(len(cells) + len(refused))} would be refused, see above"
        raise type(next(iter(errors.values()), ConfigError("")))(
            f"{said}: {failures[0].reason}" if len(failures) == 1 else f"{said}."
        )


def _print_status(
    cells: "Sequence[Cell]",
    refused: "Sequence[Failure]",
    before: Sequence[str],
    queued: "Mapping[Path, str]",
    named: "Ablation | Comparison | None",
    tables: bool,
    json_: bool,
    cost: dict[str, Any] | None = None,
) -> None:
    from bench.sweeps.grid import listing

    if json_:
        document = {
            "runs": [_cell(cell, queued) for cell in cells],
            "refused": [{"label": failure.label, "reason": failure.reason} for failure in refused],
            "before": before,
            "tables": [table_json(sheet) for sheet in _tables(cells, named)] if tables else [],
        }
        print_json(document if cost is None else document | {"cost": cost})
        return
    head, *lines = listing(cells, refused, queued)
    for line in (head, *before, *lines):
        say(line)
    print_costs(cost or {"said": []})
    if tables:
        _print_tables(cells, named)


def _run(
    cells: "Sequence[Cell]",
    refused: "Sequence[Failure]",
    named: "Ablation | Comparison | None",
    jobs: int,
    overwrite: bool,
    gpus_each: int,
) -> None:
    """Run what is not done, say what has failed, and print the tables. Raises where a run has failed."""
    from bench.sweeps.launch import run_grid

    _say_refused(refused)
    _refuse(cells, gpus_each)
    outcome = run_grid(cells, jobs, say, overwrite, gpus_each)
    left = [cell for cell in cells if not cell.done]
    done = f"{len(cells) - len(left)} of {len(cells)} runs are done; the same command goes on."
    if outcome.stopped_by is not None:
        for cell in left:
            if cell.state == "interrupted":
                say(f"resumable: {cell.label}  {cell.folder.path}")
        _list_failures(outcome.failures)
        raise Interrupted(done)
    _print_tables(cells, named)
    _list_failures(outcome.failures)
    if outcome.failures and all(failure.saved for failure in outcome.failures) and not refused:
        raise Interrupted(done)
    _raise_for(outcome.failures, refused, len(cells))


def _submit(
    cells: "Sequence[Cell]",
    refused: "Sequence[Failure]",
    named: "Ablation | Comparison | None",
    cluster: "Cluster",
    jobs: int | None,
    overwrite: bool,
) -> None:
    """Submit what is not done to a cluster; print the tables where all is. Raises where a run is refused."""
    from bench.sweeps.slurm import submit_grid

    _say_refused(refused)
    _refuse(cells, cluster.gpus or 1)
    submission = submit_grid(cells, cluster, say, jobs, overwrite)
    if all(cell.done for cell in cells):
        _print_tables(cells, named)
    else:
        say("--status behind this command says how they stand; the same command submits again what has ended")
    _list_failures(submission.failures)
    _raise_for(submission.failures, refused, len(cells))


def _say_refused(refused: "Sequence[Failure]") -> None:
    for failure in refused:
        say(f"refused: {failure.label}: {failure.reason}")


def _raise_for(failures: "Sequence[Failure]", refused: "Sequence[Failure]", cells: int) -> None:
    from bench.sweeps.grid import counted

    bad = {"failed": len(failures), "refused": len(refused)}
    if any(bad.values()):
        said = " and ".join(f"{count} {what}" for what, count in bad.items() if count)
        raise BenchError(
            f"{said} of {counted(cells + len(refused))}, see above; what is done is kept, and the same "
            "command tries the others again."
        )


def _refuse(cells: "Sequence[Cell]", gpus_each: int = 1) -> None:
    """Refuse a grid none of whose runs can be made, or one with a run that its GPUs cannot share."""
    from bench.sweeps.grid import check_data, check_shares

    if not cells:
        raise ConfigError("no run of this grid can be made, see above.")
    check_data(cells)
    check_shares(cells, gpus_each)


def _list_failures(failures: "Sequence[Failure]") -> None:
    for failure in failures:
        say(f"failed: {failure.label}: {failure.reason}" + (f"  ({failure.log})" if failure.log else ""))


def _cell(cell: "Cell", queued: "Mapping[Path, str]") -> dict[str, Any]:
    """One run of the grid, for `--json`."""
    result = cell.result
    return {
        "state": cell.state,
        "label": cell.label,
        "said": cell.said if cell.state in ("running", "changed", "failed") else "",
        "queued": queued.get(cell.folder.path.absolute(), ""),
        "folder": str(cell.folder.path),
        "run_id": cell.plan.run_id,
        "miou": result.predictor.miou if result else None,
    }


def _print_tables(cells: "Sequence[Cell]", named: "Ablation | Comparison | None") -> None:
    from reports.sheets import text

    for sheet in _tables(cells, named):
        out.print(text.to_rich(sheet))


def _tables(cells: "Sequence[Cell]", named: "Ablation | Comparison | None") -> list[Any]:
    """Make the tables of those runs of a sweep that are done."""
    from bench.sweeps.ablations import Ablation
    from reports.groups import BASELINE, comparable
    from reports.sheets.ablation import ablation_tables
    from reports.sheets.differences import differences
    from reports.sheets.headline import headline

    groups = comparable({cell.folder.path: cell.result for cell in cells if cell.result})
    if isinstance(named, Ablation):
        return [found.sheet for group in groups for found in ablation_tables(group, named)]
    shown = []
    for part in (part for group in groups for part in group.kinds):
        rows = part.rows_named(BASELINE)
        several = any(len(row.on(split)) > 1 for row in part.rows for split in part.splits)
        shown.append(headline(part))
        if several and len(rows) == 1 and len(part.rows) > 1:  # how sure the table is
            shown.append(differences(part, rows[0]))
    return shown
