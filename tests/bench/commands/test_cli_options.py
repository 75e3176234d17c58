"""Options that save a newcomer time: hints, ranges of seeds, protocol files, completion in bash."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bench.commands.options import numbers, spans
from bench.errors import ConfigError, nearest
from bench.settings.reading import PROTOCOLS
from bench.settings.resolve import command, resolve
from bench.settings.schema import RunConfig

CHECKOUT = Path(__file__).resolve().parents[3]
BENCH = Path(sys.executable).with_name("bench")
Config = Callable[..., RunConfig]


def bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)], cwd=CHECKOUT, capture_output=True, text=True
    )


# Hints


@pytest.mark.parametrize(
    ("word", "names", "meant"),
    [
        ("thresold", ["negatives", "ema_decay"], None),
        ("thresold", ["negatives", "threshold"], "threshold"),
        ("method.thresold", ["method.negatives", "method.threshold"], "method.threshold"),
        ("method.thresold", ["method.negatives", "method.queue_keys"], None),
        ("trian", ["run", "train"], "train"),
        ("rn", ["run", "resume"], "run"),
        ("steps", ["dataset", "protocol.steps"], "protocol.steps"),
        ("ab", ["cd"], None),
        ("abcdefgh", ["abxyefgh"], "abxyefgh"),
        ("abcdefgh", ["abxyzfgh"], None),
        ("abcdefghijkl", ["abcdxyzhijkl"], None),
        ("", ["a"], None),
    ],
)
def test_a_hint_is_near_or_not_given(word: str, names: list[str], meant: str | None) -> None:
    assert nearest(word, names) == meant


@pytest.mark.parametrize("typed", ["runn", "train"])  # like a command, and like a word for one
def test_a_mistyped_command_is_met_with_run(typed: str) -> None:
    done = bench(typed)
    assert done.returncode == 2 and f"No such command '{typed}'. Did you mean 'run'?" in done.stderr


def test_a_command_like_no_other_gets_no_hint() -> None:
    done = bench("frobnicate")
    assert done.returncode == 2 and "No such command" in done.stderr and "Did you mean" not in done.stderr


# Seeds


@pytest.mark.parametrize(
    ("texts", "seeds"),
    [(["0-4"], [0, 1, 2, 3, 4]), (["0-2", "7"], [0, 1, 2, 7]), (["3", "3-3", "2-4"], [3, 2, 4]), ([], [])],
)
def test_seeds_are_numbers_and_ranges(texts: list[str], seeds: list[int]) -> None:
    assert numbers("--seed", texts, "seeds") == seeds


@pytest.mark.parametrize("text", ["-1", "1-", "1-2-3", "a-b", "1.5", "4-0", "0-20260101", "²"])
def test_no_other_seeds(text: str) -> None:
    with pytest.raises(ConfigError, match="--seed"):
        numbers("--seed", [text], "seeds")


@pytest.mark.parametrize(
    ("found", "text"), [([0], "0"), ([0, 1, 2, 7], "0-2,7"), ([1, 3, 4], "1,3-4"), ([], "")]
)
def test_numbers_are_shown_as_they_are_given(found: list[int], text: str) -> None:
    assert spans(found) == text and numbers("--draw", [text] if text else [], "draws") == found


@pytest.mark.slow
def test_a_sweep_takes_a_range(tmp_path: Path) -> None:
    grid = ("--method", "supervised", "--out", tmp_path, "--dry-run")
    done = bench("sweep", "--seed", "0-2,7", *grid)
    assert done.returncode == 0 and "4 runs: 4 to do" in done.stdout and "seed 7" in done.stdout


# Protocol files


@pytest.mark.parametrize(
    ("command", "option", "given", "said"),
    [
        (
            "run",
            "--draw",
            "0-1",
            "'0-1' is several numbers, and this command takes one; `sweep` takes",
        ),
        ("cam-seeds", "--seed", "0,1", "'0,1' is several numbers"),
        ("run", "--seed", "1.5", "'1.5' is no whole number."),
    ],
)
def test_a_range_where_one_number_is_needed(command: str, option: str, given: str, said: str) -> None:
    done = bench(command, option, given)
    told = " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode == 2 and f"Invalid value for '{option}': {said}" in told


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The protocol `shapes`, shorter, as a file of a user's."""
    file = tmp_path / "mine.yaml"
    settings = yaml.safe_load((PROTOCOLS / "shapes.yaml").read_text())
    file.write_text(yaml.safe_dump({**settings, "steps": 7}))
    return file


