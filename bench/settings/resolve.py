"""Which source of a setting wins: the command line, then `--config FILE`, the protocol file, the defaults."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, plain
from bench.settings import registry
from bench.settings.base import expanded
from bench.settings.plain_yaml import read_yaml
from bench.settings.reading import (
    is_file,
    merge,
    nested,
    parse_assignment,
    protocol_names,
    read_protocol,
    shortened,
    suggest,
    validate,
)
from bench.settings.schema import BEFORE, Protocol, RunConfig, as_before

LONGEST = 1000  # characters of a key or a text


def resolve(flags: Mapping[str, Any], config_file: Path | None = None, sets: Iterable[str] = ()) -> RunConfig:
    """Settle the configuration of a run.

    Args:
        flags: The command line's own options as nested keys, None where not given.
        config_file: A YAML file of settings.
        sets: Texts `key=value`, which beat both.
    """
    given: dict[str, Any] = read_yaml(config_file) if config_file else {}
    for section in ("method", "protocol"):
        if isinstance(given.get(section), str):
            given[section] = {"name": given[section]}
    for place in (given, given.get("cam_seeds")):
        if isinstance(place, dict) and _is_whole(place.get("protocol")):
            place["protocol"] = as_before(place["protocol"])
    file, flags = given, _without_none(flags)
    held, asked = _held(file), _section(flags, "protocol").get("name")
    if held and isinstance(asked, str) and held != (expanded(asked).stem if is_file(asked) else asked):
        read_protocol(asked)  # refuses a name that is not known
        raise ConfigError(f"{config_file} holds the whole protocol {held!r}; it cannot be run as {asked!r}.")
    given = merge(given, flags)
    for text in sets:
        path, value = parse_assignment(text)
        given = merge(given, nested(path, value))
    _refuse_texts(given)

    given.setdefault("dataset", "shapes")
    given.setdefault("split", "1_16")
    given["split"] = str(given["split"]).replace("/", "_")
    for section, key in (("method", "name"), ("protocol", "name"), ("cam_seeds", "refine")):
        if not isinstance(given.get(section) or {}, Mapping):
            raise ConfigError(f"{section} must hold keys, for example {section}.{key}.")
    name = _section(given, "method").get("name")
    if not isinstance(name, str):
        raise ConfigError(f"which method? Give --method, one of: {', '.join(registry.method_names())}")

    protocol = _section(given, "protocol")
    named = str(protocol.get("name") or "")
    if _is_of_a_file(protocol, held):
        base = dict(protocol)
        if "cam_seeds" in file:  # saved by a run
            _refuse_what_the_file_says(file, given, f"{config_file} holds the protocol {held!r}")
    else:
        usual = registry.default_protocol(str(given["dataset"]))
        named = named or usual
        base = read_protocol(named)
        given["cam_seeds"] = given.get("cam_seeds") or {}
    shared, seeds = base.pop("knobs", {}), base.pop("cam_seeds", {})
    if is_file(named):  # what is wrong with it is said of the file, and once
        validate(Protocol, base, file=expanded(named))
    given["protocol"] = {**merge(base, protocol), "name": base["name"]}
    if given.get("cam_seeds", {}) is not None:
        # It learns from tags alone and is scored by its maps: neither views nor a teacher are its own.
        classifier = {"protocol": {**base, **BEFORE, "name": f"{base['name']}_tags"}}
        channels = _section(given["protocol"], "network").get("channels")
        if channels is not None:  # of the images, so of every network that sees them
            classifier = merge(classifier, {"protocol": {"network": {"channels": channels}}})
        given["cam_seeds"] = _refined(merge(merge(classifier, seeds), given.get("cam_seeds", {})))

    method = registry.describe_method(name)
    knobs = _defaults(method, shared, base["name"])
    if is_file(named):
        _refuse_knobs_of_no_method(shared.keys() - knobs.keys(), expanded(named))
    knobs |= {key: value for key, value in given["method"].items() if key != "name"}
    given["method"] = {"name": name, **validate(method.knobs, knobs, "method").model_dump(mode="json")}
    given["machine"] = _with_data_root(given.get("machine", {}))
    return validate(RunConfig, given)


def _defaults(method: registry.MethodInfo, said: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """Which of a protocol's `knobs` a method gets: those that it has, and all under its own name, which beat
    them. Raises ConfigError for a section of no method, and for a knob under the name of a method that lacks
    it."""
    names = registry.method_names()
    shareable = method.knobs.model_fields.keys() - method.preset
    for key, value in said.items():
        if key not in names and isinstance(value, Mapping) and key not in shareable:
            raise ConfigError(f"protocol {protocol}, knobs: {suggest(key, names, 'method')}")
    own = said.get(method.name, {})
    if not isinstance(own, Mapping):
        raise ConfigError(
            f"protocol {protocol}: knobs.{method.name} must hold keys, such as `{method.name}: {{...}}`."
        )
    for key in own.keys() - shareable:
        raise ConfigError(f"protocol {protocol}, knobs.{method.name}: {suggest(key, shareable, 'key')}")
    every = {key: value for key, value in said.items() if key in shareable and key not in names}
    return {**every, **own}


def _refuse_knobs_of_no_method(names: AbstractSet[str], file: Path) -> None:
    """Raise ConfigError for a knob in a protocol's file that no method has: a misspelt one would be left out
    without a word."""
    methods = registry.method_names()
    if not (left := sorted(names - set(methods))):
        return
    known: set[str] = set()
    for method in methods:
        try:
            known |= registry.describe_method(method).knobs.model_fields.keys()
        except ConfigError:  # one that cannot be imported; its knobs are not known
            return
    for name in left:
        if name not in known:
            raise ConfigError(f"{file}: knobs.{name}: no method has it; {suggest(name, known, 'knob')}")


def _section(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = settings.get(key)
    return found if isinstance(found, Mapping) else {}


def _held(settings: Mapping[str, Any]) -> str | None:
    """Give the name of the protocol that a configuration holds the whole of; None where it only names one."""
    protocol = _section(settings, "protocol")
    name = protocol.get("name")
    return name if isinstance(name, str) and "network" in protocol else None


def _is_of_a_file(protocol: Mapping[str, Any], held: str | None) -> bool:
    """Whether settings hold the whole of a protocol that came from a file, which may be gone by now.

    Args:
        held: Its name in the configuration that was read.
    """
    return _is_whole(protocol) and protocol.get("name") == held and held not in protocol_names()


def _refuse_what_the_file_says(saved: Mapping[str, Any], given: Mapping[str, Any], holds: str) -> None:
    """Refuse what a saved configuration lacks: the `knobs` and the `cam_seeds` that its protocol's file has
    for others."""
    before, name = _section(saved, "method").get("name"), given["method"]["name"]
    other = f"method {name!r}" if name != before else "CAM seeds"
    if name != before or (saved["cam_seeds"] is None and given["cam_seeds"] is not None):
        raise ConfigError(
            f"{holds} of a file, but not what that file sets for {other}; give the file too, with --protocol."
        )


def _refuse_texts(settings: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse a key or a text that no setting has: it could drive a terminal, or fill it."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            _refuse_texts(value, f"{name}.")
        texts = [key, *(value if isinstance(value, list | tuple) else [value])]
        for text in texts:
            if isinstance(text, str) and (plain(text) != text or len(text) > LONGEST):
                raise ConfigError(
                    f"{plain(name)[:80]}: {shortened(text)} is longer than {LONGEST} characters, or has some "
                    "that cannot be printed; leave them out."
                )


def _is_whole(protocol: Any) -> bool:
    """Whether settings are those of a protocol as a whole, as a saved configuration has them."""
    required = {key for key, field in Protocol.model_fields.items() if field.is_required()}
    return isinstance(protocol, Mapping) and protocol.keys() >= required


def as_flags(
    *,
    method: str | None = None,
    dataset: str | None = None,
    split: str | None = None,
    seed: int | None = None,
    draw: int | None = None,
    scored: str | None = None,
    protocol: str | None = None,
    precision: str | None = None,
    data_root: Path | str | None = None,
    **machine: Any,
) -> dict[str, Any]:
    """Put the options of a command where `resolve` looks for them: `as_flags(seed=0, device="cpu")` gives
    {"seed": 0, "machine": {"device": "cpu"}, ...}. What is None was not given."""
    flags = {
        "dataset": dataset,
        "split": split,
        "seed": seed,
        "draw": draw,
        "scored": scored,
        "method": {"name": method},
        "protocol": {"name": protocol, "precision": precision},
        "machine": {"data_root": str(data_root) if data_root else None, **machine},
    }
    return dict(_plain(flags))


def _plain(flags: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the options as JSON has them. Raises ConfigError, with the key, for one that it cannot hold."""
    return {
        key: _plain(value, f"{prefix}{key}.")
        if isinstance(value, Mapping)
        else json.loads(_as_json(f"{prefix}{key}", value))
        for key, value in flags.items()
    }


