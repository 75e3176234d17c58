"""What several commands share: their options, and how they print."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.errors import ConfigError, plain

out = Console()
if not out.is_terminal and "COLUMNS" not in os.environ:
    out.width = 160  # a file or a pipe has no edge that a table must be squeezed to


def _or_environment(data_root: Path | None) -> Path | None:
    place = os.environ.get("BENCH_DATA")
    return data_root or (Path(place).expanduser() if place else None)


_FOLDER_OF_ALL = "Folder that holds one folder per data set."
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", help=_FOLDER_OF_ALL, show_default="$BENCH_DATA", callback=_or_environment),
]
# Of a run, whose `--config FILE` beats the environment: see bench.settings.resolve.
DataRootOfRun = Annotated[
    Path | None, typer.Option("--data-root", help=_FOLDER_OF_ALL, show_default="$BENCH_DATA")
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


def say(line: str) -> None:
    """Print one plain line: a name in it drives no terminal."""
    out.print(plain(line), markup=False, highlight=False, soft_wrap=True)


def items(option: str, texts: list[str] | None) -> list[str]:
    """Split an option that takes several, with commas between or by being repeated: ["a,b", "c"] -> a b c."""
    found = [item.strip() for text in texts or [] for item in text.split(",")]
    if not all(found):
        raise ConfigError(f"{option} {','.join(texts or [])!r}: a name is missing between two commas.")
    return found
