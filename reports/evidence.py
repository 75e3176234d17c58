"""Reads what lies beside the results, by run folder, and says which records are not as they should be."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from bench.errors import DataError
from bench.records.folders import RunFolder
from bench.records.index import find_unfinished
from bench.records.logs import metrics_torn, read_counts, read_metrics
from bench.records.provenance import without_folders
from bench.records.samples import Samples, read_samples
from bench.records.schema import Result, Scores, SeedQuality, SeedReport
from bench.records.shared_folders import SeedFolder

SEVERAL = (
    "several CAM seeds have its settings and the runs of their classifiers are not here, so none is shown"
)
T = TypeVar("T")
PHOTO_WIDTH = 1400  # pixels of a picture sheet on the page
MOST_PIXELS = 50_000_000  # of a picture sheet; one of `show` has a few million


def shown_path(path: Path, roots: Sequence[Path]) -> str:
    """Return the path of a run as seen from the folder that was given: `shapes/1_16/u2pl/0-0db65c60`. Of
    several folders it begins with that folder's name. The places of a machine are not printed."""
    for root in ((root if root.is_dir() else root.parent).resolve() for root in roots):
        if path.resolve().is_relative_to(root):
            seen_from = root if len(roots) == 1 and path.resolve() != root else root.parent
            return path.resolve().relative_to(seen_from).as_posix()
    return path.name


def each(
    folders: Mapping[Path, Result],
    roots: Sequence[Path],
    read: Callable[[RunFolder, Result], T | None],
    what: str,
) -> tuple[dict[Path, T], list[str]]:
    """Read one thing beside each result. Return it by run folder, and a warning on what is damaged. A folder
    without it is left out."""
    found, broken = {}, []
    for path, result in folders.items():
        try:
            seen = read(RunFolder(path), result)
        except DataError:
            broken.append(path)
            continue
        if seen is not None:
            found[path] = seen
    return found, warnings({f"{what}, passed over": broken}, roots)


def warnings(said: Mapping[str, Sequence[Path]], roots: Sequence[Path]) -> list[str]:
    """Write a warning for each thing that is said of any folder."""
    return [
        f"{what}: {listed([shown_path(path, roots) for path in paths])}"
        for what, paths in said.items()
        if paths
    ]


def listed(names: Sequence[str]) -> str:
    """List the first eight names, and say how many more there are: `a, b, c, d, e, f, g, h and 3 more`."""
    rest = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{', '.join(names[:8])}{rest}"


def counts_of(run: RunFolder, result: Result) -> np.ndarray | None:
    """Confusion counts of a run's predictor, C C, added over the scored images, truth in rows; None without
    the file. Raises DataError where they are damaged, or not those of the result."""
    if not run.counts.exists():
        return None
    counts = read_counts(run.counts, result.file_digest(run.counts))
    matrices = counts.get("predictor")
    if matrices is not None and matrices.shape[1] == len(result.classes):
        pooled: np.ndarray = matrices.sum(0)
        hit, true = np.diag(pooled), pooled.sum(1) > 0
        iou = hit[true] / (pooled.sum(0) + pooled.sum(1) - hit)[true]
        if abs((iou.mean() if iou.size else 0.0) - result.predictor.miou) <= 1e-9:
            return pooled
    raise DataError(f"{run.counts} holds other counts than those of the result; move the file away.")


@dataclass(frozen=True)
class Seeds:
    """The CAM seeds that a run learned from."""

    report: SeedReport
    quality: SeedQuality | None  # None where nobody has measured it


