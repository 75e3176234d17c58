"""Options of the commands that call a cluster, and those that go on to sbatch as they are."""

from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from bench.errors import ConfigError

Partition = Annotated[str | None, typer.Option(help="Of SLURM.", show_default="the cluster's")]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        "--time", metavar="TIME", help="Of a task: 90 (minutes), 2:00:00.", show_default="the cluster's"
    ),
]
Account = Annotated[str | None, typer.Option(help="Of SLURM.", show_default="the cluster's")]
Cpus = Annotated[int | None, typer.Option(min=1, help="Cores of a task.", show_default="the cluster's")]
GpusEach = Annotated[int | None, typer.Option(min=1, help="GPUs of each run.", show_default="1, where any")]


class WithSbatch(TyperCommand):
    """A command that hands options it does not know on to sbatch, in `ctx.args`, where one of the given
    options says that a cluster is meant: `--qos=high`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not _of_a_cluster(args):
            return super().parse_args(ctx, args)
        known = {name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        more = [word for word in args if word.startswith("--") and word.partition("=")[0] not in known]
        for word, behind in pairwise(args):
            if word in more and "=" not in word and not behind.startswith("-"):
                raise ConfigError(
                    f"{word} {behind}: an option that is sbatch's own is one word, {word}={behind}; the name "
                    "of a sweep comes first."
                )
        super().parse_args(ctx, [word for word in args if word not in more])
        ctx.args = [*ctx.args, *more]
        return ctx.args


def _of_a_cluster(args: list[str]) -> bool:
    at = args.index("--engine") if "--engine" in args else len(args)
    return "--engine=slurm" in args or args[at : at + 2] == ["--engine", "slurm"] or "--cluster" in args


def refuse_without(options: dict[str, Any], needed: str) -> None:
    """Raise ConfigError for options of a cluster where none is meant.

    Args:
        needed: What would say so, such as "--engine slurm".
    """
    given = [f"--{name}" for name, value in options.items() if value]
    if given:
        raise ConfigError(f"{given[0]} is for a cluster; add {needed}, or leave it out.")
