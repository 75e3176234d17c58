"""Finding results: below folders of runs, and in folders of records."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from bench.errors import DataError, resolved
from bench.records.atomic import write_atomic
from bench.records.folders import RunFolder
from bench.records.schema import Result, read_result
from bench.records.sealed import Torn, parse_record


def read_results(*roots: Path) -> list[Result]:
    """Read the results that `find_results` gives, without the folders."""
    return list(find_results(*roots).values())


def find_results(*roots: Path, torn: list[Path] | None = None) -> dict[Path, Result]:
    """All finished runs by folder, sorted by it: those that have a result.json anywhere below a root, and
    those that `read_records` finds.

    Interrupted runs have no result.json and are left out.

    Args:
        torn: Gathers the folders of results that are half a file, which are left out then.

    Raises DataError where a root is not there, a result is damaged, edited or of another version, or a run
    has a record and another result.json.
    """
    found: dict[Path, Result] = {}
    for root in roots:
        if not root.is_dir() and not _is_records(root):
            raise DataError(f"no folder {root}; give the folder that holds the runs.")
        here = read_records(root)
        for path in root.rglob("result.json"):
            try:
                result = read_result(path)
            except Torn:
                if torn is None:
                    raise
                torn.append(resolved(path).parent)
                continue
            folder = resolved(path).parent
            if here.setdefault(folder, result) != result:
                file = records_file(RunFolder(folder).root, result.dataset)
                raise DataError(f"{path} differs from the line of its run in {file}; move one of them away.")
        for folder in sorted(here):
            found.setdefault(folder, here[folder])
    return found


def find_unfinished(finished: Collection[Path], *roots: Path) -> list[Path]:
    """Folders of runs below the roots that were begun and are not among the finished, sorted by path."""
    begun = ("config.yaml", "provenance.json", "metrics.jsonl", "checkpoint.pt", "result.json")
    found = {resolved(path).parent for root in roots for name in begun for path in root.rglob(name)}
    return sorted(found.difference(finished))


def records_file(root: Path, dataset: str) -> Path:
    return root / f"{dataset}.jsonl"


def record_folder(root: Path, result: Result) -> RunFolder:
    """Where the files of a run lie in a folder of records. Raises DataError for names that lead out of it."""
    names = (result.dataset, result.split, result.method, result.run_id)
    # metrics.jsonl, the name of a log, cannot hold records.
    if any(name in ("", ".", "..") or "/" in name for name in names) or result.dataset == "metrics":
        raise DataError(f"a run is named {' '.join(map(repr, names))}, which is no path below {root}.")
    place = (root, result.dataset, result.split, result.method)
    return RunFolder.of(*place, result.seed, result.run_id, result.draw)


def _is_records(path: Path) -> bool:
    return path.suffix == ".jsonl" and path.name != "metrics.jsonl" and path.is_file()


def read_records(root: Path) -> dict[Path, Result]:
    """Read the results of records, by the folder of the run's other files.

    Args:
        root: A folder of records, one of its files, or the folder beside one of them.

    Raises DataError for a line that is torn, of another version, of another data set than the file, or second
    of its run.
    """
    found: dict[Path, Result] = {}
    root = resolved(root)
    beside = records_file(root.parent, root.name)
    for file in sorted(path for path in (root, beside, *root.glob("*.jsonl")) if _is_records(path)):
        for number, line in enumerate(file.read_bytes().removesuffix(b"\n").split(b"\n"), 1):
            where = f"{file}, line {number},"
            result = parse_record(Result, line, where, "restore the line as it was committed, or remove it.")
            if result.dataset != file.stem:
                raise DataError(
                    f"{where} is of the data set {result.dataset!r}; move it to "
                    f"{records_file(root, result.dataset).name}."
                )
            folder = record_folder(file.parent, result).path
            if folder in found:
                raise DataError(f"{where} is the second of run {result.run_id}; remove one of the two.")
            found[folder] = result
    return found


def write_records(file: Path, results: Iterable[Result]) -> None:
    """Write the records of one data set, sorted: the same results are always the same bytes."""
    ordered = sorted(results, key=lambda run: (run.split, run.method, run.draw, run.seed, run.run_id))
    write_atomic(file, "".join(f"{result.model_dump_json()}\n" for result in ordered).encode())
