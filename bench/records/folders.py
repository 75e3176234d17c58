"""The files under runs/ and under a folder of records. Only this room knows their names.

runs/<dataset>/<split>/<method>/<seed>-<id>/, and draw<K>-<seed>-<id>/ for another draw of the split
    config.yaml          the resolved configuration
    contents.json        what it was made of: digests of code, of each image and mask, of seeds
    provenance.json      how it was made: versions, hardware, commit, one entry per start
    metrics.jsonl        one line per logging step and per evaluation
    tensorboard/         the same as curves
    checkpoint.pt        all that a bit-exact resume needs
    counts.npz           per-image confusion counts of every scored module
    weights.safetensors  the scored module
    pseudo_labels/       <id>.png, the labels of unlabeled images by an earlier round, of methods with rounds
    pseudo_labels.jsonl  a line for each of them: its digest, and that of all it was made of
    result.json          written last: its presence means "done"
    scores.json          the same weights scored again: multi-scale + flip, and with the dense CRF on top
    sweep.log            what the run said on stderr, where a sweep started it
    failure.txt          why the last start by a sweep failed; the next start removes it
    sheet.png            a picture sheet, where one was asked for
    samples.json         which scored images are samples, and the digests of their pictures
    samples/<id>.png     what the run predicts of them

runs/<dataset>/samples/<digest>.jpg, .png    photographs and truths of samples, once for all runs

runs/<dataset>/<split>/warm_up/<seed>-<id>/
    state.pt             all that a run needs to go on behind its warm-up

runs/<dataset>/<split>/cam_seeds/<seed>-<id of maps>/
    maps/<id>.npz        activation maps of an image's tags
    maps.jsonl           a line for each map: its digest, and that of all it was made of
    <id of seeds>/       seeds/<id>.png, seeds.jsonl (as maps.jsonl), contents.json, seeds.json (written last:
                         "done"), quality.json

runs/.slurm/<job>/                           what was submitted to a cluster, see submissions.py

A folder of records holds what is kept of finished runs:

<records>/<dataset>.jsonl    one result a line, by split, method, seed and run id
<records>/<dataset>/...      as under runs/: the log, counts, provenance, scores and samples of each run, and
                             what is said of its CAM seeds; no result.json
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pydantic import ValidationError

from bench.errors import (
    ConfigError,
    DataError,
    InUse,
    MachineError,
    read_file,
    refuse_no_file,
    resolved,
)
from bench.records.atomic import locked, refuse_no_folder, write_atomic, writing

if TYPE_CHECKING:
    import numpy as np
from bench.records.logs import not_as_written
from bench.records.provenance import without_folders
from bench.records.schema import (
    Listing,
    Result,
    Scores,
    Start,
    read_result,
    read_scores,
)
from bench.records.sealed import read_record


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.contents = path / "contents.json"
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
        self.samples = path / "samples.json"
        self.sample_pictures = path / "samples"
        self.pseudo_ledger = path / "pseudo_labels.jsonl"
        self._lock = path / ".lock"
        self._start = path / ".start"

    @classmethod
    def of(
        cls, root: Path, dataset: str, split: str, method: str, seed: int, run_id: str, draw: int = 0
    ) -> RunFolder:
        """Name the folder of a run. Raises ConfigError where no system could make it."""
        if long := next((part for part in root.parts if len(os.fsencode(part)) > LONGEST_PART), None):
            raise ConfigError(
                f"machine.out: {long[:20]!r}... is a name of {len(os.fsencode(long))} bytes, and a file "
                f"system takes {LONGEST_PART}; give another --out."
            )
        return cls(root / dataset / split / method / f"{drawn(seed, draw)}-{run_id}")

    def pseudo_label(self, id: str) -> Path:
        return self.path / "pseudo_labels" / f"{id}.png"

    @property
    def mend(self) -> str:
        """Repair advice that ends an error message: "remove the folder ..., and run it again."."""
        return f"remove the folder {self.path}, and run it again."

    @property
    def root(self) -> Path:
        """The folder of all runs that holds this one: what `of` was given."""
        return resolved(self.path).parents[3]

    @property
    def shared_samples(self) -> Path:
        """The folder of the photographs and truths of the data set's samples."""
        return resolved(self.path).parents[2] / "samples"

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder for this process; a second process is refused.

        The lock dies with its holder, or with the last loader process that a killed holder leaves, which
        takes torch up to five seconds.
        """
        looks = 0

        def wait(lock: TextIO) -> None:
            nonlocal looks
            looks += 1
            if looks > LOOKS:
                raise InUse(f"{self.path} is in use by {_named(lock)}; wait for it or stop it.")
            time.sleep(LOOK_SECONDS)  # one that only looks, see `holder`, is gone by then

        with folder_held(self.path, self._lock, wait) as lock:
            with writing(self._lock):
                os.ftruncate(lock.fileno(), 0)
                os.write(lock.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield

    def check_place(self) -> None:
        """Refuse what `claimed` would fail on; nothing that is made for it is left.

        Raises:
            ConfigError: The folder cannot be written.
            InUse: Another process holds it.
        """
        refuse_no_folder(self.path)
        there = next(place for place in (self.path, *self.path.parents) if place.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(f"{self.path} cannot be written, because {there} cannot; give another --out.")
        try:  # a system may say that a folder can be written, as that of /proc does of its own to root
            os.rmdir(tempfile.mkdtemp(prefix=".frugalseg-", dir=there))
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be written, because {there} takes no folder ({error.strerror}); give "
                "another --out."
            ) from error
        if holder := self.holder():
            raise InUse(f"{self.path} is in use by {holder}; wait for it or stop it.")

    def holder(self) -> str | None:
        """Name the other process that holds the folder, such as "process 123 on name"; None where there is
        none. Also None if the lock file cannot be opened (no folder, no permission) or locked. It may have
        changed by the time of the answer."""
        with suppress(OSError, DataError, MachineError):
            refuse_no_file(self._lock)
            with open(self._lock) as lock:
                # shared: two that look do not see each other
                if not locked(lock.fileno(), self.path, fcntl.LOCK_SH | fcntl.LOCK_NB):
                    return _named(lock)
        return None

    def right_to_start(self) -> TextIO | None:
        """Take the right to start a process for this run, held until the file is closed or this process
        ends; None where another sweep has it. The run itself takes seconds to claim its folder, in which
        every other sweep of the grid would start it too."""
        file = _lock_file(self._start)
        try:
            ours = locked(file.fileno(), self.path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except MachineError:
            file.close()
            raise
        if ours:
            return file
        file.close()
        return None

    def forget_failure(self) -> None:
        """Remove what a sweep has said of the last start."""
        with writing(self.failure):
            self.failure.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what an earlier start has left."""
        with writing(self.path):
            self._clear()

    def _clear(self) -> None:
        made = (
            self.result,
            self.scores,
            self.contents,
            self.provenance,
            self.metrics,
            self.counts,
            self.weights,
            self.sheet,
            self.samples,
            self.failure,
        )
        for path in made:
            path.unlink(missing_ok=True)
        for path in self.path.glob(f"{self.checkpoint.name}*"):
            path.unlink()
        for folder in (self.tensorboard, self.sample_pictures):
            shutil.rmtree(folder, ignore_errors=True)

    def read_result(self) -> Result | None:
        return read_result(self.result) if self.result.exists() else None

    def write_result(self, result: Result) -> Result:
        """Answers what was written: the result, sealed."""
        write_atomic(self.result, result.to_bytes())
        return result.sealed()

    def file_digests(self) -> dict[str, str]:
        """As `Result.files`, of those files that there are."""
        there = [path for path in (self.config, self.metrics, self.counts) if path.exists()]
        found = {path.name: hashlib.sha256(read_file(path)).hexdigest() for path in there}
        return found | ({self.provenance.name: self._provenance_digest()} if self.provenance.exists() else {})

    def altered(self, result: Result) -> list[str]:
        """Names of the files that are there, but not as the run has written them."""
        now = self.file_digests() if result.files else {}
        return [name for name, digest in (result.files or {}).items() if now.get(name, digest) != digest]

    def refuse_altered(self, result: Result) -> None:
        """Raise DataError, which names it, for a file that is not as the run has written it."""
        if names := self.altered(result):
            raise not_as_written(self.path / names[0])

    def read_listing(self) -> Listing | None:
        """None without the file. Raises DataError where it is damaged."""
        return listing_of(self.contents)

    def write_listing(self, listing: Listing) -> None:
        write_atomic(self.contents, listing.to_bytes(None))

    def read_scores(self) -> Scores:
        """Read the numbers of `score`; no entries without the file."""
        return read_scores(self.scores) if self.scores.exists() else Scores(entries=[])

    def write_scores(self, scores: Scores) -> None:
        write_atomic(self.scores, scores.to_bytes())

    def write_counts(self, ids: Sequence[str], counts: Mapping[str, np.ndarray]) -> None:
        import numpy as np  # here, because commands that train nothing read this file's schema too

        buffer = io.BytesIO()
        np.savez_compressed(buffer, ids=np.array(ids), **counts)  # type: ignore[arg-type]
        write_atomic(self.counts, buffer.getvalue())

    def read_provenance(self) -> list[dict[str, Any]]:
        """One entry per start; [] without the file. Raises DataError where it holds anything else."""
        if not self.provenance.exists():
            return []
        try:
            starts = json.loads(read_file(self.provenance))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.provenance} is damaged ({error}); {self.mend}") from error
        if not isinstance(starts, list) or not all(isinstance(start, dict) for start in starts):
            raise DataError(f"{self.provenance} is damaged: it must list the starts of a run; {self.mend}")
        return starts

    def read_starts(self, digest: str | None = None) -> list[Start]:
        """As `read_provenance`, checked.

        Args:
            digest: As the run has recorded it; None for a run of before it did.
        """
        if digest is not None and self.provenance.exists() and self._provenance_digest() != digest:
            raise not_as_written(self.provenance)
        try:
            return [Start.model_validate(start) for start in self.read_provenance()]
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"]))
            raise DataError(f"{self.provenance} is damaged ({at}: {first['msg']}); {self.mend}") from error

    def _provenance_digest(self) -> str:
        """Compute the digest of the provenance, SHA-256. It is the same in a record, where commands have lost
        their folders."""
        starts = _without_folders(self.read_provenance())
        return hashlib.sha256(json.dumps(starts, sort_keys=True).encode()).hexdigest()

    def add_provenance(self, entry: dict[str, Any]) -> None:
        self._write_provenance([*self.read_provenance(), entry])

    def _write_provenance(self, entries: Sequence[dict[str, Any]]) -> None:
        write_atomic(self.provenance, (json.dumps(entries, indent=1) + "\n").encode())

    def copy_record(self, to: RunFolder) -> None:
        """Copy what a record keeps beside its result, over what is there; commands lose their folders."""
        copied({self.counts: to.counts, self.metrics: to.metrics, self.scores: to.scores})
        if starts := self.read_provenance():
            to._write_provenance(_without_folders(starts))


