"""What every method must prove to be in the library. A new file in methods/ is picked up by itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from bench.contract import IGNORE, Batch, Method, Progress, Stream, Supervision, Task
from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError
from bench.networks.segmenter import Segmenter
from bench.ops.losses import cross_entropy
from bench.ops.teacher import Teacher
from bench.pipeline import run
from bench.plan import plan
from bench.randomness import torch_seeded
from bench.records.logs import read_metrics
from bench.settings import registry
from bench.settings.reading import read_yaml
from bench.settings.schema import BatchSizes, Network, Protocol, RunConfig
from datasets.folder import Folder
from datasets.loaders import StepBatches
from datasets.splits import Split

METHODS = registry.method_names()
STREAMS = ("labeled", "tagged", "unlabeled")
STEPS, SIZE = 6, 32
NETWORK = Network(encoder="tiny", decoder="unet", decoder_channels=16, representation_channels=8)
# Thresholds of 0, so that an untrained teacher's labels count; ranks that three classes have.
SMALL = {"threshold": 0.0, "rank_low": 1}
GARBAGE = b"no image at all"

PRESETS = {path.stem for path in (Path(__file__).parents[2] / "methods").glob("*.yaml")}
pytestmark = pytest.mark.parametrize(
    "name",  # a preset is a method of ours with other defaults: the slow tests try it too
    [pytest.param(name, marks=pytest.mark.slow if name in PRESETS else ()) for name in METHODS],
)
Config = Callable[..., RunConfig]
Terms = dict[str, Tensor]


@pytest.fixture
def tiny_config(tiny_config: Config, name: str) -> Config:
    """On a split that grants what the method needs."""
    tagged = Supervision.TAGS in registry.load_method(name).needs
    return partial(tiny_config, split="few+tags" if tagged else "few")


# Building and stepping ------------------------------------------------------------------------------------


def build(name: str, classes: tuple[str, ...] = ("background", "square", "stripe"), seed: int = 0) -> Method:
    """The method on a small real network."""
    cls = registry.load_method(name)
    knobs = registry.describe_method(name).knobs().model_dump()  # a preset's defaults are not its class's
    knobs |= {key: value for key, value in SMALL.items() if key in knobs}
    with torch_seeded(seed, "init"):
        net = Segmenter(NETWORK, len(classes))
        return cls(net, Task(classes, cross_entropy, background=0), cls.HParams(**knobs)).train()


def batches(data: Folder, name: str) -> StepBatches:
    train = data.ids("train")
    cls = registry.load_method(name)
    tagged = Supervision.TAGS in cls.needs
    tags = {id: (0, *(data.tags(id) or ())) for id in train[4:]} if tagged else None
    others = (train[4:], ()) if tagged else ((), train[4:])
    sizes = BatchSizes(labeled=2, unlabeled=2)
    protocol = Protocol.model_construct(crop=(SIZE, SIZE), resize=(0.75, 1.5), batch=sizes, steps=STEPS)
    return StepBatches(
        data,
        Split(data.name, "some", train[:4], *others, eval=()),
        protocol,
        needs=cls.needs,
        tags=tags,
        seed_of=lambda id: (data.image(id)[..., 0] > 150).astype("uint8"),
        views=cls.views,
        seed=0,
    )


def losses(method: Method, batch: Batch, step: int = 0) -> Terms:
    with torch_seeded(0, "dropout", step):
        return method.losses(batch, Progress(step, STEPS, seed=0))


def backward(method: Method, batch: Batch, step: int = 0) -> Terms:
    """The terms after a backward pass of their sum; gradients of earlier passes are cleared."""
    method.zero_grad(set_to_none=True)
    terms = losses(method, batch, step)
    torch.stack(list(terms.values())).sum().backward()
    return terms


def train(method: Method, data: Folder, name: str, steps: range) -> list[Terms]:
    """What the harness does, with plain SGD."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05)
    seen = []
    for step in steps:
        seen.append(backward(method, batches(data, name)[step], step))
        optimizer.step()
        method.after_step(Progress(step, STEPS, seed=0))
    return seen


def gradients(method: Method) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def teachers(method: Method) -> list[Teacher]:
    return [module for module in method.modules() if isinstance(module, Teacher)]