def seed_folders(folders: Mapping[Path, Result]) -> dict[Path, list[SeedFolder]]:
    """Find the folders of the CAM seeds that each run learned from.

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
    for made in SeedFolder.beside(RunFolder(path), result.seed, result.draw) if settings else []:
        report = made.read_report()
        if report and report.settings == settings and tags.get(report.classifier, wanted) == wanted:
            found.append(made)
    return found


def cam_seeds(folders: Mapping[Path, Result], roots: Sequence[Path]) -> tuple[dict[Path, Seeds], list[str]]:
    """Read the CAM seeds of each run, by run folder, and write warnings on those that are not clear."""
    tags = _tags(folders)

    def read(run: RunFolder, result: Result) -> list[Seeds]:
        beside = _seeds_of(run.path, result, tags)
        return [Seeds(report, made.read_quality()) for made in beside if (report := made.read_report())]

    learned = {path: result for path, result in folders.items() if result.config.get("cam_seeds")}
    found, damaged = each(learned, roots, read, "what is said of its CAM seeds is damaged")
    said = {
        SEVERAL: [path for path, seeds in found.items() if len(seeds) > 1],
        "learned from CAM seeds of which nothing is said beside it": [
            path for path, seeds in found.items() if not seeds
        ],
    }
    clear = {path: seeds[0] for path, seeds in found.items() if len(seeds) == 1}
    return clear, [*damaged, *warnings(said, roots)]


def _photo(run: RunFolder, result: Result) -> bytes | None:
    """Read the picture sheet of a run as JPEG of a size for a page, None without one. Raises DataError where
    it cannot be read."""
    if not run.sheet.exists():
        return None
    try:
        # A PNG alone: for some other kinds PIL would start a program.
        with Image.open(run.sheet, formats=["PNG"]) as sheet:
            if sheet.width * sheet.height > MOST_PIXELS:
                raise ValueError("too large for a page")
            image = sheet.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{run.sheet} is no picture sheet ({error}); run `show` again.") from error
    image.thumbnail((PHOTO_WIDTH, 100 * PHOTO_WIDTH))
    image.save(data := io.BytesIO(), "JPEG", quality=82, optimize=True)
    return data.getvalue()


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
    return each(folders, (), _origin_of, "provenance")[0]


def _origin_of(run: RunFolder, result: Result) -> Origin:
    starts = run.read_starts(result.file_digest(run.provenance))
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
    """Warn of runs without a result, torn logs, and commits that do not say what was run; `made` is of
    `origins`."""
    unfinished = find_unfinished(folders, *roots)
    torn = [path for path in unfinished if RunFolder(path).result.exists()]
    said = {
        "the result is torn, half written or half copied, passed over": torn,
        "begun but not finished, passed over": [path for path in unfinished if path not in torn],
        "the last line of the log is torn and left out": [
            path for path in folders if metrics_torn(RunFolder(path).metrics)
        ],
        "how it was made cannot be read": [path for path in folders if path not in made],
        "made with changes that were not committed": [path for path, of in made.items() if of.dirty],
        "made from an unknown commit": [path for path, of in made.items() if None in of.commits],
    }
    return warnings(said, roots)


def log_of(run: RunFolder, result: Result) -> list[dict[str, Any]]:
    """Read the log of a run. Raises DataError where it is damaged, or not the one that the run has
    written."""
    return read_metrics(run.metrics, result.file_digest(run.metrics))


@dataclass(frozen=True)
class Evidence:
    """The files beside the results, as read, by run folder. A run may lack any of them."""

    counts: Mapping[Path, np.ndarray]  # C C, see `counts_of`
    lines: Mapping[Path, Sequence[Mapping[str, Any]]]  # of the log
    scores: Mapping[Path, Scores]
    seeds: Mapping[Path, Seeds]
    origins: Mapping[Path, Origin]
    photos: Mapping[Path, bytes]  # picture sheets of `show`, JPEG
    samples: Mapping[Path, Samples]


def gather(folders: Mapping[Path, Result], roots: Sequence[Path]) -> tuple[Evidence, list[str]]:
    """Read the files beside the results, and write warnings on those that are missing or not as they should
    be."""
    said: list[str] = []

    def read(what: str, reader: Callable[[RunFolder, Result], T | None]) -> dict[Path, T]:
        found, damaged = each(folders, roots, reader, what)
        said.extend(damaged)
        return found

    counts = read("counts of single images are damaged or of other weights", counts_of)
    lines = read("logs that are damaged", log_of)
    scores = read("scores of other settings that are damaged", lambda run, _: run.read_scores())
    seeds, unclear = cam_seeds(folders, roots)
    said += unclear
    photos = read("picture sheets that cannot be read", _photo)
    samples = read("samples that are damaged", lambda run, _: read_samples(run))
    made = origins(folders)
    evidence = Evidence(counts, lines, scores, seeds, made, photos, samples)
    return evidence, [*said, *folder_warnings(folders, made, roots)]
