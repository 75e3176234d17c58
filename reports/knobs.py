"""The settings of a run as text, and the label of its row: the method and its unusual knobs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bench.records.schema import Result

SEEDS = "cam_seeds."  # settings of a run that learned from CAM seeds
# Always said where they are not these: the runs were given more, or worse, than others of their split.
UNUSUAL = {"cam_seeds.policy": "fixed", "tags": "given"}


def settings_of(result: Result) -> dict[str, str]:
    """Version and knobs of the method as text, nested ones with dots: runs that differ are not averaged."""
    given = dict(flat(result.config.get("method", {})))
    if seeds := result.config.get("cam_seeds"):
        protocol = {key: value for key, value in seeds.get("protocol", {}).items() if key != "name"}
        given |= flat({**seeds, "protocol": protocol}, SEEDS)
    texts = {key: _text(value) for key, value in given.items()}
    tags = result.config.get("tags", UNUSUAL["tags"])
    return {"version": str(result.method_version), **texts, "tags": tags}


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"batch": {"labeled": 8}} -> ("batch.labeled", 8)."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def applies(key: str, settings: Mapping[str, str]) -> bool:
    """Say whether a run has this setting: one on a split without tags has none of CAM seeds, which makes it
    no other method."""
    return key in settings or not key.startswith(SEEDS)


def _text(value: Any) -> str:
    """Return a word as it is; all else as JSON, and so is what would read as such: "1" is another knob than
    1."""
    try:
        json.loads(value)
    except ValueError:
        return str(value)
    except TypeError:  # no text
        pass
    return json.dumps(value, sort_keys=True)


def labels_of(results: Sequence[Result]) -> list[str]:
    """Return the row label of each result: the method, and the knobs in which it differs from most of that
    method's rows, such as `u2pl (tags=shuffled)`. If no value of a knob is most common, it is shown in every
    row. A number tells methods apart whose labels come out alike."""
    settings = [settings_of(result) for result in results]
    by_method: dict[str, list[dict[str, str]]] = defaultdict(list)
    for result, setting in zip(results, settings, strict=True):
        if setting not in by_method[result.method]:  # each row counts once, however many seeds and splits
            by_method[result.method].append(setting)
    usual = {method: _usual(others) for method, others in by_method.items()}
    labels = []
    for result, setting in zip(results, settings, strict=True):
        unusual = [key for key in sorted(UNUSUAL) if setting.get(key, UNUSUAL[key]) != UNUSUAL[key]]
        common = usual[result.method]
        differing = [key for key, value in common.items() if value is None or setting.get(key) != value[0]]
        keys = [key for key in dict.fromkeys([*differing, *unusual]) if applies(key, setting)]
        shown = ", ".join(f"{key}={setting.get(key, 'unset')}" for key in keys)
        labels.append(f"{result.method} ({shown})" if shown else result.method)
    rows = list(zip(labels, (result.method for result in results), strict=True))
    apart = sorted(set(rows))
    found = dict(zip(apart, unique(label for label, _ in apart), strict=True))
    return [found[row] for row in rows]


def _usual(settings: Sequence[dict[str, str]]) -> dict[str, tuple[str | None] | None]:
    """Return the commonest value of each knob in which these rows differ, None where no value is. Knobs of
    `UNUSUAL` are left out: they are said of every run they are unusual in."""
    found: dict[str, tuple[str | None] | None] = {}
    for key in sorted({key for setting in settings for key in setting}.difference(UNUSUAL)):
        ordered = Counter(setting.get(key) for setting in settings if applies(key, setting)).most_common(2)
        if len(ordered) > 1:
            found[key] = None if ordered[0][1] == ordered[1][1] else (ordered[0][0],)
    return found


def unique(names: Iterable[str]) -> list[str]:
    """Return the names, those that stand among them before with a number: a, b, a #2."""
    found: list[str] = []
    for name in names:
        number, apart = 1, name
        while apart in found:
            number += 1
            apart = f"{name} #{number}"
        found.append(apart)
    return found
