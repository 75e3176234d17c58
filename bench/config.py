"""The settings of a run: what they are, their defaults, and which source wins.

The command line beats `--config FILE`, which beats the protocol file, which beats the defaults below. Unknown
keys and mistyped values are errors. Nothing here imports torch, so that `--dry-run` answers at once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    Field,
    SerializationInfo,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from bench.errors import ConfigError, did_you_mean
from bench.knobs import RECORD, Knobs

K = TypeVar("K", bound=Knobs)
PROTOCOLS = Path(__file__).parent / "protocols"
MAP_KNOBS = {"scales", "flip"}  # of CamSeeds; the others work on the maps
SEED_VERSION = 1  # raise it when the same knobs would give other seeds


class Network(Knobs):
    encoder: str  # a timm model name, or "tiny"
    decoder: Literal["deeplabv3plus", "unet", "dpt", "segformer"] = "deeplabv3plus"
    weights: str = (
        "none"  # "none", "package:efficientnet_lite0", "hub", or the path of a .safetensors/.pth file
    )
    output_stride: Literal[8, 16, 32] = 16  # of the encoder, where the decoder lets it be chosen
    decoder_channels: int = Field(256, ge=8)
    representation_channels: int = Field(256, ge=8)

    @property
    def weights_file(self) -> Path | None:
        if self.weights in ("none", "hub") or self.weights.startswith("package:"):
            return None
        return Path(self.weights).expanduser()

    @field_serializer("weights")
    def _weights(self, weights: str, info: SerializationInfo) -> str:
        """What tells one file from another is its digest, which every result has: where it lies does not."""
        return "file" if info.context == RECORD and self.weights_file else weights


class BatchSizes(Knobs):
    labeled: int = Field(8, ge=1)
    unlabeled: int = Field(8, ge=1)


class Optimizer(Knobs):
    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0)  # of the encoder
    head_multiple: float = Field(10.0, gt=0)  # decoder and heads learn at lr * head_multiple
    weight_decay: float = Field(1e-4, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)  # sgd
    betas: tuple[float, float] = (0.9, 0.999)  # adamw


class Schedule(Knobs):
    power: float = Field(0.9, ge=0)  # lr * (1 - step / steps) ** power
    warmup_steps: int = Field(0, ge=0)  # linear from lr / warmup_steps


class LabeledLoss(Knobs):
    name: Literal["cross_entropy", "ohem"] = "cross_entropy"
    ohem_threshold: float = Field(0.7, gt=0, le=1)
    ohem_min_kept: int = Field(100_000, ge=1)


class Evaluation(Knobs):
    mode: Literal["whole", "slide"] = "whole"
    window: tuple[int, int] | None = None  # of "slide"; default: the crop
    stride_share: float = Field(2 / 3, gt=0, le=1)  # window stride as a share of the window
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    every: int = Field(
        0, ge=0
    )  # steps between evaluations for the curve and the oracle column; 0: only at the end


class Protocol(Knobs):
    """What is equal for all methods on a data set."""

    name: str
    network: Network
    crop: tuple[int, int]
    resize: tuple[float, float] = (0.5, 2.0)
    batch: BatchSizes = BatchSizes()
    steps: int = Field(ge=1)
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    clip: float | None = Field(None, gt=0)  # maximum gradient norm
    labeled_loss: LabeledLoss = LabeledLoss()
    evaluation: Evaluation = Evaluation()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    @model_validator(mode="after")
    def _ranges(self) -> Protocol:
        if min(self.crop) < 1:
            raise ValueError("crop must be two positive sizes, height and width")
        if not 0 < self.resize[0] <= self.resize[1]:
            raise ValueError("resize must be two positive factors, the smaller first")
        if not self.evaluation.scales or min(self.evaluation.scales) <= 0:
            raise ValueError("evaluation.scales must be one or more positive factors")
        return self

    @property
    def hash(self) -> str:
        """Eight hex digits; a table never mixes two. The name is not part of it."""
        return _digest(self.record(exclude={"name"}))


class CamSeeds(Knobs):
    """From image tags to CAM seeds: a classifier's activation maps (CAM), thresholds, refinement."""

    protocol: Protocol  # of the classifier's run
    scales: tuple[float, ...] = (1.0, 0.5, 1.5, 2.0)  # of the image (IRN, SEAM)
    flip: Literal["sum", "max", "none"] = "sum"  # how image and mirror image merge: IRN, AFA, no mirror
    normalise: Literal["max", "min-max", "seam"] = "max"  # a class's map to 0..1 (IRN; AFA and ToCo; SEAM)
    background: Literal["constant", "power"] = "constant"  # score of the background, where there is one
    strict: float = Field(0.30, ge=0)  # foreground above it; with "power" its exponent (IRN)
    loose: float = Field(0.05, ge=0)  # background below it, undecided between the two (IRN)
    minimum: float = Field(0.05, ge=0, lt=1)  # without background: a best tag no stronger is undecided ...
    lead: float = Field(0.10, ge=0, lt=1)  # ... and so is one no further ahead of the next tag
    refine: Literal["auto", "crf", "par", "none"] = (
        "auto"  # auto: crf where pydensecrf is installed, else par
    )
    crf: Literal["irn", "psa", "toco", "deeplab"] = "irn"  # published parameters, see bench.ops.crf
    unary: Literal["labels", "softmax"] = "labels"  # what the CRF takes: labels (IRN) or soft scores (PSA)
    half_size: bool = False  # refine at half the size
    # How strict and loose are chosen. fixed: as given. heldout: from the masks of `heldout` tagged images,
    # which count as supervision. oracle: from all of their masks, which no real user has.
    policy: Literal["fixed", "heldout", "oracle"] = "fixed"
    heldout: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _agree(self) -> CamSeeds:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError("scales must be one or more positive factors")
        # A larger exponent is a lower score.
        order = (self.strict, self.loose) if self.background == "constant" else (self.loose, self.strict)
        if order[0] < order[1]:
            raise ValueError(
                f"strict ({self.strict}) and loose ({self.loose}) are the wrong way round: the strict "
                "background score must not be below the loose one"
            )
        if self.policy != "fixed" and self.background == "power":
            raise ValueError(f"policy {self.policy} chooses constant scores; set background to constant")
        if (self.policy == "heldout") != (self.heldout > 0):
            raise ValueError("heldout, a number of images, goes with policy heldout and with no other")
        return self

    def map_id(self, classifier: str) -> str:
        """Eight hex digits of all that decides the maps of a classifier's run, by its id."""
        return _digest({"run": classifier, "maps": self.record(include=MAP_KNOBS)})

    def seed_id(self, classifier: str) -> str:
        """Eight hex digits of all that decides the seeds."""
        rest = self.record(exclude={"protocol", *MAP_KNOBS})
        return _digest({"maps": self.map_id(classifier), "seeds": rest, "version": SEED_VERSION})


