"""The command line. What a command needs is imported inside it, so that `--help` answers at once."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import __version__
from bench.errors import BenchError, ConfigError, DataError, Interrupted, plain

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Compare weakly- and semi-supervised segmentation methods: one harness, identical splits.\n\n"
    "Start with [bold]python -m bench run --method u2pl[/bold], which needs no data.",
    epilog="Exit codes: 0 done, 1 run failed, 2 usage or configuration, 3 data missing or invalid, "
    "4 regression against the baselines or a stale table, 5 machine unfit, 6 run in use by another process, "
    "75 stopped by a signal and resumable. "
    "--debug anywhere shows a traceback.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at data sets and their splits.")
app.add_typer(data_app, name="data")
out = Console()
if not out.is_terminal and "COLUMNS" not in os.environ:
    out.width = 160  # a file or a pipe has no edge that a table must be squeezed to

DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", envvar="BENCH_DATA", help="Folder that holds one folder per data set."),
]
ProtocolName = Annotated[str | None, typer.Option("--protocol", help="Default: the data set's own.")]
OutDir = Annotated[str | None, typer.Option("--out", help="Folder of all runs.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N.")]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16, fp16; part of the protocol.")]
Workers = Annotated[int | None, typer.Option(help="Loader processes of a run.")]
Audit = Annotated[
    bool | None,
    typer.Option(
        "--audit/--no-audit",
        help="Open the withheld masks to log how good pseudo-labels are; no result changes.",
    ),
]
DatasetName = Annotated[
    str, typer.Option("--dataset", help="Data set, or a folder of your own below the data root.")
]


def main() -> None:
    """Run the command line; every error of ours becomes a sentence and an exit code."""
    # A flag for every command, wherever it stands.
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app(prog_name="python -m bench")
    except (BenchError, OSError) as error:  # OSError: a full disk, a folder that may not be written
        if debug:
            traceback.print_exc()
        kind = "stopped" if isinstance(error, Interrupted) else "error"
        said = "\n".join(map(plain, str(error).split("\n")))
        Console(stderr=True).print(f"[bold]{kind}:[/bold] {escape(said)}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code if isinstance(error, BenchError) else 1)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None: ...


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
    data_root: DataRoot = None,
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
    from bench.config import resolve
    from bench.identity import plan

    planned = plan(resolve(flags, config, sets or []))
    if dry_run:
        print(planned.config.to_yaml(), end="")
        granted = ", ".join(f"{count} {kind}" for kind, count in planned.split.counts.items())
        print(f"# run {planned.run_id}, protocol {planned.config.protocol.hash}, in {planned.folder.path}")
        print(f"# split {planned.split.name}: {granted}; {planned.config.protocol.steps} steps")
        return
    from bench.display import Display
    from bench.harness import run as run_plan

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
    data_root: DataRoot = None,
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
    from bench.ablations import read_ablation, sweep_file
    from bench.sweep import Span, check_data, counted, grid, listing, run_grid

    if list_names:
        out.print(_sweeps_table())
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
    seeds = _items("--seed", seed)
    if not all(item.isdecimal() for item in seeds):
        raise ConfigError(f"--seed {','.join(seeds)}: give whole numbers with commas between, such as 0,1,2.")
    span = Span(
        methods=_items("--method", method),
        datasets=_items("--dataset", dataset),
        splits=_items("--split", split),
        seeds=[int(item) for item in seeds],
    )
    cells, refused = grid(span, ablation, flags, config, sets or [])
    if dry_run or status:
        for line in listing(cells, refused):
            _say(line)
        if status:
            _print_tables(cells, ablation)
        return

    for failure in refused:
        _say(f"refused: {failure.label}: {failure.reason}")
    if not cells:
        raise ConfigError("no run of this grid can be made, see above.")
    check_data(cells)
    outcome = run_grid(cells, jobs, _say)
    left = [cell for cell in cells if not cell.done]
    if outcome.stopped_by is not None:
        for cell in left:
            if cell.state == "interrupted":
                _say(f"resumable: {cell.label}  {cell.folder.path}")
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
        _say(f"failed: {failure.label}: {failure.reason}" + (f"  ({failure.log})" if failure.log else ""))


def _say(line: str) -> None:
    out.print(plain(line), markup=False, highlight=False, soft_wrap=True)


def _items(option: str, texts: list[str] | None) -> list[str]:
    """Of an option that takes several, with commas between or by being repeated."""
    items = [item.strip() for text in texts or [] for item in text.split(",")]
    if not all(items):
        raise ConfigError(f"{option} {','.join(texts or [])!r}: a name is missing between two commas.")
    return items


def _print_tables(cells: Any, ablation: Any) -> None:
    """The tables of those runs of a sweep that are done."""
    from reports import ablation as ablations
    from reports import overview, sheets, tables

    results = [cell.result for cell in cells if cell.result]
    if ablation is not None:
        for found in ablations.ablation_tables(results, ablation):
            out.print(sheets.to_rich(found.sheet))
    else:
        for group in tables.comparable(results):
            out.print(sheets.to_rich(overview.headline(group)))


def _sweeps_table() -> Table:
    from bench.ablations import read_sweep, sweep_file, sweep_names

    table = Table("sweep", "method", "", title="named sweeps", title_justify="left")
    for name in sweep_names():
        file = read_sweep(sweep_file(name))
        table.add_row(escape(name), escape(file.method), escape(file.title))
    return table


@app.command(
    "cam-seeds", epilog="Example: python -m bench cam-seeds --dataset msrc21 --split tags --data-root DIR"
)
def cam_seeds(
    dataset: Annotated[str | None, typer.Option(help="Data set; the default `shapes` is generated.")] = None,
    split: Annotated[str, typer.Option(help="A split that grants tags, such as tags or 1_8+tags.")] = "tags",
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Any knob: cam_seeds.refine=par, cam_seeds.protocol.steps=200."
        ),
    ] = None,
    data_root: DataRoot = None,
    out_dir: OutDir = None,
    device: Device = None,
    workers: Workers = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes that refine; default: all cores.")
    ] = None,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality", help="Then open the masks of the tagged images to measure the seeds; no run sees it."
        ),
    ] = False,
) -> None:
    """From image tags to CAM seeds: train a tag classifier, map its activations, threshold and refine.

    `run` does this by itself where a split grants tags; runs of one seed share them. Stopped, it goes on from
    where it was.
    """
    flags = {
        "dataset": dataset,
        "split": split,
        "seed": seed,
        "method": {"name": "supervised"},  # any that learns from seeds: they do not depend on it
        "machine": {
            "data_root": str(data_root) if data_root else None,
            "out": out_dir,
            "device": device,
            "workers": workers,
        },
    }
    from bench.config import resolve
    from bench.identity import plan

    planned = plan(resolve(flags, config, sets or [])).seeds
    if planned is None:
        raise ConfigError(f"split {split!r} grants no tags; choose one that does, such as tags or 1_8+tags.")
    from bench import seed_quality
    from bench.cam_seeds import make
    from bench.display import Display

    display = Display()
    report = make(planned, display, jobs)
    measured = (planned.folder.read_quality() or seed_quality.measure(planned, display)) if quality else None
    out.print(_seed_table(report, measured))
    out.print(f"seeds: {escape(str(planned.folder.path))}", highlight=False, soft_wrap=True)


def _seed_table(report: Any, quality: Any) -> Table:
    title = f"CAM seeds of {report.images} images, refined by {report.settings['refine']}"
    table = Table("", title=title, title_justify="left")
    table.add_column("", justify="right")
    share = report.dead_tags / max(report.tags, 1)
    table.add_row("tags", str(report.tags))
    table.add_row("dead tags, whose map is nowhere positive", f"{report.dead_tags} ({100 * share:.1f} %)")
    table.add_row("images without a tag", str(report.untagged))
    table.add_row("pixels decided", f"{100 * report.decided:.1f} %")
    table.add_row("maps", f"{1000 * report.map_seconds / report.images:.0f} ms an image")
    table.add_row(
        "thresholds and refinement", f"{1000 * report.refine_core_seconds / report.images:.0f} core-ms"
    )
    if report.opened:
        table.add_row(f"masks opened for the background scores {report.strict:.2f} / {report.loose:.2f}",
                      str(len(report.opened)))  # fmt: skip
    if quality is not None:
        table.add_section()
        table.add_row("mIoU, undecided counted as missed", f"{100 * quality.miou:.1f}", style="bold")
        table.add_row("mIoU over decided pixels", f"{100 * quality.miou_decided:.1f}")
        table.add_row("mIoU of tags spread over the image", f"{100 * quality.miou_of_spread_tags:.1f}")
        best = max(quality.curve, key=lambda point: point.miou)
        table.add_row(
            f"mIoU of the maps by one threshold, best at {best.threshold:.2f} (oracle)",
            f"{100 * best.miou:.1f}",
        )
        table.add_section()
        for name, iou, precision, recall in zip(
            quality.classes, quality.iou, quality.precision, quality.recall, strict=True
        ):
            shown = ["-" if x is None else f"{100 * x:.0f}" for x in (iou, precision, recall)]
            table.add_row(f"{escape(name)}: IoU, precision, recall", " ".join(shown))
    return table


@app.command(epilog="Example: python -m bench score runs/camvid/1_8/fixmatch/* --data-root DIR")
def score(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of finished runs.")],
    data_root: DataRoot = None,
    scales: Annotated[
        str | None, typer.Option(help="Factors, with commas between.", show_default="0.5 to 1.75 by 0.25")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Average over mirrored images too.")] = True,
    crf: Annotated[
        str,
        typer.Option(help="Parameters: deeplab, afa_final, toco_final, mctformer_final, ...; none: no CRF."),
    ] = "deeplab",
    half_size: Annotated[
        bool, typer.Option("--half-size", help="The CRF at half the size: a quarter of the time.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes of the CRF.", show_default="the cores")
    ] = None,
    device: Annotated[str, typer.Option(help="Of the prediction: auto, cpu, cuda, cuda:N.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Score again what has been.")] = False,
) -> None:
    """Score finished runs again, without tags: multi-scale + flip, and the dense CRF on top.

    Writes both beside each run and prints them with its raw score; the same command goes on where it was
    stopped, and skips the runs that are done.
    """
    try:
        factors = tuple(float(item) for item in _items("--scales", [scales] if scales is not None else None))
    except ValueError as error:
        raise ConfigError(f"--scales {scales}: give factors with commas between, as in 0.5,1.") from error
    from bench.display import Display
    from bench.rescore import SCALES, Settings, rescore
    from reports import evaluation, sheets
    from reports.tables import comparable

    settings = Settings(factors or SCALES, flip, None if crf == "none" else crf, half_size)
    try:
        done = rescore(runs, settings, data_root, Display(), device, jobs, overwrite)
    except Interrupted as error:
        raise Interrupted(f"{error}; the same command goes on with the runs not scored yet.") from error
    scores = {id(result): found for result, found in done}
    for group in comparable(result for result, _ in done):
        for table in evaluation.evaluation_tables(group, scores):
            out.print(sheets.to_rich(table.sheet))


@app.command(epilog="Example: python -m bench report runs/ --out report/")
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that hold runs.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("report"),
    baseline: Annotated[
        str,
        typer.Option(metavar="NAME", help="Method, or row of the tables, that all others are compared to."),
    ] = "supervised",
) -> None:
    """Print the tables of finished runs, and write them with plots as one HTML page.

    index.html holds all it shows and loads nothing: send it, or open it from a disk or on a phone. Beside it
    lie report.md with the same text, every table as CSV and LaTeX, and every plot as PNG and SVG.
    """
    import gc

    from reports import sheets
    from reports.report import write_report

    # Figures are full of cycles and all are kept to the end: looking for garbage is a seventh of the time.
    gc.disable()
    try:
        written = write_report(runs, out_dir, baseline)
    finally:
        gc.enable()
    for sheet in written.sheets:
        out.print(sheets.to_rich(sheet))
    for warning in written.warnings:
        _say(f"warning: {warning}")
    page, *others = written.paths
    out.print(f"wrote {escape(str(page))} and {len(others)} files beside it", highlight=False, soft_wrap=True)


@app.command(epilog="Example: python -m bench publish runs/")
def publish(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Folders of runs to publish; default: only write the tables.")
    ] = None,
    to: Annotated[
        Path,
        typer.Option(help="Folder of records: published, or ablations beside it for runs with other knobs."),
    ] = Path("reports/published"),
    readme: Annotated[Path, typer.Option(help="File that shows the tables.")] = Path("README.md"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 4 if a table is stale.")
    ] = False,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Publish runs of uncommitted files too.")
    ] = False,
) -> None:
    """Add finished runs to the suite's own records, and write the tables of the records into the README.

    A record is a line in <data set>.jsonl, and the log, counts, scores and provenance of the run in a folder
    beside it; weights and checkpoints stay where they are. A table stands between two lines of the README,
    <!-- table: NAME --> and <!-- end of table -->.
    """
    from reports import leaderboard

    if check and runs:
        raise ConfigError("--check writes nothing; leave out the runs.")
    if allow_dirty and not runs:
        raise ConfigError("--allow-dirty is about runs; give their folder, or leave it out.")
    if runs:
        done = leaderboard.publish(runs, to, allow_dirty, readme)
        for what, labels in (("added", done.added), ("added scores or CAM seeds of", done.completed)):
            for label in labels:
                _say(f"{what} {label}")
        before = len(done.completed) + len(done.known)
        _say(f"{to}: {len(done.added)} records are new, {before} were there already")
    written, unplaced = leaderboard.refresh(readme, to, check)
    for name in written:
        _say(f"{readme}: wrote the table {name!r}")
    if not written:
        _say(f"{readme} shows the records as they are")
    for name in unplaced:
        _say(f"{readme} has no place for the table {name!r}: add the lines <!-- table: {name} --> and "
             f"{leaderboard.END}")  # fmt: skip


@app.command(epilog="Example: python -m bench check --baseline tests/regression/baselines.json runs/")
def check(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders that hold runs; default: runs.")] = None,
    baseline: Annotated[Path, typer.Option(help="File of baselines.")] = Path(
        "tests/regression/baselines.json"
    ),
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Pass though a baseline has no run.")
    ] = False,
    update: Annotated[bool, typer.Option("--update", help="Make baselines of the runs instead.")] = False,
    reason: Annotated[str, typer.Option(help="Of --update: why the numbers may change.")] = "",
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Of --update: take runs of uncommitted files too.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Of --update: drop baselines and seeds without runs.")
    ] = False,
) -> None:
    """Compare finished runs with stored baselines; exit code 4 if a figure is beyond its tolerance.

    Compares mIoU, and a signature of the methods' notes, as means over the seeds of the baseline. The
    tolerance comes from the spread over those seeds. A rise counts too: it says that something has changed.
    """
    from bench.check import compare, find_groups, judge, read_baselines, updated, write_baselines
    from bench.files import folder_claimed

    if not update and (reason or allow_dirty or prune):
        raise ConfigError(
            "--reason, --allow-dirty and --prune belong to --update; give it, or leave them out."
        )
    if update and allow_missing:
        raise ConfigError("--allow-missing is about comparing; --update keeps what has no run by itself.")
    if update and not reason.strip():
        raise ConfigError("--update needs --reason TEXT: why the numbers may change.")
    groups = find_groups(runs or [Path("runs")])
    if not update:
        rows = compare(read_baselines(baseline), groups)
        out.print(_check_table(rows))
        judge(rows, baseline, allow_missing)
        return
    with folder_claimed(baseline.parent):  # of two updates at once, the second builds on the first
        old = read_baselines(baseline) if baseline.exists() else None
        if old is not None:
            out.print(_check_table(compare(old, groups)))
        new = updated(old, groups, reason, allow_dirty, prune)
        write_baselines(baseline, new)
    before = {entry.key.id: entry for entry in old.entries} if old else {}
    changed = sum(before.get(entry.key.id) != entry for entry in new.entries)
    out.print(
        f"wrote {escape(str(baseline))}: {changed} of {len(new.entries)} baselines are new or changed",
        highlight=False,
        soft_wrap=True,
    )


def _check_table(rows: Any) -> Table:
    """Scores in percent, other figures as they are."""
    from rich.text import Text

    from bench.check import SCORES

    styles = {"ok": "green", "missing": "yellow", "no baseline": "dim"}
    table = Table(title="regression gate", title_justify="left")
    for name in ("runs", "seeds", "figure"):
        table.add_column(name, overflow="fold")  # a name cut short names nothing
    for name in ("baseline", "now", "difference", "tolerance"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for row in rows:
        percent = row.figure in (*SCORES, "lead")

        def shown(value: float | None, sign: str = "", percent: bool = percent) -> str:
            if value is None:
                return "-"
            return f"{100 * value:{sign}.2f}" if percent else f"{value:{sign}.4g}"

        table.add_row(
            Text(plain(row.label)),
            ",".join(map(str, row.seeds)),
            Text(plain(row.figure)),
            shown(row.baseline),
            shown(row.now),
            shown(row.difference, "+"),
            shown(row.tolerance),
            Text(row.verdict, style=styles.get(row.verdict, "red")),
        )
    return table


@app.command("list", epilog="Example: python -m bench list --data-root DIR")
def list_(data_root: DataRoot = None) -> None:
    """List methods, data sets with their splits, and protocols."""
    from bench import registry
    from bench.config import protocol_names
    from datasets.split_lists import known_splits

    methods = Table("method", "needs", "", title="methods", title_justify="left")
    for name in registry.method_names():
        try:
            info = registry.describe_method(name)
            methods.add_row(name, " + ".join(sorted(info.needs)), escape(info.summary))
        except BenchError as error:  # a broken plug-in is listed, it does not stop the list
            methods.add_row(escape(name), "", f"broken: {escape(str(error))}")
    sets = Table("data set", "splits", "protocol", title="data sets", title_justify="left")
    for name in registry.dataset_names(data_root):
        sets.add_row(escape(name), " ".join(known_splits(name, data_root)), registry.default_protocol(name))
    for table in (methods, sets, _sweeps_table()):
        out.print(table)
    out.print("protocols: " + ", ".join(protocol_names()), highlight=False)


@app.command(epilog="Example: python -m bench show runs/shapes/tags/u2pl/0-1234abcd --images 8")
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME|RUN", help="A method, a protocol, or the folder of a finished run.")
    ],
    images: Annotated[
        int | None, typer.Option(help="Of a run: draw so many training images, 1 to 32; default: 4.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Of a run: the PNG to write; default: sheet.png in its folder.")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Show what a method is and every knob it has, what a protocol fixes, or pictures of a finished run.

    The picture sheet of a run has a row for each image: truth, activation maps and seed where the run learned
    from tags, pseudo-label and prediction. It opens masks that were withheld from the run, after its training
    and for display alone.
    """
    import yaml

    from bench import registry
    from bench.config import protocol_names, read_protocol, suggest

    wanted = images is not None or to is not None  # a sheet, even where a folder has a method's name
    if not wanted and name in registry.method_names():
        info = registry.describe_method(name)
        out.print(
            f"[bold]{escape(name)}[/bold] (version {info.version}), needs {' + '.join(sorted(info.needs))}"
        )
        out.print(escape(info.doc), highlight=False)
        table = Table(
            "knob", "type", "default", title="set with --set method.KNOB=VALUE", title_justify="left"
        )
        for key, field in info.knobs.model_fields.items():
            table.add_row(
                key, getattr(field.annotation, "__name__", str(field.annotation)), escape(str(field.default))
            )
        if info.knobs.model_fields:
            out.print(table)
    elif not wanted and name in protocol_names():
        print(yaml.safe_dump(read_protocol(name), sort_keys=False), end="")
    elif wanted or Path(name).is_dir():
        from bench.pictures import sheet
        from bench.store import RunFolder

        written = sheet(RunFolder(Path(name)), data_root, 4 if images is None else images, to)
        out.print(f"wrote {escape(str(written))}", highlight=False, soft_wrap=True)
    else:
        raise ConfigError(suggest(name, [*registry.method_names(), *protocol_names()], "method or protocol"))


