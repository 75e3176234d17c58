"""The suite's own results: runs that are kept as records, and the tables of them in the README."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import ConfigError, DataError, Regression, did_you_mean
from bench.records.atomic import folder_claimed, write_atomic
from bench.records.folders import RunFolder
from bench.records.index import find_results, read_records, record_folder, records_file, write_records
from bench.records.logs import read_metrics
from bench.records.schema import Result, Scores
from bench.sweeps.ablations import sweeps_of
from reports.evidence import counts_of, listed, origins, seed_folders, shown_path
from reports.groups import Group, comparable, identity
from reports.sheets.ablation import AblationTable, ablation_tables
from reports.sheets.headline import headline
from reports.sheets.text import to_markdown

PUBLISHED = "published"  # the folder of the records that make the tables of methods
ABLATIONS = "ablations"  # the one beside it, of runs with other knobs than the methods' own
BEGIN = re.compile(r"<!-- table: (.+) -->")
END = "<!-- end of table -->"

T = TypeVar("T")


@dataclass(frozen=True)
class Addition:
    """What a call of `publish` has done, as labels of runs."""

    added: tuple[str, ...]
    completed: tuple[str, ...]  # published before: scores or reports on seeds were added
    known: tuple[str, ...]  # published before, and nothing to add


# The tables -------------------------------------------------------------------------------------------------


def tables(published: Mapping[Path, Result], others: Mapping[Path, Result] | None = None) -> dict[str, str]:
    """Every table of the records, as Markdown, by name.

    Args:
        published: Runs by folder that make the tables of methods, one for each comparable group.
        others: Runs that, with the published ones, make the tables of those ablations that have all variants.
    """
    sheets = {name: headline(group) for name, group in _named(comparable(published), _group_name)}
    results = {**published, **(others or {})}
    complete = [
        table
        for sweep in sweeps_of({result.method for result in results.values()})
        for group in comparable(results)
        for table in ablation_tables(group, sweep, fewest=len(sweep.variants))
    ]
    sheets |= {name: table.sheet for name, table in _named(complete, _ablation_name)}
    return {name: to_markdown(sheet).strip() for name, sheet in sheets.items()}


def _group_name(group: Group, exact: bool, before: str = "", behind: str = "") -> str:
    name = f"{before}{group.dataset} / protocol {group.protocol} / {group.steps} steps{behind}"
    return f"{name} / {group.basis}" if exact else name


def _ablation_name(found: AblationTable, exact: bool) -> str:
    setting = f" / {found.setting}" if found.setting else ""
    return _group_name(found.group, exact, f"{found.ablation.name} / ", setting)


def _named(items: Sequence[T], name: Callable[[T, bool], str]) -> Iterator[tuple[str, T]]:
    """The items with names; those that would share one have theirs in full."""
    short = [name(item, False) for item in items]
    for item, text in zip(items, short, strict=True):
        yield (text if short.count(text) == 1 else name(item, True)), item


# The blocks of a README -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """The lines between two markers."""

    name: str
    line: int  # of the first marker, from 1
    start: int  # lines[start:end] are between the markers
    end: int


def rewritten(text: str, found: Mapping[str, str], file: str = "README.md") -> str:
    """The text with the table of that name in every block. Raises DataError as `blocks` does."""
    lines = text.split("\n")
    for block in reversed(blocks(text, found, file)):
        lines[block.start : block.end] = _content(found[block.name])
    return "\n".join(lines)


def stale(text: str, found: Mapping[str, str], file: str = "README.md") -> list[Block]:
    """The blocks whose content is not their table. Raises DataError as `blocks` does."""
    lines = text.split("\n")
    return [
        block
        for block in blocks(text, found, file)
        if lines[block.start : block.end] != _content(found[block.name])
    ]


def unplaced(text: str, found: Mapping[str, str], file: str = "README.md") -> list[str]:
    """Names of tables that have no block."""
    placed = {block.name for block in blocks(text, found, file)}
    return [name for name in found if name not in placed]


def blocks(text: str, names: Iterable[str], file: str = "README.md") -> list[Block]:
    """The blocks of a text, in its order: between a line `<!-- table: NAME -->` and `<!-- end of table -->`.

    Raises DataError, with the line at fault, for a name that no table has and a marker without its partner.
    """
    known = set(names)
    found: list[Block] = []
    open_: tuple[str, int] | None = None
    for number, line in enumerate(text.split("\n"), 1):
        marker = BEGIN.fullmatch(line.rstrip())
        if open_ is not None and marker:
            raise DataError(_no_end(file, *open_))
        if marker:
            open_ = marker[1], number
            if marker[1] not in known:
                raise DataError(
                    f"{file}, line {number}: there is no table {marker[1]!r}{did_you_mean(marker[1], known)}"
                )
        elif line.rstrip() == END:
            if open_ is None:
                raise DataError(f"{file}, line {number}: {END!r} ends no table; remove the line.")
            found.append(Block(*open_, open_[1], number - 1))
            open_ = None
    if open_ is not None:
        raise DataError(_no_end(file, *open_))
    return found


def _no_end(file: str, name: str, line: int) -> str:
    return f"{file}, line {line}: the table {name!r} has no end; add the line {END!r} behind it."


def _content(table: str) -> list[str]:
    return ["", *table.split("\n"), ""]


def read_readme(readme: Path) -> str:
    """The text, with line feeds alone. Raises DataError where it is none."""
    if not readme.is_file():
        raise DataError(f"no file {readme}; give --readme.")
    try:
        return readme.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{readme} is not UTF-8 ({error}); save it as such.") from error


def refresh(readme: Path, records: Path, check: bool = False) -> tuple[list[str], list[str]]:
    """Write the tables of the records into a README.

    Args:
        readme: Written only where it differs.
        records: The folder of records, `published` or the one beside it.
        check: Write nothing.

    Returns:
        Names of the tables that were written, and of those that have no block.

    Raises:
        Regression: with `check`, where a table is stale.
        DataError: no such file or folder; a record or a marker is not as it should be.
    """
    both = _both(records)
    if not any(root.is_dir() for root in both):
        raise DataError(f"no records in {records}; give the folders of runs to publish, or --to.")
    with folder_claimed(records.parent):
        text = read_readme(readme)
        found = tables(*map(read_records, both))
        old = stale(text, found, str(readme))
        if check and old:
            where = ", ".join(f"{block.name!r} (line {block.line})" for block in old)
            raise Regression(f"{readme} does not show the records: {where}; run `publish` to write it anew.")
        if old:
            new = rewritten(text, found, str(readme))
            ending = "\r\n" if b"\r\n" in readme.read_bytes() else "\n"  # kept as they are in this file
            write_atomic(readme.resolve(), new.replace("\n", ending).encode())
    return [block.name for block in old], unplaced(text, found, str(readme))


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

    A run that has a record, here or in the folder beside, keeps it; its scores of other settings and the
    reports on its CAM seeds are added where they are new.

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
            read_metrics(RunFolder(path).metrics)
            counts_of(RunFolder(path), result)
        scores = {entry.path: _merged(entry) for entry in entries}
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
            label = shown_path(entry.path, roots)
            more = [made.copy_reports(entry.target) for copy in entry.copies for made in seeds[copy]]
            if entry.fresh:
                RunFolder(entry.path).copy_record(entry.target)
            if scores[entry.path] != entry.target.read_scores():
                entry.target.write_scores(scores[entry.path])
                more.append(True)
            if entry.fresh:
                added.append(label)
                continue
            (completed if any(more) else same).append(label)
        # Last, since a line says that the record is whole.
        before = read_records(records).values()
        for dataset in sorted({result.dataset for result in fresh.values()}):
            runs = [result for result in [*before, *fresh.values()] if result.dataset == dataset]
            write_records(records_file(records, dataset), runs)
    return Addition(tuple(added), tuple(completed), tuple(same))


@dataclass(frozen=True)
class Entry:
    """A finished run and the place of its record."""

    copies: list[Path]  # its folders
    result: Result
    target: RunFolder
    fresh: bool  # it has no record yet

    @property
    def path(self) -> Path:
        """The folder whose files make the record."""
        return self.copies[0]


def _entries(found: Mapping[Path, Result], both: Sequence[Path], records: Path) -> list[Entry]:
    """The runs, each once. Raises DataError where one has other scores than its record or its copy."""
    known = {
        identity(result): (RunFolder(path), result)
        for root in both
        for path, result in read_records(root).items()
    }
    entries: dict[tuple[Any, ...], Entry] = {}
    for path, result in found.items():
        run = identity(result)
        target, record = known.get(run) or (record_folder(records, result), result)
        entry = entries.setdefault(run, Entry([], result, target, run not in known))
        entry.copies.append(path)
        for other in (record, entry.result):
            _check_same(path, result, other)
    return list(entries.values())


def _check_same(path: Path, result: Result, record: Result) -> None:
    """Times may differ; a run that is repeated has the same scores."""
    if (result.predictor, result.student, result.curve) != (record.predictor, record.student, record.curve):
        raise DataError(
            f"{path} is published with other scores: {100 * record.predictor.miou:.2f} % mIoU there and "
            f"{100 * result.predictor.miou:.2f} % here. Leave it out, or remove the record if that is wrong."
        )


def _check_origins(found: Mapping[Path, Result], roots: Sequence[Path], allow_dirty: bool) -> None:
    """Raises DataError for runs that do not say how they were made, or not from a commit alone."""
    made = origins(found)
    unread, dirty = [], []
    for path in found:
        origin = made.get(path)
        if origin is None:
            unread.append(shown_path(path, roots))
        elif origin.dirty or None in origin.commits:
            dirty.append(shown_path(path, roots))
    if unread:
        raise DataError(f"how these runs were made cannot be read, leave them out: {listed(unread)}.")
    if dirty and not allow_dirty:
        raise DataError(
            f"made with changes that were not committed, or from an unknown commit: {listed(dirty)}. Commit "
            "and run them again, or publish them all the same with --allow-dirty."
        )


def _merged(entry: Entry) -> Scores:
    """The scores of the record, and those of the run, of all its copies, in other settings."""
    scores = {scored.setting: scored for scored in entry.target.read_scores().entries}
    for path in entry.copies:
        for scored in RunFolder(path).read_scores().entries:
            if scores.setdefault(scored.setting, scored).score != scored.score:
                raise DataError(
                    f"{path}: its scores called {scored.name} are published with other numbers. Leave the "
                    "run out, or remove the record if that is wrong."
                )
    return Scores(entries=list(scores.values()))
