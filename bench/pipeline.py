"""One run from start to end: claim its folder, make CAM seeds and the labels of an earlier round, train,
score, record.

Only this file knows the order. Each part is in the room of its name: bench/cam_seeds, bench/training,
bench/scoring, bench/records.
"""

from __future__ import annotations

from contextlib import ExitStack

from bench import ranks
from bench.cam_seeds import boxes
from bench.cam_seeds.make import check_settings, make, standing
from bench.cam_seeds.warnings import warnings
from bench.contents import changes
from bench.display import Display
from bench.errors import ConfigError, DataError, InUse
from bench.machine import Stop, choose_device, memory_errors, stoppable, waiter
from bench.outlook import outlook
from bench.plan import Plan, SeedPlan, dataset_of, refuse_unequal
from bench.records.atomic import WriteError
from bench.records.schema import Result, SeedReport
from bench.scoring import pseudo_labels
from bench.training import session
from bench.training.ranks import refuse_apart_norm
from bench.training.result import score_and_record
from bench.training.shared import shared_warm_up
from bench.training.trainer import Parts, Trainer


def announced_run(
    plan: Plan, display: Display, resume: bool = False, overwrite: bool = False, anyway: bool = False
) -> Result:
    """Say what a run will do, and do it; raises as `run` does."""
    ranks.first_alone(lambda: _announce(plan, display, overwrite))
    return run(plan, display, resume, overwrite, anyway)


def _announce(plan: Plan, display: Display, overwrite: bool) -> None:
    if overwrite or not plan.folder.result.exists():
        for line in outlook(plan, choose_device(plan.config.machine.device)):
            display.say(line)


def run(
    plan: Plan, display: Display, resume: bool = False, overwrite: bool = False, anyway: bool = False
) -> Result:
    """Train and score one run; a finished run is returned as it is, where it is of this code and these data.

    Args:
        resume: Go on with an interrupted run.
        overwrite: Start again; its CAM seeds too, where they are of other code or data.
        anyway: Go on though the code or the data have changed since; the record says so.

    Raises:
        ConfigError: The folder holds an interrupted run and neither `resume` nor `overwrite` is given; or a
            run, done or not, of other code or data.
        DataError: Data missing or invalid.
        Interrupted: Stopped by a signal; the state is saved.
        BenchError: The loss is not finite; the last good checkpoint is kept.
    """
    folder = plan.folder
    _refuse_other_run(plan)
    # Asked before the claim too: the disk of a finished run may be read-only.
    if not overwrite and (done := ranks.first_alone(lambda: _done(plan, display))):
        return done
    try:
        with ExitStack() as claim, stoppable() as stop:
            ranks.first_alone(lambda: claim.enter_context(folder.claimed()))
            if not overwrite and (done := ranks.first_alone(lambda: _done(plan, display))):
                return done
            goes_on, changed = ranks.first_alone(lambda: _beginning(plan, resume, overwrite, anyway))
            seeds = None
            if plan.seeds is not None:
                # Before the hours that seeds may take, and before old ones go.
                ranks.first_alone(lambda: _refuse_before_seeds(plan, overwrite))
                seeds = make_seeds(plan.seeds, display, None, overwrite, anyway)
                with ranks.together():
                    stop.check()
            if plan.box_seeds is not None:
                ranks.first_alone(lambda: _make_box_seeds(plan, display, stop, overwrite))
            if plan.labeler is not None:
                make_labels(plan, plan.labeler, display, stop, overwrite, anyway)
            with memory_errors(lambda: "before the first step", LESS_MEMORY):
                trainer = session.start(plan, display, stop, goes_on, changed, anyway, seeds)
            return _train_and_score(trainer, display)
    except WriteError as error:
        error.then = "go on with --resume: what was saved before is kept"
        raise


def _refuse_other_run(plan: Plan) -> None:
    """Raise ConfigError where the processes of a run were started with different settings or splits."""
    first = ranks.first_alone(lambda: plan.run_id)
    with ranks.together():
        if plan.run_id != first:
            raise ConfigError(
                f"process {ranks.number()} of this run would do the run {plan.run_id}, and process 0 the run "
                f"{first}; start all of them with the same command, on the same data."
            )


