"""Names: the same rule in every command, and none that drives a terminal."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest
import typer
from commandline import Typed
from rich.table import Table

from bench import cli, load
from bench.commands import look, options
from bench.display import Terminal
from bench.errors import BenchError, ConfigError, DataError, check_name, nearest, plain
from bench.settings import registry
from bench.settings.base import expanded
from datasets.folder import Folder
from datasets.splits import find_split, known_splits

HOSTILE = (
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\u202ered",
    "\u200bred",
    "red\x08\x08",
    "\u2066red",
    "\x9b31m",
    "a\u2028b",
)
FINE = ("mine", "2024-leaves.v1", "_x", "a+b", "blätter", "ble\u0301s", "葉", "листья", "पत्ते", "٣", "x" * 200)
BAD = (
    *(
        "my data",
        "",
        " ",
        "a b",
        "a/b",
        "../x",
        ".",
        "..",
        ".hidden",
        "-x",
        "+x",
        "a\\b",
        "a:b",
        "a*b",
        "a?b",
    ),
    *("a\tb", "a\nb", "a\u00a0b", "a,b", "a'b", '"a"', "$x", "~x", "x" * 201, "葉" * 67, "\ud800", "\u0301"),
    *HOSTILE,
)


@pytest.mark.parametrize("name", FINE)
def test_a_name_of_letters_and_digits(name: str) -> None:
    check_name(name, "a data set")


@pytest.mark.parametrize("name", BAD)
def test_another_name_is_refused_by_each_reader(name: str, tmp_path: Path) -> None:
    for read in (
        lambda: check_name(name, "a data set"),
        lambda: known_splits(name, tmp_path),
        lambda: find_split(name, "full", tmp_path),
        lambda: registry.load_dataset(name, tmp_path),
    ):
        with pytest.raises(ConfigError, match="cannot name a data set") as caught:
            read()
        assert str(caught.value).isprintable()


def test_the_name_that_is_offered_can_be_taken() -> None:
    for name in BAD:
        with pytest.raises(ConfigError) as caught:
            check_name(name, "a data set")
        for other in re.findall(r"such as '([^']+)'", str(caught.value)):
            check_name(other, "a data set")


def my_data(root: Path) -> Path:
    (root / "my data").mkdir(parents=True)
    (root / "my data" / "classes.txt").write_text("a\nb\n")
    return root


@pytest.mark.parametrize(
    "words",
    [
        ("data", "splits", "--make"),
        ("data", "splits"),
        ("data", "splits", "--name", "x", "--labeled", "l.txt"),
        ("data", "verify"),
        ("data", "stats"),
        ("run", "--method", "supervised", "--split", "full", "--dry-run"),
        ("sweep", "--method", "supervised", "--split", "full", "--seed", "0", "--dry-run"),
    ],
)
def test_the_first_command_refuses(words: tuple[str, ...], tmp_path: Path) -> None:
    root = my_data(tmp_path)
    command = typer.main.get_command(cli.app)
    with pytest.raises(ConfigError, match="'my data' cannot name a data set: .* such as 'my_data'"):
        command.main([*words, "--dataset", "my data", "--data-root", str(root)], standalone_mode=False)
    assert [path.name for path in (root / "my data").iterdir()] == ["classes.txt"]


def test_the_list_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(options.out, "width", 200)
    look.list_(my_data(tmp_path))
    said = capsys.readouterr().out
    assert "my data" in said and "cannot be used: 'my data' cannot name a data set" in said
    (sets,) = [one for one in look._listed(tmp_path)["datasets"] if one["name"] == "my data"]
    assert sets == {"name": "my data", "splits": [], "draws": [], "heldout": 0, "protocol": "folder"}


# What is printed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_all_that_is_printed_goes_through_one_function(name: str) -> None:
    for colour in (False, True):
        terminal = Terminal()
        terminal.file, terminal._force_terminal = io.StringIO(), colour
        table = Table("class", title=name)
        table.add_row(name)
        for thing in (table, name, f"[bold]x[/bold] {name}"):
            terminal.print(thing, soft_wrap=True)
        said = re.sub(r"\x1b\[[\d;]*m", "", terminal.file.getvalue()) if colour else terminal.file.getvalue()
        kept = set(said) - {"\n"}
        assert all(c.isprintable() for c in kept), said
        assert "[31m" not in terminal.file.getvalue().replace("\N{REPLACEMENT CHARACTER}[31m", "")


def test_other_letters_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    options.say("Straße café 葉 :car: [bold] पत्ते\nb")
    assert capsys.readouterr().out == "Straße café 葉 :car: [bold] पत्ते\nb\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_class_name_is_refused_where_it_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "classes.txt").write_bytes(f"background\n{name}\n".encode())
    with pytest.raises(DataError, match=r"classes\.txt: line 2, ") as caught:
        Folder(tmp_path / "mine", "mine")
    assert plain(str(caught.value)) == str(caught.value)
    (tmp_path / "mine" / "classes.txt").write_text("background\nred\n")
    monkeypatch.setattr(Folder, "__init__", lambda self, *_: setattr(self, "classes", ("a", name)))
    with pytest.raises(DataError, match="data set 'mine' has the class .*cannot be printed") as caught:
        registry.load_dataset("mine", tmp_path)  # as that of a plug-in
    assert plain(str(caught.value)) == str(caught.value)


def test_a_method_of_a_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = registry.load_method("supervised")
    for doc in HOSTILE:
        hostile = type("Hostile", (cls,), {"__doc__": f"Fine.\n\n{doc}", "__module__": cls.__module__})
        with pytest.raises(ConfigError, match="characters that cannot be printed") as caught:
            registry.describe_class("hostile", hostile)
        assert plain(str(caught.value)) == str(caught.value)
    for name in HOSTILE:
        with pytest.raises(ConfigError, match="cannot name a method"):
            registry.describe_method(name)


# Paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("~/data", "HOME/data"),
        ("--data-root=~/data", "--data-root=HOME/data"),
        ("machine.out=~/runs", "machine.out=HOME/runs"),
        ("~", "HOME"),
        ("~nobody-of-this-name/x", "~nobody-of-this-name/x"),
        ("a~b", "a~b"),
        ("x=1", "x=1"),
        ("method.threshold=0.9", "method.threshold=0.9"),
    ],
)
def test_a_tilde_is_the_home_in_every_option(
    word: str, meant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert options._with_home(word) == meant.replace("HOME", str(tmp_path))


def test_a_tilde_in_commands_and_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    my_data(tmp_path / "data").joinpath("my data").rename(tmp_path / "data" / "mine")
    command = typer.main.get_command(cli.app)
    reached = re.escape(str(tmp_path / "data" / "mine" / "train.txt"))
    stats = ["data", "stats", "--dataset", "mine", "--list", "train"]
    for more in (["--data-root", "~/data"], ["--data-root=~/data"]):
        with pytest.raises(DataError, match=reached):
            command.main([*stats, *more], standalone_mode=False)
    monkeypatch.setenv("BENCH_DATA", "~/data")
    with pytest.raises(DataError, match=reached):
        command.main(stats, standalone_mode=False)
    run = ["run", "--method", "supervised", "--dry-run", "--config=~/none.yaml"]
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "none.yaml"))):
        command.main(run, standalone_mode=False)
    with pytest.raises(BenchError, match=re.escape(str(tmp_path / "runs"))):
        load("~/runs")
    assert expanded("~/x") == Path(os.path.expanduser("~/x"))
    with pytest.raises(ConfigError, match="write the folder out"):
        expanded("~nobody-of-this-name/x")


def test_capitals_are_no_slip() -> None:
    assert nearest("SQUARE", ["circle", "square"]) == "square"
    assert nearest("Protocol.Steps", ["protocol.steps"]) == "protocol.steps"
    assert nearest("round", ["circle", "square"]) is None


@pytest.mark.parametrize("command", ["show", "resume", "score", "export", "predict"])
def test_a_path_that_no_disk_can_hold_is_a_sentence(typed: Typed, tmp_path: Path, command: str) -> None:
    more = {"export": ["--to", "net.onnx"], "predict": ["--images", str(tmp_path), "--to", "out"]}
    outcome = typed(command, "x" * 300, *more.get(command, []))
    outcome.refused(2, "xxx...: ", "give a shorter path")
    assert len(outcome.err) < 200


@pytest.mark.parametrize(
    "words",
    [
        ["check", "--junit"],
        ["check", "--update", "--reason", "new", "--baseline"],
        ["export", "run", "--to"],
        ["show", "run", "--images", "1", "--to"],
    ],
    ids=lambda words: words[0],
)
def test_a_result_takes_no_device_or_pipe_away(typed: Typed, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "run").mkdir()
    pipe = tmp_path / {"export": "net.onnx", "show": "sheet.png"}.get(words[0], "place")
    os.mkfifo(pipe)
    words = [str(tmp_path / "run") if word == "run" else word for word in words]
    typed(*words, str(pipe)).refused(2, f"{pipe} is no plain file", "give another name")
    assert pipe.is_fifo()
