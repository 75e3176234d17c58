"""The results schema and the file names under runs/. Nothing else knows them.

runs/<dataset>/<split>/<method>/<seed>-<id>/
    config.yaml          the resolved configuration
    provenance.json      how it was made: versions, hardware, commit, one entry per start
    metrics.jsonl        one line per logging step and per evaluation
    tensorboard/         the same as curves
    checkpoint.pt        all that a bit-exact resume needs
    counts.npz           per-image confusion counts of every scored module
    weights.safetensors  the scored module
    result.json          written last: its presence means "done"
    scores.json          the same weights scored again: multi-scale + flip, and with the dense CRF on top
    sweep.log            what the run said on stderr, where a sweep started it
    sheet.png            a picture sheet, where one was asked for

runs/<dataset>/<split>/cam_seeds/<seed>-<id of maps>/
    maps/<id>.npz        activation maps of an image's tags
    <id of seeds>/       seeds/<id>.png, seeds.json (written last: "done"), quality.json
"""

from __future__ import annotations

import fcntl
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import DataError, InUse
from bench.files import write_atomic

if TYPE_CHECKING:
    import numpy as np


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(Record):
    """Scores of one module over the scored list. Shares are 0..1."""

    miou: float
    classes_averaged: int  # classes that occur in the truth or the prediction: the denominator of miou
    iou: list[float | None]  # one per class; None where the class occurs in neither
    pixel_accuracy: float


class Point(Record):
    """One evaluation of the predictor during training."""

    step: int
    miou: float


class Result(Record):
    """result.json: one finished run."""

    schema_version: Literal[1] = 1
    run_id: str
    dataset: str
    split: str
    method: str
    method_version: int
    seed: int
    protocol: str
    protocol_hash: str  # a table never mixes two of these
    steps: int
    # Ids that the split grants "pixel", "tags", "none"; "eval": scored; "opened": whose masks a policy of CAM
    # seeds has read.
    images: dict[str, int]
    classes: list[str]
    student: Score
    predictor: Score  # the headline: last weights of the module that the method names as its predictor
    curve: list[
        Point
    ]  # evaluations during training, the last weights included; its maximum is the oracle column
    train_seconds: float
    eval_seconds: float
    peak_memory_mib: float
    split_digests: dict[str, str]
    weights_digest: str | None
    config: dict[str, Any]  # resolved, without the paths of the machine


class Rescored(Record):
    """A number of a finished run whose predictor was scored again."""

    name: Literal["multi_scale", "crf"]
    scales: tuple[float, ...]
    flip: bool
    crf: str | None  # of "crf": name of the parameters
    half_size: bool  # of "crf": whether it ran at half the size
    score: Score
    seconds: float  # of the pass over the images, which gives both numbers

    @property
    def setting(self) -> tuple[Any, ...]:
        """What tells the numbers of a run apart, and what must be equal where runs are averaged."""
        return self.name, self.scales, self.flip, self.crf, self.half_size


