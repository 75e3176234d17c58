"""What a dry run of a sweep tries: whether its runs would be refused, and what they would make first."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, InUse

if TYPE_CHECKING:
    from bench.plan import Plan
    from bench.sweeps.grid import Cell


def tried(
    cells: "Sequence[Cell]", jobs: int, overwrite: bool, gpus_each: int = 1
) -> tuple[dict[str, BenchError], list[str]]:
    """Find the errors with which runs of a grid would be refused, by label.

    Give also what would be made before the runs, in words, as `_made_first` does.
    """
    from bench.pipeline import check_folders, refuse_early
    from bench.plan import refuse_unequal
    from bench.sweeps.launch import with_threads
    from bench.training.shared import decides_warm_up

    found: dict[str, BenchError] = {}
    # By settings without the seed, on which no refusal depends: the error, or what decides the warm-up.
    known_of: dict[str, BenchError | dict[str, Any] | None] = {}
    to_do: list[tuple[Plan, dict[str, Any] | None]] = []
    for cell in cells:
        try:
            again = overwrite and cell.outdated
            if not check_folders(cell.plan, not again, again):
                continue
            refuse_unequal(cell.plan, gpus_each)
        except InUse:
            continue  # the sweep waits for it
        except BenchError as error:
            found[cell.label] = error
            continue
        plan = replace(cell.plan, config=with_threads(cell.plan.config, jobs))
        key = plan.config.model_copy(update={"seed": 0}).to_yaml()
        if key not in known_of:
            try:
                known_of[key] = decides_warm_up(plan, refuse_early(plan))
            except BenchError as error:
                known_of[key] = error
        known = known_of[key]
        if isinstance(known, BenchError):
            found[cell.label] = known
        else:
            to_do.append((plan, known))
    return found, _made_first(to_do)


def _made_first(to_do: "Sequence[tuple[Plan, dict[str, Any] | None]]") -> list[str]:
    """Say what several runs need and the first of them makes: one sentence, or none.

    ["made first, once for all runs that need it: 1 tag classifier, 1 CAM seed set"].
    """
    from bench.training.shared import missing_warm_ups

    first = [plan for plan, _ in to_do if not plan.folder.checkpoint.exists()]
    seeds = [plan.seeds for plan in first if plan.seeds and not plan.seeds.folder.report.exists()]
    trained = {of.classifier.folder.path for of in seeds if not of.classifier.folder.result.exists()}
    boxes = {of.box_seeds.folder.path for of in first if of.box_seeds and of.without_box_seed}
    counts = {
        "tag classifier": len(trained),
        "CAM seed set": len({of.folder.report for of in seeds}),
        "box seed set": len(boxes),
        "shared warm-up": missing_warm_ups((of, what) for of, what in to_do if what and of in first),
    }
    said = [f"{count} {what}{'' if count == 1 else 's'}" for what, count in counts.items() if count]
    return [f"made first, once for all runs that need it: {', '.join(said)}"] if said else []
