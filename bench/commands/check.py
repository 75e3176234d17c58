"""`check`: the regression gate."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bench.commands.options import out
from bench.errors import ConfigError, plain

app = typer.Typer()


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
    from bench.gate import compare, find_groups, judge, read_baselines, updated, write_baselines
    from bench.records.atomic import folder_claimed

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

    from bench.gate import SCORES

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
