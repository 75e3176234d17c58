"""Processes that work for this one, and end with it however it ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

LOOK_SECONDS = 1.0  # between looks whether the parent lives, where the system does not tell
PR_SET_PDEATHSIG = 1  # of linux/prctl.h


class Pool:
    """Calls one function in processes of one core each, which are started as they are needed.

    Each process has a pipe of its own, held by a thread of this one. The queues of `ProcessPoolExecutor` keep
    semaphores in /dev/shm, which stay there if all its processes are killed, and both ends of their pipes in
    every process, so that none notices that the parent is gone.
    """

    def __init__(self, jobs: int, function: Callable[..., Any]) -> None:
        """Make it once: each process imports what `function` needs, which takes seconds with torch."""
        self._function = function
        self._threads = ThreadPoolExecutor(jobs)
        self._own = threading.local()
        self._made: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []

    def submit(self, *arguments: Any) -> Future[Any]:
        """Submit a call of the function. The future holds what it gives or raises for `arguments`;
        BrokenProcessPool if its process is killed."""
        return self._threads.submit(self._call, arguments)

    def close(self) -> None:
        """Drop what has not begun, wait for the rest, and end the processes."""
        self._threads.shutdown(cancel_futures=True)
        for process, connection in self._made:
            connection.close()
            process.join()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, arguments: tuple[Any, ...]) -> Any:
        try:
            if not hasattr(self._own, "connection"):
                self._own.connection = self._started()
                self._own.connection.send(self._function)
            self._own.connection.send(arguments)
            done, value = self._own.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise BrokenProcessPool("a process of the pool was killed") from error
        if not done:
            raise value
        return value

    def _started(self) -> Connection:
        # spawn: a fork of a process with torch's threads may hang.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._made.append((process, ours))
        return ours


def _serve(connection: Connection) -> None:
    """Answer calls until the other end of the connection is closed."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the process that asks decides
    with suppress(EOFError, ConnectionError):
        # Sent, not given at the start: its imports take seconds, in which the parent may go.
        function = connection.recv()
        one_core()
        while True:
            arguments = connection.recv()
            try:
                answer = True, function(*arguments)
            except Exception as error:
                answer = False, error
            connection.send(answer)


def one_core() -> None:
    """Keep torch to one thread, where it is loaded: what needs it has loaded it, and it takes seconds."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def end_with_parent() -> None:
    """Let this process be killed when its parent ends, by a kill too. Call it in a process just started."""
    if sys.platform == "linux":  # at once, even from within a library that never lets Python run
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if _orphaned():  # before the call
            os._exit(1)
    else:
        threading.Thread(target=_look, daemon=True).start()


def _look() -> None:
    while not _orphaned():
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def _orphaned() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