def assignments(settings: Mapping[str, Any]) -> list[str]:
    """Write settings as `--set` takes them: {"protocol.steps": 200} -> ["protocol.steps=200"].

    Raises ConfigError for a value that JSON cannot hold.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"set: {shortened(settings)} has no keys; give each setting by its key, such as "
            '{"protocol.steps": 200}.'
        )
    return [f"{key}={_as_json(key, value)}" for key, value in settings.items()]


def _as_json(key: object, value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_number)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{key}: {shortened(value)} is no setting ({error}); give a number, a text, a list or None."
        ) from error


def _number(value: Any) -> Any:
    """Give the number of a scalar of NumPy or torch, as `for seed in numpy.arange(3)` gives them."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is no value of JSON")


def _with_data_root(machine: Any) -> Any:
    """With $BENCH_DATA where nothing else says the data root, as an absolute path: the saved configuration
    of a run must find its data from any folder."""
    if not isinstance(machine, Mapping):
        return machine
    place = machine.get("data_root") or os.environ.get("BENCH_DATA")
    if not isinstance(place, str) or not place:
        return machine
    return {**machine, "data_root": str(expanded(place).absolute())}


def _refined(seeds: dict[str, Any]) -> dict[str, Any]:
    """Replace refine=auto by crf, or by par where pydensecrf is not installed: settings say what was done."""
    if seeds.get("refine", "auto") == "auto":
        seeds["refine"] = "crf" if importlib.util.find_spec("pydensecrf") else "par"
    return seeds


