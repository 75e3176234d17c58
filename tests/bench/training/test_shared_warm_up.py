"""A warm-up that another run of the seed has trained is, bit for bit, the one that this run would train."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import pipeline
from bench.contents import code as contents_code
from bench.contract import Progress
from bench.display import Display
from bench.errors import Interrupted
from bench.machine import Stop
from bench.plan import plan
from bench.records.folders import RunFolder
from bench.records.schema import Result
from bench.settings.schema import RunConfig
from bench.testing import tiny
from bench.training import checkpoint, session, shared
from bench.training.trainer import Trainer

Config = Callable[..., RunConfig]
# 5 of 9 steps; lines of 2 steps, so that a line holds steps of both parts; points of the curve at 3 and 6.
USUAL = (
    "protocol.steps=9",
    "method.warmup=5",
    "machine.log_every=2",
    "protocol.evaluation.every=3",
    "protocol.optimizer.lr=0.02",
)
TEACHER = "protocol.teacher.decay=0.6"
FAMILY = ["u2pl_released", "u2pl_plus", "u2pl_weak"]  # and u2pl
ALONE = "machine.share_warmup=false"


class Quiet(Display):
    """Keeps what is said, and the step at which each activity starts; may send a signal after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.stop_after, self.training = stop_after, False
        self.said: list[str] = []
        self.begun: list[int] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.training = name.startswith("train")
        if self.training:
            self.begun.append(done)

    def update(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        if self.training and done == self.stop_after:
            signal.raise_signal(signal.SIGTERM)


def run(config: RunConfig, display: Quiet | None = None, **how: bool) -> Result:
    return pipeline.run(plan(config), display or Quiet(), **how)


def elsewhere(config: RunConfig, out: Path) -> RunConfig:
    return config.model_copy(update={"machine": config.machine.model_copy(update={"out": str(out)})})


@pytest.fixture(scope="module")
def _of_u2pl(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("of_u2pl") / "runs"
    run(tiny.config("u2pl", *USUAL, root=tiny_root, out=out))
    return out


@pytest.fixture
def after_u2pl(_of_u2pl: Path, tmp_path: Path) -> None:
    """A run of u2pl with the usual settings is done, and its warm-up is there to be taken."""
    shutil.copytree(_of_u2pl, tmp_path / "runs")


def left_in(config: RunConfig) -> list[Path]:
    return sorted(config.machine.runs.rglob("state.pt"))


def same_but_for_time(one: Result, other: Result) -> bool:
    fields = ("student", "predictor", "own", "curve", "run_id", "health")
    return all(getattr(one, name) == getattr(other, name) for name in fields)


def record(config: RunConfig) -> tuple[bytes, bytes]:
    folder = plan(config).folder
    return folder.weights.read_bytes(), folder.metrics.read_bytes()


@pytest.mark.parametrize("teacher", [(), (TEACHER,)], ids=["own", "protocol"])
@pytest.mark.parametrize("method", ["u2pl", *(pytest.param(m, marks=pytest.mark.slow) for m in FAMILY)])
def test_it_is_its_own_to_the_bit(
    method: str, teacher: tuple[str, ...], tiny_config: Config, tmp_path: Path
) -> None:
    """Weights, statistics, log, curve and scores; made by another method and by itself."""
    straight = tiny_config(method, *USUAL, *teacher, ALONE)
    whole = run(elsewhere(straight, tmp_path / "alone"))
    assert whole.shared_seconds is None and not left_in(elsewhere(straight, tmp_path / "alone"))
    wanted = record(elsewhere(straight, tmp_path / "alone"))

    maker = "u2pl_released" if method == "u2pl" else "u2pl"
    first = run(tiny_config(maker, *USUAL, *teacher))
    assert first.shared_seconds is None
    config, display = tiny_config(method, *USUAL, *teacher), Quiet()
    taken = run(config, display)
    assert record(config) == wanted and same_but_for_time(taken, whole)
    assert display.begun[0] == 5 and "the warm-up of 5 steps is that of another run" in "\n".join(
        display.said
    )
    assert taken.shared_seconds and taken.shared_seconds < taken.train_seconds
    assert len(left_in(config)) == 1
    again = run(config, overwrite=True)
    assert record(config) == wanted and again.shared_seconds == taken.shared_seconds


def stepped(trainer: Trainer, steps: range) -> None:
    for step in steps:
        trainer.train_step(trainer.batches[step], Progress(step, 9, seed=0))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_all_of_the_state_is_as_if_trained(optimizer: str, tiny_config: Config) -> None:
    sets = (*USUAL, TEACHER, f"protocol.optimizer.name={optimizer}", "protocol.evaluation.every=0")
    run(tiny_config("u2pl", *sets))
    config = tiny_config("u2pl_plus", *sets)
    made = plan(config)
    with made.folder.claimed():
        own = session.start(made, Quiet(), Stop())
        stepped(own, range(5))
        taken = session.start(made, Quiet(), Stop())
        with shared.shared_warm_up(taken):
            assert taken.step == 5
        for trainer in (own, taken):
            stepped(trainer, range(5, 7))
    for part in ("method", "teacher"):
        ours, theirs = (getattr(trainer, part).state_dict() for trainer in (own, taken))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), part
    ours, theirs = (trainer.optimizer.state_dict() for trainer in (own, taken))
    assert ours["param_groups"] == theirs["param_groups"] and ours["state"].keys() == theirs["state"].keys()
    for place, state in ours["state"].items():
        assert all(torch.equal(state[key], theirs["state"][place][key]) for key in state)


@pytest.mark.usefixtures("after_u2pl")
def test_a_method_that_trains_more_than_its_network_takes_it_too(tiny_config: Config) -> None:
    """A head of its own, in front of the network's parameters in the optimizer's list."""
    made = plan(tiny_config("u2pl_released", *USUAL))
    with made.folder.claimed():
        trainers = [session.start(made, Quiet(), Stop()) for _ in range(2)]
        for trainer in trainers:
            groups = trainer.optimizer.param_groups
            groups[1]["params"].insert(0, torch.nn.Parameter(torch.ones(3)))
        own, taken = trainers
        stepped(own, range(5))
        with shared.shared_warm_up(taken):
            assert taken.step == 5
        for trainer in trainers:
            stepped(trainer, range(5, 7))
    ours, theirs = (trainer.method.state_dict() for trainer in trainers)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("other", "taken"),
    [
        ("method.ema_decay=0.5", True),  # which shows that the others are not for another reason
        ("protocol.optimizer.lr=0.03", False),
        ("protocol.views=equal", False),
        ("method.warmup=4", False),
        ("machine.log_every=3", False),
        ("machine.deterministic=true", False),
        ("seed=1", False),
        (ALONE, False),
    ],
)
@pytest.mark.usefixtures("after_u2pl")
def test_what_decides_it_is_told_apart(other: str, taken: bool, tiny_config: Config) -> None:
    seed = 1 if other == "seed=1" else 0
    made = plan(tiny_config("u2pl_released", *USUAL, *(() if seed else (other,)), seed=seed))
    with made.folder.claimed():
        trainer = session.start(made, Quiet(), Stop())
        with shared.shared_warm_up(trainer):
            assert trainer.step == (5 if taken else 0) and (trainer.shared.seconds > 0) == taken
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("after_u2pl")
def test_what_does_not_decide_it_is_not(tiny_config: Config) -> None:
    sets = (
        "method.ema_decay=0.5",
        "method.contrast_weight=1.0",
        "machine.checkpoint_every=1",
        "machine.audit=true",
    )
    assert run(tiny_config("u2pl", *USUAL, *sets)).shared_seconds