def test_a_protocol_file_goes_by_its_name_and_is_hashed_by_its_content(own: Path) -> None:
    flags = {"method": {"name": "fixmatch"}}
    config = resolve({**flags, "protocol": {"name": str(own)}}, None, ["split=tags"])
    named = resolve({**flags, "protocol": {"name": "shapes"}}, None, ["split=tags", "protocol.steps=7"])
    assert config.protocol.name == "mine" and config.protocol.steps == 7
    assert config.protocol.hash == named.protocol.hash
    assert config.method["ema_decay"] == 0.99, "its knobs hold"
    assert config.cam_seeds is not None and config.cam_seeds.scales == (1.0, 1.5, 2.0)
    assert resolve({**flags, "protocol": {"name": str(own)}}, None, ["protocol.steps=9"]).protocol.steps == 9


def test_a_saved_run_needs_its_protocol_file_no_more(own: Path, tmp_path: Path) -> None:
    config = resolve({"method": {"name": "fixmatch"}, "protocol": {"name": str(own)}})
    own.unlink()
    saved = tmp_path / "config.yaml"
    saved.write_text(config.to_yaml())
    assert resolve({}, saved) == config
    sets = command(config)
    again = resolve({"method": {"name": "fixmatch"}}, None, [w for w in sets if "=" in w])
    assert again.protocol.hash == config.protocol.hash, "the recorded command gives the same run"


def test_a_protocol_file_is_refused_with_a_sentence(own: Path, tmp_path: Path) -> None:
    def refused(name: Path | str, config: Path | None = None) -> str:
        with pytest.raises(ConfigError) as caught:
            resolve({"method": {"name": "fixmatch"}, "protocol": {"name": str(name)}}, config)
        return str(caught.value)

    assert "cannot read" in refused(tmp_path / "absent.yaml")
    taken = own.rename(tmp_path / "camvid.yaml")
    assert "rename the file" in refused(taken)
    named = tmp_path / "named.yaml"
    named.write_text(f"name: other\n{taken.read_text()}")
    assert "leave name out" in refused(named)
    part = tmp_path / "part.yaml"
    part.write_text("steps: 7\n")
    assert f"{part}: network is missing" in refused(part)
    saved = tmp_path / "config.yaml"
    saved.write_text(resolve({"method": {"name": "fixmatch"}}).to_yaml())
    own = taken.rename(tmp_path / "mine.yaml")
    assert "holds the whole protocol 'shapes'" in refused(own, saved)


# Help


def test_the_help_of_run_shows_defaults() -> None:
    said = " ".join(bench("run", "--help").stdout.replace("│", " ").split())
    for default in (
        "shapes",
        "1_16",
        "0",
        "runs",
        "auto",
        "the data set's own",
        "the cores, less the workers",
    ):
        assert f"[default: ({default})]" in said, default


@pytest.mark.parametrize(
    ("program", "not_wanted"),
    [
        ("from bench import cli; cli.main()", ("torch", "numpy", "pandas", "pydantic", "yaml")),
        ("import bench.commands.options", ("bench.settings", "bench.records", "pydantic", "yaml")),
    ],
)
def test_help_loads_what_it_prints_with_and_no_more(program: str, not_wanted: tuple[str, ...]) -> None:
    program = f"import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {program}"
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"], cwd=CHECKOUT, capture_output=True, text=True
    )
    loaded = set(done.stderr.split())
    assert done.returncode == 0 and {"typer", "bench.errors"} <= loaded
    assert not loaded & set(not_wanted)


# Completion


@pytest.mark.slow
@pytest.mark.parametrize(
    "show", ["bench --show-completion", "bench --show-completion bash", "_BENCH_COMPLETE=source_bash bench"]
)
def test_completion_binds_the_installed_command_alone(show: str) -> None:
    environment = {**os.environ, "PATH": f"{BENCH.parent}{os.pathsep}{os.environ['PATH']}"}
    program = f"""
        eval "$({show})"; complete -p
        for typed in 'ru' 'run --meth'; do
            COMP_WORDS=(bench $typed); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE="bench $typed"
            COMP_POINT=${{#COMP_LINE}}
            _bench_completion bench; echo "${{COMPREPLY[@]}}"
        done"""
    done = subprocess.run(
        ["bash", "--norc", "-c", program], env=environment, capture_output=True, text=True, cwd=CHECKOUT
    )
    bound, run, method = done.stdout.splitlines()
    assert bound == "complete -o default -F _bench_completion bench", done
    assert (run, method) == ("run", "--method")


def test_python_m_bench_offers_no_completion() -> None:
    assert "completion" not in bench("--help").stdout
    assert bench("--show-completion").returncode == 2
