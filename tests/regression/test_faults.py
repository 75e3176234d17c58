"""The tables of the gate's runs and of the planted faults hold together; the runs themselves take hours."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import exact
import gate
import plant
import plants
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
from gate_records import record

from bench import cli
from bench.ops.queues import Queues
from bench.plan import plan
from bench.settings import registry
from bench.settings.resolve import resolve
from datasets.loaders import StepBatches


@pytest.mark.slow
def test_the_gate_runs_every_method_with_settings_that_hold() -> None:
    asked = {method for of in (*gate.grid()["sweeps"], *gate.grid()["exact"]) for method in of["methods"]}
    # classifier: by its runs for CAM seeds; the others are `supervised` bit for bit, see test_equal_views.py.
    left_out = {"classifier", "supervised_colours", "supervised_plain"}
    known = set(registry.method_names())
    listed = re.findall(r"^\| `(\w+)` \|", (exact.ROOT / "methods" / "README.md").read_text(), re.MULTILINE)
    # A file that an author adds is not asked for: the list of our own is the manual's.
    assert known & set(listed) <= asked | left_out <= known
    for name in plants.CASES:
        for job in (job for job in plant.jobs_of(name) if job.seed == gate.grid()["seeds"][0]):
            words = job.arguments(Path("out"))
            sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
            flags = {"method": {"name": job.method}, "split": job.split, "seed": job.seed}
            config = plan(resolve(flags, None, sets)).config
            assert config.machine.threads == {"two_threads": 2, "three_threads": 3}.get(name, 1)


@pytest.mark.parametrize("name", [*plants.FAULTS, *plants.SUBTLE])
def test_a_fault_replaces_what_is_there_and_puts_it_back(name: str) -> None:
    """A name that the code no longer has would plant nothing: patch refuses it."""
    places = [Queues.push, StepBatches._label, inspect.getattr_static(cli, "main")]
    with plants.CASES[name].plant():
        pass
    assert places == [Queues.push, StepBatches._label, inspect.getattr_static(cli, "main")]
    assert (len(plants.FAULTS), len(plants.SUBTLE)) == (10, 5)


def test_short_runs_have_settings_that_hold() -> None:
    """Of every method of the gate, with knobs that make its rules decide within a few steps."""
    for cell in exact.cells():
        sets = [f"{name}={json.dumps(value)}" for name, value in exact.settings_of(cell).items()]
        config = plan(resolve({"method": {"name": cell.method}, "split": cell.split}, None, sets)).config
        assert config.protocol.steps == 16 and config.machine.threads == 1
    assert exact.settings_of(exact.Cell("u2pl", "1_8"))["method.warmup"] == 0.25
    assert "method.ema_decay" not in exact.settings_of(exact.Cell("supervised", "1_8"))


def test_without_the_history_the_exact_gate_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a shallow clone, or outside git."""
    monkeypatch.setattr(exact, "ROOT", tmp_path)
    with pytest.raises(exact.Failed, match="is not in this checkout .*git fetch --unshallow"):
        exact.unpack("0" * 40, tmp_path / "code")


def test_the_commit_to_compare_with_is_recorded_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    file = tmp_path / "exact.yaml"
    file.write_text("# Why.\ncommit: none\nreason: none\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        git(*words)
    monkeypatch.setattr(exact, "ROOT", tmp_path)
    monkeypatch.setattr(exact, "REFERENCE", file)
    exact.record("another default")
    assert exact.reference() == git("rev-parse", "HEAD")
    assert file.read_text().startswith("# Why.\n") and "reason: another default" in file.read_text()
    exact.unpack(exact.reference(), tmp_path / "code")
    assert "commit: none" in (tmp_path / "code" / "exact.yaml").read_text()
    with pytest.raises(exact.Failed, match="changes that no commit holds"):
        exact.record("again")


def test_a_run_whose_bits_moved_is_named_and_what_only_one_side_has_is_not(tmp_path: Path) -> None:
    for root, miou in (("before", 0.5), ("now", 0.6)):
        record(tmp_path / root, miou=miou)
        record(tmp_path / root, method="fixmatch", run_id="89abcdef")
    record(tmp_path / "now", method="new", run_id="9abcdef0")
    found = dict(exact.changes(tmp_path / "before", tmp_path / "now"))
    assert found == {"u2pl on few": "log, miou", "fixmatch on few": None}