def test_methods_without_a_warm_up_share_nothing(tiny_config: Config) -> None:
    for method, warmup in (("supervised", ()), ("u2pl", ("method.warmup=0.0",))):
        config = tiny_config(method, "protocol.steps=3", *warmup)
        assert run(config).shared_seconds is None and not left_in(config)


@pytest.mark.parametrize("damage", [b"no state", None])
@pytest.mark.usefixtures("after_u2pl")
def test_a_damaged_one_is_trained_again(damage: bytes | None, tiny_config: Config) -> None:
    config, display = tiny_config("u2pl_released", *USUAL), Quiet()
    (state,) = left_in(config)
    sound = state.read_bytes()
    flipped = bytearray(sound)
    flipped[len(sound) // 2] ^= 1
    state.write_bytes(bytes(flipped) if damage is None else damage)
    assert run(config, display).shared_seconds is None
    assert [text for text in display.said if "damaged, so it is trained again" in text]
    assert run(config, overwrite=True).shared_seconds, "it was not put right"


@pytest.mark.usefixtures("after_u2pl")
def test_one_of_other_code_is_trained_again_with_a_sentence(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = contents_code.code_files

    def edited(*args: Any, **kwargs: Any) -> Any:
        return files(*args, **kwargs) | {"bench/training": {"bench/training/optimizer.py": "0" * 64}}

    monkeypatch.setattr(shared, "code_files", edited)
    config, display = tiny_config("u2pl_released", *USUAL), Quiet()
    assert run(config, display).shared_seconds is None
    (said,) = [text for text in display.said if "trained again" in text]
    assert "is of others, so it is trained again: the room bench/training" in said
    assert run(config, overwrite=True).shared_seconds and len(left_in(config)) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("after_u2pl")
def test_one_of_another_machine_is_not_its_own(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library chooses its loops by the model of the CPU, so sums are rounded otherwise on another."""
    for of_machine, other in (
        ("bench.records.provenance.cpu_model", lambda: "another model"),
        ("torch.backends.cpu.get_cpu_capability", lambda: "another kind"),
        ("torch.get_num_threads", lambda: 77),
    ):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(of_machine, other)
            assert run(tiny_config("u2pl_released", *USUAL), overwrite=True).shared_seconds is None
    assert len(left_in(tiny_config("u2pl", *USUAL))) == 4
    assert run(tiny_config("u2pl_released", *USUAL), overwrite=True).shared_seconds


def test_one_of_other_masks_is_trained_again(tiny_config: Config, tiny_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_root, root)

    def here(method: str) -> RunConfig:
        return tiny_config(method, *USUAL, f"machine.data_root={root}")

    run(here("u2pl"))
    id = plan(here("u2pl")).split.pixel[0]
    mask = next((root / "tinyset").rglob(f"labels/{id}.png"))
    other = next(path for path in mask.parent.glob("*.png") if path.read_bytes() != mask.read_bytes())
    mask.write_bytes(other.read_bytes())
    display = Quiet()
    assert run(here("u2pl_released"), display).shared_seconds is None
    assert any("of others, so it is trained again: the masks" in text for text in display.said)


@pytest.mark.parametrize("stop_after", [2, 6])
def test_a_stop_in_the_middle(stop_after: int, tiny_config: Config, tmp_path: Path) -> None:
    """Within the warm-up nothing is left and the run goes on by itself; behind it, what was taken stays
    taken."""
    straight = elsewhere(tiny_config("u2pl", *USUAL, ALONE), tmp_path / "alone")
    whole = run(straight)
    config = tiny_config("u2pl", *USUAL)
    if stop_after > 5:
        run(tiny_config("u2pl_released", *USUAL))
    with pytest.raises(Interrupted):
        run(config, Quiet(stop_after))
    assert bool(left_in(config)) == (stop_after > 5)
    result = run(config, resume=True)
    assert record(config) == record(straight) and same_but_for_time(result, whole)
    assert bool(result.shared_seconds) == (stop_after > 5)
    assert bool(left_in(config)) == (stop_after > 5)


@pytest.mark.usefixtures("after_u2pl")
def test_a_second_run_waits_for_the_first(tiny_config: Config) -> None:
    """And takes the claim where the first leaves nothing."""
    config, display = tiny_config("u2pl_released", *USUAL), Quiet()
    (state,) = left_in(config)
    hidden = state.with_name("hidden")
    state.rename(hidden)
    lock = open(state.with_name(".lock"))  # noqa: SIM115 (closed by the thread)
    fcntl.flock(lock.fileno(), fcntl.LOCK_EX)

    def finish() -> None:
        while not display.said:
            time.sleep(0.05)
        hidden.rename(state)
        lock.close()

    thread = threading.Thread(target=finish)
    thread.start()
    try:
        assert run(config, display).shared_seconds
    finally:
        thread.join()
    assert display.said[0] == "another process trains this warm-up; waiting for it"


def test_the_claim_ends_with_the_warm_up_though_loaders_live_on(tiny_config: Config) -> None:
    """A loader process that was forked meanwhile has the lock file open too."""
    config = tiny_config("u2pl", *USUAL, "machine.workers=1")
    free: list[bool] = []

    class Looking(Quiet):
        def update(self, done: int, figures: Mapping[str, float] | None = None) -> None:
            if self.training and done == 6:
                with open(left_in(config)[0].with_name(".lock")) as lock:
                    fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                    free.append(True)

    run(config, Looking())
    assert free == [True]


def test_a_folder_that_cannot_be_written_costs_the_sharing_alone(tiny_config: Config) -> None:
    config, display = tiny_config("u2pl", *USUAL), Quiet()
    place = plan(config).folder.path.parents[1] / "warm_up"
    place.parent.mkdir(parents=True)
    place.write_text("in the way")
    result = run(config, display)
    assert result.steps == 9 and any("is trained and not shared: " in text for text in display.said)


def test_the_curves_of_tensorboard_hold_the_warm_up(tiny_config: Config) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sets = (*USUAL, "machine.tensorboard=true")
    seen = []
    for method in ("u2pl", "u2pl_released"):
        folder: RunFolder = plan(tiny_config(method, *sets)).folder
        run(tiny_config(method, *sets))
        events = EventAccumulator(str(folder.tensorboard))
        events.Reload()
        seen.append([event.step for event in events.Scalars("loss")])
    assert seen == [[2, 4, 6, 8, 9]] * 2


@pytest.mark.usefixtures("after_u2pl")
def test_the_time_of_a_shared_warm_up_counts(tiny_config: Config) -> None:
    config = tiny_config("u2pl_released", *USUAL)
    (file,) = left_in(config)
    state = checkpoint.load(file, "cpu")
    checkpoint.save(file, state | {"seconds": 500.0, "peak_memory_mib": 1e6})
    with pytest.raises(Interrupted):
        run(config, Quiet(6))
    result = run(config, resume=True)
    assert result.shared_seconds == 500 and 500 < result.train_seconds < 600
    assert result.peak_memory_mib == 1e6
    assert json.loads(plan(config).folder.result.read_text())["shared_seconds"] == 500
