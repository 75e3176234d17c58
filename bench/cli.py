"""The command line. What a command needs is imported inside it, so that `--help` answers at once."""

import errno
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from bench import __version__, ranks
from bench.commands import cam_seeds, check, data, look, new_method, predict, results, run, sweep
from bench.commands.options import Commands, out
from bench.display import Terminal
from bench.errors import BenchError, ConfigError, Interrupted
from bench.machine import memory_errors, wait_passively

# Completion belongs to a command that is one word. For `python -m bench` its script would bind `python`, `-m`
# and `bench`, and Tab would then complete nothing else of Python.
INSTALLED = Path(sys.argv[0]).name == "bench"

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    cls=Commands,
    add_completion=INSTALLED,
    pretty_exceptions_enable=False,
    help="Compare weakly- and semi-supervised segmentation methods: one harness, identical splits.\n\n"
    "Start with [bold]python -m bench run --method u2pl[/bold], which needs no data.",
    epilog="Exit codes: 0 done, 1 run failed, 2 usage or configuration, 3 data missing or invalid, "
    "4 regression against the baselines or a stale table, 5 machine unfit, 6 run in use by another process, "
    "75 stopped by a signal and resumable. "
    "--debug anywhere shows a traceback.",
)
for room in (run, sweep, cam_seeds, results, predict, check, look, new_method):  # the order of `--help`
    app.add_typer(room.app)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command line; every error of ours becomes a sentence and an exit code."""
    if ranks.started() == 1:
        _main()
        return
    # A thread of the ranks' connection may abort Python where it ends in order, and the exit code is lost.
    try:
        _main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # what Python itself would show
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _main() -> None:
    wait_passively()
    # A flag for every command, wherever it stands.
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    if not debug:
        threading.excepthook = _thread_failed
    try:
        with memory_errors(
            lambda: "here", "lower what is set of sizes, scales and jobs, or use another machine."
        ):
            app(prog_name="bench" if INSTALLED else "python -m bench")
    except (BenchError, OSError) as error:  # OSError: a full disk, a folder that may not be written
        if debug:
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG and error.filename:
            error = ConfigError(f"{str(error.filename)[:80]}...: {error.strerror}; give a shorter path.")
        kind = "stopped" if isinstance(error, Interrupted) else "error"
        said = f"[bold]{kind}:[/bold] {escape(str(error))}"
        if ranks.speaks_of(error):
            Terminal(stderr=True).print(said, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code if isinstance(error, BenchError) else 1)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Print the error of a thread, but for an OSError: that TensorBoard's thread cannot write is told where
    it is written to, and a sentence is enough."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None: ...
