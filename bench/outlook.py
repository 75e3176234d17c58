"""Says before a run what it will do: where it writes, on which device, about how long. Needs no torch."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from statistics import median

from bench.errors import DataError, read_file
from bench.plan import Plan, SeedPlan, data_root, dataset_of
from bench.records.schema import Result, read_result
from datasets.look import held_out_said
from datasets.splits import HELDOUT

MOST_SAID = 6  # sentences on the data
PUBLISHED = Path(__file__).parents[1] / "reports/published"  # of a checkout
LOOKS = 20  # the newest results that are looked at; a folder of all runs may hold thousands


def outlook(plan: Plan, device: str) -> list[str]:
    """Give the sentences at the start of a run: what is worth a look in its data, what its CAM seeds cost,
    where it goes.

    Args:
        device: Such as "cpu" or "cuda:1".

    Raises DataError as `data_outlook` does.
    """
    steps = plan.config.protocol.steps
    return [
        *before(plan),
        f"{plan.method.name}: {steps} steps on {device}, to {plan.folder.path}; {_time(plan)}",
    ]


def before(plan: Plan) -> list[str]:
    """Return the sentences on what to know before a run or a dry one: of its data, its held-out list, its
    knobs and its seeds.

    Raises DataError as `data_outlook` does.
    """
    dataset = dataset_of(plan.config)
    held_out = [] if plan.config.scored == HELDOUT else held_out_said(dataset, data_root(plan.config))
    return [
        *data_outlook(plan),
        *held_out,
        *plan.hparams.said(len(dataset.classes)),
        *(seed_outlook(plan.seeds) if plan.seeds else ()),
        *box_outlook(plan),
        *(round_outlook(plan, plan.labeler) if plan.labeler else ()),
    ]


def data_outlook(plan: Plan) -> list[str]:
    """Return a few sentences on what is worth a look in the data of a run; see `datasets.look.before_a_run`.

    Raises DataError for data that are missing, or that no score can be made of.
    """
    from datasets.look import before_a_run

    found = before_a_run(dataset_of(plan.config), plan.split)
    said = [f"worth a look: {sentence}" for sentence in found[:MOST_SAID]]
    more = len(found) - MOST_SAID
    return [*said, f"... and {more} more: `data verify` says all"] if more > 0 else said


def seed_outlook(plan: SeedPlan) -> list[str]:
    """Say what the CAM seeds of a run cost before it can train; nothing where they are made already.

    Says the steps of the classifier and how to shorten them.
    """
    if plan.folder.report.exists():
        return []
    run, images = plan.classifier, len(plan.classifier.split.tags)
    maps = f"{images} images get activation maps, and seeds refined by {plan.settings.refine}"
    if run.folder.result.exists():
        return [f"CAM seeds first: {maps}; the tag classifier is trained already"]
    protocol = run.config.protocol
    return [
        f"CAM seeds first: a tag classifier trains {protocol.steps} steps of {protocol.batch.labeled} "
        f"images, then {maps}; {_time(run)}",
        "shorten it with --set cam_seeds.protocol.steps=200 (other seeds, and another run)",
    ]


def box_outlook(plan: Plan) -> list[str]:
    """Say how many seeds of boxes are made before a run can train; nothing where all are there."""
    left, boxes = len(plan.without_box_seed), plan.box_seeds
    if not left or boxes is None:
        return []
    return [
        f"seeds of boxes first: {left} images get one, by the rule {boxes.settings.rule}; all runs share them"
    ]


def round_outlook(plan: Plan, labeler: Plan) -> list[str]:
    """Say what comes before the last round of a run."""
    then = f"its last weights label {len(plan.unlabeled)} images, in {plan.folder.pseudo_label('').parent}"
    if labeler.folder.result.exists():
        return [f"labels first: {labeler.folder.path} is trained already; {then}"]
    rounds = f"{labeler.method.name} trains {labeler.config.protocol.steps} steps, to {labeler.folder.path}"
    return [f"labels first: {rounds}; {then}; {_time(labeler)}"]


def _time(plan: Plan) -> str:
    """How long the newest run of the same method and protocol took here, or the published ones, in words."""
    last = last_like(plan)
    if last:
        spent = duration(last.train_seconds + last.eval_seconds)
        return f"the last {last.method} of this protocol here took {spent}"
    if published := published_seconds(plan):
        runs = f"the {len(published)} published runs" if len(published) > 1 else "the published run"
        return f"about {duration(median(published))}, by {runs} of its kind, on another machine"
    return "no such run is finished here: `--dry-run --cost` says how long, or the ETA after some steps"


def published_seconds(plan: Plan) -> list[float]:
    """Return how long the plan's steps took in each published run of its method, data set, network, crop and
    batch; none outside of a checkout, or where the records cannot be read."""
    file, config = PUBLISHED / f"{plan.config.dataset}.jsonl", plan.config
    own = config.protocol.model_dump(mode="json")
    found = []
    with suppress(DataError, OSError, ValueError, KeyError, TypeError):  # a run shall not end by this
        for run in map(json.loads, read_file(file).splitlines()):
            theirs = run["config"]["protocol"]
            # A record leaves out the parts of a network that are younger than it.
            network = own["network"] | theirs["network"]
            kind = (run["method"], network, theirs["crop"], theirs["batch"])
            if kind == (plan.method.name, own["network"], own["crop"], own["batch"]):
                trained = run["train_seconds"] * config.protocol.steps / run["steps"]
                found.append(trained + run["eval_seconds"])
    return found


def last_like(plan: Plan) -> Result | None:
    """Find the newest finished run of the plan's method and protocol on its data set, below the same
    folder."""
    own = plan.folder
    files = own.root.glob(f"{plan.config.dataset}/*/{plan.method.name}/*/{own.result.name}")
    for file in sorted(files, key=_when, reverse=True)[:LOOKS]:
        with suppress(DataError, OSError):
            result = read_result(file)
            if result.protocol_hash == plan.config.protocol.hash:
                return result
    return None


def _when(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # removed meanwhile, by a run that starts again
        return 0.0


def duration(seconds: float) -> str:
    """80 -> "80 s", 300 -> "5 min", 7200 -> "2.0 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