def with_stream(batch: Batch, name: str, change: Callable[[Stream], Stream]) -> Batch:
    """The batch with one stream changed, where it has that stream."""
    stream = getattr(batch, name)
    return batch if stream is None else replace(batch, **{name: change(stream)})


def changed(batch: Batch, change: Callable[[Stream], Stream]) -> Batch:
    """The batch with all of its streams changed."""
    for name in STREAMS:
        batch = with_stream(batch, name, change)
    return batch


def unboxed(stream: Stream) -> Stream:
    return replace(stream, boxes=tuple(torch.zeros_like(box) for box in stream.boxes))


# Losses and gradients -------------------------------------------------------------------------------------


def test_terms_are_finite_scalars_with_a_graph(name: str, tiny_set: Folder) -> None:
    method = build(name)
    terms = losses(method, batches(tiny_set, name)[0])
    assert terms and ("labeled" in terms or Supervision.PIXEL not in method.needs)
    for term in terms.values():
        assert term.shape == () and term.isfinite() and term.requires_grad
    for note in method.notes.values():
        assert note.shape in ((), (len(method.task.classes),)) and not note.requires_grad
        assert note.isfinite().all()


def test_gradient_reaches_all_of_the_net_and_no_teacher(name: str, tiny_set: Folder) -> None:
    """The representation head is left out: most methods do not use it. Tags tell the encoder and the head of
    the tags alone, masks and unlabeled images do not tell that head."""
    method = build(name)
    left_out = ["representation_head", "projection"]
    left_out += [] if Supervision.TAGS in method.needs else ["classification_head"]
    left_out += ["decoder", "segmentation_head"] if method.needs == {Supervision.TAGS} else []
    backward(method, batches(tiny_set, name)[0])
    for key, parameter in method.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, key
        elif not any(part in key for part in left_out):
            assert parameter.grad is not None and parameter.grad.any(), key
    for teacher in teachers(method):
        assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_every_stream_it_needs_moves_the_net(name: str, tiny_set: Folder) -> None:
    """A stream whose images change nothing in the gradient is not used, though `needs` asks for it."""
    method, batch = build(name), batches(tiny_set, name)[0]
    backward(method, batch)
    whole = gradients(method)

    def ignored(stream: Stream) -> Stream:
        label = None if stream.label is None else torch.full_like(stream.label, IGNORE)
        return replace(stream, label=label, valid=torch.zeros_like(stream.valid))

    for stream in STREAMS:
        if getattr(batch, stream) is not None:
            backward(method, with_stream(batch, stream, ignored))
            assert not equal(whole, gradients(method)), stream


@pytest.mark.parametrize("case", ["all labels ignored", "all unlabeled padding", "both", "one class only"])
def test_survives_batches_without_pixels_or_classes(name: str, case: str, tiny_set: Folder) -> None:
    method = build(name, classes=("background", "square", "stripe", "never", "seen"))
    batch = changed(batches(tiny_set, name)[0], lambda s: replace(s, tags=F.pad(s.tags, (0, 2))))
    label = 0 if case == "one class only" else IGNORE
    if case != "all unlabeled padding":
        batch = with_stream(batch, "labeled", lambda s: replace(s, label=torch.full_like(s.label, label)))
        batch = with_stream(batch, "tagged", lambda s: replace(s, tags=torch.zeros_like(s.tags)))
    if case in ("all unlabeled padding", "both"):
        for stream in ("unlabeled", "tagged"):
            batch = with_stream(batch, stream, lambda s: replace(s, valid=torch.zeros_like(s.valid)))
    terms = backward(method, batch)
    assert all(term.isfinite() for term in terms.values())
    assert all(gradient.isfinite().all() for gradient in gradients(method).values())
    assert not any(note.isinf().any() for note in method.notes.values()), (
        "NaN says that there is no such pixel"
    )
    if case == "both":
        assert not any(gradient.any() for gradient in gradients(method).values())
        assert sum(terms.values()) == 0 or Supervision.TAGS in method.needs  # it has a loss without pixels


