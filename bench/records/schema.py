"""The schemas of result.json and of the files beside it: fields, units, ranges; refuses damaged ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    Field,
    field_validator,
    model_validator,
)

from bench.labels import LABEL_SECONDS
from bench.records.sealed import Grown, Sealed, SealedRecord, read_record

Share = Annotated[float, Field(ge=0, le=1 + 1e-6)]  # a mean of ones may round to more
SHARES = ("share_", "gradient_share/")  # how the figures begin that a result keeps as its health
Amount = Annotated[float, Field(ge=0, le=1e12)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class Contents(Grown):
    """All that a run was made of, as SHA-256: equal digests, equal content. None: there is none, or not
    known."""

    NEW: ClassVar[frozenset[str]] = frozenset({"labels", "box_seeds"})

    code: dict[str, str]  # by room: "methods" is the method and what it inherits from, "bench/training", ...
    images: str  # those that the run learns from; of each its id and content
    masks: str  # as granted, and those that a policy of CAM seeds opens
    scored: str  # images and masks of the scored list
    classes: str  # their names, in order, and which is background
    tags: str | None = None  # as granted, or as a control has shuffled them
    encoder: str | None = None  # file of the encoder's weights
    maps: str | None = None  # of the CAM seeds
    seeds: str | None = None
    box_seeds: str | None = None  # made of the boxes that the split grants
    labels: str | None = None  # pseudo-labels of an earlier round
    weights: str | None = None  # weights.safetensors of the run; of CAM seeds, those of their classifier
    # What had changed when the run went on all the same (--anyway): the number is of both.
    anyway: list[str] = Field(default_factory=list)

    @property
    def data(self) -> str:
        """Eight hex digits of all that was read: runs of one method on one split are of the same data where
        they agree."""
        return _short([self.images, self.masks, self.scored, self.classes, self.tags])

    @property
    def truth(self) -> str:
        """Eight hex digits of what was scored: the numbers of two methods stand side by side where they
        agree."""
        return _short([self.scored, self.classes])

    @property
    def program(self) -> str:
        """Eight hex digits of the code of all rooms."""
        return _short(self.code)


def _short(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


class Score(SealedRecord):
    """Scores of one module over the scored list. Shares are 0..1."""

    miou: Share
    classes_averaged: Count  # classes that the scored truth holds: the denominator of miou
    iou: list[Share | None]  # one per class; None where no scored mask holds the class
    pixel_accuracy: Share


class Point(SealedRecord):
    """One evaluation of the headline's module during training."""

    step: Count
    miou: Share


class _Network(BaseModel):
    encoder: str | None = None
    decoder: str | None = None
    output_stride: int | None = None


class _Batch(BaseModel):
    labeled: Count
    unlabeled: Count


class _Protocol(BaseModel):
    network: _Network = _Network()
    batch: _Batch | None = None
    crop: list[int] = []


class _Seeds(BaseModel):
    protocol: _Protocol = _Protocol()


class _Config(BaseModel):
    """The part of a run's settings that is read; the rest may be of any version."""

    method: dict[str, Any] = {}
    protocol: _Protocol = _Protocol()
    cam_seeds: _Seeds | None = None
    tags: str = "given"


class SeedCost(SealedRecord):
    """The cost of the CAM seeds of a run before it; all weak runs of a seed share them."""

    classifier_seconds: Amount  # of its training
    classifier_peak_memory_mib: Amount
    map_seconds: Amount
    map_peak_memory_mib: Amount | None = None  # None where the maps were there already
    refine_core_seconds: Amount


class RoundCost(SealedRecord):
    """The cost of all that came before the last round of a run: the run that labels, and its labels."""

    labeler_seconds: Amount  # of its training
    labeler_peak_memory_mib: Amount
    label_seconds: Amount