class Scores(Record):
    """scores.json: no two entries have the same setting. The raw number is the result's predictor."""

    schema_version: Literal[1] = 1
    entries: list[Rescored]


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.provenance = path / "provenance.json"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.checkpoint = path / "checkpoint.pt"
        self.counts = path / "counts.npz"
        self.weights = path / "weights.safetensors"
        self.result = path / "result.json"
        self.scores = path / "scores.json"
        self.sweep_log = path / "sweep.log"
        self.sheet = path / "sheet.png"
        self._lock = path / ".lock"

    @classmethod
    def of(cls, root: Path, dataset: str, split: str, method: str, seed: int, run_id: str) -> RunFolder:
        return cls(root / dataset / split / method / f"{seed}-{run_id}")

    @property
    def root(self) -> Path:
        """The folder of all runs that holds this one: what `of` was given."""
        return self.path.resolve().parents[3]

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder for this process; a second process is refused. The lock dies with its holder."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self._lock, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InUse(f"{self.path} is in use by another process; wait for it or stop it.") from error
            for torn in self.path.glob(".*.tmp"):  # of a process killed while it wrote
                torn.unlink()
            yield

    def in_use(self) -> bool:
        """Whether another process holds the folder. By the time of the answer that may have changed."""
        if not self._lock.exists():
            return False
        with open(self._lock) as lock:
            try:
                fcntl.flock(
                    lock, fcntl.LOCK_SH | fcntl.LOCK_NB
                )  # shared: two that look do not see each other
            except OSError:
                return True
        return False

    def clear(self) -> None:
        """Remove what an earlier start has left."""
        made = (
            self.result,
            self.scores,
            self.provenance,
            self.metrics,
            self.counts,
            self.weights,
            self.sheet,
        )
        for path in made:
            path.unlink(missing_ok=True)
        for path in self.path.glob(f"{self.checkpoint.name}*"):
            path.unlink()
        shutil.rmtree(self.tensorboard, ignore_errors=True)

    def read_result(self) -> Result | None:
        return read_result(self.result) if self.result.exists() else None

    def write_result(self, result: Result) -> None:
        write_atomic(self.result, (result.model_dump_json(indent=1) + "\n").encode())

    def read_scores(self) -> Scores:
        """The numbers of `score`; no entries without the file."""
        return read_scores(self.scores) if self.scores.exists() else Scores(entries=[])

    def write_scores(self, scores: Scores) -> None:
        write_atomic(self.scores, (scores.model_dump_json(indent=1) + "\n").encode())

    def write_counts(self, ids: Sequence[str], counts: Mapping[str, np.ndarray]) -> None:
        import numpy as np  # here, because commands that train nothing read this file's schema too

        buffer = io.BytesIO()
        np.savez_compressed(buffer, ids=np.array(ids), **counts)  # type: ignore[arg-type]
        write_atomic(self.counts, buffer.getvalue())

    def seed_reports(self, seed: int) -> list[SeedReport]:
        """How the CAM seeds were made that lie beside this run, for its split and this seed of its draws."""
        place = self.path.resolve().parents[1] / "cam_seeds"
        found = sorted(place.glob(f"{seed}-*/*/seeds.json"))
        return [SeedReport.model_validate_json(path.read_bytes()) for path in found]

    def read_provenance(self) -> list[dict[str, Any]]:
        return json.loads(self.provenance.read_text()) if self.provenance.exists() else []

    def add_provenance(self, entry: dict[str, Any]) -> None:
        entries = [*self.read_provenance(), entry]
        write_atomic(self.provenance, (json.dumps(entries, indent=1) + "\n").encode())


class SeedReport(Record):
    """seeds.json: how the CAM seeds of a split were made. It needs no mask, but for a policy that says so."""

    schema_version: Literal[1] = 1
    seed_id: str
    classifier: str  # run id
    images: int
    tags: int  # tags of all images, background not counted
    dead_tags: int  # whose map is positive nowhere, so that no pixel can be theirs
    untagged: int  # images without any tag
    decided: float  # share of pixels, 0..1
    class_pixels: list[int]  # seed pixels of each class
    strict: float  # as used: chosen by the policy, where it is not "fixed"
    loose: float
    opened: list[str]  # ids whose masks the policy has read
    map_seconds: float  # of the network, for all images made in the last start
    refine_core_seconds: float  # of thresholds and refinement, summed over the processes
    settings: dict[str, Any]


class CurvePoint(Record):
    """Seeds by one threshold, without refinement. Shares 0..1; means over the classes that occur."""

    threshold: float
    miou: float
    precision: float
    recall: float
    coverage: float