def _without_none(flags: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        key: _without_none(value) if isinstance(value, Mapping) else value for key, value in flags.items()
    }
    return {key: value for key, value in kept.items() if value is not None and value != {}}


def command(config: RunConfig) -> list[str]:
    """Give the command line that makes a run again: ["bench", "run", "--method", "u2pl", ...].

    It has `--set` for each setting that is not the default of its method, protocol or machine. The data root
    and the folder of all runs are left out, and so is the folder of a protocol's file.
    """
    name, protocol = config.method["name"], config.protocol.name
    words = ["bench", "run", "--method", name, "--dataset", config.dataset]
    words += ["--split", config.split, "--seed", str(config.seed)]
    words += ["--draw", str(config.draw)] if config.draw else []
    words += ["--scored", config.scored] if config.scored != "eval" else []
    fields = registry.describe_method(name).knobs.model_fields
    needed = {key: config.method[key] for key, field in fields.items() if field.is_required()}
    flags: dict[str, Any] = {"dataset": config.dataset, "method": {"name": name, **needed}}
    if protocol in protocol_names():
        flags["protocol"] = {"name": protocol}
        if protocol != registry.default_protocol(config.dataset):
            words += ["--protocol", protocol]
    else:
        words += ["--protocol", f"{protocol}.yaml"]
    usual = _leaves(resolve(flags).model_dump(mode="json"))
    usual = {key: value for key, value in usual.items() if key.split(".")[:2][-1] not in needed}
    for key, value in _leaves(config.model_dump(mode="json")).items():
        # A section that is None here may be one key in `usual`, or several.
        usually = key in usual and usual[key] == value
        if key not in _SAID and not usually and not (key == "cam_seeds" and value is None):
            words += ["--set", f"{key}={_as_yaml(value)}"]
    return words


_SAID = {
    "dataset",
    "split",
    "seed",
    "draw",
    "scored",
    "method.name",
    "protocol.name",
    "machine.data_root",
    "machine.out",
}


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"protocol": {"steps": 200}} -> {"protocol.steps": 200}."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        inner = _leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
        found |= inner
    return found


def _as_yaml(value: Any) -> str:
    """Write a value as `--set` reads it back."""
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        same = parse_assignment(f"key={text}")[1] == value
    except ConfigError:  # a text such as 2024-01-01
        same = False
    return text if same else json.dumps(value)
