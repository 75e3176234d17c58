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
    failure.txt          why the last start by a sweep failed; the next start removes it
    sheet.png            a picture sheet, where one was asked for

runs/<dataset>/<split>/cam_seeds/<seed>-<id of maps>/
    maps/<id>.npz        activation maps of an image's tags
    <id of seeds>/       seeds/<id>.png, seeds.json (written last: "done"), quality.json

A folder of records holds what is kept of finished runs:

<records>/<dataset>.jsonl    one result a line, by split, method, seed and run id
<records>/<dataset>/...      as under runs/: the log, counts, provenance and scores of each run, and what is
                             said of its CAM seeds; no result.json
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TextIO, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bench.errors import DataError, InUse
from bench.files import write_atomic

if TYPE_CHECKING:
    import numpy as np


# Seconds to label an image of VOC 2012 by a mask and by its classes, rounded (Bearman et al., 2016): what is
# taken where a data set says nothing else.
LABEL_SECONDS: Final = {"pixel": 240.0, "tags": 20.0}


Share = Annotated[float, Field(ge=0, le=1 + 1e-6)]  # a mean of ones may round to more
Amount = Annotated[float, Field(ge=0, le=1e12)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Score(Record):
    """Scores of one module over the scored list. Shares are 0..1."""

    miou: Share
    classes_averaged: Count  # classes that occur in the truth or the prediction: the denominator of miou
    iou: list[Share | None]  # one per class; None where the class occurs in neither
    pixel_accuracy: Share


class Point(Record):
    """One evaluation of the predictor during training."""

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
    """What is read of the settings of a run; the rest may be of any version."""

    method: dict[str, Any] = {}
    protocol: _Protocol = _Protocol()
    cam_seeds: _Seeds | None = None
    tags: str = "given"


class Result(Record):
    """result.json: one finished run."""

    schema_version: Literal[1] = 1
    run_id: str
    dataset: str
    split: str
    method: str
    method_version: Count
    seed: Count
    protocol: str
    protocol_hash: str  # a table never mixes two of these
    steps: Count
    # Ids that the split grants "pixel", "tags", "none"; "eval": scored; "opened": whose masks a policy of CAM
    # seeds has read.
    images: dict[str, Count]
    classes: Annotated[list[str], Field(min_length=1)]
    student: Score
    predictor: Score  # the headline: last weights of the module that the method names as its predictor
    curve: list[
        Point
    ]  # evaluations during training, the last weights included; its maximum is the oracle column
    train_seconds: Amount
    eval_seconds: Amount
    peak_memory_mib: Amount
    split_digests: dict[str, str]
    weights_digest: str | None
    config: dict[str, Any]  # resolved, without the paths of the machine
    # What the data set says it takes to label one image by a mask ("pixel") and by its classes ("tags").
    # Records from before this field have the default.
    label_seconds: dict[str, Amount] = Field(default_factory=lambda: dict(LABEL_SECONDS))

    @field_validator("config")
    @classmethod
    def _config_is_read(cls, config: dict[str, Any]) -> dict[str, Any]:
        _Config.model_validate(config)
        return config

    @model_validator(mode="after")
    def _classes_are_scored(self) -> Self:
        if {len(self.student.iou), len(self.predictor.iou)} != {len(self.classes)}:
            raise ValueError(f"{len(self.classes)} classes need as many values of iou")
        return self


class Rescored(Record):
    """A number of a finished run whose predictor was scored again."""

    name: Literal["multi_scale", "crf"]
    scales: tuple[float, ...]
    flip: bool
    crf: str | None  # of "crf": name of the parameters
    half_size: bool  # of "crf": whether it ran at half the size
    score: Score
    seconds: Amount  # of the pass over the images, which gives both numbers

    @model_validator(mode="after")
    def _crf_has_parameters(self) -> Self:
        if (self.name == "crf") != (self.crf is not None):
            raise ValueError("crf, the name of its parameters, goes with the entry crf and with no other")
        return self

    @property
    def setting(self) -> tuple[Any, ...]:
        """What tells the numbers of a run apart, and what must be equal where runs are averaged."""
        return self.name, self.scales, self.flip, self.crf, self.half_size


class Scores(Record):
    """scores.json: no two entries have the same setting. The raw number is the result's predictor."""

    schema_version: Literal[1] = 1
    entries: list[Rescored]


class Git(BaseModel):
    commit: str | None = None
    dirty: bool = True  # files that no commit holds; the worse where it is not said


class Torch(BaseModel):
    threads: int | None = None
    gpus: list[str] = []


class Cpu(BaseModel):
    model: str = ""


class Start(BaseModel):
    """What is read of an entry of provenance.json; the rest may be of any version."""

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
        self.failure = path / "failure.txt"  # why the last start by a sweep failed
        self.sheet = path / "sheet.png"
        self._lock = path / ".lock"

    @classmethod
    def of(cls, root: Path, dataset: str, split: str, method: str, seed: int, run_id: str) -> RunFolder:
        return cls(root / dataset / split / method / f"{seed}-{run_id}")

    @property
    def mend(self) -> str:
        """What to do about a damaged file of the run; the end of a sentence."""
        return f"remove the folder {self.path}, and run it again."

    @property
    def root(self) -> Path:
        """The folder of all runs that holds this one: what `of` was given."""
        return self.path.resolve().parents[3]

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder for this process; a second process is refused.

        The lock dies with its holder, or with the last loader process that a killed holder leaves, which
        takes torch up to five seconds.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self._lock, "a+") as lock:
            for again in range(LOOKS, -1, -1):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if not again:
                        raise InUse(
                            f"{self.path} is in use by {_named(lock)}; wait for it or stop it."
                        ) from error
                    time.sleep(LOOK_SECONDS)  # one that only looks, see `holder`, is gone by then
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            for torn in self.path.glob(".*.tmp"):  # of a process killed while it wrote
                torn.unlink()
            yield

    def holder(self) -> str | None:
        """The other process that holds the folder, "process 123 on name". By the time of the answer that may
        have changed. None too where the lock may not be read: then the folder can be no more used than
        looked at."""
        try:
            with open(self._lock) as lock:
                try:  # shared: two that look do not see each other
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return _named(lock)
        except OSError:
            pass
        return None

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
            self.failure,
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

    def seeds(self, seed: int) -> list[SeedFolder]:
        """The CAM seeds that lie beside this run, for its split and this seed of its draws."""
        place = self.path.resolve().parents[1] / "cam_seeds"
        found = sorted(place.glob(f"{seed}-*/*/seeds.json"))
        return [SeedFolder(path.parents[1], path.parent.name) for path in found]

    def read_provenance(self) -> list[dict[str, Any]]:
        """One entry per start; [] without the file. Raises DataError where it holds anything else."""
        if not self.provenance.exists():
            return []
        try:
            starts = json.loads(self.provenance.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.provenance} is damaged ({error}); {self.mend}") from error
        if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
            raise DataError(f"{self.provenance} is damaged: it must list the starts of a run; {self.mend}")
        return starts

    def read_starts(self) -> list[Start]:
        """As `read_provenance`, checked."""
        try:
            return [Start.model_validate(start) for start in self.read_provenance()]
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"]))
            raise DataError(f"{self.provenance} is damaged ({at}: {first['msg']}); {self.mend}") from error

    def add_provenance(self, entry: dict[str, Any]) -> None:
        self._write_provenance([*self.read_provenance(), entry])

    def _write_provenance(self, entries: Sequence[dict[str, Any]]) -> None:
        write_atomic(self.provenance, (json.dumps(entries, indent=1) + "\n").encode())

    def copy_record(self, to: RunFolder) -> None:
        """Copy what a record keeps beside its result, over what is there; commands lose their folders."""
        _copy({self.counts: to.counts, self.metrics: to.metrics, self.scores: to.scores})
        if starts := self.read_provenance():
            to._write_provenance(
                [start | {"command": without_folders(start.get("command", ""))} for start in starts]
            )


