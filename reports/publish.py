"""The suite's own results: runs that are kept as records, and their tables and pictures in the READMEs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from bench.errors import ConfigError, DataError, Regression
from bench.records.atomic import folder_claimed, write_atomic
from bench.records.folders import RunFolder
from bench.records.index import find_results, read_records, record_folder, records_file, write_records
from bench.records.samples import Pictures, handed_on, read_samples, write_samples
from bench.records.schema import Result, Scores
from bench.sweeps.ablations import sweeps_of
from reports.evidence import counts_of, listed, log_of, origins, seed_folders, shown_path
from reports.groups import BASELINE, Group, comparable, identity, told_apart
from reports.plots import figure
from reports.plots.effort import hours
from reports.plots.labels import labels
from reports.plots.picture import Picture
from reports.readme import blocks, read_readme, rewritten
from reports.sheets.ablation import ablation_tables
from reports.sheets.adaptation import adaptation
from reports.sheets.answer import leading
from reports.sheets.answer_sheets import in_short
from reports.sheets.differences import differences
from reports.sheets.headline import headline
from reports.sheets.text import markdown_text, to_markdown
from reports.splits import kind_name

PUBLISHED = "published"  # the folder of the records that make the tables of methods
ABLATIONS = "ablations"  # the one beside it, of runs with other knobs than the methods' own
SHOWN = (0, 0)  # draw and seed of the runs whose samples are kept: a page shows one run a row
SAMPLES = 6  # of such a run
RECORDS = "Records"  # in a picture's metadata: the digest of what it was made of


def _labels_of_masks(group: Group) -> list[Picture]:
    """Draw one panel, of masks where there are any: other kinds of labels stand beside them against hours."""
    return labels(group.kinds[0])


PICTURES: Mapping[
    str, Callable[[Group], list[Picture]]
] = {  # by what stands behind the data set in the file's name
    "": _labels_of_masks,
    "-hours": hours,
}


@dataclass(frozen=True)
class Addition:
    """The outcome of a call of `publish`, as labels of runs."""

    added: tuple[str, ...]
    completed: tuple[str, ...]  # published before: scores or reports on seeds were added
    known: tuple[str, ...]  # published before, and nothing to add


# The tables -------------------------------------------------------------------------------------------------


def tables(published: Mapping[Path, Result], others: Mapping[Path, Result] | None = None) -> dict[str, str]:
    """Every table of the records, as Markdown, by name.

    A data set has one in three lines, "camvid / in short", of its newest protocol; the name stays when the
    protocol changes.

    Args:
        published: Runs by folder that make the tables of methods, one for each comparable group and kind of
            supervision, and their differences to the baseline.
        others: Runs that, with the published ones, make the tables of those ablations that have all variants.
    """
    groups = comparable(published)
    found = []
    for group in (part for whole in groups for part in whole.kinds):
        kind = f" / {kind_name(group.splits[0].kind)}" if group.whole else ""
        found.append(("", group, kind, headline(group)))
        if group.rows_named(BASELINE) == [BASELINE] and len(group.rows) > 1:
            found.append(("", group, f"{kind} / differences", differences(group, BASELINE)))
        if closed := adaptation(group):
            found.append(("", group, f"{kind} / two domains", closed))
    results = {**published, **(others or {})}
    for sweep in sweeps_of({result.method for result in results.values()}):
        for whole in comparable(results):
            for table in ablation_tables(whole, sweep, fewest=len(sweep.variants)):
                setting = f" / {table.setting}" if table.setting else ""
                found.append((f"{sweep.name} / ", table.group, setting, table.sheet))
    names = [
        f"{before}{group.dataset} / protocol {group.protocol} / {group.steps} steps{behind}"
        for before, group, behind, _ in found
    ]
    names = told_apart(names, [group for _, group, _, _ in found], " / ")
    made = {
        name: f"{markdown_text(sheet.group)}\n\n{to_markdown(sheet).strip()}"
        for name, (*_, sheet) in zip(names, found, strict=True)
    }
    for dataset, group in _speaking(groups).items():
        if short := in_short(group):  # its first cell says what it is of
            made[f"{dataset} / in short"] = to_markdown(short).strip()
    return made


def _speaking(groups: Sequence[Group]) -> dict[str, Group]:
    """Choose the group that a reader of a README is shown first, by data set."""
    folders = {run.folder: run.result for group in groups for run in group.runs}
    return leading(groups, {path: of.time for path, of in origins(folders).items()})


@dataclass(frozen=True)
class Refreshed:
    """The outcome of a call of `refresh`."""

    written: Mapping[Path, tuple[str, ...]]  # by README, the names of the tables that were stale
    pictures: tuple[Path, ...]  # that were drawn anew
    unplaced: tuple[str, ...]  # names of tables that have a block in none of the READMEs


def refresh(readmes: Sequence[Path], records: Path, check: bool = False) -> Refreshed:
    """Write the tables of the records into READMEs, and draw the pictures that lie beside the records.

    Args:
        readmes: Each is written only where it differs.
        records: The folder of records, `published` or the one beside it.
        check: Write nothing.

    Raises:
        Regression: with `check`, where a table or a picture is stale.
        DataError: no such file or folder; a record or a marker is not as it should be.
    """
    both = _both(records)
    if not any(root.is_dir() for root in both):
        raise DataError(f"no records in {records}; give the folders of runs to publish, or --to.")
    with folder_claimed(records.parent):
        published, others = map(read_records, both)
        texts = {readme: read_readme(readme) for readme in readmes}
        found = tables(published, others)
        new = {readme: rewritten(text, found, str(readme)) for readme, text in texts.items()}
        pictures = stale_pictures(records.parent, published)
        said = [
            f"{readme} does not show the records: "
            f"{', '.join(f'{block.name!r} (line {block.line})' for block in of.stale)}; "
            "run `publish` to write it anew."
            for readme, of in new.items()
            if of.stale
        ]
        said += [
            f"{path} was not drawn from the records; run `publish` to draw it anew." for path in pictures
        ]
        if check and said:
            raise Regression("\n".join(said))
        for readme, of in new.items():
            if of.stale:
                ending = "\r\n" if b"\r\n" in readme.read_bytes() else "\n"  # kept as they are in this file
                write_atomic(readme.resolve(), of.text.replace("\n", ending).encode())
        for path, group in pictures.items():
            write_atomic(path, drawn(path, group))
    return Refreshed(
        written={readme: tuple(block.name for block in of.stale) for readme, of in new.items()},
        pictures=tuple(pictures),
        unplaced=tuple(name for name in found if all(name in of.unplaced for of in new.values())),
    )


# Pictures beside the records --------------------------------------------------------------------------------


def stale_pictures(folder: Path, published: Mapping[Path, Result]) -> dict[Path, Group]:
    """Pictures of data sets, such as shapes.png, that were made of other records, with the group to draw.

    Pixels are not compared: they differ with the fonts of a machine. A picture says itself what it was made
    of. Of several groups of a data set the one in short is drawn; a picture of no data set is left alone.
    """
    groups = _speaking(comparable(published))
    drawable = {
        folder / f"{name}{ending}.png": group for name, group in groups.items() for ending in PICTURES
    }
    stale = {path: group for path, group in drawable.items() if _made_of(path) != _digest(group)}
    return {path: stale[path] for path in sorted(stale) if path.exists()}


def drawn(path: Path, group: Group) -> bytes:
    """Draw the PNG of a path, which says what records it was made of."""
    ending = max((ending for ending in PICTURES if path.stem.endswith(ending)), key=len)
    (picture,) = PICTURES[ending](group)
    return figure.render(figure.draw(picture), {RECORDS: _digest(group)})["png"]


def _digest(group: Group) -> str:
    """Of the scores of a group's runs."""
    scores = sorted((*identity(run.result), run.result.predictor.miou) for run in group.runs)
    return hashlib.sha256(json.dumps([group.basis, scores]).encode()).hexdigest()


