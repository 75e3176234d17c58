"""Plants faults, one at a time, and says whether the regression gate catches them. Edits no file.

python tests/regression/faults.py --out DIR                  all faults, then clean runs: some hours
python tests/regression/faults.py --out DIR --only no_ema    one fault, or a clean condition, by its name
python tests/regression/faults.py --list

A fault is planted into the process of every run, by replacing a function. The gate runs of the methods it
touches are made with it, below DIR/<fault>, and compared with the baselines, method by method until one of
them does not hold: then the fault is caught. With --thorough all methods are run, which says who catches it.
A clean condition repeats all gate runs with nothing planted, and with what rounds otherwise: other threads,
other instructions of the CPU. What differs there is a false alarm. Without a file of baselines the runs of
DIR/clean become it. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # a script has its own folder there, and the checkout is meant

from gate import BASELINES, grid, settings  # noqa: E402

from bench.gate import FAULTS as ALARMS  # noqa: E402
from bench.gate import Row, compare, find_groups, read_baselines  # noqa: E402

CLASSES = 9  # of shapes
SEMI, WEAK = "1_8", "tags"


# The faults -------------------------------------------------------------------------------------------------


@contextmanager
def nothing() -> Iterator[None]:
    yield


@contextmanager
def replaced(*places: tuple[str, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for place, new in places:
            stack.enter_context(patch(place, new))
        yield


def plant_no_ema() -> Any:
    """The teacher is a copy of the student."""
    from bench.ops.teacher import Teacher

    update = Teacher.update
    return replaced(
        (
            "bench.ops.teacher.Teacher.update",
            lambda self, student, decay, updates: update(self, student, 0.0, updates),
        )
    )


def plant_threshold_ignored() -> Any:
    """Every pixel outside padding trains, however unsure the teacher is; the note of the mask stays right."""
    from bench.ops.losses import masked_cross_entropy

    def everywhere(logits: Any, label: Any, keep: Any, counted: Any) -> Any:
        return masked_cross_entropy(logits, label, counted, counted)

    methods = ("fixed_threshold", "fixmatch")
    return replaced(*((f"methods.{name}.masked_cross_entropy", everywhere) for name in methods))


def _changed_label(change: Callable[[Any], Any]) -> Any:
    from datasets.loaders import StepBatches

    label = StepBatches._label
    return replaced(("datasets.loaders.StepBatches._label", lambda *given: change(label(*given))))


def plant_labels_shifted() -> Any:
    """Class c is learned as class c + 1."""
    import torch

    return _changed_label(
        lambda label: torch.where(label == 255, label, ((label.long() + 1) % CLASSES).to(label.dtype))
    )


def plant_mask_flipped() -> Any:
    """The mask is mirrored, its image is not."""
    return _changed_label(lambda label: label.flip(-1))


def plant_ignore_is_class_0() -> Any:
    """Pixels without a label (padding, undecided pixels of a seed) are learned as background."""
    return _changed_label(lambda label: label.masked_fill(label == 255, 0))


def plant_queues_never_filled() -> Any:
    """No negative key is ever stored."""
    import torch

    return replaced(("bench.ops.queues.Queues.push", lambda self, keys, meant: torch.zeros_like(self.length)))


def plant_entropy_sign() -> Any:
    """The surest pixels count as unreliable."""
    from bench.ops.entropy import pixel_entropy

    methods = ("u2pl", "u2pl_released", "u2pl_weak")
    return replaced(*((f"methods.{name}.pixel_entropy", lambda p: -pixel_entropy(p)) for name in methods))


def plant_teacher_in_gradient() -> Any:
    """The teacher is trained by the loss too: its weights are among those of the optimizer."""
    from bench.ops.teacher import Teacher

    init = Teacher.__init__

    def trained(self: Any, student: Any) -> None:
        init(self, student)
        self.module.requires_grad_(True)

    return replaced(
        ("bench.ops.teacher.Teacher.__init__", trained),
        ("bench.ops.teacher.Teacher.forward", lambda self, image: self.module(image)),
    )


def plant_tags_shuffled() -> Any:
    """The tag sets are dealt out anew among the images."""
    from datasets.tags import load_tags

    def dealt(dataset: Any, split: Any, shuffled_by: int | None = None) -> Any:
        return load_tags(dataset, split, 0)

    return replaced(("bench.plan.load_tags", dealt))


def plant_only_images_mixed() -> Any:
    """CutMix pastes the image alone: labels, confidence and padding stay those of the image below."""
    from bench.ops.mixing import mix

    def images_only(tensor: Any, box: Any) -> Any:
        return mix(tensor, box) if tensor.dim() == 4 and tensor.shape[1] == 3 else tensor

    methods = ("cutmix", "fixmatch", "u2pl", "u2pl_released", "u2pl_weak")
    return replaced(*((f"methods.{name}.mix", images_only) for name in methods))


TEACHERS = ("fixed_threshold", "mean_teacher", "cutmix", "fixmatch", "u2pl", "u2pl_released", "u2pl_plus")
CONTRASTIVE = ("u2pl", "u2pl_released", "u2pl_plus")


@dataclass(frozen=True)
class Case:
    """A fault, or a clean condition with nothing planted, and the methods of each split that it touches."""

    semi: tuple[str, ...]
    weak: tuple[str, ...]
    plant: Callable[[], Any] = nothing
    settings: tuple[str, ...] = ()  # beside those of the gate
    environment: dict[str, str] = field(default_factory=dict)


def _all(split: str) -> tuple[str, ...]:
    return tuple(method for of in grid()["sweeps"] if of["split"] == split for method in of["methods"])


FAULTS = {
    "no_ema": Case(TEACHERS, ("u2pl_weak",), plant_no_ema),
    "threshold_ignored": Case(("fixed_threshold", "fixmatch"), (), plant_threshold_ignored),
    "labels_shifted": Case(_all(SEMI), _all(WEAK), plant_labels_shifted),
    "mask_flipped": Case(_all(SEMI), _all(WEAK), plant_mask_flipped),
    "ignore_is_class_0": Case(_all(SEMI), _all(WEAK), plant_ignore_is_class_0),
    "queues_never_filled": Case(CONTRASTIVE, ("u2pl_weak",), plant_queues_never_filled),
    "entropy_sign": Case(CONTRASTIVE, ("u2pl_weak",), plant_entropy_sign),
    "teacher_in_gradient": Case(("mean_teacher", "cutmix"), (), plant_teacher_in_gradient),
    "tags_shuffled": Case((), _all(WEAK), plant_tags_shuffled),
    "only_images_mixed": Case(("cutmix", "fixmatch", *CONTRASTIVE), ("u2pl_weak",), plant_only_images_mixed),
}
_clean = partial(Case, _all(SEMI), _all(WEAK))
CLEAN = {
    "clean": _clean(),
    "two_threads": _clean(settings=("machine.threads=2",)),
    "three_threads": _clean(settings=("machine.threads=3",)),
    "loader_process": _clean(settings=("machine.workers=1",)),
    # Narrower vector instructions sum in another order, as an older CPU does.
    "avx2": _clean(environment={"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
    "no_vectors": _clean(environment={"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
}
CASES = {**FAULTS, **CLEAN}


# The runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    case: str
    method: str
    split: str
    seed: int

    def arguments(self, out: Path) -> list[str]:
        """Of `python -m bench`."""
        extra = [word for text in CASES[self.case].settings for word in ("--set", text)]
        cell = [
            "--method",
            self.method,
            "--dataset",
            "shapes",
            "--split",
            self.split,
            "--seed",
            str(self.seed),
        ]
        sweep = next(
            of for of in grid()["sweeps"] if of["split"] == self.split and self.method in of["methods"]
        )
        return ["run", *cell, *settings(sweep), *extra, "--resume", "--out", str(out / self.case)]


def jobs_of(name: str) -> list[Job]:
    """The runs of a case, every seed of a method before the next method."""
    case = CASES[name]
    cells = [(method, split) for split, of in ((SEMI, case.semi), (WEAK, case.weak)) for method in of]
    return [Job(name, method, split, seed) for (method, split), seed in product(cells, grid()["seeds"])]


def perform(job: Job, out: Path) -> str | None:
    """Make a run in a process of its own. Answers why it failed."""
    log = out / job.case / f"{job.method}-{job.split}-{job.seed}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    done = log.with_suffix(".done")
    if done.exists():
        return None
    command = [sys.executable, __file__, "--plant", job.case, *job.arguments(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **CASES[job.case].environment}
    with open(log, "w") as file:
        code = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    if code == 0:
        done.touch()
        return None
    return f"{job.method} on {job.split}, seed {job.seed}, ended with code {code} ({log})"


def planted(name: str, arguments: list[str]) -> None:
    """`python -m bench` in this process, with the fault."""
    with CASES[name].plant():
        from bench import cli

        sys.argv = ["bench", *arguments]
        cli.main()


# The verdicts -----------------------------------------------------------------------------------------------


def make(jobs: Sequence[Job], out: Path, at_once: int) -> list[str]:
    """The runs that are not done; answers the failures."""
    with ThreadPoolExecutor(at_once) as pool:
        return [reason for reason in pool.map(lambda job: perform(job, out), jobs) if reason]


@dataclass(frozen=True)
class Verdict:
    failures: list[str]  # runs that came to no end
    broken: set[str]  # baselines that do not hold
    compared: set[str]


def judge(name: str, out: Path, baseline: Path, at_once: int, thorough: bool) -> Verdict:
    """Make the runs of a case and compare them: of a fault method by method, until a baseline is broken."""
    verdict = Verdict([], set(), set())
    jobs = jobs_of(name)
    steps = [jobs]
    if name in FAULTS and not thorough:
        steps = [list(of) for _, of in groupby(jobs, key=lambda job: (job.method, job.split))]
    for step in steps:
        verdict.failures.extend(make(step, out, at_once))
        if verdict.failures:
            break
        rows = [row for row in examine(name, out, baseline) if row.label not in verdict.compared]
        for row in rows:
            if row.figure == "miou" or row.verdict in ALARMS:
                print(line_of(row), flush=True)
        verdict.compared.update(row.label for row in rows)
        verdict.broken.update(row.label for row in rows if row.verdict in ALARMS)
        if verdict.broken:
            break
    return verdict


def line_of(row: Row) -> str:
    shown = [f"{x:.4g}" if x is not None else "-" for x in (row.baseline, row.now, row.tolerance)]
    return "  {:44} {:28} {:>9} -> {:>9} ± {:8} {}".format(row.label, row.figure, *shown, row.verdict)


def examine(name: str, out: Path, baseline: Path) -> list[Row]:
    """What the gate says of the runs of a case that are there. Seeds are compared as a mean, so methods of
    which some have no run, and those that the fault does not touch, are left out."""
    rows = compare(read_baselines(baseline), find_groups([out / name]))
    partly = {row.label for row in rows if row.verdict == "missing"}
    return [row for row in rows if row.baseline is not None and row.label not in partly]


def main() -> int:
    if sys.argv[1:2] == ["--plant"]:
        planted(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument(
        "--only", action="append", choices=list(CASES), metavar="NAME", help="may be repeated"
    )
    parser.add_argument("--baseline", type=Path, default=BASELINES)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--thorough", action="store_true", help="all methods that a fault touches")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    given = parser.parse_args()
    if given.list or given.out is None:
        for name, case in CASES.items():
            print(f"{name:20} {len(jobs_of(name)):3} runs  {case.plant.__doc__ or 'clean'}")
        return 0
    out, baseline, failed = given.out.resolve(), given.baseline.resolve(), False
    if not baseline.exists():
        baseline = out / "baselines.json"
        if not baseline.exists():
            print("no baselines: making them of clean runs", flush=True)
            if failures := make(jobs_of("clean"), out, given.jobs):
                print("\n".join(failures))
                return 1
            command = [
                "check",
                "--baseline",
                str(baseline),
                "--update",
                "--allow-dirty",
                "--reason",
                "clean runs",
            ]
            print("$", shlex.join(["python", "-m", "bench", *command, str(out / "clean")]), flush=True)
            subprocess.run(
                [sys.executable, "-m", "bench", *command, str(out / "clean")], cwd=ROOT, check=True
            )

    lines = []
    for name in given.only or CASES:
        print(f"{name}: {CASES[name].plant.__doc__ if name in FAULTS else 'clean'}", flush=True)
        verdict = judge(name, out, baseline, given.jobs, given.thorough)
        if verdict.failures:
            print(*verdict.failures, sep="\n")
            lines.append(f"{name:20} {len(verdict.failures)} RUNS FAILED")
            failed = True
            continue
        bad, of = len(verdict.broken), len(verdict.compared)
        if name in FAULTS:
            said = f"{'caught' if bad else 'NOT CAUGHT'}, by {bad} of {of} baselines"
        else:
            said = f"{bad} FALSE ALARMS" if bad else "no false alarm"
            said += f" of {of} baselines"
        failed |= bool(bad) != (name in FAULTS)
        lines.append(f"{name:20} {said}")
        print(f"  {said}", flush=True)
    print("", *lines, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