LOOKS, LOOK_SECONDS = 4, 0.05  # at a lock before its folder is in use


def _named(lock: TextIO) -> str:
    """Who wrote that it holds the lock: nobody, between taking it and writing."""
    lock.seek(0)
    return lock.read(200).strip() or "another process"


class SeedReport(Record):
    """seeds.json: how the CAM seeds of a split were made. It needs no mask, but for a policy that says so."""

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
    map_seconds: Amount  # of the network, for all images made in the last start
    refine_core_seconds: Amount  # of thresholds and refinement, summed over the processes
    settings: dict[str, Any]


class CurvePoint(Record):
    """Seeds by one threshold, without refinement. Shares 0..1; means over the classes that occur."""

    threshold: Amount
    miou: Share
    precision: Share
    recall: Share
    coverage: Share


class SeedQuality(Record):
    """quality.json: CAM seeds against the masks of the tagged images, opened for this alone. Shares 0..1."""

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
        mend = "move it away and run `cam-seeds` again."
        return _read(SeedReport, self.report, mend) if self.report.exists() else None

    def read_quality(self) -> SeedQuality | None:
        mend = "move it away and run `cam-seeds --quality` again."
        return _read(SeedQuality, self.quality, mend) if self.quality.exists() else None

    def copy_reports(self, run: RunFolder) -> bool:
        """Copy what is said of the seeds to beside a run, unless it is there; whether anything was copied."""
        to = SeedFolder(run.path.parents[1] / self.path.parent.name / self.path.name, self.seed_id)
        files = {self.report: to.report, self.quality: to.quality}
        return _copy({path: target for path, target in files.items() if not target.exists()})

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


