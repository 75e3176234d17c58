"""Reads what lies beside the results, by run folder, and says which records are not as they should be."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bench.errors import DataError
from bench.records.folders import RunFolder, SeedFolder
from bench.records.index import find_unfinished
from bench.records.logs import metrics_torn, read_counts, read_metrics
from bench.records.provenance import without_folders
from bench.records.schema import Result, Scores, SeedQuality, SeedReport, Start
from reports.statistics import ImageSums, image_sums, pooled_miou

T = TypeVar("T")
SHEET_WIDTH = 1400  # pixels of a picture sheet on the page
MOST_PIXELS = 50_000_000  # of a picture sheet; one of `show` has a few million


def shown_path(path: Path, roots: Sequence[Path]) -> str:
    """The path of a run as seen from the folder that was given, of several with that folder's name; the
    places of a machine are not printed."""
    for root in ((root if root.is_dir() else root.parent).resolve() for root in roots):
        if path.resolve().is_relative_to(root):
            seen_from = root if len(roots) == 1 and path.resolve() != root else root.parent
            return path.resolve().relative_to(seen_from).as_posix()
    return path.name


@dataclass(frozen=True)
class Counts:
    """Confusion counts of a run's predictor over the scored images."""

    sums: ImageSums
    pooled: np.ndarray  # C C, added over the images, truth in rows


def predictor_counts(
    folders: Mapping[Path, Result], roots: Sequence[Path]
) -> tuple[dict[Path, Counts], list[str]]:
    """Counts of the predictors by run folder, and warnings on runs without them."""
    found: dict[Path, Counts] = {}
    said: dict[str, list[str]] = defaultdict(list)
    ids: dict[tuple[str, str], Counter[tuple[str, ...]]] = defaultdict(Counter)
    for path, result in folders.items():
        try:
            counts = counts_of(RunFolder(path), result)
        except DataError:
            said["damaged or of other weights, passed over"].append(shown_path(path, roots))
            continue
        if counts is None:
            said["missing, so that there is no interval over images"].append(shown_path(path, roots))
        else:
            found[path] = counts
            ids[_scored(result)][counts.sums.ids] += 1
    usual = {scored: counter.most_common(1)[0][0] for scored, counter in ids.items()}
    for path, result in folders.items():
        if path in found and found[path].sums.ids != usual[_scored(result)]:
            del found[path]
            said["of other images than most of their list, passed over"].append(shown_path(path, roots))
    return found, [f"counts of single images are {what}: {listed(names)}" for what, names in said.items()]


def _scored(result: Result) -> tuple[str, str]:
    return result.dataset, result.split_digests.get("eval", "")


def counts_of(run: RunFolder, result: Result) -> Counts | None:
    """Counts of a run's predictor, None without the file. Raises DataError where they are damaged, or not
    those of the result."""
    if not run.counts.exists():
        return None
    counts = read_counts(run.counts)
    matrices = counts.get("predictor")
    if matrices is not None and matrices.shape[1] == len(result.classes):
        sums = image_sums(counts["ids"].tolist(), matrices)
        (miou,) = pooled_miou(sums.sums, pooled_once(sums))
        if abs(miou - result.predictor.miou) <= 1e-9:
            return Counts(sums, matrices.sum(0))
    raise DataError(f"{run.counts} holds other counts than those of the result; move the file away.")


def each(
    folders: Mapping[Path, Result], roots: Sequence[Path], read: Callable[[RunFolder], T], what: str
) -> tuple[dict[Path, T], list[str]]:
    """What is read beside each result, by run folder, and a warning on what is damaged."""
    found, broken = {}, []
    for path in folders:
        try:
            found[path] = read(RunFolder(path))
        except DataError:
            broken.append(shown_path(path, roots))
    return found, [f"{what} that are damaged, passed over: {listed(broken)}"] if broken else []


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
    tags = _tags(folders)
    return {path: _seeds_of(path, result, tags) for path, result in folders.items()}