DEVICES = "auto, cpu, cuda or cuda:N"


class Machine(Knobs):
    """How and where it runs. None of it may change a result beyond rounding, so none of it is part of the
    run's id."""

    device: str = "auto"  # auto: cuda when there is one
    workers: int = Field(1, ge=0)
    threads: int | None = Field(None, ge=1)  # of torch on the CPU; default: all cores
    compile: bool = False
    deterministic: bool = False  # refuse operations that are not deterministic on CUDA
    data_root: str | None = None
    out: str = "runs"
    log_every: int = Field(20, ge=1)  # steps between log lines
    checkpoint_every: int = Field(100, ge=1)  # steps between checkpoints
    tensorboard: bool = True
    audit: bool = False  # open withheld masks, for health figures only: no loss depends on them

    @field_validator("device")
    @classmethod
    def _is_known(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError(f"unknown device {device!r}; use {DEVICES}.")
        return device


class RunConfig(Knobs):
    dataset: str
    split: str
    seed: int = Field(0, ge=0, le=2**53)  # more is no whole number in every reader of JSON
    method: dict[str, Any]  # "name" and the method's knobs
    protocol: Protocol
    machine: Machine = Machine()
    tags: Literal["given", "shuffled"] = "given"  # shuffled: dealt out anew among the images, as a control
    cam_seeds: CamSeeds | None = None  # None where the split grants no tags

    def run_id(self, method_version: int, input_digests: Mapping[str, str]) -> str:
        """Eight hex digits of all that decides the result: same id, same run.

        `input_digests` are those of the split's lists, of CAM seeds, and of a weights file.
        """
        what = self.record(exclude={"machine": True, "protocol": {"name"}, "cam_seeds": True, "tags": True})
        if self.tags != "given":
            what["tags"] = self.tags
        return _digest({"config": what, "method_version": method_version, "splits": dict(input_digests)})

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


# Reading ----------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number and 1_16 as a name, and refuses a key given twice (plain YAML reads
    text, 116, and lets the last win)."""


def _no_duplicates(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.YAMLError(f"key {', '.join(twice)} stands twice")
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
for _digit in "0123456789":  # before plain YAML's own rule for numbers
    _Loader.yaml_implicit_resolvers[_digit].insert(0, ("tag:yaml.org,2002:str", re.compile(r"^\d+_\d+$")))


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that does not exist
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold keys and values.")
    return data


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """`a.b=value` of `--set`; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: write key=value, for example --set protocol.steps=200")
    try:
        return key.strip().split("."), yaml.load(value, Loader=_Loader)  # noqa: S506
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {key}: cannot read the value {value!r}.") from error


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`, key by key where both hold mappings."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nested(path: Iterable[str], value: Any) -> dict[str, Any]:
    for key in reversed(list(path)):
        value = {key: value}
    return value


def suggest(word: str, known: Iterable[str], what: str) -> str:
    """The sentence for a name that is not known."""
    return f"unknown {what} {word!r}{did_you_mean(word, known)}"


def protocol_names() -> list[str]:
    return sorted(path.stem for path in PROTOCOLS.glob("*.yaml"))


def read_protocol(name: str) -> dict[str, Any]:
    """A protocol file. Its section `knobs` sets, in every method that has a knob of that name, another
    default; its section `cam_seeds` does so for CAM seeds, whose classifier's protocol is the file's own but
    for what it says there."""
    if name not in protocol_names():
        raise ConfigError(suggest(name, protocol_names(), "protocol"))
    return {"name": name, **read_yaml(PROTOCOLS / f"{name}.yaml")}


def validate(model: type[K], data: Mapping[str, Any], prefix: str = "", file: Path | None = None) -> K:
    """`data` as settings of `model`. Raises ConfigError with the key's full name, and the file it stands in
    where that is not the configuration of a run."""
    try:
        # Through JSON: strict about text and numbers, yet a list may stand for a tuple.
        return model.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            where = prefix or file or "configuration"
            raise ConfigError(f"{where}: a value cannot be read ({error}).") from error
        raise ConfigError(_explain(error, model, prefix, file)) from error


def _explain(error: ValidationError, model: type[Knobs], prefix: str, file: Path | None) -> str:
    sentences = []
    for item in error.errors():
        place = [str(part) for part in item["loc"]]
        key = ".".join([*([prefix] if prefix else []), *place]) or ("the file" if file else "configuration")
        if item["type"] == "extra_forbidden":
            sentences.append(suggest(key, _keys(model, prefix), "key"))
        elif item["type"] == "missing":
            sentences.append(f"{key} is missing; " + ("add it." if file else f"give it with --set {key}=..."))
        else:
            message, whole = item["msg"].removeprefix("Value error, "), isinstance(item["input"], dict)
            if whole and item["type"] == "value_error" and (prefix or place):
                sentences.append(f"{key}.{message}")  # what a section refuses as a whole begins with its key
            else:
                sentences.append(f"{key}: {message}" + ("" if whole else f" (given: {item['input']!r})"))
    return "\n".join(f"{file}: {sentence}" if file else sentence for sentence in sentences)


def _keys(model: type[Knobs], prefix: str) -> list[str]:
    keys: list[str] = []
    for name, info in model.model_fields.items():
        key = f"{prefix}.{name}" if prefix else name
        inner = info.annotation
        keys += _keys(inner, key) if isinstance(inner, type) and issubclass(inner, Knobs) else [key]
    return keys


# Resolving --------------------------------------------------------------------------------------------------


def resolve(flags: Mapping[str, Any], config_file: Path | None = None, sets: Iterable[str] = ()) -> RunConfig:
    """The configuration of a run. `flags` are the command line's own options as nested keys, None where not
    given; `sets` are texts `key=value`, which beat them."""
    from bench import registry

    given: dict[str, Any] = read_yaml(config_file) if config_file else {}
    if isinstance(given.get("method"), str):
        given["method"] = {"name": given["method"]}
    if isinstance(given.get("protocol"), str):
        given["protocol"] = {"name": given["protocol"]}
    flags = _without_none(flags)
    inside, asked = given.get("protocol", {}), flags.get("protocol", {}).get("name")
    held = inside.get("name") if isinstance(inside, Mapping) and "network" in inside else None
    if held and asked in protocol_names() and asked != held:
        raise ConfigError(f"{config_file} holds the whole protocol {held!r}; it cannot be run as {asked!r}.")
    given = merge(given, flags)
    for text in sets:
        path, value = parse_assignment(text)
        given = merge(given, nested(path, value))

    given.setdefault("dataset", "shapes")
    given.setdefault("split", "1_16")
    given["split"] = str(given["split"]).replace("/", "_")
    for section in ("method", "protocol"):
        if not isinstance(given.get(section, {}), Mapping):
            raise ConfigError(f"{section} must hold keys, for example {section}.name.")
    name = given.get("method", {}).get("name")
    if not isinstance(name, str):
        raise ConfigError(f"which method? Give --method, one of: {', '.join(registry.method_names())}")

    protocol = given.get("protocol", {})
    base = read_protocol(str(protocol.get("name") or "") or registry.default_protocol(str(given["dataset"])))
    shared, seeds = base.pop("knobs", {}), base.pop("cam_seeds", {})
    given["protocol"] = merge(base, protocol)
    if not isinstance(given.get("cam_seeds") or {}, Mapping):
        raise ConfigError("cam_seeds must hold keys, for example cam_seeds.refine.")
    classifier = {"protocol": {**base, "name": f"{base['name']}_tags"}}
    given["cam_seeds"] = _refined(merge(merge(classifier, seeds), given.get("cam_seeds") or {}))

    method = registry.describe_method(name)
    usual = method.knobs.model_fields.keys() - method.preset
    knobs = {key: value for key, value in shared.items() if key in usual}
    knobs |= {key: value for key, value in given["method"].items() if key != "name"}
    given["method"] = {"name": name, **validate(method.knobs, knobs, "method").model_dump(mode="json")}
    return validate(RunConfig, given)


def _refined(seeds: dict[str, Any]) -> dict[str, Any]:
    """With `refine` settled, so that the settings of a run say what was done."""
    if seeds.get("refine", "auto") == "auto":
        seeds["refine"] = "crf" if importlib.util.find_spec("pydensecrf") else "par"
    return seeds


def _without_none(flags: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        key: _without_none(value) if isinstance(value, Mapping) else value for key, value in flags.items()
    }
    return {key: value for key, value in kept.items() if value is not None and value != {}}
