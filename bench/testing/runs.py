"""Checks of runs and settings: labels that were not granted are not opened, a term of the protocol arrives,
and knobs have bounds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import torch
from pydantic import ValidationError

from bench.contract import Batch, Method, Progress, Supervision
from bench.display import Quiet
from bench.errors import BenchError, ConfigError, DataError
from bench.machine import Stop
from bench.ops.losses import cross_entropy
from bench.pipeline import run
from bench.plan import plan
from bench.records.logs import read_metrics
from bench.records.schema import Result
from bench.settings.labeled_loss import GatedCrf
from bench.settings.resolve import resolve
from bench.settings.schema import RunConfig
from bench.testing import tiny
from bench.testing.case import STEPS, Case, Terms, losses, refused, with_stream
from bench.training import session
from bench.training.balance import WithGatedCrf
from datasets.folder import Folder

GARBAGE = b"no image at all"


def trained(config: RunConfig) -> Result:
    return run(plan(config), Quiet())


def audited(config: RunConfig, out: str) -> RunConfig:
    """Give the settings of the same run with the withheld masks opened, in another folder."""
    return config.model_copy(
        update={"machine": config.machine.model_copy(update={"audit": True, "out": out})}
    )


@contextmanager
def poisoned(case: Case, *sets: str, granted: bool) -> Iterator[RunConfig]:
    """Give the settings of a run on a copy of the data in which the masks (not) granted are no images any
    more."""
    with tempfile.TemporaryDirectory(prefix="frugalseg-") as place:
        root = Path(place) / "data"
        copytree(tiny.shared_root(), root)
        with case.configured(*sets, root=root) as config:
            split = plan(config).split
            for id in split.pixel if granted else (*split.tags, *split.none):
                (root / "tinyset" / "labels" / f"{id}.png").write_bytes(GARBAGE)
            yield config


# Labels that were not granted -----------------------------------------------------------------------------


def unlabeled_images_come_without_label(case: Case) -> None:
    """But for the pseudo-label of an earlier round, here of what is bright and what is not."""
    for step in range(STEPS):
        unlabeled = case.batches()[step].unlabeled
        if unlabeled is not None and unlabeled.label is not None:
            agree = (unlabeled.image[:, 0] > 150 / 255) == (unlabeled.label == 1)
            close = agree[unlabeled.valid].float().mean() > 0.9
            assert case.info.cls.rounds and close, "an unlabeled image has its label"


def a_mask_that_was_not_granted_is_never_asked_for(case: Case) -> None:
    asked: set[str] = set()

    class Guarded(Folder):
        def mask(self, id: str) -> Any:
            assert id in self.ids("train")[:4], f"the mask of {id} was not granted, and is read"
            asked.add(id)
            return super().mask(id)

    case.train(case.method(), range(3), Guarded(tiny.shared_root() / "tinyset", "tinyset"))
    assert asked or Supervision.PIXEL not in case.info.needs, "no granted mask is read"


def a_run_does_not_open_withheld_masks(case: Case) -> None:
    with poisoned(case, "protocol.steps=3", granted=False) as config:
        result = trained(config)
    assert result.steps == 3, "the run has not gone to its end"
    assert result.images["tags"] + result.images["none"] == 12, "the split has 12 images without masks"


def a_run_opens_the_granted_masks(case: Case) -> None:
    """Control the check above: poison is noticed where it is read, in 8 steps by every stream."""
    with poisoned(case, "protocol.steps=8", granted=True) as config:
        refused(DataError, "train_0", lambda: trained(config), "a granted mask that is no image")


def an_audit_opens_the_withheld_masks(case: Case) -> None:
    """Control the checks on audits: an audit does read. A method without unlabeled images has none."""
    with poisoned(case, "protocol.steps=3", granted=False) as config:
        opened = audited(config, config.machine.out)
        if Supervision.NONE in case.info.needs:
            refused(DataError, "only an audit", lambda: trained(opened), "a withheld mask that is no image")
        else:
            assert trained(opened).steps == 3, "the run has not gone to its end"


def an_audit_changes_no_bit(case: Case) -> None:
    """Neither the weights nor a figure of the log; it only adds figures."""
    has = "threshold" in case.info.knobs.model_fields
    loose = ["method.threshold=0.0"] if has else []  # an untrained teacher's labels count
    with case.configured("protocol.steps=3", *loose) as config:
        plain = plan(config)
        opened = plan(audited(config, f"{config.machine.out}-opened"))
        assert opened.run_id == plain.run_id, "an audit gives the run another id"
        results = [run(one, Quiet()) for one in (plain, opened)]
        same = plain.folder.weights.read_bytes() == opened.folder.weights.read_bytes()
        assert same and results[0].predictor == results[1].predictor, "an audit changes the weights"
        lines, more = read_metrics(plain.folder.metrics), read_metrics(opened.folder.metrics)
    assert [result.config["machine"]["audit"] for result in results] == [False, True]
    assert len(lines) == len(more) == 3, "the log has not a line for each step"
    for line, longer in zip(lines, more, strict=True):
        assert {key: longer[key] for key in line} == line, "an audit changes a figure of the log"


def a_shared_warm_up_is_its_own(case: Case) -> None:
    """Where it has one: weights and log of a run that takes it are those of one that trains it itself."""
    warmup = ["method.warmup=2"] if "warmup" in case.info.knobs.model_fields else []
    with case.configured("protocol.steps=5", *warmup) as config:
        if not session.trainer_of(plan(config), Quiet(), Stop()).warmup:
            return
        place = {"share_warmup": False, "out": f"{config.machine.out}-alone"}
        alone = plan(config.model_copy(update={"machine": config.machine.model_copy(update=place)}))
        made = plan(config)
        run(alone, Quiet())
        run(made, Quiet())
        taken = run(made, Quiet(), overwrite=True)
        assert taken.shared_seconds, "the warm-up of its own first run is not taken"
        same = alone.folder.weights.read_bytes() == made.folder.weights.read_bytes()
        same = same and read_metrics(alone.folder.metrics) == read_metrics(made.folder.metrics)
    assert same, "after_step() keeps something of the warm-up that its last step does not make anew"


def losses_see_no_truth(case: Case) -> None:
    seen: list[Batch] = []
    compute = case.info.cls.losses

    def spy(self: Method, batch: Batch, at: Progress) -> Terms:
        seen.append(batch)
        return compute(self, batch, at)

    cls = type(case.info.cls.__name__, (case.info.cls,), {"losses": spy})
    # The harness trains a warm-up without the method.
    warmup = ["method.warmup=0"] if "warmup" in case.info.knobs.model_fields else []
    with Case(replace(case.info, cls=cls)).configured("protocol.steps=2", *warmup) as config:
        trained(audited(config, config.machine.out))
    assert len(seen) == 2, f"losses() was called {len(seen)} times in 2 steps"
    for batch in seen:
        assert batch.truth is None, "losses() is given the truth that an audit opened"
        # Those of an earlier round are none: no run opens a withheld mask, see above.
        none = batch.unlabeled is None or batch.unlabeled.label is None or case.info.cls.rounds
        assert none, "losses() is given withheld labels"


# What it says of itself -----------------------------------------------------------------------------------


def a_gated_crf_reaches_its_labeled_loss(case: Case) -> None:
    """Hold that the gated CRF is there: it knows the images of a label by the label itself, not by a copy."""
    if Supervision.PIXEL not in case.info.needs:
        return
    batch = case.batches()[0]
    sparse = torch.ones(len(batch.labeled.image), dtype=torch.bool, device=case.device)
    batch = with_stream(batch, "labeled", partial(replace, sparse=sparse))
    found = []
    for stream in (None, batch.labeled):
        loss = WithGatedCrf(cross_entropy, GatedCrf())
        loss.stream = stream
        found.append(losses(case.method(loss=loss), batch)["labeled"].item())
    assert found[1] > found[0], (
        "a gated CRF of the protocol changes nothing in the term 'labeled'; give self.task.labeled_loss "
        "the tensor batch.labeled.label itself, and the logits of all its images"
    )


def it_and_its_knobs_are_described(case: Case) -> None:
    summary = case.info.summary
    assert summary and not summary.startswith("#"), "the class or its file needs a docstring; `list` shows it"
    for key, field in case.info.knobs.model_fields.items():
        described = field.description and "\n" not in field.description
        assert described, f"the knob {key!r} needs Field(..., description=...) of one line; `show` prints it"
        assert not field.is_required(), f"the knob {key!r} has no default"
    defaults = case.info.knobs()
    again = case.info.knobs.model_validate_json(defaults.model_dump_json())
    assert again == defaults, "the defaults are not what they are read back as"


def knobs_out_of_range_are_refused(case: Case) -> None:
    """By the class and, with the key's name, by the command line's way of setting it."""
    model, name = case.info.knobs, case.info.name
    with case.configured():
        for key, bounds in model.model_json_schema().get("properties", {}).items():
            outside = _beyond(bounds)
            assert outside or bounds.get("type") != "number", f"the number {key!r} has no bounds"
            for value in outside:
                what = f"{key}={value}"
                refused(ValidationError, key, lambda v=value, k=key: model(**{k: v}), what)  # type: ignore[misc]
                refused(
                    ConfigError,
                    f"method.{key}",
                    lambda w=what: resolve({"method": {"name": name}}, None, [f"method.{w}"]),  # type: ignore[misc]
                    what,
                )
        unknown = "method.no_such_knob=1"
        refused(
            BenchError, "no_such_knob", lambda: resolve({"method": {"name": name}}, None, [unknown]), unknown
        )


def _beyond(bounds: dict[str, Any]) -> list[float]:
    """Values just outside the bounds of a number's JSON schema."""
    steps = {"minimum": -0.5, "exclusiveMinimum": 0, "maximum": 0.5, "exclusiveMaximum": 0}
    return [bounds[key] + step for key, step in steps.items() if key in bounds]


CHECKS = [
    a_gated_crf_reaches_its_labeled_loss,
    unlabeled_images_come_without_label,
    a_mask_that_was_not_granted_is_never_asked_for,
    a_run_does_not_open_withheld_masks,
    a_run_opens_the_granted_masks,
    an_audit_opens_the_withheld_masks,
    an_audit_changes_no_bit,
    a_shared_warm_up_is_its_own,
    losses_see_no_truth,
]
OF_THE_CLASS = [  # whatever the views
    it_and_its_knobs_are_described,
    knobs_out_of_range_are_refused,
]