def _without_folders(starts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [start | {"command": without_folders(str(start.get("command", "")))} for start in starts]


# Retries before InUse is raised: `holder` takes a shared lock for a moment.
LOOKS, LOOK_SECONDS = 4, 0.05
LONGEST_PART = 255  # bytes of one name in a path


@contextmanager
def folder_held(folder: Path, file: Path, wait: Callable[[TextIO], None]) -> Iterator[TextIO]:
    """Hold a folder, made if need be, by the lock of a file in it. `wait` is called while another process
    holds it."""
    with _lock_file(file) as lock:
        while not locked(lock.fileno(), folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            wait(lock)
        with writing(folder):
            for torn in folder.rglob(".*.tmp"):  # of a process killed while it wrote
                torn.unlink(missing_ok=True)
        try:
            yield lock
        finally:
            # Closing alone would leave it to the loader processes that were forked meanwhile.
            fcntl.flock(lock.fileno(), fcntl.LOCK_UN)


def _lock_file(file: Path) -> TextIO:
    """Open a file to lock it, made with its folder if need be. The caller closes it."""
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            refuse_no_file(file)
        return open(file, "a+")


def _named(lock: TextIO) -> str:
    """Who wrote that it holds the lock: nobody, between taking it and writing."""
    lock.seek(0)
    return lock.read(200).strip() or "another process"


def drawn(seed: int, draw: int) -> str:
    """How names of folders begin: "0", and "draw1-0" for another draw of the split."""
    return f"draw{draw}-{seed}" if draw else str(seed)


def listing_of(path: Path) -> Listing | None:
    return read_record(Listing, path, LISTING_MEND) if path.exists() else None


LISTING_MEND = "remove it: what has changed is then said without the names of files."


def copied(files: Mapping[Path, Path]) -> bool:
    """Copy those of the files that there are; whether there were any."""
    there = [path for path in files if path.exists()]
    for path in there:
        write_atomic(files[path], read_file(path))
    return bool(there)