@app.command(epilog="Example: python -m bench doctor --data-root DIR --out runs")
def doctor(
    data_root: DataRoot = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of all runs.")] = Path("runs"),
) -> None:
    """Check that this machine is fit to run; exit code 5 if it is not."""
    from bench.doctor import examine

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    checks = examine(data_root, out_dir)
    for check in checks:
        fix = f" -> {check.fix}" if check.state != "ok" and check.fix else ""
        out.print(
            f"[{colours[check.state]}]{check.state:4}[/] {escape(check.name)}: {escape(check.detail + fix)}",
            highlight=False,
            soft_wrap=True,
        )
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(5)


@data_app.command(epilog="Example: python -m bench data verify --dataset camvid --data-root DIR")
def verify(dataset: DatasetName, data_root: DataRoot = None) -> None:
    """Open every image and mask of every split and say what is wrong with them."""
    from bench import registry
    from bench.display import Display
    from datasets.inspect import verify as find_problems
    from datasets.split_lists import find_split, known_splits

    display = Display()
    data = registry.load_dataset(dataset, data_root)
    splits = [find_split(dataset, name, data_root) for name in known_splits(dataset, data_root)]
    if not splits:
        raise DataError(f"{dataset} has no splits to verify; make them with `data splits --make`.")

    def on_item(done: int, total: int) -> None:
        if done <= 1:
            display.start(f"verify {dataset}", total)
        display.update(done)

    try:
        problems = find_problems(data, splits, on_item)
    finally:
        display.stop()
    for problem in problems:
        out.print(escape(problem), highlight=False, soft_wrap=True)
    if problems:
        raise DataError(f"{len(problems)} problems in {dataset}; mend or leave out the files named above.")
    out.print(f"{dataset}: every image and mask of {len(splits)} splits is sound", highlight=False)


