"""YAML is data: what could stall, run or surprise is refused within a second, by name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import ConfigError
from bench.settings import registry
from bench.settings.plain_yaml import MOST_BYTES, MOST_VALUES, parse, read_yaml
from bench.settings.reading import parse_assignment, read_protocol
from bench.settings.resolve import resolve
from bench.sweeps.ablations import read_sweep

BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
REFUSED = {
    "anchors": (BOMB, "anchors and aliases"),
    "an anchor alone": ("protocol: &p {steps: 1}\n", "anchors and aliases"),
    "an alias to itself": ("a: &a [*a]\n", "anchors and aliases"),
    "deep": ("a: " + "[" * 1000, "nested more than 20 deep"),
    "deep and closed": ("a: " + "[" * 500 + "]" * 500 + "\n", "nested more than 20 deep"),
    "deep mappings": ("{a: " * 30 + "1" + "}" * 30, "nested more than 20 deep"),
    "deep blocks": ("".join(f"{' ' * n}a:\n" for n in range(100)), "nested more than 20 deep"),
    "many values": (f"a: [{'1,' * 2 * MOST_VALUES}]\n", "more than 5000 values"),
    "many keys": ("".join(f"k{n}: 1\n" for n in range(MOST_VALUES)), "more than 5000 values"),
    "long": ("a: " + "x " * MOST_BYTES, "longer than 100000 bytes"),
    "a merge key": ("<<: {seed: 1}\n", "key '<<' is not text"),
    "a key twice": ("seed: 1\nseed: 2\n", "line 2: key seed stands twice"),
    "a key twice inside": ("protocol: {steps: 1, steps: 1}\n", "steps stands twice"),
    "a number as a key": ("1: 2\n", "key '1' is not text; put the key in quotes"),
    "null as a key": ("null: 2\n", "key 'null' is not text"),
    "a truth as a key": ("on: 2\n", "key 'on' is not text"),
    "a date as a key": ("2024-01-01: 2\n", "is not text"),
    "a list as a key": ("? [a]\n: 1\n", "a list or mapping as a key is not text"),
    "a date": ("split: 2024-01-01\n", "2024-01-01 is read as a date; put it in quotes"),
    "no date": ("split: 2024-02-31\n", "is read as a date"),
    "a time": ("split: 2024-01-01 10:00:00\n", "is read as a date"),
    "NaN": ("protocol: {clip: .nan}\n", ".nan is no finite number"),
    "infinity": ("protocol: {clip: -.INF}\n", "-.INF is no finite number"),
    "too large": ("protocol: {clip: 1e999}\n", "1e999 is no finite number"),
    "octal": ("seed: 010\n", "010 is no plain whole number"),
    "base sixty": ("seed: 1:30\n", "1:30 is no plain whole number"),
    "thousands of digits": (f"seed: {'9' * 5000}\n", "too long for a number"),
    "code": ("seed: !!python/object/apply:os.system [true]\n", "the tag"),
    "a name of code": ("seed: !!python/name:os.system\n", "the tag"),
    "bytes": ("seed: !!binary aGVsbG8=\n", "the tag"),
    "a set": ("seed: !!set {a}\n", "the tag"),
    "a tag": ("seed: !mine 1\n", "the tag"),
    "a plain tag": ("seed: !!str 1\n", "the tag"),
    "an escape": ('dataset: "a\\e[31m"\n', "cannot be printed"),
    "an escape in a key": ('"a\\e[31m": 1\n', "cannot be printed"),
    "half a character": ('dataset: "\\ud800"\n', "cannot be printed"),
    "a zero byte": ('dataset: "\\0"\n', "cannot be printed"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "another document"),
    "unclosed": ("seed: [\n", "not valid YAML"),
    "a tab": ("seed:\n\t- 1\n", "not valid YAML"),
    "empty": ("", "must hold keys and values"),
    "comments alone": ("# nothing\n", "must hold keys and values"),
    "a list": ("- seed\n", "must hold keys and values"),
    "a word": ("seed\n", "must hold keys and values"),
}


def refusal(read: Callable[[Path], object], file: Path) -> str:
    """The sentence, which must come at once and name the file."""
    started = time.process_time()
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert time.process_time() - started < 1
    said = str(caught.value)
    assert str(file) in said and len(said) < len(str(file)) + 400 and caught.value.exit_code == 2
    return said


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_settings_is_refused_at_once(tmp_path: Path, case: str) -> None:
    text, why = REFUSED[case]
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    assert why in refusal(read_yaml, file)


READERS: dict[str, Callable[[Path], object]] = {
    "a configuration": lambda file: resolve({"method": {"name": "supervised"}}, file),
    "a protocol": lambda file: read_protocol(str(file)),
    "a sweep": read_sweep,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", ["anchors", "deep", "deep and closed", "code", "empty", "a list", "a date"])
def test_every_file_of_settings_is_read_by_that_reader(tmp_path: Path, reader: str, case: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(REFUSED[case][0])
    refusal(READERS[reader], file)


def test_a_preset_is_read_by_that_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "METHODS", tmp_path)
    (tmp_path / "mine.yaml").write_text(BOMB)
    refusal(lambda file: registry.describe_method(file.stem), tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00\x81", "seed: 1\n".encode("utf-16"), b"dataset: caf\xe9\n"]
)
def test_what_is_not_utf_8_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    assert "is not UTF-8 text; save it as UTF-8" in refusal(read_yaml, file)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "loop", "gone", "sparse"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "settings.yaml"
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "sparse":
        with open(file, "wb") as made:
            made.truncate(10**10)
    elif kind != "gone":
        file.symlink_to({"device": "/dev/zero", "loop": file.name}[kind])
    refusal(read_yaml, file)


def test_a_mark_of_byte_order_and_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(b"\xef\xbb\xbfseed: 1\r\nsplit: full\r\n")
    assert read_yaml(file) == {"seed": 1, "split": "full"}


@pytest.mark.parametrize("value", ["[" * 500, "&a [*a]", "!!python/name:os.system", "x" * (MOST_BYTES + 1)])
def test_a_value_of_set_is_read_alike(value: str) -> None:
    with pytest.raises(ConfigError, match=r"--set seed: cannot read the value"):
        parse_assignment(f"seed={value}")


def test_a_key_of_set_is_not_deep_either() -> None:
    with pytest.raises(ConfigError, match="more than 20 parts"):
        parse_assignment("a." * 5000 + "a=1")


def test_what_settings_need_is_read() -> None:
    text = "a: {b: [1, -2, 0.5, 1e-3, true, null], 'c d': text, e: '1'}\nf: |\n  two\n  lines\n"
    assert parse(text) == {
        "a": {"b": [1, -2, 0.5, 1e-3, True, None], "c d": "text", "e": "1"},
        "f": "two\nlines\n",
    }


def test_whole_numbers_are_keys_where_tables_are_read() -> None:
    assert parse("{7: a, '8': b, c: {255: 1}}", number_keys=True) == {"7": "a", "8": "b", "c": {"255": 1}}
    for text in ("{010: a}", "{1.5: a}", "{true: a}", "{1: a, '1': b}"):
        with pytest.raises(ValueError, match="line|key|number|twice"):
            parse(text, number_keys=True)
    with pytest.raises(ValueError, match="key '7' is not text"):
        parse("{7: a}")
