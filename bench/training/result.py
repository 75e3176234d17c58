"""The end of a run: score the last weights, and write what is kept of it, the result last."""

from __future__ import annotations

import time
from hashlib import sha256

import numpy as np
from torch import nn

from bench import ranks
from bench.labels import LABEL_SECONDS
from bench.networks import exported
from bench.plan import Plan
from bench.records.atomic import write_atomic
from bench.records.ledger import Ledger
from bench.records.logs import read_metrics
from bench.records.samples import write_samples
from bench.records.schema import Contents, Point, Result, RoundCost, SeedCost
from bench.scoring.alone import network_is_all
from bench.scoring.inference import score
from bench.scoring.samples import Kept, pictures
from bench.training import checkpoint, session
from bench.training.metrics_log import mean_shares
from bench.training.trainer import Spent, Trainer


def score_and_record(trainer: Trainer) -> Result:
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
    kept = {id: ids for part in ranks.of_all(samples.predictions) for id, ids in part.items()}
    shown = {id: kept[id] for id in samples.ids if id in kept}
    peak = max(ranks.of_all(trainer.peak_memory_mib()))
    spent = Spent(time.monotonic() - started, peak)
    return ranks.first_alone(lambda: _record(trainer, modules["predictor"], counts, shown, spent))


def _record(
    trainer: Trainer,
    predictor: nn.Module,
    counts: dict[str, np.ndarray],
    shown: dict[str, np.ndarray],
    spent: Spent,
) -> Result:
    """Write what a run leaves, the result last.

    Args:
        counts: N C C of each module, as `Trainer.counts` gives them.
        shown: The predictions of the samples.
        spent: On scoring.
    """
    plan = trainer.plan
    network = exported.network_of(predictor)
    weights = exported.to_bytes(network, _about(trainer))
    contents = session.contents_at_end(trainer).model_copy(update={"weights": sha256(weights).hexdigest()})
    plan.folder.write_counts(plan.split.eval, counts)
    write_atomic(plan.folder.weights, weights)
    write_samples(plan.folder, pictures(trainer.dataset, shown))
    result = plan.folder.write_result(_result(trainer, counts, spent, contents))
    checkpoint.remove(plan.folder.checkpoint)  # result and weights hold all that is needed from here on
    return result


def _about(trainer: Trainer) -> exported.NetworkRecord:
    """Gather what weights.safetensors says beside its tensors, so that it can be used without its run."""
    plan, dataset = trainer.plan, trainer.dataset
    protocol, classes = plan.config.protocol, tuple(dataset.classes)
    # The protocol's teacher is a network, whatever the method's own predictor is.
    alone = trainer.teacher is not None or network_is_all(
        plan.method.cls, plan.hparams, classes, dataset.background
    )
    return exported.NetworkRecord(
        classes=classes,
        network=protocol.network,
        palette=None if dataset.palette is None else tuple(map(tuple, dataset.palette.tolist())),
        evaluation=protocol.evaluation,
        crop=protocol.crop,
        alone=alone,
    )


def _result(trainer: Trainer, counts: dict[str, np.ndarray], spent: Spent, contents: Contents) -> Result:
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
        eval_seconds=spent.seconds,
        peak_memory_mib=spent.peak_memory_mib,
        split_digests=plan.split.digests,
        weights_digest=trainer.weights.digest if trainer.weights else None,
        config=config.record(exclude={"machine": {"data_root", "out"}}),
        label_seconds={
            kind: dataset.seconds_to_label(kind, getattr(plan.split, kind)) for kind in LABEL_SECONDS
        },
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
