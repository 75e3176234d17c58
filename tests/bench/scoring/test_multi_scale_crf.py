"""Finished runs scored again: the counts by hand, the same for any number of processes; what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.contents import code
from bench.contents.files import sha256
from bench.contract import Method
from bench.display import Display
from bench.errors import BenchError, ConfigError, DataError, Interrupted
from bench.networks import exported
from bench.ops import crf
from bench.pipeline import run as run_plan
from bench.plan import plan
from bench.pool import Pool
from bench.records.folders import RunFolder
from bench.records.schema import Scores
from bench.scoring.inference import Inference, confusion, evaluate, to_tensor
from bench.scoring.multi_scale_crf import PENDING, Refinement, RescoreSettings, count, likely, rescore
from bench.settings import registry
from bench.settings.registry import MethodInfo
from bench.settings.schema import Evaluation, RunConfig
from datasets.folder import Folder

needs_crf = pytest.mark.skipif(
    importlib.util.find_spec("pydensecrf") is None, reason="pydensecrf does not build on this Python"
)
RAW = RescoreSettings(scales=(1.0,), flip=False, crf=None)
SMALL = RescoreSettings(scales=(0.5, 1.0))
MANY = Inference(Evaluation(scales=(0.5, 1.0, 1.5), flip=True), (32, 32))


class ByBrightness(nn.Module):
    """Bright is class 1, dark is class 2, grey is class 0; sure enough only of what is far from grey."""

    def forward(self, image: Tensor) -> Tensor:
        grey = image.mean(1) - 0.43
        return torch.stack([torch.full_like(grey, 0.5), 8 * grey, -8 * grey], 1)


class Inline(Pool):
    """Computes in this process, and not before it is asked for the result."""

    def __init__(self) -> None:
        self.waiting = self.most = 0

    def submit(self, *given: Any) -> Future[Any]:
        pool = self

        class Later(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                pool.waiting -= 1
                return crf.likeliest(*given)

        self.waiting += 1
        self.most = max(self.most, self.waiting)
        return Later()


def refinement(pool: Pool, jobs: int = 1) -> Refinement:
    return Refinement(pool, jobs, crf.PUBLISHED["deeplab"])


# One pass ---------------------------------------------------------------------------------------------------


def test_multi_scale_counts_are_those_of_an_evaluation_with_its_settings(tiny_set: Folder) -> None:
    ids, net, seen = tiny_set.ids("test"), ByBrightness(), list[int]()
    counts, none = count(net, tiny_set, ids, MANY, "cpu", None, seen.append)
    assert none is None and seen == [1, 2, 3, 4]
    assert np.array_equal(counts, evaluate(net, tiny_set, ids, MANY, "cpu").sum(0))


@needs_crf
def test_crf_counts_are_of_the_same_probabilities_refined(tiny_set: Folder) -> None:
    ids, net, seen = tiny_set.ids("test"), ByBrightness(), list[int]()
    plain, refined = count(net, tiny_set, ids, MANY, "cpu", refinement(Inline()), seen.append)
    by_hand = np.zeros((3, 3), np.int64)
    for id in ids:
        image = tiny_set.image(id)
        probability = MANY.probability(net, to_tensor(image))[0].numpy()
        shown, share = likely(probability)
        assert shown == [0, 1, 2]
        labels = crf.refine(image, share, crf.PUBLISHED["deeplab"]).argmax(0)
        by_hand += confusion(torch.from_numpy(labels), torch.from_numpy(tiny_set.mask(id)), 3).numpy()
    assert refined is not None and np.array_equal(refined, by_hand)
    assert np.array_equal(plain, evaluate(net, tiny_set, ids, MANY, "cpu").sum(0))
    assert not np.array_equal(refined, plain), "the CRF did something"
    assert seen == [1, 2, 3, 4]


@needs_crf
@pytest.mark.slow
def test_counts_do_not_depend_on_the_number_of_processes(tiny_set: Folder) -> None:
    """The ids twice over, so that processes overtake each other."""
    ids, net = [*tiny_set.ids("test")] * 2, ByBrightness()
    expected = count(net, tiny_set, ids, MANY, "cpu", refinement(Inline()))[1]
    for jobs in (1, 2):
        with Pool(jobs, crf.likeliest) as pool:
            found = count(net, tiny_set, ids, MANY, "cpu", refinement(pool, jobs))[1]
        assert np.array_equal(found, expected)  # type: ignore[arg-type]


@needs_crf
@pytest.mark.parametrize("jobs", [1, 2])
def test_few_probabilities_wait_for_the_crf(tiny_set: Folder, jobs: int) -> None:
    ids, pool = [*tiny_set.ids("test")] * 3, Inline()
    count(ByBrightness(), tiny_set, ids, MANY, "cpu", refinement(pool, jobs))
    assert (pool.most, pool.waiting) == (PENDING * jobs + 1, 0)


def test_the_classes_that_matter_are_kept_and_share_all() -> None:
    probability = np.array([[0.5, 0.02], [0.05, 0.04], [0.44, 0.88], [0.01, 0.06]])[:, None]
    shown, share = likely(probability)
    assert shown == [0, 2, 3] and share.shape == (3, 1, 2) and share.dtype == np.float32
    assert share[:, 0, 0] == pytest.approx(np.array([0.5, 0.44, 0.01]) / 0.95)
    assert share[:, 0, 1] == pytest.approx(np.array([0.02, 0.88, 0.06]) / 0.96)


def test_one_class_is_kept_where_all_are_unlikely() -> None:
    probability = np.full((25, 2, 2), 0.04)
    probability[7, 1, 1] = 0.041
    shown, share = likely(probability)
    assert shown == [7] and (share == 1).all()


def test_a_pixel_of_which_nothing_is_kept_is_not_divided_by_zero() -> None:
    probability = np.zeros((30, 1, 2))
    probability[:2, 0, 0] = 0.5
    probability[2:, 0, 1] = 1 / 28
    shown, share = likely(probability)
    assert shown == [0, 1] and share[:, 0, 1] == pytest.approx(0.5)


# Runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def finished(tiny_config: Callable[..., RunConfig], shelf: Path, tmp_path: Path) -> RunFolder:
    """A finished run of a method with a teacher, trained once and copied for each test."""
    planned = plan(tiny_config("fixmatch", "protocol.steps=60", f"machine.out={shelf}"))
    run_plan(planned, Display())
    return RunFolder(shutil.copytree(planned.folder.path, tmp_path / "run"))


def again(folder: RunFolder, settings: RescoreSettings = RAW, **given: Any) -> Any:
    ((_, scores),) = rescore([folder.path], settings, None, Display(), "cpu", jobs=1, **given)
    return scores


def bytes_of(folder: RunFolder) -> bytes | None:
    return folder.scores.read_bytes() if folder.scores.exists() else None


@pytest.mark.slow
def test_the_protocols_settings_give_the_raw_score(finished: RunFolder) -> None:
    result = finished.read_result()
    (entry,) = again(finished).entries
    assert result is not None and entry.score == result.predictor
    assert result.predictor != result.student, "it is the predictor that was loaded"
    assert finished.read_scores().entries == [entry]


@needs_crf
@pytest.mark.slow
def test_both_numbers_are_written_beside_the_run(finished: RunFolder) -> None:
    before = {path: path.read_bytes() for path in finished.path.iterdir() if path.is_file()}
    scores = again(finished, SMALL)
    assert [entry.setting for entry in scores.entries] == [
        ("multi_scale", (0.5, 1.0), True, None, False),
        ("crf", (0.5, 1.0), True, "deeplab", False),
    ]
    assert scores.entries[0].score != scores.entries[1].score
    assert all(path.read_bytes() == data for path, data in before.items()), "the run is as it was"


def test_what_is_scored_is_skipped_unless_it_is_to_be_redone(
    finished: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    first = again(finished)
    written = bytes_of(finished)
    assert "already scored" not in capsys.readouterr().err
    assert again(finished) == first and bytes_of(finished) == written
    assert f"already scored: {finished.path}" in " ".join(capsys.readouterr().err.split())
    redone = again(finished, overwrite=True)
    assert redone.entries[0].score == first.entries[0].score and bytes_of(finished) != written
    assert len(finished.read_scores().entries) == 1


def test_other_settings_stand_beside_each_other(finished: RunFolder) -> None:
    first = again(finished)
    other = again(finished, RescoreSettings(scales=(1.0,), flip=True, crf=None))
    assert finished.read_scores().entries == [*first.entries, *other.entries]


def test_weights_from_before_a_head_that_predicts_nothing_are_enough(finished: RunFolder) -> None:
    expected = again(finished).entries[0].score
    result = finished.read_result()
    assert result is not None
    finished.write_result(result.model_copy(update={"contents": None}))  # of before digests, too
    with safe_open(finished.weights, "pt") as file:
        about = file.metadata()
    state = load_file(finished.weights)
    save_file({k: v for k, v in state.items() if k != "classification_head.weight"}, finished.weights, about)
    assert again(finished, overwrite=True).entries[0].score == expected
    save_file({k: v for k, v in state.items() if k != "mean"}, finished.weights, about)
    with pytest.raises(DataError, match=r"does not fit .* 1 tensors .* mean; run it again"):
        exported.read(finished.weights)
    save_file(state | {"segmentation_head.bias": torch.zeros(9)}, finished.weights, about)
    with pytest.raises(DataError, match=r"the first is segmentation_head\.bias"):
        exported.read(finished.weights)


# What is refused --------------------------------------------------------------------------------------------


def test_a_folder_without_a_result_is_refused_before_another_is_scored(
    finished: RunFolder, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no finished run; give the folder of one"):
        rescore([finished.path, tmp_path / "empty"], RAW, None, Display(), "cpu")
    assert bytes_of(finished) is None


def test_a_predictor_that_is_more_than_its_network_is_refused(finished: RunFolder) -> None:
    result = finished.read_result()
    assert result is not None
    config = result.config | {"method": {"name": "classifier"}}
    finished.write_result(result.model_copy(update={"method": "classifier", "config": config}))
    with pytest.raises(ConfigError, match="the predictor of classifier is more than its network"):
        again(finished)


def test_missing_and_damaged_weights_are_sentences(finished: RunFolder) -> None:
    finished.weights.write_bytes(finished.weights.read_bytes()[:100])
    with pytest.raises(DataError, match=r"weights\.safetensors is damaged .*run it again with --overwrite"):
        again(finished)
    finished.weights.unlink()
    with pytest.raises(DataError, match=r"no .*weights\.safetensors; put it back, or run it again"):
        again(finished)


def test_weights_of_another_run_are_not_scored(finished: RunFolder) -> None:
    """A file that is whole, and not the one that the run wrote: a flipped bit, or a copy from elsewhere."""
    state, about = load_file(finished.weights), exported_about(finished)
    name = next(name for name, value in state.items() if value.dtype == torch.float32)
    state[name] = state[name] * 2
    save_file(state, finished.weights, about)
    with pytest.raises(
        DataError, match=r"weights\.safetensors is damaged or not the file that its run wrote"
    ):
        again(finished)
    assert exported.read(finished.weights), "nothing else is wrong with it"


def exported_about(run: RunFolder) -> dict[str, str]:
    with safe_open(run.weights, "pt") as file:
        return file.metadata()


class Claims(Method):
    """Says nothing of its predictor, which adds what starts at 0."""

    class Added(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net, self.bias = net, nn.Parameter(torch.zeros(1, 3, 1, 1))

        def forward(self, image: Tensor) -> Tensor:
            return self.net(image) + self.bias

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.added = self.Added(self.net)

    def losses(self, batch: Any, at: Any) -> dict[str, Tensor]:
        return {"labeled": self.task.labeled_loss(self.added(batch.labeled.image), batch.labeled.label)}

    def predictor(self) -> nn.Module:
        return self.added


def test_a_method_that_claims_to_be_its_network_is_tried(finished: RunFolder) -> None:
    result = finished.read_result()
    assert result is not None and Claims.scored_by_network
    finished.write_result(
        result.model_copy(update={"config": result.config | {"method": {"name": "claims"}}})
    )
    with (
        registry.offering(MethodInfo("fixmatch", Claims, Claims.HParams, "A claim.")),
        pytest.raises(ConfigError, match="the predictor of fixmatch is more than its network"),
    ):
        again(finished)


def test_weights_that_do_not_give_the_runs_counts_are_not_scored(finished: RunFolder) -> None:
    """Of a run of before digests, too."""
    result = finished.read_result()
    assert result is not None
    finished.write_result(result.model_copy(update={"contents": None}))
    state, about = load_file(finished.weights), exported_about(finished)
    state["segmentation_head.weight"] = -state["segmentation_head.weight"]
    save_file(state, finished.weights, about)
    with pytest.raises(DataError, match=r"its weights and its counts are not of one network"):
        again(finished)


def test_other_scored_masks_are_refused(finished: RunFolder, tiny_root: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_root, tmp_path / "data")
    assert rescore([finished.path], RAW, root, Display(), "cpu", jobs=1)
    shutil.copy(*(root / "tinyset" / "labels" / f"test_0{n}.png" for n in (0, 1)))
    with pytest.raises(DataError, match="the scored images or masks of tinyset have changed since"):
        rescore([finished.path], RAW, root, Display(), "cpu", jobs=1, overwrite=True)


def edited(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The code of a module is another one."""
    code.code_files([], [], seeds=False, begin=(name,))  # knows the module from here on
    spec, source = code._known[name]
    monkeypatch.setitem(code._known, name, (spec, source._replace(digest="f" * 64)))


