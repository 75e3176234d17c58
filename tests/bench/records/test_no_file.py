"""A pipe, or a device without an end, in place of a file that is kept: it is named, and not waited for."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from bench import cli, outlook
from bench.contents.files import FileDigests, sha256
from bench.display import Display
from bench.errors import DataError, Interrupted, read_file
from bench.gate.baselines import read_baselines
from bench.gate.runs import GateRun
from bench.networks import exported
from bench.pipeline import check
from bench.pipeline import run as run_plan
from bench.plan import Plan, plan, saved_plan
from bench.records import logs
from bench.records.folders import RunFolder, copied
from bench.records.index import find_results
from bench.records.ledger import Ledger
from bench.records.samples import read_samples
from bench.records.schema import Result
from bench.records.shared_folders import SeedFolder
from bench.records.submissions import SubmissionFolder
from bench.settings import normalisation
from bench.settings.schema import RunConfig
from bench.sweeps.grid import Cell
from bench.sweeps.launch import run_grid
from bench.training import checkpoint
from bench.training.trainer import Trainer

pytestmark = pytest.mark.timeout(20)
MEMORY = 2 << 30  # bytes beyond what is taken already: a device fills all there is
PUT: dict[str, Callable[[Path], None]] = {
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    # No signal and no thread of Python ends what waits for a pipe in a library that holds the interpreter.
    faulthandler.dump_traceback_later(30, exit=True, file=sys.__stderr__)
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(params=PUT)
def put(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Lay it in the place of a file, which may be there."""

    def lay(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        PUT[request.param](path)

    return lay


def claim(folder: RunFolder) -> None:
    with folder.claimed():
        pass


def seeds(place: Path) -> SeedFolder:
    return SeedFolder(place, "id")


RUN: dict[str, tuple[str, Callable[[RunFolder], object]]] = {  # of a run: the file, and who reads it
    "result": ("result.json", RunFolder.read_result),
    "results below": ("result.json", lambda run: find_results(run.path)),
    "scores": ("scores.json", RunFolder.read_scores),
    "listing": ("contents.json", RunFolder.read_listing),
    "provenance": ("provenance.json", RunFolder.read_provenance),
    "one start more": ("provenance.json", lambda run: run.add_provenance({})),
    "starts": ("provenance.json", lambda run: run.read_starts("digest")),
    "digests of settings": ("config.yaml", RunFolder.file_digests),
    "digests of a log": ("metrics.jsonl", RunFolder.file_digests),
    "digests of counts": ("counts.npz", RunFolder.file_digests),
    "log": ("metrics.jsonl", lambda run: logs.read_metrics(run.metrics, "digest")),
    "log to go on": ("metrics.jsonl", lambda run: logs.whole_lines(run.metrics)),
    "torn log": ("metrics.jsonl", lambda run: logs.metrics_torn(run.metrics)),
    "counts": ("counts.npz", lambda run: logs.read_counts(run.counts)),
    "copy": ("counts.npz", lambda run: copied({run.counts: run.path / "copy"})),
    "samples": ("samples.json", read_samples),
    "checkpoint": ("checkpoint.pt", lambda run: checkpoint.load(run.checkpoint, "cpu")),
    "weights": ("weights.safetensors", lambda run: exported.read(run.weights)),
    "weights' record": ("weights.safetensors", lambda run: exported.about(run.weights)),
    "weights of a run": ("weights.safetensors", lambda run: exported.refuse_other(run.weights, "digest")),
    "weights' digest": ("weights.safetensors", lambda run: sha256(run.weights)),
    "bits": ("weights.safetensors", lambda run: GateRun(run, cast("Result", None), {}).bits),
    "claim": (".lock", claim),
    "right to start": (".start", RunFolder.right_to_start),
}
OTHERS: dict[str, tuple[str, Callable[[Path], object]]] = {  # beside runs: the file, and who reads it
    "seeds": ("id/seeds.json", lambda place: seeds(place).read_report()),
    "seeds' listing": ("id/contents.json", lambda place: seeds(place).read_listing()),
    "seeds' quality": ("id/quality.json", lambda place: seeds(place).read_quality()),
    "maps": ("maps/a.npz", lambda place: logs.read_maps(seeds(place).map("a"))),
    "ledger": ("made.jsonl", lambda place: Ledger(place / "made.jsonl")),
    "baselines": ("mine.json", lambda place: read_baselines(place / "mine.json")),
    "normalisation": ("normalisation.json", lambda place: normalisation.read(place / "normalisation.json")),
    "jobs": (".slurm/1/runs.txt", lambda place: SubmissionFolder(place, "1").read()),
}


@pytest.mark.parametrize("what", RUN)
def test_it_is_named_in_a_run(tmp_path: Path, put: Callable[[Path], None], what: str) -> None:
    name, read = RUN[what]
    put(tmp_path / name)
    with pytest.raises(DataError, match=rf"/{name} is no plain file .*put the file itself there"):
        read(RunFolder(tmp_path))


@pytest.mark.parametrize("what", OTHERS)
def test_it_is_named_beside_a_run(tmp_path: Path, put: Callable[[Path], None], what: str) -> None:
    name, read = OTHERS[what]
    put(tmp_path / name)
    with pytest.raises(DataError, match=rf"/{name} is no plain file .*put the file itself there"):
        read(tmp_path)


def test_the_digest_beside_a_checkpoint_is_read_alike(tmp_path: Path, put: Callable[[Path], None]) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {})
    put(tmp_path / "checkpoint.pt.sha256.json")
    with pytest.raises(DataError, match=r"checkpoint\.pt\.sha256\.json is no plain file"):
        checkpoint.load(path, "cpu")


