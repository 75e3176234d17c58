"""What the report reads beside the results, and what it says of records that are not as they should be."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.errors import DataError
from bench.store import (
    Result,
    RunFolder,
    SeedFolder,
    SeedQuality,
    SeedReport,
    Start,
    find_unfinished,
    metrics_torn,
    read_counts,
    without_folders,
)
from reports.statistics import ImageSums, image_sums, pooled_miou

SHEET_WIDTH = 1400  # pixels of a picture sheet on the page
MOST_PIXELS = 50_000_000  # of a picture sheet; one of `show` has a few million


def shown_path(path: Path, roots: Sequence[Path]) -> str:
    """The path of a run as seen from the folder that was given; the places of a machine are not printed."""
    for root in (root if root.is_dir() else root.parent for root in roots):
        if path.resolve().is_relative_to(root.resolve()):
            return path.resolve().relative_to(root.resolve()).as_posix() or path.resolve().name
    return path.name


@dataclass(frozen=True)
class Counts:
    """Confusion counts of a run's predictor over the scored images."""

    sums: ImageSums
    pooled: np.ndarray  # C C, added over the images, truth in rows


def predictor_counts(
    folders: Mapping[Path, Result], roots: Sequence[Path]
) -> tuple[dict[int, Counts], list[str]]:
    """Counts of the predictors by identity of the result, and warnings on runs without them."""
    found: dict[int, Counts] = {}
    missing, broken = [], []
    for path, result in folders.items():
        file = RunFolder(path).counts
        name = shown_path(path, roots)
        if not file.exists():
            missing.append(name)
            continue
        try:
            counts = read_counts(file)
        except DataError:
            broken.append(name)
            continue
        matrices = counts.get("predictor")
        if matrices is None or matrices.shape[1] != len(result.classes):
            broken.append(name)
            continue
        sums = image_sums(counts["ids"].tolist(), matrices)
        (miou,) = pooled_miou(sums.sums, pooled_once(sums))
        if abs(miou - result.predictor.miou) > 1e-9:
            broken.append(name)
        else:
            found[id(result)] = Counts(sums, matrices.sum(0))
    warnings = []
    if missing:
        warnings.append(f"no counts of single images, so no interval over images: {listed(missing)}")
    if broken:
        warnings.append(
            f"counts of single images that are damaged or of other weights, passed over: {listed(broken)}"
        )
    return found, warnings


def pooled_once(sums: ImageSums) -> np.ndarray:
    """The weights that take each image once."""
    return np.ones((1, len(sums.ids)))


@dataclass(frozen=True)
class Seeds:
    """The CAM seeds that a run learned from."""

    report: SeedReport
    quality: SeedQuality | None  # None where nobody has measured it


def seed_folders(folders: Mapping[Path, Result]) -> dict[Path, list[SeedFolder]]:
    """The CAM seeds that each run learned from.

    Seeds of given and of shuffled tags are told apart by their classifier; where its run is not found, there
    may be several.
    """
    tags = {result.run_id: result.config.get("tags") for result in folders.values()}
    seeds: dict[Path, list[SeedFolder]] = {}
    for path, result in folders.items():
        settings, wanted = result.config.get("cam_seeds"), result.config.get("tags")
        seeds[path] = []
        for made in RunFolder(path).seeds(result.seed) if settings else []:
            report = made.read_report()
            if report and report.settings == settings and tags.get(report.classifier, wanted) == wanted:
                seeds[path].append(made)
    return seeds


def cam_seeds(folders: Mapping[Path, Result], roots: Sequence[Path]) -> tuple[dict[int, Seeds], list[str]]:
    """The CAM seeds of each run, by identity of the result, and a warning on runs that may be of several."""
    found, unclear = {}, []
    for path, beside in seed_folders(folders).items():
        if len(beside) > 1:
            unclear.append(shown_path(path, roots))
        for seeds in beside if len(beside) == 1 else ():
            if report := seeds.read_report():
                found[id(folders[path])] = Seeds(report, seeds.read_quality())
    said = (
        "several CAM seeds have its settings and the runs of their classifiers are not here, so none is shown"
    )
    return found, [f"{said}: {listed(unclear)}"] if unclear else []


def picture_sheets(
    folders: Mapping[Path, Result], roots: Sequence[Path]
) -> tuple[dict[int, bytes], list[str]]:
    """The picture sheets of runs by identity of the result, as JPEG of a size for a page, and a warning on
    those that cannot be read."""
    from PIL import Image

    found, broken = {}, []
    for path, result in folders.items():
        file = RunFolder(path).sheet
        if not file.exists():
            continue
        try:
            # A PNG alone: for some other kinds PIL would start a program.
            with Image.open(file, formats=["PNG"]) as sheet:
                if sheet.width * sheet.height > MOST_PIXELS:
                    raise ValueError("too large for a page")
                image = sheet.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            broken.append(shown_path(path, roots))
            continue
        image.thumbnail((SHEET_WIDTH, 100 * SHEET_WIDTH))
        image.save(data := io.BytesIO(), "JPEG", quality=82, optimize=True)
        found[id(result)] = data.getvalue()
    return found, [f"picture sheets that cannot be read, passed over: {listed(broken)}"] if broken else []


@dataclass(frozen=True)
class Origin:
    """How a run was made, from all its starts. A text is empty where nothing is recorded."""

    command: str  # of the last start, without folders
    commits: tuple[str | None, ...]  # different ones; None is an unknown one
    dirty: bool  # files that no commit holds
    time: str  # of the last start
    machine: str


UNKNOWN = Origin(command="", commits=(None,), dirty=False, time="", machine="")


def origins(folders: Mapping[Path, Result]) -> dict[int, Origin]:
    """How each run was made, by identity of the result; runs whose provenance cannot be read are left out."""
    found = {}
    for path, result in folders.items():
        try:
            found[id(result)] = _origin(RunFolder(path).read_starts())
        except DataError:
            continue
    return found


def _origin(starts: Sequence[Start]) -> Origin:
    if not starts:
        return UNKNOWN
    last = starts[-1]
    return Origin(
        command=without_folders(last.command),
        commits=tuple(dict.fromkeys(start.commit for start in starts)),
        dirty=any(start.git.dirty for start in starts if start.git),
        time=last.time,
        machine=", ".join(last.torch.gpus if last.torch else ()) or last.cpu.model,
    )


def folder_warnings(
    folders: Mapping[Path, Result], made: Mapping[int, Origin], roots: Sequence[Path]
) -> list[str]:
    """Runs without a result, torn logs, and commits that do not say what was run; `made` is of `origins`."""
    said: dict[str, list[str]] = defaultdict(list)
    for path in find_unfinished(folders, *roots):
        said["begun but not finished, passed over"].append(shown_path(path, roots))
    for path, result in folders.items():
        name, origin = shown_path(path, roots), made.get(id(result))
        if metrics_torn(RunFolder(path).metrics):
            said["the last line of the log is torn and left out"].append(name)
        if origin is None:
            said["how it was made cannot be read"].append(name)
            continue
        if origin.dirty:
            said["made with changes that were not committed"].append(name)
        if None in origin.commits:
            said["made from an unknown commit"].append(name)
    return [f"{what}: {listed(names)}" for what, names in said.items()]


def listed(names: Sequence[str]) -> str:
    """The first eight names, and how many more there are."""
    rest = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{', '.join(names[:8])}{rest}"