class Torn(DataError):
    """A file that is no JSON: half written, or half copied."""


R = TypeVar("R", bound=Record)


def _parsed(model: type[R], data: bytes, where: str, mend: str) -> R:
    """One record from JSON.

    Args:
        where: The file, and the line where it has several records: each message begins with it.
        mend: What to do; each message ends with it.

    Raises:
        Torn: `data` is no JSON.
        DataError: It is of another schema version, or no such record.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise Torn(f"{where} is torn, half written or half copied; {mend}") from error
        found, read = _schema_version(data), model.model_fields["schema_version"].default
        if found not in (None, read):
            raise DataError(
                f"{where} has schema version {found}, and this checkout reads version {read}: read it with "
                f"the checkout that wrote it, or {mend}"
            ) from error
        at = ".".join(map(str, first["loc"]))
        raise DataError(f"{where} is no {model.__name__} ({at}: {first['msg']}); {mend}") from error


def _schema_version(data: bytes) -> Any:
    """None where the JSON has none."""
    whole = json.loads(data)
    return whole.get("schema_version") if isinstance(whole, dict) else None


def _read(model: type[R], path: Path, mend: str) -> R:
    return _parsed(model, path.read_bytes(), str(path), mend)


def read_result(path: Path) -> Result:
    return _read(Result, path, "move it away and run it again.")


def read_scores(path: Path) -> Scores:
    return _read(Scores, path, "move it away and run `score` again.")


def read_results(*roots: Path) -> list[Result]:
    """What `find_results` gives, without the folders."""
    return list(find_results(*roots).values())


def find_results(*roots: Path) -> dict[Path, Result]:
    """All finished runs by folder, sorted by it: those that have a result.json anywhere below a root, and
    those that `read_records` finds.

    Interrupted runs have no result.json, and a torn one is as good as none: both are left out. Raises
    DataError where a root is not there, a result is of another version, or a run has a record and another
    result.json.
    """
    found: dict[Path, Result] = {}
    for root in roots:
        if not root.is_dir() and not _is_records(root):
            raise DataError(f"no folder {root}; give the folder that holds the runs.")
        here = read_records(root)
        for path in root.rglob("result.json"):
            try:
                result = read_result(path)
            except Torn:
                continue
            folder = path.resolve().parent
            if here.setdefault(folder, result) != result:
                file = records_file(RunFolder(folder).root, result.dataset)
                raise DataError(f"{path} differs from the line of its run in {file}; move one of them away.")
        for folder in sorted(here):
            found.setdefault(folder, here[folder])
    return found


def find_unfinished(finished: Collection[Path], *roots: Path) -> list[Path]:
    """Folders of runs below the roots that were begun and are not among the finished, sorted by path."""
    begun = ("config.yaml", "provenance.json", "metrics.jsonl", "checkpoint.pt", "result.json")
    found = {path.resolve().parent for root in roots for name in begun for path in root.rglob(name)}
    return sorted(found.difference(finished))


# Folders of records -----------------------------------------------------------------------------------------


def records_file(root: Path, dataset: str) -> Path:
    return root / f"{dataset}.jsonl"


def record_folder(root: Path, result: Result) -> RunFolder:
    """Where the files of a run lie in a folder of records. Raises DataError for names that lead out of it."""
    names = (result.dataset, result.split, result.method, result.run_id)
    # metrics.jsonl, the name of a log, cannot hold records.
    if any(name in ("", ".", "..") or "/" in name for name in names) or result.dataset == "metrics":
        raise DataError(f"a run is named {' '.join(map(repr, names))}, which is no path below {root}.")
    return RunFolder.of(root, result.dataset, result.split, result.method, result.seed, result.run_id)


def _is_records(path: Path) -> bool:
    return path.suffix == ".jsonl" and path.name != "metrics.jsonl" and path.is_file()


def read_records(root: Path) -> dict[Path, Result]:
    """The results of records, by the folder of the run's other files.

    Args:
        root: A folder of records, one of its files, or the folder beside one of them.

    Raises DataError for a line that is torn, of another version, of another data set than the file, or second
    of its run.
    """
    found: dict[Path, Result] = {}
    root = root.resolve()
    beside = records_file(root.parent, root.name)
    for file in sorted(path for path in (root, beside, *root.glob("*.jsonl")) if _is_records(path)):
        for number, line in enumerate(file.read_bytes().removesuffix(b"\n").split(b"\n"), 1):
            where = f"{file}, line {number},"
            result = _parsed(Result, line, where, "restore the line as it was committed, or remove it.")
            if result.dataset != file.stem:
                raise DataError(
                    f"{where} is of the data set {result.dataset!r}; move it to "
                    f"{records_file(root, result.dataset).name}."
                )
            folder = record_folder(file.parent, result).path
            if folder in found:
                raise DataError(f"{where} is the second of run {result.run_id}; remove one of the two.")
            found[folder] = result
    return found


def write_records(file: Path, results: Iterable[Result]) -> None:
    """Write the records of one data set, sorted: the same results are always the same bytes."""
    ordered = sorted(results, key=lambda run: (run.split, run.method, run.seed, run.run_id))
    write_atomic(file, "".join(f"{result.model_dump_json()}\n" for result in ordered).encode())


def _copy(files: Mapping[Path, Path]) -> bool:
    """Copy those of the files that there are; whether there were any."""
    there = [path for path in files if path.exists()]
    for path in there:
        write_atomic(files[path], path.read_bytes())
    return bool(there)


def metrics_torn(path: Path) -> bool:
    """Whether `read_metrics` leaves out a last line that a kill has torn."""
    lines = _lines(path)
    return bool(lines) and _metrics_line(lines[-1]) is None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, [] without the file. A last line torn by a kill is left out.

    Raises DataError where another line is no JSON object with a step.
    """
    lines = _lines(path)
    found = []
    for number, text in enumerate(lines, 1):
        line = _metrics_line(text)
        if line is not None:
            found.append(line)
        elif number < len(lines):
            raise DataError(f"{path}, line {number} is damaged; move the file away.")
    return found