def _made_of(path: Path) -> str | None:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get(RECORDS)
    except (OSError, ValueError, SyntaxError):
        return None


def _both(records: Path) -> tuple[Path, Path]:
    if records.name not in (PUBLISHED, ABLATIONS):
        raise ConfigError(
            f"--to {records}: give a folder that is called {PUBLISHED}, or {ABLATIONS} for runs with other "
            "knobs; the tables are made of both."
        )
    return records.parent / PUBLISHED, records.parent / ABLATIONS


# Records ----------------------------------------------------------------------------------------------------


def publish(
    roots: Sequence[Path], records: Path, allow_dirty: bool = False, readmes: Sequence[Path] = ()
) -> Addition:
    """Add the finished runs below `roots` to a folder of records; with several processes, one at a time.

    A run that has a record, here or in the folder beside, keeps it; its scores of other settings, its samples
    and the reports on its CAM seeds are added where they are new.

    Args:
        records: The folder, called `published` or `ablations`.
        allow_dirty: Take runs of uncommitted files and unknown commits too.
        readmes: The files that will show the tables: refused here where one could not.

    Raises:
        DataError: there is no finished run; one does not say how it was made, has a damaged log, counts or
            scores, or other scores than its record; a readme has a marker that is not as it should be.
            Nothing is written then.
    """
    both = _both(records)
    with folder_claimed(records.parent):
        found = find_results(*roots)
        if not found:
            raise DataError(f"no finished runs under {', '.join(map(str, roots))}; give the folder of runs.")
        entries = _entries(found, both, records)
        fresh = {entry.path: entry.result for entry in entries if entry.fresh}
        _check_origins(fresh, roots, allow_dirty)
        for path, result in fresh.items():
            RunFolder(path).refuse_altered(result)
            log_of(RunFolder(path), result)
            counts_of(RunFolder(path), result)
        scores = {entry.path: _merged(entry) for entry in entries}
        samples = {entry.path: _samples(entry) for entry in entries}
        seeds = seed_folders(found)
        if readmes:
            published, others = (read_records(root) | (fresh if root == records else {}) for root in both)
            names = tables(published, others)
            for readme in readmes:
                blocks(read_readme(readme), names, str(readme))

        added: list[str] = []
        completed: list[str] = []
        same: list[str] = []
        for entry in entries:
            more = [made.copy_reports(entry.target) for copy in entry.copies for made in seeds[copy]]
            if entry.fresh:
                RunFolder(entry.path).copy_record(entry.target)
            if pictures := samples[entry.path]:
                write_samples(entry.target, pictures)
                more.append(True)
            if scores[entry.path] != entry.target.read_scores():
                entry.target.write_scores(scores[entry.path])
                more.append(True)
            done = added if entry.fresh else completed if any(more) else same
            done.append(shown_path(entry.path, roots))
        # Last, since a line says that the record is whole.
        before = read_records(records).values()
        for dataset in sorted({result.dataset for result in fresh.values()}):
            runs = [result for result in [*before, *fresh.values()] if result.dataset == dataset]
            write_records(records_file(records, dataset), runs)
    return Addition(tuple(added), tuple(completed), tuple(same))


