"""`check`: the regression gate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bench.commands.options import json_option, out, print_json, say
from bench.errors import BenchError, ConfigError, plain
from bench.records.atomic import refuse_no_plain_file

if TYPE_CHECKING:
    from bench.gate.baselines import Baselines
    from bench.gate.runs import GateGroup
    from bench.gate.verdict import Rule, VerdictRow

app = typer.Typer()


@app.command(epilog="Example: python -m bench check --baseline tests/regression/baselines.json runs/")
def check(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders that hold runs; default: runs.")] = None,
    baseline: Annotated[Path, typer.Option(help="File of baselines.")] = Path(
        "tests/regression/baselines.json"
    ),
    exact: Annotated[
        bool, typer.Option("--exact", help="Any bit counts; for runs of the baseline's own machine.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where a run has no baseline.")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Pass though a baseline has no run.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit report to this file.")] = None,
    json_: Annotated[bool, json_option("passed, said, rows, weak")] = False,
    update: Annotated[bool, typer.Option("--update", help="Make baselines of the runs instead.")] = False,
    reason: Annotated[str, typer.Option(help="Of --update: why the numbers may change.")] = "",
    allow_dirty: Annotated[
        bool, typer.Option("--allow-dirty", help="Of --update: take runs of uncommitted files too.")
    ] = False,
    allow_weak: Annotated[
        bool, typer.Option("--allow-weak", help="Of --update: take too few seeds to see a fall of 10 %.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Of --update: drop baselines and seeds without runs.")
    ] = False,
) -> None:
    """Compare finished runs with stored baselines; exit code 4 if a figure is beyond its tolerance.

    Compares mIoU, and a signature of the methods' notes, as means over the seeds of the baseline. The
    tolerance is Student's bound, for all figures together. A rise counts too: it says that something has
    changed. With --exact nothing may differ, not a bit of the weights.
    """
    from bench.gate.runs import find_groups
    from bench.gate.verdict import Rule

    if not update and (reason or allow_dirty or allow_weak or prune):
        raise ConfigError(
            "--reason, --allow-dirty, --allow-weak and --prune belong to --update; give it, or leave them "
            "out."
        )
    if update and (exact or strict or allow_missing or json_ or junit):
        raise ConfigError(
            "--exact, --strict, --allow-missing, --json and --junit are about comparing; leave them out, or "
            "leave out --update."
        )
    if update and not reason.strip():
        raise ConfigError("--update needs --reason TEXT: why the numbers may change.")
    for written in (baseline if update else None, junit):
        if written is not None:
            refuse_no_plain_file(written)
    groups = find_groups(runs or [Path("runs")])
    if update:
        from bench.gate.baselines import updated

        _update(baseline, groups, lambda old: updated(old, groups, reason, allow_dirty, prune, allow_weak))
    else:
        _compare(baseline, groups, Rule(allow_missing, strict), exact, json_, junit)


def _compare(
    file: Path, groups: Mapping[str, GateGroup], rule: Rule, exact: bool, json_: bool, junit: Path | None
) -> None:
    """Compare, report in every form asked for, and fail at last."""
    from bench.gate import exact as to_the_bit
    from bench.gate import tolerant
    from bench.gate.baselines import read_baselines
    from bench.gate.verdict import judge, write_junit

    baselines = read_baselines(file)
    rows = to_the_bit.compare(baselines, groups) if exact else tolerant.compare(baselines, groups)
    if junit is not None:
        write_junit(junit, rows, rule)
    failure: BenchError | None = None
    try:
        judge(rows, file, rule)
    except BenchError as error:
        failure = error
    if json_:
        said = str(failure) if failure else ""
        print_json({"passed": not failure, "said": said, **_document(baselines, rows)})
    else:
        out.print(_check_table(rows))
        if not exact and (weak := _weak(baselines)):
            say(
                f"{len(weak)} of {len(baselines.entries)} baselines have too few seeds to see a fall of the "
                "mIoU by 10 %; --exact sees any, on one machine."
            )
    if failure:
        raise failure


def _document(baselines: Baselines, rows: Sequence[VerdictRow]) -> dict[str, Any]:
    return {
        "rows": [row.document for row in rows],
        "weak": _weak(baselines),
    }


def _weak(baselines: Baselines) -> list[dict[str, Any]]:
    """List the baselines that cannot show a fall of 10 %.

    Each has the smallest fall that it shows ("sees", a share of the mIoU), and the number of seeds that would
    show one of 10 % ("seeds_needed"; None where a thousand would not).
    """
    from bench.gate.baselines import FALL

    return [
        {
            "label": entry.key.label,
            "seeds": entry.n,
            "sees": baselines.sees(entry),
            "seeds_needed": baselines.seeds_needed(entry),
        }
        for entry in baselines.entries
        if baselines.sees(entry) > FALL
    ]


def _update(
    file: Path, groups: Mapping[str, GateGroup], make: Callable[[Baselines | None], Baselines]
) -> None:
    from bench.gate.baselines import read_baselines, write_baselines
    from bench.gate.tolerant import compare
    from bench.records.atomic import folder_claimed

    with folder_claimed(file.parent):  # of two updates at once, the second builds on the first
        old = read_baselines(file) if file.exists() else None
        if old is not None:
            out.print(_check_table(compare(old, groups)))
        new = make(old)
        write_baselines(file, new)
    before = {entry.key.id: entry for entry in old.entries} if old else {}
    changed = sum(before.get(entry.key.id) != entry for entry in new.entries)
    out.print(
        f"wrote {escape(str(file))}: {changed} of {len(new.entries)} baselines are new or changed",
        highlight=False,
        soft_wrap=True,
    )


def _check_table(rows: Sequence[VerdictRow]) -> Table:
    """Scores in percent, other figures as they are."""
    from rich.text import Text

    from bench.gate.runs import SCORES

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
