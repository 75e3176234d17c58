"""What the report reads beside the results, and what it says of records that are not as they should be."""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.store import Result, RunFolder, find_unfinished, metrics_torn, read_counts
from reports.statistics import ImageSums, image_sums, pooled_miou

BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)  # what a damaged file raises


def shown_path(path: Path, roots: Sequence[Path]) -> str:
    """The path of a run as seen from the folder that was given; the places of a machine are not printed."""
    for root in roots:
        if path.resolve().is_relative_to(root.resolve()):
            return path.resolve().relative_to(root.resolve()).as_posix() or path.resolve().name
    return path.name


def predictor_sums(
    folders: Mapping[Path, Result], roots: Sequence[Path]
) -> tuple[dict[int, ImageSums], list[str]]:
    """Confusion counts of the predictors by identity of the result, and warnings on runs without them."""
    found: dict[int, ImageSums] = {}
    missing, broken = [], []
    for path, result in folders.items():
        file = RunFolder(path).counts
        name = shown_path(path, roots)
        if not file.exists():
            missing.append(name)
            continue
        try:
            counts = read_counts(file)
            sums = image_sums([str(id) for id in counts["ids"]], counts["predictor"])
        except BROKEN:
            broken.append(name)
            continue
        (miou,) = pooled_miou(sums.sums, pooled_once(sums))
        if abs(miou - result.predictor.miou) > 1e-9:
            broken.append(name)
        else:
            found[id(result)] = sums
    warnings = []
    if missing:
        warnings.append(f"no counts of single images, so no interval over images: {_listed(missing)}")
    if broken:
        warnings.append(
            f"counts of single images that are damaged or of other weights, passed over: {_listed(broken)}"
        )
    return found, warnings


def pooled_once(sums: ImageSums) -> np.ndarray:
    """The weights that take each image once."""
    return np.ones((1, len(sums.ids)))


def seed_seconds(folders: Mapping[Path, Result]) -> dict[int, float]:
    """Core-seconds of the refinement of the CAM seeds of each run, by identity of the result.

    Left out where none lie beside the run or several have its settings (made of given and of shuffled tags).
    """
    found = {}
    for path, result in folders.items():
        settings = result.config.get("cam_seeds")
        if settings:
            reports = [r for r in RunFolder(path).seed_reports(result.seed) if r.settings == settings]
            if len(reports) == 1:
                found[id(result)] = reports[0].refine_core_seconds
    return found


def folder_warnings(folders: Mapping[Path, Result], roots: Sequence[Path]) -> list[str]:
    """Runs without a result, torn logs, and commits that do not say what was run."""
    said: dict[str, list[str]] = defaultdict(list)
    for path in find_unfinished(*roots):
        said["begun but not finished, passed over"].append(shown_path(path, roots))
    for path in folders:
        run, name = RunFolder(path), shown_path(path, roots)
        if metrics_torn(run.metrics):
            said["the last line of the log is torn and left out"].append(name)
        try:
            commits = [start.get("git") for start in run.read_provenance()]
        except (OSError, ValueError, AttributeError):
            said["how it was made cannot be read"].append(name)
            continue
        if any(commit and commit.get("dirty") for commit in commits):
            said["made with changes that were not committed"].append(name)
        if not commits or not all(commits):
            said["made from an unknown commit"].append(name)
    return [f"{what}: {_listed(names)}" for what, names in said.items()]


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{', '.join(names[:8])}{rest}"
