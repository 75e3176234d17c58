"""Options that several commands share, and how commands print."""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bench.display import Terminal
from bench.errors import ConfigError, nearest

out = Terminal()
if not out.is_terminal and "COLUMNS" not in os.environ:
    out.width = 160  # a file or a pipe has no edge that a table must be squeezed to


class Commands(TyperGroup):
    """A group that knows which command was meant: `rn`, `train` and `trian` mean `run`. A `~` in front of a
    path is the user's home in every option, behind `=` too, where most shells leave it."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Let a flag that is not given be False. Typer's own are None, and to read that as a bool it loads
        pydantic, some 75 ms."""
        params = super().get_params(ctx)
        for param in params:
            if getattr(param, "is_bool_flag", False) and param.default is None:
                param.default = False
        return params

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_with_home(word) for word in args])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.suggest_commands = False  # typer's own hint, which knows no other words
        if (
            args
            and args[0] not in self.commands
            and not args[0].startswith("-")
            and not ctx.resilient_parsing
        ):
            meant = {name: name for name in self.commands} | (
                {"train": "run"} if "run" in self.commands else {}
            )
            near = nearest(args[0], meant)
            hint = f" Did you mean {meant[near]!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


def _with_home(word: str) -> str:
    """--out=~/runs -> --out=/home/me/runs; a home that is not there stays as it is."""
    before, equals, place = word.rpartition("=")
    return f"{before}{equals}{os.path.expanduser(place)}"


def _or_environment(data_root: Path | None) -> Path | None:
    from bench.settings.base import expanded

    place = data_root or os.environ.get("BENCH_DATA")
    return expanded(str(place)) if place else None


_FOLDER_OF_ALL = "Folder that holds one folder per data set."
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", help=_FOLDER_OF_ALL, show_default="$BENCH_DATA", callback=_or_environment),
]
# Of a run, whose `--config FILE` beats the environment: see bench.settings.resolve.
DataRootOfRun = Annotated[
    Path | None, typer.Option("--data-root", help=_FOLDER_OF_ALL, show_default="$BENCH_DATA")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file with settings, such as a run's config.yaml.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting: method.threshold=0.9, protocol.steps=200."),
]
ProtocolName = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        metavar="NAME|FILE",
        help="Name, see `list`, or a YAML file of that form, such as mine.yaml.",
        show_default="the data set's own",
    ),
]
ScoredList = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="eval, or heldout (or val) to choose settings on.",
        show_default="eval: the scored list",
    ),
]
OutDir = Annotated[str | None, typer.Option("--out", help="Folder of all runs.", show_default="runs")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N.", show_default="auto")]
Precision = Annotated[
    str | None,
    typer.Option(help="fp32, tf32, bf16, fp16; part of the protocol.", show_default="the protocol's"),
]
Workers = Annotated[int | None, typer.Option(help="Loader processes of a run.", show_default="1")]
Gpus = Annotated[
    int | None,
    typer.Option(min=1, max=1024, help="GPUs of one run, which share its batch.", show_default="1"),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show all figures of a method as it trains, such as mask_ratio.")
]
Audit = Annotated[
    bool | None,
    typer.Option(
        "--audit/--no-audit",
        help="Open the withheld masks to log how good pseudo-labels are; no result changes.",
        show_default="no-audit",
    ),
]
Anyway = Annotated[
    bool,
    typer.Option(
        "--anyway", help="Where a run goes on: do so though code or data have changed; the record says so."
    ),
]
DatasetName = Annotated[
    str, typer.Option("--dataset", help="Data set, or a folder of your own below the data root.")
]


def _one_number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        if re.fullmatch(r"[\d,\s-]*\d[,-][\d,\s-]*", text):
            said = f"{text!r} is several numbers, and this command takes one; `sweep` takes ranges and lists."
        else:
            said = f"{text!r} is no whole number."
        raise typer.BadParameter(said) from error


def one_number(**about: Any) -> Any:
    """Make an option of one whole number, which says where several can be given."""
    return typer.Option(parser=_one_number, metavar="INTEGER", **about)


def say(text: str) -> None:
    """Print text as it stands."""
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def json_option(keys: str) -> Any:
    """Make the option `--json` of a command whose document has these keys."""
    return typer.Option(
        "--json", help=f"Print one JSON document and nothing else; sentences go to stderr. Keys: {keys}."
    )


def print_json(document: Any) -> None:
    """Print the one document of `--json`: plain ASCII, and null for what is missing or no number."""
    print(json.dumps(_finite(document), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    """With None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and value - value != 0 else value


def table_json(sheet: Any) -> dict[str, Any]:
    """Turn a table of reports into JSON, for `--json`. Its rows are objects with unrounded numbers."""
    rows = sheet.frame.to_dict("records")
    return {"name": sheet.name, "title": sheet.title, "group": sheet.group, "rows": rows}


def items(option: str, texts: list[str] | None) -> list[str]:
    """Split an option that takes several, with commas between or by being repeated: ["a,b", "c"] -> a b c."""
    found = [item.strip() for text in texts or [] for item in text.split(",")]
    if not all(found):
        raise ConfigError(f"{option} {','.join(texts or [])!r}: a name is missing between two commas.")
    return found


def spans(numbers: list[int]) -> str:
    """[0, 1, 2, 7] -> "0-2,7", as `numbers` reads it."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


MOST = 1000  # of a range: more is a slip of the finger, such as 0-20260101


def numbers(option: str, texts: list[str] | None, what: str) -> list[int]:
    """Read the numbers of an option, with ranges: ["0-2,7"] -> 0, 1, 2, 7, each once."""
    found: list[int] = []
    given = items(option, texts)
    for text in given:
        first, dash, last = text.partition("-")
        if not all(end.isascii() and end.isdecimal() for end in ([first, last] if dash else [first])):
            raise ConfigError(
                f"{option} {','.join(given)}: give whole numbers with commas between, such as 0,1,2, or "
                "a range, such as 0-4."
            )
        ends = (int(first), int(last) if dash else int(first))
        if not 0 <= ends[1] - ends[0] < MOST:
            raise ConfigError(f"{option} {text}: a range goes up, such as 0-4, to at most {MOST} {what}.")
        found += range(ends[0], ends[1] + 1)
    return list(dict.fromkeys(found))
