"""`score`, `report`, `publish`: what is made of finished runs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from bench.commands.options import DataRootOfRun, items, json_option, out, print_json, say, table_json
from bench.errors import ConfigError, Interrupted, resolved

app = typer.Typer()

READMES = (Path("README.md"), Path("reports/README.md"))  # the short tables, and all of them


@app.command(epilog="Example: python -m bench score runs/camvid/1_8/fixmatch/* --data-root DIR")
def score(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of finished runs.")],
    data_root: DataRootOfRun = None,
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
    measures: Annotated[
        bool,
        typer.Option(
            "--measures", help="Only print what the stored counts say: precision, recall, Dice, ..."
        ),
    ] = False,
    boundary: Annotated[
        bool, typer.Option("--boundary", help="... and boundary IoU, for which it predicts again.")
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            min=1,
            max=1000,
            help="Only draw this number of scored images again, for the report.",
        ),
    ] = None,
    json_: Annotated[bool, json_option("with --measures, runs (folder, classes and the measures)")] = False,
) -> None:
    """Score finished runs again, without tags: multi-scale + flip, and the dense CRF on top.

    Writes both beside each run and prints them with its raw score; the same command goes on where it was
    stopped, and skips the runs that are done. With --measures nothing is scored again or written.
    """
    if measures:
        if overwrite or half_size or scales is not None or jobs is not None:
            raise ConfigError("--measures prints what was scored; leave out what says how to score again.")
        from bench.commands.measures import print_measures

        print_measures(runs, data_root, device, boundary, json_)
        return
    if samples is not None:
        from bench.scoring.samples import make_samples

        for path in dict.fromkeys(runs):
            make_samples(path, data_root, samples, device)
            say(f"wrote the pictures of its samples beside {path}")
        return
    if boundary or json_:
        raise ConfigError(f"{'--boundary' if boundary else '--json'} goes with --measures; give both.")
    try:
        factors = tuple(float(item) for item in items("--scales", [scales] if scales is not None else None))
    except ValueError as error:
        raise ConfigError(f"--scales {scales}: give factors with commas between, as in 0.5,1.") from error
    from bench.display import Display
    from bench.scoring.multi_scale_crf import SCALES, RescoreSettings, rescore
    from reports.groups import comparable
    from reports.sheets import text
    from reports.sheets.rescored import rescored_sheets

    settings = RescoreSettings(factors or SCALES, flip, None if crf == "none" else crf, half_size)
    try:
        done = rescore(runs, settings, data_root, Display(), device, jobs, overwrite)
    except Interrupted as error:
        raise Interrupted(f"{error}; the same command goes on with the runs not scored yet.") from error
    found = dict(zip(dict.fromkeys(resolved(path) for path in runs), done, strict=True))
    scores = {folder: entries for folder, (_, entries) in found.items()}
    for group in comparable({folder: result for folder, (result, _) in found.items()}):
        for sheet in rescored_sheets(group, scores):
            out.print(text.to_rich(sheet))


@app.command(epilog="Example: python -m bench report runs/ --out report/")
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that hold runs.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("report"),
    baseline: Annotated[
        str,
        typer.Option(metavar="NAME", help="Method, or row of the tables, that all others are compared to."),
    ] = "supervised",
    diff: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="BASE",
            help="Only print what changed since the runs of this folder, as Markdown; repeatable.",
            show_default=False,
        ),
    ] = None,
    json_: Annotated[
        bool, json_option("page, files, warnings, answers, tables (name, title, group, rows)")
    ] = False,
) -> None:
    """Print the tables of finished runs, and write them with plots as one HTML page.

    index.html holds all it shows and loads nothing: send it, or open it from a disk or on a phone. Beside it
    lie report.md with the same text, every table as CSV and LaTeX, and every plot as PNG and SVG. With --diff
    nothing is written: the table is ready for a comment on a pull request.
    """
    if diff:
        _print_changes(runs, diff, json_)
        return
    import gc

    from bench.display import counting
    from bench.machine import cores
    from bench.records.atomic import refuse_no_folder
    from reports.report import write_report
    from reports.sheets import text

    refuse_no_folder(out_dir)  # before the work
    # Figures are full of cycles: looking for garbage is a seventh of the time.
    gc.disable()
    try:
        with counting("draw plots") as on_item:
            written = write_report(runs, out_dir, baseline, cores(), on_item)
    finally:
        gc.enable()
    page, *others = written.paths
    if json_:
        print_json(
            {
                "page": str(page),
                "files": list(map(str, others)),
                "warnings": written.warnings,
                "answers": table_json(written.answers)["rows"],
                "tables": list(map(table_json, written.sheets)),
            }
        )
        return
    for sheet in written.sheets:
        out.print(text.to_rich(sheet))
    for warning in written.warnings:
        say(f"warning: {warning}")
    out.print(f"wrote {escape(str(page))} and {len(others)} files beside it", highlight=False, soft_wrap=True)


def _print_changes(now: list[Path], before: list[Path], json_: bool) -> None:
    from reports.changes import changes
    from reports.sheets import text

    sheet = changes(now, before)
    if json_:
        print_json(table_json(sheet))
    else:
        typer.echo(f"**{sheet.title}**\n\n{text.to_markdown(sheet)}", nl=False)


@app.command(epilog="Example: python -m bench publish runs/")
def publish(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Folders of runs to publish; default: only write the tables.")
    ] = None,
    to: Annotated[
        Path,
        typer.Option(help="Folder of records: published, or ablations beside it for runs with other knobs."),
    ] = Path("reports/published"),
    readme: Annotated[
        list[Path] | None,
        typer.Option(
            help="File that shows tables; may be given several times.",
            show_default=" and ".join(map(str, READMES)),
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 4 if a table or picture is stale.")
    ] = False,
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Publish runs of uncommitted files too.")
    ] = False,
) -> None:
    """Add finished runs to the suite's own records, and write the tables of the records into the READMEs.

    A record is a line in <data set>.jsonl, and the log, counts, scores and provenance of the run in a folder
    beside it; weights and checkpoints stay where they are. A table stands between two lines of a README,
    <!-- table: NAME --> and <!-- end of table -->.
    """
    from reports import publish as records
    from reports.readme import END

    if check and runs:
        raise ConfigError("--check writes nothing; leave out the runs.")
    if allow_dirty and not runs:
        raise ConfigError("--allow-dirty is about runs; give their folder, or leave it out.")
    readmes = readme or list(READMES)
    if runs:
        done = records.publish(runs, to, allow_dirty, readmes)
        for what, labels in (("added", done.added), ("added scores or CAM seeds of", done.completed)):
            for label in labels:
                say(f"{what} {label}")
        before = len(done.completed) + len(done.known)
        say(f"{to}: {len(done.added)} records are new, {before} were there already")
    shown = records.refresh(readmes, to, check)
    for file, written in shown.written.items():
        for name in written:
            say(f"{file}: wrote the table {name!r}")
        if not written:
            say(f"{file} shows the records as they are")
    for picture in shown.pictures:
        say(f"drew {picture}")
    where = f"{' and '.join(map(str, readmes))} {'has' if len(readmes) == 1 else 'have'}"
    for name in shown.unplaced:
        say(f"{where} no place for the table {name!r}: add the lines <!-- table: {name} --> and {END}")
