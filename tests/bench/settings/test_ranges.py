"""Every key of a configuration with every extreme value: a sentence or a plan, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen
from pydantic.fields import FieldInfo

from bench.errors import BenchError, ConfigError
from bench.plan import plan
from bench.settings import registry
from bench.settings.base import Knobs
from bench.settings.reading import merge, nested, protocol_names, validate
from bench.settings.resolve import assignments, resolve
from bench.settings.schema import RunConfig

ROOT = Path(__file__).resolve().parents[3]
DEEP: Any = json.loads("[" * 15 + "]" * 15)
EXTREME = [
    *(0, -1, 1, 10**30, -(10**30), 1e308, -1e308, 1e-308, 0.5, None, True),
    *("", "x", "a/b", "..", "x" * 5000, "\x1b[31m", "a\0b", "~nobody-of-that-name/x", "hf-hub:a/b", "\ud800"),
    *([], [0], [0, 0], [1e308, 1e308], [-1, -1], [10**30] * 3, ["", None], {}, {"a": 1}, {"": {}}, DEEP),
]
RECORDS = sorted((ROOT / "reports").glob("*/*.jsonl"))
FLAGS = {"method": {"name": "u2pl_weak"}, "split": "tags"}


def keys(model: type[Knobs], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = [*get_args(field.annotation), field.annotation]
        for part in inner:
            if isinstance(part, type) and issubclass(part, Knobs):
                yield from keys(part, f"{prefix}{name}.")


def all_keys() -> list[str]:
    methods = [registry.describe_method(name).knobs.model_fields for name in ("u2pl", "u2pl_weak")]
    knobs = dict.fromkeys(f"method.{key}" for fields in methods for key in fields)
    return [*keys(RunConfig), *knobs, "method.name", "nonsense", "protocol.", ".", "protocol.knobs"]


def refusal(call: Callable[[], object], kind: type[BenchError] = BenchError) -> str | None:
    """What was said of it; None where it was taken. Any other exception fails the test."""
    try:
        call()
    except kind as error:
        return str(error)
    return None


def planned(key: str, value: Any, tmp_path: Path) -> None:
    flags = {**FLAGS, "method": {"name": "u2pl" if key.removeprefix("method.") in U2PL else "u2pl_weak"}}
    config = resolve(merge(flags, nested(key.split("."), value)), None, [f"machine.out={tmp_path}/runs"])
    plan(config)


U2PL = registry.describe_method("u2pl").knobs.model_fields.keys() - (
    registry.describe_method("u2pl_weak").knobs.model_fields.keys()
)


@pytest.mark.slow
@pytest.mark.parametrize("key", all_keys())
def test_any_value_at_any_key_is_planned_or_refused_by_a_sentence(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENCH_DATA", raising=False)
    for value in EXTREME:
        said = refusal(partial(planned, key, value, tmp_path))
        assert said is None or (said.strip() and len(said) < 5000)  # all keys are named
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("value", [*EXTREME, float("nan"), float("inf"), {1: 2}, object(), {"a": object()}])
def test_any_value_given_in_python_is_a_text_of_set_or_a_sentence(value: Any) -> None:
    method = {"method": {"name": "supervised"}}
    said = refusal(lambda: resolve(method, None, assignments({"protocol.steps": value})), ConfigError)
    assert said is None or "protocol.steps" in said


def test_a_circle_given_in_python_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(ConfigError, match=r"protocol.steps"):
        assignments({"protocol.steps": circle})


# Every number has two ends -------------------------------------------------------------------------------


def numbers(model: type[Knobs], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Every number of a model, also inside tuples, with what bounds it."""
    for name, field in model.model_fields.items():
        yield from _numbers(prefix + name, field.annotation, list(field.metadata))


