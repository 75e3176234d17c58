"""`run`: one method on one split with one seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bench.commands.options import Audit, DataRootOfRun, Device, OutDir, Precision, ProtocolName, Workers, out
from bench.errors import Interrupted

app = typer.Typer()


@app.command(epilog="Example: python -m bench run --method u2pl --dataset camvid --split 1_8 --data-root DIR")
def run(
    method: Annotated[str | None, typer.Option(help="Method; see `list`.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set; the default `shapes` is generated.")] = None,
    split: Annotated[str | None, typer.Option(help="Split, such as 1_16, 1_8, full.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    protocol: ProtocolName = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with settings, such as a run's config.yaml.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any knob: method.threshold=0.9, protocol.steps=200."
        ),
    ] = None,
    data_root: DataRootOfRun = None,
    out_dir: OutDir = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch.")] = None,
    compile_: Annotated[bool | None, typer.Option("--compile", help="Use torch.compile.")] = None,
    audit: Audit = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again, even if done.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")] = False,
) -> None:
    """Train one method on one split with one seed, score it, and print its mIoU table."""
    flags = {
        "dataset": dataset,
        "split": split,
        "seed": seed,
        "method": {"name": method},
        "protocol": {"name": protocol, "precision": precision},
        "machine": {
            "data_root": str(data_root) if data_root else None,
            "out": out_dir,
            "device": device,
            "workers": workers,
            "threads": threads,
            "compile": compile_,
            "audit": audit,
        },
    }
    from bench.plan import plan
    from bench.settings.resolve import resolve

    planned = plan(resolve(flags, config, sets or []))
    if dry_run:
        print(planned.config.to_yaml(), end="")
        granted = ", ".join(f"{count} {kind}" for kind, count in planned.split.counts.items())
        print(f"# run {planned.run_id}, protocol {planned.config.protocol.hash}, in {planned.folder.path}")
        print(f"# split {planned.split.name}: {granted}; {planned.config.protocol.steps} steps")
        return
    from bench.display import Display
    from bench.pipeline import run as run_plan

    try:
        result = run_plan(planned, Display(), resume=resume, overwrite=overwrite)
    except Interrupted as error:
        raise Interrupted(f"{error}; {planned.folder.path} is saved, go on with --resume.") from error
    _print_result(result)
    out.print(f"records: {escape(str(planned.folder.path))}", highlight=False, soft_wrap=True)


def _print_result(result: Any) -> None:
    score = result.predictor
    title = f"{result.method} on {result.dataset} {result.split}, seed {result.seed}: {result.steps} steps"
    out.print(title, markup=False, highlight=False)
    table = Table("class")
    table.add_column("IoU %", justify="right")
    for name, iou in zip(result.classes, score.iou, strict=True):
        table.add_row(escape(name), "does not occur" if iou is None else f"{100 * iou:.1f}")
    table.add_section()
    table.add_row(f"mIoU over {score.classes_averaged} classes", f"{100 * score.miou:.1f}", style="bold")
    if result.student != score:
        table.add_row("mIoU of the student", f"{100 * result.student.miou:.1f}")
    table.add_row("pixel accuracy", f"{100 * score.pixel_accuracy:.1f}")
    out.print(table)
