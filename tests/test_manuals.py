"""The READMEs: short enough, and what they say to type can be typed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from bench import cli
from bench.settings import registry

ROOT = Path(__file__).resolve().parent.parent
FILES = (
    "README.md",
    "bench/README.md",
    "methods/README.md",
    "datasets/README.md",
    "datasets/FEW_IMAGES.md",
    "reports/README.md",
    "bench/settings/protocols/README.md",
)
TEXTS = {file: (ROOT / file).read_text() for file in FILES}


def blocks(language: str) -> Iterator[object]:
    """A parameter for each fenced block of that language, with its file and line."""
    for file, text in TEXTS.items():
        for found in re.finditer(rf"^( *)```{language}\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE):
            lines = [line.removeprefix(found[1]) for line in found[2].splitlines()]
            yield pytest.param(
                "\n".join(lines) + "\n", id=f"{file}:{text[: found.start()].count(chr(10)) + 1}"
            )


def commands() -> Iterator[object]:
    """A parameter for each `python -m bench ...`, in blocks and in prose."""
    for file, text in TEXTS.items():
        for number, line in enumerate(text.splitlines(), 1):
            for found in re.finditer(r"python -m bench ([^`&|]+)", line):
                words = shlex.split(found[1], comments=True)
                yield pytest.param(words, id=f"{file}:{number} {words[0]}")


def first_column(file: str, heading: str) -> set[str]:
    """The names in the first column of the table under such a head."""
    table = TEXTS[file].split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    return set(re.findall(r"^\| `([a-z0-9_-]+)`", table, re.MULTILINE))


@pytest.mark.parametrize("words", commands())
def test_a_command_parses(words: list[str]) -> None:
    command = typer.main.get_command(cli.app)
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    command.make_context("bench", words)


@pytest.mark.parametrize("block", blocks("sh"))
def test_a_shell_block_is_one(block: str) -> None:
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"))
def test_a_python_block_runs(block: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("py"))
def test_a_block_on_a_trained_network_runs(block: str, tmp_path: Path) -> None:
    """The network is trained here, in the place of the one that the block names."""
    before = (
        "import bench, numpy as np\nfrom PIL import Image\n"
        "made = bench.run(method='supervised', dataset='shapes', set={'protocol.steps': 2}, out='runs')\n"
        "array = np.zeros((40, 50, 3), np.uint8)\nImage.fromarray(array).save('photo.jpg')\n"
    )
    named, count = re.subn(r'"(runs/[^"]+)/0-[0-9a-f]+"', r'f"\1/0-{made.run_id}"', block)
    named = named.replace("/u2pl/", "/supervised/")
    after = "assert ids.shape == probabilities.shape[1:] == found.ids.shape == (40, 50)\n"
    done = subprocess.run(
        [sys.executable, "-c", before + named + after],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert count == 1 and done.returncode == 0, done.stderr


def make_folder(folder: Path, images: int) -> None:
    """A data set of squares on noise as the front page draws it: a third of them is scored."""
    generator = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(images):
        mask = np.zeros((48, 64), np.uint8)
        mask[8 + number % 16 :, 16:40] = 1
        colours = generator.integers(0, 80, (48, 64, 3)) + 120 * mask[..., None]  # H W C
        Image.fromarray(colours.astype(np.uint8)).save(folder / "images" / f"{number:02}.jpg")
        Image.fromarray(mask).save(folder / "labels" / f"{number:02}.png")
    ids = [f"{number:02}\n" for number in range(images)]
    (folder / "train.txt").write_text("".join(ids[: 2 * images // 3]))
    (folder / "test.txt").write_text("".join(ids[2 * images // 3 :]))
    (folder / "classes.txt").write_text("ground\nsquare\n")


@pytest.mark.slow
def test_the_own_images_of_the_front_page_are_compared_and_predicted(tmp_path: Path) -> None:
    """Its lines as they stand; the sweep is the trial that it recommends, in fewer steps yet."""
    section = TEXTS["README.md"].split("## Your own images", 1)[1].split("\n## ", 1)[0]
    lines = re.findall(r"^uv run python (-m bench .+)$", section, re.MULTILINE)
    assert [line.split()[2] for line in lines] == ["data", "sweep", "predict"]
    make_folder(tmp_path / "DIR" / "mine", 48)
    shutil.copytree(tmp_path / "DIR" / "mine" / "images", tmp_path / "photos")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    data, sweep, predict = (shlex.split(line) for line in lines)
    sweep[sweep.index("--seed") + 1] = "0"
    sweep += shlex.split("--set protocol.steps=6 --set protocol.crop=[32,32]")
    methods = sweep.index("--method") + 1
    assert sweep[methods] == "supervised,fixmatch,u2pl"
    u2pl = [*sweep, "--set", "method.warmup=2"]  # of the six steps
    sweep[methods], u2pl[methods] = "supervised,fixmatch", "u2pl"
    for options in (data, sweep, u2pl, predict):
        command = [sys.executable, *options]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    told = re.search(r"```\n(masks/a.png.*?)```", section, re.DOTALL)
    assert told
    names = [line.split()[0] for line in told[1].splitlines() if " with --" not in line]
    for name in names:
        found = name.replace("/a.", "/01.")
        assert (tmp_path / "out" / found).stat().st_size, found


@pytest.mark.slow
def test_the_example_of_a_method_keeps_the_contract(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", TEXTS["methods/README.md"], re.DOTALL | re.MULTILINE)
    (tmp_path / "example_method.py").write_text(example)
    command = [sys.executable, "-m", "bench.testing", "example_method:Mine"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES)
def test_a_link_leads_somewhere(file: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", TEXTS[file]):
        path = (ROOT / file).parent / target if target else ROOT / file
        assert path.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads], (
                anchor
            )


@pytest.mark.parametrize("file", FILES)
def test_a_test_that_is_named_is_there(file: str) -> None:
    for name in re.findall(r"\btests/[\w/.]*\w", TEXTS[file]):
        assert (ROOT / name).exists(), name


def test_the_front_page_is_short_and_its_picture_small() -> None:
    assert len(TEXTS["README.md"].splitlines()) < 150
    (picture,) = re.findall(r"!\[[^]]+\]\((.+?)\)", TEXTS["README.md"])
    assert (ROOT / picture).stat().st_size < 120_000


def test_the_tables_of_names_are_complete() -> None:
    known = set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    assert first_column("bench/README.md", "command") == known
    # A method that somebody adds needs no line here.
    assert first_column("methods/README.md", "method") <= set(registry.method_names())
    assert len(first_column("methods/README.md", "method")) == 25
