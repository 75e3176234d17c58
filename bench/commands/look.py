"""`list`, `show`, `doctor`: look at methods, data sets and this machine; `show RUN` draws its pictures."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bench.commands.cluster import Account, Partition, WithSbatch, refuse_without
from bench.commands.named_sweeps import sweeps_json, sweeps_table
from bench.commands.options import DataRoot, DataRootOfRun, json_option, out, print_json, say, spans
from bench.errors import BenchError, ConfigError
from bench.labels import STREAMS

app = typer.Typer()


@app.command("list", epilog="Example: python -m bench list --data-root DIR")
def list_(
    data_root: DataRoot = None,
    json_: Annotated[
        bool,
        json_option(
            "methods (name, needs, summary, broken), datasets (name, splits, draws, heldout, protocol), "
            "sweeps (name, method, title), protocols"
        ),
    ] = False,
) -> None:
    """List methods, data sets with their splits, and protocols."""
    if json_:
        print_json(_listed(data_root))
        return
    from bench.settings import registry
    from bench.settings.reading import protocol_names
    from datasets.splits import heldout_ids, known_draws, known_splits

    methods = Table("method", "needs", "", title="methods", title_justify="left")
    for name in registry.method_names():
        try:
            info = registry.describe_method(name)
            methods.add_row(name, _streams(info.needs), escape(info.summary))
        except BenchError as error:  # a broken plug-in is listed, it does not stop the list
            methods.add_row(escape(name), "", f"broken: {escape(str(error))}")
    heads = ("data set", "splits", "draws", "held out", "protocol")
    sets = Table(*heads, title="data sets", title_justify="left")
    for name in registry.dataset_names(data_root):
        try:
            found = " ".join(known_splits(name, data_root))
            drawn, held_out = spans(known_draws(name, data_root)), heldout_ids(name, data_root)
        except BenchError as error:  # a folder of another name is listed, with what is wrong with it
            found, drawn, held_out = f"cannot be used: {escape(str(error))}", "", None
        images = f"{len(held_out)} images" if held_out else "-"
        sets.add_row(escape(name), found, drawn, images, registry.default_protocol(name))
    for table in (methods, sets, sweeps_table()):
        out.print(table)
    out.print("held out: scored by `--scored heldout` alone, to choose settings on", highlight=False)
    out.print("protocols: " + ", ".join(protocol_names()), highlight=False)


def _listed(data_root: Path | None) -> dict[str, Any]:
    """Gather all that `list` says, for `--json`."""
    from bench.settings import registry
    from bench.settings.reading import protocol_names
    from datasets.splits import heldout_ids, known_draws, known_splits

    methods = []
    for name in registry.method_names():
        try:
            info = registry.describe_method(name)
            said = {"needs": sorted(info.needs), "summary": info.summary, "broken": None}
        except BenchError as error:
            said = {"needs": None, "summary": None, "broken": str(error)}
        methods.append({"name": name, **said})
    sets = []
    for name in registry.dataset_names(data_root):
        try:
            about: dict[str, Any] = {
                "splits": known_splits(name, data_root),
                "draws": known_draws(name, data_root),
                "heldout": len(heldout_ids(name, data_root) or ()),
            }
        except BenchError:  # a folder whose name no command takes has none
            about = {"splits": [], "draws": [], "heldout": 0}
        sets.append({"name": name, **about, "protocol": registry.default_protocol(name)})
    return {"methods": methods, "datasets": sets, "sweeps": sweeps_json(), "protocols": protocol_names()}


@app.command(epilog="Example: python -m bench show runs/shapes/tags/u2pl/0-1234abcd --images 8")
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME|RUN", help="A method, a protocol, or the folder of a finished run.")
    ],
    images: Annotated[
        int | None, typer.Option(help="Of a run: number of training images to draw, 1 to 32; default: 4.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Of a run: the PNG to write; default: sheet.png in its folder.")
    ] = None,
    data_root: DataRootOfRun = None,
    json_: Annotated[
        bool,
        json_option(
            "kind, which is method (name, version, needs, summary, doc, knobs), protocol (settings) or run "
            "(folder, sheet)"
        ),
    ] = False,
) -> None:
    """Show what a method is and every knob it has, what a protocol fixes, or pictures of a finished run.

    The picture sheet of a run has a row for each image: truth, activation maps and seed where the run learned
    from tags, pseudo-label and prediction. It opens masks that were withheld from the run, after its training
    and for display alone.
    """
    import yaml

    from bench.settings import registry
    from bench.settings.reading import protocol_names, read_protocol, suggest

    wanted = images is not None or to is not None  # a sheet, even where a folder has a method's name
    if not wanted and name in registry.method_names():
        info = registry.describe_method(name)
        if json_:
            print_json(_method(info))
        else:
            _print_method(info)
    elif not wanted and name in protocol_names():
        settings = read_protocol(name)
        if json_:
            print_json({"kind": "protocol", "settings": settings})
            return
        say(yaml.safe_dump(settings, sort_keys=False).rstrip("\n"))
    elif wanted or Path(name).is_dir():
        written = draw_sheet(Path(name), data_root, 4 if images is None else images, to)
        if json_:
            print_json({"kind": "run", "folder": name, "sheet": str(written)})
            return
        out.print(f"wrote {escape(str(written))}", highlight=False, soft_wrap=True)
        say(_scored(Path(name), data_root))
    else:
        raise ConfigError(suggest(name, [*registry.method_names(), *protocol_names()], "method or protocol"))


def _scored(run: Path, data_root: Path | None) -> str:
    """Say which list a finished run was scored on, and whether the held-out one lies unused."""
    from bench.records.folders import RunFolder
    from datasets.splits import heldout_ids

    result = RunFolder(run).read_result()
    if result is None:
        return ""
    images = result.images.get("eval", 0)
    if result.scored == "heldout":
        return f"scored on the held-out list ({images} images), to choose settings; no table mixes the two"
    held_out = heldout_ids(result.dataset, data_root)
    unused = f"; the held-out list ({len(held_out)} images) lies unused" if held_out else ""
    return f"scored on eval.txt ({images} images){unused}"


def _print_method(info: Any) -> None:
    from bench.settings.base import describe_knobs

    out.print(f"[bold]{escape(info.name)}[/bold] (version {info.version}), needs {_streams(info.needs)}")
    out.print(escape(info.doc), highlight=False)
    table = Table(
        "knob", "default", "allowed", "", title="set with --set method.KNOB=VALUE", title_justify="left"
    )
    for knob in describe_knobs(info.knobs):
        table.add_row(*map(escape, knob))
    if info.knobs.model_fields:
        out.print(table)


def _method(info: Any) -> dict[str, Any]:
    """Gather all that `show METHOD` says, for `--json`."""
    from bench.settings.base import describe_knobs

    defaults = info.knobs.model_construct().model_dump(mode="json")
    knobs = [
        {
            "name": knob.name,
            "type": getattr(field.annotation, "__name__", str(field.annotation)),
            "default": defaults.get(knob.name),
            "allowed": knob.allowed,
            "description": knob.description,
        }
        for knob in describe_knobs(info.knobs)
        for field in [info.knobs.model_fields[knob.name]]
    ]
    needs = sorted(info.needs)
    return {
        "kind": "method",
        "name": info.name,
        "version": info.version,
        "needs": needs,
        "summary": info.summary,
        "doc": info.doc,
        "knobs": knobs,
    }


def draw_sheet(run: Path, data_root: Path | None, images: int, to: Path | None) -> Path:
    if to is not None and to.suffix.lower() != ".png":
        raise ConfigError(f"the sheet is a PNG; give --to a name that ends in .png, not {to.name!r}.")
    from bench.records.atomic import refuse_no_plain_file, write_atomic
    from bench.records.folders import RunFolder
    from bench.scoring.looks import look
    from bench.scoring.picture_sheet import picture_sheet

    folder = RunFolder(run)
    path = to or folder.sheet
    refuse_no_plain_file(path)
    write_atomic(path, picture_sheet(look(folder, data_root, images)))
    return path


@app.command(cls=WithSbatch, epilog="Example: python -m bench doctor --data-root DIR --out runs")
def doctor(
    ctx: typer.Context,
    data_root: DataRoot = None,
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of all runs.")] = Path("runs"),
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Two tasks of SLURM check the locks on the folder of runs.")
    ] = False,
    partition: Partition = None,
    account: Account = None,
    json_: Annotated[bool, json_option("fit, checks (name, state, detail, fix)")] = False,
) -> None:
    """Check that this machine is fit to run; exit code 5 if it is not. With --cluster, any further option is
    srun's: --qos=high."""
    from dataclasses import asdict

    from bench.doctor import examine
    from bench.sweeps.cluster import Cluster, check_slurm

    if cluster:
        check_slurm()
    else:
        refuse_without({"partition": partition, "account": account}, "--cluster")
    asked = Cluster(partition, account=account, more=tuple(ctx.args)) if cluster else None
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    checks = examine(data_root, out_dir, asked)
    unfit = any(check.state == "fail" for check in checks)
    if json_:
        print_json({"fit": not unfit, "checks": [asdict(check) for check in checks]})
    for check in checks if not json_ else ():
        fix = f" -> {check.fix}" if check.state != "ok" and check.fix else ""
        out.print(
            f"[{colours[check.state]}]{check.state:4}[/] {escape(check.name)}: {escape(check.detail + fix)}",
            highlight=False,
            soft_wrap=True,
        )
    if unfit:
        raise typer.Exit(5)


def _streams(needs: Iterable[str]) -> str:
    """Name the images that a method asks for: `labeled + unlabeled`."""
    return " + ".join(name for kind, name in STREAMS.items() if kind in needs)