class Result(Sealed):
    """result.json: one finished run."""

    NEW: ClassVar[frozenset[str]] = Sealed.NEW | {
        *("contents", "own", "files", "draw", "scored", "shared_seconds", "seed_cost", "health"),
        *("passes", "rounds"),
    }

    schema_version: Literal[1] = 1
    run_id: str
    dataset: str
    split: str
    method: str
    method_version: Count
    seed: Count
    draw: Count = 0  # which images the split labels
    scored: Literal["eval", "heldout"] = "eval"  # the list of the scores
    protocol: str
    protocol_hash: str  # a table never mixes two of these
    steps: Count
    # Ids that the split grants "pixel", "tags", "none", and each kind of sparse labels where there are any;
    # "eval": scored; "opened": whose masks a policy of CAM seeds has read.
    images: dict[str, Count]
    classes: Annotated[list[str], Field(min_length=1)]
    student: Score
    # The headline: last weights of the protocol's teacher where it has one (`own` is there then), else of the
    # module that the method names as its predictor.
    predictor: Score
    own: Score | None = None  # the module that the method names, where the headline is the protocol's teacher
    curve: list[
        Point
    ]  # evaluations during training, the last weights included; its maximum is the oracle column
    train_seconds: Amount
    shared_seconds: Amount | None = None  # of them, those of a warm-up that another run has trained
    eval_seconds: Amount
    peak_memory_mib: Amount
    split_digests: dict[str, str]
    weights_digest: str | None
    config: dict[str, Any]  # resolved, without the paths of the machine
    # What the data set says it takes to label one image, by the kind of label. Records from before this field
    # have the default.
    label_seconds: dict[str, Amount] = Field(default_factory=lambda: dict(LABEL_SECONDS))
    contents: Contents | None = None  # None in records from before this field
    seed_cost: SeedCost | None = None  # None without CAM seeds, and in records from before this field
    # Means behind the warm-up: "gradient_share/contrast", of a term on encoder and decoder,
    # "share_unlabeled", of a step's new negative keys. None where there are none.
    health: dict[str, Share] | None = None
    # Images that a step sends through networks, as the method says: "trained" with a gradient, "read" without
    # one. None where it does not say, and in records from before this field.
    passes: dict[Literal["trained", "read"], Count] | None = None
    rounds: RoundCost | None = None  # None without rounds
    # SHA-256 of the files beside it as they were when the run was done, by name, as `file_digest` gives it.
    # None in records from before this field.
    files: dict[str, str] | None = None

    @property
    def whole_seconds(self) -> float | None:
        """Of training, with earlier rounds, and with the classifier and the maps of the CAM seeds it learned
        from; None where these are not recorded."""
        rounds = self.rounds
        own = self.train_seconds + (rounds.labeler_seconds + rounds.label_seconds if rounds else 0.0)
        if self.config.get("cam_seeds") is None:
            return own
        of = self.seed_cost
        return None if of is None else own + of.classifier_seconds + of.map_seconds

    @property
    def whole_peak_mib(self) -> float:
        """The largest peak of all that `whole_seconds` counts, as far as it is recorded."""
        of = self.seed_cost
        before = (of.classifier_peak_memory_mib, of.map_peak_memory_mib or 0.0) if of else ()
        return max(
            [self.peak_memory_mib, *before, *([self.rounds.labeler_peak_memory_mib] if self.rounds else ())]
        )

    @property
    def drawn_split(self) -> str:
        """The split in words: "1_16", or "1_16, draw 1"."""
        return f"{self.split}, draw {self.draw}" if self.draw else self.split

    def file_digest(self, file: Path) -> str | None:
        """As the run has recorded it; None for a file, or a record, of which it has none."""
        return (self.files or {}).get(file.name)

    @property
    def weights_file_digest(self) -> str | None:
        """SHA-256 of the run's weights.safetensors; None in records from before it was kept."""
        return self.contents.weights if self.contents else None

    @field_validator("config")
    @classmethod
    def _config_is_read(cls, config: dict[str, Any]) -> dict[str, Any]:
        _Config.model_validate(config)
        return config

    @model_validator(mode="after")
    def _classes_are_scored(self) -> Self:
        scores = [self.student, self.predictor, *([self.own] if self.own else [])]
        if any(len(score.iou) != len(self.classes) for score in scores):
            raise ValueError(f"{len(self.classes)} classes need as many values of iou")
        return self


