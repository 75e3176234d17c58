"""Starts the ranks of one run on this machine, by torch's own launcher, and says how they ended."""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.errors import BenchError, Interrupted

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

SAVE_SECONDS = 60  # that ranks have to end their step and save, once they are asked to stop
NOTICE_SECONDS = 10  # within which a rank's end ends the others


def command() -> list[str]:
    """Return the arguments behind `python` that start this program again, e.g. `["-m", "bench"]`."""
    main = sys.modules["__main__"]
    script = getattr(main, "__file__", None) if main.__spec__ is None else None
    return [script] if script else ["-m", "bench"]


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run `python ARGUMENTS` in this number of processes, as the ranks of one run. Gives the exit code that
    they agree on.

    A signal to this process goes to all of them, and is waited for until they have saved. Where one ends
    badly the others are ended.

    Raises BenchError where one of them was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # they say themselves what went wrong
    with tempfile.TemporaryDirectory(prefix="frugalseg-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=str(uuid.uuid4()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
            shutdown_timeout=SAVE_SECONDS,
        )
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except SignalException:
            return Interrupted.exit_code  # they have said so
        except ChildFailedError as error:
            rank, failure = min(error.failures.items(), key=lambda one: _began(one[1]))
            if failure.exitcode < 0:
                raise BenchError(
                    f"process {rank} of the run was killed by {signal.Signals(-failure.exitcode).name}; what "
                    "was saved before is kept, go on with --resume."
                ) from error
            return failure.exitcode
    return 0


def _began(failure: ProcessFailure) -> int:
    """When the trouble began, in seconds. The others end because a rank was killed, though torch, which looks
    now and then and keeps whole seconds, may see them end at once."""
    return failure.timestamp - (NOTICE_SECONDS if failure.exitcode < 0 else 0)
