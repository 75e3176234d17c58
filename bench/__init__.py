"""FrugalSeg: one harness, identical splits, honest tables. On a command line `python -m bench`; in Python:

import bench
results = [bench.run(method=name, dataset="shapes", seed=0) for name in ("supervised", "fixmatch")]
bench.compare(results)["miou"]
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

# What a function needs is imported inside it, so that `import bench` and `--help` are quick.
if TYPE_CHECKING:
    import pandas

    from bench.records.schema import Result
    from bench.scoring.model import Model

__version__ = "0.1.0"
__all__ = ["compare", "load", "results", "run"]

# `datasets` is also the name of a popular package. Python takes whichever comes first on the path, and a
# mix-up would show up far from its cause, so look once, here, without importing anything.
_spec = importlib.util.find_spec("datasets")
_ours = Path(__file__).resolve().parent.parent / "datasets"
if _spec is None or _spec.origin is None or Path(_spec.origin).resolve().parent != _ours:
    raise ImportError(
        f"`import datasets` finds {_spec.origin if _spec else 'nothing'}, not {_ours} beside this package. "
        "Run from the checkout's root, or in an environment without the other `datasets` package."
    )


def run(
    method: str,
    dataset: str | None = None,
    split: str | None = None,
    seed: int | None = None,
    *,
    draw: int | None = None,
    scored: str | None = None,
    protocol: Path | str | None = None,
    config: Path | str | None = None,
    set: Mapping[str, Any] | None = None,
    data_root: Path | str | None = None,
    out: Path | str | None = None,
    device: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    anyway: bool = False,
    **options: Any,
) -> Result:
    """Train one method on one split with one seed, score it, and give its result: `python -m bench run`.

    Each argument is the option of that name, and None is its default. A finished run is read, not repeated.

        result = bench.run(method="fixmatch", dataset="shapes", seed=0)
        result.predictor.miou                        # 0..1
        bench.run(method="fixmatch", set={"protocol.steps": 200, "method.threshold": 0.9})

    Args:
        split: Such as "1_16" or "tags".
        draw: Which images the split labels; 0 are those of its own lists.
        scored: "eval", or "heldout" to choose settings without looking at the scored list.
        protocol: A name, such as "camvid", or the path of a YAML file.
        config: A YAML file of settings, such as a run's config.yaml.
        set: Any setting, keys as `--set` has them: {"protocol.batch.labeled": 4, "protocol.clip": None}.
        data_root: Folder that holds one folder per data set; default: $BENCH_DATA.
        out: Folder of all runs; default: "runs".
        device: "auto", "cpu", "cuda" or "cuda:1".
        resume: Go on with an interrupted run.
        overwrite: Start again, even if it is done.
        anyway: With `resume`: go on though code or data have changed; the record says so.
        options: precision="bf16", workers=2, threads=4, compile=True, audit=True.

    Raises:
        ConfigError: An unknown name or setting, an interrupted run without `resume`, or a run of other code
            or data. Errors are those of bench.errors, and say what to do.
        DataError: Data is missing or invalid.
        Interrupted: Stopped by a signal, such as Ctrl-C; what is trained is saved.
        BenchError: The run failed.
    """
    from bench.display import Display
    from bench.errors import ConfigError
    from bench.pipeline import announced_run
    from bench.plan import plan
    from bench.settings.base import given_path
    from bench.settings.resolve import as_flags, assignments, resolve

    for key, value in {"resume": resume, "overwrite": overwrite, "anyway": anyway}.items():
        if value is not None and type(value) is not bool:  # the text "no" would count as true
            raise ConfigError(f"{key} must be True or False (given: {value!r:.80}).")
    if anyway and not resume:
        raise ConfigError("anyway is about a run that goes on; give it with resume=True.")
    places = {"protocol": protocol, "data_root": data_root, "out": out}
    texts = {
        key: None if value is None else str(value)
        for key, value in places.items()
        if value is None or given_path(value, key)
    }
    flags = as_flags(
        method=method,
        dataset=dataset,
        split=split,
        seed=seed,
        draw=draw,
        scored=scored,
        device=device,
        **texts,
        **options,
    )
    file = None if config is None else given_path(config, "config")
    planned = plan(resolve(flags, file, assignments({} if set is None else set)))
    return announced_run(planned, Display(), bool(resume), bool(overwrite), bool(anyway))


def load(run: Path | str, device: str = "auto") -> Model:
    """Give the trained network of a finished run, to be used on images of any size.

        model = bench.load("runs/shapes/1_16/fixmatch/0-1234abcd")
        model.classes                                # names, by class id
        ids, probabilities = model.predict("photo.jpg")  # H W uint8, C H W float32

    It needs the run's folder or its weights.safetensors alone: no data set, no training code, no network
    access.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        ConfigError: A folder of several runs, or a run that is scored by more than its network.
        DataError: There is no such run, or its weights are missing or damaged.
    """
    from bench.scoring import model
    from bench.settings.base import given_path

    return model.load(given_path(run, "run"), device)


def results(*folders: Path | str) -> list[Result]:
    """Read the results of all finished runs below folders: `bench.results("runs", "reports/published")`.

    Returns them in the order of their folders; interrupted runs are left out.

    Raises DataError where a folder is not there or a result is damaged.
    """
    from bench.records.index import read_results
    from bench.settings.base import given_path

    return read_results(*(given_path(folder, "folder") for folder in folders))


def compare(results: Iterable[Result], baseline: str = "supervised") -> dict[str, pandas.DataFrame]:
    """Give the tables of results as data frames: `bench.compare(bench.results("runs"))["miou"]`.

    Numbers are percent, unrounded, and missing where there is no run. The first columns name what the runs of
    a row have in common; rows that differ there are not to be compared.

    Args:
        results: What `run` and `results` give, of any data sets and protocols.
        baseline: The method, or row, that all others are compared to in "differences".

    Returns:
        Frames by name: "miou", "modules" (student, predictor, oracle), "classes", "cost"; "differences" and
        "overall" (interquartile mean, probability of improvement) where others stand beside the baseline.
    """
    from reports.sheets.frames import frames

    return frames(results, baseline)
