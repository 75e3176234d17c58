"""The base of every settings class: frozen, unknown key = error, no silent conversion of text to numbers."""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict

from bench.errors import ConfigError

RECORD: Final = {"record": True}  # the context of a dump that leaves the machine


class Knobs(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    def record(self, **which: Any) -> dict[str, Any]:
        """As results and digests have it: without the paths of a machine.

        Args:
            which: `include` and `exclude` of pydantic's `model_dump`.
        """
        return self.model_dump(mode="json", context=RECORD, **which)

    def check(self, classes: int, steps: int) -> None:
        """Raise ValueError, beginning with the knob's name, for what this number of classes of the data set
        or this number of steps of the run does not allow."""

    def said(self, classes: int) -> list[str]:
        """Return sentences for the user, before a run: what a default comes to where the data set has this
        number of classes."""
        return []


class Knob(NamedTuple):
    """One setting, for people: `Knob("threshold", "0.95", "number >= 0, <= 1", "confidence that ...")`."""

    name: str
    default: str
    allowed: str
    description: str


def describe_knobs(model: type[Knobs]) -> list[Knob]:
    """Describe the settings of a class, in the order of their definition."""
    properties = model.model_json_schema().get("properties", {})
    return [
        Knob(name, _text(of["default"]) if "default" in of else "", _allowed(of), of.get("description", ""))
        for name, of in properties.items()
    ]


TYPES = {"integer": "whole number", "boolean": "true, false", "string": "text"}
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _allowed(schema: dict[str, Any]) -> str:
    """Say in words what a value may be: "number >= 0, <= 1", "number > 0 or null", "list of number"."""
    if "enum" in schema:
        return ", ".join(map(_text, schema["enum"]))
    if "const" in schema:
        return _text(schema["const"])
    if "anyOf" in schema:
        return " or ".join(map(_allowed, schema["anyOf"]))
    if "prefixItems" in schema:
        return f"[{'; '.join(map(_allowed, schema['prefixItems']))}]"
    if schema.get("type") == "array":
        return f"list of {_allowed(schema['items'])}" if schema.get("items") else "list"
    bounds = ", ".join(f"{sign} {schema[key]:.9g}" for key, sign in BOUNDS.items() if key in schema)
    kind = schema.get("type", "see its class")
    kind = TYPES.get(kind, kind)
    return f"{kind} {bounds}".strip()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def given_path(place: object, what: str) -> Path:
    """Give the path that an argument in Python says. Raises ConfigError, with the argument's name, for what
    is none: the text of another object is a path too, of a folder that nobody meant."""
    if not isinstance(place, str | Path) or not str(place):
        raise ConfigError(f"{what}: {place!r:.80} is no path; give a text or a Path.")
    try:
        Path(place).is_dir()
    except OSError as error:
        raise ConfigError(f"{what}: {str(place)[:80]}... {error.strerror}; give a shorter path.") from error
    return expanded(str(place))


def expanded(place: str) -> Path:
    """Give the path of a setting, with the user's home for `~`. Raises ConfigError for a user who is not
    there."""
    try:
        return Path(place).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{place}: {error}; write the folder out.") from error
