"""Processes that work for another: what they answer, and that nothing of them outlives it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from bench.pool import Pool

CHECKOUT = Path(__file__).resolve().parents[2]


def halve(number: int) -> tuple[float, int, int]:
    if number < 0:
        raise ValueError(f"{number} is below 0")
    return number / 2, os.getpid(), torch.get_num_threads()


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hold(seconds: int) -> None:
    """In C, with the interpreter's lock, as the CRF: no thread of Python runs meanwhile."""
    ctypes.PyDLL(None).sleep(seconds)


@pytest.mark.slow
def test_answers_and_errors_come_back_from_other_processes_of_one_core() -> None:
    with Pool(2, halve) as pool:
        futures = [pool.submit(number) for number in range(12)]
        answers = [future.result() for future in futures]
        assert [answer[0] for answer in answers] == [number / 2 for number in range(12)]
        assert {threads for _, _, threads in answers} == {1}
        pids = {pid for _, pid, _ in answers}
        assert len(pids) <= 2 and os.getpid() not in pids
        with pytest.raises(ValueError, match="-3 is below 0"):
            pool.submit(-3).result()
        assert pool.submit(3).result()[0] == 1.5, "an error ends no process"
    assert not any(alive(pid) for pid in pids)


def test_a_pool_that_was_asked_nothing_starts_nothing() -> None:
    with Pool(3, halve) as pool:
        pass
    assert pool._made == []


@pytest.mark.slow
def test_a_killed_process_is_told() -> None:
    with Pool(1, die) as pool, pytest.raises(BrokenProcessPool):
        pool.submit(1).result()


PARENTS = {
    "pool": """
        from bench.pool import Pool
        from tests.bench.test_pool import halve
        pool = Pool(2, halve)
        for future in [pool.submit(number) for number in range(4)]:
            future.result()
    """,
    "pool that computes": """
        from bench.pool import Pool
        from tests.bench.test_pool import hold
        pool = Pool(2, hold)
        pool.submit(0).result()
        pool.submit(60), pool.submit(60)
        time.sleep(1)
    """,
    "loader": """
        import torch
        from datasets.loaders import loader

        class Batches:
            steps, seed = 10_000, 0

            def __getitem__(self, step):
                return torch.zeros(100_000)

        batches = iter(loader(Batches(), 0, 2))
        next(batches)
        time.sleep(2)  # the workers load ahead; one killed while torch names a tensor leaves its file
    """,
}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found += [int(stat.parent.name), *descendants(int(stat.parent.name))]
        except OSError:  # it has just ended
            continue
    return found


def in_memory(pids: Sequence[int] = ()) -> set[str]:
    """What we and torch may leave: semaphores of multiprocessing, and shared tensors of these processes."""
    prefixes = ("sem.mp-", *(f"torch_{pid}_" for pid in pids))
    return {path.name for path in Path("/dev/shm").glob("*") if path.name.startswith(prefixes)}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("kind", PARENTS)
def test_nothing_outlives_a_parent_that_is_killed(kind: str, whole_group: bool, tmp_path: Path) -> None:
    """As where memory is short: no process is left five seconds later, and nothing in shared memory."""
    lines = [line[8:] for line in PARENTS[kind].splitlines()]
    script = tmp_path / "parent.py"
    script.write_text(
        "import time\n\n\ndef main():\n    "
        + "\n    ".join(lines)
        + "\n    print('ready', flush=True)\n    time.sleep(100)\n"
        + "\n\nif __name__ == '__main__':\n    main()\n"
    )
    before = in_memory()
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    pids = descendants(process.pid)
    assert len(pids) >= 2
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 4.5
    of_ours = [process.pid, *pids]
    while left := [*filter(alive, pids), *sorted(in_memory(of_ours) - before)]:  # of others too, for a moment
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
