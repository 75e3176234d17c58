"""One run from start to end: claim its folder, make CAM seeds and the labels of an earlier round, train,
score, record.

Only this file knows the order. Each part is in the room of its name: bench/cam_seeds, bench/training,
bench/scoring, bench/records.
"""

from __future__ import annotations

import time
from hashlib import sha256

import numpy as np

from bench.cam_seeds.make import check_settings, make, standing
from bench.cam_seeds.warnings import warnings
from bench.contents import changes
from bench.display import Display
from bench.errors import DataError, InUse
from bench.machine import Stop, choose_device, memory_errors, stoppable, waiter
from bench.networks import exported
from bench.outlook import outlook
from bench.plan import Plan, SeedPlan, dataset_of
from bench.records.atomic import WriteError, write_atomic
from bench.records.ledger import Ledger
from bench.records.logs import read_metrics
from bench.records.samples import write_samples
from bench.records.schema import Contents, Point, Result, RoundCost, SeedCost, SeedReport
from bench.scoring import pseudo_labels
from bench.scoring.alone import network_is_all
from bench.scoring.inference import score
from bench.scoring.samples import Kept, pictures
from bench.training import checkpoint, session
from bench.training.metrics_log import mean_shares
from bench.training.shared import shared_warm_up
from bench.training.trainer import Parts, Trainer


def announced_run(
    plan: Plan, display: Display, resume: bool = False, overwrite: bool = False, anyway: bool = False
) -> Result:
    """Say what a run will do, and do it; raises as `run` does."""
    if overwrite or not plan.folder.result.exists():
        for line in outlook(plan, choose_device(plan.config.machine.device)):
            display.say(line)
    return run(plan, display, resume, overwrite, anyway)


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
    # Asked before the claim too: the disk of a finished run may be read-only.
    if not overwrite and (done := _done(plan, display)):
        return done
    try:
        with folder.claimed(), stoppable() as stop:
            if not overwrite and (done := _done(plan, display)):
                return done
            goes_on = session.goes_on(plan, resume, overwrite)
            changed = session.changed(plan, anyway) if goes_on else []
            folder.forget_failure()
            seeds = None
            if plan.seeds is not None:
                if overwrite or plan.seeds.folder.read_report() is None:
                    refuse_early(plan)  # before the hours that seeds may take, and before old ones go
                seeds = make_seeds(plan.seeds, display, None, overwrite, anyway)
                stop.check()
            if plan.labeler is not None:
                make_labels(plan, plan.labeler, display, stop, overwrite, anyway)
            with memory_errors(lambda: "before the first step", LESS_MEMORY):
                trainer = session.start(plan, display, stop, goes_on, changed, anyway, seeds)
            return _train_and_score(trainer, display)
    except WriteError as error:
        error.then = "go on with --resume: what was saved before is kept"
        raise


LESS_MEMORY = (
    "lower protocol.batch, protocol.crop or protocol.evaluation.scales, or use --precision bf16 (each makes "
    "another protocol)."
)


def _train_and_score(trainer: Trainer, display: Display) -> Result:
    try:
        with memory_errors(lambda: f"at step {trainer.step}", LESS_MEMORY):
            with shared_warm_up(trainer):
                trainer.train()
            return _score_and_record(trainer)
    finally:
        display.stop()


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
    return parts


