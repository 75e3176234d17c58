"""`--dry-run --cost`, of `run` and of `sweep`: what the runs would cost."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands.options import say
from bench.errors import ConfigError

if TYPE_CHECKING:
    from bench.plan import Plan

CostToo = Annotated[
    bool, typer.Option("--cost", help="With --dry-run: time some steps; say hours, memory, largest batch.")
]


def refuse_alone(cost: bool, dry_run: bool) -> None:
    if cost and not dry_run:
        raise ConfigError("--cost says what runs would cost; give it with --dry-run.")


def costs(runs: "Iterable[tuple[str, Plan]]", jobs: int = 1, gpus: int = 1) -> dict[str, Any]:
    """Measure what runs that are not done would cost. Each comes with the name of its kind."""
    from bench.sweeps.costs import document, kinds_of

    kinds = list(kinds_of(runs, jobs))
    return document(kinds, jobs, gpus) if kinds else {"seconds": 0.0, "flops": 0.0, "said": [], "runs": []}


def print_costs(found: dict[str, Any], mark: str = "") -> None:
    for line in found["said"]:
        say(f"{mark}{line}")
