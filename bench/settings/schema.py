"""The settings of a run: their names, types, ranges and defaults.

Unknown keys and mistyped values are errors. Field names and defaults are hashed into run ids, see
`RunConfig.run_id`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from bench.settings.base import RECORD, Knobs, expanded
from bench.settings.box_seeds import BoxSeeds
from bench.settings.class_weights import ClassWeights
from bench.settings.labeled_loss import GatedCrf, LabeledLoss
from datasets.draws import MOST_DRAWS

# Bounds: far beyond any use, and short of what stalls a machine or overflows a number of torch.
Side = Annotated[int, Field(ge=1, le=8192)]  # pixels
Scale = Annotated[float, Field(ge=0.05, le=8)]  # of an image
Scales = Annotated[tuple[Scale, ...], Field(max_length=20)]
Rate = Annotated[int, Field(ge=1, le=1024)]  # a dilation, or a factor of one
Channels = Annotated[int, Field(ge=8, le=1024)]
Images = Annotated[int, Field(ge=1, le=4096)]  # in a batch
Steps = Annotated[int, Field(ge=1, le=100_000_000)]
StepsOrZero = Annotated[int, Field(ge=0, le=100_000_000)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(min_length=1, max_length=100)]
Place = Annotated[str, Field(min_length=1, max_length=1000)]  # a path

MAP_KNOBS = {"scales", "flip"}  # of CamSeeds; the others work on the maps
COLOUR, MOST_CHANNELS = 3, 16  # channels of an image
SEED_VERSION = 1  # raise it when the same knobs would give other seeds
PROTOCOL_VERSION = 1  # raise it when the same protocol would give other numbers: training, loading, scoring


# The values that all protocols, and all their networks, had before these settings were there. Records and
# digests leave them out, so that both stay as they were. A saved protocol without them has them, whatever its
# file says today.
BEFORE: Mapping[str, Any] = {
    "views": "published",
    "teacher": None,
    "class_weights": "none",
    "dice": 0.0,
    "rare_crops": 0.0,
    "gated_crf": None,
}
SEEDS_BEFORE: Mapping[str, Any] = {"maker": "classifier", "walk": "none", "walk_steps": 32}
NETWORK_BEFORE: Mapping[str, Any] = {
    "align_corners": False,
    "multi_grid": None,
    "low_level_channels": 48,
    "aspp_rates": None,
    "aspp_kernel": 1,
    "dropout": 0.0,
    "channels": COLOUR,
}


def as_before(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a whole protocol, as it was saved, by the settings that were not there yet."""
    network = protocol["network"]
    if isinstance(network, Mapping):
        network = {**NETWORK_BEFORE, **network}
    return {**BEFORE, **protocol, "network": network}


def normalisation_beside(weights: Path) -> Path:
    """mine.safetensors -> mine.normalisation.json"""
    return weights.with_suffix(".normalisation.json")


