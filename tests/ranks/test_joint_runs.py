"""A run on two ranks is the run of one, and what one rank meets ends both."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
import scenarios
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file
from scenarios import STEPS, WORLD, config

from bench.plan import plan
from bench.records.folders import RunFolder
from bench.records.logs import read_metrics
from bench.testing import tiny

pytestmark = pytest.mark.slow  # processes that train


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    tiny.make(folder / "data")
    some = [f"train_{i:02d}" for i in range(16)]
    scenarios.poisoned(folder, "withheld", *some[4:])
    scenarios.poisoned(folder, "granted", some[0])
    scenarios.poisoned(folder, "bad", some[9], part="images")
    scenarios.poisoned(folder, "scored", "test_01")
    scenarios.poisoned(folder, "other")
    images = folder / "other" / "tinyset" / "images"
    copy(images / f"{some[6]}.png", images / f"{some[5]}.png")
    return folder


@pytest.fixture(scope="module")
def found(place: Path) -> list[dict[str, Any]]:
    """What each of two ranks saw, one run after the other in the same two processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    mp.spawn(scenarios.work, (str(place), port), nprocs=WORLD)
    return [torch.load(place / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def folder(place: Path, out: str, method: str) -> RunFolder:
    return plan(config(method, place, out)).folder


@pytest.mark.parametrize("method", scenarios.SETTINGS)
def test_log_weights_and_scores_are_those_of_one_rank(
    place: Path, found: list[dict[str, Any]], method: str
) -> None:
    one, two = (folder(place, out, method) for out in ("one", "two"))
    assert one.path.name == two.path.name, "the number of ranks is no part of the id"
    assert found[0][method] == found[1][method] and "miou" in found[0][method]
    lines, joint = read_metrics(one.metrics), read_metrics(two.metrics)
    assert len(lines) == len(joint) == STEPS + 1  # with a point of the curve
    for line, other in zip(lines, joint, strict=True):
        assert line.keys() == other.keys()
        for name in ("loss", "labeled", "unlabeled", "contrast", "miou", "lr", "queue_fill", "anchors"):
            if name in line:
                assert other[name] == pytest.approx(line[name], rel=1e-12, abs=1e-12), name
    weights, joint_weights = load_file(one.weights), load_file(two.weights)
    for name, value in weights.items():
        torch.testing.assert_close(joint_weights[name], value, rtol=0, atol=1e-7, msg=name)
    with np.load(one.counts) as counts, np.load(two.counts) as joint_counts:
        assert {*counts} == {*joint_counts}
        assert all((counts[name] == joint_counts[name]).all() for name in counts)
    assert {path.name for path in one.path.iterdir()} == {path.name for path in two.path.iterdir()}
    samples, joint_samples = (json.loads(each.samples.read_text()) for each in (one, two))
    assert samples == joint_samples, "each rank predicts a part of them"


def test_the_record_says_how_many_ranks(place: Path, found: list[dict[str, Any]]) -> None:
    one, two = (folder(place, out, "u2pl").read_provenance()[0] for out in ("one", "two"))
    assert "ranks" not in one and two["ranks"] == WORLD
    assert found[0]["again"] == found[1]["again"] == found[0]["u2pl"], "done already, for all ranks"


def test_a_signal_to_one_rank_stops_both_at_the_same_step(found: list[dict[str, Any]]) -> None:
    stopped = [rank["stopped"] for rank in found]
    assert all(one["error"] == "Interrupted" and "SIGTERM" in one["said"] for one in stopped)
    assert stopped[0]["steps"] == stopped[1]["steps"] == 5, "the next step tells the other rank"


@pytest.mark.parametrize("out", ["stopped", "half"])
def test_a_run_goes_on_on_another_number_of_ranks(place: Path, found: list[dict[str, Any]], out: str) -> None:
    """From two to one, and from one to two."""
    assert "miou" in found[0]["half"]
    whole, again = (folder(place, each, "u2pl") for each in ("one", out))
    assert len(again.read_provenance()) == 2
    lines, other = read_metrics(whole.metrics), read_metrics(again.metrics)
    assert [line["step"] for line in lines] == [line["step"] for line in other]
    for line, same in zip(lines, other, strict=True):
        for name in line.keys() & {"loss", "contrast", "miou"}:
            assert same[name] == pytest.approx(line[name], rel=1e-12), name


def test_withheld_masks_are_not_opened_and_granted_ones_are(found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert "miou" in rank["withheld"]
        assert rank["granted"]["error"] == "DataError" and "train_00" in rank["granted"]["said"]


def test_what_one_rank_cannot_read_ends_both(place: Path, found: list[dict[str, Any]]) -> None:
    """An image that is no image is met by the rank that has it, in training or in scoring."""
    for name, id in (("bad image", "train_09"), ("bad scored", "test_01")):
        first, second = (rank[name] for rank in found)
        assert first == second and first["error"] == "DataError" and id in first["said"]


def test_ranks_with_other_data_or_settings_are_refused(place: Path, found: list[dict[str, Any]]) -> None:
    data, settings, shared = (
        [rank[name] for rank in found] for name in ("other data", "other settings", "not shared")
    )
    assert data[0] == data[1] and data[0]["error"] == "ConfigError"
    assert "process 1 of this run has other code or data than process 0" in data[0]["said"]
    assert settings[0] == settings[1] and "with the same command" in settings[0]["said"]
    assert shared[0] == shared[1] and "protocol.batch.unlabeled is 3, and 2 processes" in shared[0]["said"]
    assert not (place / "odd").exists() or not [*(place / "odd").rglob("checkpoint.pt")]


def test_a_loss_that_is_no_number_on_one_rank_ends_both(found: list[dict[str, Any]]) -> None:
    assert all("not finite" in rank["OnOneRank"].get("said", "") for rank in found), found[1]["OnOneRank"]


def test_states_that_part_are_seen_when_they_are_saved(found: list[dict[str, Any]]) -> None:
    assert all("other values of 'seen'" in rank["Apart"].get("said", "") for rank in found), found[1]["Apart"]


def test_seeds_are_those_of_one_rank_and_no_map_is_made_twice(
    place: Path, found: list[dict[str, Any]]
) -> None:
    one, two = (plan(config("u2pl_weak", place, out)).seeds for out in ("one", "two"))
    assert one is not None and two is not None
    reports = [seeds.folder.read_report() for seeds in (one, two)]
    digests = [report.contents.seeds for report in reports if report and report.contents]
    assert len(digests) == 2 and digests[0] == digests[1]
    ledger = [json.loads(line) for line in two.folder.map_ledger.read_text().split("\n") if line]
    assert sorted(line["id"] for line in ledger) == sorted(two.classifier.split.tags)