def _done(plan: Plan, display: Display) -> Result | None:
    """The result of a finished run that is of this code and these data; None where it is not finished.

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
    again = overwrite and bool(changes.since_any(labeler))
    wait = waiter(display.say, stop, f"trains {labeler.folder.path}, whose labels this run learns")
    while True:
        try:
            run(labeler, display, resume=not again, overwrite=again, anyway=anyway)
            break
        except InUse:
            wait()
    stop.check()
    with memory_errors(lambda: "for the pseudo-labels", LESS_MEMORY):
        pseudo_labels.make(plan, display, stop.check)


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
        again, marked = _finished_classifier(plan, overwrite, anyway)
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


def _score_and_record(trainer: Trainer) -> Result:
    """Score the last weights, write the result: the run is done. Scored are the headline, the student and,
    beside a teacher of the protocol, what the method names."""
    started = time.monotonic()
    plan, method = trainer.plan, trainer.method
    modules = {"predictor": trainer.headline(), "student": method.net}
    if trainer.teacher is not None:
        modules["own"] = method.predictor()
    samples = Kept(plan.split.eval, plan.config.machine.samples)
    counts = {"predictor": trainer.counts(modules["predictor"], "predictor", samples)}
    for name, module in modules.items():
        same = [other for other in counts if modules[other] is module]
        counts[name] = counts[same[0]] if same else trainer.counts(module, name)
    eval_seconds = time.monotonic() - started
    network = exported.network_of(modules["predictor"])
    weights = exported.to_bytes(network, _about(trainer))
    contents = session.contents_at_end(trainer).model_copy(update={"weights": sha256(weights).hexdigest()})
    plan.folder.write_counts(plan.split.eval, counts)
    write_atomic(plan.folder.weights, weights)
    write_samples(plan.folder, pictures(trainer.dataset, samples.predictions))
    result = plan.folder.write_result(_result(trainer, counts, eval_seconds, contents))
    checkpoint.remove(plan.folder.checkpoint)  # result and weights hold all that is needed from here on
    return result


def _about(trainer: Trainer) -> exported.About:
    """What weights.safetensors says beside its tensors, so that it can be used without its run."""
    plan, dataset = trainer.plan, trainer.dataset
    protocol, classes = plan.config.protocol, tuple(dataset.classes)
    # The protocol's teacher is a network, whatever the method's own predictor is.
    alone = trainer.teacher is not None or network_is_all(
        plan.method.cls, plan.hparams, classes, dataset.background
    )
    return exported.About(
        classes=classes,
        network=protocol.network,
        palette=None if dataset.palette is None else tuple(map(tuple, dataset.palette.tolist())),
        evaluation=protocol.evaluation,
        crop=protocol.crop,
        alone=alone,
    )


def _result(
    trainer: Trainer, counts: dict[str, np.ndarray], eval_seconds: float, contents: Contents
) -> Result:
    plan, config, dataset = trainer.plan, trainer.plan.config, trainer.dataset
    scores = {name: score(value.sum(0)) for name, value in counts.items()}
    return Result(
        run_id=plan.run_id,
        dataset=config.dataset,
        split=config.split,
        method=plan.method.name,
        method_version=plan.method.version,
        seed=config.seed,
        draw=config.draw,
        scored=config.scored,
        protocol=config.protocol.name,
        protocol_hash=config.protocol.hash,
        steps=config.protocol.steps,
        images={**plan.split.counts, **_opened(plan)},
        classes=list(dataset.classes),
        student=scores["student"],
        predictor=scores["predictor"],
        own=scores.get("own"),
        curve=[*trainer.curve, Point(step=trainer.step, miou=scores["predictor"].miou)],
        train_seconds=trainer.train_seconds,
        shared_seconds=trainer.shared.seconds or None,
        eval_seconds=eval_seconds,
        peak_memory_mib=trainer.peak_memory_mib(),
        split_digests=plan.split.digests,
        weights_digest=trainer.weights.digest if trainer.weights else None,
        config=config.record(exclude={"machine": {"data_root", "out"}}),
        label_seconds=dict(dataset.label_seconds),
        seed_cost=_seed_cost(plan),
        health=mean_shares(read_metrics(plan.folder.metrics), trainer.warmup) or None,
        passes=_passes(plan),
        rounds=_round_cost(plan),
        contents=contents,
        files=plan.folder.file_digests(),
    )


def _seed_cost(plan: Plan) -> SeedCost | None:
    report = plan.seeds.folder.read_report() if plan.seeds else None
    classifier = plan.seeds.classifier.folder.read_result() if plan.seeds else None
    if report is None or classifier is None:
        return None
    return SeedCost(
        classifier_seconds=classifier.train_seconds,
        classifier_peak_memory_mib=classifier.peak_memory_mib,
        map_seconds=report.map_seconds,
        map_peak_memory_mib=report.map_peak_memory_mib,
        refine_core_seconds=report.refine_core_seconds,
    )


def _round_cost(plan: Plan) -> RoundCost | None:
    labeler = plan.labeler.folder.read_result() if plan.labeler else None
    if labeler is None:
        return None
    return RoundCost(
        labeler_seconds=labeler.train_seconds,
        labeler_peak_memory_mib=labeler.peak_memory_mib,
        label_seconds=Ledger(plan.folder.pseudo_ledger).seconds(plan.unlabeled),
    )


def _passes(plan: Plan) -> dict[str, int] | None:
    """Images that a step sends through networks, as the method says."""
    said, batch = plan.method.cls.passes, plan.config.protocol.batch
    return said.images(batch.labeled, batch.unlabeled) if said else None


def _opened(plan: Plan) -> dict[str, int]:
    """How many masks beside the split's grant a policy has read: they count as supervision."""
    report = plan.seeds.folder.read_report() if plan.seeds else None
    return {"opened": len(report.opened)} if report and report.opened else {}