def _tags(folders: Mapping[Path, Result]) -> dict[str, str]:
    """By run id, which tags were learned from. Records from before there was a choice have the given ones."""
    return {result.run_id: result.config.get("tags", "given") for result in folders.values()}


def _seeds_of(path: Path, result: Result, tags: Mapping[str, str]) -> list[SeedFolder]:
    settings, wanted = result.config.get("cam_seeds"), tags[result.run_id]
    found = []
    for made in RunFolder(path).seeds(result.seed) if settings else []:
        report = made.read_report()
        if report and report.settings == settings and tags.get(report.classifier, wanted) == wanted:
            found.append(made)
    return found


def cam_seeds(folders: Mapping[Path, Result], roots: Sequence[Path]) -> tuple[dict[Path, Seeds], list[str]]:
    """The CAM seeds of each run, by run folder, and warnings on those that are not clear."""
    found: dict[Path, Seeds] = {}
    said: dict[str, list[str]] = defaultdict(list)
    tags = _tags(folders)
    for path, result in folders.items():
        name = shown_path(path, roots)
        try:
            beside = _seeds_of(path, result, tags)
            if len(beside) == 1 and (report := beside[0].read_report()):
                found[path] = Seeds(report, beside[0].read_quality())
        except DataError:
            said["what is said of its CAM seeds is damaged, passed over"].append(name)
            continue
        if len(beside) > 1:
            said[
                "several CAM seeds have its settings and the runs of their classifiers are not here, so none "
                "is shown"
            ].append(name)
        if not beside and result.config.get("cam_seeds"):
            said["learned from CAM seeds of which nothing is said beside it"].append(name)
    return found, [f"{what}: {listed(names)}" for what, names in said.items()]


def picture_sheets(
    folders: Mapping[Path, Result], roots: Sequence[Path]
) -> tuple[dict[Path, bytes], list[str]]:
    """The picture sheets of runs by run folder, as JPEG of a size for a page, and a warning on
    those that cannot be read."""
    from PIL import Image

    found, broken = {}, []
    for path in folders:
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
        found[path] = data.getvalue()
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


def origins(folders: Mapping[Path, Result]) -> dict[Path, Origin]:
    """How each run was made, by run folder; runs whose provenance cannot be read are left out."""
    found = {}
    for path in folders:
        try:
            found[path] = _origin(RunFolder(path).read_starts())
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
    folders: Mapping[Path, Result], made: Mapping[Path, Origin], roots: Sequence[Path]
) -> list[str]:
    """Runs without a result, torn logs, and commits that do not say what was run; `made` is of `origins`."""
    said: dict[str, list[str]] = defaultdict(list)
    for path in find_unfinished(folders, *roots):
        said["begun but not finished, passed over"].append(shown_path(path, roots))
    for path in folders:
        name, origin = shown_path(path, roots), made.get(path)
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


@dataclass(frozen=True)
class Evidence:
    """What lies beside the results, by run folder. A run may lack any of it."""

    counts: Mapping[Path, Counts]
    lines: Mapping[Path, Sequence[Mapping[str, Any]]]  # of the log
    scores: Mapping[Path, Scores]
    seeds: Mapping[Path, Seeds]
    origins: Mapping[Path, Origin]
    sheets: Mapping[Path, bytes]  # JPEG


def gather(folders: Mapping[Path, Result], roots: Sequence[Path]) -> tuple[Evidence, list[str]]:
    """What lies beside the results, and warnings on what does not or is not as it should be."""
    counts, warnings = predictor_counts(folders, roots)
    seeds, unclear = cam_seeds(folders, roots)
    made = origins(folders)
    lines, torn = each(folders, roots, lambda run: read_metrics(run.metrics), "logs")
    scores, unread = each(folders, roots, RunFolder.read_scores, "scores of other settings")
    sheets, unseen = picture_sheets(folders, roots)
    warnings += torn + unread + unclear + unseen
    evidence = Evidence(counts, lines, scores, seeds, made, sheets)
    return evidence, warnings + folder_warnings(folders, made, roots)
