"""Reads YAML as data: keys that are text, values that are text, numbers, true, false, null, lists, mappings.

The one reader of YAML. What settings have no use for, and what could stall or surprise the reader, is refused
with its line: anchors, tags, merge keys, dates, NaN, deep nesting, a file that is long or no file at all.
"""

from __future__ import annotations

import math
import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import Any

import yaml

from bench.errors import ConfigError

MOST_BYTES = 100_000  # the longest file of ours has 11 000
MOST_VALUES = 5_000  # the most in a file of ours are 400
DEEPEST = 20  # the deepest setting lies 5 deep

DATE = "tag:yaml.org,2002:timestamp"
FLOAT = "tag:yaml.org,2002:float"
INTEGER = "tag:yaml.org,2002:int"
TEXT = "tag:yaml.org,2002:str"


class Refused(yaml.MarkedYAMLError):
    """YAML that is no settings."""

    def __init__(self, problem: str, node: Any) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark)


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number and 1_16 as a name, and refuses a key given twice (plain YAML reads
    text, 116, and lets the last win)."""

    number_keys = False  # whether whole numbers may be keys, which are then their digits

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.values = self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        # Here and not afterwards: nothing has been built yet that could be too much.
        event: Any = self.peek_event()
        if event.anchor is not None:
            raise Refused("anchors and aliases (& and *) are not read; write the value out", event)
        if event.tag is not None:
            raise Refused(f"the tag {event.tag!r} is not read; leave it out", event)
        self.values += 1
        self.depth += 1
        if self.values > MOST_VALUES:
            raise Refused(f"more than {MOST_VALUES} values; settings hold fewer", event)
        if self.depth > DEEPEST:
            raise Refused(f"nested more than {DEEPEST} deep; settings are flatter", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.value:
        number = loader.number_keys and key.tag == INTEGER
        if key.tag != TEXT and not number:
            shown = f"key {key.value!r}" if isinstance(key, yaml.ScalarNode) else "a list or mapping as a key"
            raise Refused(f"{shown} is not text; put the key in quotes", key)
        name = str(_integer(loader, key)) if number else _text(loader, key)
        if name in found:
            raise Refused(f"key {name} stands twice; remove one", key)
        found[name] = loader.construct_object(value, deep=True)
    return found


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = str(node.value)
    if any(unicodedata.category(c)[0] == "C" and c not in "\n\t" for c in text):
        raise Refused(f"{text[:80]!r} has characters that cannot be printed; leave them out", node)
    return text


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    # YAML reads 010 as 8, 1:30 as 90 and 0x10 as 16.
    if not re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", node.value):
        raise Refused(f"{node.value[:80]} is no plain whole number; write its digits, or quotes", node)
    if len(node.value) > 40:
        raise Refused(f"{node.value[:40]}... is too long for a number", node)
    return int(node.value)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    if set(":_") & set(node.value):
        raise Refused(f"{node.value[:80]} is read in base 60 or with gaps; write the number out", node)
    number = loader.construct_yaml_float(node)
    if not math.isfinite(number):
        raise Refused(
            f"{node.value[:80]} is no finite number; give one, or null where it may be left out", node
        )
    return number


def _date(loader: _Loader, node: yaml.ScalarNode) -> None:
    raise Refused(f"{node.value[:80]} is read as a date; put it in quotes", node)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor(TEXT, _text)
_Loader.add_constructor(INTEGER, _integer)
_Loader.add_constructor(FLOAT, _float)
_Loader.add_constructor(DATE, _date)
_Loader.add_implicit_resolver(
    FLOAT, re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
for _digit in "0123456789":  # before plain YAML's own rule for numbers
    _Loader.yaml_implicit_resolvers[_digit].insert(0, (TEXT, re.compile(r"^\d+_\d+$")))


class _TableLoader(_Loader):
    """YAML of tables, such as {7: road, 255: none}."""

    number_keys = True


def parse(text: str, number_keys: bool = False) -> Any:
    """Read one YAML document.

    Args:
        number_keys: Read the whole number 7 as the key "7", which is refused otherwise.

    Raises ValueError for what is no settings. Its text says why, and the line where there are several.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES} characters; settings are shorter")
    try:
        return yaml.load(text, Loader=_TableLoader if number_keys else _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = str(error.problem or error.context)[:200]
        raise ValueError(f"line {mark.line + 1}: {what}" if mark and "\n" in text else what) from error
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise ValueError(" ".join(str(error).split())) from error


def read_yaml(path: Path, number_keys: bool = False) -> dict[str, Any]:
    """Read a file of keys and values; `number_keys` as `parse` has it. Raises ConfigError, with the file's
    name, for anything else."""
    try:
        data = parse(_read(path).decode("utf-8-sig"), number_keys)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid YAML: it is not UTF-8 text; save it as UTF-8.") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML for settings: {error}.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold keys and values, such as `seed: 1`.")
    return data


def _read(path: Path) -> bytes:
    """Read a file of at most MOST_BYTES; refuse a pipe or a device, which might never start or end."""
    # A pipe that nobody writes to would block the open itself.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise ValueError("it is no plain file; give one")
        content = b""
        while len(content) <= MOST_BYTES and (part := os.read(number, MOST_BYTES + 1)):
            content += part
    finally:
        os.close(number)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES} bytes; settings are shorter")
    return content
