"""`run` and `resume`: one method on one split with one seed."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bench.commands.costs import CostToo, costs, print_costs, refuse_alone
from bench.commands.options import (
    Anyway,
    Audit,
    ConfigFile,
    DataRootOfRun,
    Device,
    Gpus,
    OutDir,
    Precision,
    ProtocolName,
    ScoredList,
    Sets,
    Verbose,
    Workers,
    json_option,
    one_number,
    out,
    print_json,
    say,
)
from bench.errors import ConfigError, Interrupted

app = typer.Typer()
KEYS = (
    "folder, and those of the run's record; with --dry-run folder, run_id, protocol_hash, steps, images, "
    "before, config, and cost with --cost"
)


@app.command(epilog="Example: python -m bench run --method u2pl --dataset camvid --split 1_8 --data-root DIR")
def run(
    method: Annotated[
        str | None, typer.Option(help="Method; see `list`.", show_default="none: give one")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Data set; `shapes` is generated.", show_default="shapes")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split, such as 1_16, 1_8, full.", show_default="1_16")
    ] = None,
    seed: Annotated[int | None, one_number(help="Seed of every random draw.", show_default="0")] = None,
    draw: Annotated[
        int | None, one_number(help="Which images the split labels.", show_default="0: its own lists")
    ] = None,
    scored: ScoredList = None,
    protocol: ProtocolName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    data_root: DataRootOfRun = None,
    out_dir: OutDir = None,
    device: Device = None,
    gpus: Gpus = None,
    precision: Precision = None,
    workers: Workers = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of torch.", show_default="the cores, less the workers")
    ] = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile", help="Use torch.compile.", show_default="off")
    ] = None,
    audit: Audit = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again, even if done.")] = False,
    anyway: Anyway = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")] = False,
    cost: CostToo = False,
    verbose: Verbose = False,
    json_: Annotated[bool, json_option(KEYS)] = False,
) -> None:
    """Train one method on one split with one seed, score it, and print its mIoU table."""
    from bench.plan import plan
    from bench.settings.resolve import as_flags, resolve

    refuse_alone(cost, dry_run)
    if anyway and not resume:
        raise ConfigError("--anyway is about a run that goes on; give it with --resume.")
    flags = as_flags(
        method=method,
        dataset=dataset,
        split=split,
        seed=seed,
        draw=draw,
        scored=scored,
        protocol=protocol,
        precision=precision,
        data_root=data_root,
        out=out_dir,
        device=device,
        workers=workers,
        threads=threads,
        compile=compile_,
        audit=audit,
    )
    planned = plan(resolve(flags, config, sets or []))
    several = _several(planned, gpus, elsewhere=cost)
    if dry_run:
        from bench.pipeline import check

        check(planned, resume, overwrite, anyway)
        found = {"cost": costs([(planned.method.name, planned)], gpus=several or 1)} if cost else {}
        print_json(_planned(planned) | found) if json_ else _print_plan(planned)
        if found and not json_:
            print_costs(found["cost"], "# ")
        return
    _run_and_print(planned, verbose, json_, resume, overwrite, anyway, several)


@app.command(epilog="Example: python -m bench resume runs/shapes/1_16/fixmatch/0-1234abcd")
def resume(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Folder, such as runs/shapes/1_16/fixmatch/0-1234abcd."),
    ],
    data_root: DataRootOfRun = None,
    device: Device = None,
    gpus: Gpus = None,
    workers: Workers = None,
    anyway: Anyway = False,
    verbose: Verbose = False,
    json_: Annotated[bool, json_option("folder, and those of the run's record")] = False,
) -> None:
    """Go on with an interrupted run from the settings and the checkpoint in its folder."""
    from bench.plan import saved_plan
    from bench.settings.resolve import as_flags

    flags = as_flags(data_root=data_root, device=device, workers=workers)
    planned = saved_plan(run, flags)
    several = _several(planned, gpus)
    _run_and_print(planned, verbose, json_, resume=True, anyway=anyway, several=several)


def _several(plan: Any, gpus: int | None, elsewhere: bool = False) -> int:
    """How many processes to start for a run, from 2 on; 0 where this one does it, alone or as one of them.

    Args:
        elsewhere: It is asked what the run would cost, perhaps of another machine with such devices.

    Raises ConfigError where they cannot share it.
    """
    from bench import ranks
    from bench.pipeline import check_shares
    from bench.plan import refuse_unequal

    if not gpus or gpus == 1 or ranks.started() > 1:
        return 0
    if elsewhere:
        refuse_unequal(plan, gpus)
    else:
        check_shares(plan, gpus)
    return gpus


def _run_and_print(
    plan: Any,
    verbose: bool,
    json_: bool,
    resume: bool = False,
    overwrite: bool = False,
    anyway: bool = False,
    several: int = 0,
) -> None:
    from bench import ranks
    from bench.display import Display, Quiet
    from bench.pipeline import announced_run

    if several:
        given = {"--verbose": verbose, "--json": json_, "--resume": resume, "--overwrite": overwrite}
        _launch(plan, several, [flag for flag, on in {**given, "--anyway": anyway}.items() if on])
        return
    display = Display(verbose=verbose) if ranks.is_first() else Quiet()
    machine = plan.config.machine
    try:
        with ranks.met(machine.device, machine.deterministic):
            result = announced_run(plan, display, resume, overwrite, anyway)
    except Interrupted as error:
        path = plan.folder.path
        again = f" or `resume {path}`" if plan.folder.config.exists() else ""
        raise Interrupted(f"{error}; {path} is saved, go on with --resume{again}.") from error
    if not ranks.is_first():
        return
    if json_:
        print_json({"folder": str(plan.folder.path), **result.model_dump(mode="json")})
        return
    _print_result(result)
    if verbose and result.contents:
        _print_contents(result.contents)
    out.print(f"records: {escape(str(plan.folder.path))}", highlight=False, soft_wrap=True)


def _launch(plan: Any, processes: int, flags: list[str]) -> None:
    """Do a run in several processes, and end as they do."""
    from bench import torchrun

    with TemporaryDirectory(prefix="frugalseg-") as place:
        settings = Path(place) / "settings.yaml"
        settings.write_text(plan.config.to_yaml())
        words = [*torchrun.command(), "run", "--config", str(settings), *flags]
        if code := torchrun.launch(processes, words):
            raise typer.Exit(code)


def _print_plan(plan: Any) -> None:
    """Print the resolved settings, and as comments what they come to."""
    steps = plan.config.protocol.steps
    granted = ", ".join(f"{count} {kind}" for kind, count in plan.split.counts.items())
    say(plan.config.to_yaml().rstrip("\n"))
    for line in _before(plan):
        say(f"# {line}")
    say(f"# run {plan.run_id}, protocol {plan.config.protocol.hash}, in {plan.folder.path}")
    draw = f", draw {plan.split.draw}" if plan.split.draw else ""
    held_out = ", scored on the held-out list" if plan.config.scored == "heldout" else ""
    say(f"# split {plan.split.name}{draw}: {granted}; {steps} steps{held_out}")


def _planned(plan: Any) -> dict[str, Any]:
    """Gather all that a dry run says, for `--json`."""
    return {
        "folder": str(plan.folder.path),
        "run_id": plan.run_id,
        "protocol_hash": plan.config.protocol.hash,
        "steps": plan.config.protocol.steps,
        "images": plan.split.counts,
        "before": _before(plan),
        "config": plan.config.model_dump(mode="json"),
    }


def _before(plan: Any) -> list[str]:
    """Say what a run would say at its start about its data and its CAM seeds; nothing where it is done."""
    from bench.outlook import before

    return [] if plan.folder.result.exists() else before(plan)


def _print_result(result: Any) -> None:
    score = result.predictor
    title = f"{result.method} on {result.dataset} {result.drawn_split}, seed {result.seed}"
    title += f": {result.steps} steps"
    title += f", {result.config.get('protocol', {}).get('views', 'published')} views"
    title += ", scored on the held-out list" if result.scored == "heldout" else ""
    out.print(title, markup=False, highlight=False)
    table = Table("class")
    table.add_column("IoU %", justify="right")
    for name, iou in zip(result.classes, score.iou, strict=True):
        table.add_row(escape(name), "in no scored mask" if iou is None else f"{100 * iou:.1f}")
    table.add_section()
    headline = "" if result.own is None else ", of the protocol's teacher"
    said = f"mIoU over {score.classes_averaged} classes{headline}"
    table.add_row(said, f"{100 * score.miou:.1f}", style="bold")
    if result.own is not None or result.student != score:
        table.add_row("mIoU of the student", f"{100 * result.student.miou:.1f}")
    if result.own not in (None, result.student):
        table.add_row("mIoU of the method's own predictor", f"{100 * result.own.miou:.1f}")
    table.add_row("pixel accuracy", f"{100 * score.pixel_accuracy:.1f}")
    out.print(table)


def _print_contents(contents: Any) -> None:
    """Print what the run was made of, by the first 16 digits of each digest."""
    shown = {f"code {room}": digest for room, digest in contents.code.items()}
    shown |= contents.model_dump(exclude={"code", "anyway"}, exclude_none=True)
    table = Table("made of", "SHA-256")
    for name, digest in shown.items():
        table.add_row(escape(name), digest[:16])
    for what in contents.anyway:
        table.add_row("changed on the way", escape(what))
    out.print(table)
