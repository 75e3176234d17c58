"""The README's commands: read from its first block, complete by themselves, typed where there is no uv."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()
TOX = configparser.ConfigParser()
TOX.read(ROOT / "tox.ini")


def commands() -> list[str]:
    """The lines that `.ci/run` types."""
    done = subprocess.run(["bash", ROOT / ".ci" / "readme"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def git(folder: Path, *arguments: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def bare_environment() -> dict[str, str]:
    """The caller's environment without uv and without the Python that runs the tests."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    folders = [folder for folder in folders if not any((folder / name).exists() for name in ("uv", "uvx"))]
    # Neither the environment of the tests nor the one that tox has beside it.
    path = [str(folder) for folder in folders if not (folder.parent / "pyvenv.cfg").exists()]
    own = ("UV", "TOX", "VIRTUAL_ENV", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return {**kept, "PATH": os.pathsep.join(path)}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The files of this checkout, in a repository of their own."""
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard"):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    return tmp_path


def test_the_first_block_holds_two_commands_that_need_nothing_beforehand() -> None:
    block = re.search(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert block and block[1].splitlines() == commands()
    run, tests = commands()
    setup = "python3 -m pip install -qU --target .uv uv && "
    assert run.startswith(f"{setup}.uv/bin/uv run python -m bench run --method ")
    assert re.fullmatch(rf"{re.escape(setup)}\.uv/bin/uvx --with tox-uv tox( *#.*)?", tests)


def test_every_environment_is_run_by_default_or_named_in_the_readme_and_run_by_ci() -> None:
    default = TOX["tox"]["env_list"].split(", ")
    others = re.search(r"--with tox-uv tox -e (\S+)", README)
    assert others and f"environments={others[1]}\n" in CI
    environments = [name.removeprefix("testenv:") for name in TOX.sections() if name.startswith("testenv:")]
    assert sorted([*default, *others[1].split(",")]) == sorted(environments)


@pytest.mark.slow
def test_the_first_command_scores_what_is_said_of_it_on_one_thread_too(tmp_path: Path) -> None:
    """`.ci/run` looks at the run with as many threads as the machine has."""
    options = commands()[0].partition("python -m bench ")[2].partition("  #")[0].split()
    run = [sys.executable, "-m", "bench", *options, "--threads", "1", "--out", str(tmp_path / "runs")]
    subprocess.run(run, cwd=ROOT, check=True, capture_output=True)
    shutil.copy2(ROOT / "README.md", tmp_path)
    look = [sys.executable, str(ROOT / ".ci" / "expected")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(look, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = README.replace("and 48 to 56 with", "and 90 to 99 with")
    assert text != README
    (tmp_path / "README.md").write_text(text)
    assert subprocess.run(look, cwd=tmp_path, env=environment, check=False).returncode == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "more"), [(0, "--dry-run"), (1, "-e lint --notest")], ids=["run", "tests"]
)
def test_a_command_sets_up_all_it_needs_where_there_is_no_uv(scratch: Path, number: int, more: str) -> None:
    environment = bare_environment()
    assert shutil.which("uv", path=environment["PATH"]) is None
    command = f"{commands()[number].partition('  #')[0]} {more}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=scratch, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if number == 0:
        assert "method:" in done.stdout and "u2pl" in done.stdout
        assert "3.11." in (scratch / ".venv" / "pyvenv.cfg").read_text()
    assert git(scratch, "ls-files", "--others", "--exclude-standard") == []  # what it made is ignored