class Network(Knobs):
    encoder: Name  # a timm model name, or "tiny"
    # deeplabv3plus has separable convolutions; deeplabv3plus_plain is that of the semi-supervised papers.
    decoder: Literal["deeplabv3plus", "deeplabv3plus_plain", "unet", "dpt", "segformer"] = "deeplabv3plus"
    weights: Place = (
        "none"  # "none", "package:efficientnet_lite0", "hub", or the path of a .safetensors/.pth file
    )
    output_stride: Literal[8, 16, 32] = 16  # of the encoder, where the decoder lets it be chosen
    decoder_channels: Channels = 256
    representation_channels: Channels = 256
    align_corners: bool = False  # of bilinear up-sampling, of logits and within deeplabv3plus_plain
    multi_grid: tuple[Rate, Rate, Rate] | None = None  # factors of the last dilations of a ResNet
    # Of deeplabv3plus_plain alone:
    low_level_channels: Channels = 48  # of the features of stride 4, reduced
    aspp_rates: tuple[Rate, Rate, Rate] | None = None  # None: 6, 12, 18, and twice that at output stride 8
    aspp_kernel: Literal[1, 3] = 1  # of the convolution that joins the branches
    dropout: float = Field(0.0, ge=0, lt=1)  # of channels, behind that convolution and the two that fuse
    # Of the images. The first layer of given weights is re-formed for others than three, as timm does it.
    channels: int = Field(COLOUR, ge=1, le=MOST_CHANNELS)

    @model_validator(mode="after")
    def _agree(self) -> Network:
        if self.decoder == "deeplabv3plus_plain":
            return self
        for key in ("low_level_channels", "aspp_rates", "aspp_kernel", "dropout"):
            if getattr(self, key) != NETWORK_BEFORE[key]:
                raise ValueError(
                    f"{key} belongs to the decoder deeplabv3plus_plain, and the decoder is {self.decoder}; "
                    f"set it to {json.dumps(NETWORK_BEFORE[key])}"
                )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        return _without(NETWORK_BEFORE, write(self), info)

    @field_validator("encoder")
    @classmethod
    def _is_a_plain_name(cls, encoder: str) -> str:
        # timm takes "hf-hub:OWNER/NAME" and "local-dir:PATH", in any case, for a place to fetch from.
        if not re.fullmatch(r"[a-z0-9_.+-]+", encoder):
            raise ValueError(
                "must be the plain name of a timm model, such as resnet50, without a source; only "
                "network.weights says where weights come from"
            )
        return encoder

    def least_batch(self, crop: tuple[int, int]) -> int:
        """Count the images that a batch must have to be trained on.

        Two where a layer normalises over the batch what is one pixel of an image: batch norm refuses a single
        value. DeepLabV3+ does so after its pooling, and any network of stride 32 on a crop of 32.
        """
        one_pixel = self.decoder.startswith("deeplabv3plus") or (max(crop) <= 32 and self.decoder != "dpt")
        return 2 if one_pixel else 1

    @property
    def weights_file(self) -> Path | None:
        if self.weights in ("none", "hub") or self.weights.startswith("package:"):
            return None
        return expanded(self.weights)

    @property
    def normalisation_file(self) -> Path | None:
        """NAME.normalisation.json beside NAME.safetensors: {"mean": [...], "std": [...]}, if not timm's."""
        file = self.weights_file
        return normalisation_beside(file) if file else None

    @field_serializer("weights")
    def _weights(self, weights: str, info: SerializationInfo) -> str:
        """Leave out of records where a file lies: what tells it from another is its digest, which every
        result has."""
        return "file" if info.context == RECORD and self.weights_file else weights


class BatchSizes(Knobs):
    labeled: Images = 8
    unlabeled: Images = 8


class Optimizer(Knobs):
    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0, le=100)  # of the encoder
    head_multiple: float = Field(10.0, gt=0, le=1e4)  # decoder and heads learn at lr * head_multiple
    weight_decay: float = Field(1e-4, ge=0, le=10)
    momentum: float = Field(0.9, ge=0, lt=1)  # sgd
    betas: tuple[Beta, Beta] = (0.9, 0.999)  # adamw


class Schedule(Knobs):
    power: float = Field(0.9, ge=0, le=100)  # lr * (1 - step / steps) ** power
    warmup_steps: StepsOrZero = 0  # linear from lr / warmup_steps


class Evaluation(Knobs):
    mode: Literal["whole", "slide"] = "whole"
    window: tuple[Side, Side] | None = None  # of "slide"; default: the crop
    stride_share: float = Field(2 / 3, ge=0.05, le=1)  # window stride as a share of the window
    scales: Scales = (1.0,)
    flip: bool = False
    every: StepsOrZero = 0  # steps between evaluations for curve and oracle column; 0: only at the end


class TeacherRule(Knobs):
    """The moving average of each method's student that the harness keeps, and scores as the headline."""

    decay: float = Field(0.99, ge=0, lt=1)  # how much of it stays in a step
    ramp: bool = True  # a plain mean, until that stays more than `decay`: min(1 - 1 / (step + 1), decay)