class Rescored(Grown):
    """A number of a finished run whose predictor was scored again."""

    NEW: ClassVar[frozenset[str]] = frozenset({"code", "weights", "scored"})

    name: Literal["multi_scale", "crf"]
    scales: tuple[float, ...]
    flip: bool
    crf: str | None  # of "crf": name of the parameters
    half_size: bool  # of "crf": whether it ran at half the size
    score: Score
    seconds: Amount  # of the pass over the images, which gives both numbers
    # What it was made of, as `Contents` has it; None in entries from before these fields.
    code: dict[str, str] | None = None
    weights: str | None = None
    scored: str | None = None

    @model_validator(mode="after")
    def _crf_has_parameters(self) -> Self:
        if (self.name == "crf") != (self.crf is not None):
            raise ValueError("crf, the name of its parameters, goes with the entry crf and with no other")
        return self

    @property
    def setting(self) -> tuple[Any, ...]:
        """The settings that tell the numbers of a run apart, and that must be equal where runs are
        averaged."""
        return self.name, self.scales, self.flip, self.crf, self.half_size


class Scores(Sealed):
    """scores.json: no two entries have the same setting. The raw number is the result's predictor."""

    schema_version: Literal[1] = 1
    entries: list[Rescored]


class Git(BaseModel):
    commit: str | None = None
    dirty: bool = True  # files that no commit holds; assumed where the record does not say


class Torch(BaseModel):
    threads: int | None = None
    capability: str | None = None  # of the CPU, as torch uses it: "AVX512"
    gpus: list[str] = []


class Cpu(BaseModel):
    model: str = ""


class Start(BaseModel):
    """The part of an entry of provenance.json that is read; the rest may be of any version."""

    time: str = ""
    command: str = ""
    python: str | None = None
    versions: dict[str, str | None] = {}
    cpu: Cpu = Cpu()
    torch: Torch | None = None
    git: Git | None = None  # None outside a checkout

    @property
    def commit(self) -> str | None:
        return self.git.commit if self.git else None


class SeedReport(Sealed):
    """seeds.json: how the CAM seeds of a split were made. It needs no mask, but for a policy that says so."""

    NEW: ClassVar[frozenset[str]] = Sealed.NEW | {"contents", "map_peak_memory_mib"}

    schema_version: Literal[1] = 1
    seed_id: str
    classifier: str  # run id
    images: int
    tags: int  # tags of all images, background not counted
    dead_tags: int  # whose map is positive nowhere, so that no pixel can be theirs
    untagged: int  # images without any tag
    decided: Share  # of the pixels
    class_pixels: list[int]  # seed pixels of each class
    strict: float  # as used: chosen by the policy, where it is not "fixed"
    loose: float
    opened: list[str]  # ids whose masks the policy has read
    map_seconds: Amount  # of the network, for all images; in older reports for those of the last start
    map_peak_memory_mib: Amount | None = None  # None where the last start has made no map
    refine_core_seconds: Amount  # of thresholds and refinement, summed over the processes
    settings: dict[str, Any]
    contents: Contents | None = None  # None in reports from before this field


class Listing(Sealed):
    """contents.json: what lies behind the digests of a run or of CAM seeds, to say which file changed."""

    schema_version: Literal[1] = 1
    contents: Contents
    # The start of each file's digest, by part of the contents: "images", "masks", "scored", "code bench/ops".
    files: dict[str, dict[str, str]] = Field(default_factory=dict)


class CurvePoint(SealedRecord):
    """Seeds by one threshold, without refinement. Shares 0..1; means over the classes that occur."""

    threshold: Amount
    miou: Share
    precision: Share
    recall: Share
    coverage: Share


class SeedQuality(Sealed):
    """quality.json: CAM seeds against the masks of the tagged images, opened for this alone. Shares 0..1."""

    NEW: ClassVar[frozenset[str]] = Sealed.NEW | {"of"}

    schema_version: Literal[1] = 1
    seed_id: str
    images: int
    classes: list[str]
    miou: Share  # undecided pixels count as not found
    miou_decided: Share  # over the decided pixels alone, as many published tables have it
    coverage: Share  # share of pixels that are decided
    iou: list[Share | None]  # per class, as the next three; None where there is nothing to count
    precision: list[Share | None]
    recall: list[Share | None]
    class_coverage: list[Share | None]
    miou_of_spread_tags: Share  # if each pixel had one of its image's classes at random
    curve: list[CurvePoint]
    counts: list[list[int]]  # truth in rows; the last column is undecided
    of: str | None = None  # digest of the seeds, maps, masks and classes; None from before this field


def read_result(path: Path) -> Result:
    return read_record(Result, path, "move it away and run it again.")


def read_scores(path: Path) -> Scores:
    return read_record(Scores, path, "move it away and run `score` again.")