def test_numbers_of_other_code_are_scored_once_more_or_refused(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = again(finished)
    assert set(first.entries[0].code or {}) >= {"bench/scoring", "bench/networks", "datasets"}
    assert first.entries[0].weights == sha256(finished.weights) and first.entries[0].scored
    with monkeypatch.context() as patch:
        edited(patch, "bench.scoring.multi_scale_crf")
        with pytest.raises(ConfigError, match=r"changed since: the room bench/scoring; score it once more"):
            again(finished)
        redone = again(finished, overwrite=True)
        assert again(finished) == redone and redone.entries[0].score == first.entries[0].score
    with monkeypatch.context() as patch:
        edited(patch, "bench.ops.crf")
        with pytest.raises(ConfigError, match=r"changed since: .*the room bench/ops"):
            again(finished)


def test_the_code_of_training_does_not_score(finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = again(finished)
    edited(monkeypatch, "bench.training.trainer")
    assert again(finished) == first and "bench/training" not in (first.entries[0].code or {})


def test_weights_that_were_swapped_are_noticed_though_all_is_scored(finished: RunFolder) -> None:
    again(finished)
    whole, result = finished.weights.read_bytes(), finished.read_result()
    state = load_file(finished.weights)
    save_file({name: value + 0 for name, value in state.items()}, finished.weights, exported_about(finished))
    finished.weights.write_bytes(finished.weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(DataError, match="damaged or not the file that its run wrote"):
        again(finished)
    assert result is not None
    finished.write_result(result.model_copy(update={"contents": None}))  # of before digests, too
    with pytest.raises(ConfigError, match="changed since: the weights; score it once more"):
        again(finished)
    finished.weights.write_bytes(whole)
    assert again(finished)


def test_entries_of_before_digests_stand_as_they_are(finished: RunFolder) -> None:
    scores = again(finished)
    bare = scores.entries[0].model_copy(update={"code": None, "weights": None, "scored": None})
    finished.write_scores(Scores(entries=[bare]))
    assert not {"code", "weights"} & json.loads(finished.scores.read_text())["entries"][0].keys()
    assert again(finished).entries == [bare]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]\n", "must hold keys and values"),
        ("machine: here\n", r"config.yaml: machine: .*here"),
        ("machine: {data_root: [a]}\n", r"config.yaml: machine.data_root"),
        ("method: fixmatch\n", r"config.yaml: method"),
        ("protocol: [\n", "is not valid YAML"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_a_sentence(
    finished: RunFolder, text: str, words: str
) -> None:
    result = finished.read_result()
    assert result is not None
    finished.write_result(result.model_copy(update={"files": None}))  # of before digests
    finished.config.write_text(text)
    with pytest.raises(BenchError, match=words):
        rescore([finished.path], RAW, None, Display(), "cpu", jobs=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": None}, r"result.json: config.protocol is missing"),
        ({"method": None}, r"result.json: config.method is missing"),
    ],
)
def test_a_result_without_its_settings_is_a_sentence(
    finished: RunFolder, changes: dict[str, None], words: str
) -> None:
    result = finished.read_result()
    assert result is not None
    config = {key: value for key, value in result.config.items() if key not in changes}
    finished.write_result(result.model_copy(update={"config": config}))
    with pytest.raises(BenchError, match=words):
        again(finished)
    finished.write_result(result.model_copy(update={"split_digests": {}}))
    with pytest.raises(DataError, match="the scored list or the classes"):
        again(finished)


def test_another_scored_list_is_refused(finished: RunFolder) -> None:
    result = finished.read_result()
    assert result is not None
    digests = result.split_digests | {"eval": "0" * 64}
    finished.write_result(result.model_copy(update={"split_digests": digests}))
    with pytest.raises(DataError, match="the scored list or the classes of tinyset have changed"):
        again(finished)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"crf": "deplab"}, "unknown --crf 'deplab'; did you mean 'deeplab'"),
        ({"scales": ()}, "--scales: give one or more positive factors"),
        ({"scales": (1.0, 0.0)}, "--scales: give one or more positive factors"),
        ({"scales": (float("nan"),)}, "--scales: give one or more positive factors"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        RescoreSettings(**given)


def test_without_the_crf_multi_scale_is_still_possible(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(ConfigError, match=r"needs the module pydensecrf.*Or leave it out with --crf none\."):
        again(finished, SMALL)
    assert bytes_of(finished) is None
    assert len(again(finished).entries) == 1


def test_a_run_in_use_is_left_alone(finished: RunFolder) -> None:
    with finished.claimed(), pytest.raises(ConfigError, match=r"in use by process \d+ on "):
        again(finished)


class Killer(Display):
    """SIGTERM after the first image."""

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_stops_between_images_and_leaves_no_half_score(finished: RunFolder) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"):
        rescore([finished.path], RAW, None, Killer(), "cpu")
    assert bytes_of(finished) is None
    assert len(again(finished).entries) == 1


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@needs_crf
@pytest.mark.slow
def test_a_killed_process_is_a_sentence(finished: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crf, "likeliest", die)
    with pytest.raises(BenchError, match=r"a process of the CRF was killed.*--jobs"):
        again(finished, SMALL)
    assert bytes_of(finished) is None
