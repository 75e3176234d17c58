"""Reads settings: YAML files, `--set` texts, protocol files; says by key and file what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError

from bench.errors import ConfigError, did_you_mean
from bench.settings.base import Knobs, expanded
from bench.settings.plain_yaml import DEEPEST, parse, read_yaml

K = TypeVar("K", bound=Knobs)
PROTOCOLS = Path(__file__).parent / "protocols"


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """`a.b=value` of `--set`; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {shortened(text)}: write key=value, for example --set protocol.steps=200")
    path = key.strip().split(".")
    try:
        if len(path) > DEEPEST:
            raise ValueError(f"its key has more than {DEEPEST} parts")
        return path, parse(value)
    except ValueError as error:
        raise ConfigError(
            f"--set {key.strip()[:80]}: cannot read the value {shortened(value)}: {error}."
        ) from error


def shortened(value: object) -> str:
    """Write the value as Python writes it, cut after 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


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
    """Write the sentence for a name that is not known."""
    return f"unknown {what} {word!r}{did_you_mean(word, known)}"


def protocol_names() -> list[str]:
    return sorted(path.stem for path in PROTOCOLS.glob("*.yaml"))


# What a protocol file that says nothing of them has. A saved protocol without them is older: see BEFORE.
USUAL: Mapping[str, Any] = {"views": "equal", "teacher": {"decay": 0.996, "ramp": True}}


def read_protocol(name: str) -> dict[str, Any]:
    """Read a protocol: "camvid" of the suite, or a file of the user's, "my/own.yaml", whose name is "own".

    Its section `knobs` sets another default in every method that has a knob of that name, and under the name
    of a method in that one alone: `{ema_decay: 0.99, fixmatch: {threshold: 0}}`. Its section `cam_seeds` does
    so for CAM seeds, whose classifier's protocol is the file's own but for what it says there.
    """
    if is_file(name):
        file = expanded(name)
        if file.stem in protocol_names():
            raise ConfigError(f"{file} has the name of a protocol that is there already; rename the file.")
        found = read_yaml(file)
        if "name" in found:
            raise ConfigError(f"{file}: leave name out; the protocol is called {file.stem}, as its file is.")
        return {"name": file.stem, **USUAL, **_with_sections(found, file)}
    if name not in protocol_names():
        raise ConfigError(suggest(name, protocol_names(), "protocol"))
    file = PROTOCOLS / f"{name}.yaml"
    return {"name": name, **USUAL, **_with_sections(read_yaml(file), file)}


def is_file(protocol: str) -> bool:
    """Whether `--protocol` names a file of the user's: "mine.yaml", not "camvid"."""
    return protocol.endswith((".yaml", ".yml"))


def _with_sections(protocol: dict[str, Any], file: Path) -> dict[str, Any]:
    for section in ("knobs", "cam_seeds"):
        if not isinstance(protocol.get(section, {}), Mapping):
            raise ConfigError(f"{file}: {section} must hold keys, such as `{section}: {{...}}`.")
    return protocol


def validate(model: type[K], data: Mapping[str, Any], prefix: str = "", file: Path | None = None) -> K:
    """Read `data` as settings of `model`. Raises ConfigError with the key's full name, and the file it stands
    in where that is not the configuration of a run."""
    try:
        # Through JSON: strict about text and numbers, yet a list may stand for a tuple.
        return model.model_validate_json(json.dumps(data))
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
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
                sentences.append(
                    f"{key}: {message}" + ("" if whole else f" (given: {shortened(item['input'])})")
                )
    return "\n".join(f"{file}: {sentence}" if file else sentence for sentence in sentences)


def _keys(model: type[Knobs], prefix: str) -> list[str]:
    keys: list[str] = []
    for name, info in model.model_fields.items():
        key = f"{prefix}.{name}" if prefix else name
        parts = [*get_args(info.annotation), info.annotation]  # `CamSeeds | None` holds keys too
        if get_origin(info.annotation) is dict:
            key = f"{key}.*"  # a method's own
        inner = next((part for part in parts if isinstance(part, type) and issubclass(part, Knobs)), None)
        keys += _keys(inner, key) if inner else [key]
    return keys