def test_ignored_and_padded_pixels_have_no_gradient(name: str, tiny_set: Folder) -> None:
    """Right half: labels 255 and padding, boxes empty. No logit and no activation there may be told
    anything."""
    method, batch = build(name), batches(tiny_set, name)[0]

    def half(stream: Stream) -> Stream:
        valid, label = stream.valid.clone(), stream.label
        valid[..., SIZE // 2 :] = False
        if label is not None:
            label = label.clone()
            label[..., SIZE // 2 :] = IGNORE
        return unboxed(replace(stream, valid=valid, label=label))

    logits: list[Tensor] = []

    def recorded(function: Callable[..., Tensor], *args: Any) -> Tensor:
        logits.append(function(*args))
        if logits[-1].requires_grad:
            logits[-1].retain_grad()
        return logits[-1]

    for function in ("upsample", "activate"):  # all logits of image size, all activations come through here
        setattr(method.net, function, partial(recorded, getattr(method.net, function)))
    backward(method, changed(batch, half))
    told = [one.grad for one in logits if one.grad is not None]
    assert told
    images = sum(len(getattr(batch, s).image) for s in STREAMS if getattr(batch, s))
    assert sum(len(gradient) for gradient in told) >= images
    for gradient in told:
        middle = gradient.shape[-1] // 2
        assert gradient[..., :middle].flatten(1).any(1).all(), "an image without gradient at valid pixels"
        assert not gradient[..., middle:].any()


def test_same_seed_same_bits(name: str, tiny_set: Folder) -> None:
    def once() -> tuple[list[Terms], dict[str, Tensor], dict[str, Tensor]]:
        method = build(name)
        seen = train(method, tiny_set, name, range(3))
        return seen, gradients(method), method.state_dict()

    (terms, gradient, state), (terms_again, gradient_again, state_again) = once(), once()
    assert all(equal(a, b) for a, b in zip(terms, terms_again, strict=True))
    assert equal(gradient, gradient_again)
    assert equal(state, state_again)


class Waits(TorchDispatchMode):
    """Names of the operations whose answer the host must know to go on; on CUDA each of them waits."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
        indices = [i for a in args if isinstance(a, list | tuple) for i in a if isinstance(i, Tensor)]
        by_number = "index" in func.name() and all(index.dtype != torch.bool for index in indices)
        if waits & set(func.tags) and not by_number:
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_a_step_waits_for_nothing(name: str, tiny_set: Folder) -> None:
    method, batch = build(name), batches(tiny_set, name)[0]
    with Waits() as waits:
        backward(method, batch)
        for figure in method.audits.values():
            figure(torch.zeros_like(batch.unlabeled.valid, dtype=torch.int64))
        method.after_step(Progress(0, STEPS, seed=0))
    assert not waits.names
    values = torch.ones(3)
    with Waits() as control:
        assert values.any()
        values[values > 0].nonzero()
        values[torch.tensor([1, 2])].sum()
    assert control.names == ["aten::_local_scalar_dense", "aten::index.Tensor", "aten::nonzero"]


# State ----------------------------------------------------------------------------------------------------


def test_state_dict_is_all_there_is(name: str, tiny_set: Folder) -> None:
    """A second instance loaded from the first one's state goes on exactly as the first does."""
    first, second = build(name), build(name, seed=1)
    train(first, tiny_set, name, range(3))
    assert not equal(first.state_dict(), second.state_dict())
    second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
    went_on = train(first, tiny_set, name, range(3, 5))
    resumed = train(second, tiny_set, name, range(3, 5))
    assert all(equal(a, b) for a, b in zip(went_on, resumed, strict=True))
    assert equal(first.state_dict(), second.state_dict())


def test_teacher_starts_as_the_student_and_trails_it(name: str, tiny_set: Folder) -> None:
    method = build(name)
    if not teachers(method):
        pytest.skip("a method without teacher")
    (teacher,) = teachers(method)
    student = method.net.state_dict
    before = {key: value.clone() for key, value in student().items()}
    train(method, tiny_set, name, range(1))
    assert not equal(before, student())
    assert equal(teacher.module.state_dict(), student())  # the first update copies
    train(method, tiny_set, name, range(1, 3))
    assert not equal(teacher.module.state_dict(), student())
    assert any(p.ne(before[key]).any() for key, p in teacher.module.named_parameters())


def test_teacher_stays_in_eval_mode(name: str) -> None:
    method = build(name)
    method.train()
    assert method.net.training
    for teacher in teachers(method):
        assert not any(module.training for module in teacher.modules())


def test_losses_leave_the_teacher_alone(name: str, tiny_set: Folder) -> None:
    """No pass may change weights or statistics of a teacher: after_step is the place."""
    method = build(name)
    before = [{k: v.clone() for k, v in teacher.state_dict().items()} for teacher in teachers(method)]
    backward(method, batches(tiny_set, name)[0])
    assert all(equal(a, b.state_dict()) for a, b in zip(before, teachers(method), strict=True))


def test_predictor_is_a_module_of_its_own_that_segments(name: str) -> None:
    method = build(name)
    predictor = method.predictor()
    assert isinstance(predictor, nn.Module)
    assert any(module is predictor for module in method.modules())  # else a checkpoint would not hold it
    assert any(isinstance(module, Segmenter) for module in predictor.modules())  # what is exported
    predictor.eval()
    with torch.no_grad():
        logits = predictor(torch.rand(2, 3, 40, 24))
    assert logits.shape == (2, 3, 40, 24) and logits.isfinite().all()


# Labels that were not granted -----------------------------------------------------------------------------


def test_unlabeled_images_come_without_label(name: str, tiny_set: Folder) -> None:
    for step in range(STEPS):
        batch = batches(tiny_set, name)[step]
        assert batch.unlabeled is None or batch.unlabeled.label is None


def test_a_mask_that_was_not_granted_is_never_asked_for(
    name: str, tiny_set: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted, asked = set(tiny_set.ids("train")[:4]), set()
    read = Folder.mask

    def mask(self: Folder, id: str) -> Any:
        assert id in granted, f"{id} was not granted"
        asked.add(id)
        return read(self, id)

    monkeypatch.setattr(Folder, "mask", mask)
    train(build(name), tiny_set, name, range(3))
    assert asked or Supervision.PIXEL not in registry.load_method(name).needs


def poisoned(root: Path, tmp_path: Path, config: RunConfig, granted: bool) -> RunConfig:
    """The configuration on a copy of the data in which the masks (not) granted are no images any more."""
    copy = tmp_path / "poisoned"
    copytree(root, copy)
    split = plan(config).split
    for id in split.pixel if granted else (*split.tags, *split.none):
        (copy / "tinyset" / "labels" / f"{id}.png").write_bytes(GARBAGE)
    return config.model_copy(update={"machine": config.machine.model_copy(update={"data_root": str(copy)})})


def test_a_run_does_not_open_withheld_masks(
    name: str, tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    config = poisoned(tiny_root, tmp_path, tiny_config(name, "protocol.steps=3"), granted=False)
    result = run(plan(config), Display())
    assert result.steps == 3 and result.images["tags"] + result.images["none"] == 12


def test_a_run_opens_the_granted_masks(
    name: str, tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    """The control of the test above: poison is noticed where it is read, in 8 steps by every stream."""
    config = poisoned(tiny_root, tmp_path, tiny_config(name, "protocol.steps=8"), granted=True)
    with pytest.raises(DataError, match="train_0"):
        run(plan(config), Display())


def loose(name: str) -> list[str]:
    """Settings under which an untrained teacher's labels count."""
    has = "threshold" in registry.load_method(name).HParams.model_fields
    return ["method.threshold=0.0"] if has else []


def audited(config: RunConfig, out: str) -> RunConfig:
    """The same run with the withheld masks opened, in another folder."""
    return config.model_copy(
        update={"machine": config.machine.model_copy(update={"audit": True, "out": out})}
    )


def test_an_audit_changes_no_bit(name: str, tiny_config: Config, tmp_path: Path) -> None:
    """Neither the weights nor a figure of the log; it only adds figures."""
    plain = plan(tiny_config(name, "protocol.steps=3", *loose(name)))
    opened = plan(audited(plain.config, str(tmp_path / "opened")))
    assert opened.run_id == plain.run_id
    results = [run(one, Display()) for one in (plain, opened)]
    assert plain.folder.weights.read_bytes() == opened.folder.weights.read_bytes()
    assert results[0].predictor == results[1].predictor
    assert [result.config["machine"]["audit"] for result in results] == [False, True]
    lines, more = read_metrics(plain.folder.metrics), read_metrics(opened.folder.metrics)
    assert len(lines) == len(more) == 3
    for line, longer in zip(lines, more, strict=True):
        assert {key: longer[key] for key in line} == line


def test_losses_see_no_truth(name: str, tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    cls, seen = registry.load_method(name), []
    compute = cls.losses

    def spy(self: Method, batch: Batch, at: Progress) -> Terms:
        seen.append(batch)
        return compute(self, batch, at)

    monkeypatch.setattr(cls, "losses", spy)
    run(plan(audited(tiny_config(name, "protocol.steps=2"), tiny_config(name).machine.out)), Display())
    assert len(seen) == 2 and all(batch.truth is None for batch in seen)
    assert all(batch.unlabeled is None or batch.unlabeled.label is None for batch in seen)


def test_an_audit_opens_the_withheld_masks(
    name: str, tiny_config: Config, tiny_root: Path, tmp_path: Path
) -> None:
    """The control of the tests above: an audit does read. A method without unlabeled images has none."""
    config = poisoned(tiny_root, tmp_path, tiny_config(name, "protocol.steps=3"), granted=False)
    config = audited(config, config.machine.out)
    if Supervision.NONE not in registry.load_method(name).needs:
        assert run(plan(config), Display()).steps == 3
        return
    with pytest.raises(DataError, match=r"train_\d\d.png .*only an audit"):
        run(plan(config), Display())


def test_audits_give_what_notes_take(name: str, tiny_set: Folder) -> None:
    """Of a truth in which nothing is known as well: there is nothing to count then, not an error."""
    method, batch = build(name), batches(tiny_set, name)[0]
    losses(method, batch)
    for truth in (0, 1, IGNORE):
        for key, figure in method.audits.items():
            value = figure(torch.full_like(batch.unlabeled.valid, truth, dtype=torch.int64))
            method.note(key, value)
            assert not value.isinf().any() and (truth == IGNORE or value.isfinite().any()), key


# What is known without importing --------------------------------------------------------------------------


def test_description_from_the_source_is_the_class(name: str) -> None:
    info, cls = registry.describe_method(name), registry.load_method(name)
    assert getattr(importlib.import_module(info.module), info.cls) is cls

    def fields(model: Any) -> dict[str, Any]:
        schema = model.model_json_schema()
        for key in info.preset:
            del schema["properties"][key]["default"]
        return {key: schema.get(key) for key in ("properties", "required", "additionalProperties")}

    preset = registry.METHODS / f"{name}.yaml"
    changed = read_yaml(preset)["knobs"] if preset.exists() else {}
    assert info.preset == changed.keys()
    assert fields(info.knobs) == fields(cls.HParams)
    assert info.knobs().model_dump(mode="json") == cls.HParams().model_dump(mode="json") | changed
    assert info.needs == {str(kind) for kind in cls.needs}
    assert info.version == cls.version
    assert info.summary and not info.summary.startswith("#")


def beyond(bounds: dict[str, Any]) -> list[float]:
    """Values just outside the bounds of a number's JSON schema."""
    outside = []
    if "minimum" in bounds:
        outside.append(bounds["minimum"] - 0.5)
    if "exclusiveMinimum" in bounds:
        outside.append(bounds["exclusiveMinimum"])
    if "maximum" in bounds:
        outside.append(bounds["maximum"] + 0.5)
    if "exclusiveMaximum" in bounds:
        outside.append(bounds["exclusiveMaximum"])
    return outside


def test_knobs_out_of_range_are_refused(name: str, tiny_config: Config) -> None:
    """By the class and, with the key's name, by the command line's way of setting it."""
    cls = registry.load_method(name)
    for key, bounds in cls.HParams.model_json_schema().get("properties", {}).items():
        if bounds.get("type") == "number":
            assert beyond(bounds), f"{key} has no bounds"
        for value in beyond(bounds):
            with pytest.raises(ValidationError):
                cls.HParams(**{key: value})
            with pytest.raises(ConfigError, match=f"method.{key}"):
                tiny_config(name, f"method.{key}={value}")
    if "threshold" in cls.HParams.model_fields:
        with pytest.raises(ValidationError):
            cls.HParams(threshold=1.5)  # type: ignore[call-arg]
    with pytest.raises(BenchError, match="no_such_knob"):
        tiny_config(name, "method.no_such_knob=1")