@data_app.command(epilog="Example: python -m bench data stats --dataset shapes --list train")
def stats(
    dataset: DatasetName,
    listing: Annotated[
        str | None, typer.Option("--list", help="train, val, test; default: the scored list.")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Pixel share and number of images of each class."""
    from bench import registry
    from datasets.inspect import stats as count

    data = registry.load_dataset(dataset, data_root)
    found = count(data, listing or data.scored)
    table = Table("id", "class", "pixels %", "images", title=escape(f"{dataset} {found.listing}"))
    for row in found.rows:
        table.add_row(str(row.id), escape(row.name), f"{100 * row.share:.2f}", str(row.images))
    out.print(table)
    sizes = ", ".join(
        f"{count} of {width}x{height}" for (height, width), count in sorted(found.sizes.items())
    )
    out.print(f"{found.images} images: {sizes}", highlight=False)


@data_app.command(epilog="Example: python -m bench data voc --data-root DIR --sbd SBD/dataset")
def voc(
    data_root: DataRoot = None,
    sbd: Annotated[Path | None, typer.Option(help="Folder of SBD that holds cls/: adds its masks.")] = None,
) -> None:
    """Fetch VOC 2012 (2 GB) where it is not there yet, and add SBD's masks for the 10,582 training images."""
    from datasets import voc as voc_files

    if data_root is None:
        raise DataError("give --data-root: the folder to put VOC 2012 into.")
    folder = data_root / "VOCdevkit" / "VOC2012"
    if not folder.is_dir():
        folder = voc_files.download(data_root)
    out.print(f"VOC 2012 is in {escape(str(folder))}", highlight=False, soft_wrap=True)
    if sbd is not None:
        out.print(f"{voc_files.convert_sbd(sbd, folder)} masks in SegmentationClassAug", highlight=False)


@data_app.command(epilog="Example: python -m bench data splits --dataset mine --data-root DIR --make")
def splits(
    dataset: DatasetName,
    data_root: DataRoot = None,
    make: Annotated[
        bool, typer.Option("--make", help="Make the nested splits from the train list's masks.")
    ] = False,
    labeled: Annotated[Path | None, typer.Option(help="Import this list of labeled images.")] = None,
    unlabeled: Annotated[Path | None, typer.Option(help="... and this list of unlabeled ones.")] = None,
    tagged: Annotated[
        Path | None, typer.Option(help="... and this list of images whose classes tags.json says.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the imported split.")] = None,
) -> None:
    """List splits with counts and digests; make them for a data set of yours; import other projects'
    lists."""
    from bench import registry
    from datasets import split_lists

    if make or labeled or tagged:
        if data_root is None:
            raise DataError("give --data-root: new splits are written to <data root>/<data set>/splits.")
        folder = data_root / dataset / "splits"
        data = registry.load_dataset(dataset, data_root)
        if make:
            _, skipped = split_lists.regenerate(data, folder)
            for left_out, why in skipped.items():
                out.print(f"left out {escape(left_out)}: {escape(why)}", highlight=False, soft_wrap=True)
        else:
            if name is None:
                raise ConfigError("an import needs --name NAME.")
            ids = data.ids("train"), data.ids(data.scored)
            imported = split_lists.import_split(dataset, name, labeled, unlabeled, *ids, folder, tagged, data)
            known = ", ".join(split_lists.recognise(imported.pixel)) or "no list of a project we know"
            out.print(f"imported {escape(name)}: {known}", highlight=False)
    table = Table("split", "pixel", "tags", "none", "scored", "digest of pixel", title=escape(dataset))
    for found in split_lists.known_splits(dataset, data_root):
        split = split_lists.find_split(dataset, found, data_root)
        counts = split.counts
        table.add_row(
            found,
            *(str(counts[kind]) for kind in ("pixel", "tags", "none", "eval")),
            split.digests["pixel"][:12],
        )
    out.print(table)
