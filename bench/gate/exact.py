"""Are they the same bits? On one machine, with as many threads, the same code gives the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.errors import DataError
from bench.gate.baselines import Baseline, Baselines, Exact
from bench.gate.runs import GateGroup, GateRun
from bench.gate.verdict import VerdictRow, moved, table
from bench.records.schema import Result


def compare(baselines: Baselines, groups: Mapping[str, GateGroup]) -> list[VerdictRow]:
    """Give a row for the mIoU of every run, and one for every other figure or file whose bits moved.

    Raises DataError where a baseline holds no bits, or was made on another machine; and as `group_of`.
    """
    return table(baselines, groups, _rows)


def _check_machine(entry: Baseline, runs: Iterable[GateRun]) -> Exact:
    if entry.exact is None:
        raise DataError(
            f"the baseline of {entry.key.label} holds no bits; make it anew with `check --update`, or leave "
            "out --exact."
        )
    here = sorted({words for run in runs for words in run.machines})
    if here != entry.exact.machine or len(here) != 1:
        there = " and ".join(entry.exact.machine) or "a machine that it does not name"
        raise DataError(
            f"the baseline of {entry.key.label} was made on {there}, its runs on "
            f"{' and '.join(here) or 'one that they do not name'}: bits agree on one machine alone. Make "
            "both on the same one, or leave out --exact."
        )
    return entry.exact


def _rows(label: str, entry: Baseline, runs: Mapping[int, GateRun]) -> list[VerdictRow]:
    exact = _check_machine(entry, runs.values())
    return [row for run in runs.values() for row in _rows_of(label, entry.seeds[run.seed], exact, run)]


def _rows_of(label: str, before: Mapping[str, float], exact: Exact, run: GateRun) -> list[VerdictRow]:
    now, bits = run.figures, exact.seeds[run.seed]
    rows = []
    for name in sorted({*before, *now}, key=lambda name: (name != "miou", name)):
        old, new = before.get(name), now.get(name)
        verdict = "ok" if old == new else "differs" if old is None else moved(name, old, new)
        if name == "miou" or old != new:
            rows.append(VerdictRow(label, (run.seed,), name, old, new, 0.0, verdict))
    rows += [
        VerdictRow(label, (run.seed,), f"bits.{name}", None, None, 0.0, "differs")
        for name in sorted({*bits, *run.bits})
        if bits.get(name) != run.bits.get(name)
    ]
    return rows


# The same run by other code ---------------------------------------------------------------------------------


def change(before: GateRun, now: GateRun) -> str | None:
    """Say what other code has changed of a run, in words: "weights, counts"; None where every bit is the
    same, or a version says that the numbers are others.

    Such a version is the method's, or one that is in the run's id though no setting moved: the protocol's or
    that of CAM seeds.
    """
    if now.result.method_version > before.result.method_version:
        return None
    settings = _settings_moved(before.result, now.result)
    if settings:
        return f"settings {', '.join(settings)}"
    if before.result.run_id != now.result.run_id:
        return None
    names = sorted({*before.bits, *now.bits})
    bits = [name for name in names if before.bits.get(name) != now.bits.get(name)]
    figures = sorted({*before.figures, *now.figures})
    differ = [name for name in figures if before.figures.get(name) != now.figures.get(name)]
    return ", ".join(bits + differ) or None


def _settings_moved(before: Result, now: Result) -> list[str]:
    """List the keys of settings and inputs that differ, but for those of the machine, e.g.
    `["protocol.steps"]`."""
    old, new = (
        _flat({**result.config, "machine": None, "lists": result.split_digests, "classes": result.classes})
        for result in (before, now)
    )
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Flatten nested settings: {"a": {"b": 1}} -> {"a.b": 1}"""
    if not isinstance(value, dict):
        return {name: value}
    parts = (_flat(one, f"{name}.{key}" if name else key) for key, one in value.items())
    return {key: one for part in parts for key, one in part.items()}