class SeedQuality(Record):
    """quality.json: CAM seeds against the masks of the tagged images, opened for this alone. Shares 0..1."""

    schema_version: Literal[1] = 1
    seed_id: str
    images: int
    classes: list[str]
    miou: float  # undecided pixels count as not found
    miou_decided: float  # over the decided pixels alone, as many published tables have it
    coverage: float  # share of pixels that are decided
    iou: list[float | None]  # per class, as the next three; None where there is nothing to count
    precision: list[float | None]
    recall: list[float | None]
    class_coverage: list[float | None]
    miou_of_spread_tags: float  # if each pixel had one of its image's classes at random
    curve: list[CurvePoint]
    counts: list[list[int]]  # truth in rows; the last column is undecided


class SeedFolder:
    """The files of CAM seeds: maps, which several settings share, and seeds."""

    def __init__(self, path: Path, seed_id: str) -> None:
        self.path, self.seed_id = path, seed_id
        self.report = path / seed_id / "seeds.json"
        self.quality = path / seed_id / "quality.json"

    @classmethod
    def of(cls, root: Path, dataset: str, split: str, seed: int, map_id: str, seed_id: str) -> SeedFolder:
        return cls(root / dataset / split / "cam_seeds" / f"{seed}-{map_id}", seed_id)

    def map(self, id: str) -> Path:
        return self.path / "maps" / f"{id}.npz"

    def seed(self, id: str) -> Path:
        return self.path / self.seed_id / "seeds" / f"{id}.png"

    def read_report(self) -> SeedReport | None:
        return SeedReport.model_validate_json(self.report.read_bytes()) if self.report.exists() else None

    def read_quality(self) -> SeedQuality | None:
        return SeedQuality.model_validate_json(self.quality.read_bytes()) if self.quality.exists() else None

    @contextmanager
    def claimed(self, wait: Callable[[], None]) -> Iterator[None]:
        """Hold the folder for this process. While another process holds it, `wait` is called again and
        again."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    wait()
            for torn in self.path.rglob(".*.tmp"):  # of a process killed while it wrote
                torn.unlink()
            yield


def read_result(path: Path) -> Result:
    try:
        return Result.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path} is not a result of this version ({where}: {first['msg']}); move it away or run it again."
        ) from error


def read_scores(path: Path) -> Scores:
    try:
        return Scores.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path} holds no scores of this version ({where}: {first['msg']}); move it away and run `score` "
            "again."
        ) from error


def read_results(*roots: Path) -> list[Result]:
    """All finished runs below the folders, sorted by path; interrupted runs have no result.json and are left
    out."""
    return list(find_results(*roots).values())


def find_results(*roots: Path) -> dict[Path, Result]:
    """What `read_results` gives, by the folder of the run."""
    found: dict[Path, Result] = {}
    for root in roots:
        if not root.is_dir():
            raise DataError(f"no folder {root}; give the folder that holds the runs.")
        for path in sorted(root.rglob("result.json")):
            found.setdefault(path.resolve().parent, read_result(path))
    return found


def find_unfinished(*roots: Path) -> list[Path]:
    """Folders of runs below the folders that were begun and have no result, sorted by path."""
    begun = ("config.yaml", "provenance.json", "metrics.jsonl", "checkpoint.pt")
    found = {path.resolve().parent for root in roots for name in begun for path in root.rglob(name)}
    return sorted(path for path in found if not RunFolder(path).result.exists())


def metrics_torn(path: Path) -> bool:
    """Whether `read_metrics` leaves out a last line that a kill has torn."""
    return path.exists() and len(read_metrics(path)) < len(path.read_text().splitlines())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, [] without the file. A last line torn by a kill is left out.

    Raises DataError where another line is no JSON object with a step.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            line["step"] + 0
        except (ValueError, KeyError, TypeError) as error:
            if number < len(lines):
                raise DataError(f"{path}, line {number} is damaged; move the file away.") from error
        else:
            found.append(line)
    return found


def read_counts(path: Path) -> dict[str, np.ndarray]:
    """counts.npz: "ids" (N) and, per scored module, N C C confusion counts (truth in rows)."""
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