@dataclass(frozen=True)
class Candidate:
    """A finished run and the place of its record."""

    copies: list[Path]  # its folders
    result: Result
    target: RunFolder
    fresh: bool  # it has no record yet

    @property
    def path(self) -> Path:
        """The folder whose files make the record."""
        return self.copies[0]


def _entries(found: Mapping[Path, Result], both: Sequence[Path], records: Path) -> list[Candidate]:
    """Return the runs, each once. Raises DataError where one has other scores than its record or its copy."""
    known = {
        identity(result): (RunFolder(path), result)
        for root in both
        for path, result in read_records(root).items()
    }
    entries: dict[tuple[Any, ...], Candidate] = {}
    for path, result in found.items():
        run = identity(result)
        target, record = known.get(run) or (record_folder(records, result), result)
        entry = entries.setdefault(run, Candidate([], result, target, run not in known))
        entry.copies.append(path)
        for other in (record, entry.result):
            _check_same(path, result, other)
    return list(entries.values())


def _check_same(path: Path, result: Result, record: Result) -> None:
    """Check that a run and its record have the same scores. Times may differ. Raises DataError for other
    scores."""
    if (result.predictor, result.student, result.curve) != (record.predictor, record.student, record.curve):
        raise DataError(
            f"{path} is published with other scores: {100 * record.predictor.miou:.2f} % mIoU there and "
            f"{100 * result.predictor.miou:.2f} % here. Leave it out, or remove the record if that is wrong."
        )


def _check_origins(found: Mapping[Path, Result], roots: Sequence[Path], allow_dirty: bool) -> None:
    """Check how runs were made. Raises DataError for runs that do not say so, and, unless `allow_dirty`, for
    those not made from a commit alone."""
    made = origins(found)
    unread = [shown_path(path, roots) for path in found if path not in made]
    dirty = [shown_path(path, roots) for path, of in made.items() if of.dirty or None in of.commits]
    if unread:
        raise DataError(f"how these runs were made cannot be read, leave them out: {listed(unread)}.")
    if dirty and not allow_dirty:
        raise DataError(
            f"made with changes that were not committed, or from an unknown commit: {listed(dirty)}. Commit "
            "and run them again, or publish them all the same with --allow-dirty."
        )


def _samples(entry: Candidate) -> Pictures | None:
    """Read the samples of a run that is to be seen; None where its record has them already."""
    if (entry.result.draw, entry.result.seed) != SHOWN or read_samples(entry.target):
        return None
    found = (handed_on(RunFolder(path), SAMPLES) for path in entry.copies)
    return next((pictures for pictures in found if pictures), None)


def _merged(entry: Candidate) -> Scores:
    """Join the scores of the record with those of the run, of all its copies, in other settings."""
    scores = {scored.setting: scored for scored in entry.target.read_scores().entries}
    for path in entry.copies:
        for scored in RunFolder(path).read_scores().entries:
            if scores.setdefault(scored.setting, scored).score != scored.score:
                raise DataError(
                    f"{path}: its scores called {scored.name} are published with other numbers. Leave the "
                    "run out, or remove the record if that is wrong."
                )
    return Scores(entries=list(scores.values()))