def _beginning(plan: Plan, resume: bool, overwrite: bool, anyway: bool) -> tuple[bool, list[str]]:
    """Whether a run goes on, and what has changed since, in words."""
    goes_on = session.goes_on(plan, resume, overwrite)
    changed = session.changed(plan, anyway) if goes_on else []
    plan.folder.forget_failure()
    return goes_on, changed


def _refuse_before_seeds(plan: Plan, overwrite: bool) -> None:
    if plan.seeds is not None and (overwrite or plan.seeds.folder.read_report() is None):
        refuse_early(plan)


def _make_box_seeds(plan: Plan, display: Display, stop: Stop, overwrite: bool) -> None:
    assert plan.box_seeds is not None, "asked of splits that grant boxes alone"
    if overwrite or not plan.box_seeds.folder.ledger.exists():
        refuse_early(plan)
    boxes.make(plan, plan.box_seeds, display, stop)


LESS_MEMORY = (
    "lower protocol.batch, protocol.crop or protocol.evaluation.scales, or use --precision bf16 (each makes "
    "another protocol)."
)


def _train_and_score(trainer: Trainer, display: Display) -> Result:
    try:
        with memory_errors(lambda: f"at step {trainer.step}", LESS_MEMORY):
            with shared_warm_up(trainer):
                trainer.train()
            return score_and_record(trainer)
    finally:
        display.stop()


def check_shares(plan: Plan, processes: int) -> None:
    """Raise ConfigError where this number of processes cannot share this run on this machine: its batches,
    those of the runs before it, and the devices."""
    device = choose_device(plan.config.machine.device)
    refuse_apart_norm(device)
    ranks.check_devices(device, processes)
    refuse_unequal(plan, processes)


def check(plan: Plan, resume: bool = False, overwrite: bool = False, anyway: bool = False) -> None:
    """Refuse what `run` would refuse, for `--dry-run`. Writes nothing and fetches nothing.

    Raises as `run` does.
    """
    if check_folders(plan, resume, overwrite, anyway):
        refuse_early(plan)


def check_folders(plan: Plan, resume: bool, overwrite: bool, anyway: bool = False) -> bool:
    """Refuse what `run` would refuse of what is in its folders; whether anything is left to do."""
    done = None if overwrite else plan.folder.read_result()
    if done is not None:
        changes.refuse_changed(plan, done)
        return False
    plan.folder.check_place()
    if session.goes_on(plan, resume, overwrite):
        session.changed(plan, anyway)
        session.check_state(plan, anyway)
    if plan.seeds:
        _check_seeds(plan.seeds, overwrite, anyway)
    if plan.labeler and not overwrite:
        check_folders(plan.labeler, resume=True, overwrite=False, anyway=anyway)
    return True


def _check_seeds(plan: SeedPlan, overwrite: bool, anyway: bool) -> None:
    """Refuse what `make_seeds` would refuse of what is there."""
    report = plan.folder.read_report()
    if report is not None and not standing(plan, report, overwrite, anyway).anew:
        return
    again, _ = _finished_classifier(plan, overwrite, anyway)
    classifier = plan.classifier
    if classifier.folder.read_result() is None and session.goes_on(classifier, not again, again):
        session.changed(classifier, anyway)
        session.check_state(classifier, anyway)


def refuse_early(plan: Plan) -> Parts:
    """Refuse what would stop a run before its first step, or the run of its CAM seeds' classifier; give what
    it would train with.

    It is what a start does itself, but for weights of the hub, which are not fetched.
    """
    with memory_errors(lambda: "before the first step", LESS_MEMORY):
        parts = session.parts_of(plan, fetch=False)
        if plan.labeler is not None and not plan.labeler.folder.result.exists():
            refuse_early(plan.labeler)
        if plan.seeds is not None and plan.seeds.folder.read_report() is None:
            check_settings(plan.seeds.settings, parts.dataset)
            session.parts_of(plan.seeds.classifier, fetch=False)
        if plan.box_seeds is not None:
            boxes.check_settings(plan.box_seeds.settings)
    return parts