def test_what_can_be_made_again_is_not_valid(
    tmp_path: Path, put: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, made = Ledger(tmp_path / "made.jsonl"), tmp_path / "made"
    made.write_bytes(b"")
    ledger.add("a", sha256(made), "of")
    assert ledger.sound({"a": made})
    put(made)
    assert not ledger.sound({"a": made})

    monkeypatch.setenv("FRUGALSEG_CACHE", str(tmp_path / "cache"))
    put(tmp_path / "cache" / "digests.json")
    (tmp_path / "old").write_bytes(b"old")
    os.utime(tmp_path / "old", (0, 0))
    monkeypatch.setattr("bench.contents.files.YOUNG_NS", -(1 << 60))
    assert FileDigests("digests").of([tmp_path / "old"]) == {tmp_path / "old": sha256(tmp_path / "old")}
    assert (tmp_path / "cache" / "digests.json").is_file() and not (
        tmp_path / "cache/digests.json"
    ).is_symlink()


def test_what_is_only_looked_at_is_left_out(
    tmp_path: Path,
    put: Callable[[Path], None],
    tiny_config: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(tmp_path / ".lock")
    assert RunFolder(tmp_path).holder() is None
    monkeypatch.setattr(outlook, "PUBLISHED", tmp_path)
    put(tmp_path / "tinyset.jsonl")
    planned = plan(tiny_config("supervised"))
    assert outlook.published_seconds(planned) == []
    put(planned.folder.failure)
    assert Cell("it", planned).failure is None


def test_a_sweep_starts_no_run_whose_log_it_is(
    put: Callable[[Path], None], tiny_config: Callable[..., RunConfig]
) -> None:
    planned = plan(tiny_config("supervised"))
    put(planned.folder.sweep_log)
    (failure,) = run_grid([Cell("it", planned)], 1, lambda line: None).failures
    assert "sweep.log is no plain file" in failure.reason


def test_what_is_missing_is_an_error_of_the_system(tmp_path: Path) -> None:
    """Callers know it: a file may be removed between a look and the reading."""
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "gone")


# Of whole runs ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def done(tiny_config: Callable[..., RunConfig], shelf: Path) -> Plan:
    """A finished run, trained once."""
    planned = plan(tiny_config("supervised", f"machine.out={shelf}"))
    run_plan(planned, Display())
    return planned


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "command"),
    [
        *(("result.json", command) for command in ("report", "check", "predict", "show", "score")),
        *(("metrics.jsonl", command) for command in ("report", "check", "score")),
        *((name, "score") for name in ("counts.npz", "provenance.json", "config.yaml")),
        *(("weights.safetensors", command) for command in ("score", "predict", "show")),
    ],
)
def test_a_command_ends_with_3(
    done: Plan,
    put: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    command: str,
) -> None:
    folder, file = done.folder, done.folder.path / name
    baseline = tmp_path / "baseline.json"
    baseline.write_text(json.dumps({"schema_version": 1, "entries": []}))
    words = {
        "predict": [folder.path, "--images", done.config.machine.runs, "--to", tmp_path / "to"],
        "check": ["--baseline", baseline, folder.root],
        "report": [folder.root, "--out", tmp_path / "report"],
        "show": [folder.path],
        "score": [folder.path],
    }
    whole = file.read_bytes()
    put(file)
    monkeypatch.setattr(sys, "argv", ["bench", command, *map(str, words[command])])
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        file.unlink()
        file.write_bytes(whole)
    said = capsys.readouterr()
    assert ended.value.code == 3 and name in said.err, said


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["config.yaml", "contents.json", "provenance.json", "metrics.jsonl", "checkpoint.pt"]
)
def test_a_run_does_not_go_on_from_it(
    tiny_config: Callable[..., RunConfig],
    put: Callable[[Path], None],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor does a dry run wait for it."""
    planned = plan(tiny_config("supervised", "protocol.steps=4", "machine.checkpoint_every=2"))
    train = Trainer.train_step

    def step(trainer: Trainer, batch: Any, at: Any) -> Any:
        if at.step == 3:
            raise Interrupted("stopped by a test")
        return train(trainer, batch, at)

    monkeypatch.setattr(Trainer, "train_step", step)
    with pytest.raises(Interrupted):
        run_plan(planned, Display())
    put(planned.folder.path / name)
    goes_on: list[Callable[[], object]] = [lambda: saved_plan(planned.folder.path, {})]
    if name != "config.yaml":
        goes_on = [lambda: check(planned, resume=True), lambda: run_plan(planned, Display(), resume=True)]
    for go_on in goes_on:
        with pytest.raises(DataError, match=name):
            go_on()
