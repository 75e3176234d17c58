"""Sweeps: a grid minus what is done, in processes of their own that none of them can stop."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from commandline import Outcome, Typed

from bench import machine
from bench.errors import ConfigError, InUse
from bench.records.atomic import write_atomic
from bench.records.folders import RunFolder
from bench.records.index import read_results
from bench.settings import registry
from bench.settings.resolve import resolve
from bench.settings.schema import RunConfig
from bench.sweeps import ablations, grid, launch

CHECKOUT = Path(__file__).resolve().parents[3]
Config = Callable[..., RunConfig]
LONG = "protocol.steps=80"
THRESHOLDS = """\
title: Confidence a pseudo-label needs
method: fixmatch
variants:
  published: {}
  half: {threshold: 0.5}
published: {source: A paper, columns: [all], values: {published: [70.5], half: [null]}}
"""


@pytest.fixture
def settings(tiny_config: Config, tmp_path: Path) -> Path:
    """The tiny run as a file, without method, split and seed."""
    given = tiny_config("supervised").model_dump(mode="json", exclude={"method", "split", "seed"})
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(given))
    return path


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """A background job of a shell ignores SIGINT, and so would all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def start(settings: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """start("--method", "fixmatch"): `python -m bench sweep` on the tiny set; ended with the test."""
    started = []

    def call(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench", "sweep", *arguments, "--config", str(settings)],
            cwd=CHECKOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            process.terminate()  # its runs too
            process.communicate(timeout=60)


def finished(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in err, err
    return Outcome(process.returncode, out, err)


@pytest.fixture
def sweep(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Outcome]:
    return lambda *arguments: finished(start(*arguments))


@pytest.fixture
def here(settings: Path, typed: Typed) -> Callable[..., Outcome]:
    """here("--method", "fixmach"): the same command in this process, for what starts no run."""
    return lambda *words: typed("sweep", *words, "--config", settings)


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    for _ in range(6000):
        if found := what():
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def children(process: subprocess.Popen[str]) -> list[int]:
    return list(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


def trained(runs: Path, lines: int = 3) -> Path | None:
    """The folder of a run that has trained some steps."""
    for path in runs.glob("*/*/*/*"):
        metrics = RunFolder(path).metrics
        if metrics.exists() and len(metrics.read_text().splitlines()) >= lines:
            return path
    return None


def starts(runs: Path) -> dict[str, list[int]]:
    """By run folder, the steps at which it was started."""
    return {
        "/".join(path.parts[-3:]): [entry["first_step"] for entry in RunFolder(path).read_provenance()]
        for path in runs.glob("*/*/*/*")
    }


# End to end -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_grid_runs_and_a_second_call_does_nothing(sweep: Callable[..., Outcome], runs: Path) -> None:
    options = ["--method", "supervised,fixmatch", "--split", "few", "--seed", "0,1", "--jobs", "2", "--audit"]
    first = sweep(*options)
    assert first.code == 0, first
    found = {(result.method, result.seed) for result in read_results(runs)}
    assert found == {("supervised", 0), ("supervised", 1), ("fixmatch", 0), ("fixmatch", 1)}
    lines = re.findall(r"\[(\d)/4\] (\w+) on tinyset few, seed \d: mIoU [\d.]+ % in .* so far", first.out)
    assert [count for count, _ in lines] == ["1", "2", "3", "4"]
    assert re.search(r"supervised .*± .*\(2\)", first.out), "the table"
    assert set(map(tuple, starts(runs).values())) == {(0,)}
    for path in runs.glob("*/*/*/*"):
        assert "threads: 1" in RunFolder(path).config.read_text(), "the file's own number"
        assert "audit: true" in RunFolder(path).config.read_text()

    second = sweep(*options)
    assert second.code == 0 and "4 of 4 runs done already" in second.out
    assert "[" not in second.out and re.search(r"supervised .*\(2\)", second.out)
    assert set(map(tuple, starts(runs).values())) == {(0,)}, "nothing was started"


def test_a_dry_run_runs_nothing(here: Callable[..., Outcome], runs: Path) -> None:
    asked = ("--method", "supervised,fixmatch", "--split", "few,full", "--seed", "0,1")
    for option, code in (("--dry-run", 2), ("--status", 0)):
        found = here(*asked, option)
        assert found.code == code and ("2 of 8 runs would be refused" in found.err) == bool(code), found.err
        counts, *lines = found.out.splitlines()
        assert counts == "8 runs: 6 to do, 2 refused" and len(lines) == 8
        assert re.match(
            rf"to do +supervised on tinyset few, seed 0  {runs}/tinyset/few/supervised/0-", lines[0]
        )
        assert "refused      fixmatch on tinyset full, seed 0: method 'fixmatch' needs" in found.out
        assert not runs.exists()


def test_a_dry_run_says_why_no_run_can_be_made_and_counts_each_once(here: Callable[..., Outcome]) -> None:
    asked = ("--method", "fixmatch", "--split", "full", "--dry-run")
    found = here(*asked)
    assert found.code == 2 and "no run of this grid can be made, see above" in found.err
    assert "refused      fixmatch on tinyset full, seed 0: method 'fixmatch' needs" in found.out
    document = json.loads(here(*asked, "--json").out)
    assert document["runs"] == [] and "needs" in document["refused"][0]["reason"]
    found = here("--method", "u2pl", "--split", "few", "--set", "method.warmup=6", "--dry-run")
    assert found.code == 2 and found.out.splitlines()[0] == "1 run: 1 refused"
    assert "1 of 1 run would be refused, see above: " in found.err


@pytest.mark.slow
def test_a_killed_run_is_listed_and_the_next_call_goes_on_with_it(
    start: Callable[..., subprocess.Popen[str]], here: Callable[..., Outcome], runs: Path
) -> None:
    arguments = ("--method", "supervised", "--split", "few", "--seed", "0,1")
    arguments = (*arguments, "--set", LONG, "--set", "machine.checkpoint_every=1")
    process = start(*arguments)
    folder = RunFolder(wait_for(lambda: trained(runs), process))
    (child,) = children(process)
    os.kill(child, signal.SIGKILL)
    first = finished(process)
    assert first.code == 1 and "1 failed of 2 runs" in first.err
    assert re.search(r"failed: supervised .*seed 0: killed by SIGKILL .*goes on with it", first.out)
    assert folder.checkpoint.exists() and len(read_results(runs)) == 1, "the other run is done"

    listed = here(*arguments, "--dry-run").out
    assert "1 done, 1 failed" in listed and re.search(r"failed .*seed 0: killed by SIGKILL", listed)
    second = finished(start(*arguments))
    assert second.code == 0 and len(read_results(runs)) == 2, second
    first_step, then = starts(runs)["/".join(folder.path.parts[-3:])]
    assert first_step == 0 and then > 0, "it went on, it did not start again"
    assert not folder.failure.exists()


@pytest.mark.slow
def test_two_sweeps_share_a_grid(start: Callable[..., subprocess.Popen[str]], runs: Path) -> None:
    options = ["--method", "supervised", "--split", "few", "--seed", "0,1,2"]
    outcomes = [finished(process) for process in [start(*options), start(*options)]]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert len(starts(runs)) == 3 and set(map(tuple, starts(runs).values())) == {(0,)}, "each once"
    for outcome in outcomes:
        assert "[3/3]" in outcome.out and "failed" not in outcome.out and re.search(r"\(3\)", outcome.out)


@pytest.mark.slow
def test_a_run_held_elsewhere_is_waited_for_and_then_done(
    start: Callable[..., subprocess.Popen[str]], runs: Path, tiny_config: Config
) -> None:
    from bench.plan import plan

    held = plan(tiny_config("supervised")).folder
    with held.claimed():
        process = start("--method", "supervised", "--split", "few", "--seed", "0,1")
        wait_for(lambda: list(runs.rglob("result.json")), process)
        time.sleep(0.5)
        assert process.poll() is None and not held.result.exists()
    outcome = finished(process)
    assert outcome.code == 0 and "passed over" in outcome.out, outcome
    order = re.findall(r"seed (\d): mIoU", outcome.out)
    assert order == ["1", "0"]


@pytest.mark.slow
def test_a_run_that_is_taken_after_the_look_is_no_failure(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run itself says that it is in use; by the third look it is free."""
    monkeypatch.chdir(CHECKOUT)
    span = grid.Span(methods=["supervised"], splits=["few"])
    cells, _ = grid.grid(span, flags=flags(tiny_config("supervised")))
    lines: list[str] = []
    with ExitStack() as holder:
        holder.enter_context(cells[0].folder.claimed())
        looks = iter([lambda: None, lambda: "process 1 on here", holder.close])
        monkeypatch.setattr(RunFolder, "holder", lambda self: next(looks)())
        outcome = launch.run_grid(cells, 1, lines.append)
    assert outcome == launch.Outcome([], None) and cells[0].done and next(looks, None) is None
    begun, held, again, done = lines
    assert begun == again and begun.startswith("started: supervised on tinyset few, seed 0  /")
    assert "passed over" in held and done.startswith("[1/1] supervised on")


@pytest.mark.slow
def test_a_signal_is_passed_on_once_and_the_runs_are_resumable(
    start: Callable[..., subprocess.Popen[str]], here: Callable[..., Outcome], runs: Path
) -> None:
    """To the whole process group and twice, as an impatient hand at a terminal sends it."""
    options = ("--method", "supervised", "--split", "few", "--seed", "0,1,2", "--set", LONG)
    process = start(*options, "--jobs", "2", "--set", "machine.checkpoint_every=1000")
    wait_for(lambda: trained(runs), process)
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)
    outcome = finished(process)
    assert outcome.code == 75 and "of 3 runs are done; the same command goes on" in outcome.err, outcome
    assert "SIGINT: waiting for 2 runs to save; a second signal kills them" in outcome.out
    assert re.search(r"resumable: supervised on tinyset few, seed \d  ", outcome.out), outcome
    assert "failed" not in outcome.out and list(runs.rglob("checkpoint.pt")), "saved by the signal alone"
    states = here(*options, "--dry-run").out.splitlines()[0]
    assert re.fullmatch(r"3 runs: (\d done, )?\d interrupted, \d to do", states)


@pytest.mark.slow
def test_a_failed_run_is_listed_and_the_others_are_done(
    sweep: Callable[..., Outcome],
    runs: Path,
    tiny_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The masks that only the split `full` grants are no images, in the data root of the command line."""
    monkeypatch.setenv("BENCH_DATA", str(tiny_root))
    shutil.copytree(tiny_root, tmp_path / "data")
    for path in (tmp_path / "data" / "tinyset" / "labels").glob("train_*.png"):
        if path.stem >= "train_04":
            path.write_bytes(b"no image")
    outcome = sweep(
        *("--method", "supervised,fixmatch", "--split", "full,few", "--data-root", str(tmp_path / "data"))
    )
    assert outcome.code == 1 and "1 failed and 1 refused of 4 runs" in outcome.err, outcome
    assert {(result.method, result.split) for result in read_results(runs)} == {
        ("supervised", "few"),
        ("fixmatch", "few"),
    }
    (said,) = re.findall(r"^failed: supervised on tinyset full, seed 0: (.*)$", outcome.out, re.M)
    assert "train_" in said
    (log,) = re.findall(r"\((/.*)\)$", said)
    assert "error: " in Path(log).read_text() and Path(log).parent.parent == runs / "tinyset/full/supervised"
    needs = "refused: fixmatch on tinyset full, seed 0: method 'fixmatch' needs unlabeled images"
    assert outcome.out.count(needs) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"), [(b'{"run_id": ', "is torn"), (b'{"schema_version": 7}', "version 7")]
)
def test_a_result_that_cannot_be_read_is_listed_and_stops_no_other_run(
    sweep: Callable[..., Outcome],
    here: Callable[..., Outcome],
    tiny_config: Config,
    damage: bytes,
    words: str,
) -> None:
    from bench.plan import plan

    damaged = plan(tiny_config("supervised")).folder.result
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(damage)
    options = ("--method", "supervised", "--split", "few", "--seed", "0,1")
    assert "2 runs: 1 changed, 1 to do" in here(*options, "--status").out
    outcome = sweep(*options)
    assert outcome.code == 1 and "1 failed of 2 runs" in outcome.err, outcome
    (said,) = re.findall(r"^failed: supervised on tinyset few, seed 0: (.*)$", outcome.out, re.M)
    assert str(damaged) in said and words in said and "move it away and run it again" in said
    assert re.search(r"seed 1: mIoU .*", outcome.out) and re.search(r"│ supervised .*\(1\) │", outcome.out)
    damaged.unlink()
    assert sweep(*options).code == 0


@pytest.mark.slow
def test_a_named_sweep_from_a_file_of_the_users(sweep: Callable[..., Outcome], tmp_path: Path) -> None:
    file = tmp_path / "thresholds.yaml"
    file.write_text(THRESHOLDS)
    outcome = sweep(str(file), "--split", "few", "--seed", "0,1", "--jobs", "2")
    assert outcome.code == 0, outcome
    assert "[4/4]" in outcome.out and "fixmatch [half] on tinyset few, seed 1: mIoU" in outcome.out
    rows = [re.split(r"\s*│\s*", line)[1:-1] for line in outcome.out.splitlines() if "│" in line]
    found = {row[0]: row[1:] for row in rows}
    assert re.fullmatch(r"[\d.]+ ± [\d.]+ \(2\)", found["published"][0])
    assert found["published"][1:] == ["reference", "70.50"]
    assert (
        re.fullmatch(r"[+-][\d.]+, [+-][\d.]+ to [+-][\d.]+ \(2\)|equal to the bit.*", found["half"][1])
        and found["half"][2] == "not published"
    )
    assert "A paper; another data set" in outcome.out


def test_unknown_names_stop_the_sweep_before_it_starts(here: Callable[..., Outcome], runs: Path) -> None:
    for arguments, words in [
        (["--method", "fixmach,supervised", "--split", "few"], "did you mean 'fixmatch'"),
        (["--method", "supervised", "--split", "few,fulll"], "no split 'fulll'; did you mean 'full'"),
        (["u2pl_alfa"], "unknown sweep 'u2pl_alfa'; did you mean 'u2pl_alpha'"),
        (["--method", "supervised", "--seed", "0,x"], "whole numbers"),
        (["--method", "supervised,,fixmatch"], "a name is missing"),
        (["--method", "fixmatch", "--seed", "0", "1"], "with commas between: --seed 0,1,2"),
        (["--method", "fixmatch,supervised", "--set", "method.threshold=0.5"], "into the same --out"),
        (["--method", "supervised", "--seed", f"{2**53 + 1}"], "seed: Input should be less than or equal"),
        (["--method", "supervised", "--device", "tpu"], "unknown device 'tpu'; use auto, cpu"),
        (["--method", "fixmatch", "--split", "full"], "no run of this grid can be made"),
        (["--split", "few"], "which method?"),
    ]:
        outcome = here(*arguments)
        assert outcome.code == 2 and words in outcome.err, outcome
    place = ("--dataset", "camvid", "--split", "1_8", "--data-root", "/gone")
    gone = here("--method", "supervised", "--seed", "0,1", *place)
    assert gone.code == 3 and gone.err.count("/gone does not exist") == 1, gone
    assert not runs.exists()


def test_the_named_sweeps_are_listed(here: Callable[..., Outcome]) -> None:
    outcome = here("--list")
    assert outcome.code == 0
    for name in ablations.sweep_names():
        assert name in outcome.out
    assert "Negatives from unreliable, reliable or all pixels" in outcome.out


# The grid ---------------------------------------------------------------------------------------------------


def flags(config: RunConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", include={"dataset", "protocol", "machine"})


def test_a_grid_has_each_run_once_in_an_order_that_soon_makes_a_table(tiny_config: Config) -> None:
    span = grid.Span(methods=["supervised", "fixmatch"], splits=["few", "full", "few"], seeds=[0, 1, 0])
    cells, refused = grid.grid(span, flags=flags(tiny_config("supervised")))
    assert [cell.label for cell in cells] == [
        "supervised on tinyset few, seed 0",
        "fixmatch on tinyset few, seed 0",
        "supervised on tinyset full, seed 0",
        "supervised on tinyset few, seed 1",
        "fixmatch on tinyset few, seed 1",
        "supervised on tinyset full, seed 1",
    ]
    assert {failure.label for failure in refused} == {f"fixmatch on tinyset full, seed {n}" for n in (0, 1)}
    asked = {**flags(tiny_config("supervised")), "split": "few", "method": {"name": "fixmatch"}}
    assert cells[1].plan.run_id == plan_of(resolve(asked)).run_id, "that of `run`"


def plan_of(config: RunConfig) -> Any:
    from bench.plan import plan

    return plan(config)


def test_variants_are_the_knobs_laid_over_the_defaults(tiny_config: Config, tmp_path: Path) -> None:
    file = tmp_path / "thresholds.yaml"
    file.write_text(THRESHOLDS)
    ablation = ablations.read_ablation(file)
    config = flags(tiny_config("supervised"))
    cells, _ = grid.grid(grid.Span(splits=["few"]), ablation, config, sets=["method.ema_decay=0.9"])
    methods = [cell.plan.config.method for cell in cells]
    assert [(method["threshold"], method["ema_decay"]) for method in methods] == [(0.95, 0.9), (0.5, 0.9)]
    assert [cell.label.split(" on ")[0] for cell in cells] == ["fixmatch [published]", "fixmatch [half]"]
    for text in ("method.threshold=0.3", "method.name=cutmix"):
        with pytest.raises(ConfigError, match=f"--set {text.split('=')[0]}: the sweep itself gives"):
            grid.grid(grid.Span(splits=["few"]), ablation, config, sets=[text])
    with pytest.raises(ConfigError, match="leave --method out"):
        grid.grid(grid.Span(methods=["cutmix"], splits=["few"]), ablation, config)


def test_a_set_of_what_the_sweep_runs_over_is_refused(tiny_config: Config) -> None:
    span = grid.Span(methods=["supervised"], splits=["few"], seeds=[0, 1])
    with pytest.raises(ConfigError, match="--set seed: the sweep itself gives seed"):
        grid.grid(span, flags=flags(tiny_config("supervised")), sets=["seed=3"])


def test_states_are_told_apart(tiny_config: Config) -> None:
    span = grid.Span(methods=["supervised"], splits=["few"], seeds=[0, 1, 2, 3])
    cells, _ = grid.grid(span, flags=flags(tiny_config("supervised")))
    records = read_results(CHECKOUT / "reports" / "published")
    # One that says nothing of code and data, so that nothing of it can have changed.
    cells[0].folder.write_result(next(record for record in records if record.contents is None))
    write_atomic(cells[1].folder.checkpoint, b"")
    with cells[2].folder.claimed():
        assert [cell.state for cell in cells] == ["done", "interrupted", "running", "to do"]
        cells[2].folder.metrics.write_text('{"step": 2}\n{"step": 4}\n')
        first, _, _, running, _ = grid.listing(cells, [])
        assert first == "4 runs: 1 done, 1 running, 1 interrupted, 1 to do"
        assert re.match(
            rf"running +supervised .*seed 2: process {os.getpid()} on \S+, step 4 of \d+  /", running
        )
    write_atomic(cells[3].folder.failure, b"no memory\n")
    assert [cell.state for cell in cells] == ["done", "interrupted", "to do", "failed"]
    assert list(grid.listing(cells[3:], []))[1].startswith(f"failed       {cells[3].label}: no memory  /")


@pytest.mark.slow
def test_what_is_in_the_way_of_one_run_fails_that_run_alone(
    sweep: Callable[..., Outcome], here: Callable[..., Outcome], settings: Path
) -> None:
    span = grid.Span(methods=["supervised"], splits=["few"], seeds=[0, 1, 2])
    cells, _ = grid.grid(span, config_file=settings)
    cells[0].folder.path.parent.mkdir(parents=True)
    cells[0].folder.path.write_text("a file")
    cells[1].folder.sweep_log.mkdir(parents=True)
    cells[2].folder.result.mkdir(parents=True)
    options = ("--method", "supervised", "--split", "few", "--seed", "0,1,2,3")
    assert "1 changed, 3 to do" in here(*options, "--status").out
    outcome = sweep(*options)
    assert outcome.code == 1 and "3 failed of 4 runs" in outcome.err, outcome
    for seed, words in enumerate(["is no folder", "is no plain file", "is no plain file"]):
        assert re.search(rf"^failed: .*seed {seed}: .*{cells[seed].folder.path}.*{words}", outcome.out, re.M)
    assert re.search(r"seed 3: mIoU", outcome.out)


def test_a_folder_that_may_not_be_read_is_said(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another user's is; root, who may run the tests, can read all."""
    span = grid.Span(methods=["supervised"], splits=["few"])
    cells, _ = grid.grid(span, flags=flags(tiny_config("supervised")))

    def refuse(self: Path, *given: Any, **named: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", refuse)
    assert cells[0].state == "unreadable"
    assert next(grid.listing(cells, [])) == "1 run: 1 unreadable"


def test_options_may_be_repeated(here: Callable[..., Outcome]) -> None:
    outcome = here(
        *("--method", "supervised", "--method", "fixmatch", "--split", "few", "--seed", "0", "--seed", "1,2"),
        "--dry-run",
    )
    assert "6 runs: 6 to do" in outcome.out


@pytest.mark.slow
def test_a_second_signal_kills_runs_that_hang(
    start: Callable[..., subprocess.Popen[str]], runs: Path
) -> None:
    options = ("--method", "supervised", "--split", "few", "--set", LONG)
    process = start(*options, "--set", "machine.checkpoint_every=1")
    folder = RunFolder(wait_for(lambda: trained(runs), process))
    (child,) = children(process)
    os.kill(child, signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    time.sleep(machine.REPEAT_SECONDS + 0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    outcome = finished(process)
    assert (
        outcome.code == 75 and f"resumable: supervised on tinyset few, seed 0  {folder.path}" in outcome.out
    )
    assert "failed" not in outcome.out and folder.holder() is None
    assert finished(start(*options)).code == 0 and min(starts(runs).values())[1] > 0


@pytest.mark.slow
def test_a_run_that_is_stopped_twice_at_once_saves(
    start: Callable[..., subprocess.Popen[str]], runs: Path
) -> None:
    """As where a whole group of processes is told to stop, the sweep's runs too."""
    process = start("--method", "supervised", "--split", "few", "--set", LONG)
    folder = RunFolder(wait_for(lambda: trained(runs), process))
    (child,) = children(process)
    os.kill(child, signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    outcome = finished(process)
    assert outcome.code == 75 and "resumable" in outcome.out and "failed" not in outcome.out, outcome
    assert folder.checkpoint.exists()


@pytest.mark.slow
def test_a_run_that_is_stopped_from_elsewhere_is_said_to_be_saved(
    start: Callable[..., subprocess.Popen[str]], runs: Path
) -> None:
    process = start("--method", "supervised", "--split", "few", "--set", LONG)
    wait_for(lambda: trained(runs), process)
    os.kill(children(process)[0], signal.SIGTERM)
    outcome = finished(process)
    assert (
        outcome.code == 75 and "seed 0: failed: stopped by a signal from elsewhere, and saved" in outcome.out
    )


def test_a_failure_of_another_sweep_is_not_tried_again(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old failure is; nothing is printed where nobody listens."""
    span = grid.Span(methods=["supervised"], splits=["few"], seeds=[0, 1])
    cells, _ = grid.grid(span, flags=flags(tiny_config("supervised")))
    write_atomic(cells[0].folder.failure, b"old\n")

    def gone(line: str) -> None:
        raise BrokenPipeError

    launcher = launch._Launcher(cells, 1, gone)
    write_atomic(cells[1].folder.failure, b"no memory\n")
    assert launcher._next() is cells[0] and launcher._next() is None
    assert [failure.reason for failure in launcher.failures] == ["in another process: no memory"]


def test_no_more_jobs_than_runs(tiny_config: Config) -> None:
    cells, _ = grid.grid(
        grid.Span(methods=["supervised"], splits=["few"]), flags=flags(tiny_config("supervised"))
    )
    assert launch._Launcher(cells, 200_000_000, print).jobs == 1


# Its parts --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_in_use_has_an_exit_code_of_its_own(tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config("supervised")
    file = tmp_path / "run.yaml"
    file.write_text(config.to_yaml())
    with plan_of(config).folder.claimed():
        command = [sys.executable, "-m", "bench", "run", "--config", str(file)]
        found = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert found.returncode == InUse.exit_code == 6 and f"in use by process {os.getpid()} on " in found.stderr


def test_gpus_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-8f")
    assert launch.gpus("auto") == launch.gpus("cuda") == ["2", "GPU-8f"]
    assert launch.gpus("cpu") == launch.gpus("cuda:1") == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launch.gpus("auto") == []


def test_gpus_are_asked_of_the_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho GPU-a\necho GPU-b\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert launch.gpus("auto") == ["GPU-a", "GPU-b"]
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert launch.gpus("auto") == []

    def hang(*given: Any, **named: Any) -> Any:
        raise subprocess.TimeoutExpired("nvidia-smi", 60)

    monkeypatch.setattr(subprocess, "run", hang)
    assert launch.gpus("auto") == []


@pytest.mark.parametrize(
    ("code", "line", "words"),
    [
        (2, "error: unknown key", "unknown key"),
        (1, "", "ended with code 1 and without a result"),
        (
            -signal.SIGKILL,
            "train 3/9",
            "killed by SIGKILL (out of memory?); the same command goes on with it",
        ),
        (-signal.SIGSEGV, "", "killed by SIGSEGV; the same command goes on with it"),
    ],
)
def test_a_failure_has_a_reason(code: int, line: str, words: str) -> None:
    assert launch.reason(code, line) == words


def test_the_reason_is_the_last_line_of_this_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"earlier\nerror: old\n")
    start = log.stat().st_size
    assert launch.said(log, start) == ""
    with open(log, "ab") as file:
        file.write(b"train\nerror: first\nerror: new \xff\n  of two lines\n\n")
    assert launch.said(log, start) == "error: new \ufffd of two lines"
    assert launch.said(tmp_path / "gone", 0) == ""


def test_what_the_caller_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with launch.stop_signals() as seen:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGINT)
        assert seen == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, before)


# Named sweeps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ablations.ablation_names())
def test_a_shipped_sweep_is_sound(name: str) -> None:
    file = ablations.read_sweep(ablations.sweep_file(name))
    assert file.title and not file.title.endswith(".")
    ablation = ablations.read_ablation(ablations.sweep_file(name))
    defaults = registry.describe_method(ablation.method).knobs().model_dump(mode="json")
    reference = ablation.variants[ablation.reference]
    assert dict(reference) == {key: defaults[key] for key in ablation.varied}, "the reference is the default"


BAD = [
    (THRESHOLDS + "colour: red\n", "unknown key 'colour'"),
    (THRESHOLDS.replace("title", "titel"), "title is missing"),
    (THRESHOLDS.replace("fixmatch", "fixmach"), "unknown method 'fixmach'; did you mean 'fixmatch'"),
    (THRESHOLDS.replace("threshold", "thresold"), "did you mean 'variants.half.threshold'"),
    (THRESHOLDS.replace("0.5", "1.5"), "variants.half.threshold: Input should be less than or equal to 1"),
    (THRESHOLDS.replace("0.5", "0.95"), "'published' and 'half' are the same"),
    (THRESHOLDS.replace(", half: [null]", ""), "no row 'half'"),
    (THRESHOLDS.replace("half: [null]", "half: [null, 1.0]"), "half has 2 numbers for 1 columns"),
    (THRESHOLDS.replace("half: [null]", "half: [1.0], other: [1.0]"), "unknown variant in .*'other'"),
    (THRESHOLDS.replace("half", "''"), "variants"),
    (
        THRESHOLDS.replace("70.5", "705"),
        "published.values.published.0: .* less than or equal to 100 .given: 705",
    ),
    (
        THRESHOLDS.replace("70.5", "-1"),
        "published.values.published.0: .* greater than or equal to 0 .given: -1",
    ),
    (THRESHOLDS + "needs: {share_unlabeled: 20}\n", "needs.share_unlabeled: .* .given: 20"),
    (
        THRESHOLDS + "needs: {unlabeled_share: 0.2}\n",
        "needs.unlabeled_share: .* with share_ or gradient_share/",
    ),
]


@pytest.mark.parametrize(("text", "words"), BAD)
def test_a_faulty_sweep_is_refused_with_its_file(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        ablations.read_ablation(file)
    assert str(file) in str(caught.value)


def test_the_sweeps_of_methods_that_are_not_here_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [ablation.name for ablation in ablations.sweeps_of(["u2pl", "fixmatch"])]
    assert names == [name for name in ablations.ablation_names() if not name.startswith("u2pl_weak")]
    assert len(names) == 7 and ablations.sweeps_of(["fixmatch"]) == []
    monkeypatch.setattr(registry, "method_names", lambda: ["fixmatch"])
    assert ablations.sweeps_of(["u2pl"]) == []


def test_strong_views_are_two_tables_of_four_methods_under_the_same_boxes(tiny_config: Config) -> None:
    named = ablations.read_named(ablations.sweep_file("strong_views"))
    config = flags(tiny_config("supervised"))
    knobs = ["method.rank_low=1"]  # the published rank leaves nothing of three classes
    with pytest.raises(ConfigError, match="rank_low"):
        grid.grid(grid.Span(splits=["few"]), named, config, sets=knobs)  # supervised has no such knob
    cells, refused = grid.grid(grid.Span(splits=["few"]), named, config)
    assert not refused and [cell.label.split(" on ")[0] for cell in cells] == [
        f"{method} [{name}]"
        for name in ("colours", "no colours")
        for method in ("supervised", "cutmix", "u2pl", "fixmatch")
    ]
    assert [cell.plan.config.protocol.views for cell in cells] == ["equal"] * 4 + ["plain"] * 4
    hashes = [cell.plan.config.protocol.hash for cell in cells]
    assert len(set(hashes[:4])) == len(set(hashes[4:])) == 1 and hashes[0] != hashes[4]
    with pytest.raises(ConfigError, match="--set protocol.views: the sweep itself gives protocol.views"):
        grid.grid(grid.Span(splits=["few"]), named, config, sets=["protocol.views=equal"])
    with pytest.raises(ConfigError, match="is of supervised, cutmix, u2pl, fixmatch; leave --method out"):
        grid.grid(grid.Span(methods=["cutmix"], splits=["few"]), named, config)


VIEWS = """
title: Views
methods: [supervised, fixmatch]
settings: {equal: {protocol.views: equal}, plain: {protocol.views: plain}}
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (VIEWS + "colour: red\n", "unknown key 'colour'"),
        (VIEWS.replace("fixmatch", "fixmach"), "unknown method 'fixmach'"),
        (VIEWS.replace("{protocol.views: plain}", "{protocol.steps: 3}"), "must give the same keys"),
        (VIEWS.replace(", plain: {protocol.views: plain}", ""), "settings"),
    ],
)
def test_a_faulty_comparison_is_refused_with_its_file(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        ablations.read_named(file)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read .*gone.yaml"):
        ablations.read_ablation(ablations.sweep_file(str(tmp_path / "gone.yaml")))