class Protocol(Knobs):
    """The settings that are equal for all methods on a data set."""

    name: Name
    network: Network
    crop: tuple[Side, Side]  # height, width
    resize: tuple[Scale, Scale] = (0.5, 2.0)
    batch: BatchSizes = BatchSizes()
    steps: Steps
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    clip: float | None = Field(None, gt=0, le=1e6)  # maximum gradient norm
    labeled_loss: LabeledLoss = LabeledLoss()
    evaluation: Evaluation = Evaluation()
    # fp32 means it: without TF32, whose 10 bits of mantissa are a word of their own (Ampere or later).
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    # equal: labeled images are coloured alike in every method, and every student sees the same strong view
    # and boxes of the unlabeled ones. plain: the same boxes, and nothing is coloured. published: each method
    # has its own.
    views: Literal["published", "equal", "plain"] = "published"
    teacher: TeacherRule | None = None  # None: the headline is what each method names as its predictor
    # Of the classes in the loss on labeled pixels. inverse_sqrt: 1 / sqrt(labeled pixels of the class), with
    # a mean of 1 over the classes that occur; numbers: one a class, in the order of their ids.
    class_weights: ClassWeights = "none"
    dice: float = Field(0.0, ge=0, le=1e6)  # weight of a soft Dice term, added to the loss on labeled pixels
    # How likely a labeled crop is drawn again until it holds the rarest class of its image, where that is
    # among the rarer half of the classes.
    rare_crops: float = Field(0.0, ge=0, le=1)
    gated_crf: GatedCrf | None = None  # on images with sparse labels

    @model_validator(mode="after")
    def _ranges(self) -> Protocol:
        if self.resize[0] > self.resize[1]:
            raise ValueError("resize must be two factors, the smaller first")
        if not self.evaluation.scales:
            raise ValueError("evaluation.scales must be one or more factors")
        return self

    @property
    def hash(self) -> str:
        """Eight hex digits; a table never mixes two. The name is not part of it."""
        return _digest({**self.record(exclude={"name"}), **_later_version()})

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        return _without(BEFORE, write(self), info)


class CamSeeds(Knobs):
    """From image tags to CAM seeds: a classifier's activation maps (CAM), thresholds, refinement."""

    protocol: Protocol  # of the classifier's run
    maker: Literal["classifier", "puzzle"] = "classifier"  # the method whose maps they are made of
    walk: Literal["none", "image"] = "none"  # spreads the maps over places of one colour, see bench.ops.walk
    walk_steps: int = Field(32, ge=1, le=10_000)  # of it (PSA: 256)
    scales: Scales = (1.0, 0.5, 1.5, 2.0)  # of the image (IRN, SEAM)
    flip: Literal["sum", "max", "none"] = "sum"  # how image and mirror image merge: IRN, AFA, no mirror
    normalise: Literal["max", "min-max", "seam"] = "max"  # a class's map to 0..1 (IRN; AFA and ToCo; SEAM)
    background: Literal["constant", "power"] = "constant"  # score of the background, where there is one
    strict: float = Field(0.30, ge=0, le=100)  # foreground above it; with "power" its exponent (IRN)
    loose: float = Field(0.05, ge=0, le=100)  # background below it, undecided between the two (IRN)
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
    heldout: int = Field(0, ge=0, le=1_000_000)

    @model_validator(mode="after")
    def _agree(self) -> CamSeeds:
        if not self.scales:
            raise ValueError("scales must be one or more factors")
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

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        return _without(SEEDS_BEFORE, write(self), info)

    def map_id(self, classifier: str) -> str:
        """Eight hex digits of all that decides the maps of a classifier's run, by its id."""
        return _digest({"run": classifier, "maps": self.record(include=MAP_KNOBS)})

    def seed_id(self, classifier: str) -> str:
        """Eight hex digits of all that decides the seeds."""
        rest = self.record(exclude={"protocol", "maker", *MAP_KNOBS})
        return _digest({"maps": self.map_id(classifier), "seeds": rest, "version": SEED_VERSION})


