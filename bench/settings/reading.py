"""Reads settings: YAML files, `--set` texts, protocol files; says by key and file what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import (
    ValidationError,
)

from bench.errors import ConfigError, did_you_mean
from bench.settings.base import Knobs

K = TypeVar("K", bound=Knobs)
PROTOCOLS = Path(__file__).parent / "protocols"


class _Loader(yaml.SafeLoader):
    """YAML that reads 1e-3 as a number and 1_16 as a name, and refuses a key given twice (plain YAML reads
    text, 116, and lets the last win)."""


def _no_duplicates(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.YAMLError(f"key {', '.join(twice)} stands twice")
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
for _digit in "0123456789":  # before plain YAML's own rule for numbers
    _Loader.yaml_implicit_resolvers[_digit].insert(0, ("tag:yaml.org,2002:str", re.compile(r"^\d+_\d+$")))


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that does not exist
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold keys and values.")
    return data


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """`a.b=value` of `--set`; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: write key=value, for example --set protocol.steps=200")
    try:
        return key.strip().split("."), yaml.load(value, Loader=_Loader)  # noqa: S506
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {key}: cannot read the value {value!r}.") from error


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`, key by key where both hold mappings."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nested(path: Iterable[str], value: Any) -> dict[str, Any]:
    for key in reversed(list(path)):
        value = {key: value}
    return value


def suggest(word: str, known: Iterable[str], what: str) -> str:
    """The sentence for a name that is not known."""
    return f"unknown {what} {word!r}{did_you_mean(word, known)}"


def protocol_names() -> list[str]:
    return sorted(path.stem for path in PROTOCOLS.glob("*.yaml"))


def read_protocol(name: str) -> dict[str, Any]:
    """Read a protocol: "camvid" of the suite, or a file of the user's, "my/own.yaml", whose name is "own".

    Its section `knobs` sets, in every method that has a knob of that name, another default; its section
    `cam_seeds` does so for CAM seeds, whose classifier's protocol is the file's own but for what it says
    there.
    """
    if is_file(name):
        file = Path(name).expanduser()
        if file.stem in protocol_names():
            raise ConfigError(f"{file} has the name of a protocol that is there already; rename the file.")
        return {"name": file.stem, **_without_name(read_yaml(file), file)}
    if name not in protocol_names():
        raise ConfigError(suggest(name, protocol_names(), "protocol"))
    return {"name": name, **read_yaml(PROTOCOLS / f"{name}.yaml")}


def is_file(protocol: str) -> bool:
    """Whether `--protocol` names a file of the user's: "mine.yaml", not "camvid"."""
    return protocol.endswith((".yaml", ".yml"))


def _without_name(settings: dict[str, Any], file: Path) -> dict[str, Any]:
    if "name" in settings:
        raise ConfigError(f"{file}: leave name out; the protocol is called {file.stem}, as its file is.")
    return settings


def validate(model: type[K], data: Mapping[str, Any], prefix: str = "", file: Path | None = None) -> K:
    """`data` as settings of `model`. Raises ConfigError with the key's full name, and the file it stands in
    where that is not the configuration of a run."""
    try:
        # Through JSON: strict about text and numbers, yet a list may stand for a tuple.
        return model.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            where = prefix or file or "configuration"
            raise ConfigError(f"{where}: a value cannot be read ({error}).") from error
        raise ConfigError(_explain(error, model, prefix, file)) from error


def _explain(error: ValidationError, model: type[Knobs], prefix: str, file: Path | None) -> str:
    sentences = []
    for item in error.errors():
        place = [str(part) for part in item["loc"]]
        key = ".".join([*([prefix] if prefix else []), *place]) or ("the file" if file else "configuration")
        if item["type"] == "extra_forbidden":
            sentences.append(suggest(key, _keys(model, prefix), "key"))
        elif item["type"] == "missing":
            sentences.append(f"{key} is missing; " + ("add it." if file else f"give it with --set {key}=..."))
        else:
            message, whole = item["msg"].removeprefix("Value error, "), isinstance(item["input"], dict)
            if whole and item["type"] == "value_error" and (prefix or place):
                sentences.append(f"{key}.{message}")  # what a section refuses as a whole begins with its key
            else:
                sentences.append(f"{key}: {message}" + ("" if whole else f" (given: {item['input']!r})"))
    return "\n".join(f"{file}: {sentence}" if file else sentence for sentence in sentences)


def _keys(model: type[Knobs], prefix: str) -> list[str]:
    keys: list[str] = []
    for name, info in model.model_fields.items():
        key = f"{prefix}.{name}" if prefix else name
        parts = [*get_args(info.annotation), info.annotation]  # `CamSeeds | None` holds keys too
        inner = next((part for part in parts if isinstance(part, type) and issubclass(part, Knobs)), None)
        keys += _keys(inner, key) if inner else [key]
    return keys