def _numbers(key: str, kind: Any, bounds: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(kind, type) and issubclass(kind, Knobs):
        yield from numbers(kind, f"{key}.")
    elif kind in (int, float):
        yield key, bounds
    elif hasattr(kind, "__metadata__"):
        extra = [x for of in kind.__metadata__ for x in (of.metadata if isinstance(of, FieldInfo) else [of])]
        yield from _numbers(key, get_args(kind)[0], bounds + extra)
    else:
        for part in get_args(kind):
            if part not in (None, type(None), ...):
                yield from _numbers(key, part, bounds)


MODELS = {"": RunConfig} | {
    f"{name}.": registry.describe_method(name).knobs for name in registry.method_names()
}


@pytest.mark.parametrize("prefix", MODELS)
def test_every_number_has_a_lowest_and_a_highest_value(prefix: str) -> None:
    for key, bounds in numbers(MODELS[prefix], prefix):
        assert any(isinstance(bound, Ge | Gt) for bound in bounds), f"{key} has no lowest value"
        assert any(isinstance(bound, Le | Lt) for bound in bounds), f"{key} has no highest value"


def test_every_text_of_a_run_has_a_length() -> None:
    for name in ("dataset", "split"):
        assert any(isinstance(bound, MaxLen) for bound in RunConfig.model_fields[name].metadata)


# What stood in records and files is still valid ----------------------------------------------------------


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_the_settings_of_every_record_are_valid(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert lines
    for line in lines:
        found = json.loads(line)
        config = RunConfig.model_validate_json(json.dumps(found.get("config") or found["result"]["config"]))
        knobs = {key: value for key, value in config.method.items() if key != "name"}
        validate(registry.describe_method(config.method["name"]).knobs, knobs, "method")


@pytest.mark.parametrize("name", protocol_names())
def test_every_protocol_is_valid_with_its_seeds(name: str) -> None:
    resolve({"method": {"name": "u2pl_weak"}, "protocol": {"name": name}})


# The cases ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "protocol.optimizer.betas=[1,1]",
        "protocol.optimizer.betas=[2,3]",
        "protocol.optimizer.betas=[-1,0]",
        "protocol.optimizer.betas=[0.9]",
        "protocol.optimizer.betas=[0.9,0.99,0.999]",
        "protocol.evaluation.window=[0,0]",
        "protocol.evaluation.window=[-4,4]",
        "protocol.evaluation.scales=[1000]",
        "protocol.evaluation.scales=[1.0e-300]",
        "protocol.evaluation.stride_share=1.0e-300",
        "cam_seeds.scales=[1000]",
        "protocol.crop=[60000,60000]",
        "protocol.resize=[1000,1000]",
        "machine.threads=100000000",
        "machine.workers=100000",
        "protocol.batch.labeled=1000000000",
    ],
)
def test_what_ended_in_a_traceback_or_worse_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve({"method": {"name": "supervised"}}, None, [text])
    assert text.partition("=")[0] in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["hf-hub:a/b", "hf_hub:a/b", "HF-HUB:a/b", "Hf_Hub:x", "local-dir:/tmp/x", "LOCAL-DIR:x", "tu-hf-hub:a/b",
     "a/b", "../x", "a\\b", "http://host/x", "resnet50@x", "resnet 50", "", "x" * 200],
)  # fmt: skip
@pytest.mark.parametrize("key", ["protocol", "cam_seeds.protocol"])
@pytest.mark.parametrize("weights", ["none", "hub"])
def test_the_name_of_an_encoder_chooses_no_host_and_no_folder(key: str, name: str, weights: str) -> None:
    texts = assignments({f"{key}.network.encoder": name, f"{key}.network.weights": weights})
    with pytest.raises(ConfigError, match=rf"{key}.network.encoder"):
        resolve({"method": {"name": "supervised"}}, None, texts)


@pytest.mark.parametrize("key", ["dataset", "split", "machine.out", "machine.data_root", "protocol.name"])
def test_a_setting_that_could_drive_a_terminal_is_refused_and_named_plainly(key: str) -> None:
    flags: Callable[[str], dict[str, Any]] = lambda text: merge(  # noqa: E731
        {"method": {"name": "supervised"}}, nested(key.split("."), text)
    )
    for text in ("a\x1b[31m", "a\nb", "a\u202eb", "a\u2028b"):
        with pytest.raises(ConfigError, match=r"cannot be printed") as caught:
            resolve(flags(text))
        assert str(caught.value).isprintable() and key in str(caught.value)