DEVICES = "auto, cpu, cuda or cuda:N"


class Machine(Knobs):
    """How and where it runs. None of it may change a result beyond rounding, so none of it is part of the
    run's id."""

    device: str = "auto"  # auto: cuda when there is one
    workers: int = Field(1, ge=0, le=256)
    threads: int | None = Field(
        None, ge=1, le=512
    )  # of torch on the CPU; default: the cores but for one a worker
    compile: bool = False
    deterministic: bool = False  # on CUDA: the same bits each time, and slower
    data_root: Place | None = None
    out: Place = "runs"
    log_every: Steps = 20  # steps between log lines
    checkpoint_minutes: float = Field(5.0, gt=0, le=1e6)  # between checkpoints, at most
    checkpoint_every: Steps | None = None  # steps between checkpoints; None: by minutes alone
    tensorboard: bool = True
    audit: bool = False  # open withheld masks, for health figures only: no loss depends on them
    samples: int = Field(8, ge=0, le=1000)  # scored images whose pictures are kept, for the report
    share_warmup: bool = True  # take the warm-up that another run of the seed has trained alike

    @property
    def runs(self) -> Path:
        """The folder of all runs."""
        return expanded(self.out)

    @field_validator("device")
    @classmethod
    def _is_known(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise ValueError(f"unknown device {device!r}; use {DEVICES}.")
        return device


USUAL = (("draw", 0), ("scored", "eval"), ("box_seeds", BoxSeeds().model_dump(mode="json")))


class RunConfig(Knobs):
    dataset: Name
    split: Name
    seed: int = Field(0, ge=0, le=2**53)  # more is no whole number in every reader of JSON
    method: dict[str, Any]  # "name" and the method's knobs
    protocol: Protocol
    machine: Machine = Machine()
    tags: Literal["given", "shuffled"] = "given"  # shuffled: dealt out anew among the images, as a control
    cam_seeds: CamSeeds | None = None  # None where the split grants no tags
    box_seeds: BoxSeeds = BoxSeeds()  # of images that are granted boxes
    draw: int = Field(0, ge=0, le=MOST_DRAWS)  # which images the split labels
    scored: Literal["eval", "heldout"] = "eval"  # the list that is scored; settings are chosen on heldout

    @field_validator("scored", mode="before")
    @classmethod
    def _by_its_file(cls, scored: Any) -> Any:
        # The file of a held-out list is mostly val.txt, see datasets/folder.py.
        return "heldout" if scored == "val" else scored

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Leave the default out of records and digests, so that they stay what they were before draws."""
        said: dict[str, Any] = write(self)
        if info.context != RECORD:
            return said
        return {key: value for key, value in said.items() if (key, value) not in USUAL}

    def run_id(self, method_version: int, input_digests: Mapping[str, str]) -> str:
        """Eight hex digits of all that decides the result: same id, same run.

        `input_digests` are those of the split's lists, of CAM seeds, seeds of boxes, and a weights file.
        """
        left_out = {"machine": True, "protocol": {"name"}, "cam_seeds": True, "box_seeds": True, "tags": True}
        what = self.record(exclude=left_out)
        if self.tags != "given":
            what["tags"] = self.tags
        what["protocol"] |= _later_version()
        return _digest({"config": what, "method_version": method_version, "splits": dict(input_digests)})

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _later_version() -> dict[str, int]:
    """Return what joins a protocol's settings in digests, e.g. `{"version": 2}`: nothing in the first
    version, whose ids stay."""
    return {"version": PROTOCOL_VERSION} if PROTOCOL_VERSION > 1 else {}


def _without(before: Mapping[str, Any], said: dict[str, Any], info: SerializationInfo) -> dict[str, Any]:
    """Return what a record says: not what is as it was before there was a choice."""
    if info.context != RECORD:
        return said
    return {key: value for key, value in said.items() if key not in before or value != before[key]}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