def _done(plan: Plan, display: Display) -> Result | None:
    """Return the result of a finished run that is of this code and these data; None where it is not finished.

    Raises ConfigError where it is of others.
    """
    done = plan.folder.read_result()
    if done is None:
        return None
    changes.refuse_changed(plan, done)
    display.say(f"already done: {plan.folder.path}")
    if done.contents is None:
        display.say(
            "it is from before runs kept digests of what they were made of, so nobody can tell whether its "
            "code and data are those of today"
        )
    return done


def make_labels(
    plan: Plan, labeler: Plan, display: Display, stop: Stop, overwrite: bool = False, anyway: bool = False
) -> None:
    """Finish the run that labels the unlabeled images of a method with rounds, and label them, as far as that
    is not done. Raises as `run` does."""
    again = ranks.first_alone(lambda: overwrite and bool(changes.since_any(labeler)))
    wait = waiter(display.say, stop, f"trains {labeler.folder.path}, whose labels this run learns")
    while True:
        try:
            run(labeler, display, resume=not again, overwrite=again, anyway=anyway)
            break
        except InUse:
            with ranks.together():
                wait()
    with ranks.together():
        stop.check()
    with memory_errors(lambda: "for the pseudo-labels", LESS_MEMORY):
        ranks.first_alone(lambda: pseudo_labels.make(plan, display, stop.check))


def make_seeds(
    plan: SeedPlan,
    display: Display,
    jobs: int | None = None,
    overwrite: bool = False,
    anyway: bool = False,
) -> SeedReport:
    """Make the CAM seeds of a split where they are missing, and the classifier's run before them.

    Says whether they are of use.

    Args:
        overwrite: Make them anew where they, or the classifier, are of other code or data.
        anyway: Take them, or their classifier, as they are; what has changed is in the report's contents.

    Raises as `bench.cam_seeds.make.make`, `run` and `load_dataset` do.
    """

    def classifier() -> Result:
        again, marked = ranks.first_alone(lambda: _finished_classifier(plan, overwrite, anyway))
        if marked is None:
            return run(plan.classifier, display, resume=not again, overwrite=again, anyway=anyway)
        assert marked.contents is not None, "nothing has changed where nothing is known"
        said = changes.listed(marked.contents.anyway)
        path = plan.classifier.folder.path
        display.say(f"the classifier in {path} is taken as it is, though this has changed: {said}")
        return marked

    config = plan.classifier.config
    dataset = dataset_of(config)
    try:
        with memory_errors(lambda: "for the CAM seeds", "lower cam_seeds.scales, or give fewer --jobs."):
            report = make(plan, dataset, display, classifier, jobs, overwrite, anyway)
    except WriteError as error:
        error.then = "give the same command again: what was saved before is kept"
        raise
    for line in warnings(report, dataset.classes):
        display.say(line)
    return report


def _finished_classifier(plan: SeedPlan, overwrite: bool, anyway: bool) -> tuple[bool, Result | None]:
    """Whether the classifier's run is to start again; and, of one that is taken though code or data have
    changed, its result, whose contents say so.

    Raises ConfigError or DataError for a finished one that cannot be taken.
    """
    classifier, folder = plan.classifier, plan.classifier.folder
    done = folder.read_result()
    lost = done is not None and not folder.weights.exists()
    if overwrite:
        return lost or bool(changes.since_any(classifier)), None
    if lost:
        raise DataError(f"no {folder.weights}; put it back, or make the CAM seeds anew with --overwrite.")
    if done is None:
        return False, None
    if not anyway:
        changes.refuse_changed(classifier, done)
    found = changes.since_done(classifier, done) if anyway else []
    if not found or done.contents is None:
        return False, None
    contents = done.contents.model_copy(update={"anyway": [*done.contents.anyway, *found]})
    return False, done.model_copy(update={"contents": contents})