def _lines(path: Path) -> list[bytes]:
    """Split at line feeds alone, which JSON does not hold; [] without the file or in an empty one."""
    data = path.read_bytes() if path.exists() else b""
    return data.removesuffix(b"\n").split(b"\n") if data else []


def _metrics_line(text: bytes) -> dict[str, Any] | None:
    """None where it is no JSON object with a step. Whole numbers beyond int64 are read as float, inf if need
    be."""
    try:
        line = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 19 else float(digits))
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and type(line.get("step")) is int else None


def read_counts(path: Path) -> dict[str, np.ndarray]:
    """counts.npz: "ids" (N) and, per scored module, N C C confusion counts (truth in rows).

    Raises DataError where it is damaged or holds anything else.
    """
    import numpy as np

    mend = "score the run again, or move the file away."
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
            ids = found["ids"]
    except Exception as error:  # of a dozen kinds: of zip, of zlib, of the header, of memory it asks for
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}); {mend}") from error
    counts = {name: array for name, array in found.items() if name != "ids"}
    sound = ids.ndim == 1 and ids.dtype.kind == "U" and len(set(ids.tolist())) == len(ids)
    for array in counts.values():
        square = array.ndim == 3 and array.shape == (ids.size, array.shape[1], array.shape[1])
        sound = sound and square and array.dtype.kind in "iu"
    if not sound:
        raise DataError(f"{path} does not hold one confusion matrix of whole numbers per image; {mend}")
    return found


# Where a word, a value, or an entry of a YAML list or mapping begins: a path from a root, or from . .. or ~
_PLACE = re.compile(r"""(?<![^=,\s{\["'])(?:file://|~\w*|\.{1,2})?/[^,{}\[\]"']*""")


def without_folders(command: str) -> str:
    """A recorded command with the last part of every such path alone; "" where it cannot be read.

    Folders are of one machine, and a sweep keeps settings in one of its own, whose name tells nothing and
    would differ every time.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    return shlex.join(_PLACE.sub(lambda found: Path(found[0]).name, word) for word in words)
